//! What a segmenter returns.

use std::fmt;

use bytes::Bytes;
use spyglass_media::{MediaTime, UtcTime};

use crate::Error;

/// What must happen, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// An epoch begins; its chunks follow.
    Init(Init),
    /// A part of the chunk that is being filled is complete.
    Part(Part),
    /// A chunk is complete: list it.
    Chunk(Chunk),
    /// Media is missing: list that.
    Gap(Gap),
    /// The broadcaster should know.
    Warning(Warning),
}

/// The init of a new epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Init {
    /// Grows with every publisher connection and codec configuration.
    pub epoch: u32,
    /// ftyp and moov.
    pub bytes: Bytes,
    /// The value of CODECS: `avc1.64001e,mp4a.40.2`.
    pub codecs: String,
    /// Width and height in pixels; `None` without video.
    pub resolution: Option<(u32, u32)>,
}

/// A part of a chunk that is not complete yet, or whose last part this is.
#[derive(Clone, PartialEq, Eq)]
pub struct Part {
    /// The epoch whose init it needs.
    pub epoch: u32,
    /// Media sequence number of its chunk.
    pub sequence: u64,
    /// Its number in the chunk, from 0.
    pub part: u32,
    /// Where it begins, by decode time.
    pub start: MediaTime,
    /// Its length in 90 kHz ticks.
    pub duration: MediaTime,
    /// When the start of its chunk was captured.
    pub program_date_time: UtcTime,
    /// Its chunk is the first of an epoch that follows another.
    pub discontinuity: bool,
    /// It has a key frame, or no video is expected.
    pub independent: bool,
    /// moof and mdat.
    pub bytes: Bytes,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part")
            .field("epoch", &self.epoch)
            .field("sequence", &self.sequence)
            .field("part", &self.part)
            .field("duration", &self.duration)
            .field("independent", &self.independent)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// A complete chunk.
#[derive(Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The epoch whose init it needs.
    pub epoch: u32,
    /// Media sequence number.
    pub sequence: u64,
    /// Where it begins, by decode time.
    pub start: MediaTime,
    /// Its length in 90 kHz ticks: from its start to that of the next.
    pub duration: MediaTime,
    /// When its start was captured.
    pub program_date_time: UtcTime,
    /// The wall clock when it was complete.
    pub listed: UtcTime,
    /// The first chunk of an epoch that follows another.
    pub discontinuity: bool,
    /// A player can begin here.
    pub independent: bool,
    /// One contiguous buffer: its parts joined, each of them moof and mdat; one
    /// of each when there are no parts.
    pub bytes: Bytes,
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("epoch", &self.epoch)
            .field("sequence", &self.sequence)
            .field("start", &self.start)
            .field("duration", &self.duration)
            .field("program_date_time", &self.program_date_time)
            .field("discontinuity", &self.discontinuity)
            .field("independent", &self.independent)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// A chunk that will never be: EXT-X-GAP. It belongs to the epoch before it,
/// so it never begins one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The epoch that it prolongs.
    pub epoch: u32,
    /// Media sequence number.
    pub sequence: u64,
    /// How much is missing, in 90 kHz ticks.
    pub duration: MediaTime,
    /// When its start would have been captured.
    pub program_date_time: UtcTime,
    /// The wall clock when it was listed.
    pub listed: UtcTime,
}

/// What is wrong with what the publisher sends. Told once, not for each frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A chunk had to end without a key frame (rule P1 leaves no choice).
    LongGop,
    /// Frames came after a GAP had taken their place.
    LateFrames,
    /// A track cannot be used.
    Codec(Error),
}

impl Warning {
    /// The word in logs and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::LongGop => "long_gop",
            Self::LateFrames => "late_frames",
            Self::Codec(_) => "codec",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LongGop => f.write_str(
                "key frames are further apart than a chunk may be long: set the encoder's key frame interval to 2 s",
            ),
            Self::LateFrames => f.write_str(
                "frames came after their place in the list was given up: the broadcaster's connection stalls",
            ),
            Self::Codec(error) => error.fmt(f),
        }
    }
}
