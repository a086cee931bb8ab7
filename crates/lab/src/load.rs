//! `spyglass lab load hls`: many viewers on one HLS server, and what they saw.
//!
//! An open loop: a viewer's next request is due at a time that no answer can
//! push back, and its delay counts from then, so a server that falls behind
//! shows it. One more viewer, who asks every 20 ms, tells when what appeared;
//! against it the others' polling delay is measured. Works on any server, and ends
//! when it was told to whatever that server does: what is under way then is dropped.

mod viewer;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::Uri;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, timeout_at};

use crate::request::Http;
use crate::request::tls::{Tls, Trust};
use crate::validate::list::{List, MAX_LIST};
use crate::validate::{Error, find_lists};

use viewer::{Tally, position};

/// How often the one who tells what appeared asks.
const LOOK: Duration = Duration::from_millis(20);

/// For one such answer.
const LOOKED: Duration = Duration::from_secs(10);

/// How long viewers may take to hand over what they saw, once it is over: each
/// closes its connection.
const HAND_OVER: Duration = Duration::from_secs(1);
const HAND_OVER_EACH: Duration = Duration::from_micros(100);

/// The most viewers of one run: each is a task, a connection and a player, and
/// the machine's ports end before that.
pub const MAX_VIEWERS: u32 = 100_000;

/// Ticks of a second in `/proc/PID/stat`, on every Linux.
const TICKS: f64 = 100.0;

/// When each position first stood in the list.
type Appeared = BTreeMap<(u64, u64), Instant>;

/// When a viewer asks for the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Every 2.0 to 2.8 s, as the paper saw it.
    Paper,
    /// After the last chunk's duration, or half a target duration when nothing
    /// was new (RFC 8216bis section 6.3.4).
    Spec,
    /// Blocking reloads, where the list offers them.
    Blocking,
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// A media playlist, or a multivariant one whose first variant is taken.
    pub url: String,
    /// How many; [`MAX_VIEWERS`] at most.
    pub viewers: u32,
    /// When each asks.
    pub pace: Pace,
    /// For how long, once all have come. With `ramp` it bounds everything, the
    /// search for the list too.
    pub length: Duration,
    /// They come one by one within this time.
    pub ramp: Duration,
    /// The server's process on this machine, whose CPU time is read.
    pub pid: Option<u32>,
    /// Whose certificates are believed, at `https://`.
    pub trust: Trust,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Measurements.
    pub count: u64,
    /// Half took no longer.
    pub p50: f64,
    /// 95 % took no longer.
    pub p95: f64,
    /// 99 % took no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// What the viewers saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How many.
    pub viewers: u32,
    /// For how long, from the first one's coming.
    pub seconds: f64,
    /// Lists and chunks (or parts) they got, and their bytes.
    pub lists: u64,
    /// See `lists`.
    pub chunks: u64,
    /// See `lists`.
    pub bytes: u64,
    /// Requests that failed, by reason.
    pub errors: BTreeMap<String, u64>,
    /// From when a list was due to the head of its answer; for a blocked reload
    /// the server's waiting is in it.
    pub list: Quantiles,
    /// From asking for a chunk or part to the head of its answer.
    pub chunk: Quantiles,
    /// From a chunk's (or part's) appearance in the list to a viewer's knowing.
    pub polling: Quantiles,
    /// How often their players had nothing to play.
    pub stalls: u64,
    /// For how long, together, in seconds.
    pub stalled: f64,
    /// CPU time of the server's process, for each second of each viewer.
    pub cpu_ms_per_viewer_second: Option<f64>,
}

/// Opens the viewers and waits until it is over: when the time is, or at `stop`.
///
/// # Errors
/// When the server does not answer with a playlist, or there is no process of the
/// id that was given.
pub async fn run(options: &Options, stop: impl Future<Output = ()>) -> Result<Report, Error> {
    if let Some(pid) = options.pid.filter(|pid| cpu_seconds(*pid).is_none()) {
        return Err(Error::NoProcess { pid });
    }
    let viewers = options.viewers.min(MAX_VIEWERS);
    let mut report = Report { viewers, ..Report::default() };
    let tls = options.trust.load().map_err(Error::Trust)?;
    let until = Instant::now() + options.ramp + options.length;
    let mut stop = std::pin::pin!(stop);
    let url = std::slice::from_ref(&options.url);
    let found = find_lists(&Http::new(tls.clone()), url, until, stop.as_mut()).await?;
    let Some(list) = found.and_then(|mut found| found.pop()).map(|server| server.list) else {
        return Ok(report);
    };
    let began = Instant::now();
    // Everybody ends when the sender does.
    let (over, ends) = watch::channel(());
    let observer = tokio::spawn(observe(tls.clone(), list.clone(), ends.clone()));
    let step = options.ramp / viewers.max(1);
    let mut tasks = JoinSet::new();
    for number in 0..viewers {
        let (http, start) = (Http::new(tls.clone()), began + step * number);
        let (list, pace, ends) = (list.clone(), options.pace, ends.clone());
        tasks.spawn(viewer::run(http, list, pace, u64::from(number), start, ends));
    }
    let come = (began + options.ramp).min(until);
    let cpu = async {
        tokio::time::sleep_until(come.into()).await;
        let before = options.pid.and_then(cpu_seconds);
        tokio::time::sleep_until(until.into()).await;
        options.pid.and_then(cpu_seconds).zip(before).map(|(after, before)| after - before)
    };
    let used = tokio::select! {
        seconds = cpu => seconds,
        () = stop => None,
    };
    report.seconds = began.elapsed().as_secs_f64();
    drop(over);
    let viewer_seconds = f64::from(viewers) * until.saturating_duration_since(come).as_secs_f64();
    report.cpu_ms_per_viewer_second =
        used.filter(|_| viewer_seconds > 0.0).map(|seconds| seconds * 1000.0 / viewer_seconds);
    let (appeared, tallies) = handed_over(&mut report, observer, tasks).await;
    sum(&mut report, tallies, &appeared);
    Ok(report)
}

/// What all have seen; who does not hand it over in time is told as an error.
async fn handed_over(
    report: &mut Report,
    mut observer: JoinHandle<Appeared>,
    mut tasks: JoinSet<Tally>,
) -> (Appeared, Vec<Tally>) {
    let latest = tokio::time::Instant::now() + HAND_OVER + HAND_OVER_EACH * report.viewers;
    let mut tallies = Vec::with_capacity(tasks.len());
    while let Ok(Some(viewer)) = timeout_at(latest, tasks.join_next()).await {
        tallies.extend(viewer.ok());
    }
    let lost = u64::from(report.viewers).saturating_sub(tallies.len() as u64);
    if lost > 0 {
        report.errors.insert("viewer: lost, what it saw is missing here".to_owned(), lost);
    }
    let appeared = timeout_at(latest, &mut observer).await;
    observer.abort();
    (appeared.ok().and_then(Result::ok).unwrap_or_default(), tallies)
}

/// When each position first stood in the list.
async fn observe(tls: Tls, list: Uri, mut ends: watch::Receiver<()>) -> Appeared {
    let http = Http::new(tls);
    let mut appeared = Appeared::new();
    let looking = async {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let Ok(answer) = http.get(&list, MAX_LIST, LOOKED).await else { continue };
            if let Ok(list) = List::read(&answer.body) {
                appeared.entry(position(&list)).or_insert_with(Instant::now);
            }
        }
    };
    tokio::select! {
        biased;
        _ = ends.changed() => {}
        () = looking => {}
    }
    appeared
}

fn sum(report: &mut Report, tallies: Vec<Tally>, appeared: &Appeared) {
    let (mut list, mut chunk, mut polling) = (Vec::new(), Vec::new(), Vec::new());
    // What stood there from the start appeared at no known time.
    let first = appeared.keys().next().copied().unwrap_or_default();
    for tally in tallies {
        report.chunks += tally.chunk.len() as u64;
        report.lists += tally.list.len() as u64;
        report.bytes += tally.bytes;
        report.stalls += tally.stalls;
        report.stalled += tally.stalled.as_secs_f64();
        for (reason, count) in tally.errors {
            *report.errors.entry(reason).or_default() += count;
        }
        list.extend(tally.list);
        chunk.extend(tally.chunk);
        for (position, seen) in tally.seen {
            let from = appeared.range(position..).next().filter(|(known, _)| **known > first);
            if let Some((_, from)) = from {
                polling.push(seen.saturating_duration_since(*from));
            }
        }
    }
    report.list = quantiles(list);
    report.chunk = quantiles(chunk);
    report.polling = quantiles(polling);
}

/// All measurements of one kind, sorted.
fn quantiles(mut all: Vec<Duration>) -> Quantiles {
    all.sort_unstable();
    let at = |quantile: f64| {
        let rank = (quantile * all.len() as f64).ceil() as usize;
        let value = all.get(rank.saturating_sub(1)).copied().unwrap_or_default();
        (value.as_secs_f64() * 1e6).round() / 1000.0
    };
    Quantiles { count: all.len() as u64, p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1.0) }
}

/// CPU time of a process so far, in seconds: user and system (proc(5)).
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_time() {
        let before = cpu_seconds(std::process::id()).unwrap();
        let began = Instant::now();
        while cpu_seconds(std::process::id()).unwrap() <= before {
            assert!(began.elapsed() < Duration::from_secs(20));
        }
        assert_eq!(cpu_seconds(u32::MAX), None);
    }

    #[test]
    fn a_delay_counts_from_the_appearance() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let appeared = BTreeMap::from([((5, 0), at(0)), ((6, 0), at(1_000)), ((7, 0), at(4_000))]);
        let tally = Tally {
            seen: vec![((5, 0), at(10)), ((6, 0), at(2_200)), ((7, 0), at(5_200))],
            list: vec![Duration::from_millis(3)],
            ..Tally::default()
        };
        let mut report = Report::default();
        sum(&mut report, vec![tally], &appeared);
        let all = Quantiles { count: 2, p50: 1_200.0, p95: 1_200.0, p99: 1_200.0, max: 1_200.0 };
        assert_eq!((report.polling, report.lists), (all, 1));
        let hundred = quantiles((1..=100).map(Duration::from_millis).collect());
        assert_eq!((hundred.p50, hundred.p95, hundred.p99, hundred.max), (50.0, 95.0, 99.0, 100.0));
        assert_eq!(quantiles(Vec::new()), Quantiles::default());
    }
}
