//! Users who were kicked from a broadcast and may not join it again.
//!
//! They stand in the store until the broadcast is forgotten. A kick while the
//! store is away holds at this control at once and is written when the store is
//! back, by `recover.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use spyglass_media::{BroadcastId, UserId, UtcTime};

use crate::store::{self, Store, list_all};

/// What their names in the store begin with.
const PREFIX: &str = "kicks/";

fn key(broadcast: BroadcastId, user: UserId) -> String {
    format!("{PREFIX}{broadcast}/{user}")
}

/// See the module.
pub struct KeptOut {
    store: Arc<dyn Store>,
    limit: usize,
    /// Those that the store does not have yet, and since when they are out.
    unwritten: Mutex<HashMap<(BroadcastId, UserId), UtcTime>>,
}

impl KeptOut {
    /// Kept in this store; at most `limit` wait for it.
    pub fn new(store: Arc<dyn Store>, limit: usize) -> Self {
        Self { store, limit, unwritten: Mutex::default() }
    }

    /// From now on; [`Self::write_all`] keeps it. False when too many wait.
    #[must_use]
    pub fn add(&self, broadcast: BroadcastId, user: UserId, now: UtcTime) -> bool {
        let mut unwritten = self.unwritten.lock();
        let fits = unwritten.len() < self.limit || unwritten.contains_key(&(broadcast, user));
        if fits {
            unwritten.entry((broadcast, user)).or_insert(now);
        }
        fits
    }

    /// Writes those that are not written yet.
    pub async fn write_all(&self) -> Result<(), store::Error> {
        loop {
            let next = self.unwritten.lock().iter().next().map(|(name, at)| (*name, *at));
            let Some((name, since)) = next else { return Ok(()) };
            let value = Bytes::from(since.millis().to_string());
            match self.store.create(&key(name.0, name.1), value).await {
                Ok(_) | Err(store::Error::Exists) => {
                    self.unwritten.lock().remove(&name);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether a user was kicked from a broadcast, by this control or as
    /// `memory` knows, which also answers while the store is away.
    pub async fn contains(
        &self,
        memory: &dyn Store,
        broadcast: BroadcastId,
        user: UserId,
    ) -> Result<bool, store::Error> {
        if self.unwritten.lock().contains_key(&(broadcast, user)) {
            return Ok(true);
        }
        Ok(memory.get(&key(broadcast, user)).await?.is_some())
    }

    /// The broadcast is forgotten.
    pub async fn forget(&self, broadcast: BroadcastId) -> Result<(), store::Error> {
        self.unwritten.lock().retain(|(of, _), _| *of != broadcast);
        for item in list_all(&*self.store, &format!("{PREFIX}{broadcast}/")).await? {
            self.store.delete(&item.key, None).await?;
        }
        Ok(())
    }
}
