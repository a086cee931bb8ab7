//! A chunk is passed on while it comes from upstream.

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use spyglass_media::Resource;
use spyglass_testkit::stopwatch::Stopwatch;
use support::client::{Connection, ask};
use support::{Fault, World, id};

const LENGTH: usize = 430_000;

/// A world whose list names a chunk of several slices that is not here yet.
async fn world() -> (World, Bytes) {
    let world = World::start().await;
    let bytes: Vec<u8> = (0..LENGTH).map(|i| (i % 251) as u8).collect();
    let chunk = Bytes::from(bytes);
    world.origin.put(id(1), 2, chunk.clone());
    world.until(&world.list(), |answer| answer.text().contains("revision 2\n")).await;
    (world, chunk)
}

async fn next(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    let next = tokio::time::timeout(Duration::from_secs(10), body.frame());
    let frame = next.await.expect("something comes")?;
    Some(frame.map(|frame| frame.into_data().unwrap()))
}

fn chunk_fetches(world: &World) -> usize {
    world.origin.fetches(|resource| matches!(resource, Resource::Chunk { .. }))
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_here_before_the_upstream_has_sent_the_rest() {
    let (world, chunk) = world().await;
    world.origin.fault(Fault::Stall);
    let mut readers = Vec::new();
    for _ in 0..20 {
        let mut connection = Connection::open(world.edge).await;
        let (head, mut body) = connection.begin(&world.chunk(2)).await.unwrap().into_parts();
        assert_eq!(head.status, 200);
        assert_eq!(head.headers["content-length"], LENGTH.to_string());
        let first = next(&mut body).await.unwrap().unwrap();
        assert_eq!(first, chunk[..first.len()]);
        readers.push((connection, head.headers["etag"].clone(), body, first.to_vec()));
    }
    // A range waits for the whole.
    let ranged = tokio::spawn({
        let (edge, path) = (world.edge, world.chunk(2));
        async move { ask(edge, Method::GET, &path, &[("range", "bytes=429990-")]).await }
    });
    world.origin.fault(Fault::None);
    let mut tags = Vec::new();
    for (_connection, etag, mut body, mut bytes) in readers {
        while let Some(more) = next(&mut body).await {
            bytes.extend_from_slice(&more.unwrap());
        }
        assert!(bytes == chunk);
        tags.push(etag);
    }
    let ranged = ranged.await.unwrap();
    assert_eq!((ranged.status, ranged.body), (206, chunk.slice(429_990..)));
    assert_eq!(chunk_fetches(&world), 1);
    let whole = world.get(&world.chunk(2)).await;
    assert_eq!((whole.cache(), &whole.body), ("hit", &chunk));
    assert!(tags.iter().all(|etag| etag == whole.header("etag")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_fetch_is_taken_up_where_it_ended() {
    let (world, chunk) = world().await;
    world.origin.fault(Fault::BreakOnce);
    let mut connection = Connection::open(world.edge).await;
    let (_, mut body) = connection.begin(&world.chunk(2)).await.unwrap().into_parts();
    let mut bytes = next(&mut body).await.unwrap().unwrap().to_vec();
    let healed = Stopwatch::start();
    while let Some(more) = next(&mut body).await {
        bytes.extend_from_slice(&more.unwrap());
    }
    println!("a chunk that broke off was whole {:?} later", healed.elapsed());
    assert!(healed.elapsed() < Duration::from_secs(1), "{:?}", healed.elapsed());
    assert!(bytes == chunk);
    assert_eq!(chunk_fetches(&world), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_announced_is_never_whole_nor_kept() {
    let (world, chunk) = world().await;
    for fault in [Fault::Corrupt, Fault::Break] {
        world.origin.fault(fault);
        let mut connection = Connection::open(world.edge).await;
        let (_, mut body) = connection.begin(&world.chunk(2)).await.unwrap().into_parts();
        let mut length = 0;
        let broken = loop {
            match next(&mut body).await {
                Some(Ok(more)) => length += more.len(),
                Some(Err(_)) => break true,
                None => break false,
            }
        };
        assert!(broken && length < LENGTH, "{fault:?}: {length} bytes, broken: {broken}");
    }
    world.origin.fault(Fault::None);
    let answer = world.get(&world.chunk(2)).await;
    assert_eq!((answer.status, answer.cache(), &answer.body), (200, "fwd=miss", &chunk));
}
