//! What owns a broadcast at the origin: carries what happens to the machines
//! (life, timeline, segmenter, chunklist) and does what they return, as
//! `crates/origin/src/broadcast/task.rs` does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use spyglass_edge::directory::{Entry, State};
use spyglass_hls::chunklist::{self, Chunklist, Saved};
use spyglass_hls::segmenter::{self, Codec, Output, Resume, Segmenter};
use spyglass_media::{Frame, MediaTime, Position, Resource, Version};
use spyglass_origin::life::{self, Action, ConnectionId, Life, Phase};
use spyglass_rtmp::timeline::Timeline;

use super::list::List;
use super::network::Network;
use super::publisher::Sent;

/// Where media time begins.
const FIRST: MediaTime = MediaTime::from_millis(1_000);

/// Between two connections of a publisher.
const SEAM: Duration = Duration::from_millis(40);

/// Limits as an origin has them unless told otherwise.
pub const LIFE: life::Limits = life::Limits {
    silence: Duration::from_secs(10),
    resume: Duration::from_secs(30),
    retention: Duration::from_secs(60),
    challenge: Duration::from_secs(2),
};

/// What must happen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The directory's entry changed.
    Entry,
    /// There is a new list.
    List,
    /// The journal wants a page.
    Save,
    /// A publisher's connection is told something.
    Order(ConnectionId, Order),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Accepted,
    Refused,
    Ended,
    Ping,
    Cut,
}

/// What survives a restart.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub incarnation: u64,
    pub version: Version,
    phase: Phase,
    begun: bool,
    last: MediaTime,
    list: Option<Saved>,
    media: BTreeMap<Resource, Bytes>,
}

#[derive(Debug)]
pub(super) struct Broadcast {
    chunk: Duration,
    life: Life,
    segmenter: Option<Segmenter>,
    chunklist: Option<Chunklist>,
    pub list: Option<Arc<List>>,
    /// The version before it.
    pub former: Option<Arc<List>>,
    floor: Resume,
    timeline: Timeline,
    last: MediaTime,
    /// A publisher's token has told the chunk length.
    begun: bool,
    media: BTreeMap<Resource, Bytes>,
    effects: Vec<Effect>,
}

impl Broadcast {
    /// A broadcast that begins no lower than `floor`.
    pub fn new(net: &Network, chunk: Duration, floor: Resume) -> Self {
        Self {
            chunk,
            life: Life::new(LIFE, Phase::Created, net.instant()),
            segmenter: None,
            chunklist: None,
            list: None,
            former: None,
            floor,
            timeline: Timeline::new(FIRST),
            last: FIRST,
            begun: false,
            media: BTreeMap::new(),
            effects: vec![Effect::Entry],
        }
    }

    /// A broadcast as its journal had it.
    pub fn restore(net: &mut Network, chunk: Duration, page: &Page) -> Self {
        let now = net.instant();
        let mut broadcast = Self::new(net, chunk, Resume::default());
        broadcast.life = Life::new(LIFE, page.phase, now);
        broadcast.begun = page.begun;
        broadcast.last = page.last;
        broadcast.media = page.media.clone();
        if let Some(saved) = &page.list {
            broadcast.floor = saved.resume();
            let media = |resource| page.media.get(&resource).cloned();
            let restored = Chunklist::restore(broadcast.lists(), saved.clone(), media);
            let restored = restored.expect("what was saved whole is restored whole");
            if !restored.ended() {
                let mut segmenter = Segmenter::new(broadcast.config(), restored.resume());
                segmenter.on_restart(now, net.utc());
                broadcast.segmenter = Some(segmenter);
            }
            broadcast.chunklist = Some(restored);
        }
        broadcast.publish(net);
        broadcast
    }

    fn config(&self) -> segmenter::Config {
        segmenter::Config { chunk: self.chunk, part: Duration::ZERO }
    }

    fn lists(&self) -> chunklist::Config {
        chunklist::Config::new(self.config().target_duration())
    }

    pub fn page(&self, incarnation: u64) -> Page {
        Page {
            incarnation,
            version: self.version(),
            phase: self.life.phase(),
            begun: self.begun,
            last: self.last,
            list: self.chunklist.as_ref().map(Chunklist::save),
            media: self.media.clone(),
        }
    }

    // ---- what others read

    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub fn phase(&self) -> Phase {
        self.life.phase()
    }

    pub fn version(&self) -> Version {
        self.chunklist.as_ref().map_or(Version::default(), Chunklist::version)
    }

    pub fn entry(&self, incarnation: u64) -> Entry {
        let state = match self.life.phase() {
            Phase::Created => State::Created,
            Phase::Live => State::Live,
            Phase::Interrupted => State::Interrupted,
            Phase::Ended => State::Ended,
            Phase::Gone => State::Gone,
        };
        let target = self.begun.then(|| self.config().target_duration());
        Entry { state, private: false, incarnation, target, fill: None }
    }

    pub fn object(&self, resource: Resource) -> Option<Bytes> {
        self.chunklist.as_ref()?.get(resource)
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let segmenter = self.segmenter.as_ref().and_then(Segmenter::next_deadline);
        [segmenter, self.life.next_deadline()].into_iter().flatten().min()
    }

    // ---- what happens to it

    pub fn on_deadline(&mut self, net: &mut Network) {
        let now = net.instant();
        if let Some(segmenter) = &mut self.segmenter {
            let outputs = segmenter.on_deadline(now);
            self.on_outputs(net, outputs);
        }
        let actions = self.life.on_deadline(now);
        self.carry_out(net, actions);
    }

    pub fn on_publisher(&mut self, net: &mut Network, connection: ConnectionId) {
        let actions = self.life.on_publisher(net.instant(), connection);
        self.carry_out(net, actions);
    }

    pub fn on_closed(&mut self, net: &mut Network, connection: ConnectionId) {
        let actions = self.life.on_closed(net.instant(), connection);
        self.carry_out(net, actions);
    }

    pub fn on_alive(&mut self, net: &mut Network, connection: ConnectionId) {
        let actions = self.life.on_alive(connection);
        self.carry_out(net, actions);
    }

    pub fn on_end(&mut self, net: &mut Network) {
        let actions = self.life.on_end(net.instant());
        self.carry_out(net, actions);
    }

    pub fn on_media(&mut self, net: &mut Network, connection: ConnectionId, sent: Sent) {
        if self.life.publisher() != Some(connection) {
            return;
        }
        self.on_alive(net, connection);
        let Some(segmenter) = &mut self.segmenter else { return };
        match sent {
            Sent::Video(record) => segmenter.on_codec(Codec::Video(record)),
            Sent::Audio(record) => segmenter.on_codec(Codec::Audio(record)),
            Sent::Frame { timestamp, frame } => {
                let mapped = self.timeline.map(timestamp);
                let frame = Frame { dts: mapped.time, ..*frame };
                self.last = self.last.max(frame.dts);
                if mapped.jumped {
                    segmenter.on_jump();
                }
                let now = net.instant();
                let outputs = segmenter.on_frame(now, net.utc(), &frame);
                if segmenter.started() {
                    let actions = self.life.on_frame(now);
                    self.carry_out(net, actions);
                }
                self.on_outputs(net, outputs);
            }
        }
    }

    /// An edge holds this. What this origin never made was made before its
    /// state was lost: nothing that was named then is named again.
    pub fn on_held(&mut self, net: &mut Network, version: Version, position: Option<Position>) {
        let unpublished = self.life.publisher().is_none() && self.life.phase() != Phase::Ended;
        let newer = self
            .chunklist
            .as_ref()
            .is_none_or(|list| version > list.version() || position > list.position());
        if !unpublished || !newer {
            return;
        }
        net.note(format_args!("origin: an edge holds {version}: going on beyond it"));
        net.judge.on_restart(false);
        self.floor.epoch = self.floor.epoch.max(version.epoch);
        let next = position.map_or(0, |position| position.sequence + 1);
        self.floor.next_sequence = self.floor.next_sequence.max(next);
        self.chunklist = None;
        self.segmenter = None;
        self.list = None;
    }

    fn carry_out(&mut self, net: &mut Network, actions: Vec<Action>) {
        for action in actions {
            net.note(format_args!("origin: {action:?}"));
            match action {
                Action::Accept(id) => self.accept(net, id),
                Action::RefuseBusy(id) => self.effects.push(Effect::Order(id, Order::Refused)),
                Action::RefuseEnded(id) => self.effects.push(Effect::Order(id, Order::Ended)),
                Action::Ping(id) => self.effects.push(Effect::Order(id, Order::Ping)),
                Action::Cut(id) => self.effects.push(Effect::Order(id, Order::Cut)),
                Action::Enter(phase) => self.enter(net, phase),
            }
        }
    }

    fn accept(&mut self, net: &mut Network, id: ConnectionId) {
        self.begun = true;
        if self.segmenter.is_none() {
            self.chunklist = Some(Chunklist::new(self.lists(), &self.floor));
            self.segmenter = Some(Segmenter::new(self.config(), self.floor));
        }
        self.timeline.restart(self.last + SEAM);
        if let Some(segmenter) = &mut self.segmenter {
            segmenter.on_publisher(net.instant());
        }
        self.effects.extend([Effect::Entry, Effect::Order(id, Order::Accepted)]);
    }

    fn enter(&mut self, net: &mut Network, phase: Phase) {
        match phase {
            Phase::Ended => {
                let now = net.instant();
                if let Some(mut segmenter) = self.segmenter.take() {
                    let outputs = segmenter.on_end(now);
                    self.on_outputs(net, outputs);
                }
                if let Some(chunklist) = &mut self.chunklist {
                    chunklist.on_end(now);
                }
                self.publish(net);
            }
            Phase::Gone => {
                self.chunklist = None;
                self.list = None;
            }
            Phase::Created | Phase::Live | Phase::Interrupted => {}
        }
        self.effects.extend([Effect::Save, Effect::Entry]);
    }

    fn on_outputs(&mut self, net: &mut Network, outputs: Vec<Output>) {
        let now = net.instant();
        let Some(chunklist) = &mut self.chunklist else { return };
        let mut changed = false;
        for output in outputs {
            match &output {
                Output::Init(init) => {
                    self.media.insert(Resource::Init { epoch: init.epoch }, init.bytes.clone());
                }
                Output::Chunk(chunk) => {
                    let (epoch, sequence) = (chunk.epoch, chunk.sequence);
                    self.media.insert(Resource::Chunk { epoch, sequence }, chunk.bytes.clone());
                }
                Output::Part(_) | Output::Gap(_) | Output::Warning(_) => {}
            }
            changed |= chunklist.on_output(now, output);
        }
        chunklist.expire(now);
        if changed {
            self.publish(net);
        }
    }

    fn publish(&mut self, net: &mut Network) {
        let Some(chunklist) = &mut self.chunklist else { return };
        for resource in chunklist.evicted() {
            self.media.remove(&resource);
        }
        let Some(list) = List::of(chunklist, net.now) else { return };
        let list = Arc::new(list);
        net.note(format_args!(
            "origin: list {} to {}{}{}",
            list.version,
            list.position,
            if list.lines.last().is_some_and(|line| line.gap) { ", a GAP" } else { "" },
            if list.ended { ", ended" } else { "" },
        ));
        net.judge.on_made(&list);
        self.former = self.list.replace(list);
        self.effects.extend([Effect::List, Effect::Save]);
    }
}
