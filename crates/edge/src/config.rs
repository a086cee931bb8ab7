//! What an operator can set on an edge, with its defaults.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spyglass_daemon::config::{Invalid, positive};
use spyglass_daemon::{Secret, listen, log};
pub use spyglass_media::Fill;
use spyglass_media::{Location, NodeId};

/// Whom an edge fetches from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamChoice {
    /// Each broadcast's origin.
    Origin,
    /// The gateway that control names for a broadcast, the origin where it names
    /// none or the gateway does not serve.
    Auto,
}

/// Keys are the flags' names with `_`; every one may be left out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The node's name; default `edge-` and the host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<NodeId>,
    /// HLS for viewers; health and, on loopback, metrics.
    pub http: SocketAddr,
    /// HTTPS for viewers beside HTTP; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<SocketAddr>,
    /// HTTP/3 on the UDP port of HTTPS's number; whoever comes by HTTPS is told.
    pub http3: bool,
    /// The certificate chain of HTTPS, PEM; absent: a development certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// gRPC for edges that fetch through this one.
    pub grpc: SocketAddr,
    /// gRPC addresses of the controls.
    pub control: Vec<String>,
    /// Shared secret of the services' gRPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_key: Option<Secret>,
    /// A file that holds the cluster key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_key_file: Option<PathBuf>,
    /// What viewers are told instead of the HTTP listener's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_http: Option<String>,
    /// What other edges are told instead of the gRPC listener's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_grpc: Option<String>,
    /// Metrics and health on an address of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
    /// Where the node stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Control's keys, the node list, revocations.
    pub state: PathBuf,
    /// For tests: drop every expire notice.
    pub ignore_notices: bool,
    /// `text` or `json`; default text on a terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<log::Format>,
    /// Bytes of inits, chunks and parts kept; momentarily up to twice as many.
    pub cache_bytes: u64,
    /// Broadcasts known at once, ended ones included.
    pub max_broadcasts: usize,
    /// HTTP connections at once.
    pub max_connections: usize,
    /// HTTP connections of one address (IPv6: of one /64). Loopback is not
    /// counted: a proxy or a test stands there.
    pub max_connections_per_address: usize,
    /// Viewers this edge is meant for: control sends nobody here beyond it and
    /// spreads arrivals by it. 0: not said, control reckons with 10,000.
    pub viewer_capacity: u32,
    /// Joined viewers counted at once; further ones are served all the same.
    pub max_viewers: usize,
    /// Objects being fetched at once, lists not counted.
    pub max_fetches: usize,
    /// When lists and media are fetched, of broadcasts whose maker did not choose.
    pub fill: Fill,
    /// Whom from.
    pub upstream: UpstreamChoice,
    /// Edges that may fetch through this one at once.
    pub max_watchers: usize,
    /// Megabytes of the largest object fetched.
    pub max_object_mb: u32,
    /// Seconds for a request's header to arrive; also how long an HTTP/1
    /// connection may stay idle.
    pub header_seconds: u32,
    /// Seconds an HTTP/2 connection may stay idle.
    pub idle_seconds: u32,
    /// Seconds a viewer may accept no byte of an answer.
    pub write_seconds: u32,
    /// Seconds to fetch one object.
    pub fetch_seconds: u32,
    /// Seconds that a poll waits for the first list of a broadcast.
    pub first_wait_seconds: u32,
    /// Seconds without a viewer after which notices of a broadcast are not
    /// wanted any more.
    pub interest_seconds: u32,
    /// Milliseconds for which something is believed not to exist.
    pub negative_ms: u32,
    /// Seconds after which players ask again which edges they may go to: the
    /// longest that they stay on one that drains.
    pub steering_seconds: u32,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            id: None,
            http: loopback(8281),
            https: None,
            http3: true,
            tls_cert: None,
            tls_key: None,
            grpc: loopback(9281),
            control: vec!["http://127.0.0.1:9080".to_owned()],
            cluster_key: None,
            cluster_key_file: None,
            public_http: None,
            public_grpc: None,
            admin: None,
            location: None,
            state: PathBuf::from("spyglass-data/edge"),
            ignore_notices: false,
            log_format: None,
            cache_bytes: 512 * 1024 * 1024,
            max_broadcasts: 20_000,
            max_connections: 20_000,
            max_connections_per_address: 1_000,
            viewer_capacity: 0,
            max_viewers: 200_000,
            max_fetches: 512,
            fill: Fill::Pull,
            upstream: UpstreamChoice::Origin,
            max_watchers: 1_000,
            max_object_mb: 64,
            header_seconds: 10,
            idle_seconds: 60,
            write_seconds: 15,
            fetch_seconds: 8,
            first_wait_seconds: 8,
            interest_seconds: 30,
            negative_ms: 2_000,
            steering_seconds: 10,
        }
    }
}

impl Config {
    /// Keys that take effect without a restart when the file is read again
    /// (SIGHUP), for connections that come after it. A change of any other is
    /// told in the log and waits.
    pub const RELOADED: &[&str] =
        &["max_connections", "max_connections_per_address", "max_viewers"];

    /// Whether viewers and other edges can be told where this one is.
    ///
    /// # Errors
    /// The first listener on every address whose `--public-…` is missing.
    pub fn check_addresses(&self) -> Result<(), listen::Untold> {
        listen::told("--http", self.http, "--public-http", self.public_http.as_deref())?;
        listen::told("--grpc", self.grpc, "--public-grpc", self.public_grpc.as_deref())
    }

    /// Refuses what the types alone let pass.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn check(&self) -> Result<(), Invalid> {
        positive(&[
            ("cache_bytes", self.cache_bytes),
            ("max_broadcasts", self.max_broadcasts as u64),
            ("max_connections", self.max_connections as u64),
            ("max_connections_per_address", self.max_connections_per_address as u64),
            ("max_fetches", self.max_fetches as u64),
            ("max_object_mb", self.max_object_mb.into()),
            ("header_seconds", self.header_seconds.into()),
            ("idle_seconds", self.idle_seconds.into()),
            ("write_seconds", self.write_seconds.into()),
            ("fetch_seconds", self.fetch_seconds.into()),
            ("first_wait_seconds", self.first_wait_seconds.into()),
            ("interest_seconds", self.interest_seconds.into()),
            ("steering_seconds", self.steering_seconds.into()),
        ])
    }

    pub(crate) fn broadcast_limits(&self) -> crate::broadcasts::Limits {
        crate::broadcasts::Limits {
            slot: crate::slot::Limits {
                first: seconds(self.first_wait_seconds),
                interest: seconds(self.interest_seconds),
                ..crate::slot::Limits::default()
            },
            broadcasts: self.max_broadcasts,
            fetch: seconds(self.fetch_seconds),
            settle: Duration::from_secs(10),
            ignore_notices: self.ignore_notices,
            prefetch: self.fill == Fill::Prefetch,
        }
    }

    pub(crate) fn http_limits(&self) -> crate::serving::Limits {
        crate::serving::Limits {
            header: seconds(self.header_seconds),
            idle: seconds(self.idle_seconds),
            write: seconds(self.write_seconds),
        }
    }

    pub(crate) fn largest(&self) -> u64 {
        u64::from(self.max_object_mb) * 1024 * 1024
    }
}

/// A time limit of nothing would refuse everything.
fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.max(1).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_and_every_key_may_be_left_out() {
        assert!(serde_json::from_str::<Config>("{}").is_ok());
        assert!(serde_json::from_str::<Config>(r#"{"cache_byte":1}"#).is_err());
        let text = serde_json::to_string(&Config::default()).unwrap();
        assert!(serde_json::from_str::<Config>(&text).is_ok());
    }
}
