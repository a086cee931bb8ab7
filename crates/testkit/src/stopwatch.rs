//! How long something took, without the time that this machine gave to nobody.
//!
//! Some promises hold a number of seconds, and the machines that tests run on
//! stand still for one now and then. A thread here sleeps and wakes, and whatever
//! it overslept is time that the tested program did not have either; it is
//! taken off. A program that is slow is slow still.

use std::sync::{LazyLock, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// How long the thread sleeps, and by how much it oversleeps on a good day.
const NAP: Duration = Duration::from_millis(5);

/// What the thread has overslept in all, and since when it sleeps.
static SLEEPER: LazyLock<Mutex<(Duration, Instant)>> =
    LazyLock::new(|| Mutex::new((Duration::ZERO, Instant::now())));

static STARTED: Once = Once::new();

fn overslept() -> Duration {
    let count = || {
        let sleeper = SLEEPER.lock().unwrap_or_else(PoisonError::into_inner);
        // A nap may not be over although its time is.
        let (past, asleep) = *sleeper;
        (past + asleep.elapsed().saturating_sub(2 * NAP), sleeper)
    };
    STARTED.call_once(|| {
        *count().1 = (Duration::ZERO, Instant::now());
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(NAP);
                let (overslept, mut sleeper) = count();
                *sleeper = (overslept, Instant::now());
            }
        });
    });
    count().0
}

/// Runs while the machine does.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    begun: Instant,
    overslept: Duration,
}

impl Stopwatch {
    /// From now on.
    pub fn start() -> Self {
        Self { overslept: overslept(), begun: Instant::now() }
    }

    /// How long the machine ran since.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed().saturating_sub(self.stood_still())
    }

    /// How long it did not.
    pub fn stood_still(&self) -> Duration {
        overslept().saturating_sub(self.overslept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_what_a_program_takes() {
        let watch = Stopwatch::start();
        std::thread::sleep(Duration::from_millis(300));
        let (took, still) = (watch.elapsed(), watch.stood_still());
        assert!(took + still >= Duration::from_millis(299), "{took:?} and {still:?}");
        // On any machine that gets on with it at all.
        assert!(took > Duration::ZERO, "{still:?}");
    }
}
