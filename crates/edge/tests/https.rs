//! The same answers over TLS, by HTTP/1.1 and HTTP/2.

mod support;

use std::time::Duration;

use support::World;
use support::client::get_tls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn world() -> World {
    World::with(|config| {
        config.https = Some("127.0.0.1:0".parse().unwrap());
        config.header_seconds = 1;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_protocol_has_the_same_answers() {
    let world = world().await;
    let https = world.https.unwrap();
    let certificate = std::fs::read(world.state.path().join("development-cert.pem")).unwrap();
    world.until(&world.list(), |answer| answer.status == 200).await;
    for path in [world.list(), world.chunk(1), world.chunk(99), "/nothing".to_owned()] {
        let plain = world.get(&path).await;
        for (offered, expected) in
            [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"][..], "http/1.1"), (&[][..], "")]
        {
            let (answer, agreed) = get_tls(https, &certificate, offered, &path).await;
            assert_eq!(agreed, expected);
            assert_eq!((answer.status, &answer.body), (plain.status, &plain.body), "{path}");
            for name in ["etag", "cache-control", "vary", "content-type"] {
                assert_eq!(answer.header(name), plain.header(name), "{path} {name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_shake_hands_is_cut() {
    let world = world().await;
    for bytes in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"] {
        let mut stream = TcpStream::connect(world.https.unwrap()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let cut = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer));
        // An error is a reset, which is an end as well.
        let _ = cut.await.expect("the edge closes");
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    let metrics = world.metrics().await;
    assert!(
        metrics.contains(r#"reason="tls"} 1"#) && metrics.contains(r#"reason="no_request"} 2"#),
        "{metrics}"
    );
    assert_eq!(world.get(&world.list()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_http3_nothing_is_said_of_it_and_the_udp_port_is_free() {
    let world = World::with(|config| {
        config.https = Some("127.0.0.1:0".parse().unwrap());
        config.http3 = false;
    })
    .await;
    let https = world.https.unwrap();
    let certificate = std::fs::read(world.state.path().join("development-cert.pem")).unwrap();
    let (answer, _) = get_tls(https, &certificate, &["h2"], "/healthz").await;
    assert_eq!((answer.status, answer.header("alt-svc")), (200, ""));
    std::net::UdpSocket::bind(https).unwrap();
}
