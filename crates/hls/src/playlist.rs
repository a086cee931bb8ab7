//! Writes the text of playlists: a pure function of a
//! [`Snapshot`].
//!
//! draft-pantos-hls-rfc8216bis-22 section 4.4. VERSION 6, which EXT-X-MAP needs
//! and nothing here exceeds (P13); the multivariant playlist needs none. URIs
//! are relative, so that the same text serves every path a viewer may come by.
//! Every segment tells its date and time. EXT-X-INDEPENDENT-SEGMENTS is never
//! written: a publisher whose key frames are far apart would make it a lie.

use std::fmt::Write as _;
use std::io::Write as _;

use bytes::Bytes;
use flate2::{Compression, GzBuilder};
use spyglass_media::Resource;

use crate::chunklist::{Line, Snapshot};

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Playlist {
    /// `chunklist.m3u8`
    Media,
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
    /// Both lists, each as text and compressed.
    pub variants: Vec<Rendition>,
}

/// Writes all forms of a version.
pub fn render(snapshot: &Snapshot) -> Rendered {
    let texts =
        [(Playlist::Media, media(snapshot)), (Playlist::Multivariant, multivariant(snapshot))];
    let mut variants = Vec::with_capacity(4);
    for (playlist, text) in texts {
        let gzip = gzip(text.as_bytes());
        variants.push(Rendition { playlist, encoding: Encoding::Identity, bytes: text.into() });
        variants.push(Rendition { playlist, encoding: Encoding::Gzip, bytes: gzip });
    }
    Rendered { variants }
}

/// Writes the media playlist, `chunklist.m3u8` (4.4.3).
pub fn media(snapshot: &Snapshot) -> String {
    let mut text = String::with_capacity(256 + snapshot.lines.len() * 128);
    text.push_str("#EXTM3U\n#EXT-X-VERSION:6\n");
    tag(&mut text, format_args!("TARGETDURATION:{}", snapshot.target_duration.as_secs()));
    let first = snapshot.lines.first().map_or(0, |line| line.sequence);
    tag(&mut text, format_args!("MEDIA-SEQUENCE:{first}"));
    let discontinuities = snapshot.discontinuity_sequence;
    tag(&mut text, format_args!("DISCONTINUITY-SEQUENCE:{discontinuities}"));
    let mut map = None;
    for line in &snapshot.lines {
        segment(&mut text, line, &mut map);
    }
    if snapshot.ended {
        tag(&mut text, format_args!("ENDLIST"));
    }
    text
}

fn segment(text: &mut String, line: &Line, map: &mut Option<u32>) {
    let Line { epoch, sequence, .. } = *line;
    if line.discontinuity {
        tag(text, format_args!("DISCONTINUITY"));
    }
    if *map != Some(epoch) {
        *map = Some(epoch);
        tag(text, format_args!("MAP:URI=\"{}\"", Resource::Init { epoch }));
    }
    tag(text, format_args!("PROGRAM-DATE-TIME:{}", line.program_date_time));
    if line.gap {
        tag(text, format_args!("GAP"));
    }
    // Five digits are finer than a tick, so that durations add up.
    let uri = Resource::Chunk { epoch, sequence };
    _ = writeln!(text, "#EXTINF:{:.5},\n{uri}", line.duration.seconds());
}

/// Writes the multivariant playlist, `index.m3u8` (4.4.6).
pub fn multivariant(snapshot: &Snapshot) -> String {
    let mut text = "#EXTM3U\n".to_owned();
    if let Some(stream) = &snapshot.stream {
        _ = write!(text, "#EXT-X-STREAM-INF:BANDWIDTH={}", stream.bandwidth);
        _ = write!(text, ",CODECS=\"{}\"", stream.codecs);
        if let Some((width, height)) = stream.resolution {
            _ = write!(text, ",RESOLUTION={width}x{height}");
        }
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

    use spyglass_media::{MediaTime, UtcTime};

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
#EXT-X-STREAM-INF:BANDWIDTH=1310720,CODECS=\"avc1.64001e,mp4a.40.2\",RESOLUTION=640x360
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
