//! Who watched a broadcast: from when, until when, on which tier and node.
//!
//! Looked at every second from the leases that are live then, so that a viewer
//! of a moment may be missed, and kept in the store every few seconds and at the
//! end. Controls of one store see the same leases; where their records differ
//! they are joined, so that it does not matter who writes. Bounded: beyond
//! [`NAMED`] viewers further ones are only counted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use spyglass_daemon::{Shutdown, now_utc};
use spyglass_media::{BroadcastId, NodeId, UserId, UtcTime, ViewerId};
use tracing::warn;

use crate::joined::{self, Who};
use crate::panel::Panel;
use crate::store::{self, Store};

/// Viewers of one broadcast that are remembered by name.
pub const NAMED: usize = 5_000;

/// How often the leases are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How often what has changed is written, in looks.
const WRITE: u32 = 10;

/// Attempts of one write against other controls.
const ATTEMPTS: usize = 4;

/// What the names of records in the store begin with.
const PREFIX: &str = "records/";

/// One viewer's time with a broadcast. Times are milliseconds since the Unix
/// epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// Who joined with a user's token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// When its newest token expires; a kick is remembered until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<i64>,
    /// It was pushed to, at the end.
    pub push: bool,
    /// The origin or edge that served it, at the end.
    pub node: NodeId,
    /// When it began.
    pub since_ms: i64,
    /// When it was last seen.
    pub until_ms: i64,
}

/// All that watched one broadcast.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// By name, the first [`NAMED`].
    pub viewers: BTreeMap<ViewerId, Watched>,
    /// The most at one time.
    pub peak: u64,
    /// Looks at which there were viewers beyond those named.
    #[serde(default)]
    pub more: bool,
}

/// A viewer who watches now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Its id.
    pub viewer: ViewerId,
    /// Who that is.
    pub who: Who,
    /// It is pushed to.
    pub push: bool,
    /// Who serves it.
    pub node: Arc<NodeId>,
    /// Since when.
    pub since: UtcTime,
}

impl Present {
    fn expires_ms(&self) -> Option<i64> {
        self.who.expires.map(UtcTime::millis)
    }
}

impl History {
    /// These watch at `now`, and `count` in all; whether anything is different.
    pub fn on_look(&mut self, present: &[Present], count: u64, now: UtcTime) -> bool {
        for viewer in present {
            if let Some(held) = self.viewers.get_mut(&viewer.viewer) {
                held.until_ms = now.millis();
                held.push = viewer.push;
                held.node.clone_from(&viewer.node);
                held.user = held.user.or(viewer.who.user);
                held.expires_ms = held.expires_ms.max(viewer.expires_ms());
                continue;
            }
            if self.viewers.len() >= NAMED {
                self.more = true;
                break;
            }
            let watched = Watched {
                user: viewer.who.user,
                expires_ms: viewer.expires_ms(),
                push: viewer.push,
                node: NodeId::clone(&viewer.node),
                since_ms: viewer.since.millis().min(now.millis()),
                until_ms: now.millis(),
            };
            self.viewers.insert(viewer.viewer, watched);
        }
        self.peak = self.peak.max(count);
        !present.is_empty()
    }

    /// Takes in what another control, or this one before, has written.
    pub fn join(&mut self, other: Self) {
        let mut room = NAMED.saturating_sub(self.viewers.len());
        for (viewer, theirs) in other.viewers {
            match self.viewers.get_mut(&viewer) {
                Some(ours) => {
                    let expires_ms = ours.expires_ms.max(theirs.expires_ms);
                    ours.since_ms = ours.since_ms.min(theirs.since_ms);
                    if theirs.until_ms > ours.until_ms {
                        let user = ours.user.or(theirs.user);
                        *ours = Watched { since_ms: ours.since_ms, user, ..theirs };
                    } else {
                        ours.user = ours.user.or(theirs.user);
                    }
                    ours.expires_ms = expires_ms;
                }
                None if room > 0 => {
                    room -= 1;
                    self.viewers.insert(viewer, theirs);
                }
                None => self.more = true,
            }
        }
        self.peak = self.peak.max(other.peak);
        self.more |= other.more;
    }
}

/// The records that are being written; those of others are in the store.
#[derive(Debug, Default)]
pub struct Histories(Mutex<HashMap<BroadcastId, Held>>);

#[derive(Debug, Default)]
struct Held {
    history: History,
    unwritten: bool,
}

impl Histories {
    /// What is known of a broadcast, here and in the store.
    pub async fn read(&self, store: &dyn Store, id: BroadcastId) -> Result<History, store::Error> {
        let mut history = self.0.lock().get(&id).map(|held| held.history.clone());
        match load(store, id).await {
            Ok(Some((written, _))) => history.get_or_insert_default().join(written),
            Ok(None) => {}
            Err(error) if history.is_none() => return Err(error),
            // The store is away: what is known here.
            Err(_) => {}
        }
        Ok(history.unwrap_or_default())
    }

    /// The broadcast is forgotten.
    pub async fn forget(&self, store: &dyn Store, id: BroadcastId) -> Result<(), store::Error> {
        self.0.lock().remove(&id);
        store.delete(&key(id), None).await
    }

    async fn write(&self, store: &dyn Store, id: BroadcastId) -> Result<(), store::Error> {
        for _ in 0..ATTEMPTS {
            let written = load(store, id).await?;
            let (value, revision) = {
                let mut all = self.0.lock();
                let Some(held) = all.get_mut(&id) else { return Ok(()) };
                let revision = written.map(|(history, revision)| {
                    held.history.join(history);
                    revision
                });
                held.unwritten = false;
                let value = serde_json::to_vec(&held.history)
                    .map_err(|_| store::Error::Unfit("a record that is no JSON"))?;
                (Bytes::from(value), revision)
            };
            let result = match revision {
                Some(revision) => store.update(&key(id), value, revision).await,
                None => store.create(&key(id), value).await,
            };
            match result {
                Ok(_) => return Ok(()),
                Err(store::Error::Conflict | store::Error::Exists) => {}
                Err(error) => {
                    self.not_written(id);
                    return Err(error);
                }
            }
        }
        // Others were faster each time: there is another turn.
        self.not_written(id);
        Ok(())
    }

    fn not_written(&self, id: BroadcastId) {
        if let Some(held) = self.0.lock().get_mut(&id) {
            held.unwritten = true;
        }
    }
}

fn key(id: BroadcastId) -> String {
    format!("{PREFIX}{id}")
}

async fn load(
    store: &dyn Store,
    id: BroadcastId,
) -> Result<Option<(History, store::Revision)>, store::Error> {
    let Some(entry) = store.get(&key(id)).await? else { return Ok(None) };
    // One that cannot be read is written anew.
    let history = serde_json::from_slice(&entry.value).unwrap_or_default();
    Ok(Some((history, entry.revision)))
}

/// Looks at who watches until `shutdown`.
pub async fn run(panel: Arc<Panel>, shutdown: Shutdown) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for count in 1u32.. {
        tokio::select! {
            _ = looks.tick() => {}
            () = shutdown.requested() => return write_all(&panel).await,
        }
        look(&panel).await;
        if count.is_multiple_of(WRITE) {
            write_all(&panel).await;
        }
    }
}

async fn look(panel: &Panel) {
    let now = now_utc();
    for record in
        panel.broadcasts.all(|record| record.started_at_ms.is_some() && !record.is_ended())
    {
        let (watching, count) = {
            let fleet = panel.fleet();
            let count = fleet.audience().counts(record.id).total();
            (fleet.audience().viewers(record.id, NAMED), count)
        };
        if watching.is_empty() {
            continue;
        }
        // Thousands of viewers each: others have their turn in between.
        tokio::task::yield_now().await;
        let present: Vec<Present> = watching
            .into_iter()
            .map(|watching| Present {
                viewer: watching.lease.viewer,
                who: joined::who(panel, (record.id, watching.lease.viewer)).unwrap_or_default(),
                push: watching.lease.push,
                node: watching.node,
                since: watching.lease.since,
            })
            .collect();
        let mut all = panel.histories.0.lock();
        let held = all.entry(record.id).or_default();
        held.unwritten |= held.history.on_look(&present, count, now);
    }
}

async fn write_all(panel: &Panel) {
    let (unwritten, over): (Vec<_>, Vec<_>) = {
        let all = panel.histories.0.lock();
        let ended = |id: BroadcastId| panel.broadcasts.get(id).is_none_or(|it| it.is_ended());
        let unwritten = all.iter().filter(|(_, held)| held.unwritten).map(|(id, _)| *id);
        let over = all.iter().filter(|(_, held)| !held.unwritten).map(|(id, _)| *id);
        (unwritten.collect(), over.filter(|id| ended(*id)).collect())
    };
    for id in unwritten {
        if let Err(error) = panel.histories.write(&*panel.engine, id).await {
            warn!(broadcast = %id, %error, "who watched is not written yet");
            return;
        }
    }
    let mut all = panel.histories.0.lock();
    for id in over {
        all.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> UtcTime {
        UtcTime::from_millis(1_800_000_000_000 + seconds * 1000)
    }

    fn present(number: u32, push: bool, node: &str, since: i64) -> Present {
        let mut seed = [7; 16];
        seed[..4].copy_from_slice(&number.to_le_bytes());
        let node = Arc::new(node.parse().unwrap());
        let viewer = ViewerId::from_random(seed);
        Present { viewer, who: Who::default(), push, node, since: at(since) }
    }

    #[test]
    fn a_viewer_has_a_beginning_an_end_and_a_last_place() {
        let mut history = History::default();
        assert!(!history.on_look(&[], 0, at(0)));
        let first = present(1, true, "origin-1", 1);
        assert!(history.on_look(&[first.clone(), present(2, false, "edge-1", 2)], 2, at(3)));
        assert!(history.on_look(&[present(1, false, "edge-2", 4)], 1, at(5)));
        let watched = &history.viewers[&first.viewer];
        assert_eq!((watched.since_ms, watched.until_ms), (at(1).millis(), at(5).millis()));
        assert_eq!((watched.push, watched.node.as_str()), (false, "edge-2"));
        assert_eq!((history.viewers.len(), history.peak), (2, 2));
    }

    #[test]
    fn two_controls_records_become_one_in_any_order() {
        let (mut one, mut two) = (History::default(), History::default());
        one.on_look(&[present(1, true, "origin-1", 1), present(2, false, "edge-1", 1)], 2, at(3));
        two.on_look(&[present(1, false, "edge-2", 0), present(3, false, "edge-1", 1)], 7, at(9));
        let (mut a, mut b) = (one.clone(), two.clone());
        a.join(two.clone());
        b.join(one);
        assert_eq!(a, b);
        assert_eq!((a.viewers.len(), a.peak), (3, 7));
        a.join(two);
        assert_eq!(a, b, "joining again changes nothing");
    }

    #[test]
    fn beyond_the_limit_viewers_are_only_counted() {
        let mut history = History::default();
        let many: Vec<_> =
            (0..=NAMED as u32).map(|number| present(number, false, "edge-1", 0)).collect();
        history.on_look(&many, many.len() as u64, at(1));
        assert_eq!((history.viewers.len(), history.more), (NAMED, true));
        assert_eq!(history.peak, NAMED as u64 + 1);
        let size = serde_json::to_vec(&history).unwrap().len();
        assert!(size < store::MAX_VALUE, "{size} bytes");
    }
}
