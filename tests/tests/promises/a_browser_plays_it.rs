//! The pages play in a real browser: the list of what is live leads to a page
//! whose picture moves.

use std::time::Duration;

use serde_json::json;
use spyglass_tests::browser::Page;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_plays_it() {
    let system = System::up(&["--edges", "1"]).await;
    let broadcast = system.create(json!({"title": "Seen in a browser"})).await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;

    let mut home = Page::open(&system.control_url("/")).await;
    let link = format!("!!document.querySelector('a[href$=\"/watch/{}\"]')", broadcast.id);
    home.wait_for(&link, Duration::from_secs(20)).await;

    let mut watch = Page::open(&system.control_url(&format!("/watch/{}", broadcast.id))).await;
    let playing = "document.querySelector('video')?.currentTime > 3 \
                   && document.querySelector('video').videoWidth === 320";
    watch.wait_for(playing, Duration::from_secs(40)).await;
}
