//! A broadcast in memory: a segmenter, its list, a clock that jumps from one
//! event to the next, and a judge who sees every version.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod judge;
pub mod parts;

use std::time::{Duration, Instant};

use bytes::Bytes;
use shiguredo_mp4::Decode as _;
use shiguredo_mp4::boxes::{MdatBox, MoofBox, TrafBox};
use spyglass_hls::chunklist::{self, Chunklist, Saved};
use spyglass_hls::playlist;
use spyglass_hls::segmenter::{
    Chunk, Codec, Config, Gap, Init, Output, Part, Resume, Segmenter, Warning,
};
use spyglass_media::{Frame, MediaTime, Resource, UtcTime};
use spyglass_testkit::gop::{self, Encoder, Video};

use judge::Judge;

/// The wall clock when a broadcast begins.
pub const BEGIN: UtcTime = UtcTime::from_millis(1_790_000_000_000);

pub struct Broadcast {
    pub segmenter: Segmenter,
    pub list: Chunklist,
    pub judge: Judge,
    pub outputs: Vec<Output>,
    config: Config,
    list_config: chunklist::Config,
    base: Instant,
    now: Duration,
}

impl Broadcast {
    /// Chunks of this length and parts of 0.2 s.
    pub fn new(chunk: Duration) -> Self {
        Self::of(Config { chunk, part: Duration::from_millis(200) }, 6)
    }

    pub fn of(config: Config, window: usize) -> Self {
        let list_config = chunklist::Config { window, ..chunklist::Config::of(&config) };
        Self {
            segmenter: Segmenter::new(config, Default::default()),
            list: Chunklist::new(list_config, &Resume::default()),
            list_config,
            judge: Judge::default(),
            outputs: Vec::new(),
            config,
            base: Instant::now(),
            now: Duration::ZERO,
        }
    }

    /// 3 s chunks, a publisher with both tracks connected.
    pub fn both() -> Self {
        let mut broadcast = Self::new(Duration::from_secs(3));
        broadcast.connect(Some(gop::AVC_360P), Some(gop::AAC_48K_STEREO));
        broadcast
    }

    pub fn connect(&mut self, video: Option<&'static [u8]>, audio: Option<&'static [u8]>) {
        self.segmenter.on_publisher(self.instant());
        self.codecs(video, audio);
    }

    pub fn codecs(&mut self, video: Option<&'static [u8]>, audio: Option<&'static [u8]>) {
        if let Some(record) = video {
            self.segmenter.on_codec(Codec::Video(Bytes::from_static(record)));
        }
        if let Some(record) = audio {
            self.segmenter.on_codec(Codec::Audio(Bytes::from_static(record)));
        }
    }

    pub fn now(&self) -> Duration {
        self.now
    }

    fn instant(&self) -> Instant {
        self.base + self.now
    }

    /// Time passes; deadlines are met on the way.
    pub fn pass_until(&mut self, until: Duration) {
        while let Some(deadline) = self.segmenter.next_deadline() {
            let deadline = deadline - self.base;
            if deadline > until {
                break;
            }
            self.now = self.now.max(deadline);
            let outputs = self.segmenter.on_deadline(self.instant());
            assert!(!outputs.is_empty(), "a deadline for nothing");
            self.carry_out(outputs);
        }
        self.now = self.now.max(until);
        self.judge.now(self.now);
        self.list.expire(self.instant());
    }

    pub fn pass(&mut self, time: Duration) {
        self.pass_until(self.now + time);
    }

    /// A frame comes at once.
    pub fn frame(&mut self, frame: &Frame) {
        let utc = BEGIN + self.now;
        let outputs = self.segmenter.on_frame(self.instant(), utc, frame);
        self.carry_out(outputs);
    }

    /// An encoder's frames up to `end` come in real time: a frame at 5 s comes
    /// when the clock shows `offset` + 5 s.
    pub fn play(&mut self, encoder: &mut Encoder, end: Duration, offset: Duration) {
        for frame in encoder.until(MediaTime::ZERO + end) {
            self.pass_until(offset + frame.dts.since(MediaTime::ZERO));
            self.frame(&frame);
        }
    }

    pub fn end(&mut self) {
        let outputs = self.segmenter.on_end(self.instant());
        self.carry_out(outputs);
        self.list.on_end(self.instant());
        self.show();
    }

    /// The process dies and comes back `away` later.
    pub fn restart(&mut self, away: Duration) {
        let saved: Saved =
            serde_json::from_str(&serde_json::to_string(&self.list.save()).unwrap()).unwrap();
        let (version, position) = (self.list.version(), self.list.position());
        let list = Chunklist::restore(self.list_config, saved, |it| self.list.get(it)).unwrap();
        let lines = |list: &Chunklist| list.snapshot().lines;
        assert_eq!(lines(&list), lines(&self.list));
        assert!(list.covers(version, position), "more was listed than can be known");
        assert!(list.version() >= version);
        self.list = list;
        self.segmenter = Segmenter::new(self.config, self.list.resume());
        self.now += away;
        let outputs = self.segmenter.on_restart(self.instant(), BEGIN + self.now);
        self.judge.restarted(away);
        self.carry_out(outputs);
        assert!(self.list.position() >= position, "a list ends before what was shown");
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        let mut changed = false;
        let before = self.list.version();
        for output in outputs {
            self.outputs.push(output.clone());
            changed |= self.list.on_output(self.instant(), output);
        }
        self.list.expire(self.instant());
        assert_eq!(changed, self.list.version() > before);
        if changed {
            self.show();
        }
    }

    fn text(&self) -> String {
        playlist::media(&self.list.snapshot())
    }

    fn show(&mut self) {
        if self.list.position().is_none() {
            return;
        }
        let text = self.text();
        let delta = playlist::delta(&self.list.snapshot());
        self.judge
            .see(self.now, &text, delta.as_deref(), |uri| self.list.get(Resource::parse(uri)?));
    }

    pub fn chunks(&self) -> Vec<&Chunk> {
        let found = self.outputs.iter().filter_map(|output| match output {
            Output::Chunk(found) => Some(found),
            _ => None,
        });
        found.collect()
    }

    pub fn parts(&self) -> Vec<&Part> {
        let found = self.outputs.iter().filter_map(|output| match output {
            Output::Part(found) => Some(found),
            _ => None,
        });
        found.collect()
    }

    pub fn gaps(&self) -> Vec<&Gap> {
        let found = self.outputs.iter().filter_map(|output| match output {
            Output::Gap(found) => Some(found),
            _ => None,
        });
        found.collect()
    }

    pub fn inits(&self) -> Vec<&Init> {
        let found = self.outputs.iter().filter_map(|output| match output {
            Output::Init(found) => Some(found),
            _ => None,
        });
        found.collect()
    }

    pub fn warnings(&self) -> Vec<&Warning> {
        let found = self.outputs.iter().filter_map(|output| match output {
            Output::Warning(found) => Some(found),
            _ => None,
        });
        found.collect()
    }
}

/// An encoder with 2 B-frames at 25 frames a second.
pub fn gop_of(frames: u32) -> Encoder {
    let video = Video { gop: frames, ..Video::default() };
    Encoder::new(Some(video), Some(Default::default()), MediaTime::ZERO)
}

pub fn seconds(count: f64) -> Duration {
    Duration::from_secs_f64(count)
}

/// Samples of a track in a chunk: start and durations, in the track's scale. Its
/// parts must follow one another without a seam.
pub fn samples(chunk: &Chunk, track: u32) -> Option<(u64, Vec<u32>)> {
    let mut found: Option<(u64, Vec<u32>)> = None;
    let mut rest = &chunk.bytes[..];
    while !rest.is_empty() {
        let (moof, length) = MoofBox::decode(rest).unwrap();
        let (_, body) = MdatBox::decode(&rest[length..]).unwrap();
        rest = &rest[length + body..];
        let of_track = |traf: &&TrafBox| traf.tfhd_box.track_id == track;
        let Some(traf) = moof.traf_boxes.iter().find(of_track) else { continue };
        let default = traf.tfhd_box.default_sample_duration;
        let start = traf.tfdt_box.as_ref().unwrap().base_media_decode_time;
        let samples = &traf.trun_boxes[0].samples;
        let each = samples.iter().map(|sample| sample.duration.or(default).unwrap());
        let (begin, all) = found.get_or_insert((start, Vec::new()));
        assert_eq!(*begin + all.iter().map(|each| u64::from(*each)).sum::<u64>(), start);
        all.extend(each);
    }
    found
}
