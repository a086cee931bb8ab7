//! What the world in memory has found, each as small as it gets.

use std::time::{Duration, Instant};

use bytes::Bytes;
use spyglass_hls::chunklist::{self, Chunklist};
use spyglass_hls::segmenter::{Codec, Config, Resume, Segmenter};
use spyglass_media::{MediaTime, UtcTime};
use spyglass_testkit::gop::{self, Encoder, Video};
use spyglass_tests::world::World;

/// An origin that lost its state begins at a floor. Killed before its first
/// chunk, it must come back behind the same floor: its epoch is remembered, its
/// sequence is not, and begins at 0 again.
#[test]
fn a_floor_survives_a_restart_before_the_first_chunk() {
    let (now, utc) = (Instant::now(), UtcTime::from_millis(1_790_000_000_000));
    let config = Config { chunk: Duration::from_secs(3), part: Duration::ZERO };
    let floor = Resume { next_sequence: 16, epoch: 16, ..Resume::default() };
    let mut segmenter = Segmenter::new(config, floor);
    let mut list = Chunklist::new(chunklist::Config::new(config.target_duration()), &floor);
    segmenter.on_publisher(now);
    segmenter.on_codec(Codec::Video(Bytes::from_static(gop::AVC_360P)));
    let frame = Encoder::new(Some(Video::default()), None, MediaTime::ZERO).next();
    for output in segmenter.on_frame(now, utc, &frame.expect("an endless encoder")) {
        list.on_output(now, output);
    }
    assert_eq!(list.save().resume().epoch, 17);
    assert_eq!(list.save().resume().next_sequence, 16);
}

/// A chunk is listed, fetched, and its origin killed before the page was
/// written. The next process lists a GAP under the same sequence and version at
/// once, before any edge can tell what it holds.
#[test]
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
