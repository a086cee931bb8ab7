//! What of a hook's is sent when. Pure: times are milliseconds that the caller
//! gives.
//!
//! A window over the feed: what arrived leaves a gap, and all before the oldest
//! that is still to arrive is done.

use std::collections::BTreeMap;

/// Waits after each failure, in seconds; the last again and again.
const WAITS: [u64; 6] = [5, 30, 120, 600, 1_800, 3_600];

/// A message that is older is given up.
const LIFE_MS: i64 = 24 * 3_600 * 1_000;

/// Messages that may be under way or wait for another attempt.
pub const WINDOW: usize = 256;

/// Requests of one hook at once.
pub const AT_ONCE: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Pending {
    attempts: u32,
    due_ms: i64,
    first_ms: i64,
    flying: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    pending: BTreeMap<u64, Pending>,
    read: u64,
}

impl Queue {
    /// All before `read` is done.
    pub fn new(read: u64) -> Self {
        Self { pending: BTreeMap::new(), read }
    }

    /// Whether another message fits.
    pub fn has_room(&self) -> bool {
        self.pending.len() < WINDOW
    }

    /// Looked at this one; it is to be sent when `wanted`.
    pub fn push(&mut self, sequence: u64, wanted: bool, now_ms: i64) {
        self.read = self.read.max(sequence);
        if wanted {
            let pending = Pending { attempts: 0, due_ms: now_ms, first_ms: now_ms, flying: false };
            self.pending.insert(sequence, pending);
        }
    }

    /// The next one to send, which is under way from now on.
    pub fn next(&mut self, now_ms: i64) -> Option<u64> {
        if self.pending.values().filter(|pending| pending.flying).count() >= AT_ONCE {
            return None;
        }
        let (sequence, pending) = self
            .pending
            .iter_mut()
            .find(|(_, pending)| !pending.flying && pending.due_ms <= now_ms)?;
        pending.flying = true;
        Some(*sequence)
    }

    /// When there may be a next one.
    pub fn due_ms(&self) -> Option<i64> {
        let waiting = self.pending.values().filter(|pending| !pending.flying);
        waiting.map(|pending| pending.due_ms).min()
    }

    /// It arrived.
    pub fn on_done(&mut self, sequence: u64) {
        self.pending.remove(&sequence);
    }

    /// It did not arrive; false when it is given up. `random` is from 0 to 1.
    pub fn on_failed(&mut self, sequence: u64, now_ms: i64, random: f64) -> bool {
        let Some(pending) = self.pending.get_mut(&sequence) else { return true };
        if now_ms - pending.first_ms >= LIFE_MS {
            self.pending.remove(&sequence);
            return false;
        }
        pending.flying = false;
        pending.due_ms = now_ms + wait_ms(pending.attempts, random);
        pending.attempts += 1;
        true
    }

    /// Whether it is still to arrive.
    pub fn holds(&self, sequence: u64) -> bool {
        self.pending.contains_key(&sequence)
    }

    /// All up to this is done.
    pub fn done(&self) -> u64 {
        self.pending.keys().next().map_or(self.read, |oldest| oldest - 1)
    }
}

/// The wait after that many failures before this one, a fifth more or less so
/// that many do not come at once.
pub fn wait_ms(attempts: u32, random: f64) -> i64 {
    let at = (attempts as usize).min(WAITS.len() - 1);
    (WAITS[at] as f64 * 1000.0 * (0.8 + 0.4 * random.clamp(0.0, 1.0))) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_waits_longer_each_time_and_does_not_hold_the_others() {
        let mut queue = Queue::new(7);
        for sequence in 8..=12 {
            queue.push(sequence, sequence != 9, 0);
        }
        assert_eq!([8, 10, 11, 12].map(Some), std::array::from_fn(|_| queue.next(0)));
        for sequence in [10, 11, 12] {
            queue.on_done(sequence);
        }
        assert_eq!(queue.done(), 7);
        let (mut now, mut waits) = (0, Vec::new());
        for _ in 0..7 {
            assert!(queue.on_failed(8, now, 0.5));
            let due = queue.due_ms().unwrap();
            assert_eq!(queue.next(due - 1), None);
            waits.push((due - now) / 1000);
            now = due;
            assert_eq!(queue.next(now), Some(8));
        }
        assert_eq!(waits, [5, 30, 120, 600, 1_800, 3_600, 3_600]);
        assert!(!queue.on_failed(8, LIFE_MS, 0.5), "given up after a day");
        assert_eq!((queue.done(), queue.due_ms()), (12, None));
    }

    #[test]
    fn a_dead_receiver_holds_so_much_and_no_more() {
        let mut queue = Queue::default();
        let mut pushed = 0;
        while queue.has_room() {
            pushed += 1;
            queue.push(pushed, true, 0);
        }
        assert_eq!(pushed as usize, WINDOW);
        let flying = std::iter::from_fn(|| queue.next(0)).count();
        assert_eq!(flying, AT_ONCE);
        assert!((4_000..=6_000).contains(&wait_ms(0, 0.0)) && wait_ms(0, 1.0) == 6_000);
    }
}
