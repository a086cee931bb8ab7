//! Decides when a chunk ends.
//!
//! Frames go in, chunks come out: cut at the first key frame once the chunk is
//! long enough, cut without one before it grows too long, closed short when the
//! publisher stalls. Then GAPs are listed until frames return. Writing the bytes
//! is [`cmaf`]'s, remembering what is listed is
//! [`chunklist`](crate::chunklist)'s.
//!
//! The rules, of draft-pantos-hls-rfc8216bis: an EXTINF rounds to the target
//! duration at most (P1); something new is listed within 1.5 target durations of
//! the last (P4); a new connection, codec or clock is a new epoch behind a
//! DISCONTINUITY (P8); GAPs add up to what is missing (P9); date and time are
//! anchored once per epoch and never go back (P10).

mod epoch;
mod input;
mod open;
mod output;
mod parts;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use spyglass_media::{Frame, MediaTime, Track, UtcTime};

use crate::cmaf;
use crate::codec::{Aac, Avc};
use epoch::{Epoch, Placed, later, ticks_between};
use input::Timing;

pub use input::{Codec, Config, Resume, Tail};
pub use output::{Chunk, Gap, Init, Output, Part, Warning};

/// Missing media shorter than this is no GAP; the chunk behind it begins early.
const HOLE: i64 = MediaTime::PER_SECOND / 10;

/// When more target durations of media are missing than this, they are not
/// listed at once: no viewer needs a list of nothing but GAPs. Date and time
/// jump over it.
const LONGEST_HOLE: i64 = 5;

/// How long a connection that only sends audio may still turn out to have video.
const AUDIO_ONLY_AFTER: i64 = MediaTime::PER_SECOND;

/// Audio held until that is known; 1 s has 94 frames at most.
const HELD: usize = 128;

/// After a restart no GAP but that of a torn chunk is listed for so long: within
/// it, edges say what they hold, and it may be more than this process knows.
const HEARING: Duration = Duration::from_millis(1_500);

/// A capture stamp further from our clock than this is not believed.
const STAMP_TOLERANCE: Duration = Duration::from_secs(10);

/// Epochs are no closer than this, however often the publisher changes its codec.
const EPOCH_INTERVAL: Duration = Duration::from_secs(1);

/// Silence that ends one return of frames, so that the next counts anew.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes chunks of one broadcast's frames.
#[derive(Debug)]
pub struct Segmenter {
    timing: Timing,
    sequence: u64,
    last_epoch: u32,
    epoch: Option<Epoch>,
    connection: Connection,
    /// When the list last grew; rule P4 counts from here.
    appeared: Option<Instant>,
    /// When the list last grew before this process took over.
    restored: Option<UtcTime>,
    /// A moment by both clocks.
    clock: Option<(Instant, UtcTime)>,
    opened: Option<Instant>,
    waiting: Option<Waiting>,
    /// The next sequence number can only be a GAP's ([`Tail::torn`]), which
    /// [`Self::on_restart`] lists.
    torn: bool,
    warnings: Vec<Warning>,
    ended: bool,
}

/// What is known of the publisher's present connection.
#[derive(Debug)]
struct Connection {
    video: Option<Avc>,
    audio: Option<Aac>,
    /// Nothing of it has been taken yet.
    fresh: bool,
    /// The next frame that can begin an epoch does.
    reopen: bool,
    /// Coded in a way that the present epoch's init does not describe.
    stale: [bool; 2],
    first_audio: Option<MediaTime>,
    held: VecDeque<Frame>,
}

impl Connection {
    fn new() -> Self {
        Self {
            video: None,
            audio: None,
            fresh: true,
            reopen: true,
            stale: [true; 2],
            first_audio: None,
            held: VecDeque::new(),
        }
    }
}

/// A GAP is listed; what may follow it?
#[derive(Debug, Default)]
struct Waiting {
    /// Frames have been coming again since.
    since: Option<Instant>,
    last: Option<Instant>,
    video: bool,
}

enum Admission {
    Drop,
    Resume,
    /// The publisher's clock stood still while it stalled: its frames will stay
    /// late for ever, so they go into a new epoch.
    Reopen,
}

impl Segmenter {
    /// A segmenter that goes on from `resume`.
    pub fn new(config: Config, resume: Resume) -> Self {
        Self {
            timing: Timing::new(config),
            sequence: resume.next_sequence,
            last_epoch: resume.epoch,
            epoch: resume.tail.map(|tail| Epoch::past(tail.epoch, tail.end)),
            connection: Connection::new(),
            appeared: None,
            restored: resume.tail.map(|tail| tail.listed),
            clock: None,
            opened: None,
            waiting: None,
            torn: resume.tail.is_some_and(|tail| tail.torn),
            warnings: Vec::new(),
            ended: false,
        }
    }

    /// This process has taken over a list that others are reading: until a
    /// publisher returns, GAPs keep it moving. `utc` is the wall clock at `now`
    /// and tells how long nobody did. A chunk that was torn is a GAP at once, as
    /// long as what is missing so far: no list may end before what was shown.
    pub fn on_restart(&mut self, now: Instant, utc: UtcTime) -> Vec<Output> {
        let mut out = Vec::new();
        self.clock = Some((now, utc));
        if let Some(listed) = self.restored {
            let most = self.timing.stall.saturating_sub(HEARING);
            let silent = utc.since(listed).min(most);
            self.appeared = Some(now.checked_sub(silent).unwrap_or(now));
        }
        if let Some(epoch) = self.epoch.as_ref().filter(|_| self.torn) {
            let missing = ticks_between(epoch.wall(epoch.end), utc);
            self.gap(now, missing.clamp(HOLE, self.timing.target), &mut out);
        }
        out
    }

    /// A publisher has connected, for the first time or again. Its first frame
    /// that can begin an epoch will, behind a DISCONTINUITY.
    pub fn on_publisher(&mut self, _now: Instant) {
        self.connection = Connection::new();
    }

    /// The publisher told a track's configuration. One that is new in
    /// mid-stream opens an epoch at the next key frame.
    pub fn on_codec(&mut self, codec: Codec) {
        let connection = &mut self.connection;
        let (track, known) = match &codec {
            Codec::Video(record) => {
                (Track::Video, connection.video.as_ref().is_some_and(|avc| avc.record() == record))
            }
            Codec::Audio(record) => {
                (Track::Audio, connection.audio.as_ref().is_some_and(|aac| aac.record() == record))
            }
        };
        if known {
            return;
        }
        let parsed = match codec {
            Codec::Video(record) => Avc::parse(record).map(|avc| connection.video = Some(avc)),
            Codec::Audio(record) => Aac::parse(record).map(|aac| connection.audio = Some(aac)),
        };
        if let Err(error) = parsed {
            match track {
                Track::Video => connection.video = None,
                Track::Audio => connection.audio = None,
            }
            let warning = Warning::Codec(error);
            if !self.warnings.contains(&warning) && self.warnings.len() < 4 {
                self.warnings.push(warning);
            }
        }
        connection.stale[track as usize] = true;
        connection.reopen = true;
    }

    /// The publisher's clock jumped: a new epoch at the next key frame.
    pub fn on_jump(&mut self) {
        self.connection.reopen = true;
    }

    /// A frame has come. `utc` is the wall clock at `now`.
    pub fn on_frame(&mut self, now: Instant, utc: UtcTime, frame: &Frame) -> Vec<Output> {
        let mut out = self.told();
        if self.ended {
            return out;
        }
        self.clock = Some((now, utc));
        if self.connection.reopen && self.can_open(now, frame) {
            self.open(now, utc, frame, &mut out);
        } else if self.connection.fresh {
            self.hold(frame);
        } else if !self.connection.stale[frame.track as usize] {
            self.take(now, utc, frame, &mut out);
        }
        out
    }

    /// Call when [`Self::next_deadline`] has passed; early calls do nothing.
    pub fn on_deadline(&mut self, now: Instant) -> Vec<Output> {
        let mut out = Vec::new();
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return out;
        }
        let Some(epoch) = &self.epoch else { return out };
        match &epoch.open {
            Some(open) => {
                let end = open.end.min(later(open.start, self.timing.limit));
                self.close(now, end, None, &mut out);
            }
            None => {
                self.gap(now, self.timing.target, &mut out);
                self.waiting.get_or_insert_default();
            }
        }
        out
    }

    /// When the list must grow next. `None` before the first frame and after
    /// the end.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.appeared.filter(|_| !self.ended).map(|appeared| appeared + self.timing.stall)
    }

    /// The broadcast is over: what is there becomes the last chunk.
    pub fn on_end(&mut self, now: Instant) -> Vec<Output> {
        let mut out = self.told();
        if let Some(open) = self.epoch.as_ref().and_then(|epoch| epoch.open.as_ref()) {
            let end = open.end.min(later(open.start, self.timing.limit));
            self.close(now, end, None, &mut out);
        }
        self.ended = true;
        out
    }

    /// The last epoch opened; 0 for none.
    pub fn epoch(&self) -> u32 {
        self.last_epoch
    }

    /// A key frame of the present connection has been taken, or an audio frame
    /// when it has no video.
    pub fn started(&self) -> bool {
        !self.connection.fresh
    }

    fn told(&mut self) -> Vec<Output> {
        self.warnings.drain(..).map(Output::Warning).collect()
    }

    // ---- epochs

    fn can_open(&self, now: Instant, frame: &Frame) -> bool {
        let connection = &self.connection;
        if self.opened.is_some_and(|opened| now.duration_since(opened) < EPOCH_INTERVAL) {
            return false;
        }
        match (&connection.video, &connection.audio) {
            (Some(_), _) => frame.track == Track::Video && frame.key,
            (None, Some(_)) if frame.track == Track::Audio => {
                let waited = |first| (frame.dts - first).ticks() >= AUDIO_ONLY_AFTER;
                !connection.fresh || connection.first_audio.is_some_and(waited)
            }
            _ => false,
        }
    }

    /// Keeps audio that may belong to an epoch about to open.
    fn hold(&mut self, frame: &Frame) {
        let connection = &mut self.connection;
        if frame.track == Track::Audio && connection.audio.is_some() {
            connection.first_audio.get_or_insert(frame.dts);
            if connection.held.len() == HELD {
                connection.held.pop_front();
            }
            connection.held.push_back(frame.clone());
        }
    }

    fn open(&mut self, now: Instant, utc: UtcTime, frame: &Frame, out: &mut Vec<Output>) {
        let connection = &self.connection;
        let (video, audio) = (connection.video.as_ref(), connection.audio.as_ref());
        let bytes = match cmaf::init(video, audio) {
            Ok(bytes) => bytes,
            Err(error) => return out.push(Output::Warning(Warning::Codec(error))),
        };
        let codecs: Vec<_> =
            [video.map(Avc::name), audio.map(Aac::name)].into_iter().flatten().collect();
        let init = Init {
            epoch: self.last_epoch.saturating_add(1),
            bytes,
            codecs: codecs.join(","),
            resolution: video.map(Avc::resolution),
        };

        // Held audio is older than a key frame, but part of what only has audio.
        let mut held = std::mem::take(&mut self.connection.held);
        let first = match held.front() {
            Some(held) if frame.track == Track::Audio => held.dts.min(frame.dts),
            _ => frame.dts,
        };
        let stamp = frame.captured.filter(|stamp| stamp.distance(utc) <= STAMP_TOLERANCE);
        let begin = stamp.unwrap_or(utc) - frame.dts.since(first);
        self.end_epoch(now, begin, out);
        let begin = match &self.epoch {
            Some(before) => begin.max(before.wall(before.end)),
            None => begin,
        };

        let connection = &mut self.connection;
        let again = self.last_epoch > 0;
        let epoch = Epoch::new(
            init.epoch,
            (first, begin),
            again,
            connection.video.is_some(),
            connection.audio.as_ref(),
        );
        connection.fresh = false;
        connection.reopen = false;
        connection.stale = [false; 2];
        self.last_epoch = init.epoch;
        self.epoch = Some(epoch);
        self.waiting = None;
        self.opened = Some(now);
        self.appeared.get_or_insert(now);
        out.push(Output::Init(init));
        let mut frame = frame.clone();
        if frame.track == Track::Audio {
            held.push_back(frame);
        } else {
            if let Some(avc) = self.connection.video.as_ref().filter(|_| again) {
                frame.sample = avc.with_parameter_sets(&frame.sample);
            }
            held.push_front(frame);
        }
        for frame in held {
            self.take(now, utc, &frame, out);
        }
    }

    /// Closes the epoch before a new one and fills the time between them.
    fn end_epoch(&mut self, now: Instant, next: UtcTime, out: &mut Vec<Output>) {
        let Some(epoch) = &self.epoch else { return };
        if let Some(open) = &epoch.open {
            let end = open.end.min(later(open.start, self.timing.limit));
            self.close(now, end, None, out);
        }
        let Some(epoch) = &self.epoch else { return };
        let missing = ticks_between(epoch.wall(epoch.end), next);
        let until = later(epoch.end, missing);
        self.fill(now, until, out);
    }

    // ---- chunks

    fn take(&mut self, now: Instant, utc: UtcTime, frame: &Frame, out: &mut Vec<Output>) {
        let Some(epoch) = &self.epoch else { return };
        if !epoch.has(frame.track) || frame.dts < epoch.floor {
            return;
        }
        match self.admit(now, frame, out) {
            Admission::Drop => return,
            Admission::Reopen => return self.open(now, utc, frame, out),
            Admission::Resume => {}
        }
        let Some(placed) = self.epoch.as_mut().and_then(|epoch| epoch.place(frame)) else { return };
        let cut = self.epoch.as_ref().and_then(|epoch| epoch.cut_before(&placed, &self.timing));
        if let Some(cut) = cut {
            self.close(now, cut.at, Some(&placed), out);
            self.warn_of_long_gop(cut.forced, out);
        } else {
            self.cut_parts_before(&placed, out);
        }
        if self.epoch.as_ref().is_some_and(|epoch| epoch.open.is_none()) {
            self.fill(now, placed.at, out);
        }
        if let Some(epoch) = &mut self.epoch {
            epoch.push(placed, &self.timing);
        }
    }

    /// Whether a frame may follow the GAPs listed last.
    fn admit(&mut self, now: Instant, frame: &Frame, out: &mut Vec<Output>) -> Admission {
        let (Some(epoch), Some(waiting)) = (&mut self.epoch, &mut self.waiting) else {
            return Admission::Resume;
        };
        if waiting.last.is_none_or(|last| now.duration_since(last) > PAUSE) {
            waiting.since = None;
        }
        waiting.last = Some(now);
        waiting.video |= frame.track == Track::Video;
        let returned = now.duration_since(*waiting.since.get_or_insert(now));
        let starts = match frame.track {
            Track::Video => frame.key,
            // Video may never return: after a while audio goes on alone.
            Track::Audio => {
                !epoch.has_video() || !waiting.video && returned >= 2 * self.timing.target_wall
            }
        };
        if starts && frame.dts >= epoch.end {
            epoch.floor = frame.dts;
            self.waiting = None;
            return Admission::Resume;
        }
        if starts && returned >= self.timing.target_wall {
            return Admission::Reopen;
        }
        if frame.dts < epoch.end && !epoch.late {
            epoch.late = true;
            out.push(Output::Warning(Warning::LateFrames));
        }
        Admission::Drop
    }

    fn warn_of_long_gop(&mut self, forced: bool, out: &mut Vec<Output>) {
        if let Some(epoch) = self.epoch.as_mut().filter(|epoch| forced && !epoch.long_gop) {
            epoch.long_gop = true;
            out.push(Output::Warning(Warning::LongGop));
        }
    }

    /// Ends the open chunk at `at`, or a little later when parts of it were
    /// listed beyond that.
    fn close(&mut self, now: Instant, at: MediaTime, next: Option<&Placed>, out: &mut Vec<Output>) {
        let next = next.filter(|next| next.at == at);
        self.cut_last_parts(at, next, out);
        let Some(epoch) = &mut self.epoch else { return };
        let Some(mut open) = epoch.open.take() else { return };
        let end = at.max(open.least_end());
        let duration = end - open.start;
        epoch.end = end;
        match open.join() {
            Some(bytes) => {
                out.push(Output::Chunk(Chunk {
                    epoch: epoch.number,
                    sequence: self.sequence,
                    start: open.start,
                    duration,
                    program_date_time: epoch.wall(open.start),
                    listed: listed_at(self.clock, now),
                    discontinuity: std::mem::take(&mut epoch.discontinuity),
                    independent: open.independent(epoch.has_video()),
                    bytes,
                }));
                self.listed(now);
            }
            None => {
                epoch.end = open.start;
                self.gap(now, duration.ticks(), out);
            }
        }
    }

    /// Lists GAPs up to `until`, if there is something to fill.
    fn fill(&mut self, now: Instant, until: MediaTime, out: &mut Vec<Output>) {
        let Some(epoch) = &mut self.epoch else { return };
        let missing = (until - epoch.end).ticks();
        if missing > LONGEST_HOLE * self.timing.target {
            epoch.end = until;
        } else if missing >= HOLE {
            let count = (missing + self.timing.target - 1) / self.timing.target;
            for left in (1..=count).rev() {
                let Some(epoch) = &self.epoch else { return };
                self.gap(now, (until - epoch.end).ticks() / left, out);
            }
        }
    }

    fn gap(&mut self, now: Instant, ticks: i64, out: &mut Vec<Output>) {
        let Some(epoch) = &mut self.epoch else { return };
        out.push(Output::Gap(Gap {
            epoch: epoch.number,
            sequence: self.sequence,
            duration: MediaTime::from_ticks(ticks),
            program_date_time: epoch.wall(epoch.end),
            listed: listed_at(self.clock, now),
        }));
        epoch.end = later(epoch.end, ticks);
        self.torn = false;
        self.listed(now);
    }

    fn listed(&mut self, now: Instant) {
        self.sequence = self.sequence.saturating_add(1);
        self.appeared = Some(now);
    }
}

/// The wall clock at `now`, reckoned from a moment when both were known.
fn listed_at(clock: Option<(Instant, UtcTime)>, now: Instant) -> UtcTime {
    clock.map_or_else(UtcTime::default, |(then, utc)| utc + now.duration_since(then))
}
