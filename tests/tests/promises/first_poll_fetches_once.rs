//! A thousand viewers polling one edge cost the origin one request for each
//! version of the list and one for each chunk; with no viewer, none.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::herd::Herd;
use spyglass_tests::hls::List;
use spyglass_tests::system::System;

const VIEWERS: usize = 1_000;
const ROUNDS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn first_poll_fetches_once() {
    let system = System::up(&["--edges", "1"]).await;
    let broadcast = system.create(json!({"title": "herd"})).await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    let chunks = format!("spyglass_origin_chunks_total{{broadcast=\"{}\"}}", broadcast.id);
    let requests =
        |resource: &str| format!("spyglass_origin_requests_total{{resource=\"{resource}\"}}");
    let origin = system.origin_http();

    // Nobody watches: chunks are made and nothing is fetched.
    eventually("two chunks", Duration::from_secs(15), || async {
        (system.metric(&origin, &chunks).await >= 2.0).then_some(())
    })
    .await;
    for resource in ["chunklist", "chunk", "init", "part"] {
        assert_eq!(system.metric(&origin, &requests(resource)).await, 0.0, "{resource}");
    }

    let base = format!("{}/live/{}", system.edge(0), broadcast.id);
    let herd = Herd::new(VIEWERS);
    for _ in 0..ROUNDS {
        // The origin has a chunk that this edge's viewers have not seen.
        let seen = system.client.get(&format!("{base}/chunklist.m3u8")).await.expect(200);
        let seen = List::parse(&seen.text()).last();
        let made = system.metric(&origin, &chunks).await;
        eventually("another chunk", Duration::from_secs(10), || async {
            (system.metric(&origin, &chunks).await > made).then_some(())
        })
        .await;
        let before = system.metric(&origin, &requests("chunklist")).await;

        let lists = herd.ask(&format!("{base}/chunklist.m3u8")).await;
        let after = system.metric(&origin, &requests("chunklist")).await;
        for (text, _) in &lists {
            let last = List::parse(text).last();
            assert!(last > seen, "a poll after the expire got the old list");
        }
        // A chunk may end while the herd is at it: then there are two versions.
        let distinct: HashSet<_> = lists.iter().map(|(text, _)| text).collect();
        assert_eq!(after - before, distinct.len() as f64, "one fetch a version");

        let uri = List::parse(&lists[0].0).chunks().last().unwrap().uri.clone();
        let before = system.metric(&origin, &requests("chunk")).await;
        let bodies = herd.ask(&format!("{base}/{uri}")).await;
        assert_eq!(
            system.metric(&origin, &requests("chunk")).await - before,
            1.0,
            "one fetch a chunk"
        );
        assert!(bodies.iter().all(|(body, _)| body.len() == bodies[0].0.len()));
    }
}
