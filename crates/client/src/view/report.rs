//! What a viewer tells of its session: counts, and delays by stage.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;
use spyglass_media::{BroadcastId, ViewerId};

use crate::api::Tier;

/// Measurements kept of one stage: half a day of chunks, some hours of key
/// frames. Older ones make room.
const KEPT: usize = 16_384;

/// A delay that is measured, in the stamps of the paper's figure 10.
///
/// Captured means the capture time in a key frame. On HLS, where no frame has
/// one (only Spyglass' own broadcaster writes it), the playlist's date stands
/// in: the origin's clock when the frame arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Push: captured to arrived (1 to 3), i.e. upload and last mile.
    Push,
    /// HLS: the chunk's duration (6 to 7).
    Chunking,
    /// HLS: from the chunk's end until a poll of this viewer saw it (7 to 14).
    /// Upload and transfer to the edge are in it: a viewer cannot tell them apart.
    Polling,
    /// HLS: asked for to arrived (14 to 15).
    LastMile,
    /// Arrived to played (3 to 4, 15 to 17).
    Buffering,
    /// Captured to played.
    Total,
}

impl Stage {
    /// The word in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Chunking => "chunking",
            Self::Polling => "polling",
            Self::LastMile => "last_mile",
            Self::Buffering => "buffering",
            Self::Total => "total",
        }
    }
}

/// A distribution of delays in milliseconds. Negative where clocks differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Delay {
    /// Measurements.
    pub count: u64,
    /// The latest.
    pub last_ms: i64,
    /// The mean of those kept.
    pub mean_ms: i64,
    /// Half were no longer.
    pub p50_ms: i64,
    /// 95 of 100 were no longer.
    pub p95_ms: i64,
    /// 99 of 100 were no longer.
    pub p99_ms: i64,
}

/// Delays of every stage.
#[derive(Debug, Default)]
pub(super) struct Delays(BTreeMap<Stage, (u64, VecDeque<i64>)>);

impl Delays {
    pub(super) fn add(&mut self, stage: Stage, millis: i64) {
        let (count, kept) = self.0.entry(stage).or_default();
        *count += 1;
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(millis);
    }

    pub(super) fn summary(&self) -> BTreeMap<Stage, Delay> {
        self.0.iter().map(|(stage, (count, kept))| (*stage, summary(*count, kept))).collect()
    }
}

fn summary(count: u64, kept: &VecDeque<i64>) -> Delay {
    let mut sorted: Vec<i64> = kept.iter().copied().collect();
    sorted.sort_unstable();
    // Nearest rank.
    let rank = |percent: usize| {
        let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(index).copied().unwrap_or(0)
    };
    let sum: i64 = sorted.iter().fold(0, |sum, value| sum.saturating_add(*value));
    Delay {
        count,
        last_ms: kept.back().copied().unwrap_or(0),
        mean_ms: sum / i64::try_from(sorted.len().max(1)).unwrap_or(i64::MAX),
        p50_ms: rank(50),
        p95_ms: rank(95),
        p99_ms: rank(99),
    }
}

/// Why a session ended without an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It has not.
    #[default]
    Watching,
    /// The viewer had enough.
    Stopped,
    /// The broadcast is over.
    Ended,
    /// This viewer's token is refused although it has not expired: it was kicked.
    Removed,
}

/// A session so far.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What is watched.
    pub broadcast: BroadcastId,
    /// By whom.
    pub viewer: ViewerId,
    /// On which tier now.
    pub tier: Tier,
    /// Place in the push tier.
    pub seat: Option<u32>,
    /// The edge, on HLS.
    pub edge: Option<String>,
    /// HLS though push was given, because RTMP failed: why.
    pub fell_back: Option<String>,
    /// Whether it goes on.
    pub end: End,
    /// Since the join.
    pub watched_ms: u64,
    /// From the join until the first picture played.
    pub startup_ms: Option<u64>,
    /// Frames that arrived (push).
    pub frames: u64,
    /// Chunks that arrived (HLS).
    pub chunks: u64,
    /// Bytes of media that arrived.
    pub bytes: u64,
    /// Chunks announced as missing media.
    pub gaps: u64,
    /// Chunks no edge could give, or that left the list before they were asked for.
    pub missed: u64,
    /// Units of media that came after their time and were discarded.
    pub late: u64,
    /// Units of media left out to come closer to the end, after an outage.
    pub skipped: u64,
    /// How often playing stopped.
    pub stalls: u64,
    /// For how long in all.
    pub stalled_ms: u64,
    /// That over the playing time.
    pub stalling_ratio: f64,
    /// Delays by stage.
    pub delay: BTreeMap<Stage, Delay>,
}

impl Report {
    /// Whether any media came at all.
    pub fn anything(&self) -> bool {
        self.frames > 0 || self.chunks > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut delays = Delays::default();
        for millis in (1..=100).rev() {
            delays.add(Stage::Total, millis);
        }
        let total = delays.summary()[&Stage::Total];
        assert_eq!((total.p50_ms, total.p95_ms, total.p99_ms), (50, 95, 99));
        assert_eq!((total.count, total.last_ms, total.mean_ms), (100, 1, 50));
    }

    #[test]
    fn old_measurements_make_room() {
        let mut delays = Delays::default();
        delays.add(Stage::Polling, 1_000_000);
        for _ in 0..KEPT {
            delays.add(Stage::Polling, 7);
        }
        let polling = delays.summary()[&Stage::Polling];
        assert_eq!((polling.count, polling.mean_ms), (KEPT as u64 + 1, 7));
    }
}
