//! Structured logs on standard error.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// What is logged without `RUST_LOG`. The NATS client tells every attempt to
/// connect; whether NATS is there, and what to do, the store says itself.
/// `h2` warns of each peer that overdoes it, and closes: anybody may cause that,
/// and nobody can do anything about it.
const LEVELS: &str = "info,async_nats=warn,h2=error";

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Neither `text` nor `json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a log format is text or json")]
pub struct NoFormat;

impl FromStr for Format {
    type Err = NoFormat;

    fn from_str(text: &str) -> Result<Self, NoFormat> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(NoFormat),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Starts logging; a second call in the same process changes nothing. Without
/// a format: text on a terminal, else JSON. `RUST_LOG` sets the level, `info`
/// when absent.
pub fn init(format: Option<Format>) {
    start(format, LEVELS);
}

/// For a tool, whose output is for people: text, and only what is wrong unless
/// `RUST_LOG` says otherwise.
pub fn init_tool() {
    start(Some(Format::Text), "warn");
}

fn start(format: Option<Format>, levels: &str) {
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { Format::Text } else { Format::Json });
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(levels));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false)
        .with_writer(|| Stderr);
    // The error means that somebody has already started it.
    let _ = match format {
        Format::Text => lines.with_ansi(terminal).with_target(false).try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    };
}

/// Standard error, for as long as somebody reads it. When whoever did is gone
/// the lines are lost and the service is not.
struct Stderr;

impl io::Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_read_as_it_is_written() {
        for format in [Format::Text, Format::Json] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert_eq!("xml".parse::<Format>(), Err(NoFormat));
    }

    #[test]
    fn starting_twice_is_fine() {
        init(Some(Format::Json));
        init(Some(Format::Text));
    }
}
