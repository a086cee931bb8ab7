//! What controls tell each other: messages of the moment, and logs that stay.
//!
//! A published message reaches whoever listens now and is then gone; it may be
//! lost, so it only ever says that something is worth a look. What must not be
//! lost is written to the [`Store`](crate::Store) or appended to a [`Log`].

use std::collections::HashMap;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

use crate::{Answer, Error, check_key};

/// Longest message or log entry, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Entries that one [`Log`] keeps; the oldest go first.
pub const LOG_ENTRIES: u64 = 100_000;

/// How long a [`Log`] keeps an entry.
pub const LOG_AGE: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);

/// How long an id given to [`Bus::append`] is remembered.
pub const LOG_DUPLICATES: std::time::Duration = std::time::Duration::from_secs(120);

/// Messages that a [`Subscription`] may be behind before it misses some.
const BEHIND: usize = 1_024;

/// A list that survives, of [`LOG_ENTRIES`] and [`LOG_AGE`] at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Log {
    /// What happened to broadcasts and people, for feeds and webhooks.
    Events,
    /// What operators did.
    Audit,
}

impl Log {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Events, Self::Audit];

    /// Its name in tables and streams.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Audit => "audit",
        }
    }

    /// Its place in [`Log::ALL`].
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Events => 0,
            Self::Audit => 1,
        }
    }
}

/// One entry of a [`Log`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Orders the entries of one log; larger is later, gaps mean nothing.
    pub sequence: u64,
    /// As it was given.
    pub payload: Bytes,
}

/// Messages between controls. Subjects and ids follow the rule for keys.
pub trait Bus: Send + Sync + 'static {
    /// To everybody who is subscribed now, this process included; lost when
    /// nobody listens. [`Error::Unavailable`] says that the others did not get
    /// it: those subscribed in this process did.
    fn publish<'a>(&'a self, subject: &'a str, payload: Bytes) -> Answer<'a, ()>;

    /// Messages of exactly `subject` from now on. What other processes publish
    /// may take a moment to begin.
    fn subscribe(&self, subject: &str) -> Subscription;

    /// Appends to `log` and returns the sequence. The same `id` again within
    /// [`LOG_DUPLICATES`], by whomever, is not written again and returns the
    /// first one's sequence.
    fn append<'a>(&'a self, log: Log, id: &'a str, payload: Bytes) -> Answer<'a, u64>;

    /// Up to `limit` entries ([`MAX_PAGE`](crate::MAX_PAGE) at most) with a
    /// sequence above `after`, in order.
    fn read<'a>(&'a self, log: Log, after: u64, limit: usize) -> Answer<'a, Vec<Logged>>;

    /// The sequence of the newest entry ever appended; 0 before the first.
    fn last<'a>(&'a self, log: Log) -> Answer<'a, u64>;

    /// The newest sequence known here, which changes when somebody appended:
    /// then read on. It may skip some and may go back when the log was lost.
    fn appended(&self, log: Log) -> watch::Receiver<u64>;
}

/// What a [`Subscription`] yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// One message.
    Payload(Bytes),
    /// Some were missed.
    Missed,
}

/// Messages as they come.
#[derive(Debug)]
pub struct Subscription {
    messages: broadcast::Receiver<Received>,
}

impl Subscription {
    /// The next message; `None` when the bus is closed.
    pub async fn next(&mut self) -> Option<Received> {
        match self.messages.recv().await {
            Ok(received) => Some(received),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Received::Missed),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// The subscriptions of this process, by subject.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    subjects: Mutex<HashMap<String, broadcast::Sender<Received>>>,
}

impl Hub {
    /// A subscription; for the first to its subject also what feeds it.
    pub(crate) fn subscribe(
        &self,
        subject: &str,
    ) -> (Subscription, Option<broadcast::Sender<Received>>) {
        let mut subjects = self.subjects.lock();
        // Nobody tells when a subscription goes: whoever comes sweeps.
        subjects.retain(|_, sender| sender.receiver_count() > 0);
        let mut first = None;
        let sender = subjects.entry(subject.to_owned()).or_insert_with(|| {
            let sender = broadcast::Sender::new(BEHIND);
            first = Some(sender.clone());
            sender
        });
        (Subscription { messages: sender.subscribe() }, first)
    }

    /// To those who are subscribed here.
    pub(crate) fn deliver(&self, subject: &str, payload: Bytes) {
        if let Some(sender) = self.subjects.lock().get(subject) {
            // The last may just have gone.
            let _ = sender.send(Received::Payload(payload));
        }
    }
}

pub(crate) fn check_message(name: &str, payload: &[u8]) -> Result<(), Error> {
    check_key(name)?;
    if payload.len() > MAX_PAYLOAD {
        return Err(Error::Unfit("a message has 64 KiB at most"));
    }
    Ok(())
}
