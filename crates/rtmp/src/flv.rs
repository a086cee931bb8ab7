//! The bodies of audio and video messages (Adobe Flash Video File Format 10.1,
//! E.4.2 and E.4.3): what is in them, and H.264 and AAC into them.
//!
//! Slices share the body's memory. Enhanced RTMP's FourCC headers are
//! recognised so that a publisher can be told which codec it sends; only H.264
//! and AAC in their classic form are media here.

use bytes::{BufMut, Bytes, BytesMut};
use spyglass_media::Track;

use crate::Error;

/// What one message carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// An AVCDecoderConfigurationRecord (ISO/IEC 14496-15).
    VideoConfig(Bytes),
    /// An AudioSpecificConfig (ISO/IEC 14496-3).
    AudioConfig(Bytes),
    /// One H.264 picture.
    Video {
        /// Decoding can start here.
        key: bool,
        /// Presentation time less decode time, in milliseconds; may be negative.
        composition_ms: i32,
        /// NAL units with length prefixes.
        sample: Bytes,
    },
    /// One raw AAC access unit.
    Audio {
        /// The access unit.
        sample: Bytes,
    },
    /// The encoder says that its video is over.
    EndOfSequence,
    /// Another codec.
    Unsupported {
        /// Its name, as an operator knows it.
        codec: String,
    },
    /// Nothing to decode: an empty message or sample, or a seek mark.
    Empty,
}

const FRAME_KEY: u8 = 1;
const FRAME_GENERATED_KEY: u8 = 4;
const FRAME_INFO: u8 = 5;
const CODEC_AVC: u8 = 7;
const PACKET_CONFIG: u8 = 0;
const PACKET_SAMPLE: u8 = 1;
const PACKET_END: u8 = 2;
/// The top bit of a video body: Enhanced RTMP's header follows.
const VIDEO_EX_HEADER: u8 = 0x80;
const SOUND_EX_HEADER: u8 = 9;
const SOUND_AAC: u8 = 10;
/// AAC as E.4.2.1 wants it named, whatever its rate and channels: 44 kHz, 16 bit, stereo.
const AAC_HEADER: u8 = 0xaf;

/// Reads the body of a message.
///
/// # Errors
/// [`Error::Body`] when it is cut short or its packet type is unknown.
pub fn parse(track: Track, body: &Bytes) -> Result<Body, Error> {
    match track {
        Track::Video => video(body),
        Track::Audio => audio(body),
    }
}

fn video(body: &Bytes) -> Result<Body, Error> {
    let wrong = |what| Error::Body { track: Track::Video, what };
    let Some(&first) = body.first() else { return Ok(Body::Empty) };
    if first & VIDEO_EX_HEADER != 0 {
        return Ok(Body::Unsupported { codec: enhanced(body) });
    }
    let frame = first >> 4;
    if frame == FRAME_INFO {
        return Ok(Body::Empty);
    }
    let codec = first & 0x0f;
    if codec != CODEC_AVC {
        return Ok(Body::Unsupported { codec: video_codec(codec) });
    }
    let packet = *body.get(1).ok_or(wrong("cut short before the packet type"))?;
    if packet == PACKET_END {
        return Ok(Body::EndOfSequence);
    }
    let &[high, middle, low] = body
        .get(2..5)
        .and_then(|bytes| bytes.first_chunk())
        .ok_or(wrong("cut short before the composition time"))?;
    let payload = body.slice(5..);
    match packet {
        PACKET_CONFIG | PACKET_SAMPLE if payload.is_empty() => Ok(Body::Empty),
        PACKET_CONFIG => Ok(Body::VideoConfig(payload)),
        PACKET_SAMPLE => Ok(Body::Video {
            key: matches!(frame, FRAME_KEY | FRAME_GENERATED_KEY),
            composition_ms: i32::from_be_bytes([high, middle, low, 0]) >> 8,
            sample: payload,
        }),
        _ => Err(wrong("unknown packet type")),
    }
}

fn audio(body: &Bytes) -> Result<Body, Error> {
    let Some(&first) = body.first() else { return Ok(Body::Empty) };
    let codec = first >> 4;
    if codec == SOUND_EX_HEADER {
        return Ok(Body::Unsupported { codec: enhanced(body) });
    }
    if codec != SOUND_AAC {
        return Ok(Body::Unsupported { codec: sound_codec(codec) });
    }
    let Some(&packet) = body.get(1) else { return Ok(Body::Empty) };
    let payload = body.slice(2..);
    match packet {
        PACKET_CONFIG | PACKET_SAMPLE if payload.is_empty() => Ok(Body::Empty),
        PACKET_CONFIG => Ok(Body::AudioConfig(payload)),
        PACKET_SAMPLE => Ok(Body::Audio { sample: payload }),
        _ => Err(Error::Body { track: Track::Audio, what: "unknown packet type" }),
    }
}

/// The codec of an Enhanced RTMP body: its FourCC stands behind the first byte
/// in all packets but those with several tracks.
fn enhanced(body: &[u8]) -> String {
    let fourcc = match body.get(1..5) {
        Some(bytes) if bytes.iter().all(u8::is_ascii_graphic) => String::from_utf8_lossy(bytes),
        _ => return "Enhanced RTMP".to_owned(),
    };
    let name = match &*fourcc {
        "avc1" => "H.264 by Enhanced RTMP",
        "hvc1" => "H.265",
        "vvc1" => "H.266",
        "av01" => "AV1",
        "vp08" => "VP8",
        "vp09" => "VP9",
        "mp4a" => "AAC by Enhanced RTMP",
        "Opus" => "Opus",
        "fLaC" => "FLAC",
        "ac-3" => "AC-3",
        "ec-3" => "E-AC-3",
        ".mp3" => "MP3 by Enhanced RTMP",
        _ => "Enhanced RTMP",
    };
    format!("{name} ({fourcc})")
}

fn video_codec(id: u8) -> String {
    match id {
        2 => "Sorenson H.263".to_owned(),
        3 | 6 => "Screen Video".to_owned(),
        4 | 5 => "VP6".to_owned(),
        12 => "H.265 (FLV codec 12)".to_owned(),
        _ => format!("FLV video codec {id}"),
    }
}

fn sound_codec(id: u8) -> String {
    match id {
        0 | 3 => "PCM".to_owned(),
        1 => "ADPCM".to_owned(),
        2 | 14 => "MP3".to_owned(),
        4..=6 => "Nellymoser".to_owned(),
        7 | 8 => "G.711".to_owned(),
        11 => "Speex".to_owned(),
        _ => format!("FLV sound format {id}"),
    }
}

/// The body that carries an AVCDecoderConfigurationRecord.
pub fn video_config_body(record: &[u8]) -> Bytes {
    avc(FRAME_KEY, PACKET_CONFIG, 0, record)
}

/// The body of one picture: NAL units with length prefixes. A composition time
/// beyond 24 bits (2.3 hours) is clamped.
pub fn video_body(key: bool, composition_ms: i32, sample: &[u8]) -> Bytes {
    avc(if key { FRAME_KEY } else { 2 }, PACKET_SAMPLE, composition_ms, sample)
}

fn avc(frame: u8, packet: u8, composition_ms: i32, payload: &[u8]) -> Bytes {
    let composition = composition_ms.clamp(-0x80_0000, 0x7f_ffff);
    let mut body = BytesMut::with_capacity(5 + payload.len());
    body.put_u8(frame << 4 | CODEC_AVC);
    body.put_u8(packet);
    body.put_int(i64::from(composition), 3);
    body.put_slice(payload);
    body.freeze()
}

/// The body that carries an AudioSpecificConfig.
pub fn audio_config_body(config: &[u8]) -> Bytes {
    aac(PACKET_CONFIG, config)
}

/// The body of one raw AAC access unit.
pub fn audio_body(sample: &[u8]) -> Bytes {
    aac(PACKET_SAMPLE, sample)
}

fn aac(packet: u8, payload: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(2 + payload.len());
    body.put_slice(&[AAC_HEADER, packet]);
    body.put_slice(payload);
    body.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(track: Track, body: &[u8]) -> Result<Body, Error> {
        parse(track, &Bytes::copy_from_slice(body))
    }

    #[test]
    fn what_is_written_is_read() {
        let record = Bytes::from_static(&[1, 0x64, 0, 0x1f, 0xff]);
        let sample = Bytes::from_static(&[0, 0, 0, 2, 0x65, 0x88]);
        for (track, body, expected) in [
            (Track::Video, video_config_body(&record), Body::VideoConfig(record.clone())),
            (
                Track::Audio,
                audio_config_body(&[0x12, 0x10]),
                Body::AudioConfig(Bytes::from_static(&[0x12, 0x10])),
            ),
            (
                Track::Video,
                video_body(true, 80, &sample),
                Body::Video { key: true, composition_ms: 80, sample: sample.clone() },
            ),
            (
                Track::Video,
                video_body(false, -40, &sample),
                Body::Video { key: false, composition_ms: -40, sample: sample.clone() },
            ),
            (Track::Audio, audio_body(&sample), Body::Audio { sample: sample.clone() }),
        ] {
            assert_eq!(parse(track, &body), Ok(expected));
        }
    }

    #[test]
    fn samples_share_the_bodys_memory() {
        let body = video_body(true, 0, &[1, 2, 3]);
        let Ok(Body::Video { sample, .. }) = parse(Track::Video, &body) else { panic!() };
        assert_eq!(sample.as_ptr(), body[5..].as_ptr());
    }

    #[test]
    fn composition_times_are_signed_24_bits() {
        for (written, read) in [(i32::MAX, 0x7f_ffff), (i32::MIN, -0x80_0000), (-1, -1)] {
            let body = video_body(false, written, &[0]);
            let Ok(Body::Video { composition_ms, .. }) = parse(Track::Video, &body) else {
                panic!()
            };
            assert_eq!(composition_ms, read);
        }
    }

    #[test]
    fn other_codecs_are_named() {
        for (track, body, name) in [
            (Track::Video, &[0x22][..], "Sorenson H.263"),
            (Track::Video, &[0x1c, 0], "H.265 (FLV codec 12)"),
            (Track::Video, b"\x90hvc1....", "H.265 (hvc1)"),
            (Track::Video, b"\x91av01", "AV1 (av01)"),
            (Track::Video, b"\x91xxxx", "Enhanced RTMP (xxxx)"),
            (Track::Video, b"\x96\x00av", "Enhanced RTMP"),
            (Track::Audio, &[0x2f, 0xff], "MP3"),
            (Track::Audio, b"\x90Opus", "Opus (Opus)"),
            (Track::Audio, &[0xb2], "Speex"),
            (Track::Audio, &[0xf2], "FLV sound format 15"),
        ] {
            assert_eq!(read(track, body), Ok(Body::Unsupported { codec: name.to_owned() }));
        }
    }

    #[test]
    fn marks_and_empty_bodies_are_told_apart() {
        for (track, body, expected) in [
            (Track::Video, &[][..], Body::Empty),
            (Track::Audio, &[], Body::Empty),
            (Track::Audio, &[0xaf], Body::Empty),
            (Track::Audio, &[0xaf, 0], Body::Empty),
            (Track::Audio, &[0xaf, 1], Body::Empty),
            (Track::Video, &[0x17, 0, 0, 0, 0], Body::Empty),
            (Track::Video, &[0x27, 1, 0, 0, 0], Body::Empty),
            (Track::Video, &[0x57, 0], Body::Empty),
            (Track::Video, &[0x17, 2], Body::EndOfSequence),
            (Track::Video, &[0x17, 2, 0, 0, 0], Body::EndOfSequence),
        ] {
            assert_eq!(read(track, body), Ok(expected), "{body:?}");
        }
    }

    #[test]
    fn a_body_cut_short_is_an_error() {
        for body in [&[0x17][..], &[0x17, 0], &[0x17, 1, 0], &[0x27, 1, 0, 0], &[0x17, 3, 0, 0, 0]]
        {
            assert!(matches!(read(Track::Video, body), Err(Error::Body { .. })), "{body:?}");
        }
        assert!(read(Track::Audio, &[0xaf, 2]).is_err());
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = read(Track::Video, &body);
            let _ = read(Track::Audio, &body);
        }
    }
}
