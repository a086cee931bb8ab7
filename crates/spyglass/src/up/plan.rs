//! Who listens where, keeps what and knows whom.
//!
//! Settings come in layers: defaults of `up`, the file's own keys, the file's
//! table of the service, environment and flags; the later wins.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Error, bail};
use http::uri::Authority;
use serde::Deserialize;
use spyglass_daemon::config::{self, merge};
use spyglass_daemon::listen::Untold;
use spyglass_daemon::state::StateDir;
use spyglass_daemon::{log, random};
use spyglass_media::Location;
use toml::{Table, Value};

use crate::service::no_state;

/// Most edges in one process; more belong on machines of their own.
const MOST_EDGES: usize = 32;

/// Keys of `up` that are control's.
const POLICY: [&str; 7] = [
    "operator_key",
    "push_viewers",
    "chunk_seconds",
    "resume_seconds",
    "publish_token_seconds",
    "watch_token_seconds",
    "geo_mmdb",
];

/// Keys of `up` that all edges get.
const EDGES: [&str; 2] = ["upstream", "ignore_notices"];

/// The settings of `up`: its own keys, flat, and one table for each service.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings<C = Table, O = Table, E = Table> {
    edges: Option<usize>,
    state: Option<PathBuf>,
    /// Whether to broadcast the built-in clip.
    pub demo: bool,
    listen: Option<String>,
    public_host: Option<String>,
    admin: Option<SocketAddr>,
    edge_location: Vec<String>,
    operator_key: Option<Value>,
    push_viewers: Option<Value>,
    chunk_seconds: Option<Value>,
    resume_seconds: Option<Value>,
    publish_token_seconds: Option<Value>,
    watch_token_seconds: Option<Value>,
    geo_mmdb: Option<Value>,
    upstream: Option<Value>,
    ignore_notices: Option<bool>,
    /// How logs look.
    pub log_format: Option<log::Format>,
    control: C,
    origin: O,
    edge: Vec<E>,
}

/// What the file of `up` must be, down to the keys of each service.
pub type File = Settings<spyglass_control::Config, spyglass_origin::Config, spyglass_edge::Config>;

/// See the module.
#[derive(Debug)]
pub struct Plan {
    /// All layers.
    pub settings: Settings,
    /// How many edges to run.
    pub edges: usize,
    file: Table,
    flags: Table,
    state: StateDir,
    cluster_key: String,
    ip: IpAddr,
    free_ports: bool,
}

impl Plan {
    /// From the file, checked against [`File`], and from environment and flags.
    /// Makes the state directory and the cluster key.
    pub fn new(file: Table, flags: Table) -> anyhow::Result<Self> {
        let mut all = file.clone();
        merge(&mut all, flags.clone());
        let settings: Settings = config::from_table(all)?;
        let edges = settings.edges.unwrap_or(settings.edge.len().max(2));
        if !(1..=MOST_EDGES).contains(&edges) {
            bail!("--edges is 1 to {MOST_EDGES}, not {edges}");
        }
        let (ip, free_ports) = match &settings.listen {
            None => (Ipv4Addr::LOCALHOST.into(), false),
            Some(text) => listen(text).with_context(|| format!("--listen {text}"))?,
        };
        if let Some(name) = &settings.public_host {
            checked_host(name)
                .map_err(Error::msg)
                .with_context(|| format!("--public-host {name}"))?;
            if free_ports {
                bail!(
                    "--public-host {name}: what others are told needs ports that are known \
                     beforehand: give --listen without port 0"
                );
            }
        }
        for text in &settings.edge_location {
            let (id, _) = place(text).with_context(|| format!("--edge-location {text}"))?;
            if !(0..edges).any(|index| edge_id(index) == id) {
                bail!("--edge-location {text}: no edge {id}; they are edge-1 to edge-{edges}");
            }
        }
        let path = settings.state.clone().unwrap_or_else(|| PathBuf::from("spyglass-data"));
        let failed = |error| no_state(&path, &error);
        let state = StateDir::open(&path).map_err(failed)?;
        let cluster_key = match state.read("cluster-key").map_err(failed)? {
            Some(key) => String::from_utf8(key).context("the cluster key in the state")?,
            None => {
                let key: String = random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
                state.write("cluster-key", key.as_bytes()).map_err(failed)?;
                key
            }
        };
        Ok(Self { settings, edges, file, flags, state, cluster_key, ip, free_ports })
    }

    /// Control's configuration.
    pub fn control(&self) -> Table {
        let mut table = self.base("control", 0, &[("http", 8080), ("grpc", 9080)]);
        merge(&mut table, only(&self.file, &POLICY));
        merge(&mut table, self.settings.control.clone());
        merge(&mut table, only(&self.flags, &POLICY));
        table
    }

    /// The origin's configuration.
    pub fn origin(&self, control: &str) -> Table {
        let ports = [("rtmp", 1935), ("http", 8180), ("grpc", 9180)];
        let mut table = self.base("origin", 1, &ports);
        insert(&mut table, "id", "origin-1");
        table.insert("control".to_owned(), Value::Array(vec![control.into()]));
        merge(&mut table, self.settings.origin.clone());
        table
    }

    /// An edge's configuration; the first has index 0.
    pub fn edge(&self, index: usize, control: &str) -> Table {
        let id = edge_id(index);
        let ports = [("http", 8281 + index), ("grpc", 9281 + index)];
        let mut table = self.base(&id, 2 + index, &ports);
        table.insert("control".to_owned(), Value::Array(vec![control.into()]));
        merge(&mut table, only(&self.file, &EDGES));
        merge(&mut table, self.settings.edge.get(index).cloned().unwrap_or_default());
        merge(&mut table, only(&self.flags, &EDGES));
        let places = self.settings.edge_location.iter().filter_map(|text| place(text).ok());
        for (_, location) in places.filter(|(of, _)| *of == id) {
            insert(&mut table, "location", &location.to_string());
        }
        insert(&mut table, "id", &id);
        table
    }

    /// Passes on whether a service's addresses can be told to others; where it was
    /// --listen that gave one that cannot, says what `up` takes for it.
    pub fn reachable(&self, told: Result<(), Untold>) -> anyhow::Result<()> {
        match told {
            Err(_) if self.ip.is_unspecified() && self.settings.public_host.is_none() => bail!(
                "--listen {}: that is every address and none to tell others: give \
                 --public-host HOST as well, the name or address by which viewers and encoders \
                 reach this machine",
                self.ip
            ),
            told => Ok(told?),
        }
    }

    fn base(&self, state: &str, place: usize, ports: &[(&str, usize)]) -> Table {
        let mut table = Table::new();
        for &(key, port) in ports {
            let port = if self.free_ports { 0 } else { u16::try_from(port).unwrap_or(0) };
            insert(&mut table, key, &SocketAddr::new(self.ip, port).to_string());
            if let Some(url) = self.public(key, port) {
                insert(&mut table, &format!("public_{key}"), &url);
            }
        }
        if let Some(mut admin) = self.settings.admin {
            if admin.port() != 0 {
                let place = u16::try_from(place).unwrap_or(0);
                admin.set_port(admin.port().saturating_add(place));
            }
            insert(&mut table, "admin", &admin.to_string());
        }
        insert(&mut table, "state", &self.state.path().join(state).display().to_string());
        insert(&mut table, "cluster_key", &self.cluster_key);
        table
    }

    /// What others are told of a listener, where that is not its address. The
    /// services themselves find each other without leaving the machine.
    fn public(&self, key: &str, port: u16) -> Option<String> {
        let name = self.settings.public_host.as_deref()?;
        let name = if name.parse::<Ipv6Addr>().is_ok() { format!("[{name}]") } else { name.into() };
        match key {
            "rtmp" => Some(format!("rtmp://{name}:{port}/live")),
            "http" => Some(format!("http://{name}:{port}")),
            _ if !self.ip.is_unspecified() => None,
            _ if self.ip.is_ipv6() => Some(format!("http://[::1]:{port}")),
            _ => Some(format!("http://127.0.0.1:{port}")),
        }
    }

    /// What a person wants to know once everything runs.
    pub fn screen(&self, http: &str, rtmp: &str) -> String {
        let (key, operator) = if self.control().contains_key("operator_key") {
            ("$KEY".to_owned(), "the operator key that was given".to_owned())
        } else {
            let file = self.state.path().join("control/operator-key");
            (format!("$(cat {})", file.display()), format!("key in {}", file.display()))
        };
        let edges = if self.edges == 1 { "1 edge".into() } else { format!("{} edges", self.edges) };
        let mut text = format!("\nSpyglass is up: control, 1 origin, {edges}.\n\n");
        let mut line = |label: &str, value: &str| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{label:<10} {value}");
        };
        line("live now", &format!("{http}/"));
        line("console", &format!("{http}/console"));
        line("operator", &operator);
        line("go live", &format!("spyglass publish --file any.mp4 --loop --control {http} \\"));
        line("", &format!("  --operator-key \"{key}\""));
        line("", "or with ffmpeg or OBS; first ask for a stream key:");
        line("", &format!("  curl {http}/v1/broadcasts -H \"Authorization: Bearer {key}\" \\"));
        line("", "  -H 'Content-Type: application/json' -d '{\"title\": \"First light\"}'");
        line("ffmpeg", &format!("ffmpeg -re -i any.mp4 -c copy -f flv {rtmp}/STREAM_KEY"));
        line("OBS", &format!("Settings, Stream, Custom: server {rtmp}, and the stream key"));
        line("stop", "Ctrl-C");
        text
    }
}

/// The address of every listener, and whether each takes a free port.
fn listen(text: &str) -> anyhow::Result<(IpAddr, bool)> {
    match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
        (Ok(address), _) => Ok((address.ip(), address.port() == 0)),
        (_, Ok(ip)) => Ok((ip, false)),
        _ => bail!("give an address like 127.0.0.1:0 or 0.0.0.0"),
    }
}

/// An edge and where it stands.
fn place(text: &str) -> anyhow::Result<(&str, Location)> {
    let (id, location) = text.split_once('=').context("give ID=LAT,LON, e.g. edge-1=52.37,4.90")?;
    Ok((id, location.parse()?))
}

/// A number of edges that one process may have.
pub fn checked_edges(text: &str) -> Result<usize, String> {
    let edges = text.parse().ok().filter(|edges| (1..=MOST_EDGES).contains(edges));
    edges.ok_or_else(|| format!("give 1 to {MOST_EDGES}"))
}

/// As it was given, if it is an address.
pub fn checked_listen(text: &str) -> Result<String, String> {
    listen(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// As it was given, if it is the name or address of a host, without scheme and port.
pub fn checked_host(text: &str) -> Result<String, String> {
    let plain = text.parse::<Ipv6Addr>().is_ok()
        || text.parse::<Authority>().is_ok_and(|parsed| parsed.host() == text);
    let nowhere = ["0.0.0.0", "::", "[::]"].contains(&text);
    if plain && !nowhere {
        return Ok(text.to_owned());
    }
    Err("give a name or an address that others reach, without http:// and port, e.g. \
         live.example.com"
        .to_owned())
}

/// As it was given, if it is an edge's place.
pub fn checked_place(text: &str) -> Result<String, String> {
    place(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// An edge's name; the first has index 0.
pub fn edge_id(index: usize) -> String {
    format!("edge-{}", index + 1)
}

fn insert(table: &mut Table, key: &str, value: &str) {
    table.insert(key.to_owned(), value.into());
}

fn only(table: &Table, keys: &[&str]) -> Table {
    let given = keys.iter().filter_map(|&key| Some((key.to_owned(), table.get(key)?.clone())));
    given.collect()
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    fn table(text: &str) -> Table {
        toml::from_str(text).unwrap()
    }

    fn plan(file: &str, flags: &str) -> anyhow::Result<Plan> {
        let dir = tempfile::tempdir().unwrap();
        let mut flags = table(flags);
        insert(&mut flags, "state", &dir.path().join("state").display().to_string());
        Plan::new(table(file), flags)
    }

    fn text<'a>(table: &'a Table, key: &str) -> &'a str {
        table[key].as_str().unwrap()
    }

    #[test]
    fn default_ports_stand_on_loopback() {
        let plan = plan("", "").unwrap();
        assert_eq!(plan.edges, 2);
        let (control, origin) = (plan.control(), plan.origin("http://c"));
        assert_eq!(text(&control, "http"), "127.0.0.1:8080");
        assert_eq!(text(&origin, "rtmp"), "127.0.0.1:1935");
        assert_eq!(text(&plan.edge(1, "http://c"), "http"), "127.0.0.1:8282");
        assert_eq!(text(&plan.edge(1, "http://c"), "grpc"), "127.0.0.1:9282");
        assert_eq!(text(&control, "cluster_key"), text(&origin, "cluster_key"));
        assert_eq!(origin["control"][0].as_str(), Some("http://c"));
    }

    #[test]
    fn listen_moves_every_listener() {
        let free = plan("", "listen = '127.0.0.1:0'").unwrap();
        assert_eq!(text(&free.control(), "http"), "127.0.0.1:0");
        assert_eq!(text(&free.origin(""), "rtmp"), "127.0.0.1:0");
        let world = plan("", "listen = '0.0.0.0'").unwrap();
        assert_eq!(text(&world.edge(0, ""), "http"), "0.0.0.0:8281");
        assert!(world.edge(0, "").get("public_http").is_none());
        let error = plan("", "listen = 'localhost'").unwrap_err();
        assert_eq!(error.to_string(), "--listen localhost");
    }

    #[test]
    fn others_are_told_the_host_and_the_services_each_other() {
        let flags = "listen = '0.0.0.0'\npublic_host = 'live.example.com'";
        let world = plan("[control]\npublic_http = 'https://front.example'", flags).unwrap();
        assert_eq!(text(&world.control(), "public_http"), "https://front.example");
        assert_eq!(text(&world.origin(""), "public_rtmp"), "rtmp://live.example.com:1935/live");
        assert_eq!(text(&world.origin(""), "public_grpc"), "http://127.0.0.1:9180");
        assert_eq!(text(&world.edge(1, ""), "public_http"), "http://live.example.com:8282");
        let six = plan("", "listen = '::'\npublic_host = '2001:db8::1'").unwrap();
        assert_eq!(text(&six.edge(0, ""), "public_http"), "http://[2001:db8::1]:8281");
        assert_eq!(text(&six.edge(0, ""), "public_grpc"), "http://[::1]:9281");
        for bad in ["http://h", "h:80", "h/x", "0.0.0.0", "::", "", "a b"] {
            assert!(plan("", &format!("public_host = '{bad}'")).is_err(), "{bad}");
        }
        assert!(plan("", "listen = '0.0.0.0:0'\npublic_host = 'h'").is_err());
    }

    #[test]
    fn every_flag_of_control_that_up_has_is_a_key_of_up() {
        let command = crate::args::Policy::augment_args(clap::Command::new("up"));
        let flags: Vec<&str> = command.get_arguments().map(|flag| flag.get_id().as_str()).collect();
        assert_eq!(flags, POLICY);
    }

    #[test]
    fn flags_win_over_tables_and_tables_over_flat_keys() {
        let file = "push_viewers = 1\nchunk_seconds = 1\nresume_seconds = 1\n\
                    [control]\nchunk_seconds = 2\nresume_seconds = 2";
        let control = plan(file, "resume_seconds = 3").unwrap().control();
        let number = |key: &str| control[key].as_integer().unwrap();
        assert_eq!(number("push_viewers"), 1);
        assert_eq!(number("chunk_seconds"), 2);
        assert_eq!(number("resume_seconds"), 3);
    }

    #[test]
    fn edges_are_as_many_as_asked_for_or_described() {
        let file = "[[edge]]\nlocation = '1,2'\n[[edge]]\n[[edge]]";
        let described = plan(file, "").unwrap();
        assert_eq!(described.edges, 3);
        assert_eq!(text(&described.edge(0, ""), "location"), "1,2");
        let placed = plan(file, "edges = 1\nedge_location = ['edge-1=3,4']").unwrap();
        assert_eq!((placed.edges, text(&placed.edge(0, ""), "location")), (1, "3,4"));
        assert!(plan("", "edges = 0").is_err());
        assert!(plan("", "edges = 33").is_err());
        let error = plan("", "edge_location = ['edge-9=3,4']").unwrap_err().to_string();
        assert!(error.contains("no edge edge-9"), "{error}");
    }

    #[test]
    fn the_cluster_key_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut flags = Table::new();
        insert(&mut flags, "state", &dir.path().display().to_string());
        let first = Plan::new(Table::new(), flags.clone()).unwrap();
        let again = Plan::new(Table::new(), flags).unwrap();
        assert_eq!(first.cluster_key, again.cluster_key);
        assert_eq!(first.cluster_key.len(), 32);
    }

    #[test]
    fn admin_ports_follow_each_other() {
        let plan = plan("", "admin = '127.0.0.1:7000'").unwrap();
        let tables = [plan.control(), plan.origin(""), plan.edge(0, ""), plan.edge(1, "")];
        let admin: Vec<_> = tables.iter().map(|table| text(table, "admin")).collect();
        assert_eq!(admin, ["127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"]);
    }

    #[test]
    fn the_screen_says_where_the_key_is_and_not_what_it_is() {
        let screen = plan("", "operator_key = 'hush-hush'").unwrap().screen("http://h", "rtmp://h");
        assert!(!screen.contains("hush-hush"), "{screen}");
        let screen = plan("", "").unwrap().screen("http://h", "rtmp://h/live");
        assert!(screen.contains("control/operator-key"), "{screen}");
        assert!(screen.contains("ffmpeg -re -i any.mp4 -c copy -f flv rtmp://h/live/STREAM_KEY"));
    }
}
