//! Frames to wire bytes, once for all push viewers, and the GOP cache.
//!
//! Pure. Audio waits for the next video frame and rides in front of it, so a
//! viewer costs one write a video frame and not one a message; it waits
//! [`AUDIO_WAIT`] at most, and not at all when there is no video. A viewer who
//! joins gets [`Fanout::backlog`]: everything since the last key frame.
//! What a slow viewer loses is `send_queue.rs`.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use spyglass_media::{Frame, MediaTime, Track};
use spyglass_rtmp::wire::{self, Kind};

use crate::send_queue::{Headers, Packet};

/// The longest that audio waits for a video frame.
pub const AUDIO_WAIT: Duration = Duration::from_millis(40);

/// How often playback may start where there is only audio.
const AUDIO_START: Duration = Duration::from_secs(1);

/// The wire side of one broadcast.
#[derive(Debug)]
pub struct Fanout {
    /// Largest GOP kept for joiners, in bytes.
    cache_bytes: usize,
    metadata: Option<Bytes>,
    video: Option<Bytes>,
    audio: Option<Bytes>,
    /// Rebuilt at the next start when something above has changed.
    headers: Option<Headers>,
    generation: u32,
    /// Audio messages that wait for the next video frame.
    riding: BytesMut,
    riding_frames: u32,
    riding_since: Option<Instant>,
    started: bool,
    last_start: MediaTime,
    gop: Vec<Packet>,
    gop_bytes: usize,
}

impl Fanout {
    /// Nothing sent yet; joiners get up to `cache_bytes` of the running GOP.
    pub fn new(cache_bytes: usize) -> Self {
        Self {
            cache_bytes,
            metadata: None,
            video: None,
            audio: None,
            headers: None,
            generation: 0,
            riding: BytesMut::new(),
            riding_frames: 0,
            riding_since: None,
            started: false,
            last_start: MediaTime::ZERO,
            gop: Vec::new(),
            gop_bytes: 0,
        }
    }

    /// A publisher has (re)connected: its codecs and metadata follow, and
    /// viewers go on at its first key frame.
    pub fn on_publisher(&mut self) {
        self.metadata = None;
        self.video = None;
        self.audio = None;
        self.headers = None;
        self.started = false;
        self.riding.clear();
        self.riding_frames = 0;
        self.riding_since = None;
    }

    /// The body of an onMetaData message.
    pub fn on_metadata(&mut self, body: Bytes) {
        self.metadata = Some(body);
        self.headers = None;
    }

    /// The body of a message with a codec configuration.
    pub fn on_codec(&mut self, track: Track, body: Bytes) {
        let slot = match track {
            Track::Video => &mut self.video,
            Track::Audio => &mut self.audio,
        };
        if slot.as_ref() != Some(&body) {
            *slot = Some(body);
            self.headers = None;
            // A picture coded for the old configuration must not follow the new one.
            self.started &= track != Track::Video;
        }
    }

    /// The next frame; returns what every viewer is to get now.
    pub fn on_frame(&mut self, now: Instant, frame: &Frame) -> Option<Packet> {
        let timestamp = frame.dts.millis() as u32;
        match frame.track {
            Track::Audio if self.video.is_some() => {
                if self.started {
                    wire::write_message(&mut self.riding, Kind::Audio, timestamp, &frame.body);
                    self.riding_frames += 1;
                    self.riding_since.get_or_insert(now);
                }
                None
            }
            Track::Audio => {
                let start = !self.started || frame.dts.since(self.last_start) >= AUDIO_START;
                Some(self.packet(Kind::Audio, timestamp, frame, start))
            }
            Track::Video if frame.key || self.started => {
                Some(self.packet(Kind::Video, timestamp, frame, frame.key))
            }
            Track::Video => None,
        }
    }

    fn packet(&mut self, kind: Kind, timestamp: u32, frame: &Frame, start: bool) -> Packet {
        let mut bytes = std::mem::take(&mut self.riding);
        bytes.reserve(frame.body.len() + 64);
        wire::write_message(&mut bytes, kind, timestamp, &frame.body);
        let frames = std::mem::take(&mut self.riding_frames) + 1;
        self.riding_since = None;
        if start {
            self.started = true;
            self.last_start = frame.dts;
        }
        let start = start.then(|| self.headers());
        self.remember(Packet { bytes: bytes.freeze(), start, frames })
    }

    /// When waiting audio has waited long enough.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.riding_since.map(|since| since + AUDIO_WAIT)
    }

    /// Sends audio for which no video frame has come.
    pub fn on_deadline(&mut self, now: Instant) -> Option<Packet> {
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        self.riding_since = None;
        let bytes = self.riding.split().freeze();
        let frames = std::mem::take(&mut self.riding_frames);
        Some(self.remember(Packet { bytes, start: None, frames }))
    }

    /// What a viewer who joins now is sent first; empty until a start was seen.
    pub fn backlog(&self) -> &[Packet] {
        &self.gop
    }

    fn remember(&mut self, packet: Packet) -> Packet {
        if packet.start.is_some() {
            self.gop.clear();
            self.gop_bytes = 0;
        } else if self.gop.is_empty() {
            return packet;
        }
        self.gop_bytes += packet.bytes.len();
        if self.gop_bytes > self.cache_bytes {
            // Too large to keep: joiners wait for the next key frame.
            self.gop.clear();
        } else {
            self.gop.push(packet.clone());
        }
        packet
    }

    fn headers(&mut self) -> Headers {
        if let Some(headers) = &self.headers {
            return headers.clone();
        }
        let at = self.last_start.millis() as u32;
        let mut bytes = BytesMut::new();
        let parts = [
            // At any other time ffmpeg takes it for a track of texts.
            (Kind::Data, 0, &self.metadata),
            (Kind::Video, at, &self.video),
            (Kind::Audio, at, &self.audio),
        ];
        for (kind, timestamp, body) in parts {
            if let Some(body) = body {
                wire::write_message(&mut bytes, kind, timestamp, body);
            }
        }
        self.generation = self.generation.wrapping_add(1);
        let headers = Headers { generation: self.generation, bytes: bytes.freeze() };
        self.headers.insert(headers).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(track: Track, millis: i64, key: bool) -> Frame {
        let body = Bytes::from(vec![millis as u8; 20]);
        Frame {
            track,
            dts: MediaTime::from_millis(millis),
            composition: 0,
            key,
            sample: body.slice(5..),
            body,
            captured: None,
        }
    }

    fn with_video() -> Fanout {
        let mut fanout = Fanout::new(1 << 20);
        fanout.on_publisher();
        fanout.on_codec(Track::Video, Bytes::from_static(b"avc"));
        fanout.on_codec(Track::Audio, Bytes::from_static(b"aac"));
        fanout
    }

    #[test]
    fn audio_rides_in_front_of_the_next_video_frame() {
        let now = Instant::now();
        let mut fanout = with_video();
        assert!(
            fanout.on_frame(now, &frame(Track::Audio, 0, true)).is_none(),
            "before a key frame"
        );
        let key = fanout.on_frame(now, &frame(Track::Video, 0, true)).unwrap();
        assert_eq!((key.frames, key.start.is_some()), (1, true));
        assert!(fanout.on_frame(now, &frame(Track::Audio, 21, true)).is_none());
        let next = fanout.on_frame(now, &frame(Track::Video, 40, false)).unwrap();
        assert_eq!((next.frames, next.start.is_some()), (2, false));
        assert!(fanout.next_deadline().is_none());
    }

    #[test]
    fn audio_waits_forty_milliseconds_at_most() {
        let now = Instant::now();
        let mut fanout = with_video();
        fanout.on_frame(now, &frame(Track::Video, 0, true));
        fanout.on_frame(now, &frame(Track::Audio, 21, true));
        fanout.on_frame(now + AUDIO_WAIT / 2, &frame(Track::Audio, 42, true));
        assert_eq!(fanout.next_deadline(), Some(now + AUDIO_WAIT));
        assert!(fanout.on_deadline(now + AUDIO_WAIT / 2).is_none());
        assert_eq!(fanout.on_deadline(now + AUDIO_WAIT).unwrap().frames, 2);
        assert!(fanout.on_deadline(now + AUDIO_WAIT).is_none());
    }

    #[test]
    fn a_joiner_gets_everything_since_the_last_key_frame() {
        let now = Instant::now();
        let mut fanout = with_video();
        for (millis, key) in [(0, true), (40, false), (80, true), (120, false), (160, false)] {
            fanout.on_frame(now, &frame(Track::Video, millis, key));
        }
        assert_eq!(fanout.backlog().len(), 3);
        assert!(fanout.backlog()[0].start.is_some());
    }

    #[test]
    fn a_gop_too_large_to_keep_is_not_kept() {
        let now = Instant::now();
        let mut fanout = with_video();
        fanout.cache_bytes = 80;
        for (millis, key) in [(0, true), (40, false), (80, false), (120, false)] {
            fanout.on_frame(now, &frame(Track::Video, millis, key));
        }
        assert!(fanout.backlog().is_empty());
        fanout.on_frame(now, &frame(Track::Video, 160, true));
        assert_eq!(fanout.backlog().len(), 1);
    }

    #[test]
    fn a_new_publisher_starts_at_a_key_frame_with_new_headers() {
        let now = Instant::now();
        let mut fanout = with_video();
        let first = fanout.on_frame(now, &frame(Track::Video, 0, true)).unwrap();
        let again = fanout.on_frame(now, &frame(Track::Video, 40, true)).unwrap();
        let generation = |packet: &Packet| packet.start.as_ref().unwrap().generation;
        assert_eq!(generation(&first), generation(&again));
        fanout.on_publisher();
        fanout.on_codec(Track::Video, Bytes::from_static(b"avc"));
        assert!(fanout.on_frame(now, &frame(Track::Video, 80, false)).is_none());
        let next = fanout.on_frame(now, &frame(Track::Video, 120, true)).unwrap();
        assert_ne!(generation(&first), generation(&next));
    }

    #[test]
    fn without_video_audio_goes_at_once() {
        let now = Instant::now();
        let mut fanout = Fanout::new(1 << 20);
        fanout.on_publisher();
        fanout.on_codec(Track::Audio, Bytes::from_static(b"aac"));
        let starts: Vec<bool> = (0..100)
            .map(|i| fanout.on_frame(now, &frame(Track::Audio, i * 21, true)).unwrap())
            .map(|packet| packet.start.is_some())
            .collect();
        assert!(starts[0]);
        assert_eq!(starts.iter().filter(|start| **start).count(), 3);
    }
}
