//! HTTP for viewers: from a parsed request to an answer, and the connections
//! that carry both.
//!
//! hyper without a framework: HTTP/1.1 and HTTP/2 on one port. What a path
//! means is `request.rs`, what is served `broadcasts.rs`, how it looks
//! `respond.rs`.

use std::convert::Infallible;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::header::{ALT_SVC, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::{Mutex, RwLock};
use spyglass_daemon::admin::Admin;
use spyglass_daemon::attach::{Attachment, Revocation};
use spyglass_daemon::{Shutdown, now_utc};
use spyglass_media::{BroadcastId, Resource, ViewerId};
use spyglass_token::WatchGrant;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::apart::Apart;
use crate::broadcasts::{Broadcasts, Found, Refused};
use crate::connections::{Connection, Connections, Shown};
use crate::delays::Measured;
use crate::gate::{Gate, Place};
use crate::head_timer::HeadTimer;
use crate::metrics::Metrics;
use crate::outcome::CacheStatus;
use crate::refusal::Refusal;
use crate::request::{self, Named, Object, Route};
use crate::respond::{Asked, Body, Prebuilt, Responder};
use crate::steering::{Player, Steering};
use crate::viewers::{Lease, Viewers};
use spyglass_daemon::socket::{Reset, Socket};

/// Header fields of a request.
pub const HEADERS: usize = 64;

/// Bytes of them.
pub const HEADER_BYTES: usize = 16 * 1024;

/// Requests at once on one HTTP/2 or HTTP/3 connection.
pub const STREAMS: u32 = 100;

/// HTTP/2 pings: a peer that is gone is noticed.
const PING: Duration = Duration::from_secs(20);

/// Bytes of a User-Agent that tell players apart.
const LONGEST_AGENT: usize = 256;

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

/// Answers requests; shared by all connections.
#[derive(Debug)]
pub struct Handler {
    /// What there is to serve.
    pub broadcasts: Arc<Broadcasts>,
    /// Keys and revocations.
    pub attachment: Attachment,
    /// How answers look.
    pub responder: Responder,
    /// Counters.
    pub metrics: Metrics,
    /// Health.
    pub admin: Admin,
    /// Whether `/metrics` is served on the viewers' address.
    pub metrics_allowed: bool,
    /// Where else its players may go.
    pub steering: RwLock<Arc<Steering>>,
    /// Who watches.
    pub viewers: Mutex<Viewers>,
    /// Hashes who has not joined; of this process alone.
    pub crowd_key: RandomState,
    /// Where they are connected.
    pub connections: Connections,
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Handler {
    /// The answer to a request of any version; the body of a request is not
    /// looked at.
    pub async fn answer(
        &self,
        connection: &Arc<Connection>,
        parts: http::request::Parts,
    ) -> Response<Body> {
        let _active = connection.begin(now());
        let head = parts.method == Method::HEAD;
        let refuse = |refusal| {
            self.metrics.request("other", CacheStatus::Negative);
            self.responder.refused(refusal, CacheStatus::Negative, head)
        };
        // hyper has this limit for HTTP/1 only.
        if parts.headers.len() > HEADERS {
            return refuse(Refusal::Headers);
        }
        match parts.method {
            Method::GET | Method::HEAD if has_body(&parts.headers) => {
                return refuse(Refusal::Body);
            }
            Method::GET | Method::HEAD => {}
            Method::OPTIONS => {
                self.metrics.request("other", CacheStatus::Hit);
                return self.responder.options();
            }
            _ => return refuse(Refusal::Method),
        }
        let path = parts.uri.path();
        let mut since = None;
        let (named, viewer) = match request::parse(path, parts.uri.query()) {
            Ok(Route::Public(named)) => (named, None),
            Ok(Route::Joined { token, named }) => {
                let shared = parts.version >= Version::HTTP_2;
                let Some(grant) = self.grant(connection, &token, shared) else {
                    return refuse(Refusal::Denied);
                };
                let named = match named {
                    Ok(named) if named.broadcast() == grant.broadcast => named,
                    Ok(_) => return refuse(Refusal::Denied),
                    Err(refusal) => return refuse(refusal),
                };
                since = self.on_viewer(&grant);
                (named, Some(grant.viewer))
            }
            Ok(Route::Other) => {
                return match self.admin.respond(path, self.metrics_allowed) {
                    Some(response) => response.map(Body::from),
                    None => refuse(Refusal::NotFound),
                };
            }
            Err(refusal) => return refuse(refusal),
        };
        let private = viewer.is_some();
        let asked = Asked { head, private, blocking: None, headers: &parts.headers };
        let object = match named {
            Named::Object(object) => object,
            Named::Steering(id) => {
                let pathway = request::pathway(parts.uri.query()).ok().flatten();
                let (pathway, secure) = (pathway.as_deref(), connection.secure);
                let player = match viewer {
                    Some(viewer) => Player::new(pathway, secure, viewer),
                    None => Player::new(pathway, secure, connection.peer),
                };
                return self.steer(id, path, player, asked).await;
            }
        };
        let answer = self.find(object, asked, since);
        let (response, status) = if private {
            tokio::select! {
                biased;
                answer = answer => answer,
                () = connection.kicked.cancelled() => {
                    let mut response = refuse(Refusal::Denied);
                    if parts.version < Version::HTTP_2 {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    return response;
                }
            }
        } else {
            let answer = answer.await;
            self.on_anonymous(connection, object, &parts.headers, answer.0.status());
            answer
        };
        self.metrics.request(object.resource.kind(), status);
        self.metrics.bytes.inc_by(response.body().size_hint().lower());
        response
    }

    /// `since`: when the joined viewer came who asks.
    async fn find(
        &self,
        object: Object,
        asked: Asked<'_>,
        since: Option<Instant>,
    ) -> (Response<Body>, CacheStatus) {
        let answered = |measured: Option<&Measured>, held| {
            if let (Some(measured), Some(since), true) = (measured, since, asked.wants_all()) {
                measured.on_answered(now(), held, since);
            }
        };
        let found = match object.resource {
            Resource::Index | Resource::Chunklist => self.list(object, asked).await,
            resource => {
                let id = object.broadcast;
                let early = asked.wants_all();
                let found = self.broadcasts.object(id, resource, asked.private, early).await;
                found.map(|(found, status)| match found {
                    Found::Here(found) => {
                        answered(found.measured.as_ref(), Some(found.arrived));
                        let age = now().saturating_duration_since(found.arrived);
                        (self.responder.found(&found.answer, status, age, asked), status)
                    }
                    Found::Coming(filling) => {
                        answered(filling.measured(), None);
                        (self.responder.filling(&filling, status, asked), status)
                    }
                })
            }
        };
        found.unwrap_or_else(|(refusal, status)| {
            (self.responder.refused(refusal, status, asked.head), status)
        })
    }

    /// Which edges this player may go to.
    async fn steer(
        &self,
        id: BroadcastId,
        path: &str,
        player: Player<'_>,
        asked: Asked<'_>,
    ) -> Response<Body> {
        let (response, status) = match self.broadcasts.exists(id, asked.private).await {
            Ok(()) => {
                let below = path.rsplit_once('/').map_or("", |(below, _)| below);
                let steering = Arc::clone(&self.steering.read());
                let answer = Prebuilt::steering(steering.document(below, player).into());
                let status = CacheStatus::Hit;
                (self.responder.found(&answer, status, Duration::ZERO, asked), status)
            }
            Err((refusal, status)) => (self.responder.refused(refusal, status, asked.head), status),
        };
        self.metrics.request("steering", status);
        response
    }

    async fn list(
        &self,
        object: Object,
        asked: Asked<'_>,
    ) -> Result<(Response<Body>, CacheStatus), Refused> {
        // The directives are about the media playlist.
        let awaits = match object.resource {
            Resource::Index => None,
            _ => object.directives.awaits(),
        };
        let listed = self.broadcasts.lists(object.broadcast, asked.private, awaits).await?;
        let lists = &*listed.lists;
        let forms = match (object.resource, &lists.delta) {
            (Resource::Index, _) => &lists.index,
            (_, Some(delta)) if object.directives.skip => delta,
            _ => &lists.media,
        };
        let blocking = listed.blocking.then_some(&lists.blocking);
        let asked = Asked { blocking, ..asked };
        let found = forms.choose(asked.headers);
        Ok((self.responder.found(found, listed.status, listed.age, asked), listed.status))
    }

    // ---- joined viewers

    /// What a token allows now; `None` when nothing.
    fn grant(&self, connection: &Arc<Connection>, token: &str, shared: bool) -> Option<WatchGrant> {
        let keys = self.attachment.keys();
        let utc = now_utc();
        let grant = match connection.shown(token, &keys) {
            Some(grant) => grant,
            None => {
                let verified = keys.verify_watch(token, utc);
                if let Err(denied) = &verified {
                    debug!(reason = denied.as_str(), "viewer token refused");
                }
                let grant = verified.ok()?;
                let shown = Shown { token: token.into(), keys, grant: grant.clone() };
                connection.show(shown);
                grant
            }
        };
        // Known before it is judged: a revocation that comes now finds it.
        self.connections.enter((grant.broadcast, grant.viewer), connection, shared);
        let good = utc < grant.expires && !self.attachment.revoked(grant.broadcast, grant.viewer);
        good.then_some(grant)
    }

    /// Counts a viewer; since when it has been here.
    fn on_viewer(&self, grant: &WatchGrant) -> Option<Instant> {
        let lease = self.broadcasts.lease(grant.broadcast);
        let mut viewers = self.viewers.lock();
        let begun = viewers.on_request(now(), now_utc(), grant, lease);
        let since = viewers.since(grant.broadcast, grant.viewer);
        if let Some(lease) = begun {
            self.count(&viewers);
            drop(viewers);
            self.attachment.lease_begun(as_control(&lease));
        }
        since
    }

    /// Somebody without a token was answered. Players ask for a list again and
    /// again; it is enough to count them there.
    fn on_anonymous(
        &self,
        connection: &Connection,
        object: Object,
        headers: &HeaderMap,
        status: StatusCode,
    ) {
        let list = matches!(object.resource, Resource::Index | Resource::Chunklist);
        if list && (status.is_success() || status == StatusCode::NOT_MODIFIED) {
            let agent = headers.get(USER_AGENT).map_or(&[][..], HeaderValue::as_bytes);
            let agent = &agent[..agent.len().min(LONGEST_AGENT)];
            let who = self.crowd_key.hash_one((connection.peer, agent));
            self.broadcasts.on_anonymous(object.broadcast, who);
        }
    }

    /// A viewer's tokens are refused from now on.
    pub fn on_revocation(&self, revocation: &Revocation) {
        let id = revocation.broadcast.parse::<BroadcastId>();
        let (Ok(id), Ok(viewer)) = (id, revocation.viewer.parse::<ViewerId>()) else { return };
        let cut = self.connections.cut((id, viewer));
        debug!(broadcast = %id, %viewer, connections = cut, "viewer cut");
        let mut viewers = self.viewers.lock();
        let ended = viewers.on_revoked(id, viewer);
        self.count(&viewers);
        drop(viewers);
        if let Some(lease) = ended {
            self.attachment.lease_ended(as_control(&lease));
        }
    }

    /// Ends the leases of viewers who have stopped asking.
    pub fn on_deadline(&self) {
        let mut viewers = self.viewers.lock();
        let ended = viewers.on_deadline(now());
        self.count(&viewers);
        drop(viewers);
        for lease in ended {
            self.attachment.lease_ended(as_control(&lease));
        }
    }

    fn count(&self, viewers: &Viewers) {
        self.metrics.viewers.set(i64::try_from(viewers.count()).unwrap_or(i64::MAX));
    }
}

fn as_control(lease: &Lease) -> spyglass_api::control::Lease {
    spyglass_api::control::Lease {
        broadcast: lease.broadcast.to_string(),
        viewer: lease.viewer.to_string(),
        seat: lease.seat.unwrap_or_default(),
        generation: lease.generation,
        since_ms: lease.since.millis(),
        user: lease.user.map(|user| user.to_string()).unwrap_or_default(),
        expires_ms: lease.expires.millis(),
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
    length.is_some_and(|length| length != b"0") || headers.contains_key(TRANSFER_ENCODING)
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
    let http = Arc::new(http);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "a viewer's connection failed");
                }
                continue;
            }
            () = shutdown.requested() => break,
        };
        match accepted {
            Ok((stream, from)) => match gate.enter(from.ip()) {
                Ok(place) => {
                    let server = Server {
                        http: Arc::clone(&http),
                        handler: Arc::clone(&handler),
                        limits,
                        shutdown: shutdown.clone(),
                        peer: from.ip().to_canonical(),
                    };
                    connections.spawn(server.accepted(stream, tls.clone(), place));
                }
                Err(full) => handler.metrics.closed(full.as_str()),
            },
            Err(error) => {
                // Out of descriptors, most likely: give connections time to close.
                warn!(%error, "cannot accept viewers");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// What one connection needs of the listener.
struct Server {
    http: Arc<auto::Builder<TokioExecutor>>,
    handler: Arc<Handler>,
    limits: Limits,
    shutdown: Shutdown,
    peer: IpAddr,
}

impl Server {
    async fn accepted(self, stream: TcpStream, tls: Option<Tls>, place: Place) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "socket options");
        }
        let reset = Reset::default();
        let socket = Socket::new(stream, self.limits.write, Arc::clone(&reset));
        let Some(tls) = tls else {
            let state = Connection::new(self.peer, false);
            return connection(self, state, socket, reset, place, None).await;
        };
        // The handshake has as long as a request's header.
        match tokio::time::timeout(self.limits.header, tls.acceptor.accept(socket)).await {
            Ok(Ok(stream)) => {
                let state = Connection::new(self.peer, true);
                connection(self, state, stream, reset, place, tls.alternative).await
            }
            Ok(Err(error)) => {
                debug!(%error, "TLS handshake");
                self.handler.metrics.closed("tls");
            }
            Err(_) => self.handler.metrics.closed("no_request"),
        }
    }
}

async fn connection<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    server: Server,
    state: Connection,
    socket: I,
    reset: Reset,
    place: Place,
    alternative: Option<HeaderValue>,
) {
    let Server { http, handler, limits, shutdown, .. } = server;
    let state = Arc::new(state);
    let _attended = Attended::new(Arc::clone(&handler), Arc::clone(&state), place);
    let socket = TokioIo::new(socket);
    let service = service_fn(|request: Request<Incoming>| {
        let (handler, state) = (Arc::clone(&handler), Arc::clone(&state));
        let alternative = alternative.clone();
        async move {
            let (parts, _) = request.into_parts();
            let mut response = handler.answer(&state, parts).await;
            if let Some(alternative) = alternative {
                response.headers_mut().insert(ALT_SVC, alternative);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut serving = std::pin::pin!(http.serve_connection(socket, service));
    let accepted = now();
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
