//! How far a server's lists have come, and when: what every later answer must
//! have reached, whichever of several requests under way it belongs to.
//!
//! Pure. What it means that one has not is [`super::judge`]'s.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::finding::Rule;
use super::list::List;

/// Answers remembered one by one: more than the longest time for which a cache
/// may keep a list, at twenty a second.
const RECENT: usize = 512;

/// How far a list has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Number of its first segment.
    first: u64,
    /// Number of the segment behind the last whole one, and its parts.
    end: (u64, usize),
    ended: bool,
}

impl Mark {
    pub(super) fn of(list: &List) -> Self {
        Self { first: list.sequence, end: (list.end(), list.open.parts.len()), ended: list.ended }
    }

    /// The most that either has reached.
    pub(super) fn newest(self, other: Self) -> Self {
        Self {
            first: self.first.max(other.first),
            end: self.end.max(other.end),
            ended: self.ended || other.ended,
        }
    }

    /// The rule that a list breaks which comes after one of this mark, and how.
    pub(super) fn older_than(self, before: Self) -> Option<(Rule, &'static str)> {
        if self.first < before.first || self.end.0 < before.end.0 {
            Some((Rule::P2, "time goes back"))
        } else if before.ended && !self.ended {
            Some((Rule::P11, "it goes on after its end"))
        } else if self.end < before.end && !self.ended {
            Some((Rule::P3, "parts were taken back"))
        } else {
            None
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segments {}..{}", self.first, self.end.0)?;
        if self.end.1 > 0 { write!(f, " and {} parts", self.end.1) } else { Ok(()) }
    }
}

/// What one kind of request has got of one server.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// The most of those that are no longer in `recent`.
    before: Mark,
    /// When each was there.
    recent: VecDeque<(Duration, Mark)>,
}

impl Shown {
    /// An answer that was there `at`.
    pub(super) fn note(&mut self, at: Duration, mark: Mark) {
        self.recent.push_back((at, mark));
        while self.recent.len() > RECENT {
            let Some((_, oldest)) = self.recent.pop_front() else { return };
            self.before = self.before.newest(oldest);
        }
    }

    /// The most that was there by `then`.
    pub(super) fn by(&self, then: Duration) -> Mark {
        let recent = self.recent.iter().filter(|(at, _)| *at <= then);
        recent.fold(self.before, |most, (_, mark)| most.newest(*mark))
    }
}
