//! Webhooks against receivers that verify, fail, hang and go.

mod support;

use std::collections::HashSet;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use spyglass_api::control::Role;
use support::{OPERATOR, World, eventually, text};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Tells what came, head and body.
type Came = mpsc::Receiver<(String, String)>;

/// Answers each request with the next status, the last again and again; 0 says
/// nothing at all. What came is passed on.
async fn receiver(statuses: &[u16]) -> (String, Came) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (came, requests) = mpsc::channel(100);
    tokio::spawn(receive(listener, statuses.to_vec(), came));
    (url, requests)
}

async fn receive(listener: TcpListener, statuses: Vec<u16>, came: mpsc::Sender<(String, String)>) {
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
}

/// The broadcast that the next request is about, and the message's id. A
/// message that was not sent at once is sent again after 4 s at the earliest.
async fn told(came: &mut Came, within: Duration) -> (String, String) {
    let (head, body) = timeout(within, came.recv()).await.expect("a message in time").unwrap();
    let body: Value = serde_json::from_str(&body).unwrap();
    (text(&body["data"]["broadcast"]), header(&head, "webhook-id"))
}

const AT_ONCE: Duration = Duration::from_secs(3);
const LATER: Duration = Duration::from_secs(15);

/// Whether a receiver that knows the secret believes this: HMAC-SHA256 (RFC
/// 2104) over id, time and body, and a time that is now.
fn believes(secret: &str, head: &str, body: &str) -> bool {
    let key = BASE64.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let block = |with: u8| {
        [0; 64].map({
            let mut key = key.iter();
            move |_: u8| key.next().copied().unwrap_or(0) ^ with
        })
    };
    let (id, time) = (header(head, "webhook-id"), header(head, "webhook-timestamp"));
    let inner = Sha256::digest([&block(0x36), format!("{id}.{time}.{body}").as_bytes()].concat());
    let outer = Sha256::digest([&block(0x5c), &inner[..]].concat());
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    let signatures = header(head, "webhook-signature");
    now.abs_diff(time.parse().unwrap()) < 300
        && signatures.split(' ').any(|one| one == format!("v1,{}", BASE64.encode(outer)))
}

fn header(head: &str, name: &str) -> String {
    let line = head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    });
    line.unwrap_or_default()
}

/// What control says of a hook.
async fn shown(world: &World, id: &Value) -> Value {
    let all = world.operator("GET", "/v1/webhooks", Value::Null).await.expect(200).json();
    let hooks = all["webhooks"].as_array().unwrap();
    hooks.iter().find(|hook| hook["id"] == *id).unwrap().clone()
}

async fn created(world: &World) -> String {
    text(&world.create(OPERATOR, json!({"title": "told"})).await["id"])
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

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_can_tell_what_is_ours() {
    let world = World::start().await;
    let _origin = world.node("origin-1", Role::Origin, None).await;
    let (url, mut came) = receiver(&[200]).await;
    let made = hook(&world, &url, json!([])).await;
    created(&world).await;
    let (head, body) = timeout(LATER, came.recv()).await.unwrap().unwrap();
    let secret = text(&made["secret"]);
    assert!(believes(&secret, &head, &body), "{head}");
    assert!(!believes(&secret, &head, &body.replace("told", "lied")));
    let id = header(&head, "webhook-id");
    assert!(!believes(&secret, &head.replace(&id, "evt_other"), &body));
    let other = text(&hook(&world, &url, json!([])).await["secret"]);
    assert!(!believes(&other, &head, &body));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_comes_back_gets_what_it_missed_once_and_nobody_waits_for_it() {
    let world = World::start().await;
    let _origin = world.node("origin-1", Role::Origin, None).await;
    // Here no other test takes its port while it is down.
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (came, mut late) = mpsc::channel(100);
    let up = tokio::spawn(receive(listener, vec![200], came.clone()));
    let (url, mut alive) = receiver(&[200]).await;
    let events = json!(["broadcast.created"]);
    let made = hook(&world, &format!("http://{at}/"), events.clone()).await;
    hook(&world, &url, events).await;
    let mut expected = vec![created(&world).await];
    let mut got = vec![told(&mut late, LATER).await];
    assert_eq!(told(&mut alive, LATER).await.0, expected[0]);

    up.abort();
    assert!(up.await.unwrap_err().is_cancelled());
    for _ in 0..2 {
        let id = created(&world).await;
        assert_eq!(told(&mut alive, AT_ONCE).await.0, id);
        expected.push(id);
    }
    eventually("the failure is told", || async {
        shown(&world, &made["id"]).await["last_error"].is_string().then_some(())
    })
    .await;
    let listener = TcpListener::bind(at).await.unwrap();
    tokio::spawn(receive(listener, vec![200], came));
    // What is new does not wait for what is repeated.
    expected.push(created(&world).await);
    for _ in 0..3 {
        got.push(told(&mut late, LATER).await);
    }
    eventually("all are counted", || async {
        (shown(&world, &made["id"]).await["delivered"] == 4).then_some(())
    })
    .await;
    assert!(late.try_recv().is_err(), "a message came twice");
    let ids: HashSet<&String> = got.iter().map(|(_, id)| id).collect();
    assert_eq!(ids.len(), 4, "{got:?}");
    let mut broadcasts: Vec<String> = got.iter().map(|(broadcast, _)| broadcast.clone()).collect();
    broadcasts.sort();
    expected.sort();
    assert_eq!(broadcasts, expected);
}

/// Messages that this control has delivered.
async fn delivered(world: &World) -> bool {
    let metrics = world.anyone("GET", "/metrics", Value::Null).await.expect(200).body;
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    let mut lines = metrics.lines().filter(|line| line.starts_with("spyglass_control_webhooks"));
    lines.any(|line| line.contains("\"delivered\"") && !line.ends_with(" 0"))
}

#[tokio::test(flavor = "multi_thread")]
async fn another_control_goes_on_delivering() {
    let (one, two) = World::two(|_| {}).await;
    let _origin = one.node_of_both(&two, "origin-1", Role::Origin).await;
    let (url, mut came) = receiver(&[200]).await;
    let made = hook(&one, &url, json!(["broadcast.created"])).await;
    let first = created(&one).await;
    let (broadcast, id) = told(&mut came, LATER).await;
    assert_eq!(broadcast, first);
    eventually("it is kept that it was delivered", || async {
        (shown(&two, &made["id"]).await["delivered"] == 1).then_some(())
    })
    .await;
    let (delivers, other) = match (delivered(&one).await, delivered(&two).await) {
        (true, false) => (one, two),
        (false, true) => (two, one),
        both => panic!("one of two delivers: {both:?}"),
    };
    let before = created(&delivers).await;
    delivers.stop().await;
    let after = created(&other).await;
    let mut got = HashSet::new();
    while !(got.iter().any(|(broadcast, _)| *broadcast == before)
        && got.iter().any(|(broadcast, _)| *broadcast == after))
    {
        got.insert(told(&mut came, LATER).await);
    }
    // The one under way when it stopped may come again, under the same id.
    assert_eq!(got.len(), 2, "{got:?}");
    assert!(!got.contains(&(first, id)), "what was kept as delivered does not come again");
    eventually("the other has delivered", || async { delivered(&other).await.then_some(()) }).await;
}
