//! Writes the text of playlists: a pure function of a
//! [`Snapshot`].
//!
//! draft-pantos-hls-rfc8216bis-22 section 4.4. VERSION 6, which EXT-X-MAP needs
//! and nothing else here exceeds (P13) but a delta update, which is VERSION 9;
//! the multivariant playlist needs none. URIs
//! are relative, so that the same text serves every path a viewer may come by.
//! Every segment tells its date and time. EXT-X-INDEPENDENT-SEGMENTS is never
//! written: a publisher whose key frames are far apart would make it a lie.

use std::fmt::Write as _;
use std::io::Write as _;

use bytes::Bytes;
use flate2::{Compression, GzBuilder};
use spyglass_media::steering::{PATHWAY, STEERING, VARIANT};
use spyglass_media::{Resource, UtcTime};

use crate::chunklist::{Line, LowLatency, OpenLine, PartLine, Snapshot};

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Playlist {
    /// `chunklist.m3u8`
    Media,
    /// `chunklist.m3u8?_HLS_skip=YES`
    Delta,
    /// `index.m3u8`
    Multivariant,
}

/// How its bytes are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As text.
    Identity,
    /// RFC 1952.
    Gzip,
}

/// One form of one list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendition {
    /// Which list.
    pub playlist: Playlist,
    /// How its bytes are coded.
    pub encoding: Encoding,
    /// What is sent.
    pub bytes: Bytes,
}

/// Every form of one version: rendered once, whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Each list as text and compressed; a delta update when it skips anything.
    pub variants: Vec<Rendition>,
}

/// Writes all forms of a version.
pub fn render(snapshot: &Snapshot) -> Rendered {
    let texts = [
        (Playlist::Media, Some(media(snapshot))),
        (Playlist::Delta, delta(snapshot)),
        (Playlist::Multivariant, Some(multivariant(snapshot))),
    ];
    let mut variants = Vec::with_capacity(6);
    for (playlist, text) in texts {
        let Some(text) = text else { continue };
        let gzip = gzip(text.as_bytes());
        variants.push(Rendition { playlist, encoding: Encoding::Identity, bytes: text.into() });
        variants.push(Rendition { playlist, encoding: Encoding::Gzip, bytes: gzip });
    }
    Rendered { variants }
}

/// Writes the media playlist, `chunklist.m3u8` (4.4.3).
pub fn media(snapshot: &Snapshot) -> String {
    list(snapshot, 0)
}

/// Writes the delta update (4.4.5.2, 6.2.5.1): the media playlist without the
/// chunks before the skip boundary. `None` when nothing can be skipped.
pub fn delta(snapshot: &Snapshot) -> Option<String> {
    let skipped = snapshot.low_latency.as_ref()?.skipped;
    (skipped > 0).then(|| list(snapshot, skipped))
}

fn list(snapshot: &Snapshot, skipped: usize) -> String {
    let low_latency = snapshot.low_latency.as_ref();
    let parts = low_latency.map_or(0, |low| low.closed.iter().map(|(_, parts)| parts.len()).sum());
    let mut text = String::with_capacity(512 + snapshot.lines.len() * 128 + parts * 64);
    let version = if skipped > 0 { 9 } else { 6 };
    text.push_str("#EXTM3U\n");
    tag(&mut text, format_args!("VERSION:{version}"));
    tag(&mut text, format_args!("TARGETDURATION:{}", snapshot.target_duration.as_secs()));
    let first = snapshot.lines.first().map_or(0, |line| line.sequence);
    tag(&mut text, format_args!("MEDIA-SEQUENCE:{first}"));
    let discontinuities = snapshot.discontinuity_sequence;
    tag(&mut text, format_args!("DISCONTINUITY-SEQUENCE:{discontinuities}"));
    if let Some(low_latency) = low_latency {
        server_control(&mut text, low_latency);
    }
    if skipped > 0 {
        tag(&mut text, format_args!("SKIP:SKIPPED-SEGMENTS={skipped}"));
    }
    let mut closed = low_latency.map_or(&[][..], |low| &low.closed[..]).iter().peekable();
    let mut map = None;
    for line in snapshot.lines.iter().skip(skipped) {
        while closed.next_if(|(sequence, _)| *sequence < line.sequence).is_some() {}
        let parts = closed.next_if(|(sequence, _)| *sequence == line.sequence);
        segment(&mut text, line, parts.map_or(&[], |(_, parts)| parts), &mut map);
    }
    if let Some(open) = low_latency.and_then(|low| low.open.as_ref()) {
        let OpenLine { epoch, sequence, .. } = *open;
        start(&mut text, epoch, open.discontinuity, open.program_date_time, &mut map);
        part_lines(&mut text, epoch, sequence, &open.parts);
    }
    if let Some(hint) = low_latency.and_then(|low| low.hint) {
        tag(&mut text, format_args!("PRELOAD-HINT:TYPE=PART,URI=\"{hint}\""));
    }
    if snapshot.ended {
        tag(&mut text, format_args!("ENDLIST"));
    }
    text
}

/// What a client may ask for, and how close to the end it may play (4.4.3.7,
/// 4.4.3.8): 3 part targets, as rule L1 advises.
fn server_control(text: &mut String, low_latency: &LowLatency) {
    let hold_back = (low_latency.part_target * 3).as_secs_f64();
    _ = write!(text, "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK={hold_back:.5}");
    if let Some(until) = low_latency.skip_until {
        _ = write!(text, ",CAN-SKIP-UNTIL={:.1}", until.as_secs_f64());
    }
    let target = low_latency.part_target.as_secs_f64();
    _ = writeln!(text, "\n#EXT-X-PART-INF:PART-TARGET={target:.5}");
}

fn segment(text: &mut String, line: &Line, parts: &[PartLine], map: &mut Option<u32>) {
    let Line { epoch, sequence, .. } = *line;
    start(text, epoch, line.discontinuity, line.program_date_time, map);
    part_lines(text, epoch, sequence, parts);
    if line.gap {
        tag(text, format_args!("GAP"));
    }
    // Five digits are finer than a tick, so that durations add up.
    let uri = Resource::Chunk { epoch, sequence };
    _ = writeln!(text, "#EXTINF:{:.5},\n{uri}", line.duration.seconds());
}

/// What stands before a chunk or its first part.
fn start(text: &mut String, epoch: u32, discontinuity: bool, at: UtcTime, map: &mut Option<u32>) {
    if discontinuity {
        tag(text, format_args!("DISCONTINUITY"));
    }
    if *map != Some(epoch) {
        *map = Some(epoch);
        tag(text, format_args!("MAP:URI=\"{}\"", Resource::Init { epoch }));
    }
    tag(text, format_args!("PROGRAM-DATE-TIME:{at}"));
}

fn part_lines(text: &mut String, epoch: u32, sequence: u64, parts: &[PartLine]) {
    for (part, line) in (0..).zip(parts) {
        let uri = Resource::Part { epoch, sequence, part };
        let independent = if line.independent { ",INDEPENDENT=YES" } else { "" };
        let duration = line.duration.seconds();
        tag(text, format_args!("PART:DURATION={duration:.5},URI=\"{uri}\"{independent}"));
    }
}

/// Writes the multivariant playlist, `index.m3u8` (4.4.6).
///
/// Its one pathway is wherever the player got it from; which others there are
/// is said by the edge's steering document beside it (4.4.6.6). A variant has a
/// stable name, so that the document can give its URL elsewhere.
pub fn multivariant(snapshot: &Snapshot) -> String {
    let mut text = "#EXTM3U\n".to_owned();
    if let Some(stream) = &snapshot.stream {
        let pathway = format_args!("PATHWAY-ID=\"{PATHWAY}\"");
        tag(&mut text, format_args!("CONTENT-STEERING:SERVER-URI=\"{STEERING}\",{pathway}"));
        _ = write!(text, "#EXT-X-STREAM-INF:BANDWIDTH={}", stream.bandwidth);
        _ = write!(text, ",CODECS=\"{}\"", stream.codecs);
        if let Some((width, height)) = stream.resolution {
            _ = write!(text, ",RESOLUTION={width}x{height}");
        }
        _ = write!(text, ",STABLE-VARIANT-ID=\"{VARIANT}\",{pathway}");
        _ = writeln!(text, "\n{}", Resource::Chunklist);
    }
    text
}

fn tag(text: &mut String, tag: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    _ = writeln!(text, "#EXT-X-{tag}");
}

/// The same bytes for the same text: no time, no name.
fn gzip(text: &[u8]) -> Bytes {
    let buffer = Vec::with_capacity(text.len() / 3);
    let mut encoder = GzBuilder::new().mtime(0).write(buffer, Compression::default());
    // Writing to a Vec cannot fail.
    _ = encoder.write_all(text);
    encoder.finish().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::time::Duration;

    use spyglass_media::MediaTime;

    use super::*;
    use crate::chunklist::Stream;

    fn line(epoch: u32, sequence: u64, millis: i64, gap: bool) -> Line {
        Line {
            epoch,
            sequence,
            duration: MediaTime::from_millis(millis),
            program_date_time: UtcTime::from_millis(1_790_000_000_000 + sequence as i64 * 3_000),
            discontinuity: epoch > 1 && sequence == 42,
            gap,
        }
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            target_duration: Duration::from_secs(4),
            discontinuity_sequence: 0,
            lines: vec![
                line(1, 40, 3_000, false),
                line(1, 41, 4_000, true),
                line(2, 42, 3_033, false),
            ],
            ended: true,
            stream: Some(Stream {
                codecs: "avc1.64001e,mp4a.40.2".to_owned(),
                resolution: Some((640, 360)),
                bandwidth: 1_310_720,
            }),
            low_latency: None,
        }
    }

    #[test]
    fn a_media_playlist_reads_like_this() {
        assert_eq!(
            media(&snapshot()),
            "#EXTM3U
#EXT-X-VERSION:6
#EXT-X-TARGETDURATION:4
#EXT-X-MEDIA-SEQUENCE:40
#EXT-X-DISCONTINUITY-SEQUENCE:0
#EXT-X-MAP:URI=\"1-init.mp4\"
#EXT-X-PROGRAM-DATE-TIME:2026-09-21T14:15:20.000Z
#EXTINF:3.00000,
1-40.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-09-21T14:15:23.000Z
#EXT-X-GAP
#EXTINF:4.00000,
1-41.m4s
#EXT-X-DISCONTINUITY
#EXT-X-MAP:URI=\"2-init.mp4\"
#EXT-X-PROGRAM-DATE-TIME:2026-09-21T14:15:26.000Z
#EXTINF:3.03300,
2-42.m4s
#EXT-X-ENDLIST
"
        );
    }

    #[test]
    fn a_multivariant_playlist_reads_like_this() {
        assert_eq!(
            multivariant(&snapshot()),
            "#EXTM3U
#EXT-X-CONTENT-STEERING:SERVER-URI=\"steering.json\",PATHWAY-ID=\".\"
#EXT-X-STREAM-INF:BANDWIDTH=1310720,CODECS=\"avc1.64001e,mp4a.40.2\",RESOLUTION=640x360,STABLE-VARIANT-ID=\"main\",PATHWAY-ID=\".\"
chunklist.m3u8
"
        );
    }

    #[test]
    fn every_form_is_rendered_and_compresses_to_the_same_bytes_each_time() {
        let rendered = render(&snapshot());
        assert_eq!(rendered, render(&snapshot()));
        let forms: Vec<_> =
            rendered.variants.iter().map(|form| (form.playlist, form.encoding)).collect();
        assert_eq!(
            forms,
            [
                (Playlist::Media, Encoding::Identity),
                (Playlist::Media, Encoding::Gzip),
                (Playlist::Multivariant, Encoding::Identity),
                (Playlist::Multivariant, Encoding::Gzip),
            ]
        );
        for pair in rendered.variants.chunks(2) {
            let mut text = Vec::new();
            flate2::read::GzDecoder::new(&pair[1].bytes[..]).read_to_end(&mut text).unwrap();
            assert_eq!(text, pair[0].bytes);
        }
    }
}
