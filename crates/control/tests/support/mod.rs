//! A real control on free ports, people who speak HTTP to it, and nodes that
//! attach to it as origins and edges do.
#![allow(dead_code)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use serde_json::{Value, json};
use spyglass_api::auth::ClusterKey;
use spyglass_api::control::{BroadcastEvent, BroadcastRecord, Crowd, Lease, Load, Phase, Role};
use spyglass_control::store::Engine;
use spyglass_control::store::embedded::{Embedded, OpenError};
use spyglass_control::{Addresses, Config, Control};
use spyglass_daemon::attach::{self, Attachment, Command, Profile, Source};
use spyglass_daemon::state::StateDir;
use spyglass_daemon::{Secret, Shutdown, now_utc};
use spyglass_testkit::loopback;
use spyglass_token::WatchGrant;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub const OPERATOR: &str = "operator-of-the-tests";
pub const CLUSTER: &str = "cluster-of-the-tests";

/// Polls `look` until it has something; fails after 15 s.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let poll = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(15), poll).await;
    found.unwrap_or_else(|_| panic!("not within 15 s: {what}"))
}

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The detail of a problem with this status.
    #[track_caller]
    pub fn problem(self, status: u16) -> String {
        let answer = self.expect(status);
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let body = answer.json();
        assert_eq!(body["status"], status);
        assert!(body["type"].is_string() && body["title"].is_string(), "{body}");
        body["detail"].as_str().unwrap().to_owned()
    }
}

/// A control and its state.
pub struct World {
    pub at: Addresses,
    pub client: Pool<HttpConnector, Full<Bytes>>,
    dir: TempDir,
    shutdown: Shutdown,
    running: JoinHandle<()>,
}

pub fn config(state: &Path) -> Config {
    let free = (loopback::own(), 0).into();
    Config {
        http: free,
        grpc: free,
        cluster_key: Some(Secret::new(CLUSTER)),
        operator_key: Some(Secret::new(OPERATOR)),
        state: state.to_owned(),
        ..Config::default()
    }
}

impl World {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(&dir.path().join("control"));
        change(&mut config);
        let (at, shutdown, running) = run(config).await;
        let client = Pool::builder(TokioExecutor::new()).build(HttpConnector::new());
        Self { at, client, dir, shutdown, running }
    }

    /// Two controls over one store, with nothing else in common.
    pub async fn two(change: impl Fn(&mut Config)) -> (Self, Self) {
        let dir = tempfile::tempdir().unwrap();
        let engine: Arc<dyn Engine> = Arc::new(embedded(&dir));
        let one = Self::over(Arc::clone(&engine), tempfile::tempdir().unwrap(), &change).await;
        (one, Self::over(engine, dir, &change).await)
    }

    /// A control over this store.
    pub async fn over(engine: Arc<dyn Engine>, dir: TempDir, change: impl Fn(&mut Config)) -> Self {
        let mut config = config(&dir.path().join("control"));
        change(&mut config);
        let control = Control::load_with(config, engine).await.unwrap();
        let client = Pool::builder(TokioExecutor::new()).build(HttpConnector::new());
        let (at, shutdown, running) = serve(control);
        Self { at, client, dir, shutdown, running }
    }

    /// Ends at once, as far as anybody outside can tell.
    pub async fn stop(self) {
        self.shutdown.trigger();
        self.running.await.unwrap();
    }

    /// Stops control and starts it at its old addresses; with `empty`, without
    /// its state.
    pub async fn restart(self, empty: bool) -> Self {
        self.shutdown.trigger();
        self.running.await.unwrap();
        let state = self.dir.path().join("control");
        if empty {
            std::fs::remove_dir_all(&state).unwrap();
        }
        let mut config = config(&state);
        config.http = self.at.http.trim_start_matches("http://").parse().unwrap();
        config.grpc = self.at.grpc.trim_start_matches("http://").parse().unwrap();
        let (at, shutdown, running) = run(config).await;
        Self { at, client: self.client, dir: self.dir, shutdown, running }
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let answer = async {
            let (parts, body) = self.client.request(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Answer { status: parts.status, headers: parts.headers, body }
        };
        tokio::time::timeout(Duration::from_secs(15), answer).await.expect("no answer in 15 s")
    }

    /// A request in somebody's name; nobody's when `bearer` is empty.
    pub async fn call(&self, method: &str, path: &str, bearer: &str, body: &Value) -> Answer {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.at.http));
        if !bearer.is_empty() {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        self.send(request.body(Full::new(body)).unwrap()).await
    }

    pub async fn operator(&self, method: &str, path: &str, body: Value) -> Answer {
        self.call(method, path, OPERATOR, &body).await
    }

    pub async fn anyone(&self, method: &str, path: &str, body: Value) -> Answer {
        self.call(method, path, "", &body).await
    }

    /// A new user's id and token.
    pub async fn user(&self, name: &str) -> (String, String) {
        let user = self.operator("POST", "/v1/users", json!({ "name": name })).await;
        let user = user.expect(201).json();
        (text(&user["id"]), text(&user["token"]))
    }

    /// A new broadcast's answer, once an origin is there.
    pub async fn create(&self, bearer: &str, body: Value) -> Value {
        eventually("the broadcast is created", || async {
            let answer = self.call("POST", "/v1/broadcasts", bearer, &body).await;
            (answer.status != 503).then(|| answer.expect(201).json())
        })
        .await
    }

    pub async fn show(&self, id: &str) -> Value {
        self.operator("GET", &format!("/v1/broadcasts/{id}"), Value::Null).await.expect(200).json()
    }

    pub async fn wait_for(&self, id: &str, field: &str, value: &Value) -> Value {
        eventually(&format!("{field} is {value}"), || async {
            let shown = self.show(id).await;
            (shown.pointer(field) == Some(value)).then_some(shown)
        })
        .await
    }

    pub async fn join(&self, id: &str, body: Value) -> Value {
        self.anyone("POST", &format!("/v1/broadcasts/{id}/viewers"), body).await.expect(200).json()
    }

    /// An origin or edge that is attached.
    pub async fn node(&self, name: &str, role: Role, location: Option<&str>) -> Node {
        let node = Node::start(&self.at.grpc, self.dir.path(), name, role, location);
        self.wait_for_node(name, "up").await;
        node
    }

    /// An origin or edge that is attached to this control and another.
    pub async fn node_of_both(&self, other: &Self, name: &str, role: Role) -> Node {
        let controls = [self.at.grpc.as_str(), other.at.grpc.as_str()];
        let node = Node::attached_to(&controls, self.dir.path(), name, role, None);
        self.wait_for_node(name, "up").await;
        other.wait_for_node(name, "up").await;
        node
    }

    pub async fn wait_for_node(&self, name: &str, state: &str) {
        eventually(&format!("{name} is {state}"), || async {
            let nodes = self.operator("GET", "/v1/nodes", Value::Null).await.expect(200).json();
            let nodes = nodes["nodes"].as_array().unwrap();
            nodes.iter().any(|node| node["id"] == name && node["state"] == state).then_some(())
        })
        .await;
    }
}

pub fn embedded(dir: &TempDir) -> Embedded {
    Embedded::open(&dir.path().join("control.redb")).unwrap()
}

async fn run(config: Config) -> (Addresses, Shutdown, JoinHandle<()>) {
    // The previous run's last connections may still hold the state's file.
    let control = eventually("the state is free", || async {
        match Control::load(config.clone()).await {
            Err(spyglass_control::Error::Open(OpenError::InUse(_))) => None,
            loaded => Some(loaded.unwrap()),
        }
    })
    .await;
    serve(control)
}

fn serve(control: Control) -> (Addresses, Shutdown, JoinHandle<()>) {
    let (at, shutdown) = (control.addresses(), Shutdown::new());
    let stop = shutdown.clone();
    let running = tokio::spawn(async move { control.run(stop).await.unwrap() });
    (at, shutdown, running)
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// What a node says when asked.
#[derive(Default)]
pub struct Said {
    pub load: Mutex<Load>,
    pub records: Mutex<Vec<BroadcastRecord>>,
    pub crowds: Mutex<Vec<Crowd>>,
}

impl Source for Said {
    fn load(&self) -> Load {
        *self.load.lock()
    }

    fn crowds(&self) -> Vec<Crowd> {
        self.crowds.lock().clone()
    }

    fn records(&self) -> Vec<BroadcastRecord> {
        self.records.lock().clone()
    }
}

/// A scripted origin or edge, with the link that real ones have.
pub struct Node {
    pub link: Attachment,
    pub commands: mpsc::Receiver<Command>,
    pub said: Arc<Said>,
    shutdown: Shutdown,
}

impl Node {
    pub fn start(
        control: &str,
        dir: &Path,
        name: &str,
        role: Role,
        location: Option<&str>,
    ) -> Self {
        Self::attached_to(&[control], dir, name, role, location)
    }

    /// A node that was told of several controls.
    pub fn attached_to(
        controls: &[&str],
        dir: &Path,
        name: &str,
        role: Role,
        location: Option<&str>,
    ) -> Self {
        let profile = Profile {
            node: name.parse().unwrap(),
            role,
            public_http: format!("http://{name}.test"),
            public_rtmp: if role == Role::Origin {
                format!("rtmp://{name}.test/live")
            } else {
                String::new()
            },
            public_grpc: format!("http://{name}.test:9180"),
            location: location.map(|text| text.parse().unwrap()),
            incarnation: u64::from_le_bytes(spyglass_daemon::random()),
        };
        let state = StateDir::open(dir.join(name)).unwrap();
        let said = Arc::new(Said::default());
        let key = ClusterKey::new(CLUSTER).unwrap();
        let shutdown = Shutdown::new();
        let controls = controls.iter().map(|&control| control.to_owned()).collect();
        let source = Arc::clone(&said) as Arc<dyn Source>;
        let (link, commands) =
            attach::start(controls, key, profile, state, source, shutdown.clone()).unwrap();
        Self { link, commands, said, shutdown }
    }

    /// The process ends.
    pub fn stop(self) {
        self.shutdown.trigger();
    }

    /// The next command that is not about draining.
    pub async fn command(&mut self) -> Command {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(15), self.commands.recv()).await;
            match next.expect("no command within 15 s").expect("the link is gone") {
                Command::Drain(_) => {}
                command => return command,
            }
        }
    }

    /// Something happens to a broadcast here; it is kept for Register too.
    pub fn event(&self, broadcast: &str, phase: Phase, epoch: u32, memo: Bytes) {
        let at_ms = now_utc().millis();
        let record = BroadcastRecord {
            broadcast: broadcast.to_owned(),
            phase: phase.into(),
            started_at_ms: if phase == Phase::Created { 0 } else { at_ms },
            ended_at_ms: if phase == Phase::Ended { at_ms } else { 0 },
            epoch,
            memo,
            private: false,
        };
        {
            let mut records = self.said.records.lock();
            records.retain(|record| record.broadcast != broadcast);
            records.push(record);
        }
        let broadcast = broadcast.to_owned();
        self.link.event(BroadcastEvent { broadcast, phase: phase.into(), at_ms, epoch });
    }
}

/// What an origin checks before it lets a viewer in.
pub fn grant(node: &Node, token: &str) -> WatchGrant {
    node.link.keys().verify_watch(token, now_utc()).unwrap()
}

/// The lease of a viewer who is connected (push) or polls (HLS).
pub fn lease(node: &Node, joined: &Value, push: bool) -> Lease {
    let grant = grant(node, joined["token"].as_str().unwrap());
    Lease {
        broadcast: grant.broadcast.to_string(),
        viewer: grant.viewer.to_string(),
        seat: if push { grant.seat.unwrap() } else { grant.seat.unwrap_or_default() },
        generation: grant.generation,
        since_ms: now_utc().millis(),
        user: grant.user.map(|user| user.to_string()).unwrap_or_default(),
        expires_ms: grant.expires.millis(),
    }
}
