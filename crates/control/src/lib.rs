//! Control: who may publish and watch, who sits where, which node serves whom.
//!
//! ```text
//! people ── HTTP and JSON ──> http ──┐                    ┌── store (redb)
//!                                    ├──> panel ──────────┼── broadcasts, users, keys, seats
//! nodes ── gRPC ──> attach ──────────┘     ↑              └── fleet ── audience
//!                                        upkeep
//! ```
//!
//! Media never passes here: while control is away, what runs goes on. Pure
//! machines stand in files of their own: [`admission`] (seats), [`placement`]
//! (nearest node), [`fleet`] and [`audience`] (nodes, leases, counts),
//! [`record`] (the life of a broadcast), [`limits`] (how often who may ask),
//! [`forwarded`] (who asks from behind a proxy). [`store`] is the interface behind
//! which a replicated engine can take the embedded file's place.

pub mod admission;
mod attach;
pub mod audience;
mod audit;
mod away;
pub mod broadcasts;
mod config;
mod delays;
mod events;
pub mod fleet;
mod follow;
mod follows;
pub mod forwarded;
pub mod gateways;
mod gathering;
pub mod geo;
mod history;
mod http;
mod joined;
mod kept_out;
mod keyring;
mod keys;
mod kick;
pub mod limits;
mod links;
mod metrics;
pub mod network;
mod panel;
pub mod peers;
pub mod placement;
mod presence;
pub mod record;
mod recover;
mod revocations;
pub mod seats;
mod upkeep;
mod users;
mod webhooks;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use spyglass_api::MAX_MESSAGE;
use spyglass_api::auth::{ClusterKey, Require};
use spyglass_api::control::control_server::ControlServer;
use spyglass_daemon::admin::Admin;
use spyglass_daemon::http::{is_loopback, public_url};
use spyglass_daemon::reload::Live;
use spyglass_daemon::state::StateDir;
use spyglass_daemon::{Secret, Shutdown, cluster_key, grpc, listen, panics, random};
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tracing::{info, warn};

pub use self::http::openapi;
pub use crate::config::{Config, Invalid};
use crate::geo::Geo;
use crate::panel::Panel;
use crate::store::Engine as StoreEngine;
use crate::store::embedded::{Embedded, OpenError};
use crate::store::nats::{self, Nats};
pub use spyglass_store as store;

/// The longest that connections may take to close when control stops.
const DRAIN: Duration = Duration::from_secs(3);

/// How long control waits for a shared store when it starts.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// The file of the operator's key.
const OPERATOR_KEY: &str = "operator-key";

/// Why control does not start or stops.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting makes no sense.
    #[error(transparent)]
    Config(#[from] Invalid),
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
        path: PathBuf,
        /// What the system said. Part of the text already.
        source: std::io::Error,
    },
    /// The store's file is not usable.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The shared store is not there.
    #[error(transparent)]
    Nats(#[from] nats::OpenError),
    /// The store cannot be read.
    #[error("the store: {0}")]
    Store(#[from] store::Error),
    /// The database of places is not usable.
    #[error(transparent)]
    Geo(#[from] geo::GeoError),
    /// The gRPC server failed.
    #[error("gRPC: {0}")]
    Grpc(#[from] tonic::transport::Error),
}

/// Where a loaded control can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The API and the pages.
    pub http: String,
    /// For origins and edges.
    pub grpc: String,
    /// What operators show: a secret.
    pub operator_key: String,
    /// Where this process answers for its health.
    pub health: SocketAddr,
}

/// A control with its listeners open and its state read.
pub struct Control {
    panel: Arc<Panel>,
    changes: store::Watch,
    broadcasts: store::Watch,
    addresses: Addresses,
    /// Its name, for people.
    name: String,
    /// Where nodes find it when others name it; empty when they cannot.
    known_as: String,
    key: ClusterKey,
    http: TcpListener,
    grpc: TcpListener,
    separate_admin: Option<TcpListener>,
}

impl Control {
    /// Reads the state and opens every listener.
    ///
    /// # Errors
    /// When a setting makes no sense, the state cannot be used or an address
    /// cannot be listened on; the text says what to do.
    pub async fn load(config: Config) -> Result<Self, Error> {
        config.check()?;
        let failed = |source| Error::State { path: config.state.clone(), source };
        let state = StateDir::open(&config.state).map_err(failed)?;
        let engine: Arc<dyn StoreEngine> = match &config.store {
            Some(url) => Arc::new(Nats::open(url.expose(), STORE_PATIENCE).await?),
            None => Arc::new(Embedded::open(&state.path().join("control.redb"))?),
        };
        Self::load_with(config, engine).await
    }

    /// As [`Control::load`], over a store that is open and may be another
    /// control's too.
    ///
    /// # Errors
    /// As [`Control::load`].
    pub async fn load_with(config: Config, engine: Arc<dyn StoreEngine>) -> Result<Self, Error> {
        config.check()?;
        let key = cluster_key(&config.cluster_key, &config.cluster_key_file)?;
        let failed = |source| Error::State { path: config.state.clone(), source };
        let state = StateDir::open(&config.state).map_err(failed)?;
        let operator_key = operator_key(&config, &state).map_err(failed)?;
        // What is written while the panel reads is followed afterwards.
        let (changes, broadcasts) = (engine.watch(""), engine.watch("broadcasts/"));
        let http = listen::tcp("--http", config.http).await?;
        let grpc = listen::tcp("--grpc", config.grpc).await?;
        let separate_admin = match config.admin {
            Some(address) => Some(listen::tcp("--admin", address).await?),
            None => None,
        };
        let health = separate_admin.as_ref().unwrap_or(&http).local_addr().map_err(failed)?;
        let addresses = Addresses {
            http: public_url(config.public_http.as_deref(), "http", &http, ""),
            grpc: public_url(None, "http", &grpc, ""),
            operator_key: operator_key.expose().to_owned(),
            health,
        };
        let name = config.id.as_ref().map(ToString::to_string).unwrap_or_default();
        let anywhere = grpc.local_addr().is_ok_and(|address| address.ip().is_unspecified());
        let known_as = match &config.public_grpc {
            None if anywhere => String::new(),
            given => public_url(given.as_deref(), "http", &grpc, ""),
        };
        let admin = Admin::new();
        panics::install(&admin);
        let public_http = addresses.http.clone();
        let geo = Geo::load(config.geo_mmdb.clone())?;
        let panel = Panel::load(config, &operator_key, public_http, engine, geo, admin).await?;
        let panel = Arc::new(panel);
        Ok(Self {
            panel,
            changes,
            broadcasts,
            addresses,
            name,
            known_as,
            key,
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
        self.panel.live.clone()
    }

    /// Serves until `shutdown`, then lets requests under way finish.
    ///
    /// # Errors
    /// When the gRPC server fails.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let panel = self.panel;
        let upkeep = tokio::spawn(upkeep::run(Arc::clone(&panel), shutdown.clone()));
        let lists = tokio::spawn(upkeep::tell_nodes(Arc::clone(&panel), shutdown.clone()));
        let followed = follow::run(Arc::clone(&panel), self.changes, shutdown.clone());
        let followed = tokio::spawn(followed);
        let speaking =
            presence::run(Arc::clone(&panel), self.name, self.known_as, shutdown.clone());
        let speaking = tokio::spawn(speaking);
        let recovery = tokio::spawn(recover::run(Arc::clone(&panel), shutdown.clone()));
        let reload = tokio::spawn(upkeep::reload(Arc::clone(&panel), shutdown.clone()));
        let gateways = tokio::spawn(upkeep::tell_gateways(Arc::clone(&panel), shutdown.clone()));
        let keys = tokio::spawn(upkeep::tell_keys(Arc::clone(&panel), shutdown.clone()));
        let events = [
            tokio::spawn(events::write(Arc::clone(&panel), self.broadcasts, shutdown.clone())),
            tokio::spawn(events::feed::tail(Arc::clone(&panel), shutdown.clone())),
            tokio::spawn(events::viewers::run(Arc::clone(&panel), shutdown.clone())),
            tokio::spawn(webhooks::deliver::run(Arc::clone(&panel), shutdown.clone())),
            tokio::spawn(delays::run(Arc::clone(&panel), shutdown.clone())),
            tokio::spawn(joined::follow(Arc::clone(&panel), shutdown.clone())),
            tokio::spawn(history::run(Arc::clone(&panel), shutdown.clone())),
        ];
        let own_admin = self.separate_admin.is_none();
        let with_metrics = own_admin && is_loopback(&self.http);
        if let Some(listener) = self.separate_admin {
            tokio::spawn(panel.admin.clone().serve(listener, true, shutdown.clone()));
        }
        let service = attach::Service::new(Arc::clone(&panel), shutdown.clone());
        let service = ControlServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let nodes = grpc::server()
            .add_service(InterceptedService::new(service, Require(self.key)))
            .serve_with_incoming_shutdown(grpc::incoming(self.grpc), shutdown.requested());
        let people = http::serve(Arc::clone(&panel), self.http, with_metrics, shutdown.clone());
        gathering::begin(&panel);
        let gathering = tokio::spawn(gathering::run(Arc::clone(&panel), shutdown.clone()));
        panel.admin.ready().set("starting", true);
        info!(http = self.addresses.http, grpc = self.addresses.grpc, "control is ready");
        let stopped = async {
            shutdown.requested().await;
            panel.links.close_all();
            panel.streams.close();
            tokio::time::sleep(DRAIN).await;
        };
        let result = tokio::select! {
            (result, ()) = async { tokio::join!(nodes, people) } => result,
            () = stopped => Ok(()),
        };
        shutdown.trigger();
        for task in [upkeep, lists, followed, recovery, keys, gateways, reload, speaking, gathering]
            .into_iter()
            .chain(events)
        {
            if let Err(error) = task.await {
                warn!(%error, "a task of control failed");
            }
        }
        result.map_err(Error::Grpc)
    }
}

/// The key from the configuration, else from the state, where it is made.
fn operator_key(config: &Config, state: &StateDir) -> std::io::Result<Secret> {
    if let Some(key) = &config.operator_key {
        return Ok(key.clone());
    }
    if let Some(bytes) = state.read(OPERATOR_KEY)? {
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        if !text.is_empty() {
            return Ok(Secret::new(text));
        }
    }
    let key = BASE64.encode(random::<32>());
    state.write(OPERATOR_KEY, format!("{key}\n").as_bytes())?;
    Ok(Secret::new(key))
}
