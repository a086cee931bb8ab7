//! Asking again, wishes, a broadcast's own number of push viewers, and kicks
//! that cannot be walked around.

mod support;

use bytes::Bytes;
use serde_json::{Value, json};
use spyglass_api::control::{Phase, Role};
use spyglass_daemon::attach::Command;
use support::{OPERATOR, World, eventually, grant, lease, text};

fn token(joined: &Value) -> String {
    text(&joined["token"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_who_asks_again_stays_the_same_and_moves_up() {
    let world = World::start().await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let _edge = world.node("edge-1", Role::Edge, None).await;
    let made = world.create(OPERATOR, json!({"title": "two", "push_viewers": 2})).await;
    let id = text(&made["id"]);
    assert_eq!(world.show(&id).await["push_viewers"], 2);
    let path = format!("/v1/broadcasts/{id}/viewers");
    let again = async |joined: &Value| {
        world.call("POST", &path, &token(joined), &json!({})).await.expect(200).json()
    };
    let (first, second) = (world.join(&id, json!({})).await, world.join(&id, json!({})).await);
    let third = world.join(&id, json!({})).await;
    assert_eq!((&first["tier"], &second["tier"]), (&json!("push"), &json!("push")));
    // The hundred who may comment have seats; two of them are pushed.
    assert_eq!((&third["tier"], &third["seat"]), (&json!("hls"), &json!(3)));

    let same = again(&second).await;
    assert_eq!((&same["viewer"], &same["seat"]), (&second["viewer"], &second["seat"]));
    let (old, new) = (grant(&origin, &token(&second)), grant(&origin, &token(&same)));
    assert_eq!(old.generation, new.generation, "one place, not two");
    // The seat of one who leaves is the next asker's.
    let gone = format!("{path}/{}", text(&first["viewer"]));
    world.call("DELETE", &gone, &token(&first), &Value::Null).await.expect(204);
    let fourth = world.join(&id, json!({})).await;
    assert_eq!((&fourth["tier"], &fourth["seat"]), (&json!("push"), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hls_viewer_is_promoted_when_there_is_room() {
    let world = World::with(|config| (config.push_viewers, config.commenters) = (1, 1)).await;
    let _origin = world.node("origin-1", Role::Origin, None).await;
    let edge = world.node("edge-1", Role::Edge, None).await;
    let id = text(&world.create(OPERATOR, json!({"title": "one"})).await["id"]);
    let path = format!("/v1/broadcasts/{id}/viewers");
    let again = async |joined: &Value| {
        world.call("POST", &path, &token(joined), &json!({})).await.expect(200).json()
    };
    let (first, second) = (world.join(&id, json!({})).await, world.join(&id, json!({})).await);
    assert_eq!((&second["tier"], &second["seat"]), (&json!("hls"), &Value::Null));
    edge.link.lease_begun(lease(&edge, &second, false));
    assert_eq!(again(&second).await["tier"], "hls", "still no room");
    let gone = format!("{path}/{}", text(&first["viewer"]));
    world.call("DELETE", &gone, OPERATOR, &Value::Null).await.expect(204);
    let promoted = again(&second).await;
    assert_eq!((&promoted["tier"], &promoted["seat"]), (&json!("push"), &json!(1)));
    assert_eq!(promoted["viewer"], second["viewer"]);
    eventually("one viewer is counted, once", async || {
        (world.show(&id).await["viewers"]["total"] == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_pushed_says_so() {
    let world = World::start().await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let _edge = world.node("edge-1", Role::Edge, None).await;
    let id = text(&world.create(OPERATOR, json!({"title": "page"})).await["id"]);
    let joined = world.join(&id, json!({"tier": "hls"})).await;
    assert_eq!((&joined["tier"], &joined["can_comment"]), (&json!("hls"), &json!(true)));
    assert!(joined["urls"].get("rtmp").is_none());
    assert!(!grant(&origin, &token(&joined)).push);
    let path = format!("/v1/broadcasts/{id}/viewers");
    let detail = world.anyone("POST", &path, json!({"tier": "gold"})).await.problem(400);
    assert!(detail.contains("`tier`"), "{detail}");
    for (field, value) in
        [("push_viewers", json!(5001)), ("push_viewers", json!(-1)), ("open", json!("no"))]
    {
        let body = json!({"title": "x", field: value});
        let detail = world.operator("POST", "/v1/broadcasts", body).await.problem(400);
        assert!(detail.contains(&format!("`{field}`")), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_broadcast_names_only_people_there_are() {
    let world = World::start().await;
    let _origin = world.node("origin-1", Role::Origin, None).await;
    let (ann, _) = world.user("Ann").await;
    let (gone, _) = world.user("Gone").await;
    world.operator("DELETE", &format!("/v1/users/{gone}"), Value::Null).await.expect(204);
    for nobody in ["0123456789abc", gone.as_str()] {
        let body = json!({"title": "secret", "private_to": [ann, nobody]});
        let detail = world.operator("POST", "/v1/broadcasts", body).await.problem(400);
        assert!(detail.contains("`private_to`") && detail.contains(nobody), "{detail}");
    }
    for named in [json!([ann]), json!([])] {
        world.create(OPERATOR, json!({"title": "secret", "private_to": named})).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_broadcast_is_listed_and_cannot_be_watched_unseen() {
    let world = World::start().await;
    let mut origin = world.node("origin-1", Role::Origin, None).await;
    let _edge = world.node("edge-1", Role::Edge, None).await;
    let made = world.create(OPERATOR, json!({"title": "closed", "open": false})).await;
    let id = text(&made["id"]);
    let Command::Expect(expect) = origin.command().await else { panic!("no Expect") };
    assert!(expect.private, "nodes serve it to joined viewers only");
    let shown = world.show(&id).await;
    assert_eq!((&shown["open"], &shown["private"]), (&json!(false), &json!(false)));
    let live = async |id: &str| {
        let path = format!("/live/{id}/index.m3u8");
        world.anyone("GET", &path, Value::Null).await.expect(404).body
    };
    assert_eq!(live(&id).await, live("0123456789abc").await);
    assert_eq!(world.join(&id, json!({})).await["tier"], "push");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_says_who_watched_also_after_a_restart() {
    let world = World::start().await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let edge = world.node("edge-1", Role::Edge, None).await;
    let (ann_id, ann) = world.user("Ann").await;
    let place = json!({"lat": 52.0, "lon": 5.0});
    let id = text(&world.create(OPERATOR, json!({"title": "r", "location": place})).await["id"]);
    origin.event(&id, Phase::Live, 1, Bytes::new());
    world.wait_for(&id, "/state", &json!("live")).await;
    let path = format!("/v1/broadcasts/{id}/viewers");
    let pushed = world.call("POST", &path, &ann, &json!({})).await.expect(200).json();
    let pulled = world.join(&id, json!({"tier": "hls"})).await;
    origin.link.lease_begun(lease(&origin, &pushed, true));
    edge.link.lease_begun(lease(&edge, &pulled, false));
    let record = format!("/v1/broadcasts/{id}/record");
    let both = |record: &Value| record["viewers"].as_array().is_some_and(|all| all.len() == 2);
    let seen = eventually("both are on record", async || {
        let record = world.operator("GET", &record, Value::Null).await.expect(200).json();
        both(&record).then_some(record)
    })
    .await;
    assert_eq!((&seen["peak_viewers"], &seen["location"]), (&json!(2), &place));
    let of = |viewer: &Value| {
        let all = seen["viewers"].as_array().unwrap();
        all.iter().find(|one| one["viewer"] == viewer["viewer"]).unwrap().clone()
    };
    assert_eq!((&of(&pushed)["tier"], &of(&pushed)["user"]), (&json!("push"), &json!(ann_id)));
    assert_eq!((&of(&pulled)["tier"], &of(&pulled)["node"]), (&json!("hls"), &json!("edge-1")));

    let end = format!("/v1/broadcasts/{id}/end");
    world.operator("POST", &end, Value::Null).await.expect(200);
    drop((origin, edge));
    let world = world.restart(false).await;
    let kept = world.operator("GET", &record, Value::Null).await.expect(200).json();
    assert!(both(&kept) && kept["ended_at"].is_string(), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kicked_user_does_not_come_back_as_another_viewer() {
    let (one, two) = World::two(|_| {}).await;
    let origin = one.node_of_both(&two, "origin-1", Role::Origin).await;
    let _edge = one.node_of_both(&two, "edge-1", Role::Edge).await;
    let (id_of_ann, ann) = one.user("Ann").await;
    let (_, bob) = one.user("Bob").await;
    let id = text(&one.create(OPERATOR, json!({"title": "kick"})).await["id"]);
    let path = format!("/v1/broadcasts/{id}/viewers");
    let joined = one.call("POST", &path, &ann, &json!({})).await.expect(200).json();
    origin.link.lease_begun(lease(&origin, &joined, true));
    eventually("the other control knows who watches", async || {
        let listed = two.operator("GET", &path, Value::Null).await.expect(200).json();
        (listed["viewers"][0]["user"] == json!(id_of_ann)).then_some(())
    })
    .await;
    let kick = format!("{path}/{}/kick", text(&joined["viewer"]));
    two.operator("POST", &kick, Value::Null).await.expect(200);
    for world in [&one, &two] {
        let detail = world.call("POST", &path, &ann, &json!({})).await.problem(403);
        assert!(detail.contains("removed"), "{detail}");
        world.call("POST", &path, &bob, &json!({})).await.expect(200);
    }
    eventually("the kicked viewer's own token is nobody's", async || {
        (one.call("POST", &path, &token(&joined), &json!({})).await.status == 401).then_some(())
    })
    .await;
    let other = text(&one.create(OPERATOR, json!({"title": "another"})).await["id"]);
    let path = format!("/v1/broadcasts/{other}/viewers");
    one.call("POST", &path, &ann, &json!({})).await.expect(200);
}
