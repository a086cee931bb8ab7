//! The origin is away: an edge goes on serving the list it has, after a wait of
//! a second and with its true age, and the chunks it has at once. Control does
//! not say that a broadcast is live whose origin nobody hears.

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::hls::List;
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_outlives_its_origin() {
    let mut system = System::apart(1, &["--chunk-seconds", "1"]).await;
    let broadcast = system.create(json!({"title": "away"})).await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let base = format!("{}/live/{}", system.edge(0), broadcast.id);
    let list = system.client.get(&format!("{base}/chunklist.m3u8")).await.expect(200).text();
    let chunk = List::parse(&list).chunks().last().unwrap().uri.clone();
    let bytes = system.client.get(&format!("{base}/{chunk}")).await.expect(200).body;

    system.origin.as_mut().unwrap().kill();
    let (age, waited) = eventually("an aged list is served", Duration::from_secs(20), || async {
        let begun = Instant::now();
        let answer = system.client.get(&format!("{base}/chunklist.m3u8")).await;
        let age: u64 = answer.header("age").parse().ok()?;
        (answer.status == 200 && age >= 4).then_some((age, begun.elapsed()))
    })
    .await;
    assert!(age < 30, "{age}");
    system.wait_for_state(&broadcast.id, "interrupted", Duration::from_secs(10)).await;
    let drawn = system.anyone(Method::GET, "/v1/broadcasts", Value::Null).await.expect(200);
    assert_eq!(drawn.json()["live"], 0);
    assert!(waited < Duration::from_secs(4), "a bounded wait, not a hang: {waited:?}");
    let kept = system.client.get(&format!("{base}/{chunk}")).await.expect(200);
    assert_eq!(kept.body, bytes);
    assert!(kept.header("cache-status").contains("hit"), "{}", kept.header("cache-status"));
}
