//! All broadcasts: in the store, and in memory for whoever asks.
//!
//! A change goes to the store first, by compare-and-set, and then to memory;
//! the map is the owner of nothing else. What other controls of the same store
//! write comes in through [`Broadcasts::on_change`]; should a request be faster,
//! [`Broadcasts::find`] asks the store. It sits behind a mutex held for a few
//! lines, never across an await.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use spyglass_media::{BroadcastId, NodeId, UserId};
use tokio::sync::Semaphore;

use crate::record::{Phase, Record};
use crate::store::{self, Change, Revision, Store, list_all};

const PREFIX: &str = "broadcasts/";

/// How long the public list says the same of a broadcast. A change of its
/// record is told at once; this is for the number of its viewers.
const LINE_AGE: Duration = Duration::from_secs(1);

/// Attempts of one change against others; each conflict means that somebody
/// else got through.
const ATTEMPTS: usize = 32;

/// Broadcasts that memory does not know, asked for in the store at once; whoever
/// comes beyond is told that there is none.
const MISSES: usize = 64;

/// Why there is no new broadcast.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There are as many as control takes.
    #[error("there are too many broadcasts")]
    Full,
    /// The user has as many as one may have.
    #[error("this user has too many broadcasts")]
    Quota,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// See the module.
pub struct Broadcasts {
    store: Arc<dyn Store>,
    limit: usize,
    /// Broadcasts of one user that are not over.
    quota: u32,
    index: Mutex<Index>,
    misses: Semaphore,
}

/// What another control, or this one, wrote.
#[derive(Clone, Debug)]
pub struct Followed {
    /// What stands now.
    pub record: Arc<Record>,
    /// What stood here before.
    pub before: Option<Arc<Record>>,
}

#[derive(Default)]
struct Index {
    held: HashMap<BroadcastId, Held>,
    /// Public and live, in no order; what a sample is drawn from.
    live: Vec<BroadcastId>,
    counts: [u64; Phase::ALL.len()],
    /// Of each user, those that are not over and those being made.
    of_user: HashMap<UserId, u32>,
    /// Origins that no control hears.
    away: HashSet<NodeId>,
}

/// A broadcast of a user's that is being made counts already.
struct Making<'a> {
    index: &'a Mutex<Index>,
    user: Option<UserId>,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.index.lock().count_user(self.user, false);
    }
}

struct Held {
    record: Arc<Record>,
    line: Arc<Line>,
    revision: Revision,
    /// What people are told, which may not be what the record says.
    shown: Phase,
    /// Where it stands in `Index::live`.
    live_at: Option<usize>,
}

/// What the public list says of a broadcast, as text. The list is asked for
/// again and again and says the same of each broadcast for [`LINE_AGE`]; which
/// ones it names is drawn for each answer.
#[derive(Default)]
pub struct Line(Mutex<Option<(Instant, Bytes)>>);

/// A broadcast that was drawn for the public list.
pub struct Listed {
    /// What is known of it.
    pub record: Arc<Record>,
    line: Arc<Line>,
}

impl Listed {
    /// What is said of it, by `write` when that was long before `now` or never.
    pub fn line(&self, now: Instant, write: impl FnOnce(&Record) -> Bytes) -> Bytes {
        let mut line = self.line.0.lock();
        if let Some((since, text)) = &*line
            && now < *since + LINE_AGE
        {
            return text.clone();
        }
        let text = write(&self.record);
        *line = Some((now, text.clone()));
        text
    }
}

fn key(id: BroadcastId) -> String {
    format!("{PREFIX}{id}")
}

fn encode(record: &Record) -> Result<Bytes, store::Error> {
    let bytes = serde_json::to_vec(record);
    bytes.map(Bytes::from).map_err(|_| store::Error::Unfit("a broadcast that is no JSON"))
}

impl Broadcasts {
    /// Everything that the store remembers; holds `limit` at most, and of one
    /// user `quota` that are not over.
    pub async fn load(
        store: Arc<dyn Store>,
        limit: usize,
        quota: u32,
    ) -> Result<Self, store::Error> {
        let mut index = Index::default();
        for item in list_all(&*store, PREFIX).await? {
            match serde_json::from_slice::<Record>(&item.entry.value) {
                Ok(record) => index.put(Arc::new(record), item.entry.revision),
                Err(error) => {
                    tracing::warn!(key = item.key, %error, "unreadable broadcast left alone");
                }
            }
        }
        let (index, misses) = (Mutex::new(index), Semaphore::new(MISSES));
        Ok(Self { store, limit, quota, index, misses })
    }

    /// One broadcast.
    pub fn get(&self, id: BroadcastId) -> Option<Arc<Record>> {
        self.index.lock().held.get(&id).map(|held| Arc::clone(&held.record))
    }

    /// One broadcast, that another control may have made a moment ago. While the
    /// store is away only memory is asked.
    pub async fn find(&self, id: BroadcastId) -> Option<Arc<Record>> {
        if let Some(record) = self.get(id) {
            return Some(record);
        }
        let _one = self.misses.try_acquire().ok()?;
        if let Err(error) = self.reload(id).await {
            tracing::debug!(broadcast = %id, %error, "the store cannot be asked");
        }
        self.get(id)
    }

    /// Something was written to the store. `None` when it was not a broadcast,
    /// or is known here.
    pub fn on_change(&self, change: &Change) -> Option<Followed> {
        let id = change.key.strip_prefix(PREFIX)?.parse().ok()?;
        let mut index = self.index.lock();
        let Some(value) = &change.value else {
            index.remove(id);
            return None;
        };
        let record = Arc::new(serde_json::from_slice::<Record>(value).ok()?);
        let before = index.held.get(&id);
        if before.is_some_and(|held| held.revision >= change.revision) {
            return None;
        }
        let before = before.map(|held| Arc::clone(&held.record));
        index.put(Arc::clone(&record), change.revision);
        Some(Followed { record, before })
    }

    /// Reads everything anew, because changes were missed: the store is right,
    /// whatever is held here.
    pub async fn reread(&self) -> Result<Vec<Followed>, store::Error> {
        let items = list_all(&*self.store, PREFIX).await?;
        let mut index = self.index.lock();
        let mut gone: HashSet<BroadcastId> = index.held.keys().copied().collect();
        let mut followed = Vec::new();
        for item in items {
            let Ok(record) = serde_json::from_slice::<Record>(&item.entry.value) else { continue };
            let (id, record) = (record.id, Arc::new(record));
            gone.remove(&id);
            let before = index.held.get(&id).map(|held| Arc::clone(&held.record));
            index.remove(id);
            index.put(Arc::clone(&record), item.entry.revision);
            if before.as_ref() != Some(&record) {
                followed.push(Followed { record, before });
            }
        }
        gone.into_iter().for_each(|id| index.remove(id));
        Ok(followed)
    }

    /// Keeps a new one.
    pub async fn create(&self, record: Record) -> Result<Arc<Record>, CreateError> {
        let _making = {
            let mut index = self.index.lock();
            if index.held.len() >= self.limit {
                return Err(CreateError::Full);
            }
            let user = record.memo.user;
            if user.and_then(|user| index.of_user.get(&user)).is_some_and(|had| *had >= self.quota)
            {
                return Err(CreateError::Quota);
            }
            index.count_user(user, true);
            Making { index: &self.index, user }
        };
        let record = Arc::new(record);
        let revision = self.store.create(&key(record.id), encode(&record)?).await?;
        self.index.lock().put(Arc::clone(&record), revision);
        Ok(record)
    }

    /// Takes back one that was made before the store lost it. Its user had room
    /// for it then, so neither the quota nor the limit is asked; twice the limit
    /// is the most that origins may bring.
    pub async fn restore(&self, record: Record) -> Result<Arc<Record>, CreateError> {
        if self.index.lock().held.len() >= self.limit.saturating_mul(2) {
            return Err(CreateError::Full);
        }
        let record = Arc::new(record);
        let revision = self.store.create(&key(record.id), encode(&record)?).await?;
        self.index.lock().put(Arc::clone(&record), revision);
        Ok(record)
    }

    /// Lets `change` change one, again on the newest record when somebody else
    /// was faster. What stands now, and whether this changed it; `None` when
    /// there is no such broadcast.
    pub async fn change(
        &self,
        id: BroadcastId,
        change: impl Fn(&mut Record) -> bool,
    ) -> Result<Option<(Arc<Record>, bool)>, store::Error> {
        for _ in 0..ATTEMPTS {
            let held = {
                let index = self.index.lock();
                index.held.get(&id).map(|held| (Arc::clone(&held.record), held.revision))
            };
            let Some((record, revision)) = held else { return Ok(None) };
            let mut changed = Record::clone(&record);
            if !change(&mut changed) {
                return Ok(Some((record, false)));
            }
            match self.store.update(&key(id), encode(&changed)?, revision).await {
                Ok(revision) => {
                    let record = Arc::new(changed);
                    self.index.lock().put(Arc::clone(&record), revision);
                    return Ok(Some((record, true)));
                }
                Err(store::Error::Conflict) => self.reload(id).await?,
                Err(error) => return Err(error),
            }
        }
        Err(store::Error::Conflict)
    }

    async fn reload(&self, id: BroadcastId) -> Result<(), store::Error> {
        match self.store.get(&key(id)).await? {
            Some(entry) => {
                if let Ok(record) = serde_json::from_slice::<Record>(&entry.value) {
                    self.index.lock().put(Arc::new(record), entry.revision);
                }
            }
            None => self.index.lock().remove(id),
        }
        Ok(())
    }

    /// Forgets one.
    pub async fn remove(&self, id: BroadcastId) -> Result<(), store::Error> {
        self.store.delete(&key(id), None).await?;
        self.index.lock().remove(id);
        Ok(())
    }

    /// `count` of the public ones that are live, drawn anew each time, and how
    /// many there are in all. `random` decides.
    pub fn sample(&self, count: usize, random: u64) -> (Vec<Listed>, usize) {
        let index = self.index.lock();
        let picked = draw(index.live.len(), count, random);
        let listed = picked.into_iter().filter_map(|at| {
            let held = index.held.get(index.live.get(at)?)?;
            Some(Listed { record: Arc::clone(&held.record), line: Arc::clone(&held.line) })
        });
        (listed.collect(), index.live.len())
    }

    /// Those that `wanted` picks.
    pub fn all(&self, wanted: impl Fn(&Record) -> bool) -> Vec<Arc<Record>> {
        self.all_shown(|record, _| wanted(record))
    }

    /// Those that `wanted` picks by what is known and by [`Self::shown`].
    pub fn all_shown(&self, wanted: impl Fn(&Record, Phase) -> bool) -> Vec<Arc<Record>> {
        let index = self.index.lock();
        let picked = index.held.values().filter(|held| wanted(&held.record, held.shown));
        picked.map(|held| Arc::clone(&held.record)).collect()
    }

    /// What people are told of a broadcast. No origin can say that a broadcast
    /// is interrupted when it was killed: what it said last stays in the record,
    /// for it may come back and know better.
    pub fn shown(&self, record: &Record) -> Phase {
        self.index.lock().shown(record)
    }

    /// Which origins no control hears now.
    pub fn on_away(&self, away: HashSet<NodeId>) {
        let mut index = self.index.lock();
        if index.away == away {
            return;
        }
        let before = std::mem::replace(&mut index.away, away);
        let changed: HashSet<NodeId> = before.symmetric_difference(&index.away).cloned().collect();
        index.relist(&changed);
    }

    /// An origin is heard again.
    pub fn on_back(&self, origin: &NodeId) {
        let mut index = self.index.lock();
        if let Some(origin) = index.away.take(origin) {
            index.relist(&[origin].into());
        }
    }

    /// The broadcasts of an origin that are not over.
    pub fn running_on(&self, origin: &NodeId) -> Vec<Arc<Record>> {
        self.all(|record| record.origin == *origin && !record.is_ended())
    }

    /// How many there are in each phase, as they are shown.
    pub fn counts(&self) -> [(Phase, u64); Phase::ALL.len()] {
        let counts = self.index.lock().counts;
        std::array::from_fn(|at| (Phase::ALL[at], counts[at]))
    }
}

impl Index {
    /// Takes a record unless a newer one is held.
    fn put(&mut self, record: Arc<Record>, revision: Revision) {
        let id = record.id;
        if self.held.get(&id).is_some_and(|held| held.revision >= revision) {
            return;
        }
        self.remove(id);
        let shown = self.shown(&record);
        let listed = shown == Phase::Live && !record.is_private();
        let live_at = listed.then_some(self.live.len());
        if listed {
            self.live.push(id);
        }
        self.counts[shown as usize] += 1;
        self.count_user(record.memo.user.filter(|_| !record.is_ended()), true);
        self.held.insert(id, Held { record, line: Arc::default(), revision, shown, live_at });
    }

    fn shown(&self, record: &Record) -> Phase {
        match record.phase {
            Phase::Live if self.away.contains(&record.origin) => Phase::Interrupted,
            phase => phase,
        }
    }

    /// Takes those of these origins in anew, as they are to be shown now.
    fn relist(&mut self, origins: &HashSet<NodeId>) {
        let theirs = self.held.values().filter(|held| origins.contains(&held.record.origin));
        let theirs: Vec<_> = theirs.map(|held| (Arc::clone(&held.record), held.revision)).collect();
        for (record, revision) in theirs {
            self.remove(record.id);
            self.put(record, revision);
        }
    }

    /// A broadcast of this user's more or less.
    fn count_user(&mut self, user: Option<UserId>, more: bool) {
        let Some(user) = user else { return };
        let count = self.of_user.entry(user).or_default();
        *count = if more { count.saturating_add(1) } else { count.saturating_sub(1) };
        if *count == 0 {
            self.of_user.remove(&user);
        }
    }

    fn remove(&mut self, id: BroadcastId) {
        let Some(held) = self.held.remove(&id) else { return };
        self.counts[held.shown as usize] -= 1;
        self.count_user(held.record.memo.user.filter(|_| !held.record.is_ended()), false);
        if let Some(at) = held.live_at {
            self.live.swap_remove(at);
            if let Some(moved) = self.live.get(at).and_then(|id| self.held.get_mut(id)) {
                moved.live_at = Some(at);
            }
        }
    }
}

/// `count` different numbers below `of`, every choice as likely: the first steps
/// of a Fisher-Yates shuffle, remembering only what was moved.
fn draw(of: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut moved: HashMap<usize, usize> = HashMap::new();
    let mut state = seed;
    let pick = |at: usize| {
        let other = at + (next_random(&mut state) % (of - at) as u64) as usize;
        let chosen = moved.get(&other).copied().unwrap_or(other);
        let displaced = moved.get(&at).copied().unwrap_or(at);
        moved.insert(other, displaced);
        chosen
    };
    (0..count.min(of)).map(pick).collect()
}

/// SplitMix64: fair and fast, no secret.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
