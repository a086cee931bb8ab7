//! Writes fragmented MP4: one init per epoch, one moof and mdat per part.
//!
//! A part is one contiguous buffer. Its moof names one run of samples per
//! track, addressed from the moof's own start, so parts can be joined in any
//! number behind their init: a chunk is its parts. Deciding what goes into a
//! part is [`segmenter`](crate::segmenter)'s.
//!
//! ISO/IEC 14496-12:2022 sections 8.8 (movie fragments) and 8.16.2 (the styp
//! box, which is optional and left out). Tracks: 1 video at 90 kHz, 2 audio at
//! its sample rate. No edit lists: composition offsets are written as they
//! came.

use std::num::NonZeroU32;

use bytes::Bytes;
use shiguredo_mp4::boxes::{
    Brand, DinfBox, FtypBox, HdlrBox, MdatBox, MdhdBox, MdiaBox, MediaHeader, MfhdBox, MinfBox,
    MoofBox, MoovBox, MvexBox, MvhdBox, SampleEntry, SmhdBox, StblBox, StcoBox, StscBox, StsdBox,
    StszBox, SttsBox, TfdtBox, TfhdBox, TkhdBox, TrafBox, TrakBox, TrexBox, TrunBox, TrunSample,
    VmhdBox,
};
use shiguredo_mp4::{
    BoxHeader, BoxSize, Either, Encode, FixedPointNumber, LanguageCode, Mp4FileTime, SampleFlags,
};

use crate::Error;
use crate::codec::{Aac, Avc};

/// Ticks per second of the video track: those of `spyglass_media::MediaTime`.
pub const VIDEO_TIMESCALE: NonZeroU32 = NonZeroU32::new(90_000).unwrap();

const VIDEO_TRACK: u32 = 1;
const AUDIO_TRACK: u32 = 2;

/// Depends on no other sample (8.8.3.1).
const SYNC: SampleFlags = SampleFlags::from_fields(0, 2, 0, 0, 0, false, 0);
/// Depends on others, and is no sync sample.
const NON_SYNC: SampleFlags = SampleFlags::from_fields(0, 1, 0, 0, 0, true, 0);

/// One coded picture or access unit on its way into a chunk.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Decode time in the track's time scale.
    pub dts: u64,
    /// Presentation less decode time, in the track's time scale.
    pub composition: i32,
    /// Decoding can start here.
    pub key: bool,
    /// As coded; shared with whoever else sends it.
    pub data: Bytes,
}

/// The samples of one track in one chunk, in decode order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run<'a> {
    /// May be empty: the track is then absent from the chunk.
    pub samples: &'a [Sample],
    /// Where the last sample ends, in the track's time scale.
    pub end: u64,
}

/// Writes the init (ftyp and moov) of an epoch with these tracks.
pub fn init(video: Option<&Avc>, audio: Option<&Aac>) -> Result<Bytes, Error> {
    let mut trak_boxes = Vec::new();
    if let Some(avc) = video {
        let (width, height) = avc.resolution();
        trak_boxes.push(trak(Track {
            id: VIDEO_TRACK,
            timescale: VIDEO_TIMESCALE,
            entry: avc.entry().clone(),
            volume: TkhdBox::DEFAULT_VIDEO_VOLUME,
            size: (pixels(width), pixels(height)),
            handler: HdlrBox::HANDLER_TYPE_VIDE,
            header: MediaHeader::Vmhd(VmhdBox::default()),
        }));
    }
    if let Some(aac) = audio {
        trak_boxes.push(trak(Track {
            id: AUDIO_TRACK,
            timescale: aac.rate(),
            entry: aac.entry().clone(),
            volume: TkhdBox::DEFAULT_AUDIO_VOLUME,
            size: Default::default(),
            handler: HdlrBox::HANDLER_TYPE_SOUN,
            header: MediaHeader::Smhd(SmhdBox::default()),
        }));
    }
    let trex_boxes = trak_boxes.iter().map(|trak| TrexBox {
        track_id: trak.tkhd_box.track_id,
        default_sample_description_index: 1,
        default_sample_duration: 0,
        default_sample_size: 0,
        default_sample_flags: SampleFlags::empty(),
    });
    let mvex_box =
        MvexBox { mehd_box: None, trex_boxes: trex_boxes.collect(), unknown_boxes: Vec::new() };
    let moov = MoovBox {
        mvhd_box: MvhdBox {
            creation_time: Mp4FileTime::default(),
            modification_time: Mp4FileTime::default(),
            timescale: VIDEO_TIMESCALE,
            duration: 0,
            rate: MvhdBox::DEFAULT_RATE,
            volume: MvhdBox::DEFAULT_VOLUME,
            matrix: MvhdBox::DEFAULT_MATRIX,
            next_track_id: AUDIO_TRACK + 1,
        },
        trak_boxes,
        mvex_box: Some(mvex_box),
        unknown_boxes: Vec::new(),
    };
    let ftyp = FtypBox {
        major_brand: Brand::ISO5,
        minor_version: 0,
        compatible_brands: vec![Brand::ISO5, Brand::ISO6, Brand::MP41],
    };
    let mut bytes = ftyp.encode_to_vec().map_err(unwritable)?;
    bytes.extend(moov.encode_to_vec().map_err(unwritable)?);
    Ok(bytes.into())
}

struct Track {
    id: u32,
    timescale: NonZeroU32,
    entry: SampleEntry,
    volume: FixedPointNumber<i8, u8>,
    size: (FixedPointNumber<i16, u16>, FixedPointNumber<i16, u16>),
    handler: [u8; 4],
    header: MediaHeader,
}

fn pixels(count: u32) -> FixedPointNumber<i16, u16> {
    FixedPointNumber::new(i16::try_from(count).unwrap_or(i16::MAX), 0)
}

/// A trak without samples: those come in fragments.
fn trak(track: Track) -> TrakBox {
    TrakBox {
        tkhd_box: TkhdBox {
            flag_track_enabled: true,
            flag_track_in_movie: true,
            flag_track_in_preview: false,
            flag_track_size_is_aspect_ratio: false,
            creation_time: Mp4FileTime::default(),
            modification_time: Mp4FileTime::default(),
            track_id: track.id,
            duration: 0,
            layer: TkhdBox::DEFAULT_LAYER,
            alternate_group: TkhdBox::DEFAULT_ALTERNATE_GROUP,
            volume: track.volume,
            matrix: TkhdBox::DEFAULT_MATRIX,
            width: track.size.0,
            height: track.size.1,
        },
        edts_box: None,
        mdia_box: MdiaBox {
            mdhd_box: MdhdBox {
                creation_time: Mp4FileTime::default(),
                modification_time: Mp4FileTime::default(),
                timescale: track.timescale,
                duration: 0,
                language: LanguageCode::UNDEFINED,
            },
            hdlr_box: HdlrBox { handler_type: track.handler, name: vec![0] },
            minf_box: MinfBox {
                media_header: Some(track.header),
                dinf_box: DinfBox::LOCAL_FILE,
                stbl_box: StblBox {
                    stsd_box: StsdBox { entries: vec![track.entry] },
                    stts_box: SttsBox { entries: Vec::new() },
                    ctts_box: None,
                    cslg_box: None,
                    stsc_box: StscBox { entries: Vec::new() },
                    stsz_box: StszBox::Variable { entry_sizes: Vec::new() },
                    stco_or_co64_box: Either::A(StcoBox { chunk_offsets: Vec::new() }),
                    stss_box: None,
                    sdtp_box: None,
                    unknown_boxes: Vec::new(),
                },
                unknown_boxes: Vec::new(),
            },
            unknown_boxes: Vec::new(),
        },
        unknown_boxes: Vec::new(),
    }
}

/// Writes one part, or a chunk that has none. `number` goes into the moof, where it must grow within an
/// epoch; its low 32 bits are kept.
pub fn fragment(number: u64, video: Run<'_>, audio: Run<'_>) -> Result<Bytes, Error> {
    let bytes_of = |run: &Run<'_>| run.samples.iter().map(|sample| sample.data.len()).sum();
    let (video_bytes, audio_bytes): (usize, usize) = (bytes_of(&video), bytes_of(&audio));
    let payload = video_bytes + audio_bytes;

    let mut traf_boxes = Vec::new();
    traf_boxes.extend(traf(VIDEO_TRACK, &video)?);
    traf_boxes.extend(traf(AUDIO_TRACK, &audio)?);
    let mut moof = MoofBox {
        mfhd_box: MfhdBox { sequence_number: number as u32 },
        traf_boxes,
        unknown_boxes: Vec::new(),
    };
    // Offsets count from the moof's start and have a fixed width, so its
    // length is known before their values.
    let length = moof.encode_to_vec().map_err(unwritable)?.len();
    let size = BoxSize::with_payload_size(MdatBox::TYPE, payload as u64);
    let header = BoxHeader { box_type: MdatBox::TYPE, box_size: size };
    let header = header.encode_to_vec().map_err(unwritable)?;
    let mut offset = length + header.len();
    for (traf, bytes) in moof.traf_boxes.iter_mut().zip(match video.samples {
        [] => [audio_bytes, 0],
        _ => [video_bytes, audio_bytes],
    }) {
        let start = i32::try_from(offset).map_err(|_| Error::Boxes("too large".to_owned()))?;
        for trun in &mut traf.trun_boxes {
            trun.data_offset = Some(start);
        }
        offset += bytes;
    }

    let mut buffer = Vec::with_capacity(length + header.len() + payload);
    buffer.resize(length, 0);
    moof.encode(&mut buffer).map_err(unwritable)?;
    buffer.extend_from_slice(&header);
    for sample in video.samples.iter().chain(audio.samples) {
        buffer.extend_from_slice(&sample.data);
    }
    Ok(buffer.into())
}

fn traf(track_id: u32, run: &Run<'_>) -> Result<Option<TrafBox>, Error> {
    let Some(first) = run.samples.first() else { return Ok(None) };
    let ends = run.samples.iter().skip(1).map(|sample| sample.dts).chain([run.end]);
    let durations: Vec<u32> = run
        .samples
        .iter()
        .zip(ends)
        .map(|(sample, end)| u32::try_from(end.saturating_sub(sample.dts)).unwrap_or(u32::MAX))
        .collect();
    // What all samples have in common is said once.
    let duration = durations.iter().all(|other| *other == durations[0]).then_some(durations[0]);
    let key = run.samples.iter().all(|sample| sample.key).then_some(SYNC);
    let offsets = run.samples.iter().any(|sample| sample.composition != 0);
    let mut samples = Vec::with_capacity(run.samples.len());
    for (sample, each) in run.samples.iter().zip(durations) {
        let size = u32::try_from(sample.data.len());
        samples.push(TrunSample {
            duration: duration.is_none().then_some(each),
            size: Some(size.map_err(|_| Error::Boxes("frame too large".to_owned()))?),
            flags: key.is_none().then_some(if sample.key { SYNC } else { NON_SYNC }),
            composition_time_offset: offsets.then_some(sample.composition.into()),
        });
    }
    Ok(Some(TrafBox {
        tfhd_box: TfhdBox {
            track_id,
            base_data_offset: None,
            sample_description_index: None,
            default_sample_duration: duration,
            default_sample_size: None,
            default_sample_flags: key,
            duration_is_empty: false,
            default_base_is_moof: true,
        },
        tfdt_box: Some(TfdtBox { version: 1, base_media_decode_time: first.dts }),
        trun_boxes: vec![TrunBox { data_offset: Some(0), first_sample_flags: None, samples }],
        unknown_boxes: Vec::new(),
    }))
}

fn unwritable(error: shiguredo_mp4::Error) -> Error {
    Error::Boxes(error.reason)
}

#[cfg(test)]
mod tests {
    use shiguredo_mp4::Decode;

    use super::*;

    fn sample(dts: u64, composition: i32, key: bool, data: &'static [u8]) -> Sample {
        Sample { dts, composition, key, data: Bytes::from_static(data) }
    }

    #[test]
    fn a_chunk_is_one_moof_and_one_mdat_whose_offsets_meet_the_samples() {
        let video =
            [sample(90_000, 3_000, true, b"key"), sample(93_000, -1_500, false, b"between")];
        let audio = [sample(48_000, 0, true, b"a1"), sample(49_024, 0, true, b"a22")];
        let bytes =
            fragment(7, Run { samples: &video, end: 96_000 }, Run { samples: &audio, end: 50_048 })
                .unwrap();

        let (moof, length) = MoofBox::decode(&bytes).unwrap();
        assert_eq!(moof.mfhd_box.sequence_number, 7);
        let (mdat, rest) = MdatBox::decode(&bytes[length..]).unwrap();
        assert_eq!(mdat.payload, b"keybetweena1a22");
        assert_eq!(length + rest, bytes.len());
        let starts = ["keybetween", "a1a22"];
        for (traf, start) in moof.traf_boxes.iter().zip(starts) {
            assert!(traf.tfhd_box.default_base_is_moof);
            let offset = traf.trun_boxes[0].data_offset.unwrap() as usize;
            assert!(bytes[offset..].starts_with(start.as_bytes()));
        }
        let video = &moof.traf_boxes[0];
        assert_eq!(video.tfdt_box.as_ref().unwrap().base_media_decode_time, 90_000);
        assert_eq!(video.tfhd_box.default_sample_duration, Some(3_000));
        let [key, between] = &video.trun_boxes[0].samples[..] else { panic!() };
        assert_eq!(key.flags.map(|flags| flags.sample_is_non_sync_sample()), Some(false));
        assert_eq!(between.flags.map(|flags| flags.sample_is_non_sync_sample()), Some(true));
        assert_eq!(between.composition_time_offset, Some(-1_500));
        let audio = &moof.traf_boxes[1];
        assert_eq!(audio.tfhd_box.default_sample_duration, Some(1_024));
        assert_eq!(audio.tfhd_box.default_sample_flags, Some(SYNC));
    }

    #[test]
    fn a_track_without_samples_is_left_out() {
        let audio = [sample(0, 0, true, b"only")];
        let bytes = fragment(1, Run::default(), Run { samples: &audio, end: 1024 }).unwrap();
        let (moof, _) = MoofBox::decode(&bytes).unwrap();
        assert_eq!(moof.traf_boxes.len(), 1);
        let offset = moof.traf_boxes[0].trun_boxes[0].data_offset.unwrap() as usize;
        assert_eq!(&bytes[offset..], b"only");
    }
}
