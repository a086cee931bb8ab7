//! The broadcasts of this origin, and what edges and control are told of them.
//!
//! The one shared map: a lock held for a look-up or an insertion. Everything
//! about a single broadcast is its task's (`broadcast/task.rs`); this file
//! starts those tasks, tells the directory's readers what changed, and sweeps
//! what is over.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use spyglass_api::control::{self, BroadcastEvent, BroadcastRecord, Load};
use spyglass_api::upstream::{self, BroadcastState, DirectoryEntry, Expire};
use spyglass_daemon::attach::{Attachment, Source};
use spyglass_daemon::meter::Meter;
use spyglass_daemon::now_utc;
use spyglass_daemon::reload::Live;
use spyglass_daemon::upstream::Change;
use spyglass_hls::segmenter::Resume;
use spyglass_media::{BroadcastId, NodeId, UtcTime};
use spyglass_token::PublishGrant;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinSet;
use tracing::{error, warn};

use crate::broadcast::{self as live, Broadcast, Input, Record, Setup};
use crate::config::Config;
use crate::journal::{Journal, Restored};
use crate::life::Phase;
use crate::metrics::Metrics;
use crate::revival;

/// Changes an edge's watch may be behind before it gets a new snapshot.
const CHANGES: usize = 4_096;

/// Ids of ended broadcasts answer 410 this long.
const TOMBSTONE: Duration = Duration::from_secs(24 * 3600);

/// A broadcast that was announced and never published is forgotten after this;
/// no publish token lives longer.
const UNUSED: Duration = Duration::from_secs(24 * 3600);

/// The longest that broadcasts may take to close when the origin stops.
const CLOSE: Duration = Duration::from_secs(1);

/// All broadcasts of this process.
#[derive(Debug)]
pub struct Registry {
    /// This origin's name, chosen by the operator or not.
    pub id: NodeId,
    /// As it was at the start.
    pub config: Arc<Config>,
    /// What may change while the origin runs ([`Config::RELOADED`]), as it holds now.
    pub live: Live<Config>,
    /// Counters.
    pub metrics: Metrics,
    /// Keeps what must survive a restart.
    pub journal: Journal,
    /// The link with control.
    pub attachment: Attachment,
    /// Names this process among those that were this origin.
    pub incarnation: u64,
    /// When this process started: what was announced earlier may have been live
    /// in another one.
    started: UtcTime,
    broadcasts: Mutex<HashMap<BroadcastId, Arc<Broadcast>>>,
    changes: broadcast::Sender<Change>,
}

/// Why a broadcast cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Registry {
    /// Starts every broadcast that the journal knows.
    pub fn open(
        id: NodeId,
        live: Live<Config>,
        metrics: Metrics,
        journal: Journal,
        attachment: Attachment,
        incarnation: u64,
        found: Vec<(BroadcastId, Record, Restored)>,
    ) -> Arc<Self> {
        let registry = Arc::new(Self {
            id,
            config: live.get(),
            live,
            metrics,
            journal,
            attachment,
            incarnation,
            started: now_utc(),
            broadcasts: Mutex::new(HashMap::new()),
            changes: broadcast::Sender::new(CHANGES),
        });
        for (id, record, restored) in found {
            let floor = Resume::default();
            let setup = Setup { id, record, restored: Some(restored), floor };
            let broadcast = live::spawn(&registry, setup);
            registry.broadcasts.lock().insert(id, broadcast);
        }
        registry
    }

    /// A broadcast by id.
    pub fn get(&self, id: BroadcastId) -> Option<Arc<Broadcast>> {
        self.broadcasts.lock().get(&id).cloned()
    }

    /// Where the numbers of a broadcast whose list is not at hand must not begin
    /// below, as a publisher's token tells. Older than this process: it may have
    /// been live before, and its page be lost although others were read, so its
    /// numbers begin where they can't have been used. Was it never live, that
    /// costs it nothing but small numbers.
    pub fn floor(&self, grant: &PublishGrant) -> Resume {
        floor(self.started, now_utc(), grant.issued)
    }

    /// A broadcast that control or a publisher's token names.
    pub fn ensure(
        self: &Arc<Self>,
        id: BroadcastId,
        private: bool,
    ) -> Result<Arc<Broadcast>, Full> {
        self.find_or_open(id, Record::created(now_utc(), private, Bytes::new()))
    }

    /// A broadcast that only a viewer names so far. It may belong to another
    /// origin, so nobody is told of it before control or a publisher names it.
    pub fn await_publisher(self: &Arc<Self>, id: BroadcastId) -> Result<Arc<Broadcast>, Full> {
        let record = Record { named: false, ..Record::created(now_utc(), true, Bytes::new()) };
        self.find_or_open(id, record)
    }

    fn find_or_open(
        self: &Arc<Self>,
        id: BroadcastId,
        record: Record,
    ) -> Result<Arc<Broadcast>, Full> {
        let mut broadcasts = self.broadcasts.lock();
        if let Some(broadcast) = broadcasts.get(&id) {
            return Ok(Arc::clone(broadcast));
        }
        if broadcasts.len() >= self.live.get().max_broadcasts {
            let gone = broadcasts.values().filter(|broadcast| broadcast.phase() == Phase::Gone);
            let oldest = gone.min_by_key(|broadcast| broadcast.record().ended).map(|gone| gone.id);
            let Some(oldest) = oldest else { return Err(Full) };
            broadcasts.remove(&oldest);
            self.journal.remove(oldest);
            self.change(directory_entry(oldest, BroadcastState::Removed, true, self.incarnation));
        }
        let setup = Setup { id, record, restored: None, floor: Resume::default() };
        let broadcast = live::spawn(self, setup);
        broadcasts.insert(id, Arc::clone(&broadcast));
        drop(broadcasts);
        self.announce(id);
        Ok(broadcast)
    }

    /// A broadcast's task has panicked: it goes on from its journal, as far as
    /// that reaches. Until then readers see what was there.
    pub(crate) async fn revive(self: &Arc<Self>, id: BroadcastId) {
        error!(broadcast = %id, "the broadcast's task failed; it goes on from its journal");
        let Some(former) = self.get(id) else { return };
        let journal = self.journal.clone();
        let read = tokio::task::spawn_blocking(move || {
            // Its last pages may still wait for the disk.
            journal.flush();
            journal.read(id)
        });
        let page = match read.await {
            Ok(Ok(page)) => page.map(|(_, restored)| restored),
            Ok(Err(error)) => {
                error!(broadcast = %id, %error, "journal page not readable: the list begins anew");
                None
            }
            Err(error) => {
                error!(broadcast = %id, %error, "journal not read: the list begins anew");
                None
            }
        };
        let record = former.record();
        let shown = former.list.borrow().as_ref().map(|list| (list.version, list.position));
        let (restored, floor) = revival::continued(&record, shown, page);
        let mut broadcasts = self.broadcasts.lock();
        if !broadcasts.get(&id).is_some_and(|now| Arc::ptr_eq(now, &former)) {
            // Swept meanwhile.
            return;
        }
        let revived = live::spawn(self, Setup { id, record, restored, floor });
        let interrupted = revived.phase() != former.phase();
        broadcasts.insert(id, revived);
        drop(broadcasts);
        if interrupted {
            self.on_phase(id, now_utc());
        }
    }

    /// Ends all tasks: what is in their open chunks is listed, edges are told of
    /// it, and the journal has it. Returns when all have, or after [`CLOSE`].
    pub async fn stop(&self) {
        let broadcasts: Vec<_> = self.broadcasts.lock().values().cloned().collect();
        let mut stopping = JoinSet::new();
        for broadcast in broadcasts {
            stopping.spawn(async move {
                let (stopped, done) = oneshot::channel();
                if broadcast.inputs.send(Input::Stop(stopped)).await.is_ok() {
                    // A task that fails in it is gone too.
                    let _ = done.await;
                }
            });
        }
        let all = async { while stopping.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE, all).await.is_err() {
            warn!("broadcasts are too busy to close: their last chunks may be lost");
        }
    }

    // ---- what edges are told

    /// All changes from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// The directory as it stands.
    pub fn directory(&self) -> Vec<DirectoryEntry> {
        let broadcasts: Vec<_> = self.broadcasts.lock().values().cloned().collect();
        let named = broadcasts.iter().filter(|broadcast| broadcast.record().named);
        named.map(|broadcast| self.entry(broadcast)).collect()
    }

    /// The version of a broadcast's newest list, if it has one.
    pub fn current(&self, id: BroadcastId) -> Option<Expire> {
        let list = self.get(id)?.list.borrow().clone()?;
        Some(Expire {
            broadcast: id.to_string(),
            version: Some(list.version.into()),
            position: Some(list.position.into()),
            incarnation: self.incarnation,
        })
    }

    /// Tells edges what the directory now says of this broadcast.
    pub fn announce(&self, id: BroadcastId) {
        if let Some(broadcast) = self.get(id)
            && broadcast.record().named
        {
            self.change(self.entry(&broadcast));
        }
    }

    /// Tells edges that this broadcast has a new list.
    pub fn expire(&self, id: BroadcastId) {
        // Nobody watching is fine.
        let _ = self.changes.send(Change::Expire(id));
    }

    fn change(&self, entry: DirectoryEntry) {
        let _ = self.changes.send(Change::Directory(entry));
    }

    fn entry(&self, broadcast: &Broadcast) -> DirectoryEntry {
        let record = broadcast.record();
        let state = match record.phase {
            Phase::Created => BroadcastState::Created,
            Phase::Live => BroadcastState::Live,
            Phase::Interrupted => BroadcastState::Interrupted,
            Phase::Ended => BroadcastState::Ended,
            Phase::Gone => BroadcastState::Gone,
        };
        let mut entry = directory_entry(broadcast.id, state, record.private, self.incarnation);
        let target = record.cut().map(|cut| cut.target_duration());
        entry.fill = upstream::Fill::from(record.fill).into();
        entry.target_duration_ms = target.map_or(0, |target| target.as_millis() as u32);
        entry
    }

    // ---- what control is told

    /// A broadcast entered another phase.
    pub fn on_phase(&self, id: BroadcastId, at: UtcTime) {
        let Some(broadcast) = self.get(id) else { return };
        let record = broadcast.record();
        self.change(self.entry(&broadcast));
        if matches!(record.phase, Phase::Ended | Phase::Gone) {
            self.metrics.forget(id);
        }
        if record.phase != Phase::Gone {
            self.attachment.event(BroadcastEvent {
                broadcast: id.to_string(),
                phase: control_phase(record.phase).into(),
                at_ms: at.millis(),
                epoch: record.epoch,
            });
        }
    }

    /// Tells control how long media took since the last call.
    pub fn report_delays(&self) {
        let broadcasts: Vec<_> = self.broadcasts.lock().values().cloned().collect();
        let mut measured = Vec::new();
        for broadcast in broadcasts {
            broadcast.delays.take(broadcast.id, &mut measured);
        }
        self.attachment.delays(measured);
    }

    /// Forgets tombstones and announcements whose time is over.
    pub fn sweep(&self, now: UtcTime) {
        let over = |broadcast: &Broadcast| {
            let record = broadcast.record();
            match record.phase {
                Phase::Gone => record.ended.is_none_or(|ended| now.since(ended) > TOMBSTONE),
                Phase::Created => now.since(record.created) > UNUSED,
                Phase::Live | Phase::Interrupted | Phase::Ended => false,
            }
        };
        let mut swept = Vec::new();
        self.broadcasts.lock().retain(|id, broadcast| {
            let keep = !over(broadcast);
            if !keep {
                swept.push(*id);
            }
            keep
        });
        for id in swept {
            self.journal.remove(id);
            self.change(directory_entry(id, BroadcastState::Removed, true, self.incarnation));
        }
    }

    /// Asks a broadcast's task for something. When its publisher keeps it busy
    /// the request waits its turn in a task of its own; operators and edges make
    /// few of them.
    pub fn ask(&self, id: BroadcastId, input: Input) {
        let Some(broadcast) = self.get(id) else { return };
        if let Err(TrySendError::Full(input)) = broadcast.inputs.try_send(input) {
            tokio::spawn(async move {
                // Gone meanwhile: nothing to do.
                let _ = broadcast.inputs.send(input).await;
            });
        }
    }
}

/// A token is issued when its broadcast is made; chunks last a second at least,
/// and no epoch opens sooner after another.
fn floor(started: UtcTime, now: UtcTime, issued: UtcTime) -> Resume {
    let lived = now.since(issued).as_secs();
    if issued >= started || lived == 0 {
        return Resume::default();
    }
    let epochs = u32::try_from(lived.saturating_add(1)).unwrap_or(u32::MAX / 2);
    Resume { next_sequence: lived, epoch: epochs, tail: None }
}

fn directory_entry(
    id: BroadcastId,
    state: BroadcastState,
    private: bool,
    incarnation: u64,
) -> DirectoryEntry {
    DirectoryEntry {
        broadcast: id.to_string(),
        state: state.into(),
        private,
        incarnation,
        ..DirectoryEntry::default()
    }
}

fn control_phase(phase: Phase) -> control::Phase {
    match phase {
        Phase::Created => control::Phase::Created,
        Phase::Live => control::Phase::Live,
        Phase::Interrupted => control::Phase::Interrupted,
        Phase::Ended | Phase::Gone => control::Phase::Ended,
    }
}

/// What the link with control asks of this origin. It exists before the
/// registry does, because the registry needs the link.
#[derive(Debug)]
pub struct Reports {
    registry: Mutex<Weak<Registry>>,
    meter: Mutex<Meter>,
}

impl Reports {
    /// Reports nothing yet.
    pub fn new(now: Instant) -> Self {
        Self { registry: Mutex::default(), meter: Mutex::new(Meter::new(now)) }
    }

    /// From now on, report this registry.
    pub fn of(&self, registry: &Arc<Registry>) {
        *self.registry.lock() = Arc::downgrade(registry);
    }

    fn registry(&self) -> Option<Arc<Registry>> {
        self.registry.lock().upgrade()
    }
}

impl Source for Reports {
    fn load(&self) -> Load {
        let Some(registry) = self.registry() else { return Load::default() };
        let live = registry.metrics.publishers.get();
        let now = tokio::time::Instant::now().into_std();
        let busy = self.meter.lock().read(now, registry.metrics.sent.get());
        Load {
            viewers: u32::try_from(registry.metrics.push_viewers().get()).unwrap_or(0),
            broadcasts: u32::try_from(live).unwrap_or(0),
            egress_bps: busy.egress_bps,
            cpu: busy.cpu,
            viewer_capacity: registry.live.get().viewer_capacity,
            ..Load::default()
        }
    }

    fn records(&self) -> Vec<BroadcastRecord> {
        let Some(registry) = self.registry() else { return Vec::new() };
        let broadcasts: Vec<_> = registry.broadcasts.lock().values().cloned().collect();
        let known = broadcasts.iter().map(|broadcast| (broadcast.id, broadcast.record()));
        known
            .filter(|(_, record)| record.named && record.phase != Phase::Gone)
            .map(|(id, record)| BroadcastRecord {
                broadcast: id.to_string(),
                phase: control_phase(record.phase).into(),
                started_at_ms: record.started.map_or(0, UtcTime::millis),
                ended_at_ms: record.ended.map_or(0, UtcTime::millis),
                epoch: record.epoch,
                memo: record.memo,
                private: record.private,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use spyglass_api::auth::ClusterKey;
    use spyglass_api::control::Role;
    use spyglass_daemon::Shutdown;
    use spyglass_daemon::admin::Admin;
    use spyglass_daemon::attach::{self, Profile};
    use spyglass_daemon::state::StateDir;

    use super::*;

    /// Of an origin whose control never answers.
    fn registry(state: &tempfile::TempDir) -> Arc<Registry> {
        let profile = Profile {
            node: "origin-1".parse().unwrap(),
            role: Role::Origin,
            public_http: String::new(),
            public_rtmp: String::new(),
            public_grpc: String::new(),
            location: None,
            incarnation: 1,
        };
        let (attachment, _) = attach::start(
            vec!["http://127.0.0.1:9".to_owned()],
            ClusterKey::new("cluster-key-of-this-test").unwrap(),
            profile,
            StateDir::open(state.path()).unwrap(),
            Arc::new(Reports::new(Instant::now())),
            Shutdown::new(),
        )
        .unwrap();
        let metrics = Metrics::register(&mut Admin::new().registry());
        let journal = Journal::open(state.path().join("broadcasts"), metrics.clone()).unwrap();
        let id = "origin-1".parse().unwrap();
        Registry::open(
            id,
            Live::new(Config::default()),
            metrics,
            journal,
            attachment,
            1,
            Vec::new(),
        )
    }

    #[tokio::test]
    async fn a_failed_task_without_a_page_leaves_its_broadcast_in_the_directory() {
        let state = tempfile::tempdir().unwrap();
        let registry = registry(&state);
        let id = BroadcastId::from_random([1; 16]);
        let failed = registry.ensure(id, true).unwrap();
        registry.revive(id).await;
        let revived = registry.get(id).expect("what was announced is not forgotten");
        assert!(!Arc::ptr_eq(&failed, &revived));
        assert!(revived.record().private);
        assert_eq!(registry.directory().len(), 1);
        // Nor does one come back that was swept while the journal was read.
        registry.broadcasts.lock().clear();
        registry.revive(id).await;
        assert!(registry.get(id).is_none());
    }

    #[test]
    fn numbers_begin_behind_all_that_an_older_token_can_have_used() {
        let started = UtcTime::from_millis(1_790_000_000_000);
        let at = |seconds| started + Duration::from_secs(seconds);
        let older = started - Duration::from_millis(90_500);
        let Resume { next_sequence, epoch, tail } = floor(started, at(10), older);
        // 100 chunks ended in 100.5 s, and 101 epochs can have been opened.
        assert_eq!((next_sequence, epoch, tail), (100, 101, None));
        // What is younger than the process has been nowhere else.
        assert_eq!(floor(started, at(10), started), Resume::default());
        assert_eq!(floor(started, at(10), at(5)), Resume::default());
        // Nor is there a name in what was alive for less than a second.
        let just = started - Duration::from_millis(10);
        assert_eq!(floor(started, started, just), Resume::default());
    }
}
