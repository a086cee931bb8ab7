//! Webhooks: what happens is told to addresses that the operator has named.
//!
//! Of all controls the one that holds a lease in the store delivers; another
//! takes over when that runs out. How far each hook is stands in the store, so
//! every event is delivered at least once, under an id that stays the same.
//!
//! [`queue`] decides what is sent when and [`sign`] signs it, both pure;
//! [`post`] is one request, [`deliver`] the tasks. The feed itself is
//! [`crate::events`].

pub mod deliver;
mod post;
pub mod queue;
mod sign;

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use http::Uri;
use serde::{Deserialize, Serialize};
use spyglass_daemon::random;
use spyglass_media::UtcTime;

use crate::store::{self, Store, list_all};

/// Where hooks stand in the store.
const HOOKS: &str = "webhooks/";

/// How far each is.
const PROGRESS: &str = "webhook-progress/";

/// What a secret begins with (Standard Webhooks).
const MARK: &str = "whsec_";

/// Longest URL.
pub const MAX_URL: usize = 2_048;

/// A hook, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Where to.
    pub url: String,
    /// Types of events; empty: all of broadcasts.
    pub events: Vec<String>,
    /// Signs; base64 behind [`MARK`].
    secret: String,
    /// When it was made.
    pub created_at_ms: i64,
    /// The receiver said that it is gone for good.
    #[serde(default)]
    pub disabled: bool,
    /// Where in the feed it began.
    begin: String,
}

/// How far a hook is, and how it went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// All before this place in the feed is done.
    pub place: String,
    /// Messages that arrived.
    pub delivered: u64,
    /// Messages that were given up.
    pub dropped: u64,
    /// Why the last attempt failed, until one succeeds.
    pub last_error: Option<String>,
    /// When the last attempt was over, in milliseconds since 1970.
    pub last_attempt_ms: Option<i64>,
}

/// Why there is no new hook.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There are as many as control takes.
    #[error("there are too many webhooks")]
    Full,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Whether a URL can be posted to.
pub fn is_url(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let host = uri
        .authority()
        .is_some_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'));
    text.len() <= MAX_URL && scheme && host
}

/// See the module.
pub struct Webhooks {
    store: Arc<dyn Store>,
    limit: usize,
}

impl Webhooks {
    /// Those of this store, `limit` at most.
    pub fn new(store: Arc<dyn Store>, limit: usize) -> Self {
        Self { store, limit }
    }

    /// Makes one that hears what comes after `begin`; its id and its secret,
    /// which is shown only here.
    pub async fn create(
        &self,
        url: String,
        events: Vec<String>,
        begin: String,
        now: UtcTime,
    ) -> Result<(String, String), CreateError> {
        if self.list().await?.len() >= self.limit {
            return Err(CreateError::Full);
        }
        let id = spyglass_media::UserId::from_random(random()).to_string();
        let secret = format!("{MARK}{}", BASE64.encode(random::<32>()));
        let created_at_ms = now.millis();
        let hook = Hook { url, events, secret, created_at_ms, disabled: false, begin };
        let secret = hook.secret.clone();
        self.store.create(&format!("{HOOKS}{id}"), encode(&hook)?).await?;
        Ok((id, secret))
    }

    /// All of them, by id.
    pub async fn list(&self) -> Result<Vec<(String, Hook)>, store::Error> {
        let items = list_all(&*self.store, HOOKS).await?;
        let hook = |item: &store::Item| {
            let hook = serde_json::from_slice(&item.entry.value).ok()?;
            Some((item.key.strip_prefix(HOOKS)?.to_owned(), hook))
        };
        Ok(items.iter().filter_map(hook).collect())
    }

    /// How far one is.
    pub async fn progress(&self, id: &str) -> Result<Progress, store::Error> {
        let entry = self.store.get(&format!("{PROGRESS}{id}")).await?;
        let progress = entry.and_then(|entry| serde_json::from_slice(&entry.value).ok());
        Ok(progress.unwrap_or_default())
    }

    /// Keeps how far one is. Only whoever holds the lease does.
    async fn keep(&self, id: &str, progress: &Progress) -> Result<(), store::Error> {
        let key = format!("{PROGRESS}{id}");
        let value = encode(progress)?;
        match self.store.get(&key).await? {
            Some(entry) => self.store.update(&key, value, entry.revision).await?,
            None => self.store.create(&key, value).await?,
        };
        Ok(())
    }

    /// Removes one; false when there is none.
    pub async fn remove(&self, id: &str) -> Result<bool, store::Error> {
        let key = format!("{HOOKS}{id}");
        let known = self.store.get(&key).await?.is_some();
        self.store.delete(&key, None).await?;
        self.store.delete(&format!("{PROGRESS}{id}"), None).await?;
        Ok(known)
    }

    /// Its receiver is gone for good.
    async fn disable(&self, id: &str) -> Result<(), store::Error> {
        let key = format!("{HOOKS}{id}");
        let Some(entry) = self.store.get(&key).await? else { return Ok(()) };
        let Ok(mut hook) = serde_json::from_slice::<Hook>(&entry.value) else { return Ok(()) };
        hook.disabled = true;
        self.store.update(&key, encode(&hook)?, entry.revision).await?;
        Ok(())
    }
}

fn encode(value: &impl Serialize) -> Result<Bytes, store::Error> {
    let bytes = serde_json::to_vec(value);
    bytes.map(Bytes::from).map_err(|_| store::Error::Unfit("a webhook that is no JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_of_the_web() {
        for fine in ["https://example.org/hook?x=1", "http://10.0.0.1:8080"] {
            assert!(is_url(fine), "{fine}");
        }
        for wrong in ["", "example.org", "/x", "ftp://example.org", "http://u:p@example.org/"] {
            assert!(!is_url(wrong), "{wrong}");
        }
    }
}
