//! An origin that says and sends what the test wants: the script, and what the
//! test sees of it. How it answers is `origin/answers.rs`.

mod answers;

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use spyglass_api::auth::{ClusterKey, Require};
use spyglass_api::control::Node;
use spyglass_api::upstream::upstream_server::UpstreamServer;
use spyglass_api::upstream::{
    BroadcastState, DirectoryEntry, Expire, Fill, Revocation, watch_response,
};
use spyglass_daemon::grpc;
use spyglass_media::{BroadcastId, Position, Resource, Version, ViewerId};
use tokio::sync::{broadcast, watch};

use super::control::origin_node;
use super::{KEY, Process};

/// How fetches go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not at all.
    None,
    /// They never end.
    Hang,
    /// They are refused as unavailable.
    Unavailable,
    /// Half of the bytes come.
    Truncate,
    /// More bytes come than were announced.
    Excess,
    /// A header that means nothing.
    Rubbish,
    /// The list before the one asked for.
    TooOld,
    /// The first slice comes, the others when there is no fault any more.
    Stall,
    /// The first slice comes, then the stream breaks.
    Break,
    /// As [`Fault::Break`], and none after it.
    BreakOnce,
    /// One byte is another one.
    Corrupt,
}

#[derive(Clone)]
struct Live {
    entry: DirectoryEntry,
    revision: u64,
    ended: bool,
    /// Of the list, when it has parts.
    position: Option<Position>,
    last_parts: u32,
}

impl Live {
    fn position(&self) -> Position {
        self.position.unwrap_or(Position::closed(self.revision))
    }
}

struct Script {
    incarnation: u64,
    broadcasts: HashMap<BroadcastId, Live>,
    objects: HashMap<(BroadcastId, Resource), Bytes>,
    /// Media playlists that the caller wrote, in one form only.
    texts: HashMap<BroadcastId, String>,
    revocations: Vec<Revocation>,
    fault: Fault,
    delay: Duration,
    beats: bool,
    notices: bool,
    watchable: bool,
    fetches: Vec<(BroadcastId, Resource)>,
    interests: HashSet<BroadcastId>,
    held: HashMap<BroadcastId, Version>,
    watches: usize,
}

#[derive(Clone)]
pub struct Origin {
    pub address: SocketAddr,
    name: &'static str,
    script: Arc<Mutex<Script>>,
    tell: broadcast::Sender<watch_response::Response>,
    changed: Arc<watch::Sender<()>>,
    process: Option<Process>,
}

impl Origin {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::serve(listener, "origin-t", 100)
    }

    fn serve(listener: TcpListener, name: &'static str, incarnation: u64) -> Self {
        let address = listener.local_addr().unwrap();
        let script = Script {
            incarnation,
            broadcasts: HashMap::new(),
            objects: HashMap::new(),
            texts: HashMap::new(),
            revocations: Vec::new(),
            fault: Fault::None,
            delay: Duration::ZERO,
            beats: true,
            notices: true,
            watchable: true,
            fetches: Vec::new(),
            interests: HashSet::new(),
            held: HashMap::new(),
            watches: 0,
        };
        let mut origin = Self {
            address,
            name,
            script: Arc::new(Mutex::new(script)),
            tell: broadcast::Sender::new(1_024),
            changed: Arc::new(watch::Sender::new(())),
            process: None,
        };
        let require = Require(ClusterKey::new(KEY).unwrap());
        let service = UpstreamServer::with_interceptor(origin.clone(), require);
        let serve = |listener| async {
            let server = grpc::server().add_service(service);
            server.serve_with_incoming(grpc::incoming(listener)).await.unwrap();
        };
        origin.process = Some(Process::start(serve, listener));
        origin
    }

    pub fn node(&self) -> Node {
        origin_node(self.name, self.address)
    }

    /// Killed. Its connections close with it.
    pub fn kill(&self) {
        self.process.as_ref().unwrap().kill();
    }

    /// Another process on the same address.
    pub async fn rise(&self, incarnation: u64) -> Self {
        let binding = async {
            loop {
                match TcpListener::bind(self.address) {
                    Ok(listener) => return listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let listener = tokio::time::timeout(Duration::from_secs(30), binding).await;
        let listener = listener.expect("its address is free");
        Self::serve(listener, self.name, incarnation)
    }

    fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock());
        self.changed.send_replace(());
    }

    fn say(&self, response: watch_response::Response) {
        // Nobody watching is fine.
        let _ = self.tell.send(response);
    }

    // ---- what there is

    pub fn enter(&self, id: BroadcastId, state: BroadcastState, private: bool, target: Duration) {
        let entry = DirectoryEntry {
            broadcast: id.to_string(),
            state: state.into(),
            private,
            incarnation: self.script.lock().incarnation,
            target_duration_ms: target.as_millis() as u32,
            ..DirectoryEntry::default()
        };
        self.set(|script| {
            let live = Live {
                entry: entry.clone(),
                revision: 0,
                ended: false,
                position: None,
                last_parts: 0,
            };
            script.broadcasts.entry(id).or_insert(live).entry = entry.clone();
        });
        self.say(watch_response::Response::Change(entry));
    }

    /// The broadcast's maker chose.
    pub fn choose(&self, id: BroadcastId, fill: Fill) {
        let mut change = None;
        self.set(|script| {
            if let Some(live) = script.broadcasts.get_mut(&id) {
                live.entry.fill = fill.into();
                change = Some(live.entry.clone());
            }
        });
        self.say(watch_response::Response::Change(change.unwrap()));
    }

    pub fn live(&self, id: BroadcastId, target: Duration) {
        self.enter(id, BroadcastState::Live, false, target);
    }

    /// A list of this revision, which names the chunk of the same number.
    pub fn publish(&self, id: BroadcastId, revision: u64) {
        self.put(id, revision, Bytes::from(format!("chunk {revision} of {id}")));
    }

    pub fn put(&self, id: BroadcastId, revision: u64, chunk: Bytes) {
        self.set(|script| {
            let resource = Resource::Chunk { epoch: 1, sequence: revision };
            script.objects.insert((id, resource), chunk);
            script.objects.insert((id, Resource::Init { epoch: 1 }), "init".into());
            if let Some(live) = script.broadcasts.get_mut(&id) {
                live.revision = revision;
            }
        });
        if self.script.lock().notices {
            self.say(watch_response::Response::Expire(self.expire(id)));
        }
    }

    /// A list whose newest media this is, and that media; a chunk has 5 parts.
    /// The first part after a chunk comes with the version after its.
    pub fn move_to(&self, id: BroadcastId, position: Position) {
        let Position { sequence, part } = position;
        self.set(|script| {
            let resource = match part {
                Some(part) => Resource::Part { epoch: 1, sequence, part },
                None => Resource::Chunk { epoch: 1, sequence },
            };
            script.objects.insert((id, resource), Bytes::from(resource.to_string()));
            if let Some(live) = script.broadcasts.get_mut(&id) {
                live.revision += 1;
                live.position = Some(position);
                if part.is_none() {
                    live.last_parts = 5;
                }
            }
        });
        if self.script.lock().notices {
            self.say(watch_response::Response::Expire(self.expire(id)));
        }
    }

    /// A list of the caller's own writing, whose newest media this is, and
    /// objects that it names.
    pub fn show(
        &self,
        id: BroadcastId,
        position: Position,
        last_parts: u32,
        text: String,
        objects: impl IntoIterator<Item = (Resource, Bytes)>,
    ) {
        self.set(|script| {
            let objects = objects.into_iter().map(|(resource, bytes)| ((id, resource), bytes));
            script.objects.extend(objects);
            script.texts.insert(id, text);
            if let Some(live) = script.broadcasts.get_mut(&id) {
                live.revision += 1;
                live.position = Some(position);
                live.last_parts = last_parts;
            }
        });
        self.say(watch_response::Response::Expire(self.expire(id)));
    }

    pub fn end(&self, id: BroadcastId) {
        self.set(|script| {
            if let Some(live) = script.broadcasts.get_mut(&id) {
                live.revision += 1;
                live.ended = true;
            }
        });
        self.say(watch_response::Response::Expire(self.expire(id)));
        self.enter(id, BroadcastState::Ended, false, Duration::from_secs(1));
    }

    /// Any notice, however wrong.
    pub fn notice(&self, id: BroadcastId, revision: u64, incarnation: u64) {
        self.say(watch_response::Response::Expire(Expire {
            broadcast: id.to_string(),
            version: Some(version(revision).into()),
            position: Some(Position::closed(revision).into()),
            incarnation,
        }));
    }

    pub fn revoke(&self, broadcast: BroadcastId, viewer: ViewerId) {
        let revocation = Revocation {
            broadcast: broadcast.to_string(),
            viewer: viewer.to_string(),
            expires_at_ms: i64::MAX / 2,
        };
        self.script.lock().revocations.push(revocation.clone());
        self.say(watch_response::Response::Revocation(revocation));
    }

    fn expire(&self, id: BroadcastId) -> Expire {
        let script = self.script.lock();
        let live = script.broadcasts.get(&id);
        let revision = live.map_or(0, |live| live.revision);
        Expire {
            broadcast: id.to_string(),
            version: Some(version(revision).into()),
            position: live.map(|live| live.position().into()),
            incarnation: script.incarnation,
        }
    }

    // ---- how it behaves

    pub fn fault(&self, fault: Fault) {
        self.set(|script| script.fault = fault);
    }

    pub fn delay(&self, delay: Duration) {
        self.set(|script| script.delay = delay);
    }

    /// Without notices and without heartbeats.
    pub fn mute(&self, mute: bool) {
        self.set(|script| (script.beats, script.notices) = (!mute, !mute));
    }

    /// Notices stop, heartbeats go on.
    pub fn forget_notices(&self, forget: bool) {
        self.set(|script| script.notices = !forget);
    }

    /// Whether it may be watched; no watch that there is survives a no.
    pub fn watchable(&self, watchable: bool) {
        self.set(|script| script.watchable = watchable);
    }

    // ---- what it has seen

    pub fn fetches(&self, wanted: impl Fn(&Resource) -> bool) -> usize {
        let script = self.script.lock();
        script.fetches.iter().filter(|(_, resource)| wanted(resource)).count()
    }

    pub fn list_fetches(&self) -> usize {
        self.fetches(|resource| *resource == Resource::Chunklist)
    }

    pub fn held(&self, id: BroadcastId) -> Option<Version> {
        self.script.lock().held.get(&id).copied()
    }

    /// Waits until this many watches have begun, ever.
    pub async fn watched(&self, times: usize) {
        self.wait(|script| script.watches >= times).await;
    }

    /// Waits until the edge has viewers of this broadcast.
    pub async fn of_interest(&self, id: BroadcastId) {
        self.wait(|script| script.interests.contains(&id)).await;
    }

    /// Waits until the edge has none.
    pub async fn of_no_interest(&self, id: BroadcastId) {
        self.wait(|script| !script.interests.contains(&id)).await;
    }

    /// Waits until this many fetches have arrived, ever.
    pub async fn fetched(&self, count: usize) {
        self.wait(|script| script.fetches.len() >= count).await;
    }

    /// Waits until this has been fetched.
    pub async fn seen(&self, wanted: Resource) {
        self.wait(|script| script.fetches.iter().any(|(_, resource)| *resource == wanted)).await;
    }

    async fn wait(&self, so: impl Fn(&Script) -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            while !so(&self.script.lock()) {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("the origin sees it");
    }
}

pub fn version(revision: u64) -> Version {
    Version { epoch: 1, revision }
}
