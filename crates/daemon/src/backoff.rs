//! How long to wait before the next attempt.

use std::time::Duration;

/// Doubles from `base` to `max`; every wait is shortened by up to half at
/// random, so that many nodes do not come back in the same moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    current: Duration,
}

impl Backoff {
    /// Starts at `base`, never exceeds `max`.
    pub fn new(base: Duration, max: Duration) -> Self {
        let base = base.min(max);
        Self { base, max, current: base }
    }

    /// The next wait, between half and the whole of the current step.
    pub fn next(&mut self, random: u32) -> Duration {
        let step = self.current;
        self.current = step.saturating_mul(2).min(self.max);
        let half = step / 2;
        half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Starts again at `base`, after a success.
    pub fn reset(&mut self) {
        self.current = self.base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum_and_start_again() {
        let millis = Duration::from_millis;
        let mut backoff = Backoff::new(millis(200), millis(1_000));
        let waits: Vec<_> = (0..5).map(|_| backoff.next(u32::MAX).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1_000, 1_000]);
        backoff.reset();
        assert_eq!(backoff.next(0), millis(100));
    }

    #[test]
    fn no_base_overflows() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX);
        for _ in 0..3 {
            assert!(backoff.next(u32::MAX) <= Duration::MAX);
        }
    }
}
