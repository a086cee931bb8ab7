//! Synthetic GOPs: frames with an encoder's timing and sizes.
//!
//! The configuration records are real ones (x264 High with B-frames, AAC-LC);
//! pictures are NAL units of the right type filled with noise, so everything
//! but a decoder is content.

use bytes::Bytes;
use spyglass_media::{Frame, MediaTime, Track, UtcTime, capture_sei};

/// x264, High 3.0, 640x360 at 25 frames a second: an
/// AVCDecoderConfigurationRecord.
pub const AVC_360P: &[u8] = &[
    0x01, 0x64, 0x00, 0x1e, 0xff, 0xe1, 0x00, 0x1a, 0x67, 0x64, 0x00, 0x1e, 0xac, 0xd9, 0x40, 0xa0,
    0x2f, 0xf9, 0x70, 0x11, 0x00, 0x00, 0x03, 0x00, 0x01, 0x00, 0x00, 0x03, 0x00, 0x32, 0x0f, 0x16,
    0x2d, 0x96, 0x01, 0x00, 0x06, 0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0, 0xfd, 0xf8, 0xf8, 0x00,
];

/// x264, High 3.1, 1280x720 at 25 frames a second.
pub const AVC_720P: &[u8] = &[
    0x01, 0x64, 0x00, 0x1f, 0xff, 0xe1, 0x00, 0x1a, 0x67, 0x64, 0x00, 0x1f, 0xac, 0xd9, 0x40, 0x50,
    0x05, 0xbb, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x03, 0x03, 0x20, 0xf1, 0x83,
    0x19, 0x60, 0x01, 0x00, 0x06, 0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0, 0xfd, 0xf8, 0xf8, 0x00,
];

/// AAC-LC, 48 kHz, stereo, with ffmpeg's 3 bytes that say "no SBR": an
/// AudioSpecificConfig.
pub const AAC_48K_STEREO: &[u8] = &[0x11, 0x90, 0x56, 0xe5, 0x00];

/// AAC-LC, 44.1 kHz, stereo.
pub const AAC_44K_STEREO: &[u8] = &[0x12, 0x10];

/// How the pictures come.
#[derive(Clone, Debug)]
pub struct Video {
    /// Frames a second.
    pub rate: u32,
    /// Frames from one key frame to the next.
    pub gop: u32,
    /// B-frames between two others.
    pub b_frames: u32,
    /// Each key frame comes up to this many frames early or late.
    pub key_jitter: u32,
    /// Bytes of a key frame.
    pub key_bytes: usize,
    /// Bytes of any other frame.
    pub bytes: usize,
}

impl Default for Video {
    fn default() -> Self {
        Self { rate: 25, gop: 25, b_frames: 2, key_jitter: 0, key_bytes: 4_000, bytes: 600 }
    }
}

/// How the sound comes.
#[derive(Clone, Debug)]
pub struct Audio {
    /// Samples a second; a frame has 1024.
    pub rate: u32,
    /// Bytes of a frame.
    pub bytes: usize,
}

impl Default for Audio {
    fn default() -> Self {
        Self { rate: 48_000, bytes: 170 }
    }
}

/// An encoder: an endless iterator of frames of both tracks, by decode time,
/// with time stamps rounded to milliseconds as RTMP rounds them.
#[derive(Clone, Debug)]
pub struct Encoder {
    video: Option<Video>,
    audio: Option<Audio>,
    start: MediaTime,
    captured: Option<UtcTime>,
    pictures: u64,
    sounds: u64,
    /// Pictures until the next key frame.
    until_key: u32,
    /// Pictures since the last key frame.
    since_key: u32,
    noise: u64,
}

impl Encoder {
    /// An encoder whose first frame stands at `start`.
    pub fn new(video: Option<Video>, audio: Option<Audio>, start: MediaTime) -> Self {
        Self {
            video,
            audio,
            start,
            captured: None,
            pictures: 0,
            sounds: 0,
            until_key: 0,
            since_key: 0,
            noise: 1,
        }
    }

    /// Video and audio with their defaults, from zero.
    pub fn both() -> Self {
        Self::new(Some(Video::default()), Some(Audio::default()), MediaTime::ZERO)
    }

    /// Key frames carry the moment they were captured, counted from `first`.
    pub fn stamped(mut self, first: UtcTime) -> Self {
        self.captured = Some(first);
        self
    }

    /// Other noise, other jitter.
    pub fn seeded(mut self, seed: u64) -> Self {
        self.noise = seed | 1;
        self
    }

    /// All frames before `end` (by decode time) that have not come yet.
    pub fn until(&mut self, end: MediaTime) -> Vec<Frame> {
        let mut frames = Vec::new();
        while self.next_time().is_some_and(|time| time < end) {
            frames.extend(self.next());
        }
        frames
    }

    fn next_time(&self) -> Option<MediaTime> {
        [self.video_time(), self.audio_time()].into_iter().flatten().min()
    }

    fn video_time(&self) -> Option<MediaTime> {
        let video = self.video.as_ref()?;
        Some(self.at(self.pictures * 1000 / u64::from(video.rate)))
    }

    fn audio_time(&self) -> Option<MediaTime> {
        let audio = self.audio.as_ref()?;
        Some(self.at(self.sounds * 1_024_000 / u64::from(audio.rate)))
    }

    fn at(&self, millis: u64) -> MediaTime {
        MediaTime::from_ticks(self.start.ticks() + MediaTime::from_millis(millis as i64).ticks())
    }

    fn random(&mut self) -> u64 {
        self.noise ^= self.noise << 13;
        self.noise ^= self.noise >> 7;
        self.noise ^= self.noise << 17;
        self.noise
    }

    /// Bytes that need no emulation prevention: none is zero.
    fn fill(&mut self, out: &mut Vec<u8>, count: usize) {
        while out.len() < count {
            out.push(self.random() as u8 | 1);
        }
        out.truncate(count.max(1));
    }

    fn picture(&mut self, video: &Video, dts: MediaTime) -> Frame {
        let key = self.until_key == 0;
        if key {
            let spread = u64::from(video.key_jitter);
            let jitter = self.random() % (2 * spread + 1);
            let length = (u64::from(video.gop) + jitter).saturating_sub(spread).max(1);
            self.until_key = length as u32;
            self.since_key = 0;
        }
        // Decoded in the order I P B B P B B, every picture is shown one frame
        // later than it would be without reordering. At the end of a GOP a
        // group of B-frames is whole or absent, so that the GOP is closed.
        let group = video.b_frames + 1;
        let in_group = (self.since_key + video.b_frames) % group;
        let whole = video.b_frames > 0 && self.until_key + in_group >= group;
        let b_frame = !key && whole && in_group > 0;
        let shift = match (key, whole) {
            _ if video.b_frames == 0 || b_frame => 0,
            (false, true) => group,
            _ => 1,
        };
        self.until_key -= 1;
        self.since_key += 1;
        self.pictures += 1;

        let (nal, size) = match (key, b_frame) {
            (true, _) => (0x65, video.key_bytes),
            (_, true) => (0x01, video.bytes / 2),
            (_, false) => (0x41, video.bytes),
        };
        let captured = self.captured.filter(|_| key).map(|first| first + dts.since(self.start));
        let mut payload = vec![nal];
        self.fill(&mut payload, size);
        let composition = i64::from(shift) * 1000 / i64::from(video.rate);
        let mut body = vec![if key { 0x17 } else { 0x27 }, 1];
        body.extend_from_slice(&(composition as u32).to_be_bytes()[1..]);
        body.extend(captured.map(capture_sei).unwrap_or_default());
        body.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        body.extend(payload);
        let body = Bytes::from(body);
        Frame {
            track: Track::Video,
            dts,
            composition: composition as i32 * 90,
            key,
            sample: body.slice(5..),
            body,
            captured,
        }
    }

    fn sound(&mut self, audio: &Audio, dts: MediaTime) -> Frame {
        self.sounds += 1;
        let mut body = vec![0xaf, 1];
        self.fill(&mut body, audio.bytes + 2);
        let body = Bytes::from(body);
        Frame {
            track: Track::Audio,
            dts,
            composition: 0,
            key: true,
            sample: body.slice(2..),
            body,
            captured: None,
        }
    }
}

impl Iterator for Encoder {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        match (self.video_time(), self.audio_time()) {
            (Some(video), audio) if audio.is_none_or(|audio| video <= audio) => {
                let settings = self.video.clone()?;
                Some(self.picture(&settings, video))
            }
            (_, Some(audio)) => {
                let settings = self.audio.clone()?;
                Some(self.sound(&settings, audio))
            }
            _ => None,
        }
    }
}

/// The RTMP body that announces an AVCDecoderConfigurationRecord.
pub fn video_config_body(record: &[u8]) -> Bytes {
    [&[0x17, 0, 0, 0, 0], record].concat().into()
}

/// The RTMP body that announces an AudioSpecificConfig.
pub fn audio_config_body(record: &[u8]) -> Bytes {
    [&[0xaf, 0], record].concat().into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use spyglass_media::find_capture;

    #[test]
    fn key_frames_come_when_asked_and_no_two_pictures_are_shown_at_once() {
        for b_frames in 0..4 {
            for gop in [1, 2, 7, 25] {
                let video = Video { b_frames, gop, ..Video::default() };
                let mut encoder = Encoder::new(Some(video), None, MediaTime::ZERO);
                let frames = encoder.until(MediaTime::from_millis(4_000));
                assert_eq!(frames.len(), 100);
                for (index, frame) in frames.iter().enumerate() {
                    assert_eq!(frame.key, index % gop as usize == 0, "{b_frames} {gop} {index}");
                }
                let shown: HashSet<_> = frames.iter().map(Frame::pts).collect();
                assert_eq!(shown.len(), frames.len(), "{b_frames} {gop}");
            }
        }
    }

    #[test]
    fn tracks_are_interleaved_by_decode_time() {
        let frames: Vec<_> = Encoder::both().take(500).collect();
        assert!(frames.windows(2).all(|pair| pair[0].dts <= pair[1].dts));
        assert!(frames.iter().any(|frame| frame.track == Track::Audio));
    }

    #[test]
    fn a_stamped_key_frame_tells_when_it_was_captured() {
        let first = UtcTime::from_millis(1_700_000_000_000);
        for frame in Encoder::both().stamped(first).take(200) {
            assert_eq!(find_capture(&frame.sample), frame.captured);
            assert_eq!(frame.captured.is_some(), frame.key && frame.track == Track::Video);
        }
    }
}
