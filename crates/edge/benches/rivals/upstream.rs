//! What all servers fetch from: the same lists and chunks over gRPC, for the
//! edge, and over HTTP, for the others, after the same delay, and counted.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use spyglass_media::{BroadcastId, Position, Resource};

use crate::support::{Control, Origin, Process, exactly};

/// Target duration of every broadcast here.
pub const TARGET: Duration = Duration::from_secs(3);

/// Chunks in a list.
const WINDOW: u64 = 6;

/// Bytes of a chunk: 3 s of 1.15 Mbit/s.
pub const CHUNK: usize = 430 * 1024;

/// Parts of a chunk, where there are parts.
pub const PARTS: u32 = 15;

/// Both origins.
pub struct Upstream {
    pub control: Control,
    grpc: Origin,
    http: Twin,
    chunk: Bytes,
    part: Bytes,
}

impl Upstream {
    /// Nothing is live.
    pub async fn start() -> Self {
        let grpc = Origin::start().await;
        let control = Control::start(&[&grpc]).await;
        let noise = (0..CHUNK as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8);
        let chunk: Bytes = noise.collect();
        let part = chunk.slice(..chunk.len() / PARTS as usize);
        Self { control, grpc, http: Twin::start(), chunk, part }
    }

    /// Where nginx and Varnish fetch.
    pub fn http(&self) -> SocketAddr {
        self.http.address
    }

    /// A broadcast begins.
    pub fn begin(&self, id: BroadcastId) {
        self.grpc.live(id, TARGET);
    }

    /// The list of a broadcast without parts now ends with this chunk; the text
    /// of the list.
    pub fn close(&self, id: BroadcastId, sequence: u64) -> Bytes {
        let chunks = (first(sequence)..=sequence)
            .map(|it| (Resource::Chunk { epoch: 1, sequence: it }, self.chunk.clone()));
        let text = chunklist(sequence, None);
        self.show(id, Position { sequence, part: None }, &text, chunks.collect())
    }

    /// The list of a broadcast with parts now ends with this one.
    pub fn advance(&self, id: BroadcastId, sequence: u64, part: u32) -> Bytes {
        let last = part + 1 == PARTS;
        let mut objects = vec![(Resource::Part { epoch: 1, sequence, part }, self.part.clone())];
        if last {
            objects.push((Resource::Chunk { epoch: 1, sequence }, self.chunk.clone()));
        }
        let position = Position { sequence, part: (!last).then_some(part) };
        let text = match last {
            true => chunklist(sequence, Some((sequence + 1, 0))),
            false => chunklist(sequence.saturating_sub(1), Some((sequence, part + 1))),
        };
        self.show(id, position, &text, objects)
    }

    fn show(
        &self,
        id: BroadcastId,
        position: Position,
        text: &str,
        objects: Vec<(Resource, Bytes)>,
    ) -> Bytes {
        self.http.show(id, text, &objects);
        self.grpc.show(id, position, PARTS, text.to_owned(), objects);
        Bytes::from(text.to_owned())
    }

    /// Every answer takes this long.
    pub fn delay(&self, delay: Duration) {
        self.grpc.delay(delay);
        self.http.script.lock().delay = delay;
    }

    /// Fetches so far: over gRPC, over HTTP.
    pub fn fetches(&self) -> (usize, usize) {
        (self.grpc.fetches(|_| true), self.http.script.lock().fetches)
    }

    /// Waits until the edge has declared interest: notices reach it from then on.
    pub async fn of_interest(&self, id: BroadcastId) {
        self.grpc.of_interest(id).await;
    }
}

fn first(last: u64) -> u64 {
    (last + 1).saturating_sub(WINDOW)
}

/// A list that ends with chunk `last` and, behind it, with the parts of the
/// open one before `open`'s.
fn chunklist(last: u64, open: Option<(u64, u32)>) -> String {
    let mut text = String::from("#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:3\n");
    if open.is_some() {
        text += "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=0.630\n";
        text += "#EXT-X-PART-INF:PART-TARGET=0.210\n";
    }
    text += &format!("#EXT-X-MEDIA-SEQUENCE:{}\n#EXT-X-MAP:URI=\"1-init.mp4\"\n", first(last));
    let part = |sequence, part| {
        let key = if part == 0 { ",INDEPENDENT=YES" } else { "" };
        format!("#EXT-X-PART:DURATION=0.20000,URI=\"1-{sequence}.{part}.m4s\"{key}\n")
    };
    for sequence in first(last)..=last {
        if open.is_some() && sequence + 1 >= last {
            text.extend((0..PARTS).map(|number| part(sequence, number)));
        }
        let seconds = sequence * 3;
        text += &format!(
            "#EXT-X-PROGRAM-DATE-TIME:2026-01-01T{:02}:{:02}:{:02}.000Z\n\
             #EXTINF:3.00000,\n1-{sequence}.m4s\n",
            seconds / 3600 % 24,
            seconds / 60 % 60,
            seconds % 60,
        );
    }
    if let Some((sequence, next)) = open {
        text.extend((0..next).map(|number| part(sequence, number)));
        text += &format!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"1-{sequence}.{next}.m4s\"\n");
    }
    text
}

/// Path of an object, the same on every server.
pub fn path(id: BroadcastId, resource: Resource) -> String {
    format!("/live/{id}/{resource}")
}

/// The HTTP origin.
struct Twin {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    _process: Process,
}

#[derive(Default)]
struct Script {
    objects: HashMap<String, (Bytes, &'static str)>,
    delay: Duration,
    fetches: usize,
}

impl Twin {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(Script::default()));
        let shared = Arc::clone(&script);
        let serve = |listener| serve(listener, shared);
        Self { address, script, _process: Process::start(serve, listener) }
    }

    fn show(&self, id: BroadcastId, list: &str, objects: &[(Resource, Bytes)]) {
        let mut script = self.script.lock();
        let list = (Bytes::from(list.to_owned()), "max-age=1");
        script.objects.insert(path(id, Resource::Chunklist), list);
        for (resource, bytes) in objects {
            let object = (bytes.clone(), "max-age=31536000, immutable");
            script.objects.insert(path(id, *resource), object);
        }
    }
}

async fn serve(listener: tokio::net::TcpListener, script: Arc<Mutex<Script>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let script = Arc::clone(&script);
        let service = service_fn(move |request| answer(Arc::clone(&script), request));
        let http = hyper::server::conn::http1::Builder::new();
        tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    script: Arc<Mutex<Script>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let delay = {
        let mut script = script.lock();
        script.fetches += 1;
        script.delay
    };
    exactly(delay).await;
    let object = script.lock().objects.get(request.uri().path()).cloned();
    let builder = Response::builder();
    Ok(match object {
        Some((bytes, kept)) => builder.header("cache-control", kept).body(Full::new(bytes)),
        None => builder.status(404).body(Full::default()),
    }
    .unwrap())
}
