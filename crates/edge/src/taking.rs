//! Whether the peer of an HTTP/2 connection takes the answers it asked for.
//!
//! HTTP/2 has windows of its own: a peer that never opens one keeps answers
//! waiting without ever blocking a write, so that the socket's time limit sees
//! nothing, and each answer holds an object that the cache may have dropped
//! long ago. hyper and h2 hold them: hyper takes a whole frame from a body and
//! gives it, and with it the end of the body, to h2 as soon as one byte fits.
//! So neither the body's frames nor its end tell anything; what does is the
//! frame's memory itself. h2 advances it by what the windows let through and
//! drops it when all is through.
//!
//! Pure: [`Takers::look`] is told the time. Who asks is `serving.rs`; HTTP/1.1
//! has no windows and pays nothing, HTTP/3 looks at its streams itself.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;

use crate::filling::Broken;
use crate::respond::Body;

/// So many answers are remembered before those that are over are forgotten:
/// twice what one connection may ask for at once.
const REMEMBERED: usize = 2 * crate::serving::STREAMS as usize;

/// How one answer is taken.
#[derive(Debug)]
struct Taking {
    /// Bytes given to the connection which have not gone through.
    ahead: AtomicU64,
    /// Rises whenever something is given or goes through.
    moves: AtomicU64,
    all: Arc<Takers>,
}

impl Taking {
    fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
        self.all.moves.fetch_add(1, Ordering::Relaxed);
    }
}

/// The answers of one connection that are being taken.
#[derive(Debug, Default)]
pub struct Takers {
    moves: AtomicU64,
    seen: Mutex<Seen>,
}

/// What was seen at the last look.
#[derive(Debug, Default)]
struct Seen {
    all: Last,
    each: Vec<(Weak<Taking>, Last)>,
}

/// A count of moves, and since when it has been the same.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    moves: u64,
    since: Option<Instant>,
}

impl Last {
    /// How long nothing has moved although something is `ahead`.
    fn look(&mut self, ahead: bool, moves: u64, now: Instant) -> Duration {
        let same = (ahead && self.moves == moves).then_some(self.since).flatten();
        let since = same.unwrap_or(now);
        *self = Self { moves, since: Some(since) };
        now.saturating_duration_since(since)
    }
}

/// What a look at a connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// No answer is under way.
    Nothing,
    /// Answers are under way, none for too long.
    Open,
    /// The peer does not take what it asked for.
    Slow,
}

impl Takers {
    /// The body as it is given to the connection, which is looked after until
    /// nothing of it is left.
    pub fn watch(self: &Arc<Self>, body: Body) -> Watched {
        if body.is_end_stream() {
            return Watched::from(body);
        }
        let (ahead, moves) = (AtomicU64::new(0), AtomicU64::new(0));
        let taking = Arc::new(Taking { ahead, moves, all: Arc::clone(self) });
        let mut seen = self.seen.lock();
        if seen.each.len() >= REMEMBERED {
            seen.each.retain(|(taking, _)| taking.strong_count() > 0);
        }
        seen.each.push((Arc::downgrade(&taking), Last::default()));
        Watched { body, taking: Some(taking) }
    }

    /// To be called again and again: the connection is slow when nothing of any
    /// answer has gone through for `all`, or of one for `one`. That is longer:
    /// a proxy may hold back one viewer's answer among those of others.
    pub fn look(&self, now: Instant, all: Duration, one: Duration) -> Sight {
        let moves = self.moves.load(Ordering::Relaxed);
        let mut seen = self.seen.lock();
        let (mut any_ahead, mut longest) = (false, Duration::ZERO);
        seen.each.retain_mut(|(taking, last)| {
            let Some(taking) = taking.upgrade() else { return false };
            let ahead = taking.ahead.load(Ordering::Relaxed) > 0;
            any_ahead |= ahead;
            longest = longest.max(last.look(ahead, taking.moves.load(Ordering::Relaxed), now));
            true
        });
        let standing = seen.all.look(any_ahead, moves, now);
        match seen.each.is_empty() {
            _ if standing >= all || longest >= one => Sight::Slow,
            true => Sight::Nothing,
            false => Sight::Open,
        }
    }
}

/// A body, and who looks after it; nobody for HTTP/1.1.
#[derive(Debug)]
pub struct Watched {
    body: Body,
    taking: Option<Arc<Taking>>,
}

impl From<Body> for Watched {
    fn from(body: Body) -> Self {
        Self { body, taking: None }
    }
}

impl http_body::Body for Watched {
    type Data = Piece;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Broken>>> {
        let Self { body, taking } = self.get_mut();
        let polled = Pin::new(body).poll_frame(context);
        polled.map_ok(|frame| frame.map_data(|bytes| Piece::new(bytes, taking.clone())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of an answer, in the memory that all its viewers share.
#[derive(Debug)]
pub struct Piece {
    bytes: Bytes,
    taking: Option<Arc<Taking>>,
}

impl Piece {
    fn new(bytes: Bytes, taking: Option<Arc<Taking>>) -> Self {
        if let Some(taking) = &taking {
            taking.ahead.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            taking.moved();
        }
        Self { bytes, taking }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(taking) = &self.taking {
            taking.ahead.fetch_sub(count as u64, Ordering::Relaxed);
            taking.moved();
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(taking) = &self.taking {
            taking.ahead.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    const ALL: Duration = Duration::from_secs(15);
    const ONE: Duration = Duration::from_secs(60);

    fn body(length: usize) -> Body {
        Body::from(Bytes::from(vec![5; length]))
    }

    async fn piece(watched: &mut Watched) -> Piece {
        watched.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    #[tokio::test]
    async fn what_is_not_taken_is_slow_also_when_its_body_is_gone() {
        let (takers, begun) = (Arc::new(Takers::default()), Instant::now());
        let look = |seconds| takers.look(begun + Duration::from_secs(seconds), ALL, ONE);
        assert_eq!(look(0), Sight::Nothing);
        let mut watched = takers.watch(body(100_000));
        // Nothing was given yet: upstream is waited for.
        assert_eq!([look(1), look(100)], [Sight::Open; 2]);
        let mut piece = piece(&mut watched).await;
        assert!(watched.is_end_stream());
        drop(watched);
        assert_eq!([look(101), look(115)], [Sight::Open; 2]);
        piece.advance(1);
        assert_eq!([look(116), look(130)], [Sight::Open; 2]);
        assert_eq!(look(131), Sight::Slow);
        drop(piece);
        assert_eq!(look(132), Sight::Nothing);
    }

    #[tokio::test]
    async fn one_may_stand_longer_while_others_move_but_not_for_ever() {
        let (takers, begun) = (Arc::new(Takers::default()), Instant::now());
        let look = |seconds| takers.look(begun + Duration::from_secs(seconds), ALL, ONE);
        let mut watched = takers.watch(body(100_000));
        let _stands = piece(&mut watched).await;
        for seconds in 0..60 {
            assert_eq!(look(seconds), Sight::Open, "{seconds}");
            // Others come and go between two looks.
            piece(&mut takers.watch(body(1_000))).await.advance(1_000);
        }
        assert_eq!(look(60), Sight::Slow);
    }

    #[test]
    fn answers_that_are_over_are_forgotten() {
        let takers = Arc::new(Takers::default());
        for _ in 0..10 * REMEMBERED {
            drop(takers.watch(body(1)));
            drop(takers.watch(body(0)));
        }
        assert!(takers.seen.lock().each.len() <= REMEMBERED);
    }
}
