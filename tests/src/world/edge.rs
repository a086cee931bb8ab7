//! An edge: its directory, its slot, its viewers, and what keeps the promises
//! between them, as `crates/edge/src/broadcasts.rs` does. The watch and the
//! fetches are `link.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use spyglass_edge::directory::{Directory, State};
use spyglass_edge::refusal::Refusal;
use spyglass_edge::slot::{self, Poll, Slot, Standing};
use spyglass_edge::viewers::Viewers;
use spyglass_media::{BroadcastId, NodeId, Resource, UtcTime, Version, ViewerId};
use spyglass_token::WatchGrant;

use super::link::{Link, Ticket};
use super::list::{Held, List};
use super::network::{Answer, Event, Network, ToEdge, ToViewer};

/// How long an origin that has said nothing is waited for.
const SETTLE: Duration = Duration::from_secs(5);

/// What an edge counts with while it knows no target duration.
const TARGET: Duration = Duration::from_secs(4);

/// No request waits longer: to know what exists, then for the first list.
pub const LONGEST: Duration = Duration::from_secs(9);

/// Something that a viewer waits for.
#[derive(Clone, Copy, Debug)]
struct Ask {
    viewer: usize,
    request: u64,
    resource: Resource,
    asked: Duration,
    /// The timer that was set last.
    until: Duration,
}

/// An object that is held, or on its way to those who asked.
#[derive(Debug)]
pub(super) enum Object {
    Held(Bytes),
    Fetching(Vec<(usize, u64)>),
}

#[derive(Debug)]
pub(super) struct Edge {
    pub number: usize,
    pub id: BroadcastId,
    pub origin: NodeId,
    pub directory: Directory,
    pub slot: Option<Slot<Held>>,
    pub viewers: Viewers,
    pub link: Link,
    pub tickets: BTreeMap<u64, Ticket>,
    pub next_ticket: u64,
    pub objects: BTreeMap<Resource, Object>,
    asks: BTreeMap<u64, Ask>,
    next_ask: u64,
    /// The newest version that notices of the present origin process named.
    pub told: (u64, Version),
    /// Drop every notice, as `--ignore-notices` does.
    pub deaf: bool,
    /// List fetches started.
    pub list_fetches: u64,
    /// Objects of a list served here that were not to be had.
    pub missing: u32,
    /// Refusals given, by word.
    pub refused: BTreeMap<&'static str, u64>,
}

impl Edge {
    pub fn new(net: &Network, number: usize) -> Self {
        let origin: NodeId = "origin".parse().expect("a node's name");
        let mut directory = Directory::new(10, SETTLE);
        directory.on_origins(net.instant(), [origin.clone()]);
        Self {
            number,
            id: BroadcastId::from_random([7; 16]),
            origin,
            directory,
            slot: None,
            viewers: Viewers::new(1_000),
            link: Link::default(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            objects: BTreeMap::new(),
            asks: BTreeMap::new(),
            next_ask: 0,
            told: (0, Version::default()),
            deaf: false,
            list_fetches: 0,
            missing: 0,
            refused: BTreeMap::new(),
        }
    }

    /// A process that takes the place of this one and knows nothing of it.
    pub fn successor(&self, net: &mut Network) -> Self {
        let mut successor = Self::new(net, self.number);
        successor.link = self.link.successor();
        successor.deaf = self.deaf;
        // Numbers go on, so that what is still on its way to this one reaches
        // nobody; so do counts.
        successor.next_ticket = self.next_ticket;
        successor.next_ask = self.next_ask;
        successor.list_fetches = self.list_fetches;
        successor.missing = self.missing;
        successor.refused = self.refused.clone();
        successor.watch(net);
        successor
    }

    // ---- viewers

    pub fn on_request(
        &mut self,
        net: &mut Network,
        viewer: usize,
        request: u64,
        resource: Resource,
    ) {
        let target = self.slot.as_ref().and_then(Slot::target).unwrap_or(TARGET);
        let grant = self.grant(viewer_id(viewer));
        self.viewers.on_request(net.instant(), net.utc(), &grant, 3 * target);
        self.next_ask += 1;
        let until = Duration::ZERO;
        let ask = Ask { viewer, request, resource, asked: net.now, until };
        self.asks.insert(self.next_ask, ask);
        self.pursue(net, self.next_ask);
    }

    /// The token that a viewer shows: always the same.
    fn grant(&self, viewer: ViewerId) -> WatchGrant {
        WatchGrant {
            broadcast: self.id,
            viewer,
            user: None,
            seat: None,
            push: false,
            comment: false,
            generation: 0,
            issued: UtcTime::from_millis(0),
            expires: UtcTime::from_millis(0),
        }
    }

    /// Nobody is there any more to be answered.
    pub fn on_left(&mut self, viewer: usize, last: u64) {
        self.asks.retain(|_, ask| ask.viewer != viewer || ask.request > last);
    }

    /// Something changed: everyone who waits asks again.
    pub fn wake(&mut self, net: &mut Network) {
        for ask in self.asks.keys().copied().collect::<Vec<_>>() {
            self.pursue(net, ask);
        }
    }

    /// One turn of a request's loop.
    pub fn pursue(&mut self, net: &mut Network, number: u64) {
        let Some(&ask) = self.asks.get(&number) else { return };
        match self.standing(net) {
            Ok(()) => {}
            Err(Refusal::Starting) if net.now < ask.asked + Duration::from_secs(1) => {
                return self.wait(net, number, ask.asked + Duration::from_secs(1));
            }
            Err(refusal) => return self.refuse(net, number, refusal),
        }
        let list = matches!(ask.resource, Resource::Index | Resource::Chunklist);
        if !list && self.serve_object(net, number, ask) {
            return;
        }
        let (now, asked) = (net.instant(), net.instant() - (net.now - ask.asked));
        let slot = self.open(net);
        let polled = slot.on_poll(now, asked);
        if polled.declare {
            self.declare(net);
        }
        if let Some(fetch) = polled.fetch {
            self.fetch_list(net, fetch);
        }
        match polled.poll {
            Poll::Serve { list, age, aged } => self.serve(net, number, ask, list.0, age, aged),
            Poll::TooFar | Poll::Late => unreachable!("nobody waits for a number here"),
            Poll::GiveUp { known } => {
                let refusal = if known { Refusal::Upstream } else { Refusal::NotYet };
                self.refuse(net, number, refusal);
            }
            Poll::Wait { until, .. } => {
                let until = net.simulated(until);
                assert!(until > net.now, "a wait that is over before it begins");
                self.wait(net, number, until);
            }
        }
    }

    fn wait(&mut self, net: &mut Network, number: u64, until: Duration) {
        let Some(ask) = self.asks.get_mut(&number) else { return };
        assert!(until <= ask.asked + LONGEST, "waits for {:?}", until - ask.asked);
        if std::mem::replace(&mut ask.until, until) != until {
            net.at(until, Event::Edge(self.number, ToEdge::Again { ask: number }));
        }
    }

    fn serve(
        &mut self,
        net: &mut Network,
        number: u64,
        ask: Ask,
        list: Arc<List>,
        age: Duration,
        aged: bool,
    ) {
        let Self { number: edge, told, .. } = self;
        assert!(list.version >= told.1, "edge {edge}: {} is known old: {told:?}", list.version);
        net.judge.on_served(net.now, self.number, &list, age, aged);
        if matches!(ask.resource, Resource::Index | Resource::Chunklist) {
            self.asks.remove(&number);
            self.answer(net, ask.viewer, ask.request, Answer::List(list));
        } else if !self.serve_object(net, number, ask) {
            self.missing += 1;
            self.refuse(net, number, Refusal::NotFound);
        }
    }

    /// Serves, fetches or joins the fetch of an object; false when nothing
    /// says that it exists.
    fn serve_object(&mut self, net: &mut Network, number: u64, ask: Ask) -> bool {
        let waits = match self.objects.get_mut(&ask.resource) {
            Some(Object::Held(bytes)) => {
                let bytes = bytes.clone();
                self.asks.remove(&number);
                self.answer(net, ask.viewer, ask.request, Answer::Object(bytes));
                return true;
            }
            Some(Object::Fetching(waiting)) => Some(waiting),
            None => None,
        };
        let slot = self.slot.as_ref();
        if slot.and_then(|slot| slot.may_exist(ask.resource)) != Some(true) {
            return false;
        }
        match waits {
            Some(waiting) => waiting.push((ask.viewer, ask.request)),
            None => {
                let waiting = Object::Fetching(vec![(ask.viewer, ask.request)]);
                self.objects.insert(ask.resource, waiting);
                self.fetch_object(net, ask.resource);
            }
        }
        self.asks.remove(&number);
        if self.slot.as_mut().is_some_and(|slot| slot.on_viewer(net.instant())) {
            self.declare(net);
        }
        true
    }

    fn refuse(&mut self, net: &mut Network, number: u64, refusal: Refusal) {
        if let Some(ask) = self.asks.remove(&number) {
            self.refuse_now(net, ask.viewer, ask.request, refusal);
        }
    }

    pub fn refuse_now(&mut self, net: &mut Network, viewer: usize, request: u64, why: Refusal) {
        net.note(format_args!("edge {}: {} for viewer {viewer}", self.number, why.as_str()));
        *self.refused.entry(why.as_str()).or_default() += 1;
        self.answer(net, viewer, request, Answer::Refused(why));
    }

    pub fn answer(&mut self, net: &mut Network, viewer: usize, request: u64, answer: Answer) {
        net.send(Event::Viewer(viewer, ToViewer::Answer { request, answer }));
    }

    /// What is known of the broadcast's existence.
    fn standing(&self, net: &Network) -> Result<(), Refusal> {
        match self.directory.get(self.id) {
            Some(known) if known.entry.state == State::Gone => Err(Refusal::Gone),
            Some(_) => Ok(()),
            None if self.directory.settled(net.instant()) => Err(Refusal::NotFound),
            None => Err(Refusal::Starting),
        }
    }

    // ---- the slot

    fn open(&mut self, net: &Network) -> &mut Slot<Held> {
        if self.slot.is_none() {
            self.slot = Some(Slot::new(slot::Limits::default(), net.instant()));
            self.refresh();
        }
        self.slot.get_or_insert_with(|| unreachable!("it was put there"))
    }

    /// Brings the slot up to date with directory and watch; true when whoever
    /// waits must be woken.
    pub fn refresh(&mut self) -> bool {
        let known = self.directory.get(self.id);
        let standing = known.map(|known| Standing {
            incarnation: known.entry.incarnation,
            begun: known.entry.state != State::Created,
            target: known.entry.target,
        });
        if let Some(standing) = standing {
            self.told = heard(self.told, standing.incarnation, Version::default());
        }
        let watched = self.link.alive && known.is_some();
        let Some(slot) = &mut self.slot else { return true };
        let mut wake = slot.on_standing(standing);
        wake |= slot.on_watch(watched);
        wake || known.is_none_or(|known| known.entry.state == State::Gone)
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let slot = self.slot.as_ref().and_then(Slot::next_deadline);
        [slot, self.viewers.next_deadline()].into_iter().flatten().min()
    }

    pub fn on_deadline(&mut self, net: &mut Network) {
        let now = net.instant();
        self.viewers.on_deadline(now);
        let known = self.directory.get(self.id).map(|known| known.entry.state);
        let Some(slot) = &mut self.slot else { return };
        if slot.on_deadline(now) {
            net.note(format_args!("edge {}: no viewer any more", self.number));
            let forget = matches!(known, None | Some(State::Gone));
            if forget {
                self.slot = None;
                self.told.1 = Version::default();
            }
            self.declare(net);
        }
    }
}

/// What notices have named: a new process of the origin begins anew, and the
/// words of one that is gone mean nothing.
pub(super) fn heard(told: (u64, Version), incarnation: u64, version: Version) -> (u64, Version) {
    told.max((incarnation, version))
}

pub(super) fn viewer_id(viewer: usize) -> ViewerId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(viewer as u64).to_le_bytes());
    ViewerId::from_random(bytes)
}
