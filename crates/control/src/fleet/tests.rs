use spyglass_media::UtcTime;

use super::*;
use crate::admission::Seat;

fn registration(role: Role, incarnation: u64) -> Registration {
    Registration {
        role,
        version: "0".to_owned(),
        http: "http://h".to_owned(),
        rtmp: String::new(),
        grpc: String::new(),
        location: None,
        incarnation,
    }
}

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn lease(viewer: u8, seat: u32) -> Lease {
    Lease {
        broadcast: BroadcastId::from_random([1; 16]),
        viewer: ViewerId::from_random([viewer; 16]),
        push: seat > 0,
        seat: (seat > 0).then_some(Seat { number: seat, generation: 9 }),
        who: crate::joined::Who::default(),
        since: UtcTime::default(),
    }
}

fn key(viewer: u8) -> (BroadcastId, ViewerId) {
    let lease = lease(viewer, 0);
    (lease.broadcast, lease.viewer)
}

fn held(viewer: u8, seat: u32) -> (BroadcastId, SeatLease) {
    lease(viewer, seat).seat_lease().unwrap()
}

/// A fleet of one edge and one origin, the latter through session 1.
fn fleet(now: Instant) -> Fleet {
    let mut fleet = Fleet::new(4, 100);
    fleet.on_register(&id("o"), 1, registration(Role::Origin, 7), now).unwrap();
    fleet.on_register(&id("e"), 2, registration(Role::Edge, 7), now).unwrap();
    fleet
}

#[test]
fn a_silent_node_is_lost_and_its_viewers_with_it() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let mut fleet = fleet(start);
    let (broadcast, seat) = held(1, 3);
    let changes = fleet.on_leases(&id("o"), 1, vec![lease(1, 3), lease(2, 0)], &[]);
    assert_eq!(changes, [SeatChange::Begun(broadcast, seat)]);
    fleet.on_heartbeat(&id("e"), 2, Load::default(), start + second * 3);
    assert!(fleet.on_deadline(start + SILENCE - second).is_empty());
    let lost = fleet.on_deadline(start + SILENCE);
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].seats, [SeatChange::Unknown(broadcast, seat)]);
    assert_eq!(fleet.audience().all().total(), 0);
    assert!(fleet.candidates(Role::Origin).is_empty());
    assert_eq!(fleet.lost_for(&id("o"), start + SILENCE), Some(SILENCE));
    assert_eq!(fleet.listed(start + SILENCE).count(), 2, "its neighbours may still reach it");
    let later = start + SILENCE + LINGER;
    assert_eq!(fleet.listed(later).map(|node| node.id.to_string()).collect::<Vec<_>>(), ["e"]);
    // One heartbeat, and it is back.
    assert!(fleet.on_heartbeat(&id("o"), 1, Load::default(), later));
    assert_eq!(fleet.candidates(Role::Origin).len(), 1);
}

#[test]
fn a_node_that_leaves_takes_nobody_and_its_name_is_free() {
    let now = Instant::now();
    let mut fleet = fleet(now);
    assert_eq!(fleet.candidates(Role::Edge).len(), 1);
    assert!(fleet.heard_from_another(&id("e"), 8).is_some());
    assert!(!fleet.on_leaving(&id("e"), 1), "another stream's");
    assert_eq!(fleet.candidates(Role::Edge).len(), 1);
    assert!(fleet.on_leaving(&id("e"), 2));
    assert!(fleet.candidates(Role::Edge).is_empty() && fleet.is_away(&id("e"), now));
    assert_eq!(fleet.node(&id("e")).unwrap().state, State::Draining);
    assert!(!fleet.is_draining(&id("e")), "the operator decided nothing");
    assert!(fleet.heard_from_another(&id("e"), 8).is_none());
    fleet.on_register(&id("e"), 3, registration(Role::Edge, 8), now).unwrap();
    assert_eq!(fleet.candidates(Role::Edge).len(), 1);
    assert!(!fleet.is_away(&id("e"), now));
}

#[test]
fn a_newer_stream_silences_the_older_one() {
    let now = Instant::now();
    let mut fleet = fleet(now);
    let again = fleet.on_register(&id("o"), 3, registration(Role::Origin, 7), now).unwrap();
    assert_eq!(again, Registered { restarted: false, changed: false });
    assert!(fleet.on_leases(&id("o"), 1, vec![lease(1, 1)], &[]).is_empty());
    let later = now + SILENCE;
    assert!(!fleet.on_heartbeat(&id("o"), 1, Load::default(), later));
    assert_eq!(fleet.on_deadline(later).len(), 2);
    let anew = fleet.on_register(&id("o"), 4, registration(Role::Origin, 8), later).unwrap();
    assert_eq!(anew, Registered { restarted: true, changed: true });
}

#[test]
fn a_digest_ends_what_it_does_not_name() {
    let now = Instant::now();
    let mut fleet = fleet(now);
    let origin = id("o");
    fleet.on_leases(&origin, 1, vec![lease(1, 1), lease(2, 2), lease(3, 0)], &[]);
    let (broadcast, stays) = held(2, 2);
    let again = fleet.on_digest(&origin, 1, vec![lease(2, 2)], true, false);
    assert_eq!(again, [SeatChange::Begun(broadcast, stays)], "another control may doubt it");
    // Deltas between the pages count.
    fleet.on_leases(&origin, 1, vec![lease(5, 0)], &[key(3)]);
    let changes = fleet.on_digest(&origin, 1, vec![lease(4, 4)], false, true);
    let (_, gone) = held(1, 1);
    let (_, came) = held(4, 4);
    assert_eq!(changes, [SeatChange::Ended(broadcast, gone), SeatChange::Begun(broadcast, came)]);
    assert_eq!(fleet.audience().counts(broadcast).push, 2);
    assert_eq!(fleet.audience().counts(broadcast).hls, 1);
    // A page without its beginning ends nothing.
    assert!(fleet.on_digest(&origin, 1, vec![], false, true).is_empty());
    assert_eq!(fleet.audience().all().total(), 3);
    assert_eq!(fleet.on_digest(&origin, 1, vec![], true, true).len(), 2);
}

#[test]
fn a_draining_node_takes_nobody_and_is_still_listed() {
    let now = Instant::now();
    let mut fleet = fleet(now);
    assert!(fleet.on_drain(&id("e"), true));
    assert!(!fleet.on_drain(&id("x"), true));
    assert!(fleet.candidates(Role::Edge).is_empty());
    assert_eq!(fleet.node(&id("e")).unwrap().state, State::Draining);
    assert_eq!(fleet.listed(now).count(), 2);
    fleet.on_register(&id("e"), 5, registration(Role::Edge, 8), now).unwrap();
    assert_eq!(fleet.node(&id("e")).unwrap().state, State::Draining, "a restart does not undo it");
    assert!(fleet.on_drain(&id("e"), false));
    assert_eq!(fleet.candidates(Role::Edge).len(), 1);
}

#[test]
fn viewers_just_sent_count_until_the_load_shows_them() {
    let now = Instant::now();
    let mut fleet = fleet(now);
    // The same list serves all decisions until a node comes or goes.
    let edges = fleet.candidates(Role::Edge);
    assert!(Arc::ptr_eq(&edges, &fleet.candidates(Role::Edge)));
    for _ in 0..8 {
        edges[0].standing.on_sent();
    }
    assert_eq!(edges[0].standing.viewers(), 8);
    let load = Load { viewers: 8, ..Load::default() };
    for expected in [12, 10, 9, 8] {
        fleet.on_heartbeat(&id("e"), 2, load, now);
        assert_eq!(edges[0].standing.viewers(), expected);
    }
    fleet.on_deadline(now + SILENCE);
    assert!(fleet.candidates(Role::Edge).is_empty(), "lost");
    assert!(fleet.on_heartbeat(&id("e"), 2, load, now));
    assert_eq!(fleet.candidates(Role::Edge).len(), 1);
}

#[test]
fn broadcasts_are_load_where_they_are_published() {
    let now = Instant::now();
    let mut fleet = fleet(now);
    let load = Load { viewers: 3, broadcasts: 4, ..Load::default() };
    for (node, session, role, viewers) in [("o", 1, Role::Origin, 7), ("e", 2, Role::Edge, 3)] {
        fleet.on_heartbeat(&id(node), session, load, now);
        assert_eq!(fleet.candidates(role)[0].standing.viewers(), viewers);
    }
}

#[test]
fn what_the_state_remembers_is_lost_until_heard_of() {
    let now = Instant::now();
    let mut fleet = Fleet::new(2, 10);
    fleet.restore(id("o"), registration(Role::Origin, 7), true, now);
    assert_eq!(fleet.node(&id("o")).unwrap().state, State::Lost);
    assert_eq!(fleet.listed(now).count(), 1);
    let back = fleet.on_register(&id("o"), 1, registration(Role::Origin, 7), now).unwrap();
    assert_eq!(back, Registered { restarted: false, changed: false });
    assert_eq!(fleet.node(&id("o")).unwrap().state, State::Draining);
    assert!(fleet.on_register(&id("a"), 2, registration(Role::Edge, 1), now).is_ok());
    assert_eq!(fleet.on_register(&id("b"), 3, registration(Role::Edge, 1), now), Err(Full));
    fleet.on_deadline(now + FORGET);
    assert_eq!(fleet.forget(now + FORGET).len(), 2);
    assert!(fleet.on_register(&id("b"), 3, registration(Role::Edge, 1), now + FORGET).is_ok());
}

#[test]
fn a_node_that_another_control_hears_is_not_lost_to_anybody() {
    let start = Instant::now();
    let mut fleet = fleet(start);
    fleet.on_leases(&id("o"), 1, vec![lease(1, 3)], &[]);
    let origin = |node: &NodeId| *node == id("o");
    assert!(fleet.on_peers(origin, start).is_empty());
    let lost = fleet.on_deadline(start + SILENCE);
    let (origins, edges): (Vec<_>, Vec<_>) = lost.into_iter().partition(|lost| *lost.id == id("o"));
    assert_eq!((origins[0].seats.len(), edges.len()), (0, 1), "its seats are another's business");
    let later = start + FORGET * 2;
    assert_eq!(fleet.lost_for(&id("o"), later), None);
    assert_eq!(fleet.listed(later).count(), 1);
    assert_eq!(fleet.forget(later), [id("e")]);
    // That control is gone too: from now on it is lost.
    assert_eq!(fleet.on_peers(|_| false, later), [id("o")]);
    assert!(fleet.on_peers(|_| false, later).is_empty());
    assert_eq!(fleet.lost_for(&id("o"), later + SILENCE), Some(SILENCE));
}

#[test]
fn an_origin_that_stands_in_no_list_is_missed_from_when_it_is_asked_for() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let mut fleet = fleet(start);
    let (known, unknown) = (id("o"), id("x"));
    let both = || [&known, &unknown].into_iter();
    // Another control hears it.
    fleet.on_origins(both(), |node| *node == unknown, start);
    assert_eq!(fleet.lost_for(&unknown, start + second), None);
    // Nobody does.
    fleet.on_origins(both(), |_| false, start + second);
    fleet.on_origins(both(), |_| false, start + second * 3);
    assert_eq!(fleet.lost_for(&unknown, start + second * 3), Some(second * 2));
    assert_eq!(fleet.lost_for(&known, start + second * 3), None);
    // It is back.
    fleet.on_origins(both(), |node| *node == unknown, start + second * 4);
    assert_eq!(fleet.lost_for(&unknown, start + second * 4), None);
}

#[test]
fn what_another_control_writes_of_a_node_is_followed() {
    let now = Instant::now();
    let mut fleet = fleet(now);
    assert_eq!(fleet.candidates(Role::Edge).len(), 1);
    let other = Registration { http: "http://old".to_owned(), ..registration(Role::Edge, 6) };
    assert!(fleet.on_stored(id("e"), other.clone(), true, now));
    assert!(!fleet.on_stored(id("e"), other.clone(), true, now));
    let edge = fleet.node(&id("e")).unwrap();
    assert_eq!((edge.state, &*edge.registration.http), (State::Draining, "http://h"));
    assert!(fleet.candidates(Role::Edge).is_empty());
    assert!(!fleet.on_dropped(&id("e")), "it is here");
    assert!(!fleet.on_stored(id("x"), other.clone(), false, now));
    assert_eq!(fleet.node(&id("x")).unwrap().state, State::Lost);
    assert!(fleet.on_dropped(&id("x")));
    assert!(fleet.node(&id("x")).is_none());
}

#[test]
fn gateways_are_used_when_an_edge_that_is_there_says_so() {
    let start = Instant::now();
    let mut fleet = fleet(start);
    assert!(!fleet.uses_gateways());
    let load = Load { uses_gateways: true, ..Load::default() };
    fleet.on_heartbeat(&id("e"), 2, load, start);
    assert!(fleet.uses_gateways());
    fleet.on_deadline(start + SILENCE);
    assert!(!fleet.uses_gateways(), "it is lost");
    let earlier = Load { through_gateway: 1, ..Load::default() };
    fleet.on_heartbeat(&id("e"), 2, earlier, start + SILENCE);
    assert!(fleet.uses_gateways(), "an earlier release says so by what it does");
}
