//! `spyglass lab validate`: is a live stream what players may expect of HLS?
//!
//! Asks any server from outside, as players do, for as long as one likes:
//! whole lists and their changes ([`judge`]), what stands in a low-latency one
//! (`low_latency`), and what only requests can show (`probe`). A server that can
//! block is asked plainly beside (`plain`) and must not fall back (`shown`). Several servers
//! of one stream are asked in turn and must agree. Nothing of Spyglass's own
//! muxer or renderer is used, so that a fault of theirs is not shared.

pub mod finding;
pub mod judge;
pub mod list;
mod low_latency;
mod media;
mod plain;
mod probe;
mod shown;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::Uri;
use serde::Serialize;

use self::finding::{Finding, Findings, Rule, Severity};
use self::judge::{Judge, Request};
use self::list::{List, MAX_LIST, Unreadable};
use self::media::Media;
use self::plain::{Heard, Pollers};
use crate::request::tls::Trust;
use crate::request::{self, Answer, Http};

/// For an answer that waits for nothing.
const PLAIN: Duration = Duration::from_secs(10);

/// For one that may wait: three target durations and this.
const BEYOND: Duration = Duration::from_secs(3);

/// The shortest time between two requests for a list.
const SHORTEST: Duration = Duration::from_millis(20);

/// Findings that a report keeps; all are counted.
const KEPT: usize = 1_000;

/// What to look at.
#[derive(Clone, Debug)]
pub struct Options {
    /// A media playlist, or a multivariant one whose first variant is taken;
    /// the same stream at each.
    pub urls: Vec<String>,
    /// For how long; it ends earlier when the stream does.
    pub length: Duration,
    /// Whose certificates are believed, at `https://`.
    pub trust: Trust,
}

/// What was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Answers with a list.
    pub lists: u64,
    /// Lists that differed from the one before at their server.
    pub versions: u64,
    /// Whole segments and parts that were fetched, and their bytes.
    pub segments: u64,
    /// See `segments`.
    pub parts: u64,
    /// See `segments`.
    pub bytes: u64,
    /// The stream has ended, and its end was looked at.
    pub ended: bool,
    /// Findings, by rule.
    pub faults: BTreeMap<Rule, u64>,
    /// Findings, by rule.
    pub warnings: BTreeMap<Rule, u64>,
    /// The first thousand.
    pub findings: Vec<Finding>,
}

impl Report {
    /// No fault; warnings may be there.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    fn add(&mut self, found: Vec<Finding>, tell: &mut Tell<'_>) {
        for finding in found {
            let counts = match finding.severity {
                Severity::Fault => &mut self.faults,
                Severity::Warning => &mut self.warnings,
            };
            let count = counts.entry(finding.rule).or_default();
            *count += 1;
            // A warning that repeats says nothing new.
            if finding.severity == Severity::Fault || *count <= 3 {
                tell(News::Finding(&finding));
            }
            if self.findings.len() < KEPT {
                self.findings.push(finding);
            }
        }
    }
}

/// Why nothing could be validated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A URL is none, or is not answered.
    #[error("{url}: {reason}")]
    Server {
        /// As it was given.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// There is no such process whose CPU time could be read.
    #[error(
        "--pid {pid}: there is no such process on this machine. Give the id of the server's \
         process, as `pgrep -n NAME` prints it, or leave --pid out"
    )]
    NoProcess {
        /// As it was given.
        pid: u32,
    },
    /// Certificates cannot be read.
    #[error(transparent)]
    Trust(request::Error),
}

/// One server of the stream.
pub(crate) struct Server {
    /// As it is named in findings: its authority.
    pub(crate) name: String,
    pub(crate) list: Uri,
}

/// What is told while the validation runs.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// A rule was broken. A warning that repeats is told three times.
    Finding(&'a Finding),
    /// Another list was read; what there is so far.
    Progress(&'a Report),
}

type Tell<'a> = dyn FnMut(News<'_>) + 'a;

/// Looks at a stream until its end, the given length, or `stop`. What is under
/// way then is dropped, and no finding: nobody knows how it would have gone on.
///
/// # Errors
/// When a server cannot be asked at all.
pub async fn run(
    options: &Options,
    stop: impl Future<Output = ()>,
    mut tell: impl FnMut(News<'_>),
) -> Result<Report, Error> {
    let http = Http::new(options.trust.load().map_err(Error::Trust)?);
    let until = Instant::now() + options.length;
    let mut stop = std::pin::pin!(stop);
    let found = find_lists(&http, &options.urls, until, stop.as_mut()).await?;
    let Some(servers) = found else { return Ok(Report::default()) };
    let names: Vec<String> = servers.iter().map(|server| server.name.clone()).collect();
    let began = Instant::now();
    let mut run = Run {
        judge: Judge::new(names),
        media: Media::new(http.clone()),
        plain: Pollers::new(began),
        began,
        report: Report::default(),
        found: Vec::new(),
        newest: (0, 0),
        probes: 0,
        http,
        servers,
    };
    tokio::select! {
        () = run.follow(&mut tell) => {}
        () = tokio::time::sleep_until(until.into()) => {}
        () = stop => {}
    }
    run.hear(&mut tell);
    run.tell_found(&mut tell);
    run.count();
    Ok(run.report)
}

/// The list behind each URL, until a time; `None` when `stop` came first.
pub(crate) async fn find_lists(
    http: &Http,
    urls: &[String],
    until: Instant,
    stop: impl Future<Output = ()>,
) -> Result<Option<Vec<Server>>, Error> {
    let began = Instant::now();
    let finding = async {
        let mut servers = Vec::new();
        for url in urls {
            let found = tokio::time::timeout_at(until.into(), find_list(http, url)).await;
            let late = |_| Error::Server {
                url: url.clone(),
                reason: format!(
                    "no playlist within {:.1} s: try a longer --for, or another server",
                    began.elapsed().as_secs_f64()
                ),
            };
            servers.push(found.map_err(late)??);
        }
        Ok(servers)
    };
    tokio::select! {
        found = finding => found.map(Some),
        () = stop => Ok(None),
    }
}

async fn find_list(http: &Http, url: &str) -> Result<Server, Error> {
    let failed = |reason: String| Error::Server { url: url.to_owned(), reason };
    let uri = request::parse(url).map_err(|error| failed(error.to_string()))?;
    let followed = http.follow(&uri, MAX_LIST, PLAIN).await;
    let (uri, answer) = followed.map_err(|error| failed(error.to_string()))?;
    let name = uri.authority().map(ToString::to_string).unwrap_or_default();
    if !answer.status.is_success() {
        return Err(failed(format!("answers {}", answer.status)));
    }
    if !answer.body.starts_with(b"#EXTM3U") {
        return Err(failed("is no playlist: give the URL of an .m3u8".to_owned()));
    }
    if !matches!(List::read(&answer.body), Err(Unreadable::Multivariant)) {
        return Ok(Server { name, list: uri });
    }
    let text = String::from_utf8_lossy(&answer.body);
    let variant = text.lines().find(|line| !line.is_empty() && !line.starts_with('#'));
    let variant =
        variant.ok_or_else(|| failed("a multivariant playlist with no variant".into()))?;
    let list = request::resolve(&uri, variant.trim()).map_err(|error| failed(error.to_string()))?;
    Ok(Server { name, list })
}

/// One validation under way.
struct Run {
    http: Http,
    servers: Vec<Server>,
    judge: Judge,
    media: Media,
    plain: Pollers,
    began: Instant,
    report: Report,
    /// Findings of what is under way, kept when that is dropped.
    found: Vec<Finding>,
    /// Segment and part behind everything that any server has shown.
    newest: (u64, u64),
    /// Rounds of probes made.
    probes: u32,
}

impl Run {
    fn count(&mut self) {
        self.report.seconds = self.began.elapsed().as_secs_f64();
        (self.report.segments, self.report.parts, self.report.bytes) = self.media.counts();
    }

    fn tell_found(&mut self, tell: &mut Tell<'_>) {
        self.report.add(std::mem::take(&mut self.found), tell);
    }

    /// Until the stream has ended and its end was looked at.
    async fn follow(&mut self, tell: &mut Tell<'_>) {
        let mut turn = 0;
        while !self.judge.ended() {
            let server = turn % self.servers.len();
            turn += 1;
            let asked = Instant::now();
            let fresh = self.poll(server, tell).await;
            self.hear(tell);
            // Before anything is fetched: what it asks for is that of now.
            self.probe(server, tell).await;
            if fresh {
                self.fetch(server, tell).await;
            }
            self.media.keep_promises(&self.servers, self.began, &mut self.found).await;
            self.tell_found(tell);
            self.count();
            tell(News::Progress(&self.report));
            tokio::time::sleep(self.pause(server).saturating_sub(asked.elapsed())).await;
        }
        self.hear(tell);
        self.after_the_end(tell).await;
        self.report.ended = true;
    }

    /// Between two requests: blocked reloads pace themselves.
    fn pause(&self, server: usize) -> Duration {
        let Some(list) = self.judge.last(server) else { return Duration::from_millis(250) };
        if blocks(list) {
            return SHORTEST;
        }
        let target = Duration::from_secs(list.target.unwrap_or(4));
        (target / 4 / u32::try_from(self.servers.len()).unwrap_or(1)).max(SHORTEST)
    }

    /// Whether the list is another than before.
    async fn poll(&mut self, index: usize, tell: &mut Tell<'_>) -> bool {
        let Some(server) = self.servers.get(index) else { return false };
        let mut for_next = false;
        let wanted = self.judge.last(index).filter(|list| blocks(list)).map(|list| {
            let parts = list.part_target.is_some();
            let held = position(list);
            for_next = held >= self.newest;
            // What another server has shown must be here too: asked for as that,
            // it is seen as soon as it is.
            let next =
                if held < self.newest { last_of(self.newest) } else { (held.0, Some(held.1)) };
            (next, parts, list.target.unwrap_or(4))
        });
        let (uri, within) = match wanted {
            None => (server.list.clone(), PLAIN),
            Some(((segment, part), parts, target)) => {
                let part = match part {
                    Some(part) if parts => format!("&_HLS_part={part}"),
                    _ => String::new(),
                };
                let query = format!("_HLS_msn={segment}{part}");
                (
                    request::with_query(&server.list, &query),
                    Duration::from_secs(target.saturating_mul(3)).saturating_add(BEYOND),
                )
            }
        };
        let asked = self.began.elapsed();
        let answer = self.http.get(&uri, MAX_LIST, within).await;
        let at = self.began.elapsed();
        let mut found = Vec::new();
        let mut findings = Findings::new(at, &server.name, &mut found);
        let last = self.judge.last(index);
        let Some(list) = whole(answer.as_ref(), wanted.is_some(), last, &mut findings) else {
            self.report.add(found, tell);
            return false;
        };
        if let Some(((segment, part), ..)) = wanted {
            let shown = position(&list);
            // Behind the last part of a segment stands the first of the next.
            let listed = part.map_or(shown.0 > segment, |part| shown > (segment, part));
            if !listed && !list.ended {
                let what = format!(
                    "waited for segment {segment}{}; the list ends before segment {}, part {}",
                    part.map(|part| format!(", part {part}")).unwrap_or_default(),
                    shown.0,
                    shown.1
                );
                let end = list.lines.len();
                findings.fault(Rule::L4, what, list.excerpt(end.saturating_sub(4), end));
            }
        }
        self.newest = self.newest.max(position(&list));
        self.report.lists += 1;
        let fresh = self.judge.last(index) != Some(&list);
        self.report.versions += u64::from(fresh);
        let request = Request { asked, at, for_next };
        found.extend(self.judge.see(index, request, list.clone()));
        if blocks(&list) {
            self.plain.start(index, server, &list, &self.http);
        }
        self.media.promise(self.judge.take_promises());
        self.report.add(found, tell);
        fresh
    }

    /// What the newest list of a server shows and was not yet asked for there.
    async fn fetch(&mut self, index: usize, tell: &mut Tell<'_>) {
        let Some((server, list)) = self.servers.get(index).zip(self.judge.last(index)) else {
            return;
        };
        self.media.fetch(index, server, list, self.began, &mut self.found).await;
        self.tell_found(tell);
    }

    /// Looks at what plain requests got meanwhile.
    fn hear(&mut self, tell: &mut Tell<'_>) {
        while let Some(Heard { server: index, asked, at, answer }) = self.plain.next() {
            let Some(server) = self.servers.get(index) else { continue };
            let last = self.judge.last(index);
            let mut found = Vec::new();
            let mut findings = Findings::new(at, &server.name, &mut found);
            let list = whole(answer.as_ref(), false, last, &mut findings);
            if let Some((list, answer)) = list.zip(answer.ok()) {
                self.report.lists += 1;
                self.newest = self.newest.max(position(&list));
                let age = answer.header("age").and_then(|age| age.trim().parse().ok());
                found.extend(self.judge.see_plain(index, (asked, at), age, list));
            }
            self.report.add(found, tell);
        }
    }

    /// Requests that no player makes twice, now and then.
    async fn probe(&mut self, index: usize, tell: &mut Tell<'_>) {
        let due = probe::FIRST + probe::EVERY * self.probes;
        let Some(list) = self.judge.last(index).filter(|list| blocks(list) && !list.ended) else {
            return;
        };
        if self.began.elapsed() < due {
            return;
        }
        let Some(server) = self.servers.get(index) else { return };
        self.probes += 1;
        probe::round(&self.http, server, list, self.began, &mut self.found).await;
        self.tell_found(tell);
    }

    async fn after_the_end(&mut self, tell: &mut Tell<'_>) {
        for index in 0..self.servers.len() {
            let Some((server, list)) = self.servers.get(index).zip(self.judge.last(index)) else {
                continue;
            };
            self.media.still_there(server, list, self.began, &mut self.found).await;
            self.tell_found(tell);
            if self.poll(index, tell).await {
                self.fetch(index, tell).await;
            }
        }
    }
}

/// Whether a reload of this list may be a blocking one.
fn blocks(list: &List) -> bool {
    !list.ended && list.control.as_ref().is_some_and(|control| control.can_block_reload)
}

/// The segment and part behind the last ones that a list shows.
fn position(list: &List) -> (u64, u64) {
    (list.end(), list.open.parts.len() as u64)
}

/// What is asked for to see everything before a position: its last part, or the
/// segment before it.
fn last_of((segment, part): (u64, u64)) -> (u64, Option<u64>) {
    match part.checked_sub(1) {
        Some(part) => (segment, Some(part)),
        None => (segment.saturating_sub(1), None),
    }
}

/// The list of an answer, or why it is none (rule P0), and its headers.
fn whole(
    answer: Result<&Answer, &request::Error>,
    blocked: bool,
    last: Option<&List>,
    findings: &mut Findings<'_>,
) -> Option<List> {
    let read = answer.map_err(ToString::to_string).and_then(|answer| {
        headers(answer, blocked, last, findings);
        if answer.status.is_success() {
            return List::read(&answer.body).map_err(|error| error.to_string());
        }
        let text = String::from_utf8_lossy(&answer.body);
        Err(format!("answers {}: {}", answer.status, first_line(&text)))
    });
    read.map_err(|reason| findings.fault(Rule::P0, reason, vec![])).ok()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(120).collect()
}

/// Rules P12, L9 and L10.
fn headers(answer: &Answer, blocked: bool, last: Option<&List>, findings: &mut Findings<'_>) {
    if !answer.status.is_success() {
        return;
    }
    if !answer.gzip {
        findings.warning(Rule::P12, "a list without gzip although it is accepted", vec![]);
    }
    let Some(list) = last else { return };
    if blocked && answer.header("age").is_none() {
        findings.warning(Rule::L9, "a list of a cache without Age", vec![]);
    }
    let target = list.target.unwrap_or(1) as f64;
    let most = if blocked { 6.0 * target } else { (0.5 * target).max(1.0) };
    let control = answer.header("cache-control").unwrap_or_default();
    let age = control.split(',').find_map(|word| word.trim().strip_prefix("max-age="));
    if age.and_then(|age| age.parse::<f64>().ok()).is_some_and(|age| age > most) {
        let what = format!("Cache-Control: {control}, where {most} s is the most");
        findings.warning(Rule::L10, what, vec![]);
    }
}
