//! However many viewers ask, one object costs the origin one fetch; without a
//! viewer it costs none.

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use spyglass_media::Resource;
use support::client::Connection;
use support::{Answer, World, id};

/// So many viewers, connected, who ask for the same at the same moment.
async fn herd(world: &World, viewers: usize, path: &str) -> Vec<(Answer, Duration)> {
    let mut connections = Vec::new();
    for _ in 0..viewers {
        let mut connection = Connection::open(world.edge).await;
        assert_eq!(connection.get("/healthz").await.unwrap().status, 200);
        connections.push(connection);
    }
    let asked = Instant::now();
    let polls: Vec<_> = connections
        .into_iter()
        .map(|mut connection| {
            let path = path.to_owned();
            tokio::spawn(async move {
                let answer = connection.get(&path).await.unwrap();
                (answer, asked.elapsed())
            })
        })
        .collect();
    let mut answers = Vec::new();
    for poll in polls {
        answers.push(poll.await.unwrap());
    }
    answers
}

fn print_times(what: &str, answers: &[(Answer, Duration)]) {
    let mut times: Vec<_> = answers.iter().map(|(_, time)| *time).collect();
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{what}: p50 {:?}, p99 {:?}", at(0.5), at(0.99));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_polls_after_an_expire_cost_one_fetch_and_all_get_the_new_list() {
    let world = World::start().await;
    // So that no copy ages out while so many ask.
    world.origin.live(id(1), Duration::from_secs(30));
    assert!(world.get(&world.list()).await.text().contains("revision 1\n"));
    world.origin.of_interest(id(1)).await;
    for revision in 2..=4 {
        let before = world.origin.list_fetches();
        world.origin.delay(Duration::ZERO);
        world.origin.publish(id(1), revision);
        // The notice has arrived once its chunk is known to exist.
        world.until(&world.chunk(revision), |answer| answer.status == 200).await;
        world.origin.delay(Duration::from_millis(300));
        let answers = herd(&world, 1_000, &world.list()).await;
        for (answer, _) in &answers {
            assert_eq!(answer.status, 200);
            assert!(answer.text().contains(&format!("revision {revision}\n")), "{answer:?}");
        }
        assert_eq!(world.origin.list_fetches(), before + 1);
        let collapsed = answers.iter().filter(|(it, _)| it.cache() == "fwd=stale; collapsed");
        assert!(collapsed.count() > 100);
        print_times("1,000 polls of an expired list, origin 300 ms", &answers);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_for_a_cold_chunk_cost_one_fetch() {
    let world = World::start().await;
    let chunk = Bytes::from(vec![9; 430_000]);
    world.origin.put(id(1), 2, chunk.clone());
    world.until(&world.list(), |answer| answer.text().contains("revision 2\n")).await;
    world.origin.delay(Duration::from_millis(50));
    let answers = herd(&world, 200, &world.chunk(2)).await;
    for (answer, _) in &answers {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, chunk);
    }
    let second = Resource::Chunk { epoch: 1, sequence: 2 };
    assert_eq!(world.origin.fetches(|resource| *resource == second), 1);
    let missed = answers.iter().filter(|(answer, _)| answer.cache() == "fwd=miss").count();
    assert_eq!(missed, 1);
    print_times("200 requests for a cold chunk, origin 50 ms", &answers);
    assert_eq!(world.get(&world.chunk(2)).await.cache(), "hit");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_viewer_nothing_is_fetched() {
    let world = World::start().await;
    for revision in 2..50 {
        world.origin.publish(id(1), revision);
    }
    assert_eq!(world.get("/healthz").await.status, 200);
    assert_eq!(world.origin.fetches(|_| true), 0);
    assert!(world.get(&world.list()).await.text().contains("revision 49\n"));
    assert_eq!(world.origin.fetches(|_| true), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_who_leaves_leaves_a_whole_chunk_behind() {
    let world = World::start().await;
    world.get(&world.list()).await;
    world.origin.delay(Duration::from_millis(200));
    let chunk = world.chunk(1);
    let before = world.origin.fetches(|_| true);
    let edge = world.edge;
    let viewer = tokio::spawn(async move { support::client::get(edge, &chunk).await });
    world.origin.fetched(before + 1).await;
    viewer.abort();
    let answer = world.get(&world.chunk(1)).await;
    assert_eq!(answer.text(), format!("chunk 1 of {}", id(1)));
    assert_eq!(world.origin.fetches(|_| true), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_index_come_in_one_fetch_in_the_encoding_that_is_accepted() {
    let world = World::start().await;
    let index = format!("/live/{}/index.m3u8", id(1));
    let plain = world.get(&index).await;
    assert_eq!((plain.status, plain.header("content-encoding")), (200, ""));
    assert_eq!(plain.header("content-type"), "application/vnd.apple.mpegurl");
    assert_eq!(plain.header("cache-control"), "public, max-age=1");
    let accept = [("accept-encoding", "br, gzip")];
    let gzip = support::client::ask(world.edge, http::Method::GET, &world.list(), &accept).await;
    assert_eq!(gzip.header("content-encoding"), "gzip");
    assert!(gzip.text().starts_with("(gzip)#EXTM3U"));
    assert_eq!(gzip.cache(), "hit");
    assert_ne!(gzip.header("etag"), world.get(&world.list()).await.header("etag"));
    assert_eq!(world.origin.list_fetches(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_last_viewer_has_left_notices_end() {
    let world = World::with(|config| config.interest_seconds = 1).await;
    world.get(&world.list()).await;
    world.origin.of_interest(id(1)).await;
    world.origin.of_no_interest(id(1)).await;
    world.origin.publish(id(1), 2);
    let answer = world.until(&world.list(), |it| it.text().contains("revision 2\n")).await;
    assert_eq!(answer.status, 200);
    world.origin.of_interest(id(1)).await;
}
