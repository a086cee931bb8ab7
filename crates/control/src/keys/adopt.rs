//! Keys of a store that was lost.
//!
//! A control whose store was lost makes new keys, and adopts from its nodes the
//! public halves of the old, so that tokens in people's hands stay good for as
//! long as they would have; and what was revoked stays revoked.

use std::time::Duration;

use spyglass_api::control;
use spyglass_media::UtcTime;
use spyglass_token::{MAX_KEYS, is_key_id};

use super::stored::{Stored, json};
use super::{Error, Keys, PREFIX};
use crate::keyring::Shown;
use crate::store;

/// How long a new store adopts, and how long what it adopts is good: as long as
/// a publish token lives by default.
pub(super) const ADOPTION: Duration = Duration::from_secs(24 * 3600);

/// Keys adopted at most.
pub(super) const MAX_ADOPTED: usize = 16;

impl Keys {
    /// The store was made less than a day ago, perhaps because the one before
    /// was lost.
    pub fn is_new(&self, now: UtcTime) -> bool {
        now.since(UtcTime::from_millis(self.name.created_at_ms)) < ADOPTION
    }

    /// Takes over what a node holds that this store, being new, does not know:
    /// keys to verify with, and keys to refuse. True when there was any.
    pub async fn adopt(
        &self,
        offered: &[control::Key],
        revoked: &[String],
        now: UtcTime,
    ) -> Result<bool, store::Error> {
        if !self.is_new(now) {
            return Ok(false);
        }
        let mut adopted = false;
        for id in revoked.iter().take(MAX_KEYS) {
            let held = self.held.lock().ring.get(id);
            match held {
                Some(dates) if dates.revoked => {}
                Some(_) => match self.revoke(id, now).await {
                    Ok(_) | Err(Error::Unknown) => adopted = true,
                    Err(Error::Store(error)) => return Err(error),
                    Err(_) => {}
                },
                None => {
                    let mark = Stored::foreign([0; 32], now, true);
                    adopted |= self.take(id, &mark).await?;
                }
            }
        }
        for key in offered {
            let Ok(bytes) = <[u8; 32]>::try_from(&key.public_key[..]) else { continue };
            let stored = Stored::foreign(bytes, now, false);
            if self.take(&key.id, &stored).await? {
                adopted = true;
                tracing::info!(key = key.id, "adopted a key of an earlier control, to verify only");
            }
        }
        Ok(adopted)
    }

    /// Writes what a node offered, unless it is known or there is too much.
    async fn take(&self, id: &str, stored: &Stored) -> Result<bool, store::Error> {
        {
            let held = self.held.lock();
            let foreign =
                |key: &Shown| key.dates.signs_from.is_none() && key.dates.revoked == stored.revoked;
            let full =
                held.ring.shown(UtcTime::from_millis(0)).iter().filter(|key| foreign(key)).count()
                    >= MAX_ADOPTED;
            if full || held.ring.get(id).is_some() || !is_key_id(id) {
                return Ok(false);
            }
        }
        match self.store.create(&format!("{PREFIX}{id}"), json(stored)).await {
            Ok(revision) => {
                self.held.lock().put(id, stored, revision)?;
                self.tell();
                Ok(true)
            }
            // Another node brought it meanwhile.
            Err(store::Error::Exists) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
