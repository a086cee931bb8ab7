//! Who watches what, from the leases that nodes report.
//!
//! A push viewer is its connection at an origin, an HLS viewer its polling at
//! an edge; somebody who does both counts once, as push. Who did not join is in
//! no lease: edges estimate how many those are. Pure and bounded:
//! beyond the limit a lease is refused and counted. Which node is alive is
//! [`crate::fleet`], which feeds this.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use spyglass_media::{BroadcastId, NodeId, UserId, UtcTime, ViewerId};

use crate::admission::{Seat, SeatLease};
use crate::joined::Who;

/// One viewer's presence on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What is watched.
    pub broadcast: BroadcastId,
    /// Who watches.
    pub viewer: ViewerId,
    /// Connected to the origin; otherwise it polls an edge.
    pub push: bool,
    /// The seat that it holds by watching: any on the push tier; on HLS one
    /// beyond the push tier, which only lets it comment.
    pub seat: Option<Seat>,
    /// Who it is, as its token says.
    pub who: Who,
    /// Since when.
    pub since: UtcTime,
}

impl Lease {
    /// Which broadcast's seat it holds, if any.
    pub fn seat_lease(&self) -> Option<(BroadcastId, SeatLease)> {
        Some((self.broadcast, SeatLease { viewer: self.viewer, seat: self.seat? }))
    }
}

/// Viewers of one broadcast, each counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connected to the origin.
    pub push: u64,
    /// Polling an edge only.
    pub hls: u64,
}

impl Counts {
    /// Both tiers.
    pub const fn total(self) -> u64 {
        self.push + self.hls
    }
}

/// A lease and the node that reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watching {
    /// The reporting node.
    pub node: Arc<NodeId>,
    /// What it reported.
    pub lease: Lease,
}

/// All leases of all nodes.
#[derive(Debug)]
pub struct Audience {
    limit: usize,
    refused: u64,
    by_broadcast: HashMap<BroadcastId, Room>,
    by_node: HashMap<Arc<NodeId>, HashSet<(BroadcastId, ViewerId)>>,
    leases: usize,
    all: Counts,
    /// Who did not join, as each edge estimates them.
    crowds: HashMap<Arc<NodeId>, HashMap<BroadcastId, u32>>,
    /// The sum of them; none is 0.
    anonymous: HashMap<BroadcastId, u64>,
}

#[derive(Debug, Default)]
struct Room {
    viewers: HashMap<ViewerId, Vec<Watching>>,
    counts: Counts,
}

impl Audience {
    /// Empty; takes `limit` leases.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            refused: 0,
            by_broadcast: HashMap::new(),
            by_node: HashMap::new(),
            leases: 0,
            all: Counts::default(),
            crowds: HashMap::new(),
            anonymous: HashMap::new(),
        }
    }

    /// A node reports a viewer. True when that is news: a new lease or, on the
    /// same node, another seat.
    pub fn on_begun(&mut self, node: &Arc<NodeId>, lease: Lease) -> bool {
        let key = (lease.broadcast, lease.viewer);
        let known = self.by_node.get(node).is_some_and(|held| held.contains(&key));
        if !known && self.leases >= self.limit {
            self.refused += 1;
            return false;
        }
        let room = self.by_broadcast.entry(lease.broadcast).or_default();
        let watching = room.viewers.entry(lease.viewer).or_default();
        let before = tier(watching);
        let news = match watching.iter_mut().find(|watching| watching.node == *node) {
            Some(watching) => {
                let old = &watching.lease;
                let news = (old.seat, old.push) != (lease.seat, lease.push);
                watching.lease = lease;
                news
            }
            None => {
                watching.push(Watching { node: Arc::clone(node), lease });
                self.by_node.entry(Arc::clone(node)).or_default().insert(key);
                self.leases += 1;
                true
            }
        };
        let after = tier(watching);
        for counts in [&mut room.counts, &mut self.all] {
            recount(counts, before, after);
        }
        news
    }

    /// A node reports that a viewer is gone; what it had held.
    pub fn on_ended(
        &mut self,
        node: &Arc<NodeId>,
        broadcast: BroadcastId,
        viewer: ViewerId,
    ) -> Option<Lease> {
        let held = self.by_node.get_mut(node)?;
        if !held.remove(&(broadcast, viewer)) {
            return None;
        }
        if held.is_empty() {
            self.by_node.remove(node);
        }
        self.leases -= 1;
        let room = self.by_broadcast.get_mut(&broadcast)?;
        let watching = room.viewers.get_mut(&viewer)?;
        let before = tier(watching);
        let at = watching.iter().position(|watching| watching.node == *node)?;
        let ended = watching.swap_remove(at).lease;
        let after = tier(watching);
        for counts in [&mut room.counts, &mut self.all] {
            recount(counts, before, after);
        }
        if watching.is_empty() {
            room.viewers.remove(&viewer);
        }
        if room.viewers.is_empty() {
            self.by_broadcast.remove(&broadcast);
        }
        Some(ended)
    }

    /// About how many watch each broadcast at an edge without having joined.
    /// Replaces what the edge said before; bounded by what a node may say.
    pub fn on_crowds(&mut self, node: &Arc<NodeId>, crowds: HashMap<BroadcastId, u32>) {
        for (broadcast, before) in self.crowds.remove(node).unwrap_or_default() {
            if let Some(sum) = self.anonymous.get_mut(&broadcast) {
                *sum -= u64::from(before);
                if *sum == 0 {
                    self.anonymous.remove(&broadcast);
                }
            }
        }
        let crowds: HashMap<_, _> = crowds.into_iter().filter(|(_, count)| *count > 0).collect();
        for (broadcast, count) in &crowds {
            *self.anonymous.entry(*broadcast).or_default() += u64::from(*count);
        }
        if !crowds.is_empty() {
            self.crowds.insert(Arc::clone(node), crowds);
        }
    }

    /// About how many watch a broadcast without having joined: the sum of the
    /// edges' estimates, so that who has just changed edges counts twice.
    pub fn anonymous(&self, broadcast: BroadcastId) -> u64 {
        self.anonymous.get(&broadcast).copied().unwrap_or_default()
    }

    /// About how many watch anything at an edge without having joined.
    pub fn anonymous_at(&self, node: &Arc<NodeId>) -> u32 {
        let crowds = self.crowds.get(node).into_iter().flat_map(HashMap::values);
        crowds.fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The keys of everything a node reported.
    pub fn of_node(&self, node: &Arc<NodeId>) -> Vec<(BroadcastId, ViewerId)> {
        self.by_node.get(node).map(|held| held.iter().copied().collect()).unwrap_or_default()
    }

    /// How many watch a broadcast.
    pub fn counts(&self, broadcast: BroadcastId) -> Counts {
        self.by_broadcast.get(&broadcast).map(|room| room.counts).unwrap_or_default()
    }

    /// How many watch anything.
    pub const fn all(&self) -> Counts {
        self.all
    }

    /// Leases refused because there were too many.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Who a viewer is by its leases; `None` when it does not watch.
    pub fn who(&self, broadcast: BroadcastId, viewer: ViewerId) -> Option<Who> {
        let watching = self.by_broadcast.get(&broadcast)?.viewers.get(&viewer)?;
        watching.iter().map(|watching| watching.lease.who).reduce(Who::or)
    }

    /// The viewers that one user is in a broadcast.
    pub fn of_user(&self, broadcast: BroadcastId, user: UserId) -> Vec<(ViewerId, Who)> {
        let Some(room) = self.by_broadcast.get(&broadcast) else { return Vec::new() };
        let who = |watching: &Vec<Watching>| {
            watching.iter().map(|watching| watching.lease.who).reduce(Who::or)
        };
        let all = room.viewers.iter().filter_map(|(viewer, watching)| {
            Some((*viewer, who(watching)?)).filter(|(_, who)| who.user == Some(user))
        });
        all.collect()
    }

    /// At most `limit` of those who watch a broadcast, each with the lease that
    /// counts: push before HLS.
    pub fn viewers(&self, broadcast: BroadcastId, limit: usize) -> Vec<Watching> {
        let Some(room) = self.by_broadcast.get(&broadcast) else { return Vec::new() };
        let best = |watching: &Vec<Watching>| {
            let push = watching.iter().find(|watching| watching.lease.push);
            push.or(watching.first()).cloned()
        };
        room.viewers.values().filter_map(best).take(limit).collect()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tier {
    Push,
    Hls,
}

fn tier(watching: &[Watching]) -> Option<Tier> {
    if watching.iter().any(|watching| watching.lease.push) {
        Some(Tier::Push)
    } else {
        (!watching.is_empty()).then_some(Tier::Hls)
    }
}

fn recount(counts: &mut Counts, before: Option<Tier>, after: Option<Tier>) {
    match before {
        Some(Tier::Push) => counts.push -= 1,
        Some(Tier::Hls) => counts.hls -= 1,
        None => {}
    }
    match after {
        Some(Tier::Push) => counts.push += 1,
        Some(Tier::Hls) => counts.hls += 1,
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(name: &str) -> Arc<NodeId> {
        Arc::new(name.parse().unwrap())
    }

    fn lease(broadcast: u8, viewer: u8, seat: u32) -> Lease {
        Lease {
            broadcast: BroadcastId::from_random([broadcast; 16]),
            viewer: ViewerId::from_random([viewer; 16]),
            push: seat > 0,
            seat: (seat > 0).then_some(Seat { number: seat, generation: 1 }),
            who: Who::default(),
            since: UtcTime::default(),
        }
    }

    #[test]
    fn who_is_on_both_tiers_counts_once() {
        let (origin, edge) = (node("origin"), node("edge"));
        let mut audience = Audience::new(10);
        let (hls, push) = (lease(1, 1, 0), lease(1, 1, 4));
        assert!(audience.on_begun(&edge, hls.clone()));
        assert!(!audience.on_begun(&edge, hls.clone()));
        assert_eq!(audience.counts(hls.broadcast), Counts { push: 0, hls: 1 });
        assert!(audience.on_begun(&origin, push.clone()));
        assert_eq!(audience.counts(hls.broadcast), Counts { push: 1, hls: 0 });
        assert_eq!(audience.viewers(hls.broadcast, 9)[0].lease, push);
        assert_eq!(audience.on_ended(&origin, push.broadcast, push.viewer), Some(push.clone()));
        assert_eq!(audience.on_ended(&origin, push.broadcast, push.viewer), None);
        assert_eq!(audience.all(), Counts { push: 0, hls: 1 });
        assert_eq!(audience.on_ended(&edge, hls.broadcast, hls.viewer), Some(hls));
        assert!(audience.by_broadcast.is_empty() && audience.by_node.is_empty());
    }

    #[test]
    fn beyond_the_limit_leases_are_refused_and_known_ones_renewed() {
        let edge = node("edge");
        let mut audience = Audience::new(2);
        assert!(audience.on_begun(&edge, lease(1, 1, 0)));
        assert!(audience.on_begun(&edge, lease(1, 2, 0)));
        assert!(!audience.on_begun(&edge, lease(1, 3, 0)));
        assert!(audience.on_begun(&edge, lease(1, 2, 5)), "another tier is news");
        assert_eq!((audience.refused(), audience.all().total()), (1, 2));
    }

    #[test]
    fn edges_estimates_are_added_up_and_are_in_no_total() {
        let (a, b) = (node("a"), node("b"));
        let (one, two) = (lease(1, 1, 0).broadcast, lease(2, 1, 0).broadcast);
        let mut audience = Audience::new(10);
        audience.on_crowds(&a, HashMap::from([(one, 100), (two, 7)]));
        audience.on_crowds(&b, HashMap::from([(one, 20), (two, 0)]));
        assert_eq!((audience.anonymous(one), audience.anonymous(two)), (120, 7));
        assert_eq!((audience.anonymous_at(&a), audience.anonymous_at(&b)), (107, 20));
        assert_eq!(audience.all(), Counts::default());
        audience.on_crowds(&a, HashMap::from([(one, 90)]));
        assert_eq!((audience.anonymous(one), audience.anonymous(two)), (110, 0));
        audience.on_crowds(&a, HashMap::new());
        audience.on_crowds(&b, HashMap::new());
        assert!(audience.crowds.is_empty() && audience.anonymous.is_empty());
    }

    proptest! {
        #[test]
        fn counts_equal_a_recount(steps in prop::collection::vec(
            (any::<bool>(), 0usize..3, 0u8..3, 0u8..5, 0u32..3), 0..200,
        )) {
            let nodes = [node("a"), node("b"), node("c")];
            let mut audience = Audience::new(20);
            for (begin, at, broadcast, viewer, seat) in steps {
                let lease = lease(broadcast, viewer, seat);
                if begin {
                    audience.on_begun(&nodes[at], lease);
                } else {
                    audience.on_ended(&nodes[at], lease.broadcast, lease.viewer);
                }
                let mut all = Counts::default();
                for room in audience.by_broadcast.values() {
                    let is_push = |held: &&Vec<Watching>| held.iter().any(|w| w.lease.push);
                    let push = room.viewers.values().filter(is_push).count() as u64;
                    let counts = Counts { push, hls: room.viewers.len() as u64 - push };
                    prop_assert_eq!(room.counts, counts);
                    all.push += counts.push;
                    all.hls += counts.hls;
                }
                prop_assert_eq!(audience.all(), all);
                let held: usize = nodes.iter().map(|node| audience.of_node(node).len()).sum();
                prop_assert_eq!(held, audience.leases);
            }
        }
    }
}
