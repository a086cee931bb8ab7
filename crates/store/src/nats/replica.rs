//! What the engine holds of the bucket: all of it. Pure.
//!
//! A revision is the stream's incarnation (when it was made, in seconds since
//! 2024, 30 bits) above the sequence in it (34 bits), so that revisions keep
//! growing when the stream was lost and made anew.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use bytes::Bytes;

use crate::{Change, Entry, Item, Revision};

const SEQUENCE_BITS: u32 = 34;
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;
const YEAR_2024: i64 = 1_704_067_200;

/// One life of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Incarnation(u64);

impl Incarnation {
    /// Of a stream made then (seconds since 1970).
    pub(super) fn made_at(unix: i64) -> Self {
        Self(u64::try_from(unix - YEAR_2024).unwrap_or(0) & ((1 << 30) - 1))
    }

    pub(super) fn revision(self, sequence: u64) -> Revision {
        Revision(self.0 << SEQUENCE_BITS | sequence & SEQUENCE_MASK)
    }

    /// The sequence, when the revision is of this life.
    pub(super) fn sequence(self, revision: Revision) -> Option<u64> {
        (revision.0 >> SEQUENCE_BITS == self.0).then_some(revision.0 & SEQUENCE_MASK)
    }
}

/// The newest write of a key; without a value it was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) revision: Revision,
    pub(super) value: Option<Bytes>,
}

/// A write that the stream lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) key: String,
    /// `None`: a delete.
    pub(super) value: Option<Bytes>,
    /// The sequence that stands there instead; 0: none.
    pub(super) over: u64,
}

#[derive(Debug, Default)]
pub(super) struct Replica {
    entries: BTreeMap<String, Held>,
    pub(super) incarnation: Incarnation,
    /// The newest change that watchers were told.
    pub(super) told: Revision,
}

impl Replica {
    pub(super) fn get(&self, key: &str) -> Option<&Held> {
        self.entries.get(key)
    }

    /// Puts what is not older than what stands. At the same revision the stream
    /// is right: after a crash a control that did not know what was lost may have
    /// written something else under it.
    pub(super) fn put(&mut self, key: &str, held: Held) {
        if self.entries.get(key).is_none_or(|standing| standing.revision <= held.revision) {
            self.entries.insert(key.to_owned(), held);
        }
    }

    /// As the stream says it: the change to tell, unless it was told already.
    pub(super) fn follow(&mut self, key: &str, held: Held) -> Option<Change> {
        let change =
            Change { key: key.to_owned(), value: held.value.clone(), revision: held.revision };
        // Old by its number and not known here: written where something was lost.
        let unknown = match self.entries.get(key) {
            Some(standing) => standing.revision <= held.revision && *standing != held,
            None => held.value.is_some(),
        };
        self.put(key, held);
        let news = change.revision > self.told || unknown;
        self.told = self.told.max(change.revision);
        news.then_some(change)
    }

    /// Nothing of this key stands in the stream any more, not even that it was
    /// deleted.
    pub(super) fn forget_mark(&mut self, key: &str) {
        if self.entries.get(key).is_some_and(|held| held.value.is_none()) {
            self.entries.remove(key);
        }
    }

    pub(super) fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<Item> {
        let from = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        self.entries
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, held)| {
                let entry = Entry { value: held.value.clone()?, revision: held.revision };
                Some(Item { key: key.clone(), entry })
            })
            .take(limit)
            .collect()
    }

    /// What the stream should hold and does not, all of it having been read
    /// into `seen`: lost with another life of it, or with a crash that took its
    /// end. When it was followed `lately`, what is missing is lost whatever its
    /// number (another control may have written something else under it), for
    /// what is deleted leaves a mark that is kept for longer; else only what was
    /// written after `last` or is newer here than there. The rest of what is
    /// missing was deleted long ago and is forgotten here; those keys are
    /// returned second.
    pub(super) fn missing(
        &mut self,
        seen: &HashMap<String, Revision>,
        last: Revision,
        before: Incarnation,
        lately: bool,
    ) -> (Vec<Lost>, Vec<String>) {
        let mut lost = Vec::new();
        let mut gone = Vec::new();
        let life = self.incarnation;
        self.entries.retain(|key, held| {
            let lose = |over| Lost { key: key.clone(), value: held.value.clone(), over };
            if let Some(there) = seen.get(key) {
                // An older write came back to light when the newer one was lost.
                if held.revision > *there {
                    lost.extend(life.sequence(*there).map(lose));
                }
                return true;
            }
            match &held.value {
                Some(_) if lately || before != life || held.revision > last => {
                    lost.push(lose(0));
                    true
                }
                Some(_) => {
                    gone.push(key.clone());
                    false
                }
                None => false,
            }
        });
        (lost, gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(incarnation: Incarnation, sequence: u64, value: Option<&'static str>) -> Held {
        let value = value.map(|text| Bytes::from_static(text.as_bytes()));
        Held { revision: incarnation.revision(sequence), value }
    }

    #[test]
    fn revisions_grow_over_lives_of_the_stream() {
        let (one, two) = (Incarnation::made_at(1_800_000_000), Incarnation::made_at(1_800_000_001));
        assert!(two.revision(1) > one.revision(1_000_000_000));
        assert_eq!(one.sequence(one.revision(7)), Some(7));
        assert_eq!(two.sequence(one.revision(7)), None);
    }

    #[test]
    fn each_change_is_told_once_and_old_ones_change_nothing() {
        let life = Incarnation::made_at(1_800_000_000);
        let mut replica = Replica { incarnation: life, ..Replica::default() };
        replica.put("a", held(life, 5, Some("own")));
        assert!(replica.follow("a", held(life, 4, Some("older"))).is_some());
        assert_eq!(replica.get("a"), Some(&held(life, 5, Some("own"))));
        assert!(replica.follow("a", held(life, 5, Some("own"))).is_some());
        assert!(replica.follow("a", held(life, 5, Some("own"))).is_none());
    }

    #[test]
    fn what_stands_under_a_lost_number_is_told() {
        let life = Incarnation::made_at(1_800_000_000);
        let mut replica = Replica { incarnation: life, ..Replica::default() };
        replica.follow("a", held(life, 5, Some("old")));
        replica.follow("lost", held(life, 7, Some("lost")));
        assert!(replica.follow("other", held(life, 6, Some("new"))).is_some());
        assert!(replica.follow("lost", held(life, 7, Some("another"))).is_some());
        assert_eq!(replica.get("lost"), Some(&held(life, 7, Some("another"))));
        assert!(replica.follow("a", held(life, 5, Some("old"))).is_none());
    }

    #[test]
    fn what_was_lost_is_written_back_and_what_was_deleted_is_not() {
        let (one, two) = (Incarnation::made_at(1_800_000_000), Incarnation::made_at(1_800_000_009));
        let seen = HashMap::from([("seen".to_owned(), one.revision(1))]);
        let filled = || {
            let mut replica = Replica { incarnation: one, ..Replica::default() };
            replica.put("seen", held(one, 1, Some("1")));
            replica.put("old", held(one, 2, Some("2")));
            replica.put("late", held(one, 9, Some("9")));
            replica.put("deleted", held(one, 10, None));
            replica
        };
        let (lost, gone) = filled().missing(&seen, one.revision(5), one, false);
        assert_eq!((lost[0].key.as_str(), lost[0].over, lost.len()), ("late", 0, 1));
        assert_eq!(gone, ["old"]);
        let (lost, gone) = filled().missing(&seen, one.revision(5), one, true);
        assert_eq!((lost.len(), gone.len()), (2, 0), "nothing leaves without a mark");
        let mut replica = filled();
        replica.incarnation = two;
        let seen = HashMap::from([("seen".to_owned(), two.revision(1))]);
        let (lost, gone) = replica.missing(&seen, two.revision(5), one, false);
        assert_eq!((lost.len(), gone.len()), (2, 0));
    }

    #[test]
    fn a_write_that_an_older_one_took_the_place_of_is_written_over_it() {
        let life = Incarnation::made_at(1_800_000_000);
        let mut replica = Replica { incarnation: life, ..Replica::default() };
        replica.put("updated", held(life, 8, Some("new")));
        replica.put("deleted", held(life, 9, None));
        replica.put("same", held(life, 4, Some("4")));
        let seen = [("updated", 2), ("deleted", 3), ("same", 4)];
        let seen = seen.map(|(key, at)| (key.to_owned(), life.revision(at))).into();
        let (lost, gone) = replica.missing(&seen, life.revision(5), life, false);
        let new = Some(Bytes::from_static(b"new"));
        assert!(gone.is_empty());
        assert_eq!(lost.len(), 2);
        assert_eq!(lost[0], Lost { key: "deleted".to_owned(), value: None, over: 3 });
        assert_eq!(lost[1], Lost { key: "updated".to_owned(), value: new, over: 2 });
    }
}
