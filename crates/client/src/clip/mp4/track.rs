//! What a `moov` says about its tracks: kind, codec configuration, times.

use std::ops::Range;

use bytes::Bytes;
use spyglass_media::Track;

use crate::clip::boxes::{Broken, Fields, boxes, child, need};
use crate::clip::{Defaults, Sample};

/// Tracks looked at; the rest of a file's are ignored.
const MAX_TRACKS: usize = 64;

/// One track.
#[derive(Clone, Debug)]
pub(crate) struct TrackInfo {
    pub(crate) id: u32,
    /// `None` for subtitles, time codes and the like.
    pub(crate) kind: Option<Track>,
    /// For people: `hvc1`, `ac-3`…
    pub(super) codec: String,
    /// `None` when this release cannot send the codec.
    pub(super) config: Option<Bytes>,
    /// Where `stbl`'s body stands in `moov`'s.
    pub(super) tables: Range<usize>,
    pub(super) defaults: Defaults,
    /// Ticks in a second.
    pub(crate) timescale: u32,
    /// Media time that plays at movie time zero, in the track's timescale: the
    /// start of the first edit less the empty edit before it.
    start: i64,
}

impl TrackInfo {
    /// A sample with its times in milliseconds, each rounded by itself so that
    /// rounding never adds up.
    pub(super) fn sample(
        &self,
        dts: u64,
        composition: i32,
        key: bool,
        offset: u64,
        length: u32,
    ) -> Result<Sample, Broken> {
        let absurd = Broken("a frame's time is beyond all reason");
        let millis = |ticks: i128| {
            let scale = i128::from(self.timescale);
            i64::try_from((ticks * 1000 + scale / 2).div_euclid(scale)).map_err(|_| absurd)
        };
        let dts = i128::from(dts) - i128::from(self.start);
        let dts_ms = millis(dts)?;
        let pts_ms = millis(dts + i128::from(composition))?;
        // A year: far beyond any file, far below any overflow. The composition
        // time has 24 bits on RTMP.
        let composition_ms =
            i32::try_from(pts_ms - dts_ms).ok().filter(|ms| ms.abs() < 1 << 23).ok_or(absurd)?;
        if dts_ms.abs() > 366 * 86_400_000 {
            return Err(absurd);
        }
        let kind = self.kind.unwrap_or(Track::Video);
        let (key, composition_ms) =
            if kind == Track::Audio { (true, 0) } else { (key, composition_ms) };
        Ok(Sample { track: kind, dts_ms, composition_ms, key, offset, length })
    }
}

/// The tracks of a `moov` body.
pub(crate) fn movie(moov: &[u8]) -> Result<Vec<TrackInfo>, Broken> {
    let mut fields = Fields(need(moov, b"mvhd", "it has no movie header")?);
    let (version, _) = fields.version_flags()?;
    fields.skip(if version == 0 { 8 } else { 16 })?;
    let movie_scale = fields.u32()?.max(1);
    let mut tracks = Vec::new();
    for found in boxes(moov) {
        let found = found?;
        if &found.kind == b"trak" && tracks.len() < MAX_TRACKS {
            tracks.push(track(moov, found.body, movie_scale)?);
        }
    }
    if let Some(extends) = child(moov, b"mvex")? {
        for found in boxes(extends) {
            let found = found?;
            if &found.kind == b"trex" {
                let mut fields = Fields(found.body);
                fields.version_flags()?;
                let id = fields.u32()?;
                fields.skip(4)?;
                let defaults =
                    Defaults { duration: fields.u32()?, size: fields.u32()?, flags: fields.u32()? };
                for track in tracks.iter_mut().filter(|track| track.id == id) {
                    track.defaults = defaults;
                }
            }
        }
    }
    Ok(tracks)
}

fn track(moov: &[u8], trak: &[u8], movie_scale: u32) -> Result<TrackInfo, Broken> {
    let mut header = Fields(need(trak, b"tkhd", "a track has no header")?);
    let (version, _) = header.version_flags()?;
    header.skip(if version == 0 { 8 } else { 16 })?;
    let id = header.u32()?;

    let media = need(trak, b"mdia", "a track has no media")?;
    let mut header = Fields(need(media, b"mdhd", "a track has no media header")?);
    let (version, _) = header.version_flags()?;
    header.skip(if version == 0 { 8 } else { 16 })?;
    let timescale = header.u32()?;
    let mut handler = Fields(need(media, b"hdlr", "a track has no handler")?);
    handler.skip(8)?;
    let kind = match &handler.take::<4>()? {
        b"vide" => Some(Track::Video),
        b"soun" => Some(Track::Audio),
        _ => None,
    };
    if kind.is_some() && timescale == 0 {
        return Err(Broken("a track's clock stands still"));
    }
    let information = need(media, b"minf", "a track has no media information")?;
    let tables = need(information, b"stbl", "a track has no sample table")?;
    let (codec, config) = match kind {
        Some(kind) => description(tables, kind)?,
        None => (String::new(), None),
    };
    let start = match child(trak, b"edts")? {
        Some(edits) => edit_start(edits, timescale, movie_scale)?,
        None => 0,
    };
    Ok(TrackInfo {
        id,
        kind,
        codec,
        config,
        tables: place_of(moov, tables),
        defaults: Defaults::default(),
        timescale,
        start,
    })
}

/// Where `inner`, a slice of `outer`, stands in it.
fn place_of(outer: &[u8], inner: &[u8]) -> Range<usize> {
    let start = (inner.as_ptr() as usize).saturating_sub(outer.as_ptr() as usize);
    start..start + inner.len()
}

/// Reads `elst` (ISO/IEC 14496-12 section 8.6.6).
fn edit_start(edits: &[u8], timescale: u32, movie_scale: u32) -> Result<i64, Broken> {
    let Some(list) = child(edits, b"elst")? else { return Ok(0) };
    let mut fields = Fields(list);
    let (version, _) = fields.version_flags()?;
    let count = fields.u32()?;
    let mut empty = 0i128;
    for _ in 0..count {
        let duration = fields.wide(version)?;
        let start =
            if version == 0 { i64::from(fields.i32()?) } else { fields.u64()?.cast_signed() };
        fields.skip(4)?;
        if start >= 0 {
            let start = i128::from(start) - empty;
            return i64::try_from(start).map_err(|_| Broken("an edit is longer than any film"));
        }
        empty += i128::from(duration) * i128::from(timescale) / i128::from(movie_scale);
    }
    Ok(0)
}

/// The codec of the first sample description, and its configuration when this
/// release can send it.
fn description(tables: &[u8], kind: Track) -> Result<(String, Option<Bytes>), Broken> {
    let mut fields = Fields(need(tables, b"stsd", "a track has no sample description")?);
    fields.skip(8)?;
    let Some(entry) = boxes(fields.0).next() else {
        return Err(Broken("a track has no sample description"));
    };
    let entry = entry?;
    let codec = String::from_utf8_lossy(&entry.kind).trim().to_owned();
    let config = match (kind, &entry.kind) {
        (Track::Video, b"avc1" | b"avc3") => {
            let mut fields = Fields(entry.body);
            fields.skip(78)?;
            child(fields.0, b"avcC")?.map(Bytes::copy_from_slice)
        }
        (Track::Audio, b"mp4a") => match audio_config(entry.body)? {
            Some(Ok(config)) => Some(config),
            Some(Err(name)) => return Ok((name.to_owned(), None)),
            None => None,
        },
        _ => None,
    };
    Ok((codec, config))
}

/// The AudioSpecificConfig of an `mp4a` entry, or the name of what it is instead.
fn audio_config(entry: &[u8]) -> Result<Option<Result<Bytes, &'static str>>, Broken> {
    let mut fields = Fields(entry);
    fields.skip(8)?;
    // QuickTime's sound descriptions are longer, and may hide esds in wave.
    let version = fields.u16()?;
    fields.skip(match version {
        1 => 34,
        2 => 54,
        _ => 18,
    })?;
    let stream = match (child(fields.0, b"esds")?, child(fields.0, b"wave")?) {
        (Some(stream), _) => stream,
        (None, Some(wave)) => match child(wave, b"esds")? {
            Some(stream) => stream,
            None => return Ok(None),
        },
        (None, None) => return Ok(None),
    };
    let mut fields = Fields(stream);
    fields.version_flags()?;
    stream_config(fields.0)
}

/// Descends ES_Descriptor, DecoderConfigDescriptor, DecoderSpecificInfo
/// (ISO/IEC 14496-1 section 7.2.6).
fn stream_config(bytes: &[u8]) -> Result<Option<Result<Bytes, &'static str>>, Broken> {
    let Some((3, body)) = descriptor(&mut Fields(bytes))? else { return Ok(None) };
    let mut fields = Fields(body);
    fields.skip(2)?;
    let flags = fields.u8()?;
    if flags & 0x80 != 0 {
        fields.skip(2)?;
    }
    if flags & 0x40 != 0 {
        let length = fields.u8()?;
        fields.skip(usize::from(length))?;
    }
    if flags & 0x20 != 0 {
        fields.skip(2)?;
    }
    let Some((4, body)) = descriptor(&mut fields)? else { return Ok(None) };
    let mut fields = Fields(body);
    match fields.u8()? {
        0x40 => {}
        0x69 | 0x6b => return Ok(Some(Err("MP3"))),
        _ => return Ok(Some(Err("mp4a with something other than AAC"))),
    }
    fields.skip(12)?;
    match descriptor(&mut fields)? {
        Some((5, config)) if config.len() >= 2 => Ok(Some(Ok(Bytes::copy_from_slice(config)))),
        _ => Ok(None),
    }
}

fn descriptor<'a>(fields: &mut Fields<'a>) -> Result<Option<(u8, &'a [u8])>, Broken> {
    if fields.0.is_empty() {
        return Ok(None);
    }
    let tag = fields.u8()?;
    let mut length = 0usize;
    // A length has 4 bytes at most, 7 bits each.
    for _ in 0..4 {
        let byte = fields.u8()?;
        length = length << 7 | usize::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(Some((tag, fields.slice(length)?)))
}
