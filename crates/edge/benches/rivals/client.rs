//! Clients that cost little: raw HTTP/1.1 on connections that are kept, so that
//! what is measured is the server.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Of one read that throws away what it reads.
const GULP: usize = 1 << 20;

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The bytes of a request.
pub fn get(path: &str) -> Bytes {
    Bytes::from(format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n"))
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub length: usize,
    /// Empty when it was thrown away.
    pub body: Bytes,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::new() })
    }

    /// Sends a request, which fits the socket's buffer.
    pub fn send(&self, request: &[u8]) -> io::Result<()> {
        match self.stream.try_write(request)? {
            sent if sent == request.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// The answer, whole. `keep`: its body too, else the kernel throws it away
    /// and no copy is made.
    pub async fn answer(&mut self, keep: bool) -> io::Result<Answer> {
        tokio::time::timeout(PATIENCE, self.read(keep)).await?
    }

    async fn read(&mut self, keep: bool) -> io::Result<Answer> {
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break self.buffer.split_to(end + 4);
            }
            self.fill(4 * 1024).await?;
        };
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "no HTTP/1.1 answer");
        let text = std::str::from_utf8(&head).map_err(|_| bad())?;
        let status = text.get(9..12).and_then(|it| it.parse().ok()).ok_or_else(bad)?;
        let length = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let length: usize = length.ok_or_else(bad)?;
        if !keep {
            let here = self.buffer.len().min(length);
            let _ = self.buffer.split_to(here);
            self.skip(length - here).await?;
            return Ok(Answer { status, length, body: Bytes::new() });
        }
        while self.buffer.len() < length {
            self.fill(length - self.buffer.len()).await?;
        }
        Ok(Answer { status, length, body: self.buffer.split_to(length).freeze() })
    }

    async fn fill(&mut self, room: usize) -> io::Result<()> {
        loop {
            self.stream.readable().await?;
            self.buffer.reserve(room);
            match self.stream.try_read_buf(&mut self.buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn skip(&mut self, mut left: usize) -> io::Result<()> {
        while left > 0 {
            self.stream.readable().await?;
            let gulp = left.min(GULP);
            let skipped = self.stream.try_io(Interest::READABLE, || discard(&self.stream, gulp));
            match skipped {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => left -= count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Reads without copying (tcp(7), MSG_TRUNC).
fn discard(stream: &TcpStream, count: usize) -> io::Result<usize> {
    thread_local! {
        static NOWHERE: std::cell::RefCell<Vec<MaybeUninit<u8>>> =
            std::cell::RefCell::new(vec![MaybeUninit::uninit(); GULP]);
    }
    const MSG_TRUNC: i32 = 0x20;
    NOWHERE.with_borrow_mut(|nowhere| {
        SockRef::from(stream).recv_with_flags(&mut nowhere[..count], MSG_TRUNC)
    })
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// What an answer must be.
#[derive(Clone, Debug)]
pub enum Expected {
    /// These bytes.
    Body(Bytes),
    /// So many, whichever.
    Length(usize),
}

/// Connections that ask at the same moment.
#[derive(Debug)]
pub struct Herd {
    connections: Vec<Connection>,
}

/// What they got.
#[derive(Debug)]
pub struct Burst {
    /// From the moment on which all were due to each one's last byte, sorted.
    pub delays: Vec<Duration>,
    /// Answers that were not what was expected.
    pub old: usize,
    /// No answer, or a refusal.
    pub failed: usize,
}

impl Herd {
    /// So many; each has asked once for `path` already.
    pub async fn open(address: SocketAddr, count: usize, path: &str) -> Self {
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            let mut connection = Connection::open(address).await.expect("a connection");
            connection.send(&get(path)).expect("a request");
            connection.answer(true).await.expect("an answer");
            connections.push(connection);
        }
        Self { connections }
    }

    /// All ask now. An answer with another body than expected is old.
    pub async fn ask(&mut self, path: &str, expected: &Expected) -> Burst {
        let request = get(path);
        let due = self.send(&request);
        self.collect(due, expected).await
    }

    /// All send now, and nobody reads yet; when that began.
    pub fn send(&mut self, request: &[u8]) -> Instant {
        let due = Instant::now();
        for connection in &self.connections {
            connection.send(request).expect("a request fits the socket");
        }
        due
    }

    /// All answers, timed from `due`.
    pub async fn collect(&mut self, due: Instant, expected: &Expected) -> Burst {
        let tasks: Vec<_> = std::mem::take(&mut self.connections)
            .into_iter()
            .map(|mut connection| {
                let expected = expected.clone();
                tokio::spawn(async move {
                    let keep = matches!(expected, Expected::Body(_));
                    let answer = connection.answer(keep).await;
                    let took = due.elapsed();
                    let good = match (answer, expected) {
                        (Ok(answer), Expected::Body(body)) if answer.status == 200 => {
                            Some(answer.body == body)
                        }
                        (Ok(answer), Expected::Length(length)) if answer.status == 200 => {
                            Some(answer.length == length)
                        }
                        _ => None,
                    };
                    (connection, took, good)
                })
            })
            .collect();
        let mut burst = Burst { delays: Vec::new(), old: 0, failed: 0 };
        for task in tasks {
            let (connection, took, good) = task.await.unwrap();
            match good {
                Some(good) => {
                    burst.delays.push(took);
                    burst.old += usize::from(!good);
                }
                None => burst.failed += 1,
            }
            self.connections.push(connection);
        }
        burst.delays.sort_unstable();
        burst
    }
}
