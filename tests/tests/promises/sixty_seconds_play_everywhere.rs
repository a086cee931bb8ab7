//! What ffmpeg publishes is decoded without an error for a minute, over RTMP
//! and over HLS from each of three edges; sound alone and picture alone too.

use std::time::Duration;

use serde_json::{Value, json};
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn sixty_seconds_play_everywhere() {
    let system = System::up(&["--edges", "3"]).await;
    let mut encoders = Vec::new();
    let mut players = Vec::new();
    for (kind, seconds) in [(Clip::Both, 60), (Clip::VideoOnly, 20), (Clip::AudioOnly, 20)] {
        let broadcast = system.create(json!({"title": format!("{kind:?}")})).await;
        encoders.push(Ffmpeg::publish(ffmpeg::clip(kind), &broadcast.publish_url));
        system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
        let joined = system.join(&broadcast.id).await;
        let rtmp = joined["urls"]["rtmp"].as_str().unwrap();
        players.push((format!("{kind:?} over RTMP"), Ffmpeg::decode(rtmp, seconds)));
        for edge in 0..3 {
            let url = format!("{}/live/{}/index.m3u8", system.edge(edge), broadcast.id);
            players.push((format!("{kind:?} from edge {edge}"), Ffmpeg::decode(&url, seconds)));
        }
    }
    eventually("every node says how busy it is", Duration::from_secs(15), || async {
        let nodes = system.nodes().await;
        let is_busy = |load: &Value| {
            load["cpu"].as_f64() > Some(0.0) && load["egress_bps"].as_u64() > Some(0)
        };
        nodes.iter().all(|node| is_busy(&node["load"])).then_some(())
    })
    .await;
    for (name, player) in players {
        let (success, errors) = player.finish().await;
        assert!(success && errors.is_empty(), "{name}: {errors}");
    }
}
