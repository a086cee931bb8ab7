//! The origin: where a broadcast enters the system.
//!
//! Broadcasters publish by RTMP; every frame goes at once to the push viewers
//! and into chunks for all others. Edges are told of each new chunk and fetch
//! it over gRPC.
//!
//! ```text
//! socket ─> connection ─> broadcast task ─┬─> fan-out ─> mailbox ─> push viewer
//!                                         └─> segmenter ─> chunklist ─> upstream ─> edges
//! ```
//!
//! Pure machines stand in files of their own: [`life`] (created, live,
//! interrupted, ended), [`fanout`] (frames to wire bytes, GOP cache),
//! [`send_queue`] (what a slow viewer loses), [`pace`]. RTMP itself is
//! `spyglass-rtmp`, chunks and lists are `spyglass-hls`, tokens are
//! `spyglass-token`.

pub mod arrivals;
mod broadcast;
mod config;
mod connection;
pub mod fanout;
pub mod gate;
pub mod journal;
pub mod life;
mod metrics;
pub mod pace;
mod registry;
mod revival;
mod seats;
pub mod send_queue;
mod upstream;
mod viewer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spyglass_api::MAX_MESSAGE;
use spyglass_api::auth::{ClusterKey, Require};
use spyglass_api::control::Role;
use spyglass_api::upstream::upstream_server::UpstreamServer;
use spyglass_daemon::admin::Admin;
use spyglass_daemon::attach::{self, Attachment, Command, Profile};
use spyglass_daemon::http::{is_loopback, public_url};
use spyglass_daemon::reload::Live;
use spyglass_daemon::state::StateDir;
use spyglass_daemon::{
    Shutdown, accept, cluster_key, delay, grpc, listen, now_utc, panics, random,
};
use spyglass_media::NodeId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::broadcast::Input;
pub use crate::config::Config;
use crate::gate::Gate;
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::registry::{Registry, Reports};

/// How often tombstones are looked through.
const SWEEP: Duration = Duration::from_secs(60);

/// How often readiness is looked at.
const BEAT: Duration = Duration::from_millis(250);

/// Stands in the way of readiness until control has been heard once.
const KEYS: &str = "control has not given the keys that verify tokens yet";

/// The longest that connections may take to close when the origin stops.
const DRAIN: Duration = Duration::from_secs(3);

/// How long edges may still fetch when all broadcasts have closed; part of
/// [`DRAIN`].
const TAKE: Duration = Duration::from_secs(1);

/// Why an origin does not start or stops.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting makes no sense.
    #[error(transparent)]
    Config(#[from] spyglass_daemon::config::Invalid),
    /// A listener could not be opened.
    #[error(transparent)]
    Listen(#[from] listen::Error),
    /// No usable cluster key.
    #[error(transparent)]
    ClusterKey(#[from] spyglass_daemon::ClusterKeyError),
    /// The state directory is not usable.
    #[error("state directory {path}: {source}; give --state a directory this user may write")]
    State {
        /// The directory.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The link with control could not be set up.
    #[error(transparent)]
    Attach(#[from] attach::Error),
    /// The gRPC server failed.
    #[error("gRPC: {0}")]
    Grpc(#[from] tonic::transport::Error),
}

/// Where a loaded origin can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The node's name.
    pub id: NodeId,
    /// What broadcasters and viewers are told, application included.
    pub rtmp: String,
    /// Health and metrics.
    pub http: String,
    /// What edges are told.
    pub grpc: String,
    /// Where this process answers for its health.
    pub health: SocketAddr,
}

/// An origin with its listeners open and its state read.
pub struct Origin {
    config: Config,
    live: Live<Config>,
    addresses: Addresses,
    incarnation: u64,
    key: ClusterKey,
    state: StateDir,
    admin: Admin,
    metrics: Metrics,
    journal: Journal,
    rtmp: TcpListener,
    http: TcpListener,
    grpc: TcpListener,
    separate_admin: Option<TcpListener>,
}

impl Origin {
    /// Reads the state and opens every listener.
    pub async fn load(config: Config) -> Result<Self, Error> {
        config.check()?;
        let id = config.id.clone().unwrap_or_else(|| spyglass_daemon::default_node_id("origin"));
        let key = cluster_key(&config.cluster_key, &config.cluster_key_file)?;
        let path = config.state.display().to_string();
        let failed = |source| Error::State { path: path.clone(), source };
        let state = StateDir::open(&config.state).map_err(failed)?;
        let admin = Admin::new();
        panics::install(&admin);
        let metrics = Metrics::register(&mut admin.registry());
        let journal =
            Journal::open(state.path().join("broadcasts"), metrics.clone()).map_err(failed)?;
        let rtmp = listen::tcp("--rtmp", config.rtmp).await?;
        let http = listen::tcp("--http", config.http).await?;
        let grpc = listen::tcp("--grpc", config.grpc).await?;
        let separate_admin = match config.admin {
            Some(address) => Some(listen::tcp("--admin", address).await?),
            None => None,
        };
        let health = separate_admin.as_ref().unwrap_or(&http).local_addr().map_err(failed)?;
        let addresses = Addresses {
            id,
            health,
            rtmp: with_application(public_url(
                config.public_rtmp.as_deref(),
                "rtmp",
                &rtmp,
                "/live",
            )),
            http: public_url(config.public_http.as_deref(), "http", &http, ""),
            grpc: public_url(config.public_grpc.as_deref(), "http", &grpc, ""),
        };
        let incarnation = u64::from_le_bytes(random());
        Ok(Self {
            live: Live::new(config.clone()),
            config,
            addresses,
            incarnation,
            key,
            state,
            admin,
            metrics,
            journal,
            rtmp,
            http,
            grpc,
            separate_admin,
        })
    }

    /// Where it can be reached.
    pub fn addresses(&self) -> Addresses {
        self.addresses.clone()
    }

    /// The settings that may change while it runs: [`Config::RELOADED`].
    pub fn live(&self) -> Live<Config> {
        self.live.clone()
    }

    /// Serves until `shutdown`, then closes every open chunk, lets edges fetch it
    /// and connections close, and writes the journal.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let reports = Arc::new(Reports::new(now()));
        let (attachment, commands) = self.attach(&reports, &shutdown)?;
        let path = self.state.path().display().to_string();
        let failed = |source| Error::State { path, source };
        let found = self.journal.read_all().map_err(failed)?;
        let registry = Registry::open(
            self.addresses.id.clone(),
            self.live.clone(),
            self.metrics.clone(),
            self.journal.clone(),
            attachment.clone(),
            self.incarnation,
            found,
        );
        reports.of(&registry);
        tokio::spawn(obey(Arc::clone(&registry), attachment.clone(), commands));
        tokio::spawn(sweep(Arc::clone(&registry), shutdown.clone()));
        tokio::spawn(report_delays(Arc::clone(&registry), shutdown.clone()));
        let own_admin = self.separate_admin.is_none();
        let with_metrics = own_admin && is_loopback(&self.http);
        tokio::spawn(self.admin.clone().serve(self.http, with_metrics, shutdown.clone()));
        if let Some(listener) = self.separate_admin {
            tokio::spawn(self.admin.clone().serve(listener, true, shutdown.clone()));
        }
        let service = UpstreamServer::new(upstream::Service::new(Arc::clone(&registry)))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let service =
            tonic::service::interceptor::InterceptedService::new(service, Require(self.key));
        let upstream = grpc::server().add_service(service).serve_with_incoming_shutdown(
            grpc::incoming(self.grpc),
            close(Arc::clone(&registry), shutdown.clone()),
        );
        tokio::spawn(watch_keys(self.admin.clone(), attachment.clone(), shutdown.clone()));
        self.admin.ready().set("starting", true);
        info!(id = %self.addresses.id, rtmp = self.addresses.rtmp, "origin is ready");
        let rtmp = accept(Arc::clone(&registry), self.rtmp, shutdown.clone());
        let stopped = async {
            shutdown.requested().await;
            tokio::time::sleep(DRAIN).await;
        };
        let result = tokio::select! {
            (result, ()) = async { tokio::join!(upstream, rtmp) } => result,
            () = stopped => Ok(()),
        };
        let journal = self.journal;
        let _ = tokio::task::spawn_blocking(move || journal.flush()).await;
        attachment.left().await;
        result.map_err(Error::Grpc)
    }

    fn attach(
        &self,
        reports: &Arc<Reports>,
        shutdown: &Shutdown,
    ) -> Result<(Attachment, mpsc::Receiver<Command>), Error> {
        let profile = Profile {
            node: self.addresses.id.clone(),
            role: Role::Origin,
            public_http: self.addresses.http.clone(),
            public_rtmp: self.addresses.rtmp.clone(),
            public_grpc: self.addresses.grpc.clone(),
            location: self.config.location,
            incarnation: self.incarnation,
        };
        let controls = self.config.control.clone();
        let source = Arc::clone(reports) as Arc<dyn attach::Source>;
        let key = self.key.clone();
        Ok(attach::start(controls, key, profile, self.state.clone(), source, shutdown.clone())?)
    }
}

/// An operator may leave the application out: there is only one.
fn with_application(url: String) -> String {
    let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
    if path.is_none() { url + "/live" } else { url }
}

/// The time as machines want it; follows tokio's clock, which tests can pause.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Waits for a machine's next deadline; for ever when it has none.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Closes all broadcasts once the origin stops, and leaves edges the time to
/// fetch what that listed: a list that they know of and cannot have is worse for
/// their viewers than none.
async fn close(registry: Arc<Registry>, shutdown: Shutdown) {
    shutdown.requested().await;
    registry.stop().await;
    if registry.metrics.watchers.get() > 0 {
        tokio::time::sleep(TAKE).await;
    }
}

/// Accepts RTMP connections until the origin stops and all of them have closed.
async fn accept(registry: Arc<Registry>, listener: TcpListener, shutdown: Shutdown) {
    let config = &registry.config;
    let gate = Gate::new(config.max_connections, config.max_unproven_per_address);
    let stopping = shutdown.clone();
    accept::connections(listener, "RTMP", stopping, |connections, socket, peer| {
        match gate.enter(peer.ip()) {
            Ok(place) => {
                prepare(&socket);
                let (registry, shutdown) = (Arc::clone(&registry), shutdown.clone());
                let halves = socket.into_split();
                connections.spawn(connection::serve(registry, halves, peer, place, shutdown));
            }
            Err(closed) => debug!(%peer, reason = closed.as_str(), "RTMP connection refused"),
        }
    })
    .await;
}

/// Small writes must not wait for acknowledgements, and a peer whose machine
/// has vanished must be noticed although nothing is sent to it.
fn prepare(socket: &TcpStream) {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5));
    let set = socket
        .set_nodelay(true)
        .and_then(|()| socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        debug!(%error, "socket options");
    }
}

/// Does what control says, and cuts viewers whose tokens were revoked.
async fn obey(
    registry: Arc<Registry>,
    attachment: Attachment,
    mut commands: mpsc::Receiver<Command>,
) {
    let mut revocations = attachment.subscribe_revocations();
    let mut draining = false;
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Expect(expect)) => on_expect(&registry, expect),
                Some(Command::End(id)) => registry.ask(id, Input::End),
                Some(Command::Drain(now)) => {
                    if std::mem::replace(&mut draining, now) != now {
                        info!(draining, "control changed whether this node drains");
                    }
                }
                None => return,
            },
            revocation = revocations.recv() => match revocation {
                Ok(revocation) => revoke(&registry, &revocation),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                    attachment.revocations().iter().for_each(|revocation| revoke(&registry, revocation));
                }
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            },
        }
    }
}

fn on_expect(registry: &Arc<Registry>, expect: spyglass_api::control::Expect) {
    let Ok(id) = expect.broadcast.parse() else {
        warn!("control names a broadcast whose id is none");
        return;
    };
    match registry.ensure(id, expect.private) {
        Ok(_) => {
            let (private, memo) = (expect.private, expect.memo);
            registry.ask(id, Input::Expect { private, memo });
        }
        Err(registry::Full) => warn!(broadcast = %id, "no room for this broadcast"),
    }
}

fn revoke(registry: &Registry, revocation: &spyglass_api::control::Revocation) {
    if let (Ok(id), Ok(viewer)) = (revocation.broadcast.parse(), revocation.viewer.parse()) {
        registry.ask(id, Input::Revoke(viewer));
    }
}

/// Without control's keys no token can be verified: nobody can publish or play.
async fn watch_keys(admin: Admin, attachment: Attachment, shutdown: Shutdown) {
    loop {
        admin.ready().set(KEYS, !attachment.keys().is_empty());
        tokio::select! {
            () = tokio::time::sleep(BEAT) => {}
            () = shutdown.requested() => return,
        }
    }
}

async fn report_delays(registry: Arc<Registry>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(delay::EVERY) => registry.report_delays(),
            () = shutdown.requested() => return,
        }
    }
}

async fn sweep(registry: Arc<Registry>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP) => registry.sweep(now_utc()),
            () = shutdown.requested() => return,
        }
    }
}
