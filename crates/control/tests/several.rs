//! Two controls over one store are one.

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use spyglass_api::control::{Phase, Role};
use spyglass_store::nats::Nats;
use spyglass_testkit::nats::Nats as Server;
use support::{Node, OPERATOR, World, eventually, grant, lease, text};

/// `count` joins at the same time, at either control in turn.
async fn join_at_once(worlds: &[Arc<World>; 2], id: &str, count: usize) -> Vec<(usize, Value)> {
    let mut joins = tokio::task::JoinSet::new();
    for n in 0..count {
        let (world, id) = (Arc::clone(&worlds[n % 2]), id.to_owned());
        joins.spawn(async move { (n % 2, world.join(&id, Value::Null).await) });
    }
    joins.join_all().await
}

async fn worlds() -> ([Arc<World>; 2], Node, Node) {
    with_nodes(World::two(|_| {}).await).await
}

async fn with_nodes((one, two): (World, World)) -> ([Arc<World>; 2], Node, Node) {
    let origin = one.node_of_both(&two, "origin-1", Role::Origin).await;
    let edge = one.node_of_both(&two, "edge-1", Role::Edge).await;
    ([Arc::new(one), Arc::new(two)], origin, edge)
}

fn push(joined: &[(usize, Value)]) -> Vec<&(usize, Value)> {
    joined.iter().filter(|(_, joined)| joined["tier"] == "push").collect()
}

fn seats(joined: &[&(usize, Value)]) -> HashSet<u64> {
    joined.iter().map(|(_, joined)| joined["seat"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_joins_at_two_controls_a_hundred_are_push() {
    a_hundred_are_push(worlds().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_joins_over_one_nats_server_a_hundred_are_push() {
    let server = Server::start();
    let control = async || {
        let engine = Nats::open(&server.url(), Duration::from_secs(15)).await.unwrap();
        World::over(Arc::new(engine), tempfile::tempdir().unwrap(), |_| {}).await
    };
    let both = (control().await, control().await);
    a_hundred_are_push(with_nodes(both).await).await;
}

async fn a_hundred_are_push((worlds, _origin, _edge): ([Arc<World>; 2], Node, Node)) {
    let made = worlds[0].create(OPERATOR, json!({"title": "full"})).await;
    let id = text(&made["id"]);
    // The other control has not heard of it yet, perhaps.
    let joined = join_at_once(&worlds, &id, 1_000).await;
    let first = push(&joined);
    assert_eq!(first.len(), 100);
    assert_eq!(seats(&first), (1..=100).collect());
    // Fifty leave, at the control that did not let them in.
    for (world, joined) in &first[..50] {
        let path = format!("/v1/broadcasts/{id}/viewers/{}", text(&joined["viewer"]));
        let token = text(&joined["token"]);
        worlds[1 - world].call("DELETE", &path, &token, &Value::Null).await.expect(204);
    }
    // Leaving is done when it is written, a moment after the answer.
    let mut again: Vec<(usize, Value)> = Vec::new();
    while push(&again).len() < 50 {
        assert!(again.len() < 1_000, "only {} seats were free again", push(&again).len());
        again.extend(join_at_once(&worlds, &id, 50).await);
    }
    again.extend(join_at_once(&worlds, &id, 50).await);
    let second = push(&again);
    assert_eq!(second.len(), 50);
    let all: Vec<_> = first[50..].iter().chain(&second).copied().collect();
    assert_eq!(seats(&all), (1..=100).collect(), "none is lost and none is given twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_does_the_other_knows() {
    let ([one, two], mut origin, edge) = worlds().await;
    // Asked for in the same moment.
    let made = one.create(OPERATOR, json!({"title": "here and there"})).await;
    let id = text(&made["id"]);
    assert_eq!(two.show(&id).await["state"], "created");
    origin.command().await;
    origin.event(&id, Phase::Live, 1, Default::default());
    for world in [&one, &two] {
        world.wait_for(&id, "/state", &json!("live")).await;
    }
    // Both count the same viewers, each by what the nodes tell it.
    let first = one.join(&id, json!({})).await;
    let second = two.join(&id, json!({})).await;
    assert_eq!((&first["seat"], &second["seat"]), (&json!(1), &json!(2)));
    origin.link.lease_begun(lease(&origin, &first, true));
    edge.link.lease_begun(lease(&edge, &second, false));
    for world in [&one, &two] {
        let shown = world.wait_for(&id, "/viewers/total", &json!(2)).await;
        assert_eq!((&shown["viewers"]["push"], &shown["viewers"]["hls"]), (&json!(1), &json!(1)));
    }
    // A user of one is a user of the other.
    let (user, token) = one.user("Ann").await;
    let mine = two.create(&token, json!({"title": "Ann's"})).await;
    assert_eq!(one.show(&text(&mine["id"])).await["user"], user);
    // A drain, and its end.
    for (world, method, state) in [(&one, "POST", "draining"), (&two, "DELETE", "up")] {
        world.operator(method, "/v1/nodes/edge-1/drain", Value::Null).await.expect(202);
        one.wait_for_node("edge-1", state).await;
        two.wait_for_node("edge-1", state).await;
    }
    // A kick, and the seat is free.
    let viewer = text(&first["viewer"]);
    let path = format!("/v1/broadcasts/{id}/viewers/{viewer}/kick");
    two.operator("POST", &path, Value::Null).await.expect(200);
    let own = format!("/v1/broadcasts/{id}/viewers/{viewer}");
    eventually("the viewer is refused by the other", || async {
        let answer = one.call("DELETE", &own, &text(&first["token"]), &Value::Null).await;
        (answer.status == 401).then_some(())
    })
    .await;
    origin.link.lease_ended(lease_of(&origin, &first));
    eventually("its seat is given by the other", || async {
        (one.join(&id, json!({})).await["seat"] == 1).then_some(())
    })
    .await;
    // The end.
    two.operator("POST", &format!("/v1/broadcasts/{id}/end"), Value::Null).await.expect(200);
    one.wait_for(&id, "/state", &json!("ended")).await;
}

fn lease_of(origin: &Node, joined: &Value) -> spyglass_api::control::Lease {
    let grant = grant(origin, joined["token"].as_str().unwrap());
    assert!(grant.push);
    lease(origin, joined, true)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_told_of_one_control_finds_the_other() {
    let (one, two) = World::two(|_| {}).await;
    let _edge = one.node("edge-1", Role::Edge, None).await;
    two.wait_for_node("edge-1", "up").await;
    // The one it was told of stops: the other still hears it, and it goes on.
    one.stop().await;
    let origin = two.node("origin-1", Role::Origin, None).await;
    let made = two.create(OPERATOR, json!({"title": "on"})).await;
    assert_eq!(two.join(&text(&made["id"]), json!({})).await["edge"]["id"], "edge-1");
    two.wait_for_node("edge-1", "up").await;
    drop(origin);
}
