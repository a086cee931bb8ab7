//! Who delivers, and the tasks that do.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use serde_json::json;
use spyglass_daemon::{Shutdown, now_utc, random};
use spyglass_media::UtcTime;
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::post::{Message, TIME, post, tls};
use super::queue::{Queue, wait_ms};
use super::{Hook, Progress};
use crate::events::feed;
use crate::events::viewers;
use crate::panel::Panel;
use crate::store::{self, Engine};

/// Where it stands who delivers.
const LEASE: &str = "leases/webhooks";

/// How long whoever delivers may be silent.
const LEASE_MS: i64 = 10_000;

/// How often the lease is renewed and the hooks are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Viewers' events are gathered for so long, and sent so many at once.
const GATHER: Duration = Duration::from_secs(1);
const MAX_VIEWERS: usize = 500;

/// Viewers' events that one hook may be behind; more are dropped.
const MAX_WAITING: usize = 10_000;

/// Attempts of a message about viewers.
const VIEWER_ATTEMPTS: u32 = 3;

#[derive(Serialize, Deserialize)]
struct Lease {
    holder: String,
    until_ms: i64,
}

/// Delivers whenever this control is the one to, until `shutdown`.
pub async fn run(panel: Arc<Panel>, shutdown: Shutdown) {
    let tls = tls();
    let mut until_ms = 0;
    let mut working: HashMap<String, (Hook, CancellationToken)> = HashMap::new();
    loop {
        match hold(&panel).await {
            Ok(Some(until)) => until_ms = until,
            Ok(None) => until_ms = 0,
            Err(error) => tracing::debug!(%error, "who delivers webhooks is not known now"),
        }
        if now_utc().millis() >= until_ms {
            working.drain().for_each(|(_, (_, over))| over.cancel());
        } else if let Ok(hooks) = panel.webhooks.list().await {
            let hooks: HashMap<String, Hook> =
                hooks.into_iter().filter(|(_, hook)| !hook.disabled).collect();
            working.retain(|id, (hook, over)| {
                let same = hooks.get(id) == Some(hook);
                if !same {
                    over.cancel();
                }
                same
            });
            for (id, hook) in hooks {
                if let Entry::Vacant(place) = working.entry(id) {
                    let over = CancellationToken::new();
                    let work = Worker {
                        panel: Arc::clone(&panel),
                        id: place.key().clone(),
                        hook: Arc::new(hook.clone()),
                        tls: Arc::clone(&tls),
                        over: over.clone(),
                    };
                    place.insert((hook, over));
                    tokio::spawn(work.run());
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = shutdown.requested() => break,
        }
    }
    working.drain().for_each(|(_, (_, over))| over.cancel());
    if until_ms > 0 {
        release(&panel).await;
    }
}

/// Until when this control delivers; `None` when another does.
async fn hold(panel: &Panel) -> Result<Option<i64>, store::Error> {
    let engine: &dyn Engine = &*panel.engine;
    let now = now_utc().millis();
    let lease = Lease { holder: panel.instance.clone(), until_ms: now + LEASE_MS };
    let value = Bytes::from(serde_json::to_vec(&lease).unwrap_or_default());
    let written = match engine.get(LEASE).await? {
        Some(entry) => {
            let held = serde_json::from_slice::<Lease>(&entry.value);
            if held.is_ok_and(|held| held.holder != panel.instance && held.until_ms > now) {
                return Ok(None);
            }
            engine.update(LEASE, value, entry.revision).await
        }
        None => engine.create(LEASE, value).await,
    };
    match written {
        Ok(_) => Ok(Some(lease.until_ms)),
        Err(store::Error::Exists | store::Error::Conflict) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lets another control go on at once.
async fn release(panel: &Panel) {
    if let Ok(Some(entry)) = panel.engine.get(LEASE).await
        && serde_json::from_slice::<Lease>(&entry.value)
            .is_ok_and(|held| held.holder == panel.instance)
    {
        let _ = panel.engine.delete(LEASE, Some(entry.revision)).await;
    }
}

/// How a request ended.
enum Outcome {
    Arrived,
    Gone,
    Failed(String),
}

/// One hook's deliveries.
struct Worker {
    panel: Arc<Panel>,
    id: String,
    hook: Arc<Hook>,
    tls: Arc<ClientConfig>,
    over: CancellationToken,
}

impl Worker {
    async fn run(self) {
        let over = self.over.clone();
        let both = async { tokio::join!(self.broadcasts(), self.viewers()) };
        tokio::select! {
            _ = both => {}
            () = over.cancelled() => {}
        }
    }

    fn wants(&self, name: &str) -> bool {
        let events = &self.hook.events;
        // Viewers' events come in numbers: only to those who ask for them.
        (events.is_empty() && name.starts_with("broadcast."))
            || events.iter().any(|event| event == name)
    }

    async fn broadcasts(&self) {
        let feed = &self.panel.feed;
        let mut progress = self.panel.webhooks.progress(&self.id).await.unwrap_or_default();
        let begin = if progress.place.is_empty() { &self.hook.begin } else { &progress.place };
        let mut place = feed.after_id(begin);
        let mut queue = Queue::new(place.sequence);
        let mut held: HashMap<u64, Arc<feed::Entry>> = HashMap::new();
        let mut flying: JoinSet<(u64, u64, Outcome)> = JoinSet::new();
        let mut changed = feed.changed();
        let mut kept = progress.clone();
        loop {
            changed.borrow_and_update();
            let now = now_utc().millis();
            while queue.has_room() {
                let log = place.log;
                let Ok(entries) = feed.read(&mut place, 1) else {
                    // It was dead for longer than the feed reaches back.
                    place = feed.after_id("");
                    continue;
                };
                if place.log != log {
                    (queue, held) = (Queue::new(0), HashMap::new());
                }
                let Some(entry) = entries.into_iter().next() else { break };
                let wanted = self.wants(entry.event.kind.as_str());
                queue.push(entry.sequence, wanted, now);
                if wanted {
                    held.insert(entry.sequence, entry);
                }
            }
            while let Some(sequence) = queue.next(now) {
                let Some(entry) = held.get(&sequence) else {
                    queue.on_done(sequence);
                    continue;
                };
                let message = self.message(entry);
                let (hook, tls, log) = (Arc::clone(&self.hook), Arc::clone(&self.tls), place.log);
                flying.spawn(async move { (log, sequence, attempt(&hook, message, tls).await) });
            }
            progress.place = feed.id(queue.done());
            if progress != kept {
                match self.panel.webhooks.keep(&self.id, &progress).await {
                    Ok(()) => kept = progress.clone(),
                    Err(error) => warn!(hook = self.id, %error, "progress cannot be kept"),
                }
            }
            let wait = queue.due_ms().map_or(TIME, |due| {
                Duration::from_millis(u64::try_from(due - now).unwrap_or(0).clamp(1, 10_000))
            });
            tokio::select! {
                landed = flying.join_next(), if !flying.is_empty() => {
                    let Some(Ok((log, sequence, outcome))) = landed else { continue };
                    if log != place.log {
                        continue;
                    }
                    if !self.land(&mut queue, &mut progress, sequence, outcome).await {
                        return;
                    }
                    if !queue.holds(sequence) {
                        held.remove(&sequence);
                    }
                }
                changed = changed.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// What a request's end means; false when the hook is gone for good.
    async fn land(
        &self,
        queue: &mut Queue,
        progress: &mut Progress,
        sequence: u64,
        outcome: Outcome,
    ) -> bool {
        progress.last_attempt_ms = Some(now_utc().millis());
        match outcome {
            Outcome::Arrived => {
                queue.on_done(sequence);
                progress.delivered += 1;
                progress.last_error = None;
            }
            Outcome::Gone => {
                self.gone().await;
                return false;
            }
            Outcome::Failed(error) => {
                self.count("failed");
                if !queue.on_failed(sequence, now_utc().millis(), fraction()) {
                    progress.dropped += 1;
                    self.count("dropped");
                    warn!(hook = self.id, "a webhook's message is given up after a day");
                }
                progress.last_error = Some(error);
                return true;
            }
        }
        self.count("delivered");
        true
    }

    async fn gone(&self) {
        info!(hook = self.id, "a webhook's receiver is gone for good: disabled");
        // Until that is kept the webhook is shown as active, and nobody delivers.
        while let Err(error) = self.panel.webhooks.disable(&self.id).await {
            warn!(hook = self.id, %error, "a webhook cannot be disabled yet");
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = self.over.cancelled() => return,
            }
        }
    }

    fn count(&self, result: &'static str) {
        self.panel.metrics.webhooks.get_or_create(&[("result", result)]).inc();
    }

    fn message(&self, entry: &feed::Entry) -> Message {
        let event = &entry.event;
        let body = json!({
            "type": event.kind.as_str(),
            "timestamp": event.at().rfc3339(),
            "data": event.data(),
        });
        message(format!("evt_{}", self.panel.feed.id(entry.sequence)), body.to_string())
    }

    async fn viewers(&self) {
        let wanted = |event: &viewers::Event| self.wants(event.kind.as_str());
        let mut told = self.panel.viewer_events.listen();
        let mut waiting: VecDeque<viewers::Event> = VecDeque::new();
        let mut ticks = tokio::time::interval(GATHER);
        let mut flying: JoinSet<bool> = JoinSet::new();
        loop {
            tokio::select! {
                events = told.recv() => match events {
                    Ok(events) => {
                        waiting.extend(events.iter().copied().filter(wanted));
                        while waiting.len() > MAX_WAITING {
                            waiting.pop_front();
                            self.count("dropped");
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => self.count("dropped"),
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                landed = flying.join_next(), if !flying.is_empty() => {
                    let arrived = matches!(landed, Some(Ok(true)));
                    self.count(if arrived { "delivered" } else { "dropped" });
                }
                _ = ticks.tick() => if flying.is_empty() && !waiting.is_empty() {
                    let count = waiting.len().min(MAX_VIEWERS);
                    let events: Vec<_> = waiting.drain(..count).map(|event| {
                        let mut data = event.data();
                        data["type"] = event.kind.as_str().into();
                        data
                    }).collect();
                    let body = json!({
                        "type": "viewers",
                        "timestamp": now_utc().rfc3339(),
                        "data": { "events": events },
                    });
                    let id = format!("evt_{:016x}", u64::from_le_bytes(random()));
                    let (hook, tls) = (Arc::clone(&self.hook), Arc::clone(&self.tls));
                    flying.spawn(persist(hook, id, body.to_string(), tls));
                },
            }
        }
    }
}

/// From 0 to 1.
fn fraction() -> f64 {
    f64::from(u32::from_le_bytes(random())) / f64::from(u32::MAX)
}

fn message(id: String, body: String) -> Message {
    let timestamp = UtcTime::millis(now_utc()) / 1000;
    Message { id, timestamp, body: Bytes::from(body) }
}

async fn attempt(hook: &Hook, message: Message, tls: Arc<ClientConfig>) -> Outcome {
    match post(&hook.url, &hook.secret, &message, tls).await {
        Ok(200..=299) => Outcome::Arrived,
        Ok(410) => Outcome::Gone,
        Ok(status) => Outcome::Failed(format!("it answered {status}")),
        Err(error) => Outcome::Failed(error),
    }
}

/// Sends a message about viewers, a few times; whether it arrived.
async fn persist(hook: Arc<Hook>, id: String, body: String, tls: Arc<ClientConfig>) -> bool {
    for attempts in 0..VIEWER_ATTEMPTS {
        if attempts > 0 {
            let wait = wait_ms(attempts - 1, fraction());
            tokio::time::sleep(Duration::from_millis(u64::try_from(wait).unwrap_or(0))).await;
        }
        let message = message(id.clone(), body.clone());
        match attempt(&hook, message, Arc::clone(&tls)).await {
            Outcome::Arrived => return true,
            Outcome::Gone => return false,
            Outcome::Failed(_) => {}
        }
    }
    false
}
