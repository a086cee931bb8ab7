//! What other edges get of the broadcasts here: what `gateway.rs` says over
//! gRPC is found and kept here.
//!
//! An edge that fetches through this one is to its slots what a viewer is:
//! it polls the list, asks for objects, and keeps the interest alive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use spyglass_media::{BroadcastId, Position, Resource, Version};
use tokio::sync::broadcast;

use super::{Broadcast, Broadcasts, Found, Listed, Notice, Refused, now};
use crate::directory::Entry;
use crate::outcome::CacheStatus;
use crate::refusal::Refusal;

/// Changes that a watch may be behind before it is told everything anew.
pub(super) const BEHIND: usize = 4_096;

/// How long an edge's word that it wants a broadcast counts. It is renewed once
/// a second while its watch lives, and with each fetch.
const WANTED: Duration = Duration::from_secs(5);

/// Something that edges which watch this one may want to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Where this broadcast stands.
    Directory(BroadcastId),
    /// Its newest version.
    Expire(BroadcastId),
}

/// What downstream edges want of one broadcast.
#[derive(Debug, Default)]
pub(super) struct Relayed {
    until: Option<Instant>,
    /// The most that any of them holds. An origin that lost its state learns
    /// from it.
    pub held: Option<(Version, Option<Position>)>,
}

impl Relayed {
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

impl Broadcasts {
    pub(super) fn tell(&self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            // Nobody watches: nobody need know.
            let _ = self.changes.send(change);
        }
    }

    /// What changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Every broadcast that is known.
    pub fn directory(&self) -> Vec<(BroadcastId, Entry)> {
        self.directory.read().iter().map(|(id, known)| (id, known.entry)).collect()
    }

    /// The newest version of a broadcast that this edge has heard of.
    pub fn newest(&self, id: BroadcastId) -> Option<Notice> {
        let (version, position, incarnation) = self.get(id)?.slot.lock().newest()?;
        Some(Notice { version, position, incarnation })
    }

    /// Whether this edge hears of a broadcast from its origin itself.
    pub fn vouches(&self, id: BroadcastId) -> bool {
        let route = self.get(id).and_then(|broadcast| broadcast.route());
        route.is_some_and(|route| route.gateway().is_none() && route.source().is_watched())
    }

    /// Another edge has viewers of this broadcast, and holds this much of it.
    pub fn on_wanted(
        &self,
        id: BroadcastId,
        held: Option<(Version, Option<Position>)>,
    ) -> Result<(), Refusal> {
        self.relay(id, held).map(drop)
    }

    /// Broadcasts that other edges fetch through this one.
    pub fn relayed(&self) -> usize {
        let now = now();
        let slots: Vec<_> = self.slots.read().values().cloned().collect();
        slots.iter().filter(|broadcast| broadcast.relayed.lock().is_wanted(now)).count()
    }

    fn relay(
        &self,
        id: BroadcastId,
        held: Option<(Version, Option<Position>)>,
    ) -> Result<Arc<Broadcast>, Refusal> {
        if self.known(id).is_none() {
            return Err(Refusal::NotFound);
        }
        let broadcast = self.open(id)?;
        let now = now();
        let news = {
            let mut relayed = broadcast.relayed.lock();
            relayed.until = Some(now + WANTED);
            let news = held > relayed.held;
            relayed.held = relayed.held.max(held);
            news && held > broadcast.slot.lock().held().map(|held| (held.version, held.position))
        };
        let through = || broadcast.route().is_some_and(|route| route.gateway().is_some());
        let before = through();
        self.reroute(&broadcast);
        // Two edges that were sent to each other would each wait for the other.
        if before && !through() && broadcast.slot.lock().abandon() {
            broadcast.wake();
        }
        let declare = broadcast.slot.lock().on_viewer(now);
        self.declare(&broadcast, declare || news);
        Ok(broadcast)
    }

    /// The lists of a broadcast for another edge, at least as new as `least`,
    /// and not such that have merely been kept because the origin is away.
    pub async fn relay_lists(
        self: &Arc<Self>,
        id: BroadcastId,
        least: Version,
    ) -> Result<Listed, Refusal> {
        let broadcast = self.relay(id, None)?;
        broadcast.slot.lock().on_heard(least);
        let listed = self.lists(id, true, None).await.map_err(|(refusal, _)| refusal)?;
        let current =
            listed.lists.meta.version >= least && listed.status != CacheStatus::Unreachable;
        if current { Ok(listed) } else { Err(Refusal::Upstream) }
    }

    /// An object for another edge, as soon as it can be passed on.
    pub async fn relay_object(
        self: &Arc<Self>,
        id: BroadcastId,
        resource: Resource,
    ) -> Result<Found, Refused> {
        self.relay(id, None).map_err(super::negative)?;
        Ok(self.object(id, resource, true, true).await?.0)
    }
}
