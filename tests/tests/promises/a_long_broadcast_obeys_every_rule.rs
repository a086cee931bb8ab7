//! A broadcast with everything that goes wrong in one: key frames at uneven
//! distances, frames that come unevenly, silences of 8 s, broken connections,
//! another codec configuration, the end. What the edges say of it obeys every
//! rule of HLS at every moment; ffmpeg and hls.js play it to the end.
//!
//! `SPYGLASS_SOAK_SECONDS=600` makes it longer (`just soak`).

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use spyglass_testkit::stopwatch::Stopwatch;
use spyglass_tests::browser::Page;
use spyglass_tests::ffmpeg::{self, Ffmpeg};
use spyglass_tests::script::{Reel, Script};
use spyglass_tests::system::{System, binary};

/// The silence of the promise.
const STALL: Duration = Duration::from_secs(8);

/// One round of the script, without the silence and the time away.
const ROUND: f64 = 38.0;

fn length() -> Duration {
    let seconds = std::env::var("SPYGLASS_SOAK_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|text| text.parse().ok()).unwrap_or(60))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_broadcast_obeys_every_rule() {
    // One of the three is the gateway that the two others fetch through.
    let system = System::apart_with(3, &[], Some("upstream = \"auto\"\n")).await;
    let broadcast = system.create(json!({"title": "Nothing goes well"})).await;
    let [small, large] = ffmpeg::uneven_clips(system.dir()).map(|file| Reel::read(&file));
    let length = length();
    let script = tokio::spawn(perform(broadcast.publish_url.clone(), [small, large], length));
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;

    let lists: Vec<String> = (0..system.edge_count())
        .map(|edge| format!("{}/live/{}/chunklist.m3u8", system.edge(edge), broadcast.id))
        .collect();
    let watch = Stopwatch::start();
    let validator = validate(&lists, length + Duration::from_secs(60));
    let index = format!("{}/live/{}/index.m3u8", system.edge(0), broadcast.id);
    let ffmpeg = Ffmpeg::decode_to_the_end(&index);
    let mut page = Page::open(&system.control_url(&format!("/watch/{}", broadcast.id))).await;
    page.wait_for("document.querySelector('video').currentTime > 1", Duration::from_secs(20)).await;
    page.eval(WATCHED).await;

    let epochs = script.await.unwrap();
    let path = format!("/v1/broadcasts/{}/end", broadcast.id);
    system.operator(Method::POST, &path, Value::Null).await.expect(200);

    let mut fetched = 0.0;
    for edge in 0..system.edge_count() {
        fetched += system.metric(&system.edge(edge), "spyglass_edge_fetches_total{").await;
    }
    let asked = system.metric(&system.origin_http(), "spyglass_origin_requests_total{").await;
    println!("{fetched} fetches by the edges, {asked} of them reached the origin");
    assert!(asked < fetched * 0.6, "two of three go through the gateway: {asked} of {fetched}");

    let report = validator.await.unwrap();
    println!("{}", serde_json::to_string_pretty(&without_findings(&report)).unwrap());
    for finding in report["findings"].as_array().unwrap() {
        println!("{finding}");
    }
    let mut faults = report["faults"].clone();
    // In a silence the GAP comes 0.6 s before a segment is overdue.
    if watch.stood_still() > Duration::from_millis(400) {
        faults.as_object_mut().unwrap().remove("P4");
    }
    assert_eq!(faults, json!({}), "no rule is broken");
    assert_eq!(report["ended"], true);
    assert!(report["parts"].as_u64() > Some(length.as_secs() * 5), "parts were looked at");

    let seen = page_saw(&mut page, &epochs).await;
    println!("hls.js: {seen}");
    assert_eq!(seen["epochs"], json!(epochs), "hls.js played every epoch: {seen}");
    let fatal = |error: &&Value| error["fatal"] == true;
    assert_eq!(seen["errors"].as_array().unwrap().iter().find(fatal), None, "hls.js played on");

    let (success, errors) = ffmpeg.finish().await;
    assert!(success && errors.is_empty(), "ffmpeg: {errors}");
}

/// What the page keeps of what it has shown.
const WATCHED: &str = r"
    window.seen = { epochs: [], errors: [] };
    spyglass.hls.on(Hls.Events.FRAG_CHANGED, (_, { frag }) => {
        // The discontinuities before it, in all.
        if (seen.epochs.at(-1) !== frag.cc + 1) seen.epochs.push(frag.cc + 1);
    });
    spyglass.hls.on(Hls.Events.ERROR, (_, { details, fatal, error }) => {
        const at = document.querySelector('video').currentTime;
        seen.errors.push({ at, details, fatal, why: error?.message.slice(0, 200) });
    });
    true";

/// Waits until the last epoch is shown, not for ever; what was seen.
async fn page_saw(page: &mut Page, epochs: &[u32]) -> Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let seen = page
            .eval(
                r"(() => {
                    const video = document.querySelector('video');
                    const ranges = Array.from({ length: video.buffered.length },
                        (_, i) => [video.buffered.start(i), video.buffered.end(i)]);
                    return { ...seen, time: video.currentTime, ranges, ended: video.ended };
                })()",
            )
            .await;
        let last = seen["epochs"].as_array().and_then(|shown| shown.last()?.as_u64());
        if last == epochs.last().copied().map(u64::from) || Instant::now() > deadline {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The script; what it returns is the epochs that it opened.
async fn perform(url: String, reels: [Reel; 2], length: Duration) -> Vec<u32> {
    let [mut small, mut large] = reels;
    let began = Instant::now();
    let rounds = (length.as_secs_f64() / (ROUND + 15.0)).floor().max(1.0) as u32;
    let share = |share: f64| {
        let spare = (length.as_secs_f64() / f64::from(rounds) - 15.0).max(ROUND) / ROUND;
        Duration::from_secs_f64(share * spare)
    };
    let mut script = Script::connect(&url).await;
    let mut epochs = vec![];
    for round in 0..rounds {
        script.play(&mut small, share(12.0)).await;
        script.stall(STALL).await;
        script.play(&mut small, share(8.0)).await;
        script.reconnect(Duration::from_secs(2)).await;
        script.play(&mut small, share(8.0)).await;
        // Another size and frame rate on the same connection.
        script.play(&mut large, share(6.0)).await;
        script.reconnect(Duration::from_secs(5)).await;
        script.play(&mut large, share(4.0)).await;
        // The next round begins with the small one again, which is one more.
        epochs.extend(1 + round * 4..=4 + round * 4);
    }
    println!("{rounds} rounds in {:.0} s", began.elapsed().as_secs_f64());
    epochs
}

fn without_findings(report: &Value) -> Value {
    let mut report = report.clone();
    report.as_object_mut().unwrap().remove("findings");
    report
}

/// `spyglass lab validate` on all of them in turn; its report.
fn validate(lists: &[String], most: Duration) -> tokio::task::JoinHandle<Value> {
    let mut command = tokio::process::Command::new(binary());
    command.args(["lab", "validate", &lists[0], "--json", "--for"]);
    command.arg(most.as_secs().to_string()).arg("--edges").args(&lists[1..]);
    command.kill_on_drop(true);
    tokio::spawn(async move {
        let output = command.output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str(&text)
            .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
    })
}
