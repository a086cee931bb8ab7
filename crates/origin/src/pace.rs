//! How fast one publisher may send.
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
}
