//! A whole viewing session, as any app does it: join through control, play on
//! the tier that was given, fall back to HLS when RTMP fails (section 4.3 of the paper),
//! measure delay and stalls, leave.

mod report;
mod tally;
mod tell;

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use spyglass_media::{BroadcastId, Location};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until, timeout};

pub use self::report::{Delay, End, Report, Stage};
use self::tally::Tally;
use self::tell::Teller;
use crate::api::{Api, Joined, State, Tier};
use crate::play_hls::{self, HlsViewer, Poll};
use crate::play_rtmp::{self, RtmpViewer};
use crate::{Error, RtmpUrl};

/// Which tier to play on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// What control gives; HLS when push fails.
    #[default]
    Auto,
    /// Push or nothing.
    Push,
    /// HLS even when push is given.
    Hls,
}

/// How to view.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// On which tier.
    pub choice: Choice,
    /// Where the viewer stands; control gives the nearest edge.
    pub location: Option<Location>,
    /// When to poll, on HLS.
    pub poll: Poll,
    /// Media to hold before playing, on push. The paper's app: 1 s.
    pub push_buffer: Duration,
    /// Media to hold before playing, on HLS. The paper's app: 9 s. `None`: as
    /// close to the end as the list allows where it offers parts, else 9 s.
    pub hls_buffer: Option<Duration>,
    /// How often to report.
    pub report_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            choice: Choice::Auto,
            location: None,
            poll: Poll::Paced,
            push_buffer: Duration::from_secs(1),
            hls_buffer: None,
            report_every: Duration::from_secs(1),
        }
    }
}

/// Attempts on push before giving it up. A seat is kept for 5 s.
const PUSH_TRIES: u32 = 3;
const PUSH_AGAIN: Duration = Duration::from_secs(1);
/// A session's goodbye to control is not worth more.
const LEAVE: Duration = Duration::from_secs(2);

/// Watches `id` until it ends or `stop` resolves. `on_report` is called every
/// [`Config::report_every`]; the last report is returned.
///
/// # Errors
/// When control refuses the viewer or cannot be reached, or the media cannot be
/// played on any tier that [`Config::choice`] allows. Whether anything came at
/// all is in the report ([`Report::anything`]).
pub async fn view(
    api: &Api,
    id: BroadcastId,
    config: Config,
    on_report: impl FnMut(&Report) + Send,
    stop: impl Future<Output = ()> + Send,
) -> Result<Report, Error> {
    let mut stop = pin!(stop);
    let began = Instant::now();
    let joined = api.join(id, config.location).await?;
    let mut reports = interval(config.report_every);
    reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
    reports.reset();
    let tally = Tally::new(id, joined.clone(), began.into_std());
    let as_viewer = api.with_bearer(Some(joined.token.clone()));
    let teller = Teller::start(as_viewer.clone(), id, joined.viewer);
    let screen = Screen { tally, reports, on_report, teller };
    let mut session = Session { api, id, config, screen };
    let end = session.play(&joined, stop.as_mut()).await;
    if let Ok(Err(error)) = timeout(LEAVE, as_viewer.leave(id, joined.viewer)).await {
        tracing::debug!(%error, "leaving was not understood");
    }
    Ok(session.screen.tally.report(Instant::now().into_std(), end?))
}

struct Session<'a, F> {
    api: &'a Api,
    id: BroadcastId,
    config: Config,
    screen: Screen<F>,
}

impl<F: FnMut(&Report) + Send> Session<'_, F> {
    async fn play<S>(&mut self, joined: &Joined, mut stop: Pin<&mut S>) -> Result<End, Error>
    where
        S: Future<Output = ()> + Send,
    {
        let mut why = None;
        match (self.config.choice, &joined.urls.rtmp) {
            (Choice::Hls, _) | (Choice::Auto, None) => {}
            (Choice::Push, None) => {
                return Err(Error::Denied {
                    code: "hls".to_owned(),
                    description: "every push seat is taken, control gave the HLS tier: use \
                                  --tier auto"
                        .to_owned(),
                });
            }
            (choice, Some(url)) => {
                let url = RtmpUrl::parse(url)?;
                self.screen.tally.begin(Tier::Push, self.config.push_buffer, None);
                match self.push(&url, stop.as_mut()).await {
                    Ok(end) => return Ok(end),
                    Err(error) if choice == Choice::Push => return Err(error),
                    Err(error) => {
                        tracing::info!(%error, "push failed, going on over HLS");
                        why = Some(error.to_string());
                    }
                }
            }
        }
        let buffer = self.config.hls_buffer.unwrap_or(play_hls::PREBUFFER);
        self.screen.tally.begin(Tier::Hls, buffer, why);
        self.hls(joined, stop).await
    }

    async fn push<S>(&mut self, url: &RtmpUrl, mut stop: Pin<&mut S>) -> Result<End, Error>
    where
        S: Future<Output = ()> + Send,
    {
        let mut tries = 0;
        loop {
            let connected = tokio::select! {
                connected = RtmpViewer::connect(url) => connected,
                () = &mut stop => return Ok(End::Stopped),
            };
            let error = match connected {
                Ok(mut viewer) => {
                    let frames = self.screen.tally.frames();
                    let played = self.push_frames(&mut viewer, stop.as_mut()).await;
                    viewer.close().await;
                    match played {
                        Ok(Some(end)) => return Ok(end),
                        Ok(None) => {
                            if self.screen.tally.frames() > frames {
                                tries = 0;
                            }
                            Error::Rtmp {
                                url: format!("rtmp://{}", url.authority()),
                                reason: "the origin closed the connection".to_owned(),
                            }
                        }
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            // The end and a broken connection look alike from here.
            if self.api.show(self.id).await.is_ok_and(|now| now.state == State::Ended) {
                return Ok(End::Ended);
            }
            tries += 1;
            if tries >= PUSH_TRIES || matches!(error, Error::Denied { .. }) {
                return Err(error);
            }
            tokio::select! {
                () = sleep(PUSH_AGAIN) => {}
                () = &mut stop => return Ok(End::Stopped),
            }
        }
    }

    /// `None`: the connection was closed without a word.
    async fn push_frames<S>(
        &mut self,
        viewer: &mut RtmpViewer,
        mut stop: Pin<&mut S>,
    ) -> Result<Option<End>, Error>
    where
        S: Future<Output = ()> + Send,
    {
        loop {
            let event = tokio::select! {
                event = self.screen.attend(viewer.next()) => match event {
                    // Who was let in is denied only when its token was revoked.
                    Err(Error::Denied { .. }) => return Ok(Some(End::Removed)),
                    event => event?,
                },
                () = &mut stop => return Ok(Some(End::Stopped)),
            };
            match event {
                play_rtmp::Event::Config { track, .. } => self.screen.tally.on_config(track),
                play_rtmp::Event::Frame(frame) => self.screen.tally.on_frame(&frame),
                play_rtmp::Event::Ended { said } => return Ok(said.then_some(End::Ended)),
            }
        }
    }

    /// What it means that an edge refuses who was let in before: removed, unless
    /// the broadcast is over.
    async fn refused(&self, error: Error) -> Result<End, Error> {
        tracing::debug!(%error, "refused while watching");
        match self.api.show(self.id).await {
            Ok(now) if now.state == State::Ended => Ok(End::Ended),
            _ => Ok(End::Removed),
        }
    }

    async fn hls<S>(&mut self, joined: &Joined, mut stop: Pin<&mut S>) -> Result<End, Error>
    where
        S: Future<Output = ()> + Send,
    {
        let alternates = joined.alternates.iter().map(|edge| edge.hls.clone());
        let urls = std::iter::once(joined.urls.hls.clone()).chain(alternates).collect();
        let mut viewer = HlsViewer::new(play_hls::Config {
            poll: self.config.poll,
            prebuffer: self.config.hls_buffer,
            ..play_hls::Config::new(urls)
        })?;
        let mut close = false;
        loop {
            let event = tokio::select! {
                event = self.screen.attend(viewer.next()) => match event {
                    // Who was let in on any tier and is refused now was removed,
                    // also when the push connection was cut without a word.
                    Err(error)
                        if self.screen.tally.anything()
                            && matches!(error.status(), Some(401 | 403)) =>
                    {
                        return self.refused(error).await;
                    }
                    event => event?,
                },
                () = &mut stop => return Ok(End::Stopped),
            };
            self.screen.tally.set_edge(viewer.edge());
            if let Some(hold_back) = viewer.hold_back().filter(|_| !close) {
                self.screen.tally.begin_close(hold_back);
                close = true;
            }
            match event {
                play_hls::Event::Chunk(chunk) => self.screen.tally.on_chunk(&chunk),
                play_hls::Event::Gap { .. } => self.screen.tally.on_gap(),
                play_hls::Event::Missed { .. } => self.screen.tally.on_missed(),
                play_hls::Event::Ended => return Ok(End::Ended),
            }
        }
    }
}

/// Where things are played: the tally, and who is told of it.
struct Screen<F> {
    tally: Tally,
    reports: Interval,
    on_report: F,
    teller: Teller,
}

impl<F: FnMut(&Report) + Send> Screen<F> {
    /// Waits for `event` and meanwhile lets the player play and the reports flow.
    async fn attend<T>(&mut self, event: impl Future<Output = T>) -> T {
        let mut event = pin!(event);
        loop {
            let due = self.tally.next_deadline();
            tokio::select! {
                event = &mut event => return event,
                () = at(due) => self.tally.on_time(Instant::now().into_std()),
                _ = self.reports.tick() => {
                    let now = Instant::now().into_std();
                    self.tally.on_time(now);
                    self.teller.tell(&mut self.tally);
                    (self.on_report)(&self.tally.report(now, End::Watching));
                }
            }
        }
    }
}

async fn at(when: Option<std::time::Instant>) {
    match when {
        Some(when) => sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
