//! An HLS viewer: polls the chunklist, fetches inits and new chunks in
//! sequence, tells when each arrived and when it was captured.
//!
//! `list` reads playlists, `follow` decides; this file asks. Playing, i.e. what
//! waits and what stalls, is [`crate::player`]. When an edge fails, or steering
//! names a better one (`steering`, `guide`), the viewer goes on there where it
//! was: a sequence names the same bytes on all.
//!
//! Where the list offers parts and nothing else is wished, parts are played: the
//! list is asked for by the part that comes next and the edge answers when it is
//! there; what was had already is left out of it where it may be.
//!
//! Not implemented: encryption, byte ranges.

mod event;
mod follow;
mod guide;
mod list;
mod parts;
mod steering;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AGE, RETRY_AFTER};
use http::{HeaderName, Uri};
use spyglass_media::UtcTime;
use tokio::time::{Instant, sleep_until};

pub use self::event::{Chunk, Event};
use self::follow::{Follower, Next};
use self::guide::Guide;
use self::list::{List, Playlist, parse};
use crate::http::{Answer, Ask, Http, problem_text};
use crate::stamp::Init;
use crate::way::Way;
use crate::{Error, random, url, utc_now};

/// When to look at the chunklist again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// As draft-pantos-hls-rfc8216bis section 6.3.4 asks of clients: after the
    /// last chunk's duration, or half the target duration when nothing was new.
    Paced,
    /// After a random time between two. The paper's app: 2 s to 2.8 s (section 5.2);
    /// its crawler: 0.1 s (section 4.3).
    Between(Duration, Duration),
}

impl Poll {
    /// What the paper measured of the app.
    pub const PAPER: Self = Self::Between(Duration::from_secs(2), Duration::from_millis(2800));
}

/// How to view.
#[derive(Clone)]
pub struct Config {
    /// Playlists to play, multivariant or media; the nearest edge's first, others
    /// to turn to when it fails.
    pub urls: Vec<String>,
    /// When to poll.
    pub poll: Poll,
    /// How far before the newest chunk to begin. `None`: where the list offers
    /// parts, play them PART-HOLD-BACK behind its end, else 9 s.
    pub prebuffer: Option<Duration>,
    /// How long to bear nothing but failures before giving up. An edge that
    /// answers 503 (nothing to play yet) does not fail.
    pub patience: Duration,
}

impl Config {
    /// Paced polls, low latency where it is offered, 20 s of patience.
    pub fn new(urls: Vec<String>) -> Self {
        Self { urls, poll: Poll::Paced, prebuffer: None, patience: Duration::from_secs(20) }
    }
}

/// Media to hold before playing where there are no parts. The paper's app: 9 s.
pub const PREBUFFER: Duration = Duration::from_secs(9);

const MAX_LIST: usize = 2 * 1024 * 1024;
const MAX_CHUNK: usize = 128 * 1024 * 1024;
const MAX_INIT: usize = 1024 * 1024;
/// A list may be held back for a target duration, an unborn one for 8 s.
const LIST_WITHIN: Duration = Duration::from_secs(15);
const CHUNK_WITHIN: Duration = Duration::from_secs(30);
const CHUNK_TRIES: u32 = 3;
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// See the module's documentation.
pub struct HlsViewer {
    config: Config,
    http: Http,
    edges: Vec<Uri>,
    edge: usize,
    /// From that edge.
    way: Way,
    /// The media playlist at the current edge, once known.
    media: Option<Uri>,
    guide: Guide,
    /// Something failed or changed: ask for the list as anybody does.
    plain: bool,
    follower: Follower,
    queue: VecDeque<Next>,
    listed: UtcTime,
    list_age: Option<u32>,
    last: List,
    init: Option<(String, Bytes, Option<Init>)>,
    due: Instant,
    failures: u32,
    failing_since: Option<Instant>,
}

impl HlsViewer {
    /// A viewer that has asked for nothing yet.
    ///
    /// # Errors
    /// When an address is none, or there is none at all.
    pub fn new(config: Config) -> Result<Self, Error> {
        let edges = config.urls.iter().map(|at| url::http(at)).collect::<Result<Vec<_>, _>>()?;
        if edges.is_empty() {
            return Err(Error::BadUrl { url: String::new(), reason: "there is nothing to play" });
        }
        let low_latency = config.prebuffer.is_none() && config.poll == Poll::Paced;
        let follower = Follower::new(config.prebuffer.unwrap_or(PREBUFFER), low_latency);
        Ok(Self {
            config,
            http: Http::new(),
            edges,
            edge: 0,
            way: Way::default(),
            media: None,
            guide: Guide::default(),
            plain: true,
            follower,
            queue: VecDeque::new(),
            listed: UtcTime::default(),
            list_age: None,
            last: List::default(),
            init: None,
            due: Instant::now(),
            failures: 0,
            failing_since: None,
        })
    }

    /// The edge asked now, without the viewer's token.
    pub fn edge(&self) -> String {
        self.media.as_ref().or(self.edges.get(self.edge)).map(url::shown).unwrap_or_default()
    }

    /// How far behind the list's end to play, once that is known and when it is
    /// parts that are played.
    pub fn hold_back(&self) -> Option<Duration> {
        let low_latency = self.config.prebuffer.is_none() && self.config.poll == Poll::Paced;
        self.last.low_latency.as_ref().filter(|_| low_latency).map(|low| low.hold_back)
    }

    /// The next chunk, part, gap or end. Dropping the future loses nothing but what
    /// was already fetched of one object.
    ///
    /// # Errors
    /// When the edge refuses this viewer (401, 403, 410), or nothing worked for
    /// [`Config::patience`].
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(media) = self.guide.attend(&self.http) {
                self.go_to(media);
            }
            if let Some(sequence) = self.follower.lost() {
                return Ok(Event::Missed { sequence });
            }
            if let Some(next) = self.queue.front().cloned() {
                let event = self.fetch(&next).await?;
                self.queue.pop_front();
                return Ok(event);
            }
            if self.last.ended {
                return Ok(Event::Ended);
            }
            sleep_until(self.due).await;
            self.poll().await?;
        }
    }

    async fn poll(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        match self.load().await {
            Ok(list) => {
                self.failures = 0;
                self.failing_since = None;
                let plain = std::mem::take(&mut self.plain);
                let changed = list != self.last;
                self.queue.extend(self.follower.on_list(&list));
                let last = list.items.last().map(|item| item.duration);
                let random = u32::from_ne_bytes(random());
                let poll = self.config.poll;
                // A request that waits paces itself.
                self.due = match self.follower.awaits(&list) {
                    Some(_) if changed || plain => began,
                    _ => self
                        .follower
                        .next_poll(poll, began.into_std(), changed, last, random)
                        .into(),
                };
                self.last = list;
                Ok(())
            }
            Err(failure) => self.failed(failure),
        }
    }

    async fn load(&mut self) -> Result<List, Failure> {
        let index = self.edges.get(self.edge).cloned().unwrap_or_default();
        let mut at = self.media.clone().unwrap_or_else(|| index.clone());
        // A multivariant playlist leads to the media playlist in one step.
        let wanted = self.media.is_some() && !self.plain;
        let query = wanted.then(|| self.query()).flatten();
        for _ in 0..2 {
            let asked = match &query {
                Some(query) => url::with_query(&at, query).map_err(Failure::from)?,
                None => at.clone(),
            };
            let answer = self.get(&asked, MAX_LIST, LIST_WITHIN).await?;
            let parsed = parse(&answer.body).map_err(|reason| {
                Failure::from(Error::BadAnswer { url: url::shown(&at), reason: reason.to_owned() })
            })?;
            match parsed {
                Playlist::Variants(uri) => {
                    let steered = self.guide.on_index(&answer.uri, &answer.body);
                    at = match steered.map_err(Failure::from)? {
                        Some(media) => media,
                        None => url::resolve(&answer.uri, &uri).map_err(Failure::from)?,
                    };
                }
                Playlist::Media(list) => {
                    self.listed = utc_now();
                    self.list_age =
                        answer.headers.get(AGE).and_then(|age| age.to_str().ok()?.parse().ok());
                    if query.is_none() {
                        self.media = Some(answer.uri);
                    }
                    return Ok(list);
                }
            }
        }
        Err(Failure::from(Error::BadAnswer {
            url: url::shown(&index),
            reason: "multivariant playlists name one another".to_owned(),
        }))
    }

    /// What is waited for, in the order of the letters (rule L11).
    fn query(&self) -> Option<String> {
        let (sequence, part) = self.follower.awaits(&self.last)?;
        let skips = self.last.low_latency.as_ref().is_some_and(|low| low.skips);
        let skip = if skips { "&_HLS_skip=YES" } else { "" };
        Some(format!("_HLS_msn={sequence}&_HLS_part={part}{skip}"))
    }

    /// Decides what a failed load means: wait, another edge, or the end.
    fn failed(&mut self, failure: Failure) -> Result<(), Error> {
        if failure.fatal() {
            return Err(failure.error);
        }
        let now = Instant::now();
        if failure.error.status() == Some(503) {
            self.failing_since = None;
        } else {
            let since = *self.failing_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= self.config.patience {
                return Err(failure.error);
            }
        }
        self.failures += 1;
        self.plain = true;
        // Who does not answer at all is not asked twice while there are others.
        let silent = failure.error.status().is_none();
        let at_once = (silent || self.failures.is_multiple_of(2)) && self.next_pathway();
        if !at_once && self.failures.is_multiple_of(2) {
            self.next_edge();
        }
        tracing::debug!(error = %failure.error, edge = self.edge(), "chunklist not loaded");
        let wait = failure.retry_after.unwrap_or(Duration::from_secs(1));
        let wait = wait.clamp(Duration::from_millis(500), Duration::from_secs(10));
        self.due = if at_once { now } else { now + wait };
        Ok(())
    }

    /// Plays on from here.
    fn go_to(&mut self, media: Uri) {
        tracing::debug!(edge = url::shown(&media), "going on from another edge");
        self.way = Way::default();
        self.media = Some(media);
        self.plain = true;
        self.due = Instant::now();
    }

    /// Leaves the pathway that failed, if one is left that did not.
    fn next_pathway(&mut self) -> bool {
        let next = self.guide.fail();
        let moved = next.is_some();
        next.into_iter().for_each(|media| self.go_to(media));
        moved
    }

    fn next_edge(&mut self) {
        if self.edges.len() > 1 {
            self.edge = (self.edge + 1) % self.edges.len();
            self.way = Way::default();
            self.media = None;
        } else if let Some(media) = self.guide.around() {
            self.go_to(media);
        }
    }

    async fn fetch(&mut self, next: &Next) -> Result<Event, Error> {
        if next.item.gap {
            return Ok(Event::Gap { sequence: next.sequence, duration: next.item.duration });
        }
        let requested = utc_now();
        for attempt in 0..CHUNK_TRIES {
            match self.fetch_once(next).await {
                Ok((answer, captured)) => {
                    self.guide.on_chunk(&answer);
                    return Ok(Event::Chunk(Chunk {
                        sequence: next.sequence,
                        part: next.part,
                        lead: next.lead,
                        start: next.start,
                        duration: next.item.duration,
                        date: next.date,
                        discontinuity: next.item.discontinuity,
                        captured,
                        fresh: next.fresh,
                        listed: self.listed,
                        requested,
                        arrived: utc_now(),
                        arrived_at: Instant::now(),
                        last_mile_us: u32::try_from(
                            self.way.on_answer(answer.first, answer.whole).as_micros(),
                        )
                        .unwrap_or(u32::MAX),
                        cache_status: text(&answer, CACHE_STATUS),
                        bytes: answer.body,
                        init: self.init.as_ref().map(|init| init.1.clone()).unwrap_or_default(),
                        list_age: self.list_age,
                    }));
                }
                Err(failure) if failure.fatal() && failure.error.status() != Some(410) => {
                    return Err(failure.error);
                }
                Err(failure) => {
                    tracing::debug!(error = %failure.error, sequence = next.sequence, "chunk not had");
                    if attempt + 1 < CHUNK_TRIES {
                        self.other_edge().await;
                        tokio::time::sleep(Duration::from_millis(300)).await;
                    }
                }
            }
        }
        Ok(Event::Missed { sequence: next.sequence })
    }

    /// Turns to the next pathway, or the next edge and learns its media playlist's
    /// address, which chunks are named relative to.
    async fn other_edge(&mut self) {
        if let Some(media) = self.guide.attend(&self.http) {
            return self.go_to(media);
        }
        if self.next_pathway() {
            return;
        }
        if self.edges.len() > 1 {
            let (edge, media) = (self.edge, self.media.clone());
            self.next_edge();
            if self.load().await.is_err() {
                (self.edge, self.media) = (edge, media);
            }
        }
    }

    async fn fetch_once(&mut self, next: &Next) -> Result<(Answer, Option<UtcTime>), Failure> {
        let base = self.media.clone().unwrap_or_default();
        if let Some(map) = &next.item.map
            && self.init.as_ref().is_none_or(|(name, ..)| name != map)
        {
            let at = url::resolve(&base, map).map_err(Failure::from)?;
            let answer = self.get(&at, MAX_INIT, CHUNK_WITHIN).await?;
            let parsed = Init::parse(&answer.body).map_err(Failure::from)?;
            self.init = Some((map.clone(), answer.body, Some(parsed)));
        }
        let at = url::resolve(&base, &next.item.uri).map_err(Failure::from)?;
        let answer = self.get(&at, MAX_CHUNK, CHUNK_WITHIN).await?;
        let captured = match self.init.as_ref().and_then(|init| init.2) {
            Some(init) => init.captured(&answer.body).map_err(Failure::from)?,
            None => None,
        };
        Ok((answer, captured))
    }

    async fn get(&self, uri: &Uri, limit: usize, within: Duration) -> Result<Answer, Failure> {
        let answer = self.http.ask(Ask::get(uri, limit, within)).await.map_err(Failure::from)?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let retry_after = answer.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        Err(Failure {
            retry_after: retry_after.and_then(|text| text.parse().ok()).map(Duration::from_secs),
            error: Error::EdgeRefused {
                status: answer.status.as_u16(),
                resource: url::file_name(uri).to_owned(),
                detail: problem_text(answer.status, &answer.body),
            },
        })
    }
}

fn text(answer: &Answer, name: HeaderName) -> Option<String> {
    answer.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// A request that did not work.
struct Failure {
    error: Error,
    retry_after: Option<Duration>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, retry_after: None }
    }
}

impl Failure {
    /// Asking again cannot help.
    fn fatal(&self) -> bool {
        matches!(self.error.status(), Some(400 | 401 | 403 | 405 | 410))
    }
}

#[cfg(test)]
mod tests;
