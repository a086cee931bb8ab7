//! What several controls say, taken together.
//!
//! They share one store and follow it, each a little late. So what one of them
//! does not know yet, or no longer, must not be undone by it: keys and nodes
//! are the union of what the attached controls said last. A control that has
//! just started and knows few nodes takes nothing away; what a control said is
//! dropped with its stream, unless nobody else is there.
//!
//! Pure: what the node does with it is `link.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use spyglass_api::control::{Keys, Node};

use super::LinkId;
use super::gateways::{Gateways, Named};

/// Nodes of one list that are kept: a message has no room for more.
const NODES: usize = 4_096;

/// See the module.
#[derive(Debug, Default)]
pub struct Heard {
    /// Counts what was said; the larger is the newer.
    turn: u64,
    keys: BTreeMap<LinkId, (u64, Keys)>,
    nodes: BTreeMap<LinkId, (u64, Vec<Node>)>,
    draining: Option<bool>,
    /// Which has an order of its own.
    pub gateways: Named,
}

/// What holds when a control's words are gone.
#[derive(Debug, Default, PartialEq)]
pub struct Left {
    /// Keys.
    pub keys: Option<Keys>,
    /// Nodes.
    pub nodes: Option<Arc<[Node]>>,
    /// Gateways.
    pub gateways: Option<Arc<Gateways>>,
}

impl Heard {
    /// A control sent its keys; those that verify now.
    pub fn on_keys(&mut self, link: LinkId, mut keys: Keys) -> Keys {
        self.turn += 1;
        keys.keys.truncate(spyglass_token::MAX_KEYS);
        keys.revoked.truncate(spyglass_token::MAX_KEYS);
        self.keys.insert(link, (self.turn, keys));
        self.keys().unwrap_or_default()
    }

    /// A control sent its list of nodes; the list that holds now.
    pub fn on_nodes(&mut self, link: LinkId, mut nodes: Vec<Node>) -> Arc<[Node]> {
        self.turn += 1;
        nodes.truncate(NODES);
        self.nodes.insert(link, (self.turn, nodes));
        self.nodes().unwrap_or_default()
    }

    /// A control says whether arrivals come here; `None` when that is no news.
    pub fn on_drain(&mut self, draining: bool) -> Option<bool> {
        (self.draining.replace(draining) != Some(draining)).then_some(draining)
    }

    /// A stream is over; what holds now, `None` where nobody else said
    /// anything: then the last words go on.
    pub fn on_gone(&mut self, link: LinkId) -> Left {
        Left {
            keys: self.keys.remove(&link).and_then(|_| self.keys()),
            nodes: self.nodes.remove(&link).and_then(|_| self.nodes()),
            gateways: self.gateways.on_gone(link),
        }
    }

    /// Those of the store that was named last; other stores are lost ones.
    fn keys(&self) -> Option<Keys> {
        let newest_first = newest_first(&self.keys);
        let mut all = Keys::clone(newest_first.first()?);
        for said in newest_first.iter().skip(1).filter(|said| said.store == all.store) {
            let unknown: Vec<_> = said
                .keys
                .iter()
                .filter(|key| all.keys.iter().all(|held| held.id != key.id))
                .cloned()
                .collect();
            all.keys.extend(unknown);
            all.revision = all.revision.max(said.revision);
        }
        // Whoever has heard that a key is revoked is right.
        for said in newest_first.iter().skip(1) {
            let news = said.revoked.iter().filter(|id| !all.revoked.contains(id));
            let news: Vec<String> = news.cloned().collect();
            all.revoked.extend(news);
        }
        all.keys.retain(|key| !all.revoked.contains(&key.id));
        Some(all)
    }

    /// Of each node, what was said last.
    fn nodes(&self) -> Option<Arc<[Node]>> {
        let newest_first = newest_first(&self.nodes);
        newest_first.first()?;
        let mut all: BTreeMap<&str, &Node> = BTreeMap::new();
        for node in newest_first.into_iter().flatten() {
            all.entry(&node.id).or_insert(node);
        }
        Some(all.into_values().cloned().collect())
    }
}

fn newest_first<T>(said: &BTreeMap<LinkId, (u64, T)>) -> Vec<&T> {
    let mut all: Vec<_> = said.values().collect();
    all.sort_by_key(|(turn, _)| std::cmp::Reverse(*turn));
    all.into_iter().map(|(_, said)| said).collect()
}

#[cfg(test)]
mod tests {
    use spyglass_api::control::Key;

    use super::*;

    fn node(id: &str, grpc: &str) -> Node {
        Node { id: id.into(), grpc: grpc.into(), ..Node::default() }
    }

    fn keys(store: &str, ids: &[&str]) -> Keys {
        let key = |id: &&str| Key { id: (*id).into(), ..Key::default() };
        Keys { store: store.into(), keys: ids.iter().map(key).collect(), ..Keys::default() }
    }

    fn ids(keys: &Keys) -> Vec<&str> {
        keys.keys.iter().map(|key| key.id.as_str()).collect()
    }

    fn names(nodes: &[Node]) -> Vec<(&str, &str)> {
        nodes.iter().map(|node| (node.id.as_str(), node.grpc.as_str())).collect()
    }

    #[test]
    fn a_control_that_knows_few_nodes_takes_none_away() {
        let mut heard = Heard::default();
        heard.on_nodes(1, vec![node("b", "b1"), node("a", "a1")]);
        let both = heard.on_nodes(2, vec![node("a", "a2")]);
        assert_eq!(names(&both), [("a", "a2"), ("b", "b1")]);
        assert_eq!(names(&heard.on_nodes(1, vec![node("a", "a3")])), [("a", "a3")]);
        // What one of two said goes with it; the last one's words stay.
        heard.on_nodes(1, vec![node("c", "c1")]);
        let left = heard.on_gone(1).nodes;
        assert_eq!(names(&left.unwrap()), [("a", "a2")]);
        assert_eq!(heard.on_gone(2), Left::default());
        assert_eq!(heard.on_gone(3), Left::default());
    }

    #[test]
    fn keys_of_one_store_are_joined() {
        let mut heard = Heard::default();
        heard.on_keys(1, keys("s", &["old", "new"]));
        // The second has not heard of the new key; nobody is refused for that.
        assert_eq!(ids(&heard.on_keys(2, keys("s", &["old"]))), ["old", "new"]);
        // The old one is dropped once both have followed.
        assert_eq!(ids(&heard.on_keys(1, keys("s", &["new"]))), ["new", "old"]);
        assert_eq!(ids(&heard.on_keys(2, keys("s", &["new"]))), ["new"]);
        // Another store: a lost one's keys are not its own.
        let other = heard.on_keys(2, keys("t", &["x"]));
        assert_eq!((other.store.as_str(), ids(&other)), ("t", vec!["x"]));
        let left = heard.on_gone(2).keys;
        assert_eq!(left.map(|keys| keys.store), Some("s".into()));
    }

    #[test]
    fn one_that_has_heard_of_a_revocation_is_enough() {
        let mut heard = Heard::default();
        let revoked = vec!["stolen".to_owned()];
        heard.on_keys(1, Keys { revision: 9, revoked, ..keys("s", &["new"]) });
        let late = Keys { revision: 7, ..keys("s", &["stolen"]) };
        let all = heard.on_keys(2, late);
        assert_eq!((ids(&all), all.revision), (vec!["new"], 9));
        assert_eq!(all.revoked, ["stolen"]);
    }

    #[test]
    fn a_drain_is_told_once() {
        let mut heard = Heard::default();
        let told = [false, false, true, true, false].map(|draining| heard.on_drain(draining));
        assert_eq!(told, [Some(false), None, Some(true), None, Some(false)]);
    }
}
