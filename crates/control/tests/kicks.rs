//! A kick reaches the person, is remembered as long as the token lives, and is
//! told of viewers who are there only; and the seats of those who poll.

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use spyglass_api::control::Role;
use spyglass_control::store::Engine;
use support::{OPERATOR, World, embedded, eventually, grant, lease, text};

fn kick(id: &str, viewer: &str) -> String {
    format!("/v1/broadcasts/{id}/viewers/{viewer}/kick")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kick_reaches_the_person_after_all_controls_restarted() {
    let world = World::start().await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let edge = world.node("edge-1", Role::Edge, None).await;
    let (ann_id, ann) = world.user("Ann").await;
    let id = text(&world.create(OPERATOR, json!({"title": "kick"})).await["id"]);
    let path = format!("/v1/broadcasts/{id}/viewers");
    let joined = world.call("POST", &path, &ann, &json!({})).await.expect(200).json();
    // As the edge tells every control that it attaches to.
    edge.link.lease_begun(lease(&edge, &joined, false));
    drop(origin);
    let world = world.restart(false).await;
    eventually("the lease says who watches", async || {
        let listed = world.operator("GET", &path, Value::Null).await.expect(200).json();
        (listed["viewers"][0]["user"] == json!(ann_id)).then_some(())
    })
    .await;
    let viewer = text(&joined["viewer"]);
    world.operator("POST", &kick(&id, &viewer), Value::Null).await.expect(200);
    let detail = world.call("POST", &path, &ann, &json!({})).await.problem(403);
    assert!(detail.contains("removed"), "{detail}");
    drop(edge);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kick_cuts_every_viewer_that_the_same_person_is() {
    let world = World::start().await;
    let _origin = world.node("origin-1", Role::Origin, None).await;
    let edge = world.node("edge-1", Role::Edge, None).await;
    let id = text(&world.create(OPERATOR, json!({"title": "kick"})).await["id"]);
    let path = format!("/v1/broadcasts/{id}/viewers");
    let mut joined = Vec::new();
    let (_, ann) = world.user("Ann").await;
    let (_, bob) = world.user("Bob").await;
    for user in [&ann, &ann, &bob] {
        let answer = world.call("POST", &path, user, &json!({})).await;
        joined.push(text(&answer.expect(200).json()["viewer"]));
    }
    world.operator("POST", &kick(&id, &joined[0]), Value::Null).await.expect(200);
    let refused = |n: usize| edge.link.revoked(id.parse().unwrap(), joined[n].parse().unwrap());
    eventually("both of Ann's are refused", async || (refused(0) && refused(1)).then_some(()))
        .await;
    assert!(!refused(2), "Bob is not");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_gone_is_known_from_the_record() {
    use spyglass_api::control::Phase;
    let world = World::start().await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let edge = world.node("edge-1", Role::Edge, None).await;
    let (ann_id, ann) = world.user("Ann").await;
    let id = text(&world.create(OPERATOR, json!({"title": "kick"})).await["id"]);
    origin.event(&id, Phase::Live, 1, Default::default());
    world.wait_for(&id, "/state", &json!("live")).await;
    let path = format!("/v1/broadcasts/{id}/viewers");
    let joined = world.call("POST", &path, &ann, &json!({})).await.expect(200).json();
    let watching = lease(&edge, &joined, false);
    edge.link.lease_begun(watching.clone());
    let record = format!("/v1/broadcasts/{id}/record");
    eventually("Ann is on record", async || {
        let record = world.operator("GET", &record, Value::Null).await.expect(200).json();
        (record["viewers"][0]["user"] == json!(ann_id)).then_some(())
    })
    .await;
    edge.link.lease_ended(watching);
    world.wait_for(&id, "/viewers/total", &json!(0)).await;
    let world = world.restart(false).await;
    world.wait_for_node("edge-1", "up").await;
    let viewer = text(&joined["viewer"]);
    world.operator("POST", &kick(&id, &viewer), Value::Null).await.expect(200);
    world.call("POST", &path, &ann, &json!({})).await.problem(403);
    drop(origin);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_that_never_was_cannot_be_kicked() {
    let world = World::start().await;
    let _origin = world.node("origin-1", Role::Origin, None).await;
    let _edge = world.node("edge-1", Role::Edge, None).await;
    let id = text(&world.create(OPERATOR, json!({"title": "kick"})).await["id"]);
    let other = text(&world.create(OPERATOR, json!({"title": "other"})).await["id"]);
    let detail = world.operator("POST", &kick(&id, "0123456789abc"), Value::Null).await;
    assert!(detail.problem(404).contains("viewer"));
    // Neither on HLS nor pushed to need a viewer have connected.
    for wish in ["auto", "hls"] {
        let viewer = text(&world.join(&id, json!({"tier": wish})).await["viewer"]);
        world.operator("POST", &kick(&other, &viewer), Value::Null).await.problem(404);
        for _ in 0..2 {
            world.operator("POST", &kick(&id, &viewer), Value::Null).await.expect(200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kick_is_remembered_as_long_as_the_token_lives() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Engine> = Arc::new(embedded(&dir));
    let life = |seconds: u32| {
        move |config: &mut spyglass_control::Config| config.watch_token_seconds = seconds
    };
    let long = World::over(Arc::clone(&store), dir, life(36_000)).await;
    // Another control, where tokens live a minute.
    let short = World::over(Arc::clone(&store), tempfile::tempdir().unwrap(), life(60)).await;
    let origin = long.node_of_both(&short, "origin-1", Role::Origin).await;
    let _edge = long.node_of_both(&short, "edge-1", Role::Edge).await;
    let id = text(&long.create(OPERATOR, json!({"title": "kick"})).await["id"]);
    for (joins, kicks) in [(&long, &short), (&short, &long)] {
        let joined = joins.join(&id, json!({})).await;
        let viewer = text(&joined["viewer"]);
        eventually("the kick", async || {
            (kicks.operator("POST", &kick(&id, &viewer), Value::Null).await.status == 200)
                .then_some(())
        })
        .await;
        let expires = grant(&origin, &text(&joined["token"])).expires.millis();
        let kept = eventually("it is kept", async || {
            store.get(&format!("revocations/{id}/{viewer}")).await.unwrap()
        })
        .await;
        let kept: i64 = std::str::from_utf8(&kept.value).unwrap().parse().unwrap();
        assert!((0..=60_000).contains(&(kept - expires)), "{}", kept - expires);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_comment_keeps_the_seat_by_polling_and_nobody_a_place_in_the_push_tier() {
    let world = World::with(|config| {
        (config.push_viewers, config.commenters) = (1, 2);
        (config.seat_reservation_seconds, config.seat_grace_seconds) = (3, 1);
    })
    .await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let edge = world.node("edge-1", Role::Edge, None).await;
    let id = text(&world.create(OPERATOR, json!({"title": "seats"})).await["id"]);
    let polls = world.join(&id, json!({})).await;
    assert_eq!((&polls["tier"], &polls["seat"]), (&json!("push"), &json!(1)));
    let talks = world.join(&id, json!({})).await;
    assert_eq!((&talks["tier"], &talks["seat"]), (&json!("hls"), &json!(2)));
    for joined in [&polls, &talks] {
        edge.link.lease_begun(lease(&edge, joined, false));
    }
    let pushed = eventually("the place in the push tier lapses", async || {
        let joined = world.join(&id, json!({})).await;
        (joined["seat"] == 1).then_some(joined)
    })
    .await;
    let connection = lease(&origin, &pushed, true);
    origin.link.lease_begun(connection.clone());
    world.wait_for(&id, "/viewers/push", &json!(1)).await;
    world.wait_for(&id, "/viewers/hls", &json!(2)).await;
    // Two reservations later the seat that only comments is still held.
    tokio::time::sleep(Duration::from_millis(6_200)).await;
    assert_eq!(world.join(&id, json!({})).await["seat"], Value::Null);
    let path = format!("/v1/broadcasts/{id}/viewers");
    let again = async || {
        let token = text(&talks["token"]);
        world.call("POST", &path, &token, &json!({})).await.expect(200).json()
    };
    assert_eq!(again().await["seat"], 2);
    // Who sits beyond the push tier is promoted when there is room.
    origin.link.lease_ended(connection);
    let promoted = eventually("there is room", async || {
        let joined = again().await;
        (joined["tier"] == "push").then_some(joined)
    })
    .await;
    assert_eq!(promoted["seat"], 1);
}
