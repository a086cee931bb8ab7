use super::*;
use proptest::prelude::*;

const S: Duration = Duration::from_secs(1);

fn unit(sequence: u64) -> Unit<u64> {
    Unit {
        sequence,
        start: MediaTime::from_millis(sequence as i64 * 3000),
        duration: 3 * S,
        tag: sequence,
    }
}

fn numbers<T>(played: &[Played<T>]) -> Vec<u64> {
    played.iter().map(|unit| unit.sequence).collect()
}

#[test]
fn nine_seconds_are_held_before_the_first_plays() {
    let start = Instant::now();
    let mut player = Player::new(Config::new(9 * S));
    for sequence in 5..7 {
        player.on_unit(start, unit(sequence));
        assert!(player.on_time(start).is_empty());
    }
    player.on_unit(start + S, unit(7));
    let played = player.on_time(start + S);
    assert_eq!(numbers(&played), [5]);
    assert_eq!(played[0].buffered, S);
    assert_eq!(player.next_deadline(), Some(start + 4 * S));
    assert_eq!(numbers(&player.on_time(start + 7 * S)), [6, 7]);
    assert_eq!(player.stats().stalls, 0);
}

#[test]
fn what_comes_after_its_time_is_discarded_and_its_slot_is_a_stall() {
    let start = Instant::now();
    let mut player = Player::new(Config::new(3 * S));
    player.on_unit(start, unit(0));
    player.on_time(start);
    player.on_unit(start + S, unit(2));
    // 1 is due at 3 s and comes at 4 s.
    player.on_time(start + 4 * S);
    assert_eq!(player.on_unit(start + 4 * S, unit(1)), Inserted::Late);
    assert_eq!(numbers(&player.on_time(start + 6 * S)), [2]);
    let stats = player.stats();
    assert_eq!((stats.stalls, stats.stalled, stats.late), (1, 3 * S, 1));
    assert_eq!(stats.stalling_ratio(), 0.5);
}

#[test]
fn arrivals_out_of_order_play_in_order() {
    let start = Instant::now();
    let mut player = Player::new(Config::new(9 * S));
    for sequence in [3, 1, 2, 2] {
        let expected = if player.units.contains_key(&sequence) {
            Inserted::Duplicate
        } else {
            Inserted::Buffered
        };
        assert_eq!(player.on_unit(start, unit(sequence)), expected);
    }
    assert_eq!(numbers(&player.on_time(start + 9 * S)), [1]);
    assert_eq!(numbers(&player.on_time(start + 18 * S)), [2, 3]);
}

#[test]
fn after_a_long_stall_the_buffer_fills_afresh() {
    let start = Instant::now();
    let mut player = Player::new(Config::new(3 * S));
    player.on_unit(start, unit(0));
    player.on_time(start);
    // The broadcaster was away for 10 s; its clock was not.
    player.on_time(start + 13 * S);
    assert_eq!(player.stats().stalled, 10 * S);
    player.on_unit(start + 14 * S, unit(1));
    assert_eq!(numbers(&player.on_time(start + 14 * S)), [1]);
    assert_eq!((player.stats().stalls, player.stats().stalled), (1, 11 * S));
    assert_eq!(player.next_deadline(), Some(start + 20 * S));
}

#[test]
fn without_restart_the_schedule_never_moves() {
    let start = Instant::now();
    let config = Config { restart: None, ..Config::new(3 * S) };
    let mut player = Player::new(config);
    player.on_unit(start, unit(0));
    player.on_time(start);
    player.on_time(start + 13 * S);
    assert_eq!(player.on_unit(start + 14 * S, unit(1)), Inserted::Late);
}

#[test]
fn rounded_durations_are_no_stalls() {
    let start = Instant::now();
    let mut player = Player::new(Config::new(Duration::ZERO));
    for frame in 0..90u64 {
        let at = start + Duration::from_millis(frame * 1000 / 30);
        let unit = Unit {
            sequence: frame,
            start: MediaTime::from_millis((frame * 1000 / 30) as i64),
            duration: Duration::from_millis(33),
            tag: (),
        };
        assert_eq!(player.on_unit(at, unit), Inserted::Buffered);
        player.on_time(at);
    }
    let stats = player.stats();
    assert_eq!((stats.played, stats.stalls, stats.late), (90, 0, 0));
}

#[test]
fn a_full_buffer_takes_no_more() {
    let now = Instant::now();
    let mut player = Player::new(Config { capacity: 2, ..Config::new(60 * S) });
    let outcomes: Vec<_> =
        (0..3).map(|sequence| player.on_unit(now, unit(sequence)).as_str()).collect();
    assert_eq!(outcomes, ["buffered", "buffered", "full"]);
}

proptest! {
    /// Whatever arrives whenever: each unit plays once at most, in order, never
    /// before it is there, and stalls are part of the running time.
    #[test]
    fn the_schedule_holds(
        arrivals in prop::collection::vec((0u64..20, 0u64..4000), 0..60),
        prebuffer in 0u64..10,
        restarts: bool,
    ) {
        let mut now = Instant::now();
        let restart = restarts.then_some(3 * S);
        let config = Config { restart, ..Config::new(Duration::from_secs(prebuffer)) };
        let mut player = Player::new(config);
        let mut last = None;
        let mut played = 0;
        for (sequence, wait) in arrivals {
            now += Duration::from_millis(wait);
            player.on_unit(now, unit(sequence));
            for unit in player.on_time(now) {
                prop_assert!(last < Some(unit.sequence));
                prop_assert!(unit.at <= now);
                last = Some(unit.sequence);
                played += 1;
            }
            let stats = player.stats();
            prop_assert_eq!(stats.played, played);
            prop_assert!(stats.stalled <= stats.running + config.tolerance);
            prop_assert!(player.next_deadline().is_none_or(|at| at > now));
        }
    }
}

#[test]
fn media_that_comes_at_once_behind_an_outage_is_caught_up_with() {
    let part = |sequence: u64| Unit {
        sequence,
        start: MediaTime::from_millis(sequence as i64 * 200),
        duration: S / 5,
        tag: sequence,
    };
    let start = Instant::now();
    let close = Config { exact: true, catch_up: Some(S / 2), ..Config::new(3 * S / 5) };
    let delay = |config: Config| {
        let mut player = Player::new(config);
        let mut last = Duration::ZERO;
        // 2 s as it is made, 5.5 s of nothing, all of that at once, then as before.
        for sequence in 0..75_u64 {
            let made = start + S / 5 * u32::try_from(sequence + 1).unwrap();
            let now = if (10..38).contains(&sequence) { start + 38 * S / 5 } else { made };
            player.on_time(now);
            player.on_unit(now, part(sequence));
            for played in player.on_time(now) {
                let at = start + S / 5 * u32::try_from(played.sequence + 1).unwrap();
                last = played.at.saturating_duration_since(at);
            }
        }
        (last, player.stats())
    };
    let (behind, stats) = delay(close);
    assert!(behind <= 11 * S / 10, "{behind:?}");
    assert!(stats.skipped > 10 && stats.stalls == 1, "{stats:?}");
    let (behind, stats) = delay(Config { catch_up: None, ..close });
    assert!(behind > 2 * S && stats.skipped == 0, "{behind:?}");
}
