//! An HTTP peer's socket: what hyper has no limit for.
//!
//! A peer that accepts no byte of an answer for too long is cut; one that is
//! cut, for this or another reason, does not get what the kernel still holds
//! for it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// Set when the connection is to end with a reset.
pub type Reset = Arc<AtomicBool>;

/// See the module.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    patience: Duration,
    /// Made when a write first has to wait, and left running when it moves on:
    /// a large answer waits many times, and a timer for each would cost as much
    /// as the writes.
    stall: Option<Pin<Box<Sleep>>>,
    /// Since when no byte was accepted.
    since: Option<Instant>,
    reset: Reset,
}

impl Socket {
    /// A write may stand still for `patience`.
    pub fn new(stream: TcpStream, patience: Duration, reset: Reset) -> Self {
        Self { stream, patience, stall: None, since: None, reset }
    }

    fn progress<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.since = None;
            return written;
        }
        let end = *self.since.get_or_insert_with(Instant::now) + self.patience;
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        loop {
            ready!(stall.as_mut().poll(context));
            if Instant::now() >= end {
                break;
            }
            // It was set for a wait that is over.
            stall.as_mut().reset(end);
        }
        self.reset.store(true, Ordering::Relaxed);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            // Else the kernel goes on sending what it was given. An error means
            // that the connection is gone already.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.progress(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.progress(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Each wait is shorter than the patience, all together are longer.
    #[tokio::test]
    async fn a_viewer_that_reads_slowly_is_not_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut viewer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let patience = Duration::from_millis(1_000);
        let mut socket = Socket::new(stream, patience, Reset::default());
        let begun = Instant::now();
        let writing = tokio::spawn(async move {
            let bytes = vec![0; 1 << 20];
            while begun.elapsed() < 3 * patience {
                socket.write_all(&bytes).await.unwrap();
            }
        });
        let mut sink = vec![0; 4 << 20];
        while !writing.is_finished() {
            tokio::time::sleep(patience / 20).await;
            let _ = viewer.read(&mut sink).await.unwrap();
        }
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn a_viewer_that_does_not_read_is_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut viewer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = Socket::new(stream, Duration::from_millis(50), Reset::default());
        let error = socket.write_all(&vec![0; 64 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(socket);
        let mut sink = vec![0; 1 << 20];
        let end = loop {
            match viewer.read(&mut sink).await {
                Ok(0) => break None,
                Ok(_) => {}
                Err(error) => break Some(error.kind()),
            }
        };
        assert_eq!(end, Some(io::ErrorKind::ConnectionReset));
    }
}
