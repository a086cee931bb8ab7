//! What nodes and viewers measure becomes one answer, at any control.

mod support;

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use spyglass_api::control::{Delay, Phase, Role};
use spyglass_daemon::delay::entry;
use spyglass_media::delay::{ERROR, Histogram, Stage, Tier};
use support::{Node, OPERATOR, World, eventually, text};

fn measured(id: &str, stage: Stage, ms: &[u64]) -> Vec<Delay> {
    let mut counted = Histogram::default();
    ms.iter().for_each(|&ms| counted.add(Duration::from_millis(ms)));
    vec![entry((id.parse().unwrap(), Tier::Hls, stage), &counted)]
}

async fn delay(world: &World, id: &str) -> Value {
    world.anyone("GET", &format!("/v1/broadcasts/{id}/delay"), Value::Null).await.expect(200).json()
}

/// The answer, once a stage has been measured so often.
async fn once(world: &World, id: &str, stage: &str, count: u64) -> Value {
    eventually("delays are told", || async {
        let told = delay(world, id).await;
        (told.pointer(stage)? == count).then_some(told)
    })
    .await
}

fn close(told: &Value, pointer: &str, seconds: f64) {
    let found = told.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN);
    assert!((found - seconds).abs() <= seconds * ERROR, "{pointer} of {told} is not {seconds}");
}

async fn two_controls() -> (World, World, [Node; 3]) {
    let (one, two) = World::two(|_| {}).await;
    let origin = one.node_of_both(&two, "origin-1", Role::Origin).await;
    let near = one.node_of_both(&two, "edge-1", Role::Edge).await;
    let far = one.node_of_both(&two, "edge-2", Role::Edge).await;
    (one, two, [origin, near, far])
}

#[tokio::test(flavor = "multi_thread")]
async fn several_nodes_and_viewers_make_one_answer_at_either_control() {
    let (one, two, [origin, near, far]) = two_controls().await;
    let id = text(&one.create(OPERATOR, json!({"title": "x"})).await["id"]);
    origin.event(&id, Phase::Live, 1, Bytes::new());
    one.wait_for(&id, "/state", &json!("live")).await;
    two.wait_for(&id, "/state", &json!("live")).await;
    let told = delay(&one, &id).await;
    assert_eq!(told["broadcast"], id);
    assert_eq!(told["hls"]["stages"]["transfer"], Value::Null, "nobody measured it");
    assert_eq!(told["push"]["stages"].as_object().unwrap().len(), 3, "{told}");

    // 98 quick ones at one edge and two slow ones at the other.
    near.link.delays(measured(&id, Stage::Transfer, &[20; 98]));
    far.link.delays(measured(&id, Stage::Transfer, &[400; 2]));
    origin.link.delays(measured(&id, Stage::Chunking, &[3_000]));
    for world in [&one, &two] {
        once(world, &id, "/hls/stages/chunking/count", 1).await;
        let told = once(world, &id, "/hls/stages/transfer/count", 100).await;
        close(&told, "/hls/stages/transfer/p50", 0.02);
        close(&told, "/hls/stages/transfer/p95", 0.02);
        close(&told, "/hls/stages/transfer/p99", 0.4);
        close(&told, "/hls/stages/chunking/p50", 3.0);
        assert_eq!(told["hls"]["stages"]["polling"], Value::Null);
    }

    // A viewer tells one of the controls.
    let joined = one.join(&id, Value::Null).await;
    let path = format!("/v1/broadcasts/{id}/viewers/{}/delay", text(&joined["viewer"]));
    let told = json!({"tier": "hls", "samples": [{"last_mile": 0.05, "buffering": 6, "total": 9}]});
    one.call("POST", &path, &text(&joined["token"]), &told).await.expect(200);
    for world in [&one, &two] {
        let told = once(world, &id, "/hls/total/count", 1).await;
        close(&told, "/hls/stages/last_mile/p50", 0.05);
        close(&told, "/hls/stages/buffering/p95", 6.0);
        close(&told, "/hls/total/p99", 9.0);
    }
    let other = one.join(&id, Value::Null).await;
    one.call("POST", &path, &text(&other["token"]), &told).await.problem(403);
    let metrics = one.anyone("GET", "/metrics", Value::Null).await.expect(200);
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    let line = "spyglass_delay_seconds_count{stage=\"buffering\",tier=\"hls\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delay_of_a_private_broadcast_is_as_secret_as_itself() {
    let world = World::start().await;
    let _origin = world.node("origin-1", Role::Origin, None).await;
    let (ann, ben) = (world.user("ann").await, world.user("ben").await);
    let private = json!({"title": "x", "private_to": [ben.0]});
    let id = text(&world.create(&ann.1, private).await["id"]);
    let path = format!("/v1/broadcasts/{id}/delay");
    world.call("GET", &path, &ben.1, &Value::Null).await.expect(200);
    world.call("GET", &path, &ann.1, &Value::Null).await.expect(200);
    let refused = world.anyone("GET", &path, Value::Null).await.expect(404);
    let nothing = world.anyone("GET", "/v1/broadcasts/0000000000000/delay", Value::Null).await;
    assert_eq!(refused.body, nothing.expect(404).body);
}
