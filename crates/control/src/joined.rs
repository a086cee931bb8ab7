//! Which user a viewer is, and which users may not come back.
//!
//! Leases and tokens name viewers only. Who joined with a user's token is
//! remembered here, at every control (they tell each other on the bus), so that
//! a kick reaches the person: the same user's next join is refused, whatever
//! viewer it would become. What is remembered is bounded and in memory; a kick
//! is in the store.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use spyglass_daemon::Shutdown;
use spyglass_media::{BroadcastId, UserId, UtcTime, ViewerId};
use spyglass_store::bus::Received;
use tracing::warn;

use crate::panel::Panel;
use crate::store::{self, Store, list_all};

/// What controls tell each other on.
const SUBJECT: &str = "joined";

/// Viewers remembered; the oldest are forgotten first.
const REMEMBERED: usize = 200_000;

/// What the names of kicked users in the store begin with.
const PREFIX: &str = "kicks/";

type Who = (BroadcastId, ViewerId);

/// See the module.
#[derive(Debug, Default)]
pub struct Joined(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    users: HashMap<Who, UserId>,
    order: VecDeque<Who>,
}

impl Joined {
    /// This viewer is that user.
    pub fn put(&self, who: Who, user: UserId) {
        let mut inner = self.0.lock();
        if inner.users.insert(who, user).is_none() {
            inner.order.push_back(who);
        }
        while inner.order.len() > REMEMBERED {
            let oldest = inner.order.pop_front();
            oldest.and_then(|oldest| inner.users.remove(&oldest));
        }
    }

    /// Which user this viewer is, if it is known to be one.
    pub fn user(&self, who: Who) -> Option<UserId> {
        self.0.lock().users.get(&who).copied()
    }
}

fn key(broadcast: BroadcastId, user: UserId) -> String {
    format!("{PREFIX}{broadcast}/{user}")
}

/// Keeps a user out of a broadcast for as long as that is remembered.
pub async fn keep_out(
    store: &dyn Store,
    broadcast: BroadcastId,
    user: UserId,
    now: UtcTime,
) -> Result<(), store::Error> {
    let since = Bytes::from(now.millis().to_string());
    match store.create(&key(broadcast, user), since).await {
        Ok(_) | Err(store::Error::Exists) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a user was kicked from a broadcast.
pub async fn is_kept_out(
    store: &dyn Store,
    broadcast: BroadcastId,
    user: UserId,
) -> Result<bool, store::Error> {
    Ok(store.get(&key(broadcast, user)).await?.is_some())
}

/// The broadcast is forgotten.
pub async fn forget(store: &dyn Store, broadcast: BroadcastId) -> Result<(), store::Error> {
    for item in list_all(store, &format!("{PREFIX}{broadcast}/")).await? {
        store.delete(&item.key, None).await?;
    }
    Ok(())
}

/// Remembers a join here and at the other controls.
pub async fn tell(panel: &Panel, who: Who, user: UserId) {
    panel.joined.put(who, user);
    let text = format!("{} {} {user}", who.0, who.1);
    // Without the bus only this control knows the person.
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
                Some((who, user)) => panel.joined.put(who, user),
                None => warn!("a join that makes no sense was told on the bus"),
            },
            Some(Received::Missed) => {}
            None => return,
        }
    }
}

fn parse(payload: &[u8]) -> Option<(Who, UserId)> {
    let mut words = std::str::from_utf8(payload).ok()?.split(' ');
    let broadcast = words.next()?.parse().ok()?;
    let viewer = words.next()?.parse().ok()?;
    Some(((broadcast, viewer), words.next()?.parse().ok()?))
}
