//! What the world in memory has found, each as small as it gets; ignored until
//! it is mended. `cargo test --test world_findings -- --ignored` shows them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use spyglass_edge::slot::{Filled, Limits, Meta, Slot, Standing};
use spyglass_hls::chunklist::{self, Chunklist};
use spyglass_hls::segmenter::{Codec, Config, Resume, Segmenter};
use spyglass_media::{MediaTime, Position, UtcTime, Version};
use spyglass_testkit::gop::{self, Encoder, Video};
use spyglass_tests::world::World;

/// An origin that lost its state begins at a floor. Killed before its first
/// chunk, it must come back behind the same floor: its epoch is remembered, its
/// sequence is not, and begins at 0 again.
#[test]
#[ignore = "Chunklist does not know where it begins before its first chunk"]
fn a_floor_survives_a_restart_before_the_first_chunk() {
    let (now, utc) = (Instant::now(), UtcTime::from_millis(1_790_000_000_000));
    let config = Config { chunk: Duration::from_secs(3) };
    let floor = Resume { next_sequence: 16, epoch: 16, ..Resume::default() };
    let mut segmenter = Segmenter::new(config, floor);
    let mut list = Chunklist::new(chunklist::Config::new(config.target_duration()));
    segmenter.on_publisher(now);
    segmenter.on_codec(Codec::Video(Bytes::from_static(gop::AVC_360P)));
    let frame = Encoder::new(Some(Video::default()), None, MediaTime::ZERO).next();
    for output in segmenter.on_frame(now, utc, &frame.expect("an endless encoder")) {
        list.on_output(now, output);
    }
    assert_eq!(list.save().resume().epoch, 17);
    assert_eq!(list.save().resume().next_sequence, 16);
}

/// A notice of a process that this slot never knew, because it is younger: it
/// is taken for a new process, and the running one counts as gone from then on.
#[test]
#[ignore = "Slot takes any unknown incarnation for a newer one, whatever the directory says"]
fn a_late_notice_of_a_process_gone_before_the_slot_began_means_nothing() {
    let now = Instant::now();
    let mut slot = Slot::new(Limits::default(), now);
    let target = Duration::from_secs(4);
    slot.on_standing(Some(Standing { incarnation: 2, begun: true, target: Some(target) }));
    slot.on_watch(true);
    slot.on_expire(Version { epoch: 1, revision: 9 }, Some(Position::closed(8)), 1);
    let fetch = slot.on_poll(now, now).fetch.expect("nothing is held");
    let meta = Meta {
        version: Version { epoch: 2, revision: 10 },
        position: Some(Position::closed(9)),
        target,
        ended: false,
        incarnation: 2,
        age: Duration::ZERO,
    };
    assert_eq!(slot.on_filled(now, fetch.id, meta, ()), Filled::Stored);
}

/// A chunk is listed, fetched, and its origin killed before the page was
/// written. The next process lists a GAP under the same sequence and version at
/// once, before any edge can tell what it holds.
#[test]
#[ignore = "a restarted segmenter lists a GAP before edges have said what they hold"]
fn a_version_that_was_served_and_not_journalled_is_not_made_again() {
    let mut world = World::new(1, 1, 1);
    world.publish();
    world.arrive(0);
    world.seconds(20);
    let written = world.version();
    world.journal_takes(Duration::from_secs(60));
    assert!(world.seconds_until(4, |world| world.version() > written));
    let served = world.version().expect("a list");
    assert!(world.everybody_has_within(served, 4));
    world.publisher_vanishes(true);
    world.kill_origin(false);
    world.seconds(3);
    world.start_origin();
    world.seconds(3);
    world.publish();
    world.seconds(20);
}
