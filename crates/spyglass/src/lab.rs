//! `spyglass lab`: measurements of any server, from outside. What they measure
//! is in `spyglass-lab`; here they get their flags and are told to people.

use std::time::Duration;

use anyhow::bail;
use spyglass_daemon::Shutdown;
use spyglass_lab::load;
use spyglass_lab::request::tls::Trust;
use spyglass_lab::validate::finding::{Finding, Rule, Severity};
use spyglass_lab::validate::{self, News, Options, Report};

use crate::watch::{StatusLine, print_line};

/// The longest measurement: a year, which every clock can add to now.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3_600);

/// `spyglass lab …`
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Check a live HLS stream against the rules of RFC 8216bis
    ///
    /// Speaks HTTP/1.1 at http:// addresses; at https:// HTTP/2, or HTTP/1.1 where the server
    /// chooses that (ALPN). HTTP/3 is not spoken.
    Validate(Validate),
    /// Open many viewers on a server and tell what they saw
    #[command(subcommand)]
    Load(Load),
}

/// `spyglass lab load …`
#[derive(clap::Subcommand, Debug)]
pub enum Load {
    /// Viewers who poll lists and fetch chunks
    ///
    /// Speaks HTTP/1.1 at http:// addresses; at https:// HTTP/2, or HTTP/1.1 where the server
    /// chooses that (ALPN). HTTP/3 is not spoken.
    Hls(Hls),
}

/// `spyglass lab load hls`
#[derive(clap::Args, Debug)]
pub struct Hls {
    /// A media playlist, or a multivariant one (its first variant is taken)
    url: String,
    /// How many viewers, each with a connection of its own; at most 100000
    #[arg(long, default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(load::MAX_VIEWERS)))]
    viewers: u32,
    /// When they ask: every 2.0 to 2.8 s as the paper saw it, as the specification asks, or by blocking reloads
    #[arg(long, value_enum, default_value_t = Pace::Paper)]
    pace: Pace,
    /// How long to go on once all have come (finding the list takes of it); what is under way then is dropped
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 30.0)]
    seconds: f64,
    /// They come one by one within this time
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    ramp: f64,
    /// The server's process on this machine, to tell its CPU time
    #[arg(long)]
    pid: Option<u32>,
    #[command(flatten)]
    certificates: Certificates,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Pace {
    Paper,
    Spec,
    Blocking,
}

/// `spyglass lab validate`
#[derive(clap::Args, Debug)]
pub struct Validate {
    /// A media playlist, or a multivariant one (its first variant is taken)
    url: String,
    /// The same stream at other servers; all must agree
    #[arg(long, value_name = "URL", num_args = 1..)]
    edges: Vec<String>,
    /// Stop after this many seconds; it stops by itself when the stream ends
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 60.0)]
    seconds: f64,
    #[command(flatten)]
    certificates: Certificates,
    /// Print one JSON object at the end instead of text
    #[arg(long)]
    json: bool,
}

/// What is believed of `https://` servers.
#[derive(clap::Args, Debug)]
struct Certificates {
    /// A PEM file of certificates to believe beside the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<std::path::PathBuf>,
    /// Believe any certificate, for a development one
    #[arg(long)]
    insecure: bool,
}

impl From<Certificates> for Trust {
    fn from(flags: Certificates) -> Self {
        Self { ca: flags.ca, insecure: flags.insecure }
    }
}

/// Runs a measurement.
pub async fn run(command: Command, shutdown: Shutdown) -> anyhow::Result<()> {
    match command {
        Command::Validate(args) => validate(args, shutdown).await,
        Command::Load(Load::Hls(args)) => load_hls(args, shutdown).await,
    }
}

fn duration(flag: &str, seconds: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|length| *length <= LONGEST).ok_or_else(|| {
        anyhow::anyhow!("{flag} {seconds}: give a number of seconds, {} at most", LONGEST.as_secs())
    })
}

async fn load_hls(args: Hls, shutdown: Shutdown) -> anyhow::Result<()> {
    let options = load::Options {
        url: args.url,
        viewers: args.viewers,
        pace: match args.pace {
            Pace::Paper => load::Pace::Paper,
            Pace::Spec => load::Pace::Spec,
            Pace::Blocking => load::Pace::Blocking,
        },
        length: duration("--for", args.seconds)?,
        ramp: duration("--ramp", args.ramp)?,
        pid: args.pid,
        trust: args.certificates.into(),
    };
    if !args.json {
        let all = (options.ramp + options.length).as_secs_f64();
        print_line(&format!("{} viewers for {all:.0} s …", options.viewers));
    }
    let stop = shutdown.clone();
    let report = load::run(&options, async move { stop.requested().await }).await?;
    match args.json {
        true => print_line(&serde_json::to_string(&report)?),
        false => print_line(&table(&report)),
    }
    if report.chunks == 0 && !shutdown.is_requested() {
        bail!(
            "nothing was played: no viewer got a chunk. The report counts the answers that went \
             wrong, a request without an answer not; look whether the broadcast is live and its \
             list is right with `spyglass lab validate URL`"
        );
    }
    Ok(())
}

fn table(report: &load::Report) -> String {
    let mut text = format!(
        "{} lists, {} chunks, {:.1} MB in {:.0} s\n{:<10}{:>10}{:>10}{:>10}{:>10}{:>10}",
        report.lists,
        report.chunks,
        report.bytes as f64 / 1e6,
        report.seconds,
        "ms",
        "count",
        "p50",
        "p95",
        "p99",
        "max",
    );
    for (name, found) in
        [("list", report.list), ("chunk", report.chunk), ("polling", report.polling)]
    {
        text.push_str(&format!(
            "\n{name:<10}{:>10}{:>10.1}{:>10.1}{:>10.1}{:>10.1}",
            found.count, found.p50, found.p95, found.p99, found.max
        ));
    }
    text.push_str(&format!("\n{} stalls, {:.1} s together", report.stalls, report.stalled));
    if let Some(cpu) = report.cpu_ms_per_viewer_second {
        text.push_str(&format!("\nserver: {cpu:.3} ms of CPU for each viewer-second"));
    }
    for (reason, count) in &report.errors {
        text.push_str(&format!("\n{count:>6} x {}", visible(reason)));
    }
    text
}

async fn validate(args: Validate, shutdown: Shutdown) -> anyhow::Result<()> {
    let length = duration("--for", args.seconds)?;
    let urls = std::iter::once(args.url).chain(args.edges).collect();
    let mut line = (!args.json).then(StatusLine::new);
    let stopped = shutdown.clone();
    let stop = async move { stopped.requested().await };
    let options = Options { urls, length, trust: args.certificates.into() };
    let report = validate::run(&options, stop, |news| {
        let Some(line) = &mut line else { return };
        match news {
            News::Finding(finding) => line.above(&told(finding)),
            News::Progress(report) => line.show(&progress(report)),
        }
    })
    .await?;
    drop(line);
    match args.json {
        true => print_line(&serde_json::to_string(&report)?),
        false => print_line(&summary(&report)),
    }
    if report.lists == 0 && !shutdown.is_requested() {
        bail!("no list could be read");
    }
    if !report.is_clean() {
        let count: u64 = report.faults.values().sum();
        bail!("{count} faults");
    }
    Ok(())
}

fn progress(report: &Report) -> String {
    let sum = |counts: &std::collections::BTreeMap<Rule, u64>| counts.values().sum::<u64>();
    format!(
        "{:.0} s: {} versions, {} segments, {} parts, {:.1} MB; {} faults, {} warnings",
        report.seconds,
        report.versions,
        report.segments,
        report.parts,
        report.bytes as f64 / 1e6,
        sum(&report.faults),
        sum(&report.warnings),
    )
}

fn told(finding: &Finding) -> String {
    let mut text = format!(
        "{:>8.3} s  {}  {:?}  {}: {}",
        finding.at_ms as f64 / 1000.0,
        finding.severity.as_str(),
        finding.rule,
        finding.server,
        visible(&finding.what),
    );
    for line in finding.lines.iter().take(12) {
        text.push_str("\n              | ");
        text.push_str(&visible(line));
    }
    text
}

/// What a server sends does not steer the terminal.
fn visible(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

fn summary(report: &Report) -> String {
    let mut text = progress(report);
    for (severity, counts) in
        [(Severity::Fault, &report.faults), (Severity::Warning, &report.warnings)]
    {
        for (rule, count) in counts {
            let name = format!("{rule:?}");
            text.push_str(&format!(
                "\n{count:>6} x {name:<3} {}: {}",
                severity.as_str(),
                rule.asks()
            ));
        }
    }
    if report.ended {
        text.push_str("\nthe stream ended, and its end was looked at");
    }
    text
}
