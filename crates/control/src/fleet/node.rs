//! A node: what it does, what it says of itself, and how it fares.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use spyglass_media::{Location, NodeId};

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes broadcasts and serves the push tier.
    Origin,
    /// Serves HLS.
    Edge,
}

impl Role {
    /// The word of the API and the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Edge => "edge",
        }
    }
}

/// How a node fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Takes arrivals.
    Up,
    /// Serves those it has.
    Draining,
    /// Not heard of.
    Lost,
}

impl State {
    /// The word of the API and the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Lost => "lost",
        }
    }
}

/// What a node said of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// What it does.
    pub role: Role,
    /// Its software.
    pub version: String,
    /// For viewers; empty when it has none. So are the next two.
    pub http: String,
    /// For broadcasters and push viewers, application included.
    pub rtmp: String,
    /// For other nodes.
    pub grpc: String,
    /// Where it stands, if it said so.
    pub location: Option<Location>,
    /// Differs after each start of its process.
    pub incarnation: u64,
}

/// What a heartbeat says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Viewers it serves.
    pub viewers: u32,
    /// Broadcasts it has.
    pub broadcasts: u32,
    /// Bits per second sent.
    pub egress_bps: u64,
    /// 1.0 is one core.
    pub cpu: f64,
    /// The most viewers it takes; 0: no limit.
    pub capacity: u32,
    /// Broadcasts that other edges fetch through it.
    pub relayed: u32,
    /// Broadcasts that it fetches through another edge.
    pub through_gateway: u32,
    /// It would, wherever one is named.
    pub uses_gateways: bool,
}

/// A node as operators see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name.
    pub id: Arc<NodeId>,
    /// What it said of itself.
    pub registration: Registration,
    /// How it fares.
    pub state: State,
    /// Its last heartbeat.
    pub load: Load,
}
