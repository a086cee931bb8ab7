//! Calls: reads from the replica, writes and messages to NATS.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;

use super::replica::Held;
use super::{Address, DEADLINE, OpenError, Shared, connect, follow, marks, unavailable};
use crate::bus::{Bus, Log, Logged, Received, Subscription, check_message};
use crate::{Answer, Engine, Entry, Error, Item, MAX_PAGE, Revision, Store, Watch, check};

/// NATS that has not answered for this long at the start is told of, once.
const SOON: Duration = Duration::from_secs(1);

/// Attempts of a create that finds the remains of a deleted key.
const ATTEMPTS: usize = 4;

/// See [`super`].
pub struct Nats {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Nats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Nats({:?})", self.shared.address)
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Nats {
    /// Connects and reads the whole bucket, within `patience`.
    ///
    /// # Errors
    /// When the address has another form or NATS does not answer in time.
    pub async fn open(address: &str, patience: Duration) -> Result<Self, OpenError> {
        Self::open_keeping(address, patience, marks::KEEP).await
    }

    /// As [`Self::open`]; marks of deleted keys stay for `marks`.
    pub(super) async fn open_keeping(
        address: &str,
        patience: Duration,
        marks: Duration,
    ) -> Result<Self, OpenError> {
        let address = Address::parse(address).ok_or(OpenError::Address)?;
        let shared = connect(&address, marks).await?;
        let mut available = shared.available.subscribe();
        let task = tokio::spawn(follow::run(Arc::clone(&shared)));
        let nats = Self { shared, task };
        let told = async {
            tokio::time::sleep(SOON).await;
            let (address, reason) =
                (nats.shared.address.shown(), nats.shared.reason.lock().clone());
            warn!(
                address,
                reason,
                "NATS does not answer; trying for {patience:?}: see that it runs with JetStream \
                 (nats-server -js) and that --store names its address and password"
            );
            std::future::pending().await
        };
        let there = tokio::select! {
            there = tokio::time::timeout(patience, available.wait_for(|there| *there)) => there,
            () = told => unreachable!("it waits for ever"),
        };
        match there {
            Ok(Ok(_)) => Ok(nats),
            _ => {
                let reason = format!(" ({})", nats.shared.reason.lock());
                Err(OpenError::Away(address.shown(), reason))
            }
        }
    }

    /// The newest of `key` in NATS, put into the replica too.
    async fn fetch(&self, key: &str) -> Result<Option<Held>, Error> {
        let shared = &self.shared;
        let subject = shared.subject(key);
        let fetched = shared.call(async {
            let bucket = shared.context.get_stream_no_info(shared.bucket()).await;
            let bucket = bucket.map_err(|error| error.to_string())?;
            match bucket.get_last_raw_message_by_subject(&subject).await {
                Ok(message) => Ok(Some(message)),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(error.to_string()),
            }
        });
        let Some(message) = fetched.await?.map_err(unavailable)? else {
            shared.replica.lock().forget_mark(key);
            return Ok(None);
        };
        let mut replica = shared.replica.lock();
        let deleted = follow::is_deleted(Some(&message.headers));
        let held = Held {
            revision: replica.incarnation.revision(message.sequence),
            value: (!deleted).then_some(message.payload),
        };
        replica.put(key, held.clone());
        Ok(Some(held))
    }

    /// Writes when the key's last write is `expected`; `None` always.
    async fn write(
        &self,
        key: &str,
        value: Option<Bytes>,
        expected: Option<u64>,
    ) -> Result<Revision, Error> {
        let shared = &self.shared;
        let mut message = PublishMessage::build();
        message = match &value {
            Some(value) => message.payload(value.clone()),
            None => message.header("KV-Operation", "DEL"),
        };
        if let Some(expected) = expected {
            message = message.expected_last_subject_sequence(expected);
        }
        let subject = shared.subject(key);
        let incarnation = shared.replica.lock().incarnation;
        let sent = shared.call(async {
            match shared.context.send_publish(subject, message).await {
                Ok(sent) => sent.await,
                Err(error) => Err(error),
            }
        });
        match sent.await? {
            Ok(written) => {
                let revision = incarnation.revision(written.sequence);
                shared.replica.lock().put(key, Held { revision, value });
                Ok(revision)
            }
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                // The caller will read the newest.
                self.fetch(key).await?;
                Err(Error::Conflict)
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    fn held(&self, key: &str) -> Option<Held> {
        self.shared.replica.lock().get(key).cloned()
    }

    /// The sequence to expect for a revision; one of another life of the
    /// bucket is no longer there.
    fn sequence(&self, revision: Revision) -> Result<u64, Error> {
        self.shared.replica.lock().incarnation.sequence(revision).ok_or(Error::Conflict)
    }
}

impl Store for Nats {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        Box::pin(async move {
            check(key, &[])?;
            let held = match self.held(key) {
                Some(held) => Some(held),
                // Another control may just have written it.
                None if *self.shared.available.borrow() => self.fetch(key).await?,
                None => None,
            };
            Ok(held.and_then(|held| Some(Entry { value: held.value?, revision: held.revision })))
        })
    }

    fn create<'a>(&'a self, key: &'a str, value: Bytes) -> Answer<'a, Revision> {
        Box::pin(async move {
            check(key, &value)?;
            for _ in 0..ATTEMPTS {
                let expected = match self.held(key) {
                    Some(Held { value: Some(_), .. }) => match self.fetch(key).await? {
                        Some(Held { value: None, revision }) => self.sequence(revision)?,
                        Some(_) => return Err(Error::Exists),
                        None => 0,
                    },
                    Some(deleted) => self.sequence(deleted.revision).unwrap_or(0),
                    None => 0,
                };
                match self.write(key, Some(value.clone()), Some(expected)).await {
                    Err(Error::Conflict) => {}
                    other => return other,
                }
            }
            Err(Error::Exists)
        })
    }

    fn update<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        revision: Revision,
    ) -> Answer<'a, Revision> {
        Box::pin(async move {
            check(key, &value)?;
            self.write(key, Some(value), Some(self.sequence(revision)?)).await
        })
    }

    fn delete<'a>(&'a self, key: &'a str, revision: Option<Revision>) -> Answer<'a, ()> {
        Box::pin(async move {
            check(key, &[])?;
            let expected = match revision {
                Some(revision) => Some(self.sequence(revision)?),
                None => match self.fetch(key).await? {
                    Some(Held { value: Some(_), .. }) => None,
                    _ => return Ok(()),
                },
            };
            self.write(key, None, expected).await.map(drop)
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Vec<Item>> {
        let items = self.shared.replica.lock().list(prefix, after, limit.min(MAX_PAGE));
        Box::pin(std::future::ready(Ok(items)))
    }

    fn watch(&self, prefix: &str) -> Watch {
        Watch { prefix: prefix.to_owned(), changes: self.shared.changes.subscribe() }
    }
}

impl Shared {
    /// A newer sequence of a log is known.
    pub(super) fn raise(&self, log: Log, sequence: u64) {
        self.appended[log.index()].send_if_modified(|last| {
            let newer = sequence > *last;
            *last = sequence.max(*last);
            newer
        });
    }

    async fn last(&self, log: Log) -> Result<u64, Error> {
        let info = self.call(async {
            let stream = self.context.get_stream_no_info(self.log_stream(log)).await;
            stream.map_err(|error| error.to_string())?.get_info().await.map_err(|e| e.to_string())
        });
        Ok(info.await?.map_err(unavailable)?.state.last_sequence)
    }

    async fn read(&self, log: Log, after: u64, limit: usize) -> Result<Vec<Logged>, Error> {
        let last = self.last(log).await?;
        let mut read = Vec::new();
        if after >= last || limit == 0 {
            return Ok(read);
        }
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
            ack_policy: AckPolicy::None,
            inactive_threshold: 5 * DEADLINE,
            ..pull::Config::default()
        };
        let reading = self.call(async {
            let text = |error: &dyn std::fmt::Display| error.to_string();
            let stream = self.context.get_stream_no_info(self.log_stream(log)).await;
            let consumer = stream.map_err(|e| text(&e))?.create_consumer(config).await;
            let consumer = consumer.map_err(|e| text(&e))?;
            let batch = consumer.fetch().max_messages(limit).messages().await;
            let mut batch = batch.map_err(|e| text(&e))?;
            while let Some(message) = batch.next().await {
                let message = message.map_err(|e| text(&e))?;
                let sequence = message.info().map_err(|e| text(&e))?.stream_sequence;
                read.push(Logged { sequence, payload: message.payload.clone() });
                if sequence >= last || read.len() >= limit {
                    break;
                }
            }
            Ok::<_, String>(read)
        });
        reading.await?.map_err(unavailable)
    }
}

impl Bus for Nats {
    fn publish<'a>(&'a self, subject: &'a str, payload: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            check_message(subject, &payload)?;
            let shared = &self.shared;
            shared.hub.deliver(subject, payload.clone());
            let sent = shared.client.publish(shared.bus_subject(subject), payload);
            shared.call(sent).await?.map_err(unavailable)
        })
    }

    fn subscribe(&self, subject: &str) -> Subscription {
        let (subscription, first) = self.shared.hub.subscribe(subject);
        if let Some(sender) = first {
            let client = self.shared.client.clone();
            let name = self.shared.bus_subject(subject);
            tokio::spawn(async move {
                let Ok(mut messages) = client.subscribe(name).await else { return };
                while let Some(message) = messages.next().await {
                    // Ends when nobody listens any more.
                    if sender.send(Received::Payload(message.payload)).is_err() {
                        return;
                    }
                }
            });
        }
        subscription
    }

    fn append<'a>(&'a self, log: Log, id: &'a str, payload: Bytes) -> Answer<'a, u64> {
        Box::pin(async move {
            check_message(id, &payload)?;
            let shared = &self.shared;
            let message = PublishMessage::build().payload(payload).message_id(id);
            let sent = shared.call(async {
                match shared.context.send_publish(shared.log_subject(log), message).await {
                    Ok(sent) => sent.await,
                    Err(error) => Err(error),
                }
            });
            let sequence = sent.await?.map_err(unavailable)?.sequence;
            shared.raise(log, sequence);
            let hint = Bytes::from(sequence.to_string());
            // It stands; those who miss the hint hear of the next.
            let _ = shared.call(shared.client.publish(shared.hint_subject(log), hint)).await;
            Ok(sequence)
        })
    }

    fn read<'a>(&'a self, log: Log, after: u64, limit: usize) -> Answer<'a, Vec<Logged>> {
        Box::pin(self.shared.read(log, after, limit.min(MAX_PAGE)))
    }

    fn last<'a>(&'a self, log: Log) -> Answer<'a, u64> {
        Box::pin(self.shared.last(log))
    }

    fn appended(&self, log: Log) -> watch::Receiver<u64> {
        self.shared.appended[log.index()].subscribe()
    }
}

impl Engine for Nats {
    fn available(&self) -> watch::Receiver<bool> {
        self.shared.available.subscribe()
    }
}
