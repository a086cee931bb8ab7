//! Spyglass: a live-streaming CDN in one binary. This file says what the
//! commands are; what they do is in the crates they name.

mod args;
mod ctl;
mod lab;
mod publish;
mod ready;
mod service;
mod up;
mod watch;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{FromArgMatches as _, Parser, Subcommand};
use spyglass_daemon::{Shutdown, log};

/// glibc's gathers what was freed when somebody asks for much, and everybody
/// waits meanwhile: 0.3 ms of the answers to 1,000 viewers (`docs/benchmarks.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A live-streaming CDN: RTMP in, frames pushed to the first viewers, HLS to all others
#[derive(Parser, Debug)]
#[command(name = "spyglass", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// The whole system on one machine
    Up(up::Args),
    /// Tokens, seats, places, the public list
    Control(service::ControlArgs),
    /// RTMP in, frames and chunks out
    Origin(service::OriginArgs),
    /// A cache of chunks near viewers
    Edge(service::EdgeArgs),
    /// Comments and hearts (not part of this release yet)
    #[command(hide = true)]
    Messages(service::MessagesArgs),
    /// Broadcast a file in real time
    Publish(publish::Args),
    /// Watch without a screen, and measure
    Watch(watch::Args),
    /// The operator's tool
    Ctl(ctl::Args),
    /// Measurements
    #[command(subcommand)]
    Lab(lab::Command),
}

#[tokio::main]
async fn main() -> ExitCode {
    let matches = with_plain_usage(command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(cli.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "spyglass: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// The command line, for who must know all of its flags.
fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Usage as --help shows it, also where something is wrong: clap would list what
/// was given, from the environment too, as if the operator's key had to be.
fn with_plain_usage(mut command: clap::Command) -> clap::Command {
    fn fix(command: &mut clap::Command) {
        for below in command.get_subcommands_mut() {
            fix(below);
            let usage = below.render_usage().to_string();
            let usage = usage.trim_start_matches("Usage: ").to_owned();
            *below = std::mem::take(below).override_usage(usage);
        }
    }
    command.build();
    fix(&mut command);
    command
}

/// Every viewer is an open file; the usual soft limit of 1,024 is for programs
/// that use `select`. A system that refuses leaves it as it is.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    raise_file_limit();
    let shutdown = Shutdown::new();
    match command {
        Command::Up(args) => up::run(args, shutdown).await,
        Command::Control(args) => service::control(args, shutdown).await,
        Command::Origin(args) => service::origin(args, shutdown).await,
        Command::Edge(args) => service::edge(args, shutdown).await,
        Command::Messages(args) => service::messages(&args),
        Command::Publish(args) => {
            log::init(None);
            shutdown.on_signals()?;
            publish::run(args, shutdown).await
        }
        Command::Watch(args) => {
            log::init_tool();
            shutdown.on_signals()?;
            watch::run(args, shutdown).await
        }
        Command::Ctl(args) => {
            log::init_tool();
            shutdown.on_signals()?;
            ctl::run(args, shutdown).await
        }
        Command::Lab(command) => {
            log::init(None);
            shutdown.on_signals()?;
            lab::run(command, shutdown).await
        }
    }
}

/// The error and its causes on one line; a cause that its effect has already
/// told is left out.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.contains(&text) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&text);
    }
    line
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_error_is_one_line_without_repetition() {
        let io = std::io::Error::other("disk\n on fire");
        let told = anyhow::Error::new(io).context("state: disk on fire").context("origin");
        assert_eq!(one_line(&told), "origin: state: disk on fire");
        let chain = Err::<(), _>(anyhow::anyhow!("refused")).context("control").unwrap_err();
        assert_eq!(one_line(&chain), "control: refused");
    }
}
