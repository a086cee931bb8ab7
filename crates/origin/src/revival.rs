//! How a broadcast goes on whose task, or whose process, is no more.
//!
//! What its readers were shown is still in memory, and so is its record; its
//! list is the journal's, if that reaches as far. Pages are written behind the
//! live path, and left out when the disk is slow: a list that goes on from an
//! older page would give names that were shown to other bytes (P2), so then a
//! new one begins behind them.

use std::time::Instant;

use spyglass_hls::chunklist::Chunklist;
use spyglass_hls::segmenter::{self, Resume, Segmenter};
use spyglass_media::{Position, UtcTime, Version};

use crate::broadcast::Record;
use crate::journal::Restored;
use crate::life::Phase;

/// Where numbers begin that no reader of this version has seen.
pub(crate) fn unseen(version: Version, position: Option<Position>) -> Resume {
    let next = position.map_or(0, |position| position.sequence.saturating_add(1));
    Resume { next_sequence: next, epoch: version.epoch, tail: None }
}

/// What a task continues, and what no number may begin below: `record` and
/// `shown` are those of the task that failed, `page` is the journal's.
pub(crate) fn continued(
    record: &Record,
    shown: Option<(Version, Position)>,
    page: Option<Restored>,
) -> (Option<Restored>, Resume) {
    let opened = Resume { epoch: record.epoch, ..Resume::default() };
    let floor =
        shown.map_or(opened, |(version, position)| unseen(version, Some(position)).and(&opened));
    let restored = page.map(|page| {
        let Restored { chunklist, floor, last, resume } = page;
        let chunklist = chunklist.filter(|list| {
            let all = |(version, position)| list.covers(version, Some(position));
            shown.is_none_or(all) && list.resume().epoch >= record.epoch
        });
        Restored { chunklist, floor, last, resume }
    });
    (restored, floor)
}

/// What fills a list of the journal further; `None` when it is over. The list
/// then ends behind all that readers were shown of it: what may have been
/// begun behind its last chunk, and is lost, is a GAP.
pub(crate) fn resumed(
    chunklist: &mut Chunklist,
    config: segmenter::Config,
    phase: Phase,
    (now, utc): (Instant, UtcTime),
) -> Option<Segmenter> {
    if chunklist.ended() {
        return None;
    }
    let mut segmenter = Segmenter::new(config, chunklist.resume());
    for output in segmenter.on_restart(now, utc) {
        chunklist.on_output(now, output);
    }
    if phase == Phase::Ended {
        // A task that fails while it ends leaves a page without ENDLIST.
        chunklist.on_end(now);
        return None;
    }
    Some(segmenter)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use spyglass_hls::chunklist::Config;
    use spyglass_hls::segmenter::{Chunk, Init, Output, Part};
    use spyglass_media::MediaTime;

    use super::*;

    const AT: UtcTime = UtcTime::from_millis(1_790_000_000_000);
    const CONFIG: Config = Config::new(Duration::from_secs(2));

    /// A list of this many chunks of epoch 1, from 0 on.
    fn list(chunks: u64) -> Chunklist {
        let mut list = Chunklist::new(CONFIG, &Resume::default());
        for output in outputs(chunks) {
            list.on_output(Instant::now(), output);
        }
        list
    }

    fn outputs(chunks: u64) -> Vec<Output> {
        let bytes = Bytes::from_static(b"media");
        let init = Init { epoch: 1, bytes: bytes.clone(), codecs: String::new(), resolution: None };
        let chunk = |sequence| {
            Output::Chunk(Chunk {
                epoch: 1,
                sequence,
                start: MediaTime::from_millis(1_000 * sequence as i64),
                duration: MediaTime::from_millis(1_000),
                program_date_time: AT,
                listed: AT,
                discontinuity: false,
                independent: true,
                bytes: bytes.clone(),
            })
        };
        std::iter::once(Output::Init(init)).chain((0..chunks).map(chunk)).collect()
    }

    fn page(chunks: u64) -> Restored {
        let list = list(chunks);
        let resume = list.resume();
        let floor = Some(Resume { tail: None, ..resume });
        let last = MediaTime::ZERO;
        Restored { chunklist: Some(list), floor, last, resume: Duration::from_secs(30) }
    }

    fn shown(chunks: u64) -> Option<(Version, Position)> {
        let list = list(chunks);
        Some((list.version(), list.position().unwrap()))
    }

    fn record(epoch: u32) -> Record {
        Record { epoch, ..Record::created(AT, false, Bytes::new()) }
    }

    #[test]
    fn a_page_that_has_all_that_was_shown_goes_on() {
        let (restored, _) = continued(&record(1), shown(3), Some(page(3)));
        let list = restored.unwrap().chunklist.unwrap();
        assert_eq!(list.resume().next_sequence, 3);
        // Written, and not shown any more.
        let (restored, _) = continued(&record(1), shown(2), Some(page(3)));
        assert_eq!(restored.unwrap().chunklist.unwrap().resume().next_sequence, 3);
    }

    #[test]
    fn behind_an_older_page_a_new_list_begins() {
        let (restored, floor) = continued(&record(1), shown(3), Some(page(2)));
        assert!(restored.unwrap().chunklist.is_none(), "chunk 2 would get a second meaning");
        assert_eq!(floor, Resume { next_sequence: 3, epoch: 1, tail: None });
        // An epoch whose init may have been fetched.
        let (restored, floor) = continued(&record(2), shown(2), Some(page(2)));
        assert!(restored.unwrap().chunklist.is_none());
        assert_eq!(floor, Resume { next_sequence: 2, epoch: 2, tail: None });
    }

    /// A list of two chunks and some parts of the third, and the same as the
    /// journal has it.
    fn killed() -> (Chunklist, Chunklist) {
        let config = Config { part_target: Some(Duration::from_millis(200)), ..CONFIG };
        let mut shown = Chunklist::new(config, &Resume::default());
        for output in outputs(2) {
            shown.on_output(Instant::now(), output);
        }
        let page = shown.save();
        for part in 0..3 {
            let part = Part {
                epoch: 1,
                sequence: 2,
                part,
                start: MediaTime::from_millis(2_000 + 200 * i64::from(part)),
                duration: MediaTime::from_millis(200),
                program_date_time: AT,
                discontinuity: false,
                independent: true,
                bytes: Bytes::from_static(b"media"),
            };
            assert!(shown.on_output(Instant::now(), Output::Part(part)));
        }
        let page = Chunklist::restore(config, page, |resource| shown.get(resource)).unwrap();
        (shown, page)
    }

    #[test]
    fn the_first_list_of_a_process_ends_behind_what_the_last_one_showed() {
        let cut =
            segmenter::Config { chunk: Duration::from_secs(1), part: Duration::from_millis(200) };
        let now = (Instant::now(), AT + Duration::from_millis(2_500));
        for phase in [Phase::Live, Phase::Interrupted, Phase::Ended] {
            let (shown, mut page) = killed();
            assert!(page.position() < shown.position());
            let segmenter = resumed(&mut page, cut, phase, now);
            assert!(page.position() > shown.position() && page.version() > shown.version());
            let last = *page.snapshot().lines.last().unwrap();
            assert!((last.sequence, last.gap) == (2, true), "{last:?}");
            assert_eq!(page.resume().next_sequence, 3, "whose parts were shown is not used again");
            assert_eq!((page.ended(), segmenter.is_none()), (phase == Phase::Ended, page.ended()));
        }
    }

    #[test]
    fn without_a_page_a_new_list_begins_behind_what_was_shown() {
        let (restored, floor) = continued(&record(1), shown(3), None);
        assert!(restored.is_none());
        assert_eq!(floor, Resume { next_sequence: 3, epoch: 1, tail: None });
        assert_eq!(continued(&record(0), None, None).1, Resume::default());
    }
}
