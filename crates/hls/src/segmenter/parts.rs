//! Decides where a part of the open chunk ends.
//!
//! A part holds whole frames: as many as fit under the part target (rule L2 and
//! trap a), five at 25 frames a second and six at 30. Where frames do not divide
//! so well the part's length says at least 85 % of the target and the next part
//! begins there; over a chunk the two agree. What comes late is cut as if it had
//! come in time.

use spyglass_media::MediaTime;

use super::epoch::{Placed, later};
use super::output::{Output, Part, Warning};
use super::{Segmenter, cmaf};

impl Segmenter {
    /// Cuts the parts that are complete once `next` is known.
    pub(super) fn cut_parts_before(&mut self, next: &Placed, out: &mut Vec<Output>) {
        let Some(epoch) = &self.epoch else { return };
        if !epoch.paces_parts(next, &self.timing) {
            return;
        }
        self.catch_up(next.at, Some(next), out);
        let Some(open) = self.epoch.as_mut().and_then(|epoch| epoch.open.as_mut()) else { return };
        if open.part_is_empty() {
            open.part_start = open.part_start.max(next.at);
            return;
        }
        let length = (next.at - open.part_start).ticks();
        if length.saturating_add(next.step) > self.timing.part_most {
            let end = later(open.part_start, length.max(self.timing.part_least));
            self.cut_part(None, end, Some(next), out);
        }
    }

    /// What is left of the open chunk, which ends at `at`, as its last parts.
    pub(super) fn cut_last_parts(
        &mut self,
        at: MediaTime,
        next: Option<&Placed>,
        out: &mut Vec<Output>,
    ) {
        let Some(open) = self.epoch.as_ref().and_then(|epoch| epoch.open.as_ref()) else { return };
        if open.has_parts {
            self.catch_up(at, next, out);
        }
        let Some(open) = self.epoch.as_ref().and_then(|epoch| epoch.open.as_ref()) else { return };
        if !open.part_is_empty() {
            let end = at.max(open.least_end());
            self.cut_part(None, end, next, out);
        }
    }

    /// Cuts parts of the usual length until what is left before `until` may be
    /// one. Time without any frame is in no part.
    fn catch_up(&mut self, until: MediaTime, next: Option<&Placed>, out: &mut Vec<Output>) {
        loop {
            let Some(open) = self.epoch.as_ref().and_then(|epoch| epoch.open.as_ref()) else {
                return;
            };
            if (until - open.part_start).ticks() <= self.timing.part_most {
                return;
            }
            let end = later(open.part_start, self.timing.part);
            self.cut_part(Some(end), end, next, out);
        }
    }

    /// Writes the frames before `before` as a part that ends at `end`.
    fn cut_part(
        &mut self,
        before: Option<MediaTime>,
        end: MediaTime,
        next: Option<&Placed>,
        out: &mut Vec<Output>,
    ) {
        let Some(epoch) = &mut self.epoch else { return };
        let (rate, has_video) = (epoch.audio_rate(), epoch.has_video());
        let Some(open) = &mut epoch.open else { return };
        let samples = open.take(before, next, rate);
        let start = std::mem::replace(&mut open.part_start, end);
        let (video, audio) = samples.runs();
        if video.samples.is_empty() && audio.samples.is_empty() {
            return;
        }
        epoch.fragments += 1;
        let (part, chunk_start, has_parts) = (open.part(), open.start, open.has_parts);
        match cmaf::fragment(epoch.fragments, video, audio) {
            Ok(bytes) => {
                open.finish_part(bytes.clone());
                if has_parts {
                    out.push(Output::Part(Part {
                        epoch: epoch.number,
                        sequence: self.sequence,
                        part,
                        start,
                        duration: end - start,
                        program_date_time: epoch.wall(chunk_start),
                        discontinuity: epoch.discontinuity,
                        independent: samples.independent(has_video),
                        bytes,
                    }));
                }
            }
            Err(error) => out.push(Output::Warning(Warning::Codec(error))),
        }
    }
}
