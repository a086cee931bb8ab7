//! How much a client may say on one stream.
//!
//! A request is short and over. A control stream is open as long as its
//! connection, and a browser says on it how urgent each request is: what is
//! enough for one hour is not for a day. So what it may say comes back with
//! time, at a pace that no honest client needs and that costs nothing. Pure:
//! the time is told.

use std::time::{Duration, Instant};

/// Largest request, header frame and all, in bytes: the header as it may be
/// unpacked is limited by `h3`, this is for what never becomes one.
const REQUEST: u64 = 32 * 1024;

/// Most that a client may say at once on one of its own streams (settings,
/// priorities), in bytes.
const SAID: u64 = 1024 * 1024;

/// Bytes of it that come back in a second: some hundred priorities.
const SAID_PER_SECOND: u64 = 4 * 1024;

/// See the module.
#[derive(Debug)]
pub struct Allowance {
    left: u64,
    most: u64,
    per_second: u64,
    /// Up to when what comes back has been added.
    since: Instant,
}

impl Allowance {
    /// For one request.
    pub fn request(now: Instant) -> Self {
        Self { left: REQUEST, most: REQUEST, per_second: 0, since: now }
    }

    /// For a control stream or one of QPACK.
    pub fn lasting(now: Instant) -> Self {
        Self { left: SAID, most: SAID, per_second: SAID_PER_SECOND, since: now }
    }

    /// Whether the client may have said these bytes; if so they are counted.
    pub fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        // What is left of a second counts for the next one.
        self.since += Duration::from_secs(seconds);
        let back = seconds.saturating_mul(self.per_second);
        self.left = self.left.saturating_add(back).min(self.most);
        match self.left.checked_sub(bytes as u64) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_of_priorities_is_allowed_and_a_flood_is_not() {
        let begun = Instant::now();
        let mut allowance = Allowance::lasting(begun);
        let mut now = begun;
        while now < begun + Duration::from_secs(24 * 3_600) {
            assert!(allowance.take(20, now), "{:?}", now - begun);
            now += Duration::from_millis(100);
        }
        // No more at once than at the beginning.
        assert!(allowance.take(SAID as usize, now));
        assert!(!allowance.take(1, now));
        // Twice as fast as it comes back: 1 MiB is for some minutes.
        let flooded = now;
        while allowance.take(2 * SAID_PER_SECOND as usize, now) || now == flooded {
            now += Duration::from_secs(1);
        }
        assert!(now - flooded < Duration::from_secs(300));
    }

    #[test]
    fn a_request_is_no_longer_for_taking_its_time() {
        let now = Instant::now();
        let mut allowance = Allowance::request(now);
        assert!(allowance.take(REQUEST as usize, now));
        assert!(!allowance.take(1, now + Duration::from_secs(3_600)));
    }
}
