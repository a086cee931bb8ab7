//! What one push viewer still has to get, and what it loses when it is slow.
//!
//! Pure and bounded: [`Limits::gops`] GOPs or [`Limits::bytes`], whichever is
//! reached first. A viewer who falls behind loses everything older than the
//! newest GOP; one who keeps falling behind loses its place. Packets are built
//! once for all viewers by `fanout.rs`; writing is `viewer.rs`.

use std::collections::VecDeque;

use bytes::Bytes;

/// Wire bytes of one video frame with the audio that rides in front of it.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Whole RTMP messages.
    pub bytes: Bytes,
    /// Playback can start here; then this is what must be sent before it.
    pub start: Option<Headers>,
    /// Frames inside, for the count of what was lost.
    pub frames: u32,
}

/// Metadata and codec configuration as wire bytes.
#[derive(Clone, Debug)]
pub struct Headers {
    /// Grows with each change; headers are sent again only when it differs.
    pub generation: u32,
    /// Whole RTMP messages.
    pub bytes: Bytes,
}

/// How much a viewer may be behind.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// GOPs waiting, the newest and incomplete one included.
    pub gops: usize,
    /// Bytes waiting.
    pub bytes: usize,
    /// Losses in a row, with nothing sent to the end in between, that cost the place.
    pub losses: u32,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It waits to be sent.
    Queued,
    /// The viewer has not seen a start yet, or is skipping to the next one.
    Skipped,
    /// Queued or skipped, at the cost of this many older frames.
    Lost(u32),
    /// The viewer was too slow for too long: close the connection.
    Evicted,
}

/// One viewer's queue.
#[derive(Debug)]
pub struct SendQueue {
    limits: Limits,
    packets: VecDeque<Packet>,
    bytes: usize,
    starts: usize,
    /// Nothing is queued before the next start.
    skipping: bool,
    sent_headers: Option<u32>,
    losses: u32,
}

impl SendQueue {
    /// An empty queue that waits for a start.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            packets: VecDeque::new(),
            bytes: 0,
            starts: 0,
            skipping: true,
            sent_headers: None,
            losses: 0,
        }
    }

    /// The next packet of the broadcast.
    pub fn push(&mut self, packet: Packet) -> Pushed {
        let starts = packet.start.is_some();
        if self.skipping && !starts {
            return Pushed::Skipped;
        }
        let too_many = starts && self.starts >= self.limits.gops;
        let too_large = self.bytes.saturating_add(packet.bytes.len()) > self.limits.bytes;
        if (too_many || too_large) && !self.packets.is_empty() {
            return self.fall_behind(packet);
        }
        self.enqueue(packet);
        Pushed::Queued
    }

    fn enqueue(&mut self, packet: Packet) {
        self.skipping = false;
        self.bytes += packet.bytes.len();
        self.starts += usize::from(packet.start.is_some());
        self.packets.push_back(packet);
    }

    /// Drops what is older than the newest GOP, or, when that is what fills the
    /// queue, everything up to the next start.
    fn fall_behind(&mut self, packet: Packet) -> Pushed {
        self.losses += 1;
        if self.losses > self.limits.losses {
            return Pushed::Evicted;
        }
        let keep_from = if packet.start.is_some() {
            self.packets.len()
        } else {
            let newest = self.packets.iter().rposition(|packet| packet.start.is_some());
            newest.filter(|&index| index > 0).unwrap_or(self.packets.len())
        };
        let mut lost = 0;
        for dropped in self.packets.drain(..keep_from) {
            self.bytes -= dropped.bytes.len();
            self.starts -= usize::from(dropped.start.is_some());
            lost += dropped.frames;
        }
        let room = self.bytes.saturating_add(packet.bytes.len()) <= self.limits.bytes;
        if packet.start.is_some() || (room && !self.packets.is_empty()) {
            self.enqueue(packet);
        } else {
            lost += packet.frames;
            self.skipping = true;
        }
        Pushed::Lost(lost)
    }

    /// Moves up to `most` packets to `out`, with their headers where due.
    pub fn take(&mut self, most: usize, out: &mut VecDeque<Bytes>) {
        for _ in 0..most {
            let Some(packet) = self.packets.pop_front() else { break };
            self.bytes -= packet.bytes.len();
            if let Some(headers) = packet.start {
                self.starts -= 1;
                if self.sent_headers != Some(headers.generation) {
                    self.sent_headers = Some(headers.generation);
                    out.push_back(headers.bytes);
                }
            }
            out.push_back(packet.bytes);
        }
    }

    /// Everything taken has been written and nothing waits: the viewer is in time.
    pub fn on_drained(&mut self) {
        if self.packets.is_empty() {
            self.losses = 0;
        }
    }

    /// Bytes waiting.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { gops: 2, bytes: 1000, losses: 3 };

    fn start(generation: u32, size: usize) -> Packet {
        let headers = Headers { generation, bytes: Bytes::from_static(b"headers") };
        Packet { bytes: Bytes::from(vec![b'k'; size]), start: Some(headers), frames: 1 }
    }

    fn frame(size: usize) -> Packet {
        Packet { bytes: Bytes::from(vec![b'f'; size]), start: None, frames: 1 }
    }

    fn taken(queue: &mut SendQueue) -> Vec<u8> {
        let mut out = VecDeque::new();
        queue.take(usize::MAX, &mut out);
        out.iter().map(|bytes| bytes[0]).collect()
    }

    #[test]
    fn nothing_comes_before_the_first_start_and_headers_come_once() {
        let mut queue = SendQueue::new(LIMITS);
        assert_eq!(queue.push(frame(10)), Pushed::Skipped);
        assert_eq!(queue.push(start(1, 10)), Pushed::Queued);
        assert_eq!(queue.push(frame(10)), Pushed::Queued);
        assert_eq!(taken(&mut queue), b"hkf");
        queue.push(start(1, 10));
        assert_eq!(taken(&mut queue), b"k");
        queue.push(start(2, 10));
        assert_eq!(taken(&mut queue), b"hk");
    }

    #[test]
    fn a_third_gop_costs_the_two_older_ones() {
        let mut queue = SendQueue::new(LIMITS);
        for _ in 0..2 {
            assert_eq!(queue.push(start(1, 10)), Pushed::Queued);
            assert_eq!(queue.push(frame(10)), Pushed::Queued);
        }
        assert_eq!(queue.push(start(1, 10)), Pushed::Lost(4));
        assert_eq!(taken(&mut queue), b"hk");
    }

    #[test]
    fn a_gop_larger_than_the_queue_is_cut_off_and_the_next_start_is_taken() {
        let mut queue = SendQueue::new(LIMITS);
        queue.push(start(1, 600));
        assert_eq!(queue.push(frame(600)), Pushed::Lost(2));
        assert_eq!(queue.push(frame(1)), Pushed::Skipped);
        assert_eq!(queue.push(start(1, 600)), Pushed::Queued);
    }

    #[test]
    fn headers_that_were_lost_with_their_gop_are_sent_before_the_next() {
        let mut queue = SendQueue::new(LIMITS);
        queue.push(start(1, 10));
        assert_eq!(taken(&mut queue), b"hk");
        queue.push(start(2, 600));
        queue.push(frame(600));
        queue.push(start(2, 10));
        assert_eq!(taken(&mut queue), b"hk");
    }

    #[test]
    fn whoever_keeps_falling_behind_loses_the_place() {
        let mut queue = SendQueue::new(LIMITS);
        let mut last = Pushed::Queued;
        for _ in 0..LIMITS.losses * 2 + 2 {
            last = queue.push(start(1, 600));
            if last == Pushed::Evicted {
                break;
            }
        }
        assert_eq!(last, Pushed::Evicted);

        let mut queue = SendQueue::new(LIMITS);
        for _ in 0..50 {
            assert_ne!(queue.push(start(1, 600)), Pushed::Evicted);
            queue.push(start(1, 600));
            taken(&mut queue);
            queue.on_drained();
        }
    }

    proptest! {
        #[test]
        fn it_stays_within_its_limits_and_each_run_begins_with_a_start(
            steps in prop::collection::vec((0u8..3, 1usize..900), 0..200),
        ) {
            let mut queue = SendQueue::new(Limits { losses: u32::MAX, ..LIMITS });
            for (kind, size) in steps {
                match kind {
                    0 => { queue.push(start(1, size)); }
                    1 => { queue.push(frame(size)); }
                    _ => { taken(&mut queue); }
                }
                prop_assert!(queue.len_bytes() <= LIMITS.bytes);
                prop_assert!(queue.starts <= LIMITS.gops);
                let sum: usize = queue.packets.iter().map(|packet| packet.bytes.len()).sum();
                prop_assert_eq!(sum, queue.len_bytes());
            }
        }
    }
}
