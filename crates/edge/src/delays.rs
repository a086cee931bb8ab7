//! How long media took until it was here (transfer), and from then until it
//! was answered to a viewer (polling).
//!
//! Both are told of what somebody was waiting for. A player that has just come
//! fetches chunks of which the last is new and the others are not: that they
//! were fetched late says nothing about the way. So transfer counts when the
//! broadcast was being watched here when the object became ready, and polling
//! when that viewer was here by then. Who has no token is nobody in particular,
//! and its polling is not known.
//!
//! No clocks are compared: the upstream says for how long the object has been
//! ready, and half of what its first answer took is the way here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use spyglass_daemon::delay::Meter;
use spyglass_media::delay::{Stage, Tier};

/// The longest age of an object that is believed, an upstream's window and more.
const OLDEST: Duration = Duration::from_secs(300);

/// Where one broadcast's delays are counted, and what is known of one object.
#[derive(Clone, Debug)]
pub struct Measured {
    meter: Arc<Meter>,
    /// When it was ready at its origin, by our clock.
    ready: Option<Instant>,
}

impl Measured {
    /// Nothing is known yet.
    pub fn new(meter: Arc<Meter>) -> Self {
        Self { meter, ready: None }
    }

    /// The upstream's first answer, asked for at `asked`, came `now`.
    pub fn on_header(&mut self, asked: Instant, now: Instant, ready_age_us: Option<u64>) {
        let age = ready_age_us.map(Duration::from_micros).filter(|age| *age <= OLDEST);
        let way = now.saturating_duration_since(asked) / 2;
        self.ready = age.and_then(|age| now.checked_sub(age + way));
    }

    /// For how long it has been ready, for an edge that fetches it from here.
    pub fn ready_age(&self, now: Instant) -> Option<Duration> {
        self.ready.map(|ready| now.saturating_duration_since(ready))
    }

    /// All of it is here `now`. The broadcast is being watched here since
    /// `attended`.
    pub fn on_held(&self, now: Instant, attended: Option<Instant>) {
        if let Some(ready) = self.ready
            && attended.is_some_and(|attended| attended <= ready)
        {
            let transfer = now.saturating_duration_since(ready);
            self.meter.add(Tier::Hls, Stage::Transfer, transfer);
        }
    }

    /// Answered `now` to a viewer who is here since `since`. What is not `held`
    /// yet is passed on as it comes: its viewer's wait is in the transfer.
    pub fn on_answered(&self, now: Instant, held: Option<Instant>, since: Instant) {
        if self.ready.is_some_and(|ready| since <= ready) {
            let polling = held.map_or(Duration::ZERO, |held| now.saturating_duration_since(held));
            self.meter.add(Tier::Hls, Stage::Polling, polling);
        }
    }
}

#[cfg(test)]
mod tests {
    use spyglass_daemon::delay::read;
    use spyglass_media::BroadcastId;

    use super::*;

    fn counts(meter: &Meter) -> Vec<(Stage, u64)> {
        let mut measured = Vec::new();
        meter.take(BroadcastId::from_random([1; 16]), &mut measured);
        let counts = measured.iter().filter_map(read);
        counts.map(|((_, _, stage), counted)| (stage, counted.count())).collect()
    }

    #[test]
    fn only_what_was_waited_for_counts() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let meter = Arc::new(Meter::default());
        let mut measured = Measured::new(Arc::clone(&meter));
        measured.on_held(at(900), Some(at(0)));
        measured.on_answered(at(900), None, at(0));
        assert_eq!(counts(&meter), [], "an upstream that does not tell");
        // Asked for at 1.0 s, it came at 1.1 s and had been ready for 250 ms.
        measured.on_header(at(1_000), at(1_100), Some(250_000));
        assert_eq!(measured.ready, Some(at(800)));
        measured.on_held(at(1_200), Some(at(801)));
        measured.on_answered(at(1_200), Some(at(1_200)), at(900));
        measured.on_held(at(1_200), None);
        assert_eq!(counts(&meter), [], "nobody was there when it was ready");
        measured.on_held(at(1_200), Some(at(800)));
        measured.on_answered(at(1_100), None, at(0));
        measured.on_answered(at(2_000), Some(at(1_200)), at(0));
        assert_eq!(counts(&meter), [(Stage::Transfer, 1), (Stage::Polling, 2)]);
        measured.on_header(at(1_000), at(1_100), Some(u64::MAX));
        assert_eq!(measured.ready, None, "somebody's broken clock");
    }
}
