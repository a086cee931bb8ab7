//! What the validator says: which rule, when, where, which lines.

use std::time::Duration;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A SHOULD, or something the broadcaster's own timing may cause.
    Warning,
    /// A MUST: players may stop.
    Fault,
}

impl Severity {
    /// The word in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// The rules, by the names of the checklist: P for any live playlist, L for low
/// latency. The comment of each is its place in RFC 8216bis (draft 22).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Rule {
    /// The answer is no media playlist (4.1).
    P0,
    /// Target duration (4.4.3.1, 6.2.1).
    P1,
    /// Sequence numbers name one segment for ever (6.2.2).
    P2,
    /// Only the allowed edits (6.2.1).
    P3,
    /// A new segment in time (6.2.1).
    P4,
    /// Three target durations stay (6.2.2).
    P5,
    /// What was removed stays available (6.2.2).
    P6,
    /// What is listed is available (6.2.1).
    P7,
    /// Discontinuities are told and counted (4.4.4.3, 6.2.1).
    P8,
    /// Missing media is listed as gaps (4.4.4.7).
    P9,
    /// Dates are unambiguous (4.4.4.6), and there at low latency (appendix B).
    P10,
    /// The end is the end (4.4.3.4, 6.2.1).
    P11,
    /// Playlists are compressed (6.2.1).
    P12,
    /// The version is what the tags need (7).
    P13,
    /// What the last list names stays available (6.2.2).
    P14,
    /// Server control has the right distances (4.4.3.8).
    L1,
    /// Parts have the right lengths and add up (4.4.4.9).
    L2,
    /// Parts appear in time (6.2.1).
    L3,
    /// A blocked reload answers with what it waited for (6.2.5.2).
    L4,
    /// Impossible waits are refused at once (6.2.5.2).
    L5,
    /// Delta updates add up (6.2.5.1).
    L6,
    /// What is hinted comes (4.4.5.3).
    L7,
    /// HTTP/2, age (appendix B).
    L9,
    /// Caching (appendix B).
    L10,
}

impl Rule {
    /// What it asks for, in a few words.
    pub const fn asks(self) -> &'static str {
        match self {
            Self::P0 => "a media playlist that can be read",
            Self::P1 => "one whole target duration that every segment keeps to",
            Self::P2 => "one segment for each sequence number, for ever and on every server",
            Self::P3 => "segments appended at the end and removed at the front, nothing else",
            Self::P4 => "a new segment within 1.5 target durations",
            Self::P5 => "three target durations left after a removal",
            Self::P6 => "a removed segment available for its own and the longest list's duration",
            Self::P7 => "every listed segment available at once",
            Self::P8 => "a discontinuity wherever the format changes, and their right count",
            Self::P9 => "missing media listed as gaps",
            Self::P10 => "dates that agree with the durations, and in every low-latency list",
            Self::P11 => "nothing after the end, and no playlist type before it",
            Self::P12 => "a playlist with gzip for who accepts it",
            Self::P13 => "the version that its tags need",
            Self::P14 => "the last list's segments available after the end",
            Self::L1 => "hold-backs and skips no shorter than allowed",
            Self::L2 => "parts of 85 to 100 % of the part target that make up their segment",
            Self::L3 => "a new part within one part target",
            Self::L4 => "a blocked reload that returns what it waited for",
            Self::L5 => "400 at once for a wait that makes no sense",
            Self::L6 => "a delta update that adds up to the whole list",
            Self::L7 => "a hinted part that comes as hinted",
            Self::L9 => "HTTP/2 or later, and Age from caches",
            Self::L10 => "no longer cached than it is true",
        }
    }
}

/// One breach.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// How bad.
    pub severity: Severity,
    /// Since the validation began, in milliseconds.
    pub at_ms: u64,
    /// The server's URL as it was given, without secrets of its path.
    pub server: String,
    /// What is wrong.
    pub what: String,
    /// The playlist's lines that show it.
    pub lines: Vec<String>,
}

/// Findings of one moment at one server.
pub(crate) struct Findings<'a> {
    pub(crate) at: Duration,
    pub(crate) server: &'a str,
    /// Where they are kept: who looks may be dropped meanwhile.
    pub(crate) found: &'a mut Vec<Finding>,
}

impl<'a> Findings<'a> {
    pub(crate) fn new(at: Duration, server: &'a str, found: &'a mut Vec<Finding>) -> Self {
        Self { at, server, found }
    }

    pub(crate) fn fault(&mut self, rule: Rule, what: impl Into<String>, lines: Vec<String>) {
        self.add(Severity::Fault, rule, what.into(), lines);
    }

    pub(crate) fn warning(&mut self, rule: Rule, what: impl Into<String>, lines: Vec<String>) {
        self.add(Severity::Warning, rule, what.into(), lines);
    }

    fn add(&mut self, severity: Severity, rule: Rule, what: String, lines: Vec<String>) {
        let at_ms = u64::try_from(self.at.as_millis()).unwrap_or(u64::MAX);
        let server = self.server.to_owned();
        self.found.push(Finding { rule, severity, at_ms, server, what, lines });
    }
}
