//! The other controls over the same store.
//!
//! Each says every second, to whoever listens, who it is, where it can be
//! reached and which nodes it hears; who says nothing for [`SILENCE`] is gone.
//! Nodes are told, and attach to all of them. What one control alone does not
//! hear of is not lost while another hears of it.
//!
//! Pure: time is passed in. Speaking and listening is `presence.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use spyglass_media::NodeId;

/// A control that says nothing for this long is gone.
pub const SILENCE: Duration = Duration::from_secs(5);

/// Controls that are listened to at most.
const MOST: usize = 16;

/// Longest text of a presence.
const LONGEST: usize = 512;

/// What a control says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Presence {
    /// Names the process; differs after each start of it.
    pub id: String,
    /// For people.
    pub name: String,
    /// For nodes; empty when nobody else could reach it.
    pub grpc: String,
    /// For people.
    pub http: String,
    /// The nodes it hears.
    pub nodes: BTreeSet<NodeId>,
    /// It stops now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Peers(BTreeMap<String, (Instant, Presence)>);

impl Peers {
    /// A control other than this one speaks. True when nodes must be told of
    /// it, or not any more.
    pub fn on_presence(&mut self, presence: Presence, now: Instant) -> bool {
        let texts = [&presence.id, &presence.name, &presence.grpc, &presence.http];
        if presence.id.is_empty() || texts.iter().any(|text| text.len() > LONGEST) {
            return false;
        }
        if presence.leaving {
            return self.0.remove(&presence.id).is_some();
        }
        if self.0.len() >= MOST && !self.0.contains_key(&presence.id) {
            return false;
        }
        let grpc = presence.grpc.clone();
        let before = self.0.insert(presence.id.clone(), (now, presence));
        before.is_none_or(|(_, before)| before.grpc != grpc)
    }

    /// Forgets who has been silent for too long. True when there was any.
    pub fn on_deadline(&mut self, now: Instant) -> bool {
        let before = self.0.len();
        self.0.retain(|_, (heard, _)| now < *heard + SILENCE);
        self.0.len() != before
    }

    /// Where nodes find them.
    pub fn addresses(&self) -> Vec<String> {
        let addresses = self.0.values().map(|(_, presence)| &presence.grpc);
        addresses.filter(|grpc| !grpc.is_empty()).cloned().collect()
    }

    /// Whether one of them hears this node.
    pub fn hear(&self, node: &NodeId) -> bool {
        self.0.values().any(|(_, presence)| presence.nodes.contains(node))
    }

    /// Whether this control is alone.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every one of them.
    pub fn all(&self) -> impl Iterator<Item = &Presence> {
        self.0.values().map(|(_, presence)| presence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(id: &str, grpc: &str) -> Presence {
        let nodes = ["edge-1".parse().unwrap()].into();
        Presence { id: id.into(), grpc: grpc.into(), nodes, ..Presence::default() }
    }

    #[test]
    fn a_control_is_there_while_it_speaks() {
        let start = Instant::now();
        let mut peers = Peers::default();
        assert!(peers.on_presence(presence("a", "http://a:1"), start));
        assert!(!peers.on_presence(presence("a", "http://a:1"), start + SILENCE / 2));
        assert!(peers.on_presence(presence("b", ""), start));
        assert_eq!(peers.addresses(), ["http://a:1"], "nobody can reach the other");
        assert!(peers.hear(&"edge-1".parse().unwrap()));
        assert!(!peers.hear(&"edge-2".parse().unwrap()));
        assert!(peers.on_deadline(start + SILENCE));
        assert_eq!(peers.all().count(), 1);
        let leaving = Presence { leaving: true, ..presence("a", "http://a:1") };
        assert!(peers.on_presence(leaving.clone(), start));
        assert!(!peers.on_presence(leaving, start));
        assert!(!peers.hear(&"edge-1".parse().unwrap()));
    }

    #[test]
    fn there_is_a_limit() {
        let mut peers = Peers::default();
        for n in 0..100 {
            peers.on_presence(presence(&format!("c{n}"), "http://c:1"), Instant::now());
        }
        peers.on_presence(presence(&"x".repeat(LONGEST + 1), ""), Instant::now());
        assert_eq!(peers.all().count(), MOST);
    }
}
