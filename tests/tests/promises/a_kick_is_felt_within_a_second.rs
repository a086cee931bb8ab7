//! A kicked viewer gets its last byte within a second, on either tier; nobody
//! else notices; and its token stays refused by nodes that start again without
//! control.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use spyglass_media::Track;
use spyglass_rtmp::Intent;
use spyglass_testkit::stopwatch::Stopwatch;
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::http::Client;
use spyglass_tests::rtmp::Peer;
use spyglass_tests::system::System;
use tokio::task::JoinHandle;

/// Frames of the test's video are 40 ms apart.
const FRAME_MS: u32 = 40;

/// The video frames a push viewer got: time stamp, and when.
type Frames = Vec<(u32, Instant)>;

fn push(url: &str, stop: &Arc<AtomicBool>) -> JoinHandle<Frames> {
    let (url, stop) = (url.to_owned(), Arc::clone(stop));
    tokio::spawn(async move {
        let mut peer = Peer::connect(&url, Intent::Play).await;
        let mut frames = Frames::new();
        while let Some(message) = peer.media().await {
            if message.track == Track::Video {
                frames.push((message.timestamp, Instant::now()));
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        frames
    })
}

/// An HLS viewer who asks ten times a second: status, and when it was there.
fn poll(url: &str, stop: &Arc<AtomicBool>) -> JoinHandle<Vec<(u16, Instant)>> {
    let (url, stop) = (url.replace("index.m3u8", "chunklist.m3u8"), Arc::clone(stop));
    tokio::spawn(async move {
        let client = Client::default();
        let mut answers = Vec::new();
        let mut every = tokio::time::interval(Duration::from_millis(100));
        while !stop.load(Ordering::Relaxed) {
            every.tick().await;
            answers.push((client.get(&url).await.status.as_u16(), Instant::now()));
        }
        answers
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kick_is_felt_within_a_second() {
    let mut system = System::apart(1, &["--push-viewers", "2", "--chunk-seconds", "1"]).await;
    let broadcast = system.create(json!({"title": "kick"})).await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let mut joined = Vec::new();
    for tier in ["push", "push", "hls", "hls"] {
        let viewer = system.join(&broadcast.id).await;
        assert_eq!(viewer["tier"], tier);
        joined.push(viewer);
    }
    let url = |viewer: &Value, kind: &str| viewer["urls"][kind].as_str().unwrap().to_owned();
    let (rtmp, hls): (Vec<_>, Vec<_>) = (
        joined[..2].iter().map(|it| url(it, "rtmp")).collect(),
        joined[2..].iter().map(|it| url(it, "hls")).collect(),
    );
    let stop = Arc::new(AtomicBool::new(false));
    let pushed: Vec<_> = rtmp.iter().map(|url| push(url, &stop)).collect();
    let polled: Vec<_> = hls.iter().map(|url| poll(url, &stop)).collect();
    eventually("all four are counted", Duration::from_secs(10), || async {
        let viewers = &system.show(&broadcast.id).await["viewers"];
        (viewers["push"] == 2 && viewers["hls"] == 2).then_some(())
    })
    .await;
    // Blocks until there is a first chunk.
    system.client.get(&hls[1]).await.expect(200);
    tokio::time::sleep(Duration::from_secs(1)).await;

    let watch = Stopwatch::start();
    let mut kicked = Vec::new();
    for viewer in [&joined[0], &joined[2]] {
        let name = viewer["viewer"].as_str().unwrap();
        let path = format!("/v1/broadcasts/{}/viewers/{name}/kick", broadcast.id);
        system.operator(Method::POST, &path, Value::Null).await.expect(200);
        kicked.push(Instant::now());
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop.store(true, Ordering::Relaxed);
    // A second of a machine that runs.
    let second = Duration::from_secs(1) + watch.stood_still();

    let mut frames = Vec::new();
    for task in pushed {
        frames.push(task.await.unwrap());
    }
    let last = frames[0].last().unwrap().1;
    assert!(last < kicked[0] + second, "{:?} after the kick", last - kicked[0]);
    let last = frames[1].last().unwrap().1;
    assert!(last > kicked[1] + Duration::from_secs(1), "the other push viewer was cut too");
    let whole = frames[1].windows(2).all(|pair| pair[1].0 - pair[0].0 <= FRAME_MS + 1);
    assert!(whole, "the other push viewer missed a frame: {:?}", frames[1]);

    let mut answers = Vec::new();
    for task in polled {
        answers.push(task.await.unwrap());
    }
    let good = answers[0].iter().rev().find(|(status, _)| *status == 200).unwrap().1;
    assert!(good < kicked[1] + second, "{:?} after the kick", good - kicked[1]);
    assert_eq!(answers[0].last().unwrap().0, 403);
    assert!(answers[1].iter().all(|(status, _)| *status == 200), "{:?}", answers[1]);

    // A kick outlives the process that was told of it.
    system.control.kill();
    system.edges[0].kill();
    system.origin.as_mut().unwrap().kill();
    system.restart_origin().await;
    system.restart_edge(0).await;
    eventually("the edge knows the broadcast again", Duration::from_secs(10), || async {
        (system.client.try_get(&hls[1]).await.ok()?.status == 200).then_some(())
    })
    .await;
    assert_eq!(system.client.get(&hls[0]).await.status, 403);
    let refused = Peer::try_connect(&rtmp[0], Intent::Play).await.err().unwrap();
    assert_eq!(refused, "NetStream.Play.Denied");
    assert!(Peer::try_connect(&rtmp[1], Intent::Play).await.is_ok());
}
