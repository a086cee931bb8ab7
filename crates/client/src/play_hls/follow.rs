//! What a viewer fetches next and when it polls again. Pure.

use std::ops::Range;
use std::time::{Duration, Instant};

use spyglass_media::{MediaTime, UtcTime};

use super::Poll;
use super::list::{Item, List};

/// A chunk, part or gap that is new to this viewer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Next {
    pub(super) sequence: u64,
    /// `None` for a whole chunk.
    pub(super) part: Option<u32>,
    /// On a clock that begins with the first chunk this viewer fetches.
    pub(super) start: MediaTime,
    pub(super) item: Item,
    /// Its date, stated or counted from the one before it.
    pub(super) date: Option<UtcTime>,
    /// It appeared while this viewer watched, rather than before it came.
    pub(super) fresh: bool,
    /// It stands before the place where playing begins: for the decoder.
    pub(super) lead: bool,
}

/// A chunk and a part of it.
type Place = (u64, u32);

/// What is fetched as a whole: a part where parts are played, else a chunk.
struct Unit<'a> {
    sequence: u64,
    part: Option<u32>,
    /// It is, or ends, a complete chunk.
    ends: bool,
    independent: bool,
    item: &'a Item,
}

impl Unit<'_> {
    fn place(&self) -> Place {
        (self.sequence, self.part.unwrap_or(0))
    }

    fn next(&self) -> Place {
        match self.part {
            Some(part) if !self.ends => (self.sequence, part.saturating_add(1)),
            _ => (self.sequence.saturating_add(1), 0),
        }
    }
}

/// Follows the versions of one list.
#[derive(Debug)]
pub(super) struct Follower {
    prebuffer: Duration,
    /// Play parts, where there are any, as far from the end as the list says.
    low_latency: bool,
    /// The place wanted next, where it starts, and its date.
    next: Option<(Place, MediaTime, Option<UtcTime>)>,
    loads: u64,
    target: Duration,
    /// Chunks that were wanted and that no list has any more.
    lost: Range<u64>,
}

/// How far media time moves for chunks that were missed, when no date tells.
const MOST_MISSED: u32 = 10;

impl Follower {
    pub(super) fn new(prebuffer: Duration, low_latency: bool) -> Self {
        let target = Duration::from_secs(3);
        Self { prebuffer, low_latency, next: None, loads: 0, target, lost: 0..0 }
    }

    /// The next of the chunks that the window moved past, no more than
    /// [`MOST_MISSED`] of them.
    pub(super) fn lost(&mut self) -> Option<u64> {
        self.lost.next()
    }

    /// The part to wait for, when the list may be asked for by it.
    pub(super) fn awaits(&self, list: &List) -> Option<Place> {
        let blocks = list.low_latency.as_ref().is_some_and(|low| low.blocks && self.low_latency);
        self.next.filter(|_| blocks && !list.ended).map(|(place, ..)| place)
    }

    /// A version of the list: what in it is new, in order.
    pub(super) fn on_list(&mut self, list: &List) -> Vec<Next> {
        self.target = list.target;
        let fresh = self.loads > 0;
        if !list.items.is_empty() {
            self.loads += 1;
        }
        let units = self.units(list);
        let mut shown = (0, 0);
        let (wanted, mut start, mut date) = match self.next {
            Some(next) => next,
            None if list.items.is_empty() => return Vec::new(),
            None => {
                let (from, play) = self.beginning(list, &units);
                shown = play;
                (from, MediaTime::ZERO, None)
            }
        };
        if units.last().is_none_or(|last| last.next() <= wanted) {
            return Vec::new();
        }
        // The window has moved past what was wanted.
        let missed = list.sequence.saturating_sub(wanted.0);
        if missed > 0 {
            // After an origin that lost its state the numbers say nothing.
            self.lost = wanted.0..wanted.0.saturating_add(missed.min(MOST_MISSED.into()));
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
        let mut end = wanted;
        for unit in units.iter().filter(|unit| unit.place() >= wanted) {
            let Unit { sequence, part, item, .. } = *unit;
            date = item.date.or(date);
            let lead = unit.place() < shown;
            new.push(Next { sequence, part, start, item: item.clone(), date, fresh, lead });
            start = start + item.duration;
            date = date.map(|date| date + item.duration);
            end = unit.next();
        }
        self.next = Some((end, start, date));
        new
    }

    /// The list in pieces: parts where they are listed, else whole chunks.
    fn units<'a>(&self, list: &'a List) -> Vec<Unit<'a>> {
        let low = list.low_latency.as_ref().filter(|_| self.low_latency);
        let parts = low.map_or(&[][..], |low| &low.parts[..]);
        let mut units = Vec::with_capacity(list.items.len() + parts.len());
        for (sequence, item) in (list.sequence..).zip(&list.items) {
            let mut parts = parts.iter().filter(|part| part.sequence == sequence).peekable();
            if item.gap || parts.peek().is_none() {
                units.push(Unit { sequence, part: None, ends: true, independent: true, item });
                continue;
            }
            while let Some(part) = parts.next() {
                units.push(Unit {
                    sequence,
                    part: Some(part.number),
                    ends: parts.peek().is_none(),
                    independent: part.independent,
                    item: &part.item,
                });
            }
        }
        for part in parts.iter().filter(|part| part.sequence >= list.end()) {
            units.push(Unit {
                sequence: part.sequence,
                part: Some(part.number),
                ends: false,
                independent: part.independent,
                item: &part.item,
            });
        }
        units
    }

    /// Where to fetch from and where to play from: the latest place with enough
    /// media behind it to fill the buffer, and the one at or before it at which a
    /// decoder can begin; else the first.
    fn beginning(&self, list: &List, units: &[Unit<'_>]) -> (Place, Place) {
        let low = list.low_latency.as_ref().filter(|_| self.low_latency);
        let enough = low.map_or(self.prebuffer, |low| low.hold_back);
        let mut held = Duration::ZERO;
        let mut play = None;
        for unit in units.iter().rev() {
            held += unit.item.duration;
            if held >= enough {
                let play = *play.get_or_insert(unit.place());
                if unit.independent {
                    return (unit.place(), play);
                }
            }
        }
        ((list.sequence, 0), play.unwrap_or_default())
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
    use super::super::parts::{LowLatency, Part};
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
            low_latency: None,
        }
    }

    fn found(new: &[Next]) -> Vec<(u64, i64, bool)> {
        new.iter().map(|next| (next.sequence, next.start.millis(), next.fresh)).collect()
    }

    #[test]
    fn begins_with_just_enough_to_fill_the_buffer() {
        let mut follower = Follower::new(9 * S, false);
        let new = follower.on_list(&list(10..16));
        assert_eq!(found(&new), [(13, 0, false), (14, 3000, false), (15, 6000, false)]);
        assert!(follower.on_list(&list(10..16)).is_empty());
        assert_eq!(found(&follower.on_list(&list(11..17))), [(16, 9000, true)]);
        let mut impatient = Follower::new(Duration::ZERO, false);
        assert_eq!(found(&impatient.on_list(&list(10..16))), [(15, 0, false)]);
        let mut greedy = Follower::new(60 * S, false);
        assert_eq!(greedy.on_list(&list(10..16)).len(), 6);
    }

    #[test]
    fn an_empty_list_is_waited_out() {
        let mut follower = Follower::new(9 * S, false);
        assert!(follower.on_list(&list(0..0)).is_empty());
        assert_eq!(found(&follower.on_list(&list(0..1))), [(0, 0, false)]);
    }

    /// Chunks 10 to 14 of 3 s, the last two in parts, and `open` parts of the next.
    fn in_parts(open: u32) -> List {
        let part = |sequence: u64, number: u32| Part {
            sequence,
            number,
            independent: number == 0,
            item: Item {
                uri: format!("1-{sequence}.{number}.m4s"),
                duration: S / 2,
                ..list(sequence..sequence + 1).items[0].clone()
            },
        };
        let closed = (13..15).flat_map(|sequence| (0..6).map(move |number| (sequence, number)));
        let parts = closed.chain((0..open).map(|number| (15, number)));
        let low = LowLatency {
            blocks: true,
            hold_back: S,
            parts: parts.map(|(sequence, number)| part(sequence, number)).collect(),
            ..LowLatency::default()
        };
        List { low_latency: Some(low), ..list(10..15) }
    }

    #[test]
    fn parts_are_played_from_the_last_place_a_decoder_can_begin() {
        let mut follower = Follower::new(9 * S, true);
        let places = |new: &[Next]| -> Vec<_> {
            new.iter()
                .map(|next| (next.sequence, next.part.unwrap(), next.start.millis()))
                .collect()
        };
        // One part is less than the hold-back of 1 s: the chunk before it begins.
        let new = follower.on_list(&in_parts(1));
        assert_eq!(places(&new)[..2], [(14, 0, 0), (14, 1, 500)]);
        let shown = new.iter().find(|next| !next.lead).unwrap();
        assert_eq!((shown.sequence, shown.part), (14, Some(5)), "the hold-back is 1 s");
        assert_eq!(places(&new).last(), Some(&(15, 0, 3_000)));
        assert_eq!(follower.awaits(&in_parts(1)), Some((15, 1)));
        assert!(follower.on_list(&in_parts(1)).is_empty());
        assert_eq!(places(&follower.on_list(&in_parts(3))), [(15, 1, 3_500), (15, 2, 4_000)]);
        // Whoever does not play parts sees chunks and waits for none.
        let mut old = Follower::new(9 * S, false);
        assert_eq!(found(&old.on_list(&in_parts(3))).len(), 3);
        assert_eq!(old.awaits(&in_parts(3)), None);
    }

    #[test]
    fn an_older_version_from_another_edge_changes_nothing() {
        let mut follower = Follower::new(3 * S, false);
        follower.on_list(&list(10..16));
        assert!(follower.on_list(&list(9..15)).is_empty());
        assert_eq!(found(&follower.on_list(&list(11..17))), [(16, 3000, true)]);
    }

    #[test]
    fn missed_chunks_leave_a_hole_in_time() {
        let mut follower = Follower::new(3 * S, false);
        follower.on_list(&list(10..16));
        assert_eq!(follower.lost(), None);
        assert_eq!(found(&follower.on_list(&list(18..19))), [(18, 9000, true)]);
        assert_eq!([follower.lost(), follower.lost(), follower.lost()], [Some(16), Some(17), None]);
        // A sequence that jumped, because an origin lost its state, does not.
        let mut jumped = list(1_000_000..1_000_001);
        jumped.items[0].date = Some(UtcTime::from_millis(19 * 3000 + 500));
        assert_eq!(found(&follower.on_list(&jumped)), [(1_000_000, 12_500, true)]);
        assert_eq!(std::iter::from_fn(|| follower.lost()).count(), MOST_MISSED as usize);
    }

    #[test]
    fn polls_are_paced_as_the_rfc_says_or_as_the_paper_measured() {
        let mut follower = Follower::new(9 * S, false);
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
