//! Who is where, seen through proxies, and who has asked too often.

mod support;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};
use spyglass_api::control::Role;
use spyglass_control::limits::Rate;
use spyglass_testkit::mmdb::{Place, database};
use support::{Answer, OPERATOR, World, text};

/// A request as a proxy on this machine passes it on.
async fn through(world: &World, from: &str, method: &str, path: &str, bearer: &str) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{}{path}", world.at.http))
        .header("x-forwarded-for", format!("203.0.113.77, {from}"));
    if !bearer.is_empty() {
        request = request.header("authorization", format!("Bearer {bearer}"));
    }
    world.send(request.body(Full::new(Bytes::new())).unwrap()).await
}

/// Nothing comes back into a bucket while a test runs.
fn once(burst: u32) -> Rate {
    Rate { per_second: 0.01, burst }
}

async fn limited() -> World {
    World::with(|config| {
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        config.rate_exempt = vec!["198.51.100.0/24".parse().unwrap()];
        config.rate_list = once(5);
        config.rate_join = once(3);
        config.rate_create = once(4);
        config.rate_login = once(2);
        config.rate_unknown_id = once(2);
        config.max_broadcasts_per_user = 2;
    })
    .await
}

const ANN: &str = "192.0.2.1";
const BEN: &str = "192.0.2.2";

#[tokio::test(flavor = "multi_thread")]
async fn each_address_has_its_own_budget_for_each_kind_of_request() {
    let world = limited().await;
    let list = "/v1/broadcasts?sample=50";
    for _ in 0..5 {
        through(&world, ANN, "GET", list, "").await.expect(200);
    }
    let refused = through(&world, ANN, "GET", list, "").await.expect(429);
    let wait: u32 = refused.header("retry-after").parse().unwrap();
    assert!((90..=100).contains(&wait), "{wait}");
    assert_eq!(refused.header("access-control-allow-origin"), "*");
    assert!(refused.problem(429).contains("list"));
    // Others, other requests, exempt networks and the operator are not touched.
    through(&world, BEN, "GET", list, "").await.expect(200);
    through(&world, ANN, "GET", "/", "").await.expect(200);
    through(&world, ANN, "GET", "/healthz", "").await.expect(200);
    through(&world, ANN, "GET", list, OPERATOR).await.expect(200);
    for _ in 0..20 {
        through(&world, "198.51.100.9", "GET", list, "").await.expect(200);
    }
    // One /64 is one subscriber.
    for host in 1..=5 {
        through(&world, &format!("2001:db8::{host}"), "GET", list, "").await.expect(200);
    }
    through(&world, "2001:db8::ffff", "GET", list, "").await.expect(429);
    through(&world, "2001:db8:0:1::1", "GET", list, "").await.expect(200);
    let metrics = world.anyone("GET", "/metrics", Value::Null).await.expect(200);
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("spyglass_control_limited_total{limit=\"list\"} 2"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_are_limited_and_guesses_end_in_silence() {
    let world = limited().await;
    let _origin = world.node("origin-1", Role::Origin, None).await;
    let _edge = world.node("edge-1", Role::Edge, None).await;
    let id = text(&world.create(OPERATOR, json!({"title": "t"})).await["id"]);
    let join = format!("/v1/broadcasts/{id}/viewers");
    for _ in 0..3 {
        through(&world, ANN, "POST", &join, "").await.expect(200);
    }
    assert!(through(&world, ANN, "POST", &join, "").await.problem(429).contains("joins"));
    through(&world, BEN, "POST", &join, "").await.expect(200);

    // After two wrong ids nobody at that address learns whether one is right.
    for _ in 0..2 {
        through(&world, BEN, "GET", "/v1/broadcasts/0000000000000", "").await.expect(404);
    }
    let right = through(&world, BEN, "GET", &format!("/v1/broadcasts/{id}"), "").await;
    let wrong = through(&world, BEN, "GET", "/v1/broadcasts/0000000000000", "").await;
    assert_eq!(right.clone().expect(429).body, wrong.expect(429).body);
    assert!(right.problem(429).contains("ids"));
    // Nor whether credentials are.
    let (_, token) = world.user("Ann").await;
    let shown = format!("/v1/broadcasts/{id}");
    for _ in 0..2 {
        through(&world, "192.0.2.3", "GET", &shown, "nobody").await.expect(401);
    }
    through(&world, "192.0.2.3", "GET", &shown, &token).await.expect(429);
    through(&world, "192.0.2.3", "GET", &shown, "").await.expect(200);
    through(&world, "192.0.2.4", "GET", &shown, &token).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_limited_wherever_it_is() {
    let world = limited().await;
    let _origin = world.node("origin-1", Role::Origin, None).await;
    let (_, token) = world.user("Ann").await;
    let create = |from: &'static str| {
        let world = &world;
        let token = &token;
        async move {
            let request = Request::post(format!("{}/v1/broadcasts", world.at.http))
                .header("x-forwarded-for", from)
                .header("authorization", format!("Bearer {token}"))
                .body(Full::new(Bytes::from_static(b"{\"title\":\"t\"}")));
            world.send(request.unwrap()).await
        }
    };
    let first = text(&create("192.0.2.10").await.expect(201).json()["id"]);
    create("192.0.2.11").await.expect(201);
    assert!(create("192.0.2.12").await.problem(403).contains("2 broadcasts"));
    let end = format!("/v1/broadcasts/{first}/end");
    world.call("POST", &end, &token, &Value::Null).await.expect(200);
    create("192.0.2.13").await.expect(201);
    assert!(create("192.0.2.14").await.problem(429).contains("new users and broadcasts"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_tells_where_its_viewer_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("city.mmdb");
    let place = |address: &str, bits, lat, lon| Place {
        address: address.parse().unwrap(),
        bits,
        location: Some((lat, lon)),
    };
    let places = [
        place("192.0.2.0", 24, 52.4, 4.9),
        place("198.51.100.0", 24, 35.7, 139.7),
        place("2001:db8::", 32, 40.7, -74.0),
    ];
    std::fs::write(&path, database(&places)).unwrap();
    let world = World::with(|config| {
        config.geo_mmdb = Some(path.clone());
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let _o1 = world.node("origin-ams", Role::Origin, Some("52.37,4.90")).await;
    let _o2 = world.node("origin-tyo", Role::Origin, Some("35.68,139.69")).await;
    let _e1 = world.node("edge-ams", Role::Edge, Some("52.37,4.90")).await;
    let _e2 = world.node("edge-nyc", Role::Edge, Some("40.71,-74.01")).await;
    let _e3 = world.node("edge-tyo", Role::Edge, Some("35.68,139.69")).await;
    let id = text(&world.create(OPERATOR, json!({"title": "t"})).await["id"]);
    let join = format!("/v1/broadcasts/{id}/viewers");
    for (from, edge) in
        [("192.0.2.7", "edge-ams"), ("198.51.100.7", "edge-tyo"), ("2001:db8:5::7", "edge-nyc")]
    {
        let joined = through(&world, from, "POST", &join, "").await.expect(200).json();
        assert_eq!(joined["edge"]["id"], edge, "{from}");
        assert!(joined["edge"]["distance_km"].as_f64().unwrap() < 10.0);
        let nearest = through(&world, from, "GET", &format!("/live/{id}/index.m3u8"), "").await;
        let to = nearest.expect(307).header("location").to_owned();
        assert_eq!(to, format!("http://{edge}.test/live/{id}/index.m3u8"), "{from}");
    }
    // What the request says is believed more.
    let request = Request::post(format!("{}{join}", world.at.http))
        .header("x-forwarded-for", "192.0.2.7")
        .body(Full::new(Bytes::from_static(b"{\"location\":{\"lat\":35.6,\"lon\":139.6}}")));
    assert_eq!(world.send(request.unwrap()).await.expect(200).json()["edge"]["id"], "edge-tyo");
    // A broadcaster goes to the nearest origin likewise.
    let request = Request::post(format!("{}/v1/broadcasts", world.at.http))
        .header("x-forwarded-for", "198.51.100.7")
        .header("authorization", format!("Bearer {OPERATOR}"))
        .body(Full::new(Bytes::from_static(b"{\"title\":\"t\"}")));
    assert_eq!(world.send(request.unwrap()).await.expect(201).json()["origin"], "origin-tyo");
    let metrics = world.anyone("GET", "/metrics", Value::Null).await.expect(200);
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    let counted = "spyglass_control_placements_total{role=\"edge\",by=\"address\"} 6";
    assert!(metrics.contains(counted), "{metrics}");
}
