//! With every expire notice dropped, viewers still get new lists: later, and
//! never a wrong one.

use std::time::Duration;

use serde_json::json;
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::hls::List;
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn notices_are_hints() {
    let system = System::up(&["--edges", "1", "--chunk-seconds", "1", "--ignore-notices"]).await;
    let broadcast = system.create(json!({"title": "deaf"})).await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let url = format!("{}/live/{}/chunklist.m3u8", system.edge(0), broadcast.id);
    let mut last = List::parse(&system.client.get(&url).await.expect(200).text()).last();
    for _ in 0..3 {
        // Target duration is 2 s here: a copy lives 3 s at most.
        let next = eventually("a newer list", Duration::from_secs(10), || async {
            let list = List::parse(&system.client.get(&url).await.expect(200).text());
            assert!(list.last() >= last, "time went backwards");
            (list.last() > last).then_some(list.last())
        })
        .await;
        last = next;
    }
}
