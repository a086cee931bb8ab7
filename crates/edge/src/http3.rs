//! HTTP/3 for viewers: the same answers as `http.rs` gives, over QUIC.
//!
//! `h3` on `quinn`. A QUIC connection is a task, each of its requests another
//! one; what a request means and what it is answered is [`Handler`]'s. A new
//! address must show that it is one (retry, RFC 9000 section 8.1.2) once many
//! are shaking hands. Early data is not taken: who may be answered what is
//! known before anything is sent.

mod transport;

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h3::error::Code;
use h3::server::{RequestResolver, RequestStream};
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, VarInt};
use spyglass_daemon::Shutdown;
use spyglass_daemon::tls::Identity;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::connections::Connection;
use crate::gate::{Gate, Place};
use crate::http::{Attended, HEADER_BYTES, HEADERS, Handler, LAST_WORD, Limits, STREAMS};
use crate::respond::PRIORITY;
use transport::{Both, Handle, Transport};

/// The protocol's name in TLS.
const ALPN: &[u8] = b"h3";

/// Streams that a client opens beside requests: control and two of QPACK, and
/// as many that mean nothing.
const OTHER_STREAMS: u32 = 8;

/// Bytes that may be under way to one viewer, unacknowledged: what a slow one
/// costs.
const SEND_WINDOW: u64 = 2 * 1024 * 1024;

/// Bytes that a viewer may send ahead of being read.
const RECEIVE_WINDOW: u32 = 64 * 1024;

/// So many may shake hands before new addresses must show that they are one.
const HANDSHAKES: usize = 64;

/// Attempts that may wait for us, and bytes that they may hold.
const ATTEMPTS: (usize, u64, u64) = (1_024, 16 * 1024, 16 * 1024 * 1024);

/// A body is written in pieces of this size, each of which must move on in time.
const PIECE: usize = 64 * 1024;

/// Lists go before everything else of a connection (HLS-RULES L9).
const FIRST: i32 = 1;

/// What TLS answers by HTTP/1.1 and HTTP/2 say of this port: for a day.
pub fn alternative(port: u16) -> HeaderValue {
    let value = format!("h3=\":{port}\"; ma=86400").parse();
    value.unwrap_or(HeaderValue::from_static("clear"))
}

/// Opens the endpoint on a bound socket.
///
/// # Errors
/// When the socket cannot be used.
pub fn open(socket: UdpSocket, identity: &Identity, limits: Limits) -> io::Result<Endpoint> {
    let tls = QuicServerConfig::try_from(identity.server_config(&[ALPN]));
    let tls = tls.map_err(io::Error::other)?;
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS.into())
        .max_concurrent_uni_streams(OTHER_STREAMS.into())
        .stream_receive_window(RECEIVE_WINDOW.into())
        .receive_window(RECEIVE_WINDOW.into())
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(limits.idle.try_into().map_err(io::Error::other)?));
    let mut server = ServerConfig::with_crypto(Arc::new(tls));
    server
        .transport_config(Arc::new(transport))
        .max_incoming(ATTEMPTS.0)
        .incoming_buffer_size(ATTEMPTS.1)
        .incoming_buffer_size_total(ATTEMPTS.2);
    Endpoint::new(EndpointConfig::default(), Some(server), socket, Arc::new(TokioRuntime))
}

/// Serves viewers until `shutdown`; then each connection closes after the
/// answers under way.
pub async fn serve(
    endpoint: Endpoint,
    handler: Arc<Handler>,
    gate: Gate,
    limits: Limits,
    shutdown: Shutdown,
) {
    let mut connections = JoinSet::new();
    let shaking = Arc::new(());
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "a viewer's QUIC connection failed");
                }
                continue;
            }
            () = shutdown.requested() => break,
        };
        let Some(incoming) = incoming else { break };
        if Arc::strong_count(&shaking) > HANDSHAKES && incoming.may_retry() {
            // An error means that it has shown that already.
            let _ = incoming.retry();
            continue;
        }
        match gate.enter(incoming.remote_address().ip()) {
            Ok(place) => {
                let server =
                    Server { handler: Arc::clone(&handler), limits, shutdown: shutdown.clone() };
                connections.spawn(server.accepted(incoming, place, Arc::clone(&shaking)));
            }
            Err(full) => {
                handler.metrics.closed(full.as_str());
                incoming.refuse();
            }
        }
    }
    while connections.join_next().await.is_some() {}
    endpoint.close(VarInt::from_u32(0), b"");
    endpoint.wait_idle().await;
}

/// What one connection needs of the endpoint.
struct Server {
    handler: Arc<Handler>,
    limits: Limits,
    shutdown: Shutdown,
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn code(code: Code) -> VarInt {
    VarInt::from_u64(code.value()).unwrap_or(VarInt::MAX)
}

impl Server {
    async fn accepted(self, incoming: Incoming, place: Place, shaking: Arc<()>) {
        let handshake = async { incoming.accept()?.await };
        let connection = match tokio::time::timeout(self.limits.header, handshake).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                debug!(%error, "QUIC handshake");
                return self.handler.metrics.closed("tls");
            }
            Err(_) => return self.handler.metrics.closed("no_request"),
        };
        drop(shaking);
        let state = Arc::new(Connection::new(connection.remote_address().ip(), true));
        let _attended = Attended::new(Arc::clone(&self.handler), Arc::clone(&state), place);
        if let Some(reason) = self.serve(&connection, &state).await {
            self.handler.metrics.closed(reason);
            connection.close(code(Code::H3_NO_ERROR), reason.as_bytes());
        }
    }

    /// Until the connection ends; why, when it was cut.
    async fn serve(
        &self,
        connection: &quinn::Connection,
        state: &Arc<Connection>,
    ) -> Option<&'static str> {
        let (transport, latest) = Transport::new(connection.clone());
        let mut builder = h3::server::builder();
        builder.max_field_section_size(HEADER_BYTES as u64).send_grease(false);
        let built = tokio::time::timeout(self.limits.header, builder.build(transport)).await;
        let mut http = match built {
            Ok(Ok(http)) => http,
            Ok(Err(error)) => {
                debug!(%error, "a viewer's HTTP/3 connection broke");
                return None;
            }
            Err(_) => return Some("no_request"),
        };
        let mut requests = JoinSet::new();
        let mut check = now() + self.limits.header;
        let (mut last_word, mut draining) = (false, false);
        loop {
            tokio::select! {
                accepted = http.accept() => match accepted {
                    Ok(Some(resolver)) => {
                        let Some(handle) = latest.lock().take() else { continue };
                        let (handler, state) = (Arc::clone(&self.handler), Arc::clone(state));
                        requests.spawn(request(handler, state, resolver, handle, self.limits));
                    }
                    Ok(None) => {
                        while requests.join_next().await.is_some() {}
                        return None;
                    }
                    Err(error) => {
                        debug!(%error, "a viewer's HTTP/3 connection broke");
                        return None;
                    }
                },
                Some(ended) = requests.join_next(), if !requests.is_empty() => match ended {
                    Ok(None) => {}
                    Ok(reason) => return reason,
                    Err(error) => {
                        warn!(%error, "a viewer's HTTP/3 request failed");
                        connection.close(code(Code::H3_INTERNAL_ERROR), b"");
                        return None;
                    }
                },
                () = state.kicked.cancelled(), if !last_word => {
                    // A refusal may be on its way: closing would overtake it.
                    last_word = true;
                    check = now() + LAST_WORD;
                }
                () = self.shutdown.requested(), if !draining => {
                    draining = true;
                    if http.shutdown(0).await.is_err() || requests.is_empty() {
                        return None;
                    }
                }
                () = tokio::time::sleep_until(check.into()) => {
                    if last_word {
                        return Some("kicked");
                    }
                    let Some(last) = state.last_request() else { return Some("no_request") };
                    let quiet = now().saturating_duration_since(last);
                    if requests.is_empty() && quiet >= self.limits.idle {
                        return None;
                    }
                    check = now() + self.limits.idle;
                }
            }
        }
    }
}

/// One request; why its connection must be cut, when it must.
async fn request(
    handler: Arc<Handler>,
    state: Arc<Connection>,
    resolver: RequestResolver<Transport, Bytes>,
    handle: Handle,
    limits: Limits,
) -> Option<&'static str> {
    let resolved = tokio::time::timeout(limits.header, resolver.resolve_request()).await;
    let (request, mut stream) = match resolved {
        Ok(Ok(resolved)) => resolved,
        Ok(Err(error)) => {
            debug!(%error, "not a request");
            return None;
        }
        Err(_) => return Some("no_request"),
    };
    let (parts, ()) = request.into_parts();
    if parts.headers.len() > HEADERS {
        let mut refusal = http::Response::new(());
        *refusal.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let refused = async {
            stream.send_response(refusal).await?;
            stream.finish().await
        };
        // An error means that nobody reads it.
        let _ = tokio::time::timeout(limits.write, refused).await;
        return None;
    }
    let response = tokio::select! {
        response = handler.answer(&state, parts) => response,
        () = handle.stopped() => return None,
    };
    // No request has a body.
    stream.stop_sending(Code::H3_NO_ERROR);
    let _active = state.begin(now());
    if response.headers().contains_key(PRIORITY) {
        handle.set_priority(FIRST);
    }
    let (parts, mut body) = response.into_parts();
    let head = http::Response::from_parts(parts, ());
    if let Err(end) = within(limits.write, stream.send_response(head)).await {
        return end;
    }
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            // It did not come whole: neither must the answer.
            stream.stop_stream(Code::H3_INTERNAL_ERROR);
            return None;
        };
        let Ok(mut bytes) = frame.into_data() else { continue };
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            if let Err(end) = send(&mut stream, piece, limits.write).await {
                return end;
            }
        }
    }
    let _ = within(limits.write, stream.finish()).await;
    None
}

async fn send(
    stream: &mut RequestStream<Both, Bytes>,
    piece: Bytes,
    most: Duration,
) -> Result<(), Option<&'static str>> {
    within(most, stream.send_data(piece)).await
}

/// A write that must move on; on error, why the connection must be cut, when
/// it must.
async fn within<E>(
    most: Duration,
    write: impl Future<Output = Result<(), E>>,
) -> Result<(), Option<&'static str>> {
    match tokio::time::timeout(most, write).await {
        Ok(Ok(())) => Ok(()),
        // The client wants no more of it.
        Ok(Err(_)) => Err(None),
        Err(_) => Err(Some("slow")),
    }
}
