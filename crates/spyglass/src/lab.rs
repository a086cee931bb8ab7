//! `spyglass lab`: measurements of any server, from outside. What they measure
//! is in `spyglass-lab`; here they get their flags and are told to people.

use std::time::Duration;

use anyhow::bail;
use spyglass_daemon::Shutdown;
use spyglass_lab::validate::finding::{Finding, Rule, Severity};
use spyglass_lab::validate::{self, News, Options, Report};

use crate::watch::{StatusLine, print_line};

/// `spyglass lab …`
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Check a live HLS stream against the rules of RFC 8216bis
    Validate(Validate),
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
    /// Print one JSON object at the end instead of text
    #[arg(long)]
    json: bool,
}

/// Runs a measurement.
pub async fn run(command: Command, shutdown: Shutdown) -> anyhow::Result<()> {
    match command {
        Command::Validate(args) => validate(args, shutdown).await,
    }
}

async fn validate(args: Validate, shutdown: Shutdown) -> anyhow::Result<()> {
    let Ok(length) = Duration::try_from_secs_f64(args.seconds) else {
        bail!("--for {}: give a number of seconds", args.seconds);
    };
    let urls = std::iter::once(args.url).chain(args.edges).collect();
    let mut line = (!args.json).then(StatusLine::new);
    let stop = async move { shutdown.requested().await };
    let report = validate::run(&Options { urls, length }, stop, |news| {
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
    if report.lists == 0 {
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
