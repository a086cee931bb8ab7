//! Tables for people: columns as wide as they need to be, numbers to the
//! right, colours that mean something where there may be colours. Pure.

use serde_json::{Map, Value};

use super::words::{cell, plain};

/// How it is to look.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// On a terminal whose user wants them.
    pub colours: bool,
    /// In milliseconds since the Unix epoch.
    pub now_ms: i64,
}

/// What a cell means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// Over, or less important.
    Faint,
}

impl Tone {
    /// Of a state's word, of whatever has states here.
    pub fn of_state(state: &str) -> Self {
        match state {
            "up" | "live" | "signing" | "active" => Self::Good,
            "draining" | "interrupted" | "waiting" | "verifying" => Self::Warn,
            "lost" | "revoked" | "failed" | "disabled" => Self::Bad,
            "ended" | "created" => Self::Faint,
            _ => Self::Plain,
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Faint => "2",
        }
    }
}

/// One cell.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl Cell {
    /// Text that is clean already (see [`super::words`]).
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// A value as control said it.
    pub fn of(value: &Value) -> Self {
        Self { text: cell(value), tone: Tone::Plain, right: value.is_number() }
    }

    /// A state, in its colour.
    pub fn state(value: &Value) -> Self {
        let text = cell(value);
        Self { tone: Tone::of_state(&text), text, right: false }
    }

    /// To the right, as numbers stand.
    pub fn right(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: Tone::Plain, right: true }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }

    fn padded(&self, width: usize, colours: bool) -> String {
        let gap = " ".repeat(width.saturating_sub(self.width()));
        let text = match self.tone.code() {
            code if colours && !code.is_empty() => format!("\u{1b}[{code}m{}\u{1b}[0m", self.text),
            _ => self.text.clone(),
        };
        if self.right { gap + &text } else { text + &gap }
    }
}

/// Rows under headings. A column in which nothing stands is left out.
pub fn rows(view: View, headings: &[&str], rows: &[Vec<Cell>]) -> String {
    let empty = |at: usize| {
        rows.iter().all(|row| row.get(at).is_none_or(|cell| matches!(&*cell.text, "" | "-")))
    };
    let shown: Vec<usize> = (0..headings.len()).filter(|&at| !empty(at)).collect();
    let widths: Vec<usize> = shown
        .iter()
        .map(|&at| {
            let cells = rows.iter().filter_map(|row| row.get(at)).map(Cell::width);
            cells.max().unwrap_or_default().max(headings[at].chars().count())
        })
        .collect();
    let line = |cells: Vec<Cell>| {
        let cells: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| cell.padded(width, view.colours))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    let right = |at: usize| rows.first().and_then(|row| row.get(at)).is_some_and(|c| c.right);
    let heading =
        |&at: &usize| Cell { text: headings[at].to_owned(), tone: Tone::Faint, right: right(at) };
    let mut lines = vec![line(shown.iter().map(heading).collect())];
    for row in rows {
        let cells = shown.iter().map(|&at| row.get(at).cloned().unwrap_or_default());
        lines.push(line(cells.collect()));
    }
    lines.join("\n")
}

/// A line for each pair; what is not known is left out.
pub fn pairs(view: View, pairs: &[(&str, Cell)]) -> String {
    let pairs: Vec<_> = pairs.iter().filter(|(_, cell)| !matches!(&*cell.text, "" | "-")).collect();
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let line = |(name, cell): &&(&str, Cell)| {
        let name = Cell { text: (*name).to_owned(), tone: Tone::Faint, right: false };
        format!("{}  {}", name.padded(width, view.colours), cell.padded(0, view.colours))
    };
    pairs.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The entries of a list, whether it stands alone or under `key`.
pub fn entries<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.as_array().or_else(|| value.get(key)?.as_array()).map_or(&[], Vec::as_slice)
}

/// One row for each entry of a list of which only this is known: these columns
/// first, then whatever else the entries have.
pub fn of_entries(view: View, entries: &[Value], first: &[&str]) -> String {
    let mut names: Vec<String> = first.iter().map(|name| (*name).to_owned()).collect();
    for name in entries.iter().filter_map(Value::as_object).flat_map(Map::keys) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let headings: Vec<String> =
        names.iter().map(|name| plain(&name.replace('_', " ")).to_uppercase()).collect();
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let table: Vec<Vec<Cell>> = entries
        .iter()
        .map(|entry| names.iter().map(|name| told(view, entry, name)).collect())
        .collect();
    rows(view, &headings, &table)
}

/// A value whose name says how it is best told.
fn told(view: View, entry: &Value, name: &str) -> Cell {
    let value = &entry[name];
    match name {
        "state" => Cell::state(value),
        "at" | "since" | "until" | "not_before" => Cell::new(super::words::ago(value, view.now_ms)),
        name if name.ends_with("_at") => Cell::new(super::words::ago(value, view.now_ms)),
        _ => Cell::of(value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PLAIN: View = View { colours: false, now_ms: 0 };

    #[test]
    fn columns_that_nobody_has_are_left_out() {
        let nodes = json!({"nodes": [
            {"id": "origin-1", "n": 1, "location": {"lat": 1.5, "lon": 2}, "x": null},
            {"id": "e", "n": 12, "z": "1970-01-01T00:00:00Z"},
        ]});
        let table = of_entries(PLAIN, entries(&nodes, "nodes"), &["id", "location", "x"]);
        assert_eq!(
            table,
            "ID        LOCATION        N  Z\n\
             origin-1  lat=1.5 lon=2   1  -\n\
             e         -              12  1970-01-01T00:00:00Z"
        );
        assert_eq!(entries(&json!([1, 2]), "nodes").len(), 2);
        assert!(entries(&json!(7), "nodes").is_empty());
    }

    #[test]
    fn colours_change_no_width() {
        let row = |state: &str| vec![Cell::state(&json!(state)), Cell::new("x")];
        let table = [row("up"), row("draining")];
        let plain = rows(PLAIN, &["STATE", "Y"], &table);
        let coloured = rows(View { colours: true, ..PLAIN }, &["STATE", "Y"], &table);
        assert!(!plain.contains('\u{1b}') && coloured.contains("\u{1b}[32mup\u{1b}[0m"));
        let mut stripped = coloured;
        for code in ["\u{1b}[32m", "\u{1b}[33m", "\u{1b}[2m", "\u{1b}[0m"] {
            stripped = stripped.replace(code, "");
        }
        let lines = |text: &str| -> Vec<String> {
            text.lines().map(|line| line.trim_end().to_owned()).collect()
        };
        assert_eq!(lines(&stripped), lines(&plain));
    }

    #[test]
    fn pairs_leave_out_what_is_not_known() {
        let shown = pairs(PLAIN, &[("id", Cell::new("x")), ("ended", Cell::of(&Value::Null))]);
        assert_eq!(shown, "id  x");
    }
}
