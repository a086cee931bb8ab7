//! The edge: a pull-through cache that viewers play HLS from.
//!
//! It knows named bytes with versions and never opens a chunk or a playlist.
//! Media flows when viewers ask for it: the first poll after an expire notice
//! fetches the new list, everybody else waits for that one fetch.
//!
//! ```text
//! viewer ─> http ─> request ─┬─> broadcasts ─> slot ──┐  lists
//!                            └─> broadcasts ─> cache ─┤  inits, chunks, parts
//! origin <── fetch <────────────────── one per object ┘
//! origin ──> watch ──> directory, slots: what exists, what has become old
//! ```
//!
//! Pure machines stand in files of their own: [`slot`] (one broadcast's list),
//! [`directory`] (what exists), [`request`] (what a path means), [`viewers`]
//! (who watches), [`crowd`] (about how many more do), [`steering`] (where players
//! may go). Tokens are `spyglass-token`, the link with control is
//! `spyglass_daemon::attach`.

mod apart;
pub mod broadcasts;
pub mod cache;
mod config;
mod connections;
pub mod crowd;
pub mod delays;
pub mod directory;
pub mod fetch;
pub mod filling;
pub mod gateway;
mod head_timer;
mod http;
mod http3;
pub mod metrics;
pub mod negotiate;
pub mod outcome;
pub mod priority;
pub mod refusal;
pub mod request;
pub mod respond;
pub mod route;
mod serving;
pub mod slot;
pub mod steering;
mod taking;
pub mod trust;
pub mod viewers;
pub mod watch;

use std::hash::RandomState;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use spyglass_api::MAX_MESSAGE;
use spyglass_api::auth::{ClusterKey, Require};
use spyglass_api::control::{BroadcastRecord, Crowd, Load, Role};
use spyglass_api::upstream::upstream_server::UpstreamServer;
use spyglass_daemon::admin::Admin;
use spyglass_daemon::attach::{self, Attachment, Command, Profile};
use spyglass_daemon::gate::Gate;
use spyglass_daemon::http::{is_loopback, public_url};
use spyglass_daemon::meter::Meter;
use spyglass_daemon::reload::Live;
use spyglass_daemon::state::StateDir;
use spyglass_daemon::tls::{self, Identity};
use spyglass_daemon::{Shutdown, cluster_key, delay, grpc, listen, panics, random};
use spyglass_media::NodeId;
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::service::interceptor::InterceptedService;
use tracing::{error, info, warn};

use crate::broadcasts::Broadcasts;
use crate::cache::Objects;
pub use crate::config::{Config, Fill, UpstreamChoice};
use crate::http::Handler;
use crate::metrics::Metrics;
use crate::respond::Responder;
use crate::serving::Tls;
use crate::steering::Steering;
use crate::viewers::Viewers;
use crate::watch::Watcher;

/// The longest that connections may take to close when the edge stops.
const DRAIN: Duration = Duration::from_secs(3);

/// How often leases and readiness are looked at.
const BEAT: Duration = Duration::from_millis(250);

/// Stands in the way of readiness until origins have said what exists.
const DIRECTORY: &str = "the origins have not said what exists yet";

/// Why an edge does not start.
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
        /// What the system said. Part of the text already.
        source: std::io::Error,
    },
    /// There is no certificate for HTTPS.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// HTTP/3 cannot be served.
    #[error("HTTP/3: {0}; http3 = false does without it")]
    Quic(std::io::Error),
    /// The link with control could not be set up.
    #[error(transparent)]
    Attach(#[from] attach::Error),
}

/// Where a loaded edge can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The node's name.
    pub id: NodeId,
    /// What viewers are told.
    pub http: String,
    /// Where HTTPS is served, if it is.
    pub https: Option<String>,
    /// What other edges are told.
    pub grpc: String,
    /// Where this process answers for its health.
    pub health: SocketAddr,
}

/// An edge with its listeners open and its state found.
#[derive(Debug)]
pub struct Edge {
    config: Config,
    live: Live<Config>,
    addresses: Addresses,
    key: ClusterKey,
    state: StateDir,
    admin: Admin,
    metrics: Metrics,
    http: TcpListener,
    grpc: TcpListener,
    https: Option<(TcpListener, Option<UdpSocket>, Identity)>,
    separate_admin: Option<TcpListener>,
}

impl Edge {
    /// Opens the state and every listener.
    ///
    /// # Errors
    /// What stands in the way, with what to do about it.
    pub async fn load(config: Config) -> Result<Self, Error> {
        config.check()?;
        let id = config.id.clone().unwrap_or_else(|| spyglass_daemon::default_node_id("edge"));
        let key = cluster_key(&config.cluster_key, &config.cluster_key_file)?;
        let path = config.state.display().to_string();
        let failed = |source| Error::State { path: path.clone(), source };
        let state = StateDir::open(&config.state).map_err(failed)?;
        let admin = Admin::new();
        panics::install(&admin);
        let metrics = Metrics::register(&mut admin.registry());
        let http = listen::tcp("--http", config.http).await?;
        let grpc = listen::tcp("--grpc", config.grpc).await?;
        let separate_admin = match config.admin {
            Some(address) => Some(listen::tcp("--admin", address).await?),
            None => None,
        };
        let public = public_url(config.public_http.as_deref(), "http", &http, "");
        let health = separate_admin.as_ref().unwrap_or(&http).local_addr().map_err(failed)?;
        let public_grpc = public_url(config.public_grpc.as_deref(), "http", &grpc, "");
        let mut addresses = Addresses { id, http: public, https: None, grpc: public_grpc, health };
        let mut https = None;
        if let Some(address) = config.https {
            let (listener, udp) = match config.http3 {
                true => {
                    let (tcp, udp) = listen::tcp_and_udp("--https", address).await?;
                    (tcp, Some(udp))
                }
                false => (listen::tcp("--https", address).await?, None),
            };
            let url = public_url(None, "https", &listener, "");
            let (cert, key) = (config.tls_cert.as_deref(), config.tls_key.as_deref());
            let host = address.ip().to_string();
            let identity = Identity::load(cert, key, &state, &host)?;
            if identity.is_development() {
                info!(%url, "HTTPS with a development certificate: players must be told to trust it");
            }
            addresses.https = Some(url);
            https = Some((listener, udp, identity));
        }
        let live = Live::new(config.clone());
        Ok(Self {
            config,
            live,
            addresses,
            key,
            state,
            admin,
            metrics,
            http,
            grpc,
            https,
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

    /// Serves until `shutdown`, then lets answers under way end.
    ///
    /// # Errors
    /// When the link with control cannot be set up.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let config = &self.config;
        let id = self.addresses.id.clone();
        let negative = Duration::from_millis(config.negative_ms.into());
        let objects = Arc::new(Objects::new(config.cache_bytes, config.max_fetches, negative));
        let metrics = self.metrics.clone();
        let broadcasts = Broadcasts::new(config.broadcast_limits(), objects, metrics.clone());
        let reports = Arc::new(Reports {
            metrics: metrics.clone(),
            broadcasts: Arc::clone(&broadcasts),
            capacity: config.viewer_capacity,
            gateways: config.upstream == UpstreamChoice::Auto,
            meter: Mutex::new(Meter::new(now())),
        });
        let (attachment, commands) = self.attach(reports, &shutdown)?;
        let own_admin = self.separate_admin.is_none();
        let handler = Arc::new(Handler {
            broadcasts: Arc::clone(&broadcasts),
            attachment: attachment.clone(),
            responder: Responder::new(&id),
            metrics: metrics.clone(),
            admin: self.admin.clone(),
            metrics_allowed: own_admin && is_loopback(&self.http),
            steering: RwLock::new(Arc::new(Steering::alone(
                id.clone(),
                &self.addresses.http,
                config.steering_seconds,
            ))),
            viewers: Mutex::new(Viewers::new(config.max_viewers)),
            crowd_key: RandomState::new(),
            connections: Default::default(),
        });
        let watcher = Watcher {
            me: id.clone(),
            key: self.key.clone(),
            broadcasts: Arc::clone(&broadcasts),
            attachment: attachment.clone(),
            metrics: metrics.clone(),
            largest: config.largest(),
            gateways: config.upstream == UpstreamChoice::Auto,
        };
        let gateway = gateway::Service {
            me: id.clone(),
            broadcasts: Arc::clone(&broadcasts),
            attachment: attachment.clone(),
            metrics,
            most_watchers: config.max_watchers,
            most_interests: config.max_broadcasts,
        };
        let service = UpstreamServer::new(gateway)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let service = InterceptedService::new(service, Require(self.key.clone()));
        let until = |end: &Shutdown, work: tokio::task::JoinHandle<()>| {
            let end = end.clone();
            tokio::spawn(async move {
                end.requested().await;
                work.abort();
            })
        };
        // Who waits when the edge is told to stop is answered as ever: what brings
        // the answers stops behind them.
        let served = Shutdown::new();
        let serves = served.on_drop();
        tokio::spawn(watcher.run(served.clone()));
        until(&served, tokio::spawn(Arc::clone(&broadcasts).sweep()));
        until(
            &shutdown,
            tokio::spawn(async move {
                let server = grpc::server().add_service(service);
                if let Err(error) = server.serve_with_incoming(grpc::incoming(self.grpc)).await {
                    warn!(%error, "no edge can fetch through this one any more");
                }
            }),
        );
        until(&served, tokio::spawn(beat(Arc::clone(&handler))));
        until(&shutdown, tokio::spawn(report_delays(Arc::clone(&handler))));
        until(&served, tokio::spawn(steer(Arc::clone(&handler), attachment.clone())));
        until(&served, tokio::spawn(revoke(Arc::clone(&handler), attachment.clone())));
        until(&shutdown, tokio::spawn(obey(commands)));
        if let Some(listener) = self.separate_admin {
            tokio::spawn(self.admin.clone().serve(listener, true, shutdown.clone()));
        }
        self.admin.ready().set(DIRECTORY, false);
        self.admin.ready().set("starting", true);
        info!(%id, http = self.addresses.http, "edge is ready");
        let gate = Gate::new(config.max_connections, config.max_connections_per_address);
        until(
            &shutdown,
            tokio::spawn(relimit(self.live.clone(), Arc::clone(&handler), gate.clone())),
        );
        let limits = config.http_limits();
        let mut serving = JoinSet::new();
        if let Some((listener, udp, identity)) = self.https {
            tokio::spawn(identity.clone().follow(shutdown.clone()));
            let port = listener.local_addr().map_or(0, |it| it.port());
            let alternative =
                udp.is_some().then(|| http3::alternative(config.public_http.as_deref(), port));
            let over_tcp = identity.server_config(&[b"h2", b"http/1.1"]);
            let tls = Tls { acceptor: TlsAcceptor::from(Arc::new(over_tcp)), alternative };
            if let Some(udp) = udp {
                let endpoint = http3::open(udp, &identity, limits).map_err(Error::Quic)?;
                let (handler, gate, stop) = (Arc::clone(&handler), gate.clone(), shutdown.clone());
                serving.spawn(http3::serve(endpoint, handler, gate, limits, stop));
            }
            let (handler, gate, stop) = (Arc::clone(&handler), gate.clone(), shutdown.clone());
            serving.spawn(serving::serve(listener, Some(tls), handler, gate, limits, stop));
        }
        serving.spawn(serving::serve(self.http, None, handler, gate, limits, shutdown.clone()));
        let serving = async {
            while let Some(ended) = serving.join_next().await {
                if let Err(error) = ended {
                    error!(%error, "a listener failed");
                }
            }
        };
        let drained = async {
            shutdown.requested().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            () = serving => {}
            () = drained => info!("connections were still open when the edge stopped"),
        }
        drop(serves);
        attachment.left().await;
        Ok(())
    }

    fn attach(
        &self,
        reports: Arc<Reports>,
        shutdown: &Shutdown,
    ) -> Result<(Attachment, mpsc::Receiver<Command>), Error> {
        let profile = Profile {
            node: self.addresses.id.clone(),
            role: Role::Edge,
            public_http: self.addresses.http.clone(),
            public_rtmp: String::new(),
            public_grpc: self.addresses.grpc.clone(),
            location: self.config.location,
            incarnation: u64::from_le_bytes(random()),
        };
        let controls = self.config.control.clone();
        let (key, state) = (self.key.clone(), self.state.clone());
        Ok(attach::start(controls, key, profile, state, reports, shutdown.clone())?)
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What control is told of this edge.
struct Reports {
    metrics: Metrics,
    broadcasts: Arc<Broadcasts>,
    /// Viewers it takes; 0 when there is no limit.
    capacity: u32,
    /// It fetches through gateways where one is named.
    gateways: bool,
    meter: Mutex<Meter>,
}

impl attach::Source for Reports {
    fn load(&self) -> Load {
        let busy = self.meter.lock().read(now(), self.metrics.bytes.get());
        Load {
            viewers: u32::try_from(self.metrics.viewers.get()).unwrap_or(0),
            broadcasts: u32::try_from(self.broadcasts.watched()).unwrap_or(u32::MAX),
            egress_bps: busy.egress_bps,
            cpu: busy.cpu,
            viewer_capacity: self.capacity,
            relayed: u32::try_from(self.broadcasts.relayed()).unwrap_or(u32::MAX),
            through_gateway: u32::try_from(self.broadcasts.through_gateways()).unwrap_or(u32::MAX),
            uses_gateways: self.gateways,
        }
    }

    fn crowds(&self) -> Vec<Crowd> {
        let crowds = self.broadcasts.crowds(attach::CROWDS).into_iter();
        crowds.map(|(id, estimate)| Crowd { broadcast: id.to_string(), estimate }).collect()
    }

    fn records(&self) -> Vec<BroadcastRecord> {
        Vec::new()
    }
}

async fn report_delays(handler: Arc<Handler>) {
    let mut beat = tokio::time::interval(delay::EVERY);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        handler.attachment.delays(handler.broadcasts.take_delays());
    }
}

async fn beat(handler: Arc<Handler>) {
    let mut beat = tokio::time::interval(BEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        handler.on_deadline();
        handler.admin.ready().set(DIRECTORY, handler.broadcasts.is_settled());
    }
}

/// Keeps what players are told of the fleet as control tells it; the last known
/// while control is away.
async fn steer(handler: Arc<Handler>, attachment: Attachment) {
    let mut nodes = attachment.nodes();
    loop {
        let told = Arc::clone(&nodes.borrow_and_update());
        let steering = handler.steering.read().among(&told);
        *handler.steering.write() = Arc::new(steering);
        if nodes.changed().await.is_err() {
            return;
        }
    }
}

/// Cuts viewers whose tokens are refused from now on.
async fn revoke(handler: Arc<Handler>, attachment: Attachment) {
    let mut revocations = attachment.subscribe_revocations();
    loop {
        match revocations.recv().await {
            Ok(revocation) => handler.on_revocation(&revocation),
            Err(RecvError::Lagged(_)) => {
                let all = attachment.revocations();
                all.iter().for_each(|revocation| handler.on_revocation(revocation));
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// An edge has nothing to do for control but to know whether it drains: who
/// sends viewers here is control.
async fn obey(mut commands: mpsc::Receiver<Command>) {
    let mut draining = false;
    while let Some(command) = commands.recv().await {
        match command {
            Command::Drain(now) => {
                if std::mem::replace(&mut draining, now) != now {
                    info!(draining, "control changed whether this node drains");
                }
            }
            Command::Expect(_) | Command::End(_) => {}
        }
    }
}

/// Puts the limits of a configuration that was read again in effect.
async fn relimit(live: Live<Config>, handler: Arc<Handler>, gate: Gate) {
    let mut changes = live.changes();
    loop {
        let now = live.get();
        gate.set_limits(now.max_connections, now.max_connections_per_address);
        handler.viewers.lock().set_most(now.max_viewers);
        if changes.changed().await.is_err() {
            return;
        }
    }
}
