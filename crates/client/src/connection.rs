//! A socket around the RTMP client machine: moves bytes and time, decides
//! nothing.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use spyglass_rtmp::{Client, ClientConfig, ClientEvent, Intent, Limits};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::{Error, RtmpUrl};

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the peer may take nothing while there is something to send.
const STALLED: Duration = Duration::from_secs(10);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);
const READ: usize = 64 * 1024;

/// Opens connections; a test's opens pipes.
pub(crate) trait Dial: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Send + 'static;

    fn dial(&self, url: &RtmpUrl) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Opens TCP connections.
pub(crate) struct Tcp;

impl Dial for Tcp {
    type Stream = TcpStream;

    async fn dial(&self, url: &RtmpUrl) -> io::Result<TcpStream> {
        let socket = TcpStream::connect((url.host.as_str(), url.port)).await?;
        // Small messages must not wait for one another.
        socket.set_nodelay(true)?;
        Ok(socket)
    }
}

/// What happened first.
#[derive(Debug)]
pub(crate) enum Step {
    Event(ClientEvent),
    /// The caller's time has come.
    Due,
    /// The peer closed.
    Closed,
}

pub(crate) struct Connection<S> {
    client: Client,
    read: ReadHalf<S>,
    write: WriteHalf<S>,
    input: BytesMut,
    output: VecDeque<Bytes>,
    /// Bytes in `output`.
    backlog: usize,
    /// When the peer last took something, or had nothing to take.
    progress: Instant,
    /// A fault that stands behind events not yet handed out.
    fault: Option<Error>,
    shown: String,
}

impl<S: AsyncRead + AsyncWrite> Connection<S> {
    pub(crate) async fn open<D>(dial: &D, url: &RtmpUrl, intent: Intent) -> Result<Self, Error>
    where
        D: Dial<Stream = S>,
    {
        let shown = format!("rtmp://{}", url.authority());
        let unreachable = |reason: String| Error::Unreachable { url: shown.clone(), reason };
        let socket = timeout(CONNECT, dial.dial(url))
            .await
            .map_err(|_| unreachable(format!("no answer within {} s", CONNECT.as_secs())))?
            .map_err(|error| unreachable(error.to_string()))?;
        let config = ClientConfig {
            app: url.app.clone(),
            tc_url: url.tc_url(),
            name: url.name.clone(),
            intent,
            buffer_ms: 0,
            limits: Limits::default(),
        };
        let client = Client::new(config, Instant::now().into_std())
            .map_err(|error| Error::Rtmp { url: shown.clone(), reason: error.to_string() })?;
        let (read, write) = split(socket);
        Ok(Self {
            client,
            read,
            write,
            input: BytesMut::with_capacity(READ),
            output: VecDeque::new(),
            backlog: 0,
            progress: Instant::now(),
            fault: None,
            shown,
        })
    }

    /// Waits until the server accepts.
    pub(crate) async fn ready(&mut self) -> Result<(), Error> {
        loop {
            match self.step(None).await? {
                Step::Event(ClientEvent::Ready) => return Ok(()),
                Step::Event(ClientEvent::Refused { code, description }) => {
                    return Err(Error::Denied { code, description });
                }
                Step::Event(_) | Step::Due => {}
                Step::Closed => return Err(self.broken("the origin closed the connection")),
            }
        }
    }

    pub(crate) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Takes over what the client machine wants to send; returns how much waits
    /// for the socket in all.
    pub(crate) fn collect(&mut self) -> usize {
        let output = self.client.take_output();
        if !output.is_empty() {
            if self.output.is_empty() {
                self.progress = Instant::now();
            }
            self.backlog += output.len();
            self.output.push_back(output);
        }
        self.backlog
    }

    /// Moves bytes until something happened. Dropping the future loses nothing.
    pub(crate) async fn step(&mut self, until: Option<Instant>) -> Result<Step, Error> {
        loop {
            if let Some(event) = self.client.next_event() {
                return Ok(Step::Event(event));
            }
            if let Some(fault) = self.fault.take() {
                return Err(fault);
            }
            self.collect();
            let stalled = (!self.output.is_empty()).then(|| self.progress + STALLED);
            let patience = self.client.next_deadline().map(Instant::from_std);
            let wake = [until, stalled, patience].into_iter().flatten().min();
            let waiting = self.output.front().cloned().unwrap_or_default();
            tokio::select! {
                got = self.read.read_buf(&mut self.input) => match got {
                    Ok(0) => return Ok(Step::Closed),
                    Ok(_) => {
                        let now = Instant::now().into_std();
                        let taken = self.client.on_bytes(now, &self.input);
                        self.input.clear();
                        if let Err(error) = taken {
                            self.fault = Some(self.broken(&error.to_string()));
                        }
                    }
                    Err(error) => return Err(self.broken(&error.to_string())),
                },
                wrote = self.write.write(&waiting), if !waiting.is_empty() => match wrote {
                    Ok(0) => return Ok(Step::Closed),
                    Ok(count) => self.wrote(count),
                    // The refusal that explains it may still be readable.
                    Err(error) => {
                        self.output.clear();
                        self.backlog = 0;
                        self.fault = Some(self.broken(&error.to_string()));
                        self.read_last().await;
                    }
                },
                () = at(wake) => {
                    let now = Instant::now();
                    if stalled.is_some_and(|at| at <= now) {
                        return Err(self.broken("the origin takes no more data"));
                    }
                    self.client
                        .on_deadline(now.into_std())
                        .map_err(|error| self.broken(&error.to_string()))?;
                    if until.is_some_and(|at| at <= now) {
                        return Ok(Step::Due);
                    }
                }
            }
        }
    }

    fn wrote(&mut self, count: usize) {
        self.progress = Instant::now();
        self.backlog = self.backlog.saturating_sub(count);
        if let Some(front) = self.output.front_mut() {
            front.advance(count.min(front.len()));
            if front.is_empty() {
                self.output.pop_front();
            }
        }
    }

    async fn read_last(&mut self) {
        let read = timeout(Duration::from_millis(200), self.read.read_buf(&mut self.input)).await;
        if matches!(read, Ok(Ok(1..))) {
            let _ = self.client.on_bytes(Instant::now().into_std(), &self.input);
            self.input.clear();
        }
    }

    /// Says goodbye and closes; what the peer does not take in time is dropped.
    pub(crate) async fn close(mut self) {
        self.client.finish();
        self.collect();
        let goodbye = async {
            for bytes in &self.output {
                self.write.write_all(bytes).await?;
            }
            self.write.shutdown().await?;
            // To close before the peer has read it all could take it back.
            while self.read.read_buf(&mut self.input).await? > 0 {
                self.input.clear();
            }
            io::Result::Ok(())
        };
        let _ = timeout(GOODBYE, goodbye).await;
    }

    pub(crate) fn broken(&self, reason: &str) -> Error {
        Error::Rtmp { url: self.shown.clone(), reason: reason.to_owned() }
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}
