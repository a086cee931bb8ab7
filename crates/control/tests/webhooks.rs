//! Webhooks against receivers that verify, fail, hang and go.

mod support;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde_json::{Value, json};
use spyglass_api::control::Role;
use support::{OPERATOR, World, eventually, text};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Answers each request with the next status, the last again and again; 0 says
/// nothing at all. What came is passed on, head and body.
async fn receiver(statuses: &[u16]) -> (String, mpsc::Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (came, requests) = mpsc::channel(100);
    let statuses = statuses.to_vec();
    tokio::spawn(async move {
        for at in 0.. {
            let (mut socket, _) = listener.accept().await.unwrap();
            let status = statuses[at.min(statuses.len() - 1)];
            let came = came.clone();
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                let (head, body) = loop {
                    if socket.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                        return;
                    }
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length: usize = header(head, "content-length").parse().unwrap();
                    if body.len() >= length {
                        break (head.to_owned(), body.to_owned());
                    }
                };
                let _ = came.send((head, body)).await;
                if status == 0 {
                    std::future::pending::<()>().await;
                }
                let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
                let _ = socket.write_all(answer.as_bytes()).await;
            });
        }
    });
    (url, requests)
}

fn header(head: &str, name: &str) -> String {
    let line = head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    });
    line.unwrap_or_default()
}

async fn hook(world: &World, url: &str, events: Value) -> Value {
    let body = json!({"url": url, "events": events});
    world.operator("POST", "/v1/webhooks", body).await.expect(201).json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_repeated_and_others_do_not_wait() {
    let world = World::start().await;
    let _origin = world.node("origin-1", Role::Origin, None).await;
    let (hanging, _held) = receiver(&[0]).await;
    let (gone, mut asked) = receiver(&[410]).await;
    let (fine, mut came) = receiver(&[500, 200]).await;
    hook(&world, &hanging, json!([])).await;
    let gone_id = text(&hook(&world, &gone, json!([])).await["id"]);
    let made = hook(&world, &fine, json!(["broadcast.created"])).await;
    let secret = text(&made["secret"]);
    assert_eq!(BASE64.decode(secret.strip_prefix("whsec_").unwrap()).unwrap().len(), 32);
    let id = text(&world.create(OPERATOR, json!({"title": "told"})).await["id"]);
    let (first, body) = came.recv().await.unwrap();
    let (again, same) = came.recv().await.unwrap();
    assert_eq!(header(&first, "webhook-id"), header(&again, "webhook-id"));
    assert_eq!(body, same);
    assert!(header(&again, "webhook-signature").starts_with("v1,"));
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&body["type"], &body["data"]["broadcast"]),
        (&json!("broadcast.created"), &json!(id))
    );
    asked.recv().await.unwrap();
    eventually("it is counted, and who is gone is disabled", || async {
        let all = world.operator("GET", "/v1/webhooks", Value::Null).await.expect(200).json();
        let of = |id: &Value| {
            let hooks = all["webhooks"].as_array().unwrap();
            hooks.iter().find(|hook| hook["id"] == *id).unwrap().clone()
        };
        let told = of(&made["id"])["delivered"] == 1;
        (told && of(&json!(gone_id))["state"] == "disabled").then_some(())
    })
    .await;
}
