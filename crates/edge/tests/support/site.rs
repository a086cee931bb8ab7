//! Edges that other edges go through or that go through others, each with a
//! runtime of its own, so that one can be killed.

use std::net::SocketAddr;
use std::time::Duration;

use spyglass_daemon::{Secret, Shutdown};
use spyglass_edge::{Config, Edge, UpstreamChoice};
use tempfile::TempDir;

use super::{Answer, Control, KEY, Process, client};

/// One edge.
pub struct Site {
    pub name: &'static str,
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    state: TempDir,
    process: Process,
}

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

impl Site {
    /// With `upstream = "auto"`.
    pub async fn start(control: &Control, name: &'static str) -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        let state = TempDir::new().unwrap();
        let (http, grpc, process) = run(control, name, any, any, &state).await;
        Self { name, http, grpc, state, process }
    }

    pub fn kill(&self) {
        self.process.kill();
    }

    /// Again on the same addresses and state.
    pub async fn rise(&mut self, control: &Control) {
        let started = run(control, self.name, self.http, self.grpc, &self.state).await;
        self.process = started.2;
    }

    pub async fn get(&self, path: &str) -> Answer {
        client::get(self.http, path).await
    }

    /// The value of a counter or gauge, labels included in its name; 0 without.
    pub async fn count(&self, name: &str) -> u64 {
        let text = self.get("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// All series of a counter together.
    pub async fn sum(&self, name: &str) -> u64 {
        let text = self.get("/metrics").await.text();
        let of = |line: &str| match line.strip_prefix(name)?.chars().next() {
            Some(' ' | '{') => line.rsplit_once(' ')?.1.parse::<u64>().ok(),
            _ => None,
        };
        text.lines().filter_map(of).sum()
    }

    /// Until that counter or gauge is as wanted; the test fails after 30 s.
    pub async fn until(&self, name: &str, wanted: impl Fn(u64) -> bool) {
        let looking = async {
            while !wanted(self.count(name).await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let text = format!("{}: {name}", self.name);
        tokio::time::timeout(Duration::from_secs(30), looking).await.expect(&text);
    }
}

async fn run(
    control: &Control,
    name: &str,
    http: SocketAddr,
    grpc: SocketAddr,
    state: &TempDir,
) -> (SocketAddr, SocketAddr, Process) {
    let config = Config {
        id: Some(name.parse().unwrap()),
        http,
        grpc,
        control: vec![control.url()],
        cluster_key: Some(Secret::new(KEY)),
        state: state.path().to_owned(),
        negative_ms: 200,
        upstream: UpstreamChoice::Auto,
        ..Config::default()
    };
    let (tell, told) = tokio::sync::oneshot::channel();
    let process = Process::run(async move {
        // What had the addresses before may not have let go of them yet.
        let edge = loop {
            match Edge::load(config.clone()).await {
                Ok(edge) => break edge,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let _ = tell.send((address(&edge.addresses().http), address(&edge.addresses().grpc)));
        edge.run(Shutdown::new()).await.unwrap();
    });
    let told = tokio::time::timeout(Duration::from_secs(30), told).await;
    let (http, grpc) = told.expect("its addresses are free").unwrap();
    let ready = async {
        while client::get(http, "/readyz").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ready).await.expect("ready");
    (http, grpc, process)
}
