//! A broadcaster: sends a clip over RTMP as if it were filmed now.
//!
//! Each frame goes out when it is due, each key frame with the moment it was
//! due as its capture time. When the connection breaks, the publisher comes
//! back under the same stream key, its clock going on, at the next key frame.
//! When the uplink is slower than the clip, frames go late, as a phone's would;
//! from [`Config::max_behind`] on, whole GOPs are left out.

mod pace;

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::BytesMut;
use spyglass_media::Track;
use spyglass_rtmp::amf0::{self, Value};
use spyglass_rtmp::{ClientEvent, Intent, flv};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use self::pace::Pace;
use crate::clip::Clip;
use crate::connection::{Connection, Dial, Step, Tcp};
use crate::{Error, RtmpUrl, random, utc_now};

/// How to publish.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Begin again at the end, time stamps going on.
    pub repeat: bool,
    /// How long to try to come back after a broken connection. The origin keeps
    /// an interrupted broadcast for 30 s unless told otherwise.
    pub come_back: Duration,
    /// How late frames may be before whole GOPs are left out.
    pub max_behind: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            repeat: false,
            come_back: Duration::from_secs(60),
            max_behind: Duration::from_secs(10),
        }
    }
}

/// What a publisher is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Opening a connection.
    #[default]
    Connecting,
    /// On air.
    Sending,
    /// The connection broke; trying again.
    Reconnecting,
    /// Done.
    Over,
}

impl Phase {
    /// The word for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Sending => "on air",
            Self::Reconnecting => "reconnecting",
            Self::Over => "over",
        }
    }
}

/// How far a publisher is; read it through a watch channel.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Frames handed to the connection, sound included.
    pub frames: u64,
    /// Frames left out because the uplink was too slow.
    pub dropped: u64,
    /// Bytes of media handed to the connection.
    pub bytes: u64,
    /// Media time sent.
    pub media: Duration,
    /// How late the last frame was.
    pub behind: Duration,
    /// Connections after the first.
    pub reconnects: u32,
    /// Why the last connection broke.
    pub last_error: Option<String>,
}

/// Why publishing ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The clip was sent to its end.
    Complete,
    /// `stop` resolved.
    Stopped,
    /// The origin said that the broadcast is over.
    Ended,
}

/// The most that waits for the socket; then frames wait in the clip.
const MAX_BACKLOG: usize = 2 * 1024 * 1024;
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MOST: Duration = Duration::from_secs(5);

/// Sends `clip` to `to` until its end, until `stop` resolves, or for ever when
/// it repeats.
///
/// # Errors
/// When the origin cannot be reached at first, or refuses, or stays away for
/// [`Config::come_back`]; or when the clip can no longer be read.
pub async fn publish(
    clip: &Clip,
    to: &RtmpUrl,
    config: Config,
    progress: &watch::Sender<Progress>,
    stop: impl Future<Output = ()> + Send,
) -> Result<Finish, Error> {
    publish_over(&Tcp, clip, to, config, progress, stop).await
}

async fn publish_over<D: Dial>(
    dial: &D,
    clip: &Clip,
    to: &RtmpUrl,
    config: Config,
    progress: &watch::Sender<Progress>,
    stop: impl Future<Output = ()> + Send,
) -> Result<Finish, Error> {
    let mut stop = pin!(stop);
    let mut pace = Pace::new(clip, config.repeat);
    let mut backoff = BACKOFF_FIRST;
    let mut away_since: Option<Instant> = None;
    let finish = loop {
        let connected = tokio::select! {
            connected = connect(dial, to) => connected,
            () = &mut stop => break Finish::Stopped,
        };
        let error = match connected {
            Ok(mut connection) => {
                (backoff, away_since) = (BACKOFF_FIRST, None);
                let sent =
                    send(&mut connection, clip, &mut pace, config, progress, stop.as_mut()).await;
                match sent {
                    Ok(finish) => {
                        connection.close().await;
                        break finish;
                    }
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        let was_on_air = progress.borrow().phase != Phase::Connecting;
        let away = away_since.get_or_insert_with(Instant::now).elapsed();
        if !was_on_air || !passes(&error) || away >= config.come_back {
            progress.send_modify(|progress| progress.phase = Phase::Over);
            return Err(error);
        }
        tracing::debug!(%error, "publishing interrupted");
        progress.send_modify(|progress| {
            progress.phase = Phase::Reconnecting;
            progress.last_error = Some(error.to_string());
        });
        tokio::select! {
            () = sleep(jittered(backoff)) => {}
            () = &mut stop => break Finish::Stopped,
        }
        backoff = (backoff * 2).min(BACKOFF_MOST);
    };
    progress.send_modify(|progress| progress.phase = Phase::Over);
    Ok(finish)
}

/// Whether trying again may help. A publisher who comes back may be refused as
/// its own double (`BadName`) until the origin has noticed that it was gone.
fn passes(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } | Error::Rtmp { .. } => true,
        Error::Denied { code, .. } => code == "NetStream.Publish.BadName",
        _ => false,
    }
}

/// Between half and all of `backoff`, so that many do not come back at once.
fn jittered(backoff: Duration) -> Duration {
    let share = f64::from(u32::from_ne_bytes(random())) / f64::from(u32::MAX);
    backoff.mul_f64(0.5 + share / 2.0)
}

async fn connect<D: Dial>(dial: &D, to: &RtmpUrl) -> Result<Connection<D::Stream>, Error> {
    let mut connection = Connection::open(dial, to, Intent::Publish).await?;
    connection.ready().await?;
    Ok(connection)
}

/// Sends on one connection.
async fn send<S: tokio::io::AsyncRead + tokio::io::AsyncWrite>(
    connection: &mut Connection<S>,
    clip: &Clip,
    pace: &mut Pace<'_>,
    config: Config,
    progress: &watch::Sender<Progress>,
    mut stop: Pin<&mut (impl Future<Output = ()> + Send)>,
) -> Result<Finish, Error> {
    pace.begin(Instant::now().into_std());
    let start = pace.current().map_or(0, |(_, time)| time);
    introduce(connection, clip, start as u32);
    progress.send_modify(|progress| {
        progress.reconnects += u32::from(progress.phase == Phase::Reconnecting);
        progress.phase = Phase::Sending;
    });
    loop {
        let current = pace.current();
        let time = current.map_or_else(|| pace.end_ms(), |(_, time)| time);
        let full = connection.collect() >= MAX_BACKLOG;
        let due = if full {
            // Looks again soon: a step ends only with an event.
            Instant::now() + Duration::from_millis(20)
        } else {
            Instant::from_std(pace.due(time))
        };
        let step = tokio::select! {
            step = connection.step(Some(due)) => step?,
            () = &mut stop => return Ok(Finish::Stopped),
        };
        match step {
            Step::Due if full => continue,
            Step::Due => {}
            Step::Event(ClientEvent::Ended) => return Ok(Finish::Ended),
            Step::Event(ClientEvent::Refused { code, description }) => {
                return Err(Error::Denied { code, description });
            }
            Step::Event(_) => continue,
            Step::Closed => return Err(connection.broken("the origin closed the connection")),
        }
        let Some((sample, time)) = current else { return Ok(Finish::Complete) };
        let now = Instant::now().into_std();
        let behind = now.saturating_duration_since(pace.due(time));
        if behind > config.max_behind {
            let skipped = pace.catch_up(now);
            progress.send_modify(|progress| progress.dropped += skipped);
            continue;
        }
        let bytes = clip.read(&sample)?;
        let body = match sample.track {
            Track::Video if sample.key => {
                let stamped = Clip::stamp(&bytes, utc_now() - behind);
                flv::video_body(true, sample.composition_ms, &stamped)
            }
            Track::Video => flv::video_body(false, sample.composition_ms, &bytes),
            Track::Audio => flv::audio_body(&bytes),
        };
        // RTMP's clock has 32 bits and wraps.
        connection.client().send_media(sample.track, time as u32, &body);
        pace.advance();
        progress.send_modify(|progress| {
            progress.frames += 1;
            progress.bytes += body.len() as u64;
            progress.media = Duration::from_millis(u64::try_from(time).unwrap_or(0));
            progress.behind = behind;
        });
    }
}

/// What stands before the first frame: metadata and configurations.
fn introduce<S: tokio::io::AsyncRead + tokio::io::AsyncWrite>(
    connection: &mut Connection<S>,
    clip: &Clip,
    timestamp: u32,
) {
    let client = connection.client();
    let mut about = vec![("encoder", Value::string("Spyglass"))];
    if clip.video_config().is_some() {
        about.push(("videocodecid", Value::Number(7.0)));
    }
    if clip.audio_config().is_some() {
        about.push(("audiocodecid", Value::Number(10.0)));
    }
    let mut metadata = BytesMut::new();
    amf0::write(&mut metadata, &Value::string("onMetaData"));
    amf0::write(&mut metadata, &Value::object(about));
    client.send_metadata(&metadata);
    if let Some(config) = clip.video_config() {
        client.send_media(Track::Video, timestamp, &flv::video_config_body(config));
    }
    if let Some(config) = clip.audio_config() {
        client.send_media(Track::Audio, timestamp, &flv::audio_config_body(config));
    }
}

#[cfg(test)]
mod tests;
