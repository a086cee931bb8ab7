//! The client's end of a connection: publishes or plays one stream.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use spyglass_media::Track;

use crate::amf0::Value;
use crate::command::{self, Command, Data};
use crate::link::{Incoming, Link, Message, WINDOW, event};
use crate::wire::Kind;
use crate::{Error, Limits};

/// What the connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Intent {
    /// Send a stream.
    Publish,
    /// Receive one.
    Play,
}

/// What to ask of the server.
#[derive(Clone)]
pub struct ClientConfig {
    /// The application: `live` in `rtmp://HOST/live/<stream key>`.
    pub app: String,
    /// The URL up to the application: `rtmp://HOST/live`.
    pub tc_url: String,
    /// The stream's name with its query: `<stream key>`. A secret.
    pub name: String,
    /// Publish or play.
    pub intent: Intent,
    /// How much a player says that it buffers, in milliseconds. With 0 a
    /// server sends every frame at once.
    pub buffer_ms: u32,
    /// What the server may ask of us.
    pub limits: Limits,
}

/// What the server did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// The publish or the play is accepted; a publisher may send.
    Ready,
    /// The connection, the publish or the play is refused. Close.
    Refused {
        /// `NetStream.Publish.Denied` and the like; empty when the server named none.
        code: String,
        /// For people.
        description: String,
    },
    /// Audio or video of the play.
    Media(Message),
    /// `onMetaData` and its value, as AMF0.
    Metadata(Bytes),
    /// Another data message, its name first, as AMF0.
    Data(Bytes),
    /// Another status.
    Status {
        /// `NetStream.Play.Reset` and the like.
        code: String,
        /// For people.
        description: String,
    },
    /// The server answered a [`Client::ping`].
    Pong,
    /// The broadcast is over. Close.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Handshake,
    Connecting,
    CreatingStream,
    Asking {
        stream: u32,
    },
    Live {
        stream: u32,
    },
    /// Refused, ended or finished: nothing more is read.
    Over,
}

/// Transactions, one each: the order of the flow is fixed.
const CONNECT: f64 = 1.0;
const RELEASE_STREAM: f64 = 2.0;
const FC_PUBLISH: f64 = 3.0;
const CREATE_STREAM: f64 = 4.0;
const REQUEST: f64 = 5.0;
const FC_UNPUBLISH: f64 = 6.0;
const DELETE_STREAM: f64 = 7.0;

/// One connection to a server.
///
/// Write out [`Self::take_output`] first: the client speaks first.
pub struct Client {
    link: Link,
    config: ClientConfig,
    deadline: Option<Instant>,
    stage: Stage,
    events: VecDeque<ClientEvent>,
}

impl Client {
    /// A connection that was opened just now.
    ///
    /// # Errors
    /// [`Error::Handshake`] when its first bytes cannot be made.
    pub fn new(config: ClientConfig, now: Instant) -> Result<Self, Error> {
        Ok(Self {
            deadline: Some(now + config.limits.handshake),
            link: Link::client(config.limits.clone())?,
            config,
            stage: Stage::Handshake,
            events: VecDeque::new(),
        })
    }

    /// Takes what the socket gave. Take all events before the next call.
    ///
    /// # Errors
    /// The connection is to be closed; events before the fault stand.
    pub fn on_bytes(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Error> {
        let behind_handshake = self.link.receive(bytes)?;
        if self.stage == Stage::Handshake && self.link.shaken() {
            self.deadline = Some(now + self.config.limits.request);
            self.connect();
        }
        let mut input = behind_handshake.as_deref().unwrap_or(bytes);
        while self.stage != Stage::Over {
            let Some(incoming) = self.link.next(&mut input)? else { break };
            self.on_incoming(incoming)?;
        }
        Ok(())
    }

    /// The next thing that the server did.
    pub fn next_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// What is to be written to the socket; empty when there is nothing.
    pub fn take_output(&mut self) -> Bytes {
        self.link.take_output()
    }

    /// When [`Self::on_deadline`] is to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The server's time is up, if it is.
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

    /// Sends audio or video: a body as [`flv`](crate::flv) writes it. Does
    /// nothing unless [`ClientEvent::Ready`] has come; the bytes wait in
    /// [`Self::take_output`], without limit.
    pub fn send_media(&mut self, track: Track, timestamp: u32, body: &[u8]) {
        let kind = match track {
            Track::Video => Kind::Video,
            Track::Audio => Kind::Audio,
        };
        if let Some(stream) = self.publishing() {
            self.link.media(kind, timestamp, stream, body);
        }
    }

    /// Sends a data message: its name (`onMetaData`) and its values as AMF0.
    /// Does nothing unless [`ClientEvent::Ready`] has come.
    pub fn send_metadata(&mut self, body: &[u8]) {
        if let Some(stream) = self.publishing() {
            self.link.media(Kind::Data, 0, stream, &command::set_data_frame(body));
        }
    }

    /// Asks the server for a sign of life, a [`ClientEvent::Pong`]. It comes
    /// behind all media that the server has sent before.
    pub fn ping(&mut self) {
        if matches!(self.stage, Stage::Live { .. }) {
            // What is in it only comes back.
            self.link.ping(0);
        }
    }

    /// Ends the publish or the play. Write out, then close.
    pub fn finish(&mut self) {
        if let Stage::Live { stream } | Stage::Asking { stream } = self.stage {
            if self.config.intent == Intent::Publish {
                let name = Value::string(&*self.config.name);
                self.link.command(0, "FCUnpublish", FC_UNPUBLISH, &[Value::Null, name]);
            }
            let id = Value::Number(f64::from(stream));
            self.link.command(0, "deleteStream", DELETE_STREAM, &[Value::Null, id]);
        }
        self.over();
    }

    fn publishing(&self) -> Option<u32> {
        match self.stage {
            Stage::Live { stream } if self.config.intent == Intent::Publish => Some(stream),
            _ => None,
        }
    }

    fn over(&mut self) {
        self.stage = Stage::Over;
        self.deadline = None;
    }

    fn raise(&mut self, event: ClientEvent) -> Result<(), Error> {
        if self.events.len() >= self.config.limits.events {
            return Err(Error::TooManyEvents);
        }
        self.events.push_back(event);
        Ok(())
    }

    fn connect(&mut self) {
        self.stage = Stage::Connecting;
        self.link.send_chunk_size();
        let mut members = vec![
            ("app", Value::string(&*self.config.app)),
            ("flashVer", Value::string("FMLE/3.0 (compatible; Spyglass)")),
            ("tcUrl", Value::string(&*self.config.tc_url)),
        ];
        match self.config.intent {
            Intent::Publish => members.push(("type", Value::string("nonprivate"))),
            // RTMP 7.2.1.1: no proxy, the codecs that servers of old ask about.
            Intent::Play => members.extend([
                ("fpad", Value::Boolean(false)),
                ("audioCodecs", Value::Number(4071.0)),
                ("videoCodecs", Value::Number(252.0)),
                ("videoFunction", Value::Number(1.0)),
            ]),
        }
        self.link.command(0, "connect", CONNECT, &[Value::object(members)]);
    }

    fn on_incoming(&mut self, incoming: Incoming) -> Result<(), Error> {
        let playing = self.config.intent == Intent::Play && self.stage != Stage::Over;
        match incoming {
            Incoming::Command(_, command) => self.on_command(&command),
            Incoming::Media(message) if playing => self.raise(ClientEvent::Media(message)),
            Incoming::Data(Data::Metadata(body)) if playing => {
                self.raise(ClientEvent::Metadata(body))
            }
            Incoming::Data(Data::Other(body)) if playing => self.raise(ClientEvent::Data(body)),
            Incoming::StreamEnd if matches!(self.stage, Stage::Live { .. }) => self.ended(),
            Incoming::Pong if matches!(self.stage, Stage::Live { .. }) => {
                self.raise(ClientEvent::Pong)
            }
            _ => Ok(()),
        }
    }

    fn on_command(&mut self, command: &Command) -> Result<(), Error> {
        match (&*command.name, self.stage) {
            ("_error" | "close", _) if !matches!(self.stage, Stage::Live { .. }) => {
                // A server without releaseStream or FCPublish says so; the flow goes on.
                if [RELEASE_STREAM, FC_PUBLISH].contains(&command.transaction) {
                    return Ok(());
                }
                self.refused(command)
            }
            ("_result", Stage::Connecting) if command.transaction == CONNECT => {
                self.create_stream();
                Ok(())
            }
            ("_result", Stage::CreatingStream) if command.transaction == CREATE_STREAM => {
                let id = command.arguments.first().and_then(Value::as_number).unwrap_or(1.0);
                self.ask(id as u32);
                Ok(())
            }
            ("onStatus", _) => self.on_status(command),
            _ => Ok(()),
        }
    }

    fn create_stream(&mut self) {
        self.stage = Stage::CreatingStream;
        let name = Value::string(&*self.config.name);
        match self.config.intent {
            Intent::Publish => {
                for (verb, transaction) in
                    [("releaseStream", RELEASE_STREAM), ("FCPublish", FC_PUBLISH)]
                {
                    self.link.command(0, verb, transaction, &[Value::Null, name.clone()]);
                }
            }
            Intent::Play => self.link.send_window(WINDOW),
        }
        self.link.command(0, "createStream", CREATE_STREAM, &[Value::Null]);
    }

    fn ask(&mut self, stream: u32) {
        self.stage = Stage::Asking { stream };
        let name = Value::string(&*self.config.name);
        match self.config.intent {
            Intent::Publish => {
                let kind = Value::string("live");
                self.link.command(stream, "publish", REQUEST, &[Value::Null, name, kind]);
            }
            Intent::Play => {
                self.link.allow_media(true);
                self.link.command(stream, "play", REQUEST, &[Value::Null, name]);
                let mut buffer = stream.to_be_bytes().to_vec();
                buffer.extend(self.config.buffer_ms.to_be_bytes());
                self.link.user_control(event::SET_BUFFER_LENGTH, &buffer);
            }
        }
    }

    fn on_status(&mut self, command: &Command) -> Result<(), Error> {
        let live = matches!(self.stage, Stage::Live { .. });
        if command.is_error() && !live {
            return self.refused(command);
        }
        let (code, description) = command.status();
        match (code, self.stage) {
            ("NetStream.Publish.Start" | "NetStream.Play.Start", Stage::Asking { stream }) => {
                self.stage = Stage::Live { stream };
                self.deadline = None;
                self.raise(ClientEvent::Ready)
            }
            (
                "NetStream.Play.UnpublishNotify"
                | "NetStream.Play.Stop"
                | "NetStream.Play.Complete"
                | "NetStream.Unpublish.Success",
                Stage::Live { .. },
            ) => self.ended(),
            _ => self.raise(ClientEvent::Status {
                code: code.to_owned(),
                description: description.to_owned(),
            }),
        }
    }

    fn refused(&mut self, command: &Command) -> Result<(), Error> {
        self.over();
        let (code, description) = command.status();
        let (code, description) = (code.to_owned(), description.to_owned());
        self.raise(ClientEvent::Refused { code, description })
    }

    fn ended(&mut self) -> Result<(), Error> {
        self.over();
        self.raise(ClientEvent::Ended)
    }
}
