//! A second publisher is refused while the first lives, and nobody sees it.

use std::time::Duration;

use serde_json::json;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn two_publishers_one_writer() {
    let system = System::up(&["--edges", "1"]).await;
    let broadcast = system.create(json!({"title": "mine"})).await;
    let clip = ffmpeg::clip(Clip::Both);
    let _encoder = Ffmpeg::publish(clip, &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let joined = system.join(&broadcast.id).await;
    let viewer = Ffmpeg::decode(joined["urls"]["rtmp"].as_str().unwrap(), 8);

    let (success, errors) = Ffmpeg::publish(clip, &broadcast.publish_url).finish().await;
    assert!(!success, "{errors}");

    let (success, errors) = viewer.finish().await;
    assert!(success && errors.is_empty(), "{errors}");
    assert_eq!(system.show(&broadcast.id).await["state"], "live");
}
