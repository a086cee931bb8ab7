//! What waits to be sent to control, and in which order.
//!
//! Bounded by construction: one heartbeat, one digest, and a queue that is only
//! filled while it is short.

use std::collections::VecDeque;

use spyglass_api::control::report::Report as Kind;
use spyglass_api::control::{
    BroadcastEvent, BroadcastRecords, Crowd, Crowds, DelayReport, Heartbeat, LeaseDelta, Load,
    Report,
};

use super::CROWDS;
use super::leases::Digest;

/// Reports in the queue at which no more are taken from their source.
const ENOUGH: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct Outbox {
    heartbeat: Option<(Load, Vec<Crowd>)>,
    /// What was said last of anonymous viewers.
    crowds: Option<Vec<Crowd>>,
    queue: VecDeque<Kind>,
    digest: Option<Digest>,
}

impl Outbox {
    /// Replaces a heartbeat that was not sent yet.
    pub fn heartbeat(&mut self, load: Load, mut crowds: Vec<Crowd>) {
        crowds.truncate(CROWDS);
        self.heartbeat = Some((load, crowds));
    }

    /// Whether an event, delays or a delta may be added.
    pub fn has_room(&self) -> bool {
        self.queue.len() < ENOUGH
    }

    /// Adds an event.
    pub fn event(&mut self, event: BroadcastEvent) {
        self.queue.push_back(Kind::Event(event));
    }

    /// Adds records of broadcasts that did not fit into Register, before anything
    /// else is said.
    pub fn records(&mut self, records: BroadcastRecords) {
        self.queue.push_back(Kind::Records(records));
    }

    /// Adds a report of delays.
    pub fn delays(&mut self, report: DelayReport) {
        self.queue.push_back(Kind::Delays(report));
    }

    /// Whether a delta may be added: none may overtake a digest.
    pub fn takes_deltas(&self) -> bool {
        self.digest.is_none() && self.has_room()
    }

    /// Adds a delta.
    pub fn delta(&mut self, delta: LeaseDelta) {
        self.queue.push_back(Kind::Leases(delta));
    }

    /// Whether the previous digest is out.
    pub fn takes_digest(&self) -> bool {
        self.digest.is_none()
    }

    /// Adds a digest.
    pub fn digest(&mut self, digest: Digest) {
        self.digest = Some(digest);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.heartbeat.is_none() && self.queue.is_empty() && self.digest.is_none()
    }

    /// The next report: what keeps the node alive first.
    pub fn next(&mut self) -> Option<Report> {
        let heartbeat = self.heartbeat.take().map(|(load, crowds)| {
            let news = self.crowds.as_ref() != Some(&crowds);
            let told = news.then(|| Crowds { crowds: crowds.clone() });
            self.crowds = Some(crowds);
            Heartbeat { load: Some(load), crowds: told }
        });
        let kind = heartbeat.map(Kind::Heartbeat).or_else(|| self.queue.pop_front());
        let kind = kind.or_else(|| {
            let page = self.digest.as_mut()?.next()?;
            if page.last {
                self.digest = None;
            }
            Some(Kind::Digest(page))
        });
        Some(Report { report: Some(kind?) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::leases::Leases;
    use super::*;

    #[test]
    fn heartbeats_come_first_and_never_pile_up() {
        let mut outbox = Outbox::default();
        outbox.event(BroadcastEvent::default());
        outbox.digest(Leases::default().digest(1));
        assert!(!outbox.takes_deltas() && !outbox.takes_digest());
        outbox.heartbeat(Load { viewers: 1, ..Load::default() }, Vec::new());
        outbox.heartbeat(Load { viewers: 2, ..Load::default() }, Vec::new());
        let next = |outbox: &mut Outbox| outbox.next().and_then(|report| report.report);
        let Some(Kind::Heartbeat(Heartbeat { load: Some(load), .. })) = next(&mut outbox) else {
            panic!("no heartbeat");
        };
        assert_eq!(load.viewers, 2);
        assert!(matches!(next(&mut outbox), Some(Kind::Event(_))));
        assert!(matches!(next(&mut outbox), Some(Kind::Digest(page)) if page.last));
        assert!(outbox.is_empty() && outbox.takes_deltas() && next(&mut outbox).is_none());
    }

    #[test]
    fn crowds_are_told_when_they_change() {
        let mut outbox = Outbox::default();
        let crowd = |estimate| vec![Crowd { broadcast: "a".into(), estimate }];
        let mut beat = |crowds| {
            outbox.heartbeat(Load::default(), crowds);
            match outbox.next().and_then(|report| report.report) {
                Some(Kind::Heartbeat(beat)) => beat.crowds.map(|crowds| crowds.crowds.len()),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(beat(Vec::new()), Some(0), "control may hold those of an earlier stream");
        assert_eq!(beat(crowd(1)), Some(1));
        assert_eq!(beat(crowd(1)), None);
        assert_eq!(beat(crowd(2)), Some(1));
        assert_eq!(beat(vec![Crowd::default(); CROWDS + 1]), Some(CROWDS));
        assert_eq!(beat(Vec::new()), Some(0));
    }

    #[test]
    fn there_is_a_limit() {
        let mut outbox = Outbox::default();
        while outbox.has_room() {
            outbox.event(BroadcastEvent::default());
        }
        assert_eq!(outbox.queue.len(), ENOUGH);
        assert!(!outbox.takes_deltas());
    }
}
