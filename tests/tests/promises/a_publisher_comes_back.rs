//! A publisher that is killed and comes back within ten seconds keeps its
//! viewers: the sequence goes on behind a discontinuity, no list breaks a
//! rule, and push viewers' time stamps go on increasing.

use std::time::Duration;

use serde_json::json;
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::hls::List;
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_comes_back() {
    let system = System::up(&["--edges", "1", "--chunk-seconds", "1"]).await;
    let broadcast = system.create(json!({"title": "shaky"})).await;
    let clip = ffmpeg::clip(Clip::Both);
    let mut encoder = Ffmpeg::publish(clip, &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let url = format!("{}/live/{}/chunklist.m3u8", system.edge(0), broadcast.id);
    let joined = system.join(&broadcast.id).await;
    let file = ffmpeg::file(system.dir(), "push.flv");
    let recorder = Ffmpeg::record(joined["urls"]["rtmp"].as_str().unwrap(), 10, &file);
    let poll = || async { List::parse(&system.client.get(&url).await.expect(200).text()) };
    eventually("two chunks", Duration::from_secs(15), || async {
        (poll().await.chunks().len() >= 2).then_some(())
    })
    .await;

    encoder.kill();
    system.wait_for_state(&broadcast.id, "interrupted", Duration::from_secs(5)).await;
    let before = poll().await;
    eventually("a GAP while the publisher is away", Duration::from_secs(6), || async {
        poll().await.chunks().iter().any(|chunk| chunk.gap).then_some(())
    })
    .await;

    let _encoder = Ffmpeg::publish(clip, &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let after = eventually("chunks behind a discontinuity", Duration::from_secs(10), || async {
        let list = poll().await;
        let chunks = list.chunks();
        let seam = chunks.iter().position(|chunk| chunk.discontinuity)?;
        (chunks[seam..].iter().filter(|chunk| !chunk.gap).count() >= 2).then_some(list)
    })
    .await;
    for old in before.chunks() {
        if let Some(new) = after.chunks().iter().find(|new| new.sequence == old.sequence) {
            assert_eq!(new.uri, old.uri, "the same sequence names the same bytes");
        }
    }
    let epochs: std::collections::BTreeSet<String> = after
        .chunks()
        .iter()
        .filter(|chunk| !chunk.gap)
        .map(|chunk| chunk.uri.split('-').next().unwrap().to_owned())
        .collect();
    assert!(!epochs.is_empty());

    let (success, errors) = recorder.finish().await;
    assert!(success, "{errors}");
    let mut last = [f64::MIN; 2];
    for packet in ffmpeg::packets(&file) {
        let fields: Vec<&str> = packet.split(',').collect();
        let track = usize::from(fields[0] == "audio");
        let Ok(dts) = fields[1].parse::<f64>() else { continue };
        assert!(dts >= last[track], "time went back: {packet} after {}", last[track]);
        last[track] = dts;
    }
    assert_eq!(ffmpeg::decode_errors(&file), "");
}
