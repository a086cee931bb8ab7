//! The gRPC that other edges speak to this one: Watch and Fetch, as an origin
//! speaks them. So an edge is a gateway for whoever is told to go through it.
//!
//! What is served comes from the slots and the cache that viewers are served
//! from: however many edges ask, and viewers beside them, each object is fetched
//! once. Versions, positions and incarnations are the origin's own, unchanged.
//! What this edge cannot vouch for, because it does not hear of it from the
//! origin itself, it says in each heartbeat, and does not serve.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http_body_util::BodyStream;
use spyglass_api::upstream::upstream_server::Upstream;
use spyglass_api::upstream::{
    BroadcastState, DirectoryEntry, Encoding, Expire, FetchRequest, FetchResponse, Header,
    Playlist, Variant, WatchRequest, WatchResponse,
};
use spyglass_api::{MAX_SLICE, convert, upstream};
use spyglass_daemon::attach::Attachment;
use spyglass_daemon::upstream::{self as server, Answers, Held, Watched, announce, slices, whole};
use spyglass_media::{BroadcastId, NodeId, Resource, Version};
use tokio::sync::broadcast::Receiver;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use crate::broadcasts::{Broadcasts, Change, Found, Listed, Notice};
use crate::delays::Measured;
use crate::directory::{Entry, State};
use crate::filling::{Broken, Reader};
use crate::metrics::Metrics;
use crate::outcome::CacheStatus;
use crate::refusal::Refusal;

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
    /// Watches at once.
    pub most_watchers: usize,
    /// Broadcasts that one edge may be interested in.
    pub most_interests: usize,
}

#[tonic::async_trait]
impl Upstream for Service {
    type WatchStream = Answers<WatchResponse>;
    type FetchStream = Answers<FetchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut requests = request.into_inner();
        let edge = server::hello(&mut requests).await?;
        if edge == self.me {
            return Err(Status::failed_precondition("an edge is no gateway for itself"));
        }
        server::watch(self.clone(), edge, requests, &self.metrics.watchers, self.most_watchers)
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

impl Watched for Service {
    type Change = Change;

    fn changes(&self) -> Receiver<Change> {
        self.broadcasts.changes()
    }

    fn told(&self, change: Change) -> server::Change {
        match change {
            Change::Directory(id) => {
                let known = self.broadcasts.known(id);
                let entry = as_entry(id, known.as_ref().map(|known| &known.entry));
                server::Change::Directory(entry)
            }
            Change::Expire(id) => server::Change::Expire(id),
        }
    }

    fn directory(&self) -> Vec<DirectoryEntry> {
        let directory = self.broadcasts.directory();
        directory.iter().map(|(id, entry)| as_entry(*id, Some(entry))).collect()
    }

    fn newest(&self, id: BroadcastId) -> Option<Expire> {
        self.broadcasts.newest(id).map(|notice| as_expire(id, notice))
    }

    /// Also renews what the edge's viewers are to the slots here: an interest.
    fn beat(&self, interests: &HashSet<BroadcastId>) -> (Vec<Expire>, Vec<String>) {
        let (mut current, mut adrift) = (Vec::new(), Vec::new());
        for &id in interests {
            let wanted = self.broadcasts.on_wanted(id, None).is_ok();
            if !wanted || !self.broadcasts.vouches(id) {
                adrift.push(id.to_string());
            } else {
                current.extend(self.newest(id));
            }
        }
        (current, adrift)
    }

    fn on_interest(&self, id: BroadcastId, held: Held) {
        // If it is not known here, the heartbeat says so.
        let wanted = self.broadcasts.on_wanted(id, held).is_ok();
        debug!(broadcast = %id, wanted, "an edge has viewers");
    }

    fn most_interests(&self) -> usize {
        self.most_interests
    }

    fn attachment(&self) -> &Attachment {
        &self.attachment
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
