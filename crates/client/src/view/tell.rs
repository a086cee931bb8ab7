//! Tells control how long media took on their last way, in a task of its own:
//! nothing that plays waits for it.

use std::time::Duration;

use spyglass_media::{BroadcastId, ViewerId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::tally::Tally;
use crate::api::{Api, DelaySample, Tier};
use crate::utc_now;

/// How often. Control takes one report in 2 s.
const EVERY: Duration = Duration::from_secs(5);

/// What was measured since the last report, by our clock.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) tier: Tier,
    pub(super) samples: Vec<DelaySample>,
}

/// See the module.
pub(super) struct Teller {
    reports: mpsc::Sender<Measured>,
    due: Instant,
    task: JoinHandle<()>,
}

impl Teller {
    /// Speaks in the viewer's name.
    pub(super) fn start(api: Api, id: BroadcastId, viewer: ViewerId) -> Self {
        let (reports, measured) = mpsc::channel(1);
        let task = tokio::spawn(run(api, id, viewer, measured));
        // Soon once, to learn how the clocks differ.
        Self { reports, due: Instant::now(), task }
    }

    /// Sends what there is when it is time. While control is slow, nothing.
    pub(super) fn tell(&mut self, tally: &mut Tally) {
        let now = Instant::now();
        if now < self.due {
            return;
        }
        self.due = now + EVERY;
        if let Ok(place) = self.reports.try_reserve() {
            place.send(tally.take_measured());
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(api: Api, id: BroadcastId, viewer: ViewerId, mut measured: mpsc::Receiver<Measured>) {
    // Control's clock less ours, in milliseconds, once known.
    let mut offset = None;
    while let Some(Measured { tier, mut samples }) = measured.recv().await {
        samples.iter_mut().for_each(|sample| sample.by(offset));
        let (sent, asked) = (utc_now(), Instant::now());
        match api.tell_delay(id, viewer, tier, &samples).await {
            Ok(theirs) => {
                let took = i64::try_from(asked.elapsed().as_millis()).unwrap_or(i64::MAX);
                offset = Some(difference(sent.millis(), took, theirs));
            }
            // A control of an earlier release does not take reports.
            Err(error) => tracing::debug!(%error, "delays were not reported"),
        }
    }
}

/// How much their clock is ahead of ours, when they said `theirs` in answer to
/// what was `sent` and `took` so long. The answer was made some time in
/// between: within that, the clocks are taken to agree.
fn difference(sent: i64, took: i64, theirs: i64) -> i64 {
    let middle = sent.saturating_add(took / 2);
    let difference = theirs.saturating_sub(middle);
    if difference.saturating_abs() <= took { 0 } else { difference }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_differ_by_what_the_way_does_not_explain() {
        assert_eq!(difference(1_000, 40, 1_020), 0);
        assert_eq!(difference(1_000, 40, 1_059), 0);
        assert_eq!(difference(1_000, 40, 6_020), 5_000);
        assert_eq!(difference(6_000, 40, 1_020), -5_000);
    }
}
