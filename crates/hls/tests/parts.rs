//! How long parts are, when they come and how they are listed. The judge in
//! `support` checks rules L1, L2, L3, L6 and L7 in all of it.

mod support;

use std::time::Duration;

use spyglass_hls::playlist;
use spyglass_hls::segmenter::Config;
use spyglass_media::{MediaTime, Position, Resource};
use spyglass_testkit::gop::{self, Audio, Encoder, Video};
use support::{Broadcast, gop_of, seconds};

const NONE: Duration = Duration::ZERO;

fn lengths(broadcast: &Broadcast) -> Vec<i64> {
    broadcast.parts().iter().map(|part| part.duration.millis()).collect()
}

#[test]
fn a_part_has_as_many_whole_frames_as_fit() {
    for (rate, expected) in [(24, 208), (25, 200), (30, 200), (50, 200), (60, 200), (10, 200)] {
        let video = Video { rate, gop: rate * 2, ..Video::default() };
        let mut encoder = Encoder::new(Some(video), Some(Audio::default()), MediaTime::ZERO);
        let mut broadcast = Broadcast::both();
        broadcast.play(&mut encoder, seconds(20.0), NONE);
        let parts = broadcast.parts();
        assert!(parts.len() > 80, "{rate}: {}", parts.len());
        for (part, next) in parts.iter().zip(&parts[1..]) {
            let last = next.part == 0;
            let usual = (part.duration.millis() - expected).abs() <= 1;
            assert!(usual || last, "{rate}: {:?}", part.duration);
        }
        let starts = parts.iter().filter(|part| part.part == 0);
        assert!(starts.into_iter().all(|part| part.independent), "{rate}");
        assert_eq!(parts.iter().filter(|part| part.independent).count(), 10, "{rate}");
    }
}

#[test]
fn frames_that_do_not_divide_a_part_are_told_as_85_percent_of_it() {
    let video = Video { rate: 12, gop: 24, ..Video::default() };
    let mut encoder = Encoder::new(Some(video), None, MediaTime::ZERO);
    let mut broadcast = Broadcast::new(seconds(3.0));
    broadcast.connect(Some(gop::AVC_360P), None);
    broadcast.play(&mut encoder, seconds(30.0), NONE);
    assert!(broadcast.parts().len() > 140);
    for chunk in broadcast.chunks() {
        let parts = broadcast.parts();
        let parts = parts.iter().filter(|part| part.sequence == chunk.sequence);
        let total: i64 = parts.map(|part| part.duration.ticks()).sum();
        assert_eq!(total, chunk.duration.ticks(), "no time is lost between the parts");
    }
}

#[test]
fn a_part_appears_within_one_part_target_of_the_one_before() {
    for rate in [25, 30, 60] {
        let video = Video { rate, gop: rate * 2, ..Video::default() };
        let mut encoder = Encoder::new(Some(video), Some(Audio::default()), MediaTime::ZERO);
        let mut broadcast = Broadcast::both();
        let mut appeared = Vec::new();
        for frame in encoder.until(MediaTime::ZERO + seconds(30.0)) {
            broadcast.pass_until(frame.dts.since(MediaTime::ZERO));
            let before = broadcast.parts().len();
            broadcast.frame(&frame);
            if broadcast.parts().len() > before {
                appeared.push(broadcast.now());
            }
        }
        assert!(appeared.len() > 140);
        let latest = appeared.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(latest <= Duration::from_millis(210), "{rate}: {latest:?}");
    }
}

#[test]
fn sound_alone_has_parts_too() {
    let mut broadcast = Broadcast::new(seconds(3.0));
    broadcast.connect(None, Some(gop::AAC_48K_STEREO));
    let mut encoder = Encoder::new(None, Some(Audio::default()), MediaTime::ZERO);
    broadcast.play(&mut encoder, seconds(20.0), NONE);
    assert!(broadcast.parts().iter().all(|part| part.independent));
    // Nine frames of 21.3 ms.
    assert!(lengths(&broadcast).iter().filter(|length| **length == 192).count() > 80);
}

#[test]
fn pictures_too_rare_for_parts_are_only_in_chunks() {
    let video = Video { rate: 2, gop: 4, ..Video::default() };
    let mut broadcast = Broadcast::new(seconds(3.0));
    broadcast.connect(Some(gop::AVC_360P), None);
    let mut encoder = Encoder::new(Some(video.clone()), None, MediaTime::ZERO);
    broadcast.play(&mut encoder, seconds(40.0), NONE);
    let first = broadcast.chunks()[0].sequence;
    assert!(broadcast.parts().iter().all(|part| part.sequence == first));
    assert!(broadcast.chunks().len() > 8);
    // With sound beside them, the sound paces the parts.
    let mut broadcast = Broadcast::both();
    let mut encoder = Encoder::new(Some(video), Some(Audio::default()), MediaTime::ZERO);
    broadcast.play(&mut encoder, seconds(40.0), NONE);
    assert!(broadcast.parts().len() > 180);
}

#[test]
fn the_open_chunk_is_listed_part_by_part_and_the_next_part_is_hinted() {
    let mut broadcast = Broadcast::both();
    let mut encoder = gop_of(75);
    broadcast.play(&mut encoder, seconds(3.0), NONE);
    assert_eq!(broadcast.list.position(), None, "no list before the first chunk");
    broadcast.play(&mut encoder, seconds(3.85), NONE);
    let at = |sequence, part| Some(Position { sequence, part });
    assert_eq!(broadcast.list.position(), at(1, Some(3)));
    assert_eq!(broadcast.list.last_parts(), 15);
    let text = playlist::media(&broadcast.list.snapshot());
    let end = text.split("1-0.m4s\n").last().unwrap();
    assert_eq!(
        end,
        "#EXT-X-PROGRAM-DATE-TIME:2026-09-21T14:13:23.000Z
#EXT-X-PART:DURATION=0.20000,URI=\"1-1.0.m4s\",INDEPENDENT=YES
#EXT-X-PART:DURATION=0.20000,URI=\"1-1.1.m4s\"
#EXT-X-PART:DURATION=0.20000,URI=\"1-1.2.m4s\"
#EXT-X-PART:DURATION=0.20000,URI=\"1-1.3.m4s\"
#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"1-1.4.m4s\"
"
    );
    assert!(text.contains(
        "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=0.63000
#EXT-X-PART-INF:PART-TARGET=0.21000
"
    ));
    let part = |part| Resource::Part { epoch: 1, sequence: 1, part };
    assert!(broadcast.list.get(part(3)).is_some() && broadcast.list.get(part(4)).is_none());
    broadcast.play(&mut encoder, seconds(6.1), NONE);
    assert_eq!(broadcast.list.position(), at(1, None));
    let text = playlist::media(&broadcast.list.snapshot());
    assert!(text.ends_with("1-1.m4s\n#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"1-2.0.m4s\"\n"), "{text}");
}

#[test]
fn a_list_with_parts_ends_in_a_hint_or_in_endlist() {
    let mut broadcast = Broadcast::both();
    broadcast.play(&mut gop_of(50), seconds(10.0), NONE);
    let end = |broadcast: &Broadcast| {
        let text = playlist::media(&broadcast.list.snapshot());
        assert!(text.matches("PRELOAD-HINT").count() <= 1, "{text}");
        text.lines().last().unwrap().to_owned()
    };
    assert!(end(&broadcast).starts_with("#EXT-X-PRELOAD-HINT:TYPE=PART"));
    broadcast.pass(seconds(30.0));
    let next = broadcast.gaps().last().unwrap().sequence + 1;
    let hint = format!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"1-{next}.0.m4s\"");
    assert_eq!(end(&broadcast), hint, "behind a GAP too");
    broadcast.end();
    assert_eq!(end(&broadcast), "#EXT-X-ENDLIST");
}

#[test]
fn a_long_list_has_delta_updates_and_a_short_one_says_that_it_has_none() {
    let config = Config { chunk: seconds(3.0), part: seconds(0.2) };
    let mut broadcast = Broadcast::of(config, 20);
    broadcast.connect(Some(gop::AVC_360P), Some(gop::AAC_48K_STEREO));
    let mut encoder = gop_of(75);
    broadcast.play(&mut encoder, seconds(38.0), NONE);
    assert_eq!(playlist::delta(&broadcast.list.snapshot()), None);
    broadcast.play(&mut encoder, seconds(60.0), NONE);
    let snapshot = broadcast.list.snapshot();
    let delta = playlist::delta(&snapshot).unwrap();
    assert!(delta.contains("#EXT-X-VERSION:9\n"));
    assert!(playlist::media(&snapshot).contains(",CAN-SKIP-UNTIL=24.0\n"));
    let kept = snapshot.lines.len() - snapshot.low_latency.unwrap().skipped;
    // 24 s and what reaches into them.
    assert!((8..=9).contains(&kept), "{kept}");
    let forms = playlist::render(&broadcast.list.snapshot()).variants.len();
    assert_eq!(forms, 6);
}

#[test]
fn a_restart_loses_the_open_chunk_and_never_names_its_number_again() {
    for away in [0.3, 2.0, 40.0] {
        let mut broadcast = Broadcast::both();
        broadcast.play(&mut gop_of(75), seconds(10.5), NONE);
        let Position { sequence, part } = broadcast.list.position().unwrap();
        assert!(part.is_some());
        broadcast.restart(seconds(away));
        assert_eq!(broadcast.list.position().unwrap(), Position::closed(sequence));
        let gap = broadcast.gaps()[0];
        // It began at 9 s, and is as long as is missing.
        let missing = (1.5_f64 + away).min(4.0);
        assert!((gap.duration.seconds() - missing).abs() < 0.2, "{away}: {gap:?}");
        broadcast.connect(Some(gop::AVC_360P), Some(gop::AAC_48K_STEREO));
        let offset = broadcast.now();
        broadcast.play(&mut gop_of(75), seconds(10.0), offset);
        assert!(broadcast.gaps().iter().any(|gap| gap.sequence == sequence), "{away}");
    }
}

/// Edges know a hint by its epoch, which they take from the version.
#[test]
fn a_restart_between_an_epoch_and_its_first_chunk_hints_in_the_versions_epoch() {
    let mut broadcast = Broadcast::both();
    broadcast.play(&mut gop_of(75), seconds(10.5), NONE);
    broadcast.connect(Some(gop::AVC_360P), Some(gop::AAC_48K_STEREO));
    let offset = broadcast.now();
    // Enough for an init and no chunk.
    broadcast.play(&mut gop_of(75), seconds(0.1), offset);
    broadcast.restart(seconds(1.0));
    broadcast.pass(seconds(10.0));
    assert!(broadcast.gaps().last().is_some_and(|gap| gap.epoch == 1));
    assert_eq!(broadcast.list.version().epoch, 2);
    let next = broadcast.list.position().unwrap().sequence + 1;
    let text = playlist::media(&broadcast.list.snapshot());
    assert!(text.ends_with(&format!("TYPE=PART,URI=\"2-{next}.0.m4s\"\n")), "{text}");
}
