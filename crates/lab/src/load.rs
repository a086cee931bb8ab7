//! `spyglass lab load hls`: many viewers on one HLS server, and what they saw.
//!
//! An open loop: a viewer's next request is due at a time that no answer can
//! push back, and its delay counts from then, so a server that falls behind
//! shows it. One more viewer, who asks every 20 ms, tells when what appeared;
//! against it the others' polling delay is measured. Works on any server.

mod viewer;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::Uri;
use serde::Serialize;

use crate::request::Http;
use crate::request::tls::{Tls, Trust};
use crate::validate::Error;
use crate::validate::list::{List, MAX_LIST};

use viewer::{Tally, position};

/// How often the one who tells what appeared asks.
const LOOK: Duration = Duration::from_millis(20);

/// Ticks of a second in `/proc/PID/stat`, on every Linux.
const TICKS: f64 = 100.0;

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
    /// How many.
    pub viewers: u32,
    /// When each asks.
    pub pace: Pace,
    /// For how long, once all have come.
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

/// Opens the viewers and waits until they are done.
///
/// # Errors
/// When the server does not answer with a playlist, or there is no process of the
/// id that was given.
pub async fn run(options: &Options, stop: impl Future<Output = ()>) -> Result<Report, Error> {
    if let Some(pid) = options.pid.filter(|pid| cpu_seconds(*pid).is_none()) {
        return Err(Error::NoProcess { pid });
    }
    let tls = options.trust.load().map_err(Error::Trust)?;
    let found = crate::validate::find_list(&Http::new(tls.clone()), &options.url).await?;
    let began = Instant::now();
    let until = began + options.ramp + options.length;
    let observer = tokio::spawn(observe(tls.clone(), found.list.clone(), until));
    let step = options.ramp / options.viewers.max(1);
    let viewers: Vec<_> = (0..options.viewers)
        .map(|number| {
            let start = began + step * number;
            tokio::spawn(viewer::run(
                Http::new(tls.clone()),
                found.list.clone(),
                options.pace,
                u64::from(number),
                start,
                until,
            ))
        })
        .collect();
    let cpu = async {
        tokio::time::sleep_until((began + options.ramp).into()).await;
        let before = options.pid.and_then(cpu_seconds);
        tokio::time::sleep_until(until.into()).await;
        options.pid.and_then(cpu_seconds).zip(before).map(|(after, before)| after - before)
    };
    let mut used = None;
    tokio::select! {
        seconds = cpu => used = seconds,
        () = stop => {}
    }
    let handles: Vec<_> = viewers.iter().map(|viewer| viewer.abort_handle()).collect();
    let mut report = Report { viewers: options.viewers, ..Report::default() };
    if Instant::now() < until {
        observer.abort();
        handles.iter().for_each(tokio::task::AbortHandle::abort);
    }
    let appeared = observer.await.unwrap_or_default();
    let mut tallies = Vec::new();
    for viewer in viewers {
        tallies.extend(viewer.await.ok());
    }
    report.seconds = began.elapsed().as_secs_f64();
    let viewer_seconds = f64::from(options.viewers) * options.length.as_secs_f64();
    report.cpu_ms_per_viewer_second = used.map(|seconds| seconds * 1000.0 / viewer_seconds);
    sum(&mut report, tallies, &appeared);
    Ok(report)
}

/// When each position first stood in the list.
async fn observe(tls: Tls, list: Uri, until: Instant) -> BTreeMap<(u64, u64), Instant> {
    let http = Http::new(tls);
    let mut appeared = BTreeMap::new();
    let mut due = Instant::now();
    while due < until {
        tokio::time::sleep_until(due.into()).await;
        due = (due + LOOK).max(Instant::now());
        let Ok(answer) = http.get(&list, MAX_LIST, Duration::from_secs(10)).await else { continue };
        if let Ok(list) = List::read(&answer.body) {
            appeared.entry(position(&list)).or_insert_with(Instant::now);
        }
    }
    appeared
}

fn sum(report: &mut Report, tallies: Vec<Tally>, appeared: &BTreeMap<(u64, u64), Instant>) {
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
