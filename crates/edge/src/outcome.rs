//! How a request was answered: the words of Cache-Status, of the metric and of
//! the tests.

use http::HeaderValue;
use spyglass_media::NodeId;

/// Where an answer came from (RFC 9211).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheStatus {
    /// From memory.
    Hit,
    /// Fetched for this request.
    Miss,
    /// Fetched for another request that came first.
    MissCollapsed,
    /// Fetched for this request, because what was held had become old.
    Stale,
    /// … for another request that came first.
    StaleCollapsed,
    /// The upstream did not answer: what was held, with its true age.
    Unreachable,
    /// A refusal made here.
    Negative,
    /// Made here and now, of nothing that is cached: neither a hit nor
    /// forwarded (RFC 9211 section 2 lets such an answer claim nothing).
    Local,
}

impl CacheStatus {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Hit,
        Self::Miss,
        Self::MissCollapsed,
        Self::Stale,
        Self::StaleCollapsed,
        Self::Unreachable,
        Self::Negative,
        Self::Local,
    ];

    /// The metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::MissCollapsed => "miss_collapsed",
            Self::Stale => "stale",
            Self::StaleCollapsed => "stale_collapsed",
            Self::Unreachable => "unreachable",
            Self::Negative => "negative",
            Self::Local => "local",
        }
    }

    /// What follows the cache's name in Cache-Status.
    pub const fn parameters(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "fwd=miss",
            Self::MissCollapsed => "fwd=miss; collapsed",
            Self::Stale => "fwd=stale",
            Self::StaleCollapsed => "fwd=stale; collapsed",
            Self::Unreachable => "fwd=stale; detail=unreachable",
            Self::Negative => "hit; detail=negative",
            Self::Local => "detail=local",
        }
    }

    /// A forwarded request, by whether anything was held and who fetched.
    pub const fn forwarded(held: bool, collapsed: bool) -> Self {
        match (held, collapsed) {
            (false, false) => Self::Miss,
            (false, true) => Self::MissCollapsed,
            (true, false) => Self::Stale,
            (true, true) => Self::StaleCollapsed,
        }
    }
}

/// The Cache-Status values of one edge.
#[derive(Clone, Debug)]
pub struct CacheStatusValues([HeaderValue; CacheStatus::ALL.len()]);

impl CacheStatusValues {
    /// For the edge of this name. A node id is `[a-z0-9-]`; the quotes keep
    /// one that begins with a digit a valid item (RFC 8941 section 3.3).
    pub fn new(node: &NodeId) -> Self {
        let token = node.as_str().starts_with(|first: char| first.is_ascii_lowercase());
        let name = if token { node.to_string() } else { format!("\"{node}\"") };
        Self(CacheStatus::ALL.map(|status| {
            let value = format!("{name}; {}", status.parameters());
            value.parse().unwrap_or_else(|_| HeaderValue::from_static(status.parameters()))
        }))
    }

    /// The value for an answer.
    pub fn get(&self, status: CacheStatus) -> HeaderValue {
        self.0[status as usize].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_name_the_edge() {
        let values = CacheStatusValues::new(&"edge-1".parse().unwrap());
        assert_eq!(values.get(CacheStatus::Hit), "edge-1; hit");
        assert_eq!(values.get(CacheStatus::StaleCollapsed), "edge-1; fwd=stale; collapsed");
        assert_eq!(values.get(CacheStatus::Negative), "edge-1; hit; detail=negative");
        assert_eq!(values.get(CacheStatus::Local), "edge-1; detail=local");
        let values = CacheStatusValues::new(&"1".parse().unwrap());
        assert_eq!(values.get(CacheStatus::Miss), "\"1\"; fwd=miss");
    }
}
