//! Capture stamps in the chunks that a viewer receives.
//!
//! A chunk is a movie fragment; the key frames in it carry the moment the
//! camera saw them ([`spyglass_media::find_capture`]). Which track is video and
//! how fast its clock runs stands in the init.

use std::time::Duration;

use spyglass_media::{Track, UtcTime, find_capture};

use crate::Error;
use crate::clip::{Broken, Defaults, boxes, movie, samples_of};

/// What an init (`{epoch}-init.mp4`) says about the video track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init {
    video: Option<(u32, u32)>,
}

/// A key frame's capture time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Decode time from the chunk's first video frame to this one.
    pub into: Duration,
    /// What the broadcaster wrote.
    pub captured: UtcTime,
}

fn damaged(Broken(reason): Broken) -> Error {
    Error::Damaged { format: "fMP4", reason, offset: 0 }
}

impl Init {
    /// Reads an init segment.
    ///
    /// # Errors
    /// When it holds no well-formed `moov`.
    pub fn parse(init: &[u8]) -> Result<Self, Error> {
        for found in boxes(init) {
            let found = found.map_err(damaged)?;
            if &found.kind == b"moov" {
                let tracks = movie(found.body).map_err(damaged)?;
                let video = tracks.iter().find(|track| track.kind == Some(Track::Video));
                return Ok(Self { video: video.map(|track| (track.id, track.timescale)) });
            }
        }
        Err(damaged(Broken("there is no moov in it")))
    }

    /// Whether chunks of this epoch have video, and so may have stamps.
    pub fn has_video(&self) -> bool {
        self.video.is_some()
    }

    /// The stamps of a chunk or part, in decode order.
    ///
    /// # Errors
    /// When it is no well-formed fragment, or its samples lie outside of it.
    pub fn stamps(&self, chunk: &[u8]) -> Result<Vec<Stamp>, Error> {
        let Some((track, timescale)) = self.video else { return Ok(Vec::new()) };
        let mut stamps = Vec::new();
        let mut start = None;
        for found in boxes(chunk) {
            let found = found.map_err(damaged)?;
            if &found.kind != b"moof" {
                continue;
            }
            let samples = samples_of(found.body, found.offset as u64, |_| Defaults::default())
                .map_err(damaged)?;
            for sample in samples.iter().filter(|sample| sample.track == track) {
                let dts = sample.dts.unwrap_or(0);
                let start = *start.get_or_insert(dts);
                let bytes = usize::try_from(sample.offset)
                    .ok()
                    .and_then(|from| chunk.get(from..from.checked_add(sample.size as usize)?))
                    .ok_or(damaged(Broken("a frame lies outside of its chunk")))?;
                if let Some(captured) = find_capture(bytes).filter(|_| sample.key) {
                    let ticks = u128::from(dts.saturating_sub(start));
                    let micros = ticks * 1_000_000 / u128::from(timescale.max(1));
                    let into = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
                    stamps.push(Stamp { into, captured });
                }
            }
        }
        Ok(stamps)
    }

    /// When the chunk's first video frame was captured, by the first stamp in it.
    ///
    /// # Errors
    /// As [`Init::stamps`].
    pub fn captured(&self, chunk: &[u8]) -> Result<Option<UtcTime>, Error> {
        Ok(self.stamps(chunk)?.first().map(|stamp| stamp.captured - stamp.into))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn stamps_are_found_where_they_are() {
        let init = Init::parse(&testing::init()).unwrap();
        let at = UtcTime::from_millis;
        let chunk = testing::chunk(&[None, None, Some(at(9_080)), None, Some(at(9_160))]);
        let stamps = init.stamps(&chunk).unwrap();
        let expected = [(80, at(9_080)), (160, at(9_160))]
            .map(|(into, captured)| Stamp { into: Duration::from_millis(into), captured });
        assert_eq!(stamps, expected);
        assert_eq!(init.captured(&chunk).unwrap(), Some(at(9_000)));
        assert_eq!(init.captured(&testing::chunk(&[None])).unwrap(), None);
    }

    #[test]
    fn a_chunk_cut_or_changed_anywhere_is_read_or_refused() {
        let init = Init::parse(&testing::init()).unwrap();
        let chunk = testing::chunk(&[Some(UtcTime::from_millis(1)), None]);
        for at in 0..chunk.len() {
            let _ = init.stamps(&chunk[..at]);
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = chunk.to_vec();
                changed[at] = value;
                let _ = init.stamps(&changed);
            }
        }
        for at in 0..testing::init().len() {
            let _ = Init::parse(&testing::init()[..at]);
        }
    }
}
