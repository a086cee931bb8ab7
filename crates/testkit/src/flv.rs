//! An FLV file taken apart into the bodies that RTMP would carry.

use bytes::Bytes;
use spyglass_media::{Frame, MediaTime, Track};

/// What a tag holds.
#[derive(Clone, Debug)]
pub enum Item {
    /// An AVCDecoderConfigurationRecord.
    VideoConfig(Bytes),
    /// An AudioSpecificConfig.
    AudioConfig(Bytes),
    /// A coded frame.
    Frame(Frame),
}

/// The configuration records and frames of a file that ffmpeg wrote.
///
/// # Panics
/// When the file is no such thing.
pub fn items(file: &[u8]) -> Vec<Item> {
    let mut rest = Bytes::copy_from_slice(file);
    assert!(rest.starts_with(b"FLV"), "no FLV header");
    let mut items = Vec::new();
    // 9 bytes of header, then before every tag 4 bytes with the size of the last.
    let _ = rest.split_to(9 + 4);
    while rest.len() > 11 {
        let header = rest.split_to(11);
        let size = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        let millis = u32::from_be_bytes([header[7], header[4], header[5], header[6]]);
        let body = rest.split_to(size);
        let _ = rest.split_to(4);
        items.extend(match header[0] {
            8 => audio(millis, body),
            9 => video(millis, body),
            _ => None,
        });
    }
    items
}

fn audio(millis: u32, body: Bytes) -> Option<Item> {
    let sample = body.slice(2..);
    match body[1] {
        0 => Some(Item::AudioConfig(sample)),
        _ => Some(Item::Frame(Frame {
            track: Track::Audio,
            dts: MediaTime::from_millis(millis.into()),
            composition: 0,
            key: true,
            body,
            sample,
            captured: None,
        })),
    }
}

fn video(millis: u32, body: Bytes) -> Option<Item> {
    let sample = body.slice(5..);
    let composition = i32::from_be_bytes([body[2], body[3], body[4], 0]) >> 8;
    match body[1] {
        0 => Some(Item::VideoConfig(sample)),
        1 => Some(Item::Frame(Frame {
            track: Track::Video,
            dts: MediaTime::from_millis(millis.into()),
            composition: composition * 90,
            key: body[0] >> 4 == 1,
            body,
            sample,
            captured: None,
        })),
        _ => None,
    }
}
