//! What `h3` needs of QUIC, on `quinn`.
//!
//! Not `h3-quinn`: it hides the streams, and four things can only be done to
//! them. A request may be no longer than its limit (`h3` collects a header
//! frame of any announced length). A list goes before the chunks of the same
//! connection (RFC 9218, HLS-RULES L9). Who stops reading an answer that is not
//! there yet is noticed, so that a waiter leaves nothing behind. And a body is
//! sent from the memory that all its viewers share: `h3` would have it copied.

use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures_util::{Stream, stream};
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use parking_lot::Mutex;
use quinn::{ConnectionError, ReadError, VarInt, WriteError};

use super::allowance::Allowance;
use crate::http::now;

/// Bytes read at once: a request has hardly more.
const READ: usize = 2 * 1024;

/// The sending side of a request's stream, for whoever answers it.
#[derive(Clone, Debug)]
pub struct Handle(Shared);

/// Empty once it has been taken.
type Shared = Arc<Mutex<Option<Outgoing>>>;

impl Handle {
    /// Ends when the client wants no answer any more.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let stopped = self.0.lock().as_ref().map(|stream| stream.stopped());
        async {
            if let Some(stopped) = stopped {
                // A code or a lost connection: nobody reads any more.
                let _ = stopped.await;
            }
        }
    }

    /// The stream itself, once: `h3` has no access to it any more.
    pub fn take(&self) -> Option<Outgoing> {
        self.0.lock().take()
    }
}

/// What we send on one stream. Quinn ends a stream well when it is dropped, which
/// would make half an answer, or none, look like one: an answer's stream that was
/// not finished is reset.
#[derive(Debug)]
pub struct Outgoing {
    stream: quinn::SendStream,
    /// What is said when it is dropped; `None` once all of it was sent.
    unfinished: Option<Code>,
}

impl Outgoing {
    /// Nothing more comes.
    ///
    /// # Errors
    /// When the stream has ended.
    pub fn finish(&mut self) -> Result<(), quinn::ClosedStream> {
        self.unfinished = None;
        self.stream.finish()
    }

    /// Nobody wants it any more.
    pub fn cancel(&mut self) {
        self.unfinished = self.unfinished.and(Some(Code::H3_REQUEST_CANCELLED));
    }
}

impl Deref for Outgoing {
    type Target = quinn::SendStream;

    fn deref(&self) -> &quinn::SendStream {
        &self.stream
    }
}

impl DerefMut for Outgoing {
    fn deref_mut(&mut self) -> &mut quinn::SendStream {
        &mut self.stream
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(code) = self.unfinished {
            // An error means that it has ended.
            let _ = self.stream.reset(code_of(code.value()));
        }
    }
}

type Accepted<T> = Pin<Box<dyn Stream<Item = Result<T, ConnectionError>> + Send>>;

/// A connection.
pub struct Transport {
    connection: quinn::Connection,
    requests: Accepted<(quinn::SendStream, quinn::RecvStream)>,
    others: Accepted<quinn::RecvStream>,
    opening: Accepted<quinn::SendStream>,
    latest: Arc<Mutex<Option<Handle>>>,
}

impl Transport {
    /// On an open connection; what comes second holds the handle of the stream
    /// that was accepted last.
    pub fn new(connection: quinn::Connection) -> (Self, Arc<Mutex<Option<Handle>>>) {
        let requests = stream::unfold(connection.clone(), |connection| async {
            Some((connection.accept_bi().await, connection))
        });
        let others = stream::unfold(connection.clone(), |connection| async {
            Some((connection.accept_uni().await, connection))
        });
        let latest = Arc::default();
        let transport = Self {
            requests: Box::pin(requests),
            others: Box::pin(others),
            opening: opening(connection.clone()),
            connection,
            latest: Arc::clone(&latest),
        };
        (transport, latest)
    }
}

fn opening(connection: quinn::Connection) -> Accepted<quinn::SendStream> {
    Box::pin(stream::unfold(connection, |connection| async {
        Some((connection.open_uni().await, connection))
    }))
}

impl quic::Connection<Bytes> for Transport {
    type RecvStream = Receiving;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Receiving, ConnectionErrorIncoming>> {
        let accepted = next(ready!(self.others.as_mut().poll_next(context)));
        Poll::Ready(accepted.and_then(|stream| Receiving::new(stream, Allowance::lasting(now()))))
    }

    fn poll_accept_bidi(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Both, ConnectionErrorIncoming>> {
        let accepted = next(ready!(self.requests.as_mut().poll_next(context)));
        Poll::Ready(accepted.and_then(|(sending, receiving)| {
            let both = Both {
                sending: Sending::new(sending, true)?,
                receiving: Receiving::new(receiving, Allowance::request(now()))?,
            };
            *self.latest.lock() = Some(both.sending.handle());
            Ok(both)
        }))
    }

    fn opener(&self) -> Opener {
        Opener { connection: self.connection.clone(), opening: opening(self.connection.clone()) }
    }
}

impl quic::OpenStreams<Bytes> for Transport {
    type BidiStream = Both;
    type SendStream = Sending;

    fn poll_open_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        Poll::Ready(Err(not_a_server()))
    }

    fn poll_open_send(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Sending, StreamErrorIncoming>> {
        poll_open(&mut self.opening, context)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(code_of(code.value()), reason);
    }
}

/// Opens streams of the server's own.
pub struct Opener {
    connection: quinn::Connection,
    opening: Accepted<quinn::SendStream>,
}

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = Both;
    type SendStream = Sending;

    fn poll_open_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        Poll::Ready(Err(not_a_server()))
    }

    fn poll_open_send(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Sending, StreamErrorIncoming>> {
        poll_open(&mut self.opening, context)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(code_of(code.value()), reason);
    }
}

fn poll_open(
    opening: &mut Accepted<quinn::SendStream>,
    context: &mut Context<'_>,
) -> Poll<Result<Sending, StreamErrorIncoming>> {
    let opened = next(ready!(opening.as_mut().poll_next(context)))
        .and_then(|stream| Sending::new(stream, false));
    Poll::Ready(opened.map_err(|connection_error| StreamErrorIncoming::ConnectionErrorIncoming {
        connection_error,
    }))
}

/// A request's stream.
pub struct Both {
    sending: Sending,
    receiving: Receiving,
}

impl quic::RecvStream for Both {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.receiving.poll_data(context)
    }

    fn stop_sending(&mut self, code: u64) {
        self.receiving.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.receiving.id
    }
}

impl quic::SendStream<Bytes> for Both {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sending.poll_ready(context)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.sending.send_data(data)
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sending.poll_finish(context)
    }

    fn reset(&mut self, code: u64) {
        self.sending.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.sending.id
    }
}

/// What a client sends.
pub struct Receiving {
    stream: quinn::RecvStream,
    id: StreamId,
    /// What it may still send.
    allowance: Allowance,
}

impl Receiving {
    fn new(
        stream: quinn::RecvStream,
        allowance: Allowance,
    ) -> Result<Self, ConnectionErrorIncoming> {
        let id = id_of(stream.id())?;
        Ok(Self { stream, id, allowance })
    }
}

impl quic::RecvStream for Receiving {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let mut buffer = [0; READ];
        let read = ready!(self.stream.poll_read(context, &mut buffer)).map_err(read_error)?;
        if !self.allowance.take(read, now()) {
            let code = Code::H3_EXCESSIVE_LOAD.value();
            let _ = self.stream.stop(code_of(code));
            return Poll::Ready(Err(StreamErrorIncoming::StreamTerminated { error_code: code }));
        }
        let bytes = buffer.get(..read).filter(|bytes| !bytes.is_empty());
        Poll::Ready(Ok(bytes.map(Bytes::copy_from_slice)))
    }

    fn stop_sending(&mut self, code: u64) {
        // An error means that it has ended.
        let _ = self.stream.stop(code_of(code));
    }

    fn recv_id(&self) -> StreamId {
        self.id
    }
}

/// What we send.
pub struct Sending {
    stream: Shared,
    id: StreamId,
    writing: Option<WriteBuf<Bytes>>,
}

impl Sending {
    /// `answer`: it ends with its last byte, and not with its connection.
    fn new(stream: quinn::SendStream, answer: bool) -> Result<Self, ConnectionErrorIncoming> {
        let id = id_of(stream.id())?;
        let stream = Outgoing { stream, unfinished: answer.then_some(Code::H3_INTERNAL_ERROR) };
        Ok(Self { stream: Arc::new(Mutex::new(Some(stream))), id, writing: None })
    }

    fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.stream))
    }
}

impl quic::SendStream<Bytes> for Sending {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if let Some(data) = &mut self.writing {
            let mut stream = self.stream.lock();
            let stream = stream.as_mut().ok_or_else(taken)?;
            while data.has_remaining() {
                let written =
                    ready!(Pin::new(&mut stream.stream).poll_write(context, data.chunk()));
                data.advance(written.map_err(write_error)?);
            }
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            return Err(StreamErrorIncoming::ConnectionErrorIncoming {
                connection_error: internal("data before the last was written"),
            });
        }
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        let finished = self.stream.lock().as_mut().ok_or_else(taken)?.finish();
        Poll::Ready(finished.map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, code: u64) {
        if let Some(stream) = self.stream.lock().as_mut() {
            // An error means that it has ended.
            let _ = stream.reset(code_of(code));
        }
    }

    fn send_id(&self) -> StreamId {
        self.id
    }
}

fn taken() -> StreamErrorIncoming {
    StreamErrorIncoming::Unknown("the answerer has the stream".into())
}

fn next<T>(item: Option<Result<T, ConnectionError>>) -> Result<T, ConnectionErrorIncoming> {
    match item {
        Some(result) => result.map_err(connection_error),
        None => Err(internal("no streams any more")),
    }
}

fn internal(what: &str) -> ConnectionErrorIncoming {
    ConnectionErrorIncoming::InternalError(what.to_owned())
}

fn not_a_server() -> StreamErrorIncoming {
    let connection_error = internal("a server opens no requests");
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error }
}

fn id_of(id: quinn::StreamId) -> Result<StreamId, ConnectionErrorIncoming> {
    u64::from(id).try_into().map_err(|_| internal("stream id"))
}

fn code_of(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn connection_error(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into() }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        error => ConnectionErrorIncoming::Undefined(Arc::new(error)),
    }
}

fn read_error(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => {
            StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() }
        }
        ReadError::ConnectionLost(error) => StreamErrorIncoming::ConnectionErrorIncoming {
            connection_error: connection_error(error),
        },
        error => StreamErrorIncoming::Unknown(Box::new(error)),
    }
}

fn write_error(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => {
            StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() }
        }
        WriteError::ConnectionLost(error) => StreamErrorIncoming::ConnectionErrorIncoming {
            connection_error: connection_error(error),
        },
        error => StreamErrorIncoming::Unknown(Box::new(error)),
    }
}
