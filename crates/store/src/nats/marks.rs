//! The marks that deleted keys leave in the bucket, and when they go. Pure.
//!
//! A mark tells a control that comes back that its key was deleted and not
//! lost, so it stays for a while; for ever it would fill the bucket.

use std::collections::VecDeque;
use std::time::Duration;

/// How long a mark stays, by the clocks of NATS and of this machine: an hour.
pub(super) const KEEP: Duration = Duration::from_secs(3600);

/// Marks that go at one time; the rest follow.
const AT_ONCE: usize = 50;

/// A deleted key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) key: String,
    pub(super) sequence: u64,
    /// Seconds since 1970, by NATS.
    pub(super) at: i64,
}

/// The marks of the bucket in their order, the oldest first. As many as the
/// bucket has, which is bounded.
#[derive(Debug, Default)]
pub(super) struct Marks(VecDeque<Mark>);

impl Marks {
    pub(super) fn push(&mut self, mark: Mark) {
        self.0.push_back(mark);
    }

    /// Those older than `keep`, some at a time; they are no longer held.
    pub(super) fn due(&mut self, now: i64, keep: Duration) -> Vec<Mark> {
        let keep = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
        let due = self.0.iter().take(AT_ONCE);
        let due = due.take_while(|mark| now.saturating_sub(mark.at) > keep).count();
        self.0.drain(..due).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_when_they_are_old_and_not_all_at_once() {
        let mut marks = Marks::default();
        let mark = |at: i64| Mark { key: at.to_string(), sequence: 1, at };
        (0..60).for_each(|at| marks.push(mark(at)));
        let keep = Duration::from_secs(100);
        assert_eq!(marks.due(100, keep), []);
        assert_eq!(marks.due(102, keep), [mark(0), mark(1)]);
        assert_eq!(marks.due(1_000, keep).len(), AT_ONCE);
        assert_eq!(marks.due(1_000, keep).len(), 60 - 2 - AT_ONCE);
        assert!(marks.0.is_empty());
    }
}
