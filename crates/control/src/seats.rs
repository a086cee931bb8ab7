//! The seats of every broadcast, kept in the store.
//!
//! One task for each broadcast that has viewers. It takes what waits for it
//! (joins, leaves, connections that begin and end), applies all of it to the
//! record and writes once, by compare-and-set; only then are the joins
//! answered. So a hundred joins that arrive together cost one write, and of any
//! number exactly as many get a seat as there are. When all seats are taken
//! nothing changes, and joins are answered from memory. Who gets which seat is
//! [`crate::admission`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use spyglass_daemon::{Backoff, now_utc, random};
use spyglass_media::{BroadcastId, UtcTime, ViewerId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::warn;

use crate::admission::{self, Limits, Seat};
use crate::fleet::SeatChange;
use crate::store::{self, Revision, Store};

/// Commands that may wait for one broadcast; further callers wait for room.
const WAITING: usize = 1_024;

/// Commands that share one write.
const BATCH: usize = 256;

/// Changes kept for another attempt while the store fails.
const KEPT: usize = 4_096;

/// When that attempt is made.
const RETRY: Duration = Duration::from_secs(1);

/// How long a write is tried against other controls, who each get through when
/// this one does not.
const CONTEST: Duration = Duration::from_secs(3);

/// Who is said to be connected, and whom no origin names within this time, is
/// taken to be gone. Origins name all their viewers every 10 s, so that two of
/// three such lists may be late.
const NAMED: Duration = Duration::from_secs(30);

/// The longest pause between two of these attempts.
const PAUSE: Duration = Duration::from_millis(16);

type Answer<T> = oneshot::Sender<Result<T, store::Error>>;

enum Command {
    Join(ViewerId, Answer<Option<Seat>>),
    Leave(ViewerId),
    Connection(SeatChange),
    /// So many seats from now on.
    Count(Count),
    OriginSilent,
}

/// How many seats a broadcast has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// All of them.
    pub seats: u32,
    /// Of the push tier.
    pub push: u32,
}

/// See the module.
pub struct Seats {
    store: Arc<dyn Store>,
    limits: Arc<Mutex<Limits>>,
    /// Until when seats of before this start wait for their viewers.
    restart: UtcTime,
    desks: Mutex<HashMap<BroadcastId, Open>>,
}

/// The way to a desk, which closes when this is dropped.
struct Open {
    commands: mpsc::Sender<Command>,
    /// The broadcast is over, and not just control.
    ended: Arc<AtomicBool>,
    written: Arc<Written>,
    /// What the desk was told of its own number of seats.
    count: Option<Count>,
}

/// What is known of the record in the store without reading it. A desk whose
/// own is older reads it before it decides anything.
#[derive(Debug, Default)]
struct Written {
    /// The newest revision that was heard of.
    newest: AtomicU64,
    /// How often revisions were missed.
    missed: AtomicU64,
}

impl Written {
    fn now(&self) -> (u64, u64) {
        (self.newest.load(Ordering::Acquire), self.missed.load(Ordering::Acquire))
    }
}

/// What the names of seats in the store begin with.
const PREFIX: &str = "seats/";

fn key(id: BroadcastId) -> String {
    format!("{PREFIX}{id}")
}

impl Seats {
    /// `started` is when this control did: seats from before have the
    /// reservation's time from then on to show that somebody sits there.
    pub fn new(store: Arc<dyn Store>, limits: Limits, started: UtcTime) -> Self {
        let restart = started + limits.reservation;
        let limits = Arc::new(Mutex::new(limits));
        Self { store, limits, restart, desks: Mutex::default() }
    }

    /// A seat for `viewer`, its own if it has one, or `None` when all are taken.
    pub async fn join(
        &self,
        id: BroadcastId,
        viewer: ViewerId,
    ) -> Result<Option<Seat>, store::Error> {
        let (answer, answered) = oneshot::channel();
        self.tell(id, Command::Join(viewer, answer)).await;
        let gone = || store::Error::Unavailable("the broadcast has ended".to_owned());
        answered.await.map_err(|_| gone())?
    }

    /// Whether `viewer` has a seat, as the store knows.
    pub async fn holds(&self, id: BroadcastId, viewer: ViewerId) -> Result<bool, store::Error> {
        let Some(entry) = self.store.get(&key(id)).await? else { return Ok(false) };
        let seats = serde_json::from_slice::<admission::Seats>(&entry.value).unwrap_or_default();
        Ok(seats.holds(viewer))
    }

    /// `viewer` gives its seat up, if it has one.
    pub async fn leave(&self, id: BroadcastId, viewer: ViewerId) {
        self.tell(id, Command::Leave(viewer)).await;
    }

    /// A push connection began or ended.
    pub async fn on_change(&self, change: SeatChange) {
        let (SeatChange::Begun(id, _) | SeatChange::Ended(id, _) | SeatChange::Unknown(id, _)) =
            change;
        self.tell(id, Command::Connection(change)).await;
    }

    /// This broadcast has a number of seats of its own.
    pub async fn set_count(&self, id: BroadcastId, seats: Count) {
        let known = self.desks.lock().get(&id).is_some_and(|desk| desk.count == Some(seats));
        if known {
            return;
        }
        self.tell(id, Command::Count(seats)).await;
        if let Some(desk) = self.desks.lock().get_mut(&id) {
            desk.count = Some(seats);
        }
    }

    /// No control hears of the broadcast's origin any more, as far as this one
    /// knows: who is connected has [`NAMED`] to show up again. A control that
    /// does hear of it says so before that is over.
    pub async fn on_origin_silent(&self, id: BroadcastId) {
        self.tell(id, Command::OriginSilent).await;
    }

    /// Nothing of an ended broadcast need be kept.
    pub async fn forget(&self, id: BroadcastId) -> Result<(), store::Error> {
        self.end(id);
        self.store.delete(&key(id), None).await
    }

    /// Some control wrote a record of seats.
    pub fn on_written(&self, key: &str, revision: Revision) {
        let Some(Ok(id)) = key.strip_prefix(PREFIX).map(str::parse::<BroadcastId>) else { return };
        if let Some(desk) = self.desks.lock().get(&id) {
            desk.written.newest.fetch_max(revision.0, Ordering::AcqRel);
        }
    }

    /// Other controls may have written anything.
    pub fn on_missed(&self) {
        for desk in self.desks.lock().values() {
            desk.written.newest.store(0, Ordering::Release);
            desk.written.missed.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The broadcast is over, and its seats with it.
    pub fn end(&self, id: BroadcastId) {
        if let Some(desk) = self.desks.lock().remove(&id) {
            desk.ended.store(true, Ordering::Relaxed);
        }
    }

    async fn tell(&self, id: BroadcastId, command: Command) {
        let desk = {
            let mut desks = self.desks.lock();
            desks.entry(id).or_insert_with(|| self.open(id)).commands.clone()
        };
        // Fails when the broadcast ends at this moment; then nobody needs a seat.
        let _ = desk.send(command).await;
    }

    /// Other limits from now on; nobody loses a seat by it.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.lock() = limits;
    }

    fn open(&self, id: BroadcastId) -> Open {
        let (commands, waiting) = mpsc::channel(WAITING);
        let ended = Arc::new(AtomicBool::new(false));
        let written = Arc::<Written>::default();
        let desk = Desk {
            key: key(id),
            store: Arc::clone(&self.store),
            limits: Arc::clone(&self.limits),
            count: None,
            restart: Some(self.restart),
            held: None,
            ended: Arc::clone(&ended),
            written: Arc::clone(&written),
            seen: (0, 0),
        };
        tokio::spawn(desk.run(waiting));
        Open { commands, ended, written, count: None }
    }
}

/// The task of one broadcast.
struct Desk {
    key: String,
    store: Arc<dyn Store>,
    limits: Arc<Mutex<Limits>>,
    /// Seats of this broadcast, where they are not everybody's.
    count: Option<Count>,
    /// Set until the record has been read for the first time, and what is in
    /// doubt then is written.
    restart: Option<UtcTime>,
    /// What the store holds, as far as is known.
    held: Option<Held>,
    ended: Arc<AtomicBool>,
    written: Arc<Written>,
    /// What was known of the record when it was last read or written.
    seen: (u64, u64),
}

#[derive(Clone)]
struct Held {
    seats: admission::Seats,
    revision: Option<Revision>,
}

impl Desk {
    async fn run(mut self, mut waiting: mpsc::Receiver<Command>) {
        let mut batch: Vec<Command> = Vec::new();
        // The store failed: until when it is not tried again, and why.
        let mut away: Option<(Instant, store::Error)> = None;
        loop {
            let again = away.as_ref().map(|(until, _)| until.duration_since(Instant::now()));
            let wait = again.or_else(|| self.wait());
            tokio::select! {
                count = waiting.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        break;
                    }
                }
                () = async { tokio::time::sleep(wait.unwrap_or_default()).await }, if wait.is_some() => {}
            }
            if let Some((until, error)) = &away
                && Instant::now() < *until
            {
                // Who joins now does not wait for what has just failed.
                refuse_joins(&mut batch, error);
                continue;
            }
            away = None;
            if let Err(error) = self.serve(&mut batch).await {
                warn!(key = self.key, %error, "seats cannot be written; trying again");
                self.held = None;
                refuse_joins(&mut batch, &error);
                away = Some((Instant::now() + RETRY, error));
            }
        }
        if self.ended.load(Ordering::Relaxed)
            && let Err(error) = self.store.delete(&self.key, None).await
        {
            warn!(key = self.key, %error, "seats of an ended broadcast stay in the store");
        }
    }

    fn wait(&self) -> Option<Duration> {
        let next = self.held.as_ref()?.seats.next_deadline()?;
        Some(next.since(now_utc()))
    }

    /// Applies the batch, writes, answers. On an error the batch is untouched.
    async fn serve(&mut self, batch: &mut Vec<Command>) -> Result<(), store::Error> {
        let until = Instant::now() + CONTEST;
        let mut pause = Backoff::new(PAUSE / 16, PAUSE);
        while Instant::now() < until {
            let held = self.read().await?;
            let mut seats = held.seats.clone();
            let mut limits = *self.limits.lock();
            let told = batch.iter().rev().find_map(|command| match command {
                Command::Count(seats) => Some(*seats),
                _ => None,
            });
            self.count = told.or(self.count);
            if let Some(Count { seats, push }) = self.count {
                (limits.seats, limits.push) = (seats, push);
            }
            let now = now_utc();
            // This control has not heard of these seats before: their viewers
            // may have gone while none did, or be watched over by another.
            let in_doubt = self.restart.is_some_and(|until| seats.on_doubt(now + NAMED, until));
            let (given, applied) = apply(&mut seats, batch, limits, now);
            let changed = in_doubt || applied;
            let revision = if changed {
                match self.write(&seats, held.revision).await {
                    Ok(revision) => Some(revision),
                    // Another control was faster: look again.
                    Err(store::Error::Conflict | store::Error::Exists) => {
                        self.held = None;
                        let pause = pause.next(u32::from_le_bytes(random()));
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            } else {
                held.revision
            };
            if changed && let Some(Revision(own)) = revision {
                // Only what comes after our own is news.
                let before = self.written.newest.fetch_max(own, Ordering::AcqRel);
                if before <= own {
                    self.seen.0 = own;
                }
            }
            self.restart = None;
            self.held = Some(Held { seats, revision });
            let joins = batch.drain(..).filter_map(|command| match command {
                Command::Join(_, answer) => Some(answer),
                _ => None,
            });
            for (answer, seat) in joins.zip(given) {
                // Who gave up waiting leaves a reservation that lapses.
                let _ = answer.send(Ok(seat));
            }
            return Ok(());
        }
        Err(store::Error::Conflict)
    }

    async fn read(&mut self) -> Result<Held, store::Error> {
        let written = self.written.now();
        if let Some(held) = &self.held
            && written == self.seen
        {
            return Ok(held.clone());
        }
        let held = match self.store.get(&self.key).await? {
            None => Held { seats: admission::Seats::default(), revision: None },
            Some(entry) => {
                let seats: admission::Seats = serde_json::from_slice(&entry.value)
                    .map_err(|error| store::Error::Unavailable(format!("{}: {error}", self.key)))?;
                Held { seats, revision: Some(entry.revision) }
            }
        };
        self.seen = written;
        Ok(held)
    }

    async fn write(
        &self,
        seats: &admission::Seats,
        revision: Option<Revision>,
    ) -> Result<Revision, store::Error> {
        let value = serde_json::to_vec(seats)
            .map_err(|_| store::Error::Unfit("a record of seats that is no JSON"))?;
        match revision {
            Some(revision) => self.store.update(&self.key, Bytes::from(value), revision).await,
            None => self.store.create(&self.key, Bytes::from(value)).await,
        }
    }
}

/// The seats given to the batch's joins, in their order, and whether anything
/// is different now.
fn apply(
    seats: &mut admission::Seats,
    batch: &[Command],
    limits: Limits,
    now: UtcTime,
) -> (Vec<Option<Seat>>, bool) {
    let mut changed = seats.on_deadline(now);
    let mut given = Vec::new();
    for command in batch {
        changed |= match command {
            Command::Join(viewer, _) => {
                let seat = seats.on_join(*viewer, limits, now);
                given.push(seat);
                seat.is_some()
            }
            Command::Leave(viewer) => seats.on_leave(*viewer),
            Command::Count(_) => false,
            Command::OriginSilent => seats.on_doubt(now + NAMED, now + limits.reservation),
            Command::Connection(SeatChange::Begun(_, lease)) => seats.on_lease(lease, limits),
            Command::Connection(SeatChange::Ended(_, lease)) => {
                seats.on_lease_end(lease, limits.grace, now)
            }
            // Its origin is lost; a reservation's time to come back.
            Command::Connection(SeatChange::Unknown(_, lease)) => {
                seats.on_lease_end(lease, limits.reservation, now)
            }
        };
    }
    (given, changed)
}

/// Answers the joins; the rest is tried again, of each connection the last that
/// was heard.
fn refuse_joins(batch: &mut Vec<Command>, error: &store::Error) {
    let mut told = HashSet::new();
    let mut rest = Vec::new();
    for command in batch.drain(..).rev() {
        let is_last = match &command {
            Command::Connection(
                SeatChange::Begun(_, lease)
                | SeatChange::Ended(_, lease)
                | SeatChange::Unknown(_, lease),
            ) => told.insert(*lease),
            _ => true,
        };
        match command {
            Command::Join(_, answer) => drop(answer.send(Err(error.clone()))),
            command if is_last => rest.push(command),
            _ => {}
        }
    }
    if rest.len() > KEPT {
        warn!(count = rest.len() - KEPT, "changes of seats dropped");
        rest.truncate(KEPT);
    }
    rest.reverse();
    *batch = rest;
}

#[cfg(test)]
mod tests;
