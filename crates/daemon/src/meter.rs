//! How busy this process is, for the heartbeats to control.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

/// Readings closer than this show the same: with several controls each asks
/// once a second, and between two that ask at once there is nothing to measure.
const WINDOW: Duration = Duration::from_millis(800);

/// What a process does, lately.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Busy {
    /// Bits per second sent.
    pub egress_bps: u64,
    /// CPU time per time: 1.0 is one core.
    pub cpu: f64,
}

/// Turns sums into rates.
#[derive(Debug)]
pub struct Meter {
    since: Instant,
    bytes: u64,
    cpu: Duration,
    busy: Busy,
}

impl Meter {
    /// From `now` on.
    pub fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, cpu: cpu_time(), busy: Busy::default() }
    }

    /// The rates of the last second or so, when `bytes` have been sent in all.
    pub fn read(&mut self, now: Instant, bytes: u64) -> Busy {
        self.on_sample(now, bytes, cpu_time)
    }

    fn on_sample(&mut self, now: Instant, bytes: u64, cpu: impl FnOnce() -> Duration) -> Busy {
        let passed = now.saturating_duration_since(self.since);
        if passed >= WINDOW {
            let (seconds, cpu) = (passed.as_secs_f64(), cpu());
            let sent = bytes.saturating_sub(self.bytes) as f64;
            self.busy = Busy {
                egress_bps: (sent * 8.0 / seconds) as u64,
                cpu: cpu.saturating_sub(self.cpu).as_secs_f64() / seconds,
            };
            (self.since, self.bytes, self.cpu) = (now, bytes, cpu);
        }
        self.busy
    }
}

/// CPU time that this process has used; nothing where the system does not say.
fn cpu_time() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_last_window() {
        let began = Instant::now();
        let mut meter = Meter::new(began);
        meter.cpu = Duration::from_secs(5);
        let at = |ms| began + Duration::from_millis(ms);
        let cpu = |ms| move || Duration::from_millis(ms);
        assert_eq!(meter.on_sample(at(10), 100, cpu(5_010)), Busy::default());
        let busy = Busy { egress_bps: 16_000, cpu: 0.5 };
        assert_eq!(meter.on_sample(at(1_000), 2_000, cpu(5_500)), busy);
        assert_eq!(meter.on_sample(at(1_001), 9_000, cpu(5_900)), busy, "another control asks");
        let busy = meter.on_sample(at(3_000), 2_000, cpu(5_500));
        assert_eq!(busy, Busy::default(), "nothing happened for two seconds");
    }

    #[test]
    fn work_costs_cpu_time() {
        let (before, began) = (cpu_time(), Instant::now());
        while cpu_time() == before {
            assert!(began.elapsed() < Duration::from_secs(10), "the system counts no CPU time");
            std::hint::black_box((0..1_000u64).sum::<u64>());
        }
    }
}
