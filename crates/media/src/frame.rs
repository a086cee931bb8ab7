//! One coded picture or one piece of sound, as it came from the publisher.

use bytes::Bytes;

use crate::{MediaTime, UtcTime};

/// Video or audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Track {
    /// H.264 in this release.
    Video,
    /// AAC in this release.
    Audio,
}

impl Track {
    /// The word in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Video => "video",
            Self::Audio => "audio",
        }
    }
}

/// One frame. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which track it belongs to.
    pub track: Track,
    /// Decode time.
    pub dts: MediaTime,
    /// Presentation time less decode time, in 90 kHz ticks. Zero without
    /// B-frames; may be negative.
    pub composition: i32,
    /// Decoding can start here. Always true for audio.
    pub key: bool,
    /// The RTMP message body, codec header included: what push viewers get.
    pub body: Bytes,
    /// The coded sample within `body`, sharing its memory: NAL units with
    /// length prefixes, or one raw AAC access unit. What chunks are made of.
    pub sample: Bytes,
    /// When it was captured, where the broadcaster's key frame says so.
    pub captured: Option<UtcTime>,
}

impl Frame {
    /// Presentation time.
    pub fn pts(&self) -> MediaTime {
        MediaTime::from_ticks(self.dts.ticks().saturating_add(i64::from(self.composition)))
    }
}
