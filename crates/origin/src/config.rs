//! What an operator can set on an origin, with its defaults.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spyglass_daemon::config::{Invalid, positive};
use spyglass_daemon::{Secret, listen, log};
use spyglass_media::{Location, NodeId};

/// Keys are the flags' names with `_`; every one may be left out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The node's name; default `origin-` and the host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<NodeId>,
    /// RTMP for broadcasters and push viewers.
    pub rtmp: SocketAddr,
    /// Health and, on loopback, metrics.
    pub http: SocketAddr,
    /// gRPC for edges.
    pub grpc: SocketAddr,
    /// gRPC addresses of the controls.
    pub control: Vec<String>,
    /// Shared secret of the services' gRPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_key: Option<Secret>,
    /// A file that holds the cluster key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_key_file: Option<PathBuf>,
    /// What others are told instead of the HTTP listener's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_http: Option<String>,
    /// What broadcasters and viewers are told instead of the RTMP listener's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_rtmp: Option<String>,
    /// What edges are told instead of the gRPC listener's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_grpc: Option<String>,
    /// Metrics and health on an address of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
    /// Where the node stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// The journal, control's keys, revocations.
    pub state: PathBuf,
    /// `text` or `json`; default text on a terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<log::Format>,
    /// Broadcasts held at once, ended ones included.
    pub max_broadcasts: usize,
    /// Push viewers and broadcasts that this origin is meant for, together:
    /// control places no broadcast here beyond it. 0: not said, control reckons with 10,000.
    pub viewer_capacity: u32,
    /// RTMP connections at once.
    pub max_connections: usize,
    /// RTMP connections of one address that have not yet shown a valid token.
    pub max_unproven_per_address: usize,
    /// Megabits per second that one publisher may send; beyond it, it is slowed down.
    pub publisher_mbit: u32,
    /// Megabytes of the running GOP kept for push viewers who join.
    pub gop_cache_mb: u32,
    /// GOPs a push viewer may be behind.
    pub push_queue_gops: usize,
    /// Megabytes a push viewer may be behind.
    pub push_queue_mb: u32,
    /// Chunks listed, 3 to 60: how far viewers can go back. From 10 target durations
    /// on, players are offered delta updates.
    pub window_chunks: usize,
    /// Seconds without a frame after which a connected publisher counts as away.
    pub silence_seconds: u32,
    /// Seconds that an ended broadcast is still served.
    pub ended_seconds: u32,
    /// Edges watching at once.
    pub max_watchers: usize,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            id: None,
            rtmp: loopback(1935),
            http: loopback(8180),
            grpc: loopback(9180),
            control: vec!["http://127.0.0.1:9080".to_owned()],
            cluster_key: None,
            cluster_key_file: None,
            public_http: None,
            public_rtmp: None,
            public_grpc: None,
            admin: None,
            location: None,
            state: PathBuf::from("spyglass-data/origin"),
            log_format: None,
            max_broadcasts: 10_000,
            viewer_capacity: 0,
            max_connections: 20_000,
            max_unproven_per_address: 100,
            publisher_mbit: 25,
            gop_cache_mb: 2,
            push_queue_gops: 2,
            push_queue_mb: 4,
            window_chunks: 6,
            silence_seconds: 10,
            ended_seconds: 65,
            max_watchers: 1_024,
        }
    }
}

impl Config {
    /// Keys that take effect without a restart when the file is read again
    /// (SIGHUP): for publishers, viewers and broadcasts that come from then on.
    pub const RELOADED: &[&str] = &[
        "max_broadcasts",
        "viewer_capacity",
        "publisher_mbit",
        "gop_cache_mb",
        "push_queue_gops",
        "push_queue_mb",
        "window_chunks",
        "silence_seconds",
        "ended_seconds",
        "max_watchers",
    ];

    /// Whether broadcasters, viewers and edges can be told where this origin is.
    ///
    /// # Errors
    /// The first listener on every address whose `--public-…` is missing.
    pub fn check_addresses(&self) -> Result<(), listen::Untold> {
        listen::told("--rtmp", self.rtmp, "--public-rtmp", self.public_rtmp.as_deref())?;
        listen::told("--grpc", self.grpc, "--public-grpc", self.public_grpc.as_deref())
    }

    /// Refuses what the types alone let pass.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn check(&self) -> Result<(), Invalid> {
        positive(&[
            ("max_broadcasts", self.max_broadcasts as u64),
            ("max_connections", self.max_connections as u64),
            ("max_unproven_per_address", self.max_unproven_per_address as u64),
            ("publisher_mbit", self.publisher_mbit.into()),
            ("push_queue_gops", self.push_queue_gops as u64),
            ("push_queue_mb", self.push_queue_mb.into()),
            ("silence_seconds", self.silence_seconds.into()),
            ("max_watchers", self.max_watchers as u64),
        ])?;
        match self.window_chunks {
            3..=60 => Ok(()),
            _ => Err(Invalid { key: "window_chunks", advice: "give 3 to 60" }),
        }
    }

    /// What each push viewer's queue may hold.
    pub(crate) fn queue_limits(&self) -> crate::send_queue::Limits {
        crate::send_queue::Limits {
            gops: self.push_queue_gops.max(1),
            bytes: megabytes(self.push_queue_mb),
            losses: 3,
        }
    }

    /// How long each stage of a broadcast lasts; `resume` comes with its token.
    pub(crate) fn life_limits(&self) -> crate::life::Limits {
        crate::life::Limits {
            silence: Duration::from_secs(self.silence_seconds.max(1).into()),
            resume: Duration::from_secs(30),
            retention: Duration::from_secs(self.ended_seconds.into()),
            challenge: Duration::from_secs(2),
        }
    }

    /// Bytes of a GOP kept for joiners; never more than a queue takes.
    pub(crate) fn gop_cache_bytes(&self) -> usize {
        megabytes(self.gop_cache_mb).min(megabytes(self.push_queue_mb))
    }
}

fn megabytes(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(1024 * 1024)
}
