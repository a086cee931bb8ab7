//! Where the delay comes from is known all the time: each stage is measured by
//! whoever sees it, and together they are what a viewer sees from end to end.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;
use spyglass_tests::eventually;
use spyglass_tests::system::{System, binary};
use tokio::process::{Child, Command};

/// How far the sum of the stages' medians may be from the median of the whole:
/// a bucket's width, and that medians do not add up exactly.
const SHARE: f64 = 0.15;
const SECONDS: f64 = 0.4;

fn watch(system: &System, id: &str, tier: &str, place: &str) -> Child {
    Command::new(binary())
        .args(["watch", id, "--tier", tier, "--location", place, "--for", "50", "--json"])
        .args(["--control", system.control_url("").trim_end_matches('/')])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary runs")
}

/// The median of what this viewer measured from end to end, in seconds.
async fn median(viewer: Child) -> f64 {
    let output = viewer.wait_with_output().await.unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    report["delay"]["total"]["p50_ms"].as_f64().expect("a total") / 1000.0
}

fn p50(told: &Value) -> f64 {
    told["p50"].as_f64().unwrap_or_else(|| panic!("{told}"))
}

fn agree(what: &str, sum: f64, whole: f64) {
    println!("{what}: the stages add up to {sum:.3} s, the whole is {whole:.3} s");
    assert!((sum - whole).abs() <= whole * SHARE + SECONDS, "{what}: {sum} is not {whole}");
}

#[tokio::test(flavor = "multi_thread")]
async fn delay_is_known_by_stage() {
    // The demo is `spyglass publish`: its key frames say when they were captured.
    let places = ["--edge-location", "edge-1=52.4,4.9", "--edge-location", "edge-2=40.7,-74.0"];
    let args = [&["--edges", "2", "--demo"][..], &places[..]].concat();
    let system = System::up(&args).await;
    let id = eventually("a live broadcast", Duration::from_secs(20), || async {
        let answer = system.anyone(Method::GET, "/v1/broadcasts?sample=50", Value::Null).await;
        let broadcasts = answer.expect(200).json()["broadcasts"].clone();
        broadcasts[0]["id"].as_str().map(str::to_owned)
    })
    .await;
    let path = format!("/v1/broadcasts/{id}/delay");
    let before = system.anyone(Method::GET, &path, Value::Null).await.expect(200).json();
    assert_eq!(before["hls"]["stages"]["transfer"], Value::Null, "nobody watches: {before}");

    let near = watch(&system, &id, "hls", "52.0,5.0");
    let far = watch(&system, &id, "hls", "41.0,-73.0");
    let push = watch(&system, &id, "push", "52.0,5.0");
    // As many as come in half a minute, most of a window without the beginning.
    let told = eventually("every stage is measured", Duration::from_secs(50), || async {
        let told = system.anyone(Method::GET, &path, Value::Null).await.expect(200).json();
        let enough = |tier: &str, least: u64| {
            let stages = told[tier]["stages"].as_object().unwrap().values();
            stages.chain([&told[tier]["total"]]).all(|it| it["count"].as_u64() >= Some(least))
        };
        (enough("hls", 12) && enough("push", 10)).then_some(told)
    })
    .await;
    println!("{told:#}");
    let stages = ["upload", "chunking", "transfer", "polling", "last_mile", "buffering"];
    let hls: f64 = stages.iter().map(|stage| p50(&told["hls"]["stages"][stage])).sum();
    agree("hls, as control says", hls, p50(&told["hls"]["total"]));
    let pushed = ["upload", "last_mile", "buffering"];
    let pushed: f64 = pushed.iter().map(|stage| p50(&told["push"]["stages"][stage])).sum();
    agree("push, as control says", pushed, p50(&told["push"]["total"]));

    for (at, stage) in [
        (system.origin_http(), "upload"),
        (system.origin_http(), "chunking"),
        (system.edge(0), "transfer"),
        (system.edge(0), "polling"),
        (system.edge(1), "transfer"),
        (system.edge(1), "polling"),
        (system.control_url("").trim_end_matches('/').to_owned(), "buffering"),
    ] {
        let series = format!("spyglass_delay_seconds_count{{stage=\"{stage}\",tier=\"hls\"}}");
        assert!(system.metric(&at, &series).await > 0.0, "{at}: {series}");
    }

    let (near, far, push) = tokio::join!(median(near), median(far), median(push));
    agree("hls, as a viewer near by says", hls, near);
    agree("hls, as a viewer elsewhere says", hls, far);
    agree("push, as a viewer says", pushed, push);
}
