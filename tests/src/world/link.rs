//! An edge's link with its origin: the watch, and the fetches.
//!
//! As `crates/edge/src/{watch,fetch,cache}.rs` do. A watch that is silent for
//! 3 s counts as broken and is tried again; an object's fetch has a second
//! attempt, a list's is the slot's to repeat.

use std::time::Duration;

use spyglass_edge::refusal::Refusal;
use spyglass_edge::slot::{self, FetchId, Filled, Meta, Slot};
use spyglass_media::{Resource, Version};

use super::edge::{Edge, Object, heard};
use super::list::Held;
use super::network::{Answer, Event, Failure, Fetched, Holding, Network, ToEdge, ToOrigin};

/// Without a heartbeat for this long a watch is broken.
const SILENCE: Duration = Duration::from_secs(3);

/// For one object, both attempts together.
const FETCH: Duration = Duration::from_secs(8);

/// Before the second attempt.
const AGAIN: Duration = Duration::from_millis(100);

/// How a way to the origin is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Connections are closed and refused.
    Closed,
    /// Nothing arrives, and nobody says so.
    Silent,
}

#[derive(Debug, Default)]
pub(super) struct Link {
    /// Names the present watch; messages of others mean nothing.
    connection: u64,
    /// The present watch is asked for, or stands.
    open: bool,
    /// It stands, but nothing will ever come through it again.
    dead: bool,
    /// It has told everything.
    pub alive: bool,
    last_beat: Duration,
    attempts: u32,
    /// The way of the watch.
    pub watch: Option<Broken>,
    /// The way of fetches.
    pub fetch: Option<Broken>,
}

impl Link {
    /// Of another process on the same network.
    pub fn successor(&self) -> Self {
        let Self { connection, watch, fetch, .. } = *self;
        Self { connection: connection + 1, watch, fetch, ..Self::default() }
    }
}

/// A fetch under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    what: What,
    until: Duration,
}

#[derive(Clone, Copy, Debug)]
enum What {
    List { id: FetchId },
    Object { resource: Resource, again: bool },
}

impl Edge {
    pub fn on_message(&mut self, net: &mut Network, message: ToEdge) {
        match message {
            ToEdge::Request { viewer, request, resource } => {
                self.on_request(net, viewer, request, resource);
            }
            ToEdge::Left { viewer, last } => self.on_left(viewer, last),
            ToEdge::Again { ask } => self.pursue(net, ask),
            ToEdge::Rewatch => self.watch(net),
            ToEdge::Silence { connection } => self.on_silence(net, connection),
            ToEdge::Snapshot { connection, entry } if self.hears(connection) => {
                self.directory.on_page(&self.origin, entry.map(|it| (self.id, Some(it))), true);
                self.link.alive = true;
                self.link.attempts = 0;
                net.note(format_args!("edge {}: watching, {entry:?}", self.number));
                self.refresh();
                self.wake(net);
            }
            ToEdge::Change { connection, entry } if self.hears(connection) => {
                self.directory.on_change(&self.origin, self.id, entry);
                if self.refresh() {
                    self.wake(net);
                }
            }
            ToEdge::Beat { connection } if self.hears(connection) => {
                self.link.last_beat = net.now;
            }
            ToEdge::Closed { connection } if connection == self.link.connection => {
                self.unwatch(net, "closed");
            }
            ToEdge::Expire { connection, version, position, incarnation }
                if self.hears(connection) && !self.deaf =>
            {
                let Some(slot) = &mut self.slot else { return };
                self.told = heard(self.told, incarnation, version);
                if slot.on_expire(version, Some(position), incarnation) {
                    self.wake(net);
                }
            }
            // Of a watch that is no more.
            ToEdge::Snapshot { .. }
            | ToEdge::Change { .. }
            | ToEdge::Beat { .. }
            | ToEdge::Closed { .. }
            | ToEdge::Expire { .. } => {}
            ToEdge::Fetched { ticket, result } => self.on_fetched(net, ticket, result),
            ToEdge::Over { ticket } => self.on_over(net, ticket),
            ToEdge::Retry { ticket } => {
                if let Some(Ticket { what: What::Object { resource, .. }, .. }) =
                    self.tickets.get(&ticket)
                {
                    let resource = *resource;
                    self.ask_origin(net, ticket, resource, Version::default());
                }
            }
        }
    }

    // ---- the watch

    fn hears(&self, connection: u64) -> bool {
        let link = &self.link;
        link.open && link.connection == connection && !link.dead && link.watch.is_none()
    }

    /// Begins a watch, unless one stands.
    pub fn watch(&mut self, net: &mut Network) {
        if self.link.open {
            return;
        }
        self.link.connection += 1;
        self.link.open = true;
        self.link.dead = false;
        self.link.last_beat = net.now;
        let connection = self.link.connection;
        self.directory.on_watch_begun(&self.origin);
        match self.link.watch {
            Some(Broken::Closed) => {
                net.send(Event::Edge(self.number, ToEdge::Closed { connection }));
            }
            Some(Broken::Silent) => {}
            None => {
                net.send_up_in_order(self.number, ToOrigin::Watch { connection });
                if self.interested() {
                    self.declare(net);
                }
            }
        }
        net.after(SILENCE, Event::Edge(self.number, ToEdge::Silence { connection }));
    }

    fn unwatch(&mut self, net: &mut Network, why: &str) {
        if !self.link.open {
            return;
        }
        net.note(format_args!("edge {}: watch broken, {why}", self.number));
        self.link.open = false;
        self.link.alive = false;
        self.link.connection += 1;
        let most = Duration::from_millis(100 << self.link.attempts.min(3));
        self.link.attempts += 1;
        let pause = net.random.between(most / 2, most);
        net.after(pause, Event::Edge(self.number, ToEdge::Rewatch));
        if self.refresh() {
            self.wake(net);
        }
    }

    /// The way of the watch breaks, or is mended.
    pub fn break_watch(&mut self, net: &mut Network, broken: Option<Broken>) {
        self.link.watch = broken;
        match broken {
            Some(Broken::Closed) => self.unwatch(net, "cut"),
            Some(Broken::Silent) => self.link.dead = true,
            None => {}
        }
    }

    fn on_silence(&mut self, net: &mut Network, connection: u64) {
        if !self.link.open || self.link.connection != connection {
            return;
        }
        let due = self.link.last_beat + SILENCE;
        if due <= net.now {
            self.unwatch(net, "silent");
        } else {
            net.at(due, Event::Edge(self.number, ToEdge::Silence { connection }));
        }
    }

    fn interested(&self) -> bool {
        self.slot.as_ref().is_some_and(Slot::interested)
    }

    fn holding(&self) -> Holding {
        let held = self.slot.as_ref().and_then(Slot::held);
        Holding {
            version: held.map(|held| held.version),
            position: held.and_then(|held| held.position),
        }
    }

    /// Interest has begun or ended.
    pub fn declare(&mut self, net: &mut Network) {
        if self.link.open && !self.link.dead && self.link.watch.is_none() {
            let holding = self.interested().then(|| self.holding());
            let connection = self.link.connection;
            net.send_up_in_order(self.number, ToOrigin::Interest { connection, holding });
        }
    }

    // ---- fetches

    pub fn fetch_list(&mut self, net: &mut Network, fetch: slot::Fetch) {
        let until = net.simulated(fetch.until);
        let under_way = self
            .tickets
            .values()
            .filter(|ticket| matches!(ticket.what, What::List { .. }) && ticket.until > net.now);
        assert_eq!(under_way.count(), 0, "a second fetch of the list");
        self.list_fetches += 1;
        net.note(format_args!("edge {}: fetch {}", self.number, fetch.least));
        let what = What::List { id: fetch.id };
        let ticket = self.ticket(net, what, until);
        self.ask_origin(net, ticket, Resource::Chunklist, fetch.least);
    }

    pub fn fetch_object(&mut self, net: &mut Network, resource: Resource) {
        let until = net.now + FETCH;
        let ticket = self.ticket(net, What::Object { resource, again: false }, until);
        self.ask_origin(net, ticket, resource, Version::default());
    }

    fn ticket(&mut self, net: &mut Network, what: What, until: Duration) -> u64 {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.tickets.insert(ticket, Ticket { what, until });
        net.at(until, Event::Edge(self.number, ToEdge::Over { ticket }));
        ticket
    }

    fn ask_origin(&mut self, net: &mut Network, ticket: u64, resource: Resource, least: Version) {
        let failed = net.random.percent(net.weather.failed);
        let hung = net.random.percent(net.weather.hung);
        if self.link.fetch == Some(Broken::Silent) || hung {
            return;
        }
        if self.link.fetch == Some(Broken::Closed) || failed {
            let result = Err(Failure::Unreachable);
            return net.send(Event::Edge(self.number, ToEdge::Fetched { ticket, result }));
        }
        net.send(Event::Origin(self.number, ToOrigin::Fetch { ticket, resource, least }));
    }

    fn on_fetched(&mut self, net: &mut Network, ticket: u64, result: Result<Fetched, Failure>) {
        if self.link.fetch == Some(Broken::Silent) {
            return;
        }
        let Some(under_way) = self.tickets.get_mut(&ticket) else { return };
        if let (What::Object { again, .. }, Err(Failure::Unreachable)) =
            (&mut under_way.what, &result)
            && !std::mem::replace(again, true)
        {
            return net.after(AGAIN, Event::Edge(self.number, ToEdge::Retry { ticket }));
        }
        if let Some(ticket) = self.tickets.remove(&ticket) {
            self.filled(net, ticket.what, result);
        }
    }

    fn on_over(&mut self, net: &mut Network, ticket: u64) {
        if let Some(ticket) = self.tickets.remove(&ticket) {
            self.filled(net, ticket.what, Err(Failure::NotYet));
        }
    }

    fn filled(&mut self, net: &mut Network, what: What, result: Result<Fetched, Failure>) {
        match what {
            What::List { id } => self.list_filled(net, id, result),
            What::Object { resource, .. } => self.object_filled(net, resource, result),
        }
    }

    fn list_filled(&mut self, net: &mut Network, id: FetchId, result: Result<Fetched, Failure>) {
        let Some(slot) = &mut self.slot else { return };
        let outcome = match result {
            Ok(Fetched::List { list, incarnation, age }) => {
                let meta = Meta {
                    version: list.version,
                    position: Some(list.position),
                    target: list.target,
                    ended: list.ended,
                    incarnation,
                    age,
                    unconfirmed: Duration::ZERO,
                    part_target: None,
                    last_parts: 0,
                };
                let filled = slot.on_filled(net.instant(), id, meta, Held(list));
                if matches!(filled, Filled::Stored | Filled::TooOld) {
                    self.told = heard(self.told, incarnation, Version::default());
                }
                filled.as_str()
            }
            Ok(Fetched::Object(_)) | Err(_) => {
                slot.on_failed(net.instant(), id);
                "failed"
            }
        };
        let held = self.holding().version.unwrap_or_default();
        net.note(format_args!("edge {}: fetched, {outcome}, holds {held}", self.number));
        self.wake(net);
    }

    fn object_filled(
        &mut self,
        net: &mut Network,
        resource: Resource,
        result: Result<Fetched, Failure>,
    ) {
        let Some(Object::Fetching(waiting)) = self.objects.remove(&resource) else { return };
        let (held, answer) = match result {
            Ok(Fetched::Object(bytes)) => {
                (Some(Object::Held(bytes.clone())), Answer::Object(bytes))
            }
            Err(Failure::Missing) => {
                self.missing += waiting.len() as u32;
                (None, Answer::Refused(Refusal::NotFound))
            }
            Ok(Fetched::List { .. }) | Err(_) => (None, Answer::Refused(Refusal::Upstream)),
        };
        self.objects.extend(held.map(|held| (resource, held)));
        for (viewer, request) in waiting {
            match &answer {
                Answer::Refused(why) => self.refuse_now(net, viewer, request, *why),
                _ => self.answer(net, viewer, request, answer.clone()),
            }
        }
    }
}
