//! Which viewers' tokens are refused, until those tokens expire by themselves.

use std::collections::{BTreeSet, HashMap};

use spyglass_api::control::Revocation;
use spyglass_media::{BroadcastId, UtcTime, ViewerId};

/// Revocations remembered. At most a few hundred are in force in a system that
/// is well; beyond it, the one that expires soonest is forgotten.
pub const MOST: usize = 100_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Revocations {
    expires: HashMap<(BroadcastId, ViewerId), i64>,
    by_expiry: BTreeSet<(i64, BroadcastId, ViewerId)>,
}

impl Revocations {
    /// True when this viewer was not revoked before. Malformed and expired
    /// revocations change nothing.
    pub fn add(&mut self, revocation: &Revocation, now: UtcTime) -> bool {
        self.forget(now);
        let (Ok(broadcast), Ok(viewer)) = (revocation.broadcast.parse(), revocation.viewer.parse())
        else {
            return false;
        };
        let until = revocation.expires_at_ms;
        if until <= now.millis() {
            return false;
        }
        let before = self.expires.get(&(broadcast, viewer)).copied();
        if before.is_some_and(|before| before >= until) {
            return false;
        }
        if let Some(before) = before {
            self.by_expiry.remove(&(before, broadcast, viewer));
        }
        self.expires.insert((broadcast, viewer), until);
        self.by_expiry.insert((until, broadcast, viewer));
        if self.by_expiry.len() > MOST {
            self.forget_first();
        }
        before.is_none()
    }

    /// Whether this viewer's tokens are refused.
    pub fn contains(&self, broadcast: BroadcastId, viewer: ViewerId) -> bool {
        self.expires.contains_key(&(broadcast, viewer))
    }

    /// All, the soonest to expire first.
    pub fn all(&self) -> Vec<Revocation> {
        let wire = |&(expires_at_ms, broadcast, viewer): &(i64, BroadcastId, ViewerId)| {
            let (broadcast, viewer) = (broadcast.to_string(), viewer.to_string());
            Revocation { broadcast, viewer, expires_at_ms }
        };
        self.by_expiry.iter().map(wire).collect()
    }

    /// Drops those whose tokens have expired.
    fn forget(&mut self, now: UtcTime) {
        while self.by_expiry.first().is_some_and(|&(until, ..)| until <= now.millis()) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, broadcast, viewer)) = self.by_expiry.pop_first() {
            self.expires.remove(&(broadcast, viewer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revocation(viewer: u32, expires_at_ms: i64) -> Revocation {
        let viewer = ids(viewer).1.to_string();
        Revocation { broadcast: ids(0).0.to_string(), viewer, expires_at_ms }
    }

    fn ids(viewer: u32) -> (BroadcastId, ViewerId) {
        let mut random = [0; 16];
        random[..4].copy_from_slice(&viewer.to_le_bytes());
        (BroadcastId::from_random([7; 16]), ViewerId::from_random(random))
    }

    const NOW: UtcTime = UtcTime::from_millis(1_000);

    #[test]
    fn a_viewer_is_revoked_once_and_until_the_token_expires() {
        let mut revocations = Revocations::default();
        let (broadcast, viewer) = ids(1);
        assert!(revocations.add(&revocation(1, 2_000), NOW));
        assert!(!revocations.add(&revocation(1, 2_000), NOW));
        assert!(!revocations.add(&revocation(1, 3_000), NOW), "longer, but no news");
        assert!(revocations.contains(broadcast, viewer));
        assert!(revocations.add(&revocation(2, 9_000), UtcTime::from_millis(2_500)));
        assert!(revocations.contains(broadcast, viewer));
        assert!(!revocations.add(&revocation(3, 2_900), UtcTime::from_millis(3_000)));
        assert!(!revocations.contains(broadcast, viewer));
        assert_eq!(revocations.all(), [revocation(2, 9_000)]);
    }

    #[test]
    fn what_is_no_id_is_ignored() {
        let bad = Revocation { viewer: "../x".into(), ..revocation(1, 2_000) };
        assert!(!Revocations::default().add(&bad, NOW));
    }

    #[test]
    fn there_is_a_limit() {
        let mut revocations = Revocations::default();
        for viewer in 0..=MOST as u32 {
            revocations.add(&revocation(viewer, 2_000 + i64::from(viewer)), NOW);
        }
        assert_eq!(revocations.all().len(), MOST);
        assert!(!revocations.contains(ids(0).0, ids(0).1), "the soonest to expire went");
        assert!(revocations.contains(ids(1).0, ids(1).1));
    }
}
