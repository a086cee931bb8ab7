//! The keys that verify tokens, as control last sent them.
//!
//! A control that starts with an empty state has new keys, but tokens signed by
//! its predecessor are still in people's hands: the old keys stay for a day.
//!
//! A node may hear from several controls of one store, of which one is behind:
//! an older list adds keys but takes none away, and a revoked key never returns.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spyglass_api::control;
use spyglass_media::UtcTime;
use spyglass_token::{KeySet, PublicKey, is_key_id};

/// How long the keys of a lost store stay valid: as long as a publish token
/// lives by default.
const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Keys of lost stores kept at most, newest first.
const OLD: usize = 32;

/// Revoked keys remembered at most, the latest first.
const REVOKED: usize = spyglass_token::MAX_KEYS;

/// What [`HeldKeys`] is in the state directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    store: String,
    /// Of the newest list that is in here.
    revision: u64,
    keys: Vec<SavedKey>,
    old: Vec<SavedOld>,
    revoked: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedKey {
    id: String,
    public_key: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedOld {
    #[serde(flatten)]
    key: SavedKey,
    until_ms: i64,
}

/// The keys of the present store and, for a while, of those before it.
#[derive(Debug, Default)]
pub struct HeldKeys {
    saved: Saved,
    set: Arc<KeySet>,
}

impl HeldKeys {
    /// From the state directory.
    pub fn restore(saved: Saved, now: UtcTime) -> Self {
        let mut held = Self { saved, set: Arc::default() };
        held.on_tick(now);
        held.build();
        held
    }

    /// For the state directory.
    pub fn save(&self) -> Saved {
        self.saved.clone()
    }

    /// What verifies now.
    pub fn set(&self) -> Arc<KeySet> {
        Arc::clone(&self.set)
    }

    /// For Register: all of them, so that an empty control can adopt them.
    pub fn to_register(&self) -> Vec<control::Key> {
        let old = self.saved.old.iter().map(|old| &old.key);
        let keys = self.saved.keys.iter().chain(old);
        let wire = |key: &SavedKey| control::Key {
            id: key.id.clone(),
            public_key: key.public_key.to_vec().into(),
        };
        keys.map(wire).collect()
    }

    /// The ids of keys that were revoked.
    pub fn revoked(&self) -> Arc<[String]> {
        self.saved.revoked.as_slice().into()
    }

    /// Control sent its keys. True when something changed.
    pub fn on_update(&mut self, update: control::Keys, now: UtcTime) -> bool {
        let before = self.saved.clone();
        let news = |id: &String| is_key_id(id) && !self.saved.revoked.contains(id);
        let mut revoked: Vec<String> = update.revoked.into_iter().filter(news).collect();
        revoked.append(&mut self.saved.revoked);
        revoked.truncate(REVOKED);
        self.saved.revoked = revoked;
        let refused = &self.saved.revoked;
        let mut keys: Vec<SavedKey> = update
            .keys
            .into_iter()
            .take(spyglass_token::MAX_KEYS)
            .filter(|key| !refused.contains(&key.id))
            .filter_map(|key| {
                let public_key = key.public_key.as_ref().try_into().ok()?;
                Some(SavedKey { id: key.id, public_key })
            })
            .collect();
        if self.saved.store != update.store {
            let until_ms = now.millis().saturating_add(GRACE.as_millis() as i64);
            let replaced = std::mem::take(&mut self.saved.keys);
            let replaced = replaced.into_iter().map(|key| SavedOld { key, until_ms });
            self.saved.old.splice(0..0, replaced);
            self.saved.store = update.store;
            self.saved.revision = update.revision;
        } else if update.revision != 0 && update.revision < self.saved.revision {
            // From a control that is behind.
            let missing = std::mem::take(&mut self.saved.keys);
            let missing =
                missing.into_iter().filter(|held| keys.iter().all(|key| key.id != held.id));
            keys.extend(missing.collect::<Vec<_>>());
            keys.truncate(spyglass_token::MAX_KEYS);
        } else {
            self.saved.revision = update.revision;
        }
        keys.retain(|key| !refused.contains(&key.id));
        self.saved.keys = keys;
        let keys = &self.saved.keys;
        let gone = |id: &String| refused.contains(id) || keys.iter().any(|key| key.id == *id);
        self.saved.old.retain(|old| !gone(&old.key.id));
        self.saved.old.truncate(OLD);
        self.on_tick(now);
        let changed = self.saved != before;
        if changed {
            self.build();
        }
        changed
    }

    /// Forgets old keys whose time is over. True when there were any.
    pub fn on_tick(&mut self, now: UtcTime) -> bool {
        let before = self.saved.old.len();
        self.saved.old.retain(|old| now.millis() < old.until_ms);
        let changed = self.saved.old.len() != before;
        if changed {
            self.build();
        }
        changed
    }

    fn build(&mut self) {
        let old = self.saved.old.iter().map(|old| &old.key);
        let keys = self.saved.keys.iter().chain(old);
        let public = |key: &SavedKey| PublicKey { id: key.id.clone(), bytes: key.public_key };
        self.set = Arc::new(KeySet::new(keys.map(public)));
    }
}

#[cfg(test)]
mod tests {
    use spyglass_token::SigningKey;

    use super::*;

    fn key(id: &str, seed: u8) -> control::Key {
        let public = SigningKey::from_seed(id.into(), [seed; 32]).unwrap().public();
        control::Key { id: public.id, public_key: public.bytes.to_vec().into() }
    }

    fn update(store: &str, keys: &[(&str, u8)]) -> control::Keys {
        let keys = keys.iter().map(|&(id, seed)| key(id, seed)).collect();
        control::Keys { store: store.into(), keys, ..control::Keys::default() }
    }

    fn ids(held: &HeldKeys) -> Vec<String> {
        let mut ids: Vec<_> = held.set().public_keys().map(|key| key.id).collect();
        ids.sort();
        ids
    }

    const HOUR: i64 = 60 * 60 * 1000;

    #[test]
    fn keys_of_one_store_replace_each_other() {
        let now = UtcTime::from_millis(0);
        let mut held = HeldKeys::default();
        assert!(held.on_update(update("s", &[("a", 1), ("b", 2)]), now));
        assert!(!held.on_update(update("s", &[("a", 1), ("b", 2)]), now));
        assert!(held.on_update(update("s", &[("b", 2), ("c", 3)]), now));
        assert_eq!(ids(&held), ["b", "c"]);
    }

    #[test]
    fn keys_of_a_lost_store_stay_for_a_day() {
        let mut held = HeldKeys::default();
        held.on_update(update("s", &[("a", 1)]), UtcTime::from_millis(0));
        held.on_update(update("t", &[("b", 2)]), UtcTime::from_millis(HOUR));
        assert_eq!(ids(&held), ["a", "b"]);
        assert_eq!(held.to_register().len(), 2);
        assert!(!held.on_tick(UtcTime::from_millis(24 * HOUR)));
        assert!(held.on_tick(UtcTime::from_millis(25 * HOUR)));
        assert_eq!(ids(&held), ["b"]);
    }

    #[test]
    fn a_revoked_key_never_returns() {
        let now = UtcTime::from_millis(0);
        let mut held = HeldKeys::default();
        held.on_update(update("s", &[("a", 1)]), now);
        held.on_update(update("t", &[("b", 2), ("c", 3)]), now);
        let revoked = vec!["a".to_owned(), "b".to_owned(), "no id".to_owned()];
        let news = control::Keys { revoked, ..update("t", &[("b", 2), ("c", 3)]) };
        assert!(held.on_update(news, now));
        assert_eq!(ids(&held), ["c"], "neither as a present key nor as an old one");
        assert!(!held.on_update(update("t", &[("b", 2), ("c", 3)]), now));
        let saved = serde_json::to_vec(&held.save()).unwrap();
        let mut held = HeldKeys::restore(serde_json::from_slice(&saved).unwrap(), now);
        held.on_update(update("u", &[("a", 1), ("d", 4)]), now);
        assert_eq!(ids(&held), ["c", "d"], "nor after a restart, nor from a new store");
        assert_eq!(*held.revoked(), ["a".to_owned(), "b".to_owned()]);
        let many = (0..200).map(|n| format!("k{n}")).collect();
        held.on_update(control::Keys { revoked: many, ..update("u", &[]) }, now);
        assert_eq!(held.revoked().len(), REVOKED);
    }

    #[test]
    fn a_control_that_is_behind_takes_nothing_away() {
        let now = UtcTime::from_millis(0);
        let at = |revision, keys: &[(&str, u8)]| control::Keys { revision, ..update("s", keys) };
        let mut held = HeldKeys::default();
        held.on_update(at(7, &[("a", 1), ("b", 2)]), now);
        assert!(!held.on_update(at(5, &[("a", 1)]), now));
        assert_eq!(ids(&held), ["a", "b"]);
        assert!(held.on_update(at(5, &[("z", 3)]), now));
        assert_eq!(ids(&held), ["a", "b", "z"]);
        assert!(held.on_update(at(8, &[("b", 2)]), now));
        assert_eq!(ids(&held), ["b"]);
        assert!(held.on_update(at(0, &[("a", 1)]), now), "a release without revisions replaces");
        assert_eq!(ids(&held), ["a"]);
    }

    #[test]
    fn a_restart_keeps_them_and_their_deadlines() {
        let mut held = HeldKeys::default();
        held.on_update(update("s", &[("a", 1)]), UtcTime::from_millis(0));
        held.on_update(update("t", &[("b", 2)]), UtcTime::from_millis(0));
        let json = serde_json::to_vec(&held.save()).unwrap();
        let restore = |at| {
            HeldKeys::restore(serde_json::from_slice(&json).unwrap(), UtcTime::from_millis(at))
        };
        assert_eq!(ids(&restore(HOUR)), ["a", "b"]);
        assert_eq!(ids(&restore(24 * HOUR)), ["b"]);
    }

    #[test]
    fn a_malformed_key_and_too_many_are_left_out() {
        let mut held = HeldKeys::default();
        let mut wrong = update("s", &[("a", 1)]);
        wrong.keys.push(control::Key { id: "short".into(), public_key: vec![1; 31].into() });
        held.on_update(wrong, UtcTime::from_millis(0));
        assert_eq!(ids(&held), ["a"]);
        for store in 0..100 {
            let (store, seed) = (format!("{store}"), store as u8 + 1);
            held.on_update(update(&store, &[(&store, seed)]), UtcTime::from_millis(0));
        }
        assert_eq!(held.to_register().len(), 1 + OLD);
    }
}
