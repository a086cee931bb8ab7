//! Blocking reload: what a poll may wait for, and when it has come.
//!
//! draft-pantos-hls-rfc8216bis section 6.2.5.2, rules L4 and L5.

use std::time::{Duration, Instant};

use spyglass_media::{Position, Version};

use super::Meta;

/// No poll waits longer: players give a list about 10 s to its first byte.
pub const LONGEST: Duration = Duration::from_secs(9);

/// A request for the list, as it was when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// When.
    pub at: Instant,
    /// What notices had named by then; `None`: count those that came later too.
    pub least: Option<Version>,
    /// Answer once this is listed.
    pub awaits: Option<Awaited>,
}

impl From<Instant> for Asked {
    fn from(at: Instant) -> Self {
        Self { at, least: None, awaits: None }
    }
}

/// `_HLS_msn` and `_HLS_part`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// This chunk …
    pub sequence: u64,
    /// … or this part of it.
    pub part: Option<u32>,
}

/// Where a list stands to what is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// It is listed.
    Reached,
    /// It may be soon.
    Ahead,
    /// Nobody who read this list would ask for it yet.
    TooFar,
}

impl Awaited {
    /// Holds this against a list.
    pub(super) fn reach(self, list: &Meta) -> Reach {
        let Some(last) = list.position else { return Reach::Ahead };
        let complete = last.part.is_none();
        if self.sequence > last.sequence.saturating_add(1 + u64::from(complete)) {
            return Reach::TooFar;
        }
        let reached = match self.part {
            None => Position::closed(self.sequence) <= last,
            // Beyond the last part of a chunk stands the first of the next.
            Some(part) if self.sequence == last.sequence && complete => {
                // Of a GAP nobody can say how many parts it would have had.
                let near = || list.part_target.is_none_or(|target| part <= advance(target));
                if list.last_parts == 0 { near() } else { part < list.last_parts }
            }
            part => Position { sequence: self.sequence, part } <= last,
        };
        if reached {
            return Reach::Reached;
        }
        match (self.part, list.part_target) {
            (Some(part), Some(target)) if self.beyond(part, last, list) > advance(target) => {
                Reach::TooFar
            }
            _ => Reach::Ahead,
        }
    }

    /// Parts from the last listed to this one.
    fn beyond(self, part: u32, last: Position, list: &Meta) -> u32 {
        match last.part {
            Some(newest) if self.sequence == last.sequence => part.saturating_sub(newest),
            None if self.sequence == last.sequence => {
                part.saturating_sub(list.last_parts).saturating_add(1)
            }
            _ => part.saturating_add(1),
        }
    }

    /// Where it stands, unless it is beyond the end of its chunk.
    pub(super) fn position(self) -> Position {
        Position { sequence: self.sequence, part: self.part }
    }
}

/// The Advance Part Limit.
fn advance(part_target: Duration) -> u32 {
    let millis = u32::try_from(part_target.as_millis()).unwrap_or(u32::MAX);
    if millis < 1_000 { 3_000 / millis.max(1) } else { 3 }
}

/// How long a poll may wait: 3 target durations, and never too long for players.
pub(super) fn longest(target: Duration) -> Duration {
    (3 * target).min(LONGEST)
}

/// More parts than any chunk of this list has.
pub(super) fn most_parts(list: &Meta) -> u32 {
    let Some(part) = list.part_target.filter(|part| !part.is_zero()) else { return 0 };
    let chunk = list.target + Duration::from_secs(1);
    // Nearly all last 85 % of the target at least.
    u32::try_from(2 * chunk.as_micros() / part.as_micros()).unwrap_or(u32::MAX)
}
