//! What happened to broadcasts and viewers, for those who want to be told.
//!
//! ```text
//! store ── every write ──> write ──> log ──> tail ──> Feed ──> /v1/events, notifications,
//!                                                              webhooks
//! joins, leaves, kicks ──> Gather ──> bus ──> Viewers ──────> /v1/events, webhooks
//! ```
//!
//! Broadcasts' events are few and must not be lost: they are appended to the
//! bus's log under ids that every control makes the same, so that each may
//! append them all. Viewers' events are many and of the moment: they are
//! gathered for a tenth of a second, published, and lost when nobody listens.
//!
//! This file is pure but for its two tasks; [`feed`] is what is held of the log
//! in memory, [`viewers`] the events of viewers, [`streams`] who listens.

pub mod feed;
pub mod streams;
pub mod viewers;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spyglass_daemon::{Shutdown, now_utc};
use spyglass_media::{BroadcastId, UserId, UtcTime};
use tracing::warn;

use crate::panel::Panel;
use crate::record::{Phase, Record};
use crate::store::{self, Log, Watch, Watched};

/// Events older than this that the log does not have are not told any more
/// when control starts; those around the newest are.
const RECENT: Duration = Duration::from_secs(600);

/// How far nodes' clocks may be apart.
const SKEW: Duration = Duration::from_secs(60);

/// Between attempts to append.
const RETRY: Duration = Duration::from_secs(1);

/// What happened to a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It was made.
    Created,
    /// Its first frame came.
    Live,
    /// Its publisher is away.
    Interrupted,
    /// Its publisher is back.
    Resumed,
    /// It is over.
    Ended,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Created, Self::Live, Self::Interrupted, Self::Resumed, Self::Ended];

    /// The name of the event's type.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "broadcast.created",
            Self::Live => "broadcast.live",
            Self::Interrupted => "broadcast.interrupted",
            Self::Resumed => "broadcast.resumed",
            Self::Ended => "broadcast.ended",
        }
    }
}

/// Something that happened to a broadcast, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The same on every control; what makes appending twice harmless.
    pub key: String,
    /// What happened.
    pub kind: Kind,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// To which broadcast.
    pub broadcast: BroadcastId,
    /// Whose that is; `None`: the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// That user's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The broadcast's.
    pub title: String,
    /// Only those named may know of it.
    pub private: bool,
}

impl Event {
    /// When.
    pub const fn at(&self) -> UtcTime {
        UtcTime::from_millis(self.at_ms)
    }

    /// What operators are told.
    pub fn data(&self) -> Value {
        json!({
            "broadcast": self.broadcast,
            "user": self.user,
            "name": self.name,
            "title": self.title,
            "private": self.private,
            "at": self.at().rfc3339(),
        })
    }
}

/// As much of a broadcast's past as tells what is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    phase: Phase,
    started: bool,
    /// Since when its publisher is away, or it is over.
    away_ms: i64,
}

impl Known {
    fn of(record: &Record) -> Self {
        Self {
            phase: record.phase,
            started: record.started_at_ms.is_some(),
            away_ms: record.interrupted_at_ms.or(record.ended_at_ms).unwrap_or(0),
        }
    }
}

/// What happened to a broadcast since it was `before`; in its whole life when
/// that is `None`, as far as its record tells.
fn since(before: Option<Known>, record: &Record, now: UtcTime) -> Vec<Event> {
    let id = record.id;
    let mut events = Vec::new();
    let mut add = |kind: Kind, key: String, at_ms: i64| {
        events.push(Event {
            key,
            kind,
            at_ms,
            broadcast: id,
            user: record.memo.user,
            name: None,
            title: record.memo.title.clone(),
            private: record.is_private(),
        });
    };
    if before.is_none() {
        add(Kind::Created, format!("created/{id}"), record.memo.created_at_ms);
    }
    if let Some(before) = before.filter(|before| before.started) {
        if before.phase != Phase::Live && record.phase == Phase::Live {
            add(Kind::Resumed, format!("resumed/{id}/{}", before.away_ms), now.millis());
        }
    } else if let Some(at) = record.started_at_ms {
        add(Kind::Live, format!("live/{id}"), at);
    }
    if before.is_none_or(|before| before.phase != record.phase) {
        match record.phase {
            Phase::Interrupted => {
                let at = record.interrupted_at_ms.unwrap_or(now.millis());
                add(Kind::Interrupted, format!("interrupted/{id}/{at}"), at);
            }
            Phase::Ended => {
                let at = record.ended_at_ms.unwrap_or(now.millis());
                add(Kind::Ended, format!("ended/{id}/{at}"), at);
            }
            Phase::Created | Phase::Live => {}
        }
    }
    events
}

/// Appends what happens to broadcasts to the log, by following every write of
/// theirs, until `shutdown`.
pub async fn write(panel: Arc<Panel>, mut changes: Watch, shutdown: Shutdown) {
    let writing = async {
        let mut known = catch_up(&panel).await;
        loop {
            match changes.next().await {
                Some(Watched::Change(change)) => {
                    let id = change.key.strip_prefix("broadcasts/");
                    let Some(id) = id.and_then(|id| id.parse::<BroadcastId>().ok()) else {
                        continue;
                    };
                    let Some(value) = &change.value else {
                        known.remove(&id);
                        continue;
                    };
                    let Ok(record) = serde_json::from_slice::<Record>(value) else { continue };
                    let before = known.insert(id, Known::of(&record));
                    for event in since(before, &record, now_utc()) {
                        append(&panel, event).await;
                    }
                }
                Some(Watched::Missed) => known = catch_up(&panel).await,
                None => return,
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = shutdown.requested() => {}
    }
}

/// Appends what the log lacks of the recent past: a process may have died
/// between a record and its event, or have been too slow to follow.
async fn catch_up(panel: &Panel) -> HashMap<BroadcastId, Known> {
    let now = now_utc();
    let (newest, told) = panel.feed.told();
    let from = newest.map_or(now.millis() - millis(RECENT), |newest| newest - millis(SKEW));
    let records = panel.broadcasts.all(|_| true);
    let mut lacking: Vec<Event> = records
        .iter()
        .flat_map(|record| since(None, record, now))
        .filter(|event| event.at_ms >= from && !told.contains(&event.key))
        .collect();
    lacking.sort_by_key(|event| event.at_ms);
    for event in lacking {
        append(panel, event).await;
    }
    records.iter().map(|record| (record.id, Known::of(record))).collect()
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Appends until it has been done: what comes after waits in the watch, and is
/// found in the records when that runs over.
async fn append(panel: &Panel, mut event: Event) {
    if let Some(user) = event.user {
        let found = panel.users.get(user).await;
        event.name = found.ok().flatten().map(|user| user.name);
    }
    let Ok(payload) = serde_json::to_vec(&event).map(Bytes::from) else { return };
    loop {
        match panel.engine.append(Log::Events, &event.key, payload.clone()).await {
            Ok(_) => return,
            Err(error @ store::Error::Unavailable(_)) => {
                warn!(%error, key = event.key, "an event waits for the log");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => {
                warn!(%error, key = event.key, "an event cannot be logged");
                return;
            }
        }
    }
}

/// Names of all types, of broadcasts' events and of viewers'.
pub fn types() -> impl Iterator<Item = &'static str> {
    let broadcasts = Kind::ALL.into_iter().map(Kind::as_str);
    broadcasts.chain(viewers::Kind::ALL.into_iter().map(viewers::Kind::as_str))
}

/// Which types somebody wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Types(Option<HashSet<String>>);

impl Types {
    /// These; `None` when one of them is not known.
    pub fn of<'a>(names: impl Iterator<Item = &'a str>) -> Option<Self> {
        let names: Option<HashSet<String>> =
            names.map(|name| types().any(|known| known == name).then(|| name.to_owned())).collect();
        names.filter(|names| !names.is_empty()).map(|names| Self(Some(names)))
    }

    /// Whether this type is wanted; nobody named means all.
    pub fn contains(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|names| names.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{EndedBy, Memo, Report};

    fn at(second: i64) -> UtcTime {
        UtcTime::from_millis(1_800_000_000_000 + second * 1000)
    }

    #[test]
    fn a_life_is_told_once() {
        let memo = Memo { created_at_ms: at(0).millis(), ..Memo::default() };
        let id = BroadcastId::from_random([1; 16]);
        let mut record = Record::new(id, "o".parse().unwrap(), String::new(), memo);
        let mut known = None;
        let mut told = Vec::new();
        let mut tell = |record: &Record| {
            let events = since(known, record, at(100));
            known = Some(Known::of(record));
            told.extend(events.iter().map(|event| event.key.clone()));
            events.iter().map(|event| event.kind).collect::<Vec<_>>()
        };
        let report = |phase, second, epoch| Report { phase, at: at(second), epoch };
        assert_eq!(tell(&record), [Kind::Created]);
        assert_eq!(tell(&record), []);
        record.on_report(report(Phase::Live, 1, 1), at(1));
        assert_eq!(tell(&record), [Kind::Live]);
        record.on_report(report(Phase::Live, 1, 2), at(2));
        assert_eq!(tell(&record), [], "another codec configuration");
        for (second, epoch) in [(3, 2), (5, 3)] {
            record.on_report(report(Phase::Interrupted, second, epoch), at(second));
            assert_eq!(tell(&record), [Kind::Interrupted]);
            record.on_report(report(Phase::Live, second + 1, epoch + 1), at(second + 1));
            assert_eq!(tell(&record), [Kind::Resumed]);
        }
        record.on_end(EndedBy::Control, at(10));
        assert_eq!(tell(&record), [Kind::Ended]);
        record.on_report(report(Phase::Live, 11, 4), at(11));
        assert_eq!(tell(&record), [Kind::Resumed]);
        record.on_end(EndedBy::Request, at(12));
        assert_eq!(tell(&record), [Kind::Ended]);
        let different: HashSet<&String> = told.iter().collect();
        assert_eq!(different.len(), told.len(), "{told:?}");
        // What the record alone tells has the same ids.
        let whole = since(None, &record, at(100));
        assert!(whole.iter().all(|event| told.contains(&event.key)), "{whole:?}");
        assert_eq!(whole.len(), 3);
    }

    #[test]
    fn types_are_known_or_refused() {
        let types = Types::of(["broadcast.live", "viewer.left"].into_iter()).unwrap();
        assert!(types.contains("viewer.left") && !types.contains("broadcast.ended"));
        assert!(Types::default().contains("broadcast.ended"));
        assert_eq!(Types::of(["broadcast.liv"].into_iter()), None);
        assert_eq!(Types::of([].into_iter()), None);
    }
}
