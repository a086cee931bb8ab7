//! Our client against our server, byte by byte and at once.

use std::time::Instant;

use bytes::BytesMut;
use spyglass_media::Track;
use spyglass_rtmp::amf0::{self, Value};
use spyglass_rtmp::wire::{self, Kind};
use spyglass_rtmp::{
    Client, ClientConfig, ClientEvent, Event, Intent, Limits, Message, Refusal, Server, flv,
};

struct Pair {
    now: Instant,
    client: Client,
    server: Server,
    /// Bytes that travel at once.
    step: usize,
    seen_by_client: Vec<ClientEvent>,
    seen_by_server: Vec<Event>,
}

impl Pair {
    fn new(intent: Intent, step: usize) -> Self {
        let now = Instant::now();
        let config = ClientConfig {
            app: "live".to_owned(),
            tc_url: "rtmp://origin/live".to_owned(),
            name: "id?token=t".to_owned(),
            intent,
            buffer_ms: 0,
            limits: Limits::default(),
        };
        let mut pair = Self {
            now,
            client: Client::new(config, now).unwrap(),
            server: Server::new(Limits::default(), now),
            step,
            seen_by_client: Vec::new(),
            seen_by_server: Vec::new(),
        };
        pair.run();
        pair
    }

    /// Carries bytes until both are silent.
    fn run(&mut self) {
        loop {
            let (up, down) = (self.client.take_output(), self.server.take_output());
            if up.is_empty() && down.is_empty() {
                return;
            }
            for piece in up.chunks(self.step) {
                self.server.on_bytes(self.now, piece).unwrap();
            }
            self.deliver(&down);
            self.seen_by_server.extend(std::iter::from_fn(|| self.server.next_event()));
        }
    }

    fn deliver(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(self.step) {
            self.client.on_bytes(self.now, piece).unwrap();
        }
        self.seen_by_client.extend(std::iter::from_fn(|| self.client.next_event()));
    }

    fn accept(&mut self) {
        let (Event::Publish(request) | Event::Play(request)) = self.seen_by_server.remove(0) else {
            panic!("no request");
        };
        assert_eq!(request.tc_url.as_deref(), Some("rtmp://origin/live"));
        assert_eq!(request.token.as_deref(), Some("t"));
        assert_eq!(self.seen_by_client, []);
        self.server.accept(self.now, request.id).unwrap();
        self.run();
    }
}

fn metadata() -> BytesMut {
    let mut body = BytesMut::new();
    amf0::write(&mut body, &Value::string("onMetaData"));
    amf0::write(&mut body, &Value::EcmaArray(vec![("width".to_owned(), Value::Number(640.0))]));
    body
}

#[test]
fn a_publish_from_beginning_to_end() {
    for step in [1, 7, 1 << 20] {
        let mut pair = Pair::new(Intent::Publish, step);
        pair.client.send_media(Track::Video, 0, &[1]);
        pair.run();
        pair.accept();
        assert_eq!(pair.seen_by_client, [ClientEvent::Ready]);
        assert_eq!(pair.client.next_deadline(), None);

        let frame = flv::video_body(true, 80, &vec![5; 200_000]);
        pair.client.send_metadata(&metadata());
        pair.client.send_media(Track::Audio, 0xff_ffff, &[0xaf, 1, 2]);
        pair.client.send_media(Track::Video, 0x1234_5678, &frame);
        pair.run();
        let media = |track, timestamp, body| Event::Media(Message { track, timestamp, body });
        assert_eq!(
            pair.seen_by_server,
            [
                Event::Metadata(metadata().freeze()),
                media(Track::Audio, 0xff_ffff, vec![0xaf, 1, 2].into()),
                media(Track::Video, 0x1234_5678, frame),
            ]
        );

        pair.seen_by_server.clear();
        pair.client.finish();
        pair.run();
        assert_eq!(pair.seen_by_server, [Event::Stopped]);
    }
}

#[test]
fn a_play_from_beginning_to_end() {
    for step in [1, 7, 1 << 20] {
        let mut pair = Pair::new(Intent::Play, step);
        pair.accept();
        let reset = ClientEvent::Status {
            code: "NetStream.Play.Reset".to_owned(),
            description: "Playback begins.".to_owned(),
        };
        assert_eq!(pair.seen_by_client, [reset, ClientEvent::Ready]);

        let frame = flv::video_body(true, 0, &vec![5; 200_000]);
        let mut shared = BytesMut::new();
        wire::write_message(&mut shared, Kind::Data, 0, &metadata());
        wire::write_message(&mut shared, Kind::Video, u32::MAX, &frame);
        pair.deliver(&shared);
        pair.server.ping(pair.now);
        pair.server.end_play();
        pair.run();
        let message = Message { track: Track::Video, timestamp: u32::MAX, body: frame };
        assert_eq!(
            pair.seen_by_client[2..],
            [
                ClientEvent::Metadata(metadata().freeze()),
                ClientEvent::Media(message),
                ClientEvent::Ended
            ]
        );
    }
}

#[test]
fn a_refusal_reaches_the_client() {
    for (intent, refusal) in
        [(Intent::Publish, Refusal::PublishDenied), (Intent::Play, Refusal::PlayStreamNotFound)]
    {
        let mut pair = Pair::new(intent, 100);
        let (Event::Publish(request) | Event::Play(request)) = pair.seen_by_server.remove(0) else {
            panic!("no request");
        };
        pair.server.reject(request.id, refusal, "because");
        pair.run();
        let code = refusal.as_str().to_owned();
        let refused = ClientEvent::Refused { code, description: "because".to_owned() };
        assert_eq!(pair.seen_by_client, [refused]);
    }
}

#[test]
fn a_client_answers_pings_and_the_server_hears_it() {
    let mut pair = Pair::new(Intent::Publish, 50);
    pair.accept();
    pair.server.ping(pair.now);
    pair.run();
    assert_eq!(pair.seen_by_server, [Event::Pong]);
}
