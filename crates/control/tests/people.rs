//! What people may know and do, and what they are told when they may not.

mod support;

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};
use spyglass_api::control::{Phase, Role};
use support::{OPERATOR, World, text};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn a_private_broadcast_looks_like_none() {
    let world = World::start().await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let _edge = world.node("edge-1", Role::Edge, None).await;
    let ((_, owner), (friend_id, friend), (_, stranger)) =
        (world.user("owner").await, world.user("friend").await, world.user("stranger").await);
    let made = world.create(&owner, json!({"title": "secret", "private_to": [friend_id]})).await;
    let id = text(&made["id"]);
    origin.event(&id, Phase::Live, 1, Bytes::new());
    world.wait_for(&id, "/state", &json!("live")).await;
    let open = world.create(&owner, json!({"title": "open"})).await;
    let viewer = world.join(&text(&open["id"]), json!({})).await;
    let foreign = text(&viewer["token"]);

    for asker in ["", stranger.as_str(), foreign.as_str()] {
        for (method, tail) in [
            ("GET", ""),
            ("POST", "/viewers"),
            ("GET", "/viewers"),
            ("POST", "/end"),
            ("DELETE", "/viewers/0123456789abc"),
            ("POST", "/viewers/0123456789abc/kick"),
        ] {
            let mut answers = Vec::new();
            for id in [&id, "0123456789abc", "no-id-at-all", "%ff"] {
                let path = format!("/v1/broadcasts/{id}{tail}");
                let answer = world.call(method, &path, asker, &Value::Null).await.expect(404);
                let mut headers = answer.headers.clone();
                headers.remove("date");
                answers.push((answer.body, headers));
            }
            assert!(answers.iter().all(|answer| *answer == answers[0]), "{method} {tail}");
        }
        let redirect = format!("/live/{id}/index.m3u8");
        world.call("GET", &redirect, asker, &Value::Null).await.problem(404);
    }
    let listed = world.operator("GET", "/v1/broadcasts", Value::Null).await.expect(200).json();
    assert_eq!(listed, json!({"broadcasts": [], "live": 0}));
    let path = format!("/v1/broadcasts/{id}");
    for asker in [&owner, &friend, OPERATOR] {
        world.call("GET", &path, asker, &Value::Null).await.expect(200);
    }
    let joined = world.call("POST", &format!("{path}/viewers"), &friend, &json!({})).await;
    let token = text(&joined.expect(200).json()["token"]);
    world.call("GET", &path, &token, &Value::Null).await.expect(200);
    // Seen, but not theirs.
    world.call("POST", &format!("{path}/end"), &friend, &Value::Null).await.problem(403);
    world.call("POST", &format!("{path}/end"), &owner, &Value::Null).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_what_to_do() {
    let world = World::start().await;
    let (_, user) = world.user("Ann").await;
    let refused = async |method: &str, path: &str, bearer: &str, body: Value, status: u16| {
        world.call(method, path, bearer, &body).await.problem(status)
    };
    let detail = refused("GET", "/nowhere", "", Value::Null, 404).await;
    assert!(detail.contains("path"), "{detail}");
    refused("GET", "/v1/nowhere", OPERATOR, Value::Null, 404).await;
    refused("GET", "/assets/../Cargo.toml", "", Value::Null, 404).await;
    refused("GET", "/watch/nothing", "", Value::Null, 404).await;
    refused("DELETE", "/v1/nodes/x/drain", OPERATOR, Value::Null, 404).await;
    let answer = world.anyone("PUT", "/v1/broadcasts", Value::Null).await;
    assert_eq!(answer.header("allow"), "GET,HEAD,POST");
    answer.problem(405);
    world.anyone("POST", "/", Value::Null).await.problem(405);
    // Who is asking?
    for (method, path) in [("GET", "/v1/nodes"), ("POST", "/v1/nodes/edge-1/drain")] {
        refused(method, path, "", Value::Null, 401).await;
        refused(method, path, "nonsense", Value::Null, 401).await;
        refused(method, path, &user, Value::Null, 403).await;
    }
    let answer = world.anyone("POST", "/v1/broadcasts", json!({"title": "x"})).await;
    assert_eq!(answer.header("www-authenticate"), "Bearer");
    answer.problem(401);
    // What is wrong with the body?
    for (body, named) in [
        (json!({}), "title"),
        (json!({"title": 5}), "title"),
        (json!({"title": "x", "chunk_seconds": 11}), "chunk_seconds"),
        (json!({"title": "x", "fill": "push"}), "fill"),
        (json!({"title": "x", "chunk_seconds": "3"}), "chunk_seconds"),
        (json!({"title": "x", "location": {"lat": 91, "lon": 0}}), "location"),
        (json!({"title": "x", "private_to": "everybody"}), "private_to"),
        (json!({"title": "x", "titel": "y"}), "titel"),
        (json!([]), "object"),
    ] {
        let detail = refused("POST", "/v1/broadcasts", &user, body.clone(), 400).await;
        assert!(detail.contains(named), "{body}: {detail}");
    }
    // Nobody there to take it.
    let answer = world.call("POST", "/v1/broadcasts", &user, &json!({"title": "x"})).await;
    assert_eq!(answer.header("retry-after"), "5");
    assert!(answer.problem(503).contains("origin"));
    let path = "/v1/broadcasts?sample=many";
    assert!(refused("GET", path, "", Value::Null, 400).await.contains("sample"));

    let raw = |body: Vec<u8>| {
        Request::post(format!("{}/v1/users", world.at.http))
            .header("authorization", format!("bearer {OPERATOR}"))
            .body(Full::new(Bytes::from(body)))
            .unwrap()
    };
    world.send(raw(vec![b' '; 64 * 1024])).await.problem(400);
    assert!(world.send(raw(vec![b' '; 64 * 1024 + 1])).await.problem(413).contains("65536"));
    assert!(world.send(raw(b"{\"name\": ".to_vec())).await.problem(400).contains("JSON"));
    assert!(world.send(raw(vec![b'['; 60_000])).await.problem(400).contains("JSON"));
    world.send(raw(b"{\"name\": \"\xc3\xa9\"}".to_vec())).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_connections_cost_only_themselves() {
    let world = World::start().await;
    let address = world.at.http.trim_start_matches("http://").to_owned();
    let exchange = async |sent: Vec<u8>| {
        let mut socket = TcpStream::connect(&address).await.unwrap();
        // Closed on us meanwhile, perhaps.
        let _ = socket.write_all(&sent).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(14), socket.read_to_end(&mut answer));
        let _ = read.await.expect("the connection stays open");
        String::from_utf8_lossy(&answer).into_owned()
    };
    let many: String = (0..65).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = "a".repeat(70_000);
    let (silent, half, unfinished, crowded, large, noise, slow) = tokio::join!(
        exchange(Vec::new()),
        exchange(b"PRI * HT".to_vec()),
        exchange(b"GET / HTTP/1.1\r\nHost: x\r\n".to_vec()),
        exchange(format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n").into_bytes()),
        exchange(format!("GET / HTTP/1.1\r\nHost: {long}\r\n\r\n").into_bytes()),
        exchange(vec![0; 4_096]),
        exchange(
            format!(
                "POST /v1/users HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {OPERATOR}\r\n\
                 Connection: close\r\nContent-Length: 10\r\n\r\n{{"
            )
            .into_bytes()
        ),
    );
    assert_eq!((silent, half), (String::new(), String::new()));
    assert!(!unfinished.contains("200"), "{unfinished}");
    for refused in [crowded, large] {
        assert!(refused.starts_with("HTTP/1.1 431"), "{refused}");
    }
    assert!(!noise.contains("200"), "{noise}");
    assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
    world.anyone("GET", "/healthz", Value::Null).await.expect(200);
    let metrics = world.anyone("GET", "/metrics", Value::Null).await.expect(200);
    assert!(String::from_utf8_lossy(&metrics.body).contains("spyglass_panics_total 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_run_nothing_that_is_not_ours() {
    let world = World::start().await;
    for path in ["/", "/watch/0123456789abc", "/console"] {
        let page = world.anyone("GET", path, Value::Null).await.expect(200);
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        let policy = page.header("content-security-policy");
        assert!(policy.contains("script-src 'self';"), "{policy}");
        let media = policy.contains("media-src http: https: blob:");
        assert_eq!(media, path != "/console", "{policy}");
        // Who holds the operator key speaks to its control alone.
        let alone =
            policy.contains("connect-src 'self';") && policy.contains("trusted-types 'none'");
        assert_eq!(alone, path == "/console", "{policy}");
        let html = String::from_utf8_lossy(&page.body).into_owned();
        for inline in ["style=", "<script>", "javascript:"] {
            assert_eq!(html.lines().find(|line| line.contains(inline)), None);
        }
        let handler = html.split(" on").skip(1).find(|rest| {
            let name = rest.split_once("=\"").map(|(name, _)| name);
            name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_lowercase()))
        });
        assert_eq!(handler, None);
        let assets = html.split('"').filter(|part| part.starts_with("/assets/"));
        let mut assets: Vec<String> = assets.map(str::to_owned).collect();
        // What modules import is there too, whichever way they are reached.
        let mut at = 0;
        while let Some(asset) = assets.get(at).cloned() {
            at += 1;
            let answer = world.anyone("GET", &asset, Value::Null).await.expect(200);
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            for imported in
                text.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next())
            {
                let imported = format!("/assets/{imported}");
                if !assets.contains(&imported) {
                    assets.push(imported);
                }
            }
            let tag = answer.header("etag").to_owned();
            let again = Request::get(format!("{}{asset}", world.at.http));
            let again = again.header("if-none-match", &tag).body(Full::default()).unwrap();
            let again = world.send(again).await.expect(304);
            assert!(again.body.is_empty() && again.header("etag") == tag, "{asset}");
        }
    }
    world.anyone("HEAD", "/", Value::Null).await.expect(200);
    assert_eq!(world.anyone("GET", "/readyz", Value::Null).await.status, 200);
}
