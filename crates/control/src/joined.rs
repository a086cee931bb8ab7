//! Who a viewer is: which user, and until when its tokens are good.
//!
//! Needed when somebody is kicked: the same user's next join is refused,
//! whatever viewer it would become, and the kick is remembered for as long as
//! the viewer's newest token lives. Every control remembers who joined (they
//! tell each other on the bus); a viewer's token says it too, so that the leases
//! of those who watch bring it to a control that has just started, and who has
//! gone stands in the broadcast's history. What is remembered here is bounded
//! and in memory; kicked users are [`crate::kept_out`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use spyglass_daemon::Shutdown;
use spyglass_media::{BroadcastId, UserId, UtcTime, ViewerId};
use spyglass_store::bus::Received;
use tokio::sync::Notify;
use tracing::warn;

use crate::panel::Panel;
use crate::store;

/// What controls tell each other on.
const SUBJECT: &str = "admitted";

/// Viewers remembered; the oldest are forgotten first.
const REMEMBERED: usize = 200_000;

/// How long a join at another control may be on its way here when its seat is
/// known already.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

type Name = (BroadcastId, ViewerId);

/// What is known of a viewer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// The user, if it joined as one.
    pub user: Option<UserId>,
    /// When its newest token expires, if that is known.
    pub expires: Option<UtcTime>,
}

impl Who {
    /// Both together.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { user: self.user.or(other.user), expires: self.expires.max(other.expires) }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Joined {
    inner: Mutex<Inner>,
    /// Somebody more is remembered.
    news: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    known: HashMap<Name, Who>,
    order: VecDeque<Name>,
}

impl Joined {
    /// This viewer was admitted.
    pub fn put(&self, name: Name, who: Who) {
        let mut inner = self.inner.lock();
        match inner.known.get_mut(&name) {
            Some(known) => *known = who.or(*known),
            None => {
                inner.known.insert(name, who);
                inner.order.push_back(name);
            }
        }
        while inner.order.len() > REMEMBERED {
            let oldest = inner.order.pop_front();
            oldest.and_then(|oldest| inner.known.remove(&oldest));
        }
        drop(inner);
        self.news.notify_waiters();
    }

    /// Who this viewer is, if that is remembered.
    pub fn get(&self, name: Name) -> Option<Who> {
        self.inner.lock().known.get(&name).copied()
    }

    /// The viewers that one user became in a broadcast, those whose tokens live
    /// longest first.
    pub fn of_user(&self, broadcast: BroadcastId, user: UserId) -> Vec<(ViewerId, Who)> {
        let inner = self.inner.lock();
        let is_one = |((of, _), who): &(&Name, &Who)| *of == broadcast && who.user == Some(user);
        let found = inner.known.iter().filter(is_one);
        let mut found: Vec<_> = found.map(|((_, viewer), who)| (*viewer, *who)).collect();
        drop(inner);
        found.sort_by_key(|(_, who)| std::cmp::Reverse(who.expires));
        found
    }
}

/// Who this viewer is by what is in memory: joins and leases. `None` when
/// neither knows of it.
pub fn who(panel: &Panel, name: Name) -> Option<Who> {
    let leased = panel.fleet().audience().who(name.0, name.1);
    match (panel.joined.get(name), leased) {
        (Some(joined), Some(leased)) => Some(joined.or(leased)),
        (joined, leased) => joined.or(leased),
    }
}

/// The viewers that one user is in a broadcast, by what is in memory: those who
/// watch now, then those who joined and may. At most `limit`.
pub fn of_user(
    panel: &Panel,
    broadcast: BroadcastId,
    user: UserId,
    limit: usize,
) -> Vec<(ViewerId, Who)> {
    let mut all = panel.fleet().audience().of_user(broadcast, user);
    let mut seen: HashSet<ViewerId> = all.iter().map(|(viewer, _)| *viewer).collect();
    let joined = panel.joined.of_user(broadcast, user);
    all.extend(joined.into_iter().filter(|(viewer, _)| seen.insert(*viewer)));
    all.truncate(limit);
    all
}

/// As [`who`], and what the store knows of those who have gone or never came.
pub async fn find(panel: &Panel, name: Name) -> Result<Option<Who>, store::Error> {
    let known = who(panel, name);
    if known.is_some_and(|who| who.user.is_some() && who.expires.is_some()) {
        return Ok(known);
    }
    let past = panel.histories.read(&*panel.engine, name.0).await?;
    let past = past.viewers.get(&name.1).map(|watched| Who {
        user: watched.user,
        expires: watched.expires_ms.map(UtcTime::from_millis),
    });
    match (known, past) {
        (Some(known), past) => Ok(Some(known.or(past.unwrap_or_default()))),
        (None, Some(past)) => Ok(Some(past)),
        (None, None) => {
            if !panel.seats.holds(name.0, name.1).await? {
                return Ok(None);
            }
            // It joined at another control, which has said so before it answered.
            let heard = tokio::time::timeout(ON_ITS_WAY, hear(panel, name)).await;
            Ok(Some(heard.unwrap_or_default()))
        }
    }
}

/// Waits until this viewer is known.
async fn hear(panel: &Panel, name: Name) -> Who {
    loop {
        let news = panel.joined.news.notified();
        match who(panel, name) {
            Some(who) => return who,
            None => news.await,
        }
    }
}

/// Remembers a join here and at the other controls.
pub async fn tell(panel: &Panel, name: Name, who: Who) {
    panel.joined.put(name, who);
    let user = who.user.map_or("-".to_owned(), |user| user.to_string());
    let expires = who.expires.unwrap_or_default().millis();
    let text = format!("{} {} {user} {expires}", name.0, name.1);
    // Without the bus only this control knows the person, until it watches.
    if let Err(error) = panel.engine.publish(SUBJECT, Bytes::from(text)).await {
        tracing::debug!(%error, "other controls were not told of a join");
    }
}

/// Hears of joins at other controls until `shutdown`.
pub async fn follow(panel: Arc<Panel>, shutdown: Shutdown) {
    let mut joins = panel.engine.subscribe(SUBJECT);
    loop {
        let next = tokio::select! {
            next = joins.next() => next,
            () = shutdown.requested() => return,
        };
        match next {
            Some(Received::Payload(payload)) => match parse(&payload) {
                Some((name, who)) => panel.joined.put(name, who),
                None => warn!("a join that makes no sense was told on the bus"),
            },
            Some(Received::Missed) => {}
            None => return,
        }
    }
}

fn parse(payload: &[u8]) -> Option<(Name, Who)> {
    let mut words = std::str::from_utf8(payload).ok()?.split(' ');
    let broadcast = words.next()?.parse().ok()?;
    let viewer = words.next()?.parse().ok()?;
    let user = match words.next()? {
        "-" => None,
        user => Some(user.parse().ok()?),
    };
    let expires = words.next()?.parse().ok()?;
    let expires = (expires > 0).then(|| UtcTime::from_millis(expires));
    Some(((broadcast, viewer), Who { user, expires }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_token_counts_and_the_user_stays() {
        let name = (BroadcastId::from_random([1; 16]), ViewerId::from_random([2; 16]));
        let ann = UserId::from_random([3; 16]);
        let user = Some(ann);
        let until = |ms| Some(UtcTime::from_millis(ms));
        let joined = Joined::default();
        joined.put(name, Who { user, expires: until(9) });
        joined.put(name, Who { user: None, expires: until(5) });
        assert_eq!(joined.get(name), Some(Who { user, expires: until(9) }));
        let second = ViewerId::from_random([4; 16]);
        joined.put((name.0, second), Who { user, expires: until(10) });
        joined.put((name.0, ViewerId::from_random([5; 16])), Who::default());
        joined.put((BroadcastId::from_random([9; 16]), second), Who { user, expires: until(7) });
        let viewers: Vec<_> = joined.of_user(name.0, ann).into_iter().map(|(id, _)| id).collect();
        assert_eq!(viewers, [second, name.1]);
        let text = format!("{} {} {} 7", name.0, name.1, ann);
        assert_eq!(parse(text.as_bytes()), Some((name, Who { user, expires: until(7) })));
        let text = format!("{} {} - 0", name.0, name.1);
        assert_eq!(parse(text.as_bytes()), Some((name, Who::default())));
        assert_eq!(parse(b"nonsense"), None);
    }
}
