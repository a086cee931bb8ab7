//! The task that speaks to control: one stream at a time, for ever.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use spyglass_api::MAX_MESSAGE;
use spyglass_api::control::control_client::ControlClient;
use spyglass_api::control::report::Report as Kind;
use spyglass_api::control::{
    self, BroadcastEvent, BroadcastRecord, Phase, Register, Report, Update, update,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};

use super::outbox::Outbox;
use super::{Command, Profile, Shared, Source, saved};
use crate::{Backoff, Shutdown, grpc, now_utc, random};

const HEARTBEAT: Duration = Duration::from_secs(1);
const DIGEST: Duration = Duration::from_secs(10);

/// Changes of leases within this time go in one report.
const DELTA: Duration = Duration::from_millis(200);

/// Time for control to answer the call.
const ANSWER: Duration = Duration::from_secs(5);

/// A stream that held this long was a success.
const STABLE: Duration = Duration::from_secs(5);

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Reports between us and the HTTP/2 connection; the rest waits in the outbox.
const IN_FLIGHT: usize = 16;

/// Bytes of broadcast records in Register, of the 256 KiB of a message.
const RECORDS: usize = 200 * 1024;

/// What a record takes beside its memo, in bytes, generously.
const RECORD: usize = 96;

/// See the module.
pub(super) struct Link {
    shared: Arc<Shared>,
    channels: Vec<(String, grpc::Client)>,
    profile: Profile,
    source: Arc<dyn Source>,
    events: mpsc::Receiver<BroadcastEvent>,
    commands: mpsc::Sender<Command>,
}

/// Why a session is over.
enum End {
    Shutdown,
    /// Control went away or was never there.
    Lost(String),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Lost(match status.code() {
            Code::Ok | Code::Unavailable | Code::Unknown => status.message().to_owned(),
            code => format!("{code}: {}", status.message()),
        })
    }
}

impl Link {
    pub(super) fn new(
        shared: Arc<Shared>,
        channels: Vec<(String, grpc::Client)>,
        profile: Profile,
        source: Arc<dyn Source>,
        events: mpsc::Receiver<BroadcastEvent>,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        Self { shared, channels, profile, source, events, commands }
    }

    /// Connects, again and again, to each control in turn.
    pub(super) async fn run(mut self, shutdown: Shutdown) {
        tokio::spawn(saved::keep(Arc::clone(&self.shared), shutdown.clone()));
        let mut backoff = Backoff::new(FIRST_RETRY, LAST_RETRY);
        let mut told = false;
        for turn in 0.. {
            let (url, channel) = self.channels[turn % self.channels.len()].clone();
            let began = Instant::now();
            let end = tokio::select! {
                end = self.session(&url, channel, &shutdown) => end,
                () = shutdown.requested() => End::Shutdown,
            };
            let was_attached = self.shared.attached.send_replace(false);
            self.shared.leases.lock().stop_telling();
            let End::Lost(reason) = end else { return };
            if was_attached || !told {
                // Once: it is tried for as long as it takes.
                warn!(control = url, reason, "no control; going on without it");
            } else {
                debug!(control = url, reason, "still no control");
            }
            told = true;
            if was_attached && began.elapsed() >= STABLE {
                backoff.reset();
            }
            let wait = backoff.next(u32::from_le_bytes(random()));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.requested() => return,
            }
        }
    }

    async fn session(&mut self, url: &str, channel: grpc::Client, shutdown: &Shutdown) -> End {
        let (reports, outgoing) = mpsc::channel(IN_FLIGHT);
        let mut outbox = Outbox::default();
        let register = self.register(&mut outbox);
        if reports.try_send(Report { report: Some(Kind::Register(register)) }).is_err() {
            return End::Lost("no room for the first report".into());
        }
        let mut client = ControlClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let call = timeout(ANSWER, client.attach(ReceiverStream::new(outgoing))).await;
        let updates = match call {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return status.into(),
            Err(_) => return End::Lost("no answer within 5 s".into()),
        };
        info!(control = url, "attached to control");
        self.shared.attached.send_replace(true);
        outbox.digest(self.shared.leases.lock().digest());
        self.exchange(updates, reports, outbox, shutdown).await
    }

    /// Everything this node knows. What happened before is in the records, so
    /// events that still wait are dropped.
    fn register(&mut self, outbox: &mut Outbox) -> Register {
        self.shared.overflowed.store(false, Ordering::Relaxed);
        while self.events.try_recv().is_ok() {}
        let (broadcasts, rest) = fitting(self.source.records());
        if !rest.is_empty() {
            warn!(
                count = rest.len(),
                "too many broadcasts for one report; sending the rest's phases"
            );
        }
        rest.into_iter().for_each(|record| outbox.event(as_event(&record)));
        Register {
            node: self.profile.node.to_string(),
            role: self.profile.role.into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            public_http: self.profile.public_http.clone(),
            public_rtmp: self.profile.public_rtmp.clone(),
            public_grpc: self.profile.public_grpc.clone(),
            location: self.profile.location.map(Into::into),
            incarnation: self.profile.incarnation,
            broadcasts,
            keys: self.shared.keys.lock().to_register(),
        }
    }

    async fn exchange(
        &mut self,
        mut updates: Streaming<Update>,
        reports: mpsc::Sender<Report>,
        mut outbox: Outbox,
        shutdown: &Shutdown,
    ) -> End {
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
                update = next(&self.commands, &mut updates) => match update {
                    Ok((permit, Some(update))) => self.on_update(update, permit),
                    Ok((_, None)) => return End::Lost("control closed the stream".into()),
                    Err(status) => return status.into(),
                },
                Some(event) = self.events.recv(), if outbox.has_room() => outbox.event(event),
                _ = heartbeat.tick() => outbox.heartbeat(self.source.load()),
                _ = delta.tick() => {
                    if self.shared.overflowed.load(Ordering::Relaxed) {
                        return End::Lost("too many events at once; registering again".into());
                    }
                    let mut leases = self.shared.leases.lock();
                    while outbox.takes_deltas() && let Some(delta) = leases.delta() {
                        outbox.delta(delta);
                    }
                }
                _ = digest.tick() => {
                    if outbox.takes_digest() {
                        outbox.digest(self.shared.leases.lock().digest());
                    }
                    if self.shared.keys.lock().on_tick(now_utc()) {
                        self.shared.changed.notify_one();
                    }
                }
                () = shutdown.requested() => return End::Shutdown,
            }
        }
    }

    fn on_update(&self, update: Update, permit: Option<mpsc::Permit<'_, Command>>) {
        let shared = &self.shared;
        // A field of a later release: nothing to do.
        let Some(update) = update.update else { return };
        let command = match update {
            update::Update::Keys(keys) => {
                if shared.keys.lock().on_update(keys, now_utc()) {
                    info!("new verification keys");
                    shared.changed.notify_one();
                }
                return;
            }
            update::Update::Nodes(control::Nodes { nodes }) => {
                let nodes: Arc<[_]> = nodes.into();
                let changed = shared.nodes.send_if_modified(|held| {
                    let changed = *held != nodes;
                    *held = nodes;
                    changed
                });
                if changed {
                    shared.changed.notify_one();
                }
                return;
            }
            update::Update::Revocation(revocation) => {
                shared.revoke(revocation);
                return;
            }
            update::Update::Expect(expect) => Command::Expect(expect),
            update::Update::End(end) => match end.broadcast.parse() {
                Ok(id) => Command::End(id),
                Err(_) => return,
            },
            update::Update::Drain(drain) => Command::Drain(drain.draining),
        };
        // Without a permit the service has dropped its receiver and wants none.
        if let Some(permit) = permit {
            permit.send(command);
        }
    }
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

/// The records that fit in Register, the running ones first, and those that do not.
fn fitting(mut records: Vec<BroadcastRecord>) -> (Vec<BroadcastRecord>, Vec<BroadcastRecord>) {
    let ended = |record: &BroadcastRecord| record.phase() == Phase::Ended;
    records.sort_by_key(|record| (ended(record), std::cmp::Reverse(record.ended_at_ms)));
    let mut bytes = 0;
    let fits = |record: &BroadcastRecord| {
        bytes += RECORD + record.memo.len();
        bytes <= RECORDS
    };
    let count = records.iter().map(fits).take_while(|&fits| fits).count();
    let rest = records.split_off(count);
    (records, rest)
}

fn as_event(record: &BroadcastRecord) -> BroadcastEvent {
    let at_ms =
        if record.phase() == Phase::Ended { record.ended_at_ms } else { record.started_at_ms };
    let (broadcast, phase) = (record.broadcast.clone(), record.phase);
    BroadcastEvent { broadcast, phase, at_ms, epoch: record.epoch }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_stays_within_a_message_and_names_the_running_first() {
        let record = |n: usize| BroadcastRecord {
            broadcast: format!("{n:013}"),
            phase: if n.is_multiple_of(2) { Phase::Ended } else { Phase::Live }.into(),
            ended_at_ms: n as i64,
            memo: vec![0; 1_000].into(),
            ..BroadcastRecord::default()
        };
        let (fit, rest) = fitting((0..300).map(record).collect());
        assert_eq!(fit.len() + rest.len(), 300);
        assert_eq!(fit.len(), RECORDS / (1_000 + RECORD));
        assert!(fit[..150].iter().all(|record| record.phase() == Phase::Live));
        assert_eq!(fit[150].ended_at_ms, 298, "then the last to end");
        assert_eq!(as_event(&rest[0]).phase(), Phase::Ended);
    }
}
