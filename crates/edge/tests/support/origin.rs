//! An origin that says and sends what the test wants.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use spyglass_api::auth::{ClusterKey, Require};
use spyglass_api::control::Node;
use spyglass_api::upstream::upstream_server::{Upstream, UpstreamServer};
use spyglass_api::upstream::{
    BroadcastState, DirectoryEntry, Encoding, Expire, FetchRequest, FetchResponse, Fill, Header,
    Heartbeat, Playlist, Revocation, Snapshot, Variant, WatchRequest, WatchResponse,
    fetch_response, watch_request, watch_response,
};
use spyglass_daemon::grpc;
use spyglass_media::{BroadcastId, Position, Resource, Version, ViewerId};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::control::origin_node;
use super::{KEY, Process, exactly};

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
        let listener = loop {
            match TcpListener::bind(self.address) {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
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
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the origin sees it");
    }

    fn list(&self, id: BroadcastId, least: Version) -> Result<Vec<FetchResponse>, Status> {
        let script = self.script.lock();
        let live = script.broadcasts.get(&id).ok_or_else(|| Status::not_found("no broadcast"))?;
        let mut revision = live.revision;
        if revision == 0 || version(revision) < least {
            return Err(Status::unavailable("nothing that new"));
        }
        if script.fault == Fault::TooOld {
            revision = revision.saturating_sub(1);
        }
        let end = if live.ended { "#EXT-X-ENDLIST\n" } else { "" };
        let media = match script.texts.get(&id) {
            Some(text) => text.clone(),
            None => format!("#EXTM3U\nrevision {revision}\n1-{revision}.m4s\n{end}"),
        };
        let mut bodies = vec![
            (Playlist::MediaDelta, Encoding::Identity, format!("(delta){media}")),
            (Playlist::Media, Encoding::Identity, media.clone()),
            (Playlist::Media, Encoding::Gzip, format!("(gzip){media}")),
            (Playlist::Multivariant, Encoding::Identity, "#EXTM3U\nchunklist.m3u8\n".to_owned()),
            (Playlist::Multivariant, Encoding::Gzip, "(gzip)".to_owned()),
        ];
        if script.texts.contains_key(&id) {
            bodies.retain(|(playlist, encoding, _)| {
                *playlist != Playlist::MediaDelta && *encoding == Encoding::Identity
            });
        }
        let header = Header {
            length: bodies.iter().map(|(.., body)| body.len() as u64).sum(),
            version: Some(version(revision).into()),
            position: Some(live.position.unwrap_or(Position::closed(revision)).into()),
            target_duration_ms: live.entry.target_duration_ms,
            ended: live.ended,
            variants: bodies
                .iter()
                .map(|(playlist, encoding, body)| Variant {
                    playlist: (*playlist).into(),
                    encoding: (*encoding).into(),
                    length: body.len() as u64,
                })
                .collect(),
            incarnation: script.incarnation,
            age_ms: 0,
            part_target_ms: live.position.map_or(0, |_| 210),
            last_parts: live.last_parts,
            digest: Bytes::new(),
            unconfirmed_ms: 0,
            ready_age_us: None,
        };
        let whole: String = bodies.into_iter().map(|(.., body)| body).collect();
        Ok(answer(header, whole.into()))
    }
}

pub fn version(revision: u64) -> Version {
    Version { epoch: 1, revision }
}

fn answer(header: Header, body: Bytes) -> Vec<FetchResponse> {
    let mut answers = vec![fetch_response::Response::Header(header)];
    let slices = body.len().div_ceil(spyglass_api::MAX_SLICE);
    answers.extend((0..slices).map(|i| {
        let from = i * spyglass_api::MAX_SLICE;
        let to = body.len().min(from + spyglass_api::MAX_SLICE);
        fetch_response::Response::Slice(body.slice(from..to))
    }));
    answers.into_iter().map(|response| FetchResponse { response: Some(response) }).collect()
}

fn spoil(mut answers: Vec<FetchResponse>, fault: Fault) -> Vec<FetchResponse> {
    match fault {
        Fault::Truncate => {
            if let Some(fetch_response::Response::Slice(last)) =
                &mut answers.last_mut().unwrap().response
            {
                last.truncate(last.len() / 2);
            }
        }
        Fault::Excess => answers.extend(answers.last().cloned()),
        Fault::Rubbish => {
            answers[0].response = Some(fetch_response::Response::Slice("rubbish".into()));
        }
        Fault::Corrupt => {
            if let Some(fetch_response::Response::Slice(last)) =
                &mut answers.last_mut().unwrap().response
            {
                let mut bytes = last.to_vec();
                bytes[0] ^= 1;
                *last = bytes.into();
            }
        }
        _ => {}
    }
    answers
}

#[tonic::async_trait]
impl Upstream for Origin {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;
    type FetchStream = ReceiverStream<Result<FetchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if !self.script.lock().watchable {
            return Err(Status::unavailable("a fault"));
        }
        let mut requests = request.into_inner();
        let (answers, receiver) = mpsc::channel(1_024);
        let mut changed = self.changed.subscribe();
        let this = self.clone();
        let mut told = self.tell.subscribe();
        tokio::spawn(async move {
            let send = |response| answers.try_send(Ok(WatchResponse { response: Some(response) }));
            let (entries, revocations) = {
                let script = this.script.lock();
                let entries = script.broadcasts.values().map(|live| live.entry.clone());
                (entries.collect(), script.revocations.clone())
            };
            let snapshot = Snapshot { entries, revocations, last: true };
            send(watch_response::Response::Snapshot(snapshot)).unwrap();
            this.set(|script| script.watches += 1);
            let mut mine = HashSet::new();
            let mut beat = tokio::time::interval(Duration::from_millis(200));
            loop {
                tokio::select! {
                    response = told.recv() => {
                        let response = response.unwrap();
                        let wanted = match &response {
                            watch_response::Response::Expire(expire) => {
                                mine.contains(&expire.broadcast.parse().unwrap())
                            }
                            _ => true,
                        };
                        if wanted && send(response).is_err() {
                            return;
                        }
                    }
                    _ = changed.changed() => {
                        if !this.script.lock().watchable {
                            return;
                        }
                    }
                    _ = beat.tick() => {
                        if this.script.lock().beats {
                            let current = mine.iter().map(|id| this.expire(*id)).collect();
                            let beat = watch_response::Response::Heartbeat(Heartbeat { current, adrift: Vec::new() });
                            if send(beat).is_err() {
                                return;
                            }
                        }
                    }
                    request = requests.message() => match request {
                        Ok(Some(WatchRequest {
                            request: Some(watch_request::Request::Interest(interest)),
                        })) => {
                            for holding in interest.add {
                                let id = holding.broadcast.parse().unwrap();
                                mine.insert(id);
                                this.set(|script| {
                                    if let Some(version) = holding.version {
                                        script.held.insert(id, version.into());
                                    }
                                });
                                if this.script.lock().notices {
                                    let _ = send(watch_response::Response::Expire(this.expire(id)));
                                }
                            }
                            for id in interest.drop {
                                mine.remove(&id.parse().unwrap());
                            }
                            this.set(|script| script.interests = mine.clone());
                        }
                        Ok(Some(_)) => {}
                        _ => return,
                    },
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fetch(
        &self,
        request: Request<FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let request = request.into_inner();
        let id = request.broadcast.parse().unwrap();
        let resource = Resource::from(request.object.unwrap());
        self.set(|script| script.fetches.push((id, resource)));
        let (fault, delay) = {
            let script = self.script.lock();
            (script.fault, script.delay)
        };
        exactly(delay).await;
        let answers = match fault {
            Fault::Hang => std::future::pending().await,
            Fault::Unavailable => return Err(Status::unavailable("a fault")),
            _ => match resource {
                Resource::Chunklist => {
                    self.list(id, request.least.map(Version::from).unwrap_or_default())?
                }
                resource => {
                    let object = self.script.lock().objects.get(&(id, resource)).cloned();
                    let body = object.ok_or_else(|| Status::not_found("no object"))?;
                    let digest = match resource {
                        Resource::Chunk { .. } if body.len() > spyglass_api::MAX_SLICE => {
                            Bytes::copy_from_slice(&Sha256::digest(&body))
                        }
                        _ => Bytes::new(),
                    };
                    answer(Header { length: body.len() as u64, digest, ..Header::default() }, body)
                }
            },
        };
        let answers = spoil(answers, fault);
        let (sender, receiver) = mpsc::channel(answers.len().max(1));
        let this = self.clone();
        tokio::spawn(async move {
            for (i, answer) in answers.into_iter().enumerate() {
                // The header and a slice are out.
                match fault {
                    Fault::Stall if i == 2 => this.wait(|it| it.fault != Fault::Stall).await,
                    Fault::Break if i == 2 => {
                        let _ = sender.send(Err(Status::internal("broken off"))).await;
                        return;
                    }
                    _ => {}
                }
                // The edge may have left.
                let _ = sender.send(Ok(answer)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
