//! Whether the store is there.
//!
//! [`Watched`] stands before the engine and takes note of how calls end. While
//! the store is away nobody waits for it in vain: what must be written is kept
//! in [`Unwritten`] and written when it is back, by `recover.rs`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use spyglass_media::{BroadcastId, NodeId, UtcTime};
use tokio::sync::watch;

use crate::record::{EndedBy, Report};
use crate::store::{self, Answer, Entry, Error, Item, Revision, Store, Watch};

/// An engine, and what is known of its health.
pub struct Watched {
    engine: Arc<dyn Store>,
    /// Why it is away; `None` while it is there.
    away: watch::Sender<Option<String>>,
}

impl Watched {
    /// This engine, taken to be there.
    pub fn new(engine: Arc<dyn Store>) -> Self {
        Self { engine, away: watch::Sender::new(None) }
    }

    /// Why the store is away; `None` while it is there.
    pub fn away(&self) -> watch::Receiver<Option<String>> {
        self.away.subscribe()
    }

    /// Whether the last that was heard of the store was that it is away.
    pub fn is_away(&self) -> bool {
        self.away.borrow().is_some()
    }

    /// The engine says itself that it cannot write.
    pub fn on_gone(&self) {
        let gone = Error::Unavailable("it is not connected".to_owned());
        let _ = self.read(Err::<(), _>(gone));
    }

    /// A call that only reads may be answered from memory: it proves nothing.
    fn read<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::Unavailable(reason)) = &result {
            self.away.send_if_modified(|away| {
                let news = away.is_none();
                away.get_or_insert_with(|| reason.clone());
                news
            });
        }
        result
    }

    fn written<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if matches!(result, Ok(_) | Err(Error::Conflict | Error::Exists)) {
            self.away.send_if_modified(|away| away.take().is_some());
        }
        self.read(result)
    }
}

impl Store for Watched {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        Box::pin(async move { self.read(self.engine.get(key).await) })
    }

    fn create<'a>(&'a self, key: &'a str, value: Bytes) -> Answer<'a, Revision> {
        Box::pin(async move { self.written(self.engine.create(key, value).await) })
    }

    fn update<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        revision: Revision,
    ) -> Answer<'a, Revision> {
        Box::pin(async move { self.written(self.engine.update(key, value, revision).await) })
    }

    fn delete<'a>(&'a self, key: &'a str, revision: Option<Revision>) -> Answer<'a, ()> {
        Box::pin(async move { self.written(self.engine.delete(key, revision).await) })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Vec<Item>> {
        Box::pin(async move { self.read(self.engine.list(prefix, after, limit).await) })
    }

    fn watch(&self, prefix: &str) -> Watch {
        self.engine.watch(prefix)
    }
}

/// What a broadcast's record must still be told.
#[derive(Clone, Debug, PartialEq)]
pub enum Untold {
    /// The last that its origin said.
    Report(NodeId, Report),
    /// It was ended here.
    End(EndedBy, UtcTime),
}

/// What waits for the store. Bounded by what control holds anyway: one entry
/// for each broadcast and each node.
#[derive(Debug, Default)]
pub struct Unwritten {
    broadcasts: HashMap<BroadcastId, Untold>,
    /// Nodes whose broadcasts could not be compared with the store's.
    nodes: HashSet<NodeId>,
}

impl Unwritten {
    /// A broadcast changed. An end that was asked for stands.
    pub fn broadcast(&mut self, id: BroadcastId, untold: Untold) {
        if !matches!(self.broadcasts.get(&id), Some(Untold::End(EndedBy::Request, _))) {
            self.broadcasts.insert(id, untold);
        }
    }

    /// A newer report of this broadcast was written. An end that was asked for
    /// still waits.
    pub fn on_report_written(&mut self, id: BroadcastId) {
        if let Some(Untold::Report(..)) = self.broadcasts.get(&id) {
            self.broadcasts.remove(&id);
        }
    }

    /// A node registered.
    pub fn node(&mut self, id: &NodeId) {
        self.nodes.insert(id.clone());
    }

    /// All that waits; nothing waits any more.
    pub fn take(&mut self) -> (HashMap<BroadcastId, Untold>, HashSet<NodeId>) {
        (std::mem::take(&mut self.broadcasts), std::mem::take(&mut self.nodes))
    }
}

/// Whether a call failed because the store is away.
pub const fn is_away(error: &store::Error) -> bool {
    matches!(error, store::Error::Unavailable(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Phase;

    #[test]
    fn an_end_that_was_asked_for_is_not_undone_by_a_report() {
        let id = BroadcastId::from_random([1; 16]);
        let report = |phase| {
            let report = Report { phase, at: UtcTime::default(), epoch: 1 };
            Untold::Report("o".parse().unwrap(), report)
        };
        let mut unwritten = Unwritten::default();
        unwritten.broadcast(id, report(Phase::Live));
        unwritten.broadcast(id, report(Phase::Interrupted));
        unwritten.broadcast(id, Untold::End(EndedBy::Request, UtcTime::default()));
        unwritten.broadcast(id, report(Phase::Ended));
        unwritten.on_report_written(id);
        let (broadcasts, nodes) = unwritten.take();
        assert!(matches!(broadcasts[&id], Untold::End(EndedBy::Request, _)));
        assert!(nodes.is_empty() && unwritten.take().0.is_empty());
        unwritten.broadcast(id, report(Phase::Interrupted));
        unwritten.on_report_written(id);
        assert!(unwritten.take().0.is_empty(), "a report is past when a later one is written");
    }
}
