//! Flags that services share. Each is also an environment variable
//! (`SPYGLASS_…`) and, with `_` for `-`, a key of the service's TOML file.
//!
//! A flag that was not given is absent here, so that [`overlay`] holds only
//! what wins over the file.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use spyglass_daemon::Secret;
use spyglass_media::{Location, NodeId};
use tracing::warn;

/// Where settings come from and where readiness is told; of every service.
#[derive(Args, Debug, Clone)]
pub struct Files {
    /// TOML file with settings; environment and flags win over it
    #[arg(long, value_name = "FILE", env = "SPYGLASS_CONFIG")]
    pub config: Option<PathBuf>,
    /// Write the addresses to this file once every listener answers
    #[arg(long, value_name = "FILE", env = "SPYGLASS_READY_FILE")]
    pub ready_file: Option<PathBuf>,
}

/// What every service has.
#[derive(Args, Debug, Clone, Serialize)]
pub struct Common {
    /// The node's name, [a-z0-9-]; default its role and host name
    #[arg(long, value_name = "NAME", env = "SPYGLASS_ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<NodeId>,
    /// Address of the HTTP listener
    #[arg(long, value_name = "ADDR", env = "SPYGLASS_HTTP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<SocketAddr>,
    /// Address of the gRPC listener
    #[arg(long, value_name = "ADDR", env = "SPYGLASS_GRPC")]
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc: Option<SocketAddr>,
    /// Shared secret of the services' gRPC
    #[arg(long, value_name = "KEY", env = "SPYGLASS_CLUSTER_KEY", hide_env_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_key: Option<Secret>,
    /// File that holds the cluster key
    #[arg(long, value_name = "FILE", env = "SPYGLASS_CLUSTER_KEY_FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_key_file: Option<PathBuf>,
    /// Metrics and health on an address of their own
    #[arg(long, value_name = "ADDR", env = "SPYGLASS_ADMIN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    admin: Option<SocketAddr>,
    /// Directory for what must survive a restart
    #[arg(long, value_name = "DIR", env = "SPYGLASS_STATE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    pub log: Log,
}

/// How logs look.
#[derive(Args, Debug, Clone, Serialize)]
pub struct Log {
    /// Logs as text or json; default text on a terminal
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"], env = "SPYGLASS_LOG_FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<String>,
}

/// What origins and edges have.
#[derive(Args, Debug, Clone, Serialize)]
pub struct Node {
    /// gRPC address of a control; may be given more than once
    #[arg(long, value_name = "URL", env = "SPYGLASS_CONTROL", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    control: Vec<String>,
    /// What others are told instead of the HTTP listener's address
    #[arg(long, value_name = "URL", env = "SPYGLASS_PUBLIC_HTTP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    public_http: Option<String>,
    /// What other nodes are told instead of the gRPC listener's address
    #[arg(long, value_name = "URL", env = "SPYGLASS_PUBLIC_GRPC")]
    #[serde(skip_serializing_if = "Option::is_none")]
    public_grpc: Option<String>,
    /// Where the node stands, in degrees, e.g. 52.37,4.90
    #[arg(long, value_name = "LAT,LON", env = "SPYGLASS_LOCATION", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

/// What control decides by; of `control` and `up`.
#[derive(Args, Debug, Clone, Serialize)]
pub struct Policy {
    /// The operator's key; made and kept in the state when absent
    #[arg(long, value_name = "KEY", env = "SPYGLASS_OPERATOR_KEY", hide_env_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator_key: Option<Secret>,
    /// Push seats of a broadcast; later viewers play HLS [default: 100]
    #[arg(long, value_name = "N", env = "SPYGLASS_PUSH_VIEWERS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    push_viewers: Option<u32>,
    /// Chunk length in seconds, 1 to 10 [default: 3]
    #[arg(long, value_name = "S", env = "SPYGLASS_CHUNK_SECONDS", value_parser = checked_chunk)]
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_seconds: Option<f64>,
    /// How long an interrupted broadcast may come back, in seconds [default: 30]
    #[arg(long, value_name = "S", env = "SPYGLASS_RESUME_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    resume_seconds: Option<u32>,
    /// Lifetime of broadcast tokens in seconds [default: 86400]
    #[arg(long, value_name = "S", env = "SPYGLASS_PUBLISH_TOKEN_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    publish_token_seconds: Option<u32>,
    /// Lifetime of viewer tokens in seconds [default: 43200]
    #[arg(long, value_name = "S", env = "SPYGLASS_WATCH_TOKEN_SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    watch_token_seconds: Option<u32>,
    /// City database (MMDB) that tells where an address is
    #[arg(long, value_name = "FILE", env = "SPYGLASS_GEO_MMDB")]
    #[serde(skip_serializing_if = "Option::is_none")]
    geo_mmdb: Option<PathBuf>,
}

/// What was given, as the table that wins over a file.
pub fn overlay(args: &impl Serialize) -> anyhow::Result<toml::Table> {
    toml::Table::try_from(args).context("flags and environment")
}

/// A misspelt variable would silently change nothing.
pub fn warn_of_unknown_variables() {
    let given = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in unknown_variables(&crate::command(), given) {
        warn!(name, "this environment variable is no setting of any command: see --help");
    }
}

/// Those that look like ours and that no flag of `command` or below reads.
fn unknown_variables(command: &clap::Command, given: impl Iterator<Item = String>) -> Vec<String> {
    fn read(command: &clap::Command, name: &str) -> bool {
        let mut flags = command.get_arguments().filter_map(clap::Arg::get_env);
        flags.any(|known| known == name) || command.get_subcommands().any(|sub| read(sub, name))
    }
    given.filter(|name| name.starts_with("SPYGLASS_") && !read(command, name)).collect()
}

/// So that a mistake in a flag is told as one, before anything starts.
fn checked_chunk(text: &str) -> Result<f64, &'static str> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (1.0..=10.0).contains(seconds));
    seconds.ok_or("give 1 to 10 seconds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_found_and_one_of_any_command_is_not() {
        let given = ["SPYGLASS_HTPP", "SPYGLASS_HTTP", "SPYGLASS_RTMP", "SPYGLASS_EDGES", "HOME"];
        let given = given.iter().map(|&name| name.to_owned());
        assert_eq!(unknown_variables(&crate::command(), given), ["SPYGLASS_HTPP"]);
    }
}
