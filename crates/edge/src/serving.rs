//! The connections of viewers over TCP: HTTP/1.1 and HTTP/2 on one port, by
//! hyper without a framework.
//!
//! Here is what ends a connection; how they are accepted is `daemon/src/accept.rs`, who may come at all `gate.rs` there, whether an
//! HTTP/2 peer takes its answers `taking.rs`, what is answered `http.rs`.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::header::ALT_SVC;
use http::{HeaderValue, Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use spyglass_daemon::Shutdown;
use spyglass_daemon::accept;
use spyglass_daemon::gate::{Gate, Place};
use spyglass_daemon::socket::{Reset, Socket};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use crate::apart::Apart;
use crate::connections::Connection;
use crate::head_timer::HeadTimer;
use crate::http::{HEADER_BYTES, HEADERS, Handler, now};
use crate::taking::{Sight, Takers, Watched};

/// Requests at once on one HTTP/2 or HTTP/3 connection.
pub const STREAMS: u32 = 100;

/// HTTP/2 pings: a peer that is gone is noticed.
const PING: Duration = Duration::from_secs(20);

/// How long the last answer on a kicked viewer's connection may take.
pub const LAST_WORD: Duration = Duration::from_millis(300);

/// Times of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a request's header; for the first request of a connection too.
    pub header: Duration,
    /// Without a request.
    pub idle: Duration,
    /// For a write to move on.
    pub write: Duration,
}

/// How connections are secured.
#[derive(Clone)]
pub struct Tls {
    /// Shakes hands.
    pub acceptor: TlsAcceptor,
    /// Where HTTP/3 is, if it is (RFC 7838).
    pub alternative: Option<HeaderValue>,
}

/// Serves viewers until `shutdown`; then those connections that are idle close
/// at once and the others after their answer.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    handler: Arc<Handler>,
    gate: Gate,
    limits: Limits,
    shutdown: Shutdown,
) {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1()
        .timer(HeadTimer)
        .header_read_timeout(limits.header)
        .max_headers(HEADERS)
        .max_buf_size(HEADER_BYTES);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_BYTES as u32)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING / 2);
    let http = Arc::new(Versions { one: http.clone().http1_only(), two: http.http2_only() });
    let stopping = shutdown.clone();
    accept::connections(listener, "HTTP", stopping, |connections, stream, from| {
        match gate.enter(from.ip()) {
            Ok(place) => {
                let server = Server {
                    http: Arc::clone(&http),
                    handler: Arc::clone(&handler),
                    limits,
                    shutdown: shutdown.clone(),
                    peer: from.ip().to_canonical(),
                    accepted: now(),
                };
                // Two kinds of tasks: one in the clear needs a quarter of the
                // memory.
                match tls.clone() {
                    None => connections.spawn(server.plain(stream, place)),
                    Some(tls) => connections.spawn(server.encrypted(stream, tls, place)),
                };
            }
            Err(full) => handler.metrics.closed(full.as_str()),
        }
    })
    .await;
}

/// What serves each version of HTTP. hyper can find out by itself which one a
/// peer speaks, but reads so little at first that every connection keeps twice
/// the buffer.
struct Versions {
    one: auto::Builder<TokioExecutor>,
    two: auto::Builder<TokioExecutor>,
}

/// What one connection needs of the listener.
struct Server {
    http: Arc<Versions>,
    handler: Arc<Handler>,
    limits: Limits,
    shutdown: Shutdown,
    peer: IpAddr,
    accepted: Instant,
}

impl Server {
    /// A connection in the clear.
    async fn plain(self, stream: TcpStream, place: Place) {
        let attended = self.attended(false, place);
        let two = tokio::select! {
            two = tokio::time::timeout(self.limits.header, begins_http2(&stream)) => two,
            () = self.shutdown.requested() => return,
        };
        let (socket, reset) = self.socket(stream);
        match two {
            Ok(two) => connection(self, attended, two, socket, reset, None).await,
            Err(_) => {
                reset.store(true, Ordering::Relaxed);
                self.handler.metrics.closed("no_request");
            }
        }
    }

    /// A connection over TLS. Its handshake has as long as a request's header.
    async fn encrypted(self, stream: TcpStream, tls: Tls, place: Place) {
        let (socket, reset) = self.socket(stream);
        match tokio::time::timeout(self.limits.header, tls.acceptor.accept(socket)).await {
            Ok(Ok(stream)) => {
                let attended = self.attended(true, place);
                let two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                // Apart, so that the handshake's room is not kept as well.
                Box::pin(connection(self, attended, two, stream, reset, tls.alternative)).await;
            }
            Ok(Err(error)) => {
                debug!(%error, "TLS handshake");
                self.handler.metrics.closed("tls");
            }
            Err(_) => self.handler.metrics.closed("no_request"),
        }
    }

    fn attended(&self, secure: bool, place: Place) -> Attended {
        let state = Arc::new(Connection::new(self.peer, secure));
        Attended::new(Arc::clone(&self.handler), state, place)
    }

    fn socket(&self, stream: TcpStream) -> (Socket, Reset) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "socket options");
        }
        let reset = Reset::default();
        (Socket::new(stream, self.limits.write, Arc::clone(&reset)), reset)
    }
}

/// Whether a peer that has agreed on nothing speaks HTTP/2: its preface (RFC
/// 9113, section 3.4) begins like no request of HTTP/1. It comes in one piece
/// from every client there is.
async fn begins_http2(stream: &TcpStream) -> bool {
    let mut first = [0; 3];
    // Who is gone already is told so by the first read.
    let count = stream.peek(&mut first).await.unwrap_or(0);
    first[..count] == *b"PRI"
}

async fn connection<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    server: Server,
    attended: Attended,
    two: bool,
    socket: I,
    reset: Reset,
    alternative: Option<HeaderValue>,
) {
    let Server { http, handler, limits, shutdown, accepted, .. } = server;
    let state = Arc::clone(&attended.state);
    let socket = TokioIo::new(socket);
    let takers = Arc::new(Takers::default());
    let service = service_fn(|request: Request<Incoming>| {
        let (handler, state) = (Arc::clone(&handler), Arc::clone(&state));
        let alternative = alternative.clone();
        let takers = (request.version() >= Version::HTTP_2).then(|| Arc::clone(&takers));
        async move {
            let (parts, _) = request.into_parts();
            let mut response = handler.answer(&state, parts).await;
            if let Some(alternative) = alternative {
                response.headers_mut().insert(ALT_SVC, alternative);
            }
            Ok::<_, Infallible>(response.map(|body| match takers {
                Some(takers) => takers.watch(body),
                None => Watched::from(body),
            }))
        }
    });
    let http = if two { &http.two } else { &http.one };
    let mut serving = std::pin::pin!(http.serve_connection(socket, service));
    // hyper's header time-out begins with the first byte: this is for who sends
    // none, and for an HTTP/2 connection without requests. It also makes hyper
    // look at its own (`head_timer.rs`).
    let mut check = accepted + limits.header;
    let mut last_word = false;
    let mut draining = false;
    let signals = |check, last_word, draining| {
        Apart::new(signal(Arc::clone(&state), shutdown.clone(), check, last_word, draining))
    };
    let mut waiting = signals(check, last_word, draining);
    let closed = loop {
        let signal = tokio::select! {
            biased;
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "a viewer's connection broke");
                }
                break None;
            }
            signal = &mut waiting => signal,
        };
        match signal {
            Signal::Kicked => {
                // A waiting poll gets its refusal; an open answer is cut.
                if !state.is_active() {
                    break Some("kicked");
                }
                serving.as_mut().graceful_shutdown();
                last_word = true;
                check = now() + LAST_WORD;
            }
            Signal::Shutdown => {
                draining = true;
                serving.as_mut().graceful_shutdown();
            }
            Signal::Check => {
                if last_word {
                    break Some("kicked");
                }
                let Some(last) = state.last_request() else { break Some("no_request") };
                let now = now();
                if !state.is_active() && now.saturating_duration_since(last) >= limits.idle {
                    serving.as_mut().graceful_shutdown();
                }
                check = (last + limits.header).max(now + limits.header / 10);
                match takers.look(now, limits.write, limits.idle.max(limits.write)) {
                    Sight::Nothing => {}
                    Sight::Open => check = check.min(now + limits.write / 4),
                    Sight::Slow => break Some("slow"),
                }
            }
        }
        waiting = signals(check, last_word, draining);
    };
    let slow = || reset.load(Ordering::Relaxed).then_some("slow");
    if let Some(reason) = closed.or_else(slow) {
        reset.store(true, Ordering::Relaxed);
        handler.metrics.closed(reason);
    }
}

/// What a connection is told besides what its peer sends.
enum Signal {
    /// Its viewer was revoked.
    Kicked,
    /// The edge stops.
    Shutdown,
    /// It is time to look whether it still does something.
    Check,
}

async fn signal(
    state: Arc<Connection>,
    shutdown: Shutdown,
    check: Instant,
    last_word: bool,
    draining: bool,
) -> Signal {
    tokio::select! {
        () = state.kicked.cancelled(), if !last_word => Signal::Kicked,
        () = shutdown.requested(), if !draining => Signal::Shutdown,
        () = tokio::time::sleep_until(check.into()) => Signal::Check,
    }
}

/// A connection while it is open; what it holds is given back also when its
/// task panics.
pub struct Attended {
    handler: Arc<Handler>,
    state: Arc<Connection>,
    _place: Place,
}

impl Attended {
    /// `state` is open until the result is dropped.
    pub fn new(handler: Arc<Handler>, state: Arc<Connection>, place: Place) -> Self {
        handler.metrics.connections.inc();
        Self { handler, state, _place: place }
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.handler.connections.leave(&self.state);
        self.handler.metrics.connections.dec();
    }
}
