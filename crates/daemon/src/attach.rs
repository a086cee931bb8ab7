//! A node's link with control, used by origin and edge.
//!
//! The node reports (heartbeats, events, leases) and learns what it must know
//! to go on without control: keys, the other nodes, revocations. These stand in
//! the state directory, so that a node also starts without control.
//!
//! Keys, revocations and leases are pure and stand in files of their
//! own; `link` is the task that speaks gRPC.

mod keys;
mod leases;
mod link;
mod outbox;
mod revocations;
mod saved;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use spyglass_api::auth::ClusterKey;
use spyglass_api::control::{BroadcastEvent, BroadcastRecord, Expect, Lease, Load, Node, Role};
use spyglass_media::{BroadcastId, Location, NodeId, ViewerId};
use spyglass_token::KeySet;
use tokio::sync::{broadcast, mpsc, watch};

pub use spyglass_api::control::Revocation;

use crate::state::StateDir;
use crate::{Shutdown, grpc, now_utc};
use keys::HeldKeys;
use leases::Leases;
use revocations::Revocations;

/// Commands that may wait for the service. While it is full, updates from
/// control wait on the connection.
const COMMANDS: usize = 1_024;

/// Revocations that a slow subscriber may be behind; then it reads them all.
const REVOCATIONS_BEHIND: usize = 1_024;

/// Events that wait to be sent; beyond it the link starts anew, and its
/// Register tells everything at once.
const EVENTS: usize = 1_024;

/// Why a node cannot start its link.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No control was named.
    #[error("no control: give --control http://HOST:PORT, once for each control")]
    NoControl,
    /// An address is none.
    #[error("--control {0}")]
    Address(#[from] grpc::Error),
    /// The state cannot be read.
    #[error("{path}: {source}; give --state a directory this user may read and write")]
    State {
        /// The file.
        path: String,
        /// What the system said. Part of the text already.
        source: std::io::Error,
    },
}

/// Who this node is, as it tells control.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name.
    pub node: NodeId,
    /// Origin or edge.
    pub role: Role,
    /// What viewers are told; empty without such a listener.
    pub public_http: String,
    /// What broadcasters and push viewers are told; empty without such a listener.
    pub public_rtmp: String,
    /// What other nodes are told; empty without such a listener.
    pub public_grpc: String,
    /// Where it stands, when the operator said so.
    pub location: Option<Location>,
    /// Differs after each start of the process.
    pub incarnation: u64,
}

/// What the node tells when asked.
pub trait Source: Send + Sync + 'static {
    /// For the next heartbeat.
    fn load(&self) -> Load;

    /// Every broadcast of this origin; empty on an edge.
    fn records(&self) -> Vec<BroadcastRecord>;
}

/// What control wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// A broadcast was placed on this origin.
    Expect(Expect),
    /// End this broadcast now.
    End(BroadcastId),
    /// No new arrivals will be sent here, or they will again.
    Drain(bool),
}

/// The service's side of the link; clones share it.
#[derive(Clone, Debug)]
pub struct Attachment(Arc<Shared>);

/// What the service and the link's task share. Every lock is held for a few
/// lines and never across an await.
#[derive(Debug)]
struct Shared {
    keys: Mutex<HeldKeys>,
    nodes: watch::Sender<Arc<[Node]>>,
    revocations: Mutex<Revocations>,
    revoked: broadcast::Sender<Revocation>,
    leases: Mutex<Leases>,
    events: mpsc::Sender<BroadcastEvent>,
    /// An event was lost: the link starts anew and reports everything.
    overflowed: AtomicBool,
    attached: watch::Sender<bool>,
    /// Wakes the task that writes the state.
    changed: tokio::sync::Notify,
    state: StateDir,
}

impl Shared {
    fn revoke(&self, revocation: Revocation) {
        if self.revocations.lock().add(&revocation, now_utc()) {
            self.changed.notify_one();
            // Without subscribers there is nobody to tell.
            let _ = self.revoked.send(revocation);
        }
    }
}

impl Attachment {
    /// The keys that verify tokens now.
    pub fn keys(&self) -> Arc<KeySet> {
        self.0.keys.lock().set()
    }

    /// Every node that control knows; the last known ones while it is away.
    pub fn nodes(&self) -> watch::Receiver<Arc<[Node]>> {
        self.0.nodes.subscribe()
    }

    /// Whether this viewer's tokens are refused.
    pub fn revoked(&self, broadcast: BroadcastId, viewer: ViewerId) -> bool {
        self.0.revocations.lock().contains(broadcast, viewer)
    }

    /// All revocations that still matter.
    pub fn revocations(&self) -> Vec<Revocation> {
        self.0.revocations.lock().all()
    }

    /// Revocations as they become known, from control or [`Self::add_revocation`].
    pub fn subscribe_revocations(&self) -> broadcast::Receiver<Revocation> {
        self.0.revoked.subscribe()
    }

    /// A revocation learned from somewhere else, an upstream for example. Known
    /// and malformed ones change nothing.
    pub fn add_revocation(&self, revocation: Revocation) {
        self.0.revoke(revocation);
    }

    /// Something happened to a broadcast; [`Source::records`] must already say
    /// so. While control is away the next Register supersedes it.
    pub fn event(&self, event: BroadcastEvent) {
        if self.0.events.try_send(event).is_err() {
            self.0.overflowed.store(true, Ordering::Relaxed);
        }
    }

    /// A viewer is here, or is here under another generation of its seat.
    pub fn lease_begun(&self, lease: Lease) {
        self.0.leases.lock().begin(&lease);
    }

    /// That viewer is gone. Ignored when a newer generation has begun.
    pub fn lease_ended(&self, lease: Lease) {
        self.0.leases.lock().end(&lease);
    }

    /// Whether a control is connected.
    pub fn attached(&self) -> watch::Receiver<bool> {
        self.0.attached.subscribe()
    }
}

/// Reads the state and starts the link; it ends with `shutdown`.
///
/// `controls` are tried in turn, one at a time. Must be called within a tokio
/// runtime.
pub fn start(
    controls: Vec<String>,
    key: ClusterKey,
    profile: Profile,
    state: StateDir,
    source: Arc<dyn Source>,
    shutdown: Shutdown,
) -> Result<(Attachment, mpsc::Receiver<Command>), Error> {
    if controls.is_empty() {
        return Err(Error::NoControl);
    }
    let mut channels = Vec::with_capacity(controls.len());
    for url in controls {
        let channel = grpc::channel(&url, &key, grpc::Windows::Messages)?;
        channels.push((url, channel));
    }
    let saved = saved::read(&state, now_utc())?;
    let (events, waiting) = mpsc::channel(EVENTS);
    let (commands, orders) = mpsc::channel(COMMANDS);
    let shared = Arc::new(Shared {
        keys: Mutex::new(saved.keys),
        nodes: watch::Sender::new(saved.nodes),
        revocations: Mutex::new(saved.revocations),
        revoked: broadcast::Sender::new(REVOCATIONS_BEHIND),
        leases: Mutex::default(),
        events,
        overflowed: AtomicBool::new(false),
        attached: watch::Sender::new(false),
        changed: tokio::sync::Notify::new(),
        state,
    });
    let link = link::Link::new(Arc::clone(&shared), channels, profile, source, waiting, commands);
    tokio::spawn(link.run(shutdown));
    Ok((Attachment(shared), orders))
}
