//! A push viewer that reads nothing loses its place; nobody else loses a frame.

use std::time::Duration;

use serde_json::json;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_viewer_costs_only_itself() {
    let system = System::up(&["--edges", "1"]).await;
    let broadcast = system.create(json!({"title": "slow"})).await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let url = |joined: &serde_json::Value| joined["urls"]["rtmp"].as_str().unwrap().to_owned();

    // ffmpeg that is stopped reads nothing; its socket fills up.
    let stuck = Ffmpeg::decode(&url(&system.join(&broadcast.id).await), 600);
    spyglass_tests::eventually("the viewer is connected", Duration::from_secs(10), || async {
        let shown = system.show(&broadcast.id).await;
        (shown["viewers"]["push"] == 1).then_some(())
    })
    .await;
    stuck.stop();
    let healthy = Ffmpeg::decode(&url(&system.join(&broadcast.id).await), 12);
    let (success, errors) = healthy.finish().await;
    assert!(success && errors.is_empty(), "{errors}");
}
