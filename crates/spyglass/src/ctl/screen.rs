//! Where answers go: once, or again and again in place.

use std::io::{IsTerminal as _, stdout};

use anyhow::Context as _;
use serde_json::Value;
use spyglass_daemon::now_utc;

use super::table::View;
use crate::watch::print_line;

/// To the top left, and clear what is below.
const HOME: &str = "\u{1b}[H\u{1b}[J";

/// Standard output and what it can do.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    json: bool,
    terminal: bool,
    colours: bool,
}

impl Screen {
    /// Of this process; colours only where somebody looks and did not object
    /// (<https://no-color.org>).
    pub fn new(json: bool) -> Self {
        let terminal = stdout().is_terminal();
        let objected = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { json, terminal: terminal && !dumb, colours: terminal && !dumb && !objected }
    }

    /// How a table looks now.
    pub fn view(self) -> View {
        View { colours: self.colours, now_ms: now_utc().millis() }
    }

    /// Writes one answer.
    pub fn show(self, answer: &Value, table: impl Fn(View) -> String) -> anyhow::Result<()> {
        print_line(&if self.json { pretty(answer)? } else { table(self.view()) });
        Ok(())
    }

    /// Writes one of many answers: in place of the one before where that can
    /// be done; for scripts one line each.
    pub fn redraw(self, answer: &Value, table: impl Fn(View) -> String) {
        if self.json {
            return print_line(&escaped(&answer.to_string()));
        }
        let home = if self.terminal { HOME } else { "" };
        print_line(&format!("{home}{}", table(self.view())));
    }

    /// One line of something that goes on; not for scripts.
    pub fn tell(self, line: &str) {
        if !self.json {
            print_line(line);
        }
    }

    /// One entry of something that goes on, as a line of JSON or of text.
    pub fn entry(self, entry: &Value, line: impl Fn(View) -> String) {
        print_line(&if self.json { escaped(&entry.to_string()) } else { line(self.view()) });
    }
}

fn pretty(answer: &Value) -> anyhow::Result<String> {
    Ok(escaped(&serde_json::to_string_pretty(answer).context("control's answer")?))
}

/// JSON may hold control characters above U+007E as they are; some terminals
/// obey those. The same JSON, without.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if matches!(c, '\u{7f}'..='\u{9f}') {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_the_same_and_steers_nothing() {
        let value = json!({"title": "a\u{1b}[2J\u{9b}1m\u{7f}é"});
        let text = pretty(&value).unwrap();
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
