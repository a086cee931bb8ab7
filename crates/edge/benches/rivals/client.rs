//! Clients that cost little, so that what is measured is the server: raw
//! HTTP/1.1 on connections that are kept, one `epoll`, one buffer, no runtime.

use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::SockRef;

/// Of one read that throws away what it reads.
const GULP: usize = 1 << 20;

/// Of one read that looks at it; lists and their headers fit.
const SIP: usize = 1 << 14;

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The bytes of a request.
pub fn get(path: &str) -> Bytes {
    Bytes::from(format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n"))
}

/// What an answer must be.
#[derive(Clone, Debug)]
pub enum Expected {
    /// These bytes.
    Body(Bytes),
    /// So many, whichever; the kernel throws them away and no copy is made.
    Length(usize),
    /// Whatever it is.
    Any,
}

/// What an answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    Expected,
    Other,
    /// No answer, or a refusal.
    Failed,
}

/// A connection, and what it has got of its answer.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// The beginning, when it did not come in one piece.
    begun: Vec<u8>,
    /// What is left of a body that nobody looks at, and what it will have been.
    rest: Option<(usize, Judged)>,
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, begun: Vec::new(), rest: None })
    }

    /// Sends a request, which fits the socket's buffer.
    fn send(&self, request: &[u8]) {
        let sent = (&self.stream).write(request).expect("a request is sent");
        assert_eq!(sent, request.len(), "a request fits the socket");
    }

    /// The socket can be read: the answer, when this is its end.
    fn on_readable(&mut self, scratch: &mut Scratch, expected: &Expected) -> Option<Judged> {
        match self.read(scratch, expected) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            read => read.unwrap_or(Some(Judged::Failed)),
        }
    }

    fn read(&mut self, scratch: &mut Scratch, expected: &Expected) -> io::Result<Option<Judged>> {
        if let Some((left, judged)) = self.rest {
            let skipped = discard(&self.stream, &mut scratch.nowhere[..left.min(GULP)])?;
            self.rest = (skipped < left).then_some((left - skipped, judged));
            return Ok(self.rest.is_none().then_some(judged));
        }
        let count = match (&self.stream).read(&mut scratch.sip)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => count,
        };
        let come = match self.begun.is_empty() {
            true => &scratch.sip[..count],
            false => {
                self.begun.extend_from_slice(&scratch.sip[..count]);
                &self.begun
            }
        };
        let mut judged = None;
        if let Some((status, length, begins)) = head(come)? {
            let body = &come[begins..];
            let what = match expected {
                _ if status != 200 => Judged::Failed,
                Expected::Body(expected) if body != expected => Judged::Other,
                Expected::Length(expected) if length != *expected => Judged::Other,
                _ => Judged::Expected,
            };
            match expected {
                _ if body.len() >= length => judged = Some(what),
                Expected::Length(_) => self.rest = Some((length - body.len(), what)),
                _ => {}
            }
        }
        match judged.is_some() || self.rest.is_some() {
            true => self.begun.clear(),
            false if self.begun.is_empty() => self.begun.extend_from_slice(&scratch.sip[..count]),
            false => {}
        }
        Ok(judged)
    }
}

/// Status, length of the body, and where it begins; nothing while the header
/// has not come whole.
fn head(come: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "no HTTP/1.1 answer");
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(end) = answer.parse(come).map_err(|_| bad())? else {
        return Ok(None);
    };
    let length = answer.headers.iter().find(|it| it.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|it| std::str::from_utf8(it.value).ok()?.parse().ok());
    Ok(Some((answer.code.ok_or_else(bad)?, length.ok_or_else(bad)?, end)))
}

/// Reads without copying (tcp(7), MSG_TRUNC).
fn discard(stream: &TcpStream, nowhere: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    const MSG_TRUNC: i32 = 0x20;
    match SockRef::from(stream).recv_with_flags(nowhere, MSG_TRUNC)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

/// Where all connections read to.
struct Scratch {
    sip: Vec<u8>,
    nowhere: Vec<MaybeUninit<u8>>,
}

/// Connections that ask at the same moment. It blocks its thread.
pub struct Herd {
    connections: Vec<Connection>,
    epoll: Epoll,
    scratch: Scratch,
}

/// What they got.
#[derive(Debug, Default)]
pub struct Burst {
    /// From the moment on which all were due to each one's last byte, sorted.
    pub delays: Vec<Duration>,
    /// Answers that were not what was expected.
    pub old: usize,
    /// No answer, or a refusal.
    pub failed: usize,
}

impl Herd {
    /// So many connections.
    pub fn connect(address: SocketAddr, count: usize) -> Self {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll");
        let scratch = Scratch { sip: vec![0; SIP], nowhere: vec![MaybeUninit::uninit(); GULP] };
        let connections = (0..count).map(|which| {
            let connection = Connection::open(address).expect("a connection");
            let event = EpollEvent::new(EpollFlags::EPOLLIN, which as u64);
            epoll.add(&connection.stream, event).expect("epoll");
            connection
        });
        Self { connections: connections.collect(), epoll, scratch }
    }

    /// So many; each has asked once for `path` already, which may take a moment
    /// to be there.
    pub fn open(address: SocketAddr, count: usize, path: &str) -> Self {
        let (mut scout, begun) = (Self::connect(address, 1), Instant::now());
        while scout.ask(path, &Expected::Any).failed > 0 && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut herd = Self::connect(address, count);
        let burst = herd.ask(path, &Expected::Any);
        assert_eq!(burst.delays.len(), count, "{path} is there");
        herd
    }

    /// All ask now. An answer with another body than expected is old.
    pub fn ask(&mut self, path: &str, expected: &Expected) -> Burst {
        let request = get(path);
        let due = self.send(&request);
        self.collect(due, expected)
    }

    /// All send now, and nobody reads yet; when that began.
    pub fn send(&self, request: &[u8]) -> Instant {
        let due = Instant::now();
        for connection in &self.connections {
            connection.send(request);
        }
        due
    }

    /// All answers, timed from `due`.
    pub fn collect(&mut self, due: Instant, expected: &Expected) -> Burst {
        let mut burst = Burst::default();
        self.answers(due + PATIENCE, expected, |_, judged| {
            match judged {
                Judged::Failed => burst.failed += 1,
                judged => {
                    burst.delays.push(due.elapsed());
                    burst.old += usize::from(judged == Judged::Other);
                }
            }
            false
        });
        burst.failed += self.connections.len() - burst.failed - burst.delays.len();
        burst.delays.sort_unstable();
        burst
    }

    /// Each asks, again and again until then, for a body of this length; how
    /// many bodies came.
    pub fn pull(&mut self, path: &str, length: usize, until: Instant) -> u64 {
        let (request, mut count) = (get(path), 0);
        self.send(&request);
        self.answers(until + PATIENCE, &Expected::Length(length), |connection, judged| {
            assert_eq!(judged, Judged::Expected, "an answer of {length} bytes");
            count += 1;
            let again = Instant::now() < until;
            if again {
                connection.send(&request);
            }
            again
        });
        count
    }

    /// Tells of each answer until then, at the longest until every connection
    /// has had its last, which is when `told` says that it does not go on.
    fn answers(
        &mut self,
        until: Instant,
        expected: &Expected,
        mut told: impl FnMut(&Connection, Judged) -> bool,
    ) {
        let mut events = vec![EpollEvent::empty(); 1_024];
        let mut open = self.connections.len();
        while open > 0 {
            if Instant::now() >= until {
                return;
            }
            // It never sleeps: to wake it would be the server's work, where a
            // viewer on a machine of its own costs the server nothing.
            let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).expect("epoll");
            for event in &events[..count] {
                let connection = &mut self.connections[event.data() as usize];
                if let Some(judged) = connection.on_readable(&mut self.scratch, expected) {
                    open -= usize::from(!told(connection, judged));
                }
            }
        }
    }
}
