//! `spyglass watch`: a viewer without a screen. Joins through control as any
//! viewer does, plays, and prints its delay by stage and its stalls.

mod status;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};
use spyglass_client::api::{Api, State, Tier};
use spyglass_client::play_hls::Poll;
use spyglass_client::view::{Choice, Config, End, Report, Stage, view};
use spyglass_daemon::{Shutdown, config};
use spyglass_media::{BroadcastId, Location};

pub use self::status::{StatusLine, print_line};
use crate::args::overlay;
use crate::ctl::Access;

/// `spyglass watch`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The broadcast
    id: BroadcastId,
    /// TOML file with settings; environment and flags win over it
    #[arg(long, value_name = "FILE", env = "SPYGLASS_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(clap::Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    #[command(flatten)]
    #[serde(flatten)]
    access: Access,
    /// On which tier to play; auto takes what control gives and turns to HLS when push fails [default: auto]
    #[arg(long, value_name = "TIER", env = "SPYGLASS_TIER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<WantedTier>,
    /// Stop after this many seconds
    #[arg(long = "for", value_name = "SECONDS", env = "SPYGLASS_FOR")]
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    /// Print one JSON object at the end instead of text
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    json: bool,
    /// Where the viewer stands, in degrees, e.g. 52.37,4.90; picks the edge
    #[arg(long, value_name = "LAT,LON", env = "SPYGLASS_LOCATION", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
    /// Seconds of media to hold before playing [default: 1 on push; on HLS what the list asks for where it offers parts, else 9]
    #[arg(long, value_name = "SECONDS", env = "SPYGLASS_BUFFER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    buffer: Option<f64>,
    /// Poll the chunklist every so many seconds [default: as the HLS specification asks]
    #[arg(long, value_name = "SECONDS", env = "SPYGLASS_POLL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    poll: Option<f64>,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WantedTier {
    Auto,
    Push,
    Hls,
}

/// Watches until the end, the given time or a signal.
pub async fn run(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    let settings: Settings = config::load(args.config.as_deref(), overlay(&args.settings)?)?;
    let api = settings.access.api_as_viewer()?;
    let config = settings.viewing()?;
    let limit = seconds("--for", settings.seconds)?;
    let mut line = (!settings.json).then(StatusLine::new);
    let on_report = |report: &Report| {
        if let Some(line) = &mut line {
            line.show(&status(report));
        }
    };
    let stop = stop_after(limit, shutdown.clone());
    let watched = view(&api, args.id, config, on_report, stop).await;
    drop(line);
    let report = watched.with_context(|| format!("broadcast {} cannot be watched", args.id))?;
    if settings.json {
        print_line(&serde_json::to_string(&report).context("report")?);
    } else {
        print_line(&summary(&report));
    }
    if !report.anything() && !shutdown.is_requested() {
        bail!("nothing could be played: {}", why_nothing(&api, args.id).await);
    }
    Ok(())
}

impl Settings {
    fn viewing(&self) -> anyhow::Result<Config> {
        let mut config = Config { location: self.location, ..Config::default() };
        config.choice = match self.tier {
            None | Some(WantedTier::Auto) => Choice::Auto,
            Some(WantedTier::Push) => Choice::Push,
            Some(WantedTier::Hls) => Choice::Hls,
        };
        if let Some(buffer) = seconds("--buffer", self.buffer)? {
            (config.push_buffer, config.hls_buffer) = (buffer, Some(buffer));
        }
        if let Some(poll) = seconds("--poll", self.poll)? {
            config.poll = Poll::Between(poll, poll);
        }
        Ok(config)
    }
}

/// A flag's number as a span of time.
pub fn seconds(flag: &str, value: Option<f64>) -> anyhow::Result<Option<Duration>> {
    let span = value.map(Duration::try_from_secs_f64).transpose();
    span.map_err(|_| anyhow!("{flag} takes seconds, 0 or more"))
}

/// Resolves at a shutdown, or after `limit`.
pub async fn stop_after(limit: Option<Duration>, shutdown: Shutdown) {
    let limit = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = limit => {}
        () = shutdown.requested() => {}
    }
}

async fn why_nothing(api: &Api, id: BroadcastId) -> &'static str {
    match api.show(id).await.map(|broadcast| broadcast.state) {
        Ok(State::Created) => "nobody has published to it yet",
        Ok(State::Interrupted) => "its publisher is away",
        Ok(State::Ended) => "it has ended",
        _ => "no media came, see the edge's and the origin's logs",
    }
}

fn status(report: &Report) -> String {
    let mut parts = vec![place(report)];
    if report.startup_ms.is_none() {
        parts.push(
            if report.anything() { "filling the buffer" } else { "waiting for media" }.into(),
        );
    }
    let stages = report.delay.iter().filter(|(stage, _)| **stage != Stage::Chunking);
    parts.extend(
        stages.map(|(stage, delay)| format!("{} {:.1} s", word(*stage), secs(delay.last_ms))),
    );
    parts.push(stalls(report));
    parts.join(" · ")
}

fn summary(report: &Report) -> String {
    let mut lines = vec![format!(
        "{} · {:.1} s · {} · {:.1} MB",
        match report.end {
            End::Ended => "the broadcast has ended",
            End::Removed => "you were removed: kicked, or the key of your token was revoked",
            End::Stopped | End::Watching => "stopped",
        },
        secs(report.watched_ms.cast_signed()),
        match report.tier {
            Tier::Push => format!("{} frames", report.frames),
            Tier::Hls => format!("{} chunks", report.chunks),
        },
        report.bytes as f64 / 1e6,
    )];
    let mut lost = format!("{} · {} late · {} missed", stalls(report), report.late, report.missed);
    if report.skipped > 0 {
        lost.push_str(&format!(" · {} skipped to catch up", report.skipped));
    }
    lines.push(lost);
    // Who was removed was refused on push first: that is no failure.
    if let Some(why) = report.fell_back.as_ref().filter(|_| report.end != End::Removed) {
        lines.push(format!("push failed, HLS took over: {why}"));
    }
    for (stage, delay) in &report.delay {
        lines.push(format!(
            "{:<22} mean {:>6.2} s  p50 {:>6.2}  p95 {:>6.2}  p99 {:>6.2}",
            word(*stage),
            secs(delay.mean_ms),
            secs(delay.p50_ms),
            secs(delay.p95_ms),
            secs(delay.p99_ms),
        ));
    }
    lines.join("\n")
}

fn place(report: &Report) -> String {
    match (report.tier, report.seat, &report.edge) {
        (Tier::Push, Some(seat), _) => format!("push, seat {seat}"),
        (Tier::Push, None, _) => "push".to_owned(),
        (Tier::Hls, _, Some(edge)) => format!("hls from {edge}"),
        (Tier::Hls, _, None) => "hls".to_owned(),
    }
}

fn stalls(report: &Report) -> String {
    match report.stalls {
        0 => "no stall".to_owned(),
        1 => format!("1 stall of {:.1} s", secs(report.stalled_ms.cast_signed())),
        count => format!("{count} stalls, {:.1} s", secs(report.stalled_ms.cast_signed())),
    }
}

/// A stage for people.
fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Push => "capture to arrival",
        Stage::Chunking => "chunking",
        Stage::Polling => "upload to poll",
        Stage::LastMile => "last mile",
        Stage::Buffering => "buffering",
        Stage::Total => "capture to screen",
    }
}

fn secs(millis: i64) -> f64 {
    millis as f64 / 1000.0
}
