//! A follower whose network is gone for three seconds, while two of those it
//! follows go live, is told of both when it comes back: each exactly once, in
//! order, between what came before and what comes after.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::system::{System, authority};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long the follower's network is gone, at least.
const CUT: Duration = Duration::from_secs(3);

/// The longest that anything else may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The follower's network: passes connections on until it is cut.
struct Relay {
    at: SocketAddr,
    to: SocketAddr,
    open: JoinHandle<()>,
}

impl Relay {
    /// At the address of `to`, where no other test and no client takes its port.
    async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((to.ip(), 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        Self { at, to, open: tokio::spawn(pass(listener, to)) }
    }

    /// Drops all connections; new ones are refused.
    async fn cut(&mut self) {
        self.open.abort();
        assert!((&mut self.open).await.unwrap_err().is_cancelled());
    }

    async fn mend(&mut self) {
        let listener = TcpListener::bind(self.at).await.unwrap();
        self.open = tokio::spawn(pass(listener, self.to));
    }
}

async fn pass(listener: TcpListener, to: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        connections.spawn(async move {
            let mut far = TcpStream::connect(to).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        });
    }
}

/// What a follower's app sees.
#[derive(Debug, PartialEq)]
enum Seen {
    /// The stream is open, and says where it is.
    Open,
    /// It has ended.
    Lost,
    /// It cannot be opened.
    Refused,
    /// This broadcast has started.
    Started(String),
}

/// Listens as browsers do: remembers the last id, and when the stream is lost
/// comes back with it after the time that the server asked for.
struct Follower {
    url: String,
    token: String,
    last: String,
    retry: Duration,
    sees: mpsc::Sender<Seen>,
}

impl Follower {
    async fn listen(mut self) {
        let client = Pool::builder(TokioExecutor::new()).build(HttpConnector::new());
        loop {
            let lost = self.once(&client).await;
            if self.sees.send(lost).await.is_err() {
                return;
            }
            sleep(self.retry).await;
        }
    }

    /// One connection, and how it ended.
    async fn once(&mut self, client: &Pool<HttpConnector, Full<Bytes>>) -> Seen {
        let mut request = Request::get(&self.url)
            .header("authorization", format!("Bearer {}", self.token))
            .header("connection", "close");
        if !self.last.is_empty() {
            request = request.header("last-event-id", &self.last);
        }
        let request = request.body(Full::default()).unwrap();
        let Ok(answer) = client.request(request).await else { return Seen::Refused };
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        let mut text = String::new();
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            text.push_str(std::str::from_utf8(&data).unwrap());
            while let Some((block, rest)) = text.split_once("\n\n") {
                let seen = self.block(block);
                text = rest.to_owned();
                if let Some(seen) = seen {
                    self.sees.send(seen).await.unwrap();
                }
            }
        }
        Seen::Lost
    }

    fn block(&mut self, block: &str) -> Option<Seen> {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        if let Some(id) = field("id: ") {
            id.clone_into(&mut self.last);
        }
        if let Some(retry) = field("retry: ") {
            self.retry = Duration::from_millis(retry.parse().unwrap());
            return Some(Seen::Open);
        }
        let data: Value = serde_json::from_str(field("data: ")?).unwrap();
        assert_eq!(field("event: "), Some("broadcast_started"));
        Some(Seen::Started(data["broadcast"].as_str().unwrap().to_owned()))
    }
}

/// Somebody with an account.
struct User {
    id: String,
    token: String,
}

async fn user(system: &System, name: &str) -> User {
    let made = system.operator(Method::POST, "/v1/users", json!({ "name": name })).await;
    let made = made.expect(201).json();
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    User { id: text("id"), token: text("token") }
}

/// This user's new broadcast, which is live, and its encoder.
async fn go_live(system: &System, user: &User, title: &str) -> (String, Ffmpeg) {
    let url = system.control_url("/v1/broadcasts");
    let body = json!({ "title": title });
    let made = system.client.call(Method::POST, &url, &user.token, &body).await.expect(201).json();
    let text = |at: &str| made.pointer(at).unwrap().as_str().unwrap().to_owned();
    let (id, to) = (text("/id"), text("/publish/rtmp_url"));
    let publish = format!("{to}/{}", text("/publish/stream_key"));
    let encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &publish);
    system.wait_for_state(&id, "live", PATIENCE).await;
    (id, encoder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_misses_nothing() {
    let system = System::up(&["--edges", "1"]).await;
    ffmpeg::clip(Clip::Both);
    let ann = user(&system, "Ann").await;
    let followed = [user(&system, "Ben").await, user(&system, "Cem").await];
    for other in &followed {
        let url = system.control_url(&format!("/v1/users/{}/following/{}", ann.id, other.id));
        system.client.call(Method::PUT, &url, &ann.token, &Value::Null).await.expect(204);
    }
    let mut relay = Relay::start(authority(&system.control_url("/"))).await;
    let (sees, mut seen) = mpsc::channel(64);
    let follower = Follower {
        url: format!("http://{}/v1/users/{}/notifications", relay.at, ann.id),
        token: ann.token.clone(),
        last: String::new(),
        retry: PATIENCE,
        sees,
    };
    tokio::spawn(follower.listen());
    let mut next = async || timeout(PATIENCE, seen.recv()).await.expect("in time").unwrap();

    assert_eq!(next().await, Seen::Open);
    let (before, _encoder) = go_live(&system, &followed[0], "before").await;
    assert_eq!(next().await, Seen::Started(before));

    relay.cut().await;
    let mended = Instant::now() + CUT;
    assert_eq!(next().await, Seen::Lost);
    let (first, _encoder) = go_live(&system, &followed[1], "while away").await;
    let (second, _encoder) = go_live(&system, &followed[0], "while away, too").await;
    sleep_until(mended).await;
    relay.mend().await;

    let mut tries = 0;
    while let again = next().await
        && again != Seen::Open
    {
        assert_eq!(again, Seen::Refused);
        tries += 1;
    }
    assert!(tries > 0, "it came back while its network was gone");
    assert_eq!(next().await, Seen::Started(first));
    assert_eq!(next().await, Seen::Started(second));
    let (after, _encoder) = go_live(&system, &followed[1], "after").await;
    assert_eq!(next().await, Seen::Started(after));

    // Nothing is told twice: coming back once more, it hears only what is new.
    relay.cut().await;
    assert_eq!(next().await, Seen::Lost);
    relay.mend().await;
    while let again = next().await
        && again != Seen::Open
    {
        assert_eq!(again, Seen::Refused);
    }
    let (last, _encoder) = go_live(&system, &followed[0], "last").await;
    assert_eq!(next().await, Seen::Started(last));
}
