//! Which edge is whose gateway: the decision is `crate::gateways`, here it gets
//! what it decides on, and edges are told.

use std::time::Duration;

use parking_lot::MutexGuard;
use spyglass_api::control::{self, update::Update};
use spyglass_daemon::now_utc;
use spyglass_media::{BroadcastId, NodeId, UtcTime};
use tracing::debug;

use super::{Panel, SETTLE};
use crate::fleet::{Node, Role, State};
use crate::gateways::{Candidate, Gateways};
use crate::record::Record;

/// Gateways in one message: far below its size limit.
const PAGE: usize = 1_000;

/// An ended broadcast keeps its gateway while players still fetch the rest.
const LATE: Duration = Duration::from_secs(120);

impl Panel {
    /// The gateways now; held for a few lines, never across an await.
    pub fn gateways(&self) -> MutexGuard<'_, Gateways> {
        self.gateways.lock()
    }

    /// The gateway of a broadcast, if any edge fetches through one.
    pub fn shown_gateway(&self, id: BroadcastId) -> Option<String> {
        let used = self.fleet().uses_gateways();
        self.gateways().get(id).filter(|_| used).map(|node| node.to_string())
    }

    /// Of how many broadcasts an edge is the gateway, if any fetches through one.
    pub fn shown_gateway_of(&self, node: &NodeId) -> usize {
        if self.fleet().uses_gateways() { self.gateways().of(node) } else { 0 }
    }

    /// Names gateways for what runs now, and tells edges what changed.
    pub fn name_gateways(&self) {
        let nodes: Vec<Node> = self.fleet().nodes().collect();
        let edges = || nodes.iter().filter(|node| node.registration.role == Role::Edge);
        // A control that has just started must not take from edges that it has
        // not heard of yet what they do.
        let heard = edges().all(|node| node.state != State::Lost);
        if self.is_settling() || (!heard && self.started.elapsed() < SETTLE) {
            return;
        }
        let candidates: Vec<Candidate> = edges()
            .filter(|node| node.state == State::Up && !node.registration.grpc.is_empty())
            .map(|node| Candidate { id: node.id.clone(), location: node.registration.location })
            .collect();
        let now = now_utc();
        let running = self.broadcasts.all(|record: &Record| {
            record.ended_at_ms.is_none_or(|ended| now.since(UtcTime::from_millis(ended)) < LATE)
        });
        let place = |origin: &NodeId| {
            let origin = nodes.iter().find(|node| *node.id == *origin)?;
            origin.registration.location
        };
        let broadcasts: Vec<_> =
            running.iter().map(|record| (record.id, place(&record.origin))).collect();
        let changes = self.gateways().on_change(&broadcasts, &candidates);
        if changes.is_empty() {
            return;
        }
        debug!(count = changes.len(), "gateways named");
        let named: Vec<control::Gateway> = changes
            .iter()
            .map(|(id, node)| gateway(*id, node.as_ref().map_or("", |node| node.as_str())))
            .collect();
        for page in named.chunks(PAGE) {
            let update = control::Gateways { anew: false, gateways: page.to_vec() };
            for edge in edges() {
                self.links.send(&edge.id, Update::Gateways(update.clone()));
            }
        }
    }

    /// All gateways, as an edge that has just registered is told. Nothing while
    /// this control has named none: what another one said holds.
    pub fn named_gateways(&self) -> Vec<control::Gateways> {
        let named: Vec<control::Gateway> =
            self.gateways().iter().map(|(id, node)| gateway(id, node.as_str())).collect();
        let page = |(at, page): (usize, &[control::Gateway])| control::Gateways {
            anew: at == 0,
            gateways: page.to_vec(),
        };
        named.chunks(PAGE).enumerate().map(page).collect()
    }
}

fn gateway(broadcast: BroadcastId, node: &str) -> control::Gateway {
    control::Gateway { broadcast: broadcast.to_string(), node: node.to_owned() }
}
