//! Blocking reload: what a poll waits for.

use super::*;

const PART: Duration = Duration::from_millis(210);

fn at(sequence: u64, part: Option<u32>) -> Position {
    Position { sequence, part }
}

/// A list of this revision whose newest media this is; closed chunks have 15
/// parts.
fn parts(revision: u64, position: Position) -> Meta {
    Meta { position: Some(position), part_target: Some(PART), last_parts: 15, ..meta(revision) }
}

fn holding_parts(now: Instant, revision: u64, position: Position) -> Slot<u64> {
    let mut slot = slot(now);
    let fetch = slot.on_poll(now, now).fetch.unwrap();
    slot.on_filled(now, fetch.id, parts(revision, position), revision);
    slot
}

fn ask(slot: &Slot<u64>, now: Instant, sequence: u64, part: Option<u32>) -> Asked {
    slot.ask(now, Some(Awaited { sequence, part }))
}

#[test]
fn what_is_listed_is_served_at_once_however_old_the_number() {
    let now = Instant::now();
    for (listed, sequence, part) in [
        (at(7, Some(3)), 7, Some(3)),
        (at(7, Some(3)), 7, Some(0)),
        (at(7, Some(3)), 6, None),
        (at(7, Some(3)), 6, Some(99)),
        (at(7, Some(3)), 0, Some(2)),
        (at(7, None), 7, None),
        (at(7, None), 7, Some(14)),
        (at(7, None), 3, None),
    ] {
        let mut slot = holding_parts(now, 1, listed);
        let asked = ask(&slot, now, sequence, part);
        assert_eq!(served(&slot.on_poll(now, asked)), Some(1), "{listed:?} {sequence} {part:?}");
    }
}

#[test]
fn what_is_not_listed_is_waited_for_without_a_fetch() {
    let now = Instant::now();
    for (listed, sequence, part) in [
        (at(7, Some(3)), 7, Some(4)),
        (at(7, Some(3)), 7, None),
        (at(7, Some(3)), 8, Some(0)),
        (at(7, Some(3)), 8, None),
        // Beyond the last part of a chunk: the first of the next.
        (at(7, None), 7, Some(15)),
        (at(7, None), 8, Some(0)),
        (at(7, None), 9, None),
        (at(7, Some(3)), 7, Some(3 + 14)),
    ] {
        let mut slot = holding_parts(now, 1, listed);
        let asked = ask(&slot, now, sequence, part);
        let polled = slot.on_poll(now, asked);
        assert!(waits(&polled) && polled.fetch.is_none(), "{listed:?} {sequence} {part:?}");
    }
}

#[test]
fn what_no_client_can_know_of_is_refused_at_once() {
    let now = Instant::now();
    for (listed, sequence, part) in [
        // The last chunk listed is 6, then 7.
        (at(7, Some(3)), 9, None),
        (at(7, None), 10, None),
        (at(7, None), u64::MAX, Some(u32::MAX)),
        (at(7, Some(3)), 7, Some(3 + 15)),
        (at(7, Some(3)), 8, Some(14)),
        (at(7, None), 7, Some(15 + 14)),
    ] {
        let mut slot = holding_parts(now, 1, listed);
        let asked = ask(&slot, now, sequence, part);
        let polled = slot.on_poll(now, asked);
        assert_eq!(polled.poll, Poll::TooFar, "{listed:?} {sequence} {part:?}");
    }
}

#[test]
fn behind_a_gap_a_part_far_ahead_is_refused_too() {
    let now = Instant::now();
    let mut slot = slot(now);
    let fetch = slot.on_poll(now, now).fetch.unwrap();
    slot.on_filled(now, fetch.id, Meta { last_parts: 0, ..parts(1, at(7, None)) }, 1);
    let asked = ask(&slot, now, 7, Some(14));
    assert_eq!(served(&slot.on_poll(now, asked)), Some(1));
    let asked = ask(&slot, now, 7, Some(100_000));
    assert_eq!(slot.on_poll(now, asked).poll, Poll::TooFar);
}

#[test]
fn what_is_listed_is_served_aged_to_who_asks_for_it_by_number() {
    let now = Instant::now();
    let mut slot = holding_parts(now, 1, at(7, Some(3)));
    let aged = now + TARGET + ms(1_000);
    for (sequence, part, poll) in
        [(7, Some(3), Poll::Serve { list: 1, age: ms(6_200), aged: true }), (12, None, Poll::Late)]
    {
        let asked = ask(&slot, aged, sequence, part);
        assert!(waits(&slot.on_poll(aged, asked)), "the origin may say something newer");
        assert_eq!(slot.on_poll(aged + ms(1_000), asked).poll, poll, "{sequence} {part:?}");
    }
}

#[test]
fn a_notice_that_brings_it_fetches_and_one_that_does_not_leaves_the_waiter_alone() {
    let now = Instant::now();
    let mut slot = holding_parts(now, 1, at(7, Some(3)));
    let asked = ask(&slot, now, 7, Some(5));
    assert!(waits(&slot.on_poll(now, asked)));
    slot.on_expire(v(2), Some(at(7, Some(4))), ORIGIN);
    let polled = slot.on_poll(now, asked);
    assert!(waits(&polled) && polled.fetch.is_none());
    slot.on_expire(v(3), Some(at(7, Some(5))), ORIGIN);
    let fetch = slot.on_demand(now).unwrap();
    assert_eq!(slot.on_demand(now), None, "one fetch");
    assert!(waits(&slot.on_poll(now, asked)));
    slot.on_filled(now, fetch.id, parts(3, at(7, Some(5))), 3);
    assert_eq!(served(&slot.on_poll(now, asked)), Some(3));
}

#[test]
fn a_wait_ends_after_three_target_durations_or_nine_seconds() {
    for (target, longest) in [(TARGET, 9_000), (ms(2_000), 6_000)] {
        let now = Instant::now();
        let mut slot = slot(now);
        let fetch = slot.on_poll(now, now).fetch.unwrap();
        let meta = Meta { target, ..parts(1, at(7, None)) };
        slot.on_filled(now, fetch.id, meta, 1);
        let asked = ask(&slot, now, 8, None);
        let mut time = now;
        loop {
            let polled = slot.on_poll(time, asked);
            if let Some(fetch) = polled.fetch {
                // The list ages out meanwhile, and comes again as it was.
                slot.on_filled(time, fetch.id, meta, 1);
                continue;
            }
            match polled.poll {
                Poll::Wait { until, .. } => time = until,
                other => {
                    assert_eq!(other, Poll::Late);
                    break;
                }
            }
        }
        assert_eq!(time, now + ms(longest));
    }
}

#[test]
fn the_end_answers_whoever_waits() {
    let now = Instant::now();
    let mut slot = holding_parts(now, 1, at(7, Some(3)));
    let asked = ask(&slot, now, 8, None);
    assert!(waits(&slot.on_poll(now, asked)));
    slot.on_expire(v(2), Some(at(7, None)), ORIGIN);
    let fetch = slot.on_demand(now).unwrap();
    slot.on_filled(now, fetch.id, Meta { ended: true, ..parts(2, at(7, None)) }, 2);
    assert_eq!(served(&slot.on_poll(now, asked)), Some(2));
    let far = ask(&slot, now, 1_000, Some(1_000));
    assert_eq!(served(&slot.on_poll(now, far)), Some(2), "ignored after the end");
}

#[test]
fn a_list_that_changes_faster_than_it_is_fetched_is_served_all_the_same() {
    let now = Instant::now();
    let mut slot = holding_parts(now, 1, at(7, Some(0)));
    slot.on_expire(v(2), Some(at(7, Some(1))), ORIGIN);
    let asked = slot.ask(now, None);
    let fetch = slot.on_poll(now, asked).fetch.unwrap();
    slot.on_expire(v(3), Some(at(7, Some(2))), ORIGIN);
    slot.on_filled(now + ms(300), fetch.id, parts(2, at(7, Some(1))), 2);
    assert_eq!(served(&slot.on_poll(now + ms(300), asked)), Some(2));
    // Who asks only now has been told of a newer one.
    let asked = slot.ask(now + ms(300), None);
    assert!(waits(&slot.on_poll(now + ms(300), asked)));
}

#[test]
fn a_part_may_be_asked_for_when_it_is_there_or_next() {
    let now = Instant::now();
    let mut slot = holding_parts(now, 1, at(7, Some(3)));
    let part = |sequence, part| Resource::Part { epoch: 1, sequence, part };
    for (resource, exists, hinted) in [
        (part(7, 3), true, false),
        (part(6, 0), true, false),
        (part(7, 4), false, true),
        (part(7, 5), false, false),
        (part(8, 0), false, false),
        (part(6, 1_000), false, false),
        (Resource::Part { epoch: 2, sequence: 7, part: 4 }, false, false),
    ] {
        let found = (slot.may_exist(resource), slot.is_hinted(resource));
        assert_eq!(found, (Some(exists), hinted), "{resource}");
    }
    slot.on_expire(v(2), Some(at(7, None)), ORIGIN);
    assert!(slot.is_hinted(part(8, 0)) && !slot.is_hinted(part(7, 4)));
    // A list without parts has none to hint.
    let slot = holding(now, 7);
    assert!(!slot.is_hinted(part(8, 0)));
    assert_eq!(slot.may_exist(part(6, 0)), Some(false));
}
