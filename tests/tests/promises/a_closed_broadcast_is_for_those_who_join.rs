//! `"open": false`: whoever joins plays, `/live/` answers as for an id that
//! never existed, so a kick cannot be walked around.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_broadcast_is_for_those_who_join() {
    let system = System::up(&["--edges", "1", "--chunk-seconds", "1"]).await;
    let broadcast = system.create(json!({"title": "closed", "open": false})).await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    // It is no secret.
    let list = system.anyone(Method::GET, "/v1/broadcasts?sample=50", Value::Null).await;
    assert_eq!(list.expect(200).json()["broadcasts"][0]["id"], *broadcast.id);

    let joined = system.join(&broadcast.id).await;
    let url = |kind: &str| joined["urls"][kind].as_str().unwrap().to_owned();
    assert_eq!(ffmpeg::codecs(&url("hls")).await, ["aac", "h264"]);
    assert_eq!(ffmpeg::codecs(&url("rtmp")).await, ["aac", "h264"]);
    let chunklist = url("hls").replace("index.m3u8", "chunklist.m3u8");
    let list = system.client.get(&chunklist).await.expect(200).text();
    let names: Vec<&str> = list.lines().filter(|line| line.ends_with(".m4s")).collect();
    let edge = system.edge(0);
    let closed = async || {
        for name in ["index.m3u8", "chunklist.m3u8", "1-init.mp4", names[0]] {
            let ask = async |id: &str| {
                let answer = system.client.get(&format!("{edge}/live/{id}/{name}")).await;
                (answer.status.as_u16(), answer.text())
            };
            let (status, body) = ask(&broadcast.id).await;
            assert_eq!(status, 404, "{name}: {body}");
            assert_eq!((status, body), ask("0123456789abc").await, "{name}");
        }
    };
    closed().await;

    let viewer = joined["viewer"].as_str().unwrap();
    let kick = format!("/v1/broadcasts/{}/viewers/{viewer}/kick", broadcast.id);
    system.operator(Method::POST, &kick, Value::Null).await.expect(200);
    eventually("the kicked viewer is refused", Duration::from_secs(2), || async {
        (system.client.get(&chunklist).await.status == 403).then_some(())
    })
    .await;
    closed().await;
}
