//! The keys that verify tokens, as control last sent them.
//!
//! A control that starts with an empty state has new keys, but tokens signed by
//! its predecessor are still in people's hands: the old keys stay for a day.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spyglass_api::control;
use spyglass_media::UtcTime;
use spyglass_token::{KeySet, PublicKey};

/// How long the keys of a lost store stay valid: as long as a publish token
/// lives by default.
const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Keys of lost stores kept at most, newest first.
const OLD: usize = 32;

/// What [`HeldKeys`] is in the state directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    store: String,
    keys: Vec<SavedKey>,
    old: Vec<SavedOld>,
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

    /// Control sent its keys. True when something changed.
    pub fn on_update(&mut self, update: control::Keys, now: UtcTime) -> bool {
        let before = self.saved.clone();
        let keys: Vec<SavedKey> = update
            .keys
            .into_iter()
            .take(spyglass_token::MAX_KEYS)
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
        }
        self.saved.keys = keys;
        let keys = &self.saved.keys;
        self.saved.old.retain(|old| !keys.iter().any(|key| key.id == old.key.id));
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
        control::Keys { store: store.into(), keys }
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
