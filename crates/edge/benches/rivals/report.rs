//! Numbers of several rounds, and tables of them in Markdown.

/// The same thing measured several times.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<f64>);

impl Series {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Round by round, this to `other`.
    pub fn ratio(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| one / other).collect())
    }

    fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
            .get(((sorted.len().max(1) - 1) as f64 * share).round() as usize)
            .copied()
            .unwrap_or(f64::NAN)
    }

    /// The median, and the least and greatest when there are more.
    pub fn show(&self, digits: usize) -> String {
        let median = self.at(0.5);
        match self.0.len() {
            0 => "-".to_owned(),
            1 => format!("{median:.digits$}"),
            _ => format!(
                "{median:.digits$} ({:.digits$} to {:.digits$})",
                self.at(0.0),
                self.at(1.0)
            ),
        }
    }
}

/// The value below which this share of sorted delays lies, in ms.
pub fn quantile(sorted: &[std::time::Duration], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map_or(f64::NAN, |delay| delay.as_secs_f64() * 1e3)
}

/// A table under a heading.
pub struct Table {
    text: String,
}

impl Table {
    pub fn new(title: &str, how: &str, columns: &[&str]) -> Self {
        let rule = columns.iter().enumerate().map(|(i, _)| if i == 0 { "---" } else { "---:" });
        let rule: Vec<_> = rule.collect();
        let (columns, rule) = (columns.join(" | "), rule.join(" | "));
        Self { text: format!("## {title}\n\n{how}\n\n| {columns} |\n| {rule} |\n") }
    }

    pub fn row(&mut self, cells: &[String]) {
        self.text += &format!("| {} |\n", cells.join(" | "));
    }

    pub fn text(&self) -> String {
        format!("{}\n", self.text)
    }
}
