//! Control is killed: the broadcast and its viewers do not notice. It comes
//! back, first with its state and then without, and knows them again.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn broadcasts_outlive_control() {
    let mut system = System::apart(1, &["--chunk-seconds", "1"]).await;
    let broadcast = system.create(json!({"title": "goes on"})).await;
    let clip = ffmpeg::clip(Clip::Both);
    let mut encoder = Ffmpeg::publish(clip, &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let joined = system.join(&broadcast.id).await;
    let (rtmp, hls) =
        (joined["urls"]["rtmp"].as_str().unwrap(), joined["urls"]["hls"].as_str().unwrap());
    let push = Ffmpeg::decode(rtmp, 30);
    let poll = Ffmpeg::decode(hls, 30);

    for empty in [false, true] {
        system.control.kill();
        // A publisher that reconnects needs no control either.
        if empty {
            encoder.kill();
            encoder = Ffmpeg::publish(clip, &broadcast.publish_url);
        }
        let url = hls.replace("index.m3u8", "chunklist.m3u8");
        let before = system.client.get(&url).await.expect(200);
        eventually("the list goes on without control", Duration::from_secs(10), || async {
            (system.client.get(&url).await.expect(200).body != before.body).then_some(())
        })
        .await;
        system.restart_control(empty).await;
        system.wait_for_nodes().await;
        system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
        let shown = system.show(&broadcast.id).await;
        assert_eq!(shown["title"], "goes on", "control's own note came back from the origin");
    }
    eventually("both viewers are counted again", Duration::from_secs(15), || async {
        let shown = system.show(&broadcast.id).await;
        (shown["viewers"]["total"].as_u64() >= Some(1)).then_some(())
    })
    .await;
    let listed = system
        .anyone(Method::GET, "/v1/broadcasts?sample=50", Value::Null)
        .await
        .expect(200)
        .json();
    assert_eq!(listed["live"], 1);

    // A viewer with an old token is let in again after all that.
    assert_eq!(ffmpeg::codecs(hls).await, ["aac", "h264"]);
    let (success, errors) = poll.finish().await;
    assert!(success, "{errors}");
    let (success, errors) = push.finish().await;
    assert!(success, "{errors}");
}
