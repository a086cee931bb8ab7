//! What an encoder says about its tracks: AVC and AAC configuration records.
//!
//! They come once per publisher connection and again when the encoder changes
//! its mind. They are read here, at the border; what cannot be read never
//! reaches a chunk.

use std::num::NonZeroU32;

use bytes::Bytes;
use shiguredo_mp4::bitstream::h264::parse_sps;
use shiguredo_mp4::boxes::{
    AudioSampleEntryFields, Avc1Box, AvccBox, EsdsBox, Mp4aBox, SampleEntry,
    VisualSampleEntryFields,
};
use shiguredo_mp4::descriptors::{
    DecoderConfigDescriptor, DecoderSpecificInfo, EsDescriptor, SlConfigDescriptor,
};
use shiguredo_mp4::{BoxHeader, BoxSize, Decode, Encode, FixedPointNumber, Uint, codec_string};

use crate::Error;

/// Largest configuration record taken; real ones are below 200 bytes.
const MAX_RECORD: usize = 4096;

/// An H.264 track.
#[derive(Clone, Debug)]
pub struct Avc {
    record: Bytes,
    entry: SampleEntry,
    name: String,
    resolution: (u32, u32),
}

impl Avc {
    /// Reads an AVCDecoderConfigurationRecord, as RTMP carries it.
    pub fn parse(record: Bytes) -> Result<Self, Error> {
        let wrong = |error: shiguredo_mp4::Error| Error::Avc(error.reason);
        if record.len() > MAX_RECORD {
            return Err(Error::Avc("too long".to_owned()));
        }
        let box_size = BoxSize::with_payload_size(AvccBox::TYPE, record.len() as u64);
        let header = BoxHeader { box_type: AvccBox::TYPE, box_size };
        let mut boxed = header.encode_to_vec().map_err(wrong)?;
        boxed.extend_from_slice(&record);
        let (mut avcc, _) = AvccBox::decode(&boxed).map_err(wrong)?;
        let sps = avcc.sps_list.first().ok_or_else(|| Error::Avc("no SPS".to_owned()))?;
        let sps = parse_sps(sps).map_err(wrong)?;
        // Some encoders leave out what profiles from High on must have here.
        avcc.chroma_format.get_or_insert(Uint::new(sps.chroma_format_idc));
        avcc.bit_depth_luma_minus8.get_or_insert(Uint::new(sps.bit_depth_luma_minus8));
        avcc.bit_depth_chroma_minus8.get_or_insert(Uint::new(sps.bit_depth_chroma_minus8));
        let entry = SampleEntry::Avc1(Avc1Box {
            visual: VisualSampleEntryFields {
                data_reference_index: VisualSampleEntryFields::DEFAULT_DATA_REFERENCE_INDEX,
                width: sps.width,
                height: sps.height,
                horizresolution: VisualSampleEntryFields::DEFAULT_HORIZRESOLUTION,
                vertresolution: VisualSampleEntryFields::DEFAULT_VERTRESOLUTION,
                frame_count: VisualSampleEntryFields::DEFAULT_FRAME_COUNT,
                compressorname: VisualSampleEntryFields::NULL_COMPRESSORNAME,
                depth: VisualSampleEntryFields::DEFAULT_DEPTH,
            },
            avcc_box: avcc,
            unknown_boxes: Vec::new(),
        });
        let name = codec_string::from_sample_entry(&entry).map_err(wrong)?;
        let resolution = (sps.width.into(), sps.height.into());
        Ok(Self { record, entry, name, resolution })
    }

    /// The record as it came.
    pub fn record(&self) -> &Bytes {
        &self.record
    }

    /// The name in CODECS (RFC 6381), e.g. `avc1.64001e`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Width and height of the picture after cropping, in pixels.
    pub fn resolution(&self) -> (u32, u32) {
        self.resolution
    }

    pub(crate) fn entry(&self) -> &SampleEntry {
        &self.entry
    }

    /// A key frame with this record's parameter sets in it, unless it has some.
    /// A player that reads only the first init (ffmpeg) can go on from there.
    pub(crate) fn with_parameter_sets(&self, sample: &Bytes) -> Bytes {
        let SampleEntry::Avc1(entry) = &self.entry else { return sample.clone() };
        let size = usize::from(entry.avcc_box.length_size_minus_one.get()) + 1;
        let mut delimiter = 0;
        let mut at = 0;
        while let Some(length) = sample.get(at..at + size) {
            let length = length.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
            let Some(kind) = sample.get(at + size).map(|byte| byte & 0x1f) else { break };
            at = at.saturating_add(size).saturating_add(length);
            match kind {
                SPS => return sample.clone(),
                DELIMITER if delimiter == 0 && at <= sample.len() => delimiter = at,
                _ => {}
            }
        }
        let sets = entry.avcc_box.sps_list.iter().chain(&entry.avcc_box.pps_list);
        let mut whole = Vec::with_capacity(sample.len() + 2 * self.record.len());
        // It stands first of all (ITU-T H.264 section 7.4.1.2.3).
        whole.extend_from_slice(&sample[..delimiter]);
        for set in sets {
            let length = (set.len() as u64).to_be_bytes();
            whole.extend_from_slice(&length[length.len() - size..]);
            whole.extend_from_slice(set);
        }
        whole.extend_from_slice(&sample[delimiter..]);
        whole.into()
    }
}

/// NAL unit types (ITU-T H.264 table 7-1).
const SPS: u8 = 7;
const DELIMITER: u8 = 9;

/// An AAC track.
#[derive(Clone, Debug)]
pub struct Aac {
    record: Bytes,
    entry: SampleEntry,
    name: String,
    rate: NonZeroU32,
    frame_length: u32,
}

/// ISO/IEC 14496-3 table 1.18, in Hz.
const RATES: [u32; 13] =
    [96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350];

impl Aac {
    /// Reads an AudioSpecificConfig, as RTMP carries it. Whatever follows its
    /// first fields (ffmpeg appends 3 bytes about SBR) is passed on unread.
    pub fn parse(record: Bytes) -> Result<Self, Error> {
        if record.len() > MAX_RECORD {
            return Err(Error::Aac("too long"));
        }
        let mut bits = Bits { bytes: &record, at: 0 };
        let object_type = match bits.take(5)? {
            31 => 32 + bits.take(6)?,
            short => short,
        };
        let rate = match bits.take(4)? {
            15 => bits.take(24)?,
            index => *RATES.get(index as usize).ok_or(Error::Aac("reserved sample rate"))?,
        };
        let rate = NonZeroU32::new(rate)
            .filter(|rate| (7_000..=192_000).contains(&rate.get()))
            .ok_or(Error::Aac("sample rate out of range"))?;
        let channels = match bits.take(4)? {
            channels @ 1..=6 => channels as u16,
            7 | 12 | 14 => 8,
            11 => 7,
            // Told in a program config element within the stream.
            0 => 2,
            _ => return Err(Error::Aac("reserved channel configuration")),
        };
        // GASpecificConfig begins with frameLengthFlag for these object types.
        let short_frames = matches!(object_type, 1..=4) && bits.take(1)? == 1;
        let samplerate = u16::try_from(rate.get()).unwrap_or(0);
        let entry = SampleEntry::Mp4a(Mp4aBox {
            audio: AudioSampleEntryFields {
                data_reference_index: AudioSampleEntryFields::DEFAULT_DATA_REFERENCE_INDEX,
                channelcount: channels,
                samplesize: AudioSampleEntryFields::DEFAULT_SAMPLESIZE,
                samplerate: FixedPointNumber::new(samplerate, 0),
            },
            esds_box: EsdsBox {
                es: EsDescriptor {
                    es_id: EsDescriptor::MIN_ES_ID,
                    stream_priority: EsDescriptor::LOWEST_STREAM_PRIORITY,
                    depends_on_es_id: None,
                    url_string: None,
                    ocr_es_id: None,
                    dec_config_descr: DecoderConfigDescriptor {
                        object_type_indication:
                            DecoderConfigDescriptor::OBJECT_TYPE_INDICATION_AUDIO_ISO_IEC_14496_3,
                        stream_type: DecoderConfigDescriptor::STREAM_TYPE_AUDIO,
                        up_stream: DecoderConfigDescriptor::UP_STREAM_FALSE,
                        buffer_size_db: Uint::new(0),
                        max_bitrate: 0,
                        avg_bitrate: 0,
                        dec_specific_info: Some(DecoderSpecificInfo { payload: record.to_vec() }),
                    },
                    sl_config_descr: SlConfigDescriptor,
                },
            },
            unknown_boxes: Vec::new(),
        });
        let name = format!("mp4a.40.{object_type}");
        Ok(Self { record, entry, name, rate, frame_length: if short_frames { 960 } else { 1024 } })
    }

    /// The record as it came.
    pub fn record(&self) -> &Bytes {
        &self.record
    }

    /// The name in CODECS (RFC 6381), e.g. `mp4a.40.2`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Samples per second of the core codec; the track's time scale.
    pub fn rate(&self) -> NonZeroU32 {
        self.rate
    }

    /// Samples in every access unit, at [`Self::rate`].
    pub fn frame_length(&self) -> u32 {
        self.frame_length
    }

    pub(crate) fn entry(&self) -> &SampleEntry {
        &self.entry
    }
}

/// Most significant bit first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: u32) -> Result<u32, Error> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or(Error::Aac("too short"))?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use spyglass_testkit::gop;

    use super::*;

    #[test]
    fn an_ordinary_encoder_is_understood() {
        let avc = Avc::parse(gop::AVC_360P.into()).unwrap();
        assert_eq!((avc.name(), avc.resolution()), ("avc1.64001e", (640, 360)));
        let aac = Aac::parse(gop::AAC_48K_STEREO.into()).unwrap();
        assert_eq!((aac.name(), aac.rate().get(), aac.frame_length()), ("mp4a.40.2", 48_000, 1024));
    }

    #[test]
    fn a_key_frame_takes_parameter_sets_along_unless_it_has_some() {
        let avc = Avc::parse(gop::AVC_360P.into()).unwrap();
        let nal = |kind: u8| [0, 0, 0, 2, kind, 0xff];
        let kinds = |sample: &[u8]| {
            let mut rest = sample;
            let mut kinds = Vec::new();
            while let [a, b, c, d, kind, ..] = *rest {
                kinds.push(kind & 0x1f);
                rest = &rest[4 + u32::from_be_bytes([a, b, c, d]) as usize..];
            }
            assert!(rest.is_empty());
            kinds
        };
        let with = |parts: &[[u8; 6]]| avc.with_parameter_sets(&parts.concat().into());
        assert_eq!(kinds(&with(&[nal(6), nal(0x65)])), [7, 8, 6, 5]);
        assert_eq!(kinds(&with(&[nal(9), nal(0x65)])), [9, 7, 8, 5]);
        let has = [nal(0x67), nal(0x68), nal(0x65)];
        assert_eq!(with(&has), has.concat());
        // What cannot be read is passed on behind them.
        let torn = avc.with_parameter_sets(&Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 9]));
        assert!(torn.ends_with(&[0xff, 0xff, 0xff, 0xff, 9]));
    }

    #[test]
    fn sbr_in_five_bytes_and_he_aac_are_understood() {
        let trailing = Aac::parse(Bytes::from_static(&[0x11, 0x88, 0x56, 0xe5, 0x00])).unwrap();
        assert_eq!((trailing.name(), trailing.rate().get()), ("mp4a.40.2", 48_000));
        let explicit = Aac::parse(Bytes::from_static(&[0x2b, 0x11, 0x88, 0x00])).unwrap();
        assert_eq!((explicit.name(), explicit.rate().get()), ("mp4a.40.5", 24_000));
    }

    #[test]
    fn what_profiles_from_high_on_must_have_is_added() {
        let short = gop::AVC_360P.len() - 4;
        let avc = Avc::parse(Bytes::from_static(&gop::AVC_360P[..short])).unwrap();
        assert!(avc.entry().encode_to_vec().is_ok());
    }

    #[test]
    fn every_truncation_is_refused_or_read() {
        // The four bytes that may be missing, and nothing shorter.
        let whole = gop::AVC_360P.len();
        for length in 0..whole {
            let parsed = Avc::parse(Bytes::from_static(&gop::AVC_360P[..length]));
            assert_eq!(parsed.is_ok(), length == whole - 4, "{length}");
        }
        for length in 0..2 {
            assert!(Aac::parse(Bytes::from_static(&gop::AAC_48K_STEREO[..length])).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_record_panics(record: Vec<u8>, at in 0..gop::AVC_360P.len(), byte: u8) {
            let _ = Aac::parse(record.clone().into());
            let _ = Avc::parse(record.into());
            let mut near = gop::AVC_360P.to_vec();
            near[at] = byte;
            if let Ok(avc) = Avc::parse(near.into()) {
                let _ = avc.entry().encode_to_vec();
            }
        }
    }
}
