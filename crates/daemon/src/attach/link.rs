//! The task that speaks to one control: one stream at a time, for ever.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use spyglass_api::MAX_MESSAGE;
use spyglass_api::auth::ClusterKey;
use spyglass_api::control::control_client::ControlClient;
use spyglass_api::control::report::Report as Kind;
use spyglass_api::control::{
    self, BroadcastEvent, BroadcastRecord, BroadcastRecords, Phase, Register, Report, Update,
    update,
};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};

use super::links::Session;
use super::outbox::Outbox;
use super::{Command, LinkId, Profile, Shared, Source};
use crate::{Backoff, Shutdown, grpc, now_utc, random};

const HEARTBEAT: Duration = Duration::from_secs(1);
const DIGEST: Duration = Duration::from_secs(10);

/// Changes of leases within this time go in one report.
const DELTA: Duration = Duration::from_millis(200);

/// Time for control to answer the call.
const ANSWER: Duration = Duration::from_secs(5);

/// A stream that held this long was a success.
const STABLE: Duration = Duration::from_secs(5);

/// Time for control to hear that this node stops.
pub(super) const GOODBYE: Duration = Duration::from_secs(1);

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// How often a node whose name another process has asks whether it is free. It
/// yields: the two do not take turns, and the operator is to rename one.
const REPLACED: Duration = Duration::from_secs(3);

/// Longest warning of a control that is logged, in characters.
const WARNING: usize = 512;

/// What is said of an address where another protocol is spoken.
const NO_GRPC: &str = "no gRPC there: is this control's HTTP address? Give --control its gRPC \
                       address, whose port is 9080 unless it was changed";

/// Reports between us and the HTTP/2 connection; the rest waits in the outbox.
const IN_FLIGHT: usize = 16;

/// Bytes of broadcast records in one report, of the 256 KiB of a message.
const RECORDS: usize = 200 * 1024;

/// What a record takes beside its memo, in bytes, generously.
const RECORD: usize = 96;

/// What all links of a node have.
pub(super) struct Node {
    pub shared: Arc<Shared>,
    pub key: ClusterKey,
    pub profile: Profile,
    pub source: Arc<dyn Source>,
    pub commands: mpsc::Sender<Command>,
}

/// See the module.
pub(super) struct Link {
    node: Arc<Node>,
    id: LinkId,
    url: String,
    channel: grpc::Client,
}

/// Why a session is over.
enum End {
    Shutdown,
    /// Control went away or was never there.
    Lost(String),
    /// Another process has this node's name.
    Replaced(String),
    /// This address leads to a control that another link is attached to; those
    /// that were.
    Same(BTreeSet<String>),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Lost(match status.code() {
            Code::Aborted => return Self::Replaced(status.message().to_owned()),
            Code::Ok | Code::Unavailable | Code::Unknown => status.message().to_owned(),
            code => format!("{code}: {}", status.message()),
        })
    }
}

impl Link {
    pub(super) fn new(node: Arc<Node>, id: LinkId, url: String, channel: grpc::Client) -> Self {
        Self { node, id, url, channel }
    }

    /// Connects, again and again.
    pub(super) async fn run(self, shutdown: Shutdown) {
        let (shared, url) = (&self.node.shared, &self.url);
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        let (mut told, mut yields) = (false, false);
        loop {
            let began = Instant::now();
            let mut was_attached = false;
            let end = self.session(&mut was_attached, yields, &shutdown).await;
            let (reason, replaced) = match end {
                End::Shutdown => return,
                End::Same(attached) => {
                    debug!(control = url, "leads to a control that is attached already");
                    shared.controls.lock().on_reached(url);
                    tokio::select! {
                        () = shared.until_one_is_gone(&attached) => continue,
                        () = shutdown.requested() => return,
                    }
                }
                End::Replaced(reason) => (reason, true),
                End::Lost(reason) => (reason, false),
            };
            shared.controls.lock().on_away(url, Instant::now().into_std());
            let others = shared.sessions.borrow().len();
            if replaced && (was_attached || !yields) {
                warn!(control = url, "{reason}");
            } else if !replaced && (was_attached || !told) {
                // Once: it is tried for as long as it takes.
                match others {
                    0 => warn!(control = url, reason, "no control; going on without it"),
                    _ => {
                        warn!(control = url, reason, others, "a control is away; others are there")
                    }
                }
            } else {
                debug!(control = url, reason, "still no control");
            }
            told = true;
            yields = replaced || (yields && !was_attached);
            if was_attached && began.elapsed() >= STABLE {
                backoff.reset();
            }
            let random = u32::from_le_bytes(random());
            let wait = match replaced {
                true => Backoff::new(REPLACED, REPLACED).next(random),
                false => backoff.next(random),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.requested() => return,
            }
        }
    }

    async fn session(&self, attached: &mut bool, yields: bool, shutdown: &Shutdown) -> End {
        let shared = &self.node.shared;
        let (reports, outgoing) = mpsc::channel(IN_FLIGHT);
        let mut outbox = Outbox::default();
        // Before the records are read: what happens from here on is told.
        let events = shared.events.subscribe();
        let others = shared.others(self.id);
        let register = self.register(&others, yields, &mut outbox);
        if reports.try_send(Report { report: Some(Kind::Register(register)) }).is_err() {
            return End::Lost("no room for the first report".into());
        }
        let mut client = ControlClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let call = tokio::select! {
            call = timeout(ANSWER, client.attach(ReceiverStream::new(outgoing))) => call,
            () = shutdown.requested() => return End::Shutdown,
        };
        let updates = match call {
            Ok(Ok(response)) if !is_grpc(response.metadata()) => {
                return End::Lost(NO_GRPC.to_owned());
            }
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) if status.code() == Code::AlreadyExists && !others.is_empty() => {
                return End::Same(others);
            }
            Ok(Err(status)) => return status.into(),
            Err(_) => return End::Lost("no answer within 5 s".into()),
        };
        info!(control = self.url, "attached to control");
        *attached = true;
        shared.controls.lock().on_reached(&self.url);
        let session = Session::open(shared, self.id);
        outbox.digest(shared.leases.lock().digest(self.id));
        self.exchange(&session, updates, reports, outbox, events, shutdown).await
    }

    /// Everything this node knows. What happened before is in the records.
    fn register(&self, others: &BTreeSet<String>, yields: bool, outbox: &mut Outbox) -> Register {
        let Node { profile, source, shared, .. } = &*self.node;
        let mut pages = pages(source.records()).into_iter();
        let broadcasts = pages.next().unwrap_or_default();
        pages.for_each(|broadcasts| outbox.records(BroadcastRecords { broadcasts }));
        let (keys, revoked_keys) = {
            let held = shared.keys.lock();
            (held.to_register(), held.revoked().to_vec())
        };
        Register {
            node: profile.node.to_string(),
            role: profile.role.into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            public_http: profile.public_http.clone(),
            public_rtmp: profile.public_rtmp.clone(),
            public_grpc: profile.public_grpc.clone(),
            location: profile.location.map(Into::into),
            incarnation: profile.incarnation,
            broadcasts,
            keys,
            attached: others.iter().cloned().collect(),
            revoked_keys,
            yields,
        }
    }

    async fn exchange(
        &self,
        session: &Session<'_>,
        mut updates: Streaming<Update>,
        reports: mpsc::Sender<Report>,
        mut outbox: Outbox,
        mut events: broadcast::Receiver<BroadcastEvent>,
        shutdown: &Shutdown,
    ) -> End {
        let Node { shared, source, commands, .. } = &*self.node;
        let mut delays = shared.delays.subscribe();
        let mut heartbeat = interval(HEARTBEAT);
        let mut delta = interval(DELTA);
        let mut digest = tokio::time::interval_at(Instant::now() + DIGEST, DIGEST);
        for timer in [&mut heartbeat, &mut delta, &mut digest] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                permit = reports.reserve(), if !outbox.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(report) = outbox.next() {
                            permit.send(report);
                        }
                    }
                    Err(_) => return End::Lost("the connection closed".into()),
                },
                update = next(commands, &mut updates) => match update {
                    Ok((permit, Some(update))) => self.on_update(session, update, permit),
                    Ok((_, None)) => return End::Lost("control closed the stream".into()),
                    Err(status) => return status.into(),
                },
                event = events.recv(), if outbox.has_room() => match event {
                    Ok(event) => outbox.event(event),
                    Err(RecvError::Lagged(_)) => {
                        return End::Lost("too many events at once; registering again".into());
                    }
                    Err(RecvError::Closed) => return End::Shutdown,
                },
                delays = delays.recv(), if outbox.has_room() => match delays {
                    Ok(report) => outbox.delays(report),
                    // What is lost was of a moment that is over.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return End::Shutdown,
                },
                _ = heartbeat.tick() => outbox.heartbeat(source.load(), source.crowds()),
                _ = delta.tick() => {
                    let mut leases = shared.leases.lock();
                    while outbox.takes_deltas() && let Some(delta) = leases.delta(self.id) {
                        outbox.delta(delta);
                    }
                }
                _ = digest.tick() => {
                    if outbox.takes_digest() {
                        outbox.digest(shared.leases.lock().digest(self.id));
                    }
                    if shared.keys.lock().on_tick(now_utc()) {
                        shared.changed.notify_one();
                    }
                }
                () = shutdown.requested() => break,
            }
        }
        // Whether control hears it or not: there is nothing more to do.
        let _ = timeout(GOODBYE, leave(reports, updates)).await;
        End::Shutdown
    }

    fn on_update(
        &self,
        session: &Session<'_>,
        update: Update,
        permit: Option<mpsc::Permit<'_, Command>>,
    ) {
        let shared = &self.node.shared;
        // A field of a later release: nothing to do.
        let Some(update) = update.update else { return };
        let command = match update {
            update::Update::Controls(control::Controls { id, grpc }) => {
                session.named(id);
                if shared.controls.lock().on_named(self.id, &grpc) {
                    shared.controls_changed.notify_one();
                    shared.changed.notify_one();
                }
                return;
            }
            update::Update::Keys(keys) => {
                let mut heard = shared.heard.lock();
                let keys = heard.on_keys(self.id, keys);
                return shared.hold_keys(keys);
            }
            update::Update::Nodes(control::Nodes { nodes }) => {
                let mut heard = shared.heard.lock();
                let nodes = heard.on_nodes(self.id, nodes);
                return shared.hold_nodes(nodes);
            }
            update::Update::Gateways(named) => {
                let control = shared.sessions.borrow().get(&self.id).cloned().unwrap_or_default();
                let mut heard = shared.heard.lock();
                if let Some(gateways) = heard.gateways.on_named(self.id, &control, named) {
                    shared.hold_gateways(gateways);
                }
                return;
            }
            update::Update::Warning(control::Warning { text }) => {
                let text: String = text.chars().take(WARNING).collect();
                warn!(control = self.url, "{text}");
                return;
            }
            update::Update::Revocation(revocation) => return shared.revoke(revocation),
            update::Update::Expect(expect) => Command::Expect(expect),
            update::Update::End(end) => match end.broadcast.parse() {
                Ok(id) => Command::End(id),
                Err(_) => return,
            },
            update::Update::Drain(drain) => match shared.heard.lock().on_drain(drain.draining) {
                Some(draining) => Command::Drain(draining),
                None => return,
            },
        };
        // Without a permit the service has dropped its receiver and wants none.
        if let Some(permit) = permit {
            permit.send(command);
        }
    }
}

/// Whether an answer is one of gRPC: a web server answers too, in its own way.
fn is_grpc(headers: &MetadataMap) -> bool {
    let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

/// Says that this node stops, and waits until control has heard it: who drops the
/// stream at once takes back what is still on its way.
async fn leave(reports: mpsc::Sender<Report>, mut updates: Streaming<Update>) {
    let report = Some(Kind::Leaving(control::Leaving {}));
    if reports.send(Report { report }).await.is_err() {
        return;
    }
    drop(reports);
    while let Ok(Some(_)) = updates.message().await {}
}

/// The next update, once there is room for the command it may hold. Nothing is
/// lost when this future is dropped.
async fn next<'a>(
    commands: &'a mpsc::Sender<Command>,
    updates: &mut Streaming<Update>,
) -> Result<(Option<mpsc::Permit<'a, Command>>, Option<Update>), Status> {
    let permit = commands.reserve().await.ok();
    Ok((permit, updates.message().await?))
}

/// The records, as many in each page as fit in a message, the running ones
/// first. One whose memo would not fit goes without.
fn pages(mut records: Vec<BroadcastRecord>) -> Vec<Vec<BroadcastRecord>> {
    let ended = |record: &BroadcastRecord| record.phase() == Phase::Ended;
    records.sort_by_key(|record| (ended(record), std::cmp::Reverse(record.ended_at_ms)));
    let mut pages = vec![Vec::new()];
    let mut room = RECORDS;
    for mut record in records {
        if record.memo.len() > RECORDS - RECORD {
            record.memo.clear();
        }
        let size = RECORD + record.memo.len();
        if size > room {
            pages.push(Vec::new());
            room = RECORDS;
        }
        room -= size;
        if let Some(page) = pages.last_mut() {
            page.push(record);
        }
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_web_server_answers_is_no_grpc() {
        let of = |kind: &'static str| {
            let mut headers = MetadataMap::new();
            headers.insert("content-type", kind.parse().unwrap());
            is_grpc(&headers)
        };
        assert!(of("application/grpc") && of("application/grpc+proto"));
        assert!(!of("application/problem+json") && !is_grpc(&MetadataMap::new()));
    }

    #[test]
    fn each_page_stays_within_a_message_and_the_running_come_first() {
        let record = |n: usize| BroadcastRecord {
            broadcast: format!("{n:013}"),
            phase: if n.is_multiple_of(2) { Phase::Ended } else { Phase::Live }.into(),
            ended_at_ms: n as i64,
            memo: vec![0; 1_000].into(),
            ..BroadcastRecord::default()
        };
        let mut records: Vec<_> = (0..300).map(record).collect();
        records[1].memo = vec![0; RECORDS].into();
        let pages = pages(records);
        assert_eq!(pages.len(), 2);
        let all = pages.concat();
        assert_eq!(all.len(), 300);
        assert!(all[..150].iter().all(|record| record.phase() == Phase::Live));
        assert_eq!(all[150].ended_at_ms, 298, "then the last to end");
        for page in pages {
            let report = BroadcastRecords { broadcasts: page };
            assert!(prost::Message::encoded_len(&report) < MAX_MESSAGE);
        }
        assert_eq!(all.iter().filter(|record| record.memo.is_empty()).count(), 1);
    }
}
