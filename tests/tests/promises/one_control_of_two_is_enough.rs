//! One of two controls is killed under fifty joins a second: a client that asks
//! the other once notices nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use spyglass_testkit::stopwatch::Stopwatch;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::several::Several;
use tokio::task::JoinSet;
use tokio::time::interval;

/// Joins in all, and the one before which a control is killed.
const JOINS: usize = 300;
const KILL: usize = 100;

/// The longest that a join and its retry may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn one_control_of_two_is_enough() {
    let mut system = Several::start(&["--chunk-seconds", "1"]).await;
    let broadcast = system.create(0, "two of us").await;
    let mut encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for(&broadcast.id, "/state", &json!("live"), Duration::from_secs(10)).await;

    let urls = [0, 1].map(|n| system.url(n, &format!("/v1/broadcasts/{}/viewers", broadcast.id)));
    let urls = Arc::new(urls);
    let mut joins = JoinSet::new();
    let mut pace = interval(Duration::from_millis(20));
    for number in 0..JOINS {
        pace.tick().await;
        if number == KILL {
            system.controls[0].kill();
        }
        let (client, urls) = (system.client.clone(), Arc::clone(&urls));
        joins.spawn(async move {
            let began = Stopwatch::start();
            let ask = async |n: usize| {
                let body = json!({});
                client.try_call(hyper::Method::POST, &urls[n], "", &body).await
            };
            let first = number % 2;
            let answered = match ask(first).await {
                Ok(answer) if answer.status.as_u16() < 500 => answer,
                _ => ask(1 - first).await.expect("the other control answers"),
            };
            assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
            answered.expect(200).json()
        });
    }
    let joined: Vec<Value> = joins.join_all().await;
    let seats: Vec<u64> = joined.iter().filter_map(|joined| joined["seat"].as_u64()).collect();
    let different: HashSet<u64> = seats.iter().copied().collect();
    assert_eq!(different.len(), seats.len(), "no seat is given twice");
    // A seat whose answer died with its control is reserved for nobody for a while.
    assert!((90..=100).contains(&seats.len()), "{} seats", seats.len());

    // Back, it knows what the other knows.
    system.restart_control(0).await;
    system.wait_for_nodes(0).await;
    system.wait_for(&broadcast.id, "/state", &json!("live"), Duration::from_secs(10)).await;
    let other = system.create(0, "made after").await;
    assert_eq!(system.show(1, &other.id).await["title"], "made after");
    encoder.kill();
}
