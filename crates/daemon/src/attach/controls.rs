//! Which controls this node keeps a stream to: those that the operator named,
//! and those that these name.
//!
//! A learned one is forgotten when no attached control names it and it has not
//! been reached for a minute. Pure: time is passed in; the streams are
//! `links.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::LinkId;

/// Controls learned at most.
const LEARNED: usize = 16;

/// Longest address that is learned.
const LONGEST: usize = 512;

/// How long a learned control that nobody names any more is tried.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub struct Controls {
    configured: Vec<String>,
    /// Since when each cannot be reached; `None` while it can.
    learned: BTreeMap<String, Option<Instant>>,
    /// What each attached control names.
    named: HashMap<LinkId, BTreeSet<String>>,
}

impl Controls {
    /// The operator's, and those of the state, which have a minute to answer.
    pub fn new(configured: Vec<String>, saved: Vec<String>, now: Instant) -> Self {
        let configured = configured.iter().map(|url| tidy(url)).collect();
        let mut controls = Self { configured, ..Self::default() };
        for url in saved {
            controls.learn(&url, Some(now));
        }
        controls
    }

    /// Every address to keep a stream to, each once.
    pub fn wanted(&self) -> BTreeSet<String> {
        self.configured.iter().chain(self.learned.keys()).cloned().collect()
    }

    /// For the state.
    pub fn learned(&self) -> Vec<String> {
        self.learned.keys().cloned().collect()
    }

    /// An attached control names the others. True when one is new.
    pub fn on_named(&mut self, link: LinkId, urls: &[String]) -> bool {
        let urls: BTreeSet<String> = urls.iter().take(LEARNED).map(|url| tidy(url)).collect();
        let before = self.learned.len();
        for url in &urls {
            self.learn(url, None);
        }
        self.named.insert(link, urls);
        self.learned.len() != before
    }

    fn learn(&mut self, url: &str, away: Option<Instant>) {
        let known = self.learned.contains_key(url) || self.configured.iter().any(|own| own == url);
        if !known && self.learned.len() < LEARNED && is_address(url) {
            self.learned.insert(url.to_owned(), away);
        }
    }

    /// A control's stream is over.
    pub fn on_gone(&mut self, link: LinkId) {
        self.named.remove(&link);
    }

    /// A control answered.
    pub fn on_reached(&mut self, url: &str) {
        if let Some(away) = self.learned.get_mut(url) {
            *away = None;
        }
    }

    /// A control did not answer, or its stream ended.
    pub fn on_away(&mut self, url: &str, now: Instant) {
        if let Some(away) = self.learned.get_mut(url) {
            away.get_or_insert(now);
        }
    }

    /// Forgets those that are gone for good. True when there were any.
    pub fn on_deadline(&mut self, now: Instant) -> bool {
        let before = self.learned.len();
        let named = &self.named;
        self.learned.retain(|url, away| {
            named.values().any(|urls| urls.contains(url))
                || away.is_none_or(|since| now < since + PATIENCE)
        });
        self.learned.len() != before
    }
}

/// One spelling for what is obviously the same.
fn tidy(url: &str) -> String {
    url.trim().trim_end_matches('/').to_ascii_lowercase()
}

fn is_address(url: &str) -> bool {
    let parsed = url.parse::<http::Uri>().ok();
    url.len() <= LONGEST
        && parsed.is_some_and(|uri| {
            uri.scheme_str() == Some("http") && uri.authority().is_some() && uri.path() == "/"
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(urls: &[&str]) -> Vec<String> {
        urls.iter().map(|&url| url.to_owned()).collect()
    }

    #[test]
    fn named_controls_are_learned_once_and_within_a_limit() {
        let now = Instant::now();
        let mut controls = Controls::new(urls(&["http://A:1/"]), Vec::new(), now);
        assert!(controls.on_named(1, &urls(&["http://a:1", "http://b:1", "http://B:1/"])));
        assert!(!controls.on_named(2, &urls(&["http://b:1", "b:1", "ftp://b:1", "http://b:1/p"])));
        assert_eq!(Vec::from_iter(controls.wanted()), ["http://a:1", "http://b:1"]);
        let many: Vec<String> = (0..100).map(|n| format!("http://c{n}:1")).collect();
        for chunk in many.chunks(10) {
            controls.on_named(3, chunk);
        }
        assert_eq!(controls.learned().len(), LEARNED);
    }

    #[test]
    fn who_is_named_no_more_and_away_for_a_minute_is_forgotten() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut controls =
            Controls::new(urls(&["http://a:1"]), urls(&["http://s:1", "nonsense"]), start);
        assert_eq!(controls.learned(), ["http://s:1"]);
        controls.on_named(1, &urls(&["http://b:1"]));
        controls.on_away("http://b:1", at(0));
        controls.on_away("http://a:1", at(0));
        assert!(!controls.on_deadline(at(59)));
        assert!(controls.on_deadline(at(60)), "nobody ever named it again");
        assert_eq!(controls.learned(), ["http://b:1"], "this one is still named");
        controls.on_gone(1);
        controls.on_reached("http://b:1");
        assert!(!controls.on_deadline(at(500)), "it answers");
        controls.on_away("http://b:1", at(500));
        controls.on_away("http://b:1", at(550));
        assert!(!controls.on_deadline(at(559)));
        assert!(controls.on_deadline(at(560)));
        assert_eq!(Vec::from_iter(controls.wanted()), ["http://a:1"]);
    }
}
