//! The gRPC that edges speak to this origin: Watch and Fetch.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use spyglass_api::upstream::upstream_server::Upstream;
use spyglass_api::upstream::{
    Encoding, Expire, FetchRequest, FetchResponse, Header, Heartbeat, Interest, Playlist,
    Revocation, Snapshot, Variant, WatchRequest, WatchResponse, fetch_response, watch_request,
    watch_response,
};
use spyglass_api::{MAX_SLICE, convert};
use spyglass_daemon::now_utc;
use spyglass_hls::playlist;
use spyglass_media::delay::{Stage, Tier};
use spyglass_media::{BroadcastId, Resource, Version};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

use crate::broadcast::{Broadcast, Input, List};
use crate::life::Phase;
use crate::registry::{Change, Registry};

/// The longest a Fetch waits for a list that does not exist yet; an edge's own
/// deadline is shorter or equal.
const WAIT: Duration = Duration::from_secs(9);

/// Directory entries, revocations or versions in one message: far below its
/// size limit.
const PAGE: usize = 1_000;

/// Messages that may wait for a slow edge before its watch is closed; it then
/// reconnects and gets a snapshot.
const WAITING: usize = 1_024;

/// Broadcasts one edge may be interested in.
const INTERESTS: usize = 100_000;

/// The service; clones share the registry.
#[derive(Clone, Debug)]
pub struct Service {
    registry: Arc<Registry>,
    watchers: Arc<AtomicUsize>,
}

impl Service {
    /// Answers for these broadcasts.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, watchers: Arc::default() }
    }

    async fn find(&self, request: &FetchRequest) -> Result<Arc<Broadcast>, Status> {
        let id = convert::broadcast(&request.broadcast)?;
        self.registry.get(id).ok_or_else(|| Status::not_found("no such broadcast"))
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Upstream for Service {
    type WatchStream = Answers<WatchResponse>;
    type FetchStream = Answers<FetchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut requests = request.into_inner();
        let first = tokio::time::timeout(Duration::from_secs(5), requests.message());
        let first = first.await.map_err(|_| Status::deadline_exceeded("no hello within 5 s"))??;
        let Some(watch_request::Request::Hello(hello)) = first.and_then(|first| first.request)
        else {
            return Err(Status::invalid_argument("the first message must be a hello"));
        };
        let node = convert::node(&hello.node)?;
        let place = Place::take(&self.watchers, self.registry.live.get().max_watchers)
            .ok_or_else(|| Status::resource_exhausted("too many edges watch this origin"))?;
        let (answers, receiver) = mpsc::channel(WAITING);
        let watch =
            Watch { registry: Arc::clone(&self.registry), answers, interests: HashSet::new() };
        tokio::spawn(async move {
            info!(edge = %node, "edge watches");
            watch.registry.metrics.watchers.inc();
            let registry = Arc::clone(&watch.registry);
            let reason = watch.run(requests).await;
            registry.metrics.watchers.dec();
            info!(edge = %node, reason, "edge's watch ended");
            drop(place);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn fetch(
        &self,
        request: Request<FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let request = request.into_inner();
        let broadcast = self.find(&request).await?;
        let object = request.object.ok_or_else(|| Status::invalid_argument("object: not set"))?;
        let resource = Resource::from(object);
        self.registry.metrics.request(resource.kind());
        let (header, bodies) = match resource {
            Resource::Index | Resource::Chunklist => {
                let least = request.least.map(Version::from).unwrap_or_default();
                let list = wait_for_list(&broadcast, least).await?;
                describe(&list, self.registry.incarnation)
            }
            _ => {
                let missing = || Status::not_found("not in the window");
                let bytes = broadcast.object(resource).ok_or_else(missing)?;
                let digest = match resource {
                    Resource::Chunk { .. } if bytes.len() > MAX_SLICE => {
                        Bytes::copy_from_slice(&broadcast.digest(resource, &bytes))
                    }
                    _ => Bytes::new(),
                };
                let length = bytes.len() as u64;
                let ready_age_us = measured(&broadcast, resource);
                (Header { length, digest, ready_age_us, ..Header::default() }, vec![bytes])
            }
        };
        let bytes: usize = bodies.iter().map(Bytes::len).sum();
        self.registry.metrics.sent.inc_by(bytes as u64);
        let header = FetchResponse { response: Some(fetch_response::Response::Header(header)) };
        let slices = bodies.into_iter().flat_map(slices);
        let slices = slices
            .map(|slice| FetchResponse { response: Some(fetch_response::Response::Slice(slice)) });
        let answers = std::iter::once(header).chain(slices).map(Ok);
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }
}

/// Counts how long the media of a chunk or part took that an edge takes, i.e.
/// of what is watched. How long it has been ready, in microseconds.
fn measured(broadcast: &Broadcast, resource: Resource) -> Option<u64> {
    let times = broadcast.times(resource)?;
    if let Some(upload) = times.upload {
        broadcast.delays.add(Tier::Hls, Stage::Upload, upload);
    }
    broadcast.delays.add(Tier::Hls, Stage::Chunking, times.chunking);
    u64::try_from(now_utc().since(times.ready).as_micros()).ok()
}

/// One of a limited number of watches; given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let place = Self(Arc::clone(count));
        (count.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Pieces of at most [`MAX_SLICE`] bytes that share the body's memory.
fn slices(body: Bytes) -> impl Iterator<Item = Bytes> {
    let count = body.len().div_ceil(MAX_SLICE);
    (0..count).map(move |i| body.slice(i * MAX_SLICE..((i + 1) * MAX_SLICE).min(body.len())))
}

async fn wait_for_list(broadcast: &Broadcast, least: Version) -> Result<Arc<List>, Status> {
    if broadcast.phase() == Phase::Gone {
        return Err(Status::not_found("ended, and no longer kept"));
    }
    let mut lists = broadcast.list.clone();
    let new_enough =
        |list: &Option<Arc<List>>| list.as_ref().is_some_and(|list| list.version >= least);
    let found = tokio::time::timeout(WAIT, lists.wait_for(new_enough)).await;
    let nothing = || Status::unavailable("no list as new as that yet");
    let list = found.map_err(|_| nothing())?.map_err(|_| nothing())?;
    list.clone().ok_or_else(nothing)
}

fn describe(list: &List, incarnation: u64) -> (Header, Vec<Bytes>) {
    let variants = list.rendered.variants.iter().map(|variant| Variant {
        playlist: match variant.playlist {
            playlist::Playlist::Media => Playlist::Media,
            playlist::Playlist::Delta => Playlist::MediaDelta,
            playlist::Playlist::Multivariant => Playlist::Multivariant,
        }
        .into(),
        encoding: match variant.encoding {
            playlist::Encoding::Identity => Encoding::Identity,
            playlist::Encoding::Gzip => Encoding::Gzip,
        }
        .into(),
        length: variant.bytes.len() as u64,
    });
    let bodies: Vec<Bytes> =
        list.rendered.variants.iter().map(|variant| variant.bytes.clone()).collect();
    let age = tokio::time::Instant::now().into_std().saturating_duration_since(list.made);
    let header = Header {
        length: bodies.iter().map(|body| body.len() as u64).sum(),
        version: Some(list.version.into()),
        position: Some(list.position.into()),
        target_duration_ms: list.target_duration.as_millis() as u32,
        ended: list.ended,
        variants: variants.collect(),
        incarnation,
        age_ms: age.as_millis() as u64,
        part_target_ms: list.part_target.unwrap_or_default().as_millis() as u32,
        last_parts: list.last_parts,
        digest: Bytes::new(),
        unconfirmed_ms: 0,
        ready_age_us: None,
    };
    (header, bodies)
}

/// One edge's watch.
struct Watch {
    registry: Arc<Registry>,
    answers: mpsc::Sender<Result<WatchResponse, Status>>,
    interests: HashSet<BroadcastId>,
}

impl Watch {
    /// Serves until either side ends; returns why.
    async fn run(mut self, mut requests: Streaming<WatchRequest>) -> &'static str {
        let mut changes = self.registry.subscribe();
        let mut revocations = self.registry.attachment.subscribe_revocations();
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        if !self.snapshot() {
            return "too slow for a snapshot";
        }
        loop {
            let sent = tokio::select! {
                change = changes.recv() => match change {
                    Ok(Change::Directory(entry)) => self.send(watch_response::Response::Change(entry)),
                    Ok(Change::Expire(id)) => !self.interests.contains(&id) || self.expire(id),
                    Err(RecvError::Lagged(_)) => self.snapshot() && self.heartbeat(),
                    Err(RecvError::Closed) => return "origin stops",
                },
                revocation = revocations.recv() => match revocation {
                    Ok(revocation) => {
                        self.send(watch_response::Response::Revocation(as_upstream(revocation)))
                    }
                    Err(RecvError::Lagged(_)) => self.snapshot(),
                    Err(RecvError::Closed) => return "origin stops",
                },
                _ = beat.tick() => self.heartbeat(),
                request = requests.next() => match request {
                    Some(Ok(request)) => match self.on_request(request) {
                        Ok(sent) => sent,
                        Err(status) => {
                            let _ = self.answers.try_send(Err(status));
                            return "bad request";
                        }
                    },
                    Some(Err(_)) | None => return "edge left",
                },
            };
            if !sent {
                return "edge left or too slow";
            }
        }
    }

    /// False when the edge has gone or is too far behind.
    fn send(&self, response: watch_response::Response) -> bool {
        self.answers.try_send(Ok(WatchResponse { response: Some(response) })).is_ok()
    }

    fn snapshot(&self) -> bool {
        let directory = self.registry.directory();
        let revocations = self.registry.attachment.revocations();
        let revocations: Vec<Revocation> = revocations.into_iter().map(as_upstream).collect();
        let mut pages: Vec<Snapshot> = directory
            .chunks(PAGE)
            .map(|entries| Snapshot { entries: entries.to_vec(), ..Snapshot::default() })
            .collect();
        pages.extend(revocations.chunks(PAGE).map(|revocations| Snapshot {
            revocations: revocations.to_vec(),
            ..Snapshot::default()
        }));
        pages.push(Snapshot { last: true, ..Snapshot::default() });
        pages.into_iter().all(|page| self.send(watch_response::Response::Snapshot(page)))
    }

    fn expire(&self, id: BroadcastId) -> bool {
        match self.registry.current(id) {
            Some(expire) => self.send(watch_response::Response::Expire(expire)),
            None => true,
        }
    }

    fn heartbeat(&self) -> bool {
        let current: Vec<Expire> =
            self.interests.iter().filter_map(|&id| self.registry.current(id)).collect();
        let beat = |current: &[Expire]| {
            self.send(watch_response::Response::Heartbeat(Heartbeat {
                current: current.to_vec(),
                adrift: Vec::new(),
            }))
        };
        if current.is_empty() { beat(&[]) } else { current.chunks(PAGE).all(beat) }
    }

    fn on_request(&mut self, request: WatchRequest) -> Result<bool, Status> {
        let Some(watch_request::Request::Interest(Interest { add, drop })) = request.request else {
            // A field of a later release.
            return Ok(true);
        };
        for broadcast in drop {
            self.interests.remove(&convert::broadcast(&broadcast)?);
        }
        let mut sent = true;
        for holding in add {
            let id = convert::broadcast(&holding.broadcast)?;
            if self.interests.len() >= INTERESTS {
                return Err(Status::resource_exhausted("interest in too many broadcasts"));
            }
            self.interests.insert(id);
            debug!(broadcast = %id, "an edge has viewers");
            if let Some(version) = holding.version {
                let held = Input::Held(version.into(), holding.position.map(Into::into));
                self.registry.ask(id, held);
            }
            sent = sent && self.expire(id);
        }
        Ok(sent)
    }
}

fn as_upstream(revocation: spyglass_api::control::Revocation) -> Revocation {
    Revocation {
        broadcast: revocation.broadcast,
        viewer: revocation.viewer,
        expires_at_ms: revocation.expires_at_ms,
    }
}
