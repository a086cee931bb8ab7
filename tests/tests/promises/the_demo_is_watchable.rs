//! `spyglass up --demo` ends up with a broadcast that plays on both tiers, and
//! SIGTERM ends it cleanly.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Ffmpeg};
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_is_watchable() {
    let mut system = System::up(&["--demo"]).await;
    let id = eventually("a live broadcast", Duration::from_secs(20), || async {
        let answer = system.anyone(Method::GET, "/v1/broadcasts?sample=50", Value::Null).await;
        let broadcasts = answer.expect(200).json()["broadcasts"].clone();
        broadcasts[0]["id"].as_str().map(str::to_owned)
    })
    .await;
    let joined = system.join(&id).await;
    for tier in ["rtmp", "hls"] {
        let url = joined["urls"][tier].as_str().unwrap();
        assert_eq!(ffmpeg::codecs(url).await, ["aac", "h264"], "{tier}");
        let (success, errors) = Ffmpeg::decode(url, 15).finish().await;
        assert!(success && errors.is_empty(), "{tier}: {errors}");
    }
    for page in ["/".to_owned(), format!("/watch/{id}")] {
        let answer = system.anyone(Method::GET, &page, Value::Null).await.expect(200);
        assert!(answer.header("content-type").starts_with("text/html"), "{page}");
    }
    let live = system.control_url(&format!("/live/{id}/index.m3u8"));
    let redirect = system.client.get(&live).await.expect(307);
    assert!(redirect.header("location").ends_with(&format!("/live/{id}/index.m3u8")));
    assert_eq!(system.control.terminate().await, Some(0));
}
