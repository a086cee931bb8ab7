//! Random orders of everything that can happen.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Pass(u64),
    Arrive,
    /// Somebody who waits for a chunk that far behind or ahead.
    Await(u64),
    Leave(usize),
    Expire {
        revision: u64,
        behind: u64,
    },
    Fill {
        revision: u64,
        behind: u64,
    },
    FillOld(u64),
    Fail,
    Watch(bool),
    Restart,
    Begin(bool),
    Unknown,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u64..3_000).prop_map(Op::Pass),
        4 => Just(Op::Arrive),
        4 => (0u64..6).prop_map(Op::Await),
        1 => (0usize..8).prop_map(Op::Leave),
        3 => (1u64..30, 0u64..3).prop_map(|(revision, behind)| Op::Expire { revision, behind }),
        4 => (1u64..30, 0u64..2).prop_map(|(revision, behind)| Op::Fill { revision, behind }),
        1 => (1u64..30).prop_map(Op::FillOld),
        2 => Just(Op::Fail),
        1 => any::<bool>().prop_map(Op::Watch),
        1 => Just(Op::Restart),
        1 => any::<bool>().prop_map(Op::Begin),
        1 => Just(Op::Unknown),
    ]
}

struct World {
    slot: Slot<u64>,
    now: Instant,
    incarnation: u64,
    /// The newest version that the running process has named.
    told: u64,
    running: Option<Fetch>,
    dead: Vec<FetchId>,
    waiters: Vec<(Asked, Instant)>,
    newest_served: u64,
}

impl World {
    fn poll(&mut self, asked: Asked) -> Result<Option<Instant>, TestCaseError> {
        let polled = self.slot.on_poll(self.now, asked);
        if let Some(fetch) = polled.fetch {
            if let Some(other) = self.running.replace(fetch) {
                prop_assert!(other.until <= self.now, "two fetches under way");
                self.dead.push(other.id);
            }
            prop_assert!(fetch.until > self.now);
        }
        match polled.poll {
            Poll::Serve { list, .. } => {
                prop_assert!(list >= self.newest_served, "time went backwards");
                // A process that is gone told of what this one may not have.
                let told = asked.least.map_or(0, |least| least.revision).min(self.told);
                prop_assert!(list >= told, "known to be old when it was asked for");
                let awaited = asked.awaits.map_or(0, |awaits| awaits.sequence);
                prop_assert!(list >= awaited, "not what was waited for");
                self.newest_served = list;
                Ok(None)
            }
            Poll::Wait { until, .. } => {
                prop_assert!(until > self.now, "a wait that ends before it begins");
                prop_assert!(until <= asked.at + ms(9_000), "waits too long");
                Ok(Some(until))
            }
            Poll::GiveUp { .. } => {
                prop_assert!(self.now >= asked.at + ms(1_000), "gave up early");
                Ok(None)
            }
            Poll::TooFar => {
                let held = self.slot.held().and_then(|held| held.position);
                let listed = held.map_or(0, |position| position.sequence);
                let awaited = asked.awaits.map(|awaits| awaits.sequence);
                prop_assert!(awaited > Some(listed + 2), "refused although it is near");
                Ok(None)
            }
            Poll::Late => {
                let held = self.slot.held().and_then(|held| held.position);
                let listed = held.map_or(0, |position| position.sequence);
                let awaited = asked.awaits.map(|awaits| awaits.sequence);
                prop_assert!(awaited > Some(listed));
                let least = if awaited > Some(listed + 2) { 1_000 } else { 8_000 };
                prop_assert!(self.now >= asked.at + ms(least), "too early to be late");
                Ok(None)
            }
        }
    }

    fn wake(&mut self, all: bool) -> Result<(), TestCaseError> {
        for (asked, until) in std::mem::take(&mut self.waiters) {
            let until = if all || until <= self.now { self.poll(asked)? } else { Some(until) };
            self.waiters.extend(until.map(|until| (asked, until)));
        }
        Ok(())
    }

    /// Time passes as the driver sees it: every deadline is kept.
    fn pass(&mut self, to: Instant) -> Result<(), TestCaseError> {
        loop {
            let timers = self.waiters.iter().map(|(_, until)| *until);
            let next = timers.chain(self.slot.next_deadline()).min();
            match next.filter(|next| *next <= to) {
                Some(next) => {
                    self.now = next.max(self.now);
                    self.slot.on_deadline(self.now);
                    self.wake(false)?;
                }
                None => {
                    self.now = to;
                    return Ok(());
                }
            }
        }
    }

    fn apply(&mut self, op: Op) -> Result<(), TestCaseError> {
        let wake = match op {
            Op::Pass(time) => {
                self.pass(self.now + ms(time))?;
                false
            }
            Op::Arrive => {
                let asked = self.slot.ask(self.now, None);
                let until = self.poll(asked)?;
                self.waiters.extend(until.map(|until| (asked, until)));
                false
            }
            Op::Await(ahead) => {
                let sequence = (self.newest_served + ahead).saturating_sub(2);
                let asked = self.slot.ask(self.now, Some(Awaited { sequence, part: None }));
                let until = self.poll(asked)?;
                self.waiters.extend(until.map(|until| (asked, until)));
                false
            }
            Op::Leave(who) => {
                if who < self.waiters.len() {
                    self.waiters.swap_remove(who);
                }
                false
            }
            Op::Expire { revision, behind } => {
                let incarnation = self.incarnation.saturating_sub(behind);
                if behind == 0 {
                    self.told = self.told.max(revision);
                }
                let position = Some(Position::closed(revision));
                let wake = self.slot.on_expire(v(revision), position, incarnation);
                // As the driver does while somebody waits.
                if !self.waiters.is_empty()
                    && let Some(fetch) = self.slot.on_demand(self.now)
                {
                    if let Some(other) = self.running.replace(fetch) {
                        prop_assert!(other.until <= self.now, "two fetches under way");
                        self.dead.push(other.id);
                    }
                    false
                } else {
                    wake
                }
            }
            Op::Fill { revision, behind } => {
                let Some(fetch) = self.running.take() else { return Ok(()) };
                let incarnation = self.incarnation.saturating_sub(behind);
                let meta = Meta { incarnation, ..meta(revision) };
                self.slot.on_filled(self.now, fetch.id, meta, revision);
                true
            }
            Op::FillOld(revision) => {
                let Some(id) = self.dead.pop() else { return Ok(()) };
                let filled = self.slot.on_filled(self.now, id, meta(revision), revision);
                prop_assert_eq!(filled, Filled::Abandoned);
                true
            }
            Op::Fail => {
                let Some(fetch) = self.running.take() else { return Ok(()) };
                self.slot.on_failed(self.now, fetch.id);
                true
            }
            Op::Watch(alive) => self.slot.on_watch(alive),
            Op::Restart => {
                self.incarnation += 1;
                self.told = 0;
                let standing =
                    Standing { incarnation: self.incarnation, begun: true, target: None };
                self.slot.on_standing(Some(standing))
            }
            Op::Begin(begun) => {
                let standing = Standing { incarnation: self.incarnation, begun, target: None };
                self.slot.on_standing(Some(standing))
            }
            Op::Unknown => self.slot.on_standing(None),
        };
        self.wake(wake)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn one_fetch_no_endless_wait_no_time_travel(ops in prop::collection::vec(op(), 1..80)) {
        let now = Instant::now();
        let mut world = World {
            slot: Slot::new(Limits::default(), now),
            now,
            incarnation: ORIGIN,
            told: 0,
            running: None,
            dead: Vec::new(),
            waiters: Vec::new(),
            newest_served: 0,
        };
        // Older processes that may still be heard of.
        for old in ORIGIN - 3..=ORIGIN {
            let standing = Standing { incarnation: old, begun: true, target: None };
            world.slot.on_standing(Some(standing));
        }
        for op in ops {
            world.apply(op)?;
        }
        // Whatever happened: within the longest wait everyone has an answer.
        let end = world.now + ms(9_000);
        world.pass(end)?;
        prop_assert!(world.waiters.is_empty(), "somebody waits for ever");
        // And once a hung fetch is over and the origin answers again, the
        // next poll is served.
        world.apply(Op::Begin(true))?;
        let at = world.now + ms(9_000) + Limits::default().retry_max;
        world.pass(at)?;
        let newest = world.told.max(world.newest_served).max(40);
        world.apply(Op::Arrive)?;
        if let Some(fetch) = world.running.take() {
            let meta = Meta { incarnation: world.incarnation, ..meta(newest) };
            world.slot.on_filled(world.now, fetch.id, meta, newest);
        }
        world.wake(true)?;
        prop_assert!(world.waiters.is_empty(), "an answered fetch left a waiter");
    }
}
