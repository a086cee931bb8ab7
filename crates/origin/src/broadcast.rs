//! One live broadcast: what others may ask of it, and what they may read.
//!
//! A broadcast is one task (`task.rs`) that owns its life, its frames, its
//! list and its push viewers. Everybody else holds a [`Broadcast`]: a bounded
//! channel to that task, and what the task publishes for readers. Readers
//! never wait for the task.

mod digests;
mod task;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use spyglass_daemon::delay::Meter;
use spyglass_hls::chunklist::Chunklist;
use spyglass_hls::playlist::Rendered;
use spyglass_hls::segmenter;
use spyglass_media::{BroadcastId, Fill, Position, Resource, UtcTime, Version, ViewerId};
use spyglass_rtmp::Message;
use spyglass_token::PublishGrant;
use tokio::sync::{mpsc, oneshot, watch};

use crate::arrivals::{Arrivals, Times};
use crate::life::{ConnectionId, Phase};
use crate::viewer::Mailbox;

use digests::Digests;

pub use digests::Digest;
pub(crate) use task::{Setup, spawn};

/// Messages that may wait for a broadcast's task. Beyond it the publisher's
/// socket is not read: a task that is behind slows its own publisher down.
const INPUTS: usize = 256;

/// A list as edges fetch it: every form of one version.
#[derive(Debug)]
pub struct List {
    /// What this is a version of.
    pub version: Version,
    /// The newest chunk or part listed.
    pub position: Position,
    /// Parts of the newest complete chunk.
    pub last_parts: u32,
    /// PART-TARGET; `None` without parts.
    pub part_target: Option<Duration>,
    /// All texts, plain and compressed.
    pub rendered: Rendered,
    /// Fixed for the broadcast's life.
    pub target_duration: Duration,
    /// It carries ENDLIST.
    pub ended: bool,
    /// When it was made.
    pub made: Instant,
}

/// What is known of a broadcast besides its media.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where it stands.
    pub phase: Phase,
    /// Only tokens open it.
    pub private: bool,
    /// Control or a publisher has named it; until then only a viewer has.
    pub named: bool,
    /// Chunk length as its token said; `None` until a publisher came.
    pub chunk: Option<Duration>,
    /// Part length as the same token said; zero for none.
    pub part: Duration,
    /// What makes edges fetch, as the newest token said; `None`: as each is
    /// configured.
    pub fill: Option<Fill>,
    /// The first frame ever.
    pub started: Option<UtcTime>,
    /// When it ended.
    pub ended: Option<UtcTime>,
    /// When it was announced here.
    pub created: UtcTime,
    /// The last epoch opened.
    pub epoch: u32,
    /// What control asked us to keep, in its own words.
    pub memo: Bytes,
}

impl Record {
    /// A broadcast that was only announced.
    pub fn created(now: UtcTime, private: bool, memo: Bytes) -> Self {
        Self {
            phase: Phase::Created,
            private,
            named: true,
            chunk: None,
            part: Duration::ZERO,
            fill: None,
            started: None,
            ended: None,
            created: now,
            epoch: 0,
            memo,
        }
    }

    /// How its chunks are cut; `None` until a publisher came.
    pub fn cut(&self) -> Option<segmenter::Config> {
        Some(segmenter::Config { chunk: self.chunk?, part: self.part })
    }
}

/// A broadcast as everybody but its own task sees it.
#[derive(Debug)]
pub struct Broadcast {
    /// Its id.
    pub id: BroadcastId,
    /// To the task; closed once the broadcast is gone.
    pub inputs: mpsc::Sender<Input>,
    /// The newest list; `None` before the first chunk.
    pub list: watch::Receiver<Option<Arc<List>>>,
    /// Written by the task, read by fetches; held for a look-up only.
    objects: Arc<Mutex<Option<Chunklist>>>,
    /// Written by the task, read by the directory and for control.
    record: Arc<Mutex<Record>>,
    /// Written by the task, read by fetches.
    arrivals: Arc<Mutex<Arrivals>>,
    /// How long its media took so far.
    pub delays: Arc<Meter>,
    /// Of the newest chunks that were fetched.
    digests: Digests,
}

impl Broadcast {
    /// A copy of what is known now.
    pub fn record(&self) -> Record {
        self.record.lock().clone()
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.record.lock().phase
    }

    /// The bytes of an init, chunk or part that is listed or still promised.
    pub fn object(&self, resource: Resource) -> Option<Bytes> {
        self.objects.lock().as_ref()?.get(resource)
    }

    /// When an object's media came and when it was ready.
    pub fn times(&self, resource: Resource) -> Option<Times> {
        self.arrivals.lock().times(resource)
    }

    /// SHA-256 of an object's bytes: made for the first edge that asks, and
    /// kept for the others, who ask at the same time.
    pub fn digest(&self, resource: Resource, bytes: &Bytes) -> Digest {
        self.digests.of(resource, bytes)
    }
}

/// What can be asked of a broadcast's task.
#[derive(Debug)]
pub enum Input {
    /// A verified publisher asks to publish.
    Publish(Candidate),
    /// A message of a publisher.
    Media(ConnectionId, Message),
    /// The body of a publisher's onMetaData.
    Metadata(ConnectionId, Bytes),
    /// A publisher answered a ping.
    Alive(ConnectionId),
    /// A publisher's connection has closed.
    Closed(ConnectionId),
    /// A verified viewer asks to play.
    Play(Arrival),
    /// A viewer's connection has closed.
    Left(Arc<Mailbox>),
    /// Control's word on this broadcast.
    Expect {
        /// Only tokens open it.
        private: bool,
        /// To be kept for control.
        memo: Bytes,
    },
    /// The owner or the operator ends it.
    End,
    /// This viewer is to be cut.
    Revoke(ViewerId),
    /// An edge holds this; ours must be newer (state was lost).
    Held(Version, Option<Position>),
    /// This process stops: close the open chunk, save it, and end. Answered when
    /// that is done.
    Stop(oneshot::Sender<()>),
}

/// A publisher whose token was good.
#[derive(Debug)]
pub struct Candidate {
    /// Its connection.
    pub connection: ConnectionId,
    /// What its token grants.
    pub grant: PublishGrant,
    /// The decision; may take as long as a challenge of the first publisher.
    pub answer: oneshot::Sender<PublishAnswer>,
    /// What the connection is told later.
    pub orders: mpsc::Sender<Order>,
}

/// Whether a publisher may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishAnswer {
    /// Send frames.
    Accepted,
    /// Another publisher is live.
    Busy,
    /// The broadcast is over.
    Ended,
}

/// What a broadcast tells its publisher's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Ask the peer for a sign of life.
    Ping,
    /// Close.
    Cut,
}

/// A viewer whose token was good.
#[derive(Debug)]
pub struct Arrival {
    /// Where its frames go.
    pub mailbox: Arc<Mailbox>,
    /// The decision.
    pub answer: oneshot::Sender<PlayAnswer>,
}

/// Whether a viewer may watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlayAnswer {
    /// Frames come to the mailbox.
    Accepted,
    /// A newer token holds this seat.
    SeatTaken,
    /// The broadcast is over.
    Ended,
}
