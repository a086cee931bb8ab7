//! Inits, chunks and parts, and what is known not to exist.
//!
//! `moka` keeps them, by bytes, the longest unused going first. It is a store
//! and nothing else: its own single flight restarts the work when the first
//! caller leaves and panics its waiters after many of them did (DEPENDENCIES
//! section 4), so a fill here is always a task of its own, found by whoever
//! asks meanwhile. The policy is LRU because the default one refuses new
//! entries while full, and live media is always new.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::future::Cache;
use moka::policy::EvictionPolicy;
use parking_lot::Mutex;
use spyglass_media::{BroadcastId, Resource};
use tokio::sync::watch;

use crate::filling::Filling;
use crate::outcome::CacheStatus;
use crate::refusal::Refusal;
use crate::respond::Object;

/// What is kept: no viewer and no token is part of it.
pub type Key = (BroadcastId, Resource);

/// Bytes that an entry costs beyond its body.
const OVERHEAD: usize = 1_024;

/// How a fill ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Here it is.
    Found(Arc<Object>),
    /// Upstream says that it does not exist.
    Missing,
    /// Nobody can say.
    Failed,
}

#[derive(Clone, Debug)]
enum Stored {
    Found(Arc<Object>),
    Missing { until: Instant },
}

impl Stored {
    fn outcome(self, now: Instant) -> Option<Outcome> {
        match self {
            Self::Found(object) => Some(Outcome::Found(object)),
            Self::Missing { until } => (now < until).then_some(Outcome::Missing),
        }
    }
}

/// How far a fill is.
#[derive(Clone, Debug)]
pub enum Flying {
    /// Nothing is known yet.
    Begun,
    /// This much has come, and more will.
    Filling(Arc<Filling>),
    /// It has ended.
    Landed(Outcome),
}

/// Where a fill says how far it is.
pub type Announce = Arc<watch::Sender<Flying>>;

type Flight = watch::Receiver<Flying>;

/// What a caller gets of a fill.
#[derive(Clone, Debug)]
pub enum Filled {
    /// The end of it.
    Landed(Outcome),
    /// What comes.
    Filling(Arc<Filling>),
}

/// The objects of all broadcasts.
#[derive(Debug)]
pub struct Objects {
    stored: Cache<Key, Stored>,
    flights: Mutex<HashMap<Key, Flight>>,
    most_flights: usize,
    most_of_one: usize,
    negative: Duration,
}

impl Objects {
    /// Keeps about `bytes` (up to twice as much for moments: eviction is lazy),
    /// has at most `most_flights` fills under way, an eighth of them (or 8)
    /// for one broadcast, and believes for `negative`
    /// that something does not exist.
    pub fn new(bytes: u64, most_flights: usize, negative: Duration) -> Self {
        let weigh = |_: &Key, stored: &Stored| match stored {
            Stored::Found(object) => {
                u32::try_from(object.answer.len() + OVERHEAD).unwrap_or(u32::MAX)
            }
            Stored::Missing { .. } => OVERHEAD as u32,
        };
        let stored = Cache::builder()
            .eviction_policy(EvictionPolicy::lru())
            .weigher(weigh)
            .max_capacity(bytes)
            .build();
        let most_of_one = most_flights.min((most_flights / 8).max(8));
        Self { stored, flights: Mutex::default(), most_flights, most_of_one, negative }
    }

    /// What is here already.
    pub async fn get(&self, key: Key, now: Instant) -> Option<Outcome> {
        self.stored.get(&key).await?.outcome(now)
    }

    /// What `fill` brings, or what the fill brings that is under way already.
    /// The fill goes on when the caller leaves. With `early`, as soon as it can
    /// be passed on.
    pub async fn fill<F>(
        self: &Arc<Self>,
        key: Key,
        early: bool,
        fill: impl FnOnce(Announce) -> F,
    ) -> Result<(Filled, CacheStatus), Refusal>
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let (mut flight, collapsed) = self.join(key, fill)?;
        let enough = |flying: &Flying| match flying {
            Flying::Begun => false,
            Flying::Filling(_) => early,
            Flying::Landed(_) => true,
        };
        let filled = match flight.wait_for(enough).await.as_deref() {
            Ok(Flying::Landed(outcome)) => Filled::Landed(outcome.clone()),
            Ok(Flying::Filling(filling)) => Filled::Filling(Arc::clone(filling)),
            // The fill's task panicked.
            Ok(Flying::Begun) | Err(_) => Filled::Landed(Outcome::Failed),
        };
        Ok((filled, CacheStatus::forwarded(false, collapsed)))
    }

    fn join<F>(
        self: &Arc<Self>,
        key: Key,
        fill: impl FnOnce(Announce) -> F,
    ) -> Result<(Flight, bool), Refusal>
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(&key) {
            return Ok((flight.clone(), true));
        }
        // Whoever makes up names of one broadcast keeps no other's viewers waiting.
        let of_one = || flights.keys().filter(|(id, _)| *id == key.0).count();
        if flights.len() >= self.most_flights || of_one() >= self.most_of_one {
            return Err(Refusal::Busy);
        }
        let (flying, flight) = watch::channel(Flying::Begun);
        flights.insert(key, flight.clone());
        drop(flights);
        let flying = Arc::new(flying);
        let fill = fill(Arc::clone(&flying));
        let end = End { objects: Arc::clone(self), key };
        tokio::spawn(async move {
            let objects = Arc::clone(&end.objects);
            let now = || tokio::time::Instant::now().into_std();
            // Who looked just before the last fill landed starts one more.
            let outcome = match objects.get(key, now()).await {
                Some(outcome) => outcome,
                None => {
                    let outcome = fill.await;
                    let stored = match &outcome {
                        Outcome::Found(object) => Some(Stored::Found(Arc::clone(object))),
                        Outcome::Missing => {
                            Some(Stored::Missing { until: now() + objects.negative })
                        }
                        Outcome::Failed => None,
                    };
                    if let Some(stored) = stored {
                        objects.stored.insert(key, stored).await;
                    }
                    outcome
                }
            };
            drop(end);
            flying.send_replace(Flying::Landed(outcome));
        });
        Ok((flight, false))
    }
}

/// Takes a fill off the list, also when it panicked.
struct End {
    objects: Arc<Objects>,
    key: Key,
}

impl Drop for End {
    fn drop(&mut self) {
        self.objects.flights.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond::{Encoding, Prebuilt};
    use bytes::Bytes;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    fn key(sequence: u64) -> Key {
        (BroadcastId::from_random([1; 16]), Resource::Chunk { epoch: 1, sequence })
    }

    fn found(bytes: usize) -> Outcome {
        let resource = Resource::Chunk { epoch: 1, sequence: 1 };
        let answer = Prebuilt::new(resource, Encoding::Identity, Bytes::from(vec![7; bytes]));
        Outcome::Found(Arc::new(Object { answer, arrived: Instant::now(), measured: None }))
    }

    fn objects() -> Arc<Objects> {
        Arc::new(Objects::new(1 << 20, 16, Duration::from_secs(2)))
    }

    #[tokio::test]
    async fn many_ask_and_one_fill_answers_though_the_first_leaves() {
        let objects = objects();
        let fills = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(Notify::new());
        let ask = || {
            let (objects, fills, gate) = (objects.clone(), fills.clone(), gate.clone());
            tokio::spawn(async move {
                let fill = |_| async move {
                    fills.fetch_add(1, Ordering::SeqCst);
                    gate.notified().await;
                    found(10)
                };
                objects.fill(key(1), false, fill).await
            })
        };
        let first = ask();
        while fills.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..50).map(|_| ask()).collect();
        tokio::task::yield_now().await;
        first.abort();
        let _ = first.await;
        gate.notify_one();
        for other in others {
            let (outcome, status) = other.await.unwrap().unwrap();
            assert!(matches!(outcome, Filled::Landed(Outcome::Found(_))));
            assert_eq!(status, CacheStatus::MissCollapsed);
        }
        assert_eq!(fills.load(Ordering::SeqCst), 1);
        assert!(objects.get(key(1), Instant::now()).await.is_some());
    }

    #[tokio::test]
    async fn a_fill_that_panics_or_fails_leaves_nothing_behind() {
        let objects = objects();
        let panicking = |_| async { panic!("in a test") };
        assert!(matches!(
            objects.fill(key(1), false, panicking).await,
            Ok((Filled::Landed(Outcome::Failed), _))
        ));
        let failing = |_| async { Outcome::Failed };
        assert!(matches!(
            objects.fill(key(1), false, failing).await,
            Ok((Filled::Landed(Outcome::Failed), _))
        ));
        assert!(objects.flights.lock().is_empty());
        let fill = |_| async { found(3) };
        assert!(matches!(
            objects.fill(key(1), false, fill).await,
            Ok((Filled::Landed(Outcome::Found(_)), CacheStatus::Miss))
        ));
    }

    #[tokio::test]
    async fn what_does_not_exist_is_believed_for_a_while() {
        let objects = objects();
        let now = tokio::time::Instant::now().into_std();
        let _ = objects.fill(key(1), false, |_| async { Outcome::Missing }).await;
        assert!(matches!(objects.get(key(1), now).await, Some(Outcome::Missing)));
        assert!(objects.get(key(1), now + Duration::from_secs(60)).await.is_none());
    }

    #[tokio::test]
    async fn so_many_fills_and_no_more() {
        let objects = objects();
        let hung: Vec<_> = (1..=8)
            .map(|sequence| objects.join(key(sequence), |_| std::future::pending()).unwrap())
            .collect();
        let ninth = objects.fill(key(9), false, |_| async { found(1) }).await;
        assert!(matches!(ninth, Err(Refusal::Busy)), "one broadcast's share");
        let of = |broadcast, sequence| (BroadcastId::from_random([broadcast; 16]), key(sequence).1);
        for sequence in 1..=8 {
            objects.join(of(2, sequence), |_| std::future::pending()).expect("another's share");
        }
        let seventeenth = objects.fill(of(3, 1), false, |_| async { found(1) }).await;
        assert!(matches!(seventeenth, Err(Refusal::Busy)), "all there is room for");
        drop(hung);
    }

    #[tokio::test]
    async fn new_objects_push_out_old_ones() {
        let objects = Arc::new(Objects::new(10 * (1_000 + OVERHEAD as u64), 100, Duration::ZERO));
        for sequence in 0..100 {
            let _ = objects.fill(key(sequence), false, |_| async { found(1_000) }).await;
            objects.stored.run_pending_tasks().await;
        }
        assert!(objects.stored.weighted_size() <= 10 * (1_000 + OVERHEAD as u64));
        assert!(objects.get(key(99), Instant::now()).await.is_some());
        assert!(objects.get(key(0), Instant::now()).await.is_none());
    }
}
