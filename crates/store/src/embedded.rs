//! The store in one file, by `redb`: for a control that runs alone.
//!
//! One thread writes. Writes that wait together share one transaction and one
//! flush to the disk, each with its own condition and its own answer. Reads go
//! through the runtime's blocking threads and see whole transactions. Messages
//! stay in the process; [`logs`] keeps the logs in the same file.

mod logs;

use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::Mutex;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, Table, TableDefinition,
    TableError,
};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::bus::{Bus, Hub, Log, Logged, Subscription, check_message};
use crate::{Answer, Change, Engine, Entry, Error, Item, MAX_PAGE, Revision, Store, Watch, check};

/// Key to revision (8 bytes, big endian) and value.
const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
/// One row: the last revision given.
const REVISIONS: TableDefinition<'_, &str, u64> = TableDefinition::new("revisions");
const LAST: &str = "last";

/// Writes that may wait for the thread; further callers wait for room.
const WAITING: usize = 1_024;

/// Writes that share a transaction.
const BATCH: usize = 256;

/// Changes a watcher may be behind before it has to list again.
const BEHIND: usize = 4_096;

/// Memory for cached pages, in bytes.
const CACHE: usize = 32 * 1024 * 1024;

/// Why the file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "{0} is in use: another control runs on this state directory; stop it or give this one its own --state"
    )]
    InUse(String),
    /// Damaged, unreadable or not permitted.
    #[error("{path}: {source}; give --state a directory this user may write, or restore the file")]
    Failed {
        /// The file.
        path: String,
        /// What redb said.
        source: Box<redb::Error>,
    },
}

enum Condition {
    Absent,
    At(Revision),
    Any,
}

struct Write {
    key: String,
    /// `None` deletes.
    value: Option<Bytes>,
    condition: Condition,
    answer: oneshot::Sender<Result<Revision, Error>>,
}

struct Append {
    log: Log,
    id: String,
    payload: Bytes,
    answer: oneshot::Sender<Result<u64, Error>>,
}

enum Job {
    Write(Write),
    Append(Append),
}

impl Job {
    fn fail(self, error: Error) {
        // Who gave up waiting does not need to know.
        match self {
            Self::Write(write) => drop(write.answer.send(Err(error))),
            Self::Append(append) => drop(append.answer.send(Err(error))),
        }
    }
}

/// See the module.
pub struct Embedded {
    database: Arc<Database>,
    jobs: Option<mpsc::Sender<Job>>,
    changes: broadcast::Sender<Change>,
    hub: Hub,
    appended: [watch::Sender<u64>; 2],
    available: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Embedded")
    }
}

impl Embedded {
    /// Opens `path`, makes it when it is not there. Blocks.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let shown = || path.display().to_string();
        let failed = |source| OpenError::Failed { path: shown(), source: Box::new(source) };
        // The keys that sign tokens lie in it.
        let private = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        private.map_err(|error| failed(error.into()))?;
        let database =
            Database::builder().set_cache_size(CACHE).create(path).map_err(
                |error| match error {
                    DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(shown()),
                    other => failed(other.into()),
                },
            )?;
        let prepare = || -> Result<(), redb::Error> {
            let transaction = database.begin_write()?;
            transaction.open_table(ENTRIES)?;
            transaction.open_table(REVISIONS)?;
            logs::prepare(&transaction)?;
            Ok(transaction.commit()?)
        };
        prepare().map_err(failed)?;
        let recent = logs::Recent::load(&database).map_err(failed)?;
        let last = |log| logs::last(&database, log).map(watch::Sender::new);
        let appended = [
            last(Log::Events).map_err(failed)?, //
            last(Log::Audit).map_err(failed)?,
        ];
        let database = Arc::new(database);
        let (jobs, waiting) = mpsc::channel(WAITING);
        let changes = broadcast::Sender::new(BEHIND);
        let writer = Writer {
            database: Arc::clone(&database),
            changes: changes.clone(),
            recent,
            appended: appended.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(waiting))
            .map_err(|error| failed(redb::Error::Io(error)))?;
        Ok(Self {
            database,
            jobs: Some(jobs),
            changes,
            hub: Hub::default(),
            appended,
            available: watch::Sender::new(true),
            thread: Mutex::new(Some(thread)),
        })
    }

    async fn write(
        &self,
        key: &str,
        value: Option<Bytes>,
        condition: Condition,
    ) -> Result<Revision, Error> {
        check(key, value.as_deref().unwrap_or_default())?;
        let (answer, answered) = oneshot::channel();
        let write = Write { key: key.to_owned(), value, condition, answer };
        self.ask(Job::Write(write)).await?;
        answered.await.map_err(|_| closed())?
    }

    async fn ask(&self, job: Job) -> Result<(), Error> {
        let jobs = self.jobs.as_ref().ok_or_else(closed)?;
        jobs.send(job).await.map_err(|_| closed())
    }

    async fn read_file<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, Error> {
        let database = Arc::clone(&self.database);
        let read = tokio::task::spawn_blocking(move || read(&database));
        match read.await {
            Ok(result) => result.map_err(unavailable),
            Err(error) => Err(Error::Unavailable(error.to_string())),
        }
    }
}

impl Drop for Embedded {
    /// Waits for the last transaction, so that the file can be opened again.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

fn closed() -> Error {
    Error::Unavailable("the store is closed".to_owned())
}

fn unavailable(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(error.to_string())
}

fn encode(revision: Revision, value: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(8 + value.len());
    row.extend_from_slice(&revision.0.to_be_bytes());
    row.extend_from_slice(value);
    row
}

fn decode(row: &[u8]) -> Result<Entry, redb::Error> {
    let (revision, value) = row
        .split_first_chunk::<8>()
        .ok_or_else(|| redb::Error::Corrupted("an entry is too short".to_owned()))?;
    let revision = Revision(u64::from_be_bytes(*revision));
    Ok(Entry { value: Bytes::copy_from_slice(value), revision })
}

struct Writer {
    database: Arc<Database>,
    changes: broadcast::Sender<Change>,
    recent: logs::Recent,
    appended: [watch::Sender<u64>; 2],
}

enum Outcome {
    Written(Result<Change, Error>),
    Appended(u64),
}

impl Writer {
    fn run(mut self, mut waiting: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(first) = waiting.blocking_recv() {
            batch.push(first);
            while batch.len() < BATCH
                && let Ok(job) = waiting.try_recv()
            {
                batch.push(job);
            }
            self.apply(&mut batch);
        }
    }

    fn apply(&mut self, batch: &mut Vec<Job>) {
        match self.commit(batch) {
            Ok(outcomes) => {
                for (job, outcome) in batch.drain(..).zip(outcomes) {
                    self.answer(job, outcome);
                }
            }
            Err(error) => {
                tracing::error!(%error, "the store cannot write");
                // Ids of entries that were rolled back must not be known.
                self.recent = logs::Recent::load(&self.database).unwrap_or_default();
                let error = unavailable(error);
                for job in batch.drain(..) {
                    job.fail(error.clone());
                }
            }
        }
    }

    /// Who gave up waiting does not need to know; without watchers there is
    /// nobody to tell.
    fn answer(&self, job: Job, outcome: Outcome) {
        match (job, outcome) {
            (Job::Write(write), Outcome::Written(outcome)) => {
                let answer = outcome.map(|change| {
                    let revision = change.revision;
                    let _ = self.changes.send(change);
                    revision
                });
                let _ = write.answer.send(answer);
            }
            (Job::Append(append), Outcome::Appended(sequence)) => {
                self.appended[append.log.index()].send_if_modified(|last| {
                    let newer = sequence > *last;
                    *last = sequence.max(*last);
                    newer
                });
                let _ = append.answer.send(Ok(sequence));
            }
            (job, _) => job.fail(Error::Unavailable("the store lost its order".to_owned())),
        }
    }

    fn commit(&mut self, batch: &[Job]) -> Result<Vec<Outcome>, redb::Error> {
        let transaction = self.database.begin_write()?;
        let mut outcomes = Vec::with_capacity(batch.len());
        {
            let mut entries = transaction.open_table(ENTRIES)?;
            let mut revisions = transaction.open_table(REVISIONS)?;
            let first = revisions.get(LAST)?.map_or(0, |last| last.value());
            let mut last = first;
            for job in batch {
                outcomes.push(match job {
                    Job::Write(write) => Outcome::Written(one(&mut entries, write, &mut last)?),
                    Job::Append(Append { log, id, payload, .. }) => Outcome::Appended(
                        logs::append(&transaction, &mut self.recent, *log, id, payload)?,
                    ),
                });
            }
            if last != first {
                revisions.insert(LAST, last)?;
            }
        }
        transaction.commit()?;
        Ok(outcomes)
    }
}

fn one(
    entries: &mut Table<'_, &str, &[u8]>,
    write: &Write,
    last: &mut u64,
) -> Result<Result<Change, Error>, redb::Error> {
    let key = write.key.as_str();
    let held = entries.get(key)?.map(|row| decode(row.value())).transpose()?;
    match (&write.condition, held.map(|entry| entry.revision)) {
        (Condition::Absent, Some(_)) => return Ok(Err(Error::Exists)),
        (Condition::At(wanted), held) if held != Some(*wanted) => return Ok(Err(Error::Conflict)),
        _ => {}
    }
    *last += 1;
    let revision = Revision(*last);
    match &write.value {
        Some(value) => entries.insert(key, encode(revision, value).as_slice())?,
        None => entries.remove(key)?,
    };
    Ok(Ok(Change { key: write.key.clone(), value: write.value.clone(), revision }))
}

impl Store for Embedded {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        let key = key.to_owned();
        Box::pin(self.read_file(move |database| {
            let entries = match database.begin_read()?.open_table(ENTRIES) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?,
            };
            entries.get(key.as_str())?.map(|row| decode(row.value())).transpose()
        }))
    }

    fn create<'a>(&'a self, key: &'a str, value: Bytes) -> Answer<'a, Revision> {
        Box::pin(self.write(key, Some(value), Condition::Absent))
    }

    fn update<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        revision: Revision,
    ) -> Answer<'a, Revision> {
        Box::pin(self.write(key, Some(value), Condition::At(revision)))
    }

    fn delete<'a>(&'a self, key: &'a str, revision: Option<Revision>) -> Answer<'a, ()> {
        Box::pin(async move {
            let condition = revision.map_or(Condition::Any, Condition::At);
            self.write(key, None, condition).await.map(drop)
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Vec<Item>> {
        let prefix = prefix.to_owned();
        let after = after.filter(|after| *after >= prefix.as_str()).map(str::to_owned);
        Box::pin(self.read_file(move |database| {
            let entries = database.begin_read()?.open_table(ENTRIES)?;
            let from = match &after {
                Some(after) => Bound::Excluded(after.as_str()),
                None => Bound::Included(prefix.as_str()),
            };
            let mut items = Vec::new();
            for row in entries.range::<&str>((from, Bound::Unbounded))? {
                let (key, value) = row?;
                if !key.value().starts_with(&prefix) || items.len() >= limit.min(MAX_PAGE) {
                    break;
                }
                items.push(Item { key: key.value().to_owned(), entry: decode(value.value())? });
            }
            Ok(items)
        }))
    }

    fn watch(&self, prefix: &str) -> Watch {
        Watch { prefix: prefix.to_owned(), changes: self.changes.subscribe() }
    }
}

impl Bus for Embedded {
    fn publish<'a>(&'a self, subject: &'a str, payload: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            check_message(subject, &payload)?;
            self.hub.deliver(subject, payload);
            Ok(())
        })
    }

    fn subscribe(&self, subject: &str) -> Subscription {
        self.hub.subscribe(subject).0
    }

    fn append<'a>(&'a self, log: Log, id: &'a str, payload: Bytes) -> Answer<'a, u64> {
        Box::pin(async move {
            check_message(id, &payload)?;
            let (answer, answered) = oneshot::channel();
            self.ask(Job::Append(Append { log, id: id.to_owned(), payload, answer })).await?;
            answered.await.map_err(|_| closed())?
        })
    }

    fn read<'a>(&'a self, log: Log, after: u64, limit: usize) -> Answer<'a, Vec<Logged>> {
        let limit = limit.min(MAX_PAGE);
        Box::pin(self.read_file(move |database| logs::read(database, log, after, limit)))
    }

    fn last<'a>(&'a self, log: Log) -> Answer<'a, u64> {
        Box::pin(self.read_file(move |database| logs::last(database, log)))
    }

    fn appended(&self, log: Log) -> watch::Receiver<u64> {
        self.appended[log.index()].subscribe()
    }
}

impl Engine for Embedded {
    fn available(&self) -> watch::Receiver<bool> {
        self.available.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;

    #[tokio::test(flavor = "multi_thread")]
    async fn keeps_the_contract() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.redb");
        let open = || {
            let path = path.clone();
            async move { Arc::new(Embedded::open(&path).unwrap()) as Arc<dyn Engine> }
        };
        contract::store(open).await;
        contract::bus(open).await;
    }

    #[tokio::test]
    async fn two_controls_cannot_share_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.redb");
        let _first = Embedded::open(&path).unwrap();
        let error = Embedded::open(&path).unwrap_err().to_string();
        assert!(error.contains("another control"), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_store_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.redb");
        std::fs::write(&path, [7; 5_000]).unwrap();
        assert!(Embedded::open(&path).unwrap_err().to_string().contains("restore the file"));
        assert_eq!(std::fs::read(&path).unwrap(), [7; 5_000]);
    }
}
