//! The broadcasts of this edge: the directory, a slot for each that somebody
//! asked for, and the tasks that fill them.
//!
//! Slots decide (`slot.rs`), this carries out: it wakes who waits, starts a
//! fetch in a task of its own, and tells the watch of each origin (`watch.rs`)
//! in what there is interest. Three locks, taken in this order and held for a
//! look-up or a decision, never across a wait: directory, slots, one slot.

mod asks;
mod fill;
mod gateways;
mod relay;

pub use asks::Found;
pub use relay::Change;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use spyglass_api::control::Delay;
use spyglass_api::upstream::Holding;
use spyglass_daemon::delay::Meter;
use spyglass_media::{BroadcastId, Fill, NodeId, Position, Version};
use tokio::sync::{broadcast, watch};
use tracing::{debug, warn};

use crate::cache::Objects;
use crate::crowd::Crowd;
use crate::directory::{Directory, Entry, Known, State};
use crate::metrics::Metrics;
use crate::outcome::CacheStatus;
use crate::refusal::Refusal;
use crate::respond::Lists;
use crate::route::Route;
use crate::slot::{self, Asked, Polled, Slot, Standing};
use crate::watch::{Kind, Upstream, holding};
use gateways::Through;
use relay::Relayed;

/// How often slots are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// The target duration that goes with the default chunk length, for where
/// nothing is known.
const USUAL: Duration = Duration::from_secs(4);

/// What the edge is told to do, besides the waits of [`slot::Limits`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Waits of a slot.
    pub slot: slot::Limits,
    /// Broadcasts known, and slots.
    pub broadcasts: usize,
    /// For one object.
    pub fetch: Duration,
    /// How long an unknown id is left open while origins have not spoken yet.
    pub settle: Duration,
    /// Drop every expire notice.
    pub ignore_notices: bool,
    /// A notice fetches while there are viewers, not only while one waits; for
    /// broadcasts whose maker did not choose.
    pub prefetch: bool,
}

/// What a watch tells of a broadcast: this exists now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Of the list.
    pub version: Version,
    /// The newest media that it names.
    pub position: Option<Position>,
    /// The origin process that made it.
    pub incarnation: u64,
}

/// A list as it was served.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Every form of it.
    pub lists: Arc<Lists>,
    /// Since it was made.
    pub age: Duration,
    /// Where it came from.
    pub status: CacheStatus,
    /// It was asked for by number, and the directive was heeded.
    pub blocking: bool,
}

/// A refusal, and whether the upstream was asked first.
pub type Refused = (Refusal, CacheStatus);

const fn negative(refusal: Refusal) -> Refused {
    (refusal, CacheStatus::Negative)
}

/// One broadcast with its slot.
#[derive(Debug)]
pub struct Broadcast {
    id: BroadcastId,
    slot: Mutex<Slot<Arc<Lists>>>,
    /// Where to fetch from, as the directory and control say.
    route: Mutex<Option<Route>>,
    /// Until then a gateway that cannot vouch for it is passed over.
    adrift: Mutex<Option<Instant>>,
    /// What edges that fetch through this one want of it.
    relayed: Mutex<Relayed>,
    /// A list may be had that could not before.
    wake: watch::Sender<()>,
    /// How long its media took.
    delays: Arc<Meter>,
    /// A notice or a list has come: a part may be had.
    moved: watch::Sender<()>,
    /// A notice fetches while there are viewers.
    prefetch: AtomicBool,
    /// Who asks without having joined, once somebody does.
    crowd: OnceLock<Crowd>,
    /// How many those are, as of the last sweep.
    anonymous: AtomicU32,
}

impl Broadcast {
    /// Everybody who waits asks again.
    fn wake(&self) {
        self.wake.send_replace(());
        self.moved.send_replace(());
    }

    /// What an upstream's watch must say of it: `None` when nobody is interested
    /// or it comes from another.
    pub fn interest(&self, node: &NodeId) -> Option<(Option<Version>, Option<Position>)> {
        let mine = self.source().is_some_and(|source| source.node() == node);
        let slot = self.slot.lock();
        let held = slot.held().map(|held| (held.version, held.position));
        let interested = slot.interested();
        drop(slot);
        let held = held.max(self.relayed.lock().held);
        (mine && interested).then(|| (held.map(|held| held.0), held.and_then(|held| held.1)))
    }

    fn route(&self) -> Option<Route> {
        self.route.lock().clone()
    }

    /// Who is asked for it.
    fn source(&self) -> Option<Arc<Upstream>> {
        self.route.lock().as_ref().map(|route| Arc::clone(route.source()))
    }
}

/// All of them.
#[derive(Debug)]
pub struct Broadcasts {
    limits: Limits,
    metrics: Metrics,
    directory: RwLock<Directory>,
    slots: RwLock<HashMap<BroadcastId, Arc<Broadcast>>>,
    origins: RwLock<HashMap<NodeId, Arc<Upstream>>>,
    through: RwLock<Through>,
    objects: Arc<Objects>,
    /// What edges that watch this one are told.
    changes: broadcast::Sender<Change>,
    /// Changes with each snapshot that is whole.
    settled: watch::Sender<()>,
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Broadcasts {
    /// None known.
    pub fn new(limits: Limits, objects: Arc<Objects>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            limits,
            metrics,
            directory: RwLock::new(Directory::new(limits.broadcasts, limits.settle)),
            slots: RwLock::default(),
            origins: RwLock::default(),
            through: RwLock::default(),
            objects,
            changes: broadcast::Sender::new(relay::BEHIND),
            settled: watch::Sender::new(()),
        })
    }

    // ---- what viewers ask: besides, `asks.rs`

    /// Somebody who has not joined asked for a list; `hash` tells who.
    pub fn on_anonymous(&self, id: BroadcastId, hash: u64) {
        if let Some(broadcast) = self.slots.read().get(&id) {
            broadcast.crowd.get_or_init(|| Crowd::new(now())).on_request(hash);
        }
    }

    /// About how many watch each broadcast without having joined, as of the last
    /// sweep; the `most` largest.
    pub fn crowds(&self, most: usize) -> Vec<(BroadcastId, u32)> {
        let slots = self.slots.read();
        let all = slots.iter().map(|(id, broadcast)| (*id, broadcast.anonymous.load(Relaxed)));
        let mut all: Vec<_> = all.filter(|(_, count)| *count > 0).collect();
        drop(slots);
        if all.len() > most {
            all.select_nth_unstable_by_key(most, |(_, count)| std::cmp::Reverse(*count));
            all.truncate(most);
        }
        // The same order each time, so that what has not changed is not told.
        all.sort_unstable();
        all
    }

    /// How long a viewer of this broadcast counts after a request.
    pub fn lease(&self, id: BroadcastId) -> Duration {
        let broadcast = self.slots.read().get(&id).cloned();
        let target = broadcast.and_then(|broadcast| broadcast.slot.lock().target());
        3 * target.unwrap_or(USUAL)
    }

    /// Waits, for a moment, until it is clear whether the broadcast exists.
    async fn admit(&self, id: BroadcastId, proven: bool) -> Result<(), Refusal> {
        match self.standing(id, proven) {
            Err(Refusal::Starting) => {}
            clear => return clear,
        }
        let mut settled = self.settled.subscribe();
        let wait = async {
            while self.standing(id, proven) == Err(Refusal::Starting) {
                if settled.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(self.limits.slot.aged, wait).await;
        self.standing(id, proven)
    }

    /// A private broadcast without a token and an unknown one go the same way.
    fn standing(&self, id: BroadcastId, proven: bool) -> Result<(), Refusal> {
        let directory = self.directory.read();
        match directory.get(id) {
            Some(known) if proven || !known.entry.private => match known.entry.state {
                State::Gone => Err(Refusal::Gone),
                _ => Ok(()),
            },
            None if proven => Ok(()),
            _ if directory.settled(now()) => Err(Refusal::NotFound),
            _ => Err(Refusal::Starting),
        }
    }

    fn open(&self, id: BroadcastId) -> Result<Arc<Broadcast>, Refusal> {
        if let Some(broadcast) = self.slots.read().get(&id) {
            return Ok(Arc::clone(broadcast));
        }
        let mut slots = self.slots.write();
        if !slots.contains_key(&id) && slots.len() >= self.limits.broadcasts {
            return Err(Refusal::Busy);
        }
        let new = || {
            Arc::new(Broadcast {
                id,
                slot: Mutex::new(Slot::new(self.limits.slot, now())),
                route: Mutex::default(),
                adrift: Mutex::default(),
                relayed: Mutex::default(),
                wake: watch::Sender::new(()),
                delays: Arc::new(Meter::new(self.metrics.delays.clone())),
                moved: watch::Sender::new(()),
                prefetch: AtomicBool::new(self.limits.prefetch),
                crowd: OnceLock::new(),
                anonymous: AtomicU32::new(0),
            })
        };
        let broadcast = Arc::clone(slots.entry(id).or_insert_with(new));
        drop(slots);
        self.refresh(&broadcast);
        Ok(broadcast)
    }

    // ---- slots

    fn poll(self: &Arc<Self>, broadcast: &Arc<Broadcast>, asked: Asked) -> Polled<Arc<Lists>> {
        let polled = broadcast.slot.lock().on_poll(now(), asked);
        self.declare(broadcast, polled.declare);
        if let Some(fetch) = polled.fetch {
            tokio::spawn(fill::lists(Arc::clone(self), Arc::clone(broadcast), fetch));
        }
        polled
    }

    fn declare(&self, broadcast: &Broadcast, declare: bool) {
        if declare && let Some(source) = broadcast.source() {
            source.interest_changed(broadcast.id);
        }
    }

    /// Brings a slot up to date with the directory and the gateways. The
    /// directory stays locked meanwhile, so that of two refreshes the later one
    /// tells the later state.
    fn refresh(&self, broadcast: &Broadcast) {
        let directory = self.directory.read();
        let known = directory.get(broadcast.id);
        let owner = known.and_then(|known| self.origins.read().get(&known.origin).cloned());
        let route = owner.map(|origin| Route::new(origin, self.gateway(broadcast)));
        let former = std::mem::replace(&mut *broadcast.route.lock(), route.clone());
        let chosen = known.and_then(|known| known.entry.fill).map(|fill| fill == Fill::Prefetch);
        broadcast.prefetch.store(chosen.unwrap_or(self.limits.prefetch), Relaxed);
        let mut slot = broadcast.slot.lock();
        let standing = route.as_ref().and(known).map(|known| Standing {
            incarnation: known.entry.incarnation,
            begun: known.entry.state != State::Created,
            target: known.entry.target,
        });
        let mut wake = slot.on_standing(standing);
        wake |= slot.on_watch(route.as_ref().is_some_and(|route| route.source().is_watched()));
        wake |= known.is_some_and(|known| known.entry.state == State::Gone);
        let interested = slot.interested();
        drop(slot);
        let same = match (&former, &route) {
            (Some(former), Some(route)) => former.is(route),
            (None, None) => true,
            _ => false,
        };
        if interested && !same {
            for route in former.iter().chain(&route) {
                route.source().interest_changed(broadcast.id);
            }
        }
        if wake {
            broadcast.wake();
        }
    }

    fn refresh_all(&self, ids: impl IntoIterator<Item = BroadcastId>) {
        for id in ids {
            let broadcast = self.slots.read().get(&id).cloned();
            if let Some(broadcast) = broadcast {
                self.refresh(&broadcast);
            }
        }
    }

    /// A slot, if anybody has asked for this broadcast.
    pub fn get(&self, id: BroadcastId) -> Option<Arc<Broadcast>> {
        self.slots.read().get(&id).cloned()
    }

    // ---- what watches tell

    /// These origins exist now; their watches begin or have begun.
    pub fn on_origins(&self, origins: HashMap<NodeId, Arc<Upstream>>) {
        let former = std::mem::replace(&mut *self.origins.write(), origins);
        let current: Vec<_> = self.origins.read().keys().cloned().collect();
        let mut changed = Vec::new();
        let mut directory = self.directory.write();
        for node in former.keys().filter(|node| !current.contains(node)) {
            changed.extend(directory.on_origin_gone(node));
        }
        directory.on_origins(now(), current);
        drop(directory);
        self.tell(changed.iter().map(|&id| Change::Directory(id)));
        // A new address of a known origin changes no entry: look at all.
        changed.extend(self.slots.read().keys());
        self.refresh_all(changed);
        self.settled.send_replace(());
    }

    /// A new watch of an origin begins; its snapshot will follow.
    pub fn on_watch_begun(&self, node: &NodeId) {
        self.directory.write().on_watch_begun(node);
    }

    /// An upstream's watch has told everything (`alive`), or is broken.
    pub fn on_watch(&self, upstream: &Upstream, alive: bool) {
        let slots: Vec<_> = self.slots.read().values().cloned().collect();
        for broadcast in slots {
            // Not by name: an upstream that has moved has a former self.
            let mine = broadcast.source().is_some_and(|source| std::ptr::eq(&*source, upstream));
            let news = mine && broadcast.slot.lock().on_watch(alive);
            // Who wakes and fetches is to find the way that is good now.
            if upstream.kind() == Kind::Gateway {
                self.reroute(&broadcast);
            }
            if news {
                broadcast.wake();
            }
        }
    }

    /// What viewers watch of this upstream, and what is held of it.
    pub fn of_interest(&self, node: &NodeId) -> Vec<Holding> {
        let slots: Vec<_> = self.slots.read().values().cloned().collect();
        let interests = slots.iter().filter_map(|broadcast| {
            let (version, position) = broadcast.interest(node)?;
            Some(holding(broadcast.id, version, position))
        });
        interests.collect()
    }

    /// A page of an origin's directory.
    pub fn on_page(&self, node: &NodeId, entries: Vec<(BroadcastId, Option<Entry>)>, last: bool) {
        let changed = self.write_directory(|directory| directory.on_page(node, entries, last));
        self.tell(changed.iter().map(|&id| Change::Directory(id)));
        self.refresh_all(changed);
        self.settled.send_replace(());
    }

    /// A change of an origin's directory.
    pub fn on_change(&self, node: &NodeId, id: BroadcastId, entry: Option<Entry>) {
        let changed = self.write_directory(|directory| directory.on_change(node, id, entry));
        self.tell(changed.map(Change::Directory));
        self.refresh_all(changed);
        self.settled.send_replace(());
    }

    fn write_directory<T>(&self, change: impl FnOnce(&mut Directory) -> T) -> T {
        let mut directory = self.directory.write();
        let refused = directory.refused();
        let changed = change(&mut directory);
        let refused = directory.refused() - refused;
        self.metrics.broadcasts.set(i64::try_from(directory.len()).unwrap_or(i64::MAX));
        drop(directory);
        if refused > 0 {
            self.metrics.refused_broadcasts.inc_by(refused);
            warn!(refused, "more broadcasts than max_broadcasts: these cannot be watched here");
        }
        changed
    }

    /// A notice.
    pub fn on_expire(self: &Arc<Self>, from: Kind, id: BroadcastId, notice: Notice) {
        if self.limits.ignore_notices {
            self.metrics.ignored_notices.inc();
            return;
        }
        let Some(broadcast) = self.get(id) else { return };
        let Notice { version, position, incarnation } = notice;
        let mut slot = broadcast.slot.lock();
        let before = slot.newest();
        let wake = match from {
            Kind::Origin => slot.on_expire(version, position, incarnation),
            Kind::Gateway => slot.on_relayed(version, position, incarnation),
        };
        let wake = wake && !slot.is_steady();
        let news = slot.newest() != before;
        let fetch = if broadcast.prefetch.load(Relaxed) && slot.interested() {
            slot.on_prefetch(now())
        } else if broadcast.wake.receiver_count() > 0 {
            slot.on_demand(now())
        } else {
            None
        };
        drop(slot);
        match fetch {
            Some(fetch) => {
                tokio::spawn(fill::lists(Arc::clone(self), Arc::clone(&broadcast), fetch));
            }
            None if wake => broadcast.wake.send_replace(()),
            None => (),
        }
        broadcast.moved.send_replace(());
        self.tell(news.then_some(Change::Expire(id)));
    }

    /// Whether an unknown id is known not to exist.
    pub fn is_settled(&self) -> bool {
        self.directory.read().settled(now())
    }

    /// What the directory says of a broadcast.
    pub fn known(&self, id: BroadcastId) -> Option<Known> {
        self.directory.read().get(id).cloned()
    }

    /// How long media took since the last call.
    pub fn take_delays(&self) -> Vec<Delay> {
        let mut measured = Vec::new();
        for (id, broadcast) in &*self.slots.read() {
            broadcast.delays.take(*id, &mut measured);
        }
        measured
    }

    /// Broadcasts with viewers here.
    pub fn watched(&self) -> usize {
        let slots: Vec<_> = self.slots.read().values().cloned().collect();
        slots.iter().filter(|broadcast| broadcast.slot.lock().interested()).count()
    }

    // ---- time

    /// Ends interest that nobody shares, and forgets slots of broadcasts that
    /// do not exist; for ever.
    pub async fn sweep(self: Arc<Self>) {
        let mut beat = tokio::time::interval(SWEEP);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            self.on_deadline(now());
        }
    }

    fn on_deadline(&self, now: Instant) {
        let slots: Vec<_> = self.slots.read().values().cloned().collect();
        let mut idle = Vec::new();
        for broadcast in slots {
            let mut slot = broadcast.slot.lock();
            let over = slot.on_deadline(now);
            let forgotten = !slot.interested();
            let target = slot.target();
            drop(slot);
            if let Some(crowd) = broadcast.crowd.get() {
                crowd.on_deadline(now, target.unwrap_or(USUAL));
                broadcast.anonymous.store(crowd.estimate(), Relaxed);
            }
            if over {
                debug!(broadcast = %broadcast.id, "no viewer any more");
                if let Some(source) = broadcast.source() {
                    source.interest_changed(broadcast.id);
                }
            }
            if forgotten {
                idle.push(broadcast.id);
            } else {
                self.reroute(&broadcast);
            }
        }
        let directory = self.directory.read();
        idle.retain(|id| directory.get(*id).is_none_or(|known| known.entry.state == State::Gone));
        drop(directory);
        if !idle.is_empty() {
            let mut slots = self.slots.write();
            for id in idle {
                // Whoever has come meanwhile holds it.
                if slots.get(&id).is_some_and(|idle| Arc::strong_count(idle) == 1) {
                    slots.remove(&id);
                }
            }
        }
    }
}
