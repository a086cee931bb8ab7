//! Who watches over HLS: a joined viewer counts while it has asked for
//! anything within three target durations (CONTRACT section 2).
//!
//! Pure. Only viewers with a token are counted, each once however many
//! connections it has; who asks under `/live/` is nobody in particular. What
//! control is told of them is `lib.rs`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use spyglass_media::{BroadcastId, UserId, UtcTime, ViewerId};
use spyglass_token::WatchGrant;

/// How often the leases are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// One viewer's place in the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What is watched.
    pub broadcast: BroadcastId,
    /// Who watches.
    pub viewer: ViewerId,
    /// Which user that is, as its token says.
    pub user: Option<UserId>,
    /// Its seat, as its token says; on HLS control lets it hold those that only
    /// allow to comment.
    pub seat: Option<u32>,
    /// Of the seat.
    pub generation: u32,
    /// When its newest token expires.
    pub expires: UtcTime,
    /// When it began to.
    pub since: UtcTime,
}

impl Lease {
    fn of(grant: &WatchGrant, since: UtcTime) -> Self {
        let WatchGrant { broadcast, viewer, user, seat, generation, expires, .. } = *grant;
        Self { broadcast, viewer, user, seat, generation, expires, since }
    }
}

#[derive(Debug)]
struct Seen {
    lease: Lease,
    since: Instant,
    until: Instant,
}

/// The viewers of this edge.
#[derive(Debug)]
pub struct Viewers {
    most: usize,
    seen: HashMap<(BroadcastId, ViewerId), Seen>,
    next_sweep: Option<Instant>,
}

impl Viewers {
    /// Counts at most this many; further ones are served and not counted.
    pub fn new(most: usize) -> Self {
        Self { most, seen: HashMap::new(), next_sweep: None }
    }

    /// Counts at most this many from now on; nobody who counts stops to.
    pub fn set_most(&mut self, most: usize) {
        self.most = most;
    }

    /// The holder of a token asked for something; it counts for `lease` from now
    /// on. Some when it did not count before or shows a newer token.
    pub fn on_request(
        &mut self,
        now: Instant,
        utc: UtcTime,
        grant: &WatchGrant,
        lease: Duration,
    ) -> Option<Lease> {
        let until = now + lease;
        let key = (grant.broadcast, grant.viewer);
        if let Some(seen) = self.seen.get_mut(&key) {
            seen.until = until;
            if (grant.generation, grant.expires) <= (seen.lease.generation, seen.lease.expires) {
                return None;
            }
            seen.lease = Lease::of(grant, seen.lease.since);
            return Some(seen.lease);
        }
        if self.seen.len() >= self.most {
            return None;
        }
        let lease = Lease::of(grant, utc);
        self.seen.insert(key, Seen { lease, since: now, until });
        self.next_sweep.get_or_insert(now + SWEEP);
        Some(lease)
    }

    /// Since when this viewer has been here; nothing when it is not counted.
    pub fn since(&self, broadcast: BroadcastId, viewer: ViewerId) -> Option<Instant> {
        self.seen.get(&(broadcast, viewer)).map(|seen| seen.since)
    }

    /// A viewer's tokens are refused from now on.
    pub fn on_revoked(&mut self, broadcast: BroadcastId, viewer: ViewerId) -> Option<Lease> {
        self.seen.remove(&(broadcast, viewer)).map(|seen| seen.lease)
    }

    /// When [`Self::on_deadline`] must be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.next_sweep
    }

    /// Who has stopped asking.
    pub fn on_deadline(&mut self, now: Instant) -> Vec<Lease> {
        if self.next_sweep.is_none_or(|next| now < next) {
            return Vec::new();
        }
        let gone = self.seen.extract_if(|_, seen| seen.until <= now);
        let gone = gone.map(|(_, seen)| seen.lease).collect();
        self.next_sweep = (!self.seen.is_empty()).then(|| now + SWEEP);
        gone
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.seen.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(12);

    fn broadcast(seed: u8) -> BroadcastId {
        BroadcastId::from_random([seed; 16])
    }

    fn viewer(seed: u8) -> ViewerId {
        ViewerId::from_random([seed; 16])
    }

    fn grant(who: u8) -> WatchGrant {
        WatchGrant {
            broadcast: broadcast(1),
            viewer: viewer(who),
            user: None,
            seat: None,
            push: false,
            comment: false,
            generation: 0,
            issued: UtcTime::from_millis(1),
            expires: UtcTime::from_millis(100),
        }
    }

    fn ask(viewers: &mut Viewers, now: Instant, who: u8) -> bool {
        viewers.on_request(now, UtcTime::from_millis(1), &grant(who), LEASE).is_some()
    }

    #[test]
    fn a_newer_token_is_told_once() {
        let now = Instant::now();
        let mut viewers = Viewers::new(10);
        let user = Some(UserId::from_random([7; 16]));
        let old = WatchGrant { seat: Some(101), generation: 3, user, ..grant(1) };
        let utc = UtcTime::from_millis;
        let told = viewers.on_request(now, utc(1), &old, LEASE).unwrap();
        assert_eq!((told.seat, told.generation, told.user), (Some(101), 3, user));
        let new = WatchGrant { seat: Some(102), generation: 4, ..old.clone() };
        let told = viewers.on_request(now, utc(9), &new, LEASE).unwrap();
        assert_eq!((told.seat, told.generation, told.since), (Some(102), 4, utc(1)));
        assert!(viewers.on_request(now, utc(9), &new, LEASE).is_none());
        assert!(viewers.on_request(now, utc(9), &old, LEASE).is_none());
        let longer = WatchGrant { expires: utc(101), ..new };
        assert!(viewers.on_request(now, utc(9), &longer, LEASE).is_some());
    }

    #[test]
    fn a_viewer_begins_once_and_ends_when_it_stops_asking() {
        let now = Instant::now();
        let mut viewers = Viewers::new(10);
        assert!(ask(&mut viewers, now, 1));
        assert!(!ask(&mut viewers, now + LEASE / 2, 1));
        assert_eq!(viewers.on_deadline(now + LEASE), []);
        assert_eq!(viewers.count(), 1);
        let gone = viewers.on_deadline(now + LEASE * 3 / 2);
        assert_eq!(gone.iter().map(|lease| lease.viewer).collect::<Vec<_>>(), [viewer(1)]);
        assert_eq!((viewers.count(), viewers.next_deadline()), (0, None));
        assert!(ask(&mut viewers, now + LEASE * 2, 1));
    }

    #[test]
    fn a_revoked_viewer_stops_counting_at_once() {
        let now = Instant::now();
        let mut viewers = Viewers::new(10);
        ask(&mut viewers, now, 1);
        assert!(viewers.on_revoked(broadcast(1), viewer(1)).is_some());
        assert!(viewers.on_revoked(broadcast(1), viewer(1)).is_none());
        assert_eq!(viewers.count(), 0);
    }

    #[test]
    fn beyond_the_limit_nobody_is_counted() {
        let now = Instant::now();
        let mut viewers = Viewers::new(2);
        assert!(ask(&mut viewers, now, 1) && ask(&mut viewers, now, 2));
        assert!(!ask(&mut viewers, now, 3));
        assert_eq!(viewers.count(), 2);
        viewers.set_most(3);
        assert!(ask(&mut viewers, now, 3) && !ask(&mut viewers, now, 4));
        viewers.set_most(1);
        assert_eq!(viewers.count(), 3);
    }
}
