//! Viewers whose tokens are refused although they have not expired.
//!
//! Kept in the store until the tokens would have expired anyway; nodes get all
//! of them when they attach and each new one at once.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use spyglass_api::control::Revocation;
use spyglass_media::{BroadcastId, UtcTime, ViewerId};

use crate::store::{self, Change, Store, list_all};

const PREFIX: &str = "revocations/";

/// There are as many as control keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many viewers are revoked at once")]
pub struct Full;

/// See the module.
pub struct Revocations {
    store: Arc<dyn Store>,
    limit: usize,
    /// Until when each matters; the lock is held for a few lines.
    held: Mutex<HashMap<(BroadcastId, ViewerId), UtcTime>>,
    /// Those of them that the store does not have yet: it may be away.
    unwritten: Mutex<HashMap<(BroadcastId, ViewerId), UtcTime>>,
}

fn key((broadcast, viewer): (BroadcastId, ViewerId)) -> String {
    format!("{PREFIX}{broadcast}/{viewer}")
}

fn parse(key: &str, value: &[u8]) -> Option<((BroadcastId, ViewerId), UtcTime)> {
    let (broadcast, viewer) = key.strip_prefix(PREFIX)?.split_once('/')?;
    let expires: i64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    Some(((broadcast.parse().ok()?, viewer.parse().ok()?), UtcTime::from_millis(expires)))
}

impl Revocations {
    /// Those that the store remembers; holds `limit` at most.
    pub async fn load(store: Arc<dyn Store>, limit: usize) -> Result<Self, store::Error> {
        let items = list_all(&*store, PREFIX).await?;
        let held = items.iter().filter_map(|item| parse(&item.key, &item.entry.value)).collect();
        Ok(Self { store, limit, held: Mutex::new(held), unwritten: Mutex::default() })
    }

    /// Refuses a viewer's tokens until `expires`, from now on; [`Self::write`]
    /// keeps it.
    pub fn refuse(
        &self,
        broadcast: BroadcastId,
        viewer: ViewerId,
        expires: UtcTime,
    ) -> Result<Revocation, Full> {
        let name = (broadcast, viewer);
        let mut held = self.held.lock();
        if held.len() >= self.limit && !held.contains_key(&name) {
            return Err(Full);
        }
        // Revoked before: the same tokens, so the first deadline holds too.
        let expires = *held.entry(name).or_insert(expires);
        self.unwritten.lock().insert(name, expires);
        Ok(update(name, expires))
    }

    /// Writes those that are not written yet.
    pub async fn write_all(&self) -> Result<(), store::Error> {
        loop {
            let next = self.unwritten.lock().iter().next().map(|(name, at)| (*name, *at));
            let Some((name, expires)) = next else { return Ok(()) };
            let value = Bytes::from(expires.millis().to_string());
            match self.store.create(&key(name), value).await {
                Ok(_) | Err(store::Error::Exists) => {
                    self.unwritten.lock().remove(&name);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Something was written to the store: what nodes must be told, when this
    /// control did not know it.
    pub fn on_change(&self, change: &Change) -> Option<Revocation> {
        let Some(value) = &change.value else {
            let (name, _) = parse(&change.key, b"0")?;
            self.held.lock().remove(&name);
            return None;
        };
        let (name, expires) = parse(&change.key, value)?;
        let known = self.held.lock().insert(name, expires);
        known.is_none().then(|| update(name, expires))
    }

    /// Reads all of them anew, because changes were missed; nodes must be told
    /// of these. None is forgotten before its time.
    pub async fn reread(&self) -> Result<Vec<Revocation>, store::Error> {
        let items = list_all(&*self.store, PREFIX).await?;
        let mut held = self.held.lock();
        let read = items.iter().filter_map(|item| parse(&item.key, &item.entry.value));
        let new = read.filter(|(name, expires)| held.insert(*name, *expires).is_none());
        Ok(new.map(|(name, expires)| update(name, expires)).collect())
    }

    /// Whether this viewer is refused.
    pub fn contains(&self, broadcast: BroadcastId, viewer: ViewerId) -> bool {
        self.held.lock().contains_key(&(broadcast, viewer))
    }

    /// All of them, for a node that attaches.
    pub fn updates(&self) -> Vec<Revocation> {
        self.held.lock().iter().map(|(name, expires)| update(*name, *expires)).collect()
    }

    /// Drops those whose tokens have expired.
    pub async fn expire(&self, now: UtcTime) -> Result<(), store::Error> {
        let over = {
            let mut held = self.held.lock();
            let over: Vec<_> = held.extract_if(|_, expires| *expires <= now).collect();
            self.unwritten.lock().retain(|_, expires| *expires > now);
            over
        };
        for (name, _) in over {
            self.store.delete(&key(name), None).await?;
        }
        Ok(())
    }
}

fn update((broadcast, viewer): (BroadcastId, ViewerId), expires: UtcTime) -> Revocation {
    Revocation {
        broadcast: broadcast.to_string(),
        viewer: viewer.to_string(),
        expires_at_ms: expires.millis(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::Embedded;

    #[tokio::test]
    async fn they_survive_a_restart_and_end_with_their_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let open = async || {
            let store = Embedded::open(&dir.path().join("control.redb")).unwrap();
            Revocations::load(Arc::new(store), 2).await.unwrap()
        };
        let broadcast = BroadcastId::from_random([1; 16]);
        let viewer = |number: u8| ViewerId::from_random([number; 16]);
        let at = UtcTime::from_millis;
        let revocations = open().await;
        for (number, expires) in [(1, 1_000), (1, 1_000), (2, 2_000)] {
            revocations.refuse(broadcast, viewer(number), at(expires)).unwrap();
        }
        assert_eq!(revocations.refuse(broadcast, viewer(3), at(2_000)), Err(Full));
        revocations.write_all().await.unwrap();
        drop(revocations);
        let revocations = open().await;
        assert!(revocations.contains(broadcast, viewer(1)));
        revocations.expire(at(1_000)).await.unwrap();
        drop(revocations);
        let revocations = open().await;
        assert!(!revocations.contains(broadcast, viewer(1)));
        let left = revocations.updates();
        assert_eq!((left.len(), left[0].expires_at_ms), (1, 2_000));
    }
}
