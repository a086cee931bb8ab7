//! What viewers see while the origin is slow, dead, lying or back again.

mod support;

use std::time::{Duration, Instant};

use spyglass_api::upstream::BroadcastState;
use spyglass_testkit::stopwatch::Stopwatch;
use support::origin::version;
use support::{Answer, Fault, World, id};

const SECOND: Duration = Duration::from_secs(1);

fn revision(answer: &Answer) -> Option<u64> {
    let text = answer.text();
    text.lines().find_map(|line| line.strip_prefix("revision ")?.parse().ok())
}

/// With an expired list and a fault, a poll waits a target duration (1 s) and
/// is refused; nothing old, nothing spoiled is served; and the list is back
/// within a second of the fault's end.
async fn known_old_is_never_served(fault: Fault, result: &str) {
    let world = World::start().await;
    assert_eq!(revision(&world.get(&world.list()).await), Some(1));
    world.origin.fault(fault);
    world.origin.publish(id(1), 2);
    world.origin.of_interest(id(1)).await;
    // Until the notice is here, revision 1 is the newest that the edge knows.
    let asked = Instant::now();
    let refused = world.until(&world.list(), |answer| revision(answer) != Some(1)).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"), "{refused:?}");
    assert!(refused.cache().starts_with("fwd=stale"), "{}", refused.cache());
    assert!(asked.elapsed() > SECOND * 9 / 10, "{:?}", asked.elapsed());
    let line = format!("spyglass_edge_fetches_total{{resource=\"chunklist\",result=\"{result}\"}}");
    world.until("/metrics", |answer| answer.text().contains(&line)).await;
    world.origin.fault(Fault::None);
    let healed = Stopwatch::start();
    let answer = world.until(&world.list(), |answer| answer.status == 200).await;
    assert_eq!(revision(&answer), Some(2));
    assert!(healed.elapsed() < SECOND * 3 / 2, "{:?}", healed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging() {
    known_old_is_never_served(Fault::Hang, "deadline").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unavailable() {
    known_old_is_never_served(Fault::Unavailable, "not_yet").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncating() {
    known_old_is_never_served(Fault::Truncate, "truncated").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_too_much() {
    known_old_is_never_served(Fault::Excess, "rubbish").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_rubbish() {
    known_old_is_never_served(Fault::Rubbish, "rubbish").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_an_older_list_than_asked_for() {
    known_old_is_never_served(Fault::TooOld, "too_old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spoiled_chunks_are_refused_and_not_kept() {
    let world = World::start().await;
    world.get(&world.list()).await;
    for fault in [Fault::Truncate, Fault::Excess, Fault::Rubbish, Fault::Unavailable] {
        world.origin.fault(fault);
        let refused = world.get(&world.chunk(1)).await;
        assert_eq!((refused.status, refused.cache()), (503, "fwd=miss"), "{fault:?}");
    }
    world.origin.fault(Fault::None);
    let answer = world.get(&world.chunk(1)).await;
    assert_eq!((answer.status, answer.text()), (200, format!("chunk 1 of {}", id(1))));
    world.origin.fault(Fault::Truncate);
    assert_eq!(world.get(&world.chunk(1)).await.cache(), "hit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_origin_leaves_what_is_here_and_the_list_ages() {
    let world = World::start().await;
    world.get(&world.list()).await;
    world.get(&world.chunk(1)).await;
    world.origin.kill();
    // Half a target duration after the watch broke, the copy has aged: it is
    // served after a second's wait, with its true age.
    let aged = world.until(&world.list(), |answer| answer.cache() != "hit").await;
    assert_eq!((aged.status, aged.cache()), (200, "fwd=stale; detail=unreachable"));
    assert_eq!(revision(&aged), Some(1));
    assert!(aged.header("age").parse::<u64>().unwrap() >= 1);
    assert_eq!(world.get(&world.chunk(1)).await.cache(), "hit");
    // Back, as the same broadcast from another process.
    let risen = world.origin.rise(200).await;
    risen.live(id(1), SECOND);
    risen.publish(id(1), 2);
    let back = Instant::now();
    world.until(&world.list(), |answer| revision(answer) == Some(2)).await;
    risen.of_interest(id(1)).await;
    assert_eq!(risen.held(id(1)).map(|held| held >= version(1)), Some(true));
    println!("back after {:?}", back.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_lost_its_state_does_not_turn_back_time() {
    let world = World::start().await;
    world.origin.publish(id(1), 50);
    assert_eq!(revision(&world.get(&world.list()).await), Some(50));
    world.origin.of_interest(id(1)).await;
    world.origin.kill();
    let risen = world.origin.rise(200).await;
    risen.live(id(1), SECOND);
    risen.publish(id(1), 3);
    risen.of_interest(id(1)).await;
    // It is told what was seen …
    assert_eq!(risen.held(id(1)), Some(version(50)));
    for _ in 0..3 {
        let answer = world.get(&world.list()).await;
        assert_eq!((answer.status, revision(&answer)), (200, Some(50)), "{answer:?}");
    }
    // … and goes on behind it.
    risen.publish(id(1), 51);
    world.until(&world.list(), |answer| revision(answer) == Some(51)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_heartbeats_a_copy_is_good_for_half_the_target_duration() {
    let world = World::start().await;
    world.get(&world.list()).await;
    world.origin.of_interest(id(1)).await;
    world.origin.mute(true);
    // Silent for 3 s: broken, and watched anew.
    world.origin.watched(2).await;
    world.origin.publish(id(1), 2);
    let published = Stopwatch::start();
    world.until(&world.list(), |answer| revision(answer) == Some(2)).await;
    assert!(published.elapsed() < SECOND * 5 / 2, "{:?}", published.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_every_notice_ignored_a_copy_ages_out() {
    let world = World::with(|config| config.ignore_notices = true).await;
    world.get(&world.list()).await;
    world.origin.of_interest(id(1)).await;
    world.origin.publish(id(1), 2);
    let published = Stopwatch::start();
    assert_eq!(revision(&world.get(&world.list()).await), Some(1));
    world.until(&world.list(), |answer| revision(answer) == Some(2)).await;
    // Target duration and a second, from when it was fetched.
    assert!(published.elapsed() < SECOND * 5 / 2, "{:?}", published.elapsed());
    assert!(world.metrics().await.contains("spyglass_edge_notices_ignored_total"));
}

#[tokio::test(flavor = "multi_thread")]
async fn lying_notices_do_no_harm() {
    let world = World::start().await;
    world.origin.publish(id(1), 5);
    assert_eq!(revision(&world.get(&world.list()).await), Some(5));
    world.origin.of_interest(id(1)).await;
    // Late and doubled, of this process and of one that is no more.
    for revision in [4, 5, 5, 1] {
        world.origin.notice(id(1), revision, 100);
    }
    world.origin.publish(id(1), 6);
    world.until(&world.list(), |answer| revision(answer) == Some(6)).await;
    let before = world.origin.list_fetches();
    assert_eq!(world.get(&world.list()).await.cache(), "hit");
    assert_eq!(world.origin.list_fetches(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_restarts_without_control() {
    let mut world = World::start().await;
    world.get(&world.list()).await;
    world.control.kill();
    world.restart_edge().await;
    assert_eq!(revision(&world.get(&world.list()).await), Some(1));
    let viewer = spyglass_media::ViewerId::from_random([3; 16]);
    let token = support::token(id(1), viewer, SECOND * 60);
    let joined = world.get(&format!("/v/{token}/{}/chunklist.m3u8", id(1))).await;
    assert_eq!(joined.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_from_its_creation_to_its_end() {
    let world = World::start().await;
    let list = format!("/live/{}/chunklist.m3u8", id(2));
    assert_eq!(world.get(&list).await.status, 404);
    world.origin.enter(id(2), BroadcastState::Created, false, SECOND);
    world.until("/metrics", |it| it.text().contains("spyglass_edge_broadcasts 2")).await;
    // Waiting costs the origin nothing, and ends with the first chunk.
    let (edge, path) = (world.edge, list.clone());
    let waiting = tokio::spawn(async move { support::client::get(edge, &path).await });
    world.origin.of_interest(id(2)).await;
    assert_eq!(world.origin.fetches(|_| true), 0);
    world.origin.live(id(2), SECOND);
    world.origin.publish(id(2), 1);
    let first = waiting.await.unwrap();
    assert_eq!((first.status, first.cache()), (200, "fwd=miss"));
    world.origin.end(id(2));
    let last = world.until(&list, |answer| answer.text().contains("#EXT-X-ENDLIST")).await;
    assert_eq!(last.status, 200);
    // It does not age any more.
    let fetches = world.origin.list_fetches();
    world.origin.mute(true);
    world.origin.watched(2).await;
    assert_eq!(world.get(&list).await.cache(), "hit");
    assert_eq!(world.origin.list_fetches(), fetches);
    world.origin.enter(id(2), BroadcastState::Gone, false, SECOND);
    let gone = world.until(&list, |answer| answer.status == 410).await;
    assert_eq!(gone.cache(), "hit; detail=negative");
    assert_eq!(world.get(&format!("/live/{}/1-1.m4s", id(2))).await.status, 410);
    world.origin.enter(id(2), BroadcastState::Removed, true, SECOND);
    world.until(&list, |answer| answer.status == 404).await;
}
