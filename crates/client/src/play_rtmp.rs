//! An RTMP viewer: every frame as it arrives, with when it was captured.
//!
//! Playing, i.e. what waits and what stalls, is [`crate::player`].

use std::time::Duration;

use bytes::Bytes;
use spyglass_media::{MediaTime, Track, UtcTime, find_capture};
use spyglass_rtmp::flv::{Body, parse};
use spyglass_rtmp::timeline::Timeline;
use spyglass_rtmp::{ClientEvent, Intent, Message, Refusal};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::connection::{Connection, Dial, Step, Tcp};
use crate::way::Way;
use crate::{Error, RtmpUrl, utc_now};

/// How often the way to the origin is measured.
const PING: Duration = Duration::from_secs(2);

/// What a viewer meets.
#[derive(Clone, Debug)]
pub enum Event {
    /// A decoder configuration; comes before the frames it is for, and again
    /// after the publisher reconnected.
    Config {
        /// Whose.
        track: Track,
        /// AVCDecoderConfigurationRecord or AudioSpecificConfig.
        record: Bytes,
    },
    /// A frame.
    Frame(Frame),
    /// The broadcast is over, or the origin closed the connection.
    Ended {
        /// The origin said so; otherwise it just closed.
        said: bool,
    },
}

/// A frame that arrived.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Video or audio.
    pub track: Track,
    /// Decode time, by a clock that never wraps.
    pub time: MediaTime,
    /// Presentation time less decode time, in milliseconds.
    pub composition_ms: i32,
    /// Decoding can start here.
    pub key: bool,
    /// When it was captured: stamp (1) of the paper, where the frame says so.
    pub captured: Option<UtcTime>,
    /// When it was here: stamp (3).
    pub arrived: UtcTime,
    /// The same by the clock that does not jump.
    pub arrived_at: Instant,
    /// How long it was on its way from the origin, as of the last ping; nothing
    /// before the first came back.
    pub last_mile: Option<Duration>,
    /// The coded sample.
    pub sample: Bytes,
}

/// See the module's documentation.
pub struct RtmpViewer<S = TcpStream> {
    connection: Connection<S>,
    timeline: Timeline,
    way: Way,
    last_mile: Option<Duration>,
    /// When the next ping is due.
    due: Instant,
    /// When the last was sent, until it has come back.
    pinged: Option<Instant>,
}

impl RtmpViewer {
    /// Connects and asks to play; returns once the origin has accepted.
    ///
    /// # Errors
    /// When the origin cannot be reached, or refuses ([`Error::Denied`]).
    pub async fn connect(url: &RtmpUrl) -> Result<Self, Error> {
        RtmpViewer::over(&Tcp, url).await
    }
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite> RtmpViewer<S> {
    pub(crate) async fn over<D: Dial<Stream = S>>(dial: &D, url: &RtmpUrl) -> Result<Self, Error> {
        let mut connection = Connection::open(dial, url, Intent::Play).await?;
        connection.ready().await?;
        Ok(Self {
            connection,
            timeline: Timeline::new(MediaTime::ZERO),
            way: Way::default(),
            last_mile: None,
            due: Instant::now(),
            pinged: None,
        })
    }

    /// The next frame or configuration. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            match self.connection.step(Some(self.due)).await? {
                Step::Due => self.ping(),
                Step::Event(ClientEvent::Pong) => {
                    if let Some(pinged) = self.pinged.take() {
                        self.last_mile = Some(self.way.on_pong(pinged.elapsed()));
                    }
                }
                Step::Event(ClientEvent::Media(message)) => {
                    if let Some(event) = self.on_media(&message)? {
                        return Ok(event);
                    }
                }
                Step::Event(ClientEvent::Refused { code, description }) => {
                    return Err(Error::Denied { code, description });
                }
                // Behind the acceptance a refusal comes as any other status.
                Step::Event(ClientEvent::Status { code, description })
                    if code == Refusal::PlayDenied.as_str() =>
                {
                    return Err(Error::Denied { code, description });
                }
                Step::Event(ClientEvent::Ended) => return Ok(Event::Ended { said: true }),
                Step::Closed => return Ok(Event::Ended { said: false }),
                Step::Event(_) => {}
            }
        }
    }

    /// One at a time: they come back without saying which they are.
    fn ping(&mut self) {
        self.due = Instant::now() + PING;
        if self.pinged.is_none() {
            self.connection.client().ping();
            self.pinged = Some(Instant::now());
        }
    }

    fn on_media(&mut self, message: &Message) -> Result<Option<Event>, Error> {
        let body = parse(message.track, &message.body)
            .map_err(|error| self.connection.broken(&error.to_string()))?;
        let track = message.track;
        let (key, composition_ms, sample) = match body {
            Body::VideoConfig(record) | Body::AudioConfig(record) => {
                return Ok(Some(Event::Config { track, record }));
            }
            Body::Video { key, composition_ms, sample } => (key, composition_ms, sample),
            Body::Audio { sample } => (true, 0, sample),
            _ => return Ok(None),
        };
        let is_key_picture = key && track == Track::Video;
        Ok(Some(Event::Frame(Frame {
            track,
            time: self.timeline.map(message.timestamp).time,
            composition_ms,
            key,
            captured: if is_key_picture { find_capture(&sample) } else { None },
            arrived: utc_now(),
            arrived_at: Instant::now(),
            last_mile: self.last_mile,
            sample,
        })))
    }

    /// Says goodbye and closes.
    pub async fn close(self) {
        self.connection.close().await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use spyglass_media::capture_sei;
    use spyglass_rtmp::wire::{Kind, write_message};
    use spyglass_rtmp::{Event as Asked, flv};
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::testing::{Origin, Pipes};

    fn url() -> RtmpUrl {
        RtmpUrl::parse("rtmp://h/live/0123456789abc?token=t").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn frames_arrive_with_their_times_and_stamps() {
        let (dial, mut pipes) = Pipes::new();
        let url = url();
        let origin = async {
            let mut origin = Origin::accept(&mut pipes).await;
            origin.accept_request().await;
            origin
        };
        let (viewer, mut origin) = tokio::join!(RtmpViewer::over(&dial, &url), origin);
        let mut viewer = viewer.unwrap();
        let at = UtcTime::from_millis(1_700_000_000_000);
        let mut picture = capture_sei(at);
        picture.extend([0, 0, 0, 2, 0x65, 0x88]);
        let mut out = BytesMut::new();
        let config = flv::video_config_body(&[1, 66, 0, 30, 0xff]);
        write_message(&mut out, Kind::Video, 1000, &config);
        write_message(&mut out, Kind::Video, 1000, &flv::video_body(true, 80, &picture));
        write_message(&mut out, Kind::Audio, 1010, &flv::audio_body(&[1, 2]));
        origin.pipe.write_all(&out).await.unwrap();
        assert!(matches!(viewer.next().await.unwrap(), Event::Config { track: Track::Video, .. }));
        let Event::Frame(frame) = viewer.next().await.unwrap() else { panic!("no frame") };
        assert_eq!((frame.key, frame.composition_ms, frame.captured), (true, 80, Some(at)));
        let start = frame.time;
        let Event::Frame(frame) = viewer.next().await.unwrap() else { panic!("no frame") };
        assert_eq!(frame.track, Track::Audio);
        assert_eq!((frame.time - start).millis(), 10);
        origin.server.end_play();
        origin.flush().await;
        assert!(matches!(viewer.next().await.unwrap(), Event::Ended { said: true }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_says_why() {
        let (dial, mut pipes) = Pipes::new();
        let url = url();
        let origin = async {
            let mut origin = Origin::accept(&mut pipes).await;
            let Some(Asked::Play(request)) = origin.next().await else { panic!("no play") };
            origin.server.reject(request.id, Refusal::PlayStreamNotFound, "it is over");
            origin.flush().await;
            origin
        };
        let (viewer, _origin) = tokio::join!(RtmpViewer::over(&dial, &url), origin);
        match viewer.err() {
            Some(Error::Denied { code, .. }) => assert_eq!(code, "NetStream.Play.StreamNotFound"),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_goes_away_is_noticed() {
        let (dial, mut pipes) = Pipes::new();
        let url = url();
        let origin = async {
            let mut origin = Origin::accept(&mut pipes).await;
            origin.accept_request().await;
        };
        let (viewer, ()) = tokio::join!(RtmpViewer::over(&dial, &url), origin);
        // Whether reading or the ping meets it first is a matter of chance.
        let gone = viewer.unwrap().next().await;
        assert!(matches!(gone, Ok(Event::Ended { said: false }) | Err(Error::Rtmp { .. })));
    }
}
