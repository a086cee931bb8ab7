//! The server's end of a connection: what publishers and players ask, in the
//! order that OBS, ffmpeg, GStreamer and librtmp ask it (RTMP 7.2).

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use crate::amf0::Value;
use crate::command::{self, Command, Data};
use crate::link::{Incoming, Link, Message, WINDOW, event};
use crate::request::{Connected, Refusal, Request, RequestId};
use crate::wire::PUSH_STREAM_ID;
use crate::{Error, Limits};

/// What the peer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It wants to publish; nothing else is read before the answer.
    Publish(Request),
    /// It wants to play; nothing else is read before the answer.
    Play(Request),
    /// Audio or video of the accepted publish.
    Media(Message),
    /// `onMetaData` and its value, as AMF0: what players are to get.
    Metadata(Bytes),
    /// Another data message of the accepted publish, its name first, as AMF0.
    Data(Bytes),
    /// The accepted stream was stopped. The peer may ask again.
    Stopped,
    /// It answered a ping.
    Pong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Publish,
    Play,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    /// Waits for the caller's answer.
    Asked {
        id: RequestId,
        role: Role,
        stream: u32,
    },
    Live {
        role: Role,
        stream: u32,
    },
    /// Refused or ended: nothing more is read.
    Over,
}

/// One connection from a publisher or a player.
///
/// After an error or a refusal write out [`Self::take_output`] and close.
pub struct Server {
    link: Link,
    started: Instant,
    deadline: Option<Instant>,
    connected: Option<Connected>,
    /// Message streams that are open, by id.
    streams: Vec<u32>,
    stage: Stage,
    last_request: u64,
    /// What arrived behind a request that is not answered yet.
    held: Vec<u8>,
    events: VecDeque<Event>,
}

impl Server {
    /// A connection that was opened just now.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            started: now,
            deadline: Some(now + limits.handshake),
            link: Link::server(limits),
            connected: None,
            streams: Vec::new(),
            stage: Stage::Idle,
            last_request: 0,
            held: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes what the socket gave. Take all events before the next call.
    ///
    /// # Errors
    /// The connection is to be closed; events before the fault stand.
    pub fn on_bytes(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Error> {
        if self.stage == Stage::Over {
            return Ok(());
        }
        let shaking = !self.link.shaken();
        let behind_handshake = self.link.receive(bytes)?;
        if shaking && self.link.shaken() {
            self.deadline = Some(now + self.link.limits.request);
        }
        self.read(now, behind_handshake.as_deref().unwrap_or(bytes))
    }

    /// The next thing that the peer did.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What is to be written to the socket; empty when there is nothing.
    ///
    /// It consists of whole messages that depend on nothing but the chunk size,
    /// so messages of [`wire`](crate::wire) may stand before and behind it.
    pub fn take_output(&mut self) -> Bytes {
        self.link.take_output()
    }

    /// When [`Self::on_deadline`] is to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The peer's time is up, if it is.
    ///
    /// # Errors
    /// [`Error::HandshakeTimeout`] or [`Error::RequestTimeout`]: close.
    pub fn on_deadline(&mut self, now: Instant) -> Result<(), Error> {
        match self.deadline {
            Some(deadline) if deadline <= now && self.link.shaken() => Err(Error::RequestTimeout),
            Some(deadline) if deadline <= now => Err(Error::HandshakeTimeout),
            _ => Ok(()),
        }
    }

    /// Bytes received so far: where in a capture an error stands.
    pub fn received(&self) -> u64 {
        self.link.received()
    }

    /// Grants the request, and reads what the peer has sent behind it. Another
    /// id than the open request's does nothing.
    ///
    /// # Errors
    /// What stood behind the request: as for [`Self::on_bytes`].
    pub fn accept(&mut self, now: Instant, request: RequestId) -> Result<(), Error> {
        let Stage::Asked { id, role, stream } = self.stage else { return Ok(()) };
        if id != request {
            return Ok(());
        }
        self.stage = Stage::Live { role, stream };
        self.link.user_control(event::STREAM_BEGIN, &stream.to_be_bytes());
        match role {
            Role::Publish => {
                self.link.allow_media(true);
                self.link.status(stream, "status", "NetStream.Publish.Start", "You are live.");
            }
            Role::Play => {
                // No |RtmpSampleAccess and no NetStream.Data.Start: ffmpeg would
                // show them as two streams of their own.
                self.link.status(stream, "status", "NetStream.Play.Reset", "Playback begins.");
                self.link.status(stream, "status", "NetStream.Play.Start", "Playback begins.");
            }
        }
        let held = std::mem::take(&mut self.held);
        self.read(now, &held)
    }

    /// Refuses the request and tells the peer why. Another id than the open
    /// request's does nothing.
    pub fn reject(&mut self, request: RequestId, refusal: Refusal, description: &str) {
        match self.stage {
            Stage::Asked { id, stream, .. } if id == request => {
                self.link.status(stream, "error", refusal.as_str(), description);
                self.over();
            }
            _ => {}
        }
    }

    /// Asks the peer for a sign of life, an [`Event::Pong`].
    pub fn ping(&mut self, now: Instant) {
        let millis = now.saturating_duration_since(self.started).as_millis();
        self.link.ping(millis as u32);
    }

    /// Tells an accepted player that the broadcast is over. Then close.
    pub fn end_play(&mut self) {
        if let Stage::Live { role: Role::Play, stream } = self.stage {
            self.link.user_control(event::STREAM_EOF, &stream.to_be_bytes());
            let code = "NetStream.Play.UnpublishNotify";
            self.link.status(stream, "status", code, "The broadcast is over.");
            self.over();
        }
    }

    /// Tells an accepted player that it is cut off, and why. Then close.
    pub fn cut_play(&mut self, description: &str) {
        if let Stage::Live { role: Role::Play, stream } = self.stage {
            let code = Refusal::PlayDenied.as_str();
            self.link.status(stream, "error", code, description);
            self.over();
        }
    }

    fn over(&mut self) {
        self.stage = Stage::Over;
        self.deadline = None;
        self.held = Vec::new();
    }

    fn read(&mut self, now: Instant, mut input: &[u8]) -> Result<(), Error> {
        while !matches!(self.stage, Stage::Asked { .. }) {
            let Some(incoming) = self.link.next(&mut input)? else { return Ok(()) };
            self.on_incoming(now, incoming)?;
        }
        if self.held.len() + input.len() > self.link.limits.held {
            return Err(Error::Impatient);
        }
        self.held.extend_from_slice(input);
        Ok(())
    }

    fn on_incoming(&mut self, now: Instant, incoming: Incoming) -> Result<(), Error> {
        let publishing = matches!(self.stage, Stage::Live { role: Role::Publish, .. });
        match incoming {
            Incoming::Command(stream, command) => self.on_command(now, stream, &command),
            Incoming::Media(message) if publishing => self.raise(Event::Media(message)),
            Incoming::Data(Data::Metadata(body)) if publishing => self.raise(Event::Metadata(body)),
            Incoming::Data(Data::Other(body)) if publishing => self.raise(Event::Data(body)),
            Incoming::Pong => self.raise(Event::Pong),
            Incoming::Media(_) | Incoming::Data(_) | Incoming::StreamEnd => Ok(()),
        }
    }

    fn raise(&mut self, event: Event) -> Result<(), Error> {
        if self.events.len() >= self.link.limits.events {
            return Err(Error::TooManyEvents);
        }
        self.events.push_back(event);
        Ok(())
    }

    fn on_command(&mut self, now: Instant, stream: u32, command: &Command) -> Result<(), Error> {
        match &*command.name {
            "connect" => self.on_connect(command),
            "createStream" => self.on_create_stream(command),
            "publish" => self.on_request(Role::Publish, stream, command),
            "play" => self.on_request(Role::Play, stream, command),
            "releaseStream" | "FCPublish" | "_checkbw" => {
                self.answer(command, Value::Undefined);
                Ok(())
            }
            "getStreamLength" => {
                self.answer(command, Value::Number(0.0));
                Ok(())
            }
            "FCSubscribe" => {
                let info = command::info("status", "NetStream.Play.Start", "Subscribed.");
                self.link.command(0, "onFCSubscribe", 0.0, &[Value::Null, info]);
                Ok(())
            }
            "FCUnpublish" => match self.stage {
                Stage::Live { role: Role::Publish, .. } => self.stop(now),
                _ => Ok(()),
            },
            "closeStream" => self.close_stream(now, stream),
            "deleteStream" => {
                let id = command.arguments.first().and_then(Value::as_number).unwrap_or_default();
                self.streams.retain(|&open| f64::from(open) != id);
                self.close_stream(now, id as u32)
            }
            // Answers to what we never ask, and what only recordings understand.
            _ => Ok(()),
        }
    }

    fn answer(&mut self, command: &Command, value: Value) {
        if command.transaction != 0.0 {
            self.link.command(0, "_result", command.transaction, &[Value::Null, value]);
        }
    }

    fn on_connect(&mut self, command: &Command) -> Result<(), Error> {
        if self.connected.is_some() {
            return Err(Error::ConnectedTwice);
        }
        let text = |name| command.object.get(name).and_then(Value::as_str);
        let app = text("app").unwrap_or_default();
        self.connected = Some(Connected::new(app, text("tcUrl"), &self.link.limits)?);

        self.link.send_window(WINDOW);
        self.link.send_bandwidth(WINDOW);
        self.link.send_chunk_size();
        let properties = Value::object([
            ("fmsVer", Value::string("FMS/3,5,7,7009")),
            ("capabilities", Value::Number(31.0)),
        ]);
        let mut info = command::info("status", "NetConnection.Connect.Success", "Connected.");
        if let Value::Object(members) = &mut info {
            // AMF0, also to those who would like AMF3.
            members.push(("objectEncoding".to_owned(), Value::Number(0.0)));
        }
        self.link.command(0, "_result", command.transaction, &[properties, info]);
        Ok(())
    }

    fn on_create_stream(&mut self, command: &Command) -> Result<(), Error> {
        if self.connected.is_none() {
            return Err(Error::NotConnected("createStream"));
        }
        if self.streams.len() >= self.link.limits.message_streams {
            return Err(Error::TooManyMessageStreams);
        }
        let free = (PUSH_STREAM_ID..).find(|id| !self.streams.contains(id));
        let id = free.ok_or(Error::TooManyMessageStreams)?;
        self.streams.push(id);
        self.link.command(
            0,
            "_result",
            command.transaction,
            &[Value::Null, Value::Number(f64::from(id))],
        );
        Ok(())
    }

    fn on_request(&mut self, role: Role, stream: u32, command: &Command) -> Result<(), Error> {
        let (verb, failed) = match role {
            Role::Publish => ("publish", "NetStream.Publish.Failed"),
            Role::Play => ("play", "NetStream.Play.Failed"),
        };
        let connected = self.connected.as_ref().ok_or(Error::NotConnected(verb))?;
        let fault = if self.stage != Stage::Idle {
            Some("This connection is in use: open another one.")
        } else if !self.streams.contains(&stream) {
            Some("There is no such message stream: send createStream first.")
        } else if role == Role::Play && stream != PUSH_STREAM_ID {
            Some("Only the first message stream plays.")
        } else {
            None
        };
        let name = command.text(0).filter(|name| !name.is_empty());
        let (name, fault) = match (name, fault) {
            (Some(name), None) => (name, None),
            (_, Some(fault)) => ("", Some(fault)),
            (None, None) => ("", Some("Name the stream: rtmp://HOST/live/<stream key>.")),
        };
        if let Some(fault) = fault {
            self.link.status(stream, "error", failed, fault);
            return Ok(());
        }
        let id = RequestId(self.last_request + 1);
        let request = connected.request(id, name, &self.link.limits)?;
        self.last_request = id.0;
        self.stage = Stage::Asked { id, role, stream };
        self.deadline = None;
        self.raise(match role {
            Role::Publish => Event::Publish(request),
            Role::Play => Event::Play(request),
        })
    }

    fn close_stream(&mut self, now: Instant, id: u32) -> Result<(), Error> {
        match self.stage {
            Stage::Live { stream, .. } if stream == id => self.stop(now),
            _ => Ok(()),
        }
    }

    fn stop(&mut self, now: Instant) -> Result<(), Error> {
        if let Stage::Live { role, stream } = self.stage {
            if role == Role::Publish {
                self.link.allow_media(false);
                let code = "NetStream.Unpublish.Success";
                self.link.status(stream, "status", code, "You are off the air.");
            }
            self.stage = Stage::Idle;
            self.deadline = Some(now + self.link.limits.request);
        }
        self.raise(Event::Stopped)
    }
}
