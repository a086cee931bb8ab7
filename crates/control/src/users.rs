//! Registered users. Their tokens are random and stored only as hashes.
//!
//! Whom they follow lives in [`crate::follows`].

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use spyglass_daemon::random;
use spyglass_media::{UserId, UtcTime};

use crate::store::{self, Entry, Store};

/// Where they stand in the store.
const PREFIX: &str = "users/";

/// Attempts of one change against others.
const ATTEMPTS: usize = 8;

/// What a user's token begins with; the user's id and the secret follow.
const MARK: &str = "u.";

#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    /// Hash of the whole token, base64url.
    token_sha256: String,
    created_at_ms: i64,
    /// Being deleted: whom they follow is still to be removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
}

/// A user as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's id.
    pub id: UserId,
    /// As given.
    pub name: String,
    /// When it was registered.
    pub created_at: UtcTime,
}

/// A user who was just made; the token is shown only here.
pub struct NewUser {
    /// The user's id.
    pub id: UserId,
    /// The user's secret.
    pub token: String,
}

/// See the module.
pub struct Users {
    store: Arc<dyn Store>,
}

fn key(id: UserId) -> String {
    format!("{PREFIX}{id}")
}

/// The user that a key of the store is about.
pub fn of_key(key: &str) -> Option<UserId> {
    key.strip_prefix(PREFIX)?.parse().ok()
}

fn encode(stored: &Stored) -> Result<Bytes, store::Error> {
    let value = serde_json::to_vec(stored);
    value.map(Bytes::from).map_err(|_| store::Error::Unfit("a name that is no JSON"))
}

fn decode(entry: &Entry) -> Option<Stored> {
    serde_json::from_slice(&entry.value).ok()
}

fn shown(id: UserId, stored: Stored) -> Option<User> {
    let Stored { name, created_at_ms, deleted, .. } = stored;
    (!deleted).then(|| User { id, name, created_at: UtcTime::from_millis(created_at_ms) })
}

fn new_token(id: UserId) -> String {
    format!("{MARK}{id}.{}", BASE64.encode(random::<32>()))
}

/// The hash that a secret is compared by. The secrets are random and long, so
/// neither salt nor stretching would help, and comparing hashes tells nothing
/// about what was hashed.
pub fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

impl Users {
    /// Those of this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Registers one.
    pub async fn create(&self, name: &str, now: UtcTime) -> Result<NewUser, store::Error> {
        let id = UserId::from_random(random());
        let token = new_token(id);
        let stored = Stored {
            name: name.to_owned(),
            token_sha256: BASE64.encode(hash(&token)),
            created_at_ms: now.millis(),
            deleted: false,
        };
        self.store.create(&key(id), encode(&stored)?).await?;
        Ok(NewUser { id, token })
    }

    /// One user; `None` when there is none.
    pub async fn get(&self, id: UserId) -> Result<Option<User>, store::Error> {
        let entry = self.store.get(&key(id)).await?;
        Ok(entry.as_ref().and_then(decode).and_then(|stored| shown(id, stored)))
    }

    /// At most `limit` users after that one, in the order of their ids, and the
    /// id to go on after when there may be more.
    pub async fn list(
        &self,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<(Vec<User>, Option<UserId>), store::Error> {
        let after = after.map(key);
        let items = self.store.list(PREFIX, after.as_deref(), limit).await?;
        let next = (items.len() == limit).then(|| of_key(&items.last()?.key)).flatten();
        let user = |item: &store::Item| shown(of_key(&item.key)?, decode(&item.entry)?);
        Ok((items.iter().filter_map(user).collect(), next))
    }

    /// Gives a user another token; the old one is nobody's from now on. `None`
    /// when there is no such user.
    pub async fn renew(&self, id: UserId) -> Result<Option<NewUser>, store::Error> {
        let token = new_token(id);
        let renew = |stored: &mut Stored| {
            let known = !stored.deleted;
            if known {
                stored.token_sha256 = BASE64.encode(hash(&token));
            }
            known
        };
        Ok(self.change(id, renew).await?.then_some(NewUser { id, token }))
    }

    /// Makes a user's token nobody's and hides the user; false when there is
    /// none, not even one whose deletion was cut short. [`Self::forget`] ends it.
    pub async fn hide(&self, id: UserId) -> Result<bool, store::Error> {
        let hide = |stored: &mut Stored| {
            stored.deleted = true;
            true
        };
        self.change(id, hide).await
    }

    /// Removes what is left of a user that is hidden.
    pub async fn forget(&self, id: UserId) -> Result<(), store::Error> {
        self.store.delete(&key(id), None).await
    }

    async fn change(
        &self,
        id: UserId,
        change: impl Fn(&mut Stored) -> bool,
    ) -> Result<bool, store::Error> {
        for _ in 0..ATTEMPTS {
            let Some(entry) = self.store.get(&key(id)).await? else { return Ok(false) };
            let Some(mut stored) = decode(&entry) else { return Ok(false) };
            if !change(&mut stored) {
                return Ok(false);
            }
            match self.store.update(&key(id), encode(&stored)?, entry.revision).await {
                Ok(_) => return Ok(true),
                Err(store::Error::Conflict) => {}
                Err(error) => return Err(error),
            }
        }
        Err(store::Error::Conflict)
    }

    /// Whose token this is; `None` when it is nobody's.
    pub async fn authenticate(&self, token: &str) -> Result<Option<UserId>, store::Error> {
        let id = token.strip_prefix(MARK).and_then(|rest| rest.split_once('.'));
        let Some(Ok(id)) = id.map(|(id, _)| id.parse::<UserId>()) else { return Ok(None) };
        let Some(entry) = self.store.get(&key(id)).await? else { return Ok(None) };
        let Some(stored) = decode(&entry).filter(|stored| !stored.deleted) else { return Ok(None) };
        Ok((stored.token_sha256 == BASE64.encode(hash(token))).then_some(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::Embedded;

    #[tokio::test]
    async fn a_token_names_its_user_and_is_not_stored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.redb");
        let store = Arc::new(Embedded::open(&path).unwrap());
        let users = Users::new(store);
        let ann = users.create("Ann", UtcTime::default()).await.unwrap();
        let bob = users.create("Ann", UtcTime::default()).await.unwrap();
        assert_ne!(ann.id, bob.id);
        assert!(ann.token.len() <= 512);
        assert_eq!(users.authenticate(&ann.token).await, Ok(Some(ann.id)));
        assert_eq!(users.authenticate(&bob.token).await, Ok(Some(bob.id)));
        let mixed = ann.token.replace(ann.id.as_str(), bob.id.as_str());
        for wrong in ["", "u.", "u.x.y", mixed.as_str(), &format!("{}x", ann.token)] {
            assert_eq!(users.authenticate(wrong).await, Ok(None), "{wrong}");
        }
        drop(users);
        let bytes = std::fs::read(&path).unwrap();
        let secret = ann.token.rsplit('.').next().unwrap().as_bytes();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
}
