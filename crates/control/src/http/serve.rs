//! Connections: how many, how slow, how large their heads, and how they end.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use spyglass_daemon::Shutdown;
use spyglass_daemon::accept;
use spyglass_daemon::gate::{Gate, Place};
use spyglass_daemon::socket::{Reset, Socket};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until};
use tower::ServiceExt as _;
use tracing::debug;

use super::client::Peer;
use super::first_bytes::FirstBytes;
use super::idle::{Answering, Uses};
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

/// Between two looks at most often whether a connection is idle.
const CHECK: Duration = Duration::from_secs(1);

/// How long an idle peer that was told so may take to close.
const FAREWELL: Duration = Duration::from_secs(3);

/// Answers people until `shutdown`, then finishes what is under way.
pub async fn serve(
    panel: Arc<Panel>,
    listener: TcpListener,
    with_metrics: bool,
    shutdown: Shutdown,
) {
    let config = panel.live.get();
    let gate = Gate::new(config.max_connections, config.max_connections_per_address);
    let router = router(Arc::clone(&panel), with_metrics);
    let server = Arc::new(builder());
    let stopping = shutdown.clone();
    accept::connections(listener, "HTTP", stopping, |connections, socket, peer| {
        let now = panel.live.get();
        gate.set_limits(now.max_connections, now.max_connections_per_address);
        let entered =
            if now.caps(peer.ip()) { gate.enter(peer.ip()) } else { gate.enter_uncapped() };
        let place = match entered {
            Ok(place) => place,
            Err(full) => {
                panel.metrics.closed.get_or_create(&[("reason", full.as_str())]).inc();
                return;
            }
        };
        // Small answers must not wait for acknowledgements.
        let _ = socket.set_nodelay(true);
        let socket = Socket::new(socket, WRITE, Reset::default());
        let socket = FirstBytes::new(socket, HEADER);
        let connection = Connection {
            panel: Arc::clone(&panel),
            router: router.clone(),
            server: Arc::clone(&server),
            peer: Peer(peer.ip()),
            place,
        };
        connections.spawn(connection.attend(socket, shutdown.clone()));
    })
    .await;
}

/// What one connection needs of the listener.
struct Connection {
    panel: Arc<Panel>,
    router: Router,
    server: Arc<auto::Builder<TokioExecutor>>,
    peer: Peer,
    place: Place,
}

impl Connection {
    /// Answers what is asked over `socket` until it closes, has been idle for too
    /// long, or what was under way at `shutdown` is done.
    async fn attend(self, socket: FirstBytes<Socket>, shutdown: Shutdown) {
        let Self { panel, router, server, peer, place } = self;
        let uses = Arc::new(Uses::new(Instant::now()));
        let service = service_fn(|request: Request<Incoming>| {
            let (router, busy) = (router.clone(), uses.begin());
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            async move {
                let response = router.oneshot(request).await?;
                Ok::<_, Infallible>(response.map(|body| Answering { body, _busy: busy }))
            }
        });
        let mut serving = pin!(server.serve_connection(TokioIo::new(socket), service));
        let (mut draining, mut farewell) = (false, None);
        loop {
            let idle = Duration::from_secs(panel.live.get().idle_seconds.into());
            let now = Instant::now();
            let check = farewell.unwrap_or_else(|| (uses.last() + idle).max(now + CHECK));
            tokio::select! {
                biased;
                ended = serving.as_mut() => {
                    if let Err(error) = ended {
                        debug!(%error, "HTTP connection");
                    }
                    break;
                }
                () = shutdown.requested(), if !draining => {
                    draining = true;
                    serving.as_mut().graceful_shutdown();
                }
                () = sleep_until(check) => {
                    if farewell.take().is_some() && uses.is_idle() {
                        break;
                    }
                    if uses.is_idle() && uses.last().elapsed() >= idle {
                        panel.metrics.closed.get_or_create(&[("reason", "idle")]).inc();
                        serving.as_mut().graceful_shutdown();
                        farewell = Some(Instant::now() + FAREWELL);
                    }
                }
            }
        }
        drop(place);
    }
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
