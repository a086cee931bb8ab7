//! Of 120 simultaneous joins exactly 100 get the push tier; the rest play HLS.

use std::collections::HashSet;

use serde_json::{Value, json};
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn seat_101_gets_hls() {
    let system = System::up(&["--edges", "1"]).await;
    let broadcast = system.create(json!({"title": "full"})).await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", std::time::Duration::from_secs(10)).await;

    let joins = (0..120).map(|_| system.join(&broadcast.id));
    let joined = futures_join(joins).await;

    let tier = |tier: &'static str| joined.iter().filter(move |join| join["tier"] == tier);
    assert_eq!(tier("push").count(), 100);
    assert_eq!(tier("hls").count(), 20);
    let seats: HashSet<u64> = tier("push").map(|join| join["seat"].as_u64().unwrap()).collect();
    assert_eq!(seats, (1..=100).collect());
    assert!(
        tier("push")
            .all(|join| join["urls"]["rtmp"].is_string() && join["urls"]["hls"].is_string())
    );
    assert!(tier("hls").all(|join| join["urls"]["rtmp"].is_null() && join["seat"].is_null()));

    let hls = tier("hls").next().unwrap()["urls"]["hls"].as_str().unwrap().to_owned();
    assert_eq!(ffmpeg::codecs(&hls).await, ["aac", "h264"]);
    let push = tier("push").next().unwrap()["urls"]["rtmp"].as_str().unwrap().to_owned();
    assert_eq!(ffmpeg::codecs(&push).await, ["aac", "h264"]);
}

async fn futures_join<F: Future<Output = Value>>(joins: impl Iterator<Item = F>) -> Vec<Value> {
    // One task polls them all: their requests are on the wire at the same time.
    let mut joins: Vec<_> = joins.map(Box::pin).collect();
    let mut done: Vec<Option<Value>> = vec![None; joins.len()];
    std::future::poll_fn(|context| {
        for (join, done) in joins.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = join.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}
