//! What a fetch does with what it brings. Each runs in a task of its own and
//! ends for whoever still waits, however many have left.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use spyglass_api::upstream::Header;
use spyglass_media::{BroadcastId, Position, Resource};
use tracing::debug;

use super::{Broadcast, Broadcasts, Change, now};
use crate::cache::{Announce, Flying, Outcome};
use crate::delays::Measured;
use crate::fetch::{Failure, Passing};
use crate::filling::Writer;
use crate::respond::{Digest, Encoding, Head, Lists, Object, Prebuilt};
use crate::route::Route;
use crate::slot::{Fetch, Filled, Meta};

/// Pause before the second and last attempt to fetch an object.
const AGAIN: Duration = Duration::from_millis(100);

/// Larger objects are hashed off the runtime's threads, in bytes.
const LARGE: usize = 1024 * 1024;

/// Fetches a broadcast's lists for its slot.
pub async fn lists(broadcasts: Arc<Broadcasts>, broadcast: Arc<Broadcast>, fetch: Fetch) {
    let route = broadcast.route();
    let fetched = match &route {
        Some(route) => {
            let believed = |incarnation| broadcast.slot.lock().believes(incarnation);
            let metrics = &broadcasts.metrics;
            route.lists(broadcast.id, fetch.least, fetch.until, metrics, believed).await
        }
        None => Err(Failure::Unreachable),
    };
    let (result, newest) = arrived(&broadcast, fetch, fetched);
    broadcast.wake();
    broadcasts.metrics.fetch("chunklist", result);
    if result != "ok" {
        debug!(broadcast = %broadcast.id, result, "list not fetched");
    }
    broadcasts.tell((result == "ok").then_some(Change::Expire(broadcast.id)));
    if let (Some(resource), Some(route)) = (newest, route) {
        prefetch(&broadcasts, route, broadcast.id, resource).await;
    }
}

/// Gives the slot what came. What must be fetched ahead of being asked for
/// comes back with the word for metrics.
fn arrived(
    broadcast: &Broadcast,
    fetch: Fetch,
    fetched: Result<(Meta, Lists), Failure>,
) -> (&'static str, Option<Resource>) {
    let mut slot = broadcast.slot.lock();
    match fetched {
        Ok((meta, lists)) => match slot.on_filled(now(), fetch.id, meta, Arc::new(lists)) {
            Filled::Stored => {
                let ahead = broadcast.prefetch.load(Relaxed) && slot.interested();
                ("ok", if ahead { newest_of(&meta) } else { None })
            }
            other => (other.as_str(), None),
        },
        Err(failure) => {
            slot.on_failed(now(), fetch.id);
            (failure.as_str(), None)
        }
    }
}

/// Whoever asks meanwhile joins it. It counts as nobody's request.
async fn prefetch(broadcasts: &Arc<Broadcasts>, route: Route, id: BroadcastId, resource: Resource) {
    let this = Arc::clone(broadcasts);
    let fill = |announce| async move { object(&this, &route, id, resource, announce).await };
    if broadcasts.objects.fill((id, resource), false, fill).await.is_err() {
        broadcasts.metrics.fetch(resource.kind(), "no_room");
    }
}

/// The part or chunk that a list names last.
fn newest_of(list: &Meta) -> Option<Resource> {
    let Position { sequence, part } = list.position?;
    let epoch = list.version.epoch;
    // Where there are parts, what has none is a GAP.
    if part.is_none() && list.last_parts == 0 && list.part_target.is_some() {
        return None;
    }
    Some(match part {
        Some(part) => Resource::Part { epoch, sequence, part },
        None => Resource::Chunk { epoch, sequence },
    })
}

/// Fetches an init, chunk or part.
pub async fn object(
    broadcasts: &Broadcasts,
    route: &Route,
    id: BroadcastId,
    resource: Resource,
    announce: Announce,
) -> Outcome {
    let deadline = now() + broadcasts.limits.fetch;
    let broadcast = broadcasts.get(id);
    let measured = broadcast.as_ref().map(|it| Measured::new(Arc::clone(&it.delays)));
    let asked = now();
    let mut passing = PassOn { resource, announce, writer: None, measured, asked };
    let metrics = &broadcasts.metrics;
    let mut fetched = route.object(id, resource, deadline, metrics, &mut passing).await;
    if fetched.as_ref().is_err_and(|failure| failure.is_transport()) {
        broadcasts.metrics.fetch(resource.kind(), "retried");
        tokio::time::sleep(AGAIN).await;
        passing.asked = now();
        fetched = route.object(id, resource, deadline, metrics, &mut passing).await;
    }
    let built = match fetched {
        Ok(bytes) => prebuild(resource, bytes).await.and_then(|answer| passing.check(answer)),
        Err(failure) => Err(failure),
    };
    let result = built.as_ref().map_or_else(|failure| failure.as_str(), |_| "ok");
    broadcasts.metrics.fetch(resource.kind(), result);
    match built {
        Ok(answer) => {
            let (arrived, measured) = (now(), passing.measured);
            if let (Some(broadcast), Some(measured)) = (broadcast, &measured) {
                measured.on_held(arrived, broadcast.slot.lock().attended());
            }
            Outcome::Found(Arc::new(Object { answer, arrived, measured }))
        }
        Err(Failure::Missing) => Outcome::Missing,
        Err(failure) => {
            debug!(broadcast = %id, %resource, failure = ?failure, "fetch failed");
            Outcome::Failed
        }
    }
}

/// Builds an object's answer; a large one on a thread where it may take its time.
async fn prebuild(resource: Resource, bytes: Bytes) -> Result<Prebuilt, Failure> {
    if bytes.len() <= LARGE {
        return Ok(Prebuilt::new(resource, Encoding::Identity, bytes));
    }
    let build = move || Prebuilt::new(resource, Encoding::Identity, bytes);
    tokio::task::spawn_blocking(build).await.map_err(|_| Failure::Upstream)
}

/// Passes a chunk on while it comes, when the upstream has said what it will
/// be. A second attempt goes on where the first one ended.
struct PassOn {
    resource: Resource,
    announce: Announce,
    writer: Option<Writer>,
    measured: Option<Measured>,
    asked: Instant,
}

impl PassOn {
    /// What has come must be what was announced.
    fn check(&mut self, answer: Prebuilt) -> Result<Prebuilt, Failure> {
        let Some(writer) = self.writer.take() else { return Ok(answer) };
        if writer.filling().head().digest() != answer.head().digest() {
            return Err(Failure::Rubbish("digest"));
        }
        writer.finish(answer.body().clone());
        Ok(answer)
    }
}

impl Passing for PassOn {
    fn on_header(&mut self, header: &Header, length: usize) -> Result<(), Failure> {
        if let Some(measured) = &mut self.measured {
            measured.on_header(self.asked, now(), header.ready_age_us);
        }
        if !matches!(self.resource, Resource::Chunk { .. }) || header.digest.is_empty() {
            return Ok(());
        }
        let digest = Digest::try_from(&*header.digest).map_err(|_| Failure::Rubbish("digest"))?;
        match &self.writer {
            Some(writer) => {
                let begun = writer.filling();
                let same = *begun.head().digest() == digest && begun.length() == length;
                if same { Ok(()) } else { Err(Failure::Rubbish("digest")) }
            }
            None => {
                let head = Head::new(self.resource, Encoding::Identity, digest);
                let writer = Writer::new(head, length, self.measured.clone());
                self.announce.send_replace(Flying::Filling(Arc::clone(writer.filling())));
                self.writer = Some(writer);
                Ok(())
            }
        }
    }

    fn on_slice(&mut self, at: usize, slice: &Bytes) {
        if let Some(writer) = &mut self.writer {
            writer.push(at, slice);
        }
    }
}
