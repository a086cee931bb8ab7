//! A listener's connections: each has a task, and all have ended when the
//! listener's own ends.
//!
//! Who may come is the caller's business, mostly by a [`crate::gate`].

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::warn;

use crate::Shutdown;

/// How long nobody is accepted when the system cannot: out of descriptors, most
/// likely, and connections need time to close.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until `shutdown` and then waits until those there are
/// have ended. `enter` spawns a task for each one, or drops it; `protocol` names
/// them in the log.
pub async fn connections(
    listener: TcpListener,
    protocol: &'static str,
    shutdown: Shutdown,
    mut enter: impl FnMut(&mut JoinSet<()>, TcpStream, SocketAddr),
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, protocol, "a connection's task failed");
                }
                continue;
            }
            () = shutdown.requested() => break,
        };
        match accepted {
            Ok((socket, peer)) => enter(&mut connections, socket, peer),
            Err(error) => {
                warn!(%error, protocol, "cannot accept connections");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_panic_costs_one_connection_and_a_stop_waits_for_the_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let serving =
            connections(listener, "test", shutdown.clone(), |connections, mut socket, _| {
                connections.spawn(async move {
                    let asked = socket.read_u8().await.unwrap_or_default();
                    assert_ne!(asked, b'!', "this one panics");
                    let _ = socket.write_u8(asked).await;
                });
            });
        let serving = tokio::spawn(serving);
        let mut held = TcpStream::connect(address).await.unwrap();
        let mut broken = TcpStream::connect(address).await.unwrap();
        broken.write_u8(b'!').await.unwrap();
        assert!(broken.read_u8().await.is_err());
        // Whoever is answered was accepted, and so were those before it.
        let mut other = TcpStream::connect(address).await.unwrap();
        other.write_u8(b'a').await.unwrap();
        assert_eq!(other.read_u8().await.unwrap(), b'a');

        shutdown.trigger();
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!serving.is_finished(), "one is still open");
        held.write_u8(b'b').await.unwrap();
        assert_eq!(held.read_u8().await.unwrap(), b'b');
        serving.await.unwrap();
    }
}
