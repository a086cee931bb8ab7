//! The paper's model of a player (its section 6): pre-buffer P seconds, then
//! play on a fixed schedule; insert arrivals by sequence number; discard what
//! comes after its scheduled time; never drop for lack of memory.
//!
//! A real player does not stay silent for ever when its broadcaster paused and
//! everything is late from then on. So, when [`Config::restart`] is set and
//! nothing was there to play for that long, it fills its buffer afresh; the
//! whole time until it plays again counts as one stall.
//!
//! Nor does one stay behind that could be close to the end: when
//! [`Config::catch_up`] is set and so much more than the pre-buffer is held, it
//! skips forward to where the pre-buffer is left.
//!
//! Pure: time is passed in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use spyglass_media::MediaTime;

/// How a [`Player`] behaves.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// P: media to hold before playing begins. The paper's apps: 9 s on HLS,
    /// 1 s on RTMP.
    pub prebuffer: Duration,
    /// Begin exactly the pre-buffer before the end of what is held: what stands
    /// before that is there for the decoder and is not shown. Else with the first.
    pub exact: bool,
    /// Fill the buffer afresh after this long with nothing to play; `None`, the
    /// paper's simulator: the schedule never moves.
    pub restart: Option<Duration>,
    /// Skip forward when this much more than the pre-buffer is held, after an
    /// outage whose media came at once; `None`: what is behind stays behind.
    pub catch_up: Option<Duration>,
    /// An arrival this much behind its time still plays, and a hole this small is
    /// the encoder's rounding and no stall. The paper's simulator: zero.
    pub tolerance: Duration,
    /// Units held at most, so that a hostile server cannot fill the memory.
    pub capacity: usize,
}

impl Config {
    /// A player with P seconds of pre-buffer that restarts after a long stall.
    pub fn new(prebuffer: Duration) -> Self {
        Self {
            prebuffer,
            exact: false,
            restart: Some(Duration::from_secs(3)),
            catch_up: None,
            tolerance: Duration::from_millis(100),
            capacity: 100_000,
        }
    }
}

/// A chunk, or a frame: what arrives and plays as a whole.
#[derive(Clone, Debug)]
pub struct Unit<T> {
    /// Its place; a number that is not inserted is missing.
    pub sequence: u64,
    /// Where it stands on the broadcast's clock.
    pub start: MediaTime,
    /// How long it plays.
    pub duration: Duration,
    /// Whatever the caller wants back when it plays.
    pub tag: T,
}

/// What became of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It will be played.
    Buffered,
    /// Its time was over: discarded.
    Late,
    /// It was here before: discarded.
    Duplicate,
    /// [`Config::capacity`] units are waiting: discarded.
    Full,
}

impl Inserted {
    /// The word in logs and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Buffered => "buffered",
            Self::Late => "late",
            Self::Duplicate => "duplicate",
            Self::Full => "full",
        }
    }
}

/// A unit whose time has come.
#[derive(Clone, Debug)]
pub struct Played<T> {
    /// Its place.
    pub sequence: u64,
    /// When it began to play.
    pub at: Instant,
    /// How long it had waited in the buffer.
    pub buffered: Duration,
    /// The caller's.
    pub tag: T,
}

/// What a player has been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Units that began to play.
    pub played: u64,
    /// Units left out to come closer to the end.
    pub skipped: u64,
    /// Wall time since the first unit began to play, stalls included.
    pub running: Duration,
    /// Time of it with nothing to play.
    pub stalled: Duration,
    /// How often playing stopped.
    pub stalls: u64,
    /// Discarded because late.
    pub late: u64,
    /// The sum of all buffering delays (play less arrival).
    pub buffering: Duration,
}

impl Stats {
    /// Stalled time over running time; the paper divides by the broadcast's
    /// duration, which is the same for one who watched all of it.
    pub fn stalling_ratio(&self) -> f64 {
        if self.running.is_zero() {
            0.0
        } else {
            self.stalled.as_secs_f64() / self.running.as_secs_f64()
        }
    }

    /// The mean buffering delay.
    pub fn mean_buffering(&self) -> Duration {
        self.buffering
            .checked_div(u32::try_from(self.played).unwrap_or(u32::MAX))
            .unwrap_or_default()
    }
}

/// See the module's documentation.
pub struct Player<T> {
    config: Config,
    units: BTreeMap<u64, (Unit<T>, Instant)>,
    state: State,
    began: Option<Instant>,
    last_sequence: Option<u64>,
    stats: Stats,
}

enum State {
    /// Collecting P seconds; the stall, if this is one, began then.
    Filling {
        stalled_since: Option<Instant>,
    },
    Playing(Schedule),
}

/// Media time `media` plays at `wall`; everything before `cursor` is over.
struct Schedule {
    wall: Instant,
    media: MediaTime,
    cursor: MediaTime,
    /// The stall that is under way, as a place in the media.
    dry_since: Option<MediaTime>,
}

impl Schedule {
    fn position(&self, now: Instant) -> MediaTime {
        self.media + now.saturating_duration_since(self.wall)
    }

    fn when(&self, media: MediaTime) -> Instant {
        self.wall + media.since(self.media)
    }
}

impl<T> Player<T> {
    /// A player that has nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            units: BTreeMap::new(),
            state: State::Filling { stalled_since: None },
            began: None,
            last_sequence: None,
            stats: Stats::default(),
        }
    }

    /// A unit arrived. Call [`Player::on_time`] afterwards.
    pub fn on_unit(&mut self, now: Instant, unit: Unit<T>) -> Inserted {
        let late = match &self.state {
            State::Playing(schedule) => {
                schedule.position(now).since(unit.start) > self.config.tolerance
            }
            State::Filling { .. } => false,
        };
        if self.units.contains_key(&unit.sequence) {
            Inserted::Duplicate
        } else if late || self.last_sequence.is_some_and(|last| unit.sequence <= last) {
            self.stats.late += 1;
            Inserted::Late
        } else if self.units.len() >= self.config.capacity {
            Inserted::Full
        } else {
            self.units.insert(unit.sequence, (unit, now));
            Inserted::Buffered
        }
    }

    /// Plays what is due; returns what began to play.
    pub fn on_time(&mut self, now: Instant) -> Vec<Played<T>> {
        let mut played = Vec::new();
        if let State::Filling { stalled_since } = &mut self.state {
            if let Some(since) = stalled_since {
                self.stats.stalled += now.saturating_duration_since(*since);
                *since = now;
            }
            self.start(now);
        }
        self.catch_up(now);
        self.play(now, &mut played);
        self.give_up(now);
        if let Some(began) = self.began {
            self.stats.running = now.saturating_duration_since(began);
        }
        played
    }

    /// When to call [`Player::on_time`] next; `None` when that waits for an
    /// arrival.
    pub fn next_deadline(&self) -> Option<Instant> {
        let State::Playing(schedule) = &self.state else { return None };
        match self.units.first_key_value() {
            Some((_, (unit, _))) => Some(schedule.when(unit.start)),
            None => {
                let dry_since = schedule.dry_since.unwrap_or(schedule.cursor);
                self.config.restart.map(|after| schedule.when(dry_since) + after)
            }
        }
    }

    /// What happened so far, as of the last [`Player::on_time`]; a stall that is
    /// under way is in it.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Whether playing has begun at all.
    pub fn began(&self) -> bool {
        self.began.is_some()
    }

    /// Media now held.
    pub fn buffered(&self) -> Duration {
        self.units.values().map(|(unit, _)| unit.duration).sum()
    }

    fn start(&mut self, now: Instant) {
        let Some((_, (first, _))) = self.units.first_key_value() else { return };
        let held = self.buffered();
        if held >= self.config.prebuffer {
            let excess = held.saturating_sub(self.config.prebuffer);
            let media = first.start + if self.config.exact { excess } else { Duration::ZERO };
            self.units.retain(|_, (unit, _)| media.since(unit.start) < unit.duration);
            self.began.get_or_insert(now);
            self.state =
                State::Playing(Schedule { wall: now, media, cursor: media, dry_since: None });
        }
    }

    /// Moves the schedule forward when more is held than is to be.
    fn catch_up(&mut self, now: Instant) {
        let (State::Playing(schedule), Some(slack)) = (&mut self.state, self.config.catch_up)
        else {
            return;
        };
        let Some((_, (last, _))) = self.units.last_key_value() else { return };
        let position = schedule.position(now);
        let ahead = (last.start + last.duration).since(position);
        if ahead <= self.config.prebuffer + slack {
            return;
        }
        let media = position + ahead.saturating_sub(self.config.prebuffer);
        let before = self.units.len();
        self.units.retain(|_, (unit, _)| media.since(unit.start) < unit.duration);
        self.stats.skipped += (before - self.units.len()) as u64;
        *schedule = Schedule { wall: now, media, cursor: media, dry_since: None };
    }

    fn play(&mut self, now: Instant, played: &mut Vec<Played<T>>) {
        let State::Playing(schedule) = &mut self.state else { return };
        let position = schedule.position(now);
        while let Some(first) = self.units.first_entry() {
            if first.get().0.start > position {
                break;
            }
            let (unit, arrived) = first.remove();
            if unit.start.since(schedule.cursor) > self.config.tolerance {
                stall(&mut self.stats, schedule, unit.start);
            }
            schedule.dry_since = None;
            let at = schedule.when(unit.start).max(arrived);
            let buffered = at.saturating_duration_since(arrived);
            self.stats.played += 1;
            self.stats.buffering += buffered;
            schedule.cursor = schedule.cursor.max(unit.start + unit.duration);
            self.last_sequence = Some(unit.sequence);
            played.push(Played { sequence: unit.sequence, at, buffered, tag: unit.tag });
        }
        if position.since(schedule.cursor) > self.config.tolerance {
            stall(&mut self.stats, schedule, position);
        }
    }

    /// Leaves a schedule that everything is late for.
    fn give_up(&mut self, now: Instant) {
        let (State::Playing(schedule), Some(after)) = (&self.state, self.config.restart) else {
            return;
        };
        let dry = schedule.dry_since.map(|since| schedule.position(now).since(since));
        if self.units.is_empty() && dry.is_some_and(|dry| dry >= after) {
            self.state = State::Filling { stalled_since: Some(now) };
        }
    }
}

/// Counts the time up to `until` as stalled; one stall however often it grows.
fn stall(stats: &mut Stats, schedule: &mut Schedule, until: MediaTime) {
    if schedule.dry_since.is_none() {
        schedule.dry_since = Some(schedule.cursor);
        stats.stalls += 1;
    }
    stats.stalled += until.since(schedule.cursor);
    schedule.cursor = until;
}

#[cfg(test)]
mod tests;
