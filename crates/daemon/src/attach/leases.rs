//! Who watches here, and which of it control does not know yet.
//!
//! Changes are collected and sent together, to every control at its own pace. A
//! digest replaces all that a control holds of this node, so whatever was lost
//! on the way heals with the next one.

use std::collections::HashMap;

use spyglass_api::control::{Lease, LeaseDelta, LeaseDigest};
use spyglass_media::{BroadcastId, UserId, ViewerId};

use super::LinkId;

/// Leases held at once; a viewer beyond it is served but not counted.
pub const MOST: usize = 200_000;

/// Leases in one message. About 80 bytes each, far below 256 KiB.
pub const PAGE: usize = 2_000;

type Key = (BroadcastId, ViewerId);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    seat: u32,
    generation: u32,
    since_ms: i64,
    user: Option<UserId>,
    expires_ms: i64,
}

fn wire((broadcast, viewer): Key, held: Held) -> Lease {
    Lease {
        broadcast: broadcast.to_string(),
        viewer: viewer.to_string(),
        seat: held.seat,
        generation: held.generation,
        since_ms: held.since_ms,
        user: held.user.map(|user| user.to_string()).unwrap_or_default(),
        expires_ms: held.expires_ms,
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Leases {
    held: HashMap<Key, Held>,
    /// Only for controls that are there to be told.
    untold: HashMap<LinkId, Untold>,
}

/// What one control does not know yet.
#[derive(Debug, Default)]
struct Untold {
    begun: HashMap<Key, Held>,
    ended: HashMap<Key, Held>,
}

impl Leases {
    /// A viewer is here. Malformed ids and viewers beyond [`MOST`] are ignored.
    pub fn begin(&mut self, lease: &Lease) {
        let Some((key, new)) = parse(lease) else { return };
        if self.held.len() >= MOST && !self.held.contains_key(&key) {
            return;
        }
        if self.held.insert(key, new) == Some(new) {
            return;
        }
        for untold in self.untold.values_mut() {
            untold.begun.insert(key, new);
        }
    }

    /// A viewer is gone; ignored when a newer generation is here.
    pub fn end(&mut self, lease: &Lease) {
        let Some((key, old)) = parse(lease) else { return };
        if self.held.get(&key).is_none_or(|held| held.generation > old.generation) {
            return;
        }
        self.held.remove(&key);
        for untold in self.untold.values_mut() {
            untold.begun.remove(&key);
            untold.ended.insert(key, old);
        }
    }

    /// Everything, to be told page by page; what changed before is in it.
    pub fn digest(&mut self, link: LinkId) -> Digest {
        self.untold.insert(link, Untold::default());
        Digest { leases: self.held.iter().map(|(&key, &held)| (key, held)).collect(), told: None }
    }

    /// That control is gone: changes are not collected until its next digest.
    pub fn stop_telling(&mut self, link: LinkId) {
        self.untold.remove(&link);
    }

    /// Changes since the last call, one page of them. Ends come first, so that a
    /// viewer who left and came back is here in the end.
    pub fn delta(&mut self, link: LinkId) -> Option<LeaseDelta> {
        let untold = self.untold.get_mut(&link)?;
        let ended = take(&mut untold.ended);
        let begun = if untold.ended.is_empty() && ended.len() < PAGE {
            // An end and a beginning of one viewer go in different messages.
            let again = ended
                .iter()
                .any(|lease| parse(lease).is_some_and(|(key, _)| untold.begun.contains_key(&key)));
            if again { Vec::new() } else { take(&mut untold.begun) }
        } else {
            Vec::new()
        };
        let any = !ended.is_empty() || !begun.is_empty();
        any.then_some(LeaseDelta { begun, ended })
    }
}

fn take(from: &mut HashMap<Key, Held>) -> Vec<Lease> {
    let keys: Vec<Key> = from.keys().copied().take(PAGE).collect();
    keys.into_iter().filter_map(|key| Some(wire(key, from.remove(&key)?))).collect()
}

fn parse(lease: &Lease) -> Option<(Key, Held)> {
    let key = (lease.broadcast.parse().ok()?, lease.viewer.parse().ok()?);
    let Lease { seat, generation, since_ms, expires_ms, .. } = *lease;
    let user = lease.user.parse().ok();
    Some((key, Held { seat, generation, since_ms, user, expires_ms }))
}

/// All leases at one moment, in pages.
#[derive(Debug)]
pub struct Digest {
    leases: Vec<(Key, Held)>,
    /// How many were told; `None` before the first page.
    told: Option<usize>,
}

impl Iterator for Digest {
    type Item = LeaseDigest;

    fn next(&mut self) -> Option<LeaseDigest> {
        let from = self.told.unwrap_or(0);
        let first = self.told.is_none();
        if !first && from == self.leases.len() {
            return None;
        }
        let to = (from + PAGE).min(self.leases.len());
        self.told = Some(to);
        let leases = self.leases[from..to].iter().map(|&(key, held)| wire(key, held)).collect();
        Some(LeaseDigest { leases, first, last: to == self.leases.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: LinkId = 1;

    fn lease(viewer: u32, generation: u32) -> Lease {
        let mut random = [0; 16];
        random[..4].copy_from_slice(&viewer.to_le_bytes());
        Lease {
            broadcast: BroadcastId::from_random([7; 16]).to_string(),
            viewer: ViewerId::from_random(random).to_string(),
            seat: viewer,
            generation,
            since_ms: 5,
            ..Lease::default()
        }
    }

    fn told() -> Leases {
        let mut leases = Leases::default();
        assert_eq!(leases.digest(HERE).count(), 1);
        leases
    }

    #[test]
    fn changes_are_told_once_and_together() {
        let mut leases = told();
        leases.begin(&lease(1, 1));
        leases.begin(&lease(2, 1));
        leases.end(&lease(2, 1));
        let delta = leases.delta(HERE).unwrap();
        assert_eq!((delta.begun, delta.ended), (vec![lease(1, 1)], vec![lease(2, 1)]));
        assert_eq!(leases.delta(HERE), None);
        leases.begin(&lease(1, 1));
        assert_eq!(leases.delta(HERE), None, "no news");
    }

    #[test]
    fn an_end_that_comes_late_does_not_end_the_next_generation() {
        let mut leases = told();
        leases.begin(&lease(1, 1));
        leases.begin(&lease(1, 2));
        leases.end(&lease(1, 1));
        let delta = leases.delta(HERE).unwrap();
        assert_eq!((delta.begun, delta.ended), (vec![lease(1, 2)], vec![]));
        leases.end(&lease(1, 2));
        assert_eq!(leases.delta(HERE).unwrap().ended, [lease(1, 2)]);
        leases.end(&lease(1, 2));
        assert_eq!(leases.delta(HERE), None);
    }

    #[test]
    fn who_leaves_and_comes_back_is_here_in_the_end() {
        let mut leases = told();
        leases.begin(&lease(1, 1));
        leases.delta(HERE);
        leases.end(&lease(1, 1));
        leases.begin(&lease(1, 2));
        let (ended, begun) = (leases.delta(HERE).unwrap(), leases.delta(HERE).unwrap());
        assert_eq!((ended.ended, ended.begun), (vec![lease(1, 1)], vec![]));
        assert_eq!((begun.ended, begun.begun), (vec![], vec![lease(1, 2)]));
    }

    #[test]
    fn a_digest_says_everything_in_pages() {
        let mut leases = Leases::default();
        assert_eq!(leases.delta(HERE), None);
        let count = 2 * PAGE as u32 + 1;
        (0..count).for_each(|viewer| leases.begin(&lease(viewer, 1)));
        assert_eq!(leases.delta(HERE), None, "nobody is there to be told");
        let pages: Vec<_> = leases.digest(HERE).collect();
        let shape: Vec<_> =
            pages.iter().map(|page| (page.leases.len(), page.first, page.last)).collect();
        assert_eq!(shape, [(PAGE, true, false), (PAGE, false, false), (1, false, true)]);
        assert_eq!(leases.delta(HERE), None, "the digest said it");
        let none: Vec<_> = told().digest(HERE).collect();
        assert_eq!(none, [LeaseDigest { leases: vec![], first: true, last: true }]);
    }

    #[test]
    fn while_control_is_away_nothing_piles_up() {
        let mut leases = told();
        leases.begin(&lease(1, 1));
        leases.stop_telling(HERE);
        leases.end(&lease(1, 1));
        leases.begin(&lease(2, 1));
        assert_eq!(leases.delta(HERE), None);
        assert_eq!(leases.digest(HERE).next().unwrap().leases, [lease(2, 1)]);
    }

    #[test]
    fn each_control_is_told_at_its_own_pace() {
        const THERE: LinkId = 2;
        let mut leases = told();
        leases.begin(&lease(1, 1));
        assert_eq!(leases.digest(THERE).next().unwrap().leases, [lease(1, 1)]);
        leases.end(&lease(1, 1));
        let both = LeaseDelta { begun: vec![], ended: vec![lease(1, 1)] };
        assert_eq!(leases.delta(HERE), Some(both.clone()));
        assert_eq!(leases.delta(HERE), None);
        assert_eq!(leases.delta(THERE), Some(both));
        leases.stop_telling(HERE);
        leases.begin(&lease(2, 1));
        assert_eq!(leases.delta(HERE), None);
        assert_eq!(leases.delta(THERE).unwrap().begun, [lease(2, 1)]);
    }

    #[test]
    fn pages_keep_their_size() {
        let mut leases = told();
        for viewer in 0..PAGE as u32 + 1 {
            leases.begin(&lease(viewer, 1));
        }
        assert_eq!(leases.delta(HERE).unwrap().begun.len(), PAGE);
        assert_eq!(leases.delta(HERE).unwrap().begun.len(), 1);
    }

    proptest::proptest! {
        /// Whatever happens in whatever order, control ends up with what is here.
        #[test]
        fn control_ends_up_with_what_is_here(
            operations in proptest::collection::vec((0..6u8, 0..4u32, 1..4u32), 0..60),
        ) {
            let mut leases = told();
            let mut known: HashMap<String, Lease> = HashMap::new();
            let learn = |known: &mut HashMap<String, Lease>, leases: &mut Leases| {
                while let Some(delta) = leases.delta(HERE) {
                    delta.ended.iter().for_each(|lease| { known.remove(&lease.viewer); });
                    known.extend(delta.begun.into_iter().map(|lease| (lease.viewer.clone(), lease)));
                }
            };
            for (operation, viewer, generation) in operations {
                match operation {
                    0 | 1 => leases.begin(&lease(viewer, generation)),
                    2 | 3 => leases.end(&lease(viewer, generation)),
                    4 => learn(&mut known, &mut leases),
                    _ => {
                        leases.stop_telling(HERE);
                        let told = leases.digest(HERE).flat_map(|page| page.leases);
                        known = told.map(|lease| (lease.viewer.clone(), lease)).collect();
                    }
                }
            }
            learn(&mut known, &mut leases);
            let mut here: Vec<_> = leases.digest(HERE).flat_map(|page| page.leases).collect();
            let mut known: Vec<_> = known.into_values().collect();
            here.sort_by_key(|lease| lease.seat);
            known.sort_by_key(|lease| lease.seat);
            proptest::prop_assert_eq!(here, known);
        }
    }
}
