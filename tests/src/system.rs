//! The real binary: all services in one process, or each in its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hyper::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use spyglass_testkit::loopback;
use tempfile::TempDir;

use crate::eventually;
use crate::http::{Answer, Client};

/// Time for a debug build on a busy machine to be ready.
const START: Duration = Duration::from_secs(30);

pub(crate) const OPERATOR: &str = "operator-key-of-the-tests";
const CLUSTER: &str = "cluster-key-of-the-tests";

/// The binary under test, as cargo built it beside the tests.
///
/// # Panics
/// When it was not built.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let found = test.ancestors().map(|dir| dir.join("spyglass")).find(|path| path.is_file());
    found.expect("no spyglass binary: run `cargo build --bin spyglass` first")
}

/// One process of the binary. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    /// What the ready file said.
    pub ready: Value,
}

impl Process {
    /// Starts the binary and waits for its ready file. Standard error goes to
    /// `<name>.log` in `dir`.
    pub async fn start(dir: &Path, name: &str, args: &[String]) -> Self {
        let ready_file = dir.join(format!("{name}.ready"));
        let _ = std::fs::remove_file(&ready_file);
        let log = dir.join(format!("{name}.log"));
        let output = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let child = Command::new(binary())
            .args(args)
            .arg("--ready-file")
            .arg(&ready_file)
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let mut process = Self { child, log, ready: Value::Null };
        let what = format!("{name} is ready; its log: {}", process.log.display());
        process.ready = eventually(&what, START, || {
            if let Ok(Some(status)) = process.child.try_wait() {
                panic!("{name} ended with {status}:\n{}", process.log_text());
            }
            let found = std::fs::read(&ready_file).ok();
            async move { found.and_then(|bytes| serde_json::from_slice(&bytes).ok()) }
        })
        .await;
        process
    }

    /// Everything it has logged.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL, as a power cut for this process.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGHUP: it reads its configuration again.
    pub fn hang_up(&self) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGHUP).unwrap();
    }

    /// SIGTERM; waits for the end and returns the exit code.
    pub async fn terminate(&mut self) -> Option<i32> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        eventually("the process ends after SIGTERM", Duration::from_secs(15), || {
            let status = self.child.try_wait().unwrap();
            async move { status.map(|status| status.code()) }
        })
        .await
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- {}\n{}", self.log.display(), tail(&self.log_text(), 60));
        }
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A running system and how to talk to it.
#[derive(Debug)]
pub struct System {
    /// Its processes; `up` has one.
    pub control: Process,
    /// The origin's, when it has one of its own.
    pub origin: Option<Process>,
    /// The edges', when they have their own.
    pub edges: Vec<Process>,
    /// What the ready files said, as `up` would say it.
    pub ready: Value,
    /// For requests.
    pub client: Client,
    listen: String,
    /// Configuration of its edges, when they have any.
    edge_config: Option<PathBuf>,
    dir: TempDir,
}

/// A free port of an address of one's own.
pub(crate) fn own_address() -> String {
    format!("{}:0", loopback::own())
}

pub(crate) fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// `host:port` of an `http://` or `rtmp://` URL.
pub fn authority(url: &str) -> SocketAddr {
    let rest = url.split("://").nth(1).unwrap();
    rest.split('/').next().unwrap().parse().unwrap()
}

impl System {
    /// `spyglass up` with `args` added.
    pub async fn up(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listen = own_address();
        let mut all = strings(&["up", "--listen", &listen, "--operator-key", OPERATOR]);
        all.extend(["--state".to_owned(), dir.path().join("state").display().to_string()]);
        all.extend(strings(args));
        let control = Process::start(dir.path(), "up", &all).await;
        let ready = control.ready.clone();
        let system = Self {
            control,
            origin: None,
            edges: Vec::new(),
            ready,
            client: Client::default(),
            listen,
            edge_config: None,
            dir,
        };
        system.wait_for_nodes().await;
        system
    }

    /// Control, an origin and `edges` edges, each a process of its own.
    pub async fn apart(edges: usize, control_args: &[&str]) -> Self {
        Self::apart_with(edges, control_args, None).await
    }

    /// As [`System::apart`], with a configuration file for the edges.
    pub async fn apart_with(
        edges: usize,
        control_args: &[&str],
        edge_config: Option<&str>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let edge_config = edge_config.map(|text| {
            let file = dir.path().join("edge.toml");
            std::fs::write(&file, text).unwrap();
            file
        });
        let listen = own_address();
        let mut args = service(dir.path(), "control", &[("--http", &listen), ("--grpc", &listen)]);
        args.extend(strings(&["--operator-key", OPERATOR]));
        args.extend(strings(control_args));
        let control = Process::start(dir.path(), "control", &args).await;
        let mut ready = control.ready.clone();
        let mut system = Self {
            control,
            origin: None,
            edges: Vec::new(),
            ready: Value::Null,
            client: Client::default(),
            listen,
            edge_config,
            dir,
        };
        let grpc = ready["control"]["grpc"].as_str().unwrap().to_owned();
        let origin = system.start_origin(&grpc, None).await;
        ready["origins"] = origin.ready["origins"].clone();
        system.origin = Some(origin);
        ready["edges"] = json!([]);
        for index in 0..edges {
            let edge = system.start_edge(&grpc, index, None).await;
            ready["edges"].as_array_mut().unwrap().push(edge.ready["edges"][0].clone());
            system.edges.push(edge);
        }
        ready["operator_key"] = json!(OPERATOR);
        system.ready = ready;
        system.wait_for_nodes().await;
        system
    }

    async fn start_origin(&self, control: &str, at: Option<&Value>) -> Process {
        let address = |key: &str| {
            at.map_or(self.listen.clone(), |at| authority(at[key].as_str().unwrap()).to_string())
        };
        let (rtmp, http, grpc) = (address("rtmp"), address("http"), address("grpc"));
        let flags = [
            ("--id", "origin-1"),
            ("--rtmp", rtmp.as_str()),
            ("--http", http.as_str()),
            ("--grpc", grpc.as_str()),
            ("--control", control),
        ];
        Process::start(self.dir.path(), "origin", &service(self.dir.path(), "origin", &flags)).await
    }

    async fn start_edge(&self, control: &str, index: usize, at: Option<&Value>) -> Process {
        let http = at
            .map_or(self.listen.clone(), |at| authority(at["http"].as_str().unwrap()).to_string());
        let id = format!("edge-{}", index + 1);
        let flags = [
            ("--id", id.as_str()),
            ("--http", http.as_str()),
            ("--grpc", &self.listen),
            ("--control", control),
        ];
        let mut args = service(self.dir.path(), "edge", &flags);
        let state = args.iter().position(|arg| arg == "--state").unwrap() + 1;
        args[state] = self.dir.path().join(&id).display().to_string();
        if let Some(file) = &self.edge_config {
            args.extend(["--config".to_owned(), file.display().to_string()]);
        }
        Process::start(self.dir.path(), &id, &args).await
    }

    /// Another process that calls itself as an edge does, with a state of its own
    /// and at other addresses.
    pub async fn namesake_of_edge(&self, id: &str) -> Process {
        let control = self.ready["control"]["grpc"].as_str().unwrap();
        let flags = [
            ("--id", id),
            ("--http", self.listen.as_str()),
            ("--grpc", self.listen.as_str()),
            ("--control", control),
        ];
        let args = service(self.dir.path(), "edge", &flags);
        Process::start(self.dir.path(), &format!("namesake-of-{id}"), &args).await
    }

    /// Starts the origin again at its old addresses, with its state.
    pub async fn restart_origin(&mut self) {
        let at = self.ready["origins"][0].clone();
        let control = self.ready["control"]["grpc"].as_str().unwrap().to_owned();
        self.origin = Some(self.start_origin(&control, Some(&at)).await);
    }

    /// Starts an edge again at its old address, with its state.
    pub async fn restart_edge(&mut self, index: usize) {
        let at = self.ready["edges"][index].clone();
        let control = self.ready["control"]["grpc"].as_str().unwrap().to_owned();
        self.edges[index] = self.start_edge(&control, index, Some(&at)).await;
    }

    /// Starts control again at its old addresses; with `empty`, without its state.
    pub async fn restart_control(&mut self, empty: bool) {
        if empty {
            std::fs::remove_dir_all(self.dir.path().join("control")).unwrap();
        }
        let at = &self.ready["control"];
        let (http, grpc) = (
            authority(at["http"].as_str().unwrap()).to_string(),
            authority(at["grpc"].as_str().unwrap()).to_string(),
        );
        let flags = [("--http", http.as_str()), ("--grpc", grpc.as_str())];
        let mut args = service(self.dir.path(), "control", &flags);
        args.extend(strings(&["--operator-key", OPERATOR]));
        self.control = Process::start(self.dir.path(), "control", &args).await;
    }

    /// What control says of the nodes.
    pub async fn nodes(&self) -> Vec<Value> {
        let url = self.control_url("/v1/nodes");
        let answer = self.client.call(Method::GET, &url, OPERATOR, &Value::Null).await;
        answer.json()["nodes"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until control knows every node, and every edge its origin.
    pub async fn wait_for_nodes(&self) {
        let expected = self.ready["origins"].as_array().unwrap().len()
            + self.ready["edges"].as_array().unwrap().len();
        eventually("all nodes are up", START, || async {
            let url = self.control_url("/v1/nodes");
            let answer =
                self.client.try_call(Method::GET, &url, OPERATOR, &Value::Null).await.ok()?;
            let nodes = answer.json();
            let nodes = nodes["nodes"].as_array().or_else(|| nodes.as_array())?.clone();
            let up = nodes.iter().filter(|node| node["state"] == "up").count();
            (up == expected).then_some(())
        })
        .await;
        for index in 0..self.edge_count() {
            let url = format!("{}/readyz", self.edge(index));
            eventually("the edge is ready", START, || async {
                (self.client.try_get(&url).await.ok()?.status == 200).then_some(())
            })
            .await;
        }
    }

    /// A place for files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How many edges there are.
    pub fn edge_count(&self) -> usize {
        self.ready["edges"].as_array().unwrap().len()
    }

    /// An edge's base URL.
    pub fn edge(&self, index: usize) -> String {
        self.ready["edges"][index]["http"].as_str().unwrap().to_owned()
    }

    /// The origin's base URL.
    pub fn origin_http(&self) -> String {
        self.ready["origins"][0]["http"].as_str().unwrap().to_owned()
    }

    /// The origin's RTMP URL, application included.
    pub fn origin_rtmp(&self) -> String {
        self.ready["origins"][0]["rtmp"].as_str().unwrap().to_owned()
    }

    /// A URL of control.
    pub fn control_url(&self, path: &str) -> String {
        format!("{}{path}", self.ready["control"]["http"].as_str().unwrap())
    }

    /// A request to control as the operator.
    pub async fn operator(&self, method: Method, path: &str, body: Value) -> Answer {
        self.client.call(method, &self.control_url(path), OPERATOR, &body).await
    }

    /// A request to control as nobody.
    pub async fn anyone(&self, method: Method, path: &str, body: Value) -> Answer {
        self.client.call(method, &self.control_url(path), "", &body).await
    }

    /// A new broadcast.
    pub async fn create(&self, body: Value) -> Broadcast {
        let answer = self.operator(Method::POST, "/v1/broadcasts", body).await.expect(201).json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Broadcast {
            id: text(&answer["id"]),
            publish_url: format!(
                "{}/{}",
                text(&answer["publish"]["rtmp_url"]),
                text(&answer["publish"]["stream_key"])
            ),
        }
    }

    /// Joins as anybody.
    pub async fn join(&self, id: &str) -> Value {
        let path = format!("/v1/broadcasts/{id}/viewers");
        self.anyone(Method::POST, &path, json!({})).await.expect(200).json()
    }

    /// What control says of a broadcast.
    pub async fn show(&self, id: &str) -> Value {
        self.operator(Method::GET, &format!("/v1/broadcasts/{id}"), Value::Null)
            .await
            .expect(200)
            .json()
    }

    /// Waits until a broadcast is in `state`.
    pub async fn wait_for_state(&self, id: &str, state: &str, limit: Duration) {
        eventually(&format!("broadcast is {state}"), limit, || async {
            let url = self.control_url(&format!("/v1/broadcasts/{id}"));
            let answer =
                self.client.try_call(Method::GET, &url, OPERATOR, &Value::Null).await.ok()?;
            (answer.json()["state"] == state).then_some(())
        })
        .await;
    }

    /// A metric's value: the sum of all series whose line starts with `series`.
    pub async fn metric(&self, base: &str, series: &str) -> f64 {
        let text = self.client.get(&format!("{base}/metrics")).await.expect(200).text();
        let lines = text.lines().filter(|line| line.starts_with(series));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// A broadcast that control made.
#[derive(Debug, Clone)]
pub struct Broadcast {
    /// Its id.
    pub id: String,
    /// Where an encoder publishes, token included.
    pub publish_url: String,
}

pub(crate) fn service(dir: &Path, name: &str, flags: &[(&str, &str)]) -> Vec<String> {
    let mut args = vec![name.to_owned()];
    for (flag, value) in flags {
        args.extend([(*flag).to_owned(), (*value).to_owned()]);
    }
    args.extend(strings(&["--cluster-key", CLUSTER]));
    args.extend(["--state".to_owned(), dir.join(name).display().to_string()]);
    args
}
