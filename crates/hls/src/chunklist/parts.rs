//! The parts of a list: those of the chunk that is being filled, those of the
//! chunks near the end, and the one that will come next.
//!
//! Rules L1, L3, L6 and L7. A chunk's parts leave the list together, once the
//! chunk ends more than 3 target durations before the list does; they can be
//! fetched for as long as the chunk itself.

use std::time::Duration;

use bytes::Bytes;
use spyglass_media::{MediaTime, Position, Resource, UtcTime};

use super::Chunklist;
use crate::segmenter::{Chunk, Part};

/// Parts of one chunk that are listed at most: 12 s of the shortest, and more.
const MAX_PARTS: usize = 512;

/// A list this many target durations long is worth delta updates, which skip
/// what is older than [`SKIP`].
const LONG: i64 = 10;

/// CAN-SKIP-UNTIL in target durations, the least allowed.
const SKIP: u32 = 6;

/// What low latency adds to a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowLatency {
    /// PART-TARGET.
    pub part_target: Duration,
    /// Parts of the listed chunks, by media sequence number, in order.
    pub closed: Vec<(u64, Vec<PartLine>)>,
    /// The chunk whose parts stand at the end of the list.
    pub open: Option<OpenLine>,
    /// The part that will probably be listed next.
    pub hint: Option<Resource>,
    /// CAN-SKIP-UNTIL; `None` while the list is too short to skip any of it.
    pub skip_until: Option<Duration>,
    /// Chunks at the front that a delta update leaves out.
    pub skipped: usize,
}

/// A part as a list names it; its number is its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartLine {
    /// In 90 kHz ticks.
    pub duration: MediaTime,
    /// INDEPENDENT=YES.
    pub independent: bool,
}

/// A chunk of which parts are listed and nothing else yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenLine {
    /// Its epoch.
    pub epoch: u32,
    /// Its media sequence number.
    pub sequence: u64,
    /// When its start was captured.
    pub program_date_time: UtcTime,
    /// EXT-X-DISCONTINUITY stands before it.
    pub discontinuity: bool,
    /// In order.
    pub parts: Vec<PartLine>,
}

#[derive(Clone, Debug)]
pub(super) struct StoredPart {
    pub line: PartLine,
    pub bytes: Bytes,
}

#[derive(Debug)]
pub(super) struct OpenChunk {
    epoch: u32,
    sequence: u64,
    program_date_time: UtcTime,
    discontinuity: bool,
    pub parts: Vec<StoredPart>,
}

impl OpenChunk {
    pub fn is(&self, epoch: u32, sequence: u64) -> bool {
        (self.epoch, self.sequence) == (epoch, sequence)
    }

    pub fn position(&self) -> Option<Position> {
        let last = u32::try_from(self.parts.len().checked_sub(1)?).ok()?;
        Some(Position { sequence: self.sequence, part: Some(last) })
    }
}

impl Chunklist {
    /// True when the list has changed.
    pub(super) fn on_part(&mut self, part: Part) -> bool {
        if self.config.part_target.is_none() {
            return false;
        }
        let open = self.open.take().filter(|open| open.is(part.epoch, part.sequence));
        let mut open = open.unwrap_or_else(|| OpenChunk {
            epoch: part.epoch,
            sequence: part.sequence,
            program_date_time: part.program_date_time,
            discontinuity: part.discontinuity,
            parts: Vec::new(),
        });
        // Numbered by their place, so none may be missing.
        let next = u32::try_from(open.parts.len()) == Ok(part.part) && open.parts.len() < MAX_PARTS;
        if next {
            let line = PartLine { duration: part.duration, independent: part.independent };
            open.parts.push(StoredPart { line, bytes: part.bytes });
        }
        self.open = Some(open);
        let listed = next && !self.listed.is_empty();
        if listed {
            self.advance(part.epoch);
        }
        listed
    }

    /// The parts of a chunk that is now complete, as pieces of it.
    pub(super) fn close_parts(&mut self, chunk: &Chunk) -> Vec<StoredPart> {
        let open = self.open.take().filter(|open| open.is(chunk.epoch, chunk.sequence));
        let mut parts = open.map(|open| open.parts).unwrap_or_default();
        let lengths: Vec<usize> = parts.iter().map(|part| part.bytes.len()).collect();
        match pieces(&chunk.bytes, lengths) {
            Some(pieces) => {
                for (part, piece) in parts.iter_mut().zip(pieces) {
                    part.bytes = piece;
                }
                parts
            }
            None => Vec::new(),
        }
    }

    pub(super) fn low_latency(&self) -> Option<LowLatency> {
        let part_target = self.config.part_target?;
        let open = self.open.as_ref().filter(|_| !self.ended);
        let behind = open.map_or(0, |open| ticks(&open.parts));
        let mut closed = Vec::new();
        let mut distance = behind;
        for segment in self.listed.iter().rev() {
            if distance > self.config.least() {
                break;
            }
            if !segment.parts.is_empty() {
                let lines = segment.parts.iter().map(|part| part.line).collect();
                closed.push((segment.line.sequence, lines));
            }
            distance = distance.saturating_add(segment.line.duration.ticks());
        }
        closed.reverse();
        let (skip_until, skipped) = self.skip(behind);
        Some(LowLatency {
            part_target,
            closed,
            open: open.map(|open| OpenLine {
                epoch: open.epoch,
                sequence: open.sequence,
                program_date_time: open.program_date_time,
                discontinuity: open.discontinuity,
                parts: open.parts.iter().map(|part| part.line).collect(),
            }),
            hint: self.hint(),
            skip_until,
            skipped,
        })
    }

    /// Behind a GAP nobody can say what comes, and yet the first part of a next
    /// chunk is named: a widespread player (hls.js 1.7) takes a list with parts
    /// that ends in a whole chunk for one that has that chunk twice, and fails at
    /// the DISCONTINUITY behind it. What then does not come answers 404 (L7).
    fn hint(&self) -> Option<Resource> {
        if self.ended || self.torn {
            return None;
        }
        if let Some(open) = &self.open {
            let part = u32::try_from(open.parts.len()).ok()?;
            return Some(Resource::Part { epoch: open.epoch, sequence: open.sequence, part });
        }
        let has_parts = self.listed.iter().any(|segment| !segment.parts.is_empty());
        let last = self.listed.back().filter(|_| has_parts)?;
        let sequence = last.line.sequence.saturating_add(1);
        // The version's epoch is the last chunk's, but behind a restart: an epoch
        // may have been opened before it that has no chunk.
        Some(Resource::Part { epoch: self.version.epoch, sequence, part: 0 })
    }

    fn skip(&self, behind: i64) -> (Option<Duration>, usize) {
        let target = self.config.least() / 3;
        let listed = self.listed.iter().map(|segment| segment.line.duration.ticks());
        if self.ended || listed.sum::<i64>() < LONG * target {
            return (None, 0);
        }
        let mut distance = behind;
        let mut stays = 0;
        for segment in self.listed.iter().rev() {
            if distance > i64::from(SKIP) * target {
                break;
            }
            distance = distance.saturating_add(segment.line.duration.ticks());
            stays += 1;
        }
        (Some(self.config.target_duration * SKIP), self.listed.len() - stays)
    }
}

fn ticks(parts: &[StoredPart]) -> i64 {
    parts.iter().map(|part| part.line.duration.ticks()).sum()
}

/// `None` unless the lengths add up.
pub(super) fn pieces(bytes: &Bytes, lengths: Vec<usize>) -> Option<Vec<Bytes>> {
    let total = lengths.iter().try_fold(0_usize, |sum, length| sum.checked_add(*length));
    if total != Some(bytes.len()) {
        return None;
    }
    let mut rest = bytes.clone();
    Some(lengths.into_iter().map(|length| rest.split_to(length)).collect())
}
