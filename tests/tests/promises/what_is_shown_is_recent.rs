//! From capture to the screen: a player that keeps exactly PART-HOLD-BACK behind
//! the end of the list, and hls.js in a browser, show what has just been filmed;
//! one that plays whole chunks shows it many seconds later. The numbers are
//! printed (`just bench-delay`), their ratio is the promise.
//!
//! The demo stamps its key frames with the moment of their capture. The list's
//! dates follow from these, and a picture's place in its chunk tells the rest.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;
use spyglass_tests::browser::Page;
use spyglass_tests::eventually;
use spyglass_tests::system::{System, binary};

/// How long each is watched once it plays.
const SECONDS: &str = "20";

/// Of each picture shown: how long ago it was captured, in milliseconds.
const SHOWN: &str = r"
    window.shown = [];
    (() => {
        const video = document.querySelector('video');
        const { hls } = window.spyglass;
        const look = (_, { mediaTime }) => {
            const details = hls.latestLevelDetails;
            const all = [...(details?.fragments ?? []), details?.fragmentHint];
            const frag = all.find((one) => one?.programDateTime
                && one.start <= mediaTime && mediaTime < one.start + Math.max(one.duration, 0.01));
            if (frag) shown.push(Date.now() - frag.programDateTime - (mediaTime - frag.start) * 1000);
            video.requestVideoFrameCallback(look);
        };
        video.requestVideoFrameCallback(look);
    })();
    true";

/// Half and 95 of 100, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Delay {
    p50: f64,
    p95: f64,
}

/// What `spyglass watch` says of capture to screen.
async fn watched(system: &System, id: &str, more: &[&str]) -> Delay {
    let mut command = tokio::process::Command::new(binary());
    command.args(["watch", id, "--tier", "hls", "--json", "--for", SECONDS, "--control"]);
    command.arg(system.control_url("")).args(more).kill_on_drop(true);
    let output = command.output().await.unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    assert!(report["chunks"].as_u64() > Some(3), "{report}");
    println!("{report}");
    let total = &report["delay"]["total"];
    Delay { p50: total["p50_ms"].as_f64().unwrap(), p95: total["p95_ms"].as_f64().unwrap() }
}

async fn shown_in_a_browser(system: &System, id: &str) -> Delay {
    let mut page = Page::open(&system.control_url(&format!("/watch/{id}"))).await;
    let playing = "document.querySelector('video').currentTime > 3";
    page.wait_for(playing, Duration::from_secs(40)).await;
    page.eval(SHOWN).await;
    page.wait_for("window.shown.length > 300", Duration::from_secs(60)).await;
    let shown = page.eval("window.shown").await;
    let state = "[spyglass.hls.latency, spyglass.hls.targetLatency, \
                 spyglass.errors.map(({ details }) => details)]";
    println!("hls.js, its own latency, its target, what it met: {}", page.eval(state).await);
    let mut shown: Vec<f64> = shown.as_array().unwrap().iter().filter_map(Value::as_f64).collect();
    shown.sort_by(f64::total_cmp);
    let at = |share: f64| shown[((shown.len() - 1) as f64 * share) as usize];
    Delay { p50: at(0.5), p95: at(0.95) }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_is_recent() {
    let system = System::up(&["--edges", "1", "--demo"]).await;
    let id = eventually("a live broadcast", Duration::from_secs(20), || async {
        let answer = system.anyone(Method::GET, "/v1/broadcasts?sample=50", Value::Null).await;
        let broadcasts = answer.expect(200).json()["broadcasts"].clone();
        broadcasts[0]["id"].as_str().map(str::to_owned)
    })
    .await;
    let (parts, chunks) =
        tokio::join!(watched(&system, &id, &[]), watched(&system, &id, &["--buffer", "9"]));
    let browser = shown_in_a_browser(&system, &id).await;
    for (who, delay) in [
        ("a player at PART-HOLD-BACK", parts),
        ("hls.js in Chromium, low latency", browser),
        ("a player of chunks, 9 s held", chunks),
    ] {
        println!("capture to shown, {who}: p50 {:.0} ms, p95 {:.0} ms", delay.p50, delay.p95);
    }
    assert!(parts.p50 * 4.0 < chunks.p50, "{parts:?} {chunks:?}");
    assert!(browser.p50 * 3.0 < chunks.p50, "{browser:?} {chunks:?}");
}
