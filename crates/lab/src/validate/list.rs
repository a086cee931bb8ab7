//! A media playlist as text says it, every line kept.
//!
//! A validator may not share its reading with the server it judges, nor lose
//! what a library has no field for (parts, hints, delta updates): this is a
//! scanner of its own that refuses nothing it can go on from. RFC 8216bis
//! section 4.4.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Longest playlist that is read, in bytes.
pub const MAX_LIST: usize = 4 * 1024 * 1024;

/// What a duration may be, in seconds: longer than any, and far from
/// what arithmetic on times cannot hold.
const SECONDS: RangeInclusive<f64> = 0.0..=1e6;

/// A tag's attributes (section 4.2), quotes removed.
pub type Attributes = BTreeMap<String, String>;

/// A media segment (a chunk) with the tags that apply to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Segment {
    /// As written; empty for a last one that has only parts so far.
    pub uri: String,
    /// EXTINF, in seconds.
    pub duration: f64,
    /// EXT-X-DISCONTINUITY stands before it.
    pub discontinuity: bool,
    /// EXT-X-GAP.
    pub gap: bool,
    /// EXT-X-PROGRAM-DATE-TIME, in milliseconds since the Unix epoch.
    pub date_ms: Option<i64>,
    /// URI of the EXT-X-MAP that applies.
    pub map: Option<String>,
    /// EXT-X-PART before it.
    pub parts: Vec<Part>,
    /// Its first line, from 1.
    pub line: usize,
}

/// EXT-X-PART (section 4.4.4.9).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// As written.
    pub uri: String,
    /// In seconds.
    pub duration: f64,
    /// INDEPENDENT=YES.
    pub independent: bool,
    /// GAP=YES.
    pub gap: bool,
    /// Its line, from 1.
    pub line: usize,
}

/// EXT-X-SERVER-CONTROL (section 4.4.3.8); durations in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerControl {
    /// CAN-BLOCK-RELOAD=YES.
    pub can_block_reload: bool,
    /// CAN-SKIP-UNTIL.
    pub can_skip_until: Option<f64>,
    /// HOLD-BACK.
    pub hold_back: Option<f64>,
    /// PART-HOLD-BACK.
    pub part_hold_back: Option<f64>,
}

/// One version of a media playlist.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct List {
    /// EXT-X-VERSION.
    pub version: Option<u64>,
    /// EXT-X-TARGETDURATION, in seconds.
    pub target: Option<u64>,
    /// EXT-X-MEDIA-SEQUENCE.
    pub sequence: u64,
    /// EXT-X-DISCONTINUITY-SEQUENCE.
    pub discontinuity_sequence: u64,
    /// EXT-X-PLAYLIST-TYPE.
    pub playlist_type: Option<String>,
    /// EXT-X-ENDLIST.
    pub ended: bool,
    /// EXT-X-SERVER-CONTROL.
    pub control: Option<ServerControl>,
    /// PART-TARGET of EXT-X-PART-INF, in seconds.
    pub part_target: Option<f64>,
    /// SKIPPED-SEGMENTS of each EXT-X-SKIP.
    pub skips: Vec<u64>,
    /// Whole segments, in order; skipped ones are not here.
    pub segments: Vec<Segment>,
    /// Parts behind the last whole segment.
    pub open: Segment,
    /// URIs of EXT-X-PRELOAD-HINT with TYPE=PART, and their number in all.
    pub part_hints: Vec<String>,
    /// The text, by line.
    pub lines: Vec<String>,
}

/// Why a text is no media playlist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Not UTF-8, or the first line is another.
    #[error("it does not begin with #EXTM3U")]
    NoPlaylist,
    /// It has EXT-X-STREAM-INF: a multivariant playlist.
    #[error("it is a multivariant playlist")]
    Multivariant,
    /// A tag that must have a number has none.
    #[error("line {line}: {tag} has no readable value")]
    Value {
        /// From 1.
        line: usize,
        /// The tag.
        tag: &'static str,
    },
}

impl List {
    /// Reads a text.
    ///
    /// # Errors
    /// When it is no media playlist, or a value the rules depend on is unreadable.
    pub fn read(text: &[u8]) -> Result<Self, Unreadable> {
        let text = std::str::from_utf8(text).map_err(|_| Unreadable::NoPlaylist)?;
        let mut list = Self { lines: text.lines().map(str::to_owned).collect(), ..Self::default() };
        if list.lines.first().is_none_or(|first| first.trim_end() != "#EXTM3U") {
            return Err(Unreadable::NoPlaylist);
        }
        let mut next = Segment::default();
        let mut map = None;
        for (index, text) in text.lines().enumerate().skip(1) {
            let line = index + 1;
            let text = text.trim_end();
            let Some(tag) = text.strip_prefix("#EXT") else {
                if !text.is_empty() && !text.starts_with('#') {
                    text.clone_into(&mut next.uri);
                    next.map.clone_from(&map);
                    list.segments.push(std::mem::take(&mut next));
                }
                continue;
            };
            if next.line == 0 {
                next.line = line;
            }
            let (name, value) = tag.split_once(':').unwrap_or((tag, ""));
            let unread = |tag| Unreadable::Value { line, tag };
            match name {
                "INF" => {
                    let seconds = value.split(',').next().unwrap_or_default();
                    let seconds = seconds.trim().parse().ok().filter(|it| SECONDS.contains(it));
                    next.duration = seconds.ok_or_else(|| unread("EXTINF"))?;
                }
                "-X-VERSION" => list.version = value.parse().ok(),
                "-X-TARGETDURATION" => {
                    let seconds = value.parse().ok().filter(|it| SECONDS.contains(&(*it as f64)));
                    list.target = Some(seconds.ok_or_else(|| unread("EXT-X-TARGETDURATION"))?);
                }
                "-X-MEDIA-SEQUENCE" => {
                    list.sequence = count(value).ok_or_else(|| unread("EXT-X-MEDIA-SEQUENCE"))?;
                }
                "-X-DISCONTINUITY-SEQUENCE" => {
                    let unread = || unread("EXT-X-DISCONTINUITY-SEQUENCE");
                    list.discontinuity_sequence = count(value).ok_or_else(unread)?;
                }
                "-X-PLAYLIST-TYPE" => list.playlist_type = Some(value.to_owned()),
                "-X-ENDLIST" => list.ended = true,
                "-X-STREAM-INF" => return Err(Unreadable::Multivariant),
                "-X-DISCONTINUITY" => next.discontinuity = true,
                "-X-GAP" => next.gap = true,
                "-X-PROGRAM-DATE-TIME" => {
                    let unread = || unread("EXT-X-PROGRAM-DATE-TIME");
                    next.date_ms = Some(date_ms(value).ok_or_else(unread)?);
                }
                "-X-MAP" => map = attributes(value).remove("URI"),
                "-X-PART-INF" => {
                    list.part_target = seconds(&attributes(value), "PART-TARGET");
                    list.part_target.ok_or_else(|| unread("EXT-X-PART-INF"))?;
                }
                "-X-PART" => next.parts.push(part(value, line)),
                "-X-SKIP" => {
                    let skipped = attributes(value).remove("SKIPPED-SEGMENTS");
                    let skipped = skipped.map_or(Some(0), |skipped| count(&skipped));
                    list.skips.push(skipped.ok_or_else(|| unread("EXT-X-SKIP"))?);
                }
                "-X-SERVER-CONTROL" => list.control = Some(control(&attributes(value))),
                "-X-PRELOAD-HINT" => {
                    let mut hint = attributes(value);
                    if hint.get("TYPE").is_some_and(|kind| kind == "PART") {
                        list.part_hints.extend(hint.remove("URI"));
                    }
                }
                _ => {}
            }
        }
        next.map = map;
        list.open = next;
        Ok(list)
    }

    /// Sequence number of the first segment that is written out.
    pub fn first(&self) -> u64 {
        self.skips.iter().fold(self.sequence, |first, skipped| first.saturating_add(*skipped))
    }

    /// Sequence number behind the last whole segment.
    pub fn end(&self) -> u64 {
        self.first().saturating_add(self.segments.len() as u64)
    }

    /// Each whole segment with its sequence number.
    pub fn numbered(&self) -> impl Iterator<Item = (u64, &Segment)> {
        (self.first()..=u64::MAX).zip(&self.segments)
    }

    /// Length of all that is written out, in seconds.
    pub fn duration(&self) -> f64 {
        self.segments.iter().map(|segment| segment.duration).sum()
    }

    /// Lines `from` to `to`, both included and from 1, for a person's eyes.
    pub fn excerpt(&self, from: usize, to: usize) -> Vec<String> {
        let range = from.saturating_sub(1)..to.min(self.lines.len());
        self.lines.get(range).unwrap_or_default().to_vec()
    }

    /// Where the line of a header tag stands; the first line when it is missing.
    pub fn line_of(&self, tag: &str) -> usize {
        self.lines.iter().position(|line| line.starts_with(tag)).map_or(1, |index| index + 1)
    }
}

fn part(value: &str, line: usize) -> Part {
    let mut attributes = attributes(value);
    let yes = |name: &str| attributes.get(name).is_some_and(|value| value == "YES");
    Part {
        duration: seconds(&attributes, "DURATION").unwrap_or_default(),
        independent: yes("INDEPENDENT"),
        gap: yes("GAP"),
        line,
        uri: attributes.remove("URI").unwrap_or_default(),
    }
}

fn control(attributes: &Attributes) -> ServerControl {
    ServerControl {
        can_block_reload: attributes.get("CAN-BLOCK-RELOAD").is_some_and(|value| value == "YES"),
        can_skip_until: seconds(attributes, "CAN-SKIP-UNTIL"),
        hold_back: seconds(attributes, "HOLD-BACK"),
        part_hold_back: seconds(attributes, "PART-HOLD-BACK"),
    }
}

/// A number that a player in JavaScript can count on from.
fn count(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|count| *count < 1 << 53)
}

fn seconds(attributes: &Attributes, name: &str) -> Option<f64> {
    attributes.get(name)?.parse().ok().filter(|seconds| SECONDS.contains(seconds))
}

/// An attribute list: commas inside quotes separate nothing.
pub fn attributes(text: &str) -> Attributes {
    let mut found = Attributes::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => {
                let (value, next) = quoted.split_once('"').unwrap_or((quoted, ""));
                (value, next.strip_prefix(',').unwrap_or(next))
            }
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.insert(name.trim().to_owned(), value.to_owned());
        rest = next;
    }
    found
}

/// RFC 3339 with `Z` or an offset, to milliseconds since the Unix epoch.
pub fn date_ms(text: &str) -> Option<i64> {
    let (day, clock) = text.split_once(['T', 't', ' '])?;
    let mut ymd = day.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (ymd.next()??, ymd.next()??, ymd.next()??);
    if !(1..=9_999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (clock, offset) = match clock.find(['Z', 'z', '+', '-']) {
        Some(at) => clock.split_at(at),
        None => (clock, "Z"),
    };
    let mut hms = clock.splitn(3, ':');
    let hour: i64 = hms.next()?.parse().ok()?;
    let minute: i64 = hms.next()?.parse().ok()?;
    let seconds: f64 = hms.next()?.parse().ok()?;
    let minutes_east = match offset.split_at_checked(1)? {
        ("Z" | "z", _) => 0,
        (sign, rest) => {
            let (hours, minutes) = rest.split_once(':').or_else(|| rest.split_at_checked(2))?;
            let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().unwrap_or(0));
            if !(0..24).contains(&hours) || !(0..60).contains(&minutes) {
                return None;
            }
            let east = hours * 60 + minutes;
            if sign == "-" { -east } else { east }
        }
    };
    let in_range =
        (0..24).contains(&hour) && (0..60).contains(&minute) && (0.0..61.0).contains(&seconds);
    in_range.then(|| {
        let clock_ms =
            (hour * 60 + minute - minutes_east) * 60_000 + (seconds * 1000.0).round() as i64;
        days(year, month, day) * 86_400_000 + clock_ms
    })
}

/// Days since 1970-01-01 in the Gregorian calendar, years counted from March so
/// that the leap day comes last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leaps + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:4\n\
        #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=0.63,CAN-SKIP-UNTIL=24.0\n\
        #EXT-X-PART-INF:PART-TARGET=0.21\n#EXT-X-MEDIA-SEQUENCE:7\n#EXT-X-MAP:URI=\"1-init.mp4\"\n\
        #EXT-X-PROGRAM-DATE-TIME:2026-11-21T05:00:00.040+01:00\n#EXTINF:3.00000,\n1-7.m4s\n\
        #EXT-X-DISCONTINUITY\n#EXT-X-GAP\n#EXTINF:3,a, title\n1-8.m4s\n\
        #EXT-X-PART:DURATION=0.2,INDEPENDENT=YES,URI=\"1-9.0.m4s\"\n\
        #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"a,b=c\"\n";

    #[test]
    fn every_line_finds_its_place() {
        let list = List::read(LIST.as_bytes()).unwrap();
        assert_eq!(
            (list.version, list.target, list.sequence, list.end()),
            (Some(6), Some(4), 7, 9)
        );
        let control = list.control.clone().unwrap();
        assert!(control.can_block_reload);
        assert_eq!((control.part_hold_back, control.can_skip_until), (Some(0.63), Some(24.0)));
        assert_eq!(list.part_target, Some(0.21));
        let [first, second] = &list.segments[..] else { panic!("{list:?}") };
        assert_eq!((first.uri.as_str(), first.duration, first.line), ("1-7.m4s", 3.0, 2));
        assert_eq!(first.map.as_deref(), Some("1-init.mp4"));
        assert!(!first.gap && second.gap && second.discontinuity);
        assert_eq!(second.map.as_deref(), Some("1-init.mp4"));
        assert_eq!(list.open.parts[0].uri, "1-9.0.m4s");
        assert!(list.open.parts[0].independent);
        assert_eq!(list.part_hints, ["a,b=c"]);
        assert_eq!(list.duration(), 6.0);
    }

    #[test]
    fn a_delta_counts_what_it_skips() {
        let text =
            "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:10\n#EXT-X-SKIP:SKIPPED-SEGMENTS=3\n#EXTINF:3,\na\n";
        let list = List::read(text.as_bytes()).unwrap();
        assert_eq!((list.first(), list.end()), (13, 14));
    }

    #[test]
    fn numbers_that_nobody_can_count_on_from_are_refused() {
        for (tag, value) in [
            ("EXTINF", "inf,"),
            ("EXTINF", "NaN,"),
            ("EXTINF", "-1,"),
            ("EXTINF", "1e300,"),
            ("EXT-X-TARGETDURATION", "18446744073709551615"),
            ("EXT-X-MEDIA-SEQUENCE", "18446744073709551615"),
            ("EXT-X-DISCONTINUITY-SEQUENCE", "9007199254740992"),
            ("EXT-X-SKIP", "SKIPPED-SEGMENTS=18446744073709551615"),
        ] {
            let text = format!("#EXTM3U\n#{tag}:{value}\na\n");
            let refused = List::read(text.as_bytes());
            assert_eq!(refused, Err(Unreadable::Value { line: 2, tag }), "{text}");
        }
        let skips = "#EXT-X-SKIP:SKIPPED-SEGMENTS=9007199254740991\n".repeat(3_000);
        let list = List::read(format!("#EXTM3U\n{skips}a\nb\n").as_bytes()).unwrap();
        assert_eq!((list.first(), list.end(), list.numbered().count()), (u64::MAX, u64::MAX, 1));
    }

    #[test]
    fn dates_are_read_in_every_form() {
        let zero = Some(0);
        for text in
            ["1970-01-01T00:00:00Z", "1970-01-01T01:00:00.000+01:00", "1969-12-31T19:00:00-0500"]
        {
            assert_eq!(date_ms(text), zero, "{text}");
        }
        assert_eq!(date_ms("2026-11-21T05:09:05.250Z"), Some(1_795_237_745_250));
        assert_eq!(date_ms("2024-02-29T00:00:00Z"), Some(1_709_164_800_000));
        for text in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "2026-01-01T25:00:00Z",
            "2026-01-01T00:00:00+99:00",
            "2026-01-01T9223372036854775807:00:00Z",
            "2026-01-01T00:00:NaNZ",
            "2026-01-01T00:00:00+9223372036854775807:00",
        ] {
            assert_eq!(date_ms(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_media_playlist_is_told_apart() {
        assert_eq!(List::read(b"<html>"), Err(Unreadable::NoPlaylist));
        assert_eq!(List::read(b"\xff"), Err(Unreadable::NoPlaylist));
        let multivariant = b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\na.m3u8\n";
        assert_eq!(List::read(multivariant), Err(Unreadable::Multivariant));
        let broken = List::read(b"#EXTM3U\n#EXTINF:x,\na\n");
        assert_eq!(broken, Err(Unreadable::Value { line: 2, tag: "EXTINF" }));
    }
}
