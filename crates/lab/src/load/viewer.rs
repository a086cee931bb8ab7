//! One viewer of the load: a connection of its own, a player that shows nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::Uri;
use spyglass_client::player::{Config, Player, Unit};
use spyglass_media::MediaTime;
use tokio::sync::watch;

use super::Pace;
use crate::request::{Http, resolve, with_query};
use crate::validate::list::{List, MAX_LIST};

/// For one answer.
const WITHIN: Duration = Duration::from_secs(15);

/// Largest chunk, in bytes.
const MAX_CHUNK: usize = 64 * 1024 * 1024;

/// Chunks a newcomer fetches: the paper's 9 s.
const FIRST: usize = 3;

/// After a failed request.
const AGAIN: Duration = Duration::from_secs(1);

/// From one request for the list to the next, whatever durations it names: a
/// list of no length is polled too.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3_600);

/// The same for blocking reloads: several parts may come at once.
const SHORTEST_BLOCKING: Duration = Duration::from_millis(20);

/// Reasons that are told apart.
const REASONS: usize = 32;

/// What one viewer saw.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) list: Vec<Duration>,
    pub(super) chunk: Vec<Duration>,
    pub(super) bytes: u64,
    pub(super) errors: BTreeMap<String, u64>,
    /// Each new position of the list, and when it was known.
    pub(super) seen: Vec<((u64, u64), Instant)>,
    pub(super) stalls: u64,
    pub(super) stalled: Duration,
}

/// The segment and part behind the last ones that a list shows.
pub(super) fn position(list: &List) -> (u64, u64) {
    (list.end(), list.open.parts.len() as u64)
}

/// Views until `ends` has no sender any more.
pub(super) async fn run(
    http: Http,
    uri: Uri,
    pace: Pace,
    number: u64,
    start: Instant,
    mut ends: watch::Receiver<()>,
) -> Tally {
    let mut viewer = Viewer {
        http,
        uri,
        pace,
        random: number,
        known: None,
        player: None,
        clock: Duration::ZERO,
        units: 0,
        tally: Tally::default(),
    };
    let viewing = async {
        let mut due = start;
        loop {
            tokio::time::sleep_until(due.into()).await;
            due = viewer.turn(due).await;
        }
    };
    tokio::select! {
        biased;
        _ = ends.changed() => {}
        () = viewing => {}
    }
    if let Some(mut player) = viewer.player {
        player.on_time(Instant::now());
        (viewer.tally.stalls, viewer.tally.stalled) =
            (player.stats().stalls, player.stats().stalled);
    }
    viewer.tally
}

struct Viewer {
    http: Http,
    uri: Uri,
    pace: Pace,
    random: u64,
    known: Option<(u64, u64)>,
    player: Option<Player<()>>,
    /// Media fetched so far.
    clock: Duration,
    units: u64,
    tally: Tally,
}

impl Viewer {
    /// Asks for the list and what is new in it; when to ask again.
    async fn turn(&mut self, due: Instant) -> Instant {
        let blocking = self.known.filter(|_| self.pace == Pace::Blocking);
        let uri = match blocking {
            Some((segment, part)) => {
                with_query(&self.uri, &format!("_HLS_msn={segment}&_HLS_part={part}"))
            }
            None => self.uri.clone(),
        };
        let asked = Instant::now();
        let behind = asked.saturating_duration_since(due);
        let answer = self.http.get(&uri, MAX_LIST, WITHIN).await;
        let list = match answer {
            Ok(answer) if answer.status.is_success() => {
                self.tally.list.push(behind + answer.first);
                List::read(&answer.body).map_err(|error| error.to_string())
            }
            Ok(answer) => Err(format!("list: {}", answer.status)),
            Err(error) => Err(format!("list: {error}")),
        };
        let list = match list {
            Ok(list) => list,
            Err(reason) => {
                self.failed(reason);
                return Instant::now() + AGAIN;
            }
        };
        let now = Instant::now();
        let before = self.known;
        let position = position(&list);
        if before.is_none_or(|before| position > before) {
            self.known = Some(position);
            self.tally.seen.push((position, now));
            self.fetch(&list, before).await;
        }
        let wait = match self.pace {
            Pace::Paper => Duration::from_millis(2_000 + self.next_random() % 801),
            Pace::Blocking if can_block(&list) => {
                return Instant::now().max(asked + SHORTEST_BLOCKING);
            }
            Pace::Spec | Pace::Blocking => {
                let target = list.target.unwrap_or(4) as f64;
                let last = list.segments.last().map_or(target, |segment| segment.duration);
                let wait = if before == self.known { target / 2.0 } else { last };
                Duration::try_from_secs_f64(wait).unwrap_or(AGAIN)
            }
        };
        next(due, asked, wait.clamp(SHORTEST, LONGEST))
    }

    /// Chunks that are new, or parts where they are followed.
    async fn fetch(&mut self, list: &List, before: Option<(u64, u64)>) {
        let parts = self.pace == Pace::Blocking && list.part_target.is_some();
        let mut wanted: Vec<(String, f64)> = Vec::new();
        match before {
            Some((end, shown)) if parts => {
                let open = std::iter::once((list.end(), &list.open));
                for (number, segment) in
                    list.numbered().chain(open).filter(|(number, _)| *number >= end)
                {
                    let skip = if number == end { shown } else { 0 };
                    let new = segment.parts.iter().skip(usize::try_from(skip).unwrap_or_default());
                    wanted.extend(new.map(|part| (part.uri.clone(), part.duration)));
                }
            }
            before => {
                let from = before.map_or(list.end().saturating_sub(FIRST as u64), |(end, _)| end);
                let new =
                    list.numbered().filter(|(number, segment)| *number >= from && !segment.gap);
                wanted.extend(new.map(|(_, segment)| (segment.uri.clone(), segment.duration)));
            }
        }
        let hold = match (parts, list.control.as_ref().and_then(|control| control.part_hold_back)) {
            (true, Some(held)) => Duration::try_from_secs_f64(held).unwrap_or(AGAIN),
            _ => Duration::from_secs(9),
        };
        for (uri, seconds) in wanted {
            let Ok(uri) = resolve(&self.uri, &uri) else { continue };
            match self.http.get(&uri, MAX_CHUNK, WITHIN).await {
                Ok(answer) if answer.status.is_success() => {
                    self.tally.chunk.push(answer.first);
                    self.tally.bytes += answer.body.len() as u64;
                    self.play(hold, seconds);
                }
                Ok(answer) => self.failed(format!("chunk: {}", answer.status)),
                Err(error) => self.failed(format!("chunk: {error}")),
            }
        }
    }

    fn play(&mut self, hold: Duration, seconds: f64) {
        let duration = Duration::try_from_secs_f64(seconds).unwrap_or_default().min(LONGEST);
        let start =
            MediaTime::from_millis(i64::try_from(self.clock.as_millis()).unwrap_or(i64::MAX));
        let unit = Unit { sequence: self.units, start, duration, tag: () };
        self.clock += duration;
        self.units += 1;
        let now = Instant::now();
        let player = self.player.get_or_insert_with(|| Player::new(Config::new(hold)));
        player.on_time(now);
        player.on_unit(now, unit);
        player.on_time(now);
    }

    fn failed(&mut self, reason: String) {
        if self.tally.errors.len() < REASONS || self.tally.errors.contains_key(&reason) {
            *self.tally.errors.entry(reason).or_default() += 1;
        }
    }

    /// SplitMix64: the same viewer asks at the same times in every run.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// When the next request is due whose last one was due at `due`. One that is late
/// does not push it back; what would have been due before that one was sent is
/// left out, or a server that stood still would be asked without a pause after.
fn next(due: Instant, asked: Instant, wait: Duration) -> Instant {
    let next = due + wait;
    if next < asked + SHORTEST { asked + wait } else { next }
}

fn can_block(list: &List) -> bool {
    !list.ended && list.control.as_ref().is_some_and(|control| control.can_block_reload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_request_is_due_by_the_schedule_and_never_without_a_pause() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let wait = Duration::from_millis(2_000);
        // In time, and late by less than a turn: the schedule holds.
        assert_eq!(next(at(0), at(1), wait), at(2_000));
        assert_eq!(next(at(0), at(1_500), wait), at(2_000));
        // Turns were missed: from here on.
        assert_eq!(next(at(0), at(45_000), wait), at(47_000));
        assert_eq!(next(at(0), at(1_950), wait), at(3_950));
        assert_eq!(next(at(0), at(0), SHORTEST), at(100));
    }
}
