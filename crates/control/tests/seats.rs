//! The push tier holds a hundred, whoever comes and goes.

mod support;

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};
use spyglass_api::control::{Phase, Role};
use support::{OPERATOR, World, eventually, grant, lease, text};

async fn join_at_once(world: &Arc<World>, id: &str, count: usize) -> Vec<Value> {
    let mut joins = tokio::task::JoinSet::new();
    for _ in 0..count {
        let (world, id) = (Arc::clone(world), id.to_owned());
        joins.spawn(async move { world.join(&id, Value::Null).await });
    }
    joins.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_simultaneous_joins_a_hundred_are_push() {
    let world = Arc::new(World::start().await);
    let origin = world.node("origin-1", Role::Origin, None).await;
    let _edge = world.node("edge-1", Role::Edge, None).await;
    let made = world.create(OPERATOR, json!({"title": "full"})).await;
    let id = text(&made["id"]);
    let joined = join_at_once(&world, &id, 1_000).await;
    let (push, hls): (Vec<_>, Vec<_>) =
        joined.into_iter().partition(|joined| joined["tier"] == "push");
    assert_eq!((push.len(), hls.len()), (100, 900));
    let seats: HashSet<u64> = push.iter().map(|joined| joined["seat"].as_u64().unwrap()).collect();
    assert_eq!(seats, (1..=100).collect());
    for joined in &push {
        let token = text(&joined["token"]);
        assert_eq!(joined["urls"]["rtmp"], format!("rtmp://origin-1.test/live/{id}?token={token}"));
        let grant = grant(&origin, &token);
        assert_eq!(u64::from(grant.seat.unwrap()), joined["seat"]);
        assert!(grant.push && grant.comment && joined["can_comment"] == true);
    }
    for joined in &hls {
        assert!(joined["seat"].is_null() && joined["urls"].get("rtmp").is_none(), "{joined}");
        let token = text(&joined["token"]);
        let url = format!("http://edge-1.test/v/{token}/{id}/index.m3u8");
        assert_eq!(joined["urls"]["hls"], url);
        assert_eq!(joined["edge"], json!({"id": "edge-1"}));
        assert!(!grant(&origin, &token).push);
    }
    // Fifty leave, fifty of those who come get their seats.
    for joined in &push[..50] {
        let path = format!("/v1/broadcasts/{id}/viewers/{}", text(&joined["viewer"]));
        world.call("DELETE", &path, &text(&joined["token"]), &Value::Null).await.expect(204);
    }
    let again = join_at_once(&world, &id, 60).await;
    assert_eq!(again.iter().filter(|joined| joined["tier"] == "push").count(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seat_follows_its_viewers_connection() {
    let world = World::with(|config| {
        config.push_viewers = 1;
        config.commenters = 2;
        config.seat_reservation_seconds = 2;
        config.seat_grace_seconds = 1;
    })
    .await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let edge = world.node("edge-1", Role::Edge, None).await;
    let made = world.create(OPERATOR, json!({"title": "one seat"})).await;
    let id = text(&made["id"]);
    origin.event(&id, Phase::Live, 1, Default::default());
    let first = world.join(&id, json!({})).await;
    assert_eq!((&first["tier"], &first["seat"]), (&json!("push"), &json!(1)));
    let connection = lease(&origin, &first, true);
    origin.link.lease_begun(connection.clone());
    world.wait_for(&id, "/viewers/push", &json!(1)).await;
    // Seat 2 may comment but is not of the push tier; the third has no seat.
    let second = world.join(&id, json!({})).await;
    assert_eq!((&second["tier"], &second["can_comment"]), (&json!("hls"), &json!(true)));
    let third = world.join(&id, json!({})).await;
    assert_eq!((&third["seat"], &third["can_comment"]), (&Value::Null, &json!(false)));
    edge.link.lease_begun(lease(&edge, &third, false));
    let shown = world.wait_for(&id, "/viewers/hls", &json!(1)).await;
    assert_eq!(shown["viewers"]["total"], 2);
    let listed = world.operator("GET", &format!("/v1/broadcasts/{id}/viewers"), Value::Null).await;
    let listed = listed.expect(200).json()["viewers"].clone();
    let mut tiers: Vec<_> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|viewer| (text(&viewer["tier"]), viewer["seat"].clone(), text(&viewer["node"])))
        .collect();
    tiers.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        ("hls".to_owned(), Value::Null, "edge-1".to_owned()),
        ("push".to_owned(), json!(1), "origin-1".to_owned()),
    ];
    assert_eq!(tiers, expected);
    let metrics = world.anyone("GET", "/metrics", Value::Null).await.expect(200);
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("spyglass_viewers{tier=\"push\"}"), "{metrics}");

    // The connection drops; within the grace the seat is kept, then given away.
    origin.link.lease_ended(connection.clone());
    world.wait_for(&id, "/viewers/push", &json!(0)).await;
    let next = eventually("the seat is free again", || async {
        let joined = world.join(&id, json!({})).await;
        (joined["seat"] == 1).then_some(joined)
    })
    .await;
    assert!(grant(&origin, &text(&next["token"])).generation > connection.generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kicked_viewer_is_refused_everywhere() {
    let world = World::with(|config| config.push_viewers = 1).await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let edge = world.node("edge-1", Role::Edge, None).await;
    let made = world.create(OPERATOR, json!({"title": "kick"})).await;
    let id = text(&made["id"]);
    let joined = world.join(&id, json!({})).await;
    let viewer = text(&joined["viewer"]);
    let path = format!("/v1/broadcasts/{id}/viewers/{viewer}/kick");
    let token = text(&joined["token"]);
    world.call("POST", &path, &token, &Value::Null).await.problem(403);
    world.anyone("POST", &path, Value::Null).await.problem(401);
    world.operator("POST", &path, Value::Null).await.expect(200);
    let revoked = (id.parse().unwrap(), viewer.parse().unwrap());
    for node in [&origin, &edge] {
        eventually("the node knows", || async {
            node.link.revoked(revoked.0, revoked.1).then_some(())
        })
        .await;
    }
    // The token is nobody's now, and the seat another's.
    let own = format!("/v1/broadcasts/{id}/viewers/{viewer}");
    world.call("DELETE", &own, &token, &Value::Null).await.problem(401);
    assert_eq!(world.join(&id, json!({})).await["seat"], 1);
    // A node that attaches later learns of it, also from a restarted control.
    let world = world.restart(false).await;
    let late = world.node("edge-2", Role::Edge, None).await;
    eventually("the late node knows", || async {
        late.link.revoked(revoked.0, revoked.1).then_some(())
    })
    .await;
}
