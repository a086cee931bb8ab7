//! How long each stage of each broadcast takes, lately.
//!
//! Origins and edges count what they see and report it over their streams to
//! every control. Viewers know the rest; what they say to one control is
//! gathered for a second and published to all. Either is lost when it is lost:
//! the next comes soon. The arithmetic is [`spyglass_media::delay`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use spyglass_api::control;
use spyglass_daemon::Shutdown;
use spyglass_daemon::delay::{self, Histograms};
use spyglass_media::delay::{Histogram, SLOT_SECONDS, Stage, Tier, Window};
use spyglass_media::{BroadcastId, ViewerId};
use tracing::debug;

use crate::panel::Panel;
use crate::store::Received;

/// The bus's subject.
const SUBJECT: &str = "delays";

/// How long viewers' reports are gathered.
const GATHER: Duration = Duration::from_secs(1);

/// A viewer reports no more often than this.
pub const EVERY: Duration = Duration::from_secs(2);

/// Viewers who may report within [`EVERY`].
const MAX_REPORTING: usize = 100_000;

/// Stages that wait to be published; what does not fit is not counted.
const MAX_WAITING: usize = 10_000;

/// Stages in one message of the bus: less than 64 KiB, each of at most 1 KiB.
const MAX_MESSAGE: usize = 60;

/// One broadcast's stages.
type Lately = BTreeMap<(Tier, Stage), Window>;

/// Where a delay was measured.
pub type Key = (BroadcastId, Tier, Stage);

/// What one message of the bus has of one stage.
#[derive(Debug, Serialize, Deserialize)]
struct Said {
    broadcast: BroadcastId,
    tier: Tier,
    stage: Stage,
    counts: Vec<(usize, u32)>,
}

/// Why a report is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// This viewer reported less than [`EVERY`] ago.
    TooOften,
    /// Too many viewers report at once.
    TooMany,
}

/// See the module. Every lock is held for a few lines and never across an await.
pub struct Delays {
    began: Instant,
    lately: Mutex<HashMap<BroadcastId, Lately>>,
    said: Mutex<HashMap<Key, Histogram>>,
    reporting: Mutex<HashMap<ViewerId, Instant>>,
    /// What viewers told this control, since it started.
    shown: Histograms,
}

impl Delays {
    /// Empty; viewers' reports are shown by `shown`.
    pub fn new(shown: Histograms, now: Instant) -> Self {
        Self {
            began: now,
            lately: Mutex::default(),
            said: Mutex::default(),
            reporting: Mutex::default(),
            shown,
        }
    }

    fn slot(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() / SLOT_SECONDS + 1
    }

    fn add(&self, (broadcast, tier, stage): Key, counted: &Histogram, now: Instant) {
        if !stage.is_of(tier) {
            return;
        }
        let slot = self.slot(now);
        let mut lately = self.lately.lock();
        lately.entry(broadcast).or_default().entry((tier, stage)).or_default().merge(slot, counted);
    }

    /// What a node measured. Entries about broadcasts that `is_known` does not
    /// know, and those of later releases, are ignored.
    pub fn on_report(
        &self,
        report: &control::DelayReport,
        is_known: impl Fn(BroadcastId) -> bool,
        now: Instant,
    ) {
        for entry in report.delays.iter().take(delay::MAX_ENTRIES) {
            if let Some((key, counted)) = delay::read(entry)
                && is_known(key.0)
            {
                self.add(key, &counted, now);
            }
        }
    }

    /// A viewer may report now.
    pub fn admit(&self, viewer: ViewerId, now: Instant) -> Result<(), Refused> {
        let mut reporting = self.reporting.lock();
        match reporting.get(&viewer) {
            Some(last) if now < *last + EVERY => return Err(Refused::TooOften),
            None if reporting.len() >= MAX_REPORTING => return Err(Refused::TooMany),
            _ => {}
        }
        reporting.insert(viewer, now);
        Ok(())
    }

    /// A viewer measured this.
    pub fn on_viewer(&self, key: Key, delay: Duration) {
        self.shown.add(key.1, key.2, delay);
        let mut said = self.said.lock();
        if said.len() < MAX_WAITING || said.contains_key(&key) {
            said.entry(key).or_default().add(delay);
        }
    }

    /// What was measured of one stage lately; nothing when nobody did.
    pub fn lately(&self, (broadcast, tier, stage): Key, now: Instant) -> Option<Histogram> {
        let slot = self.slot(now);
        let lately = self.lately.lock();
        let sum = lately.get(&broadcast)?.get(&(tier, stage))?.sum(slot);
        (sum.count() > 0).then_some(sum)
    }

    /// Frees what is too old to be shown.
    fn forget(&self, now: Instant) {
        self.reporting.lock().retain(|_, last| now < *last + EVERY);
        let slot = self.slot(now);
        self.lately.lock().retain(|_, stages| {
            stages.retain(|_, window| !window.forget(slot));
            !stages.is_empty()
        });
    }

    fn take(&self) -> Vec<Said> {
        let said = std::mem::take(&mut *self.said.lock());
        said.into_iter()
            .map(|((broadcast, tier, stage), counted)| Said {
                broadcast,
                tier,
                stage,
                counts: counted.filled().collect(),
            })
            .collect()
    }

    fn on_said(&self, payload: &[u8], is_known: impl Fn(BroadcastId) -> bool, now: Instant) {
        let Ok(said) = serde_json::from_slice::<Vec<Said>>(payload) else {
            return debug!("delays of another release");
        };
        for Said { broadcast, tier, stage, counts } in said {
            let mut counted = Histogram::default();
            counts.into_iter().for_each(|(bucket, count)| counted.add_to(bucket, count));
            if is_known(broadcast) {
                self.add((broadcast, tier, stage), &counted, now);
            }
        }
    }
}

/// Publishes what viewers said and takes what all controls publish, until
/// `shutdown`.
pub async fn run(panel: Arc<Panel>, shutdown: Shutdown) {
    let mut published = panel.engine.subscribe(SUBJECT);
    let mut ticks = tokio::time::interval(GATHER);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                panel.delays.forget(Instant::now());
                publish(&panel).await;
            }
            received = published.next() => match received {
                Some(Received::Payload(payload)) => {
                    let is_known = |id| panel.broadcasts.get(id).is_some();
                    panel.delays.on_said(&payload, is_known, Instant::now());
                }
                Some(Received::Missed) => debug!("viewers' delays were missed"),
                None => return,
            },
            () = shutdown.requested() => return,
        }
    }
}

async fn publish(panel: &Panel) {
    for said in panel.delays.take().chunks(MAX_MESSAGE) {
        let Ok(payload) = serde_json::to_vec(said).map(Bytes::from) else { continue };
        if let Err(error) = panel.engine.publish(SUBJECT, payload).await {
            debug!(%error, "viewers' delays did not reach the other controls");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> BroadcastId {
        BroadcastId::from_random([n; 16])
    }

    fn counted(ms: &[u64]) -> Histogram {
        let mut counted = Histogram::default();
        ms.iter().for_each(|&ms| counted.add(Duration::from_millis(ms)));
        counted
    }

    fn report(broadcast: BroadcastId, stage: Stage, ms: &[u64]) -> control::DelayReport {
        let entry = delay::entry((broadcast, Tier::Hls, stage), &counted(ms));
        control::DelayReport { delays: vec![entry] }
    }

    #[test]
    fn reports_of_several_nodes_are_one() {
        let start = Instant::now();
        let delays = Delays::new(Histograms::default(), start);
        let known = |broadcast| broadcast == id(1);
        delays.on_report(&report(id(1), Stage::Transfer, &[10, 20]), known, start);
        delays.on_report(&report(id(1), Stage::Transfer, &[300]), known, start);
        delays.on_report(&report(id(2), Stage::Transfer, &[300]), known, start);
        delays.on_report(&report(id(1), Stage::Polling, &[900]), known, start);
        let lately = |n, stage, now| delays.lately((id(n), Tier::Hls, stage), now);
        assert_eq!(lately(1, Stage::Transfer, start), Some(counted(&[10, 20, 300])));
        assert_eq!(lately(1, Stage::Polling, start), Some(counted(&[900])));
        assert_eq!(lately(1, Stage::Chunking, start), None, "nobody measured it");
        assert_eq!(lately(2, Stage::Transfer, start), None, "no such broadcast");
        let later = start + Duration::from_secs(70);
        assert_eq!(lately(1, Stage::Transfer, later), None);
        delays.forget(later);
        assert!(delays.lately.lock().is_empty());
    }

    #[test]
    fn nonsense_is_ignored() {
        let now = Instant::now();
        let delays = Delays::new(Histograms::default(), now);
        let mut report = report(id(1), Stage::Upload, &[5]);
        report.delays[0].buckets = vec![u32::MAX, 3];
        report.delays[0].counts = vec![2];
        report.delays.push(control::Delay { stage: 99, ..report.delays[0].clone() });
        report.delays.push(control::Delay { broadcast: "?".into(), ..report.delays[0].clone() });
        let push = control::Delay {
            tier: control::Tier::Push.into(),
            stage: control::Stage::Polling.into(),
            ..report.delays[0].clone()
        };
        report.delays.push(push);
        delays.on_report(&report, |_| true, now);
        let upload = delays.lately((id(1), Tier::Hls, Stage::Upload), now);
        assert_eq!(upload.map(|it| it.count()), Some(2));
        assert_eq!(delays.lately((id(1), Tier::Push, Stage::Polling), now), None);
    }

    #[test]
    fn what_viewers_say_reaches_every_control() {
        let now = Instant::now();
        let (one, other) =
            (Delays::new(Histograms::default(), now), Delays::new(Histograms::default(), now));
        one.on_viewer((id(1), Tier::Push, Stage::Buffering), Duration::from_millis(400));
        let payload = serde_json::to_vec(&one.take()).unwrap();
        assert!(one.take().is_empty());
        for delays in [&one, &other] {
            delays.on_said(&payload, |_| true, now);
            let buffering = delays.lately((id(1), Tier::Push, Stage::Buffering), now);
            assert_eq!(buffering, Some(counted(&[400])));
        }
        other.on_said(b"{}", |_| true, now);
    }

    #[test]
    fn a_viewer_reports_now_and_then() {
        let now = Instant::now();
        let delays = Delays::new(Histograms::default(), now);
        let viewer = ViewerId::from_random([1; 16]);
        assert_eq!(delays.admit(viewer, now), Ok(()));
        assert_eq!(delays.admit(viewer, now + EVERY / 2), Err(Refused::TooOften));
        assert_eq!(delays.admit(viewer, now + EVERY), Ok(()));
        for n in 1..MAX_REPORTING as u64 {
            let mut random = [7; 16];
            random[..8].copy_from_slice(&n.to_le_bytes());
            assert_eq!(delays.admit(ViewerId::from_random(random), now + EVERY), Ok(()));
        }
        let one_more = ViewerId::from_random([9; 16]);
        assert_eq!(delays.admit(one_more, now + EVERY), Err(Refused::TooMany));
        delays.forget(now + EVERY * 2);
        assert_eq!(delays.admit(one_more, now + EVERY * 2), Ok(()));
    }
}
