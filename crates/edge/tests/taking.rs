//! Who asks by HTTP/2 and does not take what it asked for is cut; who takes it
//! slowly, or waits for upstream, is not.

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::{Fault, World, id};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const SECOND: Duration = Duration::from_secs(1);

const LENGTH: usize = 430_000;

/// Checks come at the pace of the header's time limit.
async fn world() -> World {
    let world = World::with(|config| (config.header_seconds, config.write_seconds) = (1, 2)).await;
    world.origin.put(id(1), 2, Bytes::from(vec![5; LENGTH]));
    world.until(&world.list(), |answer| answer.text().contains("revision 2\n")).await;
    world
}

/// A viewer whose streams may get `window` bytes before it has read any; what
/// comes second ends with the connection.
async fn open(world: &World, window: u32) -> (SendRequest<Empty<Bytes>>, JoinHandle<()>) {
    let stream = TokioIo::new(TcpStream::connect(world.edge).await.unwrap());
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(window);
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    let ended = tokio::spawn(async move {
        // How it ends is not the question.
        let _ = connection.await;
    });
    (sender, ended)
}

fn chunk(world: &World) -> Request<Empty<Bytes>> {
    Request::get(format!("http://edge{}", world.chunk(2))).body(Empty::new()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_opens_its_window_is_cut() {
    let world = world().await;
    // Nothing fits, so that the edge keeps the bodies; one byte fits, so that
    // they are over and hyper keeps the bytes.
    for (window, cut) in [(0, 1), (1, 2)] {
        let (mut sender, ended) = open(&world, window).await;
        let asked = Instant::now();
        let mut answers = Vec::new();
        for _ in 0..5 {
            sender.ready().await.unwrap();
            let answer = sender.send_request(chunk(&world)).await.unwrap();
            assert_eq!(answer.status(), 200);
            answers.push(answer);
        }
        tokio::time::timeout(10 * SECOND, ended).await.expect("cut").unwrap();
        assert!(asked.elapsed() >= SECOND, "{:?}", asked.elapsed());
        let metric = format!(r#"reason="slow"}} {cut}"#);
        world.until("/metrics", |answer| answer.text().contains(&metric)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_slowly_or_waits_for_upstream_gets_all() {
    let world = world().await;
    world.origin.fault(Fault::Stall);
    let (mut sender, ended) = open(&world, 16_384).await;
    let mut body = sender.send_request(chunk(&world)).await.unwrap().into_body();
    let mut length = 0;
    let asked = Instant::now();
    // The rest is not there yet.
    while let Ok(frame) = tokio::time::timeout(3 * SECOND, body.frame()).await {
        length += frame.unwrap().unwrap().into_data().unwrap().len();
    }
    assert!(length < LENGTH);
    world.origin.fault(Fault::None);
    while let Some(frame) = body.frame().await {
        length += frame.unwrap().into_data().unwrap().len();
        tokio::time::sleep(SECOND / 8).await;
    }
    assert_eq!(length, LENGTH);
    assert!(asked.elapsed() > 5 * SECOND && !ended.is_finished());
}
