use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn candidate(id: &str, location: Option<Location>, viewers: u32, capacity: u32) -> Candidate {
    let standing = Arc::new(Standing::new(viewers, capacity));
    Candidate::new(Arc::new(id.parse().unwrap()), location, standing)
}

fn at(id: &str, location: &str, viewers: u32, capacity: u32) -> Candidate {
    candidate(id, location.parse().ok(), viewers, capacity)
}

fn names(from: Option<&str>, candidates: &[Candidate]) -> Vec<String> {
    let from = from.map(|text| text.parse().unwrap());
    rank(from, candidates, 100).iter().map(|placed| placed.node.id.to_string()).collect()
}

const AMSTERDAM: &str = "52.37,4.90";
const BRUSSELS: &str = "50.85,4.35";
const NEW_YORK: &str = "40.71,-74.01";
const TOKYO: &str = "35.68,139.69";

fn world() -> Vec<Candidate> {
    vec![at("tokyo", TOKYO, 0, 0), at("amsterdam", AMSTERDAM, 0, 0), at("new-york", NEW_YORK, 0, 0)]
}

#[test]
fn the_nearest_is_first_and_the_others_follow_in_order() {
    assert_eq!(names(Some("48.86,2.35"), &world()), ["amsterdam", "new-york", "tokyo"]);
    assert_eq!(names(Some("37.57,126.98"), &world()), ["tokyo", "amsterdam", "new-york"]);
    let ranked = rank(AMSTERDAM.parse().ok(), &world(), 2);
    assert!(ranked[0].distance_km.unwrap() < 0.1);
    assert_eq!(ranked.len(), 2);
    assert!(rank(None, &world(), 0).is_empty());
}

#[test]
fn a_busy_node_loses_to_an_idle_one_near_it() {
    let nodes = |busy| [at("ams", AMSTERDAM, busy, 1000), at("bru", BRUSSELS, 0, 1000)];
    assert_eq!(names(Some(AMSTERDAM), &nodes(50)), ["ams", "bru"]);
    assert_eq!(names(Some(AMSTERDAM), &nodes(500)), ["bru", "ams"]);
    assert_eq!(names(Some(AMSTERDAM), &nodes(1000)), ["bru"], "full");
}

#[test]
fn nobody_crosses_an_ocean_for_balance_but_does_for_room() {
    let nodes = |here| [at("ams", AMSTERDAM, here, 1000), at("nyc", NEW_YORK, 0, 1000)];
    assert_eq!(names(Some(AMSTERDAM), &nodes(999)), ["ams", "nyc"]);
    assert_eq!(names(Some(AMSTERDAM), &nodes(1000)), ["nyc"]);
    // Nodes over their share stand behind those near by and before those far away.
    let [ams, nyc] = nodes(300);
    let near = [ams, nyc, at("bru", BRUSSELS, 100, 1000)];
    assert_eq!(names(Some(AMSTERDAM), &near), ["bru", "ams", "nyc"]);
}

#[test]
fn few_viewers_are_nobodys_burden() {
    let nodes = [at("ams", AMSTERDAM, SLACK - 1, 1000), at("bru", BRUSSELS, 0, 1000)];
    assert_eq!(names(Some(AMSTERDAM), &nodes), ["ams", "bru"]);
    nodes[0].standing.on_sent();
    assert_eq!(names(Some(AMSTERDAM), &nodes), ["bru", "ams"]);
}

#[test]
fn without_a_place_the_least_loaded_is_taken() {
    let nodes = world();
    assert_eq!(names(None, &nodes), ["amsterdam", "new-york", "tokyo"]);
    nodes[1].standing.on_heartbeat(2, 0);
    nodes[2].standing.on_heartbeat(1, 0);
    assert_eq!(names(None, &nodes), ["tokyo", "new-york", "amsterdam"]);
    assert_eq!(rank(None, &nodes, 1)[0].distance_km, None);
    assert!(names(Some(TOKYO), &[]).is_empty());
}

#[test]
fn a_node_of_unknown_place_is_behind_every_known_one() {
    let nodes = [at("nowhere", "", 0, 0), at("tokyo", TOKYO, 9_999, 10_000)];
    assert_eq!(names(Some("-34.6,-58.38"), &nodes), ["tokyo", "nowhere"]);
}

/// 32 edges in real places, and people spread around 200 more.
struct Globe {
    edges: Vec<Candidate>,
    /// Where each client is.
    clients: Vec<Location>,
    /// `[client][edge]`, by haversine: not how the ranking measures.
    km: Vec<Vec<f64>>,
}

fn noise(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 11) as f64 / (1u64 << 53) as f64
}

fn anywhere(state: &mut u64) -> Location {
    let latitude = (2.0 * noise(state) - 1.0).asin().to_degrees();
    Location::new(latitude, 360.0 * noise(state) - 180.0).unwrap()
}

fn globe(capacity: u32) -> Globe {
    let mut state = 7;
    let edges: Vec<_> = (0..32)
        .map(|index| candidate(&format!("e{index}"), Some(anywhere(&mut state)), 0, capacity))
        .collect();
    let clients: Vec<_> = (0..10_000).map(|_| anywhere(&mut state)).collect();
    let to_all = |client: &Location| {
        edges.iter().map(|edge| client.distance_km(edge.location().unwrap())).collect()
    };
    let km = clients.iter().map(to_all).collect();
    Globe { edges, clients, km }
}

fn index(placed: &Placed) -> usize {
    placed.node.id.as_str()[1..].parse().unwrap()
}

/// The line of the issue: for at least 99 % of 10,000 clients the nearest edge
/// or one within 5 % of its score, under the load bound.
#[test]
fn ten_thousand_clients_get_the_nearest_of_32_edges_or_one_as_good() {
    for capacity in [0, 20_000, 2_000] {
        let Globe { edges, clients, km } = globe(capacity);
        let (mut good, mut nearest_taken) = (0, 0);
        for (client, km) in clients.iter().zip(&km) {
            let weight = |edge: &Candidate| {
                let capacity = if capacity == 0 { NOMINAL_CAPACITY } else { capacity };
                f64::from(edge.standing.viewers()) / f64::from(capacity)
            };
            let score = |at: usize| km[at] + FULL_KM * weight(&edges[at]).powi(2);
            // The bound, computed anew: who is over its share of the viewers
            // of the edges near by is not to be had.
            let least = km.iter().copied().fold(f64::INFINITY, f64::min);
            let near: Vec<_> = (0..32).filter(|&at| km[at] <= least + COMPARABLE_KM).collect();
            let all: u32 = near.iter().map(|&at| edges[at].standing.viewers()).sum();
            let share = f64::from(all + 1) / near.len() as f64;
            let bound = (BOUND * share).ceil().max(f64::from(SLACK));
            let to_be_had =
                near.iter().filter(|&&at| f64::from(edges[at].standing.viewers()) < bound).copied();
            let nearest = to_be_had.min_by(|a, b| km[*a].total_cmp(&km[*b])).unwrap();
            let placed = rank(Some(*client), &edges, 1).remove(0);
            let chosen = index(&placed);
            assert!(f64::from(edges[chosen].standing.viewers()) < bound);
            assert!((placed.distance_km.unwrap() - km[chosen]).abs() < 1e-3);
            good += usize::from(score(chosen) <= 1.05 * score(nearest));
            nearest_taken += usize::from(km[chosen] <= 1.05 * least);
            placed.node.standing.on_sent();
        }
        println!("capacity {capacity}: {good} of 10000 within 5 %, {nearest_taken} by distance");
        assert!(good >= 9_900, "capacity {capacity}: {good}");
        assert!(nearest_taken >= 8_000, "capacity {capacity}: {nearest_taken} by distance alone");
    }
}

#[test]
fn an_edge_lost_moves_only_its_own_viewers() {
    let Globe { edges, clients, .. } = globe(0);
    let lost = 5;
    let mut fewer = edges.clone();
    fewer.remove(lost);
    let moves = || {
        let (mut own, mut others) = (0, 0);
        for client in &clients {
            let before = index(&rank(Some(*client), &edges, 1)[0]);
            let after = index(&rank(Some(*client), &fewer, 1)[0]);
            own += usize::from(before == lost && after != lost);
            others += usize::from(before != lost && after != before);
        }
        (own, others)
    };
    let (own, others) = moves();
    assert!(own > 100);
    assert_eq!(others, 0);
    for client in &clients {
        rank(Some(*client), &edges, 1)[0].node.standing.on_sent();
    }
    // Under load its neighbours' shares become others, and a few newcomers near
    // a border would be sent elsewhere than before. Who watches stays.
    let (own, others) = moves();
    assert!(own > 100);
    assert!(others <= 10, "{others} of 10000");
}

/// Edges in one place share the arrivals, by what each can take.
#[test]
fn no_edge_has_more_than_its_share() {
    for from in [AMSTERDAM, BRUSSELS] {
        let edges = [
            at("a", AMSTERDAM, 0, 4_000),
            at("b", AMSTERDAM, 0, 2_000),
            at("c", BRUSSELS, 0, 4_000),
            at("tokyo", TOKYO, 0, 100_000),
        ];
        for count in 1..=6_000 {
            let placed = rank(from.parse().ok(), &edges, 1).remove(0);
            placed.node.standing.on_sent();
            for (edge, part) in edges.iter().zip([0.4, 0.2, 0.4]) {
                let bound = (BOUND * part * f64::from(count)).ceil().max(f64::from(SLACK));
                assert!(f64::from(edge.standing.viewers()) <= bound, "{count}: {}", edge.id);
            }
        }
        assert_eq!(edges[3].standing.viewers(), 0, "nobody flew to Tokyo");
    }
}

#[test]
fn equal_requests_do_not_flap_while_loads_are_noisy() {
    let mut state = 3;
    let edges = [
        at("a", AMSTERDAM, 2_000, 10_000),
        at("b", "52.37,4.95", 2_000, 10_000),
        at("c", BRUSSELS, 2_000, 10_000),
    ];
    let mut answers: HashMap<String, u32> = HashMap::new();
    let (mut last, mut changes) = (String::new(), 0);
    for _ in 0..2_000 {
        for edge in &edges {
            // 2 % up and down around the same 2,000.
            let viewers = 2_000.0 * (1.0 + 0.04 * (noise(&mut state) - 0.5));
            edge.standing.on_heartbeat(viewers as u32, 10_000);
        }
        let answer = names(Some("52.37,4.92"), &edges).remove(0);
        changes += u32::from(answer != last);
        *answers.entry(answer.clone()).or_default() += 1;
        last = answer;
    }
    assert_eq!(changes, 1, "{answers:?}");
}

#[test]
fn nor_does_one_that_has_just_its_share() {
    let mut state = 5;
    let edges = [at("a", AMSTERDAM, 2_500, 10_000), at("b", BRUSSELS, 1_500, 10_000)];
    let before = names(Some(AMSTERDAM), &edges);
    for _ in 0..2_000 {
        for (edge, viewers) in edges.iter().zip([2_500.0, 1_500.0]) {
            let viewers = viewers * (1.0 + 0.08 * (noise(&mut state) - 0.5));
            edge.standing.on_heartbeat(viewers as u32, 10_000);
        }
        assert_eq!(names(Some(AMSTERDAM), &edges), before);
    }
}

#[test]
fn a_heartbeat_moves_the_standing_only_when_it_says_something() {
    let standing = Standing::new(1_000, 0);
    standing.on_heartbeat(1_050, 0);
    assert_eq!(standing.viewers(), 1_000);
    standing.on_heartbeat(1_060, 0);
    assert_eq!(standing.viewers(), 1_060);
    standing.on_heartbeat(1_100, 1_100);
    assert_eq!(standing.viewers(), 1_100, "full is always shown");
    let small = Standing::new(3, 0);
    small.on_heartbeat(4, 0);
    assert_eq!(small.viewers(), 4, "small numbers are exact");
    small.on_sent();
    small.on_sent();
    small.on_heartbeat(5, 0);
    assert_eq!(small.viewers(), 6);
    small.on_lost();
    assert_eq!(small.viewers(), 5);
}

fn places() -> impl Strategy<Value = Vec<(f64, f64, u32)>> {
    prop::collection::vec((-90.0f64..90.0, -180.0f64..180.0, 0u32..12_000), 1..32)
}

proptest! {
    #[test]
    fn at_equal_load_distance_alone_decides(
        from in (-90.0f64..90.0, -180.0f64..180.0),
        places in places(),
    ) {
        let from = Location::new(from.0, from.1).unwrap();
        let nodes: Vec<_> = places.iter().enumerate().map(|(index, (latitude, longitude, _))| {
            candidate(&format!("e{index}"), Location::new(*latitude, *longitude).ok(), 7, 100)
        }).collect();
        let ranked = rank(Some(from), &nodes, 100);
        prop_assert_eq!(ranked.len(), places.len());
        prop_assert!(ranked.is_sorted_by(|a, b| a.distance_km <= b.distance_km));
    }

    #[test]
    fn a_ranking_names_each_node_with_room_once_and_a_short_one_is_its_beginning(
        from in (-90.0f64..90.0, -180.0f64..180.0),
        places in places(),
        count in 0usize..8,
        placeless: bool,
    ) {
        let from = Location::new(from.0, from.1).ok().filter(|_| !placeless);
        let nodes: Vec<_> = places.iter().enumerate().map(|(index, place)| {
            let location = Location::new(place.0, place.1).ok().filter(|_| index % 5 != 4);
            candidate(&format!("e{index}"), location, place.2, 10_000)
        }).collect();
        let all = rank(from, &nodes, 100);
        let with_room = places.iter().filter(|place| place.2 < 10_000).count();
        prop_assert_eq!(all.len(), with_room);
        let mut names: Vec<_> = all.iter().map(index).collect();
        let few: Vec<_> = rank(from, &nodes, count).iter().map(index).collect();
        prop_assert_eq!(&names[..count.min(names.len())], &few[..]);
        names.sort_unstable();
        names.dedup();
        prop_assert_eq!(names.len(), with_room);
    }
}
