//! What viewers may ask, what they may not, and how they are told.

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use spyglass_api::upstream::BroadcastState;
use spyglass_media::ViewerId;
use spyglass_testkit::stopwatch::Stopwatch;
use support::client::{Connection, ask, get_h2, raw, request};
use support::{Answer, World, id, token};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const HOUR: Duration = Duration::from_secs(3_600);
const NEGATIVE: &str = "hit; detail=negative";

fn viewer(seed: u8) -> ViewerId {
    ViewerId::from_random([seed; 16])
}

fn every_header(answer: &Answer) {
    assert_eq!(answer.header("access-control-allow-origin"), "*", "{answer:?}");
    assert_eq!(answer.header("vary"), "Accept-Encoding", "{answer:?}");
    assert!(answer.header("cache-status").starts_with("edge-t; "), "{answer:?}");
    assert!(answer.header("age").parse::<u64>().is_ok(), "{answer:?}");
    assert!(!answer.header("date").is_empty(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_requests() {
    let world = World::start().await;
    world.origin.enter(id(3), BroadcastState::Live, true, Duration::from_secs(1));
    world.origin.publish(id(3), 1);
    world.until("/metrics", |it| it.text().contains("spyglass_edge_broadcasts 2")).await;
    assert_eq!(world.get(&world.list()).await.status, 200);
    let (live, private, unknown) = (id(1), id(3), id(9));
    let good = token(live, viewer(1), HOUR);
    let foreign = token(id(2), viewer(1), HOUR);
    let expired = token(live, viewer(1), Duration::ZERO);
    let forged = format!("{}A", &good[..good.len() - 1]);
    let long = "a".repeat(513);
    let table = [
        (200, format!("/live/{live}/index.m3u8")),
        (200, format!("/live/{live}/chunklist.m3u8?anything=%zz")),
        (200, format!("/live/{live}/1-init.mp4")),
        (200, format!("/live/{live}/1-1.m4s?x")),
        (200, format!("/live/{live}/%31-1.m4s")),
        (200, format!("/v/{good}/{live}/chunklist.m3u8")),
        (404, format!("/live/{live}/1-2.m4s")),
        (404, format!("/live/{live}/2-1.m4s")),
        (404, format!("/live/{live}/2-init.mp4")),
        (404, format!("/live/{live}/1-0.m4s")),
        (404, format!("/live/{live}/1-1.0.m4s")),
        (404, format!("/live/{live}/1-18446744073709551615.m4s")),
        (404, format!("/live/{live}/")),
        (404, format!("/live/{live}/1-01.m4s")),
        (404, format!("/live/{live}/..%2f..%2fetc%2fpasswd")),
        (404, format!("/live/{unknown}/chunklist.m3u8")),
        (404, format!("/live/{private}/chunklist.m3u8")),
        (404, format!("/live/{private}/1-1.m4s")),
        (404, "/".to_owned()),
        (404, "/favicon.ico".to_owned()),
        (404, format!("/v/{good}/{live}/nothing")),
        (404, format!("/v/{good}")),
        (400, format!("/live/{live}/%zz")),
        (400, format!("/live/{live}/chunklist.m3u8?_HLS_msn=soon")),
        (400, format!("/live/{live}/chunklist.m3u8?_HLS_part=1")),
        (403, format!("/v/{foreign}/{live}/chunklist.m3u8")),
        (403, format!("/v/{good}/{private}/chunklist.m3u8")),
        (403, format!("/v/{good}/{unknown}/chunklist.m3u8")),
        (403, format!("/v/{expired}/{live}/chunklist.m3u8")),
        (403, format!("/v/{forged}/{live}/1-1.m4s")),
        (403, format!("/v/{long}/{live}/chunklist.m3u8")),
        (403, format!("/v/nonsense/{unknown}/nothing")),
        (403, format!("/v//{live}/chunklist.m3u8")),
    ];
    for (status, path) in table {
        for method in [Method::GET, Method::HEAD] {
            let head = method == Method::HEAD;
            let answer = ask(world.edge, method, &path, &[]).await;
            assert_eq!(answer.status, status, "{path}");
            every_header(&answer);
            assert_eq!(answer.body.is_empty(), head, "{path}");
            if status != 200 {
                assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
            }
        }
    }
    // Private, unknown and nowhere are one answer.
    let strip = |answer: Answer| (answer.status, answer.body.clone(), answer.cache().to_owned());
    let nowhere = strip(world.get("/nowhere").await);
    assert_eq!(nowhere.2, NEGATIVE);
    for it in [private, unknown] {
        assert_eq!(strip(world.get(&format!("/live/{it}/chunklist.m3u8")).await), nowhere);
    }
    // None of it reached the origin but what exists or once might have.
    let beyond = world.origin.fetches(|resource| match resource {
        spyglass_media::Resource::Chunk { epoch, sequence } => *epoch > 1 || *sequence > 1,
        spyglass_media::Resource::Init { epoch } => *epoch > 1,
        _ => false,
    });
    assert_eq!(beyond, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_host_is_named() {
    let world = World::start().await;
    let list = world.list();
    for (status, version, hosts) in [
        ("400", "1.1", ""),
        ("400", "1.1", "host: a\r\nhost: b\r\n"),
        ("400", "1.1", "host: a\r\nHost: a\r\n"),
        ("400", "1.1", "host: a, b\r\n"),
        ("400", "1.0", "host: a\r\nhost: b\r\n"),
        ("200", "1.1", "host: edge.example:8281\r\n"),
        ("200", "1.1", "host:\r\n"),
        ("200", "1.0", ""),
    ] {
        for path in [list.as_str(), "/healthz"] {
            let asked = format!("GET {path} HTTP/{version}\r\n{hosts}connection: close\r\n\r\n");
            let answer = raw(world.edge, asked.as_bytes()).await;
            let line = format!("HTTP/{version} {status} ");
            assert!(answer.starts_with(&line), "{asked}: {answer}");
            if status == "400" {
                assert!(answer.contains("application/problem+json"), "{answer}");
                assert!(answer.contains("Host header"), "{answer}");
            }
        }
    }
    // It is `:authority` that says it from HTTP/2 on.
    assert_eq!(get_h2(world.edge, &list).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn methods() {
    let world = World::start().await;
    let list = world.list();
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::TRACE] {
        let answer = ask(world.edge, method, &list, &[]).await;
        assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD, OPTIONS"));
        assert_eq!(answer.cache(), NEGATIVE);
        every_header(&answer);
    }
    let preflight = [
        ("origin", "https://player.example"),
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "range"),
    ];
    for path in [&list, "/v/nonsense/x/y", "/nowhere"] {
        let answer = ask(world.edge, Method::OPTIONS, path, &preflight).await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.header("access-control-allow-methods"), "GET, HEAD, OPTIONS");
        assert_eq!(answer.cache(), "detail=local", "no cache made it");
        every_header(&answer);
    }
    let body =
        request(Method::GET, &list, &[]).map(|_| http_body_util::Full::new(Bytes::from("x")));
    let answer = Connection::open(world.edge).await.send(body).await.unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(world.origin.fetches(|_| true), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn validators_and_ranges() {
    let world = World::start().await;
    world.get(&world.list()).await;
    let chunk = world.chunk(1);
    let whole = world.get(&chunk).await;
    assert_eq!(whole.header("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(whole.header("content-length"), whole.body.len().to_string());
    let etag = whole.header("etag").to_owned();
    let known = [("if-none-match", &*etag)];
    let same = ask(world.edge, Method::GET, &chunk, &known).await;
    assert_eq!((same.status, same.header("etag"), same.body.len()), (304, &*etag, 0));
    every_header(&same);
    let part = ask(world.edge, Method::GET, &chunk, &[("range", "bytes=6-6")]).await;
    assert_eq!((part.status, part.text().as_str()), (206, "1"));
    assert_eq!(part.header("content-range"), format!("bytes 6-6/{}", whole.body.len()));
    let beyond = ask(world.edge, Method::GET, &chunk, &[("range", "bytes=999-")]).await;
    assert_eq!(beyond.status, 416);
    assert_eq!(beyond.header("content-range"), format!("bytes */{}", whole.body.len()));
    every_header(&beyond);
    let head = ask(world.edge, Method::HEAD, &chunk, &[]).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), whole.body.len().to_string());
    let h2 = get_h2(world.edge, &chunk).await;
    assert_eq!((h2.status, h2.header("etag"), &h2.body), (200, &*etag, &whole.body));
    // The same bytes have the same ETag on another edge.
    let other = World::start().await;
    other.get(&other.list()).await;
    assert_eq!(other.get(&chunk).await.header("etag"), etag);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_negative_is_asked_once() {
    let world = World::with(|config| config.negative_ms = 3_000).await;
    world.origin.publish(id(1), 5);
    world.get(&world.list()).await;
    let missing = world.chunk(3);
    let first = world.get(&missing).await;
    assert_eq!((first.status, first.cache()), (404, "fwd=miss"));
    let fetches = world.origin.fetches(|_| true);
    let second = world.get(&missing).await;
    assert_eq!((second.status, second.cache()), (404, NEGATIVE));
    assert_eq!(world.origin.fetches(|_| true), fetches);
    // And not believed for ever.
    world.until(&missing, |answer| answer.cache() == "fwd=miss").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_named_by_another_edge_is_found() {
    let world = World::start().await;
    world.origin.publish(id(1), 7);
    let answer = world.get(&world.chunk(7)).await;
    assert_eq!(answer.text(), format!("chunk 7 of {}", id(1)));
    assert_eq!(world.origin.list_fetches(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_proves_what_the_directory_does_not_say_yet() {
    let world = World::start().await;
    let path = format!("/v/{}/{}/chunklist.m3u8", token(id(5), viewer(1), HOUR), id(5));
    let (edge, asked) = (world.edge, path.clone());
    let waiting = tokio::spawn(async move { support::client::get(edge, &asked).await });
    // It is waiting once its viewer counts.
    world.until("/metrics", |it| it.text().contains("spyglass_viewers{tier=\"hls\"} 1")).await;
    world.origin.enter(id(5), BroadcastState::Live, true, Duration::from_secs(1));
    world.origin.publish(id(5), 1);
    let answer = waiting.await.unwrap();
    assert_eq!((answer.status, answer.header("cache-control")), (200, "private, max-age=1"));
}

/// Until control counts these.
async fn told(world: &World, viewers: &[ViewerId]) {
    let viewers: Vec<_> = viewers.iter().map(ViewerId::to_string).collect();
    let telling = async {
        while world.control.viewers() != viewers {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), telling).await.expect("control is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joined_viewer_counts_while_it_asks() {
    let world = World::start().await;
    let path = format!("/v/{}/{}/chunklist.m3u8", token(id(1), viewer(1), HOUR), id(1));
    for _ in 0..3 {
        assert_eq!(world.get(&path).await.status, 200);
    }
    assert_eq!(world.get(&world.list()).await.status, 200);
    let one = |it: &Answer| it.text().contains("spyglass_viewers{tier=\"hls\"} 1");
    world.until("/metrics", one).await;
    told(&world, &[viewer(1)]).await;
    // Three target durations without a request.
    world.until("/metrics", |it| it.text().contains("spyglass_viewers{tier=\"hls\"} 0")).await;
    told(&world, &[]).await;
    let metrics = world.metrics().await;
    assert!(!metrics.contains("v4.public"), "a token in the metrics");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kicked_viewer_is_cut_and_refused_and_nobody_else_is() {
    let world = World::start().await;
    world.origin.put(id(1), 2, Bytes::from(vec![5; 32 << 20]));
    world.until(&world.list(), |answer| answer.text().contains("revision 2\n")).await;
    assert_eq!(world.get(&world.chunk(2)).await.status, 200);
    let paths = [1, 2].map(|who| format!("/v/{}/{}/", token(id(1), viewer(who), HOUR), id(1)));
    // Both are in the middle of a chunk of which no socket holds all.
    let mut streams = Vec::new();
    for path in &paths {
        let mut stream = TcpStream::connect(world.edge).await.unwrap();
        let request = format!("GET {path}1-2.m4s HTTP/1.1\r\nhost: edge\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut begin = [0; 15];
        stream.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200 OK");
        streams.push(stream);
    }
    let kicked = Stopwatch::start();
    world.control.revoke(id(1), viewer(1));
    let list = format!("{}chunklist.m3u8", paths[0]);
    world.until(&list, |answer| answer.status == 403).await;
    assert!(kicked.elapsed() < Duration::from_secs(1), "{:?}", kicked.elapsed());
    let mut sink = vec![0; 1 << 20];
    let mut lengths = [0usize; 2];
    while let Ok(read @ 1..) = streams[0].read(&mut sink).await {
        lengths[0] += read;
    }
    assert!(lengths[0] < 32 << 20);
    while lengths[1] < 32 << 20 {
        let read = streams[1].read(&mut sink).await.unwrap();
        assert_ne!(read, 0);
        lengths[1] += read;
    }
    let refused = world.get(&format!("{}chunklist.m3u8", paths[0])).await;
    assert_eq!((refused.status, refused.cache()), (403, NEGATIVE));
    assert_eq!(world.get(&format!("{}chunklist.m3u8", paths[1])).await.status, 200);
    // An origin may be the one who knows.
    world.origin.revoke(id(1), viewer(2));
    world.until(&format!("{}chunklist.m3u8", paths[1]), |answer| answer.status == 403).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kicked_viewer_who_waits_is_refused_at_once() {
    let world = World::start().await;
    world.origin.enter(id(4), BroadcastState::Created, false, Duration::from_secs(1));
    let path = format!("/v/{}/{}/chunklist.m3u8", token(id(4), viewer(1), HOUR), id(4));
    let edge = world.edge;
    let waiting = tokio::spawn(async move { support::client::get(edge, &path).await });
    world.origin.of_interest(id(4)).await;
    let kicked = Stopwatch::start();
    world.control.revoke(id(4), viewer(1));
    assert_eq!(waiting.await.unwrap().status, 403);
    assert!(kicked.elapsed() < Duration::from_secs(1), "{:?}", kicked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_ends_its_connection_only() {
    let world = World::with(|config| config.header_seconds = 1).await;
    let many: String = (0..65).map(|i| format!("x-{i}: y\r\n")).collect();
    let long = "a".repeat(20_000);
    for bytes in [
        "\0\0\0\0".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"),
        format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"),
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_owned(),
        // A header that never ends, a request that never comes, half a preface.
        "GET / HTTP/1.1\r\nhost: a\r\n".to_owned(),
        String::new(),
        "PRI * HTTP/2.0\r\n\r\nSM".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrubbish that is no frame".to_owned(),
    ] {
        let answer = raw(world.edge, bytes.as_bytes()).await;
        assert!(!answer.contains("200 OK"), "{bytes:.60}: {answer}");
    }
    assert_eq!(world.get(&world.list()).await.status, 200);
    assert!(world.metrics().await.contains("spyglass_panics_total 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_edge_lets_answers_end_and_closes() {
    let mut world = World::start().await;
    world.get(&world.list()).await;
    world.origin.delay(Duration::from_millis(300));
    let (edge, chunk) = (world.edge, world.chunk(1));
    let mut idle = Connection::open(edge).await;
    idle.get("/healthz").await.unwrap();
    let before = world.origin.fetches(|_| true);
    let answering = tokio::spawn(async move { support::client::get(edge, &chunk).await });
    world.origin.fetched(before + 1).await;
    let stopped = Stopwatch::start();
    world.stop_edge().await;
    assert_eq!(answering.await.unwrap().status, 200);
    assert!(stopped.elapsed() < Duration::from_secs(2), "{:?}", stopped.elapsed());
    assert!(idle.get("/healthz").await.is_err());
}
