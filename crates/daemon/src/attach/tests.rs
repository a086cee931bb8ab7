//! The link against a scripted control, over real loopback gRPC.

use std::pin::Pin;
use std::time::Duration;

use parking_lot::Mutex;
use spyglass_api::auth::Require;
use spyglass_api::control::control_server::{Control, ControlServer};
use spyglass_api::control::report::Report as Kind;
use spyglass_api::control::{
    self, Controls, Drain, End, Keys, LeaseDelta, LeaseDigest, Nodes, Phase, Register, Report,
    Update, update,
};
use spyglass_media::UtcTime;
use spyglass_token::{Grant, SigningKey, WatchGrant};
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::*;

const KEY: &str = "cluster-key-of-the-tests";

/// One stream that a node opened.
struct Session {
    register: Register,
    reports: Streaming<Report>,
    updates: mpsc::Sender<Result<Update, Status>>,
}

impl Session {
    async fn next(&mut self) -> Kind {
        soon(self.reports.message()).await.unwrap().unwrap().report.unwrap()
    }

    /// The next report that `wanted` accepts; others are passed over.
    async fn find<T>(&mut self, wanted: impl Fn(Kind) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.next().await) {
                return found;
            }
        }
    }

    async fn digest(&mut self) -> LeaseDigest {
        self.find(|kind| match kind {
            Kind::Digest(digest) => Some(digest),
            _ => None,
        })
        .await
    }

    async fn delta(&mut self) -> LeaseDelta {
        self.find(|kind| match kind {
            Kind::Leases(delta) => Some(delta),
            _ => None,
        })
        .await
    }

    async fn send(&self, update: update::Update) {
        self.updates.send(Ok(Update { update: Some(update) })).await.unwrap();
    }
}

/// What a scripted control calls itself, once the test lets it.
const ITSELF: &str = "the-scripted-control";

struct Service {
    sessions: mpsc::Sender<Session>,
    refused: Arc<watch::Sender<usize>>,
}

#[tonic::async_trait]
impl Control for Service {
    type AttachStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<Update, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<Report>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut reports = request.into_inner();
        let Some(Kind::Register(register)) =
            reports.message().await?.and_then(|first| first.report)
        else {
            return Err(Status::invalid_argument("the first report must be a register"));
        };
        if register.attached.iter().any(|id| id == ITSELF) {
            self.refused.send_modify(|refused| *refused += 1);
            return Err(Status::already_exists("it is attached by another address"));
        }
        let (updates, outgoing) = mpsc::channel(16);
        let session = Session { register, reports, updates };
        self.sessions.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

/// A control that hands every stream to the test.
struct Scripted {
    url: String,
    sessions: mpsc::Receiver<Session>,
    refused: Arc<watch::Sender<usize>>,
    server: tokio::task::JoinHandle<()>,
}

impl Scripted {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, sessions) = mpsc::channel(16);
        let require = Require(ClusterKey::new(KEY).unwrap());
        let refused = Arc::new(watch::Sender::new(0));
        let service = Service { sessions: sender, refused: Arc::clone(&refused) };
        let service = ControlServer::with_interceptor(service, require);
        let server = grpc::server().add_service(service);
        let server = tokio::spawn(async move {
            server.serve_with_incoming(grpc::incoming(listener)).await.unwrap();
        });
        Self { url, sessions, refused, server }
    }

    async fn session(&mut self) -> Session {
        soon(self.sessions.recv()).await.unwrap()
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("within 20 s")
}

/// A node that reports one viewer and the records it is given.
#[derive(Default)]
struct Told(Mutex<Vec<BroadcastRecord>>);

impl Source for Told {
    fn load(&self) -> Load {
        Load { viewers: 1, ..Load::default() }
    }

    fn records(&self) -> Vec<BroadcastRecord> {
        self.0.lock().clone()
    }
}

/// A node's end, its state and how to stop it.
struct Subject {
    attachment: Attachment,
    commands: mpsc::Receiver<Command>,
    source: Arc<Told>,
    shutdown: Shutdown,
    state: StateDir,
}

impl Subject {
    fn start(controls: &[&Scripted], dir: &tempfile::TempDir) -> Self {
        let controls = controls.iter().map(|control| control.url.clone()).collect();
        Self::with_key(controls, dir, KEY)
    }

    fn with_key(controls: Vec<String>, dir: &tempfile::TempDir, key: &str) -> Self {
        let state = StateDir::open(dir.path()).unwrap();
        let profile = Profile {
            node: "edge-1".parse().unwrap(),
            role: Role::Edge,
            public_http: "http://127.0.0.1:8281".into(),
            public_rtmp: String::new(),
            public_grpc: "http://127.0.0.1:9281".into(),
            location: Location::new(52.37, 4.9).ok(),
            incarnation: 7,
        };
        let (source, shutdown) = (Arc::new(Told::default()), Shutdown::new());
        let as_source = Arc::clone(&source) as Arc<dyn Source>;
        let key = ClusterKey::new(key).unwrap();
        let (attachment, commands) =
            start(controls, key, profile, state.clone(), as_source, shutdown.clone()).unwrap();
        Self { attachment, commands, source, shutdown, state }
    }

    async fn attached(&self, wanted: bool) {
        soon(self.attachment.attached().wait_for(|&is| is == wanted)).await.unwrap();
    }

    /// Until the file holds `text`.
    async fn saved(&self, name: &str, text: &str) {
        let holds = || {
            let bytes = self.state.read(name).unwrap().unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(text)
        };
        soon(async {
            while !holds() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

fn broadcast() -> BroadcastId {
    BroadcastId::from_random([1; 16])
}

fn viewer(n: u8) -> ViewerId {
    ViewerId::from_random([n; 16])
}

fn lease(n: u8) -> Lease {
    let (broadcast, viewer) = (broadcast().to_string(), viewer(n).to_string());
    Lease { broadcast, viewer, seat: n.into(), generation: 1, since_ms: 5, ..Lease::default() }
}

fn revocation(n: u8) -> Revocation {
    let expires_at_ms = now_utc().millis() + 3_600_000;
    let (broadcast, viewer) = (broadcast().to_string(), viewer(n).to_string());
    Revocation { broadcast, viewer, expires_at_ms }
}

fn signing_key(id: &str) -> SigningKey {
    SigningKey::from_seed(id.into(), [9; 32]).unwrap()
}

fn keys(store: &str, key: &SigningKey) -> update::Update {
    let public = key.public();
    let key = control::Key { id: public.id, public_key: public.bytes.to_vec().into() };
    update::Update::Keys(Keys { store: store.into(), keys: vec![key], ..Keys::default() })
}

#[tokio::test]
async fn a_node_registers_and_reports() {
    let mut control = Scripted::start().await;
    let dir = tempfile::tempdir().unwrap();
    let node = Subject::start(&[&control], &dir);
    let mut session = control.session().await;
    let register = &session.register;
    assert_eq!((register.node.as_str(), register.role()), ("edge-1", Role::Edge));
    assert_eq!(register.incarnation, 7);
    assert_eq!(register.location.unwrap().latitude, 52.37);
    node.attached(true).await;
    let digest = session.digest().await;
    assert_eq!((digest.leases.len(), digest.first, digest.last), (0, true, true));
    let load = session.find(|kind| match kind {
        Kind::Heartbeat(heartbeat) => heartbeat.load,
        _ => None,
    });
    assert_eq!(load.await.viewers, 1);
    node.attachment.lease_begun(lease(1));
    node.attachment.lease_begun(lease(2));
    node.attachment.event(BroadcastEvent {
        broadcast: broadcast().to_string(),
        phase: Phase::Live.into(),
        at_ms: 1,
        epoch: 1,
    });
    let mut begun = session.delta().await.begun;
    while begun.len() < 2 {
        begun.extend(session.delta().await.begun);
    }
    begun.sort_by_key(|lease| lease.seat);
    assert_eq!(begun, [lease(1), lease(2)]);
    node.attachment.lease_ended(lease(1));
    assert_eq!(session.delta().await.ended, [lease(1)]);
}

#[tokio::test]
async fn an_event_reaches_control() {
    let mut control = Scripted::start().await;
    let dir = tempfile::tempdir().unwrap();
    let node = Subject::start(&[&control], &dir);
    let mut session = control.session().await;
    node.attached(true).await;
    let event = BroadcastEvent { at_ms: 3, epoch: 2, ..BroadcastEvent::default() };
    node.attachment.event(event.clone());
    let found = session.find(|kind| match kind {
        Kind::Event(event) => Some(event),
        _ => None,
    });
    assert_eq!(found.await, event);
}

#[tokio::test]
async fn commands_reach_the_service_in_order() {
    let mut control = Scripted::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut node = Subject::start(&[&control], &dir);
    let session = control.session().await;
    let id = broadcast().to_string();
    let expect = Expect { broadcast: id.clone(), chunk_ms: 3_000, ..Expect::default() };
    session.send(update::Update::Expect(expect.clone())).await;
    session.send(update::Update::End(End { broadcast: "../no-id".into() })).await;
    session.send(update::Update::End(End { broadcast: id })).await;
    session.send(update::Update::Drain(Drain { draining: true })).await;
    assert_eq!(soon(node.commands.recv()).await, Some(Command::Expect(expect)));
    assert_eq!(soon(node.commands.recv()).await, Some(Command::End(broadcast())));
    assert_eq!(soon(node.commands.recv()).await, Some(Command::Drain(true)));
}

#[tokio::test]
async fn a_node_restarts_without_control() {
    let mut control = Scripted::start().await;
    let dir = tempfile::tempdir().unwrap();
    let node = Subject::start(&[&control], &dir);
    let session = control.session().await;
    let signing = signing_key("k1");
    let listed =
        Node { id: "origin-1".into(), grpc: "http://127.0.0.1:1".into(), ..Node::default() };
    session.send(keys("store-1", &signing)).await;
    session.send(update::Update::Nodes(Nodes { nodes: vec![listed.clone()] })).await;
    session.send(update::Update::Revocation(revocation(3))).await;
    node.saved("control-keys.json", "store-1").await;
    node.saved("control-nodes.json", "origin-1").await;
    node.saved("revocations.json", viewer(3).as_str()).await;
    node.shutdown.trigger();
    control.server.abort();

    let node = Subject::with_key(vec!["http://127.0.0.1:1".into()], &dir, KEY);
    let expires = UtcTime::from_millis(now_utc().millis() + 60_000);
    let token = signing.sign(&Grant::Watch(WatchGrant {
        broadcast: broadcast(),
        viewer: viewer(3),
        user: None,
        seat: None,
        push: false,
        comment: false,
        generation: 1,
        issued: now_utc(),
        expires,
    }));
    assert!(node.attachment.keys().verify_watch(&token.unwrap(), now_utc()).is_ok());
    assert_eq!(**node.attachment.nodes().borrow(), [listed]);
    assert!(node.attachment.revoked(broadcast(), viewer(3)));
    assert!(!node.attachment.revoked(broadcast(), viewer(4)));
    assert!(!*node.attachment.attached().borrow());
}

#[tokio::test]
async fn a_lost_stream_is_opened_again_with_everything() {
    let mut control = Scripted::start().await;
    let dir = tempfile::tempdir().unwrap();
    let node = Subject::start(&[&control], &dir);
    let session = control.session().await;
    session.send(keys("store-1", &signing_key("k1"))).await;
    node.saved("control-keys.json", "k1").await;
    drop(session);
    node.attached(false).await;
    node.attachment.lease_begun(lease(1));
    let record =
        BroadcastRecord { broadcast: broadcast().to_string(), ..BroadcastRecord::default() };
    node.source.0.lock().push(record.clone());

    let mut session = control.session().await;
    // The record may have come too late for the first attempt.
    while session.register.broadcasts.is_empty() {
        drop(session);
        session = control.session().await;
    }
    assert_eq!(session.register.broadcasts, [record]);
    assert_eq!(session.register.keys[0].id, "k1", "an empty control can adopt it");
    assert_eq!(session.digest().await.leases, [lease(1)]);
    node.attached(true).await;
}

#[tokio::test]
async fn every_control_is_told_everything() {
    let (mut first, mut second) = (Scripted::start().await, Scripted::start().await);
    let dir = tempfile::tempdir().unwrap();
    let mut node = Subject::start(&[&first, &second], &dir);
    let (mut one, mut two) = (first.session().await, second.session().await);
    one.digest().await;
    two.digest().await;
    node.attachment.lease_begun(lease(1));
    let event = BroadcastEvent { at_ms: 3, ..BroadcastEvent::default() };
    node.attachment.event(event.clone());
    for session in [&mut one, &mut two] {
        assert_eq!(session.delta().await.begun, [lease(1)]);
    }
    // What both of them want is done once; what either says holds.
    for session in [&one, &two] {
        session.send(update::Update::Drain(Drain { draining: true })).await;
    }
    let end = End { broadcast: broadcast().to_string() };
    assert_eq!(soon(node.commands.recv()).await, Some(Command::Drain(true)));
    two.send(update::Update::End(end)).await;
    assert_eq!(soon(node.commands.recv()).await, Some(Command::End(broadcast())));
    // One dies: the other notices nothing, and the node stays attached.
    let mut attached = node.attachment.attached();
    assert!(*attached.borrow_and_update());
    first.server.abort();
    drop((one, first));
    node.attachment.lease_ended(lease(1));
    assert_eq!(two.delta().await.ended, [lease(1)]);
    assert!(!attached.has_changed().unwrap());
    drop((two, second.server.abort(), second));
    node.attached(false).await;
}

#[tokio::test]
async fn nodes_that_one_control_does_not_know_stay() {
    let (mut first, mut second) = (Scripted::start().await, Scripted::start().await);
    let dir = tempfile::tempdir().unwrap();
    let node = Subject::start(&[&first, &second], &dir);
    let (one, two) = (first.session().await, second.session().await);
    let listed = |id: &str| Node { id: id.into(), ..Node::default() };
    let nodes = |nodes: &[Node]| update::Update::Nodes(Nodes { nodes: nodes.to_vec() });
    let (a, b) = (listed("a"), listed("b"));
    one.send(nodes(&[a.clone(), b.clone()])).await;
    let mut seen = node.attachment.nodes();
    soon(seen.wait_for(|nodes| nodes.len() == 2)).await.unwrap();
    two.send(nodes(&[])).await;
    two.send(nodes(&[listed("c")])).await;
    soon(seen.wait_for(|nodes| nodes.len() == 3)).await.unwrap();
    drop((one, first.server.abort(), first));
    soon(seen.wait_for(|nodes| **nodes == [listed("c")])).await.unwrap();
}

#[tokio::test]
async fn a_control_that_another_names_is_attached_and_remembered() {
    let (mut first, mut second) = (Scripted::start().await, Scripted::start().await);
    let dir = tempfile::tempdir().unwrap();
    let node = Subject::start(&[&first], &dir);
    let session = first.session().await;
    let named = Controls { id: "one".into(), grpc: vec![second.url.clone()] };
    session.send(update::Update::Controls(named)).await;
    assert_eq!(second.session().await.register.node, "edge-1");
    node.saved("controls.json", &second.url).await;
    node.shutdown.trigger();
    first.server.abort();
    drop((session, first));
    let _again = Subject::with_key(vec!["http://127.0.0.1:1".into()], &dir, KEY);
    assert_eq!(second.session().await.register.node, "edge-1");
}

#[tokio::test]
async fn two_addresses_of_one_control_do_no_harm() {
    let mut control = Scripted::start().await;
    let other = control.url.replace("127.0.0.1", "localhost");
    let dir = tempfile::tempdir().unwrap();
    let node = Subject::with_key(vec![control.url.clone(), other], &dir, KEY);
    let mut refused = control.refused.subscribe();
    let itself = || Controls { id: ITSELF.into(), grpc: vec![] };
    let mut session = control.session().await;
    let mut opened = 1;
    // Both may arrive at once; then the later one replaces the earlier, as with
    // a real control.
    loop {
        session.send(update::Update::Controls(itself())).await;
        tokio::select! {
            again = control.session() => (session, opened) = (again, opened + 1),
            found = soon(refused.wait_for(|refused| *refused > 0)) => {
                found.unwrap();
                break;
            }
        }
    }
    assert!(opened <= 4, "{opened}");
    node.attached(true).await;
    node.attachment.lease_begun(lease(1));
    assert_eq!(session.delta().await.begun, [lease(1)]);
    // When that stream ends, an address is tried again at once.
    drop(session);
    control.session().await;
}

#[tokio::test]
async fn a_wrong_cluster_key_does_not_attach() {
    let mut control = Scripted::start().await;
    let dir = tempfile::tempdir().unwrap();
    let wrong = Subject::with_key(vec![control.url.clone()], &dir, "another-cluster-key");
    let other = tempfile::tempdir().unwrap();
    let right = Subject::start(&[&control], &other);
    control.session().await;
    right.attached(true).await;
    assert!(control.sessions.try_recv().is_err());
    assert!(!*wrong.attachment.attached().borrow());
}

#[tokio::test]
async fn too_many_events_at_once_make_it_register_again() {
    let mut control = Scripted::start().await;
    let dir = tempfile::tempdir().unwrap();
    let node = Subject::start(&[&control], &dir);
    let _session = control.session().await;
    node.attached(true).await;
    // The link's task cannot run in between: the test runs on one thread.
    for _ in 0..=EVENTS {
        node.attachment.event(BroadcastEvent::default());
    }
    control.session().await;
}

#[tokio::test]
async fn revocations_are_told_once_wherever_they_come_from() {
    let mut control = Scripted::start().await;
    let dir = tempfile::tempdir().unwrap();
    let node = Subject::start(&[&control], &dir);
    let mut heard = node.attachment.subscribe_revocations();
    let session = control.session().await;
    let (first, second) = (revocation(1), revocation(2));
    node.attachment.add_revocation(first.clone());
    session.send(update::Update::Revocation(first.clone())).await;
    session.send(update::Update::Revocation(second.clone())).await;
    assert_eq!(soon(heard.recv()).await.unwrap(), first);
    assert_eq!(soon(heard.recv()).await.unwrap(), second);
    assert_eq!(node.attachment.revocations().len(), 2);
}

#[tokio::test]
async fn a_start_without_a_usable_control_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    let key = ClusterKey::new(KEY).unwrap();
    let profile = Profile {
        node: "edge-1".parse().unwrap(),
        role: Role::Edge,
        public_http: String::new(),
        public_rtmp: String::new(),
        public_grpc: String::new(),
        location: None,
        incarnation: 1,
    };
    for (controls, says) in
        [(vec![], "no control"), (vec!["nonsense".to_owned()], "--control nonsense: ")]
    {
        let source = Arc::new(Told::default());
        let (key, profile, state) = (key.clone(), profile.clone(), state.clone());
        let error = start(controls, key, profile, state, source, Shutdown::new()).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn whoever_stops_says_goodbye_to_every_control() {
    let (mut one, mut two) = (Scripted::start().await, Scripted::start().await);
    let dir = tempfile::tempdir().unwrap();
    let subject = Subject::start(&[&one, &two], &dir);
    let (mut first, mut second) = (one.session().await, two.session().await);
    subject.attached(true).await;
    subject.shutdown.trigger();
    let leaving = |kind| matches!(kind, Kind::Leaving(_)).then_some(());
    first.find(leaving).await;
    assert!(soon(first.reports.message()).await.unwrap().is_none(), "it says no more");
    let mut left = Box::pin(subject.attachment.left());
    tokio::select! {
        biased;
        () = &mut left => panic!("it does not wait for who has not heard it"),
        () = std::future::ready(()) => {}
    }
    second.find(leaving).await;
    drop((first, second));
    let begun = std::time::Instant::now();
    left.await;
    assert!(begun.elapsed() < link::GOODBYE, "nobody is waited for any more");
}

#[tokio::test]
async fn a_control_that_hears_nothing_holds_up_nobody() {
    let mut control = Scripted::start().await;
    let dir = tempfile::tempdir().unwrap();
    let subject = Subject::start(&[&control], &dir);
    let _deaf = control.session().await;
    subject.attached(true).await;
    subject.shutdown.trigger();
    soon(subject.attachment.left()).await;
    subject.attached(false).await;
}
