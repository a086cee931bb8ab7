//! The operator's console in a real browser: signing in, the nodes, a broadcast
//! and who watches it; kick, drain and end through the page; and a title that
//! would like to be markup stays text.

use std::time::Duration;

use serde_json::{Value, json};
use spyglass_rtmp::Intent;
use spyglass_tests::browser::Page;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::rtmp::Peer;
use spyglass_tests::system::System;

const TITLE: &str = r#"<img src=x onerror="window.broken=1"> & <b>co</b>"#;

/// For what the page shows at its next look.
const SOON: Duration = Duration::from_secs(20);

async fn sign_in(page: &mut Page, key: &str) {
    let key = json!(key);
    page.eval(&format!(
        "document.getElementById('key').value = {key}; \
         document.querySelector('#sign-in-form button').click()"
    ))
    .await;
}

async fn click(page: &mut Page, selector: &str) {
    let selector = json!(selector);
    page.wait_for(&format!("!!document.querySelector({selector})"), SOON).await;
    page.eval(&format!("document.querySelector({selector}).click()")).await;
}

/// Clicks, and answers the question that comes.
async fn click_and_confirm(page: &mut Page, selector: &str) {
    click(page, selector).await;
    page.wait_for("document.getElementById('confirm').open", SOON).await;
    click(page, "#confirm-yes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_shows_what_happens() {
    let system = System::up(&["--edges", "1"]).await;
    let broadcast = system.create(json!({"title": TITLE})).await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let joined = system.join(&broadcast.id).await;
    let mut viewer = Peer::connect(joined["urls"]["rtmp"].as_str().unwrap(), Intent::Play).await;
    assert!(viewer.media().await.is_some());
    let watching = tokio::spawn(async move { while viewer.media().await.is_some() {} });

    // A wrong key is told as one, shows nothing and is not kept.
    let mut page = Page::open(&system.control_url("/console")).await;
    let there = "location.pathname === '/console' && document.readyState === 'complete'";
    page.wait_for(there, Duration::from_secs(30)).await;
    sign_in(&mut page, "a wrong key").await;
    let refused = "document.getElementById('sign-in-error').innerText.includes('not the operator')";
    page.wait_for(refused, SOON).await;
    let nothing =
        "document.getElementById('desk').hidden && Object.values(sessionStorage).length === 0";
    assert_eq!(page.eval(nothing).await, true);

    let key = system.ready["operator_key"].as_str().unwrap().to_owned();
    sign_in(&mut page, &key).await;
    for node in ["origin-1", "edge-1"] {
        let up = format!("document.querySelector('[data-node={node}]')?.dataset.state === 'up'");
        page.wait_for(&up, SOON).await;
    }

    // The title is text wherever it stands.
    let pick = format!("#broadcasts-list a[data-id='{}']", broadcast.id);
    let titled =
        format!("document.querySelector(\"{pick} strong\")?.textContent === {}", json!(TITLE));
    page.wait_for(&titled, SOON).await;
    click(&mut page, &pick).await;
    let titled =
        format!("document.getElementById('detail-title')?.textContent === {}", json!(TITLE));
    page.wait_for(&titled, SOON).await;
    let markup = "document.querySelectorAll('img').length + (window.broken ?? 0)";
    assert_eq!(page.eval(markup).await, 0);

    // A kick through the page ends the viewer's connection.
    let kick = format!("[data-kick='{}']", joined["viewer"].as_str().unwrap());
    click_and_confirm(&mut page, &kick).await;
    tokio::time::timeout(SOON, watching).await.expect("the kicked viewer is cut").unwrap();
    page.wait_for(&format!("!document.querySelector(\"{kick}\")"), SOON).await;

    // A drained node says when it can be stopped, and comes back.
    click_and_confirm(&mut page, "[data-node=edge-1] button").await;
    let empty = "document.querySelector('[data-node=edge-1] .progress')?.dataset.empty === 'true'";
    page.wait_for(empty, SOON).await;
    assert_eq!(state_of(&system, "edge-1").await, "draining");
    click(&mut page, "[data-node=edge-1] button").await;
    let up = "document.querySelector('[data-node=edge-1]').dataset.state === 'up'";
    page.wait_for(up, SOON).await;

    click_and_confirm(&mut page, "#end").await;
    page.wait_for("document.querySelector('#detail .badge').dataset.state === 'ended'", SOON).await;
    assert_eq!(system.show(&broadcast.id).await["state"], "ended");

    // It was told as it happened, and is written down.
    for event in ["viewer.kicked", "broadcast.ended"] {
        let told = format!("!!document.querySelector('#events-list [data-event=\"{event}\"]')");
        page.wait_for(&told, SOON).await;
    }
    page.eval("location.hash = '#broadcast=0000000000000'").await;
    let none = "document.getElementById('detail-title').textContent === 'There is no such broadcast' \
                && document.getElementById('end').hidden";
    page.wait_for(none, SOON).await;
    page.eval("location.hash = '#audit'").await;
    for action in ["kick", "drainNode", "endBroadcast"] {
        let written =
            format!("document.getElementById('audit-table').innerText.includes('{action}')");
        page.wait_for(&written, SOON).await;
    }
    let seen = page.eval("location.href + document.cookie + Object.values(localStorage)").await;
    assert!(!seen.as_str().unwrap().contains(&key), "the key stays in the session's storage");
}

async fn state_of(system: &System, id: &str) -> Value {
    let nodes = system.nodes().await;
    nodes.into_iter().find(|node| node["id"] == id).unwrap()["state"].clone()
}
