//! Counts what arrives, lets the player model play it, measures. Pure but for
//! the times that the arrivals carry.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use spyglass_media::{BroadcastId, MediaTime, Track, UtcTime};

use super::report::{Delays, End, Report, Stage};
use super::tell::Measured;
use crate::api::{DelaySample, Joined, MAX_SAMPLES, Tier};
use crate::player::{self, Player, Stats, Unit};
use crate::{play_hls, play_rtmp};

/// What comes back when a unit plays.
#[derive(Clone, Copy)]
struct Tag {
    captured: Option<UtcTime>,
    arrived: UtcTime,
    /// A frame has said when it was captured, rather than a playlist.
    stamped: bool,
    last_mile: Option<Duration>,
    /// One measurement a key frame or chunk.
    counts: bool,
}

pub(super) struct Tally {
    broadcast: BroadcastId,
    joined: Joined,
    began: Instant,
    tier: Tier,
    edge: Option<String>,
    fell_back: Option<String>,
    player: Player<Tag>,
    /// Of players before this one.
    before: Stats,
    startup: Option<Duration>,
    delays: Delays,
    frames: u64,
    chunks: u64,
    bytes: u64,
    gaps: u64,
    missed: u64,
    /// The track that is played on push: pictures, or sound when there are none.
    video: bool,
    last_frame: Option<(MediaTime, Duration)>,
    /// For control; so many at most, the oldest go first.
    measured: VecDeque<DelaySample>,
}

/// A frame's length before its successor tells.
const FIRST_FRAME: Duration = Duration::from_millis(40);

/// How much further behind than the list asks for a player of parts stays.
const CATCH_UP: Duration = Duration::from_millis(500);

/// A chunk has fewer parts.
const PARTS: u64 = 4_096;

impl Tally {
    pub(super) fn new(broadcast: BroadcastId, joined: Joined, began: Instant) -> Self {
        Self {
            broadcast,
            tier: joined.tier,
            joined,
            began,
            edge: None,
            fell_back: None,
            player: Player::new(player::Config::new(Duration::ZERO)),
            before: Stats::default(),
            startup: None,
            delays: Delays::default(),
            frames: 0,
            chunks: 0,
            bytes: 0,
            gaps: 0,
            missed: 0,
            video: false,
            last_frame: None,
            measured: VecDeque::new(),
        }
    }

    /// Plays on `tier` from here on, with an empty buffer.
    pub(super) fn begin(&mut self, tier: Tier, prebuffer: Duration, why: Option<String>) {
        self.before = total(self.before, self.player.stats());
        self.player = Player::new(player::Config::new(prebuffer));
        self.tier = tier;
        self.measured.clear();
        self.last_frame = None;
        self.fell_back = self.fell_back.take().or(why);
    }

    /// Plays parts, exactly so far behind the end of the list.
    pub(super) fn begin_close(&mut self, hold_back: Duration) {
        self.before = total(self.before, self.player.stats());
        self.player = Player::new(player::Config {
            exact: true,
            catch_up: Some(CATCH_UP),
            ..player::Config::new(hold_back)
        });
    }

    pub(super) fn set_edge(&mut self, edge: String) {
        self.edge = Some(edge);
    }

    pub(super) fn on_config(&mut self, track: Track) {
        self.video |= track == Track::Video;
    }

    pub(super) fn on_frame(&mut self, frame: &play_rtmp::Frame) {
        self.frames += 1;
        self.bytes += frame.sample.len() as u64;
        if let Some(captured) = frame.captured {
            self.delays.add(Stage::Push, between(captured, frame.arrived));
        }
        let now = frame.arrived_at.into_std();
        if (frame.track == Track::Video) == self.video {
            let duration = match self.last_frame {
                Some((last, before)) => match frame.time.since(last) {
                    Duration::ZERO => before,
                    step => step.min(Duration::from_secs(1)),
                },
                None => FIRST_FRAME,
            };
            self.last_frame = Some((frame.time, duration));
            let tag = Tag {
                captured: frame.captured,
                arrived: frame.arrived,
                stamped: frame.captured.is_some(),
                last_mile: frame.last_mile,
                counts: frame.key,
            };
            let unit = Unit { sequence: self.frames, start: frame.time, duration, tag };
            self.player.on_unit(now, unit);
        }
        self.on_time(now);
    }

    pub(super) fn on_chunk(&mut self, chunk: &play_hls::Chunk) {
        self.chunks += 1;
        self.bytes += chunk.bytes.len() as u64;
        if chunk.lead {
            return;
        }
        // A part need not begin with the key frame that has the stamp.
        let captured = match chunk.part {
            Some(_) => chunk.date.or(chunk.captured),
            None => chunk.captured.or(chunk.date),
        };
        if let (Some(captured), true) = (captured, chunk.fresh) {
            let ready = captured + chunk.duration;
            self.delays.add(Stage::Polling, between(ready, chunk.listed));
        }
        self.delays.add(Stage::Chunking, millis(chunk.duration));
        self.delays.add(Stage::LastMile, between(chunk.requested, chunk.arrived));
        let now = chunk.arrived_at.into_std();
        let tag = Tag {
            captured,
            arrived: chunk.arrived,
            stamped: chunk.captured.is_some(),
            last_mile: Some(Duration::from_micros(chunk.last_mile_us.into())),
            counts: true,
        };
        let (start, duration) = (chunk.start, chunk.duration);
        let sequence = chunk.sequence.saturating_mul(PARTS) + u64::from(chunk.part.unwrap_or(0));
        self.player.on_unit(now, Unit { sequence, start, duration, tag });
        self.on_time(now);
    }

    pub(super) fn on_gap(&mut self) {
        self.gaps += 1;
    }

    pub(super) fn on_missed(&mut self) {
        self.missed += 1;
    }

    /// Plays what is due.
    pub(super) fn on_time(&mut self, now: Instant) {
        for played in self.player.on_time(now) {
            if played.tag.counts {
                let Tag { captured, arrived, stamped, last_mile, .. } = played.tag;
                let captured = captured.filter(|_| stamped);
                let total = captured.map(|it| between(it, arrived + played.buffered));
                let buffering = played.buffered;
                if self.measured.len() == MAX_SAMPLES {
                    self.measured.pop_front();
                }
                self.measured.push_back(DelaySample { last_mile, buffering, total_ms: total });
            }
            self.startup.get_or_insert_with(|| played.at.saturating_duration_since(self.began));
            // One measurement a key frame or chunk: those that carry a time.
            if let Some(captured) = played.tag.captured {
                self.delays.add(Stage::Buffering, millis(played.buffered));
                let shown = played.tag.arrived + played.buffered;
                self.delays.add(Stage::Total, between(captured, shown));
            }
        }
    }

    /// What was measured since the last call.
    pub(super) fn take_measured(&mut self) -> Measured {
        Measured { tier: self.tier, samples: std::mem::take(&mut self.measured).into() }
    }

    /// Whether any media came, on either tier.
    pub(super) fn anything(&self) -> bool {
        self.frames > 0 || self.chunks > 0
    }

    pub(super) fn frames(&self) -> u64 {
        self.frames
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.player.next_deadline()
    }

    pub(super) fn report(&self, now: Instant, end: End) -> Report {
        let stats = total(self.before, self.player.stats());
        Report {
            broadcast: self.broadcast,
            viewer: self.joined.viewer,
            tier: self.tier,
            seat: self.joined.seat,
            edge: match self.tier {
                Tier::Hls => self.edge.clone(),
                Tier::Push => None,
            },
            fell_back: self.fell_back.clone(),
            end,
            watched_ms: whole(now.saturating_duration_since(self.began)),
            startup_ms: self.startup.map(whole),
            frames: self.frames,
            chunks: self.chunks,
            bytes: self.bytes,
            gaps: self.gaps,
            missed: self.missed,
            late: stats.late,
            skipped: stats.skipped,
            stalls: stats.stalls,
            stalled_ms: whole(stats.stalled),
            stalling_ratio: stats.stalling_ratio(),
            delay: self.delays.summary(),
        }
    }
}

fn total(a: Stats, b: Stats) -> Stats {
    Stats {
        played: a.played + b.played,
        skipped: a.skipped + b.skipped,
        running: a.running + b.running,
        stalled: a.stalled + b.stalled,
        stalls: a.stalls + b.stalls,
        late: a.late + b.late,
        buffering: a.buffering + b.buffering,
    }
}

/// Signed: the broadcaster's clock may be ahead of ours.
fn between(from: UtcTime, to: UtcTime) -> i64 {
    to.millis().saturating_sub(from.millis())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn whole(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
