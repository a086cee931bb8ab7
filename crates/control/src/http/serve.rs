//! Connections: how many, how slow, how large their heads, and how they end.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use spyglass_daemon::Shutdown;
use spyglass_daemon::socket::{Reset, Socket};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::client::Peer;
use super::first_bytes::FirstBytes;
use super::router;
use crate::panel::Panel;

/// Time for a request's head; also how long a connection may idle.
const HEADER: Duration = Duration::from_secs(10);

/// A peer may accept no byte of an answer for so long.
const WRITE: Duration = Duration::from_secs(15);

/// Headers of one request.
const HEADERS: usize = 64;

/// Bytes of a head.
const HEADER_BYTES: usize = 16 * 1024;

/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 100;

/// How often an HTTP/2 peer is asked whether it lives, and how long it may
/// take to say so.
const PING: Duration = Duration::from_secs(20);

/// Answers people until `shutdown`, then finishes what is under way.
pub async fn serve(
    panel: Arc<Panel>,
    listener: TcpListener,
    with_metrics: bool,
    shutdown: Shutdown,
) {
    let places = Arc::new(Semaphore::new(panel.config.max_connections));
    let router = router(panel, with_metrics);
    let graceful = GracefulShutdown::new();
    let server = builder();
    loop {
        // Beyond the limit, connections wait in the kernel.
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = shutdown.requested() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.requested() => break,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: give connections time to close.
                warn!(%error, "cannot accept HTTP connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Small answers must not wait for acknowledgements.
        let _ = socket.set_nodelay(true);
        let socket = Socket::new(socket, WRITE, Reset::default());
        let socket = FirstBytes::new(socket, HEADER);
        let peer = Peer(peer.ip());
        let service = router.clone().map_request(move |request: http::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            request
        });
        let service = TowerToHyperService::new(service);
        let connection = server.serve_connection(TokioIo::new(socket), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "HTTP connection");
            }
            drop(place);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .max_headers(HEADERS)
        .max_buf_size(HEADER_BYTES);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_BYTES as u32)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    server
}
