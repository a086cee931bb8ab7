//! The keys of this deployment: one signs, all verify.
//!
//! They stand in the store, made when it is empty. A rotation adds one that
//! begins to sign a little later; [`crate::keyring`] says what follows from
//! that. A revoked key leaves a mark in the store for as long as anybody might
//! still offer it. Other controls of the same store change keys too: what they
//! write comes in through [`Keys::on_change`].
//!
//! What a control whose store was lost takes back from its nodes is [`adopt`].

mod adopt;
mod stored;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use parking_lot::Mutex;
use spyglass_api::control;
use spyglass_daemon::random;
use spyglass_media::{BroadcastId, UtcTime};
use spyglass_token::{Grant, KeySet, MAX_KEYS, PublicKey, SigningKey};
use tokio::sync::watch;

use self::adopt::{ADOPTION, MAX_ADOPTED};
use self::stored::{Name, Stored, bytes32, json, unreadable};
use crate::keyring::{Keyring, Shown};
use crate::store::{self, Change, Revision, Store, list_all};

const NAME: &str = "meta/store";

/// What the names of keys in the store begin with.
const PREFIX: &str = "keys/";

/// Keys of our own at most, so that with adopted ones all verify everywhere.
const MAX_OWN: usize = MAX_KEYS - MAX_ADOPTED;

/// From the making of a key until it signs: time for every control and node to
/// hear of it.
const OVERLAP: Duration = Duration::from_secs(10);

/// Attempts to change a record that others change at the same time.
const ATTEMPTS: usize = 16;

/// Why a key is not rotated or revoked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such key.
    #[error("there is no such key; GET /v1/keys lists them")]
    Unknown,
    /// A rotation is under way.
    #[error("key {0} is about to sign: rotate again once it does")]
    Waiting(String),
    /// Too many still verify.
    #[error("{MAX_OWN} keys still verify: wait until the oldest have expired, or revoke them")]
    Full,
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// See the module.
pub struct Keys {
    store: Arc<dyn Store>,
    name: Name,
    /// Longest life of a token signed now, in milliseconds.
    life_ms: AtomicU64,
    held: Mutex<Held>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Held {
    ring: Keyring,
    public: HashMap<String, [u8; 32]>,
    /// Of each key's newest write that is in here.
    revisions: HashMap<String, u64>,
    signers: HashMap<String, Arc<SigningKey>>,
    set: Arc<KeySet>,
    /// Of the newest write that is in here.
    revision: u64,
    signer: Option<Signer>,
}

/// Who signs, so that not every join asks the ring.
struct Signer {
    key: Arc<SigningKey>,
    /// When another does.
    until: Option<UtcTime>,
}

impl Held {
    /// Takes in a record of the store.
    fn put(&mut self, id: &str, stored: &Stored, revision: Revision) -> Result<(), store::Error> {
        if self.revisions.get(id).is_some_and(|held| *held > revision.0) {
            // An echo that comes late.
            return Ok(());
        }
        let damaged = || unreadable(&format!("{PREFIX}{id}"));
        let public = bytes32(&stored.public).ok_or_else(damaged)?;
        if let (Some(seed), false) = (&stored.seed, stored.revoked) {
            let seed = bytes32(seed).ok_or_else(damaged)?;
            let key = SigningKey::from_seed(id.to_owned(), seed).map_err(|_| damaged())?;
            self.signers.insert(id.to_owned(), Arc::new(key));
        } else {
            self.signers.remove(id);
        }
        self.public.insert(id.to_owned(), public);
        self.ring.put(id, stored.dates());
        self.revisions.insert(id.to_owned(), revision.0);
        self.revision = self.revision.max(revision.0);
        self.build();
        Ok(())
    }

    fn remove(&mut self, id: &str, revision: u64) {
        if self.revisions.get(id).is_some_and(|held| *held > revision) {
            return;
        }
        self.revisions.remove(id);
        self.ring.remove(id);
        self.public.remove(id);
        self.signers.remove(id);
        self.revision = self.revision.max(revision);
        self.build();
    }

    fn build(&mut self) {
        // The newest first: they count should there ever be too many.
        let shown = self.ring.shown(UtcTime::from_millis(0));
        let trusted = shown.iter().rev().filter(|key| !key.dates.revoked);
        let keys = trusted.filter_map(|key| {
            Some(PublicKey { id: key.id.clone(), bytes: *self.public.get(&key.id)? })
        });
        self.set = Arc::new(KeySet::new(keys));
        self.signer = None;
    }

    fn signer(&mut self, now: UtcTime) -> Option<Arc<SigningKey>> {
        if let Some(signer) = &self.signer
            && signer.until.is_none_or(|until| now < until)
        {
            return Some(Arc::clone(&signer.key));
        }
        let key = Arc::clone(self.signers.get(self.ring.signing(now)?)?);
        let until = self.ring.next_begins(now);
        tracing::info!(key = key.public().id, "tokens are signed with this key");
        self.signer = Some(Signer { key: Arc::clone(&key), until });
        Some(key)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Keys {
    /// Reads the keys, and makes what is not there. `life` is the longest life
    /// of a token that will be signed.
    pub async fn load(
        store: Arc<dyn Store>,
        life: Duration,
        now: UtcTime,
    ) -> Result<Self, store::Error> {
        let name = loop {
            if let Some(entry) = store.get(NAME).await? {
                break serde_json::from_slice(&entry.value)
                    .map_err(|_| unreadable("the store's name"))?;
            }
            let id = BroadcastId::from_random(random()).to_string();
            let name = Name { id, created_at_ms: now.millis() };
            match store.create(NAME, json(&name)).await {
                Ok(_) => break name,
                // Another control was faster: it is its name.
                Err(store::Error::Exists) => {}
                Err(error) => return Err(error),
            }
        };
        let keys = Self {
            store,
            name,
            life_ms: AtomicU64::new(millis(life)),
            held: Mutex::default(),
            changed: watch::Sender::new(0),
        };
        keys.reload().await?;
        if keys.held.lock().ring.signing(now).is_none() {
            keys.create(now, now).await?;
        }
        Ok(keys)
    }

    /// Reads every key anew: at the start, and when changes were missed.
    pub async fn reload(&self) -> Result<(), store::Error> {
        let items = list_all(&*self.store, PREFIX).await?;
        {
            let mut held = self.held.lock();
            let newest = items.iter().map(|item| item.entry.revision.0).max().unwrap_or(0);
            let mut gone: Vec<String> = held.revisions.keys().cloned().collect();
            for item in items {
                let id = &item.key[PREFIX.len()..];
                let stored: Stored =
                    serde_json::from_slice(&item.entry.value).map_err(|_| unreadable(&item.key))?;
                held.put(id, &stored, item.entry.revision)?;
                gone.retain(|held| held != id);
            }
            // One that was written since the list was read stays.
            gone.iter().for_each(|id| held.remove(id, newest));
        }
        self.tell();
        Ok(())
    }

    /// Some control of this store, perhaps this one, wrote under [`PREFIX`].
    pub fn on_change(&self, change: &Change) {
        let Some(id) = change.key.strip_prefix(PREFIX) else { return };
        let Some(value) = &change.value else {
            self.held.lock().remove(id, change.revision.0);
            return self.tell();
        };
        match serde_json::from_slice::<Stored>(value) {
            Ok(stored) => {
                let mut held = self.held.lock();
                if let Err(error) = held.put(id, &stored, change.revision) {
                    tracing::warn!(%error, "a key of another control is ignored");
                }
            }
            Err(error) => {
                tracing::warn!(key = id, %error, "a key of another control is ignored");
            }
        }
        self.tell();
    }

    /// Wakes whenever nodes must be told [`Self::update`] anew.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A token for `grant`, with the key that signs when it is issued.
    ///
    /// # Errors
    /// As [`SigningKey::sign`]; and when no key signs.
    pub fn sign(&self, grant: &Grant) -> Result<String, spyglass_token::Error> {
        let issued = match grant {
            Grant::Publish(grant) => grant.issued,
            Grant::Watch(grant) => grant.issued,
        };
        let signer = self.held.lock().signer(issued);
        signer.ok_or(spyglass_token::Error::Key)?.sign(grant)
    }

    /// What verifies now.
    pub fn set(&self) -> Arc<KeySet> {
        Arc::clone(&self.held.lock().set)
    }

    /// The store's name: another one after its state was lost.
    pub fn store_name(&self) -> &str {
        &self.name.id
    }

    /// Every key that is not revoked, the oldest first, with its public half.
    pub fn shown(&self, now: UtcTime) -> Vec<(Shown, PublicKey)> {
        let held = self.held.lock();
        let trusted = held.ring.shown(now).into_iter().filter(|key| !key.dates.revoked);
        trusted
            .filter_map(|key| {
                let bytes = *held.public.get(&key.id)?;
                let public = PublicKey { id: key.id.clone(), bytes };
                Some((key, public))
            })
            .collect()
    }

    /// For the nodes.
    pub fn update(&self) -> control::Keys {
        let held = self.held.lock();
        let (revoked, trusted): (Vec<Shown>, Vec<Shown>) = held
            .ring
            .shown(UtcTime::from_millis(0))
            .into_iter()
            .rev()
            .partition(|key| key.dates.revoked);
        let wire = |key: Shown| {
            let public_key = Bytes::copy_from_slice(held.public.get(&key.id)?);
            Some(control::Key { id: key.id, public_key })
        };
        control::Keys {
            store: self.name.id.clone(),
            keys: trusted.into_iter().filter_map(wire).take(MAX_KEYS).collect(),
            revision: held.revision,
            revoked: revoked.into_iter().map(|key| key.id).take(MAX_KEYS).collect(),
        }
    }

    /// Tokens live this long from now on.
    pub fn on_life(&self, life: Duration) {
        self.life_ms.store(millis(life), Ordering::Relaxed);
    }

    /// Makes a key that signs after [`OVERLAP`].
    pub async fn rotate(&self, now: UtcTime) -> Result<String, Error> {
        {
            let held = self.held.lock();
            if let Some(next) = held.ring.next(now) {
                return Err(Error::Waiting(next.to_owned()));
            }
            if held.signers.len() >= MAX_OWN {
                return Err(Error::Full);
            }
        }
        let id = self.create(now, now + OVERLAP).await?;
        tracing::info!(key = id, "a new key will sign tokens in 10 s");
        Ok(id)
    }

    /// Refuses a key from now on, everywhere. The one that signs is replaced
    /// first, at once. Returns the key that signs then.
    pub async fn revoke(&self, id: &str, now: UtcTime) -> Result<String, Error> {
        let (known, signs, next) = {
            let held = self.held.lock();
            let known = held.ring.get(id).is_some_and(|dates| !dates.revoked);
            let signs = held.ring.signing(now) == Some(id);
            (known, signs, held.ring.next(now).map(str::to_owned))
        };
        if !known {
            return Err(Error::Unknown);
        }
        match next {
            Some(next) if signs => {
                self.change(&next, |stored| stored.signs_from_ms = Some(now.millis())).await?;
            }
            None if signs => {
                self.create(now, now).await?;
            }
            _ => {}
        }
        let life = self.held.lock().ring.get(id).map_or(ADOPTION, |dates| dates.life);
        // While the store adopts, somebody may offer it again.
        let until = now + life.max(ADOPTION);
        self.change(id, |stored| {
            stored.seed = None;
            stored.revoked = true;
            stored.expires_at_ms = Some(until.millis());
        })
        .await?;
        tracing::warn!(key = id, "key revoked: its tokens are refused from now on");
        let held = self.held.lock();
        Ok(held.ring.signing(now).unwrap_or_default().to_owned())
    }

    async fn create(&self, now: UtcTime, signs_from: UtcTime) -> Result<String, store::Error> {
        let seed: [u8; 32] = random();
        let id = BroadcastId::from_random(random()).to_string();
        let key = SigningKey::from_seed(id.clone(), seed).map_err(|_| unreadable("a new key"))?;
        let stored = Stored {
            public: BASE64.encode(key.public().bytes),
            seed: Some(BASE64.encode(seed)),
            created_at_ms: now.millis(),
            signs_from_ms: Some(signs_from.millis()),
            life_ms: Some(self.life_ms.load(Ordering::Relaxed)),
            expires_at_ms: None,
            revoked: false,
        };
        let revision = self.store.create(&format!("{PREFIX}{id}"), json(&stored)).await?;
        self.held.lock().put(&id, &stored, revision)?;
        self.tell();
        Ok(id)
    }

    /// Changes a record, here and in the store.
    async fn change(&self, id: &str, change: impl Fn(&mut Stored)) -> Result<(), Error> {
        let name = format!("{PREFIX}{id}");
        for _ in 0..ATTEMPTS {
            let entry = self.store.get(&name).await?.ok_or(Error::Unknown)?;
            let mut stored: Stored =
                serde_json::from_slice(&entry.value).map_err(|_| unreadable(&name))?;
            change(&mut stored);
            match self.store.update(&name, json(&stored), entry.revision).await {
                Ok(revision) => {
                    self.held.lock().put(id, &stored, revision)?;
                    self.tell();
                    return Ok(());
                }
                Err(store::Error::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(store::Error::Conflict.into())
    }

    /// Looks at the time: drops keys whose time is over, notes longer lives of
    /// tokens, and rotates when the key has signed for `rotate_after`.
    pub async fn on_tick(
        &self,
        now: UtcTime,
        rotate_after: Option<Duration>,
    ) -> Result<(), store::Error> {
        let (over, signing) = {
            let held = self.held.lock();
            let signing = held.ring.signing(now).map(str::to_owned);
            let signing = signing.and_then(|id| Some((held.ring.get(&id)?, id)));
            (held.ring.over(now), signing)
        };
        for id in over {
            {
                let mut held = self.held.lock();
                let revision = held.revision;
                held.remove(&id, revision);
            }
            self.tell();
            self.store.delete(&format!("{PREFIX}{id}"), None).await?;
            tracing::info!(key = id, "key dropped: every token it signed has expired");
        }
        let Some((dates, id)) = signing else { return Ok(()) };
        let life = self.life_ms.load(Ordering::Relaxed);
        if millis(dates.life) < life {
            let longer = |stored: &mut Stored| stored.life_ms = Some(life);
            // Gone meanwhile is as good.
            if let Err(Error::Store(error)) = self.change(&id, longer).await {
                return Err(error);
            }
        }
        let since = dates.signs_from.unwrap_or(dates.created);
        if rotate_after.is_some_and(|after| now.since(since) >= after) {
            match self.rotate(now).await {
                Ok(_) | Err(Error::Waiting(_)) => {}
                Err(Error::Store(error)) => return Err(error),
                Err(error) => tracing::warn!(%error, "the signing key is not rotated"),
            }
        }
        Ok(())
    }
}
