//! What the engine holds of the bucket: all of it. Pure.
//!
//! A revision is the stream's incarnation (when it was made, in seconds since
//! 2024, 30 bits) above the sequence in it (34 bits), so that revisions keep
//! growing when the stream was lost and made anew.

use std::collections::{BTreeMap, HashSet};
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

    /// Puts what is newer than what stands.
    pub(super) fn put(&mut self, key: &str, held: Held) {
        if self.entries.get(key).is_none_or(|standing| standing.revision < held.revision) {
            self.entries.insert(key.to_owned(), held);
        }
    }

    /// As the stream says it: the change to tell, unless it was told already.
    pub(super) fn follow(&mut self, key: &str, held: Held) -> Option<Change> {
        let change =
            Change { key: key.to_owned(), value: held.value.clone(), revision: held.revision };
        self.put(key, held);
        let news = change.revision > self.told;
        self.told = self.told.max(change.revision);
        news.then_some(change)
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

    /// What the stream should hold and does not, all of it having been read:
    /// lost with another life of it, or with a crash that took its end
    /// (written after `last`). The rest of what is missing was deleted long
    /// ago and is forgotten here; those keys are returned second.
    pub(super) fn missing(
        &mut self,
        seen: &HashSet<String>,
        last: Revision,
        before: Incarnation,
    ) -> (Vec<(String, Bytes)>, Vec<String>) {
        let mut lost = Vec::new();
        let mut gone = Vec::new();
        let other_life = before != self.incarnation;
        self.entries.retain(|key, held| {
            if seen.contains(key) {
                return true;
            }
            match &held.value {
                Some(value) if other_life || held.revision > last => {
                    lost.push((key.clone(), value.clone()));
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
    fn what_was_lost_is_written_back_and_what_was_deleted_is_not() {
        let (one, two) = (Incarnation::made_at(1_800_000_000), Incarnation::made_at(1_800_000_009));
        let seen = HashSet::from(["seen".to_owned()]);
        let filled = || {
            let mut replica = Replica { incarnation: one, ..Replica::default() };
            replica.put("seen", held(one, 1, Some("1")));
            replica.put("old", held(one, 2, Some("2")));
            replica.put("late", held(one, 9, Some("9")));
            replica.put("deleted", held(one, 10, None));
            replica
        };
        let (lost, gone) = filled().missing(&seen, one.revision(5), one);
        assert_eq!((lost[0].0.as_str(), lost.len()), ("late", 1));
        assert_eq!(gone, ["old"]);
        let mut replica = filled();
        replica.incarnation = two;
        let (lost, gone) = replica.missing(&seen, two.revision(5), one);
        assert_eq!((lost.len(), gone.len()), (2, 0));
    }
}
