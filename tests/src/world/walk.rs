//! A walk through everything that may happen, in an order that chance decides.

use std::time::Duration;

use spyglass_origin::life::Phase;

use super::{Broken, Programme, Stall, Weather, World};

const EDGES: usize = 3;
const VIEWERS: usize = 6;

/// Within this everyone is served again after the last misfortune: a resumed
/// watch, a publisher back, a chunk, an aged copy, a pause.
const RECOVERY: u64 = 30;

/// Something that will be put right at a moment.
#[derive(Clone, Copy, Debug)]
enum Repair {
    Stall,
    Publisher,
    Origin,
    Watch(usize),
    Fetches(usize),
    Weather,
}

/// Walks through the world of this seed.
///
/// # Panics
/// When a promise is broken.
pub fn run(seed: u64) {
    let world = World::new(seed, EDGES, VIEWERS);
    let mut walk = Walk { world, lost: false, repairs: Vec::new() };
    let programme = programme(&mut walk.world);
    walk.world.programme(programme);
    let steps = 6 + walk.world.random().below(20);
    let mut publishes_at = walk.world.random().below(4);
    for _ in 0..steps {
        if publishes_at == 0 {
            walk.world.publish();
        }
        publishes_at = publishes_at.wrapping_sub(1);
        walk.step();
    }
    walk.calm();
}

fn programme(world: &mut World) -> Programme {
    let mut programme = Programme::PLAIN;
    let random = world.random();
    programme.sound = random.percent(70);
    // Up to six seconds: longer than a chunk may be.
    programme.video.gop = 5 + random.below(55) as u32;
    programme.video.b_frames = random.below(3) as u32;
    programme.video.key_jitter = random.below(3) as u32;
    programme
}

struct Walk {
    world: World,
    /// The origin lost its state, and with it what edges had listed.
    lost: bool,
    repairs: Vec<(Duration, Repair)>,
}

impl Walk {
    fn step(&mut self) {
        let pause = self.world.random().millis(0, 6_000);
        self.pass(pause);
        let viewer = self.world.random().below(VIEWERS);
        match self.world.random().below(16) {
            0..=3 => self.world.arrive(viewer),
            4 => self.world.leave(viewer),
            other => self.misfortune(other),
        }
    }

    fn misfortune(&mut self, which: usize) {
        let edge = self.world.random().below(EDGES);
        let how = if self.world.random().percent(50) { Broken::Closed } else { Broken::Silent };
        let quietly = self.world.random().percent(50);
        match which {
            5 => {
                let network = self.world.random().percent(60);
                self.world.stall(Some(if network { Stall::Network } else { Stall::Encoder }));
                self.later(Repair::Stall, 15_000);
            }
            6 => {
                self.world.publisher_vanishes(!quietly);
                // Sometimes for longer than a broadcast waits.
                let most = [5_000, 15_000, 60_000][self.world.random().below(3)];
                self.later(Repair::Publisher, most);
            }
            7 => self.world.codec_changes(),
            8 => {
                let millis = self.world.random().below(80_000) as i32 - 40_000;
                self.world.clock_jumps(millis);
            }
            9 | 10 => {
                self.world.break_watch(edge, Some(how));
                self.later(Repair::Watch(edge), 12_000);
            }
            11 | 12 => {
                self.world.break_fetches(edge, Some(how));
                self.later(Repair::Fetches(edge), 8_000);
            }
            13 => {
                let weather = storm(&mut self.world);
                self.world.weather(weather);
                self.later(Repair::Weather, 20_000);
            }
            14 => self.world.restart_edge(edge),
            // Known: a floor is forgotten when the process that chose it is
            // killed before its first chunk (`tests/world_findings.rs`).
            _ if self.lost && self.world.version().is_none() => {}
            _ => {
                let over = matches!(self.world.phase(), None | Some(Phase::Ended | Phase::Gone));
                self.world.kill_origin(quietly);
                if !over && self.world.random().percent(20) {
                    self.world.lose_state();
                    self.lost = true;
                }
                self.later(Repair::Origin, 6_000);
            }
        }
    }

    fn later(&mut self, repair: Repair, most: u64) {
        let wait = self.world.random().millis(0, most);
        self.repairs.push((self.world.now() + wait, repair));
    }

    /// Time passes, and what is due is put right on the way.
    fn pass(&mut self, time: Duration) {
        let end = self.world.now() + time;
        self.repairs.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        while let Some((at, repair)) = self.repairs.pop_if(|(at, _)| *at <= end) {
            self.world.pass(at.saturating_sub(self.world.now()));
            self.repair(repair);
        }
        self.world.pass(end - self.world.now());
    }

    fn repair(&mut self, repair: Repair) {
        match repair {
            Repair::Stall => self.world.stall(None),
            Repair::Publisher => self.world.publish(),
            Repair::Origin => self.world.start_origin(),
            Repair::Watch(edge) => self.world.break_watch(edge, None),
            Repair::Fetches(edge) => self.world.break_fetches(edge, None),
            Repair::Weather => self.world.weather(Weather::FAIR),
        }
    }

    /// Whatever happened: once it is over everyone sees the broadcast, then its
    /// end, and nobody is left waiting.
    fn calm(mut self) {
        for (_, repair) in std::mem::take(&mut self.repairs) {
            self.repair(repair);
        }
        let world = &mut self.world;
        world.start_origin();
        world.publish();
        let over = matches!(world.phase(), Some(Phase::Ended | Phase::Gone));
        for viewer in 0..VIEWERS {
            world.arrive(viewer);
        }
        if !over {
            world.seconds(RECOVERY);
            let version = world.version().expect("somebody broadcasts, so there is a list");
            assert!(world.everybody_has_within(version, 10), "somebody is left behind {version}");
            world.end();
        }
        // A broadcast that ended before its first chunk has no list to end, and
        // is gone a minute later.
        let most = if world.version().is_some() { 30 } else { 100 };
        assert!(world.seconds_until(most, World::everybody_saw_the_end), "somebody misses the end");
        assert!(self.lost || world.counts().missing == 0, "something listed is not there");
    }
}

fn storm(world: &mut World) -> Weather {
    let random = world.random();
    Weather {
        least: Duration::from_millis(1),
        most: random.millis(5, 400),
        lost: [0, 30, 100][random.below(3)],
        doubled: 30,
        late: random.millis(0, 8_000),
        failed: [0, 20, 50][random.below(3)],
        hung: [0, 5, 20][random.below(3)],
        old: [0, 30][random.below(2)],
    }
}
