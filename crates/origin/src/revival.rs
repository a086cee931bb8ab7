//! How a broadcast goes on whose task has failed.
//!
//! What its readers were shown is still in memory, and so is its record; its
//! list is the journal's, if that reaches as far. Pages are written behind the
//! live path, and left out when the disk is slow: a list that goes on from an
//! older page would give names that were shown to other bytes (P2), so then a
//! new one begins behind them.

use spyglass_hls::segmenter::Resume;
use spyglass_media::{Position, Version};

use crate::broadcast::Record;
use crate::journal::Restored;

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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use spyglass_hls::chunklist::{Chunklist, Config};
    use spyglass_hls::segmenter::{Chunk, Init, Output};
    use spyglass_media::{MediaTime, UtcTime};

    use super::*;

    const AT: UtcTime = UtcTime::from_millis(1_790_000_000_000);

    /// A list of this many chunks of epoch 1, from 0 on.
    fn list(chunks: u64) -> Chunklist {
        let mut list = Chunklist::new(Config::new(Duration::from_secs(2)), &Resume::default());
        let bytes = Bytes::from_static(b"media");
        let init = Init { epoch: 1, bytes: bytes.clone(), codecs: String::new(), resolution: None };
        list.on_output(Instant::now(), Output::Init(init));
        for sequence in 0..chunks {
            let chunk = Chunk {
                epoch: 1,
                sequence,
                start: MediaTime::from_millis(1_000 * sequence as i64),
                duration: MediaTime::from_millis(1_000),
                program_date_time: AT,
                listed: AT,
                discontinuity: false,
                independent: true,
                bytes: bytes.clone(),
            };
            list.on_output(Instant::now(), Output::Chunk(chunk));
        }
        list
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

    #[test]
    fn without_a_page_a_new_list_begins_behind_what_was_shown() {
        let (restored, floor) = continued(&record(1), shown(3), None);
        assert!(restored.is_none());
        assert_eq!(floor, Resume { next_sequence: 3, epoch: 1, tail: None });
        assert_eq!(continued(&record(0), None, None).1, Resume::default());
    }
}
