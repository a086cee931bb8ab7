//! A broadcaster: an encoder that runs by its own clock, and a connection that
//! stalls, breaks and comes back.

use std::time::Duration;

use bytes::Bytes;
use spyglass_media::{Frame, MediaTime};
use spyglass_origin::life::ConnectionId;
use spyglass_testkit::gop::{self, Audio, Encoder, Video};

use super::network::{Event, Network, ToPublisher};

/// How often the encoder sends what it has.
const TICK: Duration = Duration::from_millis(100);

/// Pause before the next attempt to connect.
const AGAIN: Duration = Duration::from_secs(1);

/// 8 kHz, so that a simulated minute has few frames: an AudioSpecificConfig.
const AAC_8K: &[u8] = &[0x15, 0x90];

/// What goes to the origin.
#[derive(Clone, Debug)]
pub(super) enum Sent {
    Video(Bytes),
    Audio(Bytes),
    Frame { timestamp: u32, frame: Box<Frame> },
}

/// Why nothing is sent although the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// The network is stuck: everything comes at once when it is not.
    Network,
    /// The encoder stands still, and its clock with it.
    Encoder,
}

/// What is broadcast.
#[derive(Clone, Debug)]
pub struct Programme {
    /// Pictures; small ones, so that a simulated minute costs little.
    pub video: Video,
    /// With sound.
    pub sound: bool,
}

impl Programme {
    /// A key frame every second and a half, sound.
    pub const PLAIN: Self = Self {
        video: Video { rate: 10, gop: 15, b_frames: 1, key_jitter: 0, key_bytes: 24, bytes: 12 },
        sound: true,
    };
}

#[derive(Debug)]
struct Session {
    connection: ConnectionId,
    accepted: bool,
    encoder: Encoder,
    /// How long the encoder has run.
    clock: Duration,
    last_tick: Duration,
    /// Added to each time stamp, in milliseconds.
    skew: u32,
    announced: bool,
}

#[derive(Debug)]
pub(super) struct Publisher {
    pub programme: Programme,
    session: Option<Session>,
    connections: u64,
    stall: Option<Stall>,
    record: &'static [u8],
    /// To be told with the next key frame.
    new_record: bool,
    /// The broadcast is over, or nobody wants to broadcast.
    pub retired: bool,
}

impl Publisher {
    pub fn new(programme: Programme) -> Self {
        Self {
            programme,
            session: None,
            connections: 0,
            stall: None,
            record: gop::AVC_360P,
            new_record: false,
            retired: true,
        }
    }

    pub fn connection(&self) -> Option<ConnectionId> {
        self.session.as_ref().map(|session| session.connection)
    }

    /// Answers a ping: the connection stands and the network is not stuck.
    pub fn is_alive(&self, connection: ConnectionId) -> bool {
        self.connection() == Some(connection) && self.stall != Some(Stall::Network)
    }

    /// A new connection; the origin is asked with it.
    pub fn connect(&mut self, net: &mut Network) -> Option<ConnectionId> {
        if self.retired || self.session.is_some() {
            return None;
        }
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        let audio = self.programme.sound.then_some(Audio { rate: 8_000, bytes: 8 });
        let encoder = Encoder::new(Some(self.programme.video.clone()), audio, MediaTime::ZERO)
            .stamped(net.utc())
            .seeded(self.connections);
        self.stall = None;
        self.session = Some(Session {
            connection,
            accepted: false,
            encoder,
            clock: Duration::ZERO,
            last_tick: net.now,
            skew: 0,
            announced: false,
        });
        Some(connection)
    }

    pub fn on_accepted(&mut self, net: &mut Network, connection: ConnectionId) {
        if let Some(session) = &mut self.session
            && session.connection == connection
        {
            session.accepted = true;
            session.last_tick = net.now;
            net.after(TICK, Event::Publisher(ToPublisher::Tick(connection)));
        }
    }

    /// The connection is gone, or was refused; tries again unless it is over.
    pub fn on_closed(&mut self, net: &mut Network, connection: ConnectionId) {
        if self.connection() == Some(connection) {
            self.session = None;
            net.after(AGAIN, Event::Publisher(ToPublisher::Connect));
        }
    }

    pub fn on_tick(&mut self, net: &mut Network, connection: ConnectionId) -> Vec<Sent> {
        let Some(session) = &mut self.session else { return Vec::new() };
        if session.connection != connection || !session.accepted {
            return Vec::new();
        }
        let jitter = net.random.millis(0, 20);
        net.after(TICK + jitter, Event::Publisher(ToPublisher::Tick(connection)));
        if self.stall != Some(Stall::Encoder) {
            session.clock += net.now - session.last_tick;
        }
        session.last_tick = net.now;
        if self.stall.is_some() {
            return Vec::new();
        }
        let mut sent = Vec::new();
        if !std::mem::replace(&mut session.announced, true) {
            sent.push(Sent::Video(Bytes::from_static(self.record)));
            if self.programme.sound {
                sent.push(Sent::Audio(Bytes::from_static(AAC_8K)));
            }
        }
        for frame in session.encoder.until(MediaTime::ZERO + session.clock) {
            let picture = frame.track == spyglass_media::Track::Video;
            if picture && frame.key && std::mem::take(&mut self.new_record) {
                sent.push(Sent::Video(Bytes::from_static(self.record)));
            }
            let timestamp = (frame.dts.millis() as u32).wrapping_add(session.skew);
            sent.push(Sent::Frame { timestamp, frame: Box::new(frame) });
        }
        sent
    }

    // ---- what befalls it

    pub fn stall(&mut self, stall: Option<Stall>) {
        self.stall = stall;
    }

    /// The encoder's settings change in mid-stream.
    pub fn change_codec(&mut self) {
        self.record = if self.record == gop::AVC_360P { gop::AVC_720P } else { gop::AVC_360P };
        self.new_record = true;
    }

    /// The clock of the time stamps jumps by so many milliseconds.
    pub fn jump(&mut self, millis: i32) {
        if let Some(session) = &mut self.session {
            session.skew = session.skew.wrapping_add_signed(millis);
        }
    }

    /// The process is gone. Its connection, if it had one.
    pub fn vanish(&mut self) -> Option<ConnectionId> {
        self.session.take().map(|session| session.connection)
    }
}
