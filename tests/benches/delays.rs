//! Three delays, printed and never asserted: how long a frame takes to each of
//! 100 push viewers, how long a chunk takes to an edge that is polled every
//! 0.1 s (the paper, section 5: 0.3 s), and how long 1,000 viewers wait who ask
//! at once for a list that has just expired. Run it with `scripts/bench`.
//!
//! Publisher, viewers and poller are in this process, so one clock times both
//! ends; the services are the real binary, built for release, on loopback.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use spyglass_media::Track;
use spyglass_rtmp::{Intent, Message};
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip};
use spyglass_tests::herd::Herd;
use spyglass_tests::hls::List;
use spyglass_tests::rtmp::{Peer, tags};
use spyglass_tests::system::System;

const VIEWERS: usize = 100;
const SECONDS: u64 = 40;

/// When each message was handed to the publisher's socket.
type Sent = Arc<Mutex<HashMap<(Track, u32), Instant>>>;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let system = System::up(&["--edges", "1"]).await;
    let broadcast = system.create(json!({"title": "bench"})).await;
    let sent = Sent::default();
    let publisher = Peer::connect(&broadcast.publish_url, Intent::Publish).await;
    let publishing = tokio::spawn(publish(publisher, Arc::clone(&sent)));
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;

    let mut viewers = Vec::new();
    for _ in 0..VIEWERS {
        let joined = system.join(&broadcast.id).await;
        let url = joined["urls"]["rtmp"].as_str().unwrap().to_owned();
        let viewer = Peer::connect(&url, Intent::Play).await;
        viewers.push(tokio::spawn(watch(viewer, Arc::clone(&sent))));
    }
    let chunks = tokio::spawn(poll(system.edge(0), broadcast.id.clone(), Arc::clone(&sent)));

    let mut video = Vec::new();
    let mut audio = Vec::new();
    for viewer in viewers {
        for (track, delay) in viewer.await.unwrap() {
            if track == Track::Video { video.push(delay) } else { audio.push(delay) }
        }
    }
    let chunks = chunks.await.unwrap();
    let (mut cold, mut warm) = herd(&system, &broadcast.id).await;
    publishing.abort();
    println!("release build, loopback, 25 frames/s + AAC, {SECONDS} s, {VIEWERS} push viewers");
    print("frame in at the origin to frame out, video", &mut video);
    print("frame in at the origin to frame out, audio (rides with video)", &mut audio);
    print(
        "chunk ready at the origin to chunk served by an edge polled every 0.1 s",
        &mut chunks.clone(),
    );
    print("1,000 polls at once, list just expired (fetch included)", &mut cold);
    print("1,000 polls at once, list fresh", &mut warm);
}

async fn publish(mut publisher: Peer, sent: Sent) {
    let tags = tags(ffmpeg::clip(Clip::Both));
    let begun = tokio::time::Instant::now();
    for (track, time, body) in tags {
        tokio::time::sleep_until(begun + Duration::from_millis(time.into())).await;
        // Codec headers share their time stamp with the first frame.
        sent.lock().unwrap().insert((track, time), Instant::now());
        publisher.send(track, time, &body).await;
    }
}

/// Delays of the frames that were sent after this viewer was there.
async fn watch(mut viewer: Peer, sent: Sent) -> Vec<(Track, Duration)> {
    let joined = Instant::now();
    let until = joined + Duration::from_secs(SECONDS - 5);
    let mut delays = Vec::new();
    let mut offset = None;
    while let Some(Message { track, timestamp, .. }) = viewer.media().await {
        let now = Instant::now();
        if now > until {
            break;
        }
        // The origin's media time begins one second in.
        let offset = *offset.get_or_insert(1_000);
        let Some(time) = timestamp.checked_sub(offset) else { continue };
        if let Some(&at) = sent.lock().unwrap().get(&(track, time))
            && at > joined
        {
            delays.push((track, now - at));
        }
    }
    delays
}

/// From the key frame that closes a chunk, sent, to the chunk's last byte, here.
async fn poll(edge: String, id: String, sent: Sent) -> Vec<Duration> {
    let client = spyglass_tests::http::Client::default();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let until = Instant::now() + Duration::from_secs(SECONDS - 5);
    let mut delays = Vec::new();
    let mut seen = None;
    let mut media = 0.0f64;
    while Instant::now() < until {
        ticks.tick().await;
        let list = client.get(&format!("{edge}/live/{id}/chunklist.m3u8")).await.expect(200).text();
        let list = List::parse(&list);
        for chunk in list.chunks().into_iter().filter(move |chunk| Some(chunk.sequence) > seen) {
            client.get(&format!("{edge}/live/{id}/{}", chunk.uri)).await.expect(200);
            let now = Instant::now();
            media += f64::from(chunk.duration);
            // All chunks from the first on are listed, so their sum is the
            // time stamp of the key frame that closed this one.
            let closing = (media * 1000.0).round() as u32;
            let sent = sent.lock().unwrap();
            let nearest = sent.iter().filter(|((track, _), _)| *track == Track::Video);
            let nearest = nearest.min_by_key(|((_, time), _)| time.abs_diff(closing));
            if let Some(((_, time), at)) = nearest
                && time.abs_diff(closing) <= 20
                && seen.is_some()
            {
                delays.push(now - *at);
            }
            seen = Some(chunk.sequence);
        }
    }
    delays
}

/// A thousand polls right after an expire, and again while the list is fresh.
async fn herd(system: &System, id: &str) -> (Vec<Duration>, Vec<Duration>) {
    let herd = Herd::new(1_000);
    let (origin, url) =
        (system.origin_http(), format!("{}/live/{id}/chunklist.m3u8", system.edge(0)));
    let series = "spyglass_origin_chunks_total";
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    // The first round opens the connections.
    herd.ask(&url).await;
    for _ in 0..3 {
        let made = system.metric(&origin, series).await;
        eventually("another chunk", Duration::from_secs(10), || async {
            (system.metric(&origin, series).await > made).then_some(())
        })
        .await;
        cold.extend(herd.ask(&url).await.into_iter().map(|(_, delay)| delay));
        warm.extend(herd.ask(&url).await.into_iter().map(|(_, delay)| delay));
    }
    (cold, warm)
}

fn print(what: &str, delays: &mut [Duration]) {
    delays.sort();
    if delays.is_empty() {
        println!("{what}: nothing measured");
        return;
    }
    let at =
        |share: f64| delays[((delays.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!(
        "{what}: p50 {:.1} ms, p99 {:.1} ms, worst {:.1} ms ({} samples)",
        at(0.5),
        at(0.99),
        at(1.0),
        delays.len()
    );
}
