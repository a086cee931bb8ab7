//! Scripted peers: an HTTP server on loopback, an origin at the end of a pipe; and
//! the smallest init, chunk and clip there are.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use spyglass_media::{UtcTime, capture_sei};
use spyglass_rtmp::{Event, flv};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::RtmpUrl;
use crate::clip::Clip;
use crate::connection::Dial;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `GET /path?query`
    pub(crate) line: String,
    pub(crate) bearer: Option<String>,
    pub(crate) body: String,
}

pub(crate) type Answer = Response<Full<Bytes>>;

pub(crate) fn answer(status: u16, body: impl Into<Bytes>) -> Answer {
    Response::builder().status(status).body(Full::new(body.into())).unwrap()
}

pub(crate) fn with_header(mut answer: Answer, name: &'static str, value: &str) -> Answer {
    answer.headers_mut().insert(name, value.parse().unwrap());
    answer
}

/// Serves until the test's runtime ends.
pub(crate) struct Server {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub(crate) async fn new(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (script, log) = (Arc::new(script), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                    async move {
                        let asked = record(request).await;
                        log.lock().unwrap().push(asked.clone());
                        Ok::<_, Infallible>(script(&asked))
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service),
                );
            }
        });
        Self { url, asked }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }
}

async fn record(request: Request<Incoming>) -> Asked {
    let line = format!("{} {}", request.method(), request.uri());
    let bearer = request
        .headers()
        .get(http::header::AUTHORIZATION)
        .map(|value| value.to_str().unwrap().trim_start_matches("Bearer ").to_owned());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Asked { line, bearer, body: String::from_utf8(body.to_vec()).unwrap() }
}

fn full_box(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32 + 8).to_be_bytes().to_vec();
    bytes.extend(kind);
    bytes.extend(body);
    bytes
}

/// An init with one video track, number 1, of 1,000 ticks a second.
pub(crate) fn init() -> Bytes {
    let mut header = vec![0; 12];
    header.extend(1000u32.to_be_bytes());
    let mut track = vec![0; 12];
    track.extend(1u32.to_be_bytes());
    let mut handler = vec![0; 8];
    handler.extend(b"vide\0\0\0\0");
    let mut description = vec![0, 0, 0, 0, 0, 0, 0, 1];
    description.extend(full_box(b"avc1", &[0; 78]));
    let tables = full_box(b"stbl", &full_box(b"stsd", &description));
    let media =
        [full_box(b"mdhd", &header), full_box(b"hdlr", &handler), full_box(b"minf", &tables)];
    let track = [full_box(b"tkhd", &track), full_box(b"mdia", &media.concat())].concat();
    full_box(b"moov", &[full_box(b"mvhd", &header), full_box(b"trak", &track)].concat()).into()
}

/// A chunk of frames of 40 ticks: those with a time are stamped key frames.
pub(crate) fn chunk(frames: &[Option<UtcTime>]) -> Bytes {
    let mut data = Vec::new();
    let mut rows = Vec::new();
    for frame in frames {
        let mut sample = frame.map(capture_sei).unwrap_or_default();
        sample.extend([0, 0, 0, 2, if frame.is_some() { 0x65 } else { 0x41 }, 0x88]);
        let flags: u32 = if frame.is_some() { 0 } else { 0x1_0000 };
        rows.extend([40, sample.len() as u32, flags].into_iter().flat_map(u32::to_be_bytes));
        data.extend(sample);
    }
    let fragment = |offset: u32| {
        let mut run = [0x0000_0701, frames.len() as u32, offset].map(u32::to_be_bytes).concat();
        run.extend(&rows);
        let header = [0x0002_0000, 1u32].map(u32::to_be_bytes).concat();
        let time = [0, 5000u32].map(u32::to_be_bytes).concat();
        let track = [full_box(b"tfhd", &header), full_box(b"tfdt", &time), full_box(b"trun", &run)];
        full_box(b"moof", &full_box(b"traf", &track.concat()))
    };
    let offset = fragment(0).len() as u32 + 8;
    [fragment(offset), full_box(b"mdat", &data)].concat().into()
}

/// A clip of two seconds: pictures every 40 ms, a key frame each second, one
/// B-frame in two; a sound every 50 ms.
pub(crate) fn clip() -> Clip {
    let mut file = b"FLV\x01\x05\0\0\0\x09\0\0\0\0".to_vec();
    let mut tag = |kind: u8, time: u32, body: &[u8]| {
        file.push(kind);
        file.extend(&(body.len() as u32).to_be_bytes()[1..]);
        file.extend(&time.to_be_bytes()[1..]);
        file.extend([0, 0, 0, 0]);
        file.extend(body);
        file.extend((body.len() as u32 + 11).to_be_bytes());
    };
    tag(9, 0, &flv::video_config_body(&[1, 66, 0, 30, 0xff, 0xe0, 0]));
    tag(8, 0, &flv::audio_config_body(&[0x12, 0x10]));
    for time in (0..2000u32).step_by(10) {
        if time % 40 == 0 {
            let key = time % 1000 == 0;
            let sample = [0, 0, 0, 2, if key { 0x65 } else { 0x41 }, time as u8];
            tag(9, time, &flv::video_body(key, if time % 80 == 0 { 80 } else { 0 }, &sample));
        }
        if time % 50 == 0 {
            tag(8, time, &flv::audio_body(&[1, 2, 3]));
        }
    }
    Clip::from_bytes(file).unwrap()
}

/// Connections that end in the test's hands.
pub(crate) struct Pipes(mpsc::Sender<DuplexStream>);

impl Pipes {
    pub(crate) fn new() -> (Self, mpsc::Receiver<DuplexStream>) {
        let (sender, receiver) = mpsc::channel(4);
        (Self(sender), receiver)
    }
}

impl Dial for Pipes {
    type Stream = DuplexStream;

    async fn dial(&self, _: &RtmpUrl) -> std::io::Result<DuplexStream> {
        let (ours, theirs) = duplex(256 * 1024);
        self.0.send(theirs).await.map_err(|_| std::io::ErrorKind::ConnectionRefused)?;
        Ok(ours)
    }
}

/// The origin's end of a connection.
pub(crate) struct Origin<S = DuplexStream> {
    pub(crate) server: spyglass_rtmp::Server,
    pub(crate) pipe: S,
}

impl Origin {
    pub(crate) async fn accept(pipes: &mut mpsc::Receiver<DuplexStream>) -> Self {
        Self::on(pipes.recv().await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Origin<S> {
    pub(crate) fn on(pipe: S) -> Self {
        let now = Instant::now().into_std();
        Self { server: spyglass_rtmp::Server::new(spyglass_rtmp::Limits::default(), now), pipe }
    }

    pub(crate) async fn flush(&mut self) {
        let output = self.server.take_output();
        self.pipe.write_all(&output).await.unwrap();
    }

    /// `None` when the peer closed.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            self.flush().await;
            if let Some(event) = self.server.next_event() {
                return Some(event);
            }
            let mut bytes = [0; 4096];
            let count = self.pipe.read(&mut bytes).await.unwrap();
            if count == 0 {
                return None;
            }
            self.server.on_bytes(Instant::now().into_std(), &bytes[..count]).unwrap();
        }
    }

    /// Reads up to the request and accepts it.
    pub(crate) async fn accept_request(&mut self) -> spyglass_rtmp::Request {
        match self.next().await {
            Some(Event::Publish(request) | Event::Play(request)) => {
                self.server.accept(Instant::now().into_std(), request.id).unwrap();
                self.flush().await;
                request
            }
            other => panic!("{other:?}"),
        }
    }
}
