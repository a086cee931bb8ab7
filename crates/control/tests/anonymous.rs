//! Viewers who did not join: what edges estimate is shown, and is in no total.

mod support;

use serde_json::{Value, json};
use spyglass_api::control::{Crowd, Role};
use support::{Node, OPERATOR, World, eventually, text};

fn says(edge: &Node, broadcast: &str, estimate: u32) {
    *edge.said.crowds.lock() = vec![Crowd { broadcast: broadcast.to_owned(), estimate }];
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_estimates_are_shown_together() {
    let world = World::start().await;
    let _origin = world.node("origin-1", Role::Origin, None).await;
    let one = world.node("edge-1", Role::Edge, None).await;
    let two = world.node("edge-2", Role::Edge, None).await;
    let id = text(&world.create(OPERATOR, json!({"title": "open to all"})).await["id"]);
    let shown =
        |estimate: u32| json!({"push": 0, "hls": 0, "total": 0, "anonymous_estimate": estimate});
    assert_eq!(world.show(&id).await["viewers"], shown(0));
    says(&one, &id, 70);
    says(&two, &id, 5);
    world.wait_for(&id, "/viewers", &shown(75)).await;
    says(&one, &id, 30);
    world.wait_for(&id, "/viewers", &shown(35)).await;
    let nodes = world.operator("GET", "/v1/nodes", Value::Null).await.expect(200).json();
    let each = nodes["nodes"].as_array().unwrap().iter();
    let each: Vec<_> = each.map(|node| &node["load"]["anonymous_estimate"]).collect();
    assert_eq!(each, [30, 5, 0], "edge-1, edge-2, origin-1");
    // An edge that is lost takes its own with it.
    two.stop();
    world.wait_for(&id, "/viewers", &shown(30)).await;
    // Nonsense changes nothing, and the edge stays.
    says(&one, "no id", 9);
    let nodes = || async {
        let nodes = world.operator("GET", "/v1/nodes", Value::Null).await.expect(200).json();
        let nodes = nodes["nodes"].as_array().unwrap().clone();
        nodes.iter().any(|node| node["id"] == "edge-1" && node["state"] == "up").then_some(())
    };
    eventually("edge-1 is up", nodes).await;
    assert_eq!(world.show(&id).await["viewers"], shown(30));
    one.said.crowds.lock().clear();
    world.wait_for(&id, "/viewers", &shown(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_edge_is_not_empty_while_somebody_watches_who_did_not_join() {
    let world = World::start().await;
    let _origin = world.node("origin-1", Role::Origin, None).await;
    let edge = world.node("edge-1", Role::Edge, None).await;
    let id = text(&world.create(OPERATOR, json!({"title": "open to all"})).await["id"]);
    says(&edge, &id, 2);
    world.wait_for(&id, "/viewers/anonymous_estimate", &json!(2)).await;
    let drained = world.operator("POST", "/v1/nodes/edge-1/drain", Value::Null).await;
    let remaining = |viewers: u32| {
        let empty = viewers == 0;
        json!({"viewers": viewers, "anonymous_estimate": viewers, "broadcasts": 0, "empty": empty})
    };
    assert_eq!(drained.expect(202).json()["remaining"], remaining(2));
    edge.said.crowds.lock().clear();
    eventually("it is empty", || async {
        let nodes = world.operator("GET", "/v1/nodes", Value::Null).await.expect(200).json();
        let nodes = nodes["nodes"].as_array().unwrap().clone();
        let edge = nodes.iter().find(|node| node["id"] == "edge-1").unwrap().clone();
        (edge["remaining"] == remaining(0)).then_some(())
    })
    .await;
}
