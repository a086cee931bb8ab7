//! The gRPC side: nodes report, and are told what they must know.
//!
//! One task reads each node's reports in their order and applies them; what it
//! is told waits in [`crate::links`]. Both ends are over when the node opens
//! another stream.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use spyglass_api::control::control_server::Control;
use spyglass_api::control::report::Report as Kind;
use spyglass_api::control::{self, Register, Report, Update, update};
use spyglass_api::convert::{self, Invalid};
use spyglass_daemon::attach::CROWDS;
use spyglass_daemon::{Shutdown, now_utc};
use spyglass_media::{BroadcastId, Location, NodeId, UtcTime, ViewerId};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use crate::admission::Seat;
use crate::audience::Lease;
use crate::broadcasts::CreateError;
use crate::events::viewers;
use crate::fleet::{Load, Registration, Role, SILENCE};
use crate::joined::Who;
use crate::links::Turn;
use crate::panel::nodes::Refused;
use crate::panel::{Panel, expect};
use crate::record::{Memo, Phase, Record, Report as Said};
use crate::store;

/// Time for the first report.
const FIRST: Duration = Duration::from_secs(5);

/// How long a node whose name another process has waits for that one's stream
/// to end.
const ENDING: Duration = Duration::from_secs(1);

/// Broadcasts of one Register that are written at once.
const AT_ONCE: usize = 64;

/// Longest URL or version that a node may name.
const MAX_TEXT: usize = 512;

/// Longest memo that is taken back.
const MAX_MEMO: usize = 64 * 1024;

/// Answers `spyglass.control.v1`.
#[derive(Clone)]
pub struct Service {
    panel: Arc<Panel>,
    sessions: Arc<AtomicU64>,
    shutdown: Shutdown,
}

/// One node's stream.
struct Session {
    panel: Arc<Panel>,
    role: Role,
    node: NodeId,
    number: u64,
}

impl Service {
    /// For this panel; streams end with `shutdown`.
    pub fn new(panel: Arc<Panel>, shutdown: Shutdown) -> Self {
        Self { panel, sessions: Arc::new(AtomicU64::new(1)), shutdown }
    }
}

#[tonic::async_trait]
impl Control for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<Update, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<Report>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let from = request.remote_addr();
        let mut reports = request.into_inner();
        let first = tokio::time::timeout(FIRST, reports.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no report within 5 s"))??;
        let Some(Kind::Register(register)) = first.and_then(|first| first.report) else {
            return Err(Status::failed_precondition("the first report must be Register"));
        };
        let node = convert::node(&register.node)?;
        let registration = registration(&register)?;
        let role = registration.role;
        let panel = &self.panel;
        if register.attached.contains(&panel.instance) {
            // Another spelling of an address, or a load balancer.
            return Err(Status::already_exists("this node has a stream to this control"));
        }
        // A process that was killed is started anew before the end of its stream
        // is noticed here.
        if let Some(over) = panel.stream_of_another(&node, registration.incarnation) {
            let _ = tokio::time::timeout(ENDING, over.cancelled()).await;
        }
        let adopted = panel.keys.adopt(&register.keys, &register.revoked_keys, now_utc());
        match adopted.await {
            Ok(true) => panel.settle(),
            Ok(false) => {}
            // A node is needed all the same; its keys come again with the next.
            Err(error) => warn!(%node, %error, "a node's keys cannot be adopted now"),
        }
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        let (opened, registered) = match panel.admit(&node, number, registration) {
            Ok(admitted) => admitted,
            Err(refused) => {
                // It asks again and again, and says that it was refused before.
                if !register.yields {
                    let from = peer(from);
                    warn!(%node, from, "a node is refused: {refused}");
                }
                return Err(refused.into());
            }
        };
        let mut took = None;
        if let Some(replaced) = opened.replaced
            && registered.restarted
        {
            // It was lost, or it would have kept its name. Should it only have
            // slept, it is told when it wakes.
            let told = format!(
                "another process registered as {node} from {} while nothing was heard of this \
                 one; give each node its own --id",
                peer(from)
            );
            warn!("{told}");
            replaced.end(told);
            took = Some(format!(
                "another process was attached as {node} and has said nothing for 5 s; unless it \
                 was this node before a restart, give each node its own --id"
            ));
        }
        info!(%node, role = role.as_str(), "node attached");
        panel.nodes_changed.notify_one();
        let session = Session { panel: Arc::clone(panel), role, node, number };
        let mut initial = session.initial(role);
        initial.extend(took.map(|text| update::Update::Warning(control::Warning { text })));
        let (shutdown, replaced) = (self.shutdown.clone(), opened.over);
        tokio::spawn(async move {
            let node = session.node.clone();
            let over = async {
                tokio::select! {
                    () = replaced.cancelled() => debug!(%node, "stream replaced"),
                    () = shutdown.requested() => {}
                }
            };
            session.run(reports, register.broadcasts, registered, opened.turn, over).await;
        });
        let updates = tokio_stream::iter(initial)
            .map(|update| Update { update: Some(update) })
            .chain(ReceiverStream::new(opened.updates));
        let why = futures_util::stream::once(opened.reason)
            .filter_map(async |reason| Some(Err(Status::aborted(reason.ok()?))));
        Ok(Response::new(Box::pin(updates.map(Ok).chain(why))))
    }
}

impl Session {
    /// What a node must know at once.
    fn initial(&self, role: Role) -> Vec<update::Update> {
        let panel = &self.panel;
        let mut updates = vec![
            update::Update::Controls(panel.controls()),
            update::Update::Keys(panel.keys.update()),
        ];
        if !panel.is_settling() {
            updates.push(update::Update::Nodes(panel.node_list()));
        }
        let draining = panel.fleet().is_draining(&self.node);
        updates.push(update::Update::Drain(control::Drain { draining }));
        updates.extend(panel.revocations.updates().into_iter().map(update::Update::Revocation));
        if role == Role::Edge {
            updates.extend(panel.named_gateways().into_iter().map(update::Update::Gateways));
        }
        if role == Role::Origin {
            let running = panel.broadcasts.running_on(&self.node);
            updates.extend(running.iter().map(|record| update::Update::Expect(expect(record))));
        }
        updates
    }

    /// Compares what an origin has with what control remembers.
    async fn registered(
        &self,
        role: Role,
        records: Vec<control::BroadcastRecord>,
        registered: crate::fleet::Registered,
    ) {
        if self.panel.store().is_away() {
            // Its broadcasts are compared when the store is back.
            return self.panel.unwritten().node(&self.node);
        }
        if registered.changed
            && let Err(error) = self.panel.keep_node(&self.node, None).await
        {
            warn!(node = %self.node, %error, "a node cannot be kept");
        }
        if role != Role::Origin {
            return;
        }
        let known: std::collections::HashSet<String> =
            records.iter().map(|record| record.broadcast.clone()).collect();
        self.on_records(records).await;
        if registered.restarted {
            let forgotten = self.panel.broadcasts.running_on(&self.node);
            for record in forgotten.iter().filter(|record| !known.contains(record.id.as_str())) {
                let now = now_utc();
                let forget = |record: &mut Record| record.on_origin_forgot(now);
                if let Err(error) = self.panel.broadcasts.change(record.id, forget).await {
                    warn!(broadcast = %record.id, %error, "a broadcast cannot be written");
                }
            }
        }
    }

    async fn on_records(&self, records: Vec<control::BroadcastRecord>) {
        futures_util::stream::iter(records)
            .for_each_concurrent(AT_ONCE, |record| self.on_record(record))
            .await;
    }

    async fn on_record(&self, found: control::BroadcastRecord) {
        let Ok(id) = convert::broadcast(&found.broadcast) else { return };
        let Some(phase) = phase(found.phase()) else { return };
        let at = if phase == Phase::Ended { found.ended_at_ms } else { found.started_at_ms };
        let said = Said { phase, at: UtcTime::from_millis(at), epoch: found.epoch };
        if self.panel.find(id).await.is_none() {
            self.rebuild(id, &found, said).await;
        }
        self.panel.on_report(&self.node, id, said).await;
    }

    /// A broadcast that control does not know (any more).
    async fn rebuild(&self, id: BroadcastId, found: &control::BroadcastRecord, said: Said) {
        let readable = (found.memo.len() <= MAX_MEMO).then_some(&found.memo);
        let memo = readable.and_then(|memo| serde_json::from_slice::<Memo>(memo).ok());
        let mut memo = memo.unwrap_or_default();
        if found.private && !memo.closed {
            memo.private_to.get_or_insert_default();
        }
        if memo.created_at_ms == 0 {
            memo.created_at_ms =
                if found.started_at_ms > 0 { found.started_at_ms } else { now_utc().millis() };
        }
        if memo.resume_ms == 0 {
            memo.resume_ms = self.panel.config.resume_seconds.saturating_mul(1000);
        }
        if memo.chunk_ms == 0 {
            memo.chunk_ms =
                crate::config::chunk_ms(self.panel.config.chunk_seconds).unwrap_or(3000);
        }
        let rtmp = self.panel.registration(&self.node).map(|node| node.rtmp).unwrap_or_default();
        let mut record = Record::new(id, self.node.clone(), rtmp, memo);
        record.started_at_ms = (found.started_at_ms > 0).then_some(found.started_at_ms);
        // At once what it is: one that is over takes nobody's room.
        record.on_report(said, now_utc());
        match self.panel.broadcasts.restore(record).await {
            Ok(_) => info!(broadcast = %id, node = %self.node, "broadcast learned from its origin"),
            // Another control learned of it at the same time.
            Err(CreateError::Store(store::Error::Exists)) => {
                self.panel.find(id).await;
            }
            Err(error) => warn!(broadcast = %id, %error, "a broadcast cannot be taken back"),
        }
    }

    /// Follows what the node says, until `over` or the node is.
    async fn run(
        self,
        reports: Streaming<Report>,
        broadcasts: Vec<control::BroadcastRecord>,
        registered: crate::fleet::Registered,
        turn: Turn,
        over: impl Future<Output = ()>,
    ) {
        let mut over = std::pin::pin!(over);
        // What the stream before has brought is applied first.
        let begin = async {
            let turn = turn.lock().await;
            self.registered(self.role, broadcasts, registered).await;
            self.panel.broadcasts.on_back(&self.node);
            turn
        };
        let begun = tokio::select! {
            turn = begin => Some(turn),
            () = &mut over => None,
        };
        if begun.is_some() {
            let reports = futures_util::stream::unfold(reports, |mut reports| async {
                let report = self.next(&mut reports).await?;
                Some((report, reports))
            });
            one_by_one(over, reports, |report| self.apply(report)).await;
        }
        self.panel.links.close(&self.node, self.number);
    }

    async fn next(&self, reports: &mut Streaming<Report>) -> Option<Report> {
        // A node that is silent is lost long before this.
        match tokio::time::timeout(SILENCE * 4, reports.message()).await {
            Ok(Ok(Some(report))) => return Some(report),
            Ok(Ok(None)) => info!(node = %self.node, "node detached"),
            Ok(Err(status)) => {
                info!(node = %self.node, reason = status.message(), "node detached");
            }
            Err(_) => warn!(node = %self.node, "node silent, stream closed"),
        }
        None
    }

    async fn apply(&self, report: Report) {
        // A report of a later release: nothing to do.
        let Some(report) = report.report else { return };
        if let Err(invalid) = self.on_report(report).await {
            warn!(node = %self.node, %invalid, "a report makes no sense and is ignored");
        }
    }

    async fn on_report(&self, report: Kind) -> Result<(), Invalid> {
        let (panel, node, number) = (&self.panel, &self.node, self.number);
        match report {
            Kind::Register(_) => {
                Err(Invalid { field: "register", reason: "it comes once, and first" })
            }
            Kind::Heartbeat(heartbeat) => {
                let load = heartbeat.load.map(load).unwrap_or_default();
                if panel.fleet().on_heartbeat(node, number, load, Instant::now()) {
                    info!(%node, "node is back");
                    panel.broadcasts.on_back(node);
                    panel.nodes_changed.notify_one();
                }
                if let Some(crowds) = heartbeat.crowds {
                    let crowds = crowds.crowds.iter().take(CROWDS);
                    let crowds = crowds
                        .map(|crowd| Ok((convert::broadcast(&crowd.broadcast)?, crowd.estimate)))
                        .collect::<Result<_, Invalid>>()?;
                    panel.fleet().on_crowds(node, number, crowds);
                }
                Ok(())
            }
            Kind::Event(event) => {
                let id = convert::broadcast(&event.broadcast)?;
                let unknown = Invalid { field: "phase", reason: "not one of this release" };
                let phase = phase(event.phase()).ok_or(unknown)?;
                let at = UtcTime::from_millis(event.at_ms);
                panel.on_report(node, id, Said { phase, at, epoch: event.epoch }).await;
                Ok(())
            }
            Kind::Records(_) if panel.store().is_away() => {
                panel.unwritten().node(node);
                Ok(())
            }
            Kind::Records(page) => {
                self.on_records(page.broadcasts).await;
                Ok(())
            }
            Kind::Leaving(control::Leaving {}) => {
                if panel.fleet().on_leaving(node, number) {
                    info!(%node, "node stops; nobody is sent there any more");
                    panel.nodes_changed.notify_one();
                }
                Ok(())
            }
            Kind::Delays(report) => {
                let is_known = |id| panel.broadcasts.get(id).is_some();
                panel.delays.on_report(&report, is_known, Instant::now());
                Ok(())
            }
            Kind::Leases(delta) => {
                let begun =
                    delta.begun.iter().map(|it| self.lease(it)).collect::<Result<_, _>>()?;
                let ended = delta.ended.iter().map(name).collect::<Result<Vec<_>, _>>()?;
                for (broadcast, viewer) in &ended {
                    panel.viewer_events.tell(viewers::Kind::Left, *broadcast, *viewer);
                }
                let changes = panel.fleet().on_leases(node, number, begun, &ended);
                panel.on_seats(changes).await;
                Ok(())
            }
            Kind::Digest(page) => {
                let leases =
                    page.leases.iter().map(|it| self.lease(it)).collect::<Result<_, _>>()?;
                let changes = panel.fleet().on_digest(node, number, leases, page.first, page.last);
                panel.on_seats(changes).await;
                Ok(())
            }
        }
    }
}

impl Session {
    fn lease(&self, lease: &control::Lease) -> Result<Lease, Invalid> {
        let (broadcast, viewer) = name(lease)?;
        let push = self.role == Role::Origin;
        let seat = Seat { number: lease.seat, generation: lease.generation };
        // Nobody holds a place in the push tier by polling.
        let holds = push || self.panel.is_beyond_push(broadcast, seat.number);
        let expires = (lease.expires_ms > 0).then(|| UtcTime::from_millis(lease.expires_ms));
        Ok(Lease {
            broadcast,
            viewer,
            push,
            seat: (lease.seat > 0 && holds).then_some(seat),
            who: Who { user: lease.user.parse().ok(), expires },
            since: UtcTime::from_millis(lease.since_ms),
        })
    }
}

/// Applies each report to its end before the next, and before it minds `over`:
/// half a report would leave seats that differ from who is known to watch.
async fn one_by_one<R, F: Future<Output = ()>>(
    mut over: impl Future<Output = ()> + Unpin,
    reports: impl Stream<Item = R>,
    apply: impl Fn(R) -> F,
) {
    let mut reports = std::pin::pin!(reports);
    loop {
        let report = tokio::select! {
            biased;
            () = &mut over => return,
            report = reports.next() => report,
        };
        let Some(report) = report else { return };
        apply(report).await;
    }
}

/// From where a node speaks, for the log.
fn peer(from: Option<SocketAddr>) -> String {
    from.map_or("an unknown address".to_owned(), |from| from.to_string())
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::resource_exhausted(refused.to_string()),
            Refused::Taken { .. } => Self::aborted(refused.to_string()),
        }
    }
}

fn name(lease: &control::Lease) -> Result<(BroadcastId, ViewerId), Invalid> {
    Ok((convert::broadcast(&lease.broadcast)?, convert::viewer(&lease.viewer)?))
}

fn load(load: control::Load) -> Load {
    Load {
        viewers: load.viewers,
        broadcasts: load.broadcasts,
        egress_bps: load.egress_bps,
        cpu: if load.cpu.is_finite() { load.cpu.max(0.0) } else { 0.0 },
        capacity: load.viewer_capacity,
        relayed: load.relayed,
        through_gateway: load.through_gateway,
        uses_gateways: load.uses_gateways,
    }
}

const fn phase(phase: control::Phase) -> Option<Phase> {
    match phase {
        control::Phase::Unspecified => None,
        control::Phase::Created => Some(Phase::Created),
        control::Phase::Live => Some(Phase::Live),
        control::Phase::Interrupted => Some(Phase::Interrupted),
        control::Phase::Ended => Some(Phase::Ended),
    }
}

fn registration(register: &Register) -> Result<Registration, Invalid> {
    let role = match register.role() {
        control::Role::Origin => Role::Origin,
        control::Role::Edge => Role::Edge,
        control::Role::Unspecified => {
            return Err(Invalid { field: "role", reason: "neither origin nor edge" });
        }
    };
    let text = |field, text: &String| {
        let fits = text.len() <= MAX_TEXT && !text.chars().any(char::is_control);
        if fits { Ok(text.clone()) } else { Err(Invalid { field, reason: "too long" }) }
    };
    let url = |field, url: &String| Ok(text(field, url)?.trim_end_matches('/').to_owned());
    Ok(Registration {
        role,
        version: text("version", &register.version)?,
        http: url("public_http", &register.public_http)?,
        rtmp: url("public_rtmp", &register.public_rtmp)?,
        grpc: url("public_grpc", &register.public_grpc)?,
        location: register.location.map(Location::try_from).transpose()?,
        incarnation: register.incarnation,
    })
}

#[cfg(test)]
mod tests;
