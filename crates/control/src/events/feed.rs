//! What this control holds of the log: whoever listens reads from here, at a
//! place of their own, and the log itself is read once.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use spyglass_daemon::{Shutdown, random};
use tokio::sync::watch;
use tracing::warn;

use super::Event;
use crate::panel::Panel;
use crate::store::bus::LOG_ENTRIES;
use crate::store::{self, Engine, Log, MAX_PAGE};

/// Where the name of the log stands in the store.
const NAME: &str = "events/log";

/// The log is looked at when nothing was heard of it for so long.
const LOOK: Duration = Duration::from_secs(5);

/// An event and its place in the log.
#[derive(Debug)]
pub struct Entry {
    /// Its place.
    pub sequence: u64,
    /// What happened.
    pub event: Event,
}

/// Where somebody is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Counts the logs that this control has seen.
    pub log: u64,
    /// The last that was read.
    pub sequence: u64,
}

/// The place is no longer held: its reader was too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

#[derive(Default)]
struct Held {
    /// The log's own: another one after it was lost.
    name: String,
    log: u64,
    entries: VecDeque<Arc<Entry>>,
    /// The last that was let go.
    gone: u64,
    last: u64,
}

/// See the module.
pub struct Feed {
    held: RwLock<Held>,
    changed: watch::Sender<u64>,
}

impl Feed {
    /// Reads the log.
    pub async fn load(engine: &dyn Engine) -> Result<Self, store::Error> {
        let feed = Self { held: RwLock::default(), changed: watch::Sender::new(0) };
        feed.held.write().name = name(engine, None).await?;
        feed.read_on(engine).await?;
        Ok(feed)
    }

    /// Changes when there is more.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How a place is told to those who will come back to it.
    pub fn id(&self, sequence: u64) -> String {
        format!("{}-{sequence}", self.held.read().name)
    }

    /// The end.
    pub fn end(&self) -> Place {
        let held = self.held.read();
        Place { log: held.log, sequence: held.last }
    }

    /// After an id of [`Self::id`]; an id of another log is before all that is
    /// held.
    pub fn after_id(&self, id: &str) -> Place {
        let held = self.held.read();
        let sequence = id
            .rsplit_once('-')
            .filter(|(name, _)| *name == held.name)
            .and_then(|(_, sequence)| sequence.parse::<u64>().ok());
        // Another control may have read further than this one has.
        let sequence = sequence.unwrap_or(0).min(held.last).max(held.gone);
        Place { log: held.log, sequence }
    }

    /// At most `limit` entries after a place, which moves behind them.
    pub fn read(&self, place: &mut Place, limit: usize) -> Result<Vec<Arc<Entry>>, Gone> {
        let held = self.held.read();
        if place.log != held.log {
            *place = Place { log: held.log, sequence: held.gone };
        }
        if place.sequence < held.gone {
            return Err(Gone);
        }
        let from = held.entries.partition_point(|entry| entry.sequence <= place.sequence);
        let read: Vec<_> = held.entries.range(from..).take(limit).cloned().collect();
        if let Some(last) = read.last() {
            place.sequence = last.sequence;
        }
        Ok(read)
    }

    /// When the newest event was, and the keys of all that are held.
    pub fn told(&self) -> (Option<i64>, HashSet<String>) {
        let held = self.held.read();
        let newest = held.entries.iter().map(|entry| entry.event.at_ms).max();
        (newest, held.entries.iter().map(|entry| entry.event.key.clone()).collect())
    }

    async fn read_on(&self, engine: &dyn Engine) -> Result<(), store::Error> {
        let (last, old) = {
            let held = self.held.read();
            (held.last, held.name.clone())
        };
        if engine.last(Log::Events).await? < last {
            warn!("the log of events was lost and begins anew");
            let name = name(engine, Some(&old)).await?;
            let mut held = self.held.write();
            *held = Held { name, log: held.log + 1, ..Held::default() };
        }
        loop {
            let last = self.held.read().last;
            let logged = engine.read(Log::Events, last, MAX_PAGE).await?;
            if logged.is_empty() {
                break;
            }
            let mut held = self.held.write();
            for logged in logged {
                held.last = held.last.max(logged.sequence);
                // What another release wrote is passed over.
                let Ok(event) = serde_json::from_slice(&logged.payload) else { continue };
                held.entries.push_back(Arc::new(Entry { sequence: logged.sequence, event }));
            }
            while held.entries.len() as u64 > LOG_ENTRIES {
                held.gone = held.entries.pop_front().map_or(held.gone, |entry| entry.sequence);
            }
        }
        let end = self.held.read().last;
        self.changed.send_if_modified(|known| std::mem::replace(known, end) != end);
        Ok(())
    }
}

/// The log's name, made when there is none or it is `old`.
async fn name(engine: &dyn Engine, old: Option<&str>) -> Result<String, store::Error> {
    loop {
        let made = format!("{:016x}", u64::from_le_bytes(random()));
        let value = Bytes::from(made.clone());
        let written = match engine.get(NAME).await? {
            Some(entry) if old.is_none_or(|old| entry.value != old.as_bytes()) => {
                return Ok(String::from_utf8_lossy(&entry.value).into_owned());
            }
            Some(entry) => engine.update(NAME, value, entry.revision).await,
            None => engine.create(NAME, value).await,
        };
        match written {
            Ok(_) => return Ok(made),
            Err(store::Error::Exists | store::Error::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads on whenever there is more, until `shutdown`.
pub async fn tail(panel: Arc<Panel>, shutdown: Shutdown) {
    let mut appended = panel.engine.appended(Log::Events);
    loop {
        if let Err(error) = panel.feed.read_on(&*panel.engine).await {
            warn!(%error, "the log of events cannot be read; trying again");
        }
        tokio::select! {
            changed = appended.changed() => if changed.is_err() {
                tokio::time::sleep(LOOK).await;
            },
            () = tokio::time::sleep(LOOK) => {}
            () = shutdown.requested() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_read_further_elsewhere_goes_on_at_the_end() {
        let held = Held { name: "a".to_owned(), log: 1, gone: 10, last: 499, ..Held::default() };
        let feed = Feed { held: RwLock::new(held), changed: watch::Sender::new(0) };
        let after = |id: &str| feed.after_id(id).sequence;
        assert_eq!(after("a-400"), 400);
        assert_eq!(after("a-500"), 499, "the other control was ahead");
        assert_eq!(after("a-5"), 10, "no longer held");
        for another in ["b-400", "a-x", "nonsense"] {
            assert_eq!(after(another), 10, "{another}");
        }
    }
}
