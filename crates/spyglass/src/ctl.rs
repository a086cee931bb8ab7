//! `spyglass ctl`: the operator's tool on the control API.
//!
//! Tables for people; with `--json` what control said, word for word.

mod access;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spyglass_client::Error;
use spyglass_client::api::Api;
use spyglass_daemon::{Shutdown, config};
use spyglass_media::{BroadcastId, NodeId, ViewerId};

pub use self::access::Access;
use crate::args::overlay;

/// `spyglass ctl`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// TOML file with settings; environment and flags win over it
    #[arg(long, global = true, value_name = "FILE", env = "SPYGLASS_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    #[command(flatten)]
    #[serde(flatten)]
    access: Access,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Origins and edges, their state and load
    Nodes,
    /// A random sample of the public broadcasts that are live
    Broadcasts {
        /// How many at most
        #[arg(long, default_value_t = 50)]
        sample: u32,
    },
    /// One broadcast
    Show {
        /// The broadcast
        id: BroadcastId,
    },
    /// A broadcast's delay by stage
    Delay {
        /// The broadcast
        id: BroadcastId,
    },
    /// Who watches a broadcast
    Viewers {
        /// The broadcast
        id: BroadcastId,
    },
    /// Cut a viewer off
    Kick {
        /// The broadcast
        id: BroadcastId,
        /// The viewer, as `viewers` shows it
        viewer: ViewerId,
    },
    /// End a broadcast for good
    End {
        /// The broadcast
        id: BroadcastId,
    },
    /// Send no more broadcasts or viewers to a node
    Drain {
        /// The node, as `nodes` shows it
        node: NodeId,
    },
    /// Users
    #[command(subcommand)]
    Users(Users),
    /// Whether a service is ready, for the health checks of containers
    Healthy {
        /// Its /readyz or /healthz, e.g. http://127.0.0.1:8180/readyz
        url: String,
    },
}

#[derive(Subcommand, Debug)]
enum Users {
    /// Register users and print their tokens, which nobody can print again
    Add {
        /// Their names
        #[arg(required = true)]
        name: Vec<String>,
    },
}

const NODES: [&str; 9] =
    ["id", "role", "state", "address", "addresses", "http", "location", "load", "version"];
const BROADCASTS: [&str; 7] = ["id", "state", "title", "user", "origin", "started_at", "viewers"];
const VIEWERS: [&str; 6] = ["viewer", "id", "tier", "seat", "edge", "since"];
const USERS: [&str; 3] = ["id", "name", "token"];

/// Time for a service to say whether it is ready.
const HEALTHY: Duration = Duration::from_secs(2);

/// Asks once and prints the answer.
pub async fn run(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    let settings: Settings = config::load(args.config.as_deref(), overlay(&args.settings)?)?;
    if let Command::Healthy { url } = &args.command {
        return healthy(url).await;
    }
    let api = settings.access.api()?;
    let answer = tokio::select! {
        answer = ask(&api, &args.command) => answer?,
        () = shutdown.requested() => return Ok(()),
    };
    let text = if settings.json {
        serde_json::to_string_pretty(&answer).context("control's answer")?
    } else {
        shown(&args.command, &answer)
    };
    crate::watch::print_line(&text);
    Ok(())
}

async fn ask(api: &Api, command: &Command) -> anyhow::Result<Value> {
    Ok(match command {
        Command::Nodes => known(api.nodes().await, "list nodes")?,
        Command::Broadcasts { sample } => {
            api.get(&format!("/v1/broadcasts?sample={sample}")).await?
        }
        Command::Show { id } => api.get(&format!("/v1/broadcasts/{id}")).await?,
        Command::Delay { id } => {
            of_broadcast(api, *id, api.delay(*id).await, "measure delay").await?
        }
        Command::Viewers { id } => {
            of_broadcast(api, *id, api.viewers(*id).await, "list viewers").await?
        }
        Command::Kick { id, viewer } => {
            api.kick(*id, *viewer).await?;
            json!({ "kicked": viewer })
        }
        Command::End { id } => {
            api.end(*id).await?;
            json!({ "ended": id })
        }
        Command::Drain { node } => {
            api.drain(node).await?;
            json!({ "draining": node })
        }
        Command::Users(Users::Add { name }) => {
            let mut users = Vec::new();
            for name in name {
                users.push(serde_json::to_value(api.create_user(name).await?)?);
            }
            json!({ "users": users })
        }
        // Asks no control.
        Command::Healthy { .. } => Value::Null,
    })
}

async fn healthy(url: &str) -> anyhow::Result<()> {
    let rest =
        url.strip_prefix("http://").context("give a URL like http://127.0.0.1:8180/readyz")?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/readyz" } else { path };
    let asked = tokio::time::timeout(HEALTHY, crate::ready::status(host, path)).await;
    let status = asked.with_context(|| format!("{url} does not answer"))?;
    match status.with_context(|| format!("{url} does not answer"))? {
        200 => Ok(()),
        status => bail!("{url} answers {status}: not ready"),
    }
}

/// An operation that control does not have at all is told from one that failed.
fn known(answer: Result<Value, Error>, operation: &str) -> anyhow::Result<Value> {
    match answer {
        Err(error) if matches!(error.status(), Some(404 | 405 | 501)) => {
            bail!(
                "this control does not {operation}: it is of another release, or --control is not its HTTP address"
            )
        }
        other => Ok(other?),
    }
}

/// As [`known`], for something of a broadcast: 404 may also mean that there is
/// no such broadcast.
async fn of_broadcast(
    api: &Api,
    id: BroadcastId,
    answer: Result<Value, Error>,
    operation: &str,
) -> anyhow::Result<Value> {
    if answer.as_ref().is_err_and(|error| error.status() == Some(404)) {
        api.show(id).await?;
    }
    known(answer, operation)
}

fn shown(command: &Command, answer: &Value) -> String {
    let list = |key, columns: &[&str], none: &str| match table::entries(answer, key) {
        [] => none.to_owned(),
        entries => table::of_entries(entries, columns),
    };
    match command {
        Command::Nodes => list("nodes", &NODES, "no node has registered yet"),
        Command::Broadcasts { .. } => {
            let shown = list("broadcasts", &BROADCASTS, "nothing is live");
            match (answer["live"].as_u64(), table::entries(answer, "broadcasts").len() as u64) {
                (Some(live), count) if live > count => format!("{shown}\n{count} of {live} live"),
                _ => shown,
            }
        }
        Command::Viewers { .. } => list("viewers", &VIEWERS, "nobody watches"),
        Command::Users(Users::Add { .. }) => list("users", &USERS, ""),
        Command::Show { .. } | Command::Delay { .. } => table::of_object(answer),
        Command::Kick { viewer, .. } => format!("viewer {viewer} is cut off"),
        Command::End { id } => format!("broadcast {id} has ended"),
        Command::Drain { node } => format!("node {node} gets nothing new"),
        Command::Healthy { .. } => String::new(),
    }
}
