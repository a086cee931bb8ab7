//! The clock that jumps, and what travels: messages wait in one queue until
//! their time has come.
//!
//! A watch is a gRPC stream, so its directory and heartbeats stay in order.
//! Notices may be lost, doubled, late and out of order while their watch lives,
//! which is more than a stream does to them: nothing may lean on their order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use spyglass_edge::directory::Entry;
use spyglass_edge::refusal::Refusal;
use spyglass_media::{Position, Resource, UtcTime, Version};
use spyglass_origin::life::ConnectionId;

use super::broadcast::Page;
use super::judge::Judge;
use super::list::List;
use super::random::Random;

/// The wall clock when a world begins.
const BEGIN: UtcTime = UtcTime::from_millis(1_790_000_000_000);

/// Notes kept for whoever reads about a failure.
const NOTES: usize = 120;

/// How the network behaves; chances are in percent.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// The shortest way of a message.
    pub least: Duration,
    /// The longest.
    pub most: Duration,
    /// Notices that never arrive.
    pub lost: u32,
    /// Notices that arrive twice.
    pub doubled: u32,
    /// What a notice may take longer, so that it is overtaken.
    pub late: Duration,
    /// Fetches that fail.
    pub failed: u32,
    /// Fetches that are never answered.
    pub hung: u32,
    /// Fetches of a list that bring the version before the newest.
    pub old: u32,
}

impl Weather {
    /// Nothing is lost, and everything takes a little while.
    pub const FAIR: Self = Self {
        least: Duration::from_millis(5),
        most: Duration::from_millis(40),
        lost: 0,
        doubled: 0,
        late: Duration::ZERO,
        failed: 0,
        hung: 0,
        old: 0,
    };
}

/// Something that reaches somebody.
#[derive(Debug)]
pub(super) enum Event {
    /// From the edge of this number.
    Origin(usize, ToOrigin),
    /// To the edge of this number.
    Edge(usize, ToEdge),
    /// To the viewer of this number.
    Viewer(usize, ToViewer),
    /// To the publisher.
    Publisher(ToPublisher),
    /// A page has reached the origin's disk.
    Saved(Box<Page>),
}

#[derive(Debug)]
pub(super) enum ToOrigin {
    /// A watch begins.
    Watch { connection: u64 },
    /// There is interest, and this is held; or there is none.
    Interest { connection: u64, holding: Option<Holding> },
    /// A second has passed on this watch.
    Beat { connection: u64 },
    /// An object is asked for.
    Fetch { ticket: u64, resource: Resource, least: Version },
    /// A fetch has waited for long enough.
    WaitOver { ticket: u64 },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Holding {
    pub version: Option<Version>,
    pub position: Option<Position>,
}

#[derive(Debug)]
pub(super) enum ToEdge {
    /// The whole directory: one broadcast, or none.
    Snapshot { connection: u64, entry: Option<Entry> },
    /// The directory's entry changed.
    Change { connection: u64, entry: Option<Entry> },
    /// The origin lives.
    Beat { connection: u64 },
    /// The watch is closed, or was refused.
    Closed { connection: u64 },
    /// A notice.
    Expire { connection: u64, version: Version, position: Position, incarnation: u64 },
    /// What a fetch brought.
    Fetched { ticket: u64, result: Result<Fetched, Failure> },
    /// A viewer asks.
    Request { viewer: usize, request: u64, resource: Resource },
    /// The connection that carried a viewer's requests up to this one has closed.
    Left { viewer: usize, last: u64 },
    /// It is time to try the watch again.
    Rewatch,
    /// It is time to see whether the watch is silent.
    Silence { connection: u64 },
    /// It is time to ask the slot again.
    Again { ask: u64 },
    /// A fetch's time is over.
    Over { ticket: u64 },
    /// An object's second attempt is due.
    Retry { ticket: u64 },
}

#[derive(Clone, Debug)]
pub(super) enum Fetched {
    List { list: Arc<List>, incarnation: u64, age: Duration },
    Object(Bytes),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Missing,
    NotYet,
    Unreachable,
}

#[derive(Debug)]
pub(super) enum ToViewer {
    /// It is time to ask for the list.
    Poll { after: u64 },
    /// It is time to ask for this again.
    Again(Resource),
    /// What a request brought.
    Answer { request: u64, answer: Answer },
}

/// What an edge answers.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    List(Arc<List>),
    Object(Bytes),
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ToPublisher {
    /// Its encoder has something to send.
    Tick(ConnectionId),
    /// It tries to publish.
    Connect,
}

struct Queued {
    at: Duration,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Time, chance, everything on its way, and the judge who sees it all.
pub(super) struct Network {
    base: Instant,
    pub now: Duration,
    pub random: Random,
    pub weather: Weather,
    pub judge: Judge,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    /// When the last message of each edge's watch arrives, by direction.
    streams: BTreeMap<(usize, bool), Duration>,
    notes: VecDeque<String>,
    digest: DefaultHasher,
}

impl Network {
    pub fn new(seed: u64) -> Self {
        Self {
            // Only distances from here are ever looked at.
            base: Instant::now(),
            now: Duration::ZERO,
            random: Random::new(seed),
            weather: Weather::FAIR,
            judge: Judge::default(),
            queue: BinaryHeap::new(),
            order: 0,
            streams: BTreeMap::new(),
            notes: VecDeque::new(),
            digest: DefaultHasher::new(),
        }
    }

    /// Now, as the machines know it.
    pub fn instant(&self) -> Instant {
        self.base + self.now
    }

    pub fn utc(&self) -> UtcTime {
        BEGIN + self.now
    }

    /// A machine's deadline, as simulated time.
    pub fn simulated(&self, deadline: Instant) -> Duration {
        deadline.saturating_duration_since(self.base)
    }

    // ---- sending

    /// A timer.
    pub fn at(&mut self, at: Duration, event: Event) {
        self.order += 1;
        let at = at.max(self.now);
        self.queue.push(Reverse(Queued { at, order: self.order, event }));
    }

    /// A timer, from now.
    pub fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now + wait, event);
    }

    /// A message of its own connection.
    pub fn send(&mut self, event: Event) {
        let latency = self.latency();
        self.after(latency, event);
    }

    /// A message of a watch, behind all earlier ones.
    pub fn send_in_order(&mut self, edge: usize, message: ToEdge) {
        let at = self.behind_others((edge, false));
        self.at(at, Event::Edge(edge, message));
    }

    /// The other direction of a watch.
    pub fn send_up_in_order(&mut self, edge: usize, message: ToOrigin) {
        let at = self.behind_others((edge, true));
        self.at(at, Event::Origin(edge, message));
    }

    fn behind_others(&mut self, stream: (usize, bool)) -> Duration {
        let at = self.now + self.latency();
        let last = self.streams.entry(stream).or_default();
        *last = at.max(*last);
        *last
    }

    /// A notice: it may be lost, come twice, or late.
    pub fn notice(&mut self, edge: usize, connection: u64, list: &List, incarnation: u64) {
        let copies = if self.random.percent(self.weather.lost) {
            0
        } else {
            1 + u32::from(self.random.percent(self.weather.doubled))
        };
        for _ in 0..copies {
            let late = self.random.between(Duration::ZERO, self.weather.late);
            let wait = self.latency() + late;
            let List { version, position, .. } = *list;
            let notice = ToEdge::Expire { connection, version, position, incarnation };
            self.after(wait, Event::Edge(edge, notice));
        }
    }

    pub fn latency(&mut self) -> Duration {
        self.random.between(self.weather.least, self.weather.most)
    }

    // ---- time

    /// When the next event is due.
    pub fn next(&self) -> Option<Duration> {
        self.queue.peek().map(|Reverse(queued)| queued.at)
    }

    /// The next event, if it is due.
    pub fn due(&mut self) -> Option<Event> {
        if self.next()? > self.now {
            return None;
        }
        self.queue.pop().map(|Reverse(queued)| queued.event)
    }

    // ---- reading about it afterwards

    /// Remembers what happened, for the message of a failure.
    pub fn note(&mut self, note: impl std::fmt::Display) {
        let note = format!("{:10.4} {note}", self.now.as_secs_f64());
        self.digest.write(note.as_bytes());
        if self.notes.len() == NOTES {
            self.notes.pop_front();
        }
        self.notes.push_back(note);
    }

    pub fn notes(&self) -> impl Iterator<Item = &String> {
        self.notes.iter()
    }

    /// Stands for everything ever noted.
    pub fn digest(&self) -> u64 {
        self.digest.finish()
    }
}
