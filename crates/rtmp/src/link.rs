//! What both ends of a connection share: the handshake, messages in and out,
//! protocol control (RTMP 5.4) and user control (RTMP 6.2, 7.1.7).

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use spyglass_media::Track;

use crate::amf0::Value;
use crate::chunk::{Reader, Whole};
use crate::command::{self, Command, Data};
use crate::handshake::Handshake;
use crate::wire::{self, CONTROL_CHUNK_STREAM, Header, PUSH_CHUNK_SIZE, kind};
use crate::{Error, Limits};

/// How much we let a peer send, and ask it to let us send, between two
/// acknowledgements. Two seconds at 20 Mbit/s.
pub(crate) const WINDOW: u32 = 5_000_000;

/// One audio or video message. `Debug` shows its size and not its bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Audio or video.
    pub track: Track,
    /// The publisher's clock in milliseconds; wraps. See [`crate::timeline`].
    pub timestamp: u32,
    /// The codec's header and its data. See [`crate::flv`].
    pub body: Bytes,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { track, timestamp, body } = self;
        write!(f, "Message({}, {timestamp} ms, {} bytes)", track.as_str(), body.len())
    }
}

/// User control events (RTMP 7.1.7).
pub(crate) mod event {
    pub const STREAM_BEGIN: u16 = 0;
    pub const STREAM_EOF: u16 = 1;
    pub const SET_BUFFER_LENGTH: u16 = 3;
    pub const PING_REQUEST: u16 = 6;
    pub const PING_RESPONSE: u16 = 7;
}

/// What is not settled here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Incoming {
    /// With the message stream that it came on.
    Command(u32, Command),
    Data(Data),
    Media(Message),
    Pong,
    StreamEnd,
}

pub(crate) struct Link {
    pub limits: Limits,
    handshake: Option<Handshake>,
    reader: Reader,
    aggregate: Option<Aggregate>,
    out: BytesMut,
    /// Of `out`, what a peer's messages caused.
    replies: usize,
    out_chunk_size: usize,
    received: u64,
    acknowledged: u64,
    /// The peer wants an acknowledgement at least this often.
    acknowledge_every: u32,
    /// What we told the peer last.
    window: u32,
}

impl Link {
    pub fn server(limits: Limits) -> Self {
        Self::new(limits, Handshake::server())
    }

    pub fn client(limits: Limits) -> Result<Self, Error> {
        let (handshake, opening) = Handshake::client()?;
        let mut link = Self::new(limits, handshake);
        link.out.put_slice(&opening);
        Ok(link)
    }

    fn new(limits: Limits, handshake: Handshake) -> Self {
        Self {
            limits,
            handshake: Some(handshake),
            reader: Reader::new(),
            aggregate: None,
            out: BytesMut::new(),
            replies: 0,
            out_chunk_size: Limits::MIN_CHUNK_SIZE,
            received: 0,
            acknowledged: 0,
            acknowledge_every: WINDOW,
            window: 0,
        }
    }

    pub fn shaken(&self) -> bool {
        self.handshake.is_none()
    }

    pub fn received(&self) -> u64 {
        self.received
    }

    pub fn allow_media(&mut self, allow: bool) {
        self.reader.allow_media(allow);
    }

    pub fn take_output(&mut self) -> Bytes {
        self.replies = 0;
        self.out.split().freeze()
    }

    /// Counts what arrived. While the handshake lasts it takes all of it and
    /// returns what stands behind it when it is done.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.received += bytes.len() as u64;
        if let Some(handshake) = &mut self.handshake {
            let step = handshake.on_bytes(bytes)?;
            self.out.put_slice(&step.output);
            if step.done.is_some() {
                self.handshake = None;
            }
            return Ok(Some(step.done.unwrap_or_default()));
        }
        // Half of the window, so that a strict peer never has to wait for it.
        if self.received - self.acknowledged >= u64::from(self.acknowledge_every.div_ceil(2)) {
            self.acknowledged = self.received;
            // The running total, which wraps (RTMP 5.4.3).
            self.control(kind::ACKNOWLEDGEMENT, &(self.received as u32).to_be_bytes());
        }
        Ok(None)
    }

    /// The next thing of the input that concerns the session.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, Error> {
        loop {
            // A peer that asks on and on and reads nothing.
            if self.replies > self.limits.replies {
                return Err(Error::TooManyReplies);
            }
            if let Some(aggregate) = &mut self.aggregate {
                match aggregate.next()? {
                    Some(whole) => {
                        if let Some(incoming) = self.on_message(whole)? {
                            return Ok(Some(incoming));
                        }
                        continue;
                    }
                    None => self.aggregate = None,
                }
            }
            let Some(whole) = self.reader.read(input, &self.limits)? else { return Ok(None) };
            if let Some(incoming) = self.on_message(whole)? {
                return Ok(Some(incoming));
            }
        }
    }

    fn on_message(&mut self, whole: Whole) -> Result<Option<Incoming>, Error> {
        let Whole { kind, timestamp, stream, mut body } = whole;
        let number = || match body.first_chunk() {
            Some(bytes) => Ok(u32::from_be_bytes(*bytes)),
            None => Err(Error::Truncated(kind)),
        };
        let media = |track| Some(Incoming::Media(Message { track, timestamp, body: body.clone() }));
        Ok(match kind {
            kind::SET_CHUNK_SIZE => {
                self.reader.set_chunk_size(number()?, &self.limits)?;
                None
            }
            kind::ABORT => {
                self.reader.abort(number()?);
                None
            }
            kind::USER_CONTROL => self.on_user_control(body)?,
            kind::WINDOW_SIZE => {
                self.acknowledge_every = number()?.max(1);
                None
            }
            kind::PEER_BANDWIDTH => {
                // RTMP 5.4.5: answered when it is news to us.
                let size = number()?;
                if self.window != size {
                    self.send_window(size);
                }
                None
            }
            kind::AUDIO => media(Track::Audio),
            kind::VIDEO => media(Track::Video),
            kind::COMMAND | kind::COMMAND_AMF3 => {
                strip_amf3(kind, &mut body);
                Some(Incoming::Command(stream, Command::read(&body, &self.limits)?))
            }
            kind::DATA | kind::DATA_AMF3 => {
                strip_amf3(kind, &mut body);
                command::data(body, &self.limits).map(Incoming::Data)
            }
            kind::AGGREGATE => {
                self.aggregate = Some(Aggregate::new(timestamp, body));
                None
            }
            // Acknowledgements, shared objects, what nobody has specified.
            _ => None,
        })
    }

    fn on_user_control(&mut self, mut body: Bytes) -> Result<Option<Incoming>, Error> {
        let event = body.try_get_u16().map_err(|_| Error::Truncated(kind::USER_CONTROL))?;
        Ok(match event {
            event::PING_REQUEST => {
                self.user_control(event::PING_RESPONSE, &body);
                None
            }
            event::PING_RESPONSE => Some(Incoming::Pong),
            event::STREAM_EOF => Some(Incoming::StreamEnd),
            _ => None,
        })
    }

    pub fn send_window(&mut self, size: u32) {
        self.window = size;
        self.control(kind::WINDOW_SIZE, &size.to_be_bytes());
    }

    /// Asks the peer to acknowledge as often as we do; dynamic limit.
    pub fn send_bandwidth(&mut self, size: u32) {
        let [a, b, c, d] = size.to_be_bytes();
        self.control(kind::PEER_BANDWIDTH, &[a, b, c, d, 2]);
    }

    /// From here on our chunks are [`PUSH_CHUNK_SIZE`] long.
    pub fn send_chunk_size(&mut self) {
        self.control(kind::SET_CHUNK_SIZE, &(PUSH_CHUNK_SIZE as u32).to_be_bytes());
        self.out_chunk_size = PUSH_CHUNK_SIZE;
    }

    pub fn user_control(&mut self, event: u16, payload: &[u8]) {
        let mut body = BytesMut::with_capacity(2 + payload.len());
        body.put_u16(event);
        body.put_slice(payload);
        self.control(kind::USER_CONTROL, &body);
    }

    /// The time only comes back to us; that it does is what counts.
    pub fn ping(&mut self, millis: u32) {
        self.user_control(event::PING_REQUEST, &millis.to_be_bytes());
    }

    fn control(&mut self, kind: u8, body: &[u8]) {
        let header = Header { chunk_stream: CONTROL_CHUNK_STREAM, kind, timestamp: 0, stream: 0 };
        self.reply(header, body);
    }

    pub fn command(&mut self, stream: u32, name: &str, transaction: f64, values: &[Value]) {
        let body = command::encode(name, transaction, values);
        let chunk_stream = wire::COMMAND_CHUNK_STREAM;
        self.reply(Header { chunk_stream, kind: kind::COMMAND, timestamp: 0, stream }, &body);
    }

    /// `onStatus` (RTMP 7.2.2).
    pub fn status(&mut self, stream: u32, level: &str, code: &str, description: &str) {
        let info = command::info(level, code, description);
        self.command(stream, "onStatus", 0.0, &[Value::Null, info]);
    }

    fn reply(&mut self, header: Header, body: &[u8]) {
        let before = self.out.len();
        wire::write_chunks(&mut self.out, header, self.out_chunk_size, body);
        self.replies += self.out.len() - before;
    }

    pub fn media(&mut self, kind: wire::Kind, timestamp: u32, stream: u32, body: &[u8]) {
        let (chunk_stream, kind) = kind.ids();
        let header = Header { chunk_stream, kind, timestamp, stream };
        wire::write_chunks(&mut self.out, header, self.out_chunk_size, body);
    }
}

/// AMF3 messages of clients that speak AMF0: a zero byte, then AMF0.
fn strip_amf3(kind: u8, body: &mut Bytes) {
    let amf3 = matches!(kind, kind::COMMAND_AMF3 | kind::DATA_AMF3);
    if amf3 && body.first() == Some(&0) {
        body.advance(1);
    }
}

/// An aggregate message (RTMP 7.1.6): messages in FLV's tag format, whose time
/// stamps count from the first one's.
struct Aggregate {
    timestamp: u32,
    first: Option<u32>,
    rest: Bytes,
}

impl Aggregate {
    const fn new(timestamp: u32, rest: Bytes) -> Self {
        Self { timestamp, first: None, rest }
    }

    fn next(&mut self) -> Result<Option<Whole>, Error> {
        let Some(&[kind, l0, l1, l2, t0, t1, t2, t3, _, _, _]) = self.rest.first_chunk() else {
            return if self.rest.is_empty() {
                Ok(None)
            } else {
                Err(Error::Truncated(kind::AGGREGATE))
            };
        };
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        let timestamp = u32::from_be_bytes([t3, t0, t1, t2]);
        self.rest.advance(11);
        if self.rest.len() < length {
            return Err(Error::Truncated(kind::AGGREGATE));
        }
        let body = self.rest.split_to(length);
        // The size of the tag again; some leave it out behind the last.
        self.rest.advance(self.rest.len().min(4));
        let first = *self.first.get_or_insert(timestamp);
        let timestamp = self.timestamp.wrapping_add(timestamp.wrapping_sub(first));
        // Only what streams carry: an aggregate within another or a
        // SetChunkSize in one has no meaning, and is passed over as unknown.
        let kind = if matches!(kind, kind::AUDIO | kind::VIDEO | kind::DATA) { kind } else { 0 };
        Ok(Some(Whole { kind, timestamp, stream: 0, body }))
    }
}
