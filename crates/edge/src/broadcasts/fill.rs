//! What a fetch does with what it brings. Each runs in a task of its own and
//! ends for whoever still waits, however many have left.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use spyglass_media::{BroadcastId, Resource};
use tracing::debug;

use super::{Broadcast, Broadcasts, now};
use crate::cache::Outcome;
use crate::fetch::Failure;
use crate::respond::{Encoding, Object, Prebuilt};
use crate::slot::{Fetch, Filled};
use crate::watch::Origin;

/// Pause before the second and last attempt to fetch an object.
const AGAIN: Duration = Duration::from_millis(100);

/// Larger objects are hashed off the runtime's threads, in bytes.
const LARGE: usize = 1024 * 1024;

/// Fetches a broadcast's lists for its slot.
pub async fn lists(broadcasts: Arc<Broadcasts>, broadcast: Arc<Broadcast>, fetch: Fetch) {
    let origin = broadcast.origin.lock().clone();
    let fetched = match origin {
        Some(origin) => origin.fetcher().lists(broadcast.id, fetch.least, fetch.until).await,
        None => Err(Failure::Unreachable),
    };
    let mut slot = broadcast.slot.lock();
    let result = match fetched {
        Ok((meta, lists)) => match slot.on_filled(now(), fetch.id, meta, Arc::new(lists)) {
            Filled::Stored => "ok",
            other => other.as_str(),
        },
        Err(failure) => {
            slot.on_failed(now(), fetch.id);
            failure.as_str()
        }
    };
    drop(slot);
    broadcast.wake.send_replace(());
    broadcasts.metrics.fetch("chunklist", result);
    if result != "ok" {
        debug!(broadcast = %broadcast.id, result, "list not fetched");
    }
}

/// Fetches an init, chunk or part.
pub async fn object(
    broadcasts: &Broadcasts,
    origin: &Origin,
    id: BroadcastId,
    resource: Resource,
) -> Outcome {
    let deadline = now() + broadcasts.limits.fetch;
    let mut fetched = origin.fetcher().object(id, resource, deadline).await;
    if fetched.as_ref().is_err_and(|failure| failure.is_transport()) {
        broadcasts.metrics.fetch(resource.kind(), "retried");
        tokio::time::sleep(AGAIN).await;
        fetched = origin.fetcher().object(id, resource, deadline).await;
    }
    let result = fetched.as_ref().map_or_else(|failure| failure.as_str(), |_| "ok");
    broadcasts.metrics.fetch(resource.kind(), result);
    match fetched {
        Ok(bytes) => match prebuild(resource, bytes).await {
            Some(answer) => Outcome::Found(Arc::new(Object { answer, arrived: now() })),
            None => Outcome::Failed,
        },
        Err(Failure::Missing) => Outcome::Missing,
        Err(failure) => {
            debug!(broadcast = %id, %resource, failure = ?failure, "fetch failed");
            Outcome::Failed
        }
    }
}

/// Builds an object's answer; a large one on a thread where it may take its time.
async fn prebuild(resource: Resource, bytes: Bytes) -> Option<Prebuilt> {
    if bytes.len() <= LARGE {
        return Some(Prebuilt::new(resource, Encoding::Identity, bytes));
    }
    let build = move || Prebuilt::new(resource, Encoding::Identity, bytes);
    tokio::task::spawn_blocking(build).await.ok()
}
