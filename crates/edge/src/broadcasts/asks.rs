//! What viewers ask of a broadcast, from the request to its answer: waiting
//! included, which leaves nothing behind when the request is dropped.

use std::sync::Arc;

use spyglass_media::{BroadcastId, Resource};
use tokio::sync::watch;

use super::{Broadcast, Broadcasts, Listed, Refused, fill, negative, now};
use crate::cache::{Filled, Outcome};
use crate::directory::State;
use crate::filling::Filling;
use crate::metrics::Waiting;
use crate::outcome::CacheStatus;
use crate::refusal::Refusal;
use crate::respond::Object;
use crate::slot::{self, Awaited, Poll, Polled};

/// An init, chunk or part as it can be had.
#[derive(Clone, Debug)]
pub enum Found {
    /// All of it.
    Here(Arc<Object>),
    /// Its head, and the rest as it comes.
    Coming(Arc<Filling>),
}

impl Broadcasts {
    /// Whether there is such a broadcast for who asks. `proven`: a valid token
    /// names it.
    pub async fn exists(&self, id: BroadcastId, proven: bool) -> Result<(), Refused> {
        self.admit(id, proven).await.map_err(negative)
    }

    /// Whether nothing new will come, as far as anybody has told.
    pub fn has_ended(&self, id: BroadcastId) -> bool {
        let told = self.known(id).is_some_and(|known| known.entry.state == State::Ended);
        let held = self.get(id).and_then(|broadcast| broadcast.slot.lock().held());
        told || held.is_some_and(|held| held.ended)
    }

    /// The lists of a broadcast, once they name what is awaited. `proven`: a
    /// valid token names it.
    pub async fn lists(
        self: &Arc<Self>,
        id: BroadcastId,
        proven: bool,
        awaits: Option<Awaited>,
    ) -> Result<Listed, Refused> {
        self.admit(id, proven).await.map_err(negative)?;
        let broadcast = self.open(id).map_err(negative)?;
        let asked = broadcast.slot.lock().ask(now(), awaits);
        let mut wake: Option<(watch::Receiver<()>, Waiting)> = None;
        // How this request counts: what was held when it came, and whether any
        // fetch was its own.
        let mut forwarded: Option<(bool, bool)> = None;
        // What was held when it began to wait: then a fetch of somebody else's,
        // or of a notice's, answers it.
        let mut waited: Option<bool> = None;
        let status = |forwarded: Option<(bool, bool)>| {
            forwarded.map(|(held, own)| CacheStatus::forwarded(held, !own))
        };
        loop {
            match self.poll(&broadcast, asked) {
                Polled { poll: Poll::Serve { list, age, aged }, .. } => {
                    let status = match status(forwarded) {
                        _ if aged => CacheStatus::Unreachable,
                        Some(forwarded) => forwarded,
                        None => waited
                            .map_or(CacheStatus::Hit, |held| CacheStatus::forwarded(held, true)),
                    };
                    let goes_on = || broadcast.slot.lock().held().is_some_and(|held| !held.ended);
                    // Who asks for what has long been listed waits for nothing:
                    // kept for long, that answer would only be old.
                    let newest = list.meta.position.map_or(0, |last| last.sequence);
                    let recent = awaits.is_some_and(|awaits| awaits.sequence >= newest);
                    let blocking = recent && !aged && goes_on();
                    return Ok(Listed { lists: list, age, status, blocking });
                }
                Polled { poll: Poll::TooFar, .. } => return Err(negative(Refusal::TooFar)),
                Polled { poll: Poll::Late, .. } => {
                    return Err((
                        Refusal::Late,
                        status(forwarded).unwrap_or(CacheStatus::Negative),
                    ));
                }
                Polled { poll: Poll::GiveUp { known }, .. } => {
                    let refusal = if known { Refusal::Upstream } else { Refusal::NotYet };
                    return Err((refusal, status(forwarded).unwrap_or(CacheStatus::Negative)));
                }
                Polled { poll: Poll::Wait { until, stale }, fetch, .. } => {
                    let own = fetch.is_some();
                    waited.get_or_insert(stale);
                    if own || broadcast.slot.lock().state(now()) == slot::State::Fetching {
                        forwarded.get_or_insert((stale, false)).1 |= own;
                    }
                    match &mut wake {
                        // What changed before this must not be missed: ask once more.
                        None => wake = Some((broadcast.wake.subscribe(), self.metrics.wait())),
                        Some((wake, _)) => {
                            // An error means that time is up; the slot will say so.
                            let _ = tokio::time::timeout_at(until.into(), wake.changed()).await;
                        }
                    }
                }
            }
            self.standing(id, proven).map_err(negative)?;
        }
    }

    /// An init, chunk or part. With `early`, as soon as it can be passed on.
    pub async fn object(
        self: &Arc<Self>,
        id: BroadcastId,
        resource: Resource,
        proven: bool,
        early: bool,
    ) -> Result<(Found, CacheStatus), Refused> {
        self.admit(id, proven).await.map_err(negative)?;
        match self.objects.get((id, resource), now()).await {
            Some(Outcome::Found(object)) => return Ok((Found::Here(object), CacheStatus::Hit)),
            Some(_) => return Err(negative(Refusal::NotFound)),
            None => {}
        }
        let broadcast = self.open(id).map_err(negative)?;
        let exists = || broadcast.slot.lock().may_exist(resource) == Some(true);
        if !exists() && !broadcast.slot.lock().is_hinted(resource) {
            // Named by a list that another edge served, or made up: a list that
            // is good now tells which.
            self.lists(id, proven, None).await?;
        }
        if !exists() {
            self.part(&broadcast, resource, proven).await?;
        }
        let declare = broadcast.slot.lock().on_viewer(now());
        self.declare(&broadcast, declare);
        let Some(route) = broadcast.route() else {
            return Err(negative(Refusal::Upstream));
        };
        let this = Arc::clone(self);
        let fill =
            |announce| async move { fill::object(&this, &route, id, resource, announce).await };
        let filled = self.objects.fill((id, resource), early, fill).await.map_err(|refusal| {
            self.metrics.fetch(resource.kind(), "no_room");
            negative(refusal)
        })?;
        let (filled, status) = filled;
        match filled {
            Filled::Filling(filling) => Ok((Found::Coming(filling), status)),
            Filled::Landed(Outcome::Found(object)) => Ok((Found::Here(object), status)),
            Filled::Landed(Outcome::Missing) => Err((Refusal::NotFound, status)),
            Filled::Landed(Outcome::Failed) => Err((Refusal::Upstream, status)),
        }
    }

    /// Waits for a part that was hinted: until it is whole, or cancelled.
    async fn part(
        &self,
        broadcast: &Broadcast,
        resource: Resource,
        proven: bool,
    ) -> Result<(), Refused> {
        let until = now() + broadcast.slot.lock().longest_wait();
        let mut moved = broadcast.moved.subscribe();
        let _waiting = self.metrics.wait();
        loop {
            let hinted = {
                let mut slot = broadcast.slot.lock();
                if slot.may_exist(resource) == Some(true) {
                    return Ok(());
                }
                let declare = slot.on_viewer(now());
                let hinted = slot.is_hinted(resource);
                drop(slot);
                self.declare(broadcast, declare);
                hinted
            };
            if !hinted {
                return Err(negative(Refusal::NotFound));
            }
            if tokio::time::timeout_at(until.into(), moved.changed()).await.is_err() {
                return Err(negative(Refusal::Late));
            }
            self.standing(broadcast.id, proven).map_err(negative)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::cache::Objects;
    use crate::metrics::Metrics;
    use std::time::Duration;

    /// What a waiting viewer costs beside its connection: the future and its
    /// place on the wake-up. Both go when the request is dropped.
    #[tokio::test]
    async fn a_waiter_is_small_and_leaves_nothing_behind() {
        let objects = Arc::new(Objects::new(1 << 20, 8, Duration::from_secs(1)));
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let limits = Config::default().broadcast_limits();
        let broadcasts = Broadcasts::new(limits, objects, metrics);
        let id = BroadcastId::from_random([1; 16]);
        let awaits = Some(Awaited { sequence: 1, part: Some(0) });
        let mut list = Box::pin(broadcasts.lists(id, true, awaits));
        let part = Resource::Part { epoch: 1, sequence: 1, part: 0 };
        let part = broadcasts.object(id, part, true, true);
        let (list_bytes, part_bytes) = (size_of_val(&*list), size_of_val(&part));
        println!("bytes of a waiter: {list_bytes} for a list, {part_bytes} for a part");
        assert!(list_bytes <= 1_024 && part_bytes <= 2_560);
        drop(part);
        let waiting = tokio::time::timeout(Duration::from_millis(20), &mut list).await;
        assert!(waiting.is_err());
        let broadcast = broadcasts.get(id).unwrap();
        assert_eq!(broadcast.wake.receiver_count(), 1);
        drop(list);
        assert_eq!(broadcast.wake.receiver_count(), 0);
    }
}
