//! The store and bus in NATS: for controls that run side by side.
//!
//! Every key is the last message of a subject in one JetStream stream, in the
//! form of a NATS key-value bucket; the whole bucket is also held here, in
//! [`replica`]. Reads are answered from there, so they go on while NATS is
//! away; writes are compare-and-set in NATS and fail within [`DEADLINE`].
//! [`follow`] keeps the replica: it reads the stream from its beginning after
//! each reconnect, so no change is missed, and writes back what NATS lost.

mod address;
mod engine;
mod follow;
mod marks;
mod replica;
#[cfg(test)]
mod tests;

pub use address::{ADVICE, Address};
pub use engine::Nats;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context, stream};
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast, watch};

use crate::bus::{Hub, LOG_AGE, LOG_DUPLICATES, LOG_ENTRIES, Log};
use crate::{Change, Error};
use replica::Replica;

/// The longest that a call waits for NATS.
pub const DEADLINE: Duration = Duration::from_secs(2);

/// Values in the bucket, in bytes: NATS refuses more, which bounds the replica.
const MAX_BYTES: i64 = 512 * 1024 * 1024;

/// Keys in the bucket, deleted ones included until their [`marks`] go.
const MAX_ENTRIES: i64 = 1_000_000;

/// Changes a watcher may be behind before it has to list again.
const BEHIND: usize = 4_096;

/// Why NATS cannot be used at start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address has another form.
    #[error("--store: {ADVICE}")]
    Address,
    /// It did not answer in time.
    #[error(
        "--store: NATS at {0} does not answer; see that it runs with JetStream (nats-server -js) \
         and that the address and the password are right{1}"
    )]
    Away(String, String),
}

/// What the engine and its task share.
struct Shared {
    address: Address,
    client: async_nats::Client,
    context: Context,
    replica: Mutex<Replica>,
    changes: broadcast::Sender<Change>,
    hub: Hub,
    appended: [watch::Sender<u64>; 2],
    available: watch::Sender<bool>,
    /// When the bucket was last known to be followed.
    followed: Mutex<Option<Instant>>,
    /// How long the marks of deleted keys stay.
    keep_marks: Duration,
    /// Why it is away, for people.
    reason: Mutex<String>,
    /// The connection came or went, or a call was not answered.
    suspect: Notify,
}

impl Shared {
    fn bucket(&self) -> String {
        format!("KV_{}", self.address.prefix)
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{}", self.address.prefix, address::encode(key))
    }

    fn log_stream(&self, log: Log) -> String {
        format!("{}_{}", self.address.prefix, log.as_str()).to_uppercase()
    }

    fn log_subject(&self, log: Log) -> String {
        format!("{}.log.{}", self.address.prefix, log.as_str())
    }

    fn hint_subject(&self, log: Log) -> String {
        format!("{}.appended.{}", self.address.prefix, log.as_str())
    }

    fn bus_subject(&self, subject: &str) -> String {
        format!("{}.bus.{}", self.address.prefix, address::encode(subject))
    }

    fn away(&self) -> Error {
        let shown = self.address.shown();
        Error::Unavailable(format!("NATS at {shown} is away ({})", self.reason.lock()))
    }

    /// Every call to NATS goes through here.
    async fn call<T, E: std::fmt::Display>(
        &self,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, Error> {
        if !*self.available.borrow() {
            return Err(self.away());
        }
        match tokio::time::timeout(DEADLINE, call).await {
            Ok(result) => Ok(result),
            Err(_) => {
                "it does not answer".clone_into(&mut self.reason.lock());
                self.available.send_replace(false);
                self.suspect.notify_one();
                Err(self.away())
            }
        }
    }

    fn bucket_config(&self) -> stream::Config {
        stream::Config {
            name: self.bucket(),
            subjects: vec![format!("$KV.{}.>", self.address.prefix)],
            max_messages_per_subject: 1,
            max_messages: MAX_ENTRIES,
            max_bytes: MAX_BYTES,
            discard: stream::DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            allow_direct: true,
            ..stream::Config::default()
        }
    }

    fn log_config(&self, log: Log) -> stream::Config {
        stream::Config {
            name: self.log_stream(log),
            subjects: vec![self.log_subject(log)],
            max_messages: i64::try_from(LOG_ENTRIES).unwrap_or(i64::MAX),
            max_age: LOG_AGE,
            duplicate_window: LOG_DUPLICATES,
            ..stream::Config::default()
        }
    }
}

fn unavailable(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(format!("NATS refused: {error}"))
}

async fn connect(address: &Address, keep_marks: Duration) -> Result<Arc<Shared>, OpenError> {
    let (events, mut happened) = tokio::sync::mpsc::channel::<()>(1);
    let mut options = async_nats::ConnectOptions::new()
        .name("spyglass control")
        .no_echo()
        .retry_on_initial_connect()
        .max_reconnects(None)
        .connection_timeout(DEADLINE)
        .ping_interval(DEADLINE)
        .request_timeout(Some(DEADLINE))
        .subscription_capacity(65_536)
        .reconnect_delay_callback(|attempts| {
            Duration::from_millis(50 * u64::try_from(attempts).unwrap_or(u64::MAX).min(20))
        })
        .event_callback(move |_| {
            // One that waits says as much as two.
            let _ = events.try_send(());
            async {}
        });
    if let Some((user, password)) = &address.login {
        options = options.user_and_password(user.clone(), password.clone());
    }
    let away = |error: String| OpenError::Away(address.shown(), error);
    let client = options
        .connect(address.servers.as_slice())
        .await
        .map_err(|error| away(format!(": {}", error.kind())))?;
    let mut context = jetstream::new(client.clone());
    context.set_timeout(DEADLINE);
    let shared = Arc::new(Shared {
        address: address.clone(),
        client,
        context,
        replica: Mutex::default(),
        changes: broadcast::Sender::new(BEHIND),
        hub: Hub::default(),
        appended: [watch::Sender::new(0), watch::Sender::new(0)],
        available: watch::Sender::new(false),
        followed: Mutex::default(),
        keep_marks,
        reason: Mutex::new("not reached yet".to_owned()),
        suspect: Notify::new(),
    });
    let told = Arc::downgrade(&shared);
    tokio::spawn(async move {
        while let Some(()) = happened.recv().await {
            let Some(shared) = told.upgrade() else { return };
            shared.suspect.notify_one();
        }
    });
    Ok(shared)
}
