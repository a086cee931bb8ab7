//! The control panel: all that a request, a report or the upkeep may touch.
//!
//! Parts that keep something own it ([`Broadcasts`], [`Seats`], [`Keys`]); this
//! joins them where one event concerns several: a broadcast that ends frees its
//! seats and is ended at its origin, a kick is stored and told to every node.

mod gateways;
pub mod nodes;
mod reports;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use spyglass_api::control::{self, update::Update};
use spyglass_daemon::admin::Admin;
use spyglass_daemon::delay::Histograms;
use spyglass_daemon::reload::Live;
use spyglass_daemon::{Secret, now_utc, random};
use spyglass_media::{BroadcastId, Location, NodeId, UserId};
use spyglass_token::WatchGrant;
use tokio::sync::Notify;
use tracing::info;

use crate::away::{Unwritten, Watched};
use crate::broadcasts::Broadcasts;
use crate::config::Config;
use crate::delays::Delays;
use crate::events::feed::Feed;
use crate::events::streams::Streams;
use crate::events::viewers::Viewers;
use crate::fleet::{Fleet, Registration, Role, SeatChange, State};
use crate::follows::Follows;
use crate::gateways::Gateways;
use crate::geo::Geo;
use crate::history::Histories;
use crate::joined::Joined;
use crate::kept_out::KeptOut;
use crate::keys::Keys;
use crate::limits::{Asker, Limit, Limits, Rules};
use crate::links::Links;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::placement::{Placed, load_percent, rank};
use crate::record::Record;
use crate::revocations::Revocations;
use crate::seats::{Count, Seats};
use crate::store::{self, Engine, Store};
use crate::users::{Users, hash};
use crate::webhooks::Webhooks;

/// After its state was lost, control does not tell nodes of each other until
/// those that try again every 5 s have had the time to register: a short list
/// would make edges leave origins that are well.
const SETTLE: Duration = Duration::from_secs(6);

/// Who asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Caller {
    /// No name given.
    Anyone,
    /// Holds the operator key.
    Operator,
    /// Holds a user's token.
    User(UserId),
    /// Holds a viewer's token.
    Viewer(Box<WatchGrant>),
}

impl Caller {
    /// The user, if it is one.
    pub const fn user(&self) -> Option<UserId> {
        match self {
            Self::User(user) => Some(*user),
            _ => None,
        }
    }

    /// May know that the broadcast exists.
    pub fn may_see(&self, record: &Record) -> bool {
        match self {
            Self::Operator => true,
            Self::Viewer(grant) if grant.broadcast == record.id => true,
            _ => record.is_visible_to(self.user()),
        }
    }

    /// May decide about the broadcast.
    pub fn owns(&self, record: &Record) -> bool {
        match self {
            Self::Operator => true,
            Self::User(user) => record.memo.user == Some(*user),
            _ => false,
        }
    }
}

/// See the module.
pub struct Panel {
    /// As checked.
    pub config: Config,
    /// What may change while control runs ([`Config::RELOADED`]), as it holds now.
    pub live: Live<Config>,
    /// What stands before paths in URLs for people.
    pub public_http: String,
    /// Names this process among the controls.
    pub instance: String,
    peers: Mutex<Peers>,
    operator: [u8; 32],
    /// What is remembered, and what controls tell each other.
    pub engine: Arc<dyn Engine>,
    store: Arc<Watched>,
    unwritten: Mutex<Unwritten>,
    /// Signing and verifying.
    pub keys: Keys,
    /// Registered users.
    pub users: Users,
    /// Whom they follow.
    pub follows: Follows,
    /// All broadcasts.
    pub broadcasts: Broadcasts,
    /// Their seats.
    pub seats: Seats,
    /// Who their viewers are.
    pub joined: Joined,
    /// Users who were kicked from one.
    pub kept_out: KeptOut,
    /// Who watched.
    pub histories: Histories,
    /// What happened to broadcasts.
    pub feed: Feed,
    /// What happens to viewers.
    pub viewer_events: Viewers,
    /// How long each stage takes.
    pub delays: Delays,
    /// Addresses that are told of either.
    pub webhooks: Webhooks,
    /// Who listens to either.
    pub streams: Arc<Streams>,
    /// Kicked viewers.
    pub revocations: Revocations,
    fleet: Mutex<Fleet>,
    /// Where addresses are.
    pub geo: Geo,
    limits: Mutex<Limits>,
    gateways: Mutex<Gateways>,
    /// Streams to the nodes.
    pub links: Links,
    /// What is counted.
    pub metrics: Metrics,
    /// Health.
    pub admin: Admin,
    /// The list of nodes may differ from what they were told.
    pub nodes_changed: Notify,
    started: Instant,
    settling: Mutex<bool>,
}

impl Panel {
    /// Reads everything that the store remembers.
    pub async fn load(
        config: Config,
        operator_key: &Secret,
        public_http: String,
        engine: Arc<dyn Engine>,
        geo: Geo,
        admin: Admin,
    ) -> Result<Self, store::Error> {
        let now = now_utc();
        let watched = Arc::new(Watched::new(Arc::<dyn Engine>::clone(&engine)));
        let store = Arc::clone(&watched) as Arc<dyn Store>;
        let metrics = Metrics::register(&mut admin.registry());
        let delays = Histograms::register(&mut admin.registry());
        let mut fleet = Fleet::new(config.max_nodes, config.max_viewers);
        nodes::restore(&*store, &mut fleet).await?;
        Ok(Self {
            instance: format!("{:016x}", u64::from_le_bytes(random())),
            peers: Mutex::default(),
            operator: hash(operator_key.expose()),
            keys: Keys::load(Arc::clone(&store), config.longest_token(), now).await?,
            users: Users::new(Arc::clone(&store)),
            follows: Follows::new(Arc::clone(&store), config.max_following),
            broadcasts: Broadcasts::load(
                Arc::clone(&store),
                config.max_broadcasts,
                config.max_broadcasts_per_user,
            )
            .await?,
            seats: Seats::new(Arc::clone(&store), config.seat_limits(), now),
            joined: Joined::default(),
            kept_out: KeptOut::new(Arc::clone(&store), config.max_revocations),
            histories: Histories::default(),
            feed: Feed::load(&*engine).await?,
            viewer_events: Viewers::default(),
            delays: Delays::new(delays, Instant::now()),
            webhooks: Webhooks::new(Arc::clone(&store), config.max_webhooks),
            streams: Streams::new(config.max_streams, config.max_streams_per_user),
            revocations: Revocations::load(Arc::clone(&store), config.max_revocations).await?,
            fleet: Mutex::new(fleet),
            geo,
            limits: Mutex::new(Limits::new(config.rate_rules(), config.max_rates)),
            gateways: Mutex::default(),
            links: Links::default(),
            nodes_changed: Notify::new(),
            started: Instant::now(),
            settling: Mutex::new(false),
            live: Live::new(config.clone()),
            config,
            public_http,
            engine,
            store: watched,
            unwritten: Mutex::default(),
            metrics,
            admin,
        })
    }

    /// Other limits on how often somebody may ask.
    pub fn set_rates(&self, rules: Rules) {
        self.limits.lock().set_rules(rules);
    }

    /// All nodes and viewers; held for a few lines, never across an await.
    pub fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock()
    }

    /// The other controls; held for a few lines, never across an await.
    pub fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock()
    }

    /// The store.
    pub fn store(&self) -> &Watched {
        &self.store
    }

    /// What waits for the store; held for a few lines, never across an await.
    pub fn unwritten(&self) -> MutexGuard<'_, Unwritten> {
        self.unwritten.lock()
    }

    /// What nodes are told of the controls.
    pub fn controls(&self) -> control::Controls {
        control::Controls { id: self.instance.clone(), grpc: self.peers().addresses() }
    }

    /// Who holds this bearer secret; `None` when nobody does.
    pub async fn authenticate(&self, secret: &str) -> Result<Option<Caller>, store::Error> {
        if self.is_operator(Some(secret)) {
            return Ok(Some(Caller::Operator));
        }
        if let Ok(grant) = self.keys.set().verify_watch(secret, now_utc()) {
            let refused = self.revocations.contains(grant.broadcast, grant.viewer);
            return Ok((!refused).then(|| Caller::Viewer(Box::new(grant))));
        }
        Ok(self.users.authenticate(secret).await?.map(Caller::User))
    }

    /// Whether this is the operator's key.
    pub fn is_operator(&self, secret: Option<&str>) -> bool {
        secret.is_some_and(|secret| hash(secret) == self.operator)
    }

    /// At most `count` nodes of a role that take arrivals, best first for who
    /// says to be at `told` or else is at `address`.
    pub fn place(
        &self,
        role: Role,
        told: Option<Location>,
        address: IpAddr,
        count: usize,
    ) -> Vec<Placed> {
        let from = told.or_else(|| self.geo.locate(address));
        // The fleet is held for the list alone and not for the decision.
        let candidates = self.fleet().candidates(role);
        let placed = rank(from, &candidates, count);
        let by = match (placed.is_empty(), told, from) {
            (true, ..) => "nothing",
            (_, Some(_), _) => "request",
            (_, None, Some(_)) => "address",
            (_, None, None) => "load",
        };
        let labels = [("role", role.as_str()), ("by", by)];
        self.metrics.placements.get_or_create(&labels).inc();
        placed
    }

    /// One more request of somebody's; how long to wait when there have been
    /// too many.
    pub fn take(&self, asker: Asker, limit: Limit) -> Result<(), Duration> {
        self.limits.lock().take(asker, limit, self.started.elapsed())
    }

    /// Whether [`Self::take`] would be granted.
    pub fn peek(&self, asker: Asker, limit: Limit) -> Result<(), Duration> {
        self.limits.lock().peek(asker, limit, self.started.elapsed())
    }

    /// One broadcast, wherever it was made.
    pub async fn find(&self, id: BroadcastId) -> Option<Arc<Record>> {
        self.broadcasts.find(id).await
    }

    /// What a node told of itself.
    pub fn registration(&self, id: &NodeId) -> Option<Registration> {
        self.fleet().node(id).map(|node| node.registration)
    }

    /// Sends new arrivals elsewhere, or here again; false when there is no such
    /// node.
    pub async fn drain(&self, id: &NodeId, draining: bool) -> Result<bool, store::Error> {
        if self.fleet().node(id).is_none() {
            return Ok(false);
        }
        // Kept first: what a restart would forget has not happened.
        self.keep_node(id, Some(draining)).await?;
        self.fleet().on_drain(id, draining);
        self.links.send(id, Update::Drain(control::Drain { draining }));
        self.nodes_changed.notify_one();
        info!(node = %id, draining, "drain");
        Ok(true)
    }

    /// Applies what a broadcast's seats must learn, in order.
    pub async fn on_seats(&self, changes: Vec<SeatChange>) {
        for change in changes {
            let (SeatChange::Begun(id, _) | SeatChange::Ended(id, _) | SeatChange::Unknown(id, _)) =
                change;
            let Some(record) = self.broadcasts.get(id).filter(|record| !record.is_ended()) else {
                continue;
            };
            self.count_seats(&record).await;
            self.seats.on_change(change).await;
        }
    }

    /// How many push viewers a broadcast takes.
    pub fn push_viewers(&self, record: &Record) -> u32 {
        record.memo.push_viewers.unwrap_or_else(|| self.live.get().push_viewers)
    }

    /// Whether a seat lies beyond the push tier of a broadcast that is known.
    pub fn is_beyond_push(&self, broadcast: BroadcastId, seat: u32) -> bool {
        let record = self.broadcasts.get(broadcast);
        record.is_some_and(|record| seat > self.push_viewers(&record))
    }

    /// Tells a broadcast's seats how many they are, when that is its own affair.
    pub async fn count_seats(&self, record: &Record) {
        if let Some(push) = record.memo.push_viewers {
            let seats = push.max(self.live.get().commenters);
            self.seats.set_count(record.id, Count { seats, push }).await;
        }
    }

    /// Tells an origin of a broadcast that was placed on it.
    pub fn expect(&self, record: &Record) {
        self.links.send(&record.origin, Update::Expect(expect(record)));
    }

    /// A node brought keys of a control whose state was lost: others will come.
    pub fn settle(&self) {
        *self.settling.lock() = true;
    }

    /// Whether the list of nodes is still held back.
    pub fn is_settling(&self) -> bool {
        *self.settling.lock() && self.started.elapsed() < SETTLE
    }

    /// What nodes are told of each other.
    pub fn node_list(&self) -> control::Nodes {
        let fleet = self.fleet();
        let nodes = fleet.listed(Instant::now()).map(|node| control::Node {
            id: node.id.to_string(),
            role: wire_role(node.registration.role).into(),
            grpc: node.registration.grpc,
            http: node.registration.http,
            draining: node.state == State::Draining,
            location: node.registration.location.map(Into::into),
            load_percent: load_percent(node.load.viewers, node.load.capacity),
            lost: node.state == State::Lost,
        });
        control::Nodes { nodes: nodes.collect() }
    }
}

fn wire_role(role: Role) -> control::Role {
    match role {
        Role::Origin => control::Role::Origin,
        Role::Edge => control::Role::Edge,
    }
}

/// What an origin must know of a broadcast.
pub fn expect(record: &Record) -> control::Expect {
    control::Expect {
        broadcast: record.id.to_string(),
        private: record.is_for_joined(),
        chunk_ms: record.memo.chunk_ms,
        memo: serde_json::to_vec(&record.memo).unwrap_or_default().into(),
        resume_ms: record.memo.resume_ms,
    }
}
