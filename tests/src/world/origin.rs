//! The origin: what edges watch and fetch, and a process that can be killed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spyglass_hls::segmenter::Resume;
use spyglass_media::{Resource, Version};
use spyglass_origin::life::{ConnectionId, Phase};

use super::broadcast::{Broadcast, Effect, Order, Page};
use super::network::{Event, Failure, Fetched, Holding, Network, ToEdge, ToOrigin};
use super::publisher::Sent;

/// A fetch waits this long for a list that is new enough.
const WAIT: Duration = Duration::from_secs(9);

const BEAT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Origin {
    chunk: Duration,
    pub incarnation: u64,
    process: Option<Process>,
    disk: Option<Page>,
    /// How long the disk takes. Nobody is told of a list before its page is
    /// written, unless a test says so.
    pub journal: Duration,
    /// Fetches answered with a list: by edge and version.
    pub lists: BTreeMap<(usize, Version), u32>,
    /// Fetches answered with an object: by edge and name.
    pub objects: BTreeMap<(usize, Resource), u32>,
    /// Fetches of any kind and any end.
    pub requests: u64,
    /// Notices sent.
    pub notices: u64,
}

#[derive(Debug, Default)]
struct Process {
    watches: BTreeMap<usize, Watch>,
    waiting: BTreeMap<(usize, u64), Version>,
    broadcast: Option<Broadcast>,
    /// Begins without state, at this moment; the broadcast's token is older.
    lost: bool,
}

#[derive(Debug)]
struct Watch {
    connection: u64,
    interested: bool,
}

impl Origin {
    pub fn new(chunk: Duration) -> Self {
        Self {
            chunk,
            incarnation: 0,
            process: None,
            disk: None,
            journal: Duration::ZERO,
            lists: BTreeMap::new(),
            objects: BTreeMap::new(),
            requests: 0,
            notices: 0,
        }
    }

    // ---- the process

    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// A process starts with what the disk has.
    pub fn start(&mut self, net: &mut Network) {
        self.incarnation += 1;
        let lost = self.disk.is_none();
        let mut process = Process { lost, ..Process::default() };
        net.note(format_args!("origin: process {} starts", self.incarnation));
        if let Some(page) = &self.disk {
            process.broadcast = Some(Broadcast::restore(net, self.chunk, page));
        }
        self.process = Some(process);
        self.settle(net);
    }

    /// Control tells of the broadcast.
    pub fn announce(&mut self, net: &mut Network) {
        let chunk = self.chunk;
        if let Some(process) = &mut self.process {
            process.lost = false;
            let new = || Broadcast::new(net, chunk, Resume::default());
            process.broadcast.get_or_insert_with(new);
        }
        self.settle(net);
    }

    /// The process is killed. `quietly`: its connections are not closed, as
    /// when the machine is gone. Returns how much of the journal was written.
    pub fn kill(&mut self, net: &mut Network, quietly: bool) {
        let Some(process) = self.process.take() else { return };
        net.note(format_args!("origin: process {} is killed", self.incarnation));
        let version = process.broadcast.as_ref().map(Broadcast::version);
        let written = self.disk.as_ref().map(|page| page.version);
        net.judge.on_restart(version.is_none() || version == written);
        if quietly {
            return;
        }
        for (edge, watch) in process.watches {
            net.send_in_order(edge, ToEdge::Closed { connection: watch.connection });
        }
        for ((edge, ticket), _) in process.waiting {
            let result = Err(Failure::Unreachable);
            net.send(Event::Edge(edge, ToEdge::Fetched { ticket, result }));
        }
    }

    /// The disk is lost.
    pub fn lose_state(&mut self, net: &mut Network) {
        net.note("origin: the state is lost");
        net.judge.on_restart(false);
        self.disk = None;
    }

    pub fn on_saved(&mut self, page: Page) {
        if self.process.is_some() && page.incarnation == self.incarnation {
            self.disk = Some(page);
        }
    }

    // ---- publishers

    /// False when nobody answers.
    pub fn on_publish(&mut self, net: &mut Network, connection: ConnectionId) -> bool {
        let Some(process) = &mut self.process else { return false };
        let broadcast = process.broadcast.get_or_insert_with(|| {
            // The token is as old as the world, and the journal knows nothing:
            // numbers begin where they cannot have been used.
            let seconds = if process.lost { net.now.as_secs() } else { 0 };
            let epoch = seconds as u32;
            let floor = Resume { next_sequence: seconds, epoch, ..Resume::default() };
            Broadcast::new(net, self.chunk, floor)
        });
        broadcast.on_publisher(net, connection);
        true
    }

    pub fn on_closed(&mut self, net: &mut Network, connection: ConnectionId) {
        if let Some(broadcast) = self.broadcast() {
            broadcast.on_closed(net, connection);
        }
    }

    pub fn on_alive(&mut self, net: &mut Network, connection: ConnectionId) {
        if let Some(broadcast) = self.broadcast() {
            broadcast.on_alive(net, connection);
        }
    }

    pub fn on_media(&mut self, net: &mut Network, connection: ConnectionId, sent: Sent) {
        if let Some(broadcast) = self.broadcast() {
            broadcast.on_media(net, connection, sent);
        }
    }

    pub fn end(&mut self, net: &mut Network) {
        if let Some(broadcast) = self.broadcast() {
            broadcast.on_end(net);
        }
    }

    fn broadcast(&mut self) -> Option<&mut Broadcast> {
        self.process.as_mut()?.broadcast.as_mut()
    }

    pub fn phase(&self) -> Option<Phase> {
        self.process.as_ref()?.broadcast.as_ref().map(Broadcast::phase)
    }

    /// The newest version made, if any.
    pub fn version(&self) -> Option<Version> {
        self.process.as_ref()?.broadcast.as_ref()?.list.as_ref().map(|list| list.version)
    }

    // ---- time

    pub fn next_deadline(&self) -> Option<Instant> {
        self.process.as_ref()?.broadcast.as_ref()?.next_deadline()
    }

    pub fn on_deadline(&mut self, net: &mut Network) {
        if let Some(broadcast) = self.broadcast() {
            broadcast.on_deadline(net);
        }
    }

    /// Carries out what the broadcast has asked for. Returns what its
    /// publishers are to be told.
    pub fn settle(&mut self, net: &mut Network) -> Vec<(ConnectionId, Order)> {
        let mut orders = Vec::new();
        loop {
            let effects = self.broadcast().map(Broadcast::effects).unwrap_or_default();
            if effects.is_empty() {
                return orders;
            }
            for effect in effects {
                match effect {
                    Effect::Entry => self.tell_entry(net),
                    Effect::List => self.tell_list(net),
                    Effect::Order(connection, order) => orders.push((connection, order)),
                    Effect::Save => {
                        let incarnation = self.incarnation;
                        if let Some(page) = self.broadcast().map(|it| it.page(incarnation)) {
                            net.after(self.journal, Event::Saved(Box::new(page)));
                        }
                    }
                }
            }
        }
    }

    fn tell_entry(&mut self, net: &mut Network) {
        let Some(process) = &self.process else { return };
        let entry = process.broadcast.as_ref().map(|it| it.entry(self.incarnation));
        for (&edge, watch) in &process.watches {
            let change = ToEdge::Change { connection: watch.connection, entry };
            net.send_in_order(edge, change);
        }
    }

    fn tell_list(&mut self, net: &mut Network) {
        let Some(process) = &mut self.process else { return };
        let Some(list) = process.broadcast.as_ref().and_then(|it| it.list.clone()) else { return };
        for (&edge, watch) in process.watches.iter().filter(|(_, watch)| watch.interested) {
            self.notices += 1;
            net.notice(edge, watch.connection, &list, self.incarnation);
        }
        let ready = process.waiting.extract_if(.., |_, least| *least <= list.version);
        for ((edge, ticket), least) in ready.collect::<Vec<_>>() {
            self.answer_list(net, edge, ticket, least);
        }
    }

    // ---- edges

    pub fn on_message(&mut self, net: &mut Network, edge: usize, message: ToOrigin) {
        let incarnation = self.incarnation;
        let Some(process) = &mut self.process else { return refuse(net, edge, message) };
        match message {
            ToOrigin::Watch { connection } => {
                let entry = process.broadcast.as_ref().map(|it| it.entry(incarnation));
                process.watches.insert(edge, Watch { connection, interested: false });
                net.send_in_order(edge, ToEdge::Snapshot { connection, entry });
                net.after(Duration::ZERO, Event::Origin(edge, ToOrigin::Beat { connection }));
            }
            ToOrigin::Interest { connection, holding } => {
                if let Some(watch) = process.watches.get_mut(&edge)
                    && watch.connection == connection
                {
                    watch.interested = holding.is_some();
                    self.on_interest(net, edge, holding);
                }
            }
            ToOrigin::Beat { connection } => {
                let Some(watch) = process.watches.get(&edge) else { return };
                if watch.connection != connection {
                    return;
                }
                net.send_in_order(edge, ToEdge::Beat { connection });
                if watch.interested {
                    self.tell_version(net, edge);
                }
                net.after(BEAT, Event::Origin(edge, ToOrigin::Beat { connection }));
            }
            ToOrigin::Fetch { ticket, resource, least } => {
                self.requests += 1;
                self.on_fetch(net, edge, ticket, resource, least);
            }
            ToOrigin::WaitOver { ticket } => {
                if process.waiting.remove(&(edge, ticket)).is_some() {
                    let result = Err(Failure::NotYet);
                    net.send(Event::Edge(edge, ToEdge::Fetched { ticket, result }));
                }
            }
        }
    }

    fn on_interest(&mut self, net: &mut Network, edge: usize, holding: Option<Holding>) {
        let Some(Holding { version, position }) = holding else { return };
        if let (Some(version), Some(broadcast)) = (version, self.broadcast()) {
            broadcast.on_held(net, version, position);
        }
        self.tell_version(net, edge);
    }

    fn tell_version(&mut self, net: &mut Network, edge: usize) {
        let Some(process) = &self.process else { return };
        let list = process.broadcast.as_ref().and_then(|it| it.list.as_ref());
        if let (Some(watch), Some(list)) = (process.watches.get(&edge), list) {
            self.notices += 1;
            net.notice(edge, watch.connection, list, self.incarnation);
        }
    }

    fn on_fetch(
        &mut self,
        net: &mut Network,
        edge: usize,
        ticket: u64,
        resource: Resource,
        least: Version,
    ) {
        let Some(process) = &mut self.process else { return };
        let found = match (&process.broadcast, resource) {
            (Some(broadcast), Resource::Index | Resource::Chunklist) => {
                if broadcast.phase() == Phase::Gone {
                    Err(Failure::Missing)
                } else if broadcast.list.as_ref().is_some_and(|list| list.version >= least) {
                    return self.answer_list(net, edge, ticket, least);
                } else {
                    process.waiting.insert((edge, ticket), least);
                    net.after(WAIT, Event::Origin(edge, ToOrigin::WaitOver { ticket }));
                    return;
                }
            }
            (Some(broadcast), _) => broadcast.object(resource).ok_or(Failure::Missing),
            (None, _) => Err(Failure::Missing),
        };
        if found.is_ok() {
            *self.objects.entry((edge, resource)).or_default() += 1;
        }
        let result = found.map(Fetched::Object);
        net.send(Event::Edge(edge, ToEdge::Fetched { ticket, result }));
    }

    fn answer_list(&mut self, net: &mut Network, edge: usize, ticket: u64, least: Version) {
        let incarnation = self.incarnation;
        // An edge that knows nothing yet must take what it is given.
        let old = net.random.percent(net.weather.old) && least > Version::default();
        let Some(broadcast) = self.broadcast() else { return };
        let former = broadcast.former.clone().filter(|_| old);
        let Some(newest) = broadcast.list.clone() else { return };
        let list = former.unwrap_or_else(|| Arc::clone(&newest));
        if list.version < newest.version {
            net.judge.fetched_late = net.judge.fetched_late.max(net.now - newest.made);
        }
        *self.lists.entry((edge, list.version)).or_default() += 1;
        let age = net.now - list.made;
        let result = Ok(Fetched::List { list, incarnation, age });
        net.send(Event::Edge(edge, ToEdge::Fetched { ticket, result }));
    }
}

/// Nobody listens.
fn refuse(net: &mut Network, edge: usize, message: ToOrigin) {
    match message {
        ToOrigin::Watch { connection } => {
            net.send(Event::Edge(edge, ToEdge::Closed { connection }));
        }
        ToOrigin::Fetch { ticket, .. } => {
            let result = Err(Failure::Unreachable);
            net.send(Event::Edge(edge, ToEdge::Fetched { ticket, result }));
        }
        ToOrigin::Interest { .. } | ToOrigin::Beat { .. } | ToOrigin::WaitOver { .. } => {}
    }
}
