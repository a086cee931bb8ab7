//! An edge that is killed and started again serves its viewers as before,
//! with the tokens they have, even while control is away.

use std::time::Duration;

use serde_json::json;
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::hls::List;
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn edge_restart_loses_nobody() {
    let mut system = System::apart(1, &["--chunk-seconds", "1"]).await;
    let broadcast = system.create(json!({"title": "edge restart"})).await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let joined = system.join(&broadcast.id).await;
    let index = joined["urls"]["hls"].as_str().unwrap().to_owned();
    let url = index.replace("index.m3u8", "chunklist.m3u8");
    let before = List::parse(&system.client.get(&url).await.expect(200).text());

    system.control.kill();
    system.edges[0].kill();
    assert!(system.client.try_get(&url).await.is_err());
    system.restart_edge(0).await;

    let after = eventually("the list is served again", Duration::from_secs(10), || async {
        let answer = system.client.try_get(&url).await.ok()?;
        (answer.status == 200).then(|| List::parse(&answer.text()))
    })
    .await;
    assert!(after.last() >= before.last(), "time went backwards");
    let (success, errors) = Ffmpeg::decode(&index, 4).finish().await;
    assert!(success && errors.is_empty(), "{errors}");
}
