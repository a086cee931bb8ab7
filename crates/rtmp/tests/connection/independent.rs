//! `rml_rtmp`'s sessions at the other end: an implementation that is not ours.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use rml_rtmp::sessions::{
    ClientSession, ClientSessionConfig, ClientSessionEvent, ClientSessionResult,
    PublishRequestType, ServerSession, ServerSessionConfig, ServerSessionEvent,
    ServerSessionResult,
};
use rml_rtmp::time::RtmpTimestamp;
use spyglass_media::Track;
use spyglass_rtmp::wire::{self, Kind};
use spyglass_rtmp::{
    Client, ClientConfig, ClientEvent, Event, Intent, Limits, Message, Server, flv,
};

use crate::peer::metadata;

/// Their handshake, to its end; returns what stands behind it.
fn shake(theirs: &mut Handshake, input: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    match theirs.process_bytes(input).unwrap() {
        HandshakeProcessResult::InProgress { response_bytes } => (response_bytes, None),
        HandshakeProcessResult::Completed { response_bytes, remaining_bytes } => {
            (response_bytes, Some(remaining_bytes))
        }
    }
}

/// Their client at our server, connected.
struct TheirClient {
    now: Instant,
    server: Server,
    session: ClientSession,
    events: Vec<ClientSessionEvent>,
}

impl TheirClient {
    fn new() -> Self {
        let now = Instant::now();
        let mut server = Server::new(Limits::default(), now);
        let mut handshake = Handshake::new(PeerType::Client);
        server.on_bytes(now, &handshake.generate_outbound_p0_and_p1().unwrap()).unwrap();
        let (answer, rest) = shake(&mut handshake, &server.take_output());
        server.on_bytes(now, &answer).unwrap();
        assert_eq!(rest, Some(vec![]));

        let mut config = ClientSessionConfig::new();
        config.tc_url = Some("rtmp://origin/live".to_owned());
        let (session, results) = ClientSession::new(config).unwrap();
        let mut client = Self { now, server, session, events: Vec::new() };
        client.carry(results);
        let result = client.session.request_connection("live".to_owned()).unwrap();
        client.carry(vec![result]);
        assert_eq!(client.events, [ClientSessionEvent::ConnectionRequestAccepted]);
        client.events.clear();
        client
    }

    fn carry(&mut self, results: Vec<ClientSessionResult>) {
        for result in results {
            match result {
                ClientSessionResult::OutboundResponse(packet) => {
                    self.server.on_bytes(self.now, &packet.bytes).unwrap();
                    self.answers();
                }
                ClientSessionResult::RaisedEvent(event) => self.events.push(event),
                // Set Peer Bandwidth, which their client does not know.
                ClientSessionResult::UnhandleableMessageReceived(message) => {
                    assert_eq!(message.type_id, 6);
                }
            }
        }
    }

    fn answers(&mut self) {
        let output = self.server.take_output();
        if !output.is_empty() {
            let results = self.session.handle_input(&output).unwrap();
            self.carry(results);
        }
    }

    fn accept(&mut self) {
        let Some(Event::Publish(request) | Event::Play(request)) = self.server.next_event() else {
            panic!("no request");
        };
        assert_eq!((&*request.app, &*request.name), ("live", "id"));
        assert_eq!(request.token.as_deref(), Some("t"));
        self.server.accept(self.now, request.id).unwrap();
        self.answers();
    }
}

fn frames() -> Vec<(u32, Bytes)> {
    [
        (0u32, 10),
        (40, 5000),
        (80, 5000),
        (120, 5000),
        (0xff_fff0, 70_000),
        (0xff_fffe, 200_000),
        (u32::MAX - 5, 100_000),
    ]
    .into_iter()
    .map(|(timestamp, size)| {
        let sample: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
        (timestamp, flv::video_body(size == 10, 40, &sample))
    })
    .collect()
}

#[test]
fn their_client_publishes_to_our_server() {
    let mut client = TheirClient::new();
    let publish =
        client.session.request_publishing("id?token=t".to_owned(), PublishRequestType::Live);
    client.carry(vec![publish.unwrap()]);
    client.accept();
    assert_eq!(client.events, [ClientSessionEvent::PublishRequestAccepted]);

    for (timestamp, body) in frames() {
        // Their headers are compressed: type 0 to 3.
        let time = RtmpTimestamp::new(timestamp);
        let result = client.session.publish_video_data(body.clone(), time, false).unwrap();
        client.carry(vec![result]);
        let message = Message { track: Track::Video, timestamp, body };
        assert_eq!(client.server.next_event(), Some(Event::Media(message)));
    }
    let results = client.session.stop_publishing().unwrap();
    client.carry(results);
    assert_eq!(client.server.next_event(), Some(Event::Stopped));
}

#[test]
fn their_client_plays_from_our_server() {
    let mut client = TheirClient::new();
    let play = client.session.request_playback("id?token=t".to_owned()).unwrap();
    client.carry(vec![play]);
    client.accept();
    client
        .events
        .retain(|event| !matches!(event, ClientSessionEvent::UnhandleableOnStatusCode { .. }));
    assert_eq!(client.events, [ClientSessionEvent::PlaybackRequestAccepted]);
    client.events.clear();

    let mut shared = BytesMut::new();
    wire::write_message(&mut shared, Kind::Data, 0, &metadata());
    for (timestamp, body) in frames() {
        wire::write_message(&mut shared, Kind::Video, timestamp, &body);
    }
    let results = client.session.handle_input(&shared).unwrap();
    client.carry(results);
    assert!(matches!(client.events.remove(0), ClientSessionEvent::StreamMetadataReceived { .. }));
    let expected: Vec<_> = frames()
        .into_iter()
        .map(|(timestamp, data)| {
            let timestamp = RtmpTimestamp::new(timestamp);
            ClientSessionEvent::VideoDataReceived { timestamp, data }
        })
        .collect();
    assert_eq!(client.events, expected);
}

/// Our client at their server, ready.
struct TheirServer {
    now: Instant,
    client: Client,
    session: ServerSession,
    events: Vec<ServerSessionEvent>,
    heard: Vec<ClientEvent>,
}

impl TheirServer {
    fn new(intent: Intent) -> Self {
        let now = Instant::now();
        let config = ClientConfig {
            app: "live".to_owned(),
            tc_url: "rtmp://origin/live".to_owned(),
            name: "id".to_owned(),
            intent,
            buffer_ms: 0,
            limits: Limits::default(),
        };
        let mut client = Client::new(config, now).unwrap();
        let mut handshake = Handshake::new(PeerType::Server);
        let (answer, _) = shake(&mut handshake, &client.take_output());
        client.on_bytes(now, &answer).unwrap();
        let (_, rest) = shake(&mut handshake, &client.take_output());
        let (session, results) = ServerSession::new(ServerSessionConfig::new()).unwrap();
        let mut server = Self { now, client, session, events: Vec::new(), heard: Vec::new() };
        server.carry(results);
        let results = server.session.handle_input(&rest.unwrap()).unwrap();
        server.carry(results);
        server
    }

    fn carry(&mut self, results: Vec<ServerSessionResult>) {
        for result in results {
            match result {
                ServerSessionResult::OutboundResponse(packet) => {
                    self.client.on_bytes(self.now, &packet.bytes).unwrap();
                    self.heard.extend(std::iter::from_fn(|| self.client.next_event()));
                    self.flush();
                }
                ServerSessionResult::RaisedEvent(event) => {
                    use ServerSessionEvent as Asked;
                    if let Asked::ConnectionRequested { request_id, .. }
                    | Asked::PublishStreamRequested { request_id, .. }
                    | Asked::PlayStreamRequested { request_id, .. } = event
                    {
                        let results = self.session.accept_request(request_id).unwrap();
                        self.carry(results);
                    }
                    self.events.push(event);
                }
                ServerSessionResult::UnhandleableMessageReceived(message) => panic!("{message:?}"),
            }
        }
    }

    fn flush(&mut self) {
        let output = self.client.take_output();
        if !output.is_empty() {
            let results = self.session.handle_input(&output).unwrap();
            self.carry(results);
        }
    }
}

#[test]
fn our_client_publishes_to_their_server() {
    let mut server = TheirServer::new(Intent::Publish);
    assert_eq!(server.heard.last(), Some(&ClientEvent::Ready), "{:?}", server.heard);
    server.events.clear();
    server.client.send_metadata(&metadata());
    for (timestamp, body) in frames() {
        server.client.send_media(Track::Video, timestamp, &body);
    }
    server.client.finish();
    server.flush();
    assert!(matches!(server.events[0], ServerSessionEvent::StreamMetadataChanged { .. }));
    let got: Vec<_> = server
        .events
        .iter()
        .filter_map(|event| match event {
            ServerSessionEvent::VideoDataReceived { data, timestamp, .. } => {
                Some((timestamp.value, data.clone()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(got, frames());
    let last = server.events.last();
    assert!(matches!(last, Some(ServerSessionEvent::PublishStreamFinished { .. })), "{last:?}");
}

#[test]
fn our_client_plays_from_their_server() {
    let mut server = TheirServer::new(Intent::Play);
    assert!(server.heard.contains(&ClientEvent::Ready), "{:?}", server.heard);
    server.heard.clear();
    for (timestamp, body) in frames() {
        let time = RtmpTimestamp::new(timestamp);
        let packet = server.session.send_video_data(1, body, time, false).unwrap();
        server.carry(vec![ServerSessionResult::OutboundResponse(packet)]);
    }
    let packet = server.session.finish_playing(1).unwrap();
    server.carry(vec![ServerSessionResult::OutboundResponse(packet)]);
    let mut expected: Vec<_> = frames()
        .into_iter()
        .map(|(timestamp, body)| {
            ClientEvent::Media(Message { track: Track::Video, timestamp, body })
        })
        .collect();
    expected.push(ClientEvent::Ended);
    assert_eq!(server.heard, expected);
}
