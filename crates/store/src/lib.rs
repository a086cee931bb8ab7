//! Where control and messages keep what must survive them.
//!
//! One interface, so that an operator can move from the [`embedded`] file to a
//! replicated engine without anything else changing. It promises only what
//! every such engine has: single keys, a revision for each, writes that are
//! refused when the revision is another, and watching. There is no expiry:
//! what lapses carries its own deadline in its value. What controls tell each
//! other goes through the [`Bus`] of the same engine.
//!
//! Keys are ASCII words joined by `/`, such as `broadcasts/0123456789abc`; the
//! values are JSON, read and written by the modules that own them.
//! [`embedded`] is one file, [`nats`] a server that several controls share; `contract` holds the tests that every implementation passes.

pub mod bus;
pub mod embedded;
pub mod nats;

#[cfg(test)]
mod contract;

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use tokio::sync::{broadcast, watch};

pub use crate::bus::{Bus, Log, Logged, Received, Subscription};

/// Longest key, in bytes.
pub const MAX_KEY: usize = 200;

/// Longest value, in bytes: what a NATS server takes by default, less what the
/// headers of a write need.
pub const MAX_VALUE: usize = 1024 * 1024 - 1024;

/// Most items of one [`Store::list`].
pub const MAX_PAGE: usize = 1_000;

/// What orders the writes of one store: each gets a larger one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A value and when it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As it was given.
    pub value: Bytes,
    /// Of the write that put it there.
    pub revision: Revision,
}

/// One key with its entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Whole, prefix included.
    pub key: String,
    /// What stands there.
    pub entry: Entry,
}

/// Something was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whole, prefix included.
    pub key: String,
    /// What stands there now; `None` after a delete.
    pub value: Option<Bytes>,
    /// Of this write.
    pub revision: Revision,
}

/// Why the store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// [`Store::create`] found the key taken.
    #[error("the key exists")]
    Exists,
    /// [`Store::update`] or [`Store::delete`] found another revision, or none.
    #[error("the value has changed meanwhile")]
    Conflict,
    /// The key or the value breaks the limits of this module.
    #[error("{0}")]
    Unfit(&'static str),
    /// The engine failed or is away; what it said.
    #[error("{0}")]
    Unavailable(String),
}

/// What a call returns once it is done.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A key-value store with compare-and-set. A write that has answered survives
/// the process. Writes may be in flight when their future is dropped; they then
/// happen or not.
pub trait Store: Send + Sync + 'static {
    /// What stands at `key`.
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>>;

    /// Writes a key that does not exist, or fails with [`Error::Exists`].
    fn create<'a>(&'a self, key: &'a str, value: Bytes) -> Answer<'a, Revision>;

    /// Replaces exactly `revision`, or fails with [`Error::Conflict`].
    fn update<'a>(&'a self, key: &'a str, value: Bytes, revision: Revision)
    -> Answer<'a, Revision>;

    /// Removes the key; with a revision, only exactly that one, else
    /// [`Error::Conflict`]. Without one, a key that is not there is fine.
    fn delete<'a>(&'a self, key: &'a str, revision: Option<Revision>) -> Answer<'a, ()>;

    /// The first `limit` items ([`MAX_PAGE`] at most) whose keys begin with
    /// `prefix` and come after `after`, in the order of their keys.
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Vec<Item>>;

    /// Changes under `prefix` from now on, in the order of the writes. Of a key
    /// written several times in a row only the newest may come.
    fn watch(&self, prefix: &str) -> Watch;
}

/// What a control holds: a [`Store`] and a [`Bus`] that live and fail together.
pub trait Engine: Store + Bus {
    /// Whether writes can succeed at present. While it is `false`, those of
    /// [`Store`]'s reads that memory can answer are answered.
    fn available(&self) -> watch::Receiver<bool>;
}

/// Changes as they happen.
#[derive(Debug)]
pub struct Watch {
    prefix: String,
    changes: broadcast::Receiver<Change>,
}

/// What a [`Watch`] yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// One write.
    Change(Change),
    /// Some were missed: list again.
    Missed,
}

impl Watch {
    /// The next change; `None` when the store is closed.
    pub async fn next(&mut self) -> Option<Watched> {
        loop {
            match self.changes.recv().await {
                Ok(change) if change.key.starts_with(&self.prefix) => {
                    return Some(Watched::Change(change));
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return Some(Watched::Missed),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Everything under `prefix`, page by page.
pub async fn list_all(store: &dyn Store, prefix: &str) -> Result<Vec<Item>, Error> {
    let mut all: Vec<Item> = Vec::new();
    loop {
        let after = all.last().map(|item| item.key.clone());
        let page = store.list(prefix, after.as_deref(), MAX_PAGE).await?;
        let more = page.len() == MAX_PAGE;
        all.extend(page);
        if !more {
            return Ok(all);
        }
    }
}

fn check(key: &str, value: &[u8]) -> Result<(), Error> {
    check_key(key)?;
    if value.len() > MAX_VALUE {
        return Err(Error::Unfit("a value has 1,047,552 bytes at most"));
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), Error> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.');
    if key.is_empty() || key.len() > MAX_KEY || !key.bytes().all(fits) {
        return Err(Error::Unfit("a key has 1 to 200 characters of A-Z, a-z, 0-9, /, -, _ and ."));
    }
    Ok(())
}
