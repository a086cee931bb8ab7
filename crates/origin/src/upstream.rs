//! The gRPC that edges speak to this origin: Watch and Fetch.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use spyglass_api::upstream::upstream_server::Upstream;
use spyglass_api::upstream::{
    DirectoryEntry, Encoding, Expire, FetchRequest, FetchResponse, Header, Playlist, Variant,
    WatchRequest, WatchResponse,
};
use spyglass_api::{MAX_SLICE, convert};
use spyglass_daemon::attach::Attachment;
use spyglass_daemon::now_utc;
use spyglass_daemon::upstream::{Answers, Change, Held, Watched, hello, watch, whole};
use spyglass_hls::playlist;
use spyglass_media::delay::{Stage, Tier};
use spyglass_media::{BroadcastId, Resource, Version};
use tokio::sync::broadcast::Receiver;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use crate::broadcast::{Broadcast, Input, List};
use crate::life::Phase;
use crate::registry::Registry;

/// The longest a Fetch waits for a list that does not exist yet; an edge's own
/// deadline is shorter or equal.
const WAIT: Duration = Duration::from_secs(9);

/// Broadcasts one edge may be interested in.
const INTERESTS: usize = 100_000;

/// The service; clones share the registry.
#[derive(Clone, Debug)]
pub struct Service {
    registry: Arc<Registry>,
}

impl Service {
    /// Answers for these broadcasts.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry }
    }

    async fn find(&self, request: &FetchRequest) -> Result<Arc<Broadcast>, Status> {
        let id = convert::broadcast(&request.broadcast)?;
        self.registry.get(id).ok_or_else(|| Status::not_found("no such broadcast"))
    }
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
        let edge = hello(&mut requests).await?;
        let most = self.registry.live.get().max_watchers;
        watch(self.clone(), edge, requests, &self.registry.metrics.watchers, most)
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
        Ok(Response::new(whole(header, bodies)))
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

impl Watched for Service {
    type Change = Change;

    fn changes(&self) -> Receiver<Change> {
        self.registry.subscribe()
    }

    fn told(&self, change: Change) -> Change {
        change
    }

    fn directory(&self) -> Vec<DirectoryEntry> {
        self.registry.directory()
    }

    fn newest(&self, id: BroadcastId) -> Option<Expire> {
        self.registry.current(id)
    }

    /// An origin vouches for all that it has.
    fn beat(&self, interests: &HashSet<BroadcastId>) -> (Vec<Expire>, Vec<String>) {
        (interests.iter().filter_map(|&id| self.registry.current(id)).collect(), Vec::new())
    }

    fn on_interest(&self, id: BroadcastId, held: Held) {
        debug!(broadcast = %id, "an edge has viewers");
        if let Some((version, position)) = held {
            self.registry.ask(id, Input::Held(version, position));
        }
    }

    fn most_interests(&self) -> usize {
        INTERESTS
    }

    fn attachment(&self) -> &Attachment {
        &self.registry.attachment
    }
}
