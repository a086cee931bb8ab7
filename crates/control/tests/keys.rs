//! Keys that sign tokens: rotated with overlap, revoked at once.

mod support;

use serde_json::{Value, json};
use spyglass_api::control::Role;
use spyglass_daemon::now_utc;
use spyglass_token::key_id;

use support::{World, eventually, text};

async fn keys(world: &World) -> Vec<Value> {
    let answer = world.anyone("GET", "/v1/keys", Value::Null).await.expect(200).json();
    answer["keys"].as_array().unwrap().clone()
}

fn state<'a>(keys: &'a [Value], id: &str) -> &'a str {
    let key = keys.iter().find(|key| key["id"] == id);
    key.map_or("gone", |key| key["state"].as_str().unwrap())
}

#[tokio::test]
async fn a_rotation_reaches_every_node_before_it_signs() {
    let world = World::start().await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let old = text(&keys(&world).await[0]["id"]);
    world.anyone("POST", "/v1/keys/rotate", Value::Null).await.problem(401);
    let made = world.operator("POST", "/v1/keys/rotate", Value::Null).await.expect(201).json();
    let new = text(&made["id"]);
    assert_eq!(made["state"], "next");
    assert!(made["until"].is_null() && made["not_before"].is_string(), "{made}");
    let shown = keys(&world).await;
    assert_eq!((state(&shown, &old), state(&shown, &new)), ("signing", "next"));
    assert!(shown[0]["until"].is_string(), "the old one has an end now: {shown:?}");
    eventually("the origin has the new key", || async {
        origin.link.keys().public_keys().any(|key| key.id == new).then_some(())
    })
    .await;
    let refused = world.operator("POST", "/v1/keys/rotate", Value::Null).await;
    assert!(refused.problem(409).contains(&new));
    // Until it begins, the old one signs.
    let user = world.create(support::OPERATOR, json!({ "title": "t" })).await;
    let stream_key = text(&user["publish"]["stream_key"]);
    let token = stream_key.split_once("token=").unwrap().1;
    assert_eq!(key_id(token), Some(old));
}

#[tokio::test]
async fn a_revoked_key_is_refused_by_control_at_once_and_by_nodes_within_five_seconds() {
    let world = World::start().await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let edge = world.node("edge-1", Role::Edge, None).await;
    let created = world.create(support::OPERATOR, json!({ "title": "t" })).await;
    let id = text(&created["id"]);
    let before = world.join(&id, json!({})).await;
    let stolen = text(&before["token"]);
    let key = key_id(&stolen).unwrap();
    for node in [&origin, &edge] {
        assert!(node.link.keys().verify_watch(&stolen, now_utc()).is_ok());
    }
    let path = format!("/v1/keys/{key}");
    world.anyone("DELETE", &path, Value::Null).await.problem(401);
    world.operator("DELETE", "/v1/keys/nobody", Value::Null).await.problem(404);
    let answer = world.operator("DELETE", &path, Value::Null).await.expect(200).json();
    let asked = std::time::Instant::now();
    let successor = text(&answer["signing"]);
    assert_ne!(successor, key);
    // Control: its bearer is nobody's any more.
    let own = format!("/v1/broadcasts/{id}/viewers/{}", text(&before["viewer"]));
    world.call("DELETE", &own, &stolen, &Value::Null).await.problem(401);
    for node in [&origin, &edge] {
        eventually("the node refuses the stolen key", || async {
            node.link.keys().verify_watch(&stolen, now_utc()).is_err().then_some(())
        })
        .await;
        assert!(node.link.revoked_keys().borrow().contains(&key));
    }
    assert!(asked.elapsed().as_secs() < 5, "within 5 s");
    let shown = keys(&world).await;
    assert_eq!((state(&shown, &key), state(&shown, &successor)), ("gone", "signing"));
    // Who comes now is let in, by the successor's tokens.
    let token = text(&world.join(&id, json!({})).await["token"]);
    assert_eq!(key_id(&token), Some(successor));
    eventually("the nodes accept the successor", || async {
        let good = |node: &support::Node| node.link.keys().verify_watch(&token, now_utc()).is_ok();
        (good(&origin) && good(&edge)).then_some(())
    })
    .await;
    // A control that lost its state does not trust it again, whoever offers it.
    let world = world.restart(true).await;
    world.wait_for_node("origin-1", "up").await;
    world.wait_for_node("edge-1", "up").await;
    let shown = keys(&world).await;
    assert_eq!(state(&shown, &key), "gone");
    assert!(origin.link.keys().verify_watch(&stolen, now_utc()).is_err());
}
