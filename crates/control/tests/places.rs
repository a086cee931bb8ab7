//! Who is sent where, and how nodes come and go.

mod support;

use serde_json::{Value, json};
use spyglass_api::auth::ClusterKey;
use spyglass_api::control::control_client::ControlClient;
use spyglass_api::control::{Heartbeat, Load, Phase, Register, Report, Role, report};
use spyglass_daemon::grpc;
use support::{CLUSTER, OPERATOR, World, eventually, text};
use tonic::Code;

const AMSTERDAM: &str = "52.37,4.90";
const NEW_YORK: &str = "40.71,-74.01";
const TOKYO: &str = "35.68,139.69";

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_node_that_is_well_serves() {
    let world = World::start().await;
    let _west = world.node("origin-west", Role::Origin, Some(NEW_YORK)).await;
    let _east = world.node("origin-east", Role::Origin, Some(TOKYO)).await;
    let _ams = world.node("edge-ams", Role::Edge, Some(AMSTERDAM)).await;
    let _nyc = world.node("edge-nyc", Role::Edge, Some(NEW_YORK)).await;
    let tokyo = world.node("edge-tyo", Role::Edge, Some(TOKYO)).await;
    let seoul = json!({"location": {"lat": 37.57, "lon": 126.98}});
    let paris = json!({"location": {"lat": 48.86, "lon": 2.35}});
    let mut body = seoul.clone();
    body["title"] = json!("near Tokyo");
    let made = world.create(OPERATOR, body).await;
    assert_eq!(made["origin"], "origin-east");
    assert_eq!(made["publish"]["rtmp_url"], "rtmp://origin-east.test/live");
    let id = text(&made["id"]);
    let key = text(&made["publish"]["stream_key"]);
    assert!(key.starts_with(&format!("{id}?token=v4.public.")), "{key}");
    assert_eq!(made["watch_url"], format!("{}/watch/{id}", world.at.http));

    let edge = |joined: &Value| text(&joined["edge"]["id"]);
    let joined = world.join(&id, paris.clone()).await;
    assert_eq!(edge(&joined), "edge-ams");
    let km = joined["edge"]["distance_km"].as_f64().unwrap();
    assert!((400.0..460.0).contains(&km), "{km}");
    let others: Vec<String> =
        joined["alternates"].as_array().unwrap().iter().map(|edge| text(&edge["id"])).collect();
    assert_eq!(others, ["edge-nyc", "edge-tyo"]);
    assert_eq!(edge(&world.join(&id, seoul.clone()).await), "edge-tyo");

    // Draining takes no arrivals, and can be taken back.
    let drained = world.operator("POST", "/v1/nodes/edge-ams/drain", Value::Null).await;
    assert_eq!(drained.expect(202).json()["state"], "draining");
    assert_eq!(edge(&world.join(&id, paris.clone()).await), "edge-nyc");
    world.operator("DELETE", "/v1/nodes/edge-ams/drain", Value::Null).await.expect(202);
    assert_eq!(edge(&world.join(&id, paris).await), "edge-ams");

    // A full edge is passed over.
    *tokyo.said.load.lock() = Load { viewers: 10, viewer_capacity: 10, ..Load::default() };
    eventually("the full edge is passed over", || async {
        (edge(&world.join(&id, seoul.clone()).await) == "edge-ams").then_some(())
    })
    .await;

    let redirect = world.anyone("GET", &format!("/live/{id}/index.m3u8"), Value::Null).await;
    let redirect = redirect.expect(307);
    let url = redirect.header("location");
    assert!(url.starts_with("http://edge-") && url.ends_with(&format!("/live/{id}/index.m3u8")));
    assert_eq!(redirect.header("access-control-allow-origin"), "*");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_is_passed_over_and_its_broadcasts_end() {
    let world = World::with(|config| config.resume_seconds = 1).await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let edge = world.node("edge-1", Role::Edge, None).await;
    let made = world.create(OPERATOR, json!({"title": "short"})).await;
    let unused = world.create(OPERATOR, json!({"title": "not begun"})).await;
    let (id, unused) = (text(&made["id"]), text(&unused["id"]));
    origin.event(&id, Phase::Live, 1, Default::default());
    world.wait_for(&id, "/state", &json!("live")).await;
    edge.stop();
    world.wait_for_node("edge-1", "lost").await;
    let path = format!("/v1/broadcasts/{id}/viewers");
    assert!(world.anyone("POST", &path, json!({})).await.problem(503).contains("edge"));
    origin.stop();
    world.wait_for_node("origin-1", "lost").await;
    world.wait_for(&id, "/state", &json!("ended")).await;
    assert_eq!(world.show(&unused).await["state"], "created", "it may still begin elsewhen");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_nodes_of_this_cluster_attach_and_they_introduce_themselves() {
    let world = World::start().await;
    let attach = async |key: &str, reports: Vec<report::Report>| {
        let key = ClusterKey::new(key).unwrap();
        let channel = grpc::channel(&world.at.grpc, &key, grpc::Windows::Messages).unwrap();
        let reports = reports.into_iter().map(|report| Report { report: Some(report) });
        let stream = tokio_stream::iter(reports.collect::<Vec<_>>());
        ControlClient::new(channel).attach(stream).await.map(drop).map_err(|status| status.code())
    };
    let register = |node: &str, role: Role| {
        let role = role.into();
        report::Report::Register(Register { node: node.to_owned(), role, ..Register::default() })
    };
    let edge = register("edge-1", Role::Edge);
    assert_eq!(attach("another-cluster", vec![edge.clone()]).await, Err(Code::Unauthenticated));
    let heartbeat = report::Report::Heartbeat(Heartbeat::default());
    assert_eq!(attach(CLUSTER, vec![heartbeat]).await, Err(Code::FailedPrecondition));
    assert_eq!(attach(CLUSTER, vec![]).await, Err(Code::FailedPrecondition));
    for odd in [register("Edge 1", Role::Edge), register("edge-1", Role::Unspecified)] {
        assert_eq!(attach(CLUSTER, vec![odd]).await, Err(Code::InvalidArgument));
    }
    let huge = Register {
        node: "edge-1".to_owned(),
        role: Role::Edge.into(),
        version: "v".repeat(300 * 1024),
        ..Register::default()
    };
    assert_eq!(attach(CLUSTER, vec![report::Report::Register(huge)]).await, Err(Code::OutOfRange));
    let nodes = world.operator("GET", "/v1/nodes", Value::Null).await.expect(200).json();
    assert_eq!(nodes, json!({"nodes": []}));
    // Reports that make no sense do not end the stream of one that does.
    assert_eq!(attach(CLUSTER, vec![edge.clone(), edge]).await, Ok(()));
    world.wait_for_node("edge-1", "up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn states_follow_the_origin() {
    let world = World::start().await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let other = world.node("origin-2", Role::Origin, Some(TOKYO)).await;
    let made = world.create(OPERATOR, json!({"title": "life"})).await;
    let id = text(&made["id"]);
    assert_eq!(made["origin"], "origin-1");
    assert_eq!(made["state"], "created");
    // Another origin has no say.
    other.event(&id, Phase::Ended, 9, Default::default());
    for (phase, epoch, state) in
        [(Phase::Live, 1, "live"), (Phase::Interrupted, 1, "interrupted"), (Phase::Live, 2, "live")]
    {
        origin.event(&id, phase, epoch, Default::default());
        let shown = world.wait_for(&id, "/state", &json!(state)).await;
        assert!(shown["started_at"].is_string() && shown["ended_at"].is_null());
    }
    let live = world.anyone("GET", "/v1/broadcasts", Value::Null).await.expect(200).json();
    assert_eq!((&live["live"], &live["broadcasts"][0]["id"]), (&json!(1), &json!(id)));
    origin.event(&id, Phase::Ended, 2, Default::default());
    let shown = world.wait_for(&id, "/state", &json!("ended")).await;
    assert!(shown["ended_at"].is_string());
    let live = world.anyone("GET", "/v1/broadcasts", Value::Null).await.expect(200).json();
    assert_eq!(live["live"], 0);
}
