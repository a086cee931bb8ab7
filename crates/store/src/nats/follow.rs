//! Keeps the replica: one session for each time that NATS is there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{DeliverPolicy, push};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Stream;
use futures_util::StreamExt as _;
use tracing::{info, warn};

use super::marks::{Mark, Marks};
use super::replica::{Held, Incarnation, Lost};
use super::{DEADLINE, Shared, address};
use crate::bus::Log;
use crate::{Change, Revision};

/// Between sessions.
const PAUSE: Duration = Duration::from_millis(200);

/// How often a session asks whether the stream is still the one it knows.
const PROBE: Duration = Duration::from_secs(1);

/// Sequences that a crash may have taken; beyond, the stream is not trusted.
const MOST_LOST: u64 = 100_000;

/// What ends a session, for people. Nothing of it is secret.
type Ended = Box<dyn std::error::Error + Send + Sync>;

/// Until the task is aborted.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let Err(ended) = session(&shared).await;
        shared.reason.lock().clone_from(&ended.to_string());
        if shared.available.send_replace(false) {
            warn!(reason = %ended, "NATS is away; reads go on from memory");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn limited<T, E: Into<Ended>>(call: impl Future<Output = Result<T, E>>) -> Result<T, Ended> {
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err("it does not answer".into()),
    }
}

/// Whether a message of the bucket says that its key was deleted.
pub(super) fn is_deleted(headers: Option<&HeaderMap>) -> bool {
    headers.is_some_and(|headers| headers.get("KV-Operation").is_some())
}

async fn session(shared: &Shared) -> Result<std::convert::Infallible, Ended> {
    let bucket = limited(shared.context.get_or_create_stream(shared.bucket_config())).await?;
    let mut info = limited(bucket.get_info()).await?;
    let incarnation = Incarnation::made_at(info.created.unix_timestamp());
    for log in Log::ALL {
        let stream = limited(shared.context.get_or_create_stream(shared.log_config(log))).await?;
        let last = limited(stream.get_info()).await?.state.last_sequence;
        shared.appended[log.index()].send_replace(last);
    }
    let before = shared.replica.lock().incarnation;
    // A crash of the machine can take the stream's last writes. Sequences that
    // were seen must not be given to other writes.
    let recovered = info.state.last_sequence;
    let seen = incarnation.sequence(shared.replica.lock().told).unwrap_or(0);
    if seen > recovered {
        if seen - recovered > MOST_LOST {
            return Err("its bucket lost more writes than can be replaced".into());
        }
        warn!(lost = seen - recovered, "NATS lost its last writes; writing them back");
        for _ in recovered..seen {
            let filler = PublishMessage::build().header("KV-Operation", "DEL");
            let subject = shared.subject("meta/filler");
            limited(limited(shared.context.send_publish(subject, filler)).await?.into_future())
                .await?;
        }
        info = limited(bucket.get_info()).await?;
    }
    let config = push::OrderedConfig {
        deliver_subject: shared.client.new_inbox(),
        deliver_policy: DeliverPolicy::All,
        ..push::OrderedConfig::default()
    };
    let mut messages = limited(limited(bucket.create_consumer(config)).await?.messages()).await?;
    let mut hints =
        limited(shared.client.subscribe(format!("{}.appended.*", shared.address.prefix))).await?;
    shared.replica.lock().incarnation = incarnation;
    let mut keys = HashMap::new();
    let mut marks = Marks::default();
    let mut rest = info.state.messages;
    while rest > 0 {
        let message = match tokio::time::timeout(2 * DEADLINE, messages.next()).await {
            Ok(Some(message)) => message?,
            Ok(None) => return Err("the list of keys ended early".into()),
            Err(_) => return Err("it does not answer".into()),
        };
        rest = message.info().map_err(|error| error.to_string())?.pending;
        if let Some((key, revision)) = follow(shared, &message, incarnation, &mut marks)? {
            keys.insert(key, revision);
        }
    }
    let last = incarnation.revision(recovered);
    // A mark outlives a session that ended in the first half of its time.
    let followed = *shared.followed.lock();
    let lately = followed.is_some_and(|at| at.elapsed() < shared.keep_marks / 2);
    let (lost, gone) = shared.replica.lock().missing(&keys, last, before, lately);
    for key in gone {
        let revision = shared.replica.lock().told;
        let _ = shared.changes.send(Change { key, value: None, revision });
    }
    if !lost.is_empty() {
        info!(keys = lost.len(), "writing back what NATS lost");
    }
    for Lost { key, value, over } in lost {
        let write = PublishMessage::build().expected_last_subject_sequence(over);
        let write = match value {
            Some(value) => write.payload(value),
            None => write.header("KV-Operation", "DEL"),
        };
        let sent = limited(shared.context.send_publish(shared.subject(&key), write)).await?;
        // Another control may have been first.
        if let Err(error) = limited(sent.into_future()).await
            && !error.to_string().contains("wrong last sequence")
        {
            return Err(error);
        }
    }
    if !shared.available.send_replace(true) {
        info!(server = shared.address.shown(), keys = keys.len(), "NATS is there");
    }
    let mut probe = tokio::time::interval(PROBE);
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => drop(follow(shared, &message?, incarnation, &mut marks)?),
                None => return Err("the changes ended".into()),
            },
            hint = hints.next() => match hint {
                Some(hint) => on_hint(shared, &hint),
                None => return Err("the connection is closed".into()),
            },
            () = shared.suspect.notified() => check(shared, &bucket, incarnation).await?,
            _ = probe.tick() => {
                check(shared, &bucket, incarnation).await?;
                clean(shared, &bucket, &mut marks).await?;
            }
        }
    }
}

/// Ends the session, or says that what was slow is there again.
async fn check(shared: &Shared, bucket: &Stream, incarnation: Incarnation) -> Result<(), Ended> {
    verify(bucket, incarnation).await?;
    *shared.followed.lock() = Some(Instant::now());
    shared.available.send_if_modified(|available| !std::mem::replace(available, true));
    Ok(())
}

/// Takes the oldest marks of deleted keys out of the bucket.
async fn clean(shared: &Shared, bucket: &Stream, marks: &mut Marks) -> Result<(), Ended> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    for Mark { key, sequence, .. } in marks.due(now, shared.keep_marks) {
        // Whatever was written to the key since stays.
        let purge = bucket.purge().filter(shared.subject(&key)).sequence(sequence + 1);
        limited(purge.into_future()).await?;
        let revision = shared.replica.lock().get(&key).map(|held| held.revision);
        if revision.and_then(|revision| incarnation(shared).sequence(revision)) == Some(sequence) {
            shared.replica.lock().forget_mark(&key);
        }
    }
    Ok(())
}

fn incarnation(shared: &Shared) -> Incarnation {
    shared.replica.lock().incarnation
}

/// Whether the stream is the one that this session follows.
async fn verify(bucket: &Stream, incarnation: Incarnation) -> Result<(), Ended> {
    let info = limited(bucket.get_info()).await?;
    match Incarnation::made_at(info.created.unix_timestamp()) == incarnation {
        true => Ok(()),
        false => Err("its bucket was made anew".into()),
    }
}

fn on_hint(shared: &Shared, hint: &async_nats::Message) {
    let log = Log::ALL.into_iter().find(|log| shared.hint_subject(*log) == hint.subject.as_str());
    let sequence = std::str::from_utf8(&hint.payload).ok().and_then(|text| text.parse().ok());
    if let (Some(log), Some(sequence)) = (log, sequence) {
        shared.raise(log, sequence);
    }
}

/// Takes one message into the replica and tells the watchers; returns its key and
/// revision.
fn follow(
    shared: &Shared,
    message: &async_nats::jetstream::Message,
    incarnation: Incarnation,
    marks: &mut Marks,
) -> Result<Option<(String, Revision)>, Ended> {
    let info = message.info().map_err(|error| error.to_string())?;
    let (sequence, at) = (info.stream_sequence, info.published.unix_timestamp());
    let bucket = format!("$KV.{}.", shared.address.prefix);
    let Some(subject) = message.subject.strip_prefix(&bucket) else { return Ok(None) };
    let key = address::decode(subject);
    let deleted = is_deleted(message.headers.as_ref());
    if deleted {
        marks.push(Mark { key: key.clone(), sequence, at });
    }
    let value = (!deleted).then(|| message.payload.clone());
    let revision = incarnation.revision(sequence);
    let held = Held { revision, value };
    // Told under the lock: the order of the watchers is the stream's.
    let mut replica = shared.replica.lock();
    if let Some(change) = replica.follow(&key, held) {
        let _ = shared.changes.send(change);
    }
    Ok(Some((key, revision)))
}
