//! What a viewer fetches next and when it polls again. Pure.

use std::time::{Duration, Instant};

use spyglass_media::{MediaTime, UtcTime};

use super::Poll;
use super::list::{Item, List};

/// A chunk or gap that is new to this viewer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Next {
    pub(super) sequence: u64,
    /// On a clock that begins with the first chunk this viewer fetches.
    pub(super) start: MediaTime,
    pub(super) item: Item,
    /// Its date, stated or counted from the one before it.
    pub(super) date: Option<UtcTime>,
    /// It appeared while this viewer watched, rather than before it came.
    pub(super) fresh: bool,
}

/// Follows the versions of one list.
#[derive(Debug)]
pub(super) struct Follower {
    prebuffer: Duration,
    /// The sequence wanted next, where it starts, and its date.
    next: Option<(u64, MediaTime, Option<UtcTime>)>,
    loads: u64,
    target: Duration,
}

/// How far media time moves for chunks that were missed, when no date tells.
const MOST_MISSED: u32 = 10;

impl Follower {
    pub(super) fn new(prebuffer: Duration) -> Self {
        Self { prebuffer, next: None, loads: 0, target: Duration::from_secs(3) }
    }

    /// A version of the list: what in it is new, in order.
    pub(super) fn on_list(&mut self, list: &List) -> Vec<Next> {
        self.target = list.target;
        let fresh = self.loads > 0;
        if !list.items.is_empty() {
            self.loads += 1;
        }
        let (wanted, mut start, mut date) = match self.next {
            Some(next) => next,
            None if list.items.is_empty() => return Vec::new(),
            None => (self.beginning(list), MediaTime::ZERO, None),
        };
        if list.end() <= wanted {
            return Vec::new();
        }
        // The window has moved past what was wanted.
        let missed = list.sequence.saturating_sub(wanted);
        if missed > 0 {
            let stated = list.items.first().and_then(|item| item.date);
            start = start
                + match (date, stated) {
                    (Some(expected), Some(stated)) => stated.since(expected),
                    _ => {
                        let count = u32::try_from(missed).unwrap_or(u32::MAX).min(MOST_MISSED);
                        list.target.saturating_mul(count)
                    }
                };
            date = stated;
        }
        let mut new = Vec::new();
        for (sequence, item) in (list.sequence..).zip(&list.items) {
            if sequence < wanted {
                continue;
            }
            date = item.date.or(date);
            new.push(Next { sequence, start, item: item.clone(), date, fresh });
            start = start + item.duration;
            date = date.map(|date| date + item.duration);
        }
        self.next = Some((list.end(), start, date));
        new
    }

    /// The latest chunk from which there is enough media to fill the buffer,
    /// else the first.
    fn beginning(&self, list: &List) -> u64 {
        let mut held = Duration::ZERO;
        for (index, item) in list.items.iter().enumerate().rev() {
            held += item.duration;
            if held >= self.prebuffer {
                return list.sequence + index as u64;
            }
        }
        list.sequence
    }

    /// When to load again: `random` is any number, `began` when the load that
    /// was just taken in was started.
    pub(super) fn next_poll(
        &self,
        poll: Poll,
        began: Instant,
        changed: bool,
        last: Option<Duration>,
        random: u32,
    ) -> Instant {
        let wait = match poll {
            // draft-pantos-hls-rfc8216bis section 6.3.4.
            Poll::Paced if changed => last.unwrap_or(self.target),
            Poll::Paced => self.target / 2,
            Poll::Between(least, most) => {
                let spread = most.saturating_sub(least);
                least + spread.mul_f64(f64::from(random) / f64::from(u32::MAX))
            }
        };
        // A list of zero-length chunks must not make a busy loop.
        began + wait.max(Duration::from_millis(20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn list(sequences: std::ops::Range<u64>) -> List {
        let item = |sequence: u64| Item {
            uri: format!("1-{sequence}.m4s"),
            map: None,
            duration: 3 * S,
            gap: false,
            discontinuity: false,
            date: Some(UtcTime::from_millis(sequence as i64 * 3000)),
        };
        List {
            target: 4 * S,
            sequence: sequences.start,
            items: sequences.map(item).collect(),
            ended: false,
        }
    }

    fn found(new: &[Next]) -> Vec<(u64, i64, bool)> {
        new.iter().map(|next| (next.sequence, next.start.millis(), next.fresh)).collect()
    }

    #[test]
    fn begins_with_just_enough_to_fill_the_buffer() {
        let mut follower = Follower::new(9 * S);
        let new = follower.on_list(&list(10..16));
        assert_eq!(found(&new), [(13, 0, false), (14, 3000, false), (15, 6000, false)]);
        assert!(follower.on_list(&list(10..16)).is_empty());
        assert_eq!(found(&follower.on_list(&list(11..17))), [(16, 9000, true)]);
        let mut impatient = Follower::new(Duration::ZERO);
        assert_eq!(found(&impatient.on_list(&list(10..16))), [(15, 0, false)]);
        let mut greedy = Follower::new(60 * S);
        assert_eq!(greedy.on_list(&list(10..16)).len(), 6);
    }

    #[test]
    fn an_empty_list_is_waited_out() {
        let mut follower = Follower::new(9 * S);
        assert!(follower.on_list(&list(0..0)).is_empty());
        assert_eq!(found(&follower.on_list(&list(0..1))), [(0, 0, false)]);
    }

    #[test]
    fn an_older_version_from_another_edge_changes_nothing() {
        let mut follower = Follower::new(3 * S);
        follower.on_list(&list(10..16));
        assert!(follower.on_list(&list(9..15)).is_empty());
        assert_eq!(found(&follower.on_list(&list(11..17))), [(16, 3000, true)]);
    }

    #[test]
    fn missed_chunks_leave_a_hole_in_time() {
        let mut follower = Follower::new(3 * S);
        follower.on_list(&list(10..16));
        assert_eq!(found(&follower.on_list(&list(18..19))), [(18, 9000, true)]);
        // A sequence that jumped, because an origin lost its state, does not.
        let mut jumped = list(1_000_000..1_000_001);
        jumped.items[0].date = Some(UtcTime::from_millis(19 * 3000 + 500));
        assert_eq!(found(&follower.on_list(&jumped)), [(1_000_000, 12_500, true)]);
    }

    #[test]
    fn polls_are_paced_as_the_rfc_says_or_as_the_paper_measured() {
        let mut follower = Follower::new(9 * S);
        follower.on_list(&list(10..16));
        let now = Instant::now();
        let wait = |poll, changed, random| {
            follower.next_poll(poll, now, changed, Some(3 * S), random) - now
        };
        assert_eq!(wait(Poll::Paced, true, 0), 3 * S);
        assert_eq!(wait(Poll::Paced, false, 0), 2 * S);
        let paper = Poll::Between(2 * S, Duration::from_millis(2800));
        assert_eq!(wait(paper, true, 0), 2 * S);
        assert_eq!(wait(paper, true, u32::MAX), Duration::from_millis(2800));
        assert_eq!(wait(Poll::Between(S, Duration::ZERO), true, u32::MAX), S);
    }
}
