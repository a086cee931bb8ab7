//! A wrong, expired, foreign or missing token publishes nothing and plays nothing.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn no_frame_before_the_token() {
    let system = System::up(&["--edges", "1", "--publish-token-seconds", "3600"]).await;
    let one = system.create(json!({"title": "one"})).await;
    let other = system.create(json!({"title": "other"})).await;
    let clip = ffmpeg::clip(Clip::Both);
    let base = format!("{}/{}", system.origin_rtmp(), one.id);
    let foreign = format!("{base}?token={}", other.publish_url.split("token=").nth(1).unwrap());
    let mut forged = one.publish_url.clone();
    let last = forged.pop().unwrap();
    forged.push(if last == 'A' { 'B' } else { 'A' });
    let long = format!("{base}?token={}", "a".repeat(4000));
    for url in [
        base.clone(),
        format!("{base}?token="),
        format!("{base}?token=x.y.z"),
        foreign,
        forged,
        long,
    ] {
        let (success, _) = Ffmpeg::publish(clip, &url).finish().await;
        assert!(!success, "published with {url}");
    }
    assert_eq!(system.show(&one.id).await["state"], "created");

    let _encoder = Ffmpeg::publish(clip, &one.publish_url);
    system.wait_for_state(&one.id, "live", Duration::from_secs(10)).await;
    let joined = system.join(&one.id).await;
    let token = joined["token"].as_str().unwrap();
    let publish_token = one.publish_url.split("token=").nth(1).unwrap();
    for url in [
        base.clone(),
        format!("{base}?token=x"),
        format!("{base}?token={publish_token}"),
        format!("{}/{}?token={token}", system.origin_rtmp(), other.id),
    ] {
        let (success, _) = Ffmpeg::decode(&url, 2).finish().await;
        assert!(!success, "played {url}");
    }

    // Over HLS: 403 under /v/ before any look-up, whatever stands behind it.
    let edge = system.edge(0);
    for (token, id) in [
        ("x", one.id.as_str()),
        (publish_token, &one.id),
        (token, &other.id),
        ("x", "0000000000000"),
    ] {
        system.client.get(&format!("{edge}/v/{token}/{id}/index.m3u8")).await.expect(403);
    }
    system.client.get(&format!("{edge}/v/{token}/{}/chunklist.m3u8", one.id)).await.expect(200);

    let log = system.control.log_text();
    assert!(!log.contains(token) && !log.contains(publish_token), "a token stands in the log");
    let metrics = system.client.get(&format!("{edge}/metrics")).await.text();
    assert!(!metrics.contains(token));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_when_it_says() {
    let system =
        System::up(&["--edges", "1", "--publish-token-seconds", "1", "--watch-token-seconds", "1"])
            .await;
    let broadcast = system.create(json!({"title": "short"})).await;
    let path = format!("/v1/broadcasts/{}/viewers", broadcast.id);
    let joined = system.operator(Method::POST, &path, json!({})).await.expect(200).json();
    let hls = joined["urls"]["hls"].as_str().unwrap().to_owned();
    spyglass_tests::eventually("the watch token expires", Duration::from_secs(10), || async {
        (system.client.get(&hls).await.status == 403).then_some(())
    })
    .await;
    let (success, _) =
        Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url).finish().await;
    assert!(!success, "published with an expired token");
    let _: Value = system.show(&broadcast.id).await;
}
