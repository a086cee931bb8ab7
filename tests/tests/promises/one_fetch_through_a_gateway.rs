//! Behind a gateway, viewers at three edges cost the origin what viewers at one
//! would; and when the gateway is killed, they go on.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use spyglass_testkit::stopwatch::Stopwatch;
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::hls::List;
use spyglass_tests::system::System;

const EDGES: usize = 3;

fn index(edge: &str) -> usize {
    edge.strip_prefix("edge-").unwrap().parse::<usize>().unwrap() - 1
}

#[tokio::test(flavor = "multi_thread")]
async fn one_fetch_through_a_gateway() {
    let mut system = System::apart_with(EDGES, &[], Some("upstream = \"auto\"\n")).await;
    let broadcast = system.create(json!({"title": "behind a gateway"})).await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(15)).await;
    let gateway = eventually("a gateway", Duration::from_secs(10), || async {
        system.show(&broadcast.id).await["gateway"].as_str().map(index)
    })
    .await;
    for edge in (0..EDGES).filter(|edge| *edge != gateway) {
        eventually("its gateway", Duration::from_secs(10), || async {
            let watched = system.metric(&system.edge(edge), "spyglass_edge_gateways").await;
            (watched == 1.0).then_some(())
        })
        .await;
    }

    let origin = system.origin_http();
    let requests =
        |resource: &str| format!("spyglass_origin_requests_total{{resource=\"{resource}\"}}");
    let (mut lists, mut chunks) = (HashSet::new(), HashSet::new());
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        for edge in 0..EDGES {
            let base = format!("{}/live/{}", system.edge(edge), broadcast.id);
            let answer = system.client.get(&format!("{base}/chunklist.m3u8")).await.expect(200);
            let text = answer.text();
            for chunk in List::parse(&text).chunks() {
                if chunks.insert((edge, chunk.uri.clone())) {
                    system.client.get(&format!("{base}/{}", chunk.uri)).await.expect(200);
                }
            }
            lists.insert(text);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let distinct: HashSet<_> = chunks.iter().map(|(_, uri)| uri).collect();
    assert!(distinct.len() >= 3 && chunks.len() >= 3 * (distinct.len() - 1));
    let asked = system.metric(&origin, &requests("chunk")).await;
    // Who finds the gateway too slow, on a machine that stands still, asks the origin.
    let mut fell = 0.0;
    for edge in 0..EDGES {
        fell += system.metric(&system.edge(edge), "spyglass_edge_gateway_fallbacks_total{").await;
    }
    let (least, most) = (distinct.len() as f64, distinct.len() as f64 + fell);
    assert!((least..=most).contains(&asked), "each chunk once, for all edges: {asked}, {fell}");
    let asked = system.metric(&origin, &requests("chunklist")).await;
    let versions = lists.len() as f64;
    // A list may be fetched again because it aged, or be fetched while nobody looks.
    assert!(asked <= versions + 3.0 + fell, "{asked} fetches of {versions} versions, {fell}");
    eventually("who goes through whom", Duration::from_secs(5), || async {
        let nodes = system.operator(Method::GET, "/v1/nodes", Value::Null).await.json();
        let load = |edge: usize, name: &str| {
            let nodes = nodes["nodes"].as_array().unwrap();
            let id = format!("edge-{}", edge + 1);
            let node = nodes.iter().find(|node| node["id"] == id).unwrap();
            node["load"][name].as_u64().unwrap()
        };
        let through = (0..EDGES)
            .filter(|edge| *edge != gateway)
            .all(|edge| load(edge, "through_gateway") == 1);
        (through && load(gateway, "relayed") == 1).then_some(())
    })
    .await;

    // Killed: the others see the next chunk in time.
    system.edges[gateway].kill();
    for edge in (0..EDGES).filter(|edge| *edge != gateway) {
        let list = format!("{}/live/{}/chunklist.m3u8", system.edge(edge), broadcast.id);
        let asked = Stopwatch::start();
        let before = List::parse(&system.client.get(&list).await.expect(200).text()).last();
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        eventually("another chunk", Duration::from_secs(6), || async {
            let answer = system.client.get(&list).await.expect(200);
            (List::parse(&answer.text()).last() > before).then_some(())
        })
        .await;
    }
}
