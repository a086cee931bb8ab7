//! The control that delivers webhooks is killed: the other takes over within the
//! time of its lease, and what happened meanwhile is told.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use spyglass_tests::eventually;
use spyglass_tests::several::Several;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// A lease is 10 s; the rest is for a busy machine.
const LATER: Duration = Duration::from_secs(30);

/// Answers 200 to everything and passes on what came.
async fn receive(listener: TcpListener, came: mpsc::Sender<String>) {
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"}") {
            if socket.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                break;
            }
        }
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        if came.send(String::from_utf8_lossy(&bytes).into_owned()).await.is_err() {
            return;
        }
    }
}

/// Waits until somebody is told of this broadcast.
async fn told_of(came: &mut mpsc::Receiver<String>, id: &str) {
    let told = async { while !came.recv().await.expect("messages go on").contains(id) {} };
    tokio::time::timeout(LATER, told).await.expect("told in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_outlive_their_control() {
    let mut system = Several::start(&[]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (came, mut messages) = mpsc::channel(100);
    tokio::spawn(receive(listener, came));
    let body = json!({"url": url, "events": ["broadcast.created"]});
    system.operator(0, Method::POST, "/v1/webhooks", body).await.expect(201);
    let first = system.create(0, "before").await;
    told_of(&mut messages, &first.id).await;

    // Counted once the receiver's answer is there, which is a moment later.
    let holder = eventually("one of them delivers", Duration::from_secs(10), || async {
        for n in 0..2 {
            let metrics = system.client.get(&system.url(n, "/metrics")).await.expect(200).text();
            let mut lines =
                metrics.lines().filter(|it| it.starts_with("spyglass_control_webhooks"));
            if lines.any(|it| it.contains("\"delivered\"") && !it.ends_with(" 0")) {
                return Some(n);
            }
        }
        None
    })
    .await;
    system.controls[holder].kill();
    let other = 1 - holder;
    let after = system.create(other, "after").await;
    told_of(&mut messages, &after.id).await;
    let hooks = system.operator(other, Method::GET, "/v1/webhooks", Value::Null).await;
    assert_eq!(hooks.expect(200).json()["webhooks"].as_array().unwrap().len(), 1);
}
