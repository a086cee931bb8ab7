//! Control goes away and comes back, with its state and without.

mod support;

use serde_json::{Value, json};
use spyglass_api::control::{Phase, Role};
use spyglass_daemon::attach::Command;
use spyglass_daemon::now_utc;
use support::{OPERATOR, World, eventually, grant, lease, text};

#[tokio::test(flavor = "multi_thread")]
async fn with_its_state_it_knows_everything() {
    let world = World::start().await;
    let mut origin = world.node("origin-1", Role::Origin, None).await;
    let edge = world.node("edge-1", Role::Edge, None).await;
    let (_, ann) = world.user("Ann").await;
    let body = json!({"title": "kept", "private_to": [], "chunk_seconds": 2, "fill": "prefetch"});
    let made = world.create(&ann, body).await;
    let id = text(&made["id"]);
    let Command::Expect(expect) = origin.command().await else { panic!("expected Expect") };
    assert_eq!((expect.broadcast.as_str(), expect.private, expect.chunk_ms), (&*id, true, 2_000));
    origin.event(&id, Phase::Live, 1, expect.memo);
    world.wait_for(&id, "/state", &json!("live")).await;
    let path = format!("/v1/broadcasts/{id}/viewers");
    let first = world.call("POST", &path, &ann, &json!({})).await.expect(200).json();
    assert_eq!(first["seat"], 1);
    origin.link.lease_begun(lease(&origin, &first, true));
    world.wait_for(&id, "/viewers/push", &json!(1)).await;
    let keys = world.anyone("GET", "/v1/keys", Value::Null).await.expect(200).json();

    let world = world.restart(false).await;
    assert_eq!(world.anyone("GET", "/v1/keys", Value::Null).await.expect(200).json(), keys);
    let shown = world.call("GET", &format!("/v1/broadcasts/{id}"), &ann, &Value::Null).await;
    let shown = shown.expect(200).json();
    assert_eq!((&shown["title"], &shown["state"]), (&json!("kept"), &json!("live")));
    assert_eq!((&shown["chunk_seconds"], &shown["fill"]), (&json!(2.0), &json!("prefetch")));
    world.wait_for(&id, "/viewers/push", &json!(1)).await;
    world.wait_for_node("edge-1", "up").await;
    // The seat is still taken.
    let second = world.call("POST", &path, &ann, &json!({})).await.expect(200).json();
    assert_eq!(second["seat"], 2);
    drop(edge);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_learns_again_is_not_counted_against_anybody() {
    let world = World::start().await;
    let mut origin = world.node("origin-1", Role::Origin, None).await;
    let _edge = world.node("edge-1", Role::Edge, None).await;
    let (_, ann) = world.user("Ann").await;
    let mut made = Vec::new();
    // More than ten, of which she may have ten that are not over.
    for number in 0..12 {
        let last = if number < 11 { Phase::Ended } else { Phase::Live };
        let id = text(&world.create(&ann, json!({"title": "one of them"})).await["id"]);
        let Command::Expect(expect) = origin.command().await else { panic!("expected Expect") };
        origin.event(&id, Phase::Live, 1, expect.memo.clone());
        world.wait_for(&id, "/state", &json!("live")).await;
        origin.event(&id, last, 1, expect.memo);
        let state = if last == Phase::Ended { "ended" } else { "live" };
        world.wait_for(&id, "/state", &json!(state)).await;
        made.push((id, state));
    }
    let world = world.restart(true).await;
    for (id, state) in made {
        eventually("it is known again, as it is", || async {
            let answer = world.operator("GET", &format!("/v1/broadcasts/{id}"), Value::Null).await;
            (answer.status == 200 && answer.json()["state"] == state).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_brings_back_more_broadcasts_than_one_report_holds() {
    let world = World::start().await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let _edge = world.node("edge-1", Role::Edge, None).await;
    let ids: Vec<String> = (0..20).map(|n| format!("{n:013}")).collect();
    for (n, id) in ids.iter().enumerate() {
        let memo = json!({"title": format!("number {n}"), "filling": "x".repeat(40_000)});
        origin.event(id, Phase::Live, 1, memo.to_string().into());
    }
    let world = world.restart(true).await;
    for (n, id) in ids.iter().enumerate() {
        let shown = eventually("it is known again", || async {
            let answer = world.operator("GET", &format!("/v1/broadcasts/{id}"), Value::Null).await;
            (answer.status == 200).then(|| answer.json())
        })
        .await;
        assert_eq!(shown["title"], format!("number {n}"));
        assert_eq!(shown["state"], "live");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_state_it_learns_everything_from_the_nodes() {
    let world = World::start().await;
    let mut origin = world.node("origin-1", Role::Origin, None).await;
    let edge = world.node("edge-1", Role::Edge, None).await;
    let made = world.create(OPERATOR, json!({"title": "goes on"})).await;
    let id = text(&made["id"]);
    let Command::Expect(expect) = origin.command().await else { panic!("expected Expect") };
    origin.event(&id, Phase::Live, 3, expect.memo);
    world.wait_for(&id, "/state", &json!("live")).await;
    let joined = world.join(&id, json!({})).await;
    let token = text(&joined["token"]);
    origin.link.lease_begun(lease(&origin, &joined, true));
    world.wait_for(&id, "/viewers/push", &json!(1)).await;
    let nodes = edge.link.nodes();
    eventually("the edge knows both", || async { (nodes.borrow().len() == 2).then_some(()) }).await;

    let world = world.restart(true).await;
    let shown = eventually("the broadcast is known again", || async {
        let path = format!("/v1/broadcasts/{id}");
        let answer = world.operator("GET", &path, Value::Null).await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    assert_eq!(shown["title"], "goes on");
    world.wait_for(&id, "/state", &json!("live")).await;
    world.wait_for(&id, "/viewers/push", &json!(1)).await;
    world.wait_for_node("edge-1", "up").await;
    let listed = world.anyone("GET", "/v1/broadcasts?sample=50", Value::Null).await.expect(200);
    assert_eq!(listed.json()["live"], 1);
    // No edge was told of fewer nodes than there are.
    assert_eq!(nodes.borrow().len(), 2);
    // The viewer keeps its seat, and its token is good, at control and at nodes.
    let next = world.join(&id, json!({})).await;
    assert_eq!(next["seat"], 2);
    eventually("the nodes have the new keys", || async {
        let keys = origin.link.keys();
        keys.verify_watch(&text(&next["token"]), now_utc()).ok()
    })
    .await;
    assert_eq!(grant(&origin, &token).seat, Some(1));
    let path = format!("/v1/broadcasts/{id}/viewers/{}", text(&joined["viewer"]));
    world.call("DELETE", &path, &token, &Value::Null).await.expect(204);
    let keys = world.anyone("GET", "/v1/keys", Value::Null).await.expect(200).json();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2, "the old key verifies still");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_the_origin_was_away_is_ended_there() {
    let world = World::start().await;
    let mut origin = world.node("origin-1", Role::Origin, None).await;
    let made = world.create(OPERATOR, json!({"title": "over"})).await;
    let id = text(&made["id"]);
    let Command::Expect(expect) = origin.command().await else { panic!("expected Expect") };
    origin.event(&id, Phase::Live, 1, expect.memo);
    world.wait_for(&id, "/state", &json!("live")).await;
    let end = format!("/v1/broadcasts/{id}/end");
    let ended = world.operator("POST", &end, Value::Null).await.expect(200).json();
    assert_eq!(ended["state"], "ended");
    assert_eq!(origin.command().await, Command::End(id.parse().unwrap()));
    // Said again to an origin that still has it when it attaches.
    let world = world.restart(false).await;
    assert_eq!(origin.command().await, Command::End(id.parse().unwrap()));
    assert_eq!(world.show(&id).await["state"], "ended");
    let path = format!("/v1/broadcasts/{id}/viewers");
    world.anyone("POST", &path, json!({})).await.problem(410);
    world.operator("POST", &end, Value::Null).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_key_is_made_once_and_kept() {
    let world = World::with(|config| config.operator_key = None).await;
    let key = world.at.operator_key.clone();
    assert!(key.len() >= 32);
    world.call("GET", "/v1/nodes", &key, &Value::Null).await.expect(200);
    world.call("GET", "/v1/nodes", OPERATOR, &Value::Null).await.problem(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_when_the_nodes_it_knows_have_attached_and_not_for_ever_later() {
    let world = World::start().await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let edge = world.node("edge-1", Role::Edge, None).await;
    edge.stop();
    origin.stop();
    let world = world.restart(false).await;
    let ready = async || world.anyone("GET", "/readyz", Value::Null).await;
    let told = ready().await;
    assert_eq!(told.status, 503);
    let told = String::from_utf8_lossy(&told.body).into_owned();
    assert!(told.contains("have not attached yet"), "{told}");
    let _origin = world.node("origin-1", Role::Origin, None).await;
    assert_eq!(ready().await.status, 503, "one is still missing");
    eventually("it does without the other", || async {
        (ready().await.status == 200).then_some(())
    })
    .await;
}
