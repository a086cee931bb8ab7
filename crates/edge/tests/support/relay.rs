//! A way between two processes that can stand still: nothing passes and nothing
//! breaks off, as when a process was stopped or a host has vanished.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Relay {
    pub address: SocketAddr,
    held: watch::Sender<bool>,
    opened: Arc<AtomicUsize>,
}

impl Relay {
    /// Everything that comes to its address goes on to `to`.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (held, told) = watch::channel(false);
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let mut free = told.clone();
                tokio::spawn(async move {
                    free.wait_for(|held| !held).await.unwrap();
                    let Ok(far) = TcpStream::connect(to).await else { return };
                    let ((near_in, near_out), (far_in, far_out)) =
                        (near.into_split(), far.into_split());
                    tokio::join!(
                        pass(near_in, far_out, free.clone()),
                        pass(far_in, near_out, free)
                    );
                });
            }
        });
        Self { address, held, opened }
    }

    /// From now on nothing passes, or everything again, what was held first.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Until so many connections have come; the test fails after 10 s.
    pub async fn until(&self, wanted: impl Fn(usize) -> bool) {
        let looking = async {
            while !wanted(self.opened.load(Ordering::Relaxed)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), looking).await.expect("connections");
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut free: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        // Who holds it is gone: so is the test.
        if free.wait_for(|held| !held).await.is_err() || to.write_all(&bytes[..read]).await.is_err()
        {
            return;
        }
    }
    let _ = to.shutdown().await;
}
