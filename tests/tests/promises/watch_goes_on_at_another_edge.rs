//! `spyglass watch` follows content steering: whoever watches on an edge that
//! drains, or is killed, goes on from the other one and misses nothing.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::system::{System, binary};

struct Watch(Child);

impl Watch {
    /// Chunks, not parts, and enough of them in hand for a moment without an edge.
    fn start(system: &System, id: &str) -> Self {
        let child = Command::new(binary())
            .args(["watch", id, "--tier", "hls", "--buffer", "6", "--json", "--for", "90"])
            .args(["--control", &system.control_url("")])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    async fn finish(mut self) -> Value {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
        eventually("watch ends", Duration::from_secs(15), || {
            let ended = self.0.try_wait().unwrap();
            async move { ended }
        })
        .await;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.0.stdout.take().unwrap(), &mut text).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("no report: {text}"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// Chunks that an edge has given.
async fn given(system: &System, edge: usize) -> f64 {
    let text = system.client.get(&format!("{}/metrics", system.edge(edge))).await.text();
    let chunks = text.lines().filter(|line| {
        line.starts_with("spyglass_edge_requests_total{") && line.contains("resource=\"chunk\"")
    });
    chunks.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Watches on one of two edges until `leave` has done something to it and five
/// chunks came from the other; what watch says then.
async fn moves(leave: impl AsyncFnOnce(&mut System, usize)) -> Value {
    let mut system = System::apart(2, &["--chunk-seconds", "1"]).await;
    let broadcast = system.create(json!({"title": "on the move"})).await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let watch = Watch::start(&system, &broadcast.id);
    let first = eventually("chunks come from an edge", Duration::from_secs(30), || async {
        let both = [given(&system, 0).await, given(&system, 1).await];
        both.iter().position(|count| *count >= 8.0)
    })
    .await;
    let other = 1 - first;
    assert!(given(&system, other).await < 1.0, "nobody moves for no reason");
    leave(&mut system, first).await;
    eventually("chunks come from the other edge", Duration::from_secs(40), || async {
        (given(&system, other).await >= 5.0).then_some(())
    })
    .await;
    let report = watch.finish().await;
    assert_eq!(report["edge"], system.edge(other), "{report}");
    for lost in ["missed", "gaps", "late", "skipped", "stalls"] {
        assert_eq!(report[lost], 0, "{lost}: {report}");
    }
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_leaves_an_edge_that_drains() {
    let drain = async |system: &mut System, edge: usize| {
        let name = format!("edge-{}", edge + 1);
        let url = system.control_url("");
        let key = system.ready["operator_key"].as_str().unwrap().to_owned();
        let drained = Command::new(binary())
            .args(["ctl", "drain", &name, "--control", &url])
            .env("SPYGLASS_OPERATOR_KEY", key)
            .output()
            .unwrap();
        assert!(drained.status.success(), "{drained:?}");
    };
    moves(drain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_leaves_an_edge_that_is_killed() {
    moves(async |system: &mut System, edge: usize| system.edges[edge].kill()).await;
}
