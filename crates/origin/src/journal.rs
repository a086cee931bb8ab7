//! What an origin that is killed comes back with.
//!
//! Each broadcast has a directory: `page.json` says how it stands, beside it
//! lie its inits and chunks under the names viewers know them by. A thread of
//! its own writes them, behind the live path: when the disk is slow, pages are
//! left out and counted, and nobody waits. A page is replaced in one step and
//! written after the chunks it names, so a reader never sees half of either.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use std::{fs, io};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use spyglass_hls::chunklist::{self, Chunklist, Saved};
use spyglass_hls::segmenter::Resume;
use spyglass_media::{BroadcastId, Fill, MediaTime, Resource, UtcTime};
use tracing::{error, warn};

use crate::broadcast::Record;
use crate::life::Phase;
use crate::metrics::Metrics;

/// Pages that may wait for the disk.
const WAITING: usize = 256;

/// The longest a stop waits for the disk.
const FLUSH: Duration = Duration::from_secs(5);

/// Largest page read back; a window of hundreds of chunks is far below it.
const MAX_PAGE: u64 = 4 * 1024 * 1024;

const PAGE: &str = "page.json";

/// How a broadcast stands, without its media.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Page {
    broadcast: BroadcastId,
    phase: String,
    private: bool,
    chunk_ms: Option<u64>,
    /// 0 for none, as in pages of the release before parts.
    #[serde(default)]
    part_ms: u64,
    #[serde(default)]
    fill: Option<Fill>,
    resume_ms: u64,
    created_ms: i64,
    started_ms: Option<i64>,
    ended_ms: Option<i64>,
    epoch: u32,
    /// Where media time goes on, in 90 kHz ticks.
    last_ticks: i64,
    memo: Vec<u8>,
    list: Option<Saved>,
}

/// A page with its media, as a broadcast starts from it.
#[derive(Debug)]
pub struct Restored {
    /// What is listed and kept; `None` when nothing was, or not all of it is
    /// still there.
    pub chunklist: Option<Chunklist>,
    /// What a new list begins behind when the old one is not all there.
    pub floor: Option<Resume>,
    /// Where media time goes on.
    pub last: MediaTime,
    /// How long an interruption may last.
    pub resume: Duration,
}

impl Page {
    /// A broadcast as it stands now.
    pub fn new(
        broadcast: BroadcastId,
        record: &Record,
        resume: Duration,
        last: MediaTime,
        list: Option<Saved>,
    ) -> Self {
        Self {
            broadcast,
            phase: record.phase.as_str().to_owned(),
            private: record.private,
            chunk_ms: record.chunk.map(|chunk| chunk.as_millis() as u64),
            part_ms: record.part.as_millis() as u64,
            fill: record.fill,
            resume_ms: resume.as_millis() as u64,
            created_ms: record.created.millis(),
            started_ms: record.started.map(UtcTime::millis),
            ended_ms: record.ended.map(UtcTime::millis),
            epoch: record.epoch,
            last_ticks: last.ticks(),
            memo: record.memo.to_vec(),
            list,
        }
    }

    fn record(&self) -> Option<Record> {
        let phases = [Phase::Created, Phase::Live, Phase::Interrupted, Phase::Ended, Phase::Gone];
        Some(Record {
            phase: phases.into_iter().find(|phase| phase.as_str() == self.phase)?,
            private: self.private,
            // Others are not written.
            named: true,
            chunk: self.chunk_ms.map(Duration::from_millis),
            part: Duration::from_millis(self.part_ms),
            fill: self.fill,
            started: self.started_ms.map(UtcTime::from_millis),
            ended: self.ended_ms.map(UtcTime::from_millis),
            created: UtcTime::from_millis(self.created_ms),
            epoch: self.epoch,
            memo: Bytes::from(self.memo.clone()),
        })
    }
}

#[derive(Debug)]
enum Job {
    Save {
        page: Box<Page>,
        new: Vec<(Resource, Bytes)>,
        gone: Vec<Resource>,
    },
    Remove(BroadcastId),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// Hands pages to the writing thread.
#[derive(Debug, Clone)]
pub struct Journal {
    root: PathBuf,
    jobs: SyncSender<Job>,
    metrics: Metrics,
    /// The disk did not keep up with the last job; told of once.
    slow: Arc<AtomicBool>,
}

impl Journal {
    /// Opens `root` and starts the writing thread, which ends with the last handle.
    pub fn open(root: PathBuf, metrics: Metrics) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        let (jobs, receiver) = sync_channel(WAITING);
        let directory = root.clone();
        std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write_all(&directory, &receiver))?;
        Ok(Self { root, jobs, metrics, slow: Arc::default() })
    }

    /// Saves a page, the media that is new in it, and forgets what is `gone`.
    pub fn save(&self, page: Page, new: Vec<(Resource, Bytes)>, gone: Vec<Resource>) {
        self.hand_over(Job::Save { page: Box::new(page), new, gone });
    }

    /// Forgets a broadcast.
    pub fn remove(&self, broadcast: BroadcastId) {
        self.hand_over(Job::Remove(broadcast));
    }

    /// Blocks until what was handed over so far is written, [`FLUSH`] at most.
    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.jobs.send(Job::Flush(done)).is_ok() && written.recv_timeout(FLUSH).is_err() {
            warn!("the disk is slow: the journal may lack its last pages");
        }
    }

    fn hand_over(&self, job: Job) {
        match self.jobs.try_send(job) {
            Ok(()) => self.slow.store(false, Ordering::Relaxed),
            Err(TrySendError::Full(_)) => {
                self.metrics.journal_skipped.inc();
                if !self.slow.swap(true, Ordering::Relaxed) {
                    warn!("the disk is slow: pages of the journal are left out");
                }
            }
            Err(TrySendError::Disconnected(_)) => error!("the journal's thread has ended"),
        }
    }

    /// Every broadcast that can be read back. What cannot is left where it is
    /// and logged: it may be mended by hand, and is in nobody's way.
    pub fn read_all(&self) -> io::Result<Vec<(BroadcastId, Record, Restored)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let directory = entry?.path();
            let name = directory.file_name().and_then(|name| name.to_str());
            let Some(id) = name.and_then(|name| name.parse().ok()) else { continue };
            match self.read(id) {
                Ok(Some((record, restored))) => found.push((id, record, restored)),
                Ok(None) => {}
                Err(error) => warn!(broadcast = %id, %error, "journal page not readable"),
            }
        }
        Ok(found)
    }

    /// One broadcast, if it has a page.
    pub fn read(&self, id: BroadcastId) -> io::Result<Option<(Record, Restored)>> {
        let directory = self.root.join(id.as_str());
        let page = directory.join(PAGE);
        match fs::metadata(&page) {
            Ok(metadata) if metadata.len() > MAX_PAGE => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "page too large"));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let page: Page = serde_json::from_slice(&fs::read(&page)?)?;
        let unknown = || io::Error::new(io::ErrorKind::InvalidData, "unknown phase");
        let record = page.record().ok_or_else(unknown)?;
        let floor = page.list.as_ref().map(Saved::resume);
        let chunklist = page.list.zip(record.cut()).and_then(|(saved, cut)| {
            Chunklist::restore(chunklist::Config::of(&cut), saved, |resource| {
                fs::read(directory.join(resource.to_string())).ok().map(Bytes::from)
            })
        });
        let last = MediaTime::from_ticks(page.last_ticks);
        let resume = Duration::from_millis(page.resume_ms);
        Ok(Some((record, Restored { chunklist, floor, last, resume })))
    }
}

fn write_all(root: &Path, jobs: &Receiver<Job>) {
    let mut failing: HashSet<BroadcastId> = HashSet::new();
    for job in jobs {
        let (id, result) = match job {
            Job::Save { page, new, gone } => (page.broadcast, write(root, &page, &new, &gone)),
            Job::Remove(id) => (id, fs::remove_dir_all(root.join(id.as_str()))),
            Job::Flush(done) => {
                // Whoever asked may have stopped waiting.
                let _ = done.try_send(());
                continue;
            }
        };
        match result {
            Ok(()) => _ = failing.remove(&id),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if failing.insert(id) => {
                error!(broadcast = %id, %error, "journal not written: after a restart this broadcast begins anew");
            }
            Err(_) => {}
        }
        // Every broadcast that fails is told of once; the set must not grow with time.
        if failing.len() > 10_000 {
            failing.clear();
        }
    }
}

fn write(root: &Path, page: &Page, new: &[(Resource, Bytes)], gone: &[Resource]) -> io::Result<()> {
    let directory = root.join(page.broadcast.as_str());
    fs::create_dir_all(&directory)?;
    for (resource, bytes) in new {
        fs::write(directory.join(resource.to_string()), bytes)?;
    }
    let text = serde_json::to_vec(page)?;
    let temporary = directory.join("page.tmp");
    fs::write(&temporary, text)?;
    fs::rename(&temporary, directory.join(PAGE))?;
    for resource in gone {
        match fs::remove_file(directory.join(resource.to_string())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
