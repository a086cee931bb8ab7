//! When chunks end, what stalls and reconnects look like, what is kept: one
//! scenario a test. The judge in `support` checks the rules in all of them.

mod support;

use std::time::Duration;

use spyglass_hls::chunklist::{Chunklist, Config};
use spyglass_hls::segmenter::{Output, Warning};
use spyglass_media::{Frame, MediaTime, Resource, Track, UtcTime};
use spyglass_testkit::gop::{self, Audio, Encoder, Video};
use support::{BEGIN, Broadcast, gop_of, samples, seconds};

const NONE: Duration = Duration::ZERO;

fn lengths(broadcast: &Broadcast) -> Vec<f64> {
    let chunks = broadcast.chunks();
    chunks.iter().map(|chunk| (chunk.duration.seconds() * 1000.0).round() / 1000.0).collect()
}

// ---- cutting

#[test]
fn a_chunk_ends_at_the_first_key_frame_that_makes_it_long_enough() {
    for (gop, expected) in [(25, 3.0), (50, 4.0), (75, 3.0), (100, 4.0), (60, 2.4), (36, 2.88)] {
        let mut broadcast = Broadcast::both();
        broadcast.play(&mut gop_of(gop), seconds(40.0), NONE);
        assert!(lengths(&broadcast).iter().all(|length| *length == expected), "gop {gop}");
        assert!(broadcast.chunks().iter().all(|chunk| chunk.independent), "gop {gop}");
        assert_eq!(broadcast.warnings(), [] as [&Warning; 0]);
    }
}

#[test]
fn jittered_key_frames_still_begin_every_chunk() {
    let video = Video { gop: 75, key_jitter: 4, ..Video::default() };
    let mut encoder = Encoder::new(Some(video), Some(Audio::default()), MediaTime::ZERO);
    let mut broadcast = Broadcast::both();
    broadcast.play(&mut encoder, seconds(120.0), NONE);
    assert!(broadcast.chunks().len() > 35);
    assert!(broadcast.chunks().iter().all(|chunk| chunk.independent));
    assert!(lengths(&broadcast).iter().all(|length| (2.84..=3.16).contains(length)));
}

#[test]
fn a_long_gop_is_cut_before_it_rounds_above_the_target_duration() {
    let mut broadcast = Broadcast::both();
    broadcast.play(&mut gop_of(250), seconds(61.0), NONE);
    let lengths = lengths(&broadcast);
    assert!(lengths.iter().all(|length| *length < 4.49), "{lengths:?}");
    assert!(lengths.iter().filter(|length| **length > 4.4).count() > 5, "{lengths:?}");
    assert_eq!(broadcast.warnings(), [&Warning::LongGop]);
    let independent = broadcast.chunks().iter().filter(|chunk| chunk.independent).count();
    assert_eq!(independent, 6, "every key frame begins a chunk");
}

#[test]
fn every_frame_is_in_exactly_one_chunk_and_time_has_no_seam() {
    let mut broadcast = Broadcast::both();
    broadcast.play(&mut gop_of(50), seconds(30.0), NONE);
    broadcast.end();
    for (track, count) in [(1, 750), (2, 1407)] {
        let runs: Vec<_> =
            broadcast.chunks().iter().filter_map(|chunk| samples(chunk, track)).collect();
        assert_eq!(runs.iter().map(|(_, durations)| durations.len()).sum::<usize>(), count);
        for pair in runs.windows(2) {
            let end = pair[0].0 + pair[0].1.iter().map(|each| u64::from(*each)).sum::<u64>();
            assert_eq!(end, pair[1].0, "track {track}");
        }
    }
}

#[test]
fn audio_alone_is_cut_by_time() {
    let mut broadcast = Broadcast::new(seconds(3.0));
    broadcast.connect(None, Some(gop::AAC_44K_STEREO));
    let audio = Audio { rate: 44_100, ..Audio::default() };
    broadcast.play(&mut Encoder::new(None, Some(audio), MediaTime::ZERO), seconds(20.0), NONE);
    broadcast.end();
    assert_eq!(broadcast.inits()[0].codecs, "mp4a.40.2");
    assert_eq!(broadcast.inits()[0].resolution, None);
    assert!(lengths(&broadcast)[..5].iter().all(|length| (3.0..3.03).contains(length)));
    // What came in the second before it was known to be all is there too.
    assert_eq!(broadcast.chunks()[0].program_date_time, BEGIN);
    let count: usize =
        broadcast.chunks().iter().filter_map(|c| samples(c, 2)).map(|run| run.1.len()).sum();
    assert_eq!(count, 862);
}

#[test]
fn video_alone_needs_no_audio() {
    let mut broadcast = Broadcast::new(seconds(3.0));
    broadcast.connect(Some(gop::AVC_720P), None);
    let video = Some(Video::default());
    broadcast.play(&mut Encoder::new(video, None, MediaTime::ZERO), seconds(13.0), NONE);
    assert_eq!(broadcast.inits()[0].codecs, "avc1.64001f");
    assert_eq!(broadcast.inits()[0].resolution, Some((1280, 720)));
    assert_eq!(lengths(&broadcast), [3.0; 4]);
}

#[test]
fn nothing_is_started_before_a_key_frame() {
    let mut broadcast = Broadcast::both();
    let frames: Vec<Frame> = gop_of(50).take(400).skip(1).collect();
    let key = frames.iter().position(|frame| frame.key && frame.track == Track::Video).unwrap();
    for frame in &frames[..key] {
        broadcast.frame(frame);
        assert!(!broadcast.segmenter.started());
    }
    assert_eq!(broadcast.outputs, []);
    assert_eq!(broadcast.segmenter.next_deadline(), None);
    broadcast.frame(&frames[key]);
    assert!(broadcast.segmenter.started());
    assert_eq!(broadcast.inits().len(), 1);
}

// ---- stalls

/// The frames of both tracks from `from` to `to`, of one endless encoder.
fn skip_to(encoder: &mut Encoder, to: f64) -> Vec<Frame> {
    encoder.until(MediaTime::ZERO + seconds(to))
}

#[test]
fn a_stall_shows_gaps_and_what_comes_late_is_dropped_up_to_a_key_frame() {
    let mut broadcast = Broadcast::both();
    let mut encoder = gop_of(50);
    broadcast.play(&mut encoder, seconds(10.0), NONE);
    broadcast.pass_until(seconds(30.0));
    assert!(broadcast.gaps().len() >= 2);
    let listed_until = broadcast.list.snapshot().lines.last().unwrap().program_date_time;
    let chunks_before = broadcast.chunks().len();
    for frame in skip_to(&mut encoder, 30.0) {
        broadcast.frame(&frame);
    }
    broadcast.play(&mut encoder, seconds(50.0), NONE);
    let next = broadcast.chunks()[chunks_before];
    assert!(next.independent && !next.discontinuity);
    // The next key frame at a whole GOP behind the GAPs.
    assert!(next.program_date_time > listed_until);
    assert_eq!(next.start.ticks() % (2 * 90_000), 0);
    assert_eq!(broadcast.inits().len(), 1);
    assert_eq!(broadcast.warnings(), [&Warning::LateFrames]);
}

#[test]
fn a_short_stall_loses_nothing() {
    let mut broadcast = Broadcast::both();
    let mut encoder = gop_of(50);
    broadcast.play(&mut encoder, seconds(10.0), NONE);
    broadcast.pass_until(seconds(15.0));
    for frame in skip_to(&mut encoder, 15.0) {
        broadcast.frame(&frame);
    }
    broadcast.play(&mut encoder, seconds(30.0), NONE);
    broadcast.end();
    assert_eq!(broadcast.gaps(), [] as [&spyglass_hls::segmenter::Gap; 0]);
    let count: usize =
        broadcast.chunks().iter().filter_map(|c| samples(c, 1)).map(|run| run.1.len()).sum();
    assert_eq!(count, 750);
}

#[test]
fn a_camera_that_paused_leaves_a_hole_that_gaps_fill_exactly() {
    let mut broadcast = Broadcast::both();
    let mut encoder = gop_of(50);
    broadcast.play(&mut encoder, seconds(10.0), NONE);
    skip_to(&mut encoder, 18.0);
    broadcast.play(&mut encoder, seconds(40.0), NONE);
    // The judge sees that dates are continuous; here: that they tell the truth.
    for chunk in broadcast.chunks() {
        let media = BEGIN + chunk.start.since(MediaTime::ZERO);
        assert!(chunk.program_date_time.distance(media) < Duration::from_millis(1), "{chunk:?}");
    }
    assert!(!broadcast.gaps().is_empty());
}

#[test]
fn a_clock_that_stood_still_goes_on_in_a_new_epoch() {
    let mut broadcast = Broadcast::both();
    let mut encoder = gop_of(50);
    broadcast.play(&mut encoder, seconds(10.0), NONE);
    // 20 s of silence, then frames as if nothing had been, in real time.
    broadcast.play(&mut encoder, seconds(40.0), seconds(20.0));
    assert_eq!(broadcast.inits().len(), 2);
    let resumed = broadcast.chunks().into_iter().find(|chunk| chunk.epoch == 2).unwrap();
    assert!(resumed.discontinuity && resumed.independent);
    let late = resumed.program_date_time.since(BEGIN + resumed.start.since(MediaTime::ZERO));
    assert!((19.9..=24.0).contains(&late.as_secs_f64()), "{late:?}");
    assert!(broadcast.gaps().len() < 8);
}

#[test]
fn frames_that_come_too_slowly_make_short_chunks_and_no_gaps() {
    let mut broadcast = Broadcast::both();
    for frame in gop_of(50).until(MediaTime::from_millis(20_000)) {
        broadcast.pass_until(frame.dts.since(MediaTime::ZERO) * 3);
        broadcast.frame(&frame);
    }
    broadcast.end();
    assert_eq!(broadcast.gaps().len(), 0);
    let count: usize =
        broadcast.chunks().iter().filter_map(|c| samples(c, 1)).map(|run| run.1.len()).sum();
    assert_eq!(count, 500);
}

#[test]
fn video_that_falls_silent_does_not_stop_the_list() {
    let mut broadcast = Broadcast::both();
    let mut encoder = gop_of(50);
    broadcast.play(&mut encoder, seconds(10.0), NONE);
    for frame in encoder.until(MediaTime::from_millis(30_000)) {
        broadcast.pass_until(frame.dts.since(MediaTime::ZERO));
        if frame.track == Track::Audio {
            broadcast.frame(&frame);
        }
    }
    broadcast.play(&mut encoder, seconds(40.0), NONE);
    assert_eq!(broadcast.gaps().len(), 0);
    assert!(broadcast.chunks().iter().any(|chunk| samples(chunk, 1).is_none()));
    assert!(broadcast.chunks().last().unwrap().independent);
}

// ---- epochs

#[test]
fn a_reconnect_is_a_new_epoch_behind_a_discontinuity_until_it_slides_out() {
    let mut broadcast = Broadcast::both();
    broadcast.play(&mut gop_of(50), seconds(10.0), NONE);
    broadcast.pass_until(seconds(15.0));
    broadcast.connect(Some(gop::AVC_360P), Some(gop::AAC_48K_STEREO));
    assert!(!broadcast.segmenter.started());
    let mut again = Encoder::new(
        Some(Video { gop: 50, ..Video::default() }),
        Some(Audio::default()),
        MediaTime::from_millis(10_040),
    );
    let offset = seconds(15.0) - Duration::from_millis(10_040);
    broadcast.play(&mut again, seconds(20.0), offset);
    let tagged = broadcast.judge.list().segments.iter().filter(|s| s.discontinuity).count();
    assert_eq!((tagged, broadcast.judge.list().discontinuity_sequence), (1, 0));
    assert!(!broadcast.gaps().is_empty(), "5 s are missing");
    broadcast.play(&mut again, seconds(60.0), offset);
    let tagged = broadcast.judge.list().segments.iter().filter(|s| s.discontinuity).count();
    assert_eq!((tagged, broadcast.judge.list().discontinuity_sequence), (0, 1));
    assert_eq!(broadcast.inits().iter().map(|init| init.epoch).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(broadcast.list.version().epoch, 2);
}

#[test]
fn a_changed_codec_opens_an_epoch_at_the_next_key_frame_and_the_same_one_does_not() {
    let mut broadcast = Broadcast::both();
    let mut encoder = gop_of(50);
    broadcast.play(&mut encoder, seconds(9.0), NONE);
    broadcast.codecs(Some(gop::AVC_360P), Some(gop::AAC_48K_STEREO));
    broadcast.play(&mut encoder, seconds(19.0), NONE);
    assert_eq!(broadcast.inits().len(), 1);
    // Encoders tell the new configuration right before the key frame it is for.
    skip_to(&mut encoder, 20.0);
    broadcast.pass_until(seconds(20.0));
    broadcast.codecs(Some(gop::AVC_720P), None);
    broadcast.play(&mut encoder, seconds(31.0), NONE);
    let init = broadcast.inits()[1];
    assert_eq!((init.epoch, init.resolution), (2, Some((1280, 720))));
    let first = broadcast.chunks().into_iter().find(|chunk| chunk.epoch == 2).unwrap();
    assert!(first.discontinuity && first.independent);
    assert_eq!(first.start, MediaTime::from_millis(20_000));
}

#[test]
fn a_track_that_appears_later_is_a_new_epoch() {
    let mut broadcast = Broadcast::new(seconds(3.0));
    broadcast.connect(None, Some(gop::AAC_48K_STEREO));
    let mut encoder = gop_of(50);
    let mut play = |broadcast: &mut Broadcast, until: f64, video: bool| {
        for frame in skip_to(&mut encoder, until) {
            broadcast.pass_until(frame.dts.since(MediaTime::ZERO));
            if video || frame.track == Track::Audio {
                broadcast.frame(&frame);
            }
        }
    };
    play(&mut broadcast, 7.0, false);
    broadcast.codecs(Some(gop::AVC_360P), None);
    play(&mut broadcast, 20.0, true);
    let codecs: Vec<_> = broadcast.inits().iter().map(|init| init.codecs.clone()).collect();
    assert_eq!(codecs, ["mp4a.40.2", "avc1.64001e,mp4a.40.2"]);
    assert!(broadcast.chunks().iter().filter(|c| c.epoch == 2).all(|chunk| chunk.independent));
}

#[test]
fn a_jump_of_the_clock_is_a_new_epoch_at_the_next_key_frame() {
    let mut broadcast = Broadcast::both();
    let mut encoder = gop_of(50);
    broadcast.play(&mut encoder, seconds(9.0), NONE);
    broadcast.segmenter.on_jump();
    broadcast.play(&mut encoder, seconds(20.0), NONE);
    broadcast.end();
    assert_eq!(broadcast.inits().len(), 2);
    let count: usize =
        broadcast.chunks().iter().filter_map(|c| samples(c, 1)).map(|run| run.1.len()).sum();
    assert_eq!(count, 500, "no picture is lost");
}

#[test]
fn a_publisher_who_always_changes_cannot_make_the_list_grow() {
    let mut broadcast = Broadcast::both();
    let mut encoder = gop_of(1);
    let mut records = [gop::AVC_720P, gop::AVC_360P].into_iter().cycle();
    for frame in encoder.until(MediaTime::from_millis(120_000)) {
        broadcast.pass_until(frame.dts.since(MediaTime::ZERO));
        if frame.track == Track::Video {
            broadcast.codecs(records.next(), None);
        }
        broadcast.frame(&frame);
        assert!(broadcast.list.snapshot().lines.len() <= 64);
    }
    assert!(broadcast.inits().len() <= 121);
}

#[test]
fn a_configuration_that_cannot_be_read_is_told_once_and_audio_goes_on() {
    let mut broadcast = Broadcast::new(seconds(3.0));
    broadcast.connect(Some(b"no record"), Some(gop::AAC_48K_STEREO));
    broadcast.codecs(Some(b"no record"), None);
    broadcast.play(&mut gop_of(50), seconds(10.0), NONE);
    assert_eq!(broadcast.warnings().len(), 1);
    assert_eq!(broadcast.inits()[0].codecs, "mp4a.40.2");
    assert!(broadcast.chunks().len() >= 2);
}

// ---- date and time

#[test]
fn the_stamp_of_the_first_key_frame_anchors_an_epoch_if_it_is_plausible() {
    let near = BEGIN - Duration::from_millis(1_500);
    for (stamp, expected) in
        [(near, near), (BEGIN - seconds(11.0), BEGIN), (UtcTime::from_micros(i64::MAX), BEGIN)]
    {
        let mut broadcast = Broadcast::both();
        broadcast.play(&mut gop_of(75).stamped(stamp), seconds(20.0), NONE);
        for (index, chunk) in broadcast.chunks().into_iter().enumerate() {
            assert_eq!(chunk.program_date_time, expected + seconds(3.0 * index as f64));
        }
    }
}

#[test]
fn a_broadcaster_whose_clock_is_behind_does_not_turn_back_the_list() {
    let mut broadcast = Broadcast::both();
    broadcast.play(&mut gop_of(50), seconds(10.0), NONE);
    broadcast.connect(Some(gop::AVC_360P), Some(gop::AAC_48K_STEREO));
    let mut again = Encoder::both().stamped(BEGIN + seconds(5.0));
    broadcast.play(&mut again, seconds(20.0), seconds(10.0));
    let end = broadcast.chunks().into_iter().rfind(|chunk| chunk.epoch == 1).unwrap();
    let first = broadcast.chunks().into_iter().find(|chunk| chunk.epoch == 2).unwrap();
    let end = end.program_date_time + end.duration.since(MediaTime::ZERO);
    assert!(first.program_date_time.distance(end) < Duration::from_millis(1));
}

// ---- the list

#[test]
fn six_chunks_are_listed_and_removed_ones_stay_for_a_list_and_a_chunk() {
    let mut broadcast = Broadcast::both();
    let mut encoder = gop_of(75);
    broadcast.play(&mut encoder, seconds(60.5), NONE);
    let lines = broadcast.list.snapshot().lines;
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[0].sequence, 14);
    let get = |broadcast: &Broadcast, sequence| {
        broadcast.list.get(Resource::Chunk { epoch: 1, sequence }).is_some()
    };
    // Chunk 13 left at 60 s; 3 s + 21 s (7 chunks stood for a moment) later it goes.
    assert!(get(&broadcast, 13));
    broadcast.play(&mut encoder, seconds(83.5), NONE);
    assert!(get(&broadcast, 13));
    broadcast.play(&mut encoder, seconds(84.5), NONE);
    assert!(!get(&broadcast, 13));
    assert!(broadcast.list.evicted().contains(&Resource::Chunk { epoch: 1, sequence: 13 }));
    assert_eq!(broadcast.list.evicted(), []);
}

#[test]
fn short_chunks_are_listed_in_greater_number() {
    let mut broadcast = Broadcast::new(seconds(3.0));
    broadcast.connect(Some(gop::AVC_360P), None);
    let video = Video { rate: 24, gop: 55, ..Video::default() };
    broadcast.play(&mut Encoder::new(Some(video), None, MediaTime::ZERO), seconds(80.0), NONE);
    // 2.29 s each: 5 would be less than 12 s.
    assert_eq!(broadcast.list.snapshot().lines.len(), 6);
    let mut broadcast = Broadcast::new(seconds(3.0));
    broadcast.connect(Some(gop::AVC_360P), None);
    for second in 0..40 {
        // A codec that changes every second.
        let record = if second % 2 == 0 { gop::AVC_360P } else { gop::AVC_720P };
        broadcast.codecs(Some(record), None);
        let start = MediaTime::from_millis(second * 1040);
        let mut encoder = Encoder::new(Some(Video::default()), None, start);
        for frame in encoder.until(start + seconds(1.04)) {
            broadcast.pass_until(frame.dts.since(MediaTime::ZERO));
            broadcast.frame(&frame);
        }
    }
    assert!(broadcast.list.snapshot().lines.len() > 10);
}

#[test]
fn the_end_is_listed_at_once_and_for_good() {
    let mut broadcast = Broadcast::both();
    broadcast.play(&mut gop_of(50), seconds(10.5), NONE);
    broadcast.end();
    let list = broadcast.judge.list();
    assert!(list.end_list);
    let last = list.segments.last().unwrap().duration;
    assert!((2.4..2.6).contains(&last), "what had come of the last chunk: {last}");
    let version = broadcast.list.version();
    broadcast.pass(seconds(100.0));
    broadcast.frame(&Encoder::both().next().unwrap());
    broadcast.list.on_end(std::time::Instant::now());
    assert_eq!(broadcast.list.version(), version);
    assert!(broadcast.list.get(Resource::Chunk { epoch: 1, sequence: 0 }).is_some());
}

#[test]
fn a_restart_keeps_sequence_and_bytes_and_gaps_cover_the_absence() {
    let mut broadcast = Broadcast::both();
    broadcast.play(&mut gop_of(50), seconds(40.0), NONE);
    let last = broadcast.list.snapshot().lines.last().unwrap().sequence;
    let kept = broadcast.list.get(Resource::Chunk { epoch: 1, sequence: last - 6 });
    assert!(kept.is_some());
    broadcast.restart(seconds(1.0));
    assert_eq!(broadcast.list.get(Resource::Chunk { epoch: 1, sequence: last - 6 }), kept);
    broadcast.pass(seconds(12.0));
    assert!(broadcast.list.position().unwrap().sequence > last, "GAPs go on");
    broadcast.connect(Some(gop::AVC_360P), Some(gop::AAC_48K_STEREO));
    let offset = broadcast.now();
    broadcast.play(&mut gop_of(50), seconds(40.0), offset);
    let sequences = broadcast.outputs.iter().filter_map(|output| match output {
        Output::Chunk(chunk) => Some(chunk.sequence),
        Output::Gap(gap) => Some(gap.sequence),
        _ => None,
    });
    let sequences: Vec<_> = sequences.collect();
    assert!(sequences.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{sequences:?}");
    assert_eq!(broadcast.inits().last().unwrap().epoch, 2);
}

/// The chunk that was torn becomes a GAP of its own; what is left behind it must
/// again be filled, or too long to be.
#[test]
fn a_restart_after_a_stall_of_any_length_leaves_no_hole_that_gaps_should_fill() {
    for away in (0..120).map(f64::from) {
        let mut broadcast = Broadcast::both();
        broadcast.play(&mut gop_of(50), seconds(20.0), NONE);
        broadcast.pass(seconds(away));
        broadcast.restart(seconds(0.1));
        broadcast.connect(Some(gop::AVC_360P), Some(gop::AAC_48K_STEREO));
        let offset = broadcast.now();
        broadcast.play(&mut gop_of(50), seconds(8.0), offset);
        assert_eq!(broadcast.inits().last().unwrap().epoch, 2);
    }
}

#[test]
fn a_saved_list_that_lacks_anything_is_not_restored() {
    let mut broadcast = Broadcast::both();
    broadcast.play(&mut gop_of(50), seconds(60.0), NONE);
    let config = Config::new(seconds(4.0));
    let restore = |missing: Resource, short: bool| {
        Chunklist::restore(config, broadcast.list.save(), |resource| {
            let bytes = broadcast.list.get(resource)?;
            match (resource == missing, short) {
                (false, _) => Some(bytes),
                (true, true) => Some(bytes.slice(1..)),
                (true, false) => None,
            }
        })
    };
    let last = broadcast.list.snapshot().lines.last().unwrap().sequence;
    for short in [true, false] {
        assert!(restore(Resource::Init { epoch: 1 }, short).is_none());
        assert!(restore(Resource::Chunk { epoch: 1, sequence: last }, short).is_none());
        // One that is only kept may be missing.
        let kept = Resource::Chunk { epoch: 1, sequence: last - 6 };
        assert!(restore(kept, short).unwrap().get(kept).is_none());
    }
    let resume = broadcast.list.save().resume();
    assert_eq!((resume.next_sequence, resume.epoch), (last + 1, 1));
}

#[test]
fn bandwidth_is_no_less_than_any_chunk_and_changes_rarely() {
    let mut broadcast = Broadcast::both();
    let mut encoder = gop_of(50);
    let mut values = Vec::new();
    for second in 4..120 {
        broadcast.play(&mut encoder, seconds(f64::from(second)), NONE);
        values.extend(broadcast.list.snapshot().stream.map(|stream| stream.bandwidth));
    }
    values.dedup();
    assert!(values.len() <= 2, "{values:?}");
    for chunk in broadcast.chunks() {
        let bits = chunk.bytes.len() as f64 * 8.0 / chunk.duration.seconds();
        assert!(bits <= *values.last().unwrap() as f64);
    }
}
