//! What a list's own lines say about which names exist.

use std::fmt::Write as _;
use std::sync::Arc;

use super::*;

impl Listing for Arc<Span> {
    fn span(&self) -> Option<&Span> {
        Some(self)
    }
}

/// A list as an origin writes it, from `first` on; a negative epoch is a GAP.
fn text(first: u64, epochs: &[i64]) -> String {
    let mut text = format!("#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-MEDIA-SEQUENCE:{first}\n");
    let mut map = 0;
    for (sequence, epoch) in (first..).zip(epochs) {
        let (gap, epoch) = (*epoch < 0, epoch.unsigned_abs());
        if epoch != map {
            _ = writeln!(text, "#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"{epoch}-init.mp4\"");
            map = epoch;
        }
        _ = write!(text, "{}", if gap { "#EXT-X-GAP\n" } else { "" });
        _ = writeln!(text, "#EXTINF:3.00000,\n{epoch}-{sequence}.m4s");
    }
    text
}

fn span(first: u64, epochs: &[i64]) -> Arc<Span> {
    Arc::new(Span::read(text(first, epochs).as_bytes()).unwrap())
}

const PART: Duration = Duration::from_millis(210);

fn at(sequence: u64, part: Option<u32>) -> Position {
    Position { sequence, part }
}

type Listed = Slot<Arc<Span>>;

/// Holds a list with these chunks.
fn holding(lists: &[(u64, &[i64])]) -> Listed {
    let now = Instant::now();
    let mut slot = Slot::new(Limits::default(), now);
    slot.on_standing(Some(Standing { incarnation: ORIGIN, begun: true, target: Some(TARGET) }));
    for (first, epochs) in lists {
        list(&mut slot, *first, epochs);
    }
    slot
}

fn list(slot: &mut Listed, first: u64, epochs: &[i64]) {
    let newest = first + epochs.len() as u64 - 1;
    let epoch = u32::try_from(epochs.last().unwrap().unsigned_abs()).unwrap();
    let version = Version { epoch, revision: newest };
    let now = Instant::now();
    slot.on_expire(version, Some(Position::closed(newest)), ORIGIN);
    let fetch = slot.on_poll(now, now).fetch.unwrap();
    let meta = Meta { version, ..meta(newest) };
    assert_eq!(slot.on_filled(now, fetch.id, meta, span(first, epochs)), Filled::Stored);
}

fn chunk(slot: &Listed, epoch: u32, sequence: u64) -> bool {
    slot.may_exist(Resource::Chunk { epoch, sequence }).unwrap()
}

fn epochs_of(slot: &Listed, sequence: u64) -> Vec<u32> {
    (0..100).filter(|epoch| chunk(slot, *epoch, sequence)).collect()
}

fn inits(slot: &Listed) -> Vec<u32> {
    (0..100).filter(|epoch| slot.may_exist(Resource::Init { epoch: *epoch }).unwrap()).collect()
}

/// Word for word what an origin writes (`hls/src/playlist.rs`), with parts.
const WRITTEN: &str = "#EXTM3U
#EXT-X-VERSION:6
#EXT-X-TARGETDURATION:4
#EXT-X-MEDIA-SEQUENCE:40
#EXT-X-DISCONTINUITY-SEQUENCE:0
#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=0.63000
#EXT-X-PART-INF:PART-TARGET=0.21000
#EXT-X-MAP:URI=\"1-init.mp4\"
#EXT-X-PROGRAM-DATE-TIME:2026-09-21T14:15:20.000Z
#EXTINF:3.00000,
1-40.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-09-21T14:15:23.000Z
#EXT-X-GAP
#EXTINF:4.00000,
1-41.m4s
#EXT-X-DISCONTINUITY
#EXT-X-MAP:URI=\"2-init.mp4\"
#EXT-X-PROGRAM-DATE-TIME:2026-09-21T14:15:26.000Z
#EXT-X-PART:DURATION=0.20000,URI=\"2-42.0.m4s\",INDEPENDENT=YES
#EXT-X-PART:DURATION=0.20000,URI=\"2-42.1.m4s\"
#EXTINF:3.03300,
2-42.m4s
#EXT-X-PROGRAM-DATE-TIME:2026-09-21T14:15:29.033Z
#EXT-X-PART:DURATION=0.20000,URI=\"2-43.0.m4s\",INDEPENDENT=YES
#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"2-43.1.m4s\"
";

#[test]
fn a_list_as_an_origin_writes_it_is_read() {
    let span = Span::read(WRITTEN.as_bytes()).unwrap();
    assert_eq!(
        [40, 41, 42, 43].map(|it| span.epochs(it, 2)),
        [1..=1, 1..=1, 2..=2, 2..=2].map(Some)
    );
    assert_eq!([40, 41, 42, 43].map(|it| span.parts(it)), [None, Some(0), Some(2), None]);
}

#[test]
fn a_listed_chunk_has_one_name() {
    // A publisher came back twice, with a GAP between; a long window besides.
    let slot = holding(&[(80, &[2, 2, -2, 3, 5, 5])]);
    for (sequence, epoch) in [(80, 2), (81, 2), (82, 2), (83, 3), (84, 5), (85, 5)] {
        assert_eq!(epochs_of(&slot, sequence), [epoch], "{sequence}");
    }
    assert_eq!(epochs_of(&slot, 86), [0; 0]);
    assert_eq!(inits(&slot), [1, 2, 3, 5]);
    let slot = holding(&[(500, &[7; 61])]);
    assert!((500..561).all(|sequence| epochs_of(&slot, sequence) == [7]));
}

#[test]
fn below_the_list_are_those_that_the_origin_still_holds() {
    // Nobody here saw them listed: some publishers may have come and gone.
    let slot = holding(&[(1_000, &[20; 6])]);
    assert_eq!(epochs_of(&slot, 999), (12..=20).collect::<Vec<_>>());
    assert_eq!(epochs_of(&slot, 991), (12..=20).collect::<Vec<_>>());
    assert_eq!(epochs_of(&slot, 990), [0; 0]);
    assert_eq!(inits(&slot), (12..=20).collect::<Vec<_>>());
    // The first epoch is 1.
    let slot = holding(&[(100, &[2; 6])]);
    assert_eq!(epochs_of(&slot, 99), [1, 2]);
    // All that a viewer may ask for is a handful of names, whatever is made up.
    let every = (0..3_000).flat_map(|sequence| epochs_of(&slot, sequence)).count();
    assert_eq!(every, 6 + 9 * 2);
}

#[test]
fn what_was_seen_listed_is_remembered_while_the_origin_holds_it() {
    let mut slot = holding(&[(79, &[2, 2, 2, 2, 2, 3]), (81, &[2, 2, 2, 3, 3, 3])]);
    assert_eq!(epochs_of(&slot, 80), [2], "it has just been removed");
    assert_eq!(epochs_of(&slot, 78), [1, 2], "nobody here saw that one");
    list(&mut slot, 84, &[3, 3, 3, 4, 4, 4]);
    assert_eq!((epochs_of(&slot, 83), epochs_of(&slot, 79)), (vec![2], vec![2]));
    assert_eq!(inits(&slot), [1, 2, 3, 4]);
    list(&mut slot, 89, &[4; 6]);
    assert_eq!((epochs_of(&slot, 83), epochs_of(&slot, 84)), (vec![2], vec![3]));
    assert_eq!((epochs_of(&slot, 80), epochs_of(&slot, 79)), (vec![2], vec![]));
    assert_eq!(inits(&slot), [2, 3, 4]);
    list(&mut slot, 95, &[4; 6]);
    assert_eq!(inits(&slot), [3, 4]);
    // Lists in between were never fetched: what was in them can be guessed only.
    list(&mut slot, 120, &[5; 6]);
    assert_eq!(epochs_of(&slot, 119), [1, 2, 3, 4, 5]);
    // A window that was made shorter: the origin keeps by the longest there was.
    let slot = holding(&[(100, &[1; 30]), (125, &[1; 6])]);
    assert!(chunk(&slot, 1, 100) && chunk(&slot, 1, 92) && !chunk(&slot, 1, 91));
}

#[test]
fn what_is_newer_than_the_held_list_is_fetched_once_it_is_known() {
    let mut slot = holding(&[(80, &[2, 2, 2, 3, 3, 3])]);
    assert_eq!((epochs_of(&slot, 86), epochs_of(&slot, 87)), (vec![], vec![]));
    let version = Version { epoch: 4, revision: 90 };
    slot.on_expire(version, Some(Position::closed(87)), ORIGIN);
    assert_eq!((epochs_of(&slot, 86), epochs_of(&slot, 87)), (vec![3, 4], vec![3, 4]));
    assert_eq!((epochs_of(&slot, 88), epochs_of(&slot, 80)), (vec![], vec![2]));
    assert_eq!(inits(&slot), [1, 2, 3, 4]);
}

#[test]
fn a_listed_chunk_has_the_parts_that_were_listed() {
    let with_parts = |first, chunks: &[u32], open: u32| {
        let mut text = format!("#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:{first}\n");
        let parts = |sequence: u64, count: u32| -> String {
            let part = |part| format!("#EXT-X-PART:DURATION=0.2,URI=\"1-{sequence}.{part}.m4s\"\n");
            (0..count).map(part).collect()
        };
        for (sequence, count) in (first..).zip(chunks) {
            let gap = if *count == 0 { "#EXT-X-GAP\n" } else { "" };
            text += &parts(sequence, *count);
            _ = writeln!(text, "{gap}#EXTINF:3.0,\n1-{sequence}.m4s");
        }
        text + &parts(first + chunks.len() as u64, open)
    };
    let with = |revision, position| Meta {
        position: Some(position),
        part_target: Some(PART),
        ..meta(revision)
    };
    let mut slot = holding(&[]);
    let mut list = |text: &str, position, revision| {
        let now = Instant::now();
        let fetch = slot.on_poll(now, now).fetch.unwrap();
        let span = Arc::new(Span::read(text.as_bytes()).unwrap());
        let meta = with(revision, position);
        assert_eq!(slot.on_filled(now, fetch.id, meta, span), Filled::Stored);
        slot.on_expire(v(revision + 1), Some(position), ORIGIN);
        let part = |sequence, part| Resource::Part { epoch: 1, sequence, part };
        let exists = |sequence, n| slot.may_exist(part(sequence, n)).unwrap();
        [6, 7, 8, 9, 10].map(|sequence| (0..99).filter(|n| exists(sequence, *n)).count())
    };
    let most = awaited::most_parts(&with(1, at(9, None))) as usize;
    let first = with_parts(7, &[14, 0], 3);
    assert_eq!(list(&first, at(9, Some(2)), 1), [most, 14, 0, 3, 0]);
    // Those of 7 are listed no more, and yet they are there; 9 is complete.
    let text = with_parts(8, &[0, 15], 0).replace("MEDIA-SEQUENCE:8", "MEDIA-SEQUENCE:7");
    let text = text.replacen("#EXT-X-GAP", "#EXTINF:3.0,\n1-7.m4s\n#EXT-X-GAP", 1);
    assert_eq!(list(&text, at(9, None), 2), [most, 14, 0, 15, 0]);
    for (part, other) in [("1-7.3", "1-8.3"), ("1-7.3", "1-7.4"), ("1-7.3", "1-7"), ("URI", "URL")]
    {
        assert_eq!(Span::read(first.replacen(part, other, 1).as_bytes()), None, "{other}");
    }
}

#[test]
fn notices_alone_do_not_tell_what_was_named() {
    let mut slot = Listed::new(Limits::default(), Instant::now());
    slot.on_expire(v(300), Some(Position::closed(300)), ORIGIN);
    assert_eq!(slot.may_exist(Resource::Chunk { epoch: 1, sequence: 300 }), None);
}

#[test]
fn a_list_that_is_written_otherwise_tells_nothing_and_does_no_harm() {
    let good = text(7, &[1, 1, 2]);
    assert!(Span::read(good.as_bytes()).is_some());
    assert_eq!(Span::read(good.replace('\n', "\r\n").as_bytes()), Span::read(good.as_bytes()));
    let long = text(1, &[1; 1_025]);
    let padded = format!("{good}#{}\n", "x".repeat(256 * 1024));
    for text in [
        String::new(),
        "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n".to_owned(),
        good.replace("#EXT-X-MEDIA-SEQUENCE:7\n", ""),
        good.replace("SEQUENCE:7", "SEQUENCE:6"),
        good.replace("SEQUENCE:7", "SEQUENCE:-7"),
        good.replace("SEQUENCE:7", "SEQUENCE:7\n#EXT-X-MEDIA-SEQUENCE:7"),
        good.replace("1-8.m4s", "chunk8.mp4"),
        good.replace("1-8.m4s", "1-9.m4s"),
        good.replace("1-8.m4s", "3-8.m4s"),
        good.replace("1-7.m4s", "0-7.m4s"),
        good.replace(":7", ":18446744073709551615").replace("1-7", "1-18446744073709551615"),
        long,
        padded,
    ] {
        assert_eq!(Span::read(text.as_bytes()), None, "{}", &text[..text.len().min(200)]);
    }
    assert_eq!(Span::read(b"#EXTM3U\n\xff\n"), None);
    // Then positions and epochs are all there is to go by.
    let slot = super::holding(Instant::now(), 300);
    let exists = |epoch, sequence| slot.may_exist(Resource::Chunk { epoch, sequence }).unwrap();
    assert!(exists(1, 100) && !exists(0, 100) && !exists(1, 301) && !exists(2, 100));
}
