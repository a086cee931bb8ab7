//! The store of two controls is killed: pictures go on over RTMP and HLS, and
//! both say why they are not ready. It comes back, first with its files and
//! then without: within ten seconds all is right again.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use spyglass_testkit::stopwatch::Stopwatch;
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::several::Several;

/// What is promised for everything to be right again.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn broadcasts_outlive_the_store() {
    let mut system = Several::start(&["--chunk-seconds", "1"]).await;
    let broadcast = system.create(0, "goes on").await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for(&broadcast.id, "/state", &json!("live"), SOON).await;
    let joined = system.join(1, &broadcast.id).await.unwrap().expect(200).json();
    let url = |tier: &str| joined["urls"][tier].as_str().unwrap().to_owned();
    let (push, poll) = (Ffmpeg::decode(&url("rtmp"), 45), Ffmpeg::decode(&url("hls"), 45));
    system.wait_for(&broadcast.id, "/viewers/push", &json!(1), SOON).await;
    let list = url("hls").replace("index.m3u8", "chunklist.m3u8");

    for empty in [false, true] {
        system.nats.kill();
        let reasons = system.wait_for_readiness(503, SOON).await;
        assert!(reasons.iter().all(|reason| reason.contains("store")), "{reasons:?}");
        // Nothing new is kept; who comes to watch has a place all the same.
        let body = json!({"title": "not now"});
        let refused = system.operator(0, Method::POST, "/v1/broadcasts", body).await.expect(503);
        assert!(refused.header("retry-after").parse::<u32>().is_ok());
        for n in 0..2 {
            let late = system.join(n, &broadcast.id).await.unwrap().expect(200).json();
            assert_eq!((&late["tier"], &late["seat"]), (&json!("hls"), &Value::Null));
        }
        let before = system.client.get(&list).await.expect(200);
        eventually("the list goes on without the store", SOON, || async {
            (system.client.get(&list).await.expect(200).body != before.body).then_some(())
        })
        .await;

        match empty {
            true => system.nats.restart_empty(),
            false => system.nats.restart(),
        }
        let back = Stopwatch::start();
        system.wait_for_readiness(200, SOON).await;
        let other = system.create(1, "made after").await;
        assert_eq!(system.show(0, &other.id).await["title"], "made after");
        for (n, id) in [(0, &other.id), (1, &broadcast.id)] {
            let seated = eventually("who joins has a seat", SOON, || async {
                let joined = system.join(n, id).await.ok()?.json();
                joined["seat"].as_u64()
            });
            assert!(seated.await >= 1);
        }
        system.wait_for(&broadcast.id, "/state", &json!("live"), SOON).await;
        system.wait_for(&broadcast.id, "/viewers/push", &json!(1), SOON).await;
        system.wait_for(&broadcast.id, "/title", &json!("goes on"), SOON).await;
        assert!(back.elapsed() < SOON, "right again only after {:?}", back.elapsed());
    }
    let (success, errors) = poll.finish().await;
    assert!(success, "{errors}");
    let (success, errors) = push.finish().await;
    assert!(success, "{errors}");
}
