//! A connection whose first bytes must come in time.
//!
//! hyper's own timer for a request's head starts once it knows which HTTP is
//! spoken. Until then, while it waits for HTTP/2's preface (RFC 9113 section
//! 3.4) or something else, it waits for ever; here it does not.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Length of HTTP/2's preface: with so many bytes the version is known.
const PREFACE: usize = 24;

/// See the module.
#[derive(Debug)]
pub struct FirstBytes<T> {
    inner: T,
    seen: usize,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<T> FirstBytes<T> {
    /// `inner`, whose first bytes must be there after `within`.
    pub fn new(inner: T, within: Duration) -> Self {
        Self { inner, seen: 0, deadline: Some(Box::pin(sleep(within))) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for FirstBytes<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if let Some(deadline) = &mut self.deadline {
            let expired = read.is_pending() && deadline.as_mut().poll(context).is_ready();
            self.seen += buffer.filled().len() - before;
            if self.seen >= PREFACE {
                self.deadline = None;
            } else if expired {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for FirstBytes<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::Instant;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn silence_and_half_a_preface_time_out() {
        for sent in [&b""[..], b"PRI * HTTP/2.0"] {
            let (mut peer, ours) = duplex(64);
            let mut ours = FirstBytes::new(ours, WITHIN);
            peer.write_all(sent).await.unwrap();
            let start = Instant::now();
            let error = ours.read_exact(&mut [0; PREFACE]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(start.elapsed(), WITHIN);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn afterwards_there_is_no_limit() {
        let (mut peer, ours) = duplex(64);
        let mut ours = FirstBytes::new(ours, WITHIN);
        peer.write_all(&[1; PREFACE]).await.unwrap();
        ours.read_exact(&mut [0; PREFACE]).await.unwrap();
        let late = tokio::spawn(async move {
            sleep(WITHIN * 5).await;
            peer.write_all(b"x").await.unwrap();
        });
        assert_eq!(ours.read_u8().await.unwrap(), b'x');
        late.await.unwrap();
    }
}
