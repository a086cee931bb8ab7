//! What a viewer hands out.

use std::time::Duration;

use bytes::Bytes;
use spyglass_media::{MediaTime, UtcTime};
use tokio::time::Instant;

/// What a viewer meets, in order of sequence.
#[derive(Clone, Debug)]
pub enum Event {
    /// A chunk, whole.
    Chunk(Chunk),
    /// The list says that there is no media here (EXT-X-GAP).
    Gap {
        /// Its place.
        sequence: u64,
        /// How long nothing is there.
        duration: Duration,
    },
    /// A chunk could not be had from any edge, or left the list before it was asked
    /// for.
    Missed {
        /// Its place.
        sequence: u64,
    },
    /// The broadcast is over and every chunk was handed out.
    Ended,
}

/// A chunk that arrived, or a part of one.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Its place.
    pub sequence: u64,
    /// Its place in its chunk, when it is a part.
    pub part: Option<u32>,
    /// It stands before the place where playing begins: the decoder needs it,
    /// nobody sees it.
    pub lead: bool,
    /// On a clock that begins with the first chunk this viewer fetched.
    pub start: MediaTime,
    /// As the list says.
    pub duration: Duration,
    /// As the list says, or counted on from the last that it says.
    pub date: Option<UtcTime>,
    /// Time stamps begin anew here.
    pub discontinuity: bool,
    /// When its first video frame was captured, by the stamp in it.
    pub captured: Option<UtcTime>,
    /// It was listed while this viewer watched, rather than before it came; only
    /// then does `listed` tell anything about delay.
    pub fresh: bool,
    /// When the list that named it was here: stamp (14) of the paper.
    pub listed: UtcTime,
    /// When it was asked for.
    pub requested: UtcTime,
    /// When it was here: stamp (15).
    pub arrived: UtcTime,
    /// The same by the clock that does not jump.
    pub arrived_at: Instant,
    /// How long it was on its way from the edge, without the wait for it there,
    /// in microseconds.
    pub last_mile_us: u32,
    /// `moof` and `mdat`.
    pub bytes: Bytes,
    /// The init of its epoch, as served; empty when the list names none.
    pub init: Bytes,
    /// What the edge's cache said (RFC 9211).
    pub cache_status: Option<String>,
    /// Whole seconds the list had waited in the edge.
    pub list_age: Option<u32>,
}
