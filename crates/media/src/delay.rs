//! Delay by stage, counted in buckets that merge exactly.
//!
//! A [`Histogram`] has a fixed bucket for every quarter of a doubling from
//! 1 ms to 131 s. Adding two of them bucket by bucket is what one would have
//! counted that had seen all values, so nodes count alone and control adds.
//! What is lost is where in its bucket a value stood: a quantile is off by
//! [`ERROR`] at most, and below 1 ms by 1 ms.
//!
//! A [`Window`] keeps the last [`WINDOW_SECONDS`] in [`SLOTS`] slots. Time is
//! passed in as a count of slots.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A part of the way from the camera to the screen. Each begins where the one
/// before ends, so that their sum is the whole way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// From the capture stamp to the arrival of that key frame at the origin.
    Upload,
    /// From there until the chunk (or part) that begins with it was ready.
    Chunking,
    /// From there until an edge held it (the paper's Wowza2Fastly).
    Transfer,
    /// From there until it was answered to a viewer.
    Polling,
    /// From leaving the server to arriving at the viewer.
    LastMile,
    /// From arriving to being shown.
    Buffering,
    /// From the capture stamp to being shown, measured at the viewer.
    Total,
}

impl Stage {
    /// In the order of the way.
    pub const ALL: [Self; 7] = [
        Self::Upload,
        Self::Chunking,
        Self::Transfer,
        Self::Polling,
        Self::LastMile,
        Self::Buffering,
        Self::Total,
    ];

    /// Its name in metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Chunking => "chunking",
            Self::Transfer => "transfer",
            Self::Polling => "polling",
            Self::LastMile => "last_mile",
            Self::Buffering => "buffering",
            Self::Total => "total",
        }
    }

    /// Whether media of this tier pass through it.
    pub const fn is_of(self, tier: Tier) -> bool {
        match tier {
            Tier::Hls => true,
            Tier::Push => !matches!(self, Self::Chunking | Self::Transfer | Self::Polling),
        }
    }
}

/// How media reach a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Frame by frame, from the origin.
    Push,
    /// Chunk by chunk or part by part, from an edge.
    Hls,
}

impl Tier {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Push, Self::Hls];

    /// Its name in metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Hls => "hls",
        }
    }
}

/// Buckets for one doubling.
const PER_DOUBLING: usize = 4;

/// Doublings from 1 ms on: to 131 s.
const DOUBLINGS: usize = 17;

/// Buckets of a histogram: one below 1 ms, those between, one beyond.
pub const BUCKETS: usize = DOUBLINGS * PER_DOUBLING + 2;

/// Largest relative error of a quantile between 1 ms and 131 s: a bucket is a
/// fourth root of 2 wide, and its geometric middle is answered.
pub const ERROR: f64 = 0.0906;

/// Upper ends, in seconds, of the 2^k buckets that metrics show, with the index
/// of the first bucket above each.
pub fn doublings() -> impl Iterator<Item = (f64, usize)> {
    (0..=DOUBLINGS).map(|n| (0.001 * f64::from(1u32 << n), n * PER_DOUBLING + 1))
}

/// The bucket of a value; the lower end belongs to it, the upper does not.
pub fn bucket(delay: Duration) -> usize {
    let ms = delay.as_secs_f64() * 1000.0;
    if ms < 1.0 {
        return 0;
    }
    let at = 1 + (ms.log2() * PER_DOUBLING as f64) as usize;
    at.min(BUCKETS - 1)
}

/// What a bucket's values are taken for, in seconds.
fn middle(bucket: usize) -> f64 {
    match bucket {
        0 => 0.0005,
        n => 0.001 * ((n as f64 - 0.5) / PER_DOUBLING as f64).exp2(),
    }
}

/// How often a delay was in each bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram([u32; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Histogram {
    /// One more.
    pub fn add(&mut self, delay: Duration) {
        self.add_to(bucket(delay), 1);
    }

    /// `count` more in one bucket; beyond the last is the last.
    pub fn add_to(&mut self, bucket: usize, count: u32) {
        let slot = &mut self.0[bucket.min(BUCKETS - 1)];
        *slot = slot.saturating_add(count);
    }

    /// All that the other has counted.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(theirs);
        }
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|&count| u64::from(count)).sum()
    }

    /// The value that a share of all (0 to 1) does not exceed, in seconds;
    /// `None` without any.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = ((share.clamp(0.0, 1.0) * count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.0.iter().position(|&count| {
            seen += u64::from(count);
            seen >= rank
        });
        found.map(middle)
    }

    /// The buckets that are not empty.
    pub fn filled(&self) -> impl Iterator<Item = (usize, u32)> {
        self.0.iter().copied().enumerate().filter(|&(_, count)| count > 0)
    }
}

/// Slots of a window, the one that is being filled included.
pub const SLOTS: usize = 7;

/// Length of a slot.
pub const SLOT_SECONDS: u64 = 10;

/// What a window shows at least: its slots but the one being filled.
pub const WINDOW_SECONDS: u64 = (SLOTS as u64 - 1) * SLOT_SECONDS;

/// What was counted lately. Slots nobody counted in take no memory; all of them
/// take 2 KiB.
#[derive(Clone, Debug, Default)]
pub struct Window {
    slots: [Option<Box<(u64, Histogram)>>; SLOTS],
}

impl Window {
    /// Adds what was counted in slot `now`, which replaces the one that has
    /// left the window.
    pub fn merge(&mut self, now: u64, counted: &Histogram) {
        let slot = &mut self.slots[(now % SLOTS as u64) as usize];
        match slot {
            Some(slot) if slot.0 == now => slot.1.merge(counted),
            _ => *slot = Some(Box::new((now, counted.clone()))),
        }
    }

    /// All that was counted in the window that ends with slot `now`.
    pub fn sum(&self, now: u64) -> Histogram {
        let mut sum = Histogram::default();
        let since = now.saturating_sub(SLOTS as u64 - 1);
        for slot in self.slots.iter().flatten().filter(|slot| (since..=now).contains(&slot.0)) {
            sum.merge(&slot.1);
        }
        sum
    }

    /// Frees what has left the window. True when nothing is in it.
    pub fn forget(&mut self, now: u64) -> bool {
        let since = now.saturating_sub(SLOTS as u64 - 1);
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|slot| slot.0 < since) {
                *slot = None;
            }
        }
        self.slots.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|&micros| histogram.add(Duration::from_micros(micros)));
        histogram
    }

    #[test]
    fn nothing_counted_is_nothing_told() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(Histogram::default().filled().count(), 0);
    }

    #[test]
    fn the_ends_are_caught() {
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(Duration::from_micros(999)), 0);
        assert_eq!(bucket(Duration::from_millis(1)), 1);
        assert_eq!(bucket(Duration::from_millis(2)), 1 + PER_DOUBLING);
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
        let ends: Vec<(f64, usize)> = doublings().collect();
        assert_eq!(ends[0], (0.001, 1));
        assert_eq!(ends.last().map(|end| end.1), Some(BUCKETS - 1));
    }

    #[test]
    fn a_window_forgets() {
        let mut window = Window::default();
        window.merge(10, &counted(&[5_000]));
        window.merge(12, &counted(&[7_000, 9_000]));
        assert_eq!(window.sum(12).count(), 3);
        assert_eq!(window.sum(16).count(), 3);
        assert_eq!(window.sum(17).count(), 2);
        assert!(!window.forget(18));
        window.merge(19, &counted(&[1]));
        assert_eq!(window.sum(19).count(), 1, "slot 12 was used again");
        assert!(window.forget(26));
    }

    #[test]
    fn push_has_no_chunks() {
        let push: Vec<&str> =
            Stage::ALL.into_iter().filter(|it| it.is_of(Tier::Push)).map(Stage::as_str).collect();
        assert_eq!(push, ["upload", "last_mile", "buffering", "total"]);
    }

    proptest! {
        #[test]
        fn a_merge_is_exact(
            a in prop::collection::vec(0u64..200_000_000, 0..100),
            b in prop::collection::vec(0u64..200_000_000, 0..100),
        ) {
            let mut merged = counted(&a);
            merged.merge(&counted(&b));
            let mut copied = Histogram::default();
            for (bucket, count) in merged.filled() {
                copied.add_to(bucket, count);
            }
            prop_assert_eq!(&copied, &merged);
            prop_assert_eq!(merged, counted(&[a, b].concat()));
        }

        #[test]
        fn a_quantile_is_close(
            mut values in prop::collection::vec(0u64..131_000_000, 1..200),
            percent in 1u32..=100,
        ) {
            let share = f64::from(percent) / 100.0;
            let told = counted(&values).quantile(share).unwrap();
            values.sort_unstable();
            let rank = ((share * values.len() as f64).ceil() as usize).max(1);
            let exact = values[rank - 1] as f64 / 1e6;
            let allowed = if exact < 0.001 { 0.001 } else { exact * ERROR };
            prop_assert!((told - exact).abs() <= allowed, "{told} for {exact}");
        }
    }
}
