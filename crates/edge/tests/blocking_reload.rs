//! Low latency through a shared cache: rules L4 to L7 and L10, by status codes
//! and headers, and what many waiting viewers cost.

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use spyglass_api::upstream;
use spyglass_edge::Fill;
use spyglass_media::{Position, Resource};
use support::client::Connection;
use support::{Answer, Fault, World, id};
use tokio::net::TcpStream;

fn at(sequence: u64, part: Option<u32>) -> Position {
    Position { sequence, part }
}

/// A world whose list ends with part 2 of chunk 7, after chunk 6 of 5 parts.
async fn world() -> World {
    let world = World::start().await;
    begin(&world).await;
    world
}

async fn begin(world: &World) {
    world.origin.move_to(id(1), at(6, None));
    world.origin.move_to(id(1), at(7, Some(2)));
    assert_eq!(world.get(&world.list()).await.status, 200);
    world.origin.of_interest(id(1)).await;
    // The list came before interest was known, so the notice may follow it.
    world.until(&world.list(), |answer| answer.cache() == "hit").await;
}

fn blocking(world: &World, query: &str) -> String {
    format!("{}?{query}", world.list())
}

fn part(sequence: u64, part: u32) -> String {
    format!("/live/{}/1-{sequence}.{part}.m4s", id(1))
}

/// Asks, and says how long the answer took.
fn asking(world: &World, path: String) -> tokio::task::JoinHandle<(Answer, Duration)> {
    let edge = world.edge;
    tokio::spawn(async move {
        let began = Instant::now();
        let answer = support::client::get(edge, &path).await;
        (answer, began.elapsed())
    })
}

/// Long enough for a request to arrive and to be answered if it can be.
const SOON: Duration = Duration::from_millis(150);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_listed_is_answered_at_once_and_whole() {
    let world = world().await;
    for query in [
        "_HLS_msn=7&_HLS_part=2",
        "_HLS_msn=7&_HLS_part=0",
        "_HLS_msn=6",
        "_HLS_msn=0",
        "_HLS_msn=2&_HLS_part=99",
    ] {
        let answer = world.get(&blocking(&world, query)).await;
        assert_eq!((answer.status, answer.cache()), (200, "hit"), "{query}");
        assert!(answer.text().starts_with("#EXTM3U\nrevision 3\n"), "{query}");
    }
    let delta = world.get(&blocking(&world, "_HLS_skip=YES")).await;
    assert!(delta.text().starts_with("(delta)"));
    let delta = world.get(&blocking(&world, "_HLS_msn=6&_HLS_skip=v2")).await;
    assert!(delta.text().starts_with("(delta)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_until_its_part_or_chunk_is_listed() {
    let world = world().await;
    let part_3 = asking(&world, blocking(&world, "_HLS_msn=7&_HLS_part=3"));
    let chunk = asking(&world, blocking(&world, "_HLS_msn=7"));
    let next = asking(&world, blocking(&world, "_HLS_msn=8&_HLS_part=0"));
    // The sixth part of a chunk that turns out to have five.
    let beyond = asking(&world, blocking(&world, "_HLS_msn=7&_HLS_part=5"));
    tokio::time::sleep(SOON).await;
    assert!(!part_3.is_finished() && !chunk.is_finished() && !next.is_finished());

    world.origin.move_to(id(1), at(7, Some(3)));
    let (answer, waited) = part_3.await.unwrap();
    assert_eq!((answer.status, answer.cache()), (200, "fwd=stale; collapsed"));
    assert!(answer.text().contains("revision 4\n") && waited >= SOON);
    assert_eq!(answer.header("age"), "0");
    tokio::time::sleep(SOON).await;
    assert!(!chunk.is_finished() && !beyond.is_finished());

    world.origin.move_to(id(1), at(7, None));
    assert!(chunk.await.unwrap().0.text().contains("revision 5\n"));
    tokio::time::sleep(SOON).await;
    assert!(!next.is_finished() && !beyond.is_finished());

    world.origin.move_to(id(1), at(8, Some(0)));
    for request in [next, beyond] {
        assert!(request.await.unwrap().0.text().contains("revision 6\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_at_once_and_what_does_not_come_after_three_targets() {
    let world = world().await;
    for query in [
        "_HLS_part=1",
        "_HLS_msn=9",
        "_HLS_msn=9&_HLS_part=0",
        "_HLS_msn=7&_HLS_part=17",
        "_HLS_msn=8&_HLS_part=14",
        "_HLS_msn=x",
    ] {
        let (answer, waited) = asking(&world, blocking(&world, query)).await.unwrap();
        assert_eq!(answer.status, 400, "{query}");
        assert!(waited < Duration::from_millis(2_500), "{query}");
        // In a moment it may be near: no cache may keep this.
        assert_eq!(answer.header("cache-control"), "no-store", "{query}");
    }
    let (answer, waited) = asking(&world, blocking(&world, "_HLS_msn=7")).await.unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
    assert!(answer.text().contains("has not come"));
    // 3 target durations of 1 s, and not one of the limits on connections.
    let limits = Duration::from_millis(2_990)..Duration::from_secs(6);
    assert!(limits.contains(&waited), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_before_anything_is_looked_up() {
    let world = world().await;
    world.origin.enter(id(2), upstream::BroadcastState::Created, false, Duration::from_secs(1));
    let list = format!("/live/{}/chunklist.m3u8", id(2));
    let path = format!("{list}?_HLS_part=0");
    world.until(&path, |answer| answer.status == 400).await;
    let fetches = world.origin.fetches(|_| true);
    let (answer, waited) = asking(&world, path).await.unwrap();
    assert_eq!((answer.status, answer.cache()), (400, "hit; detail=negative"));
    assert!(waited < Duration::from_millis(2_500), "{waited:?}");
    // Nobody is waiting for its first list, and a broadcast that is not there has
    // no directives.
    assert_eq!(world.origin.fetches(|_| true), fetches);
    let unknown = format!("/live/{}/chunklist.m3u8?_HLS_part=0", id(9));
    assert_eq!(world.get(&unknown).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_answers_whoever_waits_and_directives_mean_nothing_after_it() {
    let world = world().await;
    let waiting = asking(&world, blocking(&world, "_HLS_msn=8&_HLS_part=1"));
    let hinted = asking(&world, part(7, 3));
    tokio::time::sleep(SOON).await;
    world.origin.end(id(1));
    let (answer, _) = waiting.await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("#EXT-X-ENDLIST"));
    assert_eq!(answer.header("cache-control"), "public, max-age=1");
    assert_eq!(hinted.await.unwrap().0.status, 404);
    for query in ["_HLS_msn=1000", "_HLS_part=1", "_HLS_msn=x", "_HLS_skip=NO"] {
        let (answer, waited) = asking(&world, blocking(&world, query)).await.unwrap();
        assert_eq!(answer.status, 200, "{query}");
        assert!(answer.text().contains("#EXT-X-ENDLIST"), "{query}");
        assert!(waited < Duration::from_millis(2_500), "{query}: {waited:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hinted_part_may_be_asked_for_early_and_any_other_is_not_there() {
    let world = world().await;
    let fetches = |sequence, part| {
        let wanted = Resource::Part { epoch: 1, sequence, part };
        world.origin.fetches(|resource| *resource == wanted)
    };
    let early: Vec<_> = (0..20).map(|_| asking(&world, part(7, 3))).collect();
    for unknown in [part(7, 4), part(8, 0), part(9, 0), part(6, 99)] {
        let (answer, waited) = asking(&world, unknown.clone()).await.unwrap();
        assert_eq!((answer.status, answer.cache()), (404, "hit; detail=negative"), "{unknown}");
        assert!(waited < Duration::from_millis(2_500));
    }
    assert_eq!(fetches(7, 3), 0, "nothing is asked of the origin before it is whole");
    world.origin.move_to(id(1), at(7, Some(3)));
    for request in early {
        let (answer, _) = request.await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "1-7.3.m4s"));
        assert_eq!(answer.header("cache-control"), "public, max-age=31536000, immutable");
    }
    assert_eq!(fetches(7, 3), 1);

    // Another comes in its place.
    let cancelled = asking(&world, part(7, 4));
    tokio::time::sleep(SOON).await;
    world.origin.move_to(id(1), at(8, Some(0)));
    assert_eq!(cancelled.await.unwrap().0.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_say_how_long_they_may_be_kept() {
    let world = world().await;
    let plain = world.get(&world.list()).await;
    assert_eq!(plain.header("cache-control"), "public, max-age=1");
    let skip = world.get(&blocking(&world, "_HLS_skip=YES")).await;
    assert_eq!(skip.header("cache-control"), "public, max-age=1");
    // 6 target durations of 1 s.
    let waited = world.get(&blocking(&world, "_HLS_msn=7&_HLS_part=1")).await;
    assert_eq!(waited.header("cache-control"), "public, max-age=6");
    // The multivariant playlist knows no directives.
    let index = format!("/live/{}/index.m3u8?_HLS_msn=99", id(1));
    let index = world.get(&index).await;
    assert_eq!((index.status, index.header("cache-control")), (200, "public, max-age=1"));
}

/// Until so many requests wait at the edge.
async fn waiting(world: &World, count: usize) {
    let line = format!("\nspyglass_edge_requests_waiting {count}\n");
    world.until("/metrics", |answer| answer.text().contains(&line)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_waiting_viewers_are_one_fetch_and_nothing_when_they_leave() {
    let world = World::start().await;
    // So that the list does not age out while so many requests come.
    world.origin.live(id(1), Duration::from_secs(30));
    begin(&world).await;
    let mut connections = Vec::new();
    for _ in 0..50 {
        let stream = TcpStream::connect(world.edge).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let executor = TokioExecutor::new();
        let (sender, connection) = http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        connections.push(sender);
    }
    let ask = |query: &str| {
        let mut requests = Vec::new();
        for sender in &connections {
            for _ in 0..100 {
                let mut sender = sender.clone();
                let uri = format!("http://edge{}", blocking(&world, query));
                requests.push(tokio::spawn(async move {
                    let request = http::Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
                    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
                    let text = body.collect().await.unwrap().to_bytes();
                    (parts.status, String::from_utf8_lossy(&text).into_owned(), Instant::now())
                }));
            }
        }
        requests
    };
    for (revision, position, query) in [
        (4, at(7, Some(3)), "_HLS_msn=7&_HLS_part=3"),
        (5, at(7, None), "_HLS_msn=7&_HLS_part=4"),
        (6, at(8, Some(0)), "_HLS_msn=8&_HLS_part=0"),
    ] {
        let before = world.origin.list_fetches();
        let requests = ask(query);
        waiting(&world, 5_000).await;
        assert_eq!(world.origin.list_fetches(), before, "they wait here");
        let released = Instant::now();
        world.origin.move_to(id(1), position);
        let mut last = Duration::ZERO;
        for request in requests {
            let (status, text, answered) = request.await.unwrap();
            assert_eq!(status, 200);
            assert!(text.contains(&format!("revision {revision}\n")));
            last = last.max(answered - released);
        }
        assert_eq!(world.origin.list_fetches(), before + 1);
        println!("5,000 blocked reloads: the last was answered {last:?} after the notice was sent");
    }
    let requests = ask("_HLS_msn=8&_HLS_part=1");
    waiting(&world, 5_000).await;
    for request in &requests {
        request.abort();
    }
    drop(connections);
    for request in requests {
        let _ = request.await;
    }
    waiting(&world, 0).await;
    let before = world.origin.fetches(|_| true);
    world.origin.move_to(id(1), at(8, Some(1)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.origin.fetches(|_| true), before, "nobody waits any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_prefetch_the_notice_fetches_while_there_are_viewers() {
    let world = World::with(|config| config.fill = Fill::Prefetch).await;
    begin(&world).await;
    let third = Resource::Part { epoch: 1, sequence: 7, part: 3 };
    let before = world.origin.list_fetches();
    world.origin.move_to(id(1), at(7, Some(3)));
    world.origin.seen(third).await;
    assert_eq!(world.origin.list_fetches(), before + 1);
    let answer = world.until(&part(7, 3), |answer| answer.cache() == "hit").await;
    assert_eq!(answer.status, 200);
    let list = world.get(&world.list()).await;
    assert!(list.cache() == "hit" && list.text().contains("revision 4\n"));
    assert_eq!(world.origin.fetches(|resource| *resource == third), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcasts_own_choice_goes_before_the_edges() {
    let third = Resource::Part { epoch: 1, sequence: 7, part: 3 };
    let pulling = World::start().await;
    pulling.origin.choose(id(1), upstream::Fill::Prefetch);
    begin(&pulling).await;
    pulling.origin.move_to(id(1), at(7, Some(3)));
    pulling.origin.seen(third).await;

    let prefetching = World::with(|config| config.fill = Fill::Prefetch).await;
    prefetching.origin.choose(id(1), upstream::Fill::Pull);
    begin(&prefetching).await;
    let before = prefetching.origin.fetches(|_| true);
    prefetching.origin.move_to(id(1), at(7, Some(3)));
    tokio::time::sleep(2 * SOON).await;
    assert_eq!(prefetching.origin.fetches(|_| true), before, "nobody asked");
    let list = prefetching.list();
    prefetching.until(&list, |answer| answer.text().contains("revision 4\n")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_outlives_lost_notices_and_an_origin_that_fails_for_a_while() {
    let world = world().await;
    // Notices are lost, heartbeats too: the list ages out and is fetched.
    world.origin.mute(true);
    let waiting = asking(&world, blocking(&world, "_HLS_msn=7&_HLS_part=3"));
    tokio::time::sleep(SOON).await;
    world.origin.move_to(id(1), at(7, Some(3)));
    let (answer, waited) = waiting.await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("revision 4\n"), "{waited:?}");
    world.origin.mute(false);

    world.origin.fault(Fault::Unavailable);
    let waiting = asking(&world, blocking(&world, "_HLS_msn=7&_HLS_part=4"));
    tokio::time::sleep(SOON).await;
    world.origin.move_to(id(1), at(7, Some(4)));
    tokio::time::sleep(2 * SOON).await;
    world.origin.fault(Fault::None);
    let (answer, waited) = waiting.await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Less than the 3 s after which it is refused.
    assert!(waited < Duration::from_millis(2_900), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_when_the_edge_stops_is_answered_as_ever() {
    let mut world = World::start().await;
    // Nothing ages: what is new comes by a notice or not at all.
    world.origin.live(id(1), Duration::from_secs(30));
    begin(&world).await;
    let origin = world.origin.clone();
    let listed = asking(&world, blocking(&world, "_HLS_msn=7&_HLS_part=3"));
    let hinted = asking(&world, part(7, 3));
    waiting(&world, 2).await;
    let moving = async {
        tokio::time::sleep(SOON).await;
        origin.move_to(id(1), at(7, Some(3)));
    };
    tokio::join!(world.stop_edge(), moving);
    let (answer, _) = listed.await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("revision 4\n"), "{}", answer.text());
    assert_eq!(hinted.await.unwrap().0.text(), "1-7.3.m4s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_keeps_its_connection_through_many_waits() {
    let world = world().await;
    let mut connection = Connection::open(world.edge).await;
    for next in 3..12 {
        let path = blocking(&world, &format!("_HLS_msn=7&_HLS_part={next}"));
        let asked = connection.get(&path);
        let moved = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            world.origin.move_to(id(1), at(7, Some(next)));
        };
        let (answer, ()) = tokio::join!(asked, moved);
        assert_eq!(answer.unwrap().status, 200);
    }
}
