//! FLV files (Adobe Flash Video File Format 10.1, annex E): tags are RTMP
//! message bodies with a header, so `spyglass-rtmp` reads what is in them.
//!
//! A file whose last tag is cut short, as a killed recorder leaves it, is read
//! up to there.

use bytes::Bytes;
use spyglass_media::Track;
use spyglass_rtmp::flv::{Body, parse};

use super::{Clip, Forward, Found, Sample, Source};
use crate::Error;

const TAG_HEADER: u64 = 11;

pub(super) fn read(source: &Source) -> Result<Found, Error> {
    let damaged = |reason, offset| Error::Damaged { format: "FLV", reason, offset };
    let mut forward = Forward::new(source);
    let header = forward.read(0, 9)?.ok_or_else(|| damaged("its header is cut short", 0))?;
    let [.., a, b, c, d] = header[..] else { return Err(damaged("its header is cut short", 0)) };
    let mut found = Found::default();
    // The header tells its own length; PreviousTagSize0 follows it.
    let mut offset = u64::from(u32::from_be_bytes([a, b, c, d])).saturating_add(4);
    while let Some(tag) = forward.read(offset, TAG_HEADER as usize)? {
        let [kind, s1, s2, s3, t1, t2, t3, t4, ..] = tag[..] else { break };
        let size = u32::from_be_bytes([0, s1, s2, s3]);
        let body_at = offset + TAG_HEADER;
        let Some(body) = forward.read(body_at, size as usize)? else { break };
        let track = match kind & 0x1f {
            8 => Some(Track::Audio),
            9 => Some(Track::Video),
            18 => None,
            _ => return Err(damaged("there is something that is no tag", offset)),
        };
        // The upper 8 bits of the time stamp come last.
        let time = i32::from_be_bytes([t4, t1, t2, t3]);
        if let Some(track) = track {
            let media = parse(track, &body)
                .map_err(|_| damaged("a tag holds no valid audio or video", body_at))?;
            take(&mut found, track, media, i64::from(time), body_at + u64::from(size))?;
        }
        offset = body_at + u64::from(size) + 4;
    }
    Ok(found)
}

fn take(found: &mut Found, track: Track, media: Body, dts_ms: i64, end: u64) -> Result<(), Error> {
    let (key, composition_ms, sample) = match media {
        Body::VideoConfig(config) => return keep(&mut found.video, config),
        Body::AudioConfig(config) => return keep(&mut found.audio, config),
        Body::Video { key, composition_ms, sample } => (key, composition_ms, sample),
        Body::Audio { sample } => (true, 0, sample),
        Body::Unsupported { codec } => return Err(Error::UnsupportedCodec(codec)),
        _ => return Ok(()),
    };
    if found.samples.len() >= Clip::MAX_SAMPLES {
        return Err(Error::NotMedia("it has too many frames".to_owned()));
    }
    // A sample is the tail of its tag.
    let length = u32::try_from(sample.len()).unwrap_or(u32::MAX);
    if length > 0 {
        let offset = end.saturating_sub(u64::from(length));
        found.samples.push(Sample { track, dts_ms, composition_ms, key, offset, length });
    }
    Ok(())
}

fn keep(config: &mut Option<Bytes>, new: Bytes) -> Result<(), Error> {
    match config {
        Some(old) if *old != new => Err(Error::NotMedia(
            "its codec configuration changes in mid-file, cut it there".to_owned(),
        )),
        _ => {
            // Not a slice of the read block, which would stay in memory.
            *config = Some(Bytes::copy_from_slice(&new));
            Ok(())
        }
    }
}
