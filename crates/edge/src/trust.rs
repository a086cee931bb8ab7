//! Whether a gateway is to be used.
//!
//! Pure. One that fails is left at once and tried again after a pause that
//! doubles with each further failure; one whose watch has come back is used
//! again at once only when it has not failed lately. So an edge neither clings
//! to a gateway that is gone nor swings to and fro with one that limps.

use std::time::{Duration, Instant};

/// Pause after the first failure …
const PAUSE: Duration = Duration::from_secs(1);

/// … doubling up to this.
const LONGEST: Duration = Duration::from_secs(30);

/// A gateway that has not failed for so long has a clean record.
const FORGIVEN: Duration = Duration::from_secs(60);

/// One gateway's record.
#[derive(Debug, Default)]
pub struct Trust {
    watched: bool,
    failures: u32,
    failed: Option<Instant>,
    until: Option<Instant>,
}

impl Trust {
    /// Its watch lives, or is broken; a break is a failure.
    pub fn on_watch(&mut self, now: Instant, watched: bool) {
        if std::mem::replace(&mut self.watched, watched) && !watched {
            self.on_failure(now);
        }
    }

    /// It did not serve what the origin then did. Failures during a pause are
    /// those of fetches that began before it.
    pub fn on_failure(&mut self, now: Instant) {
        if self.until.is_some_and(|until| now < until) {
            return;
        }
        if self.failed.is_none_or(|failed| now.saturating_duration_since(failed) > FORGIVEN) {
            self.failures = 0;
        }
        let pause = PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.failed = Some(now);
        self.until = Some(now + pause);
    }

    /// Whether to fetch through it.
    pub fn is_well(&self, now: Instant) -> bool {
        self.watched && self.until.is_none_or(|until| now >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_is_used_from_its_first_watch_and_left_at_its_first_failure() {
        let now = Instant::now();
        let mut trust = Trust::default();
        assert!(!trust.is_well(now));
        trust.on_watch(now, true);
        assert!(trust.is_well(now));
        trust.on_watch(now, false);
        assert!(!trust.is_well(now + seconds(9)));
        trust.on_watch(now, true);
        assert!(!trust.is_well(now + PAUSE / 2), "it has failed just now");
        assert!(trust.is_well(now + PAUSE));
    }

    #[test]
    fn who_fails_again_and_again_is_left_alone_for_longer() {
        let mut now = Instant::now();
        let mut trust = Trust::default();
        trust.on_watch(now, true);
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            trust.on_failure(now);
            // Others who had asked before count once.
            trust.on_failure(now + Duration::from_millis(10));
            assert!(!trust.is_well(now + seconds(pause) - Duration::from_millis(1)), "{pause}");
            now += seconds(pause);
            assert!(trust.is_well(now), "{pause}");
        }
        now += FORGIVEN + seconds(1);
        trust.on_failure(now);
        assert!(trust.is_well(now + PAUSE), "long ago is forgotten");
    }
}
