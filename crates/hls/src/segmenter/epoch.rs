//! One epoch: where it stands on the wall clock and the clocks of its tracks.
//! The chunk that is being filled is [`Open`].

use spyglass_media::{Frame, MediaTime, Track, UtcTime};

use super::input::Timing;
use super::open::Open;
use crate::cmaf::Sample;
use crate::codec::Aac;

/// Ticks of media time to microseconds and back.
const TICKS: i128 = MediaTime::PER_SECOND as i128;
const MICROS: i128 = 1_000_000;

/// Video counts as silent when it is this far behind the audio; audio then
/// decides where a chunk ends.
const SILENT: i64 = MediaTime::PER_SECOND;

/// Frame distances beyond this say nothing about the frame rate.
const SLOWEST: i64 = 2 * MediaTime::PER_SECOND;

pub(super) fn later(time: MediaTime, ticks: i64) -> MediaTime {
    MediaTime::from_ticks(time.ticks().saturating_add(ticks))
}

pub(super) fn ticks_between(earlier: UtcTime, later: UtcTime) -> i64 {
    let micros = i128::from(later.micros()) - i128::from(earlier.micros());
    i64::try_from(micros * TICKS / MICROS).unwrap_or(i64::MAX)
}

#[derive(Debug)]
pub(super) struct Epoch {
    pub number: u32,
    /// Media time and wall clock of one moment; they advance together.
    anchor: (MediaTime, UtcTime),
    /// Everything before this is listed, as chunks or as GAPs.
    pub end: MediaTime,
    /// What stands before this comes too late or too early to be taken.
    pub floor: MediaTime,
    /// The next chunk begins the epoch and another epoch stood before it.
    pub discontinuity: bool,
    video: Option<VideoClock>,
    audio: Option<AudioClock>,
    pub open: Option<Open>,
    /// Told of already.
    pub late: bool,
    /// Told of already.
    pub long_gop: bool,
    /// moofs written so far.
    pub fragments: u64,
}

/// A frame with its place in its track.
#[derive(Debug)]
pub(super) struct Placed {
    pub track: Track,
    pub at: MediaTime,
    /// How long it probably lasts, in ticks.
    pub step: i64,
    /// Ticks to expect until the next key frame; for key frames only.
    gop: i64,
    pub key: bool,
    pub sample: Sample,
}

/// Where the open chunk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub at: MediaTime,
    /// Not at a key frame, although there is video that flows.
    pub forced: bool,
}

impl Epoch {
    /// An epoch whose first frame stands at `anchor`.
    pub fn new(
        number: u32,
        anchor: (MediaTime, UtcTime),
        discontinuity: bool,
        video: bool,
        audio: Option<&Aac>,
    ) -> Self {
        Self {
            number,
            anchor,
            end: anchor.0,
            floor: anchor.0,
            discontinuity,
            video: video.then(VideoClock::default),
            audio: audio.map(AudioClock::new),
            open: None,
            late: false,
            long_gop: false,
            fragments: 0,
        }
    }

    /// What was listed before this process began: no tracks, only an end.
    pub fn past(number: u32, end: UtcTime) -> Self {
        Self::new(number, (MediaTime::ZERO, end), false, false, None)
    }

    pub fn has_video(&self) -> bool {
        self.video.is_some()
    }

    pub fn has(&self, track: Track) -> bool {
        match track {
            Track::Video => self.video.is_some(),
            Track::Audio => self.audio.is_some(),
        }
    }

    /// The wall clock at a media time of this epoch.
    pub fn wall(&self, time: MediaTime) -> UtcTime {
        let ticks = i128::from(time.ticks()) - i128::from(self.anchor.0.ticks());
        let micros = i128::from(self.anchor.1.micros()) + ticks * MICROS / TICKS;
        UtcTime::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    /// Gives a frame its place; tracks run strictly forward.
    pub fn place(&mut self, frame: &Frame) -> Option<Placed> {
        match frame.track {
            Track::Video => Some(self.video.as_mut()?.place(frame)),
            Track::Audio => Some(self.audio.as_mut()?.place(frame)),
        }
    }

    /// Video is expected and has not come for long, by the audio's clock.
    fn silent(&self, open: &Open, next: &Placed) -> bool {
        let last = self.video.as_ref().map(|video| video.last.unwrap_or(open.start));
        last.is_some_and(|last| (next.at - last).ticks() > SILENT)
    }

    /// Whether parts are cut of a chunk that begins now: some frame must come
    /// within the length of each.
    fn has_parts(&self, timing: &Timing) -> bool {
        let often = self.video.as_ref().is_some_and(|video| video.step <= timing.part_most);
        timing.part > 0 && (self.audio.is_some() || often)
    }

    /// Whether this frame tells how far the open part has come: a picture, as
    /// long as pictures come often enough.
    pub fn paces_parts(&self, next: &Placed, timing: &Timing) -> bool {
        let Some(open) = self.open.as_ref().filter(|open| open.has_parts) else { return false };
        let slow = self.video.as_ref().is_none_or(|video| video.step > timing.part_most);
        match next.track {
            Track::Video => !slow || self.audio.is_none(),
            Track::Audio => slow || self.silent(open, next),
        }
    }

    /// Samples per second of audio.
    pub fn audio_rate(&self) -> u64 {
        self.audio.as_ref().map_or(1, |clock| clock.rate)
    }

    /// Whether the open chunk ends before this frame, and where.
    pub fn cut_before(&self, next: &Placed, timing: &Timing) -> Option<Cut> {
        let open = self.open.as_ref()?;
        let silent = self.silent(open, next);
        let decides = next.track == Track::Video || !self.has_video() || silent;
        if !decides && !open.full() {
            return None;
        }
        let elapsed = (next.at - open.start).ticks();
        if elapsed > timing.limit {
            // Frames are missing: end where the last of them did.
            let end = open.end.ticks().min(open.start.ticks().saturating_add(timing.limit));
            return Some(Cut { at: MediaTime::from_ticks(end), forced: false });
        }
        let starts = next.key && !silent;
        let long_enough = elapsed >= timing.chunk;
        // The next key frame would come too late: a shorter chunk that starts
        // with a key frame is worth more than a longer one that does not.
        let last_chance = elapsed >= timing.chunk / 4
            && elapsed.saturating_add(next.gop).saturating_add(next.gop / 8) > timing.limit;
        if starts && (long_enough || last_chance) {
            return Some(Cut { at: next.at, forced: false });
        }
        if elapsed + next.step > timing.limit || open.full() {
            return Some(Cut { at: next.at, forced: next.track == Track::Video && !next.key });
        }
        None
    }

    /// Takes a frame into the open chunk, which begins with it if there is none.
    pub fn push(&mut self, placed: Placed, timing: &Timing) {
        let (start, has_parts) = (self.end, self.has_parts(timing));
        let length = self.audio.as_ref().map_or(0, |clock| clock.frame);
        self.open.get_or_insert_with(|| Open::new(start, has_parts)).push(placed, length);
    }
}

#[derive(Debug)]
struct VideoClock {
    last: Option<MediaTime>,
    last_key: Option<MediaTime>,
    /// The two GOPs before this one, in ticks; 0 while unknown. The longer of
    /// them is expected, because encoders put in a key frame at a new scene.
    gops: [i64; 2],
    step: i64,
}

impl Default for VideoClock {
    fn default() -> Self {
        // 30 frames a second until the second frame tells.
        Self { last: None, last_key: None, gops: [0; 2], step: MediaTime::PER_SECOND / 30 }
    }
}

impl VideoClock {
    fn place(&mut self, frame: &Frame) -> Placed {
        let mut at = frame.dts.max(MediaTime::ZERO);
        if let Some(last) = self.last {
            at = at.max(later(last, 1));
            let step = (at - last).ticks();
            if step <= SLOWEST {
                self.step = step;
            } else {
                // Pictures are missing: no GOP spans that.
                self.last_key = None;
            }
        }
        self.last = Some(at);
        if frame.key {
            let gop = self.last_key.map_or(0, |last| (at - last).ticks());
            self.gops = [self.gops[1], gop];
            self.last_key = Some(at);
        }
        let gop = self.gops[0].max(self.gops[1]);
        let sample = Sample {
            dts: at.ticks().unsigned_abs(),
            composition: frame.composition,
            key: frame.key,
            data: frame.sample.clone(),
        };
        Placed { track: Track::Video, at, step: self.step, gop, key: frame.key, sample }
    }
}

/// Counts in samples. RTMP's milliseconds are too coarse for audio: as long as
/// they agree within half a frame, frames follow one another without a seam.
#[derive(Debug)]
struct AudioClock {
    rate: u64,
    /// Samples in a frame.
    frame: u64,
    next: Option<u64>,
}

impl AudioClock {
    fn new(aac: &Aac) -> Self {
        Self { rate: aac.rate().get().into(), frame: aac.frame_length().into(), next: None }
    }

    fn place(&mut self, frame: &Frame) -> Placed {
        let at = frame.dts.max(MediaTime::ZERO);
        let per_second = u128::from(MediaTime::PER_SECOND.unsigned_abs());
        let samples = u128::from(at.ticks().unsigned_abs()) * u128::from(self.rate);
        let told = u64::try_from((samples + per_second / 2) / per_second).unwrap_or(u64::MAX / 2);
        let dts = match self.next {
            Some(next) if told <= next + self.frame / 2 && told + self.rate / 4 >= next => next,
            // Never back: the last frame was taken one frame before `next`.
            Some(next) => told.max(next.saturating_sub(self.frame) + 1),
            None => told,
        };
        self.next = Some(dts + self.frame);
        let step = (self.frame * per_second as u64 / self.rate) as i64;
        let sample = Sample { dts, composition: 0, key: true, data: frame.sample.clone() };
        Placed { track: Track::Audio, at, step, gop: step, key: true, sample }
    }
}
