//! How the store's name and a key stand in the store.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use spyglass_media::UtcTime;

use super::ADOPTION;
use crate::keyring::Dates;
use crate::store;

/// The store's name, which nodes compare.
#[derive(Serialize, Deserialize)]
pub(super) struct Name {
    pub(super) id: String,
    pub(super) created_at_ms: i64,
}

/// A key as it stands in the store; bytes in base64url.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) public: String,
    /// Only of our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seed: Option<String>,
    pub(super) created_at_ms: i64,
    /// Only of our own; absent: since it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) signs_from_ms: Option<i64>,
    /// Only of our own: the longest life of a token it signed; absent: a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) life_ms: Option<u64>,
    /// Only of adopted and revoked ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) revoked: bool,
}

impl Stored {
    /// A key of somebody else, or the mark of one: it never signs.
    pub(super) fn foreign(public: [u8; 32], now: UtcTime, revoked: bool) -> Self {
        Self {
            public: BASE64.encode(public),
            seed: None,
            created_at_ms: now.millis(),
            signs_from_ms: None,
            life_ms: None,
            expires_at_ms: Some((now + ADOPTION).millis()),
            revoked,
        }
    }

    pub(super) fn dates(&self) -> Dates {
        let own = self.seed.is_some() && !self.revoked;
        let from = self.signs_from_ms.unwrap_or(self.created_at_ms);
        Dates {
            created: UtcTime::from_millis(self.created_at_ms),
            signs_from: own.then(|| UtcTime::from_millis(from)),
            life: self.life_ms.map_or(ADOPTION, Duration::from_millis),
            until: self.expires_at_ms.map(UtcTime::from_millis),
            revoked: self.revoked,
        }
    }
}

pub(super) fn unreadable(what: &str) -> store::Error {
    store::Error::Unavailable(format!("{what} is damaged: restore the state directory"))
}

pub(super) fn bytes32(text: &str) -> Option<[u8; 32]> {
    BASE64.decode(text).ok()?.try_into().ok()
}

pub(super) fn json(value: &impl Serialize) -> Bytes {
    // Text and numbers only.
    serde_json::to_vec(value).map(Bytes::from).unwrap_or_default()
}
