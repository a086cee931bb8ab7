//! SIGHUP changes how many are pushed to, while somebody is being pushed to.

use std::time::Duration;

use serde_json::json;
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::system::System;

/// Waits until control's log has `count` times `text`.
async fn logged(system: &System, text: &str, count: usize) {
    eventually(&format!("control says {text:?}"), Duration::from_secs(10), || async {
        (system.control.log_text().matches(text).count() >= count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_disconnects_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("control.toml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    write("push_viewers = 1\n");
    let system = System::apart(1, &["--config", &file.display().to_string()]).await;
    let broadcast = system.create(json!({"title": "reload"})).await;
    let encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;

    let first = system.join(&broadcast.id).await;
    let tier = async || system.join(&broadcast.id).await["tier"].as_str().unwrap().to_owned();
    let viewer = Ffmpeg::decode(first["urls"]["rtmp"].as_str().unwrap(), 6);
    assert_eq!(tier().await, "hls", "there is one push seat");

    write("push_viewers = 10\nhttp = '127.0.0.1:1'\n");
    system.control.hang_up();
    logged(&system, "configuration read again", 1).await;
    assert_eq!(tier().await, "push", "now there are ten");
    assert!(system.control.log_text().contains("push_viewers"));

    write("push_viewrs = 1\n");
    system.control.hang_up();
    logged(&system, "unknown field `push_viewrs`", 1).await;
    assert_eq!(tier().await, "push", "a broken file changes nothing");

    write("push_viewers = 1\n");
    system.control.hang_up();
    logged(&system, "configuration read again", 2).await;
    assert_eq!(tier().await, "hls", "one again");

    // An origin and an edge without a file say so, and go on.
    let (origin, edge) = (system.origin.as_ref().unwrap(), &system.edges[0]);
    for process in [origin, edge] {
        process.hang_up();
        eventually("it says that there is no file", Duration::from_secs(10), || async {
            process.log_text().contains("there is no file").then_some(())
        })
        .await;
    }
    let (well, said) = viewer.finish().await;
    assert!(well, "the push viewer played on through all of it: {said}");
    drop(encoder);
}
