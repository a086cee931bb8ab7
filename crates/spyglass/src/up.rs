//! `spyglass up`: control, an origin and some edges in one process.
//!
//! Every service is loaded as it would be alone and speaks to the others over
//! its real sockets. [`plan`] says who listens where and who knows whom; this
//! file runs it.

mod plan;
mod reload;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::json;
use spyglass_control::Control;
use spyglass_daemon::{Backoff, Shutdown, config, log, random};
use spyglass_edge::Edge;
use spyglass_origin::Origin;
use tokio::task::JoinSet;
use tracing::{info, warn};

use self::plan::Plan;
use crate::args::{Files, Log, Policy, overlay, warn_of_unknown_variables};
use crate::{publish, ready, service};

/// Time for every service to be ready, on a slow machine.
const START: Duration = Duration::from_secs(20);

/// Time for the demo to end its broadcast.
const GOODBYE: Duration = Duration::from_secs(2);

/// `spyglass up`
#[derive(clap::Args, Debug, Serialize)]
pub struct Args {
    #[command(flatten)]
    #[serde(skip)]
    files: Files,
    /// Number of edges [default: 2]
    #[arg(long, value_name = "N", env = "SPYGLASS_EDGES", value_parser = plan::checked_edges)]
    #[serde(skip_serializing_if = "Option::is_none")]
    edges: Option<usize>,
    /// Directory for what must survive a restart [default: ./spyglass-data]
    #[arg(long, value_name = "DIR", env = "SPYGLASS_STATE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<PathBuf>,
    /// Also broadcast a built-in clip until stopped
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    demo: bool,
    /// Address of every listener; with port 0 each gets a free one, else the default ones [default: 127.0.0.1]
    #[arg(long, value_name = "ADDR", env = "SPYGLASS_LISTEN", value_parser = plan::checked_listen)]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<String>,
    /// Name or address by which viewers and encoders reach this machine; with --listen 0.0.0.0
    #[arg(long, value_name = "HOST", env = "SPYGLASS_PUBLIC_HOST", value_parser = plan::checked_host)]
    #[serde(skip_serializing_if = "Option::is_none")]
    public_host: Option<String>,
    /// Metrics and health on addresses of their own: control here, the others on the ports behind it
    #[arg(long, value_name = "ADDR", env = "SPYGLASS_ADMIN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    admin: Option<SocketAddr>,
    /// Places an edge, e.g. edge-1=52.37,4.90; may be given more than once
    #[arg(long, value_name = "ID=LAT,LON", env = "SPYGLASS_EDGE_LOCATION", value_delimiter = ';',
        value_parser = plan::checked_place)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    edge_location: Vec<String>,
    #[command(flatten)]
    #[serde(flatten)]
    policy: Policy,
    /// Whom edges fetch from: each broadcast's origin, or through the gateways that
    /// control names [default: origin]
    #[arg(long, value_name = "FROM", value_parser = ["origin", "auto"], env = "SPYGLASS_UPSTREAM")]
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    /// For tests: edges drop every expire notice
    #[arg(long, env = "SPYGLASS_IGNORE_NOTICES", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_notices: Option<bool>,
    #[command(flatten)]
    #[serde(flatten)]
    log: Log,
}

/// Runs everything until it is told to stop, or one service fails.
pub async fn run(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    ready::clear(args.files.ready_file.as_deref())?;
    let flags = overlay(&args)?;
    let file = match &args.files.config {
        Some(path) => config::read::<plan::File>(path)?,
        None => toml::Table::new(),
    };
    let plan = Plan::new(file, flags.clone())?;
    log::init(plan.settings.log_format);
    warn_of_unknown_variables();
    shutdown.on_signals()?;

    let config: spyglass_control::Config = config::from_table(plan.control())?;
    // Each service's own, as it is when that service runs by itself.
    plan.reachable(config.check_addresses())?;
    let mut alone = vec![service::alone(&config.state)?];
    let control = Control::load(config).await.context("control")?;
    let grpc = control.addresses().grpc;
    let config: spyglass_origin::Config = config::from_table(plan.origin(&grpc))?;
    plan.reachable(config.check_addresses())?;
    alone.push(service::alone(&config.state)?);
    let origin = Origin::load(config).await.context("origin")?;
    let mut edges = Vec::new();
    for index in 0..plan.edges {
        let config: spyglass_edge::Config = config::from_table(plan.edge(index, &grpc))?;
        plan.reachable(config.check_addresses())?;
        service::check_tls(&config).with_context(|| plan::edge_id(index))?;
        alone.push(service::alone(&config.state)?);
        let edge = Edge::load(config).await;
        edges.push(edge.with_context(|| plan::edge_id(index))?);
    }

    let at = control.addresses();
    let content = json!({
        "control": service::control_entry(&control),
        "origins": [service::origin_entry(&origin)],
        "edges": edges.iter().map(service::edge_entry).collect::<Vec<_>>(),
        "operator_key": at.operator_key,
    });
    let mut health = vec![at.health, origin.addresses().health];
    health.extend(edges.iter().map(|edge| edge.addresses().health));
    let rtmp = origin.addresses().rtmp;
    let reload = reload::Services {
        file: args.files.config.clone(),
        flags,
        grpc,
        control: control.live(),
        origin: origin.live(),
        edges: edges.iter().map(Edge::live).collect(),
    };
    tokio::spawn(reload.on_hangup()?);

    // The demo ends its broadcast while the services still answer.
    let services = Shutdown::new();
    let mut running = JoinSet::new();
    let stop = services.clone();
    running.spawn(async move { control.run(stop).await.context("control") });
    let stop = services.clone();
    running.spawn(async move { origin.run(stop).await.context("origin") });
    for (index, edge) in edges.into_iter().enumerate() {
        let stop = services.clone();
        running.spawn(async move { edge.run(stop).await.with_context(|| plan::edge_id(index)) });
    }
    let (stop, ready_file) = (shutdown.clone(), args.files.ready_file);
    running.spawn(async move {
        tokio::select! {
            ready = wait_until_ready(&health) => ready?,
            () = stop.requested() => return Ok(()),
        }
        ready::write(ready_file.as_deref(), &content)?;
        info!(?health, "every service is ready");
        // Whoever reads may have enough, as `head` has.
        let _ = writeln!(std::io::stdout(), "{}", plan.screen(&at.http, &rtmp));
        if plan.settings.demo {
            demo(&at.http, &at.operator_key, &stop).await;
        }
        stop.requested().await;
        Ok(())
    });

    let mut result = Ok(());
    while let Some(ended) = running.join_next().await {
        let ended = ended.context("a service failed").and_then(|ended| ended);
        if ended.is_err() && result.is_ok() {
            result = ended;
        }
        // One that has ended, well or not, takes the others with it.
        shutdown.trigger();
        services.trigger();
    }
    result
}

async fn wait_until_ready(health: &[SocketAddr]) -> anyhow::Result<()> {
    for address in health {
        ready::answers(*address, "/readyz", START).await?;
    }
    Ok(())
}

/// Broadcasts the clip until `stop`; a failure of its own takes nothing else
/// with it.
async fn demo(control: &str, operator_key: &str, stop: &Shutdown) {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    while !stop.is_requested() {
        let broadcast = publish::demo(control, operator_key, stop.requested());
        let ended = async {
            stop.requested().await;
            tokio::time::sleep(GOODBYE).await;
        };
        let result = tokio::select! {
            result = broadcast => result,
            () = ended => return,
        };
        let Err(error) = result else { continue };
        warn!(error = format!("{error:#}"), "the demo broadcast failed; it begins again");
        tokio::select! {
            () = tokio::time::sleep(backoff.next(u32::from_le_bytes(random()))) => {}
            () = stop.requested() => {}
        }
    }
}
