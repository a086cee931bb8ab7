//! The same answers over QUIC, and what a hostile or slow client gets.

mod support;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use h3::error::Code;
use http::Method;
use spyglass_daemon::state::StateDir;
use spyglass_daemon::tls::Identity;
use spyglass_edge::Config;
use spyglass_media::{Position, ViewerId};
use spyglass_testkit::stopwatch::Stopwatch;
use support::client::{ask, get_tls};
use support::http3::{Http3, read};
use support::{World, id};
use tokio::net::UdpSocket;

const SECOND: Duration = Duration::from_secs(1);

async fn world() -> (World, Vec<u8>) {
    with(|_| {}).await
}

async fn with(change: impl FnOnce(&mut Config)) -> (World, Vec<u8>) {
    let world = World::with(|config| {
        config.https = Some("127.0.0.1:0".parse().unwrap());
        change(config);
    })
    .await;
    world.until(&world.list(), |answer| answer.status == 200).await;
    let certificate = std::fs::read(world.state.path().join("development-cert.pem")).unwrap();
    (world, certificate)
}

/// Where a low-latency broadcast stands, and what blocks there.
async fn waiting(world: &World) -> String {
    // So that nobody who waits is refused while the test takes its time.
    world.origin.live(id(1), 30 * SECOND);
    world.origin.move_to(id(1), Position { sequence: 7, part: Some(0) });
    world.until(&world.list(), |answer| answer.text().contains("revision 2\n")).await;
    format!("{}?_HLS_msn=7&_HLS_part=1", world.list())
}

async fn gauge(world: &World, name: &str, value: &str) {
    let line = format!("\n{name} {value}\n");
    world.until("/metrics", |answer| answer.text().contains(&line)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_the_same_as_over_tcp() {
    let (world, certificate) = world().await;
    let https = world.https.unwrap();
    let chunk = Bytes::from(vec![5; 430_000]);
    world.origin.put(id(1), 2, chunk);
    world.until(&world.list(), |answer| answer.text().contains("revision 2\n")).await;
    let mut client = Http3::open(https, &certificate).await;
    let etag = world.get(&world.chunk(2)).await.header("etag").to_owned();
    let ranged: &[(&str, &str)] = &[("range", "bytes=2-4")];
    let tagged: &[(&str, &str)] = &[("if-none-match", &etag)];
    let token = support::token(id(2), ViewerId::from_random([3; 16]), SECOND * 60);
    let foreign = format!("/v/{token}/{}/chunklist.m3u8", id(1));
    for (method, path, headers) in [
        (Method::GET, world.list(), &[][..]),
        (Method::GET, world.list(), &[("accept-encoding", "gzip")]),
        (Method::GET, world.chunk(2), &[]),
        (Method::GET, world.chunk(2), ranged),
        (Method::GET, world.chunk(2), tagged),
        (Method::HEAD, world.chunk(2), &[]),
        (Method::OPTIONS, world.chunk(2), &[]),
        (Method::POST, world.chunk(2), &[]),
        (Method::GET, world.chunk(2), &[("content-length", "5")]),
        (Method::GET, world.chunk(99), &[]),
        (Method::GET, format!("{}?_HLS_msn=x", world.list()), &[]),
        (Method::GET, foreign, &[]),
        (Method::GET, "/nothing".to_owned(), &[]),
        (Method::GET, "/healthz".to_owned(), &[]),
        (Method::HEAD, "/healthz".to_owned(), &[]),
    ] {
        let plain = ask(world.edge, method.clone(), &path, headers).await;
        let answer = client.ask(method.clone(), &path, headers).await.unwrap();
        assert_eq!((answer.status, &answer.body), (plain.status, &plain.body), "{method} {path}");
        let names = plain.headers.keys().chain(answer.headers.keys());
        // The time may have moved on; HTTP/3 has no `Connection`.
        let other = ["age", "date", "connection"];
        for name in names.filter(|name| !other.contains(&name.as_str())) {
            assert_eq!(answer.header(name.as_str()), plain.header(name.as_str()), "{path} {name}");
        }
        assert!(answer.header("date").ends_with(" GMT"), "{:?}", answer.headers);
        let aged = [&plain, &answer].map(|it| it.headers.contains_key("age"));
        assert_eq!(aged[0], aged[1], "{path}");
        assert!(!answer.headers.contains_key("connection"), "{path}");
    }
    assert_eq!(client.get(&world.list()).await.header("priority"), "u=1");
    assert_eq!(client.get(&world.chunk(2)).await.header("priority"), "u=3");
    let (answer, _) = get_tls(https, &certificate, &["h2"], &world.list()).await;
    assert_eq!(answer.header("alt-svc"), format!("h3=\":{}\"; ma=86400", https.port()));
    assert_eq!(world.get(&world.list()).await.header("alt-svc"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_reload_is_released_and_one_that_is_cancelled_leaves_nothing() {
    let (world, certificate) = world().await;
    let path = waiting(&world).await;
    let mut client = Http3::open(world.https.unwrap(), &certificate).await;
    let mut stays = client.begin(Method::GET, &path, &[]).await.unwrap();
    let mut leaves = client.begin(Method::GET, &path, &[]).await.unwrap();
    gauge(&world, "spyglass_edge_requests_waiting", "2").await;
    leaves.stop_sending(Code::H3_REQUEST_CANCELLED);
    gauge(&world, "spyglass_edge_requests_waiting", "1").await;
    world.origin.move_to(id(1), Position { sequence: 7, part: Some(1) });
    let answer = read(&mut stays).await.unwrap();
    assert_eq!((answer.status, answer.header("cache-control")), (200, "public, max-age=180"));
    // The connection goes, and with it what waits on it.
    let next = path.replace("part=1", "part=2");
    let _waits = client.begin(Method::GET, &next, &[]).await.unwrap();
    gauge(&world, "spyglass_edge_requests_waiting", "1").await;
    client.connection.close(0u32.into(), b"");
    gauge(&world, "spyglass_edge_requests_waiting", "0").await;
    gauge(&world, "spyglass_edge_connections", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_requests_wait_and_the_next_waits_for_its_turn() {
    let (world, certificate) = world().await;
    let path = waiting(&world).await;
    let mut client = Http3::open(world.https.unwrap(), &certificate).await;
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(client.begin(Method::GET, &path, &[]).await.unwrap());
    }
    gauge(&world, "spyglass_edge_requests_waiting", "100").await;
    let next = client.begin(Method::GET, &path, &[]);
    assert!(tokio::time::timeout(SECOND / 4, next).await.is_err());
    world.origin.move_to(id(1), Position { sequence: 7, part: Some(1) });
    for stream in &mut streams {
        assert_eq!(read(stream).await.unwrap().status, 200);
    }
    assert_eq!(client.get(&path).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_header_is_refused_and_what_never_becomes_one_is_cut() {
    let (world, certificate) = with(|config| config.header_seconds = 2).await;
    let https = world.https.unwrap();
    let mut client = Http3::open(https, &certificate).await;
    let long = "x".repeat(17 * 1024);
    // The edge says how much it reads; a client that has heard it does not send
    // more, and another is refused.
    let refused = client.ask(Method::GET, &world.list(), &[("x-long", &long)]).await;
    assert!(refused.is_err() || refused.unwrap().status == 431);
    let names: Vec<String> = (0..65).map(|i| format!("x-{i}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    assert_eq!(client.ask(Method::GET, &world.list(), &many).await.unwrap().status, 431);
    assert_eq!(client.get(&world.list()).await.status, 200);
    // A header frame of 1 MB, announced and begun.
    let (mut send, _receive) = client.connection.open_bi().await.unwrap();
    send.write_all(&[1, 0x80, 0x10, 0, 0]).await.unwrap();
    let filler = vec![0; 1 << 20];
    let pushed = tokio::time::timeout(10 * SECOND, send.write_all(&filler)).await;
    assert!(pushed.expect("the edge stops reading it").is_err());
    // Who has not heard it is answered: `GET`, `https`, `/`, and the same field over
    // and over, literally (RFC 9204 section 4.5).
    let ignorant = Http3::open(https, &certificate).await;
    let (mut send, mut receive) = ignorant.connection.open_bi().await.unwrap();
    let mut fields = vec![0, 0, 0xc0 | 17, 0xc0 | 23, 0xc0 | 1];
    while fields.len() < 15_000 {
        fields.extend_from_slice(b"\x27\x00x-field\x01y");
    }
    let length = (fields.len() as u16 | 1 << 14).to_be_bytes();
    send.write_all(&[&[1][..], &length, &fields].concat()).await.unwrap();
    send.finish().unwrap();
    let answer = tokio::time::timeout(10 * SECOND, receive.read_to_end(1 << 16)).await;
    assert!(!answer.expect("it ends").expect("it ends well").is_empty());
    // It cost one stream or connection, and nobody else anything.
    let mut other = Http3::open(https, &certificate).await;
    assert_eq!(other.get(&world.list()).await.status, 200);
    // Who asks for nothing is cut.
    let idle = Http3::open(https, &certificate).await;
    tokio::time::timeout(10 * SECOND, idle.connection.closed()).await.expect("cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_cut() {
    let (world, certificate) = with(|config| config.write_seconds = 1).await;
    world.origin.put(id(1), 2, Bytes::from(vec![5; 4_000_000]));
    world.until(&world.list(), |answer| answer.text().contains("revision 2\n")).await;
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(16_384u32.into()).receive_window(65_536u32.into());
    let mut client = Http3::with(world.https.unwrap(), &certificate, transport).await;
    let _stream = client.begin(Method::GET, &world.chunk(2), &[]).await.unwrap();
    let asked = Instant::now();
    tokio::time::timeout(10 * SECOND, client.connection.closed()).await.expect("cut");
    assert!(asked.elapsed() > SECOND / 2);
    world.until("/metrics", |answer| answer.text().contains(r#"reason="slow"} 1"#)).await;
}

/// All of the answer is with QUIC at once, and longer on its way than a viewer
/// may take nothing.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_gets_all() {
    let (world, certificate) = with(|config| config.idle_seconds = 2).await;
    let size = 1_500_000;
    world.origin.put(id(1), 2, Bytes::from(vec![5; size]));
    world.until(&world.list(), |answer| answer.text().contains("revision 2\n")).await;
    assert_eq!(world.get(&world.chunk(2)).await.body.len(), size);
    let relay = narrow(world.https.unwrap(), 1).await;
    let mut client = Http3::open(relay, &certificate).await;
    let asked = Instant::now();
    assert_eq!(client.get(&world.chunk(2)).await.body.len(), size);
    assert!(asked.elapsed() > 4 * SECOND, "{:?}", asked.elapsed());
}

/// An end without an answer is none: the stream or the connection breaks.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_an_answer_does_not_end_well() {
    let (world, certificate) = world().await;
    for bytes in [
        &[][..],
        // A header frame that breaks off, and one that is no header.
        &[0x01, 0x10, 0x00, 0x00],
        &[0x01, 0x04, 0xff, 0xff, 0xff, 0xff],
        // A frame of HTTP/2, and a promise that only servers make.
        &[0x06, 0x01, 0x00],
        &[0x05, 0x02, 0x00, 0x00],
    ] {
        let client = Http3::open(world.https.unwrap(), &certificate).await;
        let (mut sending, mut receiving) = client.connection.open_bi().await.unwrap();
        sending.write_all(bytes).await.unwrap();
        sending.finish().unwrap();
        let answer = tokio::time::timeout(10 * SECOND, receiving.read_to_end(1 << 20)).await;
        let answer = answer.expect("it ends");
        assert!(answer.is_err(), "{bytes:?}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kicked_viewer_is_cut_within_a_second() {
    let (world, certificate) = world().await;
    waiting(&world).await;
    let viewer = ViewerId::from_random([3; 16]);
    let token = support::token(id(1), viewer, SECOND * 60);
    let path = format!("/v/{token}/{}/chunklist.m3u8", id(1));
    let mut client = Http3::open(world.https.unwrap(), &certificate).await;
    assert_eq!(client.get(&path).await.status, 200);
    let blocking = format!("{path}?_HLS_msn=7&_HLS_part=1");
    let mut waits = client.begin(Method::GET, &blocking, &[]).await.unwrap();
    gauge(&world, "spyglass_edge_requests_waiting", "1").await;
    let kicked = Stopwatch::start();
    world.control.revoke(id(1), viewer);
    let answer = read(&mut waits).await.unwrap();
    assert_eq!(answer.status, 403);
    assert!(kicked.elapsed() < SECOND, "{:?}", kicked.elapsed());
    tokio::time::timeout(10 * SECOND, client.connection.closed()).await.expect("cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_stops_lets_answers_end() {
    let (mut world, certificate) = world().await;
    let https = world.https.unwrap();
    let size = 500_000;
    world.origin.put(id(1), 2, Bytes::from(vec![5; size]));
    world.until(&world.list(), |answer| answer.text().contains("revision 2\n")).await;
    let mut idle = Http3::open(https, &certificate).await;
    assert_eq!(idle.get(&world.list()).await.status, 200);
    // All of its answer is with the edge's QUIC when the edge stops, and most of
    // it not with the viewer, who begins to read only then.
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(16_384u32.into());
    let mut busy = Http3::with(https, &certificate, transport).await;
    let mut stream = busy.begin(Method::GET, &world.chunk(2), &[]).await.unwrap();
    let head = stream.recv_response().await.unwrap();
    assert_eq!(head.status(), 200);
    let stopped = Stopwatch::start();
    let reading = async {
        tokio::time::timeout(3 * SECOND, idle.connection.closed()).await.expect("closed at once");
        let mut length = 0;
        while let Some(bytes) = stream.recv_data().await.unwrap() {
            length += bytes.remaining();
        }
        assert_eq!(length, size);
        tokio::time::timeout(3 * SECOND, busy.connection.closed()).await.expect("closed after it");
    };
    tokio::join!(world.stop_edge(), reading);
    assert!(stopped.elapsed() < 2 * SECOND, "{:?}", stopped.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_more_urgent_overtakes_the_rest_of_its_connection() {
    let (world, certificate) = world().await;
    world.origin.put(id(1), 2, Bytes::from(vec![5; 900_000]));
    world.until(&world.list(), |answer| answer.text().contains("revision 2\n")).await;
    world.origin.put(id(1), 3, Bytes::from(vec![6; 450_000]));
    world.until(&world.list(), |answer| answer.text().contains("revision 3\n")).await;
    // Both are here: nothing is waited for but the way.
    assert_eq!(world.get(&world.chunk(2)).await.body.len(), 900_000);
    assert_eq!(world.get(&world.chunk(3)).await.body.len(), 450_000);
    let urgent: &[(&str, &str)] = &[("priority", "u=1")];
    for (headers, overtakes) in [(urgent, true), (&[][..], false)] {
        let relay = narrow(world.https.unwrap(), 4).await;
        let mut client = Http3::open(relay, &certificate).await;
        let mut first = client.begin(Method::GET, &world.chunk(2), &[]).await.unwrap();
        first.recv_response().await.unwrap();
        let of_first = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&of_first);
        let reading = tokio::spawn(async move {
            while let Ok(Some(bytes)) = first.recv_data().await {
                count.fetch_add(bytes.remaining(), Ordering::Relaxed);
            }
        });
        let mut second = client.begin(Method::GET, &world.chunk(3), headers).await.unwrap();
        let before = of_first.load(Ordering::Relaxed);
        assert_eq!(read(&mut second).await.unwrap().body.len(), 450_000);
        let of_first = of_first.load(Ordering::Relaxed) - before;
        assert_eq!(of_first < 250_000, overtakes, "{of_first} bytes of the first, {headers:?}");
        reading.abort();
    }
}

/// A way to `edge` that takes `packets` per 5 ms (about 2 Mbit/s each) towards
/// the one client who uses it and holds few: what must wait, waits at the edge.
async fn narrow(edge: SocketAddr, packets: usize) -> SocketAddr {
    let [here, there] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0"));
    let (here, there) = (here.await.unwrap(), there.await.unwrap());
    there.connect(edge).await.unwrap();
    let address = here.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut up, mut down) = (vec![0; 2_048], vec![0; 2_048]);
        let mut held = VecDeque::new();
        let mut client = None;
        let mut beat = tokio::time::interval(Duration::from_millis(5));
        loop {
            tokio::select! {
                came = here.recv_from(&mut up) => {
                    let Ok((length, from)) = came else { return };
                    client = Some(from);
                    let _ = there.send(&up[..length]).await;
                }
                came = there.recv(&mut down) => {
                    let Ok(length) = came else { return };
                    if held.len() < 32 {
                        held.push_back(down[..length].to_vec());
                    }
                }
                _ = beat.tick() => {
                    let Some(client) = client else { continue };
                    for packet in held.drain(..held.len().min(packets)) {
                        let _ = here.send_to(&packet, client).await;
                    }
                }
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_to_whoever_comes_next() {
    // As an operator's files, a certificate that the edge has not made itself.
    let made = || {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        Identity::load(None, None, &state, "").unwrap();
        let read = |name| std::fs::read(dir.path().join(name)).unwrap();
        (read("development-cert.pem"), read("development-key.pem"))
    };
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let put = |pair: &(Vec<u8>, Vec<u8>)| {
        std::fs::write(&key, &pair.1).unwrap();
        std::fs::write(&cert, &pair.0).unwrap();
    };
    let (old, new) = (made(), made());
    put(&old);
    let world = World::with(|config| {
        config.https = Some("127.0.0.1:0".parse().unwrap());
        (config.tls_cert, config.tls_key) = (Some(cert.clone()), Some(key.clone()));
    })
    .await;
    let https = world.https.unwrap();
    let mut stays = Http3::open(https, &old.0).await;
    assert!(Http3::try_open(https, &new.0).await.is_err());
    put(&new);
    let renewed = async {
        loop {
            match Http3::try_open(https, &new.0).await {
                Ok(client) => break client,
                Err(_) => tokio::time::sleep(SECOND / 4).await,
            }
        }
    };
    let mut client = tokio::time::timeout(20 * SECOND, renewed).await.expect("read again");
    assert_eq!(client.get("/healthz").await.status, 200);
    assert_eq!(stays.get("/healthz").await.status, 200);
    let (_, agreed) = get_tls(https, &new.0, &["h2"], "/healthz").await;
    assert_eq!(agreed, "h2");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_new_addresses_must_show_that_they_are_one() {
    let (world, certificate) = world().await;
    let https = world.https.unwrap();
    // Handshakes that begin and do not go on: first packets, and nobody there.
    let flood = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for packet in first_packets(100) {
        flood.send_to(&packet, https).unwrap();
    }
    world.until("/metrics", |answer| answer.text().contains(r#"reason="retry"}"#)).await;
    // Who is there has a round trip more, and is served.
    let mut client = Http3::open(https, &certificate).await;
    assert_eq!(client.get(&world.list()).await.status, 200);
}

/// What `count` clients send first to a server that does not answer.
fn first_packets(count: usize) -> Vec<Vec<u8>> {
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    nobody.set_read_timeout(Some(10 * SECOND)).unwrap();
    let address = nobody.local_addr().unwrap();
    let clients: Vec<_> = (0..count).map(|_| support::http3::knock(address)).collect();
    let mut packets = Vec::new();
    let mut packet = vec![0; 2_048];
    let mut from = std::collections::HashSet::new();
    while from.len() < clients.len() {
        let (length, client) = nobody.recv_from(&mut packet).unwrap();
        if from.insert(client) {
            packets.push(packet[..length].to_vec());
        }
    }
    packets
}
