//! Users: who they are, whom they follow, and what is left of them.

mod support;

use serde_json::{Value, json};
use support::{World, text};

async fn names(world: &World, path: &str, bearer: &str) -> (Vec<String>, Value) {
    let answer = world.call("GET", path, bearer, &Value::Null).await.expect(200).json();
    let users = answer["users"].as_array().unwrap();
    let mut names: Vec<String> = users.iter().map(|user| text(&user["name"])).collect();
    names.sort();
    (names, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_are_directed_and_listed_in_pages() {
    let world = World::with(|config| config.max_following = 3).await;
    let (ann_id, ann) = world.user("Ann").await;
    let mut others = Vec::new();
    for name in ["Ben", "Cem", "Dee", "Eve"] {
        others.push(world.user(name).await);
    }
    let path = |id: &str| format!("/v1/users/{ann_id}/following/{id}");
    for (id, _) in &others[..3] {
        world.call("PUT", &path(id), &ann, &Value::Null).await.expect(204);
        world.call("PUT", &path(id), &ann, &Value::Null).await.expect(204);
    }
    let full = world.call("PUT", &path(&others[3].0), &ann, &Value::Null).await.problem(403);
    assert!(full.contains('3'), "{full}");
    let own = format!("/v1/users/{ann_id}/following");
    let (followed, answer) = names(&world, &own, &ann).await;
    assert_eq!(followed, ["Ben", "Cem", "Dee"]);
    assert_eq!((&answer["total"], &answer["next"]), (&json!(3), &Value::Null));
    // Page by page, by the operator.
    let (mut seen, mut after) = (Vec::new(), String::new());
    while seen.len() < 3 {
        let page = format!("{own}?limit=1{after}");
        let (found, answer) = names(&world, &page, support::OPERATOR).await;
        assert_eq!(found.len(), 1);
        seen.extend(found);
        after = format!("&after={}", text(&answer["next"]));
    }
    seen.sort();
    assert_eq!(seen, followed);
    // The other direction, and only that.
    let (ben_id, ben) = &others[0];
    let (followers, _) = names(&world, &format!("/v1/users/{ben_id}/followers"), ben).await;
    assert_eq!(followers, ["Ann"]);
    let (none, _) = names(&world, &format!("/v1/users/{ben_id}/following"), ben).await;
    assert!(none.is_empty());
    world.call("DELETE", &path(ben_id), &ann, &Value::Null).await.expect(204);
    world.call("DELETE", &path(ben_id), &ann, &Value::Null).await.expect(204);
    let (none, answer) = names(&world, &format!("/v1/users/{ben_id}/followers"), ben).await;
    assert!(none.is_empty());
    assert_eq!(answer["total"], 0);
    // What survives a restart.
    let world = world.restart(false).await;
    assert_eq!(names(&world, &own, &ann).await.0, ["Cem", "Dee"]);

    for (method, path, bearer, status) in [
        ("PUT", path(&ann_id), ann.as_str(), 400),
        ("PUT", path("0123456789abc"), &ann, 404),
        ("PUT", path("nonsense"), &ann, 404),
        ("DELETE", path("0123456789abc"), &ann, 404),
        ("PUT", path(ben_id), "", 401),
        ("PUT", path(ben_id), ben, 403),
        ("GET", own.clone(), ben, 403),
        ("GET", format!("{own}?limit=0"), &ann, 400),
        ("GET", "/v1/users/0123456789abc/following".to_owned(), ben, 403),
        ("GET", "/v1/users/0123456789abc/followers".to_owned(), support::OPERATOR, 404),
    ] {
        world.call(method, &path, bearer, &Value::Null).await.problem(status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_shown_renewed_and_deleted() {
    let world = World::start().await;
    let (ann_id, ann) = world.user("Ann").await;
    let (ben_id, ben) = world.user("Ben").await;
    let own = format!("/v1/users/{ann_id}");
    let shown = world.call("GET", &own, &ann, &Value::Null).await.expect(200).json();
    assert_eq!((&shown["id"], &shown["name"]), (&json!(ann_id), &json!("Ann")));
    assert!(shown["created_at"].is_string());
    world.operator("GET", &own, Value::Null).await.expect(200);
    world.call("GET", &own, &ben, &Value::Null).await.problem(403);
    world.anyone("GET", &own, Value::Null).await.problem(401);
    let (all, answer) = names(&world, "/v1/users?limit=1", support::OPERATOR).await;
    let next = text(&answer["next"]);
    let (more, _) = names(&world, &format!("/v1/users?after={next}"), support::OPERATOR).await;
    let mut both = [all, more].concat();
    both.sort();
    assert_eq!(both, ["Ann", "Ben"]);
    world.call("GET", "/v1/users", &ann, &Value::Null).await.problem(403);

    let renewed = world.operator("POST", &format!("{own}/token"), Value::Null).await;
    let renewed = text(&renewed.expect(200).json()["token"]);
    world.call("GET", &own, &ann, &Value::Null).await.problem(401);
    world.call("GET", &own, &renewed, &Value::Null).await.expect(200);
    world.call("POST", &format!("{own}/token"), &renewed, &Value::Null).await.problem(403);

    let follow = |id: &str, other: &str| format!("/v1/users/{id}/following/{other}");
    world.call("PUT", &follow(&ann_id, &ben_id), &renewed, &Value::Null).await.expect(204);
    world.call("PUT", &follow(&ben_id, &ann_id), &ben, &Value::Null).await.expect(204);
    world.call("DELETE", &own, &renewed, &Value::Null).await.problem(403);
    world.operator("DELETE", &own, Value::Null).await.expect(204);
    world.call("GET", &own, &renewed, &Value::Null).await.problem(401);
    for path in [&own, "/v1/users/0123456789abc"] {
        world.operator("DELETE", path, Value::Null).await.problem(404);
        world.operator("GET", path, Value::Null).await.problem(404);
        world.operator("POST", &format!("{path}/token"), Value::Null).await.problem(404);
    }
    for list in ["following", "followers"] {
        let (none, answer) = names(&world, &format!("/v1/users/{ben_id}/{list}"), &ben).await;
        assert!(none.is_empty());
        assert_eq!(answer["total"], 0);
    }
    world.call("PUT", &follow(&ben_id, &ann_id), &ben, &Value::Null).await.problem(404);
}
