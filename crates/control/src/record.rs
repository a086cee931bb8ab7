//! A broadcast as control remembers it, and how it changes.
//!
//! The origin decides what happens to a broadcast and reports it; control
//! follows, and decides itself only when an origin can no longer be asked.
//! Pure: the record is changed here, kept by [`crate::broadcasts`].

use std::time::Duration;

use serde::{Deserialize, Serialize};
use spyglass_media::{BroadcastId, Fill, Location, NodeId, UserId, UtcTime};

/// Time that an origin has beyond the resume time to report an end itself.
pub const SLACK: Duration = Duration::from_secs(15);

/// Where a broadcast is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing was published yet.
    Created,
    /// On air.
    Live,
    /// The publisher is away and may come back.
    Interrupted,
    /// Over.
    Ended,
}

impl Phase {
    /// Every phase, for metrics.
    pub const ALL: [Self; 4] = [Self::Created, Self::Live, Self::Interrupted, Self::Ended];

    /// The word of the API and the metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Live => "live",
            Self::Interrupted => "interrupted",
            Self::Ended => "ended",
        }
    }
}

/// Who ended a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndedBy {
    /// The owner or the operator.
    Request,
    /// Its origin: nobody came back.
    Origin,
    /// Control: its origin is not heard of, or said nothing in time.
    Control,
}

/// What only control knows of a broadcast. The origin keeps it too, as it is
/// written here, and gives it back to a control that lost its state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memo {
    /// For people.
    pub title: String,
    /// Who made it; `None`: the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// Who may see it beside the owner; `None`: everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_to: Option<Vec<UserId>>,
    /// Length of a chunk, in milliseconds.
    pub chunk_ms: u32,
    /// Length of a part, in milliseconds; 0 for none.
    pub part_ms: u32,
    /// What makes edges fetch; `None`: as each is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fill: Option<Fill>,
    /// How long it may be interrupted, in milliseconds.
    pub resume_ms: u32,
    /// Push viewers it takes; `None`: as many as any broadcast.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push_viewers: Option<u32>,
    /// Only who joins may watch: edges do not serve it to anybody else.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// Where the broadcaster stands, if it said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: i64,
}

/// A broadcast.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub id: BroadcastId,
    /// Where it was placed.
    pub origin: NodeId,
    /// That origin's RTMP address, for when it is not registered at the moment.
    #[serde(default)]
    pub rtmp: String,
    /// What control alone knows.
    pub memo: Memo,
    /// Where it is in its life.
    pub phase: Phase,
    /// First key frame, in milliseconds since the Unix epoch, as are the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<i64>,
    /// Since when the publisher is away, by control's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupted_at_ms: Option<i64>,
    /// The end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<i64>,
    /// Whose decision that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_by: Option<EndedBy>,
    /// The newest that its origin spoke of.
    #[serde(default)]
    pub epoch: u32,
}

/// What an origin says of a broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where it is in its life.
    pub phase: Phase,
    /// When that began, by the origin's clock.
    pub at: UtcTime,
    /// The newest epoch.
    pub epoch: u32,
}

impl Record {
    /// A new one, nothing published yet.
    pub fn new(id: BroadcastId, origin: NodeId, rtmp: String, memo: Memo) -> Self {
        Self {
            id,
            origin,
            rtmp,
            memo,
            phase: Phase::Created,
            started_at_ms: None,
            interrupted_at_ms: None,
            ended_at_ms: None,
            ended_by: None,
            epoch: 0,
        }
    }

    /// Nodes serve it to holders of a viewer's token only.
    pub const fn is_for_joined(&self) -> bool {
        self.is_private() || self.memo.closed
    }

    /// Only those who are named may know of it.
    pub const fn is_private(&self) -> bool {
        self.memo.private_to.is_some()
    }

    /// Over for good, or for as long as its origin is away.
    pub fn is_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// `user` may see it.
    pub fn is_visible_to(&self, user: Option<UserId>) -> bool {
        match (&self.memo.private_to, user) {
            (None, _) => true,
            (Some(named), Some(user)) => self.memo.user == Some(user) || named.contains(&user),
            (Some(_), None) => false,
        }
    }

    /// Its origin reports. True when that changed anything.
    ///
    /// An ended broadcast stays ended, unless control ended it only because it
    /// did not hear of its origin.
    pub fn on_report(&mut self, report: Report, now: UtcTime) -> bool {
        let running = matches!(report.phase, Phase::Live | Phase::Interrupted);
        let revived = self.ended_by == Some(EndedBy::Control) && running;
        if self.is_ended() && !revived {
            return false;
        }
        if report.epoch < self.epoch && report.phase != Phase::Ended {
            return false;
        }
        let before = (self.phase, self.epoch);
        self.epoch = self.epoch.max(report.epoch);
        match report.phase {
            // What was live does not become unborn.
            Phase::Created => {}
            Phase::Live => {
                self.phase = Phase::Live;
                self.started_at_ms.get_or_insert(report.at.millis());
                self.interrupted_at_ms = None;
            }
            Phase::Interrupted => {
                self.phase = Phase::Interrupted;
                self.interrupted_at_ms.get_or_insert(now.millis());
            }
            Phase::Ended => self.end(EndedBy::Origin, report.at),
        }
        if running {
            (self.ended_at_ms, self.ended_by) = (None, None);
        }
        before != (self.phase, self.epoch)
    }

    /// Its origin started anew and does not know it any more: nobody publishes.
    pub fn on_origin_forgot(&mut self, now: UtcTime) -> bool {
        let live = self.phase == Phase::Live;
        if live {
            self.phase = Phase::Interrupted;
            self.interrupted_at_ms = Some(now.millis());
        }
        live
    }

    /// The end, if it has not ended.
    pub fn on_end(&mut self, by: EndedBy, now: UtcTime) -> bool {
        let by_request = self.ended_by == Some(EndedBy::Control) && by == EndedBy::Request;
        if self.is_ended() && !by_request {
            return false;
        }
        self.end(by, now);
        true
    }

    fn end(&mut self, by: EndedBy, at: UtcTime) {
        self.phase = Phase::Ended;
        self.ended_at_ms.get_or_insert(at.millis());
        self.ended_by = Some(by);
        self.interrupted_at_ms = None;
    }

    /// Control has to end it: its origin has not been heard of for `origin_lost`,
    /// or did not say in time that nobody came back, or nobody ever published
    /// within `unused`.
    pub fn is_overdue(
        &self,
        origin_lost: Option<Duration>,
        unused: Duration,
        now: UtcTime,
    ) -> bool {
        let resume = Duration::from_millis(self.memo.resume_ms.into());
        let since = |ms: i64| now.since(UtcTime::from_millis(ms));
        match self.phase {
            Phase::Created => since(self.memo.created_at_ms) >= unused,
            Phase::Live => origin_lost.is_some_and(|lost| lost >= resume),
            Phase::Interrupted => {
                origin_lost.is_some_and(|lost| lost >= resume)
                    || self.interrupted_at_ms.is_some_and(|ms| since(ms) >= resume + SLACK)
            }
            Phase::Ended => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> UtcTime {
        UtcTime::from_millis(1_800_000_000_000 + seconds * 1000)
    }

    fn record() -> Record {
        let memo = Memo { resume_ms: 30_000, created_at_ms: at(0).millis(), ..Memo::default() };
        Record::new(BroadcastId::from_random([1; 16]), "o".parse().unwrap(), String::new(), memo)
    }

    fn report(phase: Phase, second: i64, epoch: u32) -> Report {
        Report { phase, at: at(second), epoch }
    }

    #[test]
    fn a_broadcast_follows_its_origin() {
        let mut record = record();
        assert!(!record.on_report(report(Phase::Created, 0, 0), at(0)));
        assert!(record.on_report(report(Phase::Live, 5, 1), at(6)));
        assert_eq!((record.phase, record.started_at_ms), (Phase::Live, Some(at(5).millis())));
        assert!(!record.on_report(report(Phase::Live, 5, 1), at(7)), "said again");
        assert!(record.on_report(report(Phase::Interrupted, 8, 1), at(9)));
        assert!(record.on_report(report(Phase::Live, 10, 2), at(10)));
        assert_eq!(record.started_at_ms, Some(at(5).millis()), "it started once");
        assert!(!record.on_report(report(Phase::Interrupted, 11, 1), at(11)), "of an old epoch");
        assert!(record.on_report(report(Phase::Ended, 50, 2), at(51)));
        assert_eq!(
            (record.ended_at_ms, record.ended_by),
            (Some(at(50).millis()), Some(EndedBy::Origin))
        );
        assert!(!record.on_report(report(Phase::Live, 60, 3), at(60)));
        assert!(!record.on_end(EndedBy::Request, at(61)));
    }

    #[test]
    fn control_ends_what_its_origin_leaves_hanging() {
        let unused = Duration::from_secs(3600);
        let seconds = |n| Some(Duration::from_secs(n));
        let mut record = record();
        assert!(!record.is_overdue(seconds(1_000), unused, at(3599)));
        assert!(record.is_overdue(None, unused, at(3600)), "nobody came");
        record.on_report(report(Phase::Live, 0, 1), at(0));
        assert!(!record.is_overdue(None, unused, at(99_999)));
        assert!(!record.is_overdue(seconds(29), unused, at(99_999)));
        assert!(record.is_overdue(seconds(30), unused, at(100)));
        record.on_report(report(Phase::Interrupted, 100, 1), at(100));
        assert!(!record.is_overdue(None, unused, at(144)));
        assert!(record.is_overdue(None, unused, at(145)));
    }

    #[test]
    fn a_lost_origin_that_returns_brings_its_broadcasts_back() {
        let mut record = record();
        record.on_report(report(Phase::Live, 0, 1), at(0));
        assert!(record.on_end(EndedBy::Control, at(40)));
        assert!(record.is_ended());
        assert!(record.on_report(report(Phase::Live, 0, 1), at(60)));
        assert_eq!((record.phase, record.ended_at_ms), (Phase::Live, None));
        // But not against its owner's word.
        record.on_end(EndedBy::Control, at(100));
        assert!(record.on_end(EndedBy::Request, at(101)));
        assert!(!record.on_report(report(Phase::Live, 0, 2), at(102)));
    }

    #[test]
    fn an_origin_that_forgot_has_no_publisher() {
        let mut record = record();
        assert!(!record.on_origin_forgot(at(0)));
        record.on_report(report(Phase::Live, 0, 4), at(0));
        assert!(record.on_origin_forgot(at(10)));
        assert_eq!(
            (record.phase, record.interrupted_at_ms),
            (Phase::Interrupted, Some(at(10).millis()))
        );
    }

    #[test]
    fn only_the_owner_and_the_named_see_a_private_one() {
        let user = |n: u8| Some(UserId::from_random([n; 16]));
        let mut record = record();
        assert!(record.is_visible_to(None) && record.is_visible_to(user(9)));
        record.memo.user = user(1);
        record.memo.private_to = Some(vec![user(2).unwrap()]);
        let seen: Vec<bool> =
            [None, user(1), user(2), user(3)].map(|who| record.is_visible_to(who)).to_vec();
        assert_eq!(seen, [false, true, true, false]);
    }

    #[test]
    fn the_memo_survives_the_origin() {
        let mut record = record();
        record.memo.title = "naïve \"title\"".to_owned();
        record.memo.location = Some("52.37,4.9".parse().unwrap());
        record.memo.private_to = Some(vec![]);
        let bytes = serde_json::to_vec(&record.memo).unwrap();
        assert_eq!(serde_json::from_slice::<Memo>(&bytes).unwrap(), record.memo);
        assert_eq!(serde_json::from_str::<Memo>("{\"later\":1}").unwrap(), Memo::default());
        let whole = serde_json::to_vec(&record).unwrap();
        assert_eq!(serde_json::from_slice::<Record>(&whole).unwrap(), record);
    }
}
