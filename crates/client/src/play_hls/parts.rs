//! What a low-latency list says beside its chunks: its parts, how close to its
//! end one may play, what may be asked for. m3u8-rs drops these lines.
//!
//! draft-pantos-hls-rfc8216bis sections 4.4.3.7, 4.4.3.8, 4.4.4.9, 4.4.5.2.

use std::time::Duration;

use spyglass_media::UtcTime;

use super::list::Item;

/// Parts read of one list; ours has at most some hundred.
const MAX_PARTS: usize = 4_096;

/// A part, in the place of its chunk.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    /// Of its chunk.
    pub(super) sequence: u64,
    /// Its number in the chunk.
    pub(super) number: u32,
    /// A decoder can begin in it.
    pub(super) independent: bool,
    pub(super) item: Item,
}

/// What only a low-latency list has.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct LowLatency {
    /// Reloads may wait for what comes (CAN-BLOCK-RELOAD).
    pub(super) blocks: bool,
    /// How far from its end to play (PART-HOLD-BACK).
    pub(super) hold_back: Duration,
    /// Delta updates may be asked for (CAN-SKIP-UNTIL).
    pub(super) skips: bool,
    /// Chunks at the front that this delta update leaves out.
    pub(super) skipped: u64,
    pub(super) parts: Vec<Part>,
}

/// `None` for a list without part target or PART-HOLD-BACK.
pub(super) fn read(text: &str) -> Option<LowLatency> {
    let mut low = LowLatency::default();
    let mut has_target = false;
    let (mut sequence, mut number) = (0_u64, 0_u32);
    let mut map = None;
    let mut discontinuity = false;
    for line in text.lines().map(str::trim_end) {
        let (tag, value) = line.split_once(':').unwrap_or((line, ""));
        match tag {
            "#EXT-X-MEDIA-SEQUENCE" => sequence = sequence.saturating_add(value.parse().ok()?),
            "#EXT-X-SKIP" => {
                low.skipped = attribute(value, "SKIPPED-SEGMENTS")?.parse().ok()?;
                sequence = sequence.saturating_add(low.skipped);
            }
            "#EXT-X-SERVER-CONTROL" => {
                low.blocks = attribute(value, "CAN-BLOCK-RELOAD") == Some("YES");
                low.skips = attribute(value, "CAN-SKIP-UNTIL").is_some();
                low.hold_back = seconds(attribute(value, "PART-HOLD-BACK")?)?;
            }
            "#EXT-X-PART-INF" => has_target = true,
            "#EXT-X-MAP" => map = attribute(value, "URI").map(str::to_owned),
            "#EXT-X-DISCONTINUITY" => discontinuity = true,
            "#EXT-X-PART" if low.parts.len() < MAX_PARTS => {
                let duration = seconds(attribute(value, "DURATION")?)?;
                low.parts.push(Part {
                    sequence,
                    number,
                    independent: attribute(value, "INDEPENDENT") == Some("YES"),
                    item: Item {
                        uri: attribute(value, "URI")?.to_owned(),
                        map: map.clone(),
                        duration,
                        gap: attribute(value, "GAP") == Some("YES"),
                        discontinuity: discontinuity && number == 0,
                        date: None,
                    },
                });
                number = number.saturating_add(1);
            }
            _ if !line.is_empty() && !line.starts_with('#') => {
                sequence = sequence.saturating_add(1);
                (number, discontinuity) = (0, false);
            }
            _ => {}
        }
    }
    (has_target && !low.hold_back.is_zero()).then_some(low)
}

impl LowLatency {
    /// Gives each part its date, counted from that of its chunk.
    pub(super) fn set_dates(&mut self, chunk: impl Fn(u64) -> Option<UtcTime>) {
        let mut next: Option<UtcTime> = None;
        for part in &mut self.parts {
            if part.number == 0 {
                next = chunk(part.sequence);
            }
            part.item.date = next;
            next = next.map(|date| date + part.item.duration);
        }
    }
}

fn seconds(text: &str) -> Option<Duration> {
    let seconds = Duration::try_from_secs_f64(text.parse().ok()?).ok()?;
    (seconds < Duration::from_secs(3600)).then_some(seconds)
}

/// A value of an attribute list (section 4.2), quotes removed.
pub(super) fn attribute<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = list;
    while let Some((found, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => {
                let (value, next) = quoted.split_once('"')?;
                (value, next.strip_prefix(',').unwrap_or(next))
            }
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if found.trim() == name {
            return Some(value);
        }
        rest = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "#EXTM3U
#EXT-X-TARGETDURATION:4
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=0.63,CAN-SKIP-UNTIL=24.0
#EXT-X-PART-INF:PART-TARGET=0.21
#EXT-X-SKIP:SKIPPED-SEGMENTS=2
#EXT-X-MAP:URI=\"1-init.mp4\"
#EXTINF:3,
1-9.m4s
#EXT-X-DISCONTINUITY
#EXT-X-MAP:URI=\"2-init.mp4\"
#EXT-X-PART:DURATION=0.2,URI=\"2-10.0.m4s\",INDEPENDENT=YES
#EXT-X-PART:DURATION=0.2,URI=\"2-10.1.m4s\",GAP=YES
#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"2-10.2.m4s\"
";

    #[test]
    fn parts_find_their_place() {
        let mut low = read(LIST).unwrap();
        low.set_dates(|sequence| (sequence == 10).then(|| UtcTime::from_millis(5_000)));
        assert!(low.blocks && low.skips);
        assert_eq!((low.hold_back, low.skipped), (Duration::from_millis(630), 2));
        let [first, second] = &low.parts[..] else { panic!("{low:?}") };
        assert_eq!((first.sequence, first.number, first.independent), (10, 0, true));
        assert_eq!((second.sequence, second.number, second.item.gap), (10, 1, true));
        assert_eq!(second.item.map.as_deref(), Some("2-init.mp4"));
        assert!(first.item.discontinuity && !second.item.discontinuity);
        assert_eq!(second.item.date, Some(UtcTime::from_millis(5_200)));
    }

    #[test]
    fn an_ordinary_list_has_none_and_no_cut_panics() {
        assert_eq!(read("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:3,\na\n"), None);
        for length in 0..LIST.len() {
            let _ = read(&LIST[..length]);
        }
    }
}
