//! How fast one publisher may send: in bytes ([`Pace`]), and in media time
//! ([`Lead`]).
//!
//! Pure. A publisher who sends faster is not cut: its socket is not read for a
//! while, and TCP slows it down. A burst of some seconds is allowed, because
//! an uplink that was blocked delivers what it held back.

use std::time::{Duration, Instant};

/// A byte budget that refills with time.
#[derive(Debug)]
pub struct Pace {
    bytes_per_second: f64,
    burst: f64,
    budget: f64,
    at: Instant,
}

impl Pace {
    /// A full budget: `burst` seconds at `mbit` megabits per second.
    pub fn new(mbit: u32, burst: Duration, now: Instant) -> Self {
        let bytes_per_second = f64::from(mbit.max(1)) * 1_000_000.0 / 8.0;
        let burst = bytes_per_second * burst.as_secs_f64();
        Self { bytes_per_second, burst, budget: burst, at: now }
    }

    /// Bytes were read; returns how long not to read.
    pub fn on_bytes(&mut self, now: Instant, count: usize) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.budget = (self.budget + elapsed * self.bytes_per_second).min(self.burst);
        self.budget -= count as f64;
        (self.budget < 0.0).then(|| Duration::from_secs_f64(-self.budget / self.bytes_per_second))
    }
}

/// How far a publisher's media runs ahead of the clock on the wall.
///
/// An encoder's clock may be a little fast for ever, an uplink that was blocked
/// delivers in a burst, and a clock may jump (`spyglass_rtmp::timeline` deals
/// with that): so a quarter more than real time is always allowed, and
/// [`LEAD_MOST`] at once.
#[derive(Debug)]
pub struct Lead {
    last: Option<u32>,
    ahead: Duration,
    at: Instant,
}

/// What a publisher may be ahead.
const LEAD_MOST: Duration = Duration::from_secs(20);

/// A step longer than this is a jump, which adds nothing to the media's length.
const STEP_MOST: u32 = 10_000;

impl Lead {
    /// A publisher who begins now.
    pub fn new(now: Instant) -> Self {
        Self { last: None, ahead: Duration::ZERO, at: now }
    }

    /// A message with this time stamp, in milliseconds, was read; returns how
    /// long not to read.
    pub fn on_message(&mut self, now: Instant, timestamp: u32) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.at);
        self.at = now;
        self.ahead = self.ahead.saturating_sub(elapsed + elapsed / 4);
        let step = self.last.map_or(0, |last| timestamp.wrapping_sub(last));
        if step <= STEP_MOST {
            self.ahead += Duration::from_millis(step.into());
        }
        // Tracks interleave: only a step forward moves the mark, or a jump.
        if self.last.is_none() || step < u32::MAX - STEP_MOST {
            self.last = Some(timestamp);
        }
        self.ahead.checked_sub(LEAD_MOST).filter(|pause| !pause.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_a_flood_is_slowed_to_the_rate() {
        let start = Instant::now();
        let mut pace = Pace::new(8, Duration::from_secs(2), start);
        assert_eq!(pace.on_bytes(start, 2_000_000), None);
        assert_eq!(pace.on_bytes(start, 500_000), Some(Duration::from_millis(500)));
        assert_eq!(pace.on_bytes(start + Duration::from_millis(500), 0), None);
        // Rest refills the budget up to one burst and no further.
        let later = start + Duration::from_secs(60);
        assert_eq!(pace.on_bytes(later, 2_000_000), None);
        assert!(pace.on_bytes(later, 1_000).is_some());
    }

    #[test]
    fn media_in_real_time_is_never_held_back() {
        let start = Instant::now();
        let mut lead = Lead::new(start);
        for frame in 0..100_000u32 {
            // An encoder whose clock is one in a hundred fast, audio interleaved.
            let now = start + Duration::from_micros(u64::from(frame) * 39_600);
            assert_eq!(lead.on_message(now, frame * 40), None);
            assert_eq!(lead.on_message(now, (frame * 40).saturating_sub(15)), None);
        }
    }

    #[test]
    fn a_file_sent_at_once_is_slowed_to_little_more_than_real_time() {
        let start = Instant::now();
        let mut lead = Lead::new(start);
        let mut now = start;
        for frame in 0..10_000u32 {
            now += lead.on_message(now, frame * 40).unwrap_or_default();
        }
        let taken = (now - start).as_secs();
        assert!((290..=400).contains(&taken), "400 s of media took {taken} s");
    }

    #[test]
    fn large_steps_buy_nothing_and_a_jump_costs_nothing() {
        let start = Instant::now();
        let mut lead = Lead::new(start);
        let paused: Duration =
            (0..100u32).filter_map(|step| lead.on_message(start, step * 9_000)).max().unwrap();
        assert!(paused > Duration::from_secs(800), "{paused:?}");
        let mut lead = Lead::new(start);
        lead.on_message(start, 0);
        assert_eq!(lead.on_message(start, 4_000_000), None);
        assert_eq!(lead.on_message(start, 4_000_040), None);
    }
}
