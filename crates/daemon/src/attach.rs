//! A node's links with its controls, used by origin and edge.
//!
//! The node reports (heartbeats, events, leases) and learns what it must know
//! to go on without control: keys, the other nodes, revocations. These stand in
//! the state directory, so that a node also starts without control.
//!
//! It holds a stream to every control at once, those it was given and those
//! that they name, and tells each of them everything: whichever of them dies,
//! the others need not ask.
//!
//! Keys, revocations, leases, which controls there are and what several of
//! them say together are pure and stand in files of their own; `link` is the
//! task that speaks gRPC with one of them, `links` keeps one for each.

mod controls;
mod gateways;
mod keys;
mod leases;
mod link;
mod links;
mod merge;
mod outbox;
mod revocations;
mod saved;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use spyglass_api::auth::ClusterKey;
use spyglass_api::control::{
    BroadcastEvent, BroadcastRecord, Crowd, Delay, DelayReport, Expect, Lease, Load, Node, Role,
};
use spyglass_media::{BroadcastId, Location, NodeId, ViewerId};
use spyglass_token::KeySet;
use tokio::sync::{broadcast, mpsc, watch};

pub use gateways::Gateways;
pub use spyglass_api::control::Revocation;

use crate::state::StateDir;
use crate::{Shutdown, grpc, now_utc};
use controls::Controls;
use keys::HeldKeys;
use leases::Leases;
use merge::Heard;
use revocations::Revocations;

/// Commands that may wait for the service. While it is full, updates from
/// control wait on the connection.
const COMMANDS: usize = 1_024;

/// Revocations that a slow subscriber may be behind; then it reads them all.
const REVOCATIONS_BEHIND: usize = 1_024;

/// Events that wait to be sent to one control; beyond it that link starts anew,
/// and its Register tells everything at once.
const EVENTS: usize = 1_024;

/// Reports of delays that wait to be sent to one control; beyond it the oldest
/// are lost to it.
const DELAYS: usize = 64;

/// Broadcasts whose anonymous viewers one heartbeat tells of.
pub const CROWDS: usize = 2_000;

/// Tells the link of one control from another's.
type LinkId = u64;

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

    /// Who watches here without having joined, [`CROWDS`] broadcasts at most;
    /// none on an origin.
    fn crowds(&self) -> Vec<Crowd> {
        Vec::new()
    }

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
    gateways: watch::Sender<Arc<Gateways>>,
    /// Ids of keys that were revoked.
    revoked_keys: watch::Sender<Arc<[String]>>,
    revocations: Mutex<Revocations>,
    revoked: broadcast::Sender<Revocation>,
    leases: Mutex<Leases>,
    events: broadcast::Sender<BroadcastEvent>,
    delays: broadcast::Sender<DelayReport>,
    /// What each attached control said.
    heard: Mutex<Heard>,
    controls: Mutex<Controls>,
    /// Wakes the task that keeps the links.
    controls_changed: tokio::sync::Notify,
    /// The links that are attached, and to which control; empty until it has
    /// said who it is.
    sessions: watch::Sender<BTreeMap<LinkId, String>>,
    attached: watch::Sender<bool>,
    /// Every control that could be told knows that this node stops.
    left: watch::Sender<bool>,
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

    fn hold_keys(&self, keys: spyglass_api::control::Keys) {
        let (changed, revoked) = {
            let mut held = self.keys.lock();
            (held.on_update(keys, now_utc()), held.revoked())
        };
        if changed {
            tracing::info!("new verification keys");
            self.changed.notify_one();
        }
        // Only now: whoever wakes finds the keys as they are.
        self.revoked_keys.send_if_modified(|told| {
            let news = *told != revoked;
            *told = revoked;
            news
        });
    }

    fn hold_nodes(&self, nodes: Arc<[Node]>) {
        let changed = self.nodes.send_if_modified(|held| {
            let changed = *held != nodes;
            *held = nodes;
            changed
        });
        if changed {
            self.changed.notify_one();
        }
    }

    fn hold_gateways(&self, gateways: Arc<Gateways>) {
        let changed = self.gateways.send_if_modified(|held| {
            let changed = *held != gateways;
            *held = gateways;
            changed
        });
        if changed {
            self.changed.notify_one();
        }
    }
}

impl Attachment {
    /// The keys that verify tokens now.
    pub fn keys(&self) -> Arc<KeySet> {
        self.0.keys.lock().set()
    }

    /// The ids of keys that were revoked. [`Self::keys`] no longer has them when
    /// this changes; connections opened with their tokens must close.
    pub fn revoked_keys(&self) -> watch::Receiver<Arc<[String]>> {
        self.0.revoked_keys.subscribe()
    }

    /// Every node that control knows; the last known ones while it is away.
    pub fn nodes(&self) -> watch::Receiver<Arc<[Node]>> {
        self.0.nodes.subscribe()
    }

    /// Through which edge broadcasts are fetched; the last ones that were named
    /// while control is away.
    pub fn gateways(&self) -> watch::Receiver<Arc<Gateways>> {
        self.0.gateways.subscribe()
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
        // Without links there is nobody to tell; Register will.
        let _ = self.0.events.send(event);
    }

    /// Delays that were measured since the last call ([`crate::delay`]). A
    /// control that is away never hears of them.
    pub fn delays(&self, measured: Vec<Delay>) {
        for report in crate::delay::reports(measured) {
            // Without links there is nobody to tell.
            let _ = self.0.delays.send(report);
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

    /// After the shutdown: until every control has heard that this node stops,
    /// and sends nobody here any more; a little more than a second at most. The
    /// process must not end before.
    pub async fn left(&self) {
        let mut left = self.0.left.subscribe();
        // Each link has its own limit; this is for one that is stuck.
        let _ = tokio::time::timeout(link::GOODBYE * 2, left.wait_for(|left| *left)).await;
    }

    /// Whether at least one control is connected.
    pub fn attached(&self) -> watch::Receiver<bool> {
        self.0.attached.subscribe()
    }
}

/// Reads the state and starts the links; they end with `shutdown`.
///
/// All of `controls` are held at once, and those that they name. Must be called
/// within a tokio runtime.
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
    for url in &controls {
        grpc::channel(url, &key, grpc::Windows::Messages)?;
    }
    let saved = saved::read(&state, now_utc())?;
    let (commands, orders) = mpsc::channel(COMMANDS);
    let shared = Arc::new(Shared {
        revoked_keys: watch::Sender::new(saved.keys.revoked()),
        keys: Mutex::new(saved.keys),
        nodes: watch::Sender::new(saved.nodes),
        gateways: watch::Sender::new(saved.gateways),
        revocations: Mutex::new(saved.revocations),
        revoked: broadcast::Sender::new(REVOCATIONS_BEHIND),
        leases: Mutex::default(),
        events: broadcast::Sender::new(EVENTS),
        delays: broadcast::Sender::new(DELAYS),
        heard: Mutex::default(),
        controls: Mutex::new(Controls::new(controls, saved.controls, Instant::now())),
        controls_changed: tokio::sync::Notify::new(),
        sessions: watch::Sender::default(),
        attached: watch::Sender::new(false),
        left: watch::Sender::new(false),
        changed: tokio::sync::Notify::new(),
        state,
    });
    tokio::spawn(saved::keep(Arc::clone(&shared), shutdown.clone()));
    let node = link::Node { shared: Arc::clone(&shared), key, profile, source, commands };
    tokio::spawn(links::run(Arc::new(node), shutdown));
    Ok((Attachment(shared), orders))
}
