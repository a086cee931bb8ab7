//! `steering.json`: what an edge tells players of the others.

mod support;

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use spyglass_api::control::{Node, Role};
use spyglass_api::upstream::BroadcastState;
use spyglass_media::ViewerId;
use support::client::ask;
use support::{Answer, World, id, token};

const HOUR: Duration = Duration::from_secs(3_600);

fn edge(id: &str, http: &str) -> Node {
    Node { id: id.to_owned(), role: Role::Edge.into(), http: http.to_owned(), ..Node::default() }
}

fn path() -> String {
    format!("/live/{}/steering.json", id(1))
}

fn document(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    serde_json::from_str(&answer.text()).unwrap()
}

fn priority(answer: &Answer) -> Value {
    document(answer)["PATHWAY-PRIORITY"].clone()
}

fn tell(world: &World, change: impl FnOnce(&mut [Node; 3])) {
    let mut edges = [
        edge("edge-t", &format!("http://{}", world.edge)),
        edge("edge-u", &format!("http://127.0.0.2:{}", world.edge.port())),
        edge("edge-v", "http://elsewhere.example:1"),
    ];
    change(&mut edges);
    let nodes = edges.into_iter().chain([world.origin.node()]).collect();
    world.control.set_nodes(nodes);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_says_where_else_its_players_may_go() {
    let world = World::start().await;
    // Control has named no other edge.
    let alone = json!({"VERSION": 1, "TTL": 10, "PATHWAY-PRIORITY": ["."]});
    assert_eq!(document(&world.get(&path()).await), alone);
    tell(&world, |edges| edges[2].draining = true);
    let answer = world.until(&path(), |answer| priority(answer) != json!(["."])).await;
    assert_eq!(priority(&answer), json!([".", "edge-u"]));
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "public, max-age=1");
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("cache-status"), "edge-t; detail=local");
    assert_eq!(answer.header("vary"), "Accept-Encoding");
    assert!(answer.header("etag").len() > 2 && answer.header("age") == "0");

    // This edge drains: its players go elsewhere, and ask there.
    tell(&world, |edges| edges[0].draining = true);
    let moved = |answer: &Answer| !priority(answer).to_string().contains('.');
    let answer = document(&world.until(&path(), moved).await);
    let first = answer["PATHWAY-PRIORITY"][0].as_str().unwrap();
    let reload = answer["RELOAD-URI"].as_str().unwrap();
    assert!(reload.ends_with(&path()) && reload.starts_with("http://"), "{reload}");
    assert_eq!(reload.contains("127.0.0.2"), first == "edge-u", "{answer}");

    // Control is away: the last known stands.
    world.control.kill();
    assert_eq!(document(&world.get(&path()).await), answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn steering_is_answered_as_anything_else() {
    let world = World::start().await;
    world.origin.enter(id(3), BroadcastState::Live, true, Duration::from_secs(1));
    world.until("/metrics", |it| it.text().contains("spyglass_edge_broadcasts 2")).await;
    tell(&world, |edges| edges[0].draining = true);
    let viewer = ViewerId::from_random([1; 16]);
    let (public, private) = (id(1), id(3));
    let (good, secret) = (token(public, viewer, HOUR), token(private, viewer, HOUR));
    let table = [
        (200, path()),
        (200, format!("{}?x=%zz&_HLS_pathway=edge-u&_HLS_throughput=-5", path())),
        (200, format!("/v/{good}/{public}/steering.json")),
        (200, format!("/v/{secret}/{private}/steering.json?_HLS_pathway=.")),
        (400, format!("{}?_HLS_pathway={}", path(), "a".repeat(65))),
        (400, format!("{}?_HLS_pathway=%22%22%22", path())),
        (403, format!("/v/{good}/{private}/steering.json")),
        (403, format!("/v/nonsense/{public}/steering.json")),
        (404, format!("/live/{private}/steering.json")),
        (404, format!("/live/{}/steering.json", id(9))),
        (404, format!("/live/{public}/steering.json/")),
    ];
    for (status, path) in table {
        for method in [Method::GET, Method::HEAD] {
            let answer = ask(world.edge, method.clone(), &path, &[]).await;
            assert_eq!(answer.status, status, "{method} {path}");
            assert_eq!(answer.header("access-control-allow-origin"), "*", "{path}");
        }
    }
    // Whoever has a token keeps it, wherever it goes.
    let below = format!("/v/{secret}/{private}");
    let asked = format!("{below}/steering.json");
    let answer = world.until(&asked, |answer| answer.text().contains("RELOAD-URI")).await;
    assert_eq!(answer.header("cache-control"), "private, max-age=1");
    let steering = document(&answer);
    let reload = steering["RELOAD-URI"].as_str().unwrap();
    assert!(reload.ends_with(&asked), "{reload}");
    for clone in steering["PATHWAY-CLONES"].as_array().unwrap() {
        let url = clone["URI-REPLACEMENT"]["PER-VARIANT-URIS"]["main"].as_str().unwrap();
        assert!(url.ends_with(&format!("{below}/chunklist.m3u8")), "{url}");
    }
    let held = [("if-none-match", answer.header("etag"))];
    let again = ask(world.edge, Method::GET, &asked, &held).await;
    assert_eq!(again.status, 304);
    // It is told of by its own name.
    let metrics = world.metrics().await;
    assert!(metrics.contains(r#"requests_total{resource="steering",cache="hit"}"#), "{metrics}");
    // A broadcast that is over has nowhere to go.
    world.origin.enter(public, BroadcastState::Gone, false, Duration::from_secs(1));
    world.until(&path(), |answer| answer.status == 410).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_started_without_control_tells_what_it_knew() {
    let mut world = World::start().await;
    tell(&world, |_| {});
    let whole = |answer: &Answer| priority(answer).as_array().map(Vec::len) == Some(3);
    let before = document(&world.until(&path(), whole).await);
    // The state is written a moment later.
    let saved = world.state.path().join("control-nodes.json");
    let written = async {
        while !std::fs::read_to_string(&saved).unwrap_or_default().contains("edge-v") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), written).await.unwrap();
    world.control.kill();
    world.restart_edge().await;
    let after = document(&world.until(&path(), |answer| answer.status == 200).await);
    assert_eq!(after["PATHWAY-PRIORITY"], before["PATHWAY-PRIORITY"]);
}
