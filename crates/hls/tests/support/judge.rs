//! An independent judge of chunklists. It knows the rules P1 to P13 and what it
//! saw before; of our code it uses nothing, and it reads with m3u8-rs. Parts are
//! judged in `parts.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use m3u8_rs::{MediaPlaylist, MediaSegment};

use super::parts::PartJudge;

/// Missing time that may go without a GAP, in milliseconds.
const HOLE: i64 = 100;
/// Missing time that need not be filled with GAPs, in target durations.
const LONGEST_HOLE: i64 = 5;

#[derive(Clone, Debug)]
struct Seen {
    segment: MediaSegment,
    gap: bool,
    /// Counted from the broadcast's start: discontinuities before it.
    discontinuities: u64,
    bytes: Option<Bytes>,
    first: Duration,
}

struct Case<'a> {
    now: Duration,
    text: &'a str,
}

impl Case<'_> {
    fn fail(&self, rule: &str) -> ! {
        panic!("{rule} broken at {:?}:\n{}", self.now, self.text)
    }
}

/// Sees every version of one list.
#[derive(Default)]
pub struct Judge {
    target: Option<u64>,
    last: Option<MediaPlaylist>,
    changed: Duration,
    longest: f64,
    seen: BTreeMap<u64, Seen>,
    /// Still promised by P6, by sequence number, until when.
    promised: HashMap<u64, Duration>,
    pub versions: usize,
    /// Seconds that the next version may be later than P4 says: a restarted
    /// process first hears what others hold.
    hearing: f64,
    pub parts: PartJudge,
}

impl Judge {
    /// The process that makes the list has been started again, after a while.
    pub fn restarted(&mut self, away: Duration) {
        self.hearing = 1.5 + away.as_secs_f64();
        self.parts.restarted();
    }

    /// A version that appeared at `now`, with its delta update; `get` fetches by
    /// URI.
    pub fn see(
        &mut self,
        now: Duration,
        text: &str,
        delta: Option<&str>,
        get: impl Fn(&str) -> Option<Bytes>,
    ) {
        self.versions += 1;
        let list = m3u8_rs::parse_media_playlist_res(text.as_bytes()).expect("a playlist");
        let case = Case { now, text };

        let target = *self.target.get_or_insert(list.target_duration);
        if target != list.target_duration || target < 1 {
            case.fail("P1: target duration");
        }
        if list.segments.iter().any(|s| s.duration <= 0.0 || s.duration.round() > target as f32) {
            case.fail("P1: EXTINF");
        }
        if list.version != Some(6) || list.independent_segments {
            case.fail("P13: version");
        }
        if list.playlist_type.is_some() || list.i_frames_only {
            case.fail("P11: a live list has no type");
        }
        let total: f64 = list.segments.iter().map(|segment| f64::from(segment.duration)).sum();
        self.longest = self.longest.max(total);

        let news = self.parts.is_news(text);
        self.compare(now, &list, total, news, &case);
        self.segments(now, &list, &get, &case);
        if let Err(rule) = self.parts.see(now, text, delta, &get) {
            case.fail(rule);
        }
        for (sequence, until) in &self.promised {
            let seen = &self.seen[sequence];
            if now < *until && get(&seen.segment.uri) != seen.bytes {
                case.fail("P6: removed too early");
            }
        }
        self.last = Some(list);
    }

    /// What changed since the version before.
    fn compare(
        &mut self,
        now: Duration,
        list: &MediaPlaylist,
        total: f64,
        news: bool,
        case: &Case<'_>,
    ) {
        let target = list.target_duration as f64;
        let Some(last) = self.last.take() else {
            self.changed = now;
            return;
        };
        if last.end_list {
            case.fail("P11: nothing follows ENDLIST");
        }
        if list.media_sequence < last.media_sequence {
            case.fail("P2: media sequence went back");
        }
        let removed = list.media_sequence - last.media_sequence;
        let end = |list: &MediaPlaylist| list.media_sequence + list.segments.len() as u64;
        if end(list) < end(&last) || list.media_sequence > end(&last) {
            case.fail("P3: segments were lost");
        }
        if end(list) > end(&last) {
            let silence = (now - self.changed).as_secs_f64();
            if silence > 1.5 * target + self.hearing {
                case.fail("P4: too late");
            }
            self.hearing = 0.0;
            self.changed = now;
        } else if !list.end_list && !news {
            case.fail("P3: a version without news");
        }
        if removed > 0 && total < 3.0 * target - 0.001 {
            case.fail("P5: less than 3 target durations left");
        }
        let gone = last.segments.iter().take(removed as usize);
        let tags = gone.clone().filter(|segment| segment.discontinuity).count() as u64;
        let skipped: u64 = (end(&last)..list.media_sequence).count() as u64;
        if skipped == 0 && list.discontinuity_sequence != last.discontinuity_sequence + tags {
            case.fail("P8: discontinuity sequence");
        }
        for (index, segment) in gone.enumerate() {
            let sequence = last.media_sequence + index as u64;
            let seen = &self.seen[&sequence];
            if !seen.gap {
                let promise = f64::from(segment.duration) + self.longest;
                self.promised.insert(sequence, seen.first + Duration::from_secs_f64(promise));
            }
        }
    }

    fn segments(
        &mut self,
        now: Duration,
        list: &MediaPlaylist,
        get: &dyn Fn(&str) -> Option<Bytes>,
        case: &Case<'_>,
    ) {
        let mut discontinuities = list.discontinuity_sequence;
        let mut map = None;
        let mut before: Option<(i64, i64, String)> = None;
        for (index, segment) in list.segments.iter().enumerate() {
            let sequence = list.media_sequence + index as u64;
            let gap = segment.unknown_tags.iter().any(|tag| tag.tag == "X-GAP");
            let epoch = segment.uri.split('-').next().unwrap_or_default().to_owned();
            discontinuities += u64::from(segment.discontinuity);
            let bytes = get(&segment.uri);
            if gap != bytes.is_none() {
                case.fail("P7: what is listed can be fetched, and only that");
            }

            if let Some(new) = &segment.map {
                map = Some(new.uri.clone());
            }
            let init = map.as_deref().unwrap_or_else(|| case.fail("no EXT-X-MAP"));
            if init != format!("{epoch}-init.mp4") || get(init).is_none() {
                case.fail("EXT-X-MAP of another epoch");
            }

            let at = segment.program_date_time.unwrap_or_else(|| case.fail("P10: no date"));
            let start = at.timestamp_millis();
            if let Some((end, _, last)) = &before {
                if segment.discontinuity != (*last != epoch) {
                    case.fail("P8: a new epoch is a discontinuity and nothing else is");
                }
                let missing = start - end;
                if missing < -2 {
                    case.fail("P10: dates overlap");
                }
                let most = if segment.discontinuity { HOLE } else { 2 };
                if missing > most && missing <= LONGEST_HOLE * 1000 * list.target_duration as i64 {
                    case.fail("P9: GAPs do not add up");
                }
            }
            let length = (f64::from(segment.duration) * 1000.0).round() as i64;
            before = Some((start + length, length, epoch));

            let seen = self.seen.entry(sequence).or_insert_with(|| Seen {
                segment: segment.clone(),
                gap,
                discontinuities,
                bytes: bytes.clone(),
                first: now,
            });
            let same = seen.segment.uri == segment.uri
                && seen.segment.duration == segment.duration
                && seen.segment.program_date_time == segment.program_date_time
                && seen.segment.discontinuity == segment.discontinuity
                && (seen.gap, seen.discontinuities) == (gap, discontinuities)
                && seen.bytes == bytes;
            if !same {
                case.fail("P2: one sequence number, two segments");
            }
        }
        let uris: BTreeSet<_> = list.segments.iter().map(|segment| &segment.uri).collect();
        if uris.len() != list.segments.len() {
            case.fail("P2: one URI twice");
        }
    }

    /// That much time has passed; a live list must have moved.
    pub fn now(&self, now: Duration) {
        let Some(list) = self.last.as_ref().filter(|list| !list.end_list) else { return };
        let silence = (now - self.changed).as_secs_f64();
        let most = 1.5 * list.target_duration as f64 + self.hearing;
        assert!(silence <= most, "P4 broken at {now:?}");
    }

    /// The newest version.
    pub fn list(&self) -> &MediaPlaylist {
        self.last.as_ref().expect("a list")
    }
}
