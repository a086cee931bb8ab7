//! Who listens: how many streams are open, and whom their users follow.
//!
//! A user's follows are read when the first stream opens and kept right by the
//! store's changes; all streams of one user share them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use spyglass_media::UserId;
use tokio_util::sync::CancellationToken;

use crate::follows::{self, Follows};
use crate::store::{self, Change};
use crate::users;

/// Attempts to read follows that change meanwhile.
const ATTEMPTS: usize = 5;

/// Why there is no further stream.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The user has as many as one may have.
    #[error("this user has too many streams")]
    User,
    /// There are as many as control takes.
    #[error("there are too many streams")]
    Full,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A user who listens.
struct Listener {
    follows: Mutex<HashSet<UserId>>,
    /// Counts the changes that were followed.
    changes: Mutex<u64>,
    over: CancellationToken,
}

#[derive(Default)]
struct Open {
    total: usize,
    users: HashMap<UserId, (Arc<Listener>, usize)>,
}

/// See the module.
pub struct Streams {
    open: Mutex<Open>,
    most: usize,
    most_of_user: usize,
    over: CancellationToken,
}

/// One open stream; its place is free when this is dropped.
pub struct Ticket {
    streams: Arc<Streams>,
    listener: Option<(UserId, Arc<Listener>)>,
    /// The stream has to end.
    pub over: CancellationToken,
}

impl Streams {
    /// None yet, `most` at once, `most_of_user` of one user.
    pub fn new(most: usize, most_of_user: usize) -> Arc<Self> {
        let over = CancellationToken::new();
        Arc::new(Self { open: Mutex::default(), most, most_of_user, over })
    }

    /// One of the operator's.
    pub fn open(self: &Arc<Self>) -> Result<Ticket, OpenError> {
        let mut open = self.open.lock();
        if open.total >= self.most {
            return Err(OpenError::Full);
        }
        open.total += 1;
        Ok(Ticket { streams: Arc::clone(self), listener: None, over: self.over.child_token() })
    }

    /// One of a user's.
    pub async fn open_for(
        self: &Arc<Self>,
        user: UserId,
        follows: &Follows,
    ) -> Result<Ticket, OpenError> {
        let mut ticket = {
            let mut open = self.open.lock();
            if open.total >= self.most {
                return Err(OpenError::Full);
            }
            let (listener, count) = open.users.entry(user).or_insert_with(|| {
                let listener = Listener {
                    follows: Mutex::default(),
                    changes: Mutex::default(),
                    over: self.over.child_token(),
                };
                (Arc::new(listener), 0)
            });
            if *count >= self.most_of_user {
                return Err(OpenError::User);
            }
            *count += 1;
            let listener = Arc::clone(listener);
            let over = listener.over.clone();
            open.total += 1;
            Ticket { streams: Arc::clone(self), listener: Some((user, listener)), over }
        };
        if let Some((_, listener)) = &mut ticket.listener {
            listener.load(user, follows).await?;
        }
        Ok(ticket)
    }

    /// Something was written to the store about users or follows.
    pub fn on_change(&self, change: &Change) {
        if let Some((user, other)) = follows::of_key(&change.key) {
            let listener =
                self.open.lock().users.get(&user).map(|(listener, _)| Arc::clone(listener));
            if let Some(listener) = listener {
                listener.on_follow(other, change.value.is_some());
            }
        } else if let Some(user) = users::of_key(&change.key)
            && let Some((listener, _)) = self.open.lock().users.remove(&user)
        {
            // Another token, or none any more.
            listener.over.cancel();
        }
    }

    /// Changes were missed: whoever listens comes back and is read anew.
    pub fn on_missed(&self) {
        for (_, (listener, _)) in self.open.lock().users.drain() {
            listener.over.cancel();
        }
    }

    /// All streams end.
    pub fn close(&self) {
        self.over.cancel();
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.lock().total
    }
}

impl Listener {
    fn on_follow(&self, other: UserId, follows: bool) {
        let mut set = self.follows.lock();
        *self.changes.lock() += 1;
        if follows {
            set.insert(other);
        } else {
            set.remove(&other);
        }
    }

    async fn load(&self, user: UserId, follows: &Follows) -> Result<(), store::Error> {
        for _ in 0..ATTEMPTS {
            let before = *self.changes.lock();
            let all = follows.all_following(user).await?;
            let mut set = self.follows.lock();
            if *self.changes.lock() == before {
                *set = all.into_iter().collect();
                return Ok(());
            }
        }
        Err(store::Error::Unavailable("the follows change too fast to be read".to_owned()))
    }
}

impl Ticket {
    /// Whether this stream's user follows `other` now.
    pub fn follows(&self, other: UserId) -> bool {
        let listener = self.listener.as_ref();
        listener.is_some_and(|(_, listener)| listener.follows.lock().contains(&other))
    }

    /// Whose stream it is; `None`: the operator's.
    pub fn user(&self) -> Option<UserId> {
        self.listener.as_ref().map(|(user, _)| *user)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.streams.open.lock();
        open.total -= 1;
        let Some((user, own)) = &self.listener else { return };
        if let Some((listener, count)) = open.users.get_mut(user)
            && Arc::ptr_eq(listener, own)
        {
            *count -= 1;
            if *count == 0 {
                open.users.remove(user);
            }
        }
    }
}
