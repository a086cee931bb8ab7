//! One status line: rewritten in place on a terminal, repeated now and then
//! elsewhere.

use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

/// How often a line is written where it cannot be rewritten.
const EVERY: Duration = Duration::from_secs(5);

/// See the module's documentation.
pub struct StatusLine {
    terminal: bool,
    last: Option<Instant>,
    open: bool,
}

impl StatusLine {
    /// On standard output.
    pub fn new() -> Self {
        Self { terminal: stdout().is_terminal(), last: None, open: false }
    }

    /// Shows `text`, if it is time.
    pub fn show(&mut self, text: &str) {
        if self.terminal {
            // Back to the start, write, clear what is left of the old line.
            write(&format!("\r{text}\u{1b}[K"));
            self.open = true;
        } else if self.last.is_none_or(|last| last.elapsed() >= EVERY) {
            self.last = Some(Instant::now());
            write(&format!("{text}\n"));
        }
    }

    /// Writes lines that stay, and the status below them when it is next shown.
    pub fn above(&mut self, text: &str) {
        let clear = if self.open { "\r\u{1b}[K" } else { "" };
        write(&format!("{clear}{text}\n"));
        self.open = false;
    }
}

/// Leaves the last status standing.
impl Drop for StatusLine {
    fn drop(&mut self) {
        if self.open {
            write("\n");
        }
    }
}

/// A line on standard output. Whoever closed that end is not interested any
/// more; that is no reason to stop a broadcast.
pub fn print_line(text: &str) {
    write(&format!("{text}\n"));
}

fn write(text: &str) {
    let mut out = stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
