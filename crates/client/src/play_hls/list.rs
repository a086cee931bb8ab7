//! Playlists as a viewer reads them: m3u8-rs parses, this keeps what matters.

use std::time::Duration;

use spyglass_media::UtcTime;

use super::parts::{self, LowLatency};

/// Makes of the parts at the end of a list a chunk that m3u8-rs reads.
const OPEN: &[u8] = b"\n#EXTINF:0,\nopen\n";

/// A media playlist.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct List {
    pub(super) target: Duration,
    /// Of the first item.
    pub(super) sequence: u64,
    pub(super) items: Vec<Item>,
    pub(super) ended: bool,
    /// `None` for a list that offers no parts.
    pub(super) low_latency: Option<LowLatency>,
}

/// A chunk in a list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub(super) uri: String,
    /// Of its init.
    pub(super) map: Option<String>,
    pub(super) duration: Duration,
    pub(super) gap: bool,
    pub(super) discontinuity: bool,
    pub(super) date: Option<UtcTime>,
}

impl List {
    /// One after the last item's.
    pub(super) fn end(&self) -> u64 {
        self.sequence.saturating_add(self.items.len() as u64)
    }
}

/// What a playlist address answered.
#[derive(Debug, PartialEq)]
pub(super) enum Playlist {
    /// The URI of the first variant.
    Variants(String),
    Media(List),
}

/// Parses either kind.
pub(super) fn parse(text: &[u8]) -> Result<Playlist, &'static str> {
    // RFC 8216 section 4.1; m3u8-rs panics on some text that is not UTF-8.
    if std::str::from_utf8(text).is_err() {
        return Err("the playlist is not UTF-8");
    }
    let low_latency = std::str::from_utf8(text).ok().and_then(parts::read);
    let extended = low_latency.is_some().then(|| [text, OPEN].concat());
    match m3u8_rs::parse_playlist_res(extended.as_deref().unwrap_or(text)) {
        Ok(m3u8_rs::Playlist::MasterPlaylist(list)) => list
            .variants
            .into_iter()
            .find(|variant| !variant.is_i_frame && !variant.uri.is_empty())
            .map(|variant| Playlist::Variants(variant.uri))
            .ok_or("the multivariant playlist names no variant"),
        Ok(m3u8_rs::Playlist::MediaPlaylist(list)) => Ok(Playlist::Media(media(list, low_latency))),
        Err(_) => Err("the answer is no playlist"),
    }
}

fn media(list: m3u8_rs::MediaPlaylist, mut low_latency: Option<LowLatency>) -> List {
    let mut map = None;
    let mut items: Vec<Item> = list
        .segments
        .into_iter()
        .map(|segment| {
            // It holds from where it stands (RFC 8216 section 4.3.2.5).
            if let Some(new) = segment.map {
                map = Some(new.uri);
            }
            Item {
                uri: segment.uri,
                map: map.clone(),
                duration: Duration::try_from_secs_f32(segment.duration)
                    .unwrap_or_default()
                    .min(Duration::from_secs(3600)),
                gap: segment.unknown_tags.iter().any(|tag| tag.tag == "X-GAP"),
                discontinuity: segment.discontinuity,
                date: segment
                    .program_date_time
                    .map(|date| UtcTime::from_micros(date.timestamp_micros())),
            }
        })
        .collect();
    let skipped = low_latency.as_ref().map_or(0, |low| low.skipped);
    let sequence = list.media_sequence.saturating_add(skipped);
    if let Some(low) = &mut low_latency {
        let open = items.pop();
        let end = sequence.saturating_add(items.len() as u64);
        low.set_dates(|wanted| {
            let index = usize::try_from(wanted.checked_sub(sequence)?).ok()?;
            let open = open.as_ref().filter(|_| wanted == end);
            items.get(index).or(open)?.date
        });
    }
    List {
        target: Duration::from_secs(list.target_duration.clamp(1, 3600)),
        sequence,
        items,
        ended: list.end_list,
        low_latency,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIST: &str = "#EXTM3U
#EXT-X-VERSION:6
#EXT-X-TARGETDURATION:4
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-DISCONTINUITY-SEQUENCE:2
#EXT-X-MAP:URI=\"1-init.mp4\"
#EXT-X-PROGRAM-DATE-TIME:2026-01-31T12:34:56.789Z
#EXTINF:3.000,
1-7.m4s
#EXT-X-GAP
#EXTINF:2.5,
1-8.m4s
#EXT-X-DISCONTINUITY
#EXT-X-MAP:URI=\"2-init.mp4\"
#EXTINF:3,
2-9.m4s
#EXT-X-ENDLIST
";

    #[test]
    fn everything_a_viewer_needs_is_read() {
        let Ok(Playlist::Media(list)) = parse(LIST.as_bytes()) else { panic!("no media playlist") };
        assert_eq!((list.target, list.sequence, list.end()), (Duration::from_secs(4), 7, 10));
        assert!(list.ended);
        let maps: Vec<_> = list.items.iter().map(|item| item.map.as_deref().unwrap()).collect();
        assert_eq!(maps, ["1-init.mp4", "1-init.mp4", "2-init.mp4"]);
        let gaps: Vec<_> = list.items.iter().map(|item| item.gap).collect();
        assert_eq!(gaps, [false, true, false]);
        let breaks: Vec<_> = list.items.iter().map(|item| item.discontinuity).collect();
        assert_eq!(breaks, [false, false, true]);
        assert_eq!(list.items[0].date.unwrap().rfc3339(), "2026-01-31T12:34:56.789Z");
        assert_eq!(list.items[1].duration, Duration::from_millis(2500));
    }

    #[test]
    fn a_multivariant_playlist_names_its_first_variant() {
        let text = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\nchunklist.m3u8\n";
        assert_eq!(parse(text.as_bytes()), Ok(Playlist::Variants("chunklist.m3u8".to_owned())));
        assert!(parse(b"<html>").is_err());
        assert!(parse(b"#EXTM3U\n#EXTINF:3,\xff\nx\n").is_err());
    }

    proptest! {
        #[test]
        fn no_edit_of_a_list_panics(at in 0usize..400, byte: u8, cut in 0usize..500) {
            let mut text = LIST.as_bytes().to_vec();
            let at = at % text.len();
            text[at] = byte;
            text.truncate(cut);
            let _ = parse(&text);
        }
    }
}
