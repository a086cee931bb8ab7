//! Who follows whom, kept both ways.
//!
//! `follows/{user}/{other}` is the fact, `followers/{other}/{user}` the way
//! back to it. The way back is written first and removed last, and whoever
//! reads it asks for the fact: what a crash leaves half done is never shown,
//! and is swept by whoever comes across it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use spyglass_media::{UserId, UtcTime};

use crate::store::{self, Item, MAX_PAGE, Store, list_all};

/// The facts.
const FOLLOWS: &str = "follows/";

/// The ways back.
const FOLLOWERS: &str = "followers/";

/// Followers are counted as far as this.
pub const MAX_COUNTED: usize = 100_000;

/// A way back without its fact that is older than this leads nowhere: nobody
/// is just about to write the fact.
const ORPHAN: Duration = Duration::from_secs(60);

/// Facts asked for at once.
const AT_ONCE: usize = 32;

#[derive(Serialize, Deserialize)]
struct Since {
    since_ms: i64,
}

/// Why somebody cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The user follows as many as may be.
    #[error("a user can follow so many and no more")]
    Full,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// See the module.
pub struct Follows {
    store: Arc<dyn Store>,
    limit: usize,
}

fn fact(user: UserId, other: UserId) -> String {
    format!("{FOLLOWS}{user}/{other}")
}

fn way_back(user: UserId, other: UserId) -> String {
    format!("{FOLLOWERS}{other}/{user}")
}

/// Who follows whom by this key, if it is a fact's.
pub fn of_key(key: &str) -> Option<(UserId, UserId)> {
    let (user, other) = key.strip_prefix(FOLLOWS)?.split_once('/')?;
    Some((user.parse().ok()?, other.parse().ok()?))
}

/// The last word of a key.
fn last(item: &Item) -> Option<UserId> {
    item.key.rsplit('/').next()?.parse().ok()
}

impl Follows {
    /// Those of this store; one user can follow `limit` others.
    pub fn new(store: Arc<dyn Store>, limit: u32) -> Self {
        Self { store, limit: limit as usize }
    }

    /// `user` follows `other` from now on. Two requests at once may both find
    /// the last free place.
    pub async fn follow(
        &self,
        user: UserId,
        other: UserId,
        now: UtcTime,
    ) -> Result<(), FollowError> {
        let following = fact(user, other);
        if self.store.get(&following).await?.is_none()
            && self.count(&format!("{FOLLOWS}{user}/"), self.limit).await? >= self.limit
        {
            return Err(FollowError::Full);
        }
        let since = serde_json::to_vec(&Since { since_ms: now.millis() });
        let since = Bytes::from(since.unwrap_or_default());
        let back = way_back(user, other);
        self.write(&back, &since).await?;
        match self.store.create(&following, since.clone()).await {
            Ok(_) | Err(store::Error::Exists) => {}
            Err(error) => return Err(error.into()),
        }
        // Somebody may have unfollowed meanwhile, and removed the way back last.
        if self.store.get(&back).await?.is_none() {
            self.write(&back, &since).await?;
        }
        Ok(())
    }

    /// Writes it, or writes it anew: a sweep of the old one then misses.
    async fn write(&self, key: &str, value: &Bytes) -> Result<(), store::Error> {
        let written = match self.store.get(key).await? {
            Some(entry) => self.store.update(key, value.clone(), entry.revision).await,
            None => self.store.create(key, value.clone()).await,
        };
        match written {
            // Somebody else wrote the same just now.
            Ok(_) | Err(store::Error::Exists | store::Error::Conflict) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// `user` does not follow `other`, whether it did or not.
    pub async fn unfollow(&self, user: UserId, other: UserId) -> Result<(), store::Error> {
        let back = way_back(user, other);
        self.store.delete(&fact(user, other), None).await?;
        self.store.delete(&back, None).await?;
        // Somebody may have followed again meanwhile: the way back stays.
        if let Some(entry) = self.store.get(&fact(user, other)).await? {
            self.write(&back, &entry.value).await?;
        }
        Ok(())
    }

    /// At most `limit` of those whom `user` follows, in the order of their ids,
    /// after `after`; and the id to go on after when there may be more.
    pub async fn following(
        &self,
        user: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<(Vec<UserId>, Option<UserId>), store::Error> {
        let prefix = format!("{FOLLOWS}{user}/");
        let after = after.map(|after| format!("{prefix}{after}"));
        let items = self.store.list(&prefix, after.as_deref(), limit).await?;
        let next = (items.len() == limit).then(|| last(items.last()?)).flatten();
        Ok((items.iter().filter_map(last).collect(), next))
    }

    /// Everybody whom `user` follows.
    pub async fn all_following(&self, user: UserId) -> Result<Vec<UserId>, store::Error> {
        let items = list_all(&*self.store, &format!("{FOLLOWS}{user}/")).await?;
        Ok(items.iter().filter_map(last).collect())
    }

    /// As [`Self::following`], those who follow `user`.
    pub async fn followers(
        &self,
        user: UserId,
        after: Option<UserId>,
        limit: usize,
        now: UtcTime,
    ) -> Result<(Vec<UserId>, Option<UserId>), store::Error> {
        let prefix = format!("{FOLLOWERS}{user}/");
        let after = after.map(|after| format!("{prefix}{after}"));
        let items = self.store.list(&prefix, after.as_deref(), limit).await?;
        let next = (items.len() == limit).then(|| last(items.last()?)).flatten();
        let checks = futures_util::stream::iter(items.into_iter().map(|item| async move {
            let Some(follower) = last(&item) else { return Ok(None) };
            if self.store.get(&fact(follower, user)).await?.is_some() {
                return Ok(Some(follower));
            }
            let since = serde_json::from_slice::<Since>(&item.entry.value);
            let since = since.map_or(0, |since| since.since_ms);
            if now.since(UtcTime::from_millis(since)) > ORPHAN {
                // A conflict means that somebody is following right now.
                let _ = self.store.delete(&item.key, Some(item.entry.revision)).await;
            }
            Ok::<_, store::Error>(None)
        }));
        let found: Vec<Option<UserId>> = checks.buffered(AT_ONCE).try_collect().await?;
        Ok((found.into_iter().flatten().collect(), next))
    }

    /// How many `user` follows, and how many follow `user`, as far as
    /// [`MAX_COUNTED`].
    pub async fn counts(&self, user: UserId) -> Result<(usize, usize), store::Error> {
        let following = self.count(&format!("{FOLLOWS}{user}/"), MAX_COUNTED).await?;
        let followers = self.count(&format!("{FOLLOWERS}{user}/"), MAX_COUNTED).await?;
        Ok((following, followers))
    }

    async fn count(&self, prefix: &str, most: usize) -> Result<usize, store::Error> {
        let mut count = 0;
        let mut after: Option<String> = None;
        while count < most {
            let page = self.store.list(prefix, after.as_deref(), MAX_PAGE).await?;
            count += page.len();
            if page.len() < MAX_PAGE {
                break;
            }
            after = page.into_iter().next_back().map(|item| item.key);
        }
        Ok(count)
    }

    /// Nobody follows `user` any more, and the other way round.
    pub async fn remove(&self, user: UserId) -> Result<(), store::Error> {
        for other in self.all_following(user).await? {
            self.unfollow(user, other).await?;
        }
        for item in list_all(&*self.store, &format!("{FOLLOWERS}{user}/")).await? {
            if let Some(follower) = last(&item) {
                self.unfollow(follower, user).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::Embedded;

    fn user(number: u8) -> UserId {
        UserId::from_random([number; 16])
    }

    fn at(second: i64) -> UtcTime {
        UtcTime::from_millis(second * 1000)
    }

    fn open(dir: &tempfile::TempDir, limit: u32) -> (Arc<dyn Store>, Follows) {
        let store: Arc<dyn Store> =
            Arc::new(Embedded::open(&dir.path().join("control.redb")).unwrap());
        (Arc::clone(&store), Follows::new(store, limit))
    }

    async fn followers(follows: &Follows, of: UserId, now: UtcTime) -> Vec<UserId> {
        let (mut found, _) = follows.followers(of, None, 100, now).await.unwrap();
        found.sort();
        found
    }

    #[tokio::test]
    async fn following_is_one_way_and_read_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let (_, follows) = open(&dir, 2);
        let (a, b, c, d) = (user(1), user(2), user(3), user(4));
        follows.follow(a, b, at(0)).await.unwrap();
        follows.follow(a, b, at(1)).await.unwrap();
        follows.follow(c, b, at(1)).await.unwrap();
        assert_eq!(follows.all_following(a).await.unwrap(), [b]);
        assert_eq!(follows.all_following(b).await.unwrap(), []);
        let mut both = [a, c];
        both.sort();
        assert_eq!(followers(&follows, b, at(1)).await, both);
        assert_eq!(follows.counts(b).await.unwrap(), (0, 2));
        let (first, next) = follows.followers(b, None, 1, at(1)).await.unwrap();
        assert_eq!((first.as_slice(), next), (&both[..1], Some(both[0])));
        let (second, _) = follows.followers(b, next, 1, at(1)).await.unwrap();
        assert_eq!(second, both[1..]);
        // Two is the most, and who is followed already does not count again.
        follows.follow(a, c, at(2)).await.unwrap();
        assert!(matches!(follows.follow(a, d, at(3)).await, Err(FollowError::Full)));
        follows.follow(a, c, at(3)).await.unwrap();
        follows.unfollow(a, b).await.unwrap();
        follows.unfollow(a, b).await.unwrap();
        follows.follow(a, d, at(4)).await.unwrap();
        assert_eq!(followers(&follows, b, at(4)).await, [c]);
        follows.remove(c).await.unwrap();
        assert_eq!(followers(&follows, b, at(4)).await, []);
        assert_eq!(follows.all_following(a).await.unwrap(), [d]);
    }

    #[tokio::test]
    async fn what_a_crash_left_is_not_shown_and_swept() {
        let dir = tempfile::tempdir().unwrap();
        let (store, follows) = open(&dir, 10);
        let (a, b) = (user(1), user(2));
        // A crash between the two writes of a follow, or of an unfollow.
        follows.follow(a, b, at(0)).await.unwrap();
        store.delete(&fact(a, b), None).await.unwrap();
        assert_eq!(followers(&follows, b, at(30)).await, []);
        assert_eq!(follows.counts(b).await.unwrap().1, 1, "it may be about to be written");
        assert_eq!(followers(&follows, b, at(100)).await, []);
        assert_eq!(follows.counts(b).await.unwrap().1, 0);
        follows.follow(a, b, at(100)).await.unwrap();
        assert_eq!(followers(&follows, b, at(200)).await, [a]);
        assert_eq!(of_key(&fact(a, b)), Some((a, b)));
        assert_eq!(of_key(&way_back(a, b)), None);
    }
}
