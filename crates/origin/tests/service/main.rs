//! A whole origin over real sockets, with a scripted control that knows
//! nothing but keys, and peers that drive `spyglass_rtmp::Client`.

mod restart;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use spyglass_api::auth::{Attach, ClusterKey};
use spyglass_api::control::control_server::{Control, ControlServer};
use spyglass_api::control::{Key, Keys, Report, Update, update};
use spyglass_api::upstream::upstream_client::UpstreamClient;
use spyglass_api::upstream::{
    self, Chunk, Chunklist, DirectoryEntry, FetchRequest, Header, Holding, Interest, WatchHello,
    WatchRequest, WatchResponse, fetch_request, fetch_response, watch_request, watch_response,
};
use spyglass_daemon::{Secret, Shutdown, now_utc};
use spyglass_media::{BroadcastId, MediaTime, Track, UtcTime, ViewerId};
use spyglass_origin::{Config, Origin};
use spyglass_rtmp::{Client, ClientConfig, ClientEvent, Intent, Limits, Message};
use spyglass_testkit::gop::{self, Encoder};
use spyglass_token::{Grant, PublishGrant, SigningKey, WatchGrant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

const CLUSTER: &str = "cluster-key-of-this-test";

fn signer() -> SigningKey {
    SigningKey::from_seed("k1".to_owned(), [9; 32]).unwrap()
}

/// Hands out the test's key, revokes it when told to, and listens to nothing.
struct Keyring(watch::Receiver<bool>);

#[tonic::async_trait]
impl Control for Keyring {
    type AttachStream = ReceiverStream<Result<Update, Status>>;

    async fn attach(
        &self,
        mut reports: Request<Streaming<Report>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (updates, receiver) = mpsc::channel(8);
        let public = signer().public();
        let key = Key { id: public.id, public_key: public.bytes.to_vec().into() };
        let keys = Keys { store: "test".to_owned(), keys: vec![key], ..Keys::default() };
        let first = Update { update: Some(update::Update::Keys(keys)) };
        updates.send(Ok(first)).await.unwrap();
        let mut revoke = self.0.clone();
        tokio::spawn(async move {
            let reading = async { while let Ok(Some(_)) = reports.get_mut().message().await {} };
            let revoking = async {
                if revoke.wait_for(|revoke| *revoke).await.is_ok() {
                    let revoked = vec![signer().public().id];
                    let keys = Keys { store: "test".to_owned(), revoked, ..Keys::default() };
                    let update = Update { update: Some(update::Update::Keys(keys)) };
                    let _ = updates.send(Ok(update)).await;
                }
            };
            tokio::join!(reading, revoking);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

struct World {
    origin: spyglass_origin::Addresses,
    shutdown: Shutdown,
    running: tokio::task::JoinHandle<()>,
    revoke: watch::Sender<bool>,
    state: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    async fn start_in(state: tempfile::TempDir) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let revoke = watch::Sender::new(false);
        let control = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(ControlServer::new(Keyring(revoke.subscribe())))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let config = Config {
            id: Some("origin-1".parse().unwrap()),
            rtmp: free,
            http: free,
            grpc: free,
            control: vec![control],
            cluster_key: Some(Secret::new(CLUSTER)),
            state: state.path().to_owned(),
            ..Config::default()
        };
        let origin = Origin::load(config).await.unwrap();
        let addresses = origin.addresses();
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let running = tokio::spawn(async move { origin.run(stop).await.unwrap() });
        Self { origin: addresses, shutdown, running, revoke, state }
    }

    async fn upstream(&self) -> UpstreamClient<InterceptedService<Channel, Attach>> {
        let channel =
            Channel::from_shared(self.origin.grpc.clone()).unwrap().connect().await.unwrap();
        UpstreamClient::with_interceptor(channel, Attach(ClusterKey::new(CLUSTER).unwrap()))
    }

    fn publish_key(&self, id: BroadcastId, chunk_ms: u32) -> String {
        self.publish_key_of(id, chunk_ms, now_utc())
    }

    fn publish_key_of(&self, id: BroadcastId, chunk_ms: u32, issued: UtcTime) -> String {
        let grant = PublishGrant {
            broadcast: id,
            origin: self.origin.id.clone(),
            private: false,
            chunk_ms,
            part_ms: 200,
            fill: Some(spyglass_media::Fill::Prefetch),
            resume_ms: 30_000,
            issued,
            expires: now_utc() + Duration::from_secs(60),
        };
        format!("{id}?token={}", signer().sign(&Grant::Publish(grant)).unwrap())
    }

    fn watch_key(&self, id: BroadcastId, seat: u32, generation: u32) -> String {
        let grant = WatchGrant {
            broadcast: id,
            viewer: ViewerId::from_random([seat as u8; 16]),
            user: None,
            seat: Some(seat),
            push: true,
            comment: true,
            generation,
            issued: now_utc(),
            expires: now_utc() + Duration::from_secs(60),
        };
        format!("{id}?token={}", signer().sign(&Grant::Watch(grant)).unwrap())
    }

    /// Retries until the origin has control's keys.
    async fn publish(&self, key: &str) -> Peer {
        for _ in 0..200 {
            match Peer::connect(&self.origin.rtmp, key, Intent::Publish).await {
                Ok(peer) => return peer,
                Err(code) => assert_eq!(code, "NetStream.Publish.Denied"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the origin never learnt the keys");
    }

    /// What it leaves behind.
    async fn stop(self) -> tempfile::TempDir {
        self.shutdown.trigger();
        tokio::time::timeout(Duration::from_secs(10), self.running).await.unwrap().unwrap();
        self.state
    }

    /// The newest list, once there is one.
    async fn list(&self, id: BroadcastId) -> Header {
        let (header, _) =
            fetch(self, id, fetch_request::Object::Chunklist(Chunklist {})).await.unwrap();
        header
    }
}

struct Peer {
    socket: TcpStream,
    client: Client,
    ended: bool,
}

impl Peer {
    async fn connect(rtmp: &str, name: &str, intent: Intent) -> Result<Self, String> {
        let host = rtmp.strip_prefix("rtmp://").unwrap().split('/').next().unwrap();
        let config = ClientConfig {
            app: "live".to_owned(),
            tc_url: rtmp.to_owned(),
            name: name.to_owned(),
            intent,
            buffer_ms: 0,
            limits: Limits::default(),
        };
        let socket = TcpStream::connect(host).await.unwrap();
        let mut peer =
            Self { socket, client: Client::new(config, Instant::now()).unwrap(), ended: false };
        loop {
            match peer.event().await {
                Some(ClientEvent::Ready) => return Ok(peer),
                Some(ClientEvent::Refused { code, .. }) => return Err(code),
                Some(_) => {}
                None => return Err("closed".to_owned()),
            }
        }
    }

    async fn event(&mut self) -> Option<ClientEvent> {
        let mut buffer = vec![0; 65536];
        loop {
            let output = self.client.take_output();
            self.socket.write_all(&output).await.ok()?;
            if let Some(event) = self.client.next_event() {
                return Some(event);
            }
            let read = tokio::time::timeout(Duration::from_secs(10), self.socket.read(&mut buffer));
            let count = read.await.expect("something within 10 s").ok()?;
            if count == 0 {
                return None;
            }
            self.client.on_bytes(Instant::now(), &buffer[..count]).unwrap();
        }
    }

    async fn media(&mut self) -> Option<Message> {
        loop {
            match self.event().await? {
                ClientEvent::Media(message) => return Some(message),
                ClientEvent::Ended => self.ended = true,
                _ => {}
            }
        }
    }

    async fn send(&mut self, track: Track, timestamp: u32, body: &[u8]) {
        self.client.send_media(track, timestamp, body);
        let output = self.client.take_output();
        self.socket.write_all(&output).await.unwrap();
    }

    /// Sends `seconds` of an encoder's frames at once, codec headers first.
    async fn send_clip(&mut self, from: u32, seconds: i64) -> Vec<(Track, u32)> {
        self.send(Track::Video, from, &gop::video_config_body(gop::AVC_360P)).await;
        self.send(Track::Audio, from, &gop::audio_config_body(gop::AAC_48K_STEREO)).await;
        let mut sent = Vec::new();
        for frame in Encoder::both().until(MediaTime::from_millis(seconds * 1000)) {
            let timestamp = from + frame.dts.millis() as u32;
            self.send(frame.track, timestamp, &frame.body).await;
            sent.push((frame.track, timestamp));
        }
        sent
    }
}

fn id(seed: u8) -> BroadcastId {
    BroadcastId::from_random([seed; 16])
}

async fn fetch(
    world: &World,
    id: BroadcastId,
    object: fetch_request::Object,
) -> Result<(Header, Vec<u8>), Status> {
    let request =
        FetchRequest { broadcast: id.to_string(), object: Some(object), ..FetchRequest::default() };
    let mut answers = world.upstream().await.fetch(request).await?.into_inner();
    let mut header = None;
    let mut body = Vec::new();
    while let Some(answer) = answers.message().await? {
        match answer.response.unwrap() {
            fetch_response::Response::Header(found) => header = Some(found),
            fetch_response::Response::Slice(slice) => body.extend_from_slice(&slice),
        }
    }
    let header = header.unwrap();
    assert_eq!(header.length, body.len() as u64);
    Ok((header, body))
}

#[tokio::test]
async fn a_frame_in_is_a_frame_out_and_a_chunk_to_fetch() {
    let world = World::start().await;
    let mut publisher = world.publish(&world.publish_key(id(1), 1000)).await;
    let key = world.watch_key(id(1), 1, 1);
    let mut viewer = Peer::connect(&world.origin.rtmp, &key, Intent::Play).await.unwrap();
    let sent = publisher.send_clip(0, 5).await;

    // Two codec headers, then every frame with its spacing kept.
    let first = viewer.media().await.unwrap();
    let second = viewer.media().await.unwrap();
    assert_eq!((first.track, second.track), (Track::Video, Track::Audio));
    let mut offset = None;
    let mut seen = [0; 2];
    while seen[0] + seen[1] < sent.len() - 2 {
        let message = viewer.media().await.unwrap();
        let offset = *offset.get_or_insert(message.timestamp);
        let expected: Vec<u32> =
            sent.iter().filter(|(track, _)| *track == message.track).map(|(_, at)| *at).collect();
        let index = &mut seen[message.track as usize];
        assert_eq!(message.timestamp - offset, expected[*index], "{:?}", message.track);
        *index += 1;
    }

    let (header, list) =
        fetch(&world, id(1), fetch_request::Object::Chunklist(Chunklist {})).await.unwrap();
    assert_eq!(header.target_duration_ms, 2000);
    assert_eq!(header.variants.len(), 4);
    let text = String::from_utf8_lossy(&list[..header.variants[0].length as usize]).into_owned();
    assert!(text.starts_with("#EXTM3U"), "{text}");
    let chunk = fetch_request::Object::Chunk(Chunk { epoch: 1, sequence: 0 });
    let (_, bytes) = fetch(&world, id(1), chunk).await.unwrap();
    assert!(bytes.windows(4).any(|box_type| box_type == b"moof"), "{text}");
    let unknown = fetch_request::Object::Chunk(Chunk { epoch: 1, sequence: 900 });
    assert_eq!(fetch(&world, id(1), unknown).await.unwrap_err().code(), tonic::Code::NotFound);
    world.stop().await;
}

#[tokio::test]
async fn a_watch_tells_the_directory_and_versions_of_what_it_is_interested_in() {
    let world = World::start().await;
    let mut publisher = world.publish(&world.publish_key(id(2), 1000)).await;
    publisher.send_clip(0, 3).await;
    let (requests, receiver) = mpsc::channel(8);
    let send = |request| WatchRequest { request: Some(request) };
    let hello = WatchHello { node: "edge-1".to_owned() };
    requests.send(send(watch_request::Request::Hello(hello))).await.unwrap();
    let mut watch =
        world.upstream().await.watch(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let mut next = async || -> watch_response::Response {
        let WatchResponse { response } = watch.message().await.unwrap().unwrap();
        response.unwrap()
    };
    let mut entries = Vec::new();
    loop {
        if let watch_response::Response::Snapshot(page) = next().await {
            entries.extend(page.entries);
            if page.last {
                break;
            }
        }
    }
    let entry = entries.iter().find(|entry| entry.broadcast == id(2).to_string());
    assert_eq!(entry.map(DirectoryEntry::fill), Some(upstream::Fill::Prefetch), "{entries:?}");

    let holding = Holding { broadcast: id(2).to_string(), version: None, position: None };
    let interest = Interest { add: vec![holding], drop: Vec::new() };
    requests.send(send(watch_request::Request::Interest(interest))).await.unwrap();
    let mut versions = Vec::new();
    let more = publisher.send_clip(3_000, 3);
    let told = async {
        while versions.len() < 3 {
            match next().await {
                watch_response::Response::Expire(expire) => {
                    versions.push(expire.version.unwrap().revision)
                }
                watch_response::Response::Heartbeat(beat) => {
                    versions.extend(beat.current.iter().map(|now| now.version.unwrap().revision));
                }
                _ => {}
            }
        }
    };
    tokio::join!(more, told);
    assert!(versions.is_sorted(), "{versions:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_newer_generation_takes_the_seat_and_an_older_one_does_not() {
    let world = World::start().await;
    let mut publisher = world.publish(&world.publish_key(id(3), 1000)).await;
    publisher.send_clip(0, 1).await;
    let play = async |generation| {
        Peer::connect(&world.origin.rtmp, &world.watch_key(id(3), 7, generation), Intent::Play)
            .await
    };
    let mut old = play(1).await.unwrap();
    let _new = play(2).await.unwrap();
    while old.media().await.is_some() {}
    assert_eq!(play(1).await.err().as_deref(), Some("NetStream.Play.Denied"));
    world.stop().await;
}

#[tokio::test]
async fn a_revoked_key_cuts_those_it_let_in() {
    let world = World::start().await;
    let key = world.publish_key(id(6), 1000);
    let mut publisher = world.publish(&key).await;
    publisher.send_clip(0, 1).await;
    let play = async || {
        Peer::connect(&world.origin.rtmp, &world.watch_key(id(6), 1, 1), Intent::Play).await
    };
    let mut viewer = play().await.unwrap();
    assert!(viewer.media().await.is_some());
    world.revoke.send_replace(true);
    let cut = async {
        while viewer.media().await.is_some() {}
        while publisher.event().await.is_some() {}
    };
    tokio::time::timeout(Duration::from_secs(5), cut).await.expect("both are cut within 5 s");
    assert_eq!(play().await.err().as_deref(), Some("NetStream.Play.Denied"));
    let again = Peer::connect(&world.origin.rtmp, &key, Intent::Publish).await;
    assert_eq!(again.err().as_deref(), Some("NetStream.Publish.Denied"));
    world.stop().await;
}

#[tokio::test]
async fn a_second_publisher_is_refused_unless_the_first_is_dead() {
    let world = World::start().await;
    let key = world.publish_key(id(4), 1000);
    let mut first = world.publish(&key).await;
    first.send_clip(0, 1).await;
    // The first is not read here, so it does not answer the ping; it is cut,
    // and the second goes on. (Frames still on their way are a sign of life.)
    let mut second = loop {
        match Peer::connect(&world.origin.rtmp, &key, Intent::Publish).await {
            Ok(second) => break second,
            Err(code) => assert_eq!(code, "NetStream.Publish.BadName"),
        }
    };
    second.send_clip(0, 1).await;
    assert!(first.media().await.is_none(), "the first was cut");

    // One that answers keeps its place.
    let rival = Peer::connect(&world.origin.rtmp, &key, Intent::Publish);
    let answers = async {
        loop {
            second.event().await;
        }
    };
    let refused = tokio::select! {
        refused = rival => refused.err(),
        () = answers => None,
    };
    assert_eq!(refused.as_deref(), Some("NetStream.Publish.BadName"));
    world.stop().await;
}

#[tokio::test]
async fn the_wrong_cluster_key_opens_nothing() {
    let world = World::start().await;
    let channel = Channel::from_shared(world.origin.grpc.clone()).unwrap().connect().await.unwrap();
    let key = Attach(ClusterKey::new("some-other-key").unwrap());
    let mut client = UpstreamClient::with_interceptor(channel, key);
    let request = FetchRequest {
        broadcast: id(5).to_string(),
        object: Some(fetch_request::Object::Chunklist(Chunklist {})),
        ..FetchRequest::default()
    };
    let refused = client.fetch(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    world.stop().await;
}
