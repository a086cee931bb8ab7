//! The gRPC that other edges speak to this one: Watch and Fetch, as an origin
//! speaks them. So an edge is a gateway for whoever is told to go through it.
//!
//! What is served comes from the slots and the cache that viewers are served
//! from: however many edges ask, and viewers beside them, each object is fetched
//! once. Versions, positions and incarnations are the origin's own, unchanged.
//! What this edge cannot vouch for, because it does not hear of it from the
//! origin itself, it says in each heartbeat, and does not serve.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use http_body_util::BodyStream;
use spyglass_api::upstream::upstream_server::Upstream;
use spyglass_api::upstream::{
    BroadcastState, DirectoryEntry, Encoding, Expire, FetchRequest, FetchResponse, Header,
    Heartbeat, Interest, Playlist, Revocation, Snapshot, Variant, WatchRequest, WatchResponse,
    fetch_response, watch_request, watch_response,
};
use spyglass_api::{MAX_SLICE, control, convert, upstream};
use spyglass_daemon::attach::Attachment;
use spyglass_media::{BroadcastId, NodeId, Resource, Version};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

use crate::broadcasts::{Broadcasts, Change, Found, Listed, Notice};
use crate::delays::Measured;
use crate::directory::{Entry, State};
use crate::filling::{Broken, Reader};
use crate::metrics::Metrics;
use crate::outcome::CacheStatus;
use crate::refusal::Refusal;

/// Time for the first message of a watch.
const HELLO: Duration = Duration::from_secs(5);

/// Directory entries, revocations or versions in one message: far below its
/// size limit.
const PAGE: usize = 1_000;

/// Messages that may wait for a slow edge before its watch is closed; it then
/// reconnects and gets a snapshot.
const WAITING: usize = 1_024;

/// Edges that one request may have passed.
const HOPS: usize = 1;

/// Answers `spyglass.upstream.v1`; clones share what they answer from.
#[derive(Clone, Debug)]
pub struct Service {
    /// This edge's name.
    pub me: NodeId,
    /// What is served.
    pub broadcasts: Arc<Broadcasts>,
    /// Knows revocations.
    pub attachment: Attachment,
    /// Counts requests and watches.
    pub metrics: Metrics,
    /// Watches that are open.
    pub watchers: Arc<AtomicUsize>,
    /// Watches at once.
    pub most_watchers: usize,
    /// Broadcasts that one edge may be interested in.
    pub most_interests: usize,
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
        let first = tokio::time::timeout(HELLO, requests.message());
        let first = first.await.map_err(|_| Status::deadline_exceeded("no hello within 5 s"))??;
        let Some(watch_request::Request::Hello(hello)) = first.and_then(|first| first.request)
        else {
            return Err(Status::invalid_argument("the first message must be a hello"));
        };
        let node = convert::node(&hello.node)?;
        if node == self.me {
            return Err(Status::failed_precondition("an edge is no gateway for itself"));
        }
        let place = Place::take(&self.watchers, self.most_watchers)
            .ok_or_else(|| Status::resource_exhausted("too many edges watch this one"))?;
        let (answers, receiver) = mpsc::channel(WAITING);
        let watch = Watch { service: self.clone(), answers, interests: HashSet::new() };
        tokio::spawn(async move {
            info!(edge = %node, "an edge goes through this one");
            watch.service.metrics.watchers.inc();
            let metrics = watch.service.metrics.clone();
            let reason = watch.run(requests).await;
            metrics.watchers.dec();
            info!(edge = %node, reason, "an edge goes through this one no longer");
            drop(place);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn fetch(
        &self,
        request: Request<FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let request = request.into_inner();
        let id = convert::broadcast(&request.broadcast)?;
        let object = request.object.ok_or_else(|| Status::invalid_argument("object: not set"))?;
        let resource = Resource::from(object);
        self.metrics.downstream(resource.kind());
        if request.path.len() > HOPS || request.path.iter().any(|edge| *edge == *self.me.as_str()) {
            return Err(Status::failed_precondition("this request has passed enough edges"));
        }
        // Asking makes this edge go to the origin itself, if it did not yet.
        self.broadcasts.on_wanted(id, None).map_err(refused)?;
        if !self.broadcasts.vouches(id) {
            return Err(refused(Refusal::NotFound));
        }
        // The request is taken at once, so that who asks knows that this edge
        // lives; what is asked for may take its time.
        let this = self.clone();
        let least = request.least.map(Version::from).unwrap_or_default();
        let answers = async move { this.answer(id, resource, least).await };
        Ok(Response::new(Box::pin(futures_util::stream::once(answers).try_flatten())))
    }
}

impl Service {
    async fn answer(
        &self,
        id: BroadcastId,
        resource: Resource,
        least: Version,
    ) -> Result<Answers<FetchResponse>, Status> {
        let answers: Answers<FetchResponse> = match resource {
            Resource::Index | Resource::Chunklist => {
                let listed = self.broadcasts.relay_lists(id, least).await.map_err(refused)?;
                let (header, bodies) = describe(&listed);
                self.count(bodies.iter().map(Bytes::len).sum());
                whole(header, bodies)
            }
            _ => match self.broadcasts.relay_object(id, resource).await {
                Ok(Found::Here(object)) => {
                    let body = object.answer.body().clone();
                    let digest = match resource {
                        Resource::Chunk { .. } if body.len() > MAX_SLICE => {
                            Bytes::copy_from_slice(object.answer.head().digest())
                        }
                        _ => Bytes::new(),
                    };
                    self.count(body.len());
                    let length = body.len() as u64;
                    let ready_age_us = ready_age(object.measured.as_ref());
                    whole(Header { length, digest, ready_age_us, ..Header::default() }, vec![body])
                }
                Ok(Found::Coming(filling)) => {
                    self.count(filling.length());
                    let header = Header {
                        length: filling.length() as u64,
                        digest: Bytes::copy_from_slice(filling.head().digest()),
                        ready_age_us: ready_age(filling.measured()),
                        ..Header::default()
                    };
                    let broken = |_: Broken| Status::unavailable("the origin broke off");
                    let frames = BodyStream::new(Reader::new(filling));
                    let bodies = frames.map(move |frame| {
                        let body = frame.map_err(broken)?.into_data().unwrap_or_default();
                        Ok::<_, Status>(futures_util::stream::iter(slices(body).map(Ok)))
                    });
                    let answers = futures_util::stream::iter([Ok(announce(header))])
                        .chain(bodies.try_flatten());
                    Box::pin(answers)
                }
                // By what is known here: another edge may know of more.
                Err((Refusal::NotFound, CacheStatus::Negative)) => {
                    return Err(Status::unavailable("not known here"));
                }
                // It has been asked for, and the origin does not have it.
                Err((Refusal::NotFound, _)) => {
                    return Err(Status::not_found("not in the window"));
                }
                Err((refusal, _)) => return Err(refused(refusal)),
            },
        };
        Ok(answers)
    }

    fn count(&self, bytes: usize) {
        self.metrics.bytes.inc_by(bytes as u64);
    }
}

fn refused(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Gone => Status::not_found("ended, and no longer kept"),
        Refusal::NotFound => Status::failed_precondition("no gateway for this broadcast"),
        Refusal::Busy => Status::resource_exhausted("no room for another broadcast or fetch"),
        _ => Status::unavailable("nothing as new as that yet"),
    }
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

fn announce(header: Header) -> FetchResponse {
    FetchResponse { response: Some(fetch_response::Response::Header(header)) }
}

/// Pieces of at most [`MAX_SLICE`] bytes that share the body's memory.
fn slices(body: Bytes) -> impl Iterator<Item = FetchResponse> {
    let count = body.len().div_ceil(MAX_SLICE);
    (0..count).map(move |i| {
        let slice = body.slice(i * MAX_SLICE..((i + 1) * MAX_SLICE).min(body.len()));
        FetchResponse { response: Some(fetch_response::Response::Slice(slice)) }
    })
}

fn whole(header: Header, bodies: Vec<Bytes>) -> Answers<FetchResponse> {
    let answers = std::iter::once(announce(header)).chain(bodies.into_iter().flat_map(slices));
    Box::pin(tokio_stream::iter(answers.map(Ok)))
}

/// A list as its origin described it, and a little older.
fn describe(listed: &Listed) -> (Header, Vec<Bytes>) {
    let Listed { lists, age, .. } = listed;
    let meta = &lists.meta;
    let forms = [
        (Playlist::Media, Some(&lists.media)),
        (Playlist::MediaDelta, lists.delta.as_ref()),
        (Playlist::Multivariant, Some(&lists.index)),
    ];
    let (mut variants, mut bodies) = (Vec::new(), Vec::new());
    for (playlist, forms) in forms {
        let Some(forms) = forms else { continue };
        for (encoding, body) in [Encoding::Identity, Encoding::Gzip].into_iter().zip(forms.bodies())
        {
            let Some(body) = body else { continue };
            variants.push(Variant {
                playlist: playlist.into(),
                encoding: encoding.into(),
                length: body.len() as u64,
            });
            bodies.push(body.clone());
        }
    }
    let header = Header {
        length: bodies.iter().map(|body| body.len() as u64).sum(),
        version: Some(meta.version.into()),
        position: meta.position.map(Into::into),
        target_duration_ms: millis(meta.target),
        ended: meta.ended,
        variants,
        incarnation: meta.incarnation,
        age_ms: millis(*age).into(),
        part_target_ms: millis(meta.part_target.unwrap_or_default()),
        last_parts: meta.last_parts,
        digest: Bytes::new(),
        unconfirmed_ms: millis(age.saturating_sub(meta.age)).into(),
        ready_age_us: None,
    };
    (header, bodies)
}

/// For how long an object has been ready at its origin, in microseconds.
fn ready_age(measured: Option<&Measured>) -> Option<u64> {
    let age = measured?.ready_age(tokio::time::Instant::now().into_std())?;
    u64::try_from(age.as_micros()).ok()
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// One edge's watch.
struct Watch {
    service: Service,
    answers: mpsc::Sender<Result<WatchResponse, Status>>,
    interests: HashSet<BroadcastId>,
}

impl Watch {
    /// Serves until either side ends; returns why.
    async fn run(mut self, mut requests: Streaming<WatchRequest>) -> &'static str {
        let mut changes = self.service.broadcasts.changes();
        let mut revocations = self.service.attachment.subscribe_revocations();
        let mut beat = tokio::time::interval(Duration::from_secs(1));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        if !self.snapshot() {
            return "too slow for a snapshot";
        }
        loop {
            let sent = tokio::select! {
                change = changes.recv() => match change {
                    Ok(Change::Directory(id)) => self.change(id),
                    Ok(Change::Expire(id)) => !self.interests.contains(&id) || self.expire(id),
                    Err(RecvError::Lagged(_)) => self.snapshot() && self.heartbeat(),
                    Err(RecvError::Closed) => return "this edge stops",
                },
                revocation = revocations.recv() => match revocation {
                    Ok(revocation) => {
                        self.send(watch_response::Response::Revocation(as_upstream(revocation)))
                    }
                    Err(RecvError::Lagged(_)) => self.snapshot(),
                    Err(RecvError::Closed) => return "this edge stops",
                },
                _ = beat.tick() => self.heartbeat(),
                request = requests.next() => match request {
                    Some(Ok(request)) => match self.on_request(request) {
                        Ok(sent) => sent,
                        Err(status) => {
                            // It may have gone already.
                            let _ = self.answers.try_send(Err(status));
                            return "bad request";
                        }
                    },
                    Some(Err(_)) | None => return "it left",
                },
            };
            if !sent {
                return "it left or is too slow";
            }
        }
    }

    /// False when the edge has gone or is too far behind.
    fn send(&self, response: watch_response::Response) -> bool {
        self.answers.try_send(Ok(WatchResponse { response: Some(response) })).is_ok()
    }

    fn snapshot(&self) -> bool {
        let directory = self.service.broadcasts.directory();
        let revocations = self.service.attachment.revocations();
        let revocations: Vec<Revocation> = revocations.into_iter().map(as_upstream).collect();
        let mut pages: Vec<Snapshot> = directory
            .chunks(PAGE)
            .map(|entries| Snapshot {
                entries: entries.iter().map(|(id, entry)| as_entry(*id, Some(entry))).collect(),
                ..Snapshot::default()
            })
            .collect();
        pages.extend(revocations.chunks(PAGE).map(|revocations| Snapshot {
            revocations: revocations.to_vec(),
            ..Snapshot::default()
        }));
        pages.push(Snapshot { last: true, ..Snapshot::default() });
        pages.into_iter().all(|page| self.send(watch_response::Response::Snapshot(page)))
    }

    fn change(&self, id: BroadcastId) -> bool {
        let known = self.service.broadcasts.known(id);
        let entry = as_entry(id, known.as_ref().map(|known| &known.entry));
        self.send(watch_response::Response::Change(entry))
    }

    fn expire(&self, id: BroadcastId) -> bool {
        match self.service.broadcasts.newest(id) {
            Some(notice) => self.send(watch_response::Response::Expire(as_expire(id, notice))),
            None => true,
        }
    }

    /// Also renews what this edge's viewers are to the slots here: an interest.
    fn heartbeat(&self) -> bool {
        let broadcasts = &self.service.broadcasts;
        let (mut current, mut adrift) = (Vec::new(), Vec::new());
        for &id in &self.interests {
            let wanted = broadcasts.on_wanted(id, None).is_ok();
            if !wanted || !broadcasts.vouches(id) {
                adrift.push(id.to_string());
            } else if let Some(notice) = broadcasts.newest(id) {
                current.push(as_expire(id, notice));
            }
        }
        let beat = |current: &[Expire], adrift: &[String]| {
            let (current, adrift) = (current.to_vec(), adrift.to_vec());
            self.send(watch_response::Response::Heartbeat(Heartbeat { current, adrift }))
        };
        if current.is_empty() && adrift.is_empty() {
            return beat(&[], &[]);
        }
        current.chunks(PAGE).all(|page| beat(page, &[]))
            && adrift.chunks(PAGE).all(|page| beat(&[], page))
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
            if self.interests.len() >= self.service.most_interests {
                return Err(Status::resource_exhausted("interest in too many broadcasts"));
            }
            self.interests.insert(id);
            let held = holding
                .version
                .map(|version| (Version::from(version), holding.position.map(Into::into)));
            // If it is not known here, the heartbeat says so.
            let wanted = self.service.broadcasts.on_wanted(id, held).is_ok();
            debug!(broadcast = %id, wanted, "an edge has viewers");
            sent = sent && self.expire(id);
        }
        Ok(sent)
    }
}

fn as_expire(id: BroadcastId, notice: Notice) -> Expire {
    Expire {
        broadcast: id.to_string(),
        version: Some(notice.version.into()),
        position: notice.position.map(Into::into),
        incarnation: notice.incarnation,
    }
}

fn as_entry(id: BroadcastId, entry: Option<&Entry>) -> DirectoryEntry {
    let broadcast = id.to_string();
    let Some(entry) = entry else {
        let state = BroadcastState::Removed.into();
        return DirectoryEntry { broadcast, state, ..DirectoryEntry::default() };
    };
    let state = match entry.state {
        State::Created => BroadcastState::Created,
        State::Live => BroadcastState::Live,
        State::Interrupted => BroadcastState::Interrupted,
        State::Ended => BroadcastState::Ended,
        State::Gone => BroadcastState::Gone,
    };
    DirectoryEntry {
        broadcast,
        state: state.into(),
        private: entry.private,
        incarnation: entry.incarnation,
        target_duration_ms: millis(entry.target.unwrap_or_default()),
        fill: upstream::Fill::from(entry.fill).into(),
    }
}

fn as_upstream(revocation: control::Revocation) -> Revocation {
    Revocation {
        broadcast: revocation.broadcast,
        viewer: revocation.viewer,
        expires_at_ms: revocation.expires_at_ms,
    }
}
