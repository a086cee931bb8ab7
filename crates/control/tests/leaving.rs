//! A node that is told to stop says so, and every control sends arrivals
//! elsewhere at once instead of when it has been silent for 5 s.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use spyglass_api::control::{Phase, Role};
use spyglass_testkit::stopwatch::Stopwatch;
use support::{OPERATOR, World, text};

/// Well within the 5 s after which a silent node is lost.
const AT_ONCE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_to_a_node_that_stops() {
    let (one, two) = World::two(|_| {}).await;
    let origin = one.node_of_both(&two, "origin-1", Role::Origin).await;
    let leaving = one.node_of_both(&two, "edge-1", Role::Edge).await;
    let _staying = one.node_of_both(&two, "edge-2", Role::Edge).await;
    let made = one.create(OPERATOR, json!({"title": "goes on"})).await;
    let id = text(&made["id"]);
    origin.event(&id, Phase::Live, 1, Default::default());
    for world in [&one, &two] {
        world.wait_for(&id, "/state", &json!("live")).await;
    }

    let begun = Stopwatch::start();
    let link = leaving.link.clone();
    leaving.stop();
    link.left().await;
    for world in [&one, &two] {
        for _ in 0..8 {
            let joined = world.join(&id, json!({})).await;
            assert_eq!(joined["edge"]["id"], "edge-2");
            assert_eq!(joined["alternates"], json!([]));
        }
        world.wait_for_node("edge-1", "draining").await;
    }
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());

    let begun = Stopwatch::start();
    let link = origin.link.clone();
    origin.stop();
    link.left().await;
    for world in [&one, &two] {
        let body = json!({"title": "nowhere"});
        let refused = world.operator("POST", "/v1/broadcasts", body).await.problem(503);
        assert!(refused.contains("no origin"), "{refused}");
        world.wait_for(&id, "/state", &json!("interrupted")).await;
    }
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());

    // Started anew at once, under its name.
    let _again = one.node_of_both(&two, "edge-1", Role::Edge).await;
    let nodes = one.operator("GET", "/v1/nodes", Value::Null).await.expect(200).json();
    assert_eq!(nodes["nodes"].as_array().map(Vec::len), Some(3), "{nodes}");
}
