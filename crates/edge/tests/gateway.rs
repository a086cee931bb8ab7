//! Two edges behind a gateway in front of a scripted origin: what the origin is
//! asked, and what viewers see when the gateway goes, comes back, knows nothing
//! or is told nonsense.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use spyglass_api::auth::{Attach, ClusterKey};
use spyglass_api::upstream::upstream_client::UpstreamClient;
use spyglass_api::upstream::{Chunklist, FetchRequest, fetch_request};
use spyglass_media::{BroadcastId, Position, Resource, ViewerId};
use spyglass_testkit::stopwatch::Stopwatch;
use support::client::Connection;
use support::relay::Relay;
use support::{Control, KEY, Origin, Site, id, token};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const LISTS: &str = r#"spyglass_edge_downstream_requests_total{resource="chunklist"}"#;
const PARTS: &str = r#"spyglass_edge_downstream_requests_total{resource="part"}"#;
const CHUNKS: &str = r#"spyglass_edge_downstream_requests_total{resource="chunk"}"#;
const THROUGH: &str = r#"spyglass_edge_upstream_fetches_total{from="gateway"}"#;
const FALLBACKS: &str = "spyglass_edge_gateway_fallbacks_total";

struct Net {
    origin: Origin,
    control: Control,
    gateway: Site,
    edges: [Site; 2],
}

fn list(id: BroadcastId) -> String {
    format!("/live/{id}/chunklist.m3u8")
}

fn revision(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("revision "));
    line.unwrap_or_else(|| panic!("no list: {text}")).parse().unwrap()
}

impl Net {
    /// With broadcast `id(1)` live at revision 1, and `edge-g` as its gateway.
    async fn start(target: Duration) -> Self {
        let origin = Origin::start().await;
        origin.live(id(1), target);
        origin.publish(id(1), 1);
        let control = Control::start(&[&origin]).await;
        let gateway = Site::start(&control, "edge-g").await;
        control.add_edges(&[("edge-g", gateway.grpc)]);
        control.name(id(1), "edge-g");
        let edges = [Site::start(&control, "edge-a").await, Site::start(&control, "edge-b").await];
        let net = Self { origin, control, gateway, edges };
        net.gone_through().await;
        net
    }

    /// Until both edges watch the gateway.
    async fn gone_through(&self) {
        for edge in &self.edges {
            edge.until("spyglass_edge_gateways", |count| count == 1).await;
        }
    }

    /// All of them have the list, and every notice comes.
    async fn settled(&self) {
        for site in self.edges.iter().chain([&self.gateway]) {
            site.get(&list(id(1))).await;
            let hit = async {
                while !site.get(&list(id(1))).await.cache().ends_with("; hit") {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), hit).await.expect("a hit");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_origin_is_asked_once_however_many_edges_have_viewers() {
    let net = Net::start(Duration::from_secs(30)).await;
    let chunk = Resource::Chunk { epoch: 1, sequence: 2 };
    let large = Bytes::from(vec![7; 600_000]);
    for (site, viewers) in [(&net.edges[0], 20), (&net.edges[1], 20), (&net.gateway, 5)] {
        for _ in 0..viewers {
            let answer = site.get(&list(id(1))).await;
            assert_eq!((answer.status, revision(&answer.text())), (200, 1));
        }
    }
    assert_eq!(net.origin.list_fetches(), 1);
    net.settled().await;
    let before = net.origin.list_fetches();
    net.origin.put(id(1), 2, large.clone());
    let asking: Vec<_> = net
        .edges
        .iter()
        .chain([&net.gateway])
        .flat_map(|site| std::iter::repeat_n(site.http, 10))
        .map(|http| {
            tokio::spawn(async move {
                let list = loop {
                    let answer = support::client::get(http, &list(id(1))).await;
                    assert_eq!(answer.status, 200);
                    if revision(&answer.text()) == 2 {
                        break answer;
                    }
                };
                let chunk = format!("/live/{}/1-2.m4s", id(1));
                (list, support::client::get(http, &chunk).await)
            })
        })
        .collect();
    let mut etags = Vec::new();
    for asked in asking {
        let (list, chunk) = asked.await.unwrap();
        assert_eq!((chunk.status, chunk.body == large), (200, true));
        etags.push((list.header("etag").to_owned(), chunk.header("etag").to_owned()));
    }
    etags.dedup();
    assert_eq!(etags.len(), 1, "the same on all edges");
    assert_eq!(net.origin.list_fetches(), before + 1);
    assert_eq!(net.origin.fetches(|resource| *resource == chunk), 1);
    assert_eq!(net.gateway.count(CHUNKS).await, 2, "one of each edge");
    for edge in &net.edges {
        assert_eq!(edge.sum(FALLBACKS).await, 0);
    }
}

/// Blocking reloads and hinted parts over HTTP/2, 100 on each connection.
struct Crowd(Vec<http2::SendRequest<Empty<Bytes>>>);

type Asked = JoinHandle<(u16, String, Instant)>;

impl Crowd {
    async fn new(edge: &Site, connections: usize) -> Self {
        let mut senders = Vec::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(edge.http).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            senders.push(sender);
        }
        Self(senders)
    }

    fn ask(&self, path: &str) -> Vec<Asked> {
        let uri = format!("http://edge{path}");
        let senders = self.0.iter().flat_map(|sender| std::iter::repeat_n(sender, 50));
        let ask = |sender: &http2::SendRequest<Empty<Bytes>>| {
            let (mut sender, uri) = (sender.clone(), uri.clone());
            tokio::spawn(async move {
                let request = http::Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
                let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
                let text = body.collect().await.unwrap().to_bytes();
                let text = String::from_utf8_lossy(&text).into_owned();
                (parts.status.as_u16(), text, Instant::now())
            })
        };
        senders.map(ask).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_blocked_reloads_are_one_fetch_of_each_kind_at_gateway_and_origin() {
    let net = Net::start(Duration::from_secs(30)).await;
    let at = |sequence, part| Position { sequence, part };
    net.origin.move_to(id(1), at(6, None));
    net.origin.move_to(id(1), at(7, Some(2)));
    let edge = &net.edges[0];
    net.settled().await;
    // 2,500 wait for the list and as many for the part that it will name.
    let crowd = Crowd::new(edge, 50).await;
    for (revision, part) in [(4, 3), (5, 4), (6, 5)] {
        let (lists, parts) = (net.gateway.count(LISTS).await, net.gateway.count(PARTS).await);
        let (before, fell) = (net.origin.list_fetches(), edge.sum(FALLBACKS).await);
        let listed = crowd.ask(&format!("{}?_HLS_msn=7&_HLS_part={part}", list(id(1))));
        let hinted = crowd.ask(&format!("/live/{}/1-7.{part}.m4s", id(1)));
        let waiting = listed.len() + hinted.len();
        edge.until("spyglass_edge_requests_waiting", |count| count as usize == waiting).await;
        assert_eq!(net.origin.list_fetches(), before, "they wait at the edge");
        let released = Instant::now();
        net.origin.move_to(id(1), at(7, Some(part)));
        let mut last = Duration::ZERO;
        for asked in listed {
            let (status, text, answered) = asked.await.unwrap();
            assert_eq!((status, self::revision(&text)), (200, revision));
            last = last.max(answered - released);
        }
        for asked in hinted {
            let (status, text, answered) = asked.await.unwrap();
            assert_eq!((status, text), (200, format!("1-7.{part}.m4s")));
            last = last.max(answered - released);
        }
        println!("{waiting} blocked requests behind a gateway: the last after {last:?}");
        let wanted = Resource::Part { epoch: 1, sequence: 7, part };
        // A gateway that this machine kept from answering in time is passed over.
        let fell = (edge.sum(FALLBACKS).await - fell) as usize;
        let lists_of_origin = net.origin.list_fetches() - before;
        assert!((1..=1 + fell).contains(&lists_of_origin), "{lists_of_origin}, {fell}");
        let parts_of_origin = net.origin.fetches(|resource| *resource == wanted);
        assert!((1..=1 + fell).contains(&parts_of_origin), "{parts_of_origin}, {fell}");
        assert_eq!(net.gateway.count(LISTS).await, lists + 1, "of the gateway");
        assert_eq!(net.gateway.count(PARTS).await, parts + 1, "of the gateway");
    }
}

/// Viewers of both edges, and an origin that publishes a list every 0.1 s.
struct Live {
    watch: Stopwatch,
    stop: Arc<AtomicBool>,
    viewers: Vec<JoinHandle<Vec<(u64, Instant)>>>,
    publisher: JoinHandle<Vec<(u64, Instant)>>,
}

impl Live {
    fn start(net: &Net) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let viewers = net.edges.iter().flat_map(|edge| [edge; 10]);
        let viewers = viewers.map(|edge| tokio::spawn(viewer(edge.http, Arc::clone(&stop))));
        let (viewers, origin) = (viewers.collect(), net.origin.clone());
        let publisher = tokio::spawn({
            let stop = Arc::clone(&stop);
            async move {
                let mut published = Vec::new();
                for revision in 2.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    published.push((revision, Instant::now()));
                    origin.publish(id(1), revision);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                published
            }
        });
        Self { watch: Stopwatch::start(), stop, viewers, publisher }
    }

    /// By how much the unluckiest viewer saw a list later than it was published,
    /// less what the machine stood still.
    async fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let published = self.publisher.await.unwrap();
        let mut worst = Duration::ZERO;
        for viewer in self.viewers {
            let seen = viewer.await.unwrap();
            for (revision, at) in &published[..published.len() - 12] {
                let first = seen.iter().find(|(seen, _)| seen >= revision).expect("seen");
                worst = worst.max(first.1.saturating_duration_since(*at));
            }
        }
        worst.saturating_sub(self.watch.stood_still())
    }
}

/// Polls on one connection until told to stop. What it saw: when it first saw
/// each revision. It is refused nothing and sees no list older than one before.
async fn viewer(edge: SocketAddr, stop: Arc<AtomicBool>) -> Vec<(u64, Instant)> {
    let mut seen: Vec<(u64, Instant)> = Vec::new();
    let mut connection = Connection::open(edge).await;
    while !stop.load(Ordering::Relaxed) {
        let answer = connection.get(&list(id(1))).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let now = revision(&answer.text());
        let newest = seen.last().map_or(0, |(revision, _)| *revision);
        assert!(now >= newest, "{now} after {newest}");
        if now > newest {
            seen.push((now, Instant::now()));
            let chunk = connection.get(&format!("/live/{}/1-{now}.m4s", id(1))).await.unwrap();
            assert_eq!(chunk.status, 200, "{now}: {}", chunk.text());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_dies_under_load_and_comes_back_and_no_viewer_sees_it() {
    let mut net = Net::start(Duration::from_secs(4)).await;
    net.settled().await;
    let live = Live::start(&net);
    net.gateway.until(LISTS, |count| count > 4).await;
    net.gateway.kill();
    for edge in &net.edges {
        edge.until("spyglass_edge_gateways", |count| count == 0).await;
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    net.gateway.rise(&net.control).await;
    net.gone_through().await;
    // After its time of probation.
    net.gateway.until(LISTS, |count| count > 4).await;
    let through = net.edges[0].count(THROUGH).await;
    net.edges[0].until(THROUGH, |count| count > through).await;
    let worst = live.stop().await;
    println!("a gateway died and came back: no list was seen later than {worst:?}");
    assert!(worst < Duration::from_secs(1), "{worst:?}");
}

/// It neither answers nor closes, as a process that was stopped or a host that
/// has vanished: what tells it from one that has nothing to say is its heartbeat.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stands_still_is_missed_within_two_seconds_and_nobody_is_refused() {
    let net = Net::start(Duration::from_secs(4)).await;
    let relay = Relay::start(net.gateway.grpc).await;
    net.control.add_edges(&[("edge-g", relay.address)]);
    net.control.name(id(1), "edge-g");
    relay.until(|open| open >= 2).await;
    for edge in &net.edges {
        edge.until("spyglass_edge_gateways", |count| count == 1).await;
    }
    net.settled().await;
    let live = Live::start(&net);
    net.gateway.until(LISTS, |count| count > 4).await;
    relay.hold(true);
    for edge in &net.edges {
        edge.until("spyglass_edge_gateways", |count| count == 0).await;
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    relay.hold(false);
    net.gone_through().await;
    let through = net.edges[0].count(THROUGH).await;
    net.edges[0].until(THROUGH, |count| count > through).await;
    let worst = live.stop().await;
    println!("a gateway stood still and went on: no list was seen later than {worst:?}");
    assert!(worst > Duration::from_millis(500), "it stood in nobody's way: {worst:?}");
    assert!(worst < Duration::from_millis(2_500), "{worst:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn private_kicked_and_unknown_are_refused_as_without_a_gateway() {
    let net = Net::start(Duration::from_secs(4)).await;
    let target = Duration::from_secs(4);
    let live = spyglass_api::upstream::BroadcastState::Live;
    net.origin.enter(id(2), live, true, target);
    net.origin.publish(id(2), 1);
    net.control.name(id(2), "edge-g");
    net.control.name(id(3), "edge-g");
    let viewer = ViewerId::from_random([9; 16]);
    let token = token(id(2), viewer, Duration::from_secs(60));
    let joined = format!("/v/{token}/{}/chunklist.m3u8", id(2));
    for edge in &net.edges {
        let until = async {
            while edge.get(&joined).await.status != 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), until).await.expect("joined");
        let (private, unknown) = (edge.get(&list(id(2))).await, edge.get(&list(id(3))).await);
        assert_eq!((private.status, unknown.status), (404, 404));
        assert_eq!(private.body, unknown.body);
        let far = edge.get(&format!("/live/{}/1-999.m4s", id(1))).await;
        assert_eq!((far.status, far.cache().ends_with("detail=negative")), (404, true));
    }
    assert!(net.edges[0].count(THROUGH).await > 0);
    // The kick comes by the origin's watch, or by the gateway's.
    net.origin.revoke(id(2), viewer);
    for edge in &net.edges {
        let until = async {
            while edge.get(&joined).await.status != 403 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let kicked = Stopwatch::start();
        tokio::time::timeout(Duration::from_secs(10), until).await.expect("refused");
        assert!(kicked.elapsed() < Duration::from_secs(1), "{:?}", kicked.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_knows_nothing_is_passed_over_at_once() {
    let net = Net::start(Duration::from_secs(4)).await;
    // Its control names no origin.
    let lonely = Control::start(&[]).await;
    let ignorant = Site::start(&lonely, "edge-i").await;
    net.control.add_edges(&[("edge-i", ignorant.grpc)]);
    net.origin.live(id(5), Duration::from_secs(4));
    net.origin.publish(id(5), 1);
    net.control.name(id(5), "edge-i");
    for edge in &net.edges {
        edge.until("spyglass_edge_gateways", |count| count == 2).await;
        let known = async {
            while edge.get(&format!("/live/{}/steering.json", id(5))).await.status != 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), known).await.expect("the broadcast is known");
        let asked = Stopwatch::start();
        let answer = edge.get(&list(id(5))).await;
        assert_eq!(answer.status, 200);
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        let fell = r#"spyglass_edge_gateway_fallbacks_total{reason="no_gateway"}"#;
        assert_eq!(edge.count(fell).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_told_to_go_through_each_other_go_to_the_origin() {
    let origin = Origin::start().await;
    origin.live(id(1), Duration::from_secs(4));
    origin.publish(id(1), 1);
    let controls = [Control::start(&[&origin]).await, Control::start(&[&origin]).await];
    let edges =
        [Site::start(&controls[0], "edge-a").await, Site::start(&controls[1], "edge-b").await];
    for (mine, other) in [(0, 1), (1, 0)] {
        controls[mine].add_edges(&[(edges[other].name, edges[other].grpc)]);
        controls[mine].name(id(1), edges[other].name);
    }
    for edge in &edges {
        edge.until("spyglass_edge_gateways", |count| count == 1).await;
    }
    for revision in 1..=5 {
        if revision > 1 {
            origin.publish(id(1), revision);
        }
        let asked = Stopwatch::start();
        let path = list(id(1));
        loop {
            let (one, other) = tokio::join!(edges[0].get(&path), edges[1].get(&path));
            assert_eq!((one.status, other.status), (200, 200), "{}", one.text());
            if [one, other].iter().all(|answer| self::revision(&answer.text()) == revision) {
                break;
            }
        }
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        let chunk = format!("/live/{}/1-{revision}.m4s", id(1));
        let (one, other) = tokio::join!(edges[0].get(&chunk), edges[1].get(&chunk));
        assert_eq!((one.status, other.status), (200, 200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_has_passed_an_edge_goes_to_the_origin_and_none_comes_round() {
    let net = Net::start(Duration::from_secs(4)).await;
    let edge = &net.edges[0];
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", edge.grpc));
    let channel = channel.unwrap().connect().await.unwrap();
    let key = Attach(ClusterKey::new(KEY).unwrap());
    let mut client = UpstreamClient::with_interceptor(channel, key);
    let fetch = |path: &[&str]| FetchRequest {
        broadcast: id(1).to_string(),
        object: Some(fetch_request::Object::Chunklist(Chunklist {})),
        path: path.iter().map(|edge| (*edge).to_owned()).collect(),
        ..FetchRequest::default()
    };
    for path in [&["edge-a"][..], &["edge-x", "edge-y"]] {
        let refused = client.fetch(fetch(path)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    }
    let answer = client.fetch(fetch(&["edge-x"])).await.unwrap();
    assert!(answer.into_inner().message().await.unwrap().is_some());
    assert_eq!(edge.count(THROUGH).await, 0, "the gateway was not asked for another edge");
    assert_eq!(net.gateway.count(LISTS).await, 0);
    let mut stranger = UpstreamClient::connect(format!("http://{}", edge.grpc)).await.unwrap();
    let refused = stranger.fetch(fetch(&[])).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
}
