//! How long media are on their way from a server, by one clock.
//!
//! What a request or ping takes is the way there and back. The shortest time
//! seen is taken for a way without a queue, equally long in both directions;
//! what any other takes longer, it took on the way back, behind media. So the
//! last mile is half of the shortest, and all that came on top. Where the way
//! there is the slow one, this says too much, and never less than half.

use std::time::Duration;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Way {
    shortest: Option<Duration>,
}

impl Way {
    /// A ping came back after so long: the way back.
    pub(crate) fn on_pong(&mut self, took: Duration) -> Duration {
        let shortest = self.shorten(took);
        took.saturating_sub(shortest / 2)
    }

    /// The first byte of an answer came after `first`, the last one after
    /// `whole`: the way of the whole. What the server took to answer is no way,
    /// and cannot be told from it, so of the first byte only the shortest counts.
    pub(crate) fn on_answer(&mut self, first: Duration, whole: Duration) -> Duration {
        let shortest = self.shorten(first);
        whole.saturating_sub(first) + shortest / 2
    }

    fn shorten(&mut self, took: Duration) -> Duration {
        let shortest = self.shortest.map_or(took, |shortest| shortest.min(took));
        self.shortest = Some(shortest);
        shortest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_queue_is_on_the_way_back() {
        let mut way = Way::default();
        assert_eq!(way.on_pong(ms(40)), ms(20));
        assert_eq!(way.on_pong(ms(140)), ms(120), "behind 100 ms of media");
        assert_eq!(way.on_pong(ms(20)), ms(10));
        assert_eq!(way.on_pong(ms(40)), ms(30));
    }

    #[test]
    fn a_server_that_waits_is_not_far_away() {
        let mut way = Way::default();
        assert_eq!(way.on_answer(ms(30), ms(100)), ms(85));
        assert_eq!(way.on_answer(ms(3_000), ms(3_010)), ms(25));
    }
}
