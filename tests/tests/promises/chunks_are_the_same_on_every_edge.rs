//! The same sequence names the same bytes on every edge, and an ETag tells so.

use std::time::Duration;

use serde_json::json;
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::hls::List;
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn chunks_are_the_same_on_every_edge() {
    let system = System::up(&["--edges", "3", "--chunk-seconds", "1"]).await;
    let broadcast = system.create(json!({"title": "three edges"})).await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    let path =
        |edge: usize, name: &str| format!("{}/live/{}/{name}", system.edge(edge), broadcast.id);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let list = eventually("three chunks", Duration::from_secs(20), || async {
        let list =
            List::parse(&system.client.get(&path(0, "chunklist.m3u8")).await.expect(200).text());
        (list.chunks().len() >= 3).then_some(list)
    })
    .await;
    let init = list.playlist.segments[0].map.as_ref().unwrap().uri.clone();
    let mut names: Vec<String> = list.chunks().into_iter().map(|chunk| chunk.uri).collect();
    names.push(init);
    for name in names {
        let first = system.client.get(&path(0, &name)).await.expect(200);
        assert!(first.header("cache-control").contains("immutable"));
        for edge in 1..3 {
            let other = system.client.get(&path(edge, &name)).await.expect(200);
            assert_eq!(other.body, first.body, "{name}");
            assert_eq!(other.header("etag"), first.header("etag"));
        }
        let tag = first.header("etag").to_owned();
        let again = system.client.get_with(&path(1, &name), &[("if-none-match", &tag)]).await;
        assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
        let range = system.client.get_with(&path(2, &name), &[("range", "bytes=4-9")]).await;
        assert_eq!((range.status.as_u16(), &range.body[..]), (206, &first.body[4..10]));
    }
    let index = system.client.get(&path(1, "index.m3u8")).await.expect(200).text();
    assert!(
        index.contains("\nchunklist.m3u8"),
        "relative, so that a token in the path stays: {index}"
    );
}
