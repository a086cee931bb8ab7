//! Through which edge each broadcast is fetched, as controls name it.
//!
//! Every control names for itself, a little later or earlier than the others,
//! and after a restart it may name anew. All edges must go by the same one, or
//! a broadcast would have two gateways: the attached control whose id is the
//! smallest. When it goes, the next one's words hold; when all are gone, the
//! last ones do.
//!
//! Pure: what the node does with it is `link.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use spyglass_api::control;
use spyglass_api::convert;
use spyglass_media::{BroadcastId, NodeId};

use super::LinkId;

/// The edge through which each of these broadcasts is fetched; others come from
/// their origin.
pub type Gateways = BTreeMap<BroadcastId, NodeId>;

/// Broadcasts of one control that are kept.
const MOST: usize = 100_000;

#[derive(Debug)]
struct Said {
    control: String,
    gateways: Arc<Gateways>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Named(BTreeMap<LinkId, Said>);

impl Named {
    /// A control, which calls itself so, names gateways; those that hold now.
    pub fn on_named(
        &mut self,
        link: LinkId,
        control: &str,
        named: control::Gateways,
    ) -> Option<Arc<Gateways>> {
        let new = || Said { control: control.to_owned(), gateways: Arc::default() };
        let said = self.0.entry(link).or_insert_with(new);
        control.clone_into(&mut said.control);
        let gateways = Arc::make_mut(&mut said.gateways);
        if named.anew {
            gateways.clear();
        }
        for one in named.gateways {
            // A later release may name what this one cannot read: then none.
            let Ok(broadcast) = convert::broadcast(&one.broadcast) else { continue };
            match convert::node(&one.node) {
                Ok(node) if gateways.len() < MOST || gateways.contains_key(&broadcast) => {
                    gateways.insert(broadcast, node);
                }
                _ => {
                    gateways.remove(&broadcast);
                }
            }
        }
        self.holding()
    }

    /// A stream is over; the gateways that hold now, `None` where nobody else
    /// named any: then the last ones go on.
    pub fn on_gone(&mut self, link: LinkId) -> Option<Arc<Gateways>> {
        self.0.remove(&link)?;
        self.holding()
    }

    fn holding(&self) -> Option<Arc<Gateways>> {
        let leader = self.0.values().min_by(|a, b| a.control.cmp(&b.control));
        leader.map(|said| Arc::clone(&said.gateways))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(seed: u8) -> BroadcastId {
        BroadcastId::from_random([seed; 16])
    }

    fn naming(anew: bool, named: &[(u8, &str)]) -> control::Gateways {
        let gateway = |&(seed, node): &(u8, &str)| control::Gateway {
            broadcast: id(seed).to_string(),
            node: node.into(),
        };
        control::Gateways { anew, gateways: named.iter().map(gateway).collect() }
    }

    fn shown(gateways: Option<Arc<Gateways>>) -> Vec<(BroadcastId, String)> {
        let gateways = gateways.unwrap();
        gateways.iter().map(|(id, node)| (*id, node.to_string())).collect()
    }

    #[test]
    fn what_changes_is_told_and_the_rest_holds() {
        let mut named = Named::default();
        let mut both = vec![(id(1), "edge-1".to_owned()), (id(2), "edge-2".to_owned())];
        both.sort();
        let first = named.on_named(1, "c", naming(true, &[(1, "edge-1"), (2, "edge-2")]));
        assert_eq!(shown(first), both);
        let moved = named.on_named(1, "c", naming(false, &[(2, ""), (1, "edge-3")]));
        assert_eq!(shown(moved), [(id(1), "edge-3".to_owned())]);
        let anew = named.on_named(1, "c", naming(true, &[(2, "edge-1")]));
        assert_eq!(shown(anew), [(id(2), "edge-1".to_owned())]);
        assert!(named.on_gone(1).is_none(), "the last word holds");
    }

    #[test]
    fn of_two_controls_all_edges_follow_the_same() {
        let (mut one, mut other) = (Named::default(), Named::default());
        let (a, b) = (naming(true, &[(1, "edge-1")]), naming(true, &[(1, "edge-2")]));
        // In whichever order they are heard.
        one.on_named(1, "a", a.clone());
        let held = one.on_named(2, "b", b.clone());
        other.on_named(1, "b", b);
        assert_eq!(held, other.on_named(2, "a", a));
        assert_eq!(shown(held), [(id(1), "edge-1".to_owned())]);
        assert_eq!(shown(one.on_gone(1)), [(id(1), "edge-2".to_owned())]);
    }
}
