//! `spyglass up`: control, an origin and some edges in one process.
//!
//! Every service is loaded as it would be alone and speaks to the others over
//! its real sockets; this file only says who listens where and who knows whom.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;
use spyglass_control::Control;
use spyglass_daemon::config::{self, merge};
use spyglass_daemon::state::StateDir;
use spyglass_daemon::{Shutdown, log, random};
use spyglass_edge::Edge;
use spyglass_origin::Origin;
use tokio::task::JoinSet;
use toml::{Table, Value};

use crate::args::{Files, Log, Policy, overlay};
use crate::{publish, ready, service};

/// Most edges in one process; more belong on machines of their own.
const MOST_EDGES: usize = 32;

/// `spyglass up`
#[derive(clap::Args, Debug, Serialize)]
pub struct Args {
    #[command(flatten)]
    #[serde(skip)]
    files: Files,
    /// Number of edges [default: 2]
    #[arg(long, value_name = "N", env = "SPYGLASS_EDGES")]
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
    /// Address of every listener; with port 0 each gets a free one, without a port the default ones
    #[arg(long, value_name = "ADDR", env = "SPYGLASS_LISTEN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<String>,
    /// Places an edge, e.g. edge-1=52.37,4.90; may be given more than once
    #[arg(long, value_name = "ID=LAT,LON", env = "SPYGLASS_EDGE_LOCATION", value_delimiter = ';')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    edge_location: Vec<String>,
    #[command(flatten)]
    #[serde(flatten)]
    policy: Policy,
    /// For tests: edges drop every expire notice
    #[arg(long, env = "SPYGLASS_IGNORE_NOTICES", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_notices: Option<bool>,
    #[command(flatten)]
    #[serde(flatten)]
    log: Log,
}

/// The file of `up`: its own keys, flat, and one table for each service.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    edges: Option<usize>,
    state: Option<PathBuf>,
    demo: bool,
    listen: Option<String>,
    edge_location: Vec<String>,
    operator_key: Option<Value>,
    push_viewers: Option<Value>,
    chunk_seconds: Option<Value>,
    resume_seconds: Option<Value>,
    publish_token_seconds: Option<Value>,
    watch_token_seconds: Option<Value>,
    ignore_notices: Option<bool>,
    log_format: Option<log::Format>,
    control: Table,
    origin: Table,
    edge: Vec<Table>,
}

/// Runs everything until it is told to stop, or one service fails.
pub async fn run(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    let settings: Settings = config::load(args.files.config.as_deref(), overlay(&args)?)?;
    log::init(settings.log_format);
    shutdown.on_signals()?;
    let plan = Plan::new(settings)?;
    let control = Control::load(config::from_table(plan.control())?).await?;
    let grpc = control.addresses().grpc;
    let origin = Origin::load(config::from_table(plan.origin(&grpc))?).await?;
    let mut edges = Vec::new();
    for index in 0..plan.edges {
        edges.push(Edge::load(config::from_table(plan.edge(index, &grpc))?).await?);
    }

    let at = control.addresses();
    let ready = json!({
        "control": service::control_entry(&control),
        "origins": [service::origin_entry(&origin)],
        "edges": edges.iter().map(service::edge_entry).collect::<Vec<_>>(),
        "operator_key": at.operator_key,
    });
    let mut health = vec![at.health, origin.addresses().health];
    health.extend(edges.iter().map(|edge| edge.addresses().health));
    let rtmp = origin.addresses().rtmp;

    let mut running = JoinSet::new();
    let stop = shutdown.clone();
    running.spawn(async move { control.run(stop).await.context("control") });
    let stop = shutdown.clone();
    running.spawn(async move { origin.run(stop).await.context("origin") });
    for edge in edges {
        let stop = shutdown.clone();
        running.spawn(async move { edge.run(stop).await.context("edge") });
    }
    let files = args.files;
    let (stop, demo) = (shutdown.clone(), plan.settings.demo);
    let state = plan.state.path().to_owned();
    running.spawn(async move {
        tokio::select! {
            ready = wait_until_ready(&health) => ready?,
            () = stop.requested() => return Ok(()),
        }
        ready::write(files.ready_file.as_deref(), &ready)?;
        println!("Spyglass is up.\n");
        println!("live now   {}/", at.http);
        println!("go live    {rtmp}   (create a broadcast first: docs/operate.md)");
        println!("           or: spyglass publish --file any.mp4 --loop --control {}", at.http);
        println!("operator   key in {}", state.join("control/operator-key").display());
        println!("stop       Ctrl-C\n");
        if demo {
            let stop = async move { stop.requested().await };
            publish::demo(&at.http, &at.operator_key, stop).await.context("demo broadcast")?;
        } else {
            stop.requested().await;
        }
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
    }
    result
}

async fn wait_until_ready(health: &[SocketAddr]) -> anyhow::Result<()> {
    for address in health {
        ready::answers(*address, "/readyz", Duration::from_secs(20)).await?;
    }
    Ok(())
}

/// Who listens where and keeps what.
struct Plan {
    settings: Settings,
    edges: usize,
    state: StateDir,
    cluster_key: String,
    ip: IpAddr,
    free_ports: bool,
}

impl Plan {
    fn new(settings: Settings) -> anyhow::Result<Self> {
        let edges = settings.edges.unwrap_or(settings.edge.len().max(2));
        if !(1..=MOST_EDGES).contains(&edges) {
            bail!("--edges is 1 to {MOST_EDGES}, not {edges}");
        }
        let (ip, free_ports) = match &settings.listen {
            None => (Ipv4Addr::LOCALHOST.into(), false),
            Some(listen) => match (listen.parse::<SocketAddr>(), listen.parse::<IpAddr>()) {
                (Ok(address), _) => (address.ip(), address.port() == 0),
                (_, Ok(ip)) => (ip, false),
                _ => bail!("--listen {listen}: give an address like 127.0.0.1:0 or 0.0.0.0"),
            },
        };
        let path = settings.state.clone().unwrap_or_else(|| PathBuf::from("spyglass-data"));
        let failed = || format!("state directory {}", path.display());
        let state = StateDir::open(&path).with_context(failed)?;
        let cluster_key = match state.read("cluster-key").with_context(failed)? {
            Some(key) => String::from_utf8(key).context("the cluster key in the state")?,
            None => {
                let key: String = random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
                state.write("cluster-key", key.as_bytes()).with_context(failed)?;
                key
            }
        };
        for place in &settings.edge_location {
            let (id, _) = place.split_once('=').context("--edge-location is ID=LAT,LON")?;
            if !(0..edges).any(|index| edge_id(index) == id) {
                bail!("--edge-location {place}: there is no edge {id}; they are edge-1 to edge-{edges}");
            }
        }
        Ok(Self { settings, edges, state, cluster_key, ip, free_ports })
    }

    fn address(&self, port: usize) -> Value {
        let port = if self.free_ports { 0 } else { u16::try_from(port).unwrap_or(0) };
        Value::String(SocketAddr::new(self.ip, port).to_string())
    }

    fn base(&self, state: &str, ports: &[(&str, usize)]) -> Table {
        let mut table = Table::new();
        for (key, port) in ports {
            table.insert((*key).to_owned(), self.address(*port));
        }
        let state = self.state.path().join(state).display().to_string();
        table.insert("state".to_owned(), Value::String(state));
        table.insert("cluster_key".to_owned(), Value::String(self.cluster_key.clone()));
        table
    }

    fn control(&self) -> Table {
        let mut table = self.base("control", &[("http", 8080), ("grpc", 9080)]);
        merge(&mut table, self.settings.control.clone());
        let settings = &self.settings;
        for (key, value) in [
            ("operator_key", &settings.operator_key),
            ("push_viewers", &settings.push_viewers),
            ("chunk_seconds", &settings.chunk_seconds),
            ("resume_seconds", &settings.resume_seconds),
            ("publish_token_seconds", &settings.publish_token_seconds),
            ("watch_token_seconds", &settings.watch_token_seconds),
        ] {
            if let Some(value) = value {
                table.insert(key.to_owned(), value.clone());
            }
        }
        table
    }

    fn origin(&self, control: &str) -> Table {
        let ports = [("rtmp", 1935), ("http", 8180), ("grpc", 9180)];
        let mut table = self.base("origin", &ports);
        table.insert("id".to_owned(), Value::String("origin-1".to_owned()));
        table.insert("control".to_owned(), Value::Array(vec![Value::String(control.to_owned())]));
        merge(&mut table, self.settings.origin.clone());
        table
    }

    fn edge(&self, index: usize, control: &str) -> Table {
        let id = edge_id(index);
        let mut table = self.base(&id, &[("http", 8281 + index), ("grpc", 9281 + index)]);
        table.insert("control".to_owned(), Value::Array(vec![Value::String(control.to_owned())]));
        let place = self.settings.edge_location.iter().filter_map(|place| place.split_once('='));
        for (_, location) in place.filter(|(of, _)| *of == id) {
            table.insert("location".to_owned(), Value::String(location.to_owned()));
        }
        table.insert("id".to_owned(), Value::String(id));
        if let Some(ignore) = self.settings.ignore_notices {
            table.insert("ignore_notices".to_owned(), Value::Boolean(ignore));
        }
        if let Some(given) = self.settings.edge.get(index) {
            merge(&mut table, given.clone());
        }
        table
    }
}

fn edge_id(index: usize) -> String {
    format!("edge-{}", index + 1)
}
