//! Through which edge each broadcast is fetched by all others.
//!
//! Candidates for a broadcast are the edges near its origin: those at most
//! [`COMPARABLE_KM`] farther from it than the nearest. Among them rendezvous
//! hashing chooses, so that each edge's share is spread over the others when it
//! goes, with bounded loads: none gets more than [`BOUND`] times its share of the
//! broadcasts that have the same candidates.
//!
//! What was named stays as long as it may: losing a candidate moves its
//! broadcasts and no other, and a new one takes only what others have too much
//! of. A gateway that changes costs a fetch of what is in its cache, so nothing
//! moves for the sake of a better hash.
//!
//! Pure. Who is up is [`crate::fleet`]; `upkeep` tells edges what changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use spyglass_media::{BroadcastId, Location, NodeId};

use crate::placement::{BOUND, COMPARABLE_KM};

/// An edge that other edges can fetch through: it is up, takes arrivals, and has
/// a gRPC listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its name.
    pub id: Arc<NodeId>,
    /// Where it stands, if it said so.
    pub location: Option<Location>,
}

/// The gateway of each broadcast that has one.
#[derive(Debug, Default)]
pub struct Gateways(BTreeMap<BroadcastId, Arc<NodeId>>);

/// A broadcast whose gateway is another one now; `None`: it has none any more.
pub type Change = (BroadcastId, Option<Arc<NodeId>>);

impl Gateways {
    /// These are the broadcasts, with where their origins stand, and these the
    /// candidates now; what changes. With one candidate there is nothing to
    /// gain, and nobody is named.
    pub fn on_change(
        &mut self,
        broadcasts: &[(BroadcastId, Option<Location>)],
        candidates: &[Candidate],
    ) -> Vec<Change> {
        let candidates = if candidates.len() < 2 { &[] } else { candidates };
        let mut groups: HashMap<Vec<usize>, Vec<BroadcastId>> = HashMap::new();
        let mut near: Vec<(Option<Location>, Vec<usize>)> = Vec::new();
        for (id, origin) in broadcasts {
            // There are few origins.
            let known = near.iter().position(|(place, _)| place == origin);
            let at = known.unwrap_or_else(|| {
                near.push((*origin, nearest(*origin, candidates)));
                near.len() - 1
            });
            groups.entry(near[at].1.clone()).or_default().push(*id);
        }
        let mut named = BTreeMap::new();
        for (group, mut ids) in groups {
            ids.sort_unstable();
            let group: Vec<&Candidate> = group.iter().map(|at| &candidates[*at]).collect();
            self.spread(&group, &ids, &mut named);
        }
        let gone = self.0.keys().filter(|id| !named.contains_key(id)).map(|id| (*id, None));
        let news = named.iter().filter(|(id, node)| self.0.get(id) != Some(node));
        let changes = gone.chain(news.map(|(id, node)| (*id, Some(Arc::clone(node))))).collect();
        self.0 = named;
        changes
    }

    /// Names a gateway for each of these broadcasts, which have these candidates.
    fn spread(
        &self,
        group: &[&Candidate],
        ids: &[BroadcastId],
        named: &mut BTreeMap<BroadcastId, Arc<NodeId>>,
    ) {
        if group.is_empty() {
            return;
        }
        let share = ids.len() as f64 / group.len() as f64;
        let most = (share * BOUND).ceil() as usize;
        let mut held: Vec<Vec<BroadcastId>> = vec![Vec::new(); group.len()];
        let mut free = Vec::new();
        for id in ids {
            let present = self.0.get(id);
            match group.iter().position(|edge| present == Some(&edge.id)) {
                Some(at) => held[at].push(*id),
                None => free.push(*id),
            }
        }
        for (edge, held) in group.iter().zip(&mut held) {
            // Those that would least be here go first.
            held.sort_by_key(|id| std::cmp::Reverse(score(&edge.id, *id)));
            free.extend(held.drain(most.min(held.len())..));
        }
        free.sort_unstable();
        for id in free {
            let room = (0..group.len()).filter(|at| held[*at].len() < most);
            if let Some(at) = room.max_by_key(|at| score(&group[*at].id, id)) {
                held[at].push(id);
            }
        }
        for (edge, held) in group.iter().zip(held) {
            named.extend(held.into_iter().map(|id| (id, Arc::clone(&edge.id))));
        }
    }

    /// The gateway of this broadcast.
    pub fn get(&self, id: BroadcastId) -> Option<&Arc<NodeId>> {
        self.0.get(&id)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (BroadcastId, &Arc<NodeId>)> {
        self.0.iter().map(|(id, node)| (*id, node))
    }

    /// How many broadcasts have this gateway.
    pub fn of(&self, node: &NodeId) -> usize {
        self.0.values().filter(|named| ***named == *node).count()
    }
}

/// Which of the candidates are near. Those that did not say where they stand are
/// so only when nobody did.
fn nearest(origin: Option<Location>, candidates: &[Candidate]) -> Vec<usize> {
    let far = |edge: &Candidate| match (origin, edge.location) {
        (Some(origin), Some(edge)) => Some(origin.distance_km(edge)),
        _ => None,
    };
    let shortest = candidates.iter().filter_map(far).min_by(f64::total_cmp);
    let near = |edge: &Candidate| match shortest {
        Some(shortest) => far(edge).is_some_and(|far| far <= shortest + COMPARABLE_KM),
        None => true,
    };
    (0..candidates.len()).filter(|at| near(&candidates[*at])).collect()
}

/// How much this edge is the one for this broadcast: FNV-1a over both names,
/// then mixed, so that several controls and releases reckon alike.
fn score(edge: &NodeId, id: BroadcastId) -> u64 {
    let names = edge.as_str().bytes().chain([0]).chain(id.as_str().bytes());
    let hash = names.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(seed: u16) -> BroadcastId {
        let mut bytes = [7; 16];
        bytes[..2].copy_from_slice(&seed.to_be_bytes());
        BroadcastId::from_random(bytes)
    }

    fn ids(count: u16) -> Vec<(BroadcastId, Option<Location>)> {
        (0..count).map(|seed| (id(seed), None)).collect()
    }

    fn edges(count: usize) -> Vec<Candidate> {
        let edge =
            |n| Candidate { id: Arc::new(format!("edge-{n}").parse().unwrap()), location: None };
        (0..count).map(edge).collect()
    }

    fn place(lat: f64, lon: f64) -> Option<Location> {
        Some(Location::new(lat, lon).unwrap())
    }

    fn loads(gateways: &Gateways, edges: &[Candidate]) -> Vec<usize> {
        edges.iter().map(|edge| gateways.of(&edge.id)).collect()
    }

    #[test]
    fn every_broadcast_gets_one_and_none_has_more_than_its_bound() {
        for (broadcasts, candidates) in [(1, 2), (2, 3), (7, 3), (100, 5), (500, 40)] {
            let (all, edges) = (ids(broadcasts), edges(candidates));
            let mut gateways = Gateways::default();
            let changes = gateways.on_change(&all, &edges);
            assert_eq!(changes.len(), usize::from(broadcasts));
            let loads = loads(&gateways, &edges);
            assert_eq!(loads.iter().sum::<usize>(), usize::from(broadcasts));
            let bound = (f64::from(broadcasts) / candidates as f64 * 1.25).ceil() as usize;
            assert!(loads.iter().all(|load| *load <= bound), "{loads:?} {bound}");
            assert!(gateways.on_change(&all, &edges).is_empty(), "it is stable");
        }
    }

    #[test]
    fn losing_a_candidate_moves_its_broadcasts_and_no_other() {
        let (all, mut edges) = (ids(200), edges(6));
        let mut gateways = Gateways::default();
        gateways.on_change(&all, &edges);
        let lost = edges.remove(2);
        let mine: Vec<BroadcastId> =
            gateways.iter().filter(|(_, node)| **node == lost.id).map(|(id, _)| id).collect();
        let mut moved: Vec<_> =
            gateways.on_change(&all, &edges).into_iter().map(|(id, _)| id).collect();
        moved.sort();
        assert_eq!(moved, mine);
        // Back again, it takes what others have too much of, and little else moves.
        edges.insert(2, lost);
        let back = gateways.on_change(&all, &edges);
        assert!(back.iter().all(|(_, node)| node.as_ref() == Some(&edges[2].id)), "{back:?}");
    }

    #[test]
    fn an_order_of_broadcasts_or_edges_means_nothing() {
        let (mut all, mut edges) = (ids(50), edges(4));
        let (mut one, mut other) = (Gateways::default(), Gateways::default());
        one.on_change(&all, &edges);
        all.reverse();
        edges.rotate_left(1);
        other.on_change(&all, &edges);
        assert!(one.iter().eq(other.iter()));
    }

    #[test]
    fn those_near_the_origin_are_asked() {
        let (paris, tokyo) = (place(48.85, 2.35), place(35.68, 139.69));
        let mut edges = edges(5);
        edges[0].location = tokyo;
        edges[1].location = place(50.85, 4.35);
        edges[2].location = place(49.61, 6.13);
        edges[3].location = place(40.71, -74.0);
        let mut gateways = Gateways::default();
        let all: Vec<_> = (0..40).map(|seed| (id(seed), paris)).collect();
        gateways.on_change(&all, &edges);
        let loads = loads(&gateways, &edges);
        assert_eq!((loads[0], loads[3], loads[4]), (0, 0, 0));
        assert!(loads[1].min(loads[2]) >= 15, "{loads:?}");
    }

    #[test]
    fn with_one_edge_there_is_no_gateway_and_what_ends_has_none() {
        let mut gateways = Gateways::default();
        assert!(gateways.on_change(&ids(3), &edges(1)).is_empty());
        gateways.on_change(&ids(3), &edges(2));
        let ended = gateways.on_change(&ids(2), &edges(2));
        assert_eq!(ended, [(id(2), None)]);
        assert_eq!(gateways.on_change(&ids(2), &edges(1)).len(), 2);
        assert!(gateways.get(id(0)).is_none());
    }
}
