//! An object on its way: what has come of it is sent on before the rest has.
//!
//! A chunk of 1 MB takes its time on a slow way from the upstream, and those who
//! asked for it first would wait for all of that before their first byte. The
//! upstream says the digest first, so headers are known from the beginning, and
//! the last slice is held back until the digest has been found right: a viewer
//! of a chunk that came wrong sees a broken connection and never a whole one.
//!
//! Only chunks are passed on in slices: no byte of a part may leave before the
//! whole part can follow at the speed of the link (HLS-RULES L7), and lists are
//! read before they are served.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream as _;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;

use crate::delays::Measured;
use crate::respond::Head;

/// The object did not come whole.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the object did not come whole from upstream")]
pub struct Broken;

#[derive(Debug)]
enum State {
    /// These slices, and more to come.
    Coming(Vec<Bytes>),
    /// All of it, in one piece.
    Whole(Bytes),
    /// No more will come.
    Broken,
}

/// An object on its way, shared by its fetch and by those who read it.
#[derive(Debug)]
pub struct Filling {
    head: Head,
    length: usize,
    measured: Option<Measured>,
    state: Mutex<State>,
    /// Changes with the state.
    moved: watch::Sender<()>,
}

impl Filling {
    /// What its answer says besides the bytes.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// How long it takes.
    pub fn measured(&self) -> Option<&Measured> {
        self.measured.as_ref()
    }

    /// Bytes that it will have.
    pub fn length(&self) -> usize {
        self.length
    }

    fn set(&self, state: State) {
        *self.state.lock() = state;
        self.moved.send_replace(());
    }
}

/// The fetch's side. Dropped before [`Writer::finish`], the object is broken.
#[derive(Debug)]
pub struct Writer {
    filling: Arc<Filling>,
    arrived: usize,
}

impl Writer {
    /// Nothing has come yet; `length` bytes will.
    pub fn new(head: Head, length: usize, measured: Option<Measured>) -> Self {
        let filling = Filling {
            head,
            length,
            measured,
            state: Mutex::new(State::Coming(Vec::new())),
            moved: watch::Sender::new(()),
        };
        Self { filling: Arc::new(filling), arrived: 0 }
    }

    /// For readers.
    pub fn filling(&self) -> &Arc<Filling> {
        &self.filling
    }

    /// A slice that stands `at` this offset. What an earlier attempt brought is
    /// not taken twice, and the last byte not before [`Writer::finish`].
    pub fn push(&mut self, at: usize, slice: &Bytes) {
        let end = (at + slice.len()).min(self.filling.length.saturating_sub(1));
        if at > self.arrived || end <= self.arrived {
            return;
        }
        let new = slice.slice(self.arrived - at..end - at);
        self.arrived = end;
        if let State::Coming(slices) = &mut *self.filling.state.lock() {
            slices.push(new);
        }
        self.filling.moved.send_replace(());
    }

    /// It has come, and is what was announced. Readers go on in this one piece.
    pub fn finish(self, whole: Bytes) {
        if whole.len() == self.filling.length {
            self.filling.set(State::Whole(whole));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if matches!(*self.filling.state.lock(), State::Whole(_)) {
            return;
        }
        self.filling.set(State::Broken);
    }
}

/// One viewer's reading, as the body of an answer.
#[derive(Debug)]
pub struct Reader {
    filling: Arc<Filling>,
    moved: WatchStream<()>,
    slices: usize,
    sent: usize,
}

impl Reader {
    /// From the beginning.
    pub fn new(filling: Arc<Filling>) -> Self {
        let moved = WatchStream::from_changes(filling.moved.subscribe());
        Self { filling, moved, slices: 0, sent: 0 }
    }

    /// What can be had without waiting.
    fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        let bytes = match &*self.filling.state.lock() {
            State::Coming(slices) => slices.get(self.slices)?.clone(),
            State::Whole(whole) => whole.slice(self.sent..),
            State::Broken => return Some(Err(Broken)),
        };
        self.slices += 1;
        self.sent += bytes.len();
        Some(Ok(bytes))
    }
}

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        loop {
            if let Some(next) = self.next() {
                return Poll::Ready(Some(next.map(Frame::data)));
            }
            match Pin::new(&mut self.moved).poll_next(context) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) => return Poll::Ready(Some(Err(Broken))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.sent == self.filling.length
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.filling.length - self.sent) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::respond::{Encoding, Prebuilt};
    use http_body::Body as _;
    use http_body_util::BodyExt as _;
    use spyglass_media::Resource;

    const CHUNK: Resource = Resource::Chunk { epoch: 1, sequence: 1 };

    fn writer(length: usize) -> Writer {
        let whole = Prebuilt::new(CHUNK, Encoding::Identity, Bytes::new());
        Writer::new(whole.head().clone(), length, None)
    }

    async fn frame(reader: &mut Reader) -> Option<Result<Bytes, Broken>> {
        Some(reader.frame().await?.map(|frame| frame.into_data().unwrap()))
    }

    #[tokio::test]
    async fn slices_are_read_as_they_come_and_the_last_byte_when_all_is_well() {
        let mut writer = writer(6);
        let mut early = Reader::new(Arc::clone(writer.filling()));
        assert_eq!(early.size_hint().exact(), Some(6));
        writer.push(0, &Bytes::from_static(b"ab"));
        assert_eq!(frame(&mut early).await.unwrap().unwrap(), "ab");
        // A second attempt begins again, and cuts elsewhere.
        writer.push(0, &Bytes::from_static(b"abcd"));
        writer.push(4, &Bytes::from_static(b"ef"));
        assert_eq!(frame(&mut early).await.unwrap().unwrap(), "cd");
        assert_eq!(frame(&mut early).await.unwrap().unwrap(), "e");
        let mut late = Reader::new(Arc::clone(writer.filling()));
        let last = tokio::spawn(async move { (frame(&mut early).await, frame(&mut early).await) });
        writer.finish(Bytes::from_static(b"abcdef"));
        let (last, end) = last.await.unwrap();
        assert_eq!(last.unwrap().unwrap(), "f");
        assert!(end.is_none());
        assert_eq!(frame(&mut late).await.unwrap().unwrap(), "abcdef");
        assert!(frame(&mut late).await.is_none());
    }

    #[tokio::test]
    async fn what_does_not_come_whole_breaks() {
        let mut writer = writer(4);
        let mut reader = Reader::new(Arc::clone(writer.filling()));
        writer.push(0, &Bytes::from_static(b"abcd"));
        assert_eq!(frame(&mut reader).await.unwrap().unwrap(), "abc");
        drop(writer);
        assert!(frame(&mut reader).await.unwrap().is_err());
    }
}
