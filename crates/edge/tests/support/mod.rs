//! A whole edge over real sockets between a control and an origin that do what
//! the test says.
// Each test file uses a part of it.
#![allow(dead_code, unused_imports, missing_docs)]

pub mod client;
pub mod control;
pub mod http3;
pub mod origin;
pub mod relay;
pub mod site;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use parking_lot::Mutex;
use spyglass_daemon::{Secret, Shutdown, now_utc};
use spyglass_edge::{Config, Edge};
use spyglass_media::{BroadcastId, ViewerId};
use spyglass_token::{Grant, SigningKey, WatchGrant};
use tempfile::TempDir;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

pub use client::Answer;
pub use control::Control;
pub use origin::{Fault, Origin};
pub use site::Site;

pub const KEY: &str = "correct-horse-battery";

/// Name of a scripted peer's thread.
pub const WORKER: &str = "scripted-peer";

/// A runtime of its own for a scripted peer, so that killing it closes every
/// connection it has.
#[derive(Clone)]
pub struct Process(Arc<Running>);

struct Running(Mutex<Option<Runtime>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Running {
    fn kill(&self) {
        if let Some(runtime) = self.0.lock().take() {
            runtime.shutdown_background();
        }
    }
}

impl Process {
    pub fn start<F>(service: impl FnOnce(TcpListener) -> F, listener: std::net::TcpListener) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name(WORKER);
        let runtime = builder.enable_all().build().unwrap();
        let guard = runtime.enter();
        listener.set_nonblocking(true).unwrap();
        runtime.spawn(service(TcpListener::from_std(listener).unwrap()));
        drop(guard);
        Self(Arc::new(Running(Mutex::new(Some(runtime)))))
    }

    /// Runs this alone.
    pub fn run(work: impl Future<Output = ()> + Send + 'static) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name(WORKER);
        let runtime = builder.enable_all().build().unwrap();
        runtime.spawn(work);
        Self(Arc::new(Running(Mutex::new(Some(runtime)))))
    }

    pub fn kill(&self) {
        self.0.kill();
    }
}

/// A broadcast id.
pub fn id(seed: u8) -> BroadcastId {
    BroadcastId::from_random([seed; 16])
}

pub fn signer() -> SigningKey {
    SigningKey::from_seed("k1".to_owned(), [7; 32]).unwrap()
}

/// A watch token of this viewer for this broadcast.
pub fn token(broadcast: BroadcastId, viewer: ViewerId, valid: Duration) -> String {
    let issued = now_utc();
    let grant = WatchGrant {
        broadcast,
        viewer,
        user: None,
        seat: None,
        push: false,
        comment: false,
        generation: 0,
        issued,
        expires: issued + valid,
    };
    signer().sign(&Grant::Watch(grant)).unwrap()
}

/// An edge with its surroundings.
pub struct World {
    pub control: Control,
    pub origin: Origin,
    pub edge: SocketAddr,
    /// HTTPS, when it was asked for.
    pub https: Option<SocketAddr>,
    pub state: TempDir,
    shutdown: Shutdown,
    running: JoinHandle<()>,
}

impl World {
    /// Started, and in the know of broadcast `id(1)`, which is live with a
    /// target duration of 1 s and a list of revision 1 that names chunk 1-1.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let origin = Origin::start().await;
        origin.live(id(1), Duration::from_secs(1));
        origin.publish(id(1), 1);
        let control = Control::start(&[&origin]).await;
        let state = TempDir::new().unwrap();
        let (edge, https, shutdown, running) = start_edge(&control, &state, change).await;
        Self { control, origin, edge, https, state, shutdown, running }
    }

    /// Ends the edge's process, as far as a test can.
    pub async fn stop_edge(&mut self) {
        self.shutdown.trigger();
        (&mut self.running).await.unwrap();
    }

    /// Starts it again on the same state.
    pub async fn restart_edge(&mut self) {
        self.stop_edge().await;
        self.start_edge().await;
    }

    /// After [`World::stop_edge`].
    pub async fn start_edge(&mut self) {
        let started = start_edge(&self.control, &self.state, |_| {}).await;
        (self.edge, self.https, self.shutdown, self.running) = started;
    }

    pub async fn get(&self, path: &str) -> Answer {
        client::get(self.edge, path).await
    }

    pub fn list(&self) -> String {
        format!("/live/{}/chunklist.m3u8", id(1))
    }

    pub fn chunk(&self, sequence: u64) -> String {
        format!("/live/{}/1-{sequence}.m4s", id(1))
    }

    /// Asks until the answer is as wanted; the test fails after 10 s.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let asking = async {
            loop {
                let answer = self.get(path).await;
                if wanted(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), asking).await.expect(path)
    }

    pub async fn metrics(&self) -> String {
        self.get("/metrics").await.text()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.trigger();
        self.origin.kill();
        self.control.kill();
    }
}

async fn start_edge(
    control: &Control,
    state: &TempDir,
    change: impl FnOnce(&mut Config),
) -> (SocketAddr, Option<SocketAddr>, Shutdown, JoinHandle<()>) {
    let mut config = Config {
        id: Some("edge-t".parse().unwrap()),
        http: "127.0.0.1:0".parse().unwrap(),
        grpc: "127.0.0.1:0".parse().unwrap(),
        control: vec![control.url()],
        cluster_key: Some(Secret::new(KEY)),
        state: state.path().to_owned(),
        negative_ms: 200,
        ..Config::default()
    };
    change(&mut config);
    let edge = Edge::load(config).await.unwrap();
    let address = edge.addresses().http.strip_prefix("http://").unwrap().parse().unwrap();
    let https = edge.addresses().https;
    let https = https.map(|url| url.strip_prefix("https://").unwrap().parse().unwrap());
    let shutdown = Shutdown::new();
    let running = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { edge.run(shutdown).await.unwrap() }
    });
    let ready = async {
        while client::get(address, "/readyz").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ready).await.expect("ready");
    (address, https, shutdown, running)
}

/// Sleeps for this long, where the runtime's timers go in whole milliseconds
/// and round up.
pub async fn exactly(delay: Duration) {
    if delay.is_zero() {
        return;
    }
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK).unwrap();
    timer.set(Expiration::OneShot(delay.into()), TimerSetTimeFlags::empty()).unwrap();
    // What takes its place needs `unsafe`; nobody else has this descriptor.
    #[expect(deprecated)]
    let timer = AsyncFd::with_interest(OwnedFd::from(timer), Interest::READABLE).unwrap();
    let _ = timer.readable().await.unwrap();
}
