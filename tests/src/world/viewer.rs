//! A viewer: polls as 6.3.4 of the HLS specification paces it, fetches what is
//! new, and checks what it is given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use spyglass_edge::refusal::Refusal;
use spyglass_media::{Resource, Version};

use super::edge::LONGEST;
use super::list::List;
use super::network::{Answer, Event, Network, ToEdge, ToViewer};

/// Chunks that a viewer begins with.
const BEHIND: usize = 3;

/// After a 503, as Retry-After says; and half a target duration while none is
/// known.
const AGAIN: Duration = Duration::from_secs(1);

/// Attempts at one object.
const ATTEMPTS: u32 = 4;

/// Ways there and back, and a fetch behind the wait for a list.
const SLACK: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Request {
    resource: Resource,
    asked: Duration,
}

#[derive(Debug)]
pub(super) struct Viewer {
    pub number: usize,
    pub edge: usize,
    pub watching: bool,
    next_request: u64,
    /// Polls so far: a timer set before the last one means nothing.
    polls: u64,
    requests: BTreeMap<u64, Request>,
    /// The list it has.
    pub list: Option<Arc<List>>,
    wanted: BTreeSet<Resource>,
    attempts: BTreeMap<Resource, u32>,
    /// Chunks it has.
    pub chunks: BTreeSet<u64>,
    inits: BTreeSet<u32>,
    /// The newest that it has asked for.
    newest: Option<u64>,
    /// Answers of 503.
    pub unavailable: u32,
    /// It has been told that the broadcast is over.
    pub ended: bool,
}

impl Viewer {
    pub fn new(number: usize, edge: usize) -> Self {
        Self {
            number,
            edge,
            watching: false,
            next_request: 0,
            polls: 0,
            requests: BTreeMap::new(),
            list: None,
            wanted: BTreeSet::new(),
            attempts: BTreeMap::new(),
            chunks: BTreeSet::new(),
            inits: BTreeSet::new(),
            newest: None,
            unavailable: 0,
            ended: false,
        }
    }

    pub fn version(&self) -> Version {
        self.list.as_ref().map_or(Version::default(), |list| list.version)
    }

    pub fn arrive(&mut self, net: &mut Network) {
        if !self.watching && !self.ended {
            self.watching = true;
            net.note(format_args!("viewer {} arrives at edge {}", self.number, self.edge));
            self.poll(net);
        }
    }

    /// Its connections close; what is under way is answered to nobody.
    pub fn leave(&mut self, net: &mut Network) {
        if std::mem::take(&mut self.watching) {
            net.note(format_args!("viewer {} leaves", self.number));
            self.requests.clear();
            self.wanted.clear();
            self.attempts.clear();
            net.send(Event::Edge(
                self.edge,
                ToEdge::Left { viewer: self.number, last: self.next_request },
            ));
        }
    }

    /// The edge's process is another one: what was asked is not answered.
    pub fn on_edge_restart(&self, net: &mut Network) {
        for &request in self.requests.keys() {
            let answer = Answer::Refused(Refusal::Upstream);
            net.send(Event::Viewer(self.number, ToViewer::Answer { request, answer }));
        }
    }

    /// Fails when it has waited for longer than any answer may take.
    pub fn check_patience(&self, now: Duration) {
        for Request { resource, asked } in self.requests.values() {
            let waited = now - *asked;
            assert!(waited < LONGEST + SLACK, "viewer {} waits for {resource}", self.number);
        }
    }

    fn ask(&mut self, net: &mut Network, resource: Resource) {
        self.next_request += 1;
        let (viewer, request) = (self.number, self.next_request);
        self.requests.insert(request, Request { resource, asked: net.now });
        net.send(Event::Edge(self.edge, ToEdge::Request { viewer, request, resource }));
    }

    pub fn on_message(&mut self, net: &mut Network, message: ToViewer) {
        if !self.watching {
            return;
        }
        match message {
            ToViewer::Poll { after } if after == self.polls => self.poll(net),
            ToViewer::Poll { .. } => {}
            ToViewer::Again(resource) if self.wanted.contains(&resource) => {
                self.ask(net, resource);
            }
            ToViewer::Again(_) => {}
            ToViewer::Answer { request, answer } => {
                let Some(request) = self.requests.remove(&request) else { return };
                match request.resource {
                    Resource::Index | Resource::Chunklist => {
                        self.on_list(net, request.asked, answer);
                    }
                    resource => self.on_object(net, resource, answer),
                }
            }
        }
    }

    fn poll(&mut self, net: &mut Network) {
        self.polls += 1;
        self.ask(net, Resource::Chunklist);
    }

    fn next_poll(&self) -> Event {
        Event::Viewer(self.number, ToViewer::Poll { after: self.polls })
    }

    fn on_list(&mut self, net: &mut Network, asked: Duration, answer: Answer) {
        let list = match answer {
            Answer::List(list) => list,
            Answer::Refused(Refusal::Gone) => return self.stop(net),
            Answer::Refused(Refusal::NotFound) => return net.after(2 * AGAIN, self.next_poll()),
            Answer::Refused(_) | Answer::Object(_) => {
                self.unavailable += 1;
                return net.after(AGAIN, self.next_poll());
            }
        };
        let changed = self.list.as_ref().is_none_or(|had| had.version != list.version);
        if let Some(had) = &self.list {
            assert!(had.version <= list.version, "a list older than {}", had.version);
            assert!(had.first() <= list.first(), "MEDIA-SEQUENCE went back");
            assert!(!had.ended || !changed, "something follows ENDLIST");
        }
        self.choose(net, &list);
        let last = list.lines.last().map_or(Duration::ZERO, |line| line.duration);
        let pause = if changed { last } else { list.target / 2 };
        let ended = list.ended;
        self.list = Some(list);
        if ended {
            self.ended = true;
        } else {
            net.at(asked + pause, self.next_poll());
        }
        self.rest(net);
    }

    /// Fetches what it has not had yet, and the inits that this needs.
    fn choose(&mut self, net: &mut Network, list: &List) {
        let media = list.lines.iter().filter(|line| !line.gap);
        let from = match self.newest {
            Some(newest) => newest + 1,
            None => media.clone().rev().take(BEHIND).last().map_or(0, |line| line.sequence),
        };
        for line in media.filter(|line| line.sequence >= from) {
            self.newest = Some(line.sequence);
            let Resource::Chunk { epoch, .. } = line.resource else {
                panic!("{} is listed as a chunk", line.resource);
            };
            let init = (!self.inits.contains(&epoch)).then_some(Resource::Init { epoch });
            for resource in init.into_iter().chain([line.resource]) {
                if self.wanted.insert(resource) {
                    self.ask(net, resource);
                }
            }
        }
    }

    fn on_object(&mut self, net: &mut Network, resource: Resource, answer: Answer) {
        match answer {
            Answer::Object(bytes) => {
                net.judge.on_object(resource, &bytes);
                match resource {
                    Resource::Chunk { sequence, .. } => _ = self.chunks.insert(sequence),
                    Resource::Init { epoch } => _ = self.inits.insert(epoch),
                    _ => {}
                }
            }
            Answer::Refused(Refusal::Gone) => return self.stop(net),
            Answer::Refused(refusal) => {
                let attempts = self.attempts.entry(resource).or_default();
                *attempts += 1;
                if refusal != Refusal::NotFound && *attempts < ATTEMPTS {
                    self.unavailable += 1;
                    return net.after(AGAIN, Event::Viewer(self.number, ToViewer::Again(resource)));
                }
            }
            Answer::List(_) => panic!("a list for {resource}"),
        }
        self.wanted.remove(&resource);
        self.attempts.remove(&resource);
        self.rest(net);
    }

    /// After the end, once everything is there.
    fn rest(&mut self, net: &mut Network) {
        if self.ended && self.wanted.is_empty() {
            self.stop(net);
        }
    }

    fn stop(&mut self, net: &mut Network) {
        net.note(format_args!("viewer {} has seen the end", self.number));
        self.ended = true;
        self.watching = false;
        self.requests.clear();
    }
}
