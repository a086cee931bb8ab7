mod blocking;
mod names;
mod orders;

use super::objects::KEPT;
use super::*;
use spyglass_media::Resource;

const TARGET: Duration = Duration::from_secs(4);
const ORIGIN: u64 = 11;

impl Listing for u64 {
    fn span(&self) -> Option<&Span> {
        None
    }
}

fn v(revision: u64) -> Version {
    Version { epoch: 1, revision }
}

fn meta(revision: u64) -> Meta {
    Meta {
        version: v(revision),
        position: Some(Position::closed(revision)),
        target: TARGET,
        ended: false,
        incarnation: ORIGIN,
        age: Duration::from_millis(200),
        unconfirmed: Duration::ZERO,
        part_target: None,
        last_parts: 0,
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A slot of a live broadcast whose watch lives.
fn slot(now: Instant) -> Slot<u64> {
    let mut slot = Slot::new(Limits::default(), now);
    slot.on_watch(true);
    let target = Some(TARGET);
    slot.on_standing(Some(Standing { incarnation: ORIGIN, begun: true, target }));
    slot
}

/// … that holds this revision.
fn holding(now: Instant, revision: u64) -> Slot<u64> {
    let mut slot = slot(now);
    let fetch = slot.on_poll(now, now).fetch.unwrap();
    assert_eq!(slot.on_filled(now, fetch.id, meta(revision), revision), Filled::Stored);
    slot
}

fn expire(slot: &mut Slot<u64>, revision: u64) -> bool {
    slot.on_expire(v(revision), Some(Position::closed(revision)), ORIGIN)
}

fn served(polled: &Polled<u64>) -> Option<u64> {
    match polled.poll {
        Poll::Serve { list, .. } => Some(list),
        _ => None,
    }
}

fn waits(polled: &Polled<u64>) -> bool {
    matches!(polled.poll, Poll::Wait { .. })
}

#[test]
fn the_first_poll_fetches_and_the_others_wait_with_it() {
    let now = Instant::now();
    let mut slot = slot(now);
    assert_eq!(slot.state(now), State::Empty);
    let first = slot.on_poll(now, now);
    assert!(first.declare && waits(&first));
    let fetch = first.fetch.unwrap();
    assert_eq!(slot.state(now), State::Fetching);
    for _ in 0..10 {
        let other = slot.on_poll(now, now);
        assert!(waits(&other) && other.fetch.is_none() && !other.declare);
    }
    assert_eq!(slot.on_filled(now, fetch.id, meta(1), 1), Filled::Stored);
    assert_eq!(slot.state(now), State::Fresh);
    let polled = slot.on_poll(now + ms(300), now);
    assert_eq!(polled.poll, Poll::Serve { list: 1, age: ms(500), aged: false });
}

#[test]
fn after_an_expire_one_poll_fetches_and_nobody_gets_the_old_list() {
    let now = Instant::now();
    let mut slot = holding(now, 1);
    assert!(expire(&mut slot, 2));
    assert_eq!(slot.state(now), State::Expired);
    let first = slot.on_poll(now, now);
    assert_eq!(first.fetch.map(|fetch| fetch.least), Some(v(2)));
    assert!(waits(&first) && waits(&slot.on_poll(now, now)));
    assert_eq!(slot.on_filled(now, first.fetch.unwrap().id, meta(2), 2), Filled::Stored);
    assert_eq!(served(&slot.on_poll(now, now)), Some(2));
}

#[test]
fn an_expire_without_a_viewer_fetches_nothing() {
    let now = Instant::now();
    let mut slot = holding(now, 1);
    for revision in 2..100 {
        expire(&mut slot, revision);
    }
    assert_eq!(slot.fetches, 1);
    assert_eq!(slot.on_poll(now, now).fetch.map(|fetch| fetch.least), Some(v(99)));
}

#[test]
fn an_expire_during_a_fetch_is_not_lost() {
    let now = Instant::now();
    let mut slot = holding(now, 1);
    expire(&mut slot, 2);
    let fetch = slot.on_poll(now, now).fetch.unwrap();
    expire(&mut slot, 3);
    // Newer than what was held and what was asked for: kept, and known old.
    assert_eq!(slot.on_filled(now, fetch.id, meta(2), 2), Filled::Stored);
    let again = slot.on_poll(now, now);
    assert!(waits(&again));
    let fetch = again.fetch.unwrap();
    assert_eq!(fetch.least, v(3));
    assert_eq!(slot.on_filled(now, fetch.id, meta(4), 4), Filled::Stored);
    assert_eq!(served(&slot.on_poll(now, now)), Some(4));
}

#[test]
fn the_first_viewer_may_leave() {
    let now = Instant::now();
    let mut slot = slot(now);
    let fetch = slot.on_poll(now, now).fetch.unwrap();
    let second = slot.on_poll(now + ms(10), now + ms(10));
    assert!(waits(&second) && second.fetch.is_none());
    // The first never asks again; its fetch ends for the second.
    slot.on_filled(now + ms(50), fetch.id, meta(1), 1);
    assert_eq!(served(&slot.on_poll(now + ms(50), now + ms(10))), Some(1));
}

#[test]
fn a_failed_fetch_is_tried_again_by_those_who_wait() {
    let now = Instant::now();
    let mut slot = slot(now);
    let fetch = slot.on_poll(now, now).fetch.unwrap();
    slot.on_failed(now, fetch.id);
    let woken = slot.on_poll(now, now);
    assert_eq!(woken.poll, Poll::Wait { until: now + ms(100), stale: false });
    assert!(woken.fetch.is_none());
    let fetch = slot.on_poll(now + ms(100), now).fetch.unwrap();
    slot.on_failed(now + ms(100), fetch.id);
    assert!(slot.on_poll(now + ms(299), now).fetch.is_none());
    assert!(slot.on_poll(now + ms(300), now).fetch.is_some());
}

#[test]
fn what_was_abandoned_is_fetched_anew_and_thrown_away_when_it_comes() {
    let now = Instant::now();
    let mut slot = slot(now);
    assert!(!slot.abandon(), "nothing is under way");
    let first = slot.on_poll(now, now).fetch.unwrap();
    assert!(slot.abandon());
    let second = slot.on_poll(now, now).fetch.expect("another");
    assert_eq!(slot.on_filled(now, first.id, meta(1), 1), Filled::Abandoned);
    assert_eq!(slot.on_filled(now, second.id, meta(1), 1), Filled::Stored);
}

#[test]
fn a_fetch_that_never_ends_is_given_up() {
    let now = Instant::now();
    let mut slot = holding(now, 1);
    expire(&mut slot, 2);
    let hung = slot.on_poll(now, now).fetch.unwrap();
    assert_eq!(hung.until, now + TARGET);
    let late = now + TARGET;
    assert_eq!(slot.on_poll(late, now).poll, Poll::GiveUp { known: true });
    let next = slot.on_poll(late, late);
    assert!(waits(&next) && next.fetch.is_none());
    let next = slot.on_poll(late + ms(100), late).fetch.unwrap();
    assert_ne!(next.id, hung.id);
    assert_eq!(slot.on_filled(late + ms(100), hung.id, meta(2), 2), Filled::Abandoned);
    slot.on_failed(late + ms(100), hung.id);
    assert_eq!(slot.on_filled(late + ms(200), next.id, meta(2), 2), Filled::Stored);
}

#[test]
fn a_known_old_list_is_never_served() {
    let now = Instant::now();
    let mut slot = holding(now, 1);
    expire(&mut slot, 2);
    let fetch = slot.on_poll(now, now).fetch.unwrap();
    slot.on_failed(now, fetch.id);
    for wait in [0, 500, 1_000, 2_000, 3_999] {
        assert!(waits(&slot.on_poll(now + ms(wait), now)), "{wait}");
    }
    assert_eq!(slot.on_poll(now + TARGET, now).poll, Poll::GiveUp { known: true });
}

#[test]
fn an_aged_list_is_served_after_a_second_with_its_true_age() {
    let now = Instant::now();
    let mut slot = holding(now, 1);
    let fresh = now + TARGET + ms(999);
    assert_eq!(slot.state(fresh), State::Fresh);
    let aged = now + TARGET + ms(1_000);
    let polled = slot.on_poll(aged, aged);
    assert_eq!(polled.fetch.map(|fetch| fetch.least), Some(v(1)));
    assert_eq!(polled.poll, Poll::Wait { until: aged + ms(1_000), stale: true });
    let polled = slot.on_poll(aged + ms(1_000), aged);
    assert_eq!(polled.poll, Poll::Serve { list: 1, age: ms(6_200), aged: true });
}

#[test]
fn the_same_version_again_is_fresh_again() {
    let now = Instant::now();
    let mut slot = holding(now, 1);
    let aged = now + TARGET + ms(1_000);
    let fetch = slot.on_poll(aged, aged).fetch.unwrap();
    assert_eq!(slot.on_filled(aged, fetch.id, meta(1), 1), Filled::Stored);
    assert_eq!(slot.state(aged), State::Fresh);
}

#[test]
fn without_a_watch_a_copy_is_good_for_half_the_target() {
    let now = Instant::now();
    let mut slot = holding(now, 1);
    slot.on_watch(false);
    assert_eq!(slot.state(now + ms(1_999)), State::Fresh);
    assert_eq!(slot.state(now + ms(2_000)), State::Expired);
    slot.on_watch(true);
    assert_eq!(slot.state(now + ms(2_000)), State::Fresh);
}

#[test]
fn late_doubled_and_reordered_notices_do_no_harm() {
    let now = Instant::now();
    let mut slot = holding(now, 5);
    for revision in [5, 3, 5, 1, 4] {
        assert!(!expire(&mut slot, revision) || slot.wanted <= v(5));
    }
    assert_eq!(slot.state(now), State::Fresh);
    for revision in [7, 6, 7] {
        expire(&mut slot, revision);
    }
    assert_eq!(slot.on_poll(now, now).fetch.map(|fetch| fetch.least), Some(v(7)));
}

#[test]
fn a_fill_older_than_asked_or_held_is_discarded() {
    let now = Instant::now();
    let mut slot = holding(now, 5);
    expire(&mut slot, 7);
    let fetch = slot.on_poll(now, now).fetch.unwrap();
    assert_eq!(slot.on_filled(now, fetch.id, meta(6), 6), Filled::TooOld);
    let fetch = slot.on_poll(now + ms(100), now).fetch.unwrap();
    assert_eq!(slot.on_filled(now + ms(100), fetch.id, meta(4), 4), Filled::TooOld);
    assert_eq!(slot.held().map(|held| held.version), Some(v(5)));
}

#[test]
fn a_new_incarnation_resets_what_is_wanted_and_not_what_is_held() {
    let now = Instant::now();
    let mut slot = holding(now, 5);
    expire(&mut slot, 9);
    assert_eq!(slot.state(now), State::Expired);
    // Killed before anyone fetched 9, and back with what its journal had.
    slot.on_standing(Some(Standing { incarnation: 12, begun: true, target: Some(TARGET) }));
    assert_eq!(slot.state(now), State::Fresh);
    assert_eq!(served(&slot.on_poll(now, now)), Some(5));
    // A late word of the old process.
    assert!(!expire(&mut slot, 10));
    assert_eq!(slot.state(now), State::Fresh);
    assert!(slot.on_expire(v(6), None, 12));
    let fetch = slot.on_poll(now, now).fetch.unwrap();
    assert_eq!(fetch.least, v(6));
    assert_eq!(slot.on_filled(now, fetch.id, meta(6), 6), Filled::Retired);
    let fetch = slot.on_poll(now + ms(100), now).fetch.unwrap();
    let renewed = Meta { incarnation: 12, ..meta(6) };
    assert_eq!(slot.on_filled(now + ms(100), fetch.id, renewed, 6), Filled::Stored);
}

#[test]
fn a_broadcast_that_moves_back_to_its_first_origin_is_fetched_there() {
    let now = Instant::now();
    let mut slot = holding(now, 5);
    let standing = |incarnation| Some(Standing { incarnation, begun: true, target: Some(TARGET) });
    slot.on_standing(standing(12));
    slot.on_standing(standing(ORIGIN));
    assert!(expire(&mut slot, 6));
    let fetch = slot.on_poll(now, now).fetch.unwrap();
    assert_eq!(slot.on_filled(now, fetch.id, meta(6), 6), Filled::Stored);
}

#[test]
fn the_end_is_served_for_ever() {
    let now = Instant::now();
    let mut slot = slot(now);
    let fetch = slot.on_poll(now, now).fetch.unwrap();
    slot.on_filled(now, fetch.id, Meta { ended: true, ..meta(9) }, 9);
    slot.on_watch(false);
    let later = now + Duration::from_secs(50);
    assert_eq!(slot.state(later), State::Ended);
    assert_eq!(served(&slot.on_poll(later, later)), Some(9));
}

#[test]
fn a_broadcast_that_has_not_begun_is_waited_for_and_not_fetched() {
    let now = Instant::now();
    let mut slot: Slot<u64> = Slot::new(Limits::default(), now);
    slot.on_watch(true);
    let created = Standing { incarnation: ORIGIN, begun: false, target: None };
    slot.on_standing(Some(created));
    let polled = slot.on_poll(now, now);
    assert_eq!(polled.poll, Poll::Wait { until: now + ms(8_000), stale: false });
    assert!(polled.fetch.is_none());
    assert_eq!(slot.on_poll(now + ms(8_000), now).poll, Poll::GiveUp { known: false });
    // Any sign of life wakes those who wait, and the first of them fetches.
    assert!(slot.on_standing(Some(Standing { begun: true, ..created })));
    assert!(slot.on_poll(now, now).fetch.is_some());
}

#[test]
fn without_an_origin_nothing_is_fetched() {
    let now = Instant::now();
    let mut slot: Slot<u64> = Slot::new(Limits::default(), now);
    let polled = slot.on_poll(now, now);
    assert!(waits(&polled) && polled.fetch.is_none());
    let standing = Standing { incarnation: ORIGIN, begun: false, target: None };
    assert!(slot.on_standing(Some(standing)));
    // Its watch is broken: nobody would tell when it begins.
    assert!(slot.on_poll(now, now).fetch.is_some());
}

#[test]
fn interest_ends_30_s_after_the_last_viewer() {
    let now = Instant::now();
    let mut slot = holding(now, 1);
    let last = now + ms(20_000);
    slot.on_poll(last, last);
    assert_eq!(slot.next_deadline(), Some(last + ms(30_000)));
    assert!(!slot.on_deadline(now + ms(30_000)));
    assert!(slot.on_deadline(last + ms(30_000)));
    assert_eq!(slot.next_deadline(), None);
    assert!(slot.on_poll(last + ms(31_000), last + ms(31_000)).declare);
}

#[test]
fn a_broadcast_is_attended_while_requests_come() {
    let now = Instant::now();
    let mut slot = holding(now, 1);
    slot.on_poll(now, now);
    assert_eq!(slot.attended(), Some(now));
    let later = now + Duration::from_secs(5);
    slot.on_viewer(later);
    assert_eq!(slot.attended(), Some(now), "a player that polls");
    let much_later = later + Duration::from_secs(20);
    slot.on_viewer(much_later);
    assert_eq!(slot.attended(), Some(much_later), "somebody else, after a pause");
    slot.on_deadline(much_later + Duration::from_secs(31));
    assert_eq!(slot.attended(), None);
}

#[test]
fn what_lies_beyond_the_known_position_does_not_exist() {
    let now = Instant::now();
    let chunk = |epoch, sequence| Resource::Chunk { epoch, sequence };
    assert_eq!(slot(now).may_exist(chunk(1, 1)), None);
    let mut slot = holding(now, 5);
    assert_eq!(slot.may_exist(chunk(1, 5)), Some(true));
    assert_eq!(slot.may_exist(chunk(1, 6)), Some(false));
    assert_eq!(slot.may_exist(chunk(2, 5)), Some(false));
    assert_eq!(slot.may_exist(Resource::Init { epoch: 2 }), Some(false));
    assert_eq!(slot.may_exist(Resource::Part { epoch: 1, sequence: 5, part: 0 }), Some(false));
    expire(&mut slot, 6);
    assert_eq!(slot.may_exist(chunk(1, 6)), Some(true));
    let slot = holding(now, 2_000);
    assert_eq!(slot.may_exist(chunk(1, 2_000 - KEPT)), Some(true));
    assert_eq!(slot.may_exist(chunk(1, 2_000 - KEPT - 1)), Some(false));
}

#[test]
fn a_gateway_that_lags_behind_the_origins_restart_is_not_heeded() {
    let now = Instant::now();
    // This edge has started after the origin did: it never knew process 10.
    let mut slot = holding(now, 5);
    assert!(!slot.on_relayed(v(9), Some(Position::closed(9)), 10));
    assert!(!slot.believes(10) && slot.believes(ORIGIN));
    assert_eq!(served(&slot.on_poll(now, now)), Some(5), "nothing newer is known");
    // What the current process says is heeded, by whoever it comes.
    slot.on_relayed(v(6), Some(Position::closed(6)), ORIGIN);
    let fetch = slot.on_poll(now, now).fetch.unwrap();
    assert_eq!(fetch.least, v(6));
    // Taken for the newer process, 10 would have made this one a retired one.
    assert_eq!(slot.on_filled(now, fetch.id, meta(6), 6), Filled::Stored);
}

#[test]
fn what_a_gateway_had_for_a_while_ages_from_when_the_origin_vouched_for_it() {
    let now = Instant::now();
    let mut slot = slot(now);
    let fetch = slot.on_poll(now, now).fetch.unwrap();
    let kept = Meta { unconfirmed: ms(3_000), ..meta(1) };
    let now = now + ms(10_000);
    let fetch = slot.on_poll(now, now).fetch.unwrap_or(fetch);
    assert_eq!(slot.on_filled(now, fetch.id, kept, 1), Filled::Stored);
    let polled = slot.on_poll(now, now);
    assert_eq!(polled.poll, Poll::Serve { list: 1, age: ms(3_200), aged: false });
    // Target duration and a second, of which 3 s are gone.
    assert!(served(&slot.on_poll(now + ms(1_999), now + ms(1_999))).is_some());
    assert!(waits(&slot.on_poll(now + ms(2_000), now + ms(2_000))));
}

#[test]
fn what_another_edge_has_heard_of_is_fetched() {
    let now = Instant::now();
    let mut slot = holding(now, 1);
    slot.on_heard(v(3));
    slot.on_heard(v(2));
    let fetch = slot.on_poll(now, now).fetch.unwrap();
    assert_eq!(fetch.least, v(3));
    assert_eq!(slot.on_filled(now, fetch.id, meta(2), 2), Filled::TooOld);
    assert_eq!(slot.newest(), Some((v(3), Some(Position::closed(1)), ORIGIN)));
}
