//! What versions of one list, seen one after another at several servers, must
//! have in common: the rules P1 to P13 as far as text shows them.
//!
//! Pure. Times are those of the validation; what was fetched is [`super::probe`].

use std::collections::BTreeMap;
use std::time::Duration;

use super::finding::{Finding, Findings, Rule};
use super::list::{List, Segment};
use super::low_latency;
use super::shown::{Mark, Shown};

/// Dates may be off by rounding and by a frame, in milliseconds.
const SLACK_MS: i64 = 100;

/// A hole longer than this many target durations needs no gaps.
const LONGEST_HOLE: i64 = 5;

/// A part may be seen so much later than it is due, in seconds: what came
/// unevenly from the broadcaster, and this validator's own requests.
const LATE: f64 = 0.3;

/// Sequence numbers remembered; older ones are forgotten.
const REMEMBERED: u64 = 10_000;

/// What a sequence number was first seen as.
#[derive(Clone, Debug)]
struct Seen {
    segment: Segment,
    /// Discontinuities before it, counted from the first of all.
    discontinuities: u64,
    first: Duration,
}

/// One request for a whole list, by the validation's clock.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// When it was sent.
    pub asked: Duration,
    /// When its answer was there.
    pub at: Duration,
    /// It waited for the very next part: one further ahead says nothing of when
    /// those before it appeared.
    pub for_next: bool,
}

/// One server.
#[derive(Debug, Default)]
struct Server {
    last: Option<List>,
    /// The newest list of a request beside, and all that such have shown.
    plain: Option<List>,
    plainly: Shown,
    /// What the reloads have shown.
    reloaded: Shown,
    /// The last plain answer was older than one before it; behind another server.
    went_back: bool,
    lagged: bool,
    polled: Duration,
    /// A segment was added.
    changed: Duration,
    /// A segment or a part was added.
    grown: Duration,
}

/// A removed segment that must still be there.
#[derive(Clone, Debug, PartialEq)]
pub struct Promise {
    /// The server that removed it.
    pub server: usize,
    /// As written in the list.
    pub uri: String,
    /// Until when, since the validation began.
    pub until: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Judge {
    names: Vec<String>,
    servers: Vec<Server>,
    target: Option<u64>,
    part_target: Option<f64>,
    seen: BTreeMap<u64, Seen>,
    longest: f64,
    promises: Vec<Promise>,
}

impl Judge {
    /// For servers of these names.
    pub fn new(names: Vec<String>) -> Self {
        let servers = names.iter().map(|_| Server::default()).collect();
        Self {
            names,
            servers,
            target: None,
            part_target: None,
            seen: BTreeMap::new(),
            longest: 0.0,
            promises: Vec::new(),
        }
    }

    /// The newest list of a server.
    pub fn last(&self, server: usize) -> Option<&List> {
        self.servers.get(server)?.last.as_ref()
    }

    /// Whether every server has shown the end.
    pub fn ended(&self) -> bool {
        let ended = |server: &Server| server.last.as_ref().is_some_and(|list| list.ended);
        self.servers.iter().all(ended)
    }

    /// What was removed since this was last asked.
    pub fn take_promises(&mut self) -> Vec<Promise> {
        std::mem::take(&mut self.promises)
    }

    /// A whole list that `server` gave to one of the reloads that follow the
    /// stream, each sent after the answer before.
    pub fn see(&mut self, server: usize, request: Request, list: List) -> Vec<Finding> {
        let at = request.at;
        let Some(name) = self.names.get(server).cloned() else { return Vec::new() };
        let mut found = Vec::new();
        let mut findings = Findings::new(at, &name, &mut found);
        if let Some(server) = self.servers.get_mut(server) {
            server.reloaded.note(at, Mark::of(&list));
        }
        if self.last(server).is_some_and(|last| *last == list) {
            self.silence(server, at, &mut findings);
            return found;
        }
        self.edits(server, request, &list, &mut findings);
        self.text(at, &list, &mut findings);
        if let Some(server) = self.servers.get_mut(server) {
            server.last = Some(list);
            server.polled = at;
        }
        found
    }

    /// A whole list that `server` gave to a request which waits for nothing,
    /// sent beside those of [`Judge::see`]; `age` is its Age, in seconds. It may
    /// not be older than what was there when it was asked for, except by the
    /// time that a cache may have kept it (rule L10).
    pub fn see_plain(
        &mut self,
        server: usize,
        (asked, at): (Duration, Duration),
        age: Option<u64>,
        list: List,
    ) -> Vec<Finding> {
        let Some(name) = self.names.get(server).cloned() else { return Vec::new() };
        let mut found = Vec::new();
        let mut findings = Findings::new(at, &name, &mut found);
        let kept = Duration::from_secs_f64((list.target.unwrap_or(1) as f64 / 2.0).max(1.0));
        // A reload has another URL: a cache may keep the two apart. Age is in
        // whole seconds.
        let apart = age.map_or(Duration::ZERO, |age| Duration::from_secs(age.saturating_add(1)));
        let mark = Mark::of(&list);
        let elsewhere = kept + Duration::from_secs_f64(LATE);
        let ahead = self.servers.iter().enumerate().filter(|(other, _)| *other != server);
        let ahead = ahead.fold(Mark::default(), |ahead, (_, other)| {
            ahead.newest(other.shown(asked.saturating_sub(elsewhere)))
        });
        let Some(held) = self.servers.get_mut(server) else { return Vec::new() };
        let before = held.plainly.by(asked);
        let before = match asked.checked_sub(apart.min(kept)) {
            Some(then) => before.newest(held.reloaded.by(then)),
            None => before,
        };
        let lines = || list.excerpt(1, 8);
        // Each told once, until it is over.
        let back = mark.older_than(before);
        if let Some((rule, how)) = back.filter(|_| !held.went_back) {
            let what = format!("a plain request got {mark} after {before}: {how}");
            findings.fault(rule, what, lines());
        }
        held.went_back = back.is_some();
        let lags = back.is_none() && !list.ended && mark.older_than(ahead).is_some();
        if lags && !held.lagged {
            let what = format!(
                "a plain request got {mark}, {ahead} was at another server {:.1} s before",
                elsewhere.as_secs_f64()
            );
            findings.warning(Rule::L10, what, lines());
        }
        held.lagged = lags;
        held.plainly.note(at, mark);
        // Every version is read once.
        if held.last.as_ref() != Some(&list) && held.plain.as_ref() != Some(&list) {
            self.text(at, &list, &mut findings);
            if let Some(server) = self.servers.get_mut(server) {
                server.plain = Some(list);
            }
        }
        found
    }

    /// One version by itself and against what its numbers meant before.
    fn text(&mut self, at: Duration, list: &List, findings: &mut Findings<'_>) {
        self.header(list, findings);
        self.segments(at, list, findings);
        low_latency::text(list, findings);
        if let Some(part_target) = list.part_target {
            let held = *self.part_target.get_or_insert(part_target);
            if (held - part_target).abs() > f64::EPSILON {
                let what = format!("the part target changed from {held} to {part_target}");
                findings.fault(Rule::P1, what, vec![]);
            }
        }
    }

    fn header(&mut self, list: &List, findings: &mut Findings<'_>) {
        let Some(target) = list.target.filter(|target| *target >= 1) else {
            findings.fault(Rule::P1, "EXT-X-TARGETDURATION is missing or 0", list.excerpt(1, 5));
            return;
        };
        let held = *self.target.get_or_insert(target);
        let line = list.line_of("#EXT-X-TARGETDURATION");
        if held != target {
            let what = format!("the target duration changed from {held} to {target}");
            findings.fault(Rule::P1, what, list.excerpt(line, line));
        }
        if list.playlist_type.is_some() && !list.ended {
            let line = list.line_of("#EXT-X-PLAYLIST-TYPE");
            findings.fault(Rule::P11, "a live list has a playlist type", list.excerpt(line, line));
        }
        if list.ended && !list.part_hints.is_empty() {
            let line = list.line_of("#EXT-X-PRELOAD-HINT");
            findings.fault(Rule::P11, "a hint after the end", list.excerpt(line, line));
        }
        let float = list.segments.iter().any(|segment| segment.duration.fract() != 0.0);
        let map = list.segments.iter().any(|segment| segment.map.is_some());
        let needed = match (list.skips.is_empty(), map, float) {
            (false, ..) => 9,
            (_, true, _) => 6,
            (.., true) => 3,
            _ => 1,
        };
        let version = list.version.unwrap_or(1);
        let line = list.line_of("#EXT-X-VERSION");
        let what = format!("version {version}, its tags need {needed}");
        if version < needed {
            findings.fault(Rule::P13, what, list.excerpt(line, line));
        } else if version > needed {
            findings.warning(Rule::P13, what, list.excerpt(line, line));
        }
    }

    /// The list is as it was: is that still allowed?
    fn silence(&mut self, server: usize, at: Duration, findings: &mut Findings<'_>) {
        let most = 1.5 * self.target.unwrap_or(u64::MAX) as f64;
        let Some(server) = self.servers.get_mut(server) else { return };
        let before = (server.polled.saturating_sub(server.changed)).as_secs_f64();
        server.polled = at;
        let silent = at.saturating_sub(server.changed).as_secs_f64();
        let ended = server.last.as_ref().is_some_and(|list| list.ended);
        // Told once, when the limit is passed. No news at this moment proves it.
        if !ended && silent > most && before <= most {
            findings.fault(Rule::P4, format!("no new segment for {silent:.1} s"), vec![]);
        }
    }

    /// What changed since the version before at the same server.
    fn edits(
        &mut self,
        at_server: usize,
        request: Request,
        list: &List,
        findings: &mut Findings<'_>,
    ) {
        let Request { asked, at, for_next } = request;
        let target = list.target.unwrap_or(1) as f64;
        self.longest = self.longest.max(list.duration());
        let Some(server) = self.servers.get_mut(at_server) else { return };
        let Some(last) = server.last.take() else {
            (server.changed, server.grown) = (at, at);
            return;
        };
        if last.ended {
            findings.fault(Rule::P11, "the list changed after its end", list.excerpt(1, 12));
        }
        if list.first() < last.first() || list.end() < last.end() {
            let what = format!(
                "segments {}..{} became {}..{}: time goes back",
                last.first(),
                last.end(),
                list.first(),
                list.end()
            );
            findings.fault(Rule::P2, what, list.excerpt(1, 8));
        }
        let parts_lost = list.end() == last.end()
            && last.open.parts.iter().zip(&list.open.parts).any(|(old, new)| old.uri != new.uri)
            || list.end() == last.end() && list.open.parts.len() < last.open.parts.len();
        if parts_lost && !list.ended {
            let end = list.lines.len();
            findings.fault(
                Rule::P3,
                "parts of the open segment were taken back",
                list.excerpt(end.saturating_sub(8), end),
            );
        }
        if (list.end(), list.open.parts.len()) > (last.end(), last.open.parts.len()) {
            // Before it asked, something new may have been there: the validator
            // was fetching or looking at another server.
            let silent = at.saturating_sub(asked.max(server.grown)).as_secs_f64();
            let late = |most: &f64| for_next && silent > most + LATE;
            if let Some(most) = list.part_target.filter(late) {
                let what = format!("nothing new for {silent:.2} s, the part target is {most} s");
                findings.warning(Rule::L3, what, vec![]);
            }
            server.grown = at;
        }
        if list.end() > last.end() {
            // It appeared after the poll before this one, where it was not.
            let proven = server.polled.saturating_sub(server.changed).as_secs_f64();
            let told = proven > 1.5 * target;
            // What passed between two polls is the validator's own doing.
            let waited = at.saturating_sub(asked.max(server.changed)).as_secs_f64();
            let silent = proven + waited;
            if !told && silent > 1.5 * target + 1.0 {
                let what = format!("a new segment after {silent:.1} s of waiting");
                findings.warning(Rule::P4, what, vec![]);
            }
            server.changed = at;
        }
        if list.first() > last.first() {
            let open: f64 = list.open.parts.iter().map(|part| part.duration).sum();
            let left = list.duration() + open;
            if left < 3.0 * target - 0.01 {
                let what = format!("{left:.2} s left, less than three times {target} s");
                findings.fault(Rule::P5, what, list.excerpt(1, list.lines.len()));
            }
        }
        for (sequence, segment) in last.numbered().take_while(|(n, _)| *n < list.first()) {
            let Some(seen) = self.seen.get(&sequence).filter(|_| !segment.gap) else { continue };
            let kept = Duration::from_secs_f64((segment.duration + self.longest).max(0.0));
            let until = seen.first + kept;
            self.promises.push(Promise { server: at_server, uri: segment.uri.clone(), until });
        }
    }

    /// Every segment by itself, against its neighbour and against what its
    /// number meant before.
    fn segments(&mut self, at: Duration, list: &List, findings: &mut Findings<'_>) {
        let target = list.target.unwrap_or(u64::MAX);
        let mut discontinuities = list.discontinuity_sequence;
        let mut before: Option<&Segment> = None;
        for (sequence, segment) in list.numbered() {
            let lines = || list.excerpt(segment.line, segment.line + 8);
            discontinuities += u64::from(segment.discontinuity);
            if segment.duration <= 0.0 || segment.duration.round() > target as f64 {
                let what = format!("{} s in a list of {target} s", segment.duration);
                findings.fault(Rule::P1, what, lines());
            }
            if let Some(before) = before {
                follow(before, segment, target, findings, lines);
            }
            before = Some(segment);
            let seen = self.seen.entry(sequence).or_insert_with(|| Seen {
                segment: segment.clone(),
                discontinuities,
                first: at,
            });
            if seen.segment.uri != segment.uri {
                let what = format!("number {sequence} was {}", seen.segment.uri);
                findings.fault(Rule::P2, what, lines());
            } else if seen.segment.duration != segment.duration
                || seen.segment.gap != segment.gap
                || seen.segment.map != segment.map
                || (seen.segment.date_ms.is_some() && seen.segment.date_ms != segment.date_ms)
            {
                let what = format!("number {sequence} has other tags than before");
                findings.fault(Rule::P3, what, lines());
            }
            if seen.discontinuities != discontinuities {
                let what = format!(
                    "number {sequence} stood behind {} discontinuities and now behind {discontinuities}",
                    seen.discontinuities
                );
                findings.fault(Rule::P8, what, list.excerpt(1, 8));
            }
        }
        let oldest = list.end().saturating_sub(REMEMBERED);
        self.seen = self.seen.split_off(&oldest);
    }
}

impl Server {
    /// What any answer of it has shown by then.
    fn shown(&self, then: Duration) -> Mark {
        self.plainly.by(then).newest(self.reloaded.by(then))
    }
}

/// Two segments that stand side by side.
fn follow(
    before: &Segment,
    segment: &Segment,
    target: u64,
    findings: &mut Findings<'_>,
    lines: impl Fn() -> Vec<String>,
) {
    if before.map != segment.map && !segment.discontinuity {
        findings.fault(Rule::P8, "another EXT-X-MAP without a discontinuity", lines());
    }
    if segment.discontinuity && segment.date_ms.is_none() && before.date_ms.is_some() {
        findings.warning(Rule::P10, "a discontinuity without a date", lines());
    }
    let Some((from, to)) = before.date_ms.zip(segment.date_ms) else { return };
    let missing = to - from - (before.duration * 1000.0).round() as i64;
    let whole = i64::try_from(target).unwrap_or(i64::MAX).saturating_mul(1000);
    if missing < -SLACK_MS {
        findings.fault(Rule::P10, format!("the date goes back by {} ms", -missing), lines());
    } else if missing > SLACK_MS && missing <= whole.saturating_mul(LONGEST_HOLE) {
        findings.warning(Rule::P9, format!("{missing} ms are missing without a gap"), lines());
    } else if missing > SLACK_MS && !segment.discontinuity {
        findings.fault(Rule::P10, format!("the date jumps by {missing} ms"), lines());
    }
}

#[cfg(test)]
mod tests;
