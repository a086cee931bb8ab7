//! One RTMP connection: a publisher, a push viewer, or somebody who is neither.
//!
//! Reads the socket, feeds `spyglass_rtmp::Server`, and carries what it
//! returns to the broadcast's task and back. Tokens are checked here, before
//! anything is answered.

use std::collections::VecDeque;
use std::future::pending;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use spyglass_daemon::{Shutdown, now_utc};
use spyglass_media::BroadcastId;
use spyglass_rtmp::{Event, Limits, Refusal, Request, RequestId, Server};
use spyglass_token::{Denied, key_id};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info};

use crate::broadcast::{Arrival, Broadcast, Candidate, Input, Order, PlayAnswer, PublishAnswer};
use crate::gate::Place;
use crate::life::ConnectionId;
use crate::pace::{Lead, Pace};
use crate::registry::Registry;
use crate::viewer::{CloseReason, Mailbox, Taken};
use crate::{now, sleep_until};

/// Bytes read at once.
const READ: usize = 64 * 1024;

/// Buffers given to one vectored write.
const VECTOR: usize = 16;

/// A peer that takes nothing for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a publisher may send ahead of its rate.
const BURST: Duration = Duration::from_secs(8);

/// Unsent bytes beyond which nothing more is read: a peer that asks for answers
/// and reads none costs no more than this.
const UNSENT: usize = 256 * 1024;

/// The longest a peer may take to read a refusal.
const LINGER: Duration = Duration::from_secs(1);

static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("closed by the peer")]
    Peer,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(#[from] spyglass_rtmp::Error),
    #[error("refused: {0}")]
    Refused(&'static str),
    #[error("closed: {0}")]
    Closed(&'static str),
    #[error("took nothing for {} s", WRITE_TIMEOUT.as_secs())]
    WriteTimeout,
}

/// Serves one connection to its end.
pub async fn serve<R, W>(
    registry: Arc<Registry>,
    (reader, writer): (R, W),
    peer: SocketAddr,
    place: Place,
    shutdown: Shutdown,
) where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let revoked = registry.attachment.revoked_keys();
    let mut connection = Connection::new(registry, reader, writer, place);
    let key = Arc::clone(&connection.key);
    let end = tokio::select! {
        end = connection.run() => end,
        () = until_revoked(key, revoked) => End::Closed("the key of its token was revoked"),
        () = shutdown.requested() => End::Closed("origin stops"),
    };
    connection.leave().await;
    match connection.role {
        Role::Stranger if matches!(end, End::Refused(_)) => info!(%peer, %end, "RTMP connection"),
        Role::Stranger => debug!(%peer, %end, "RTMP connection"),
        Role::Publisher(ref link) => {
            info!(%peer, broadcast = %link.broadcast.id, %end, "publisher left");
        }
        Role::Viewer(ref mailbox) => {
            info!(%peer, broadcast = %mailbox.broadcast, viewer = %mailbox.viewer, %end, "push viewer left");
        }
    }
}

/// Ends once the key that let this connection in is revoked.
async fn until_revoked(key: Arc<OnceLock<String>>, mut revoked: watch::Receiver<Arc<[String]>>) {
    loop {
        let gone = key.get().is_some_and(|key| revoked.borrow_and_update().contains(key));
        if gone {
            return;
        }
        if revoked.changed().await.is_err() {
            return pending().await;
        }
    }
}

enum Role {
    Stranger,
    Publisher(Link),
    Viewer(Arc<Mailbox>),
}

/// A publisher's link with its broadcast.
struct Link {
    id: ConnectionId,
    broadcast: Arc<Broadcast>,
    orders: mpsc::Receiver<Order>,
    pace: Pace,
    lead: Lead,
}

/// A publish that the broadcast's task has not decided yet.
struct Asked {
    request: RequestId,
    answer: oneshot::Receiver<PublishAnswer>,
}

struct Connection<R, W> {
    registry: Arc<Registry>,
    reader: R,
    writer: W,
    place: Place,
    server: Server,
    role: Role,
    asked: Option<Asked>,
    /// Names the key of the token that let this peer in.
    key: Arc<OnceLock<String>>,
    pending: VecDeque<Bytes>,
    /// When what is pending was last written to, or became pending.
    progress: Instant,
    /// The publisher's socket is not read before this.
    resume_reading: Option<Instant>,
}

impl<R: AsyncRead + Unpin + Send, W: AsyncWrite + Unpin + Send> Connection<R, W> {
    fn new(registry: Arc<Registry>, reader: R, writer: W, place: Place) -> Self {
        let now = now();
        Self {
            registry,
            reader,
            writer,
            place,
            server: Server::new(Limits::default(), now),
            role: Role::Stranger,
            asked: None,
            key: Arc::default(),
            pending: VecDeque::new(),
            progress: now,
            resume_reading: None,
        }
    }

    async fn run(&mut self) -> End {
        let mut buffer = vec![0; READ];
        loop {
            if let Err(end) = self.step(&mut buffer).await {
                return end;
            }
        }
    }

    /// Waits for one thing to happen and deals with it.
    async fn step(&mut self, buffer: &mut [u8]) -> Result<(), End> {
        self.collect_output()?;
        let deadline = self.next_deadline();
        let unsent: usize = self.pending.iter().map(Bytes::len).sum();
        let paused = self.resume_reading.is_some() || self.asked.is_some() || unsent > UNSENT;
        let happened = tokio::select! {
            biased;
            // Before the reads: a peer that always sends must not put it off.
            () = sleep_until(deadline) => Happened::Deadline,
            written = write(&mut self.writer, &self.pending), if !self.pending.is_empty() => {
                Happened::Written(written?)
            }
            // Before the orders: a refusal also ends these.
            answer = answered(&mut self.asked) => Happened::Answered(answer),
            happened = order_or_ready(&mut self.role) => happened,
            count = self.reader.read(buffer), if !paused => Happened::Read(count?),
        };
        match happened {
            Happened::Written(count) => self.on_written(count),
            Happened::Order(Order::Ping) => self.server.ping(now()),
            Happened::Order(Order::Cut) => {
                return Err(End::Closed("another publisher, or the end"));
            }
            // What is ready is collected before the next wait.
            Happened::MailReady => {}
            Happened::Answered(answer) => self.on_answer(answer).await?,
            Happened::Read(0) => return Err(End::Peer),
            Happened::Read(count) => self.on_bytes(&buffer[..count]).await?,
            Happened::Deadline => self.on_deadline()?,
        }
        Ok(())
    }

    fn next_deadline(&self) -> Option<Instant> {
        let write = (!self.pending.is_empty()).then_some(self.progress + WRITE_TIMEOUT);
        [self.server.next_deadline(), write, self.resume_reading].into_iter().flatten().min()
    }

    fn on_deadline(&mut self) -> Result<(), End> {
        let now = now();
        if self.resume_reading.is_some_and(|until| until <= now) {
            self.resume_reading = None;
        }
        if !self.pending.is_empty() && self.progress + WRITE_TIMEOUT <= now {
            return Err(End::WriteTimeout);
        }
        self.server.on_deadline(now)?;
        Ok(())
    }

    fn collect_output(&mut self) -> Result<(), End> {
        let idle = self.pending.is_empty();
        let output = self.server.take_output();
        if !output.is_empty() {
            self.pending.push_back(output);
        }
        if let Role::Viewer(mailbox) = &self.role
            && let Taken::Close(reason) = mailbox.take(idle, &mut self.pending)
        {
            match reason {
                CloseReason::Revoked => self.server.cut_play(REVOKED),
                CloseReason::Ended | CloseReason::Replaced | CloseReason::Slow => {
                    self.server.end_play();
                }
            }
            self.pending.push_back(self.server.take_output());
            return Err(End::Closed(reason.as_str()));
        }
        if idle {
            self.progress = now();
        }
        Ok(())
    }

    fn on_written(&mut self, mut count: usize) {
        self.progress = now();
        self.registry.metrics.sent.inc_by(count as u64);
        while let Some(front) = self.pending.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.pending.pop_front();
        }
    }

    async fn on_bytes(&mut self, bytes: &[u8]) -> Result<(), End> {
        let now = now();
        if let Role::Publisher(link) = &mut self.role {
            self.resume_reading = link.pace.on_bytes(now, bytes.len()).map(|pause| now + pause);
        }
        let result = self.server.on_bytes(now, bytes);
        self.on_events().await?;
        Ok(result?)
    }

    async fn on_events(&mut self) -> Result<(), End> {
        while let Some(event) = self.server.next_event() {
            self.on_event(event).await?;
        }
        Ok(())
    }

    async fn on_event(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Publish(request) => self.on_publish(&request).await,
            Event::Play(request) => self.on_play(&request).await,
            Event::Media(message) => {
                self.hold_to_real_time(message.timestamp);
                self.forward(|id| Input::Media(id, message)).await
            }
            Event::Metadata(body) => self.forward(|id| Input::Metadata(id, body)).await,
            Event::Pong => self.forward(Input::Alive).await,
            Event::Stopped => match self.role {
                Role::Stranger => Ok(()),
                Role::Publisher(_) | Role::Viewer(_) => Err(End::Peer),
            },
            Event::Data(_) => Ok(()),
        }
    }

    /// Chunks are made by media time: a publisher whose clock runs ahead of ours
    /// is read more slowly.
    fn hold_to_real_time(&mut self, timestamp: u32) {
        if let Role::Publisher(link) = &mut self.role
            && let Some(pause) = link.lead.on_message(now(), timestamp)
        {
            self.resume_reading = self.resume_reading.max(Some(now() + pause));
        }
    }

    /// To the broadcast's task, waiting while it is busy: its own publisher is
    /// slowed down and nobody else.
    async fn forward(&mut self, input: impl FnOnce(ConnectionId) -> Input) -> Result<(), End> {
        let Role::Publisher(link) = &self.role else { return Ok(()) };
        let sent = link.broadcast.inputs.send(input(link.id)).await;
        sent.map_err(|_| End::Closed("the broadcast is gone"))
    }

    /// Remembers which key let this peer in: its revocation ends the connection.
    fn let_in_by(&self, token: &str) -> Result<(), (&'static str, &'static str)> {
        let key = self.key.get_or_init(|| key_id(token).unwrap_or_default());
        // Revoked since the token was verified: then nobody looked at this connection.
        let revoked = self.registry.attachment.revoked_keys().borrow().contains(key);
        if revoked { Err(denied(Denied::UnknownKey)) } else { Ok(()) }
    }

    // ---- publish

    async fn on_publish(&mut self, request: &Request) -> Result<(), End> {
        match self.open_publish(request).await {
            Ok(asked) => {
                self.asked = Some(asked);
                Ok(())
            }
            Err((reason, text)) => self.refuse(request.id, Refusal::PublishDenied, reason, text),
        }
    }

    async fn open_publish(
        &mut self,
        request: &Request,
    ) -> Result<Asked, (&'static str, &'static str)> {
        let id = named(request)?;
        let token = request.token.as_deref().ok_or(NO_TOKEN)?;
        let keys = self.registry.attachment.keys();
        let grant = keys.verify_publish(token, now_utc()).map_err(denied)?;
        self.let_in_by(token)?;
        if grant.broadcast != id {
            return Err(denied(Denied::WrongBroadcast));
        }
        if grant.origin != self.registry.id {
            return Err((
                "wrong_origin",
                "this broadcast was placed on another origin: publish to the rtmp_url that came with the stream key",
            ));
        }
        self.place.prove();
        let full =
            |_| ("full", "this origin holds as many broadcasts as it takes: try again later");
        let broadcast = self.registry.ensure(id, grant.private).map_err(full)?;
        let connection = ConnectionId(CONNECTIONS.fetch_add(1, Ordering::Relaxed));
        let (answer, answered) = oneshot::channel();
        let (orders, receiver) = mpsc::channel(4);
        let candidate = Candidate { connection, grant, answer, orders };
        let ended = |_| ("ended", ENDED);
        broadcast.inputs.send(Input::Publish(candidate)).await.map_err(ended)?;
        let pace = Pace::new(self.registry.live.get().publisher_mbit, BURST, now());
        let lead = Lead::new(now());
        self.role =
            Role::Publisher(Link { id: connection, broadcast, orders: receiver, pace, lead });
        self.registry.metrics.publishers.inc();
        Ok(Asked { request: request.id, answer: answered })
    }

    async fn on_answer(&mut self, answer: Option<PublishAnswer>) -> Result<(), End> {
        let Some(asked) = self.asked.take() else { return Ok(()) };
        match answer {
            Some(PublishAnswer::Accepted) => {
                // What the encoder sent before the answer is read now.
                let result = self.server.accept(now(), asked.request);
                self.on_events().await?;
                Ok(result?)
            }
            Some(PublishAnswer::Busy) => {
                let text = "another encoder is publishing this broadcast: stop it first";
                self.refuse(asked.request, Refusal::PublishBadName, "busy", text)
            }
            Some(PublishAnswer::Ended) | None => {
                self.refuse(asked.request, Refusal::PublishDenied, "ended", ENDED)
            }
        }
    }

    // ---- play

    async fn on_play(&mut self, request: &Request) -> Result<(), End> {
        let (mailbox, answer) = match self.open_play(request).await {
            Ok(opened) => opened,
            Err((reason, text)) => {
                let refusal = if reason == "ended" {
                    Refusal::PlayStreamNotFound
                } else {
                    Refusal::PlayDenied
                };
                return self.refuse(request.id, refusal, reason, text);
            }
        };
        match answer.await {
            Ok(PlayAnswer::Accepted) => {
                let (id, viewer) = (mailbox.broadcast, mailbox.viewer);
                self.role = Role::Viewer(mailbox);
                self.registry.metrics.push_viewers().inc();
                // Revoked since the token was checked: then nobody told the mailbox.
                if self.registry.attachment.revoked(id, viewer) {
                    return self.refuse(request.id, Refusal::PlayDenied, "revoked", REVOKED);
                }
                Ok(self.server.accept(now(), request.id)?)
            }
            Ok(PlayAnswer::SeatTaken) => {
                let text = "a newer token holds this seat: join again";
                self.refuse(request.id, Refusal::PlayDenied, "seat_taken", text)
            }
            Ok(PlayAnswer::Ended) | Err(_) => {
                self.refuse(request.id, Refusal::PlayStreamNotFound, "ended", ENDED)
            }
        }
    }

    async fn open_play(
        &mut self,
        request: &Request,
    ) -> Result<(Arc<Mailbox>, oneshot::Receiver<PlayAnswer>), (&'static str, &'static str)> {
        let id = named(request)?;
        let token = request.token.as_deref().ok_or(NO_TOKEN)?;
        let attachment = &self.registry.attachment;
        let grant = attachment.keys().verify_watch(token, now_utc()).map_err(denied)?;
        self.let_in_by(token)?;
        if grant.broadcast != id {
            return Err(denied(Denied::WrongBroadcast));
        }
        let (true, Some(seat)) = (grant.push, grant.seat) else {
            return Err((
                "no_push_seat",
                "this token has no push seat: play the HLS URL that came with it",
            ));
        };
        if attachment.revoked(id, grant.viewer) {
            return Err(("revoked", REVOKED));
        }
        self.place.prove();
        let full =
            |_| ("full", "this origin holds as many broadcasts as it takes: try again later");
        let broadcast = self.registry.await_publisher(id).map_err(full)?;
        let limits = self.registry.live.get().queue_limits();
        let mailbox = Arc::new(Mailbox::new(&grant, seat, now_utc(), limits));
        let (answer, answered) = oneshot::channel();
        let arrival = Arrival { mailbox: Arc::clone(&mailbox), answer };
        let ended = |_| ("ended", ENDED);
        broadcast.inputs.send(Input::Play(arrival)).await.map_err(ended)?;
        Ok((mailbox, answered))
    }

    fn refuse(
        &mut self,
        request: RequestId,
        refusal: Refusal,
        reason: &'static str,
        text: &'static str,
    ) -> Result<(), End> {
        self.server.reject(request, refusal, text);
        self.pending.push_back(self.server.take_output());
        Err(End::Refused(reason))
    }

    // ---- the end

    /// Writes what the peer should still read, and tells the broadcast.
    async fn leave(&mut self) {
        match &self.role {
            Role::Stranger => {}
            Role::Publisher(link) => {
                self.registry.metrics.publishers.dec();
                let closed = link.broadcast.inputs.send(Input::Closed(link.id));
                // Gone with the broadcast, or told: nothing else to do.
                let _ = closed.await;
            }
            Role::Viewer(mailbox) => {
                self.registry.metrics.push_viewers().dec();
                if let Some(broadcast) = self.registry.get(mailbox.broadcast) {
                    let _ = broadcast.inputs.send(Input::Left(Arc::clone(mailbox))).await;
                }
            }
        }
        let _ = tokio::time::timeout(LINGER, self.flush_and_close()).await;
    }

    /// A close that leaves unread bytes resets the connection, and the peer
    /// may lose the answer: so it is flushed, shut down, and read to the end.
    async fn flush_and_close(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            let count = write(&mut self.writer, &self.pending).await?;
            self.on_written(count);
        }
        self.writer.shutdown().await?;
        let mut rest = [0; 4096];
        while self.reader.read(&mut rest).await? > 0 {}
        Ok(())
    }
}

const NO_TOKEN: (&str, &str) =
    ("no_token", "no token: the stream key is <broadcast id>?token=<token>, as control gave it");
const REVOKED: &str = "this token was revoked";
const ENDED: &str = "this broadcast has ended: create a new one";

fn denied(denied: Denied) -> (&'static str, &'static str) {
    (denied.as_str(), denied.advice())
}

fn named(request: &Request) -> Result<BroadcastId, (&'static str, &'static str)> {
    if request.app != "live" {
        return Err(("wrong_app", "the application is 'live': rtmp://HOST:PORT/live/<stream key>"));
    }
    request
        .name
        .parse()
        .map_err(|_| ("no_such_broadcast", "the stream key does not begin with a broadcast id"))
}

enum Happened {
    Written(usize),
    Order(Order),
    MailReady,
    Answered(Option<PublishAnswer>),
    Read(usize),
    Deadline,
}

async fn order_or_ready(role: &mut Role) -> Happened {
    match role {
        Role::Stranger => pending().await,
        Role::Publisher(link) => Happened::Order(link.orders.recv().await.unwrap_or(Order::Cut)),
        Role::Viewer(mailbox) => {
            mailbox.ready().await;
            Happened::MailReady
        }
    }
}

async fn answered(asked: &mut Option<Asked>) -> Option<PublishAnswer> {
    match asked {
        Some(asked) => (&mut asked.answer).await.ok(),
        None => pending().await,
    }
}

async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    from: &VecDeque<Bytes>,
) -> io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); VECTOR];
    let mut count = 0;
    for (slice, bytes) in slices.iter_mut().zip(from) {
        *slice = IoSlice::new(bytes);
        count += 1;
    }
    let written = writer.write_vectored(&slices[..count]).await?;
    if written == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(written) }
}
