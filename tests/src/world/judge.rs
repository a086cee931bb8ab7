//! Sees every version that the origin makes and everything that a viewer is
//! given, and knows the rules: P1 to P5 and P10 of HLS, DESIGN's invariants 1
//! to 3.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use spyglass_media::{Resource, Version};

use super::list::{Line, List};

/// What latencies and a fetch may add to how old a list is.
const SLACK: Duration = Duration::from_secs(1);

/// Date and time are written in milliseconds, durations in 10 µs.
const ROUNDING: Duration = Duration::from_millis(2);

/// Remembers what was made and what was seen.
#[derive(Debug, Default)]
pub(super) struct Judge {
    target: Option<Duration>,
    /// The newest version made, while its successor must follow from it.
    previous: Option<Arc<List>>,
    /// The running process made `previous`.
    timed: bool,
    /// When a newer version was made.
    superseded: BTreeMap<Version, Duration>,
    /// What a viewer was told, by version.
    told: BTreeMap<Version, Arc<List>>,
    /// What viewers know each sequence number to be.
    known: BTreeMap<u64, Line>,
    /// What viewers have of each name.
    bytes: BTreeMap<Resource, Bytes>,
    /// The newest version that each edge has served, and whether that was its last.
    newest: BTreeMap<usize, Version>,
    /// How old a fetched list has been at most, by when a newer one was made.
    pub fetched_late: Duration,
    /// Versions the origin made.
    pub made: u64,
    /// Lists served.
    pub served: u64,
    /// Lists served although the upstream did not answer.
    pub aged: u64,
    /// The oldest of the others, from when it was no longer the newest.
    pub stalest: Duration,
}

/// Fails the test with the rule and the text.
macro_rules! rule {
    ($holds:expr, $list:expr, $($rule:tt)+) => {
        assert!($holds, "{}\nversion {}:\n{}", format_args!($($rule)+), $list.version, $list.text)
    };
}

impl Judge {
    /// The origin's process is another one. `same`: it has all that was made.
    pub fn on_restart(&mut self, same: bool) {
        self.timed = false;
        if !same {
            self.previous = None;
        }
    }

    /// The origin has made a list, or has it again after a restart.
    pub fn on_made(&mut self, list: &Arc<List>) {
        // What a process that was killed made after this is lost.
        self.superseded.split_off(&list.version);
        if let Some(previous) = self.previous.replace(Arc::clone(list)) {
            if previous.version == list.version {
                rule!(previous.text == list.text, list, "a version came back with another text");
                return;
            }
            self.successor(&previous, list);
            self.superseded.insert(previous.version, list.made);
        }
        self.timed = true;
        self.made += 1;
        self.alone(list);
    }

    /// Rules about one list.
    fn alone(&mut self, list: &List) {
        let target = *self.target.get_or_insert(list.target);
        rule!(list.target == target && target >= Duration::from_secs(1), list, "P1: target");
        for line in &list.lines {
            let rounded = (line.duration + Duration::from_millis(500)).as_secs();
            rule!(rounded <= target.as_secs(), list, "P1: {} is too long", line.sequence);
            rule!(line.duration > Duration::ZERO, list, "P1: {} has no length", line.sequence);
        }
        for pair in list.lines.windows(2) {
            let end = pair[0].captured + pair[0].duration;
            rule!(end <= pair[1].captured + ROUNDING, list, "P10: {} goes back", pair[1].sequence);
        }
    }

    /// Rules about a list and the one before it.
    fn successor(&self, before: &List, list: &List) {
        rule!(before.version < list.version, list, "versions grow, {} was before", before.version);
        rule!(!before.ended, list, "P11: nothing follows ENDLIST");
        rule!(before.first() <= list.first(), list, "P2: MEDIA-SEQUENCE went back");
        rule!(before.last() <= list.last(), list, "P3: the end was cut off");
        rule!(list.first() <= before.last() + 1, list, "P3: something is left out");
        for line in before.lines.iter().filter(|line| line.sequence >= list.first()) {
            rule!(list.line(line.sequence) == Some(line), list, "P3: {} changed", line.sequence);
        }
        let gone = before.lines.iter().filter(|line| line.sequence < list.first());
        let slid = gone.clone().filter(|line| line.discontinuity).count() as u64;
        let sequence = before.discontinuity_sequence + slid;
        rule!(list.discontinuity_sequence == sequence, list, "P8: DISCONTINUITY-SEQUENCE");
        let enough = list.duration() + ROUNDING >= 3 * list.target;
        rule!(gone.count() == 0 || enough, list, "P5: less than 3 target durations are left");
        if self.timed {
            let waited = list.made - before.made;
            rule!(waited <= list.target * 3 / 2, list, "P4: nothing new for {waited:?}");
        }
    }

    /// An edge serves a list. `aged`: the upstream does not answer.
    pub fn on_served(
        &mut self,
        now: Duration,
        edge: usize,
        list: &Arc<List>,
        age: Duration,
        aged: bool,
    ) {
        let told = self.told.entry(list.version).or_insert_with(|| Arc::clone(list));
        rule!(told.text == list.text, list, "one version, two texts; the other:\n{}", told.text);
        let newest = self.newest.entry(edge).or_default();
        rule!(*newest <= list.version, list, "time went backwards from {newest} on edge {edge}");
        *newest = list.version;
        for line in &list.lines {
            let known = self.known.entry(line.sequence).or_insert_with(|| line.clone());
            rule!(known == line, list, "one sequence, two things: {known:?} and {line:?}");
        }
        let true_age = now - list.made;
        rule!(age <= true_age && true_age <= age + SLACK, list, "Age {age:?}, not {true_age:?}");
        self.served += 1;
        if aged {
            self.aged += 1;
            return;
        }
        let stale = self.superseded.get(&list.version).map_or(Duration::ZERO, |since| now - *since);
        let most = self.fetched_late + list.target + Duration::from_secs(1) + SLACK;
        rule!(list.ended || stale <= most, list, "invariant 1: stale for {stale:?}");
        self.stalest = self.stalest.max(stale);
    }

    /// A viewer has an object.
    pub fn on_object(&mut self, resource: Resource, bytes: &Bytes) {
        assert!(!bytes.is_empty(), "{resource} is empty");
        let known = self.bytes.entry(resource).or_insert_with(|| bytes.clone());
        assert!(known == bytes, "{resource} names different bytes");
    }
}
