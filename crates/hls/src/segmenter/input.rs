//! What a segmenter is told.

use std::time::Duration;

use bytes::Bytes;
use spyglass_media::{MediaTime, UtcTime};

/// What is decided before the first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The length that chunks aim for.
    pub chunk: Duration,
    /// The length that parts aim for; zero for none.
    pub part: Duration,
}

impl Config {
    /// EXT-X-TARGETDURATION: whole seconds, one more than a chunk takes, fixed
    /// for the broadcast's life. The second of grace is what GOPs may vary by.
    pub fn target_duration(&self) -> Duration {
        let up = u64::from(self.chunk.subsec_nanos() > 0);
        Duration::from_secs(self.chunk.as_secs() + up + 1)
    }

    /// PART-TARGET: a twentieth more than parts aim for, fixed for the
    /// broadcast's life. Parts of whole frames whose times were rounded to
    /// milliseconds fit under it. `None` without parts.
    pub fn part_target(&self) -> Option<Duration> {
        let target = Duration::from_micros(self.part.as_micros() as u64 * 21 / 20);
        (!target.is_zero()).then_some(target)
    }
}

/// [`Config`] in the units of the work.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub chunk: i64,
    pub target: i64,
    /// No chunk is longer; rounds to the target duration.
    pub limit: i64,
    /// From one listing to the latest next; 1.5 target durations are allowed.
    pub stall: Duration,
    pub target_wall: Duration,
    /// What a part aims for; 0 for none.
    pub part: i64,
    /// No part is longer.
    pub part_most: i64,
    /// Only the last part of a chunk is shorter (L2: 85 %).
    pub part_least: i64,
}

impl Timing {
    pub fn new(config: Config) -> Self {
        let part_target = config.part_target().unwrap_or_default();
        let part_most = (MediaTime::ZERO + part_target).ticks();
        let target_wall = config.target_duration();
        let target = (MediaTime::ZERO + target_wall).ticks();
        Self {
            chunk: (MediaTime::ZERO + config.chunk).ticks(),
            target,
            limit: target + MediaTime::PER_SECOND * 49 / 100,
            stall: target_wall.mul_f64(1.35),
            target_wall,
            part: (MediaTime::ZERO + config.part).ticks(),
            part_most,
            part_least: (part_most * 85 + 99) / 100,
        }
    }
}

/// Where a broadcast goes on. The default is a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// The next media sequence number.
    pub next_sequence: u64,
    /// The last epoch that was opened; 0 for none.
    pub epoch: u32,
    /// The end of the list, if it is known.
    pub tail: Option<Tail>,
}

impl Resume {
    /// Behind this and the other: where a list begins that continues neither.
    pub fn and(&self, other: &Self) -> Self {
        Self {
            next_sequence: self.next_sequence.max(other.next_sequence),
            epoch: self.epoch.max(other.epoch),
            tail: None,
        }
    }
}

/// The end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The epoch of its last chunk.
    pub epoch: u32,
    /// The date and time where it ends.
    pub end: UtcTime,
    /// When it was listed.
    pub listed: UtcTime,
    /// Parts of the chunk behind it may have been listed and are lost: its
    /// sequence number can only be a GAP's.
    pub torn: bool,
}

/// A track's configuration, as the publisher sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Codec {
    /// AVCDecoderConfigurationRecord.
    Video(Bytes),
    /// AudioSpecificConfig.
    Audio(Bytes),
}
