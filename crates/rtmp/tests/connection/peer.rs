//! A peer of the server, by hand: `rml_amf0` writes its values and `rml_rtmp`
//! reads the answers, so neither side of a test is our own code twice.

use std::time::Instant;

use bytes::Bytes;
use rml_amf0::Amf0Value;
use rml_rtmp::chunk_io::ChunkDeserializer;
use rml_rtmp::messages::RtmpMessage;
use spyglass_rtmp::{Error, Event, Limits, Request, Server};

pub const CHUNK_SIZE: usize = 128;

/// Message types.
pub const AUDIO: u8 = 8;
pub const VIDEO: u8 = 9;
pub const DATA: u8 = 18;
pub const COMMAND: u8 = 20;

pub struct Peer {
    pub server: Server,
    pub now: Instant,
    answers: ChunkDeserializer,
    /// Of the server's chunks: what it announced.
    pub chunk_size: u32,
}

impl Peer {
    /// With the handshake done.
    pub fn new() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        let now = Instant::now();
        let mut server = Server::new(limits, now);
        server.on_bytes(now, &[&[3][..], &[0; 1536]].concat()).unwrap();
        let hello = server.take_output();
        assert_eq!((hello.len(), hello[0]), (1 + 2 * 1536, 3));
        // The plain handshake's answer is a copy of what we sent.
        assert!(hello[1537..].iter().all(|&byte| byte == 0));
        server.on_bytes(now, &hello[1..1537]).unwrap();
        assert!(server.take_output().is_empty());
        Self { server, now, answers: ChunkDeserializer::new(), chunk_size: 128 }
    }

    /// After `connect` and `createStream`, the answers read.
    pub fn with_stream() -> Self {
        let mut peer = Self::new();
        peer.command(0, "connect", 1.0, vec![object(&[("app", text("live"))])]).unwrap();
        peer.command(0, "createStream", 2.0, vec![Amf0Value::Null]).unwrap();
        peer.answers();
        peer
    }

    /// Publishing on stream 1, the answers read.
    pub fn publishing() -> Self {
        let mut peer = Self::with_stream();
        let request = peer.publish("id?token=t");
        peer.server.accept(peer.now, request.id).unwrap();
        peer.answers();
        peer
    }

    pub fn publish(&mut self, name: &str) -> Request {
        self.command(1, "publish", 5.0, vec![Amf0Value::Null, text(name), text("live")]).unwrap();
        match self.events().pop() {
            Some(Event::Publish(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    pub fn play(&mut self, name: &str) -> Request {
        self.command(1, "play", 5.0, vec![Amf0Value::Null, text(name), number(-2000.0)]).unwrap();
        match self.events().pop() {
            Some(Event::Play(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.server.on_bytes(self.now, bytes)
    }

    pub fn message(&mut self, kind: u8, stream: u32, time: u32, body: &[u8]) -> Result<(), Error> {
        self.bytes(&wire(kind, stream, time, body))
    }

    pub fn command(
        &mut self,
        stream: u32,
        name: &str,
        transaction: f64,
        values: Vec<Amf0Value>,
    ) -> Result<(), Error> {
        self.message(COMMAND, stream, 0, &command(name, transaction, values))
    }

    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.server.next_event()).collect()
    }

    /// What the server has said.
    pub fn answers(&mut self) -> Vec<RtmpMessage> {
        let output = self.server.take_output();
        self.read(&output)
    }

    pub fn read(&mut self, output: &[u8]) -> Vec<RtmpMessage> {
        let mut answers = Vec::new();
        let mut input = output;
        while let Some(payload) = self.answers.get_next_message(input).unwrap() {
            input = &[];
            let message = payload.to_rtmp_message().unwrap();
            if let RtmpMessage::SetChunkSize { size } = message {
                self.chunk_size = size;
                self.answers.set_max_chunk_size(size as usize).unwrap();
            }
            answers.push(message);
        }
        answers
    }

    /// The server's answers as short texts: `_result 2`, `onStatus CODE`.
    pub fn told(&mut self) -> Vec<String> {
        self.answers().iter().map(short).collect()
    }
}

pub fn short(message: &RtmpMessage) -> String {
    match message {
        RtmpMessage::Amf0Command { command_name, additional_arguments, transaction_id, .. } => {
            match additional_arguments.first() {
                Some(Amf0Value::Object(info)) if *transaction_id == 0.0 => {
                    let Some(Amf0Value::Utf8String(code)) = info.get("code") else { panic!() };
                    format!("{command_name} {code}")
                }
                _ => format!("{command_name} {transaction_id}"),
            }
        }
        RtmpMessage::UserControl { event_type, .. } => format!("{event_type:?}"),
        RtmpMessage::Acknowledgement { sequence_number } => format!("ack {sequence_number}"),
        RtmpMessage::WindowAcknowledgement { size } => format!("window {size}"),
        RtmpMessage::SetPeerBandwidth { size, .. } => format!("bandwidth {size}"),
        RtmpMessage::SetChunkSize { size } => format!("chunk size {size}"),
        other => format!("{other:?}"),
    }
}

pub fn text(text: &str) -> Amf0Value {
    Amf0Value::Utf8String(text.to_owned())
}

pub fn number(number: f64) -> Amf0Value {
    Amf0Value::Number(number)
}

pub fn object(members: &[(&str, Amf0Value)]) -> Amf0Value {
    Amf0Value::Object(
        members.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
    )
}

pub fn command(name: &str, transaction: f64, values: Vec<Amf0Value>) -> Vec<u8> {
    let mut all = vec![text(name), number(transaction)];
    all.extend(values);
    rml_amf0::serialize(&all).unwrap()
}

/// A message in chunks of [`CHUNK_SIZE`] on chunk stream 3.
pub fn wire(kind: u8, stream: u32, time: u32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![3];
    out.extend(&time.min(0xff_ffff).to_be_bytes()[1..]);
    out.extend(&(body.len() as u32).to_be_bytes()[1..]);
    out.push(kind);
    out.extend(stream.to_le_bytes());
    for (index, piece) in body.chunks(CHUNK_SIZE).enumerate() {
        if index > 0 {
            out.push(0xc3);
        }
        out.extend(piece);
    }
    out
}

pub fn metadata() -> Vec<u8> {
    // One member: the library writes several in any order.
    let values = object(&[("width", number(640.0))]);
    rml_amf0::serialize(&vec![text("onMetaData"), values]).unwrap()
}

/// `@setDataFrame` before it, as encoders send it.
pub fn set_data_frame() -> Vec<u8> {
    let mut body = rml_amf0::serialize(&vec![text("@setDataFrame")]).unwrap();
    body.extend(metadata());
    body
}

pub fn key_frame(size: usize) -> Bytes {
    spyglass_rtmp::flv::video_body(true, 0, &vec![7; size])
}
