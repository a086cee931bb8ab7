//! Whether a connection is being used: HTTP/2 has no time-out of its own for one
//! that asks nothing and answers every ping (RFC 9113 section 9.1).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

#[derive(Debug)]
struct Use {
    /// Requests whose answers are not yet sent.
    active: usize,
    /// When one last began or ended.
    last: Instant,
}

/// What a connection is used for.
#[derive(Debug)]
pub struct Uses(Mutex<Use>);

impl Uses {
    /// Of a connection that came `now`.
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(Use { active: 0, last: now }))
    }

    /// A request is under way until the result is dropped.
    pub fn begin(self: &Arc<Self>) -> Busy {
        let mut now = self.0.lock();
        (now.active, now.last) = (now.active + 1, Instant::now());
        Busy(Arc::clone(self))
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.0.lock().active == 0
    }

    /// When a request last began or ended; else when the connection came.
    pub fn last(&self) -> Instant {
        self.0.lock().last
    }
}

/// See [`Uses::begin`].
#[derive(Debug)]
pub struct Busy(Arc<Uses>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut now = self.0.0.lock();
        (now.active, now.last) = (now.active.saturating_sub(1), Instant::now());
    }
}

/// An answer's body: until its end the connection is used, however long a stream
/// of events has nothing to say.
#[derive(Debug)]
pub struct Answering {
    /// The answer's own.
    pub body: Body,
    /// Of its request.
    pub _busy: Busy,
}

impl hyper::body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
