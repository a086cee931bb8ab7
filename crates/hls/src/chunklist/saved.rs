//! A list as it survives a restart: everything but the media, which lies beside
//! it under its own names.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use spyglass_media::{MediaTime, Resource, UtcTime, Version};

use super::parts::{PartLine, StoredPart, pieces};
use super::{Chunklist, Config, Kept, Line, MAX_KEPT, MAX_LISTED, Segment, StoredInit};
use crate::segmenter::Resume;

/// Versions that may have been listed since the list was saved, part by part:
/// more than there can be in the longest chunk.
const UNSAVED: u64 = 4_096;

/// A [`Chunklist`] without its media.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    version_epoch: u32,
    revision: u64,
    next_sequence: u64,
    opened: u32,
    discontinuity_sequence: u64,
    longest_ticks: i64,
    peak: u64,
    grown_us: i64,
    ended: bool,
    listed: Vec<SavedLine>,
    kept: Vec<SavedLine>,
    inits: Vec<SavedInit>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedLine {
    epoch: u32,
    sequence: u64,
    ticks: i64,
    utc_us: i64,
    discontinuity: bool,
    /// Absent for a GAP.
    bytes: Option<usize>,
    /// Pieces of the bytes, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<SavedPart>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct SavedPart {
    ticks: i64,
    independent: bool,
    bytes: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SavedInit {
    epoch: u32,
    codecs: String,
    resolution: Option<(u32, u32)>,
    bytes: usize,
}

impl Saved {
    /// What a new list must begin behind when this one cannot be restored, so
    /// that no name stands for two things.
    pub fn resume(&self) -> Resume {
        Resume { next_sequence: self.next_sequence, epoch: self.opened, tail: None }
    }
}

impl SavedLine {
    fn new(segment: &Segment) -> Self {
        let Segment { line, bytes, parts } = segment;
        Self {
            epoch: line.epoch,
            sequence: line.sequence,
            ticks: line.duration.ticks(),
            utc_us: line.program_date_time.micros(),
            discontinuity: line.discontinuity,
            bytes: bytes.as_ref().map(Bytes::len),
            parts: parts
                .iter()
                .map(|part| SavedPart {
                    ticks: part.line.duration.ticks(),
                    independent: part.line.independent,
                    bytes: part.bytes.len(),
                })
                .collect(),
        }
    }

    /// `None` when its media is not what was saved.
    fn restored(self, media: &mut impl FnMut(Resource) -> Option<Bytes>) -> Option<Segment> {
        let Self { epoch, sequence, .. } = self;
        let bytes = match self.bytes {
            Some(size) => Some(
                media(Resource::Chunk { epoch, sequence }).filter(|bytes| bytes.len() == size)?,
            ),
            None => None,
        };
        let line = Line {
            epoch,
            sequence,
            duration: MediaTime::from_ticks(self.ticks),
            program_date_time: UtcTime::from_micros(self.utc_us),
            discontinuity: self.discontinuity,
            gap: bytes.is_none(),
        };
        let lengths = self.parts.iter().map(|part| part.bytes).collect();
        let pieces = bytes.as_ref().and_then(|bytes| pieces(bytes, lengths)).unwrap_or_default();
        let stored = |(part, bytes): (&SavedPart, Bytes)| {
            let duration = MediaTime::from_ticks(part.ticks.max(1));
            let line = PartLine { duration, independent: part.independent };
            StoredPart { line, bytes }
        };
        let parts = self.parts.iter().zip(pieces).map(stored).collect();
        Some(Segment { line, bytes, parts })
    }
}

impl Chunklist {
    /// This list without its media.
    pub fn save(&self) -> Saved {
        Saved {
            version_epoch: self.version.epoch,
            revision: self.version.revision,
            next_sequence: self.next_sequence,
            opened: self.opened,
            discontinuity_sequence: self.discontinuity_sequence,
            longest_ticks: self.longest,
            peak: self.peak,
            grown_us: self.grown.micros(),
            ended: self.ended,
            listed: self.listed.iter().map(SavedLine::new).collect(),
            kept: self.kept.iter().map(|kept| SavedLine::new(&kept.segment)).collect(),
            inits: self
                .inits
                .iter()
                .map(|(&epoch, init)| SavedInit {
                    epoch,
                    codecs: init.codecs.clone(),
                    resolution: init.resolution,
                    bytes: init.bytes.len(),
                })
                .collect(),
        }
    }

    /// A saved list with its media, which `media` finds by name. `None` when
    /// anything that is listed is missing, of another size, or makes no list:
    /// a viewer must never see a shorter list or other bytes than before. Then
    /// go on from [`Saved::resume`].
    pub fn restore(
        config: Config,
        saved: Saved,
        mut media: impl FnMut(Resource) -> Option<Bytes>,
    ) -> Option<Self> {
        if saved.listed.len() > MAX_LISTED || saved.kept.len() > MAX_KEPT + MAX_LISTED {
            return None;
        }
        let mut list = Self::new(config, &Resume::default());
        for init in saved.inits {
            let SavedInit { epoch, codecs, resolution, bytes: size } = init;
            let found = media(Resource::Init { epoch }).filter(|bytes| bytes.len() == size);
            if let Some(bytes) = found {
                list.inits.insert(epoch, StoredInit { bytes, codecs, resolution });
            }
        }
        let listed: Option<VecDeque<Segment>> =
            saved.listed.into_iter().map(|line| line.restored(&mut media)).collect();
        list.listed = listed?;
        let lengths = 1..=config.longest_chunk();
        let possible = |line: Line| lengths.contains(&line.duration.ticks());
        let kept = saved.kept.into_iter().filter_map(|line| line.restored(&mut media));
        let kept = kept.filter(|segment| possible(segment.line));
        list.kept = kept.map(|segment| Kept { segment, until: None }).collect();

        let lines = || list.listed.iter().map(|segment| segment.line);
        let whole = lines().all(|line| list.inits.contains_key(&line.epoch))
            && lines().all(possible)
            && lines().zip(lines().skip(1)).all(|(one, two)| {
                one.sequence.checked_add(1) == Some(two.sequence) && one.epoch <= two.epoch
            })
            && lines().next_back().is_none_or(|last| {
                last.sequence.checked_add(1) == Some(saved.next_sequence)
                    && last.epoch <= saved.opened
            });
        if !whole {
            return None;
        }
        list.version = Version { epoch: saved.version_epoch, revision: saved.revision };
        if config.part_target.is_some() && !saved.ended {
            // What was listed of the chunk that was being filled is lost, and
            // edges may hold any version of it.
            list.torn = true;
            list.version.epoch = list.version.epoch.max(saved.opened);
            list.version.revision = saved.revision.saturating_add(UNSAVED);
        }
        list.next_sequence = saved.next_sequence;
        list.opened = saved.opened;
        list.discontinuity_sequence = saved.discontinuity_sequence;
        list.longest = saved.longest_ticks.clamp(0, MAX_LISTED as i64 * config.longest_chunk());
        list.peak = saved.peak;
        list.grown = UtcTime::from_micros(saved.grown_us);
        list.ended = saved.ended;
        Some(list)
    }
}
