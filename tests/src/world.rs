//! A world in memory: a publisher, an origin, edges and viewers as their state
//! machines, and a network between them with latency, loss and reordering.
//!
//! Time jumps from one event to the next, so a simulated minute takes
//! milliseconds, and chance comes from a seed, so a failure repeats: a failing
//! test prints its seed and what happened last. What is real here are the
//! machines (segmenter, chunklist, life, timeline, slot, directory, viewers);
//! what carries their inputs and outputs is this module's, in the place of the
//! tasks and sockets of the services.
//!
//! Everything is watched on its way by a judge (`judge.rs`): each
//! version of the list, each list served, each object received. So a scenario
//! only says what happens, and what it expects besides.

mod broadcast;
mod edge;
mod judge;
mod link;
mod list;
mod network;
mod origin;
mod publisher;
mod random;
mod viewer;
pub mod walk;

use std::time::Duration;

use spyglass_media::{Resource, Version};
use spyglass_origin::life::{ConnectionId, Phase};

use edge::Edge;
use network::{Event, Network, ToPublisher};
use origin::Origin;
use publisher::Publisher;
use viewer::Viewer;

pub use link::Broken;
pub use network::Weather;
pub use publisher::{Programme, Stall};
pub use random::Random;

/// Events at one moment beyond which time is said to stand still.
const AT_ONCE: u32 = 100_000;

/// One broadcast and everybody who has to do with it.
pub struct World {
    seed: u64,
    net: Network,
    origin: Origin,
    edges: Vec<Edge>,
    viewers: Vec<Viewer>,
    publisher: Publisher,
}

/// What has been counted, over all edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Versions of the list that the origin made.
    pub versions: u64,
    /// Lists that edges answered with.
    pub served: u64,
    /// … of which had aged while the upstream did not answer.
    pub aged: u64,
    /// Requests that reached the origin, lists and objects.
    pub requests: u64,
    /// Notices that the origin sent.
    pub notices: u64,
    /// List fetches that edges started.
    pub list_fetches: u64,
    /// Refusals that edges gave.
    pub refusals: u64,
    /// Requests for objects of a list that were not to be had.
    pub missing: u32,
}

impl World {
    /// An origin with `edges` edges and `viewers` viewers spread over them, who
    /// have not come yet; chunks of 3 s; nobody broadcasts yet.
    pub fn new(seed: u64, edges: usize, viewers: usize) -> Self {
        let mut net = Network::new(seed);
        let mut origin = Origin::new(Duration::from_secs(3));
        origin.start(&mut net);
        origin.announce(&mut net);
        let mut edges: Vec<_> = (0..edges).map(|number| Edge::new(&net, number)).collect();
        for edge in &mut edges {
            edge.watch(&mut net);
        }
        let count = edges.len();
        let viewers = (0..viewers).map(|number| Viewer::new(number, number % count)).collect();
        let publisher = Publisher::new(Programme::PLAIN);
        Self { seed, net, origin, edges, viewers, publisher }
    }

    // ---- time

    /// Lets this much time pass.
    pub fn pass(&mut self, time: Duration) {
        self.pass_until(self.net.now + time);
    }

    /// Lets so many seconds pass.
    pub fn seconds(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    /// Since the world began.
    pub fn now(&self) -> Duration {
        self.net.now
    }

    /// Lets time pass until `done`, `most` seconds at most; false when not.
    pub fn seconds_until(&mut self, most: u64, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.net.now + Duration::from_secs(most);
        while !done(self) {
            if self.net.now >= end {
                return false;
            }
            self.pass_until(end.min(self.net.now + Duration::from_millis(100)));
        }
        true
    }

    fn pass_until(&mut self, end: Duration) {
        let mut at_once = 0;
        while let Some(next) = self.next().filter(|next| *next <= end) {
            if next > self.net.now {
                self.net.now = next;
                at_once = 0;
            }
            at_once += 1;
            assert!(at_once < AT_ONCE, "time stands still");
            self.step();
        }
        self.net.now = end;
        for viewer in &self.viewers {
            viewer.check_patience(end);
        }
    }

    fn next(&self) -> Option<Duration> {
        let edges = self.edges.iter().filter_map(Edge::next_deadline);
        let machines = edges.chain(self.origin.next_deadline()).min();
        let machines = machines.map(|deadline| self.net.simulated(deadline));
        machines.into_iter().chain(self.net.next()).min()
    }

    /// Everything that is due now.
    fn step(&mut self) {
        let now = self.net.instant();
        if self.origin.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.origin.on_deadline(&mut self.net);
            self.settle();
        }
        for edge in &mut self.edges {
            if edge.next_deadline().is_some_and(|deadline| deadline <= now) {
                edge.on_deadline(&mut self.net);
            }
        }
        while let Some(event) = self.net.due() {
            match event {
                Event::Origin(edge, message) => {
                    self.origin.on_message(&mut self.net, edge, message);
                    self.settle();
                }
                Event::Edge(edge, message) => self.edges[edge].on_message(&mut self.net, message),
                Event::Viewer(viewer, message) => {
                    self.viewers[viewer].on_message(&mut self.net, message);
                }
                Event::Publisher(ToPublisher::Connect) => self.connect(),
                Event::Publisher(ToPublisher::Tick(connection)) => self.tick(connection),
                Event::Saved(page) => self.origin.on_saved(*page),
            }
        }
    }

    fn settle(&mut self) {
        // An answer to an order may bring the next one.
        loop {
            let orders = self.origin.settle(&mut self.net);
            if orders.is_empty() {
                return;
            }
            for (connection, order) in orders {
                self.order(connection, order);
            }
        }
    }

    fn order(&mut self, connection: ConnectionId, order: broadcast::Order) {
        use broadcast::Order;
        match order {
            Order::Accepted => self.publisher.on_accepted(&mut self.net, connection),
            Order::Refused | Order::Cut => self.publisher.on_closed(&mut self.net, connection),
            Order::Ended => {
                self.publisher.retired = true;
                self.publisher.on_closed(&mut self.net, connection);
            }
            Order::Ping if self.publisher.is_alive(connection) => {
                self.origin.on_alive(&mut self.net, connection);
            }
            Order::Ping => {}
        }
    }

    fn connect(&mut self) {
        if let Some(connection) = self.publisher.connect(&mut self.net) {
            if !self.origin.on_publish(&mut self.net, connection) {
                self.publisher.on_closed(&mut self.net, connection);
            }
            self.settle();
        }
    }

    fn tick(&mut self, connection: ConnectionId) {
        for sent in self.publisher.on_tick(&mut self.net, connection) {
            self.origin.on_media(&mut self.net, connection, sent);
        }
        self.settle();
    }

    // ---- the publisher

    /// What will be broadcast from the next connection on.
    pub fn programme(&mut self, programme: Programme) {
        self.publisher.programme = programme;
    }

    /// Somebody broadcasts, and tries again when the connection breaks.
    pub fn publish(&mut self) {
        self.publisher.retired = false;
        self.connect();
    }

    /// Nothing comes from the publisher, or it comes again.
    pub fn stall(&mut self, stall: Option<Stall>) {
        self.net.note(format_args!("publisher: stall {stall:?}"));
        self.publisher.stall(stall);
    }

    /// The publisher is gone until [`Self::publish`]. `noticed`: the origin
    /// sees the connection close.
    pub fn publisher_vanishes(&mut self, noticed: bool) {
        self.net.note(format_args!("publisher: gone, noticed: {noticed}"));
        self.publisher.retired = true;
        if let Some(connection) = self.publisher.vanish()
            && noticed
        {
            self.origin.on_closed(&mut self.net, connection);
            self.settle();
        }
    }

    /// The encoder's settings change with its next key frame.
    pub fn codec_changes(&mut self) {
        self.net.note("publisher: another codec");
        self.publisher.change_codec();
    }

    /// The publisher's time stamps jump.
    pub fn clock_jumps(&mut self, millis: i32) {
        self.net.note(format_args!("publisher: clock jumps by {millis} ms"));
        self.publisher.jump(millis);
    }

    /// The owner ends the broadcast.
    pub fn end(&mut self) {
        self.net.note("the owner ends the broadcast");
        self.origin.end(&mut self.net);
        self.settle();
    }

    // ---- the origin

    /// The origin's process is killed; its machine closes the connections
    /// unless it goes `quietly`.
    pub fn kill_origin(&mut self, quietly: bool) {
        self.origin.kill(&mut self.net, quietly);
        if let Some(connection) = self.publisher.connection() {
            self.publisher.on_closed(&mut self.net, connection);
        }
    }

    /// What the origin kept on its disk is gone.
    pub fn lose_state(&mut self) {
        self.origin.lose_state(&mut self.net);
    }

    /// The origin's process starts again.
    pub fn start_origin(&mut self) {
        if !self.origin.is_up() {
            self.origin.start(&mut self.net);
            self.settle();
        }
    }

    /// How long the origin's disk takes to write a page.
    pub fn journal_takes(&mut self, time: Duration) {
        self.origin.journal = time;
    }

    /// Where the broadcast stands; `None` while the origin knows of none.
    pub fn phase(&self) -> Option<Phase> {
        self.origin.phase()
    }

    /// The newest version that the origin has.
    pub fn version(&self) -> Option<Version> {
        self.origin.version()
    }

    // ---- the network

    /// How messages travel from now on.
    pub fn weather(&mut self, weather: Weather) {
        self.net.note(format_args!("{weather:?}"));
        self.net.weather = weather;
    }

    /// An edge drops every notice from now on.
    pub fn ignore_notices(&mut self) {
        self.edges.iter_mut().for_each(|edge| edge.deaf = true);
    }

    /// The way of an edge's watch breaks, or is mended.
    pub fn break_watch(&mut self, edge: usize, broken: Option<Broken>) {
        self.net.note(format_args!("edge {edge}: way of the watch {broken:?}"));
        self.edges[edge].break_watch(&mut self.net, broken);
    }

    /// The way of an edge's fetches breaks, or is mended.
    pub fn break_fetches(&mut self, edge: usize, broken: Option<Broken>) {
        self.net.note(format_args!("edge {edge}: way of fetches {broken:?}"));
        self.edges[edge].link.fetch = broken;
    }

    /// An edge's process is another one, that knows nothing.
    pub fn restart_edge(&mut self, edge: usize) {
        self.net.note(format_args!("edge {edge}: restarts"));
        self.edges[edge] = self.edges[edge].successor(&mut self.net);
        for viewer in self.viewers.iter_mut().filter(|viewer| viewer.edge == edge) {
            viewer.on_edge_restart(&mut self.net);
        }
    }

    // ---- viewers

    /// A viewer comes.
    pub fn arrive(&mut self, viewer: usize) {
        self.viewers[viewer].arrive(&mut self.net);
    }

    /// All viewers come, within one chunk's length.
    pub fn everybody_arrives(&mut self) {
        for viewer in 0..self.viewers.len() {
            let wait = self.net.random.millis(0, 3_000) / self.viewers.len() as u32;
            self.pass(wait);
            self.arrive(viewer);
        }
    }

    /// A viewer goes.
    pub fn leave(&mut self, viewer: usize) {
        self.viewers[viewer].leave(&mut self.net);
    }

    /// All viewers go.
    pub fn everybody_leaves(&mut self) {
        for viewer in 0..self.viewers.len() {
            self.leave(viewer);
        }
    }

    /// The version that a viewer has.
    pub fn seen(&self, viewer: usize) -> Version {
        self.viewers[viewer].version()
    }

    /// The text that a viewer has.
    pub fn text(&self, viewer: usize) -> &str {
        self.viewers[viewer].list.as_ref().map_or("", |list| &list.text)
    }

    /// The sequence numbers of the chunks that a viewer has.
    pub fn chunks(&self, viewer: usize) -> Vec<u64> {
        self.viewers[viewer].chunks.iter().copied().collect()
    }

    /// Whether every viewer who watches has this version, or a newer one.
    pub fn everybody_has(&self, version: Version) -> bool {
        let mut watching = self.viewers.iter().filter(|viewer| viewer.watching || viewer.ended);
        watching.all(|viewer| viewer.ended || viewer.version() >= version)
    }

    /// [`Self::everybody_has`] it before so many seconds are over.
    pub fn everybody_has_within(&mut self, version: Version, seconds: u64) -> bool {
        self.seconds_until(seconds, |world| world.everybody_has(version))
    }

    /// Whether every viewer who came has seen the end.
    pub fn everybody_saw_the_end(&self) -> bool {
        self.viewers.iter().all(|viewer| viewer.ended || !viewer.watching)
    }

    /// How many viewers have been told that it is over.
    pub fn saw_the_end(&self) -> usize {
        self.viewers.iter().filter(|viewer| viewer.ended).count()
    }

    /// Chance, of this world's seed.
    pub fn random(&mut self) -> &mut Random {
        &mut self.net.random
    }

    // ---- counts

    /// What has been counted so far.
    pub fn counts(&self) -> Counts {
        let judge = &self.net.judge;
        Counts {
            versions: judge.made,
            served: judge.served,
            aged: judge.aged,
            requests: self.origin.requests,
            notices: self.origin.notices,
            list_fetches: self.edges.iter().map(|edge| edge.list_fetches).sum(),
            refusals: self.edges.iter().flat_map(|edge| edge.refused.values()).sum(),
            missing: self.edges.iter().map(|edge| edge.missing).sum(),
        }
    }

    /// How long the oldest list that was served as good had not been the newest.
    pub fn stalest(&self) -> Duration {
        self.net.judge.stalest
    }

    /// How often an edge has fetched each version of the list.
    pub fn list_fetches(&self, edge: usize) -> Vec<(Version, u32)> {
        let mine = self.origin.lists.iter().filter(|((number, _), _)| *number == edge);
        mine.map(|((_, version), count)| (*version, *count)).collect()
    }

    /// How often an edge has fetched each object.
    pub fn object_fetches(&self, edge: usize) -> Vec<(Resource, u32)> {
        let mine = self.origin.objects.iter().filter(|((number, _), _)| *number == edge);
        mine.map(|((_, resource), count)| (*resource, *count)).collect()
    }

    /// Viewers that the edges count.
    pub fn counted_viewers(&self) -> usize {
        self.edges.iter().map(|edge| edge.viewers.count()).sum()
    }

    /// Stands for everything that has happened: equal for equal seeds.
    pub fn digest(&self) -> u64 {
        self.net.digest()
    }
}

impl Drop for World {
    /// What a failing test says besides the rule that is broken.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for note in self.net.notes() {
                eprintln!("{note}");
            }
            eprintln!("the world of seed {}, at {:?}", self.seed, self.net.now);
        }
    }
}
