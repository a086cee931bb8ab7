//! The watch of each upstream: one stream that tells what exists, what changed
//! and that the upstream lives.
//!
//! Every origin is watched, since it says what exists; a gateway is when control
//! names it for a broadcast and this edge is to heed that. What a gateway says
//! of the directory is only its echo and is not listened to.
//!
//! Which origins there are comes from control's node list, which the state
//! keeps; an origin that leaves the list while its watch works is kept, because
//! the live path does not need control. Everything that a watch tells goes to
//! `broadcasts.rs`, revocations go to the link with control.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use spyglass_api::MAX_MESSAGE;
use spyglass_api::auth::ClusterKey;
use spyglass_api::control::{self, Node, Role};
use spyglass_api::convert;
use spyglass_api::upstream::upstream_client::UpstreamClient;
use spyglass_api::upstream::{
    BroadcastState, DirectoryEntry, Expire, Holding, Interest, WatchHello, WatchRequest,
    watch_request, watch_response,
};
use spyglass_daemon::attach::Attachment;
use spyglass_daemon::grpc::{self, Client, Windows};
use spyglass_daemon::{Backoff, Shutdown, random};
use spyglass_media::{BroadcastId, NodeId, Position, Version};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::broadcasts::{Broadcasts, Notice};
use crate::directory::{Entry, State};
use crate::fetch::Fetcher;
use crate::metrics::Metrics;
use crate::trust::Trust;

/// A watch without a heartbeat for this long is broken.
const SILENCE: Duration = Duration::from_secs(3);

/// A gateway's: leaving one costs little.
const GATEWAY_SILENCE: Duration = Duration::from_secs(2);

/// A gateway that has not taken a fetch by then is passed over.
const PATIENCE: Duration = Duration::from_millis(700);

/// Messages that may wait for an origin that reads slowly.
const WAITING: usize = 64;

/// Broadcasts in one message of interest.
const PAGE: usize = 1_000;

/// Origins watched at once, and gateways.
const UPSTREAMS: usize = 1_000;

/// An origin that control does not name and that does not answer is forgotten
/// after this, and with it its broadcasts.
const FORGET: Duration = Duration::from_secs(600);

/// Pauses between attempts to watch: service is back within a second of the
/// origin's return.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(800));

/// What an upstream is to this edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It makes what it serves, and says what exists.
    Origin,
    /// An edge that fetches from origins.
    Gateway,
}

impl Kind {
    /// The word in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Gateway => "gateway",
        }
    }

    const fn silence(self) -> Duration {
        match self {
            Self::Origin => SILENCE,
            Self::Gateway => GATEWAY_SILENCE,
        }
    }

    /// As control calls it.
    const fn role(self) -> Role {
        match self {
            Self::Origin => Role::Origin,
            Self::Gateway => Role::Edge,
        }
    }
}

/// One origin or gateway as this edge sees it.
#[derive(Debug)]
pub struct Upstream {
    kind: Kind,
    node: NodeId,
    url: String,
    watcher: UpstreamClient<Client>,
    fetcher: Fetcher,
    watched: AtomicBool,
    /// Broadcasts whose interest may have begun or ended.
    changed: Mutex<HashSet<BroadcastId>>,
    notify: Notify,
    stop: CancellationToken,
    trust: Mutex<Trust>,
}

impl Upstream {
    fn new(kind: Kind, node: NodeId, url: &str, by: &Watcher) -> Result<Self, grpc::Error> {
        let (key, largest) = (&by.key, by.largest);
        // Notices must not queue behind chunks: a connection for each.
        let watcher = UpstreamClient::new(grpc::channel(url, key, Windows::Messages)?)
            .max_decoding_message_size(MAX_MESSAGE);
        let objects = grpc::channel(url, key, Windows::Objects)?;
        let patience = (kind == Kind::Gateway).then_some(PATIENCE);
        let fetcher = Fetcher::new(objects, largest, by.me.clone(), patience);
        Ok(Self {
            kind,
            node,
            url: url.to_owned(),
            watcher,
            fetcher,
            watched: AtomicBool::new(false),
            changed: Mutex::default(),
            notify: Notify::new(),
            stop: CancellationToken::new(),
            trust: Mutex::default(),
        })
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its name.
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Where objects come from.
    pub fn fetcher(&self) -> &Fetcher {
        &self.fetcher
    }

    /// Its watch lives and has told everything.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Acquire)
    }

    /// It did not serve what the origin behind it did.
    pub fn failed(&self) {
        self.trust.lock().on_failure(Instant::now().into_std());
    }

    /// Whether to fetch through it: a gateway that has not failed lately.
    pub fn is_well(&self) -> bool {
        self.trust.lock().is_well(Instant::now().into_std())
    }

    /// Interest in this broadcast may have begun or ended.
    pub fn interest_changed(&self, id: BroadcastId) {
        self.changed.lock().insert(id);
        self.notify.notify_one();
    }
}

/// Why a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    NoAnswer,
    Refused,
    Silent,
    Closed,
    Slow,
}

impl End {
    const fn as_str(self) -> &'static str {
        match self {
            Self::NoAnswer => "no answer",
            Self::Refused => "refused: is the cluster key the same?",
            Self::Silent => "no heartbeat",
            Self::Closed => "closed by the upstream",
            Self::Slow => "the upstream does not read",
        }
    }
}

/// What every watch needs.
#[derive(Clone, Debug)]
pub struct Watcher {
    /// This edge's name.
    pub me: NodeId,
    /// For all calls.
    pub key: ClusterKey,
    /// Where what is heard goes.
    pub broadcasts: Arc<Broadcasts>,
    /// Where revocations go.
    pub attachment: Attachment,
    /// Counts watches.
    pub metrics: Metrics,
    /// Largest object fetched, in bytes.
    pub largest: u64,
    /// Go through the gateways that control names.
    pub gateways: bool,
}

struct Tracked {
    upstream: Arc<Upstream>,
    unnamed_since: Option<Instant>,
}

/// The upstreams of one kind, by name.
type Watches = HashMap<NodeId, Tracked>;

impl Watcher {
    /// Watches the origins of control's node list, and gateways, until
    /// `shutdown`.
    pub async fn run(self, shutdown: Shutdown) {
        let mut nodes = self.attachment.nodes();
        let mut attached = self.attachment.attached();
        let mut named = self.attachment.gateways();
        let (mut origins, mut gateways) = (Watches::new(), Watches::new());
        let mut beat = tokio::time::interval(Duration::from_secs(10));
        let mut introduced = false;
        loop {
            let list = Arc::clone(&nodes.borrow_and_update());
            // An empty list says nothing before control has spoken.
            introduced |= !list.is_empty() || *attached.borrow_and_update();
            if self.follow(Kind::Origin, &list, |_| true, &mut origins) || introduced {
                self.broadcasts.on_origins(upstreams(&origins));
            }
            if self.gateways {
                let named = Arc::clone(&named.borrow_and_update());
                let wanted: HashSet<&NodeId> =
                    named.values().filter(|node| **node != self.me).collect();
                self.follow(Kind::Gateway, &list, |node| wanted.contains(node), &mut gateways);
                self.broadcasts.on_gateways(upstreams(&gateways), Arc::clone(&named));
            }
            tokio::select! {
                changed = nodes.changed() => if changed.is_err() { break },
                changed = named.changed(), if self.gateways => if changed.is_err() { break },
                changed = attached.changed(), if !introduced => if changed.is_err() { break },
                _ = beat.tick() => {}
                () = shutdown.requested() => break,
            }
        }
        for it in origins.values().chain(gateways.values()) {
            it.upstream.stop.cancel();
        }
    }

    /// Starts and stops watches; true when the set of upstreams changed.
    fn follow(
        &self,
        kind: Kind,
        list: &[Node],
        wanted: impl Fn(&NodeId) -> bool,
        tracked: &mut Watches,
    ) -> bool {
        let mut changed = false;
        let mut named = HashSet::new();
        for node in list.iter().filter(|node| node.role == i32::from(kind.role())) {
            let Ok(name) = convert::node(&node.id) else { continue };
            // An edge without a listener can be no gateway.
            if !wanted(&name) || (kind == Kind::Gateway && node.grpc.is_empty()) {
                continue;
            }
            named.insert(name.clone());
            if tracked.get(&name).is_some_and(|it| it.upstream.url == node.grpc) {
                continue;
            }
            if tracked.len() >= UPSTREAMS {
                warn!(upstream = %name, "more upstreams than an edge watches");
                continue;
            }
            match Upstream::new(kind, name.clone(), &node.grpc, self) {
                Ok(upstream) => {
                    let upstream = Arc::new(upstream);
                    tokio::spawn(self.clone().watch(Arc::clone(&upstream)));
                    let new = Tracked { upstream, unnamed_since: None };
                    if let Some(former) = tracked.insert(name, new) {
                        former.upstream.stop.cancel();
                    }
                    changed = true;
                }
                Err(error) => warn!(upstream = %name, %error, "cannot watch this upstream"),
            }
        }
        tracked.retain(|name, it| {
            let works = wanted(name) && it.upstream.is_watched();
            if named.contains(name) || works {
                it.unnamed_since = None;
                return true;
            }
            let keep = wanted(name)
                && it.unnamed_since.get_or_insert_with(Instant::now).elapsed() < FORGET;
            if !keep {
                info!(upstream = %name, kind = kind.as_str(), "no longer watched");
                it.upstream.stop.cancel();
                changed = true;
            }
            keep
        });
        changed
    }

    async fn watch(self, upstream: Arc<Upstream>) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut last = None;
        loop {
            let end = tokio::select! {
                end = self.watch_once(&upstream) => end,
                () = upstream.stop.cancelled() => {
                    self.alive(&upstream, false);
                    return;
                }
            };
            if self.alive(&upstream, false) {
                backoff.reset();
                last = None;
            }
            if last.replace(end) != Some(end) {
                warn!(upstream = %upstream.node, url = upstream.url, reason = end.as_str(), "watch broken");
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next(u32::from_le_bytes(random()))) => {}
                () = upstream.stop.cancelled() => return,
            }
        }
    }

    /// True when that changed anything.
    fn alive(&self, upstream: &Upstream, alive: bool) -> bool {
        if upstream.watched.swap(alive, Ordering::AcqRel) == alive {
            return false;
        }
        let watches = match upstream.kind {
            Kind::Origin => &self.metrics.watches,
            Kind::Gateway => &self.metrics.gateways,
        };
        if alive {
            watches.inc();
        } else {
            watches.dec();
        }
        upstream.trust.lock().on_watch(Instant::now().into_std(), alive);
        self.broadcasts.on_watch(upstream, alive);
        true
    }

    async fn watch_once(&self, upstream: &Upstream) -> End {
        let (requests, receiver) = mpsc::channel(WAITING);
        let hello = watch_request::Request::Hello(WatchHello { node: self.me.to_string() });
        if requests.try_send(WatchRequest { request: Some(hello) }).is_err() {
            return End::Slow;
        }
        let mut client = upstream.watcher.clone();
        let call = client.watch(ReceiverStream::new(receiver));
        let silence = upstream.kind.silence();
        let mut stream = match tokio::time::timeout(silence, call).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => {
                debug!(upstream = %upstream.node, %status, "watch refused");
                let refused = status.code() == tonic::Code::Unauthenticated;
                return if refused { End::Refused } else { End::NoAnswer };
            }
            Err(_) => return End::NoAnswer,
        };
        if upstream.kind == Kind::Origin {
            self.broadcasts.on_watch_begun(&upstream.node);
        }
        // Everything of interest is declared anew; what changes from here on
        // is in `changed` again.
        upstream.changed.lock().clear();
        let all = self.broadcasts.of_interest(&upstream.node);
        if !declare(&requests, all, Vec::new()) {
            return End::Slow;
        }
        let mut last_beat = Instant::now();
        loop {
            let message = tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(message)) => message.response,
                    Ok(None) => return End::Closed,
                    Err(status) => {
                        debug!(upstream = %upstream.node, %status, "watch failed");
                        return End::Closed;
                    }
                },
                () = upstream.notify.notified() => {
                    let changed = std::mem::take(&mut *upstream.changed.lock());
                    let (add, drop) = self.interests(upstream, changed);
                    if !declare(&requests, add, drop) {
                        return End::Slow;
                    }
                    continue;
                }
                () = tokio::time::sleep_until(last_beat + silence) => return End::Silent,
            };
            match message {
                Some(watch_response::Response::Heartbeat(beat)) => {
                    last_beat = Instant::now();
                    beat.current.iter().for_each(|expire| self.on_expire(upstream, expire));
                    self.on_adrift(upstream, &beat.adrift);
                }
                Some(message) => {
                    // A long snapshot on a slow link is no silence.
                    last_beat = Instant::now();
                    self.on_message(upstream, message);
                }
                // A field of a later release.
                None => {}
            }
        }
    }

    fn on_message(&self, upstream: &Upstream, message: watch_response::Response) {
        match message {
            watch_response::Response::Snapshot(page) => {
                if upstream.kind == Kind::Origin {
                    let entries = page.entries.iter().filter_map(read_entry).collect();
                    self.broadcasts.on_page(&upstream.node, entries, page.last);
                }
                for revocation in page.revocations {
                    self.on_revocation(revocation);
                }
                if page.last && self.alive(upstream, true) {
                    info!(upstream = %upstream.node, url = upstream.url, "watching");
                }
            }
            watch_response::Response::Change(entry) => {
                if upstream.kind == Kind::Origin
                    && let Some((id, entry)) = read_entry(&entry)
                {
                    self.broadcasts.on_change(&upstream.node, id, entry);
                }
            }
            watch_response::Response::Revocation(revocation) => self.on_revocation(revocation),
            watch_response::Response::Expire(expire) => self.on_expire(upstream, &expire),
            watch_response::Response::Heartbeat(_) => {}
        }
    }

    fn on_revocation(&self, revocation: spyglass_api::upstream::Revocation) {
        self.attachment.add_revocation(control::Revocation {
            broadcast: revocation.broadcast,
            viewer: revocation.viewer,
            expires_at_ms: revocation.expires_at_ms,
        });
    }

    fn on_expire(&self, upstream: &Upstream, expire: &Expire) {
        let (Ok(id), Some(version)) = (convert::broadcast(&expire.broadcast), expire.version)
        else {
            return;
        };
        let position = expire.position.map(Position::from);
        let notice = Notice { version: version.into(), position, incarnation: expire.incarnation };
        self.broadcasts.on_expire(upstream.kind, id, notice);
    }

    /// What a gateway cannot vouch for comes from the origin, for a while.
    fn on_adrift(&self, upstream: &Upstream, adrift: &[String]) {
        for id in adrift.iter().filter_map(|id| convert::broadcast(id).ok()) {
            self.broadcasts.on_adrift(upstream, id);
        }
    }

    fn interests(
        &self,
        upstream: &Upstream,
        changed: HashSet<BroadcastId>,
    ) -> (Vec<Holding>, Vec<String>) {
        let (mut add, mut drop) = (Vec::new(), Vec::new());
        for id in changed {
            match self.broadcasts.get(id).and_then(|it| it.interest(&upstream.node)) {
                Some((version, position)) => add.push(holding(id, version, position)),
                None => drop.push(id.to_string()),
            }
        }
        (add, drop)
    }
}

fn upstreams(tracked: &Watches) -> HashMap<NodeId, Arc<Upstream>> {
    tracked.iter().map(|(node, it)| (node.clone(), Arc::clone(&it.upstream))).collect()
}

/// A broadcast of interest and what is held of it.
pub fn holding(id: BroadcastId, version: Option<Version>, position: Option<Position>) -> Holding {
    Holding {
        broadcast: id.to_string(),
        version: version.map(Into::into),
        position: position.map(Into::into),
    }
}

/// False when the upstream does not read.
fn declare(requests: &mpsc::Sender<WatchRequest>, add: Vec<Holding>, drop: Vec<String>) -> bool {
    let adds = add.chunks(PAGE).map(|add| Interest { add: add.to_vec(), drop: Vec::new() });
    let drops = drop.chunks(PAGE).map(|drop| Interest { add: Vec::new(), drop: drop.to_vec() });
    adds.chain(drops).all(|interest| {
        let request = Some(watch_request::Request::Interest(interest));
        requests.try_send(WatchRequest { request }).is_ok()
    })
}

/// `None` for what a later release might say; an inner `None` to forget the id.
fn read_entry(entry: &DirectoryEntry) -> Option<(BroadcastId, Option<Entry>)> {
    let id = convert::broadcast(&entry.broadcast).ok()?;
    let state = match BroadcastState::try_from(entry.state).ok()? {
        BroadcastState::Unspecified => return None,
        BroadcastState::Created => State::Created,
        BroadcastState::Live => State::Live,
        BroadcastState::Interrupted => State::Interrupted,
        BroadcastState::Ended => State::Ended,
        BroadcastState::Gone => State::Gone,
        BroadcastState::Removed => return Some((id, None)),
    };
    let target = Duration::from_millis(entry.target_duration_ms.into());
    let entry = Entry {
        state,
        private: entry.private,
        incarnation: entry.incarnation,
        target: Some(target).filter(|target| !target.is_zero()),
        fill: entry.fill().into(),
    };
    Some((id, Some(entry)))
}
