//! The watch of each origin: one stream that tells what exists, what changed
//! and that the origin lives.
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

use crate::broadcasts::Broadcasts;
use crate::directory::{Entry, State};
use crate::fetch::Fetcher;
use crate::metrics::Metrics;

/// A watch without a heartbeat for this long is broken.
const SILENCE: Duration = Duration::from_secs(3);

/// Messages that may wait for an origin that reads slowly.
const WAITING: usize = 64;

/// Broadcasts in one message of interest.
const PAGE: usize = 1_000;

/// Origins watched at once.
const ORIGINS: usize = 1_000;

/// An origin that control does not name and that does not answer is forgotten
/// after this, and with it its broadcasts.
const FORGET: Duration = Duration::from_secs(600);

/// Pauses between attempts to watch: service is back within a second of the
/// origin's return.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(800));

/// One origin as this edge sees it.
#[derive(Debug)]
pub struct Origin {
    node: NodeId,
    url: String,
    watcher: UpstreamClient<Client>,
    fetcher: Fetcher,
    watched: AtomicBool,
    /// Broadcasts whose interest may have begun or ended.
    changed: Mutex<HashSet<BroadcastId>>,
    notify: Notify,
    stop: CancellationToken,
}

impl Origin {
    fn new(node: NodeId, url: &str, key: &ClusterKey, largest: u64) -> Result<Self, grpc::Error> {
        // Notices must not queue behind chunks: a connection for each.
        let watcher = UpstreamClient::new(grpc::channel(url, key, Windows::Messages)?)
            .max_decoding_message_size(MAX_MESSAGE);
        let fetcher = Fetcher::new(grpc::channel(url, key, Windows::Objects)?, largest);
        Ok(Self {
            node,
            url: url.to_owned(),
            watcher,
            fetcher,
            watched: AtomicBool::new(false),
            changed: Mutex::default(),
            notify: Notify::new(),
            stop: CancellationToken::new(),
        })
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
            Self::Closed => "closed by the origin",
            Self::Slow => "the origin does not read",
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
}

struct Tracked {
    origin: Arc<Origin>,
    unnamed_since: Option<Instant>,
}

impl Watcher {
    /// Watches the origins of control's node list until `shutdown`.
    pub async fn run(self, shutdown: Shutdown) {
        let mut nodes = self.attachment.nodes();
        let mut attached = self.attachment.attached();
        let mut tracked: HashMap<NodeId, Tracked> = HashMap::new();
        let mut beat = tokio::time::interval(Duration::from_secs(10));
        let mut introduced = false;
        loop {
            let list = Arc::clone(&nodes.borrow_and_update());
            // An empty list says nothing before control has spoken.
            introduced |= !list.is_empty() || *attached.borrow_and_update();
            if self.follow(&list, &mut tracked) || introduced {
                let origins = tracked.iter();
                let origins = origins.map(|(node, it)| (node.clone(), Arc::clone(&it.origin)));
                self.broadcasts.on_origins(origins.collect());
            }
            tokio::select! {
                changed = nodes.changed() => if changed.is_err() { break },
                changed = attached.changed(), if !introduced => if changed.is_err() { break },
                _ = beat.tick() => {}
                () = shutdown.requested() => break,
            }
        }
        for it in tracked.values() {
            it.origin.stop.cancel();
        }
    }

    /// Starts and stops watches; true when the set of origins changed.
    fn follow(&self, list: &[Node], tracked: &mut HashMap<NodeId, Tracked>) -> bool {
        let mut changed = false;
        let mut named = HashSet::new();
        for node in list.iter().filter(|node| node.role == i32::from(Role::Origin)) {
            let Ok(name) = convert::node(&node.id) else { continue };
            named.insert(name.clone());
            if tracked.get(&name).is_some_and(|it| it.origin.url == node.grpc) {
                continue;
            }
            if tracked.len() >= ORIGINS {
                warn!(origin = %name, "more origins than an edge watches");
                continue;
            }
            match Origin::new(name.clone(), &node.grpc, &self.key, self.largest) {
                Ok(origin) => {
                    let origin = Arc::new(origin);
                    tokio::spawn(self.clone().watch(Arc::clone(&origin)));
                    let new = Tracked { origin, unnamed_since: None };
                    if let Some(former) = tracked.insert(name, new) {
                        former.origin.stop.cancel();
                    }
                    changed = true;
                }
                Err(error) => warn!(origin = %name, %error, "cannot watch this origin"),
            }
        }
        tracked.retain(|name, it| {
            if named.contains(name) || it.origin.is_watched() {
                it.unnamed_since = None;
                return true;
            }
            let keep = it.unnamed_since.get_or_insert_with(Instant::now).elapsed() < FORGET;
            if !keep {
                info!(origin = %name, "forgotten");
                it.origin.stop.cancel();
                changed = true;
            }
            keep
        });
        changed
    }

    async fn watch(self, origin: Arc<Origin>) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut last = None;
        loop {
            let end = tokio::select! {
                end = self.watch_once(&origin) => end,
                () = origin.stop.cancelled() => {
                    self.alive(&origin, false);
                    return;
                }
            };
            if self.alive(&origin, false) {
                backoff.reset();
                last = None;
            }
            if last.replace(end) != Some(end) {
                warn!(origin = %origin.node, url = origin.url, reason = end.as_str(), "watch broken");
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next(u32::from_le_bytes(random()))) => {}
                () = origin.stop.cancelled() => return,
            }
        }
    }

    /// True when that changed anything.
    fn alive(&self, origin: &Origin, alive: bool) -> bool {
        if origin.watched.swap(alive, Ordering::AcqRel) == alive {
            return false;
        }
        if alive {
            self.metrics.watches.inc();
        } else {
            self.metrics.watches.dec();
        }
        self.broadcasts.on_watch(origin, alive);
        true
    }

    async fn watch_once(&self, origin: &Origin) -> End {
        let (requests, receiver) = mpsc::channel(WAITING);
        let hello = watch_request::Request::Hello(WatchHello { node: self.me.to_string() });
        if requests.try_send(WatchRequest { request: Some(hello) }).is_err() {
            return End::Slow;
        }
        let mut client = origin.watcher.clone();
        let call = client.watch(ReceiverStream::new(receiver));
        let mut stream = match tokio::time::timeout(SILENCE, call).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => {
                debug!(origin = %origin.node, %status, "watch refused");
                let refused = status.code() == tonic::Code::Unauthenticated;
                return if refused { End::Refused } else { End::NoAnswer };
            }
            Err(_) => return End::NoAnswer,
        };
        self.broadcasts.on_watch_begun(&origin.node);
        // Everything of interest is declared anew; what changes from here on
        // is in `changed` again.
        origin.changed.lock().clear();
        let all = self.broadcasts.of_interest(&origin.node);
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
                        debug!(origin = %origin.node, %status, "watch failed");
                        return End::Closed;
                    }
                },
                () = origin.notify.notified() => {
                    let changed = std::mem::take(&mut *origin.changed.lock());
                    let (add, drop) = self.interests(origin, changed);
                    if !declare(&requests, add, drop) {
                        return End::Slow;
                    }
                    continue;
                }
                () = tokio::time::sleep_until(last_beat + SILENCE) => return End::Silent,
            };
            match message {
                Some(watch_response::Response::Heartbeat(beat)) => {
                    last_beat = Instant::now();
                    beat.current.iter().for_each(|expire| self.on_expire(expire));
                }
                Some(message) => self.on_message(origin, message),
                // A field of a later release.
                None => {}
            }
        }
    }

    fn on_message(&self, origin: &Origin, message: watch_response::Response) {
        match message {
            watch_response::Response::Snapshot(page) => {
                let entries = page.entries.iter().filter_map(read_entry).collect();
                self.broadcasts.on_page(&origin.node, entries, page.last);
                for revocation in page.revocations {
                    self.on_revocation(revocation);
                }
                if page.last && self.alive(origin, true) {
                    info!(origin = %origin.node, url = origin.url, "watching");
                }
            }
            watch_response::Response::Change(entry) => {
                if let Some((id, entry)) = read_entry(&entry) {
                    self.broadcasts.on_change(&origin.node, id, entry);
                }
            }
            watch_response::Response::Revocation(revocation) => self.on_revocation(revocation),
            watch_response::Response::Expire(expire) => self.on_expire(&expire),
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

    fn on_expire(&self, expire: &Expire) {
        let (Ok(id), Some(version)) = (convert::broadcast(&expire.broadcast), expire.version)
        else {
            return;
        };
        let position = expire.position.map(Position::from);
        self.broadcasts.on_expire(id, version.into(), position, expire.incarnation);
    }

    fn interests(
        &self,
        origin: &Origin,
        changed: HashSet<BroadcastId>,
    ) -> (Vec<Holding>, Vec<String>) {
        let (mut add, mut drop) = (Vec::new(), Vec::new());
        for id in changed {
            match self.broadcasts.get(id).and_then(|it| it.interest(&origin.node)) {
                Some((version, position)) => add.push(holding(id, version, position)),
                None => drop.push(id.to_string()),
            }
        }
        (add, drop)
    }
}

/// A broadcast of interest and what is held of it.
pub fn holding(id: BroadcastId, version: Option<Version>, position: Option<Position>) -> Holding {
    Holding {
        broadcast: id.to_string(),
        version: version.map(Into::into),
        position: position.map(Into::into),
    }
}

/// False when the origin does not read.
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
    };
    Some((id, Some(entry)))
}
