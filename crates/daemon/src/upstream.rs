//! The server's side of `spyglass.upstream.v1`, which origins and gateway edges
//! speak alike: a Watch from its hello to its end, and how the answer to a Fetch
//! is cut.
//!
//! What there is to tell is theirs: [`Watched`]. The other side is the edge's
//! `watch.rs` and `fetch.rs`.

use std::collections::HashSet;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::metrics::gauge::Gauge;
use spyglass_api::upstream::{
    DirectoryEntry, Expire, FetchResponse, Header, Heartbeat, Interest, Revocation, Snapshot,
    WatchRequest, WatchResponse, fetch_response, watch_request, watch_response,
};
use spyglass_api::{MAX_SLICE, control, convert};
use spyglass_media::{BroadcastId, NodeId, Position, Version};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Response, Status, Streaming};
use tracing::info;

use crate::attach::Attachment;

/// Time for the first message of a watch.
const HELLO: Duration = Duration::from_secs(5);

/// Between two heartbeats (`Heartbeat` in proto/spyglass/upstream/v1).
const BEAT: Duration = Duration::from_secs(1);

/// Directory entries, revocations or versions in one message: far below its
/// size limit.
const PAGE: usize = 1_000;

/// Messages that may wait for a slow edge before its watch is closed; it then
/// reconnects and gets a snapshot.
const WAITING: usize = 1_024;

/// Messages to an edge.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What is told of one broadcast.
#[derive(Clone, Debug)]
pub enum Change {
    /// The directory's entry for it is now this.
    Directory(DirectoryEntry),
    /// It has a new list.
    Expire(BroadcastId),
}

/// How much an edge holds of a broadcast's list.
pub type Held = Option<(Version, Option<Position>)>;

/// A node that edges watch.
pub trait Watched: Send + 'static {
    /// As its own parts tell each other.
    type Change: Clone + Send + 'static;

    /// Changes from now on.
    fn changes(&self) -> broadcast::Receiver<Self::Change>;

    /// A change, as edges are told.
    fn told(&self, change: Self::Change) -> Change;

    /// Every broadcast that it knows.
    fn directory(&self) -> Vec<DirectoryEntry>;

    /// The newest list of a broadcast, if there is one.
    fn newest(&self, id: BroadcastId) -> Option<Expire>;

    /// The newest list of each of these broadcasts, and those for which it
    /// cannot vouch.
    fn beat(&self, interests: &HashSet<BroadcastId>) -> (Vec<Expire>, Vec<String>);

    /// An edge has viewers of this broadcast.
    fn on_interest(&self, id: BroadcastId, held: Held);

    /// Broadcasts that one edge may be interested in.
    fn most_interests(&self) -> usize;

    /// Knows revocations.
    fn attachment(&self) -> &Attachment;
}

/// Who begins a watch.
///
/// # Errors
/// It does not say so in time, or something else instead.
pub async fn hello(requests: &mut Streaming<WatchRequest>) -> Result<NodeId, Status> {
    let first = tokio::time::timeout(HELLO, requests.message());
    let first = first.await.map_err(|_| Status::deadline_exceeded("no hello within 5 s"))??;
    let Some(watch_request::Request::Hello(hello)) = first.and_then(|first| first.request) else {
        return Err(Status::invalid_argument("the first message must be a hello"));
    };
    Ok(convert::node(&hello.node)?)
}

/// Serves the watch of `edge` in a task of its own, until either side ends.
/// `watchers` counts them.
///
/// # Errors
/// There are `most` already.
pub fn watch<W: Watched>(
    watched: W,
    edge: NodeId,
    requests: Streaming<WatchRequest>,
    watchers: &Gauge,
    most: usize,
) -> Result<Response<Answers<WatchResponse>>, Status> {
    let place = Place::take(watchers, most)
        .ok_or_else(|| Status::resource_exhausted("too many edges watch this node"))?;
    let (answers, receiver) = mpsc::channel(WAITING);
    let watch = Watch { watched, answers, interests: HashSet::new() };
    tokio::spawn(async move {
        info!(%edge, "an edge watches this node");
        let reason = watch.run(requests).await;
        info!(%edge, reason, "an edge's watch of this node ended");
        drop(place);
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
}

/// One of a limited number of watches; given back when dropped.
struct Place(Gauge);

impl Place {
    fn take(watchers: &Gauge, most: usize) -> Option<Self> {
        let before = watchers.inc();
        let place = Self(watchers.clone());
        usize::try_from(before).is_ok_and(|before| before < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One edge's watch.
struct Watch<W> {
    watched: W,
    answers: mpsc::Sender<Result<WatchResponse, Status>>,
    interests: HashSet<BroadcastId>,
}

impl<W: Watched> Watch<W> {
    /// Serves until either side ends; returns why.
    async fn run(mut self, mut requests: Streaming<WatchRequest>) -> &'static str {
        let mut changes = self.watched.changes();
        let mut revocations = self.watched.attachment().subscribe_revocations();
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        if !self.snapshot() {
            return "too slow for a snapshot";
        }
        loop {
            let sent = tokio::select! {
                change = changes.recv() => match change.map(|change| self.watched.told(change)) {
                    Ok(Change::Directory(entry)) => {
                        self.send(watch_response::Response::Change(entry))
                    }
                    Ok(Change::Expire(id)) => !self.interests.contains(&id) || self.expire(id),
                    Err(RecvError::Lagged(_)) => self.snapshot() && self.heartbeat(),
                    Err(RecvError::Closed) => return "this node stops",
                },
                revocation = revocations.recv() => match revocation {
                    Ok(revocation) => {
                        self.send(watch_response::Response::Revocation(as_upstream(revocation)))
                    }
                    Err(RecvError::Lagged(_)) => self.snapshot(),
                    Err(RecvError::Closed) => return "this node stops",
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
        let directory = self.watched.directory();
        let revocations = self.watched.attachment().revocations();
        let revocations: Vec<Revocation> = revocations.into_iter().map(as_upstream).collect();
        let entries = directory
            .chunks(PAGE)
            .map(|entries| Snapshot { entries: entries.to_vec(), ..Snapshot::default() });
        let revocations = revocations.chunks(PAGE).map(|revocations| Snapshot {
            revocations: revocations.to_vec(),
            ..Snapshot::default()
        });
        let last = Snapshot { last: true, ..Snapshot::default() };
        let mut pages = entries.chain(revocations).chain([last]);
        pages.all(|page| self.send(watch_response::Response::Snapshot(page)))
    }

    fn expire(&self, id: BroadcastId) -> bool {
        let newest = self.watched.newest(id);
        newest.is_none_or(|newest| self.send(watch_response::Response::Expire(newest)))
    }

    fn heartbeat(&self) -> bool {
        let (current, adrift) = self.watched.beat(&self.interests);
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
            if self.interests.len() >= self.watched.most_interests() {
                return Err(Status::resource_exhausted("interest in too many broadcasts"));
            }
            self.interests.insert(id);
            let position = holding.position.map(Into::into);
            let held = holding.version.map(|version| (Version::from(version), position));
            self.watched.on_interest(id, held);
            sent = sent && self.expire(id);
        }
        Ok(sent)
    }
}

fn as_upstream(revocation: control::Revocation) -> Revocation {
    Revocation {
        broadcast: revocation.broadcast,
        viewer: revocation.viewer,
        expires_at_ms: revocation.expires_at_ms,
    }
}

/// The first message of the answer to a Fetch.
pub fn announce(header: Header) -> FetchResponse {
    FetchResponse { response: Some(fetch_response::Response::Header(header)) }
}

/// Pieces of at most [`MAX_SLICE`] bytes that share the body's memory.
pub fn slices(body: Bytes) -> impl Iterator<Item = FetchResponse> {
    let count = body.len().div_ceil(MAX_SLICE);
    (0..count).map(move |i| {
        let slice = body.slice(i * MAX_SLICE..((i + 1) * MAX_SLICE).min(body.len()));
        FetchResponse { response: Some(fetch_response::Response::Slice(slice)) }
    })
}

/// The answer to a Fetch of what is here.
pub fn whole(header: Header, bodies: Vec<Bytes>) -> Answers<FetchResponse> {
    let answers = std::iter::once(announce(header)).chain(bodies.into_iter().flat_map(slices));
    Box::pin(tokio_stream::iter(answers.map(Ok)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_the_body_and_none_is_larger_than_it_may_be() {
        for length in [0, 1, MAX_SLICE, MAX_SLICE + 1, 2 * MAX_SLICE, 3 * MAX_SLICE - 1] {
            let body: Bytes = (0..length).map(|at| (at % 251) as u8).collect();
            let mut joined = Vec::new();
            for response in slices(body.clone()) {
                let Some(fetch_response::Response::Slice(slice)) = response.response else {
                    panic!("no slice");
                };
                assert!(!slice.is_empty() && slice.len() <= MAX_SLICE);
                joined.extend_from_slice(&slice);
            }
            assert_eq!(joined, body);
        }
    }

    #[test]
    fn so_many_watch_and_a_place_is_given_back() {
        let watchers = Gauge::default();
        let places = [(); 2].map(|()| Place::take(&watchers, 2).expect("there is room"));
        assert!(Place::take(&watchers, 2).is_none());
        assert_eq!(watchers.get(), 2);
        drop(places);
        assert!(Place::take(&watchers, 2).is_some());
        assert_eq!(watchers.get(), 0);
    }
}
