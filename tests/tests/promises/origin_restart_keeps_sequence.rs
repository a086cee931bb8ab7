//! An origin that is killed comes back with its list, its chunks and its
//! sequence; viewers see the chunks they had, GAPs, and then the new ones.

use std::time::Duration;

use serde_json::json;
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::hls::List;
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn origin_restart_keeps_sequence() {
    let mut system = System::apart(2, &["--chunk-seconds", "1"]).await;
    let broadcast = system.create(json!({"title": "survivor"})).await;
    let clip = ffmpeg::clip(Clip::Both);
    let encoder = Ffmpeg::publish(clip, &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let (warm, cold) = (system.edge(0), system.edge(1));
    let client = system.client.clone();
    let poll = |edge: String| {
        let (client, url) =
            (client.clone(), format!("{edge}/live/{}/chunklist.m3u8", broadcast.id));
        async move { List::parse(&client.get(&url).await.expect(200).text()) }
    };
    let before = eventually("three chunks", Duration::from_secs(15), || async {
        let list = poll(warm.clone()).await;
        (list.chunks().len() >= 3).then_some(list)
    })
    .await;

    system.origin.as_mut().unwrap().kill();
    drop(encoder);
    // While it is away, what the edge has is still served.
    let during = poll(warm.clone()).await;
    assert!(during.last() >= before.last());

    system.restart_origin().await;
    system.wait_for_state(&broadcast.id, "interrupted", Duration::from_secs(15)).await;
    // An edge that never saw this broadcast gets the list and chunks from the journal.
    let restored = poll(cold.clone()).await;
    for old in before.chunks() {
        if let Some(new) = restored.chunks().iter().find(|new| new.sequence == old.sequence) {
            assert_eq!(new.uri, old.uri);
        }
    }
    let kept = before.chunks().last().unwrap().uri.clone();
    let chunk = |edge: &str| format!("{edge}/live/{}/{kept}", broadcast.id);
    let from_journal = client.get(&chunk(&cold)).await.expect(200);
    assert_eq!(from_journal.body, client.get(&chunk(&warm)).await.expect(200).body);

    let _encoder = Ffmpeg::publish(clip, &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let after = eventually("new chunks", Duration::from_secs(15), || async {
        let list = poll(warm.clone()).await;
        let fresh =
            list.chunks().into_iter().filter(|chunk| chunk.sequence > during.last() && !chunk.gap);
        (fresh.count() >= 2).then_some(list)
    })
    .await;
    for old in during.chunks() {
        if let Some(new) = after.chunks().iter().find(|new| new.sequence == old.sequence) {
            assert_eq!(new.uri, old.uri, "a number names other bytes after the restart");
        }
    }
    let url = format!("{cold}/live/{}/index.m3u8", broadcast.id);
    let (success, errors) = Ffmpeg::decode(&url, 4).finish().await;
    assert!(success, "{errors}");
}
