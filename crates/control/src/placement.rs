//! Which node serves whom: the nearest that has room.
//!
//! Each node gets a score in kilometres: the great-circle distance, plus a
//! penalty that grows with its load, so that a busy neighbour loses to an idle
//! node a little farther away. Pure and without state; who is up and how busy
//! is [`crate::fleet`], who is put where is the caller's.

use std::cmp::Ordering;

use spyglass_media::{Location, NodeId};

/// What a full node's load weighs, in kilometres.
const FULL_KM: f64 = 2_000.0;

/// How far a node counts that did not say where it stands, in kilometres: it
/// is taken when there is nothing nearer.
const UNKNOWN_KM: f64 = 10_000.0;

/// Viewers that make a node which names no capacity count as full.
const NOMINAL_CAPACITY: u32 = 10_000;

/// A node that takes new arrivals.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its name.
    pub id: NodeId,
    /// Where it stands, if it said so.
    pub location: Option<Location>,
    /// Viewers it has, those just sent there included.
    pub viewers: u32,
    /// The most it takes; 0 when it names no limit.
    pub capacity: u32,
}

/// A node and how far it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// Its name.
    pub id: NodeId,
    /// Great-circle distance, where both places are known.
    pub distance_km: Option<f64>,
}

impl Candidate {
    fn is_full(&self) -> bool {
        self.capacity > 0 && self.viewers >= self.capacity
    }

    /// 0 is idle, 1 is full.
    fn load(&self) -> f64 {
        let capacity = if self.capacity > 0 { self.capacity } else { NOMINAL_CAPACITY };
        f64::from(self.viewers) / f64::from(capacity)
    }
}

/// The candidates with room, best first. Without a place to start from, the
/// least loaded is best. Equals stand in the order of their names.
pub fn rank(
    from: Option<Location>,
    candidates: impl IntoIterator<Item = Candidate>,
) -> Vec<Placed> {
    let mut scored: Vec<(f64, Placed)> = candidates
        .into_iter()
        .filter(|candidate| !candidate.is_full())
        .map(|candidate| {
            let distance_km = from.zip(candidate.location).map(|(from, to)| from.distance_km(to));
            let far = match from {
                Some(_) => distance_km.unwrap_or(UNKNOWN_KM),
                None => 0.0,
            };
            (far + FULL_KM * candidate.load(), Placed { id: candidate.id, distance_km })
        })
        .collect();
    scored.sort_by(|(a, left), (b, right)| {
        a.partial_cmp(b).unwrap_or(Ordering::Equal).then_with(|| left.id.cmp(&right.id))
    });
    scored.into_iter().map(|(_, placed)| placed).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(id: &str, location: &str, viewers: u32, capacity: u32) -> Candidate {
        Candidate { id: id.parse().unwrap(), location: location.parse().ok(), viewers, capacity }
    }

    fn names(from: Option<&str>, candidates: &[Candidate]) -> Vec<String> {
        let from = from.map(|text| text.parse().unwrap());
        rank(from, candidates.to_vec()).into_iter().map(|placed| placed.id.to_string()).collect()
    }

    const AMSTERDAM: &str = "52.37,4.90";
    const NEW_YORK: &str = "40.71,-74.01";
    const TOKYO: &str = "35.68,139.69";

    fn world() -> Vec<Candidate> {
        vec![
            candidate("tokyo", TOKYO, 0, 0),
            candidate("amsterdam", AMSTERDAM, 0, 0),
            candidate("new-york", NEW_YORK, 0, 0),
        ]
    }

    #[test]
    fn the_nearest_is_first_and_the_others_follow_in_order() {
        assert_eq!(names(Some("48.86,2.35"), &world()), ["amsterdam", "new-york", "tokyo"]);
        assert_eq!(names(Some("37.57,126.98"), &world()), ["tokyo", "amsterdam", "new-york"]);
        let nearest = rank(Some(AMSTERDAM.parse().unwrap()), world()).remove(0);
        assert!(nearest.distance_km.unwrap() < 0.1);
    }

    #[test]
    fn a_busy_node_loses_to_an_idle_one_near_it() {
        let brussels = candidate("brussels", "50.85,4.35", 0, 1000);
        let busy =
            |viewers| vec![candidate("amsterdam", AMSTERDAM, viewers, 1000), brussels.clone()];
        assert_eq!(names(Some(AMSTERDAM), &busy(50)), ["amsterdam", "brussels"]);
        assert_eq!(names(Some(AMSTERDAM), &busy(500)), ["brussels", "amsterdam"]);
        assert_eq!(names(Some(AMSTERDAM), &busy(1000)), ["brussels"], "full");
    }

    #[test]
    fn without_a_place_the_least_loaded_is_taken() {
        let mut nodes = world();
        assert_eq!(names(None, &nodes), ["amsterdam", "new-york", "tokyo"]);
        nodes[1].viewers = 2;
        nodes[2].viewers = 1;
        assert_eq!(names(None, &nodes), ["tokyo", "new-york", "amsterdam"]);
        assert_eq!(rank(None, nodes)[0].distance_km, None);
        assert!(names(Some(TOKYO), &[]).is_empty());
    }

    #[test]
    fn a_node_of_unknown_place_is_behind_a_known_one() {
        let nodes = [candidate("nowhere", "", 0, 0), candidate("new-york", NEW_YORK, 0, 0)];
        assert_eq!(names(Some(AMSTERDAM), &nodes), ["new-york", "nowhere"]);
    }

    proptest! {
        #[test]
        fn at_equal_load_distance_alone_decides(
            from in (-90.0f64..90.0, -180.0f64..180.0),
            places in prop::collection::vec((-90.0f64..90.0, -180.0f64..180.0), 1..32),
        ) {
            let from = Location::new(from.0, from.1).unwrap();
            let nodes = places.iter().enumerate().map(|(index, (latitude, longitude))| Candidate {
                id: format!("edge-{index}").parse().unwrap(),
                location: Location::new(*latitude, *longitude).ok(),
                viewers: 7,
                capacity: 100,
            });
            let ranked = rank(Some(from), nodes);
            prop_assert_eq!(ranked.len(), places.len());
            prop_assert!(ranked.is_sorted_by(|a, b| a.distance_km <= b.distance_km));
        }

        #[test]
        fn losing_a_node_moves_only_its_own_viewers(
            from in (-90.0f64..90.0, -180.0f64..180.0),
            places in prop::collection::vec((-90.0f64..90.0, -180.0f64..180.0, 0u32..100), 2..32),
            lost in 0usize..32,
        ) {
            let from = Location::new(from.0, from.1).ok();
            let all: Vec<_> = places.iter().enumerate().map(|(index, place)| Candidate {
                id: format!("edge-{index}").parse().unwrap(),
                location: Location::new(place.0, place.1).ok(),
                viewers: place.2,
                capacity: 100,
            }).collect();
            let mut fewer = all.clone();
            let gone = fewer.remove(lost % all.len()).id;
            let mut expected = rank(from, all);
            expected.retain(|placed| placed.id != gone);
            prop_assert_eq!(rank(from, fewer), expected);
        }
    }
}
