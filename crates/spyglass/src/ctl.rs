//! `spyglass ctl`: the operator's tool on the control API.
//!
//! Tables for people; with `--json` what control said, as one document. What a
//! command is stands here, what it asks and how that looks in the modules:
//! [`nodes`], [`broadcasts`], [`people`] (users, keys, webhooks, what happened);
//! [`table`] and [`words`] are pure, [`screen`] writes.

mod access;
mod broadcasts;
mod delay;
mod nodes;
mod people;
mod screen;
mod table;
mod words;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spyglass_client::Error;
use spyglass_client::api::Api;
use spyglass_daemon::{Shutdown, config};
use spyglass_media::{BroadcastId, NodeId, ViewerId};

pub use self::access::Access;
use self::screen::Screen;
use self::table::View;
use crate::args::overlay;
use crate::watch::seconds;

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

/// `--watch`
#[derive(clap::Args, Debug, Clone, Copy)]
struct Again {
    /// Ask again every second and redraw in place, until stopped
    #[arg(long)]
    watch: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Origins and edges, their state and load
    Nodes {
        #[command(flatten)]
        again: Again,
    },
    /// Every broadcast, the newest first; without a key a sample of what is live
    Broadcasts {
        #[command(flatten)]
        which: broadcasts::Which,
        #[command(flatten)]
        again: Again,
    },
    /// One broadcast
    Show {
        /// The broadcast
        id: BroadcastId,
        #[command(flatten)]
        again: Again,
    },
    /// A broadcast's delay by stage
    Delay {
        /// The broadcast
        id: BroadcastId,
        #[command(flatten)]
        again: Again,
    },
    /// Who watches a broadcast, and through which node
    Viewers {
        /// The broadcast
        id: BroadcastId,
        #[command(flatten)]
        again: Again,
    },
    /// What stays of a broadcast: who watched, from when to when
    Record {
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
        /// Say what it still holds, and return when it is empty
        #[arg(long)]
        wait: bool,
        /// Give up waiting after this many seconds; the node stays drained [default: 600]
        #[arg(long, value_name = "SECONDS", requires = "wait")]
        timeout: Option<f64>,
    },
    /// Take a drain back
    Undrain {
        /// The node, as `nodes` shows it
        node: NodeId,
    },
    /// Users, and who follows whom
    #[command(subcommand)]
    Users(people::Users),
    /// Keys that sign tokens
    #[command(subcommand)]
    Keys(people::Keys),
    /// What happens, as it happens, until stopped
    Events {
        /// Go on behind this event; 0 is from the oldest that is kept
        #[arg(long, value_name = "ID", value_parser = people::event_id)]
        after: Option<String>,
        /// Only events of this type, e.g. broadcast.live; may be given more than once
        #[arg(long = "type", value_name = "NAME")]
        types: Vec<String>,
    },
    /// Addresses that are told what happens
    #[command(subcommand)]
    Webhooks(people::Webhooks),
    /// What operators and users did, the newest last
    Audit(people::Audit),
    /// Whether a service is ready, for the health checks of containers
    Healthy {
        /// Its /readyz or /healthz, e.g. http://127.0.0.1:8180/readyz
        url: String,
    },
}

impl Command {
    fn again(&self) -> bool {
        match self {
            Self::Nodes { again }
            | Self::Broadcasts { again, .. }
            | Self::Show { again, .. }
            | Self::Delay { again, .. }
            | Self::Viewers { again, .. } => again.watch,
            _ => false,
        }
    }
}

/// Time for a service to say whether it is ready.
const HEALTHY: Duration = Duration::from_secs(2);

/// How often `--watch` asks.
const EVERY: Duration = Duration::from_secs(1);

/// Asks and prints the answer.
pub async fn run(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    let settings: Settings = config::load(args.config.as_deref(), overlay(&args.settings)?)?;
    if let Command::Healthy { url } = &args.command {
        return healthy(url).await;
    }
    let api = settings.access.api()?;
    let screen = Screen::new(settings.json);
    tokio::select! {
        done = answer(&api, screen, &args.command) => done,
        () = shutdown.requested() => Ok(()),
    }
}

async fn answer(api: &Api, screen: Screen, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Events { after, types } => {
            return people::events(api, screen, after.clone(), types).await;
        }
        Command::Drain { node, wait: true, timeout } => {
            let within = seconds("--timeout", *timeout)?.unwrap_or(nodes::PATIENCE);
            nodes::drain(api, node, true).await?;
            let left = nodes::empty(api, node, within, |line| screen.tell(line)).await?;
            return screen.show(&left, |_| format!("node {node} is empty"));
        }
        _ => {}
    }
    if !command.again() {
        let answer = ask(api, command).await?;
        return screen.show(&answer, |view| shown(command, view, &answer));
    }
    let mut known = false;
    loop {
        match ask(api, command).await {
            Ok(answer) => screen.redraw(&answer, |view| shown(command, view, &answer)),
            // What was seen before may be seen again.
            Err(error) if known => {
                let line = words::plain(&error.to_string());
                screen.redraw(&json!({ "error": line }), |_| format!("{line}\nasking again …"));
            }
            Err(error) => return Err(error),
        }
        known = true;
        tokio::time::sleep(EVERY).await;
    }
}

async fn ask(api: &Api, command: &Command) -> anyhow::Result<Value> {
    Ok(match command {
        Command::Nodes { .. } => known(api.nodes().await, "list nodes")?,
        Command::Broadcasts { which, .. } => broadcasts::list(api, which).await?,
        Command::Show { id, .. } => api.get(&format!("/v1/broadcasts/{id}")).await?,
        Command::Delay { id, .. } => {
            of_broadcast(api, *id, api.delay(*id).await, "measure delay").await?
        }
        Command::Viewers { id, .. } => {
            of_broadcast(api, *id, api.viewers(*id).await, "list viewers").await?
        }
        Command::Record { id } => {
            let record = api.get(&format!("/v1/broadcasts/{id}/record")).await;
            of_broadcast(api, *id, record, "keep records").await?
        }
        Command::Kick { id, viewer } => {
            api.kick(*id, *viewer).await?;
            json!({ "kicked": viewer })
        }
        Command::End { id } => {
            api.end(*id).await?;
            json!({ "ended": id })
        }
        Command::Drain { node, .. } => nodes::drain(api, node, true).await?,
        Command::Undrain { node } => nodes::drain(api, node, false).await?,
        Command::Users(users) => users.ask(api).await?,
        Command::Keys(keys) => keys.ask(api).await?,
        Command::Webhooks(webhooks) => webhooks.ask(api).await?,
        Command::Audit(audit) => audit.ask(api).await?,
        // Handled before; they ask no control, or more than once.
        Command::Events { .. } | Command::Healthy { .. } => Value::Null,
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

/// A request without an answer worth showing.
async fn done(api: &Api, method: Method, path: &str) -> anyhow::Result<()> {
    api.call(method, path, None).await?;
    Ok(())
}

fn shown(command: &Command, view: View, answer: &Value) -> String {
    match command {
        Command::Nodes { .. } => nodes::shown(view, answer),
        Command::Broadcasts { .. } => broadcasts::shown(view, answer),
        Command::Viewers { .. } => broadcasts::viewers(view, answer),
        Command::Show { .. } => broadcasts::one(view, answer),
        Command::Delay { .. } => delay::shown(view, answer),
        Command::Record { .. } => broadcasts::record(view, answer),
        Command::Kick { viewer, .. } => format!("viewer {viewer} is cut off"),
        Command::End { id } => format!("broadcast {id} has ended"),
        Command::Drain { node, .. } => format!("node {node} gets nothing new"),
        Command::Undrain { node } => format!("node {node} takes new broadcasts and viewers again"),
        Command::Users(users) => users.shown(view, answer),
        Command::Keys(keys) => keys.shown(view, answer),
        Command::Webhooks(webhooks) => webhooks.shown(view, answer),
        Command::Audit(_) => people::audit(view, answer),
        Command::Events { .. } | Command::Healthy { .. } => String::new(),
    }
}
