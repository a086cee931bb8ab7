//! A window long enough that a list need not be told whole each time: players
//! are offered delta updates, and those are right on every edge.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use spyglass_tests::eventually;
use spyglass_tests::system::{System, binary};

#[tokio::test(flavor = "multi_thread")]
async fn a_long_window_is_told_in_deltas() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("up.toml");
    std::fs::write(&config, "[control]\nchunk_seconds = 1\n[origin]\nwindow_chunks = 40\n")
        .unwrap();
    let system = System::up(&["--demo", "--config", config.to_str().unwrap()]).await;
    let id = eventually("a live broadcast", Duration::from_secs(20), || async {
        let answer = system.anyone(Method::GET, "/v1/broadcasts?sample=50", Value::Null).await;
        let broadcasts = answer.expect(200).json()["broadcasts"].clone();
        broadcasts[0]["id"].as_str().map(str::to_owned)
    })
    .await;
    let list = |edge| format!("{}/live/{id}/chunklist.m3u8", system.edge(edge));
    let whole = eventually("CAN-SKIP-UNTIL", Duration::from_secs(40), || async {
        let text = system.client.get(&list(0)).await.text();
        text.contains("CAN-SKIP-UNTIL=").then_some(text)
    })
    .await;
    let answer = system.client.get(&format!("{}?_HLS_skip=YES", list(0))).await.expect(200);
    let delta = answer.text();
    assert!(delta.contains("#EXT-X-SKIP:SKIPPED-SEGMENTS="), "{delta}");
    assert!(delta.contains("#EXT-X-VERSION:9"), "{delta}");
    let chunks = |text: &str| text.matches("#EXTINF").count();
    assert!(chunks(&delta) < chunks(&whole), "{delta}");

    // The validator asks each edge for deltas and holds them against the whole.
    let mut command = tokio::process::Command::new(binary());
    command.args(["lab", "validate", &list(0), "--json", "--for", "18", "--edges", &list(1)]);
    let output = command.kill_on_drop(true).output().await.unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["faults"], json!({}), "{}", report["findings"]);
}
