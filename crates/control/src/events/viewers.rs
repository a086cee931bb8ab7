//! Events of viewers: gathered, published, and gone.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spyglass_daemon::{Shutdown, now_utc};
use spyglass_media::{BroadcastId, UtcTime, ViewerId};
use tokio::sync::broadcast;
use tracing::debug;

use crate::panel::Panel;
use crate::store::Received;

/// The bus's subject.
const SUBJECT: &str = "viewers";

/// How long they are gathered.
const GATHER: Duration = Duration::from_millis(100);

/// Events that wait to be published; more are counted and dropped.
const MAX_WAITING: usize = 20_000;

/// Events of one message: fewer than 64 KiB.
const MAX_MESSAGE: usize = 400;

/// Messages that a listener may be behind.
const BEHIND: usize = 256;

/// Events remembered to be told once: several controls may see one.
const RECENT: usize = 50_000;

/// What happened to a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Was admitted.
    Joined,
    /// Gave its place back, or its connection is gone.
    Left,
    /// Was cut off.
    Kicked,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Joined, Self::Left, Self::Kicked];

    /// The name of the event's type.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "viewer.joined",
            Self::Left => "viewer.left",
            Self::Kicked => "viewer.kicked",
        }
    }
}

/// Something that happened to a viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What.
    pub kind: Kind,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Of which broadcast.
    pub broadcast: BroadcastId,
    /// Whom.
    pub viewer: ViewerId,
}

impl Event {
    /// What operators are told.
    pub fn data(&self) -> Value {
        json!({
            "broadcast": self.broadcast,
            "viewer": self.viewer,
            "at": UtcTime::from_millis(self.at_ms).rfc3339(),
        })
    }
}

/// See the module.
pub struct Viewers {
    waiting: Mutex<Waiting>,
    told: broadcast::Sender<Arc<Vec<Event>>>,
}

#[derive(Default)]
struct Waiting {
    events: Vec<Event>,
    dropped: u64,
}

impl Default for Viewers {
    fn default() -> Self {
        Self { waiting: Mutex::default(), told: broadcast::Sender::new(BEHIND) }
    }
}

impl Viewers {
    /// Something happened just now.
    pub fn tell(&self, kind: Kind, broadcast: BroadcastId, viewer: ViewerId) {
        let mut waiting = self.waiting.lock();
        if waiting.events.len() < MAX_WAITING {
            let at_ms = now_utc().millis();
            waiting.events.push(Event { kind, at_ms, broadcast, viewer });
        } else {
            waiting.dropped += 1;
        }
    }

    /// What all controls tell, from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Vec<Event>>> {
        self.told.subscribe()
    }
}

/// Which events were told lately.
#[derive(Default)]
struct Recent {
    known: HashSet<(Kind, ViewerId)>,
    order: VecDeque<(Kind, ViewerId)>,
}

impl Recent {
    /// Whether it was not told before.
    fn is_new(&mut self, event: &Event) -> bool {
        let key = (event.kind, event.viewer);
        if !self.known.insert(key) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// Publishes what was gathered and takes what all controls publish, until
/// `shutdown`.
pub async fn run(panel: Arc<Panel>, shutdown: Shutdown) {
    let mut published = panel.engine.subscribe(SUBJECT);
    let mut ticks = tokio::time::interval(GATHER);
    let mut recent = Recent::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => publish(&panel).await,
            received = published.next() => match received {
                Some(Received::Payload(payload)) => {
                    let Ok(mut events) = serde_json::from_slice::<Vec<Event>>(&payload) else {
                        continue;
                    };
                    events.retain(|event| recent.is_new(event));
                    let _ = panel.viewer_events.told.send(Arc::new(events));
                }
                Some(Received::Missed) => debug!("events of viewers were missed"),
                None => return,
            },
            () = shutdown.requested() => return,
        }
    }
}

async fn publish(panel: &Panel) {
    let Waiting { events, dropped } = std::mem::take(&mut *panel.viewer_events.waiting.lock());
    if dropped > 0 {
        tracing::warn!(dropped, "too many events of viewers at once");
    }
    for events in events.chunks(MAX_MESSAGE) {
        let Ok(payload) = serde_json::to_vec(events).map(Bytes::from) else { continue };
        if let Err(error) = panel.engine.publish(SUBJECT, payload).await {
            debug!(%error, "events of viewers did not reach the other controls");
        }
    }
}
