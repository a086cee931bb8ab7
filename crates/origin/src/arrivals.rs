//! When what stands in a chunk or part was captured, came, and was ready.
//!
//! The task tells every frame and every output of the segmenter; fetches ask
//! for an object's [`Times`]. Pure and bounded: so many frames and so many
//! objects, the oldest go first.

use std::collections::VecDeque;
use std::time::Duration;

use spyglass_hls::segmenter::Output;
use spyglass_media::{Frame, MediaTime, Resource, Track, UtcTime};

/// A capture stamp further from our clock than this is not believed: it is a
/// recording's, or the broadcaster's clock is wrong. The segmenter dates chunks
/// by the same rule.
const TOLERANCE: Duration = Duration::from_secs(10);

/// Frames remembered: a chunk of 12 s with 60 pictures a second.
const FRAMES: usize = 720;

/// Objects remembered: some ten chunks with their parts.
const OBJECTS: usize = 256;

/// What media time may be off by when frames are placed, 1 ms.
const SLACK: i64 = MediaTime::PER_SECOND / 1000;

/// What is known of a chunk or part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// From the capture of its first frame until that had come; `None` when
    /// the broadcaster stamps nothing, or not believably. 0 when its clock is
    /// ahead of ours.
    pub upload: Option<Duration>,
    /// From the coming of its first frame until it was ready.
    pub chunking: Duration,
    /// When it was ready.
    pub ready: UtcTime,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Arrivals {
    frames: VecDeque<(MediaTime, UtcTime)>,
    /// The last believable stamp, and the media time it is of.
    stamp: Option<(MediaTime, UtcTime)>,
    objects: VecDeque<(Resource, Times)>,
}

impl Arrivals {
    /// A new connection's clock has nothing to do with the last one's.
    pub fn on_publisher(&mut self) {
        self.frames.clear();
        self.stamp = None;
    }

    /// A frame came at `now`. How long it had been on its way when it says.
    /// Sound counts while there are no pictures.
    pub fn on_frame(&mut self, now: UtcTime, frame: &Frame, has_video: bool) -> Option<Duration> {
        if (frame.track == Track::Video) != has_video {
            return None;
        }
        if self.frames.len() == FRAMES {
            self.frames.pop_front();
        }
        self.frames.push_back((frame.dts, now));
        let captured = frame.captured?;
        self.stamp = (captured.distance(now) <= TOLERANCE).then_some((frame.dts, captured));
        self.stamp.map(|_| now.since(captured))
    }

    /// The segmenter made this, and it was ready at `now`.
    pub fn on_output(&mut self, now: UtcTime, output: &Output) {
        let (resource, start) = match output {
            Output::Part(part) => {
                let (epoch, sequence, number) = (part.epoch, part.sequence, part.part);
                (Resource::Part { epoch, sequence, part: number }, part.start)
            }
            Output::Chunk(chunk) => {
                let (epoch, sequence) = (chunk.epoch, chunk.sequence);
                (Resource::Chunk { epoch, sequence }, chunk.start)
            }
            _ => return,
        };
        let first = MediaTime::from_ticks(start.ticks().saturating_sub(SLACK));
        let Some(&(dts, arrived)) = self.frames.iter().find(|(dts, _)| *dts >= first) else {
            return;
        };
        // Between key frames the camera's clock runs as media time does.
        let captured = self.stamp.map(|(of, stamp)| match dts >= of {
            true => stamp + dts.since(of),
            false => stamp - of.since(dts),
        });
        let times = Times {
            upload: captured.map(|captured| arrived.since(captured)),
            chunking: now.since(arrived),
            ready: now,
        };
        if self.objects.len() == OBJECTS {
            self.objects.pop_front();
        }
        self.objects.push_back((resource, times));
    }

    /// What is known of an object; nothing of one that is old or was restored
    /// from the journal.
    pub fn times(&self, resource: Resource) -> Option<Times> {
        let found = self.objects.iter().rev().find(|(of, _)| *of == resource);
        found.map(|(_, times)| *times)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use spyglass_hls::segmenter::{Chunk, Part};

    use super::*;

    fn at(ms: i64) -> UtcTime {
        UtcTime::from_millis(1_700_000_000_000 + ms)
    }

    fn frame(track: Track, ms: i64, captured: Option<UtcTime>) -> Frame {
        Frame {
            track,
            dts: MediaTime::from_millis(ms),
            composition: 0,
            key: captured.is_some(),
            body: Bytes::new(),
            sample: Bytes::new(),
            captured,
        }
    }

    fn chunk(sequence: u64, ms: i64) -> Output {
        Output::Chunk(Chunk {
            epoch: 1,
            sequence,
            start: MediaTime::from_millis(ms),
            duration: MediaTime::from_millis(3_000),
            program_date_time: at(0),
            listed: at(0),
            discontinuity: false,
            independent: true,
            bytes: Bytes::new(),
        })
    }

    fn part(number: u32, ms: i64) -> Output {
        Output::Part(Part {
            epoch: 1,
            sequence: 0,
            part: number,
            start: MediaTime::from_millis(ms),
            duration: MediaTime::from_millis(200),
            program_date_time: at(0),
            discontinuity: false,
            independent: true,
            bytes: Bytes::new(),
        })
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_chunk_and_its_parts_are_dated_by_their_first_frames() {
        let mut arrivals = Arrivals::default();
        assert_eq!(
            arrivals.on_frame(at(150), &frame(Track::Video, 1_000, Some(at(100))), true),
            Some(ms(50))
        );
        // Later frames come with more delay: media time tells when they were captured.
        for n in 1..75 {
            let dts = 1_000 + 40 * n;
            arrivals.on_frame(at(180 + 40 * n), &frame(Track::Video, dts, None), true);
            arrivals.on_frame(at(170 + 40 * n), &frame(Track::Audio, dts, None), true);
            if n == 5 {
                arrivals.on_output(at(380), &part(0, 1_000));
            }
            if n == 10 {
                arrivals.on_output(at(580), &part(1, 1_200));
            }
        }
        arrivals.on_output(at(3_200), &chunk(0, 1_000));
        let part = |part| arrivals.times(Resource::Part { epoch: 1, sequence: 0, part }).unwrap();
        assert_eq!((part(0).upload, part(0).chunking), (Some(ms(50)), ms(230)));
        assert_eq!((part(1).upload, part(1).chunking), (Some(ms(80)), ms(200)));
        let whole = arrivals.times(Resource::Chunk { epoch: 1, sequence: 0 }).unwrap();
        assert_eq!((whole.upload, whole.chunking), (Some(ms(50)), ms(3_050)));
        assert_eq!(whole.ready, at(3_200));
        assert_eq!(arrivals.times(Resource::Chunk { epoch: 1, sequence: 1 }), None);
    }

    #[test]
    fn what_nobody_can_know_is_left_out() {
        let mut arrivals = Arrivals::default();
        let old = Some(at(-60_000));
        assert_eq!(arrivals.on_frame(at(0), &frame(Track::Video, 0, old), true), None);
        arrivals.on_output(at(3_000), &chunk(0, 0));
        let times = arrivals.times(Resource::Chunk { epoch: 1, sequence: 0 }).unwrap();
        assert_eq!((times.upload, times.chunking), (None, ms(3_000)));
        let ahead = Some(at(3_500));
        let upload = arrivals.on_frame(at(3_000), &frame(Track::Video, 3_000, ahead), true);
        assert_eq!(upload, Some(Duration::ZERO), "a clock ahead of ours");
        arrivals.on_publisher();
        arrivals.on_output(at(6_000), &chunk(1, 3_000));
        assert_eq!(arrivals.times(Resource::Chunk { epoch: 1, sequence: 1 }), None);
    }

    #[test]
    fn there_is_a_limit() {
        let mut arrivals = Arrivals::default();
        for n in 0..2_000 {
            arrivals.on_frame(at(n), &frame(Track::Audio, n, None), false);
            arrivals.on_output(at(n), &chunk(n as u64, n));
        }
        assert_eq!((arrivals.frames.len(), arrivals.objects.len()), (FRAMES, OBJECTS));
    }
}
