//! A media file as a broadcaster needs it: decoder configurations and an index
//! of samples in decode order, in milliseconds.
//!
//! The index is held, the samples stay where they are and are read one by one.
//! `mp4` reads movies (plain and fragmented), `flv` reads FLV; both hand their
//! findings to `Clip::assemble`, which makes one broadcast out of two tracks.
//! A sample's size counts against the size of the file, so a small file cannot
//! ask for a large index.

mod boxes;
mod flv;
mod fragment;
mod mp4;
mod nal;
mod source;

use std::path::Path;

use bytes::Bytes;
use spyglass_media::{Track, UtcTime};

pub(crate) use self::boxes::{Broken, boxes};
pub(crate) use self::fragment::{Defaults, samples_of};
pub(crate) use self::mp4::movie;
use self::source::{Forward, Source};
use crate::Error;

/// One sample of a clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Video or audio.
    pub track: Track,
    /// Decode time in milliseconds from the clip's first sample.
    pub dts_ms: i64,
    /// Presentation time less decode time, in milliseconds.
    pub composition_ms: i32,
    /// Decoding can start here. Always true for audio.
    pub key: bool,
    offset: u64,
    length: u32,
}

/// A media file, indexed.
pub struct Clip {
    source: Source,
    video: Option<Video>,
    audio: Option<Bytes>,
    samples: Vec<Sample>,
    duration_ms: i64,
}

struct Video {
    config: Bytes,
    /// Bytes of a NAL unit's length prefix in the file.
    prefix: usize,
}

/// What a reader found in a file.
#[derive(Default)]
struct Found {
    /// AVCDecoderConfigurationRecord (ISO/IEC 14496-15 section 5.3.3.1).
    video: Option<Bytes>,
    /// AudioSpecificConfig (ISO/IEC 14496-3 section 1.6.2.1).
    audio: Option<Bytes>,
    /// In decode order within each track, in any order between them.
    samples: Vec<Sample>,
}

impl Clip {
    /// Samples an index holds at most: two days of video at 60 frames/s with
    /// sound, some 700 MB. More is refused.
    pub const MAX_SAMPLES: usize = 20_000_000;

    /// Indexes a file.
    ///
    /// # Errors
    /// When it cannot be read, is no MP4 or FLV, is damaged, or has a codec that
    /// cannot be sent.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::index(Source::open(path)?)
    }

    /// Indexes a file that is in memory, e.g. built into the program.
    ///
    /// # Errors
    /// As [`Clip::open`].
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self, Error> {
        Self::index(Source::memory(bytes.into()))
    }

    fn index(source: Source) -> Result<Self, Error> {
        let start = source.read(0, source.length().min(12) as usize)?.unwrap_or_default();
        let found = match &start[..] {
            [b'F', b'L', b'V', ..] => flv::read(&source)?,
            [_, _, _, _, kind @ ..] if is_movie(kind) => mp4::read(&source)?,
            [] => return Err(Error::NotMedia("it is empty".to_owned())),
            _ => return Err(Error::NotMedia("it begins like neither MP4 nor FLV".to_owned())),
        };
        Self::assemble(source, found)
    }

    /// One broadcast from two tracks: samples in decode order from time zero,
    /// times never going back within a track, the first picture a key frame.
    fn assemble(source: Source, mut found: Found) -> Result<Self, Error> {
        let video = match found.video {
            Some(config) => Some(Video::new(config)?),
            None => None,
        };
        found.samples.retain(|sample| match sample.track {
            Track::Video => video.is_some(),
            Track::Audio => found.audio.is_some(),
        });
        let mut seen_key = false;
        found.samples.retain(|sample| {
            seen_key |= sample.track == Track::Video && sample.key;
            sample.track == Track::Audio || seen_key
        });
        if found.samples.is_empty() {
            return Err(Error::NotMedia("it holds no frames".to_owned()));
        }
        if video.is_some() && !seen_key {
            return Err(Error::NotMedia("its video has no key frame".to_owned()));
        }
        let (mut last_video, mut last_audio) = (i64::MIN, i64::MIN);
        for sample in &mut found.samples {
            let last = match sample.track {
                Track::Video => &mut last_video,
                Track::Audio => &mut last_audio,
            };
            sample.dts_ms = sample.dts_ms.max(*last);
            *last = sample.dts_ms;
        }
        // Stable: keeps decode order within a track.
        found.samples.sort_by_key(|sample| (sample.dts_ms, sample.track));
        let first = found.samples.first().map_or(0, |sample| sample.dts_ms);
        for sample in &mut found.samples {
            sample.dts_ms -= first;
        }
        let duration_ms = [Track::Video, Track::Audio]
            .into_iter()
            .map(|track| end_of(&found.samples, track))
            .max()
            .unwrap_or(0);
        Ok(Self { source, video, audio: found.audio, samples: found.samples, duration_ms })
    }

    /// The AVCDecoderConfigurationRecord, when there is video. NAL units of
    /// [`Clip::read`] have 4-byte lengths, whatever the file's have.
    pub fn video_config(&self) -> Option<&Bytes> {
        self.video.as_ref().map(|video| &video.config)
    }

    /// The AudioSpecificConfig, when there is sound.
    pub fn audio_config(&self) -> Option<&Bytes> {
        self.audio.as_ref()
    }

    /// The index, in decode order; never empty, the first at time zero.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Where the next round of a looped clip begins, in milliseconds.
    pub fn duration_ms(&self) -> i64 {
        self.duration_ms
    }

    /// A sample's bytes: length-prefixed NAL units or one raw AAC access unit.
    ///
    /// # Errors
    /// When the file can no longer be read or its NAL units do not add up.
    pub fn read(&self, sample: &Sample) -> Result<Bytes, Error> {
        let bytes =
            self.source.read(sample.offset, sample.length as usize)?.ok_or(Error::Damaged {
                format: "media",
                reason: "it became shorter while it was read",
                offset: sample.offset,
            })?;
        match (&self.video, sample.track) {
            (Some(video), Track::Video) if video.prefix != 4 => nal::widen(&bytes, video.prefix)
                .ok_or(Error::Damaged {
                    format: "media",
                    reason: "a frame's NAL units do not add up",
                    offset: sample.offset,
                }),
            _ => Ok(bytes),
        }
    }

    /// A key frame's bytes with its capture time written into it, in place of
    /// any that it had.
    pub fn stamp(sample: &Bytes, captured: UtcTime) -> Bytes {
        nal::stamp(sample, captured)
    }
}

impl Video {
    fn new(config: Bytes) -> Result<Self, Error> {
        // lengthSizeMinusOne stands in the low bits of the fifth byte.
        let [1, _, _, _, sizes, ..] = config[..] else {
            return Err(Error::NotMedia("its H.264 configuration is not valid".to_owned()));
        };
        let prefix = usize::from(sizes & 3) + 1;
        if prefix == 4 {
            return Ok(Self { config, prefix });
        }
        let mut widened = config.to_vec();
        widened[4] |= 3;
        Ok(Self { config: widened.into(), prefix })
    }
}

/// The boxes that movies begin with.
fn is_movie(kind: &[u8]) -> bool {
    [b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof"]
        .iter()
        .any(|known| kind.starts_with(&known[..]))
}

/// A track's last decode time plus the distance that led to it (40 ms when
/// there is but one sample).
fn end_of(samples: &[Sample], track: Track) -> i64 {
    let mut times = samples.iter().rev().filter(|sample| sample.track == track);
    match (times.next(), times.next()) {
        (Some(last), Some(before)) => last.dts_ms + (last.dts_ms - before.dts_ms).clamp(1, 1000),
        (Some(last), None) => last.dts_ms + 40,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
