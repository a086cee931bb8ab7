//! How long parts and chunks are is a broadcast's own choice, and whether it has
//! parts at all.

use std::time::Duration;

use serde_json::json;
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::hls::List;
use spyglass_tests::system::System;

/// What stands behind the first line that begins so.
fn value<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(tag))
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_as_the_broadcast_says() {
    let system = System::up(&["--edges", "1"]).await;
    // One as all are, one with a length of its own, one without parts.
    for (part, chunk, target) in [(None, 3, "4"), (Some(0.5), 2, "3"), (Some(0.0), 1, "2")] {
        let mut body = json!({"title": "of its own length", "chunk_seconds": chunk});
        if let Some(part) = part {
            body["part_seconds"] = json!(part);
        }
        let broadcast = system.create(body).await;
        let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
        system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
        let url = format!("{}/live/{}/chunklist.m3u8", system.edge(0), broadcast.id);
        let text = eventually("two whole chunks", Duration::from_secs(20), || async {
            let text = system.client.get(&url).await.expect(200).text();
            (List::parse(&text).chunks().len() >= 2).then_some(text)
        })
        .await;
        assert_eq!(value(&text, "#EXT-X-TARGETDURATION:"), Some(target), "{text}");
        let parts: Vec<f64> = text
            .lines()
            .filter_map(|line| line.strip_prefix("#EXT-X-PART:DURATION="))
            .map(|rest| rest.split(',').next().unwrap().parse().unwrap())
            .collect();
        let told = value(&text, "#EXT-X-PART-INF:PART-TARGET=");
        let Some(length) = Some(part.unwrap_or(0.2)).filter(|length| *length > 0.0) else {
            assert!(parts.is_empty() && told.is_none(), "{text}");
            assert!(!text.contains("PRELOAD-HINT") && !text.contains("CAN-BLOCK"), "{text}");
            continue;
        };
        // Whole frames, of 40 ms, at the least 85 % of the part target.
        let told: f64 = told.unwrap().parse().unwrap();
        assert!((length..length + 0.04).contains(&told), "{told}: {text}");
        assert!(parts.len() > 2, "{text}");
        assert!(parts.iter().all(|part| *part <= told), "{parts:?}");
        assert!(parts.iter().any(|part| *part > 0.85 * told), "{parts:?}");
    }
}
