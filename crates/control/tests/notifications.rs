//! Streams of notifications and events: who hears what, once, and what a
//! listener who was away hears.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Incoming;
use serde_json::{Value, json};
use spyglass_api::control::{Phase, Role};
use spyglass_control::Config;
use spyglass_control::store::{Engine, Log};
use spyglass_daemon::now_utc;
use spyglass_media::BroadcastId;
use support::{Node, OPERATOR, World, eventually, text};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

/// A listener.
struct Stream {
    body: Incoming,
    text: String,
}

/// An event as it came.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

impl Stream {
    async fn open(world: &World, path: &str, bearer: &str, last: Option<&str>) -> Self {
        let mut request = Request::builder()
            .uri(format!("{}{path}", world.at.http))
            .header("authorization", format!("Bearer {bearer}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let answer = world.client.request(request).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        assert_eq!(answer.headers()["x-accel-buffering"], "no");
        Self { body: answer.into_body(), text: String::new() }
    }

    /// The next block of lines; `None` when the stream has ended.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(block);
            }
            let frame = tokio::time::timeout(Duration::from_secs(15), self.body.frame());
            let frame = frame.await.expect("nothing within 15 s")?.ok()?;
            self.text.push_str(std::str::from_utf8(frame.data_ref()?).unwrap());
        }
    }

    /// The next event, and the last id before it when that came without one.
    async fn event(&mut self) -> Event {
        loop {
            let block = self.block().await.expect("the stream has ended");
            let field = |name: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_default().to_owned()
            };
            let data = field("data: ");
            if !data.is_empty() {
                let data = serde_json::from_str(&data).unwrap();
                return Event { name: field("event: "), id: field("id: "), data };
            }
        }
    }

    /// The id that the stream begins with.
    async fn hello(&mut self) -> String {
        let block = self.block().await.unwrap();
        assert!(block.contains("retry: 2000"), "{block}");
        text(&json!(block.lines().find_map(|line| line.strip_prefix("id: ")).unwrap()))
    }
}

async fn make(world: &World, origin: &Node, bearer: &str, body: Value) -> String {
    let id = text(&world.create(bearer, body).await["id"]);
    origin.event(&id, Phase::Live, 1, Bytes::new());
    world.wait_for(&id, "/state", &json!("live")).await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_told_once_and_resumes() {
    let world = World::start().await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let ((ann_id, ann), (ben_id, ben), (cem_id, cem)) =
        (world.user("Ann").await, world.user("Ben").await, world.user("Cem").await);
    let follow = |other: &str| format!("/v1/users/{ann_id}/following/{other}");
    world.call("PUT", &follow(&ben_id), &ann, &Value::Null).await.expect(204);
    let path = format!("/v1/users/{ann_id}/notifications");
    let mut stream = Stream::open(&world, &path, &ann, None).await;
    let hello = stream.hello().await;
    // Not followed; then followed while listening.
    make(&world, &origin, &cem, json!({"title": "nobody hears"})).await;
    let first = make(&world, &origin, &ben, json!({"title": "first"})).await;
    let told = stream.event().await;
    assert_eq!(told.name, "broadcast_started");
    assert_eq!(told.data["broadcast"], json!(first));
    assert_eq!(told.data["user"], json!(ben_id));
    assert_eq!((&told.data["name"], &told.data["title"]), (&json!("Ben"), &json!("first")));
    world.call("PUT", &follow(&cem_id), &ann, &Value::Null).await.expect(204);
    // A publisher who comes back is no news.
    origin.event(&first, Phase::Interrupted, 1, Bytes::new());
    world.wait_for(&first, "/state", &json!("interrupted")).await;
    origin.event(&first, Phase::Live, 2, Bytes::new());
    world.wait_for(&first, "/state", &json!("live")).await;
    // Private, and not for Ann; private, and for her.
    let private = |named: &str| json!({"title": "private", "private_to": [named]});
    make(&world, &origin, &ben, private(&cem_id)).await;
    let second = make(&world, &origin, &cem, private(&ann_id)).await;
    let next = stream.event().await;
    assert_eq!(next.data["broadcast"], json!(second));
    drop(stream);

    // Away: neither missed nor repeated, whatever was the last that came.
    let third = make(&world, &origin, &ben, json!({"title": "third"})).await;
    let ids = async |last: &str, count: usize| {
        let mut stream = Stream::open(&world, &path, &ann, Some(last)).await;
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(text(&stream.event().await.data["broadcast"]));
        }
        ids
    };
    assert_eq!(ids(&next.id, 1).await, [third.as_str()]);
    assert_eq!(ids(&told.id, 2).await, [second.as_str(), &third]);
    assert_eq!(ids("0123456789abcdef-7", 1).await[0].len(), 13, "another log: all that is held");
    let query = format!("{path}?last_event_id={}", told.id);
    let mut stream = Stream::open(&world, &query, &ann, None).await;
    assert_eq!(stream.event().await.data["broadcast"], json!(second));
    // Unfollowed: not told even of the past.
    world.call("DELETE", &follow(&ben_id), &ann, &Value::Null).await.expect(204);
    eventually("Ben is forgotten", || async {
        let told = ids(&hello, 1).await;
        (told != [first.as_str()]).then_some(())
    })
    .await;

    // The log survives a restart.
    drop(stream);
    let world = world.restart(false).await;
    let mut stream = Stream::open(&world, &path, &ann, Some(&told.id)).await;
    assert_eq!(stream.event().await.data["broadcast"], json!(second));
    // A token that is nobody's any more ends its streams.
    let renew = format!("/v1/users/{ann_id}/token");
    world.operator("POST", &renew, Value::Null).await.expect(200);
    while stream.block().await.is_some() {}
    for (bearer, status) in [("", 401), (ben.as_str(), 403), (&ann, 401)] {
        world.call("GET", &path, bearer, &Value::Null).await.problem(status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_hear_of_broadcasts_and_viewers() {
    let world = World::start().await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let _edge = world.node("edge-1", Role::Edge, None).await;
    let mut all = Stream::open(&world, "/v1/events", OPERATOR, None).await;
    let path = "/v1/events?types=broadcast.ended,viewer.kicked";
    let mut some = Stream::open(&world, path, OPERATOR, None).await;
    let body = json!({"title": "secret", "private_to": []});
    let id = make(&world, &origin, OPERATOR, body).await;
    let joined = world.operator("POST", &format!("/v1/broadcasts/{id}/viewers"), json!({})).await;
    let viewer = text(&joined.expect(200).json()["viewer"]);
    let mut names = Vec::new();
    for _ in 0..3 {
        let event = all.event().await;
        assert_eq!(event.data["broadcast"], json!(id));
        assert_eq!(event.id.is_empty(), event.name.starts_with("viewer."));
        names.push(event.name);
    }
    assert_eq!(names, ["broadcast.created", "broadcast.live", "viewer.joined"]);
    let kick = format!("/v1/broadcasts/{id}/viewers/{viewer}/kick");
    world.operator("POST", &kick, Value::Null).await.expect(200);
    let kicked = some.event().await;
    assert_eq!((kicked.name.as_str(), &kicked.data["viewer"]), ("viewer.kicked", &json!(viewer)));
    world.operator("POST", &format!("/v1/broadcasts/{id}/end"), Value::Null).await.expect(200);
    let ended = some.event().await;
    assert_eq!((ended.name.as_str(), &ended.data["private"]), ("broadcast.ended", &json!(true)));
    world.operator("GET", "/v1/events?types=nonsense", Value::Null).await.problem(400);
    let (_, ann) = world.user("Ann").await;
    world.call("GET", "/v1/events", &ann, &Value::Null).await.problem(403);
    world.anyone("GET", "/v1/events", Value::Null).await.problem(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_limited_and_outlive_the_limit_of_answers() {
    let world = World::with(|config| {
        (config.max_streams, config.max_streams_per_user) = (3, 2);
    })
    .await;
    let ((ann_id, ann), (ben_id, ben)) = (world.user("Ann").await, world.user("Ben").await);
    let path = |id: &str| format!("/v1/users/{id}/notifications");
    let mut first = Stream::open(&world, &path(&ann_id), &ann, None).await;
    let second = Stream::open(&world, &path(&ann_id), &ann, None).await;
    let refused = world.call("GET", &path(&ann_id), &ann, &Value::Null).await;
    assert_eq!(refused.header("retry-after"), "10");
    refused.problem(429);
    let third = Stream::open(&world, &path(&ben_id), &ben, None).await;
    let refused = world.operator("GET", "/v1/events", Value::Null).await;
    assert_eq!(refused.header("retry-after"), "10");
    refused.problem(503);
    drop((second, third));
    eventually("places are free again", || async {
        let request = Request::builder()
            .uri(format!("{}/v1/events", world.at.http))
            .header("authorization", format!("Bearer {OPERATOR}"));
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let answer = world.client.request(request).await.unwrap();
        (answer.status() == 200).then_some(())
    })
    .await;
    // A quiet stream says that it lives, and control lets nobody wait when it stops.
    first.hello().await;
    assert_eq!(first.block().await.unwrap(), ":", "a comment within 15 s");
    world.stop().await;
    while first.block().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn any_control_tells_the_same() {
    let (one, two) = World::two(|_| {}).await;
    let origin = one.node_of_both(&two, "origin-1", Role::Origin).await;
    let ((ann_id, ann), (ben_id, ben)) = (one.user("Ann").await, one.user("Ben").await);
    let follow = format!("/v1/users/{ann_id}/following/{ben_id}");
    one.call("PUT", &follow, &ann, &Value::Null).await.expect(204);
    let path = format!("/v1/users/{ann_id}/notifications");
    let mut here = Stream::open(&one, &path, &ann, None).await;
    let first = make(&one, &origin, &ben, json!({"title": "first"})).await;
    let told = here.event().await;
    assert_eq!(told.data["broadcast"], json!(first));
    // One goes, the other knows where to go on.
    let second = make(&one, &origin, &ben, json!({"title": "second"})).await;
    let mut there = Stream::open(&two, &path, &ann, Some(&told.id)).await;
    assert_eq!(there.event().await.data["broadcast"], json!(second));
    let third = make(&two, &origin, &ben, json!({"title": "third"})).await;
    assert_eq!(there.event().await.data["broadcast"], json!(third));
    assert_eq!(here.event().await.data["broadcast"], json!(second));
    assert_eq!(here.event().await.data["broadcast"], json!(third));
}

/// What the log holds of a broadcast that has started, as another control may
/// have written it. Large, so that few of them fill a socket.
fn started(user: &str, number: u8) -> (String, Bytes) {
    let broadcast = BroadcastId::from_random([number; 16]);
    let key = format!("live/{broadcast}");
    let event = json!({
        "key": key, "kind": "live", "at_ms": now_utc().millis(), "broadcast": broadcast,
        "user": user, "name": "Ben", "title": "x".repeat(60 * 1024), "private": false,
    });
    (key, event.to_string().into())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_is_cut_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let engine: Arc<dyn Engine> = Arc::new(support::embedded(&dir));
    let one_each = |config: &mut Config| config.max_streams_per_user = 1;
    let world = World::over(Arc::clone(&engine), dir, one_each).await;
    let ((ann_id, ann), (cem_id, cem)) = (world.user("Ann").await, world.user("Cem").await);
    let (ben_id, _) = world.user("Ben").await;
    for (id, token) in [(&ann_id, &ann), (&cem_id, &cem)] {
        let follow = format!("/v1/users/{id}/following/{ben_id}");
        world.call("PUT", &follow, token, &Value::Null).await.expect(204);
    }
    let path = |id: &str| format!("/v1/users/{id}/notifications");
    let mut reads = Stream::open(&world, &path(&ann_id), &ann, None).await;
    reads.hello().await;

    // Takes the answer's head and then no byte.
    let stuck = TcpSocket::new_v4().unwrap();
    stuck.set_recv_buffer_size(4096).unwrap();
    let at = world.at.http.trim_start_matches("http://").parse().unwrap();
    let mut stuck = stuck.connect(at).await.unwrap();
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: {at}\r\nauthorization: Bearer {cem}\r\n\r\n",
        path(&cem_id)
    );
    stuck.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stuck.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    world.call("GET", &path(&cem_id), &cem, &Value::Null).await.problem(429);

    // More than the kernel takes for who does not read.
    for number in 0..200 {
        let (key, payload) = started(&ben_id, number);
        engine.append(Log::Events, &key, payload).await.unwrap();
        let told = reads.event().await;
        assert_eq!(told.data["broadcast"], json!(BroadcastId::from_random([number; 16])));
    }
    let patience = Duration::from_secs(40);
    let cut = async {
        loop {
            let request = Request::builder()
                .uri(format!("{}{}", world.at.http, path(&cem_id)))
                .header("authorization", format!("Bearer {cem}"));
            let request = request.body(Full::new(Bytes::new())).unwrap();
            if world.client.request(request).await.unwrap().status() == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(patience, cut).await.expect("the stuck stream gives its place back");
    let (key, payload) = started(&ben_id, 200);
    engine.append(Log::Events, &key, payload).await.unwrap();
    assert_eq!(reads.event().await.data["user"], json!(ben_id));
    drop(stuck);
}
