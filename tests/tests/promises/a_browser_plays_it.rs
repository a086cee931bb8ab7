//! The pages play in a real browser: the list of what is live leads to a page
//! whose picture moves, which says how far behind it is and who watches; and who
//! is kicked is told so and may join again.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
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

    let limit = Duration::from_secs(20);
    let shown = "document.getElementById('edge').textContent.startsWith('edge-1') \
                 && parseFloat(document.getElementById('behind').textContent) > 0 \
                 && parseFloat(document.getElementById('behind').textContent) < 10 \
                 && document.getElementById('viewers').textContent.startsWith('1 joined')";
    watch.wait_for(shown, limit).await;

    let viewers = format!("/v1/broadcasts/{}/viewers", broadcast.id);
    let list = system.operator(Method::GET, &viewers, Value::Null).await.expect(200).json();
    let kicked = list["viewers"][0]["viewer"].as_str().unwrap().to_owned();
    let kick = format!("{viewers}/{kicked}/kick");
    system.operator(Method::POST, &kick, Value::Null).await.expect(200);
    let told = "!document.getElementById('rejoin').hidden \
                && document.getElementById('message').innerText.includes('removed')";
    watch.wait_for(told, limit).await;
    watch.eval("document.getElementById('rejoin').click()").await;
    let again = "window.before ??= document.querySelector('video').currentTime, \
                 Math.abs(document.querySelector('video').currentTime - window.before) > 1.5 \
                 && document.getElementById('message').hidden";
    watch.wait_for(again, limit).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_no_broadcast_says_so_and_rests() {
    let system = System::up(&["--edges", "1"]).await;
    let mut page = Page::open(&system.control_url("/watch/0000000000000")).await;
    let told = "document.getElementById('state').textContent === 'No such broadcast' \
                && document.title.startsWith('No such broadcast') \
                && document.getElementById('message').innerText.includes('no broadcast at this')";
    page.wait_for(told, Duration::from_secs(20)).await;
    // Longer than between two looks: it asked once, to join.
    page.eval("window.told = performance.now()").await;
    page.wait_for("performance.now() > window.told + 6000", Duration::from_secs(20)).await;
    let asked = "performance.getEntriesByType('resource') \
                 .filter(({name}) => name.includes('/v1/broadcasts/')).length";
    assert_eq!(page.eval(asked).await, 1);
}
