//! What exists: the union of what the origins say.
//!
//! Pure. Each origin's watch brings a snapshot in pages and changes after it
//! (`watch.rs`); this keeps them apart by origin, so that one origin's new
//! snapshot replaces that origin's words only, and answers for all of them
//! together. An origin whose watch is broken is still believed.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use spyglass_media::{BroadcastId, Fill, NodeId};

/// Where a broadcast stands, as far as an edge cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Announced, never published. Below `Gone`: when two origins differ, one
    /// of them was only asked for it.
    Created,
    /// Over and no longer kept: answer 410.
    Gone,
    /// Over; list and chunks are still served.
    Ended,
    /// The publisher is away and may come back.
    Interrupted,
    /// Being published.
    Live,
}

/// One origin's word on one broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub state: State,
    /// Only a token opens it.
    pub private: bool,
    /// The origin process that owns it.
    pub incarnation: u64,
    /// Once known; fixed for the broadcast's life.
    pub target: Option<Duration>,
    /// What makes an edge fetch; `None`: as it is configured.
    pub fill: Option<Fill>,
}

/// What all origins together say of one broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The origin to fetch from.
    pub origin: NodeId,
    /// Its word; private when any origin says so.
    pub entry: Entry,
}

#[derive(Debug, Default)]
struct Origin {
    entries: HashMap<BroadcastId, Entry>,
    /// What the snapshot now arriving has named; `None` between snapshots.
    named: Option<HashSet<BroadcastId>>,
    /// A whole snapshot has arrived since this edge started.
    told: bool,
    /// Until then its silence leaves open what exists.
    awaited_until: Option<Instant>,
}

/// The broadcasts that this edge knows of.
#[derive(Debug)]
pub struct Directory {
    most: usize,
    patience: Duration,
    origins: HashMap<NodeId, Origin>,
    known: HashMap<BroadcastId, Known>,
    refused: u64,
    introduced: bool,
}

impl Directory {
    /// Keeps at most `most` broadcasts; an origin that has said nothing is
    /// waited for as long as `patience`.
    pub fn new(most: usize, patience: Duration) -> Self {
        Self {
            most,
            patience,
            origins: HashMap::new(),
            known: HashMap::new(),
            refused: 0,
            introduced: false,
        }
    }

    /// These are the origins there are. One that was not named before is
    /// awaited; one that is not named any more is kept until
    /// [`Self::on_origin_gone`].
    pub fn on_origins(&mut self, now: Instant, origins: impl IntoIterator<Item = NodeId>) {
        self.introduced = true;
        for node in origins {
            let until = now + self.patience;
            let origin = || Origin { awaited_until: Some(until), ..Origin::default() };
            self.origins.entry(node).or_insert_with(origin);
        }
    }

    /// A new watch of this origin begins: whatever was half told is void.
    pub fn on_watch_begun(&mut self, origin: &NodeId) {
        if let Some(origin) = self.origins.get_mut(origin) {
            origin.named = None;
        }
    }

    /// A page of a snapshot. Returns whose standing may have changed; on the
    /// last page also those that the snapshot did not name.
    pub fn on_page(
        &mut self,
        node: &NodeId,
        entries: impl IntoIterator<Item = (BroadcastId, Option<Entry>)>,
        last: bool,
    ) -> Vec<BroadcastId> {
        let origin = self.origins.entry(node.clone()).or_default();
        let mut named = origin.named.take().unwrap_or_default();
        let mut changed = Vec::new();
        for (id, entry) in entries {
            if entry.is_some() && named.len() < self.most {
                named.insert(id);
            }
            changed.extend(self.set(node, id, entry));
        }
        let Some(origin) = self.origins.get_mut(node) else { return changed };
        if !last {
            origin.named = Some(named);
            return changed;
        }
        origin.told = true;
        let unnamed: Vec<_> =
            origin.entries.keys().filter(|id| !named.contains(id)).copied().collect();
        for id in unnamed {
            changed.extend(self.set(node, id, None));
        }
        changed
    }

    /// A change after the snapshot; `None`: forget the id. Some when its
    /// standing changed.
    pub fn on_change(
        &mut self,
        node: &NodeId,
        id: BroadcastId,
        entry: Option<Entry>,
    ) -> Option<BroadcastId> {
        self.set(node, id, entry)
    }

    /// An origin is no more: its broadcasts are forgotten.
    pub fn on_origin_gone(&mut self, node: &NodeId) -> Vec<BroadcastId> {
        let Some(origin) = self.origins.remove(node) else { return Vec::new() };
        let ids: Vec<_> = origin.entries.into_keys().collect();
        ids.into_iter().filter(|&id| self.merge(id)).collect()
    }

    fn set(&mut self, node: &NodeId, id: BroadcastId, entry: Option<Entry>) -> Option<BroadcastId> {
        let full = self.known.len() >= self.most && !self.known.contains_key(&id);
        let origin = self.origins.entry(node.clone()).or_default();
        match entry {
            Some(_) if full => {
                self.refused += 1;
                return None;
            }
            Some(entry) => origin.entries.insert(id, entry),
            None => origin.entries.remove(&id),
        };
        self.merge(id).then_some(id)
    }

    /// Works out one id's standing; true when it changed.
    fn merge(&mut self, id: BroadcastId) -> bool {
        let words = self
            .origins
            .iter()
            .filter_map(|(node, origin)| origin.entries.get(&id).map(|entry| (node, entry)));
        let private = words.clone().any(|(_, entry)| entry.private);
        let best = words.max_by_key(|(node, entry)| (entry.state, *node));
        let merged = best.map(|(node, entry)| Known {
            origin: node.clone(),
            entry: Entry { private, ..*entry },
        });
        if self.known.get(&id) == merged.as_ref() {
            return false;
        }
        match merged {
            Some(known) => self.known.insert(id, known),
            None => self.known.remove(&id),
        };
        true
    }

    /// What is known of a broadcast.
    pub fn get(&self, id: BroadcastId) -> Option<&Known> {
        self.known.get(&id)
    }

    /// All that is known.
    pub fn iter(&self) -> impl Iterator<Item = (BroadcastId, &Known)> {
        self.known.iter().map(|(id, known)| (*id, known))
    }

    /// Whether an id that is not known does not exist. It is not so while an
    /// origin that should speak soon has not yet.
    pub fn settled(&self, now: Instant) -> bool {
        let awaited =
            |origin: &Origin| !origin.told && origin.awaited_until.is_some_and(|until| now < until);
        self.introduced && !self.origins.values().any(awaited)
    }

    /// How many broadcasts are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Broadcasts for which there was no room, ever.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::*;

    fn id(seed: u8) -> BroadcastId {
        BroadcastId::from_random([seed; 16])
    }

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn entry(state: State) -> Option<Entry> {
        Some(Entry { state, private: false, incarnation: 1, target: None, fill: None })
    }

    fn directory() -> Directory {
        Directory::new(100, Duration::from_secs(10))
    }

    fn state(directory: &Directory, seed: u8) -> Option<State> {
        directory.get(id(seed)).map(|known| known.entry.state)
    }

    #[test]
    fn a_snapshot_replaces_what_its_origin_said_before() {
        let mut all = directory();
        let (a, b) = (node("a"), node("b"));
        all.on_page(&b, [(id(9), entry(Live))], true);
        assert_eq!(all.on_page(&a, [(id(1), entry(Live))], false), [id(1)]);
        assert_eq!(all.on_page(&a, [(id(2), entry(Created))], true), [id(2)]);
        all.on_watch_begun(&a);
        // A page of a watch that broke is void.
        all.on_page(&a, [(id(2), entry(Created))], false);
        all.on_watch_begun(&a);
        let mut changed = all.on_page(&a, [(id(1), entry(Ended)), (id(3), entry(Live))], true);
        changed.sort();
        let mut expected = [id(1), id(2), id(3)];
        expected.sort();
        assert_eq!(changed, expected);
        assert_eq!(
            (state(&all, 1), state(&all, 2), state(&all, 9)),
            (Some(Ended), None, Some(Live))
        );
    }

    #[test]
    fn changes_come_and_go() {
        let mut all = directory();
        let a = node("a");
        assert_eq!(all.on_change(&a, id(1), entry(Created)), Some(id(1)));
        assert_eq!(all.on_change(&a, id(1), entry(Created)), None);
        assert_eq!(all.on_change(&a, id(1), entry(Gone)), Some(id(1)));
        assert_eq!(all.on_change(&a, id(1), None), Some(id(1)));
        assert!(all.is_empty());
    }

    #[test]
    fn of_two_origins_the_livelier_is_asked_and_private_stays_private() {
        let mut all = directory();
        let (a, b) = (node("a"), node("b"));
        let private = entry(Created).map(|entry| Entry { private: true, ..entry });
        all.on_change(&b, id(1), private);
        all.on_change(&a, id(1), entry(Live));
        let known = all.get(id(1)).unwrap();
        assert_eq!((&known.origin, known.entry.state, known.entry.private), (&a, Live, true));
        assert_eq!(all.on_origin_gone(&a), [id(1)]);
        assert_eq!(all.get(id(1)).unwrap().origin, b);
    }

    #[test]
    fn an_unknown_id_does_not_exist_once_every_origin_has_spoken_or_been_silent() {
        let now = Instant::now();
        let mut all = directory();
        assert!(!all.settled(now));
        all.on_origins(now, [node("a"), node("b")]);
        all.on_page(&node("a"), [], false);
        assert!(!all.settled(now));
        all.on_page(&node("a"), [], true);
        assert!(!all.settled(now));
        assert!(all.settled(now + Duration::from_secs(10)));
        all.on_page(&node("b"), [], true);
        assert!(all.settled(now));
        // Named again: nothing starts anew.
        all.on_origins(now, [node("a"), node("b")]);
        assert!(all.settled(now));
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let mut all = Directory::new(2, Duration::ZERO);
        let a = node("a");
        let three = (1..=3).map(|seed| (id(seed), entry(Live)));
        assert_eq!(all.on_page(&a, three, true).len(), 2);
        assert_eq!((all.len(), all.refused()), (2, 1));
        assert_eq!(all.on_change(&a, id(1), entry(Ended)), Some(id(1)));
        all.on_change(&a, id(1), None);
        assert_eq!(all.on_change(&a, id(3), entry(Live)), Some(id(3)));
    }
}
