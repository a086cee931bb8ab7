//! Knows what is listed and what is kept.
//!
//! Chunks and GAPs are appended, the oldest leave the front once the window is
//! full (P2, P3, P5), and what has left stays available for as long as a client
//! may still ask for it (P6). The text is [`playlist`](crate::playlist)'s, made
//! from a [`Snapshot`]; writing the journal is the caller's, from [`Saved`].

mod parts;
mod saved;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use spyglass_media::{MediaTime, Position, Resource, UtcTime, Version};

use crate::segmenter::{self, Chunk, Gap, Init, Output, Resume, Tail};

use parts::{OpenChunk, StoredPart};

pub use parts::{LowLatency, OpenLine, PartLine};
pub use saved::Saved;

/// More than this is never listed, however short the chunks: a publisher who
/// changes its codec every second must not make the list grow.
const MAX_LISTED: usize = 64;

/// More than this is never kept behind the list.
const MAX_KEPT: usize = 512;

/// Names told by [`Chunklist::evicted`] at most, should nobody ask.
const MAX_EVICTED: usize = 4096;

/// How much is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// EXT-X-TARGETDURATION: whole seconds, never changed.
    pub target_duration: Duration,
    /// Chunks that are listed, when they last 3 target durations together.
    pub window: usize,
    /// PART-TARGET, never changed; `None` for a list without parts.
    pub part_target: Option<Duration>,
}

impl Config {
    /// A window of 6, no parts.
    pub const fn new(target_duration: Duration) -> Self {
        Self { target_duration, window: 6, part_target: None }
    }

    /// The list of what this segmenter makes.
    pub fn of(segmenter: &segmenter::Config) -> Self {
        let part_target = segmenter.part_target();
        Self { part_target, ..Self::new(segmenter.target_duration()) }
    }

    fn least(&self) -> i64 {
        (MediaTime::ZERO + self.target_duration).ticks().saturating_mul(3)
    }

    /// No chunk is as long as this.
    fn longest_chunk(&self) -> i64 {
        (MediaTime::ZERO + self.target_duration + Duration::from_secs(1)).ticks()
    }
}

/// One broadcast's list with its media.
#[derive(Debug)]
pub struct Chunklist {
    config: Config,
    listed: VecDeque<Segment>,
    /// Its parts are complete, it is not.
    open: Option<OpenChunk>,
    kept: VecDeque<Kept>,
    inits: BTreeMap<u32, StoredInit>,
    version: Version,
    next_sequence: u64,
    /// The last epoch whose init was seen.
    opened: u32,
    discontinuity_sequence: u64,
    /// The longest list so far, in ticks.
    longest: i64,
    /// The highest bit rate of a chunk of the newest epoch.
    peak: u64,
    /// When the list last grew, by the wall clock.
    grown: UtcTime,
    ended: bool,
    /// Nothing has been listed since a restart, and parts were before it.
    torn: bool,
    evicted: Vec<Resource>,
}

#[derive(Clone, Debug)]
struct Segment {
    line: Line,
    /// `None` for a GAP.
    bytes: Option<Bytes>,
    /// Pieces of the bytes.
    parts: Vec<StoredPart>,
}

/// Has left the list but may still be asked for.
#[derive(Debug)]
struct Kept {
    segment: Segment,
    /// `None` after a restart, until the clock is known.
    until: Option<Instant>,
}

#[derive(Debug)]
struct StoredInit {
    bytes: Bytes,
    codecs: String,
    resolution: Option<(u32, u32)>,
}

/// A chunk or GAP as a list names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its epoch.
    pub epoch: u32,
    /// Media sequence number.
    pub sequence: u64,
    /// In 90 kHz ticks.
    pub duration: MediaTime,
    /// When its start was captured.
    pub program_date_time: UtcTime,
    /// EXT-X-DISCONTINUITY stands before it.
    pub discontinuity: bool,
    /// EXT-X-GAP: there is nothing to fetch.
    pub gap: bool,
}

/// What the multivariant playlist says of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The value of CODECS.
    pub codecs: String,
    /// Width and height in pixels; `None` without video.
    pub resolution: Option<(u32, u32)>,
    /// Bits per second, at least those of any chunk. Rounded up by a quarter at
    /// most, and growing only, so that it rarely changes.
    pub bandwidth: u64,
}

/// One version of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// EXT-X-TARGETDURATION.
    pub target_duration: Duration,
    /// EXT-X-DISCONTINUITY-SEQUENCE.
    pub discontinuity_sequence: u64,
    /// In order; EXT-X-MEDIA-SEQUENCE is that of the first.
    pub lines: Vec<Line>,
    /// EXT-X-ENDLIST.
    pub ended: bool,
    /// `None` before the first chunk.
    pub stream: Option<Stream>,
    /// `None` for a list without parts.
    pub low_latency: Option<LowLatency>,
}

impl Chunklist {
    /// An empty list that begins behind what was named before; a new
    /// broadcast's begins at the default.
    pub fn new(config: Config, behind: &Resume) -> Self {
        Self {
            config,
            listed: VecDeque::new(),
            open: None,
            kept: VecDeque::new(),
            inits: BTreeMap::new(),
            version: Version::default(),
            next_sequence: behind.next_sequence,
            opened: behind.epoch,
            discontinuity_sequence: 0,
            longest: 0,
            peak: 0,
            grown: UtcTime::default(),
            ended: false,
            torn: false,
            evicted: Vec::new(),
        }
    }

    /// From the next chunk on, that many are listed, when they last 3 target
    /// durations together.
    pub fn set_window(&mut self, chunks: usize) {
        self.config.window = chunks;
    }

    /// Takes in what the segmenter returned; true when the list has changed.
    pub fn on_output(&mut self, now: Instant, output: Output) -> bool {
        if self.ended {
            return false;
        }
        match output {
            Output::Init(init) => {
                self.on_init(init);
                false
            }
            Output::Part(part) => self.on_part(part),
            Output::Chunk(chunk) => {
                self.on_chunk(now, chunk);
                true
            }
            Output::Gap(gap) => {
                self.on_gap(now, gap);
                true
            }
            Output::Warning(_) => false,
        }
    }

    /// The broadcast is over: ENDLIST. What is listed stays.
    pub fn on_end(&mut self, _now: Instant) {
        if !self.ended {
            self.ended = true;
            self.version.revision = self.version.revision.saturating_add(1);
        }
    }

    /// Forgets what no client may count on any more.
    pub fn expire(&mut self, now: Instant) {
        for index in 0..self.kept.len() {
            if self.kept[index].until.is_none() {
                self.kept[index].until = Some(now + self.promise(&self.kept[index].segment));
            }
        }
        let too_many = self.kept.len().saturating_sub(MAX_KEPT);
        let mut index = 0;
        self.kept.retain(|kept| {
            index += 1;
            let stays = index > too_many && kept.until.is_none_or(|until| now < until);
            if !stays && kept.segment.bytes.is_some() {
                let Line { epoch, sequence, .. } = kept.segment.line;
                self.evicted.push(Resource::Chunk { epoch, sequence });
            }
            stays
        });
        let kept = self.kept.iter().map(|kept| kept.segment.line.epoch);
        let used = kept.chain(self.listed.iter().map(|segment| segment.line.epoch)).min();
        let still_used = self.inits.split_off(&used.unwrap_or(self.opened).min(self.opened));
        let unused = std::mem::replace(&mut self.inits, still_used);
        self.evicted.extend(unused.into_keys().map(|epoch| Resource::Init { epoch }));
        self.evicted.truncate(MAX_EVICTED);
    }

    /// What has been forgotten since the last call.
    pub fn evicted(&mut self) -> Vec<Resource> {
        std::mem::take(&mut self.evicted)
    }

    /// Orders this list among all that this broadcast has had. Its epoch is
    /// that of the newest chunk.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The newest chunk, GAP or part listed; `None` before the first chunk,
    /// without which no part is listed.
    pub fn position(&self) -> Option<Position> {
        let last = self.listed.back()?;
        let open = self.open.as_ref().and_then(OpenChunk::position);
        Some(open.unwrap_or(Position::closed(last.line.sequence)))
    }

    /// Whether an edge may hold this, given what this process made and what
    /// one that was killed may have made of the chunk it was filling.
    pub fn covers(&self, version: Version, position: Option<Position>) -> bool {
        let torn = self.torn.then_some(Position { sequence: self.next_sequence, part: None });
        version <= self.version && position <= self.position().max(torn)
    }

    /// Parts of the newest complete chunk.
    pub fn last_parts(&self) -> u32 {
        let parts = self.listed.back().map_or(0, |segment| segment.parts.len());
        u32::try_from(parts).unwrap_or(u32::MAX)
    }

    /// PART-TARGET; `None` for a list without parts.
    pub fn part_target(&self) -> Option<Duration> {
        self.config.part_target
    }

    /// The list carries ENDLIST.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// EXT-X-TARGETDURATION.
    pub fn target_duration(&self) -> Duration {
        self.config.target_duration
    }

    /// An init, or a chunk or part that is listed or still promised.
    pub fn get(&self, resource: Resource) -> Option<Bytes> {
        match resource {
            Resource::Init { epoch } => self.inits.get(&epoch).map(|init| init.bytes.clone()),
            Resource::Chunk { epoch, sequence } => self.segment(epoch, sequence)?.bytes.clone(),
            Resource::Part { epoch, sequence, part } => {
                let index = usize::try_from(part).ok()?;
                let open = self.open.as_ref().filter(|open| open.is(epoch, sequence));
                let parts = match open {
                    Some(open) => &open.parts,
                    None => &self.segment(epoch, sequence)?.parts,
                };
                parts.get(index).map(|part| part.bytes.clone())
            }
            Resource::Index | Resource::Chunklist => None,
        }
    }

    /// Where a segmenter goes on behind this list.
    pub fn resume(&self) -> Resume {
        Resume {
            next_sequence: self.next_sequence,
            epoch: self.opened,
            tail: self.listed.back().map(|Segment { line, .. }| Tail {
                epoch: line.epoch,
                end: line.program_date_time + line.duration.since(MediaTime::ZERO),
                listed: self.grown,
                torn: self.torn,
            }),
        }
    }

    /// This version, for the renderer.
    pub fn snapshot(&self) -> Snapshot {
        let epoch = self.listed.back().map(|segment| segment.line.epoch);
        let init = epoch.and_then(|epoch| self.inits.get(&epoch));
        Snapshot {
            target_duration: self.config.target_duration,
            discontinuity_sequence: self.discontinuity_sequence,
            lines: self.listed.iter().map(|segment| segment.line).collect(),
            ended: self.ended,
            stream: init.map(|init| Stream {
                codecs: init.codecs.clone(),
                resolution: init.resolution,
                bandwidth: rounded_up(self.peak),
            }),
            low_latency: self.low_latency(),
        }
    }

    fn segment(&self, epoch: u32, sequence: u64) -> Option<&Segment> {
        let mut segments =
            self.listed.iter().rev().chain(self.kept.iter().map(|kept| &kept.segment));
        segments.find(|segment| segment.line.epoch == epoch && segment.line.sequence == sequence)
    }

    fn on_init(&mut self, init: Init) {
        self.opened = self.opened.max(init.epoch);
        let Init { epoch, bytes, codecs, resolution } = init;
        self.inits.insert(epoch, StoredInit { bytes, codecs, resolution });
    }

    fn on_chunk(&mut self, now: Instant, chunk: Chunk) {
        if self.listed.is_empty() {
            // Each epoch but the first begins with a DISCONTINUITY. When state
            // was lost, counting goes on from the epoch's number.
            let before = chunk.epoch.saturating_sub(1 + u32::from(chunk.discontinuity));
            self.discontinuity_sequence = before.into();
        }
        if self.listed.back().is_some_and(|last| last.line.epoch != chunk.epoch) {
            self.peak = 0;
        }
        // A chunk cut short must not pass for a high bit rate (4.4.6.2 counts
        // from half a target duration on).
        let seconds = chunk.duration.seconds().max(self.config.target_duration.as_secs_f64() / 2.0);
        self.peak = self.peak.max((chunk.bytes.len() as f64 * 8.0 / seconds) as u64);
        let line = Line {
            epoch: chunk.epoch,
            sequence: chunk.sequence,
            duration: chunk.duration,
            program_date_time: chunk.program_date_time,
            discontinuity: chunk.discontinuity,
            gap: false,
        };
        self.grown = chunk.listed;
        let parts = self.close_parts(&chunk);
        self.append(now, Segment { line, bytes: Some(chunk.bytes), parts });
    }

    fn on_gap(&mut self, now: Instant, gap: Gap) {
        let line = Line {
            epoch: gap.epoch,
            sequence: gap.sequence,
            duration: gap.duration,
            program_date_time: gap.program_date_time,
            discontinuity: false,
            gap: true,
        };
        self.grown = gap.listed;
        self.append(now, Segment { line, bytes: None, parts: Vec::new() });
    }

    fn append(&mut self, now: Instant, segment: Segment) {
        self.next_sequence = segment.line.sequence.saturating_add(1);
        self.torn = false;
        self.open = None;
        self.advance(segment.line.epoch);
        self.listed.push_back(segment);
        let mut total =
            self.listed.iter().map(|segment| segment.line.duration.ticks()).sum::<i64>();
        self.longest = self.longest.max(total);
        while let Some(first) = self.listed.front() {
            let rest = total - first.line.duration.ticks();
            let full = self.listed.len() > self.config.window && rest >= self.config.least();
            if !full && self.listed.len() <= MAX_LISTED {
                return;
            }
            total = rest;
            self.remove_first(now);
        }
    }

    /// A new version, by what belongs to this epoch.
    fn advance(&mut self, epoch: u32) {
        self.version.epoch = self.version.epoch.max(epoch);
        self.version.revision = self.version.revision.saturating_add(1);
    }

    fn remove_first(&mut self, now: Instant) {
        let Some(segment) = self.listed.pop_front() else { return };
        let tags = u64::from(segment.line.discontinuity);
        self.discontinuity_sequence = self.discontinuity_sequence.saturating_add(tags);
        let until = Some(now + self.promise(&segment));
        self.kept.push_back(Kept { segment, until });
    }

    /// How long a chunk stays available once it is no longer listed: its own
    /// duration and that of the longest list (6.2.2 counts from its first
    /// appearance, RFC 8216 from its removal; the longer holds).
    fn promise(&self, segment: &Segment) -> Duration {
        MediaTime::from_ticks(segment.line.duration.ticks().saturating_add(self.longest))
            .since(MediaTime::ZERO)
    }
}

/// To the next of four steps per power of two.
fn rounded_up(bandwidth: u64) -> u64 {
    let bandwidth = bandwidth.max(64_000);
    let step = 1 << bandwidth.ilog2().saturating_sub(2);
    bandwidth.div_ceil(step).saturating_mul(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Duration = Duration::from_secs(4);

    fn list_from(epoch: u32, sequence: u64, discontinuity: bool) -> Chunklist {
        let mut list = Chunklist::new(Config::new(TARGET), &Resume::default());
        add(&mut list, Instant::now(), epoch, sequence, discontinuity, 3_000);
        list
    }

    fn add(
        list: &mut Chunklist,
        now: Instant,
        epoch: u32,
        sequence: u64,
        discontinuity: bool,
        millis: i64,
    ) {
        let init = Init { epoch, bytes: Bytes::new(), codecs: String::new(), resolution: None };
        list.on_output(now, Output::Init(init));
        let chunk = Chunk {
            epoch,
            sequence,
            start: MediaTime::ZERO,
            duration: MediaTime::from_millis(millis),
            program_date_time: UtcTime::default(),
            listed: UtcTime::default(),
            discontinuity,
            independent: true,
            bytes: Bytes::from_static(b"moof"),
        };
        assert!(list.on_output(now, Output::Chunk(chunk)));
    }

    #[test]
    fn discontinuities_are_counted_on_when_state_was_lost() {
        assert_eq!(list_from(1, 0, false).snapshot().discontinuity_sequence, 0);
        // Epochs 2 to 5 began with one each; that of 6 stands in the list.
        assert_eq!(list_from(6, 900, true).snapshot().discontinuity_sequence, 4);
    }

    #[test]
    fn what_is_kept_is_bounded_in_number() {
        let mut list = list_from(1, 0, false);
        let now = Instant::now();
        for sequence in 1..2_000 {
            add(&mut list, now, sequence as u32 + 1, sequence, true, 1);
            list.expire(now);
            assert!(list.listed.len() <= MAX_LISTED && list.kept.len() <= MAX_KEPT);
        }
        assert_eq!(list.inits.len(), list.listed.len() + list.kept.len());
        assert_eq!(list.evicted().len(), 2 * (2_000 - MAX_LISTED - MAX_KEPT));
        assert_eq!(list.snapshot().discontinuity_sequence, 1_999 - MAX_LISTED as u64);
    }

    #[test]
    fn only_what_exists_can_be_had() {
        let list = list_from(2, 7, true);
        assert!(list.get(Resource::Chunk { epoch: 2, sequence: 7 }).is_some());
        assert!(list.get(Resource::Init { epoch: 2 }).is_some());
        for other in [
            Resource::Chunk { epoch: 1, sequence: 7 },
            Resource::Chunk { epoch: 2, sequence: 8 },
            Resource::Part { epoch: 2, sequence: 7, part: 0 },
            Resource::Init { epoch: 1 },
            Resource::Chunklist,
        ] {
            assert_eq!(list.get(other), None, "{other}");
        }
    }

    #[test]
    fn a_page_with_impossible_numbers_is_no_list() {
        let list = list_from(2, 7, true);
        let page = serde_json::to_string(&list.save()).unwrap();
        let restore = |page: &str| {
            let saved = serde_json::from_str(page).unwrap();
            Chunklist::restore(Config::new(TARGET), saved, |resource| list.get(resource))
        };
        assert!(restore(&page).is_some());
        for (good, bad) in [
            ("\"ticks\":270000", "\"ticks\":0"),
            ("\"ticks\":270000", "\"ticks\":9223372036854775807"),
            ("\"next_sequence\":8", "\"next_sequence\":9"),
            ("\"opened\":2", "\"opened\":1"),
        ] {
            assert!(page.contains(good));
            assert!(restore(&page.replace(good, bad)).is_none(), "{bad}");
        }
        let far = page.replace("\"longest_ticks\":270000", "\"longest_ticks\":9223372036854775807");
        let mut list = restore(&far).unwrap();
        list.expire(Instant::now());
        add(&mut list, Instant::now(), 2, 8, false, 3_000);
    }
}
