//! The 32-bit millisecond clock of messages, as media time.
//!
//! RTMP's clock wraps every 49.7 days, encoders restart it, and messages of
//! two tracks arrive slightly out of order. One [`Timeline`] serves both tracks
//! of a publisher, so that they stay in step.

use std::time::Duration;

use spyglass_media::MediaTime;

/// A step ahead of the newest message beyond this is a jump.
pub const FORWARD: Duration = Duration::from_secs(10);
/// A step behind the newest message beyond this is a jump.
pub const BACKWARD: Duration = Duration::from_secs(1);
/// What a jump is shown as: one frame at 25 frames a second.
pub const STEP: Duration = Duration::from_millis(40);

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Its place in the broadcast.
    pub time: MediaTime,
    /// The publisher's clock jumped before it: [`STEP`] took the gap's place.
    pub jumped: bool,
}

/// One publisher's clock.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// No message is placed before this.
    floor: MediaTime,
    /// The newest message: its time stamp and its place.
    newest: Option<(u32, MediaTime)>,
}

impl Timeline {
    /// The first message will stand at `start`.
    pub const fn new(start: MediaTime) -> Self {
        Self { floor: start, newest: None }
    }

    /// A new publisher: its first message will stand at `at`, whatever its
    /// time stamp.
    pub const fn restart(&mut self, at: MediaTime) {
        *self = Self::new(at);
    }

    /// Places a message by its time stamp in milliseconds.
    pub fn map(&mut self, timestamp: u32) -> Mapped {
        let Some((newest, at)) = self.newest else {
            self.newest = Some((timestamp, self.floor));
            return Mapped { time: self.floor, jumped: false };
        };
        // Half the clock lies ahead, half behind: this is where it wraps.
        let step = i64::from(timestamp.wrapping_sub(newest) as i32);
        let allowed = -(BACKWARD.as_millis() as i64)..=FORWARD.as_millis() as i64;
        if !allowed.contains(&step) {
            self.restart(at + STEP);
            return Mapped { jumped: true, ..self.map(timestamp) };
        }
        let ticks = at.ticks().saturating_add(MediaTime::from_millis(step).ticks());
        let time = MediaTime::from_ticks(ticks).max(self.floor);
        if step > 0 {
            self.newest = Some((timestamp, time));
        }
        Mapped { time, jumped: false }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(mapped: Mapped) -> (i64, bool) {
        (mapped.time.millis(), mapped.jumped)
    }

    #[test]
    fn the_first_message_stands_at_the_start() {
        let mut timeline = Timeline::new(MediaTime::from_millis(500));
        assert_eq!(millis(timeline.map(123_456)), (500, false));
        assert_eq!(millis(timeline.map(123_496)), (540, false));
    }

    #[test]
    fn the_clock_wraps() {
        let mut timeline = Timeline::new(MediaTime::ZERO);
        timeline.map(u32::MAX - 10);
        assert_eq!(millis(timeline.map(29)), (40, false));
        assert_eq!(millis(timeline.map(u32::MAX)), (10, false));
    }

    #[test]
    fn small_reordering_is_kept() {
        let mut timeline = Timeline::new(MediaTime::ZERO);
        timeline.map(0);
        for (timestamp, at) in [(3000, 3000), (2000, 2000), (2500, 2500), (3040, 3040)] {
            assert_eq!(millis(timeline.map(timestamp)), (at, false));
        }
    }

    #[test]
    fn steps_back_do_not_add_up() {
        let mut timeline = Timeline::new(MediaTime::ZERO);
        timeline.map(0);
        timeline.map(5000);
        assert_eq!(millis(timeline.map(4100)), (4100, false));
        assert_eq!(millis(timeline.map(3200)), (5040, true));
    }

    #[test]
    fn nothing_stands_before_the_start() {
        let mut timeline = Timeline::new(MediaTime::from_millis(70));
        timeline.map(900);
        assert_eq!(millis(timeline.map(0)), (70, false));
    }

    #[test]
    fn jumps_at_the_bound_and_beyond() {
        for (step, expected) in [
            (10_000i64, (20_000, false)),
            (10_001, (10_040, true)),
            (-1000, (9000, false)),
            (-1001, (10_040, true)),
            (i64::from(u32::MAX / 2), (10_040, true)),
        ] {
            let mut timeline = Timeline::new(MediaTime::ZERO);
            timeline.map(50_000);
            timeline.map(60_000);
            assert_eq!(millis(timeline.map((60_000 + step) as u32)), expected, "{step}");
        }
    }

    #[test]
    fn a_restart_forgets_the_old_clock() {
        let mut timeline = Timeline::new(MediaTime::ZERO);
        timeline.map(0);
        timeline.restart(MediaTime::from_millis(1000));
        assert_eq!(millis(timeline.map(4_000_000_000)), (1000, false));
    }

    proptest! {
        #[test]
        fn any_clock_stays_near_what_came_before(
            start in 0i64..1 << 40,
            stamps in proptest::collection::vec(any::<u32>(), 1..50),
        ) {
            let mut timeline = Timeline::new(MediaTime::from_millis(start));
            let mut newest = MediaTime::from_millis(start);
            for stamp in stamps {
                let time = timeline.map(stamp).time;
                prop_assert!(time >= MediaTime::from_millis(start));
                prop_assert!(time <= newest + FORWARD);
                prop_assert!(time + BACKWARD >= newest);
                newest = newest.max(time);
            }
        }
    }
}
