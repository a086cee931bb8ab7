//! What an operator can set on control, with its defaults.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
pub use spyglass_daemon::config::Invalid;
use spyglass_daemon::{Secret, listen, log};
use spyglass_media::NodeId;
use spyglass_store::nats;

use crate::admission::Limits;
use crate::forwarded;
use crate::limits::{Limit, Rate, Rules};
use crate::network::Network;

/// Seats of one broadcast at most: its record is one value in the store.
pub(crate) const MAX_SEATS: u32 = 5_000;

/// Keys are the flags' names with `_`; every one may be left out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The node's name; default `control-` and the host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<NodeId>,
    /// The API, the pages, health and, on loopback, metrics.
    pub http: SocketAddr,
    /// gRPC for origins and edges.
    pub grpc: SocketAddr,
    /// Shared secret of the services' gRPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_key: Option<Secret>,
    /// A file that holds the cluster key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_key_file: Option<PathBuf>,
    /// What stands in watch URLs instead of the HTTP listener's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_http: Option<String>,
    /// What nodes find this control by, instead of the gRPC listener's address;
    /// told by the other controls of the same store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_grpc: Option<String>,
    /// Metrics and health on an address of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
    /// Users, broadcasts, seats, keys.
    pub state: PathBuf,
    /// What operators show; made and kept in the state when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator_key: Option<Secret>,
    /// NATS with JetStream, for several controls:
    /// `nats://[user:password@]host:port[,host:port...][/prefix]` or `tls://…`;
    /// absent: embedded in the state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Secret>,
    /// `text` or `json`; default text on a terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<log::Format>,
    /// Push viewers of each broadcast; those who come later get HLS.
    pub push_viewers: u32,
    /// Seats whose viewers may comment.
    pub commenters: u32,
    /// Length of a chunk where the broadcast does not say, 1 to 10.
    pub chunk_seconds: f64,
    /// Length of a part where the broadcast does not say, 0.1 to 1; 0: no
    /// parts, so no low latency.
    pub part_seconds: f64,
    /// How long an interrupted broadcast may come back.
    pub resume_seconds: u32,
    /// How long a stream key can be used to begin publishing.
    pub publish_token_seconds: u32,
    /// How long a viewer's token can be used.
    pub watch_token_seconds: u32,
    /// Days that a key signs before the next takes its place; 0: only by request.
    pub key_rotation_days: u32,
    /// How long a seat waits for its viewer to connect.
    pub seat_reservation_seconds: u32,
    /// How long a seat waits for a viewer whose connection is gone.
    pub seat_grace_seconds: u32,
    /// How long an ended broadcast is remembered.
    pub ended_hours: u32,
    /// Broadcasts remembered at once, ended ones included.
    pub max_broadcasts: usize,
    /// Origins and edges.
    pub max_nodes: usize,
    /// Viewers counted at once, on all nodes together.
    pub max_viewers: usize,
    /// Kicked viewers whose tokens have not yet expired.
    pub max_revocations: usize,
    /// HTTP connections at once.
    pub max_connections: usize,
    /// HTTP connections of one address (IPv6: of one /64). Loopback,
    /// [`trusted_proxies`](Self::trusted_proxies) and
    /// [`rate_exempt`](Self::rate_exempt) may have any number.
    pub max_connections_per_address: usize,
    /// Seconds an HTTP connection may stay without a request; an HTTP/1 one no
    /// longer than 10.
    pub idle_seconds: u32,
    /// Broadcasts that one user may have at once, ended ones not counted.
    pub max_broadcasts_per_user: u32,
    /// A city database in MMDB format, by which the address of who asks tells
    /// where that is; absent: only the request's own `location` does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub geo_mmdb: Option<PathBuf>,
    /// Proxies whose word on a client's address is taken.
    pub trusted_proxies: Vec<Network>,
    /// The header that these proxies write.
    pub forwarded_header: forwarded::Header,
    /// Clients that no rate limits.
    pub rate_exempt: Vec<Network>,
    /// Requests of the public list, of one address and of one user. So are the
    /// next ones.
    pub rate_list: Rate,
    /// Joins.
    pub rate_join: Rate,
    /// New users and broadcasts.
    pub rate_create: Rate,
    /// Credentials that are nobody's, of one address.
    pub rate_login: Rate,
    /// Ids of broadcasts that are none, of one address.
    pub rate_unknown_id: Rate,
    /// Pages and redirects to the nearest edge.
    pub rate_page: Rate,
    /// Everything else.
    pub rate_other: Rate,
    /// Addresses and users whose rates are remembered.
    pub max_rates: usize,
    /// Users that one user may follow.
    pub max_following: u32,
    /// Streams of notifications and events open at once; each is one of the
    /// HTTP connections.
    pub max_streams: usize,
    /// Streams of notifications of one user.
    pub max_streams_per_user: usize,
    /// Webhooks; each may have four requests under way.
    pub max_webhooks: usize,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            id: None,
            http: loopback(8080),
            grpc: loopback(9080),
            cluster_key: None,
            cluster_key_file: None,
            public_http: None,
            public_grpc: None,
            admin: None,
            state: PathBuf::from("spyglass-data/control"),
            operator_key: None,
            store: None,
            log_format: None,
            push_viewers: 100,
            commenters: 100,
            chunk_seconds: 3.0,
            part_seconds: 0.2,
            resume_seconds: 30,
            publish_token_seconds: 24 * 3600,
            watch_token_seconds: 12 * 3600,
            key_rotation_days: 90,
            seat_reservation_seconds: 30,
            seat_grace_seconds: 5,
            ended_hours: 24,
            max_broadcasts: 50_000,
            max_nodes: 1_024,
            max_viewers: 1_000_000,
            max_revocations: 50_000,
            max_connections: 10_000,
            max_connections_per_address: 500,
            idle_seconds: 60,
            max_broadcasts_per_user: 10,
            geo_mmdb: None,
            trusted_proxies: Vec::new(),
            forwarded_header: forwarded::Header::default(),
            rate_exempt: loopback_networks(),
            rate_list: Rate { per_second: 50.0, burst: 500 },
            rate_join: Rate { per_second: 50.0, burst: 2_000 },
            rate_create: Rate { per_second: 2.0, burst: 50 },
            rate_login: Rate { per_second: 5.0, burst: 200 },
            rate_unknown_id: Rate { per_second: 5.0, burst: 200 },
            rate_page: Rate { per_second: 100.0, burst: 1_000 },
            rate_other: Rate { per_second: 100.0, burst: 1_000 },
            max_rates: 100_000,
            max_following: 5_000,
            max_streams: 5_000,
            max_streams_per_user: 5,
            max_webhooks: 100,
        }
    }
}

/// This machine itself: operators' tools, tests, and a proxy that is not
/// configured as one and would make all people look like one.
fn loopback_networks() -> Vec<Network> {
    let loopback =
        [(IpAddr::from([127, 0, 0, 0]), 8), (IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), 128)];
    loopback.iter().filter_map(|&(address, bits)| Network::new(address, bits).ok()).collect()
}

impl Config {
    /// Keys that take effect without a restart when the file is read again
    /// (SIGHUP). Nobody who is connected or seated is disturbed.
    pub const RELOADED: &[&str] = &[
        "push_viewers",
        "commenters",
        "chunk_seconds",
        "part_seconds",
        "resume_seconds",
        "publish_token_seconds",
        "watch_token_seconds",
        "key_rotation_days",
        "seat_reservation_seconds",
        "seat_grace_seconds",
        "ended_hours",
        "max_connections",
        "max_connections_per_address",
        "idle_seconds",
        "rate_exempt",
        "rate_list",
        "rate_join",
        "rate_create",
        "rate_login",
        "rate_unknown_id",
        "rate_page",
        "rate_other",
    ];

    /// Refuses what the types alone let pass.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn check(&self) -> Result<(), Invalid> {
        let rule = |ok: bool, key, advice| if ok { Ok(()) } else { Err(Invalid { key, advice }) };
        let year = 1..=366 * 24 * 3600;
        rule(chunk_ms(self.chunk_seconds).is_some(), "chunk_seconds", CHUNK_ADVICE)?;
        rule(part_ms(self.part_seconds).is_some(), "part_seconds", PART_ADVICE)?;
        rule(self.push_viewers <= MAX_SEATS, "push_viewers", "give at most 5000")?;
        rule(self.commenters <= MAX_SEATS, "commenters", "give at most 5000")?;
        rule((1..=86_400).contains(&self.resume_seconds), "resume_seconds", "give 1 to 86400")?;
        for (key, seconds) in [
            ("publish_token_seconds", self.publish_token_seconds),
            ("watch_token_seconds", self.watch_token_seconds),
        ] {
            rule(year.contains(&seconds), key, "give 1 second to a year")?;
        }
        let some = 1..=1_000_000;
        for (key, most) in [
            ("max_connections", self.max_connections),
            ("max_connections_per_address", self.max_connections_per_address),
        ] {
            rule(some.contains(&most), key, "give 1 to 1000000")?;
        }
        rule((1..=86_400).contains(&self.idle_seconds), "idle_seconds", "give 1 to 86400")?;
        for limit in Limit::ALL {
            let (key, rate) = self.rate(limit);
            let advice =
                "give per_second = 0 (no limit) or 0.001 to 1000000, and a burst of 1 to 1000000";
            rule(rate.is_sound(), key, advice)?;
        }
        let store = self.store.as_ref().map(Secret::expose);
        let known = store.is_none_or(|store| nats::Address::parse(store).is_some());
        rule(known, "store", nats::ADVICE)?;
        let key = self.operator_key.as_ref().map(Secret::expose);
        let fits = |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
        let advice = "use visible ASCII characters without spaces";
        rule(key.is_none_or(fits), "operator_key", advice)
    }

    /// Whether people can be told where this control is (its pages, in watch
    /// URLs) and, where several share a store, nodes.
    ///
    /// # Errors
    /// The first listener on every address whose `--public-…` is missing.
    pub fn check_addresses(&self) -> Result<(), listen::Untold> {
        listen::told("--http", self.http, "--public-http", self.public_http.as_deref())?;
        match self.store {
            Some(_) => {
                listen::told("--grpc", self.grpc, "--public-grpc", self.public_grpc.as_deref())
            }
            None => Ok(()),
        }
    }

    /// The setting of a limit: its key and its value.
    const fn rate(&self, limit: Limit) -> (&'static str, Rate) {
        match limit {
            Limit::List => ("rate_list", self.rate_list),
            Limit::Join => ("rate_join", self.rate_join),
            Limit::Create => ("rate_create", self.rate_create),
            Limit::Login => ("rate_login", self.rate_login),
            Limit::UnknownId => ("rate_unknown_id", self.rate_unknown_id),
            Limit::Page => ("rate_page", self.rate_page),
            Limit::Other => ("rate_other", self.rate_other),
        }
    }

    /// Whether a peer is held to
    /// [`max_connections_per_address`](Self::max_connections_per_address).
    pub fn caps(&self, peer: IpAddr) -> bool {
        let mut uncapped = self.trusted_proxies.iter().chain(&self.rate_exempt);
        !uncapped.any(|network| network.contains(peer))
    }

    /// How often who may ask for what.
    pub fn rate_rules(&self) -> Rules {
        Rules::new(|limit| self.rate(limit).1)
    }

    /// For admission.
    pub fn seat_limits(&self) -> Limits {
        Limits {
            seats: self.push_viewers.max(self.commenters),
            push: self.push_viewers,
            reservation: Duration::from_secs(self.seat_reservation_seconds.into()),
            grace: Duration::from_secs(self.seat_grace_seconds.into()),
        }
    }

    /// The longest that a token signed now can be used.
    pub fn longest_token(&self) -> Duration {
        let seconds = self.publish_token_seconds.max(self.watch_token_seconds);
        Duration::from_secs(seconds.into())
    }

    /// How long a key signs before it is replaced; `None`: for ever.
    pub fn key_rotation(&self) -> Option<Duration> {
        let days = u64::from(self.key_rotation_days);
        (days > 0).then(|| Duration::from_secs(days * 24 * 3600))
    }

    /// How long a broadcast waits for its first frame before it is given up.
    pub fn unused(&self) -> Duration {
        Duration::from_secs(self.publish_token_seconds.max(3600).into())
    }
}

/// What is said of a chunk length that [`chunk_ms`] refuses.
pub const CHUNK_ADVICE: &str = "give a number of seconds from 1 to 10";

/// A chunk length in milliseconds, when it is from 1 to 10 seconds.
pub fn chunk_ms(seconds: f64) -> Option<u32> {
    (1.0..=10.0).contains(&seconds).then(|| (seconds * 1000.0).round() as u32)
}

/// What is said of a part length that [`part_ms`] refuses.
pub const PART_ADVICE: &str = "give a number of seconds from 0.1 to 1, or 0 for no parts";

/// A part length in milliseconds, when it is from 0.1 to 1 second or 0.
pub fn part_ms(seconds: f64) -> Option<u32> {
    let good = seconds == 0.0 || (0.1..=1.0).contains(&seconds);
    good.then(|| (seconds * 1000.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_named() {
        assert_eq!(Config::default().check(), Ok(()));
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check().unwrap_err().key
        };
        assert_eq!(refused(|config| config.chunk_seconds = 0.9), "chunk_seconds");
        assert_eq!(refused(|config| config.chunk_seconds = f64::NAN), "chunk_seconds");
        assert_eq!(refused(|config| config.part_seconds = 0.05), "part_seconds");
        assert_eq!(refused(|config| config.part_seconds = -0.2), "part_seconds");
        assert_eq!(refused(|config| config.push_viewers = 5_001), "push_viewers");
        assert_eq!(refused(|config| config.watch_token_seconds = 0), "watch_token_seconds");
        assert_eq!(refused(|config| config.rate_page.burst = 0), "rate_page");
        assert_eq!(refused(|config| config.rate_join.per_second = -1.0), "rate_join");
        assert_eq!(refused(|config| config.idle_seconds = 0), "idle_seconds");
        let nobody = |config: &mut Config| config.max_connections_per_address = 0;
        assert_eq!(refused(nobody), "max_connections_per_address");
        assert_eq!(refused(|config| config.store = Some(Secret::new("nats://h"))), "store");
        let short = |config: &mut Config| config.operator_key = Some(Secret::new("two words"));
        assert_eq!(refused(short), "operator_key");
    }

    #[test]
    fn proxies_and_exempt_networks_may_have_any_number_of_connections() {
        let config = Config {
            trusted_proxies: vec!["198.51.100.7".parse().unwrap()],
            rate_exempt: vec!["10.0.0.0/8".parse().unwrap()],
            ..Config::default()
        };
        let caps = |peer: &str| config.caps(peer.parse().unwrap());
        assert!(!caps("198.51.100.7") && !caps("::ffff:10.1.2.3"));
        assert!(caps("198.51.100.8") && caps("2001:db8::1"));
    }

    #[test]
    fn the_defaults_survive_the_file() {
        let value = serde_json::to_value(Config::default()).unwrap();
        let back: Config = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(back).unwrap(), value);
        assert_eq!(Config::default().seat_limits().seats, 100);
    }
}
