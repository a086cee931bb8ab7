//! The connections that joined viewers have, so that a revoked one is cut.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use spyglass_media::{BroadcastId, ViewerId};
use spyglass_token::{KeySet, WatchGrant};
use tokio_util::sync::CancellationToken;

/// A viewer of a broadcast.
pub type Who = (BroadcastId, ViewerId);

/// Viewers remembered for one HTTP/2 connection, which a proxy may share.
const SHARED: usize = 16;

/// The token that a connection has shown last; checking a signature costs more
/// than everything else about a request.
#[derive(Debug)]
pub struct Shown {
    /// As it was in the path.
    pub token: Box<str>,
    /// What verified it; with other keys it is verified again.
    pub keys: Arc<KeySet>,
    /// What it says.
    pub grant: WatchGrant,
}

/// What is known of one connection.
#[derive(Debug)]
pub struct Connection {
    /// Who is at the other end.
    pub peer: IpAddr,
    /// Whether it is encrypted.
    pub secure: bool,
    /// Set when a viewer of it was revoked.
    pub kicked: CancellationToken,
    shown: Mutex<Option<Shown>>,
    who: Mutex<Vec<Who>>,
    active: AtomicUsize,
    last_request: Mutex<Option<Instant>>,
}

impl Connection {
    /// With this peer.
    pub fn new(peer: IpAddr, secure: bool) -> Self {
        Self {
            peer,
            secure,
            kicked: CancellationToken::new(),
            shown: Mutex::default(),
            who: Mutex::default(),
            active: AtomicUsize::new(0),
            last_request: Mutex::default(),
        }
    }

    /// A request is being answered until the result is dropped.
    pub fn begin(self: &Arc<Self>, now: Instant) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        *self.last_request.lock() = Some(now);
        Active(Arc::clone(self))
    }

    /// Whether an answer is being made.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed) > 0
    }

    /// When the last request began.
    pub fn last_request(&self) -> Option<Instant> {
        *self.last_request.lock()
    }

    /// What this token says, if the connection has shown it under these keys.
    pub fn shown(&self, token: &str, keys: &Arc<KeySet>) -> Option<WatchGrant> {
        let shown = self.shown.lock();
        let same = shown.as_ref().filter(|it| *it.token == *token && Arc::ptr_eq(&it.keys, keys));
        same.map(|it| it.grant.clone())
    }

    /// The connection has shown this.
    pub fn show(&self, shown: Shown) {
        *self.shown.lock() = Some(shown);
    }
}

/// See [`Connection::begin`].
#[derive(Debug)]
pub struct Active(Arc<Connection>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which connections a viewer has. Bounded by the number of connections.
#[derive(Debug, Default)]
pub struct Connections(Mutex<HashMap<Who, Vec<Arc<Connection>>>>);

impl Connections {
    /// This viewer uses this connection. An HTTP/1 connection answers one
    /// request at a time: only its latest viewer has anything to lose on it.
    pub fn enter(&self, who: Who, connection: &Arc<Connection>, shared: bool) {
        // Nearly always; the connections of all viewers need not be locked.
        if connection.who.lock().contains(&who) {
            return;
        }
        let mut all = self.0.lock();
        let mut here = connection.who.lock();
        if here.contains(&who) {
            return;
        }
        let most = if shared { SHARED } else { 1 };
        while here.len() >= most {
            leave(&mut all, here.remove(0), connection);
        }
        here.push(who);
        all.entry(who).or_default().push(Arc::clone(connection));
    }

    /// The connection has ended.
    pub fn leave(&self, connection: &Arc<Connection>) {
        let mut all = self.0.lock();
        for who in connection.who.lock().drain(..) {
            leave(&mut all, who, connection);
        }
    }

    /// Cuts every connection of this viewer.
    pub fn cut(&self, who: Who) -> usize {
        let all = self.0.lock();
        let theirs = all.get(&who).map_or(&[][..], Vec::as_slice);
        theirs.iter().for_each(|connection| connection.kicked.cancel());
        theirs.len()
    }
}

fn leave(all: &mut HashMap<Who, Vec<Arc<Connection>>>, who: Who, connection: &Arc<Connection>) {
    if let Some(theirs) = all.get_mut(&who) {
        theirs.retain(|other| !Arc::ptr_eq(other, connection));
        if theirs.is_empty() {
            all.remove(&who);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(seed: u8) -> Who {
        (BroadcastId::from_random([1; 16]), ViewerId::from_random([seed; 16]))
    }

    fn connection() -> Arc<Connection> {
        Arc::new(Connection::new(std::net::Ipv4Addr::LOCALHOST.into(), false))
    }

    #[test]
    fn a_viewer_is_cut_wherever_it_is_and_nowhere_else() {
        let all = Connections::default();
        let [a, b, c] = [(); 3].map(|()| connection());
        all.enter(who(1), &a, false);
        all.enter(who(1), &a, false);
        all.enter(who(1), &b, false);
        all.enter(who(2), &c, false);
        // The next viewer of a shared HTTP/1 connection takes its place.
        all.enter(who(2), &b, false);
        assert_eq!(all.cut(who(1)), 1);
        assert!(a.kicked.is_cancelled() && !b.kicked.is_cancelled() && !c.kicked.is_cancelled());
        for connection in [&a, &b, &c] {
            all.leave(connection);
        }
        assert!(all.0.lock().is_empty());
    }

    #[test]
    fn a_shared_connection_remembers_its_latest_viewers() {
        let all = Connections::default();
        let shared = connection();
        for seed in 0..=SHARED {
            all.enter(who(u8::try_from(seed).unwrap()), &shared, true);
        }
        assert_eq!(all.0.lock().len(), SHARED);
        assert_eq!((all.cut(who(0)), all.cut(who(1))), (0, 1));
    }
}
