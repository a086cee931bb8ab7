//! Which names a list spans, as its own lines say: so that what never existed
//! is refused here, and costs the origin nothing.
//!
//! Pure. A list that does not look like ours spans nothing that is known, and
//! is none the worse for it: then only positions and epochs bound the names.
//! What the lists before it named is remembered for as long as the origin may
//! still be asked for it (rule P6). What follows from it is `slot/objects.rs`.

use std::ops::RangeInclusive;

use spyglass_media::Resource;

/// A longer text is not read; ours have a tenth of it.
const MAX_TEXT: usize = 256 * 1024;

/// A list of more chunks is not read; ours have 64.
const MAX_LISTED: u64 = 1_024;

/// A chunk that left the list can be fetched for its own duration and that of
/// the longest list, which has one more than the window when a chunk is added;
/// and one to spare.
const BEHIND: u64 = 3;

/// Where nobody saw the lists before: so many publishers may have come and gone
/// during the chunks that left.
const EPOCHS_BEHIND: u32 = 8;

/// What a list comes with, beside what the slot is told of it.
pub trait Listing: Clone {
    /// The names that it spans, when it tells.
    fn span(&self) -> Option<&Span>;
}

/// Chunks of one epoch, up to the next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    from: u64,
    epoch: u32,
}

/// The names of a list, GAPs included, and of what left it a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first listed.
    first: u64,
    /// Behind the last listed.
    end: u64,
    /// Most chunks that a list had, of those seen.
    longest: u64,
    /// In order of both, never empty; they may begin below `first`.
    runs: Vec<Run>,
    /// Chunks whose parts were listed, in order, and how many each has. A GAP
    /// has none.
    parts: Vec<(u64, u32)>,
}

impl Span {
    /// Reads a media playlist. `None` for one that names no chunk, and for one
    /// that is not written as ours are.
    pub fn read(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= MAX_TEXT)?;
        let mut first = None;
        let mut end = 0;
        let mut runs: Vec<Run> = Vec::new();
        let mut parts = Vec::new();
        let (mut listed, mut gap) = (0_u32, false);
        for line in text.lines() {
            if let Some(value) = line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:") {
                if first.is_some() {
                    return None;
                }
                end = value.parse().ok()?;
                first = Some(end);
            } else if let Some(attributes) = line.strip_prefix("#EXT-X-PART:") {
                let (uri, _) = attributes.split_once("URI=\"")?.1.split_once('"')?;
                let Resource::Part { sequence, part, .. } = Resource::parse(uri)? else {
                    return None;
                };
                // All of a chunk's parts are listed, or none.
                if (sequence, part) != (end, listed) {
                    return None;
                }
                listed = listed.checked_add(1)?;
            } else if line == "#EXT-X-GAP" {
                gap = true;
            } else if !line.is_empty() && !line.starts_with('#') {
                let Resource::Chunk { epoch, sequence } = Resource::parse(line)? else {
                    return None;
                };
                let last = runs.last().map_or(0, |run| run.epoch);
                if sequence != end || epoch < last.max(1) || end - first? >= MAX_LISTED {
                    return None;
                }
                if epoch > last {
                    runs.push(Run { from: sequence, epoch });
                }
                if listed > 0 || gap {
                    parts.push((sequence, listed));
                }
                (listed, gap) = (0, false);
                end = end.checked_add(1)?;
            }
        }
        let first = first.filter(|_| !runs.is_empty())?;
        Some(Self { first, end, longest: end - first, runs, parts })
    }

    /// This list, knowing what the one before it named.
    pub(super) fn behind(mut self, before: &Self) -> Self {
        self.longest = self.longest.max(before.longest);
        let least = self.least();
        let mut parts = before.parts.clone();
        parts.retain(|(sequence, _)| *sequence >= least && self.parts(*sequence).is_none());
        parts.append(&mut self.parts);
        parts.sort_unstable();
        self.parts = parts;
        let mut runs: Vec<Run> =
            before.runs.iter().copied().filter(|run| run.from < self.first).collect();
        // Of what has left already only the last run matters.
        let left = runs.iter().filter(|run| run.from <= least).count().saturating_sub(1);
        runs.drain(..left);
        if let Some(run) = runs.first_mut() {
            run.from = run.from.max(least);
        }
        let (Some(last), Some(next)) = (runs.last(), self.runs.first().copied()) else {
            return self;
        };
        // With a hole between the two nobody knows what was in it.
        if before.end < self.first || last.epoch > next.epoch {
            return self;
        }
        let skip = usize::from(last.epoch == next.epoch);
        runs.extend(self.runs.iter().skip(skip));
        self.runs = runs;
        self
    }

    /// The epochs that a chunk of this number may be of, where `newest` is the
    /// newest known: one, when it was seen listed.
    pub(super) fn epochs(&self, sequence: u64, newest: u32) -> Option<RangeInclusive<u32>> {
        if sequence >= self.end {
            return Some(self.runs.last()?.epoch..=newest);
        }
        if sequence < self.least() {
            return None;
        }
        match self.runs.iter().rev().find(|run| run.from <= sequence) {
            Some(run) => Some(run.epoch..=run.epoch),
            None => self.before(),
        }
    }

    /// How many parts this chunk has, when they were seen listed.
    pub(super) fn parts(&self, sequence: u64) -> Option<u32> {
        let at = self.parts.binary_search_by_key(&sequence, |(sequence, _)| *sequence).ok()?;
        self.parts.get(at).map(|(_, parts)| *parts)
    }

    /// Whether what this list names, or what comes next, needs this init.
    pub(super) fn needs(&self, epoch: u32, newest: u32) -> bool {
        let before = self.before().is_some_and(|epochs| epochs.contains(&epoch));
        let next = self.runs.last().is_some_and(|run| run.epoch < epoch && epoch <= newest);
        // What is known from the first chunk that may be asked for on has
        // nothing before it.
        let unseen = self.runs.first().is_some_and(|run| run.from > self.least());
        next || (unseen && before) || self.runs.iter().any(|run| run.epoch == epoch)
    }

    /// The first chunk that the origin may still have.
    fn least(&self) -> u64 {
        self.first.saturating_sub(self.longest.saturating_add(BEHIND))
    }

    /// What chunks before the first known one may be of.
    fn before(&self) -> Option<RangeInclusive<u32>> {
        let first = self.runs.first()?.epoch;
        Some(first.saturating_sub(EPOCHS_BEHIND).max(1)..=first)
    }
}
