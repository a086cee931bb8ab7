//! Registered users. Their tokens are random and stored only as hashes.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use spyglass_daemon::random;
use spyglass_media::{UserId, UtcTime};

use crate::store::{self, Store};

/// What a user's token begins with; the user's id and the secret follow.
const MARK: &str = "u.";

#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    /// Hash of the whole token, base64url.
    token_sha256: String,
    created_at_ms: i64,
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
    format!("users/{id}")
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
        let token = format!("{MARK}{id}.{}", BASE64.encode(random::<32>()));
        let stored = Stored {
            name: name.to_owned(),
            token_sha256: BASE64.encode(hash(&token)),
            created_at_ms: now.millis(),
        };
        let value = serde_json::to_vec(&stored)
            .map_err(|_| store::Error::Unfit("a name that is no JSON"))?;
        self.store.create(&key(id), Bytes::from(value)).await?;
        Ok(NewUser { id, token })
    }

    /// Whose token this is; `None` when it is nobody's.
    pub async fn authenticate(&self, token: &str) -> Result<Option<UserId>, store::Error> {
        let id = token.strip_prefix(MARK).and_then(|rest| rest.split_once('.'));
        let Some(Ok(id)) = id.map(|(id, _)| id.parse::<UserId>()) else { return Ok(None) };
        let Some(entry) = self.store.get(&key(id)).await? else { return Ok(None) };
        let Ok(stored) = serde_json::from_slice::<Stored>(&entry.value) else { return Ok(None) };
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
