//! How many connections control has, and for how long.

mod support;

use std::time::Duration;

use support::{OPERATOR, World, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// HTTP/2's preface and empty SETTINGS (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

async fn connect(world: &World, first: &[u8]) -> TcpStream {
    let address = world.at.http.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(first).await.unwrap();
    stream
}

/// Reads what comes until the peer closes; `false` when it has not in time.
async fn closes(stream: &mut TcpStream, within: Duration) -> bool {
    let mut read = Vec::new();
    tokio::time::timeout(within, stream.read_to_end(&mut read)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_and_a_stream_of_events_is_not() {
    let world = World::with(|config| config.idle_seconds = 1).await;
    let ask =
        format!("GET /v1/events HTTP/1.1\r\nhost: c\r\nauthorization: Bearer {OPERATOR}\r\n\r\n");
    let mut events = connect(&world, ask.as_bytes()).await;
    let mut head = [0; 12];
    events.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    // Control would ping it after 20 s, for ever if it answered.
    let mut idle = connect(&world, PREFACE).await;
    assert!(closes(&mut idle, Duration::from_secs(15)).await, "idle, and still open");
    assert!(!closes(&mut events, Duration::from_secs(2)).await, "the events were cut");
    let metrics = world.anyone("GET", "/metrics", serde_json::Value::Null).await.expect(200).body;
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    assert!(metrics.contains("closed_connections_total{reason=\"idle\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_host_is_named() {
    let world = World::with(|_| {}).await;
    for (status, hosts) in [("400", ""), ("400", "host: a\r\nhost: a\r\n"), ("200", "host: a\r\n")]
    {
        let asked = format!("GET /healthz HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
        let mut stream = connect(&world, asked.as_bytes()).await;
        let mut answer = String::new();
        let reading = stream.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(5), reading).await.expect("closed").unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{asked}: {answer}");
        assert_eq!(answer.contains("Host header"), status == "400", "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_a_connection_is_closed_and_a_place_is_given_back() {
    let world = World::with(|config| config.max_connections = 2).await;
    let held = [connect(&world, PREFACE).await, connect(&world, PREFACE).await];
    let mut refused = connect(&world, b"").await;
    assert!(closes(&mut refused, Duration::from_secs(5)).await, "a third connection");
    drop(held);
    eventually("there is a place again", async || {
        let mut stream = connect(&world, b"GET /healthz HTTP/1.0\r\n\r\n").await;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.ok().filter(|_| head.ends_with(b"200"))
    })
    .await;
}
