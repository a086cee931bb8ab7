//! HTTP/3 for viewers: the same answers as `http.rs` gives, over QUIC.
//!
//! `h3` on `quinn`. A QUIC connection is a task, each of its requests another
//! one; what a request means and what it is answered is [`Handler`]'s. A new
//! address must show that it is one (retry, RFC 9000 section 8.1.2) once many
//! are shaking hands. Early data is not taken: who may be answered what is
//! known before anything is sent.

mod allowance;
mod transport;

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h3::error::{Code, StreamError};
use h3::server::RequestResolver;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE};
use http::{HeaderValue, Uri};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, VarInt};
use spyglass_daemon::Shutdown;
use spyglass_daemon::gate::{Gate, Place};
use spyglass_daemon::tls::Identity;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::connections::Connection;
use crate::http::{HEADER_BYTES, Handler, now};
use crate::priority;
use crate::respond::Body;
use crate::serving::{Attended, LAST_WORD, Limits, STREAMS};
use transport::{Handle, Outgoing, Transport};

/// The protocol's name in TLS.
const ALPN: &[u8] = b"h3";

/// Streams that a client opens beside requests: control and two of QPACK, and
/// as many that mean nothing.
const OTHER_STREAMS: u32 = 8;

/// Bytes that may be under way to one viewer, unacknowledged: what a slow one
/// costs.
const SEND_WINDOW: u64 = 2 * 1024 * 1024;

/// Bytes per second below which a viewer is not waited for once all of an
/// answer is under way, however steadily it takes them.
const SLOWEST: u64 = 8_000;

/// Bytes that a viewer may send ahead of being read.
const RECEIVE_WINDOW: u32 = 64 * 1024;

/// So many may shake hands before new addresses must show that they are one.
const HANDSHAKES: usize = 64;

/// Attempts that may wait for us, and bytes that they may hold.
const ATTEMPTS: (usize, u64, u64) = (1_024, 16 * 1024, 16 * 1024 * 1024);

/// What answers by HTTP/1.1 and HTTP/2 over TLS say of HTTP/3, for a day: it is
/// on the port by which players come, which is this listener's unless they are
/// told another one in `public`.
pub fn alternative(public: Option<&str>, listener: u16) -> HeaderValue {
    let public = public.and_then(|url| url.parse::<Uri>().ok());
    let public = public.filter(|url| url.scheme_str() == Some("https"));
    let port = public.map_or(listener, |url| url.port_u16().unwrap_or(443));
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
            handler.metrics.closed("retry");
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
        let state =
            Arc::new(Connection::new(connection.remote_address().ip().to_canonical(), true));
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
            if draining && requests.is_empty() {
                return None;
            }
            tokio::select! {
                accepted = http.accept() => match accepted {
                    Ok(Some(resolver)) => {
                        let Some(handle) = latest.lock().take() else { continue };
                        let (handler, state) = (Arc::clone(&self.handler), Arc::clone(state));
                        let quic = connection.clone();
                        let limits = self.limits;
                        requests.spawn(request(handler, quic, state, resolver, handle, limits));
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
                    // GOAWAY; who does not take it is closed all the same.
                    let told = tokio::time::timeout(LAST_WORD, http.shutdown(0)).await;
                    if !matches!(told, Ok(Ok(()))) {
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
    connection: quinn::Connection,
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
            // h3 has answered that one, with 431, and leaves it at that.
            if let (StreamError::HeaderTooBig { .. }, Some(mut stream)) = (error, handle.take()) {
                let _ = stream.finish();
            }
            return None;
        }
        Err(_) => return Some("no_request"),
    };
    // No request has a body.
    stream.stop_sending(Code::H3_NO_ERROR);
    let (parts, ()) = request.into_parts();
    let urgency = priority::asked(&parts.headers);
    let response = tokio::select! {
        response = handler.answer(&state, parts) => response,
        () = handle.stopped() => {
            if let Some(mut stream) = handle.take() {
                stream.cancel();
            }
            return None;
        }
    };
    let _active = state.begin(now());
    let (head, body) = finish(response).into_parts();
    let length = body.size_hint().lower();
    let urgency = urgency.unwrap_or_else(|| priority::said(&head.headers));
    let head = http::Response::from_parts(head, ());
    if let Err(end) = within(limits.write, stream.send_response(head)).await {
        return end;
    }
    let mut stream = handle.take()?;
    // An error means that it has ended; writing will tell.
    let _ = stream.set_priority(-i32::from(urgency));
    match send(&mut stream, body, limits.write).await {
        Ok(()) => {}
        // It did not come whole: the stream is reset.
        Err(Unsent::Broken) => return None,
        Err(Unsent::Left) => {
            stream.cancel();
            return None;
        }
        Err(Unsent::Slow) => return Some("slow"),
    }
    // Not done before the viewer has it: a connection that closes takes with it
    // what is still on its way.
    let _ = stream.finish();
    let left = Duration::from_secs(length.min(SEND_WINDOW) / SLOWEST);
    match taken(&connection, stream.stopped(), limits.idle, left).await {
        true => None,
        false => Some("slow"),
    }
}

/// Whether the viewer took an answer that is finished, up to [`SEND_WINDOW`] of
/// which may still be on its way.
async fn taken(
    connection: &quinn::Connection,
    ended: impl Future,
    patience: Duration,
    left: Duration,
) -> bool {
    let mut ended = std::pin::pin!(ended);
    let sent = || connection.stats().frame_tx.stream;
    let mut waiting = Waiting::new(sent(), now());
    loop {
        if tokio::time::timeout(patience / 4, ended.as_mut()).await.is_ok() {
            return true;
        }
        if waiting.is_over(sent(), now(), patience, left) {
            return false;
        }
    }
}

/// How long a finished answer has been waited for. QUIC tells only of the whole
/// connection that more of its streams' bytes have left: what moves may be
/// another answer.
struct Waiting {
    begun: Instant,
    sent: u64,
    moved: Instant,
}

impl Waiting {
    fn new(sent: u64, now: Instant) -> Self {
        Self { begun: now, sent, moved: now }
    }

    /// Who takes nothing has `patience`; who does has `left` besides.
    fn is_over(&mut self, sent: u64, now: Instant, patience: Duration, left: Duration) -> bool {
        if sent != self.sent {
            (self.sent, self.moved) = (sent, now);
        }
        now >= self.moved + patience || now >= self.begun + patience + left
    }
}

/// What hyper does to the answers that it sends: the length and the date are
/// added, what concerns one HTTP/1 connection is not said.
fn finish(mut response: http::Response<Body>) -> http::Response<Body> {
    let length = response.body().size_hint().exact();
    let headers = response.headers_mut();
    headers.remove(CONNECTION);
    if let Some(length) = length.filter(|length| *length > 0) {
        headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    if let Ok(date) = httpdate::fmt_http_date(std::time::SystemTime::now()).parse() {
        headers.insert(DATE, date);
    }
    response
}

/// Why a body was not sent to its end.
enum Unsent {
    /// What was passed on has broken.
    Broken,
    /// The viewer wants no more of it, or the connection is gone.
    Left,
    /// The viewer took no byte for too long.
    Slow,
}

/// Sends a body from where it lies, in DATA frames.
async fn send(stream: &mut Outgoing, mut body: Body, patience: Duration) -> Result<(), Unsent> {
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unsent::Broken)?.into_data() else { continue };
        if data.is_empty() {
            continue;
        }
        let mut pieces = [data_head(data.len() as u64), data];
        let mut left = &mut pieces[..];
        while !left.is_empty() {
            let writing = tokio::time::timeout(patience, stream.write_chunks(left)).await;
            let written = writing.map_err(|_| Unsent::Slow)?.map_err(|_| Unsent::Left)?;
            left = left.get_mut(written.chunks..).unwrap_or_default();
        }
    }
    Ok(())
}

/// Type and length of a DATA frame (RFC 9114 section 7.2.1) as QUIC writes
/// numbers (RFC 9000 section 16).
fn data_head(length: u64) -> Bytes {
    let mut head = Vec::with_capacity(9);
    head.push(0);
    match length {
        0..=0x3f => head.push(length as u8),
        0x40..=0x3fff => head.extend((length as u16 | 1 << 14).to_be_bytes()),
        0x4000..=0x3fff_ffff => head.extend((length as u32 | 2 << 30).to_be_bytes()),
        _ => head.extend((length | 3 << 62).to_be_bytes()),
    }
    head.into()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_answer_is_waited_for_while_it_moves_but_not_for_ever() {
        let (begun, patience, left) = (now(), Duration::from_secs(60), Duration::from_secs(100));
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut stands = Waiting::new(7, begun);
        assert!(!stands.is_over(8, at(15), patience, left));
        assert!(!stands.is_over(8, at(74), patience, left));
        assert!(stands.is_over(8, at(75), patience, left));
        let mut moves = Waiting::new(0, begun);
        assert!((1..160).all(|second| !moves.is_over(second, at(second), patience, left)));
        assert!(moves.is_over(160, at(160), patience, left));
    }

    #[test]
    fn the_alternative_is_on_the_port_by_which_players_come() {
        for (public, expected) in [
            (None, "h3=\":8481\"; ma=86400"),
            (Some("http://edge.example.com:80"), "h3=\":8481\"; ma=86400"),
            (Some("https://edge.example.com"), "h3=\":443\"; ma=86400"),
            (Some("https://edge.example.com:9000"), "h3=\":9000\"; ma=86400"),
        ] {
            assert_eq!(alternative(public, 8481), expected);
        }
    }

    #[test]
    fn a_data_frame_says_how_long_it_is() {
        // The numbers of RFC 9000 section A.1, and those where the form changes.
        for (length, expected) in [
            (37, &[0, 0x25][..]),
            (63, &[0, 0x3f]),
            (64, &[0, 0x40, 0x40]),
            (15_293, &[0, 0x7b, 0xbd]),
            (16_384, &[0, 0x80, 0, 0x40, 0]),
            (494_878_333, &[0, 0x9d, 0x7f, 0x3e, 0x7d]),
            (151_288_809_941_952_652, &[0, 0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]),
        ] {
            assert_eq!(data_head(length), expected);
        }
    }
}
