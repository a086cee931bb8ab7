//! The end: the list gets its ENDLIST, chunks stay, viewers are told, and
//! nobody can publish under the old key.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::hls::List;
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_told() {
    let system = System::up(&["--edges", "1", "--chunk-seconds", "1"]).await;
    let broadcast = system.create(json!({"title": "short"})).await;
    let clip = ffmpeg::clip(Clip::Both);
    let encoder = Ffmpeg::publish(clip, &broadcast.publish_url);
    let url = format!("{}/live/{}/chunklist.m3u8", system.edge(0), broadcast.id);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    system.client.get(&url).await.expect(200);
    let joined = system.join(&broadcast.id).await;
    let rtmp = joined["urls"]["rtmp"].as_str().unwrap().to_owned();
    let viewer = Ffmpeg::decode(&rtmp, 600);

    system
        .operator(Method::POST, &format!("/v1/broadcasts/{}/end", broadcast.id), Value::Null)
        .await
        .expect(200);
    system.wait_for_state(&broadcast.id, "ended", Duration::from_secs(5)).await;
    let list = eventually("ENDLIST", Duration::from_secs(5), || async {
        let list = List::parse(&system.client.get(&url).await.expect(200).text());
        list.ended().then_some(list)
    })
    .await;
    let last = list.chunks().last().unwrap().uri.clone();
    system.client.get(&url.replace("chunklist.m3u8", &last)).await.expect(200);
    let (_, errors) = viewer.finish().await;
    assert!(!errors.contains("Invalid data"), "{errors}");
    let (success, _) = encoder.finish().await;
    assert!(!success, "the encoder was cut");
    let (success, _) = Ffmpeg::publish(clip, &broadcast.publish_url).finish().await;
    assert!(!success, "an ended broadcast was published");
    let (success, _) = Ffmpeg::decode(&rtmp, 1).finish().await;
    assert!(!success, "an ended broadcast was played");
}
