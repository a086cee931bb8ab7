//! Who gets which seat of one broadcast.
//!
//! A seat is the lowest free number when a viewer joins. It is reserved until
//! the viewer connects, taken while it is connected, and kept for a moment
//! after the connection is gone, so that a hiccup costs nobody a place.
//!
//! Pure: the record is read and changed here; keeping it in the store and
//! sharing one write among many joins is `seats.rs`. Times are UTC, because
//! the record outlives the process.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spyglass_media::{UtcTime, ViewerId};

/// What the operator decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Seats there are: the larger of push viewers and commenters.
    pub seats: u32,
    /// Those of them that are pushed to, from 1.
    pub push: u32,
    /// How long a seat waits for its viewer to connect.
    pub reservation: Duration,
    /// How long a seat waits for a viewer whose connection is gone.
    pub grace: Duration,
}

/// A seat given to one viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seat {
    /// From 1.
    pub number: u32,
    /// Larger than that of whoever sat here before.
    pub generation: u32,
}

/// A seat whose viewer watches, as a node reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeatLease {
    /// Who is connected.
    pub viewer: ViewerId,
    /// With which seat.
    pub seat: Seat,
}

/// The seats of one broadcast, as they stand in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seats {
    /// The newest generation given.
    generation: u32,
    taken: BTreeMap<u32, Taken>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Taken {
    viewer: ViewerId,
    generation: u32,
    /// When the seat lapses, in milliseconds since the Unix epoch; `None` while
    /// the viewer is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_ms: Option<i64>,
    /// The viewer gave it up while connected: no grace for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    leaving: bool,
}

impl Taken {
    fn is(&self, lease: &SeatLease) -> bool {
        self.viewer == lease.viewer && self.generation == lease.seat.generation
    }
}

impl Seats {
    /// The seat that `viewer` has, reserved anew, or else the lowest free one;
    /// `None` when all are taken. Who sits beyond the push tier moves into it
    /// when there is room.
    pub fn on_join(&mut self, viewer: ViewerId, limits: Limits, now: UtcTime) -> Option<Seat> {
        self.on_deadline(now);
        if self.lowest_free(limits.push).is_some() {
            self.taken.retain(|number, held| *number <= limits.push || held.viewer != viewer);
        }
        if let Some((&number, held)) =
            self.taken.iter_mut().find(|(_, held)| held.viewer == viewer && !held.leaving)
        {
            let until = (now + limits.reservation).millis();
            held.until_ms = held.until_ms.map(|held| held.max(until));
            return Some(Seat { number, generation: held.generation });
        }
        let number = self.lowest_free(limits.seats)?;
        let generation = self.next_generation(now);
        let until_ms = Some((now + limits.reservation).millis());
        self.taken.insert(number, Taken { viewer, generation, until_ms, leaving: false });
        Some(Seat { number, generation })
    }

    /// Whether this viewer has one.
    pub fn holds(&self, viewer: ViewerId) -> bool {
        self.taken.values().any(|held| held.viewer == viewer)
    }

    fn lowest_free(&self, seats: u32) -> Option<u32> {
        let gap = (1..).zip(self.taken.keys()).find(|(number, taken)| number != *taken);
        let number = match gap {
            Some((number, _)) => number,
            None => u32::try_from(self.taken.len()).ok()?.checked_add(1)?,
        };
        (number <= seats).then_some(number)
    }

    /// Follows the clock where it can, so that generations go on growing even
    /// when control has lost this record.
    fn next_generation(&mut self, now: UtcTime) -> u32 {
        let clock = u32::try_from(now.millis() / 1000).unwrap_or_default();
        self.generation = self.generation.saturating_add(1).max(clock);
        self.generation
    }

    /// A viewer is connected with its seat. One that nobody holds becomes its
    /// own again; a seat given to somebody newer stays theirs.
    pub fn on_lease(&mut self, lease: &SeatLease, limits: Limits) -> bool {
        let Seat { number, generation } = lease.seat;
        if number == 0 || number > limits.seats {
            return false;
        }
        let taken = Taken { viewer: lease.viewer, generation, until_ms: None, leaving: false };
        match self.taken.get_mut(&number) {
            Some(held) if held.is(lease) => held.until_ms.take().is_some(),
            Some(held) if held.generation >= generation => false,
            _ => {
                self.generation = self.generation.max(generation);
                self.taken.insert(number, taken);
                true
            }
        }
    }

    /// A push connection is gone; the seat is kept for `grace`, unless the
    /// viewer gave it up.
    pub fn on_lease_end(&mut self, lease: &SeatLease, grace: Duration, now: UtcTime) -> bool {
        let Some(held) = self.taken.get_mut(&lease.seat.number) else { return false };
        if !held.is(lease) || held.until_ms.is_some() {
            return false;
        }
        if held.leaving {
            self.taken.remove(&lease.seat.number);
        } else {
            held.until_ms = Some((now + grace).millis());
        }
        true
    }

    /// A viewer gives its seat up: free at once, or when its connection is gone.
    pub fn on_leave(&mut self, viewer: ViewerId) -> bool {
        let found = self.taken.iter().find(|(_, held)| held.viewer == viewer);
        let Some((&number, connected)) =
            found.map(|(number, held)| (number, held.until_ms.is_none()))
        else {
            return false;
        };
        if !connected {
            self.taken.remove(&number);
            return true;
        }
        self.taken.get_mut(&number).is_some_and(|held| !std::mem::replace(&mut held.leaving, true))
    }

    /// Control may have missed something: who is connected and is not named by
    /// an origin before `connected` has lost its seat. A reservation holds until
    /// `reserved` at least, because its viewer could not be heard of either. True
    /// when that changed anything; then it must be written, so that whoever hears
    /// the origin can object.
    pub fn on_doubt(&mut self, connected: UtcTime, reserved: UtcTime) -> bool {
        let mut changed = false;
        for held in self.taken.values_mut() {
            let until = match held.until_ms {
                None => connected.millis(),
                Some(until) => until.max(reserved.millis()),
            };
            changed |= held.until_ms.replace(until) != Some(until);
        }
        changed
    }

    /// Frees what has lapsed.
    pub fn on_deadline(&mut self, now: UtcTime) -> bool {
        let before = self.taken.len();
        self.taken.retain(|_, held| held.until_ms.is_none_or(|until| until > now.millis()));
        self.taken.len() != before
    }

    /// When the next seat lapses.
    pub fn next_deadline(&self) -> Option<UtcTime> {
        self.taken.values().filter_map(|held| held.until_ms).min().map(UtcTime::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        seats: 3,
        push: 3,
        reservation: Duration::from_secs(30),
        grace: Duration::from_secs(5),
    };

    fn at(seconds: i64) -> UtcTime {
        UtcTime::from_millis(1_800_000_000_000 + seconds * 1000)
    }

    fn viewer(number: u8) -> ViewerId {
        ViewerId::from_random([number; 16])
    }

    fn lease(number: u8, seat: Seat) -> SeatLease {
        SeatLease { viewer: viewer(number), seat }
    }

    fn join(seats: &mut Seats, number: u8, second: i64) -> Option<u32> {
        seats.on_join(viewer(number), LIMITS, at(second)).map(|seat| seat.number)
    }

    #[test]
    fn the_lowest_free_number_is_given_until_there_is_none() {
        let mut seats = Seats::default();
        assert_eq!([1, 2, 3, 4].map(|n| join(&mut seats, n, 0)), [Some(1), Some(2), Some(3), None]);
        assert!(seats.on_leave(viewer(2)));
        assert!(seats.on_leave(viewer(1)));
        assert_eq!([5, 6, 7].map(|n| join(&mut seats, n, 1)), [Some(1), Some(2), None]);
    }

    #[test]
    fn a_reservation_nobody_uses_lapses() {
        let mut seats = Seats::default();
        let first = seats.on_join(viewer(1), LIMITS, at(0)).unwrap();
        assert_eq!(seats.next_deadline(), Some(at(30)));
        assert!(!seats.on_deadline(at(29)));
        assert_eq!(join(&mut seats, 2, 29), Some(2));
        assert_eq!(join(&mut seats, 3, 30), Some(1));
        // Late, and somebody newer sits there.
        assert!(!seats.on_lease(&lease(1, first), LIMITS));
    }

    #[test]
    fn a_late_viewer_finds_its_seat_if_nobody_took_it() {
        let mut seats = Seats::default();
        let first = seats.on_join(viewer(1), LIMITS, at(0)).unwrap();
        assert!(seats.on_deadline(at(31)));
        assert!(seats.on_lease(&lease(1, first), LIMITS));
        assert_eq!(join(&mut seats, 2, 32), Some(2));
    }

    #[test]
    fn a_dropped_connection_keeps_its_seat_for_a_moment() {
        let mut seats = Seats::default();
        let first = seats.on_join(viewer(1), LIMITS, at(0)).unwrap();
        assert!(seats.on_lease(&lease(1, first), LIMITS));
        assert_eq!(seats.next_deadline(), None);
        assert!(!seats.on_deadline(at(86_400)), "a connected viewer never lapses");
        assert!(seats.on_lease_end(&lease(1, first), LIMITS.grace, at(100)));
        assert!(seats.on_lease(&lease(1, first), LIMITS), "back in time");
        assert!(seats.on_lease_end(&lease(1, first), LIMITS.grace, at(200)));
        assert_eq!(join(&mut seats, 2, 204), Some(2));
        assert_eq!(join(&mut seats, 3, 205), Some(1));
    }

    #[test]
    fn leaving_frees_the_seat_once_the_connection_is_gone() {
        let mut seats = Seats::default();
        let first = seats.on_join(viewer(1), LIMITS, at(0)).unwrap();
        seats.on_lease(&lease(1, first), LIMITS);
        assert!(seats.on_leave(viewer(1)));
        assert!(!seats.on_leave(viewer(1)), "once is enough");
        assert_eq!(join(&mut seats, 2, 1), Some(2));
        assert!(seats.on_lease_end(&lease(1, first), LIMITS.grace, at(2)));
        assert_eq!(join(&mut seats, 3, 2), Some(1));
        assert!(!seats.on_leave(viewer(9)));
    }

    #[test]
    fn after_a_restart_seats_wait_for_their_viewers() {
        let mut seats = Seats::default();
        let first = seats.on_join(viewer(1), LIMITS, at(0)).unwrap();
        let second = seats.on_join(viewer(2), LIMITS, at(0)).unwrap();
        seats.on_lease(&lease(1, first), LIMITS);
        seats.on_lease(&lease(2, second), LIMITS);
        let stored = serde_json::to_vec(&seats).unwrap();
        let mut seats: Seats = serde_json::from_slice(&stored).unwrap();
        assert!(seats.on_doubt(at(130), at(130)));
        assert!(!seats.on_doubt(at(150), at(120)), "said once");
        assert!(seats.on_lease(&lease(1, first), LIMITS));
        assert!(seats.on_deadline(at(130)));
        assert_eq!(join(&mut seats, 3, 130), Some(2), "the second did not come back");
    }

    #[test]
    fn an_empty_control_learns_seats_from_leases_and_goes_on_beyond_them() {
        let mut seats = Seats::default();
        let newer = Seat { number: 1, generation: u32::MAX - 5 };
        assert!(seats.on_lease(&lease(1, newer), LIMITS));
        assert!(!seats.on_lease(&lease(2, Seat { number: 1, generation: 7 }), LIMITS));
        for number in [0, LIMITS.seats + 1] {
            assert!(!seats.on_lease(&lease(3, Seat { number, generation: 1 }), LIMITS));
        }
        let next = seats.on_join(viewer(4), LIMITS, at(0)).unwrap();
        assert_eq!(next.number, 2);
        assert!(next.generation > newer.generation);
    }

    #[test]
    fn generations_grow_even_when_the_record_was_lost() {
        let before = Seats::default().on_join(viewer(1), LIMITS, at(0)).unwrap();
        let after = Seats::default().on_join(viewer(1), LIMITS, at(1)).unwrap();
        assert!(after.generation > before.generation);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Join(u8),
        Connect(u8),
        Drop(u8),
        Leave(u8),
        Wait(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..40u8).prop_map(Step::Join),
            (0..40u8).prop_map(Step::Connect),
            (0..40u8).prop_map(Step::Drop),
            (0..40u8).prop_map(Step::Leave),
            (1..40u8).prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Whatever the order: nobody connected loses a seat, no two live
        /// tokens of one seat have one generation, no seat is beyond the limit.
        #[test]
        fn any_order_keeps_the_promises(steps in steps(), count in 1u32..6) {
            let limits = Limits { seats: count, push: count, ..LIMITS };
            let mut seats = Seats::default();
            let mut tokens: HashMap<u8, Seat> = HashMap::new();
            let mut given: HashSet<Seat> = HashSet::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Join(who) if !tokens.contains_key(&who) => {
                        let connected = seats.taken.values().filter(|t| t.until_ms.is_none()).count();
                        if let Some(seat) = seats.on_join(viewer(who), limits, at(now)) {
                            prop_assert!((1..=count).contains(&seat.number));
                            prop_assert!(given.insert(seat));
                            prop_assert!((connected as u32) < count);
                            tokens.insert(who, seat);
                        }
                    }
                    Step::Connect(who) => {
                        if let Some(&seat) = tokens.get(&who) {
                            seats.on_lease(&lease(who, seat), limits);
                        }
                    }
                    Step::Drop(who) => {
                        if let Some(&seat) = tokens.get(&who) {
                            seats.on_lease_end(&lease(who, seat), limits.grace, at(now));
                        }
                    }
                    Step::Leave(who) => {
                        seats.on_leave(viewer(who));
                    }
                    Step::Wait(seconds) => {
                        let connected: Vec<_> = seats.taken.iter()
                            .filter(|(_, t)| t.until_ms.is_none())
                            .map(|(n, t)| (*n, t.clone())).collect();
                        now += i64::from(seconds);
                        seats.on_deadline(at(now));
                        for (number, taken) in connected {
                            prop_assert_eq!(seats.taken.get(&number), Some(&taken));
                        }
                        prop_assert!(seats.next_deadline().is_none_or(|next| next > at(now)));
                    }
                    Step::Join(_) => {}
                }
                prop_assert!(seats.taken.len() <= count as usize);
            }
        }
    }
}
