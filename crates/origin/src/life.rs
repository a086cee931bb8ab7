//! The life of a broadcast: created, live, interrupted, ended, gone.
//!
//! Pure: it is told what happened and when, and says what must happen. Who the
//! publisher is, where frames go and what viewers are told is `broadcast.rs`.

use std::time::{Duration, Instant};

/// Where a broadcast stands (CONTRACT: `created`, `live`, `interrupted`, `ended`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Announced; no frame yet.
    Created,
    /// Frames come.
    Live,
    /// The publisher is away, or silent, and may come back.
    Interrupted,
    /// Over; list and chunks are still served.
    Ended,
    /// Over, and nothing is served any more.
    Gone,
}

impl Phase {
    /// The word in logs and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Live => "live",
            Self::Interrupted => "interrupted",
            Self::Ended => "ended",
            Self::Gone => "gone",
        }
    }
}

/// Names one publisher's connection among all of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

/// How long each stage may last.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without a frame for this long, a connected publisher counts as away.
    pub silence: Duration,
    /// An interrupted broadcast may come back within this time.
    pub resume: Duration,
    /// An ended broadcast is served this much longer.
    pub retention: Duration,
    /// A publisher who is challenged must show life within this time.
    pub challenge: Duration,
}

/// What the owner of a broadcast must do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Accept this publisher; the segmenter opens a new epoch.
    Accept(ConnectionId),
    /// Tell this one that somebody else is publishing.
    RefuseBusy(ConnectionId),
    /// Tell this one that the broadcast is over.
    RefuseEnded(ConnectionId),
    /// Ask this publisher for a sign of life.
    Ping(ConnectionId),
    /// Close this publisher's connection.
    Cut(ConnectionId),
    /// The phase is now this one.
    Enter(Phase),
}

/// One broadcast's life.
#[derive(Debug)]
pub struct Life {
    limits: Limits,
    phase: Phase,
    publisher: Option<Publisher>,
    /// A second publisher who waits while the first is challenged.
    challenger: Option<(ConnectionId, Instant)>,
    /// When the current phase ends by itself.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Publisher {
    id: ConnectionId,
    last_frame: Instant,
}

impl Life {
    /// A new broadcast (`Phase::Created`), or one as it was before this process
    /// started: if it was live it is interrupted now, and its publisher has the
    /// whole resume time.
    pub fn new(limits: Limits, phase: Phase, now: Instant) -> Self {
        let (phase, until) = match phase {
            Phase::Created => (Phase::Created, None),
            Phase::Live | Phase::Interrupted => (Phase::Interrupted, Some(now + limits.resume)),
            Phase::Ended => (Phase::Ended, Some(now + limits.retention)),
            Phase::Gone => (Phase::Gone, None),
        };
        Self { limits, phase, publisher: None, challenger: None, until }
    }

    /// Where the broadcast stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The publisher whose frames count.
    pub fn publisher(&self) -> Option<ConnectionId> {
        self.publisher.as_ref().map(|publisher| publisher.id)
    }

    /// How long an interrupted broadcast may come back, from now on.
    pub fn set_resume(&mut self, resume: Duration) {
        self.limits.resume = resume;
    }

    /// How long an interrupted broadcast may come back.
    pub fn resume(&self) -> Duration {
        self.limits.resume
    }

    /// A verified publisher asks to publish.
    pub fn on_publisher(&mut self, now: Instant, id: ConnectionId) -> Vec<Action> {
        if matches!(self.phase, Phase::Ended | Phase::Gone) {
            return vec![Action::RefuseEnded(id)];
        }
        match (&self.publisher, self.challenger) {
            (None, _) => self.accept(now, id),
            (Some(_), Some(_)) => vec![Action::RefuseBusy(id)],
            (Some(first), None) => {
                let first = first.id;
                self.challenger = Some((id, now + self.limits.challenge));
                vec![Action::Ping(first)]
            }
        }
    }

    fn accept(&mut self, now: Instant, id: ConnectionId) -> Vec<Action> {
        self.publisher = Some(Publisher { id, last_frame: now });
        vec![Action::Accept(id)]
    }

    /// The publisher showed life: a frame, or an answer to a ping.
    pub fn on_alive(&mut self, id: ConnectionId) -> Vec<Action> {
        match self.challenger {
            Some((challenger, _)) if self.publisher() == Some(id) => {
                self.challenger = None;
                vec![Action::RefuseBusy(challenger)]
            }
            _ => Vec::new(),
        }
    }

    /// A frame of the current publisher was taken: the broadcast is live.
    pub fn on_frame(&mut self, now: Instant) -> Vec<Action> {
        let Some(publisher) = &mut self.publisher else { return Vec::new() };
        publisher.last_frame = now;
        match self.phase {
            Phase::Created | Phase::Interrupted => {
                self.until = None;
                self.phase = Phase::Live;
                vec![Action::Enter(Phase::Live)]
            }
            Phase::Live | Phase::Ended | Phase::Gone => Vec::new(),
        }
    }

    /// A publisher's connection has closed, cleanly or not.
    pub fn on_closed(&mut self, now: Instant, id: ConnectionId) -> Vec<Action> {
        if self.challenger.is_some_and(|(challenger, _)| challenger == id) {
            self.challenger = None;
            return Vec::new();
        }
        if self.publisher() != Some(id) {
            return Vec::new();
        }
        self.publisher = None;
        let mut actions = self.interrupt(now);
        if let Some((challenger, _)) = self.challenger.take() {
            actions.extend(self.accept(now, challenger));
        }
        actions
    }

    fn interrupt(&mut self, now: Instant) -> Vec<Action> {
        if self.phase != Phase::Live {
            return Vec::new();
        }
        self.phase = Phase::Interrupted;
        self.until = Some(now + self.limits.resume);
        vec![Action::Enter(Phase::Interrupted)]
    }

    /// The owner or the operator ends the broadcast.
    pub fn on_end(&mut self, now: Instant) -> Vec<Action> {
        if matches!(self.phase, Phase::Ended | Phase::Gone) {
            return Vec::new();
        }
        let mut actions = Vec::new();
        actions.extend(self.publisher.take().map(|publisher| Action::Cut(publisher.id)));
        actions.extend(self.challenger.take().map(|(id, _)| Action::RefuseEnded(id)));
        self.phase = Phase::Ended;
        self.until = Some(now + self.limits.retention);
        actions.push(Action::Enter(Phase::Ended));
        actions
    }

    /// An ended broadcast has nothing to serve: it is gone at once.
    pub fn forget(&mut self, now: Instant) {
        if self.phase == Phase::Ended {
            self.until = Some(now);
        }
    }

    /// When [`Life::on_deadline`] wants to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        let silence = match (&self.publisher, self.phase) {
            (Some(publisher), Phase::Live | Phase::Created) => {
                Some(publisher.last_frame + self.limits.silence)
            }
            _ => None,
        };
        let challenge = self.challenger.map(|(_, until)| until);
        [self.until, silence, challenge].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn on_deadline(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some((challenger, until)) = self.challenger
            && until <= now
        {
            self.challenger = None;
            if let Some(first) = self.publisher.take() {
                actions.push(Action::Cut(first.id));
                actions.extend(self.interrupt(now));
            }
            actions.extend(self.accept(now, challenger));
        }
        let silent = self
            .publisher
            .as_ref()
            .is_some_and(|publisher| publisher.last_frame + self.limits.silence <= now);
        if silent && self.phase == Phase::Created {
            // Accepted, and never a frame: not worth a place.
            actions.extend(self.publisher.take().map(|publisher| Action::Cut(publisher.id)));
        } else if silent {
            actions.extend(self.interrupt(now));
        }
        if self.until.is_some_and(|until| until <= now) {
            match self.phase {
                Phase::Interrupted => actions.extend(self.on_end(now)),
                Phase::Ended => {
                    self.phase = Phase::Gone;
                    self.until = None;
                    actions.push(Action::Enter(Phase::Gone));
                }
                Phase::Created | Phase::Live | Phase::Gone => self.until = None,
            }
        }
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Action::*;

    const LIMITS: Limits = Limits {
        silence: Duration::from_secs(10),
        resume: Duration::from_secs(30),
        retention: Duration::from_secs(60),
        challenge: Duration::from_secs(2),
    };
    const A: ConnectionId = ConnectionId(1);
    const B: ConnectionId = ConnectionId(2);
    const C: ConnectionId = ConnectionId(3);

    fn live(now: Instant) -> Life {
        let mut life = Life::new(LIMITS, Phase::Created, now);
        assert_eq!(life.on_publisher(now, A), [Accept(A)]);
        assert_eq!(life.on_frame(now), [Enter(Phase::Live)]);
        life
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_publisher_who_closes_may_come_back_until_the_resume_time_is_over() {
        let now = Instant::now();
        let mut life = live(now);
        assert_eq!(life.on_closed(now, A), [Enter(Phase::Interrupted)]);
        assert_eq!(life.next_deadline(), Some(now + seconds(30)));
        assert_eq!(life.on_publisher(now + seconds(29), B), [Accept(B)]);
        assert_eq!(life.on_frame(now + seconds(29)), [Enter(Phase::Live)]);
        assert_eq!(life.on_closed(now + seconds(29), B), [Enter(Phase::Interrupted)]);
        assert_eq!(life.on_deadline(now + seconds(59)), [Enter(Phase::Ended)]);
        assert_eq!(life.on_publisher(now + seconds(60), C), [RefuseEnded(C)]);
        assert_eq!(life.on_deadline(now + seconds(119)), [Enter(Phase::Gone)]);
        assert_eq!(life.next_deadline(), None);
    }

    #[test]
    fn a_silent_publisher_is_away_but_keeps_the_connection_until_the_end() {
        let now = Instant::now();
        let mut life = live(now);
        assert_eq!(life.on_deadline(now + seconds(10)), [Enter(Phase::Interrupted)]);
        assert_eq!(life.publisher(), Some(A));
        assert_eq!(life.on_frame(now + seconds(20)), [Enter(Phase::Live)]);
        assert_eq!(life.on_deadline(now + seconds(30)), [Enter(Phase::Interrupted)]);
        assert_eq!(life.on_deadline(now + seconds(60)), [Cut(A), Enter(Phase::Ended)]);
    }

    #[test]
    fn a_second_publisher_is_refused_when_the_first_shows_life() {
        let now = Instant::now();
        let mut life = live(now);
        assert_eq!(life.on_publisher(now, B), [Ping(A)]);
        assert_eq!(life.on_publisher(now, C), [RefuseBusy(C)]);
        assert_eq!(life.on_alive(A), [RefuseBusy(B)]);
        assert_eq!(life.on_alive(A), []);
    }

    #[test]
    fn a_second_publisher_replaces_a_first_that_shows_no_life() {
        let now = Instant::now();
        let mut life = live(now);
        assert_eq!(life.on_publisher(now, B), [Ping(A)]);
        assert_eq!(life.next_deadline(), Some(now + seconds(2)));
        let actions = life.on_deadline(now + seconds(2));
        assert_eq!(actions, [Cut(A), Enter(Phase::Interrupted), Accept(B)]);
        // The cut connection's own end changes nothing any more.
        assert_eq!(life.on_closed(now + seconds(2), A), []);
        assert_eq!(life.on_frame(now + seconds(2)), [Enter(Phase::Live)]);
    }

    #[test]
    fn a_second_publisher_takes_over_at_once_when_the_first_closes() {
        let now = Instant::now();
        let mut life = live(now);
        life.on_publisher(now, B);
        assert_eq!(life.on_closed(now, A), [Enter(Phase::Interrupted), Accept(B)]);
    }

    #[test]
    fn an_end_cuts_the_publisher_and_whoever_waits() {
        let now = Instant::now();
        let mut life = live(now);
        life.on_publisher(now, B);
        assert_eq!(life.on_end(now), [Cut(A), RefuseEnded(B), Enter(Phase::Ended)]);
        assert_eq!(life.on_end(now), []);
        assert_eq!(life.on_frame(now), []);
    }

    #[test]
    fn a_publisher_who_never_sent_a_frame_leaves_the_broadcast_created() {
        let now = Instant::now();
        let mut life = Life::new(LIMITS, Phase::Created, now);
        life.on_publisher(now, A);
        assert_eq!(life.on_closed(now, A), []);
        assert_eq!(life.phase(), Phase::Created);
        assert_eq!(life.next_deadline(), None);
    }

    #[test]
    fn a_publisher_who_sends_nothing_is_cut() {
        let now = Instant::now();
        let mut life = Life::new(LIMITS, Phase::Created, now);
        life.on_publisher(now, A);
        assert_eq!(life.next_deadline(), Some(now + seconds(10)));
        assert_eq!(life.on_deadline(now + seconds(10)), [Cut(A)]);
        assert_eq!(life.on_publisher(now + seconds(11), B), [Accept(B)]);
    }

    #[test]
    fn an_end_without_anything_to_serve_is_gone_at_once() {
        let now = Instant::now();
        let mut life = Life::new(LIMITS, Phase::Created, now);
        life.on_end(now);
        life.forget(now);
        assert_eq!(life.on_deadline(now), [Enter(Phase::Gone)]);
    }

    #[test]
    fn a_restart_gives_the_publisher_the_whole_resume_time() {
        let now = Instant::now();
        let mut life = Life::new(LIMITS, Phase::Live, now);
        assert_eq!(life.phase(), Phase::Interrupted);
        assert_eq!(life.next_deadline(), Some(now + seconds(30)));
        assert_eq!(life.on_publisher(now, A), [Accept(A)]);
    }
}
