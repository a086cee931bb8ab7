//! What every service needs, so that origin, edge and control hold only their
//! own business.
//!
//! Starting: [`config`] (file, environment, flags), [`log`], [`listen`],
//! [`state`]. Running: [`Shutdown`], [`admin`] (health and metrics),
//! [`panics`], [`grpc`] channels and servers, [`attach`] (a node's link with
//! control), [`upstream`] (what edges watch and fetch from), [`meter`] (how busy the process is), [`accept`] and [`gate`] (connections, and how
//! many), [`delay`] (how long media take). Small things used everywhere: [`Backoff`], [`Secret`],
//! [`http`] (problem documents, public URLs), the clock and randomness.
//!
//! Pure machines elsewhere get the time and random bytes passed in; the calls
//! that obtain them, [`now_utc`] and [`random`], stand here.

pub mod accept;
pub mod admin;
pub mod attach;
mod backoff;
pub mod config;
pub mod delay;
pub mod gate;
pub mod grpc;
pub mod http;
pub mod listen;
pub mod log;
pub mod meter;
pub mod panics;
pub mod reload;
mod secret;
mod shutdown;
pub mod socket;
pub mod state;
pub mod tls;
pub mod upstream;

use spyglass_media::{NodeId, UtcTime};

pub use crate::backoff::Backoff;
pub use crate::secret::{ClusterKeyError, Secret, cluster_key};
pub use crate::shutdown::Shutdown;

/// The wall clock.
pub fn now_utc() -> UtcTime {
    UtcTime::from_system(std::time::SystemTime::now())
}

/// Random bytes from the operating system, fit for keys.
///
/// # Panics
/// When the system has no source of randomness; nothing here could go on.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system's random numbers");
    bytes
}

/// A node's name when the operator gives none: its role and the host's name,
/// reduced to what a node id may hold.
pub fn default_node_id(role: &str) -> NodeId {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    node_id(role, &host)
}

fn node_id(role: &str, host: &str) -> NodeId {
    let host: String = host
        .trim()
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .filter(|c| matches!(c, 'a'..='z' | '0'..='9' | '-'))
        .collect();
    let host = if host.is_empty() { "1" } else { &host };
    let mut name = format!("{role}-{host}");
    name.truncate(63);
    name.parse().unwrap_or_else(|_| unreachable!("{name:?} was made of allowed characters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_after_its_role_and_host() {
        assert_eq!(node_id("edge", "Paris_2.example.org\n").as_str(), "edge-paris2");
        assert_eq!(node_id("edge", "").as_str(), "edge-1");
        assert_eq!(node_id("edge", &"x".repeat(200)).as_str().len(), 63);
    }

    #[test]
    fn random_bytes_differ() {
        assert_ne!(random::<32>(), random::<32>());
    }
}
