//! MP4 and QuickTime files, plain or fragmented (ISO/IEC 14496-12).
//!
//! Finds `moov`, asks `track` what each track is and `table` for its samples,
//! and turns edit lists and timescales into milliseconds. Of an edit list, the
//! leading empty edit and the start of the first real one are followed, which
//! is what encoders write (B-frame and AAC priming offsets); later edits are
//! not: the media is sent through to its end.

mod table;
mod track;

use spyglass_media::Track;

use self::track::TrackInfo;
pub(crate) use self::track::movie;
use super::boxes::{Broken, header};
use super::{Clip, Defaults, Found, Sample, Source, samples_of};
use crate::Error;

/// Longest `moov` or `moof`; ten hours of video have some 20 MB of index.
const MAX_INDEX: u64 = 128 * 1024 * 1024;
/// Top-level boxes of a file; a day of 1 s fragments has 173,000.
const MAX_BOXES: usize = 1 << 20;

pub(super) fn read(source: &Source) -> Result<Found, Error> {
    let mut movie_box = None;
    let mut fragments = Vec::new();
    for place in top_level(source)? {
        match &place.kind {
            b"moov" if movie_box.is_none() => movie_box = Some(place),
            b"moof" => fragments.push(place),
            _ => {}
        }
    }
    let movie_box = movie_box.ok_or(Error::Damaged {
        format: "MP4",
        reason: "it ends before its index (moov): the recording was not finished, or the copy \
                 is not complete",
        offset: source.length(),
    })?;
    let body = movie_box.body(source)?;
    let tracks = movie(&body).map_err(|broken| movie_box.damaged(broken))?;
    let mut found = Found::default();
    let mut chosen: Vec<TrackInfo> = Vec::new();
    for kind in [Track::Video, Track::Audio] {
        let mut of_kind = tracks.iter().filter(|info| info.kind == Some(kind));
        let playable = of_kind.clone().find(|info| info.config.is_some());
        match (playable, of_kind.next()) {
            (Some(info), _) => chosen.push(info.clone()),
            (None, Some(other)) => return Err(Error::UnsupportedCodec(other.codec.clone())),
            (None, None) => {}
        }
    }
    if chosen.is_empty() {
        return Err(Error::NotMedia("it has no video and no sound".to_owned()));
    }
    let mut budget = Budget { bytes: source.length(), samples: Clip::MAX_SAMPLES };
    for info in &chosen {
        match info.kind {
            Some(Track::Video) => found.video.clone_from(&info.config),
            _ => found.audio.clone_from(&info.config),
        }
        let body = body.get(info.tables.clone()).unwrap_or_default();
        table::read(body, info, source.length(), &mut budget, &mut found.samples)
            .map_err(|broken| movie_box.damaged(broken))?;
    }
    let mut ends: Vec<u64> = vec![0; chosen.len()];
    for place in fragments {
        let body = place.body(source)?;
        fragment(&body, &place, source, &chosen, &mut ends, &mut budget, &mut found.samples)
            .map_err(|broken| place.damaged(broken))?;
    }
    Ok(found)
}

/// What an index may still claim. Samples do not overlap in a sane file, so
/// together they are no longer than it is.
struct Budget {
    bytes: u64,
    samples: usize,
}

impl Budget {
    fn spend(&mut self, length: u32) -> Result<(), Broken> {
        self.bytes = self
            .bytes
            .checked_sub(u64::from(length))
            .ok_or(Broken("its samples add up to more than the file"))?;
        self.samples = self.samples.checked_sub(1).ok_or(Broken("it has too many frames"))?;
        Ok(())
    }
}

fn fragment(
    moof: &[u8],
    place: &Place,
    source: &Source,
    chosen: &[TrackInfo],
    ends: &mut [u64],
    budget: &mut Budget,
    samples: &mut Vec<Sample>,
) -> Result<(), Broken> {
    let defaults = |id| {
        chosen
            .iter()
            .find(|info| info.id == id)
            .map_or_else(Defaults::default, |info| info.defaults)
    };
    for named in samples_of(moof, place.offset, defaults)? {
        let Some(index) = chosen.iter().position(|info| info.id == named.track) else { continue };
        let (Some(info), Some(end)) = (chosen.get(index), ends.get_mut(index)) else { continue };
        let dts = named.dts.unwrap_or(*end);
        *end = dts.saturating_add(u64::from(named.duration));
        if named.size == 0 {
            continue;
        }
        if named.offset.checked_add(u64::from(named.size)).is_none_or(|end| end > source.length()) {
            return Err(Broken("a frame lies beyond the end of the file"));
        }
        budget.spend(named.size)?;
        samples.push(info.sample(dts, named.composition, named.key, named.offset, named.size)?);
    }
    Ok(())
}

/// A box at the top level of the file.
#[derive(Clone, Copy)]
struct Place {
    kind: [u8; 4],
    offset: u64,
    header: usize,
    length: u64,
}

impl Place {
    fn body(&self, source: &Source) -> Result<bytes::Bytes, Error> {
        let length = self.length.saturating_sub(self.header as u64);
        if length > MAX_INDEX {
            return Err(self.damaged(Broken("its index is too large to be true")));
        }
        source
            .read(self.offset + self.header as u64, length as usize)?
            .ok_or_else(|| self.damaged(Broken("a box ends beyond the file")))
    }

    fn damaged(&self, Broken(reason): Broken) -> Error {
        Error::Damaged { format: "MP4", reason, offset: self.offset }
    }
}

/// The boxes of the file that name samples. A last box that is cut short is left
/// out: when it is `mdat`, the samples that are missing will say so.
fn top_level(source: &Source) -> Result<Vec<Place>, Error> {
    let mut places = Vec::new();
    let mut offset = 0;
    for _ in 0..MAX_BOXES {
        let left = source.length().saturating_sub(offset);
        if left < 8 {
            break;
        }
        let start = source.read(offset, left.min(16) as usize)?.unwrap_or_default();
        let Some(kind) = start.get(4..8).and_then(|kind| kind.try_into().ok()) else { break };
        let Some((header, length)) = header(&start, left) else { break };
        if matches!(&kind, b"moov" | b"moof") {
            places.push(Place { kind, offset, header, length });
        }
        offset += length;
    }
    Ok(places)
}
