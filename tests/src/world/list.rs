//! One version of a list as it travels, read by `m3u8-rs`.

use std::sync::Arc;
use std::time::Duration;

use spyglass_edge::slot::{Listing, Span};
use spyglass_hls::chunklist::Chunklist;
use spyglass_hls::playlist;
use spyglass_media::{Position, Resource, UtcTime, Version};

use crate::hls;

/// A version that the origin made.
#[derive(Debug)]
pub(super) struct List {
    pub version: Version,
    pub position: Position,
    pub target: Duration,
    pub ended: bool,
    /// When, in simulated time.
    pub made: Duration,
    pub text: String,
    pub discontinuity_sequence: u64,
    /// By the text, not by the machine that wrote it.
    pub lines: Vec<Line>,
    /// As an edge reads the same text.
    span: Option<Span>,
}

/// A list as an edge holds it.
#[derive(Clone, Debug)]
pub(super) struct Held(pub Arc<List>);

impl Listing for Held {
    fn span(&self) -> Option<&Span> {
        self.0.span.as_ref()
    }
}

/// A chunk or GAP of a list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub sequence: u64,
    pub resource: Resource,
    pub duration: Duration,
    pub gap: bool,
    pub discontinuity: bool,
    pub captured: UtcTime,
}

impl List {
    /// The present version; `None` before the first chunk.
    pub fn of(chunklist: &Chunklist, made: Duration) -> Option<Self> {
        let position = chunklist.position()?;
        let text = playlist::media(&chunklist.snapshot());
        let read = hls::List::parse(&text);
        let times = read.playlist.segments.iter().map(|segment| segment.program_date_time);
        let lines = read.chunks().into_iter().zip(times).map(|(chunk, time)| Line {
            sequence: chunk.sequence,
            resource: Resource::parse(&chunk.uri).expect("every URI is a name an edge serves"),
            duration: Duration::from_secs_f64((f64::from(chunk.duration) * 1e5).round() / 1e5),
            gap: chunk.gap,
            discontinuity: chunk.discontinuity,
            captured: UtcTime::from_millis(time.expect("P10: date and time").timestamp_millis()),
        });
        Some(Self {
            version: chunklist.version(),
            position,
            target: Duration::from_secs(read.playlist.target_duration),
            ended: read.ended(),
            made,
            lines: lines.collect(),
            discontinuity_sequence: read.playlist.discontinuity_sequence,
            span: Span::read(text.as_bytes()),
            text,
        })
    }

    pub fn first(&self) -> u64 {
        self.lines.first().map_or(0, |line| line.sequence)
    }

    pub fn last(&self) -> u64 {
        self.lines.last().map_or(0, |line| line.sequence)
    }

    /// Of everything listed.
    pub fn duration(&self) -> Duration {
        self.lines.iter().map(|line| line.duration).sum()
    }

    pub fn line(&self, sequence: u64) -> Option<&Line> {
        self.lines.get(usize::try_from(sequence.checked_sub(self.first())?).ok()?)
    }
}
