//! The chunk that is being filled, and the part of it that is.
//!
//! Without parts a chunk is one part that nobody is told of.

use bytes::{Bytes, BytesMut};
use spyglass_media::{MediaTime, Track};

use super::epoch::{Placed, later};
use crate::cmaf::{Run, Sample};

/// A chunk with more than this ends early, whatever its length in time. Far
/// above 12 s of the fastest publisher that ingest lets through.
const MAX_BYTES: usize = 64 * 1024 * 1024;
const MAX_SAMPLES: usize = 20_000;

/// The shortest chunk, 1 ms: an EXTINF must be above zero.
const SHORTEST: i64 = MediaTime::PER_SECOND / 1000;

#[derive(Debug)]
pub(super) struct Open {
    pub start: MediaTime,
    /// Where its last sample probably ends.
    pub end: MediaTime,
    /// Others are told of its parts.
    pub has_parts: bool,
    /// Where the part that is being filled begins.
    pub part_start: MediaTime,
    video: Vec<Sample>,
    audio: Vec<Sample>,
    video_end: u64,
    audio_end: u64,
    /// The first picture is a key frame.
    first_key: Option<bool>,
    bytes: usize,
    samples: usize,
    parts: Vec<Bytes>,
}

/// The samples of one part.
#[derive(Debug)]
pub(super) struct Samples {
    video: Vec<Sample>,
    audio: Vec<Sample>,
    video_end: u64,
    audio_end: u64,
}

impl Samples {
    pub fn runs(&self) -> (Run<'_>, Run<'_>) {
        (
            Run { samples: &self.video, end: self.video_end },
            Run { samples: &self.audio, end: self.audio_end },
        )
    }

    /// A player can begin somewhere in it.
    pub fn independent(&self, has_video: bool) -> bool {
        !has_video || self.video.iter().any(|sample| sample.key)
    }
}

impl Open {
    pub fn new(start: MediaTime, has_parts: bool) -> Self {
        Self {
            start,
            end: start,
            has_parts,
            part_start: start,
            video: Vec::new(),
            audio: Vec::new(),
            video_end: 0,
            audio_end: 0,
            first_key: None,
            bytes: 0,
            samples: 0,
            parts: Vec::new(),
        }
    }

    /// Takes a frame; `length` is that of an audio frame, in its own scale.
    pub fn push(&mut self, placed: Placed, length: u64) {
        self.bytes += placed.sample.data.len();
        self.samples += 1;
        self.end = self.end.max(later(placed.at, placed.step));
        match placed.track {
            Track::Video => {
                self.first_key.get_or_insert(placed.key);
                self.video_end = placed.sample.dts.saturating_add(placed.step.unsigned_abs());
                self.video.push(placed.sample);
            }
            Track::Audio => {
                self.audio_end = placed.sample.dts.saturating_add(length);
                self.audio.push(placed.sample);
            }
        }
    }

    /// The first picture is a key frame, or there are no pictures at all.
    pub fn independent(&self, has_video: bool) -> bool {
        self.first_key.unwrap_or(!has_video)
    }

    pub fn full(&self) -> bool {
        self.bytes > MAX_BYTES || self.samples > MAX_SAMPLES
    }

    /// Nothing has come since the last part.
    pub fn part_is_empty(&self) -> bool {
        self.video.is_empty() && self.audio.is_empty()
    }

    /// The earliest it can end: not before what others were told of.
    pub fn least_end(&self) -> MediaTime {
        let whole = self.part_is_empty() && self.part_start > self.start;
        if whole { self.part_start } else { later(self.part_start, SHORTEST) }
    }

    /// The number of the part that is being filled.
    pub fn part(&self) -> u32 {
        u32::try_from(self.parts.len()).unwrap_or(u32::MAX)
    }

    /// Takes out what stands before `until`, or all of it. `next` follows it.
    pub fn take(&mut self, until: Option<MediaTime>, next: Option<&Placed>, rate: u64) -> Samples {
        let per_second = u128::from(MediaTime::PER_SECOND.unsigned_abs());
        let (videos, audios) = match until {
            None => (self.video.len(), self.audio.len()),
            Some(until) => {
                let until = until.ticks().max(0).unsigned_abs();
                let before = |sample: &Sample| {
                    u128::from(sample.dts) * per_second < u128::from(until) * u128::from(rate)
                };
                (
                    self.video.partition_point(|sample| sample.dts < until),
                    self.audio.partition_point(before),
                )
            }
        };
        let video_rest = self.video.split_off(videos);
        let audio_rest = self.audio.split_off(audios);
        let following = next.filter(|next| next.track == Track::Video);
        let following = video_rest.first().or(following.map(|next| &next.sample));
        Samples {
            video_end: following.map_or(self.video_end, |next| next.dts),
            audio_end: audio_rest.first().map_or(self.audio_end, |next| next.dts),
            video: std::mem::replace(&mut self.video, video_rest),
            audio: std::mem::replace(&mut self.audio, audio_rest),
        }
    }

    /// A part has been written.
    pub fn finish_part(&mut self, bytes: Bytes) {
        self.parts.push(bytes);
    }

    /// The chunk's bytes; `None` when no part could be written.
    pub fn join(&mut self) -> Option<Bytes> {
        if let [only] = &mut self.parts[..] {
            return Some(std::mem::take(only));
        }
        let length = self.parts.iter().map(Bytes::len).sum();
        let mut joined = BytesMut::with_capacity(length);
        for part in &self.parts {
            joined.extend_from_slice(part);
        }
        (!self.parts.is_empty()).then(|| joined.freeze())
    }
}
