//! The audit log: what the operator and users did, and nothing else.

mod support;

use serde_json::{Value, json};
use spyglass_api::control::Role;
use spyglass_control::openapi;

use support::{OPERATOR, World, text};

async fn entries(world: &World, after: &str) -> Vec<Value> {
    let path = format!("/v1/audit?limit=1000{after}");
    let answer = world.operator("GET", &path, Value::Null).await.expect(200).json();
    assert!(answer["next"].is_null(), "all of them: {answer}");
    answer["entries"].as_array().unwrap().clone()
}

#[tokio::test]
async fn what_was_done_is_kept_in_order_and_without_secrets() {
    let world = World::start().await;
    world.node("origin-1", Role::Origin, None).await;
    world.node("edge-1", Role::Edge, None).await;
    let (user, token) = world.user("Ann").await;
    let other = world.user("Bob").await;
    let broadcast = world.create(&token, json!({ "title": "t" })).await;
    let before = entries(&world, "").await;
    let last = before.last().unwrap();
    assert_eq!((&last["action"], &last["actor"]), (&json!("createBroadcast"), &json!(user)));

    let id = text(&broadcast["id"]);
    let joined = world.join(&id, json!({})).await;
    let viewer = text(&joined["viewer"]);
    let watcher = text(&joined["token"]);
    let of = |tail: &str| format!("/v1/broadcasts/{id}{tail}");
    let (kick, leave) = (format!("/viewers/{viewer}/kick"), format!("/viewers/{viewer}"));
    let null = Value::Null;
    world.operator("POST", "/v1/nodes/edge-1/drain", Value::Null).await.expect(202);
    world.call("POST", &of(&kick), &other.1, &null).await.problem(403);
    world.call("POST", &of(&kick), &token, &null).await.expect(200);
    world.call("DELETE", &of(&leave), &token, &null).await.expect(204);
    // Nobody in particular, a viewer, and whoever guesses: not in the log.
    world.anyone("POST", &of("/end"), Value::Null).await.problem(401);
    world.call("POST", &of("/end"), &watcher, &null).await.problem(401);
    world.call("POST", "/v1/keys/rotate", "guess", &null).await.problem(401);
    world.operator("POST", &of("/end"), Value::Null).await.expect(200);
    world.operator("POST", "/v1/keys/rotate", Value::Null).await.expect(201);
    // Secrets that somebody puts where none belong.
    for secret in [OPERATOR, &token, &watcher] {
        let path = format!("/v1/keys/{secret}");
        world.operator("DELETE", &path, Value::Null).await.problem(404);
    }
    world.operator("POST", &format!("/v1/users/{user}/token"), Value::Null).await.expect(200);

    let after = format!("&after={}", last["sequence"]);
    let found = entries(&world, &after).await;
    let told: Vec<(String, String, Value, u64)> = found
        .iter()
        .map(|entry| {
            let outcome = entry["outcome"].as_u64().unwrap();
            (text(&entry["actor"]), text(&entry["action"]), entry["object"].clone(), outcome)
        })
        .collect();
    let operator = |action: &str, object: Value, outcome| {
        ("operator".to_owned(), action.to_owned(), object, outcome)
    };
    let kicked = json!(format!("{id}/{viewer}"));
    let hidden = || operator("revokeKey", json!("?"), 404);
    let wanted = [
        operator("drainNode", json!("edge-1"), 202),
        (other.0.clone(), "kick".into(), kicked.clone(), 403),
        (user.clone(), "kick".into(), kicked, 200),
        operator("endBroadcast", json!(id), 200),
        operator("rotateKeys", Value::Null, 201),
        hidden(),
        hidden(),
        hidden(),
        operator("renewUserToken", json!(user), 200),
    ];
    assert_eq!(told, wanted);
    for entry in &found {
        assert_eq!(entry["address"], "127.0.0.1");
        assert!(entry["control"].is_string() && entry["at"].is_string(), "{entry}");
    }
    let everything = json!([before, found]).to_string();
    for secret in [OPERATOR, &token, &other.1, &watcher, "v4.public", "stream_key", "Ann"] {
        assert!(!everything.contains(secret), "{secret} is in {everything}");
    }
}

#[tokio::test]
async fn it_is_read_page_by_page_by_the_operator_alone_and_survives() {
    let world = World::start().await;
    let mut made = Vec::new();
    for name in ["a", "b", "c"] {
        made.push(world.user(name).await.0);
    }
    world.anyone("GET", "/v1/audit", Value::Null).await.problem(401);
    for wrong in ["limit=0", "after=x", "before=1"] {
        let path = format!("/v1/audit?{wrong}");
        world.operator("GET", &path, Value::Null).await.problem(400);
    }
    let world = world.restart(false).await;
    let (mut after, mut objects) = (String::new(), Vec::new());
    loop {
        let path = format!("/v1/audit?limit=1{after}");
        let page = world.operator("GET", &path, Value::Null).await.expect(200).json();
        objects.extend(page["entries"].as_array().unwrap().iter().map(|e| text(&e["object"])));
        let Some(next) = page["next"].as_u64() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(objects, made, "created users are named by their ids, in order");
}

/// Every operation of the API that changes something is in the log, whatever
/// comes of it; those of viewers are not, and neither is reading.
#[tokio::test]
async fn every_operation_that_changes_something_is_in_it() {
    let world = World::start().await;
    let document = openapi();
    let mut wanted = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let path = path
                .replace("/nodes/{id}", "/nodes/none")
                .replace("{id}", "0000000000000")
                .replace("{viewer}", "0000000000001")
                .replace("{other}", "0000000000002");
            let path = path.split('{').next().unwrap();
            if method == "get" {
                continue;
            }
            let id = text(&operation["operationId"]);
            world.operator(&method.to_uppercase(), path, Value::Null).await;
            if !["join", "leave", "reportDelay"].contains(&id.as_str()) {
                wanted.push(id);
            }
        }
    }
    let found: Vec<String> =
        entries(&world, "").await.iter().map(|entry| text(&entry["action"])).collect();
    assert!(wanted.len() > 10, "{wanted:?}");
    assert_eq!(found, wanted);
}
