//! Which sample of a clip is due when. Pure.

use std::time::{Duration, Instant};

use spyglass_media::Track;

use crate::clip::{Clip, Sample};

/// Walks a clip, round after round when it repeats, on one growing clock.
pub(super) struct Pace<'a> {
    clip: &'a Clip,
    repeat: bool,
    index: usize,
    /// What earlier rounds add to the clip's times.
    round_ms: i64,
    /// This media time is due at that moment.
    anchor: Option<(i64, Instant)>,
}

impl<'a> Pace<'a> {
    pub(super) fn new(clip: &'a Clip, repeat: bool) -> Self {
        Self { clip, repeat, index: 0, round_ms: 0, anchor: None }
    }

    /// The sample that comes next and its time in milliseconds since the
    /// broadcast's start; `None` at the end of a clip that does not repeat.
    pub(super) fn current(&self) -> Option<(Sample, i64)> {
        let sample = *self.clip.samples().get(self.index)?;
        Some((sample, self.round_ms + sample.dts_ms))
    }

    pub(super) fn advance(&mut self) {
        self.index += 1;
        if self.index >= self.clip.samples().len() && self.repeat {
            self.index = 0;
            self.round_ms += self.clip.duration_ms();
        }
    }

    /// Goes on at the next sample that a decoder can begin with, now.
    pub(super) fn begin(&mut self, now: Instant) {
        self.skip_to_key();
        let time = self.current().map_or(self.end_ms(), |(_, time)| time);
        self.anchor = Some((time, now));
    }

    /// When the media time `time` is due.
    pub(super) fn due(&self, time: i64) -> Instant {
        let Some((media, wall)) = self.anchor else { return Instant::now() };
        let after = u64::try_from(time - media).unwrap_or(0);
        wall + Duration::from_millis(after)
    }

    /// Leaves out what is older than `now`, up to the next key frame. Returns
    /// how many samples that were.
    pub(super) fn catch_up(&mut self, now: Instant) -> u64 {
        let mut skipped = 0;
        while let Some((sample, time)) = self.current() {
            if self.due(time) >= now && self.is_entry(&sample) {
                break;
            }
            self.advance();
            skipped += 1;
        }
        skipped
    }

    /// Where the broadcast's clock ends when the clip does not repeat.
    pub(super) fn end_ms(&self) -> i64 {
        self.round_ms + self.clip.duration_ms()
    }

    fn skip_to_key(&mut self) {
        // One round finds one, or there is none: then any place will do.
        for _ in 0..self.clip.samples().len() {
            match self.current() {
                Some((sample, _)) if !self.is_entry(&sample) => self.advance(),
                _ => return,
            }
        }
    }

    fn is_entry(&self, sample: &Sample) -> bool {
        sample.key && (sample.track == Track::Video || self.clip.video_config().is_none())
    }
}
