//! What a slot is told, and what it says: values without a decision in them.

use std::time::{Duration, Instant};

use spyglass_media::{Position, Version};

/// How long each wait may last.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A poll of a broadcast that has no list yet.
    pub first: Duration,
    /// A poll of an aged list, before the aged list is served.
    pub aged: Duration,
    /// Interest without a viewer.
    pub interest: Duration,
    /// After the first failed fetch; doubles with each further one …
    pub retry: Duration,
    /// … up to this.
    pub retry_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(8),
            aged: Duration::from_secs(1),
            interest: Duration::from_secs(30),
            retry: Duration::from_millis(100),
            retry_max: Duration::from_millis(800),
        }
    }
}

/// What a fetched list says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Orders it among all lists of the broadcast.
    pub version: Version,
    /// The newest media it names.
    pub position: Option<Position>,
    /// Fixed for the broadcast's life.
    pub target: Duration,
    /// It carries ENDLIST.
    pub ended: bool,
    /// The origin process that made it.
    pub incarnation: u64,
    /// How long ago it was made, when its origin last vouched for it.
    pub age: Duration,
    /// How long before it arrived that was: a gateway had it meanwhile.
    pub unconfirmed: Duration,
    /// No part is longer; `None` for a list without parts.
    pub part_target: Option<Duration>,
    /// Parts of the newest complete chunk.
    pub last_parts: u32,
}

/// Names one fetch among all of this slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchId(pub(super) u64);

/// A fetch that must be started now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// To be given back with the result.
    pub id: FetchId,
    /// Anything older is not wanted.
    pub least: Version,
    /// After this nobody waits for its result.
    pub until: Instant,
}

/// Where the slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing held, nothing under way.
    Empty,
    /// A fetch is under way.
    Fetching,
    /// Held, and as new as anything this edge knows of.
    Fresh,
    /// Held, and known old or aged.
    Expired,
    /// Held, with ENDLIST: there is nothing newer.
    Ended,
}

/// What a poll gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Poll<L> {
    /// This list.
    Serve {
        /// The list.
        list: L,
        /// Since it was made.
        age: Duration,
        /// It has aged, and the upstream does not answer.
        aged: bool,
    },
    /// Ask again when woken, at the latest at `until`.
    Wait {
        /// Later than now.
        until: Instant,
        /// A list is held, though too old.
        stale: bool,
    },
    /// What is awaited is so far ahead that waiting makes no sense.
    TooFar,
    /// What is awaited has not come in time.
    Late,
    /// Nothing to serve in time. `known`: something newer exists, or an older
    /// list is held; otherwise the broadcast has not begun.
    GiveUp {
        /// See above.
        known: bool,
    },
}

/// Everything that a poll brings about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Polled<L> {
    /// For who polls.
    pub poll: Poll<L>,
    /// Start this.
    pub fetch: Option<Fetch>,
    /// The first viewer since a while: declare interest upstream.
    pub declare: bool,
}

/// What became of a fetched list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Held from now on.
    Stored,
    /// Its fetch had been given up.
    Abandoned,
    /// Older than was asked for, or than what is held.
    TooOld,
    /// Made by an origin process that is no more.
    Retired,
}

impl Filled {
    /// The word in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "ok",
            Self::Abandoned => "abandoned",
            Self::TooOld => "too_old",
            Self::Retired => "retired",
        }
    }
}

/// What the directory says of this broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The origin process that owns it.
    pub incarnation: u64,
    /// It has been live: there is, or will soon be, a list.
    pub begun: bool,
    /// Fixed for the broadcast's life, once known.
    pub target: Option<Duration>,
}
