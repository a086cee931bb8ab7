//! Who watches under `/live/` without having joined, as control is told.

mod support;

use std::ops::RangeInclusive;
use std::time::Duration;

use http::Method;
use spyglass_api::upstream::BroadcastState;
use spyglass_media::ViewerId;
use support::client::ask;
use support::{World, id, token};

/// Waits until control has been told so many.
async fn told(world: &World, count: RangeInclusive<u32>) {
    let telling = async {
        while !count.contains(&world.control.anonymous(id(1))) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), telling).await.expect("another estimate");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_did_not_join_is_estimated_and_forgotten() {
    let world = World::start().await;
    world.origin.enter(id(3), BroadcastState::Live, true, Duration::from_secs(1));
    world.origin.publish(id(3), 1);
    world.until("/metrics", |it| it.text().contains("spyglass_edge_broadcasts 2")).await;
    let viewer = ViewerId::from_random([1; 16]);
    let good = token(id(1), viewer, Duration::from_secs(60));
    let joined = format!("/v/{good}/{}/chunklist.m3u8", id(1));
    for player in 0..7 {
        let agent = format!("player {player}");
        // However often it asks, and for what.
        for path in [world.list(), world.list(), format!("/live/{}/index.m3u8", id(1))] {
            let answer = ask(world.edge, Method::GET, &path, &[("user-agent", &agent)]).await;
            assert_eq!(answer.status, 200);
        }
        // Who has joined is counted elsewhere, who is refused nowhere.
        assert_eq!(
            ask(world.edge, Method::GET, &joined, &[("user-agent", &agent)]).await.status,
            200
        );
        let private = format!("/live/{}/chunklist.m3u8", id(3));
        let refused = ask(world.edge, Method::GET, &private, &[("user-agent", &agent)]).await;
        assert_eq!(refused.status, 404);
    }
    // Two of seven have one group of a thousand now and then.
    told(&world, 5..=7).await;
    assert_eq!(world.control.viewers(), [viewer.to_string()]);
    assert_eq!(world.control.anonymous(id(3)), 0);
    // They stop asking; the target duration is 1 s.
    told(&world, 0..=0).await;
}
