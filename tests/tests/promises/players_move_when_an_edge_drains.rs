//! Chunks and sequence numbers are the same on every edge, and each edge tells
//! players where the others are: whoever watches on an edge that drains goes on
//! from another, and so does whoever watches on one that dies. hls.js plays, as
//! it comes.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use spyglass_testkit::stopwatch::Stopwatch;
use spyglass_tests::browser::Page;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::system::System;

/// Everything so far, once `until` holds.
async fn watch(page: &mut Page, until: &str, limit: Duration) -> Value {
    page.wait_for(&format!("(() => {{ {until} }})()"), limit).await;
    let state = "({...seen, time: document.querySelector('video').currentTime, \
                 ranges: document.querySelector('video').buffered.length})";
    let seen = page.eval(state).await;
    assert_eq!(seen["fatal"], Value::Null, "{seen}");
    seen
}

/// None of the chunks is missing, and there is no hole that was not there before.
fn assert_no_gap(seen: &Value, before: &Value) {
    let loads = seen["loads"].as_array().unwrap();
    let mut numbers: Vec<u64> = loads.iter().filter_map(|load| load["sn"].as_u64()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let (first, last) = (numbers[0], *numbers.last().unwrap());
    assert_eq!(numbers, Vec::from_iter(first..=last), "{seen}");
    assert_eq!(seen["ranges"], before["ranges"], "no new hole in the media: {seen}");
}

/// A low-latency player has less than a second in hand: it may stand still for a
/// moment while it moves, and goes on where it was.
fn report(what: &str, seen: &Value, watch: &Stopwatch) {
    let loads = seen["loads"].as_array().unwrap();
    let at = |load: &Value| load["at"].as_u64().unwrap();
    let moved = loads.windows(2).rfind(|two| two[0]["host"] != two[1]["host"]).unwrap();
    let (pause, still) = (at(&moved[1]) - at(&moved[0]), seen["longest"].as_f64().unwrap());
    println!("{what}: {pause} ms from the last part here to the first there, still for {still} ms");
    // The browser's machine may have stood still besides.
    let bound = 2_500.0 + watch.stood_still().as_millis() as f64;
    assert!(still < bound, "{what}: {seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn players_move_when_an_edge_drains() {
    let mut system = System::apart(3, &["--chunk-seconds", "1"]).await;
    let broadcast = system.create(json!({"title": "on the move"})).await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let host = |system: &System, edge: usize| {
        system.edge(edge).strip_prefix("http://").unwrap().to_owned()
    };
    let hosts: Vec<String> = (0..3).map(|edge| host(&system, edge)).collect();

    // A token in the path goes with the player.
    let token = system.join(&broadcast.id).await["token"].as_str().unwrap().to_owned();
    let url = format!("{}/v/{token}/{}/index.m3u8", system.edge(0), broadcast.id);
    let mut page = Page::play(&url, &[]).await;
    let playing =
        "return document.querySelector('video').currentTime > 4 && seen.steering.length > 0";
    let before = watch(&mut page, playing, Duration::from_secs(40)).await;
    let all_from = |seen: &Value, host: &str| {
        seen["loads"].as_array().unwrap().iter().all(|load| load["host"] == host)
    };
    assert!(all_from(&before, &hosts[0]), "nobody moves for no reason: {before}");
    assert_eq!(before["steering"][0]["order"].as_array().map(Vec::len), Some(3), "{before}");
    let watched = Stopwatch::start();
    page.eval("seen.loads.length = 0; seen.longest = 0; 0").await;

    // Drained: within a TTL of 10 s the player is elsewhere, and so are its questions.
    system.operator(Method::POST, "/v1/nodes/edge-1/drain", Value::Null).await.expect(202);
    let moved = format!(
        "const last = seen.loads.slice(-10);
         return last.length === 10 && last.every(load => load.host !== '{0}')
             && seen.steering.some(answer => answer.host !== '{0}');",
        hosts[0]
    );
    let seen = watch(&mut page, &moved, Duration::from_secs(40)).await;
    assert_no_gap(&seen, &before);
    let now = seen["loads"].as_array().unwrap().last().unwrap()["host"].clone();
    let now = hosts.iter().position(|host| now == *host).unwrap();
    report("drained", &seen, &watched);

    // Killed: the player finds out by itself, and there is one edge left.
    system.edges[now].kill();
    let left = 3 - now;
    let moved = format!(
        "const last = seen.loads.slice(-10);
         return last.length === 10 && last.every(load => load.host === '{}');",
        hosts[left]
    );
    let seen = watch(&mut page, &moved, Duration::from_secs(60)).await;
    assert_no_gap(&seen, &before);
    report("killed", &seen, &watched);
    let later = seen["time"].as_f64().unwrap() + 3.0;
    let goes_on = format!("return document.querySelector('video').currentTime > {later}");
    watch(&mut page, &goes_on, Duration::from_secs(20)).await;
}
