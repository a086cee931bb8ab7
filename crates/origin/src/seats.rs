//! Who sits on which push seat of a broadcast: one connection a seat.
//!
//! A token names a seat and its generation. The newest generation wins; within
//! one generation the newest connection does, since a viewer who reconnects
//! leaves its old connection behind. Who is given a seat at all is control's.

use std::collections::HashMap;
use std::sync::Arc;

use crate::viewer::Mailbox;

/// The seats of one broadcast.
#[derive(Debug, Default)]
pub struct Seats {
    taken: HashMap<u32, Arc<Mailbox>>,
    /// The newest generation ever seen on a seat; as many as control has seats.
    generations: HashMap<u32, u32>,
}

/// What became of a viewer who wants its seat.
#[derive(Debug)]
pub enum Taken {
    /// It was free.
    Free,
    /// This one must leave it.
    From(Arc<Mailbox>),
    /// A newer generation holds or held it.
    Refused,
}

impl Seats {
    /// A viewer takes the seat that its token names.
    pub fn take(&mut self, mailbox: &Arc<Mailbox>) -> Taken {
        let newest = self.generations.entry(mailbox.seat).or_insert(mailbox.generation);
        if mailbox.generation < *newest {
            return Taken::Refused;
        }
        *newest = mailbox.generation;
        match self.taken.insert(mailbox.seat, Arc::clone(mailbox)) {
            Some(previous) => Taken::From(previous),
            None => Taken::Free,
        }
    }

    /// A connection has closed; false when it no longer held its seat.
    pub fn leave(&mut self, mailbox: &Arc<Mailbox>) -> bool {
        let held = self.taken.get(&mailbox.seat);
        let holds = held.is_some_and(|held| Arc::ptr_eq(held, mailbox));
        if holds {
            self.taken.remove(&mailbox.seat);
        }
        holds
    }

    /// Everybody who sits.
    pub fn taken(&self) -> impl Iterator<Item = &Arc<Mailbox>> {
        self.taken.values()
    }

    /// Everybody leaves.
    pub fn clear(&mut self) -> impl Iterator<Item = Arc<Mailbox>> + use<> {
        std::mem::take(&mut self.taken).into_values()
    }
}

#[cfg(test)]
mod tests {
    use spyglass_media::{BroadcastId, UtcTime, ViewerId};
    use spyglass_token::WatchGrant;

    use super::*;
    use crate::send_queue::Limits;

    fn viewer(seat: u32, generation: u32) -> Arc<Mailbox> {
        let grant = WatchGrant {
            broadcast: BroadcastId::from_random([1; 16]),
            viewer: ViewerId::from_random([2; 16]),
            user: None,
            seat: Some(seat),
            push: true,
            comment: false,
            generation,
            issued: UtcTime::from_millis(0),
            expires: UtcTime::from_millis(1),
        };
        let limits = Limits { gops: 2, bytes: 1000, losses: 3 };
        let at = UtcTime::from_millis(0);
        Arc::new(Mailbox::new(&grant, seat, at, limits))
    }

    #[test]
    fn the_newest_generation_wins_and_the_newest_connection_within_it() {
        let mut seats = Seats::default();
        let (first, again, newer) = (viewer(1, 5), viewer(1, 5), viewer(1, 6));
        assert!(matches!(seats.take(&first), Taken::Free));
        assert!(matches!(seats.take(&again), Taken::From(old) if Arc::ptr_eq(&old, &first)));
        assert!(matches!(seats.take(&newer), Taken::From(old) if Arc::ptr_eq(&old, &again)));
        assert!(matches!(seats.take(&viewer(1, 5)), Taken::Refused));
        assert!(matches!(seats.take(&viewer(2, 1)), Taken::Free), "another seat");
    }

    #[test]
    fn a_replaced_connection_that_closes_frees_nothing() {
        let mut seats = Seats::default();
        let (old, new) = (viewer(1, 5), viewer(1, 5));
        seats.take(&old);
        seats.take(&new);
        assert!(!seats.leave(&old));
        assert!(seats.leave(&new));
        assert!(matches!(seats.take(&viewer(1, 4)), Taken::Refused), "a seat remembers");
    }
}
