//! The keys of this deployment: one signs, all verify.
//!
//! They stand in the store, made when it is empty. A control whose store was
//! lost makes new ones, and adopts from its nodes the public halves of the old,
//! so that tokens in people's hands stay good for as long as they would have.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use spyglass_api::control;
use spyglass_daemon::random;
use spyglass_media::{BroadcastId, UtcTime};
use spyglass_token::{Grant, KeySet, PublicKey, SigningKey, is_key_id};

use crate::store::{self, Store, list_all};

const NAME: &str = "meta/store";
const PREFIX: &str = "keys/";

/// How long a new store adopts, and how long what it adopts is good: as long as
/// a publish token lives by default.
const ADOPTION: Duration = Duration::from_secs(24 * 3600);

/// Keys adopted at most.
const MAX_ADOPTED: usize = 16;

/// The store's name, which nodes compare.
#[derive(Serialize, Deserialize)]
struct Name {
    id: String,
    created_at_ms: i64,
}

/// A key as it stands in the store; bytes in base64url.
#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    public: String,
    /// Only of our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<String>,
    created_at_ms: i64,
    /// Only of adopted ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<i64>,
}

/// See the module.
pub struct Keys {
    store: Arc<dyn Store>,
    name: Name,
    signing: SigningKey,
    verifying: Mutex<Verifying>,
}

struct Verifying {
    /// In the order of their making.
    keys: Vec<(PublicKey, Option<UtcTime>)>,
    set: Arc<KeySet>,
}

impl Verifying {
    fn new(mut keys: Vec<(PublicKey, Option<UtcTime>)>, now: UtcTime) -> Self {
        keys.retain(|(_, expires)| expires.is_none_or(|expires| expires > now));
        let set = Arc::new(KeySet::new(keys.iter().map(|(key, _)| key.clone())));
        Self { keys, set }
    }
}

fn unreadable(what: &str) -> store::Error {
    store::Error::Unavailable(format!("{what} is damaged: restore the state directory"))
}

fn bytes32(text: &str) -> Option<[u8; 32]> {
    BASE64.decode(text).ok()?.try_into().ok()
}

fn json(value: &impl Serialize) -> Bytes {
    // Text and numbers only.
    serde_json::to_vec(value).map(Bytes::from).unwrap_or_default()
}

impl Keys {
    /// Reads the keys, and makes what is not there.
    pub async fn load(store: Arc<dyn Store>, now: UtcTime) -> Result<Self, store::Error> {
        let name = match store.get(NAME).await? {
            Some(entry) => {
                serde_json::from_slice(&entry.value).map_err(|_| unreadable("the store's name"))?
            }
            None => {
                let id = BroadcastId::from_random(random()).to_string();
                let name = Name { id, created_at_ms: now.millis() };
                store.create(NAME, json(&name)).await?;
                name
            }
        };
        let mut own: Option<(i64, SigningKey)> = None;
        let mut keys = Vec::new();
        for item in list_all(&*store, PREFIX).await? {
            let id = item.key[PREFIX.len()..].to_owned();
            let stored: Stored =
                serde_json::from_slice(&item.entry.value).map_err(|_| unreadable(&item.key))?;
            let public = bytes32(&stored.public).ok_or_else(|| unreadable(&item.key))?;
            keys.push((
                stored.created_at_ms,
                PublicKey { id: id.clone(), bytes: public },
                stored.expires_at_ms.map(UtcTime::from_millis),
            ));
            if let Some(seed) = &stored.seed {
                let seed = bytes32(seed).ok_or_else(|| unreadable(&item.key))?;
                let key = SigningKey::from_seed(id, seed).map_err(|_| unreadable(&item.key))?;
                if own.as_ref().is_none_or(|(created, _)| *created < stored.created_at_ms) {
                    own = Some((stored.created_at_ms, key));
                }
            }
        }
        let signing = match own {
            Some((_, key)) => key,
            None => {
                let (key, stored) = make(now)?;
                store.create(&format!("{PREFIX}{}", key.public().id), json(&stored)).await?;
                keys.push((now.millis(), key.public(), None));
                key
            }
        };
        keys.sort_by_key(|(created, ..)| *created);
        let keys = keys.into_iter().map(|(_, key, expires)| (key, expires)).collect();
        let verifying = Mutex::new(Verifying::new(keys, now));
        Ok(Self { store, name, signing, verifying })
    }

    /// A token for `grant`.
    ///
    /// # Errors
    /// As [`SigningKey::sign`].
    pub fn sign(&self, grant: &Grant) -> Result<String, spyglass_token::Error> {
        self.signing.sign(grant)
    }

    /// What verifies now.
    pub fn set(&self) -> Arc<KeySet> {
        Arc::clone(&self.verifying.lock().set)
    }

    /// The store's name: another one after its state was lost.
    pub fn store_name(&self) -> &str {
        &self.name.id
    }

    /// The public keys, the oldest first.
    pub fn public(&self) -> Vec<PublicKey> {
        self.verifying.lock().keys.iter().map(|(key, _)| key.clone()).collect()
    }

    /// For the nodes.
    pub fn update(&self) -> control::Keys {
        let wire = |key: PublicKey| control::Key {
            id: key.id,
            public_key: Bytes::copy_from_slice(&key.bytes),
        };
        let keys = self.public().into_iter().map(wire).collect();
        control::Keys { store: self.name.id.clone(), keys }
    }

    /// The store was made less than a day ago, perhaps because the one before
    /// was lost.
    pub fn is_new(&self, now: UtcTime) -> bool {
        now.since(UtcTime::from_millis(self.name.created_at_ms)) < ADOPTION
    }

    /// Takes over what a node holds that this store, being new, does not know.
    /// True when there was any.
    pub async fn adopt(
        &self,
        offered: &[control::Key],
        now: UtcTime,
    ) -> Result<bool, store::Error> {
        if !self.is_new(now) {
            return Ok(false);
        }
        let mut adopted = false;
        for key in offered {
            let Ok(bytes) = <[u8; 32]>::try_from(&key.public_key[..]) else { continue };
            let full = {
                let held = &self.verifying.lock().keys;
                let known = held.iter().any(|(held, _)| held.id == key.id);
                known || held.iter().filter(|(_, expires)| expires.is_some()).count() >= MAX_ADOPTED
            };
            if full || !is_key_id(&key.id) {
                continue;
            }
            let expires = now + ADOPTION;
            let stored = Stored {
                public: BASE64.encode(bytes),
                seed: None,
                created_at_ms: now.millis(),
                expires_at_ms: Some(expires.millis()),
            };
            match self.store.create(&format!("{PREFIX}{}", key.id), json(&stored)).await {
                Ok(_) | Err(store::Error::Exists) => {}
                Err(error) => return Err(error),
            }
            let mut verifying = self.verifying.lock();
            if verifying.keys.iter().any(|(held, _)| held.id == key.id) {
                // Another node brought it meanwhile.
                continue;
            }
            let mut keys = std::mem::take(&mut verifying.keys);
            keys.insert(0, (PublicKey { id: key.id.clone(), bytes }, Some(expires)));
            *verifying = Verifying::new(keys, now);
            adopted = true;
            tracing::info!(key = key.id, "adopted a key of an earlier control, to verify only");
        }
        Ok(adopted)
    }

    /// Drops adopted keys whose time is over. True when there were any.
    pub async fn expire(&self, now: UtcTime) -> Result<bool, store::Error> {
        let over = |(_, expires): &(PublicKey, Option<UtcTime>)| {
            expires.is_some_and(|expires| expires <= now)
        };
        let gone: Vec<String> = {
            let mut verifying = self.verifying.lock();
            let gone: Vec<String> = verifying
                .keys
                .iter()
                .filter(|key| over(key))
                .map(|(key, _)| key.id.clone())
                .collect();
            if !gone.is_empty() {
                let keys = std::mem::take(&mut verifying.keys);
                *verifying = Verifying::new(keys, now);
            }
            gone
        };
        for id in &gone {
            self.store.delete(&format!("{PREFIX}{id}"), None).await?;
        }
        Ok(!gone.is_empty())
    }
}

fn make(now: UtcTime) -> Result<(SigningKey, Stored), store::Error> {
    let seed: [u8; 32] = random();
    let id = BroadcastId::from_random(random()).to_string();
    let key = SigningKey::from_seed(id, seed).map_err(|_| unreadable("a new key"))?;
    let stored = Stored {
        public: BASE64.encode(key.public().bytes),
        seed: Some(BASE64.encode(seed)),
        created_at_ms: now.millis(),
        expires_at_ms: None,
    };
    Ok((key, stored))
}

#[cfg(test)]
mod tests {
    use spyglass_media::ViewerId;
    use spyglass_token::WatchGrant;

    use super::*;
    use crate::store::embedded::Embedded;

    const NOW: UtcTime = UtcTime::from_millis(1_800_000_000_000);

    async fn open(dir: &tempfile::TempDir) -> Keys {
        let store = Embedded::open(&dir.path().join("control.redb")).unwrap();
        Keys::load(Arc::new(store), NOW).await.unwrap()
    }

    fn token(keys: &Keys) -> String {
        let grant = WatchGrant {
            broadcast: BroadcastId::from_random([1; 16]),
            viewer: ViewerId::from_random([1; 16]),
            seat: None,
            push: false,
            comment: false,
            generation: 0,
            issued: NOW,
            expires: NOW + ADOPTION * 3,
        };
        keys.sign(&Grant::Watch(grant)).unwrap()
    }

    #[tokio::test]
    async fn keys_are_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (name, token) = {
            let keys = open(&dir).await;
            assert_eq!(keys.public().len(), 1);
            (keys.store_name().to_owned(), token(&keys))
        };
        let keys = open(&dir).await;
        assert_eq!(keys.store_name(), name);
        assert!(keys.set().verify(&token, NOW).is_ok());
    }

    #[tokio::test]
    async fn a_new_store_adopts_the_old_ones_keys_for_a_day() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let before = open(&old).await;
        let token = token(&before);
        let keys = open(&new).await;
        assert!(keys.set().verify(&token, NOW).is_err());
        let mut offered = before.update().keys;
        offered
            .push(control::Key { id: "not a key id".to_owned(), public_key: [1; 32][..].into() });
        offered.push(control::Key { id: "short".to_owned(), public_key: [1; 31][..].into() });
        assert!(keys.adopt(&offered, NOW).await.unwrap());
        assert!(!keys.adopt(&offered, NOW).await.unwrap());
        assert_eq!(keys.public().len(), 2);
        assert!(keys.set().verify(&token, NOW).is_ok());
        let many =
            (0..100).map(|n| control::Key { id: format!("k{n}"), public_key: [1; 32][..].into() });
        keys.adopt(&many.collect::<Vec<_>>(), NOW).await.unwrap();
        assert_eq!(keys.public().len(), 1 + MAX_ADOPTED);
        drop(keys);
        let keys = open(&new).await;
        assert!(keys.set().verify(&token, NOW).is_ok(), "adopted keys survive a restart");
        assert!(keys.expire(NOW + ADOPTION).await.unwrap());
        assert!(keys.set().verify(&token, NOW).is_err());
        assert_eq!(keys.public().len(), 1);
        assert!(!keys.adopt(&offered, NOW + ADOPTION).await.unwrap(), "it is new no longer");
    }
}
