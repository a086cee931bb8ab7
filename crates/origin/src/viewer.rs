//! A push viewer's mailbox: between the broadcast's task and the viewer's own.
//!
//! The task puts packets in, the viewer's connection takes them out and
//! writes. What is lost when the connection is slow is `send_queue.rs`.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use spyglass_api::control::Lease;
use spyglass_media::{BroadcastId, UserId, UtcTime, ViewerId};
use spyglass_token::WatchGrant;
use tokio::sync::Notify;

use crate::send_queue::{Limits, Packet, Pushed, SendQueue};

/// Packets given to one write: enough to catch up in few system calls, few
/// enough that what is already handed over stays small.
const PER_WRITE: usize = 16;

/// Why a viewer's connection is closed from this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The broadcast is over.
    Ended,
    /// A newer connection took the seat.
    Replaced,
    /// Kicked, or its token was revoked.
    Revoked,
    /// Too slow for too long.
    Slow,
}

impl CloseReason {
    /// The word in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Replaced => "replaced",
            Self::Revoked => "revoked",
            Self::Slow => "slow",
        }
    }
}

/// One admitted push viewer.
#[derive(Debug)]
pub struct Mailbox {
    /// What it watches.
    pub broadcast: BroadcastId,
    /// Who it is.
    pub viewer: ViewerId,
    /// Which user that is.
    user: Option<UserId>,
    /// Its place in the push tier.
    pub seat: u32,
    /// Which holder of that place.
    pub generation: u32,
    /// When its token expires.
    expires: UtcTime,
    /// When it was admitted.
    pub since: UtcTime,
    contents: Mutex<Contents>,
    ready: Notify,
}

#[derive(Debug)]
struct Contents {
    queue: SendQueue,
    close: Option<CloseReason>,
}

/// What a viewer's connection does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Something to write was added.
    Packets,
    /// Nothing to write now.
    Nothing,
    /// Close the connection.
    Close(CloseReason),
}

impl Mailbox {
    /// An empty mailbox for whom the token names.
    pub fn new(grant: &WatchGrant, seat: u32, since: UtcTime, limits: Limits) -> Self {
        let contents = Contents { queue: SendQueue::new(limits), close: None };
        Self {
            broadcast: grant.broadcast,
            viewer: grant.viewer,
            user: grant.user,
            seat,
            generation: grant.generation,
            expires: grant.expires,
            since,
            contents: Mutex::new(contents),
            ready: Notify::new(),
        }
    }

    /// What control is told of this viewer.
    pub fn lease(&self) -> Lease {
        Lease {
            broadcast: self.broadcast.to_string(),
            viewer: self.viewer.to_string(),
            seat: self.seat,
            generation: self.generation,
            since_ms: self.since.millis(),
            user: self.user.map(|user| user.to_string()).unwrap_or_default(),
            expires_ms: self.expires.millis(),
        }
    }

    /// Adds a packet; a viewer who was too slow is told to close.
    pub fn push(&self, packet: Packet) -> Pushed {
        let mut contents = self.contents.lock();
        let pushed = contents.queue.push(packet);
        if pushed == Pushed::Evicted {
            contents.close.get_or_insert(CloseReason::Slow);
        }
        drop(contents);
        if pushed != Pushed::Skipped {
            self.ready.notify_one();
        }
        pushed
    }

    /// Tells the connection to close; the first reason counts.
    pub fn close(&self, reason: CloseReason) {
        self.contents.lock().close.get_or_insert(reason);
        self.ready.notify_one();
    }

    /// Waits until something was pushed or the mailbox was closed.
    pub async fn ready(&self) {
        self.ready.notified().await;
    }

    /// Moves what waits to `out` when the connection is `idle`, that is, has
    /// written everything it took before. An ended broadcast is sent to its
    /// last frame; any other reason closes at once.
    pub fn take(&self, idle: bool, out: &mut VecDeque<Bytes>) -> Taken {
        let mut contents = self.contents.lock();
        match contents.close {
            Some(CloseReason::Ended) | None => {}
            Some(reason) => return Taken::Close(reason),
        }
        if !idle {
            return Taken::Nothing;
        }
        contents.queue.on_drained();
        contents.queue.take(PER_WRITE, out);
        match contents.close {
            _ if !out.is_empty() => Taken::Packets,
            Some(reason) => Taken::Close(reason),
            None => Taken::Nothing,
        }
    }
}
