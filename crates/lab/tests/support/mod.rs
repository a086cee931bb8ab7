//! A small low-latency HLS server whose stream is a function of the clock: 1 s
//! segments of five parts, the same at every server that is started.

use std::convert::Infallible;
use std::io::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Parts of a segment, each 0.2 s.
const PARTS: u64 = 5;
const PART: Duration = Duration::from_millis(200);
/// What a slow segment takes.
pub const SLOW: Duration = Duration::from_millis(400);
/// Segments of the list.
const WINDOW: u64 = 6;

/// What a server does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Breach {
    None,
    EndsAfterSegments(u64),
    /// A listed segment is not there.
    MissingSegment,
    /// What leaves the list is gone at once.
    RemovedEarly,
    /// The last part has other bytes than its segment.
    PartDiffers,
    /// A blocked reload is not.
    AnswersAtOnce,
    /// Every wait is accepted.
    AnyWait,
    /// The hinted part never comes.
    NoHintedPart,
    /// Segments of its own.
    OtherBytes,
    /// No EXT-X-PROGRAM-DATE-TIME.
    NoDates,
    /// For 1 s of every 3 s, a request that waits for nothing gets the list as
    /// it was a segment ago.
    StalePlain,
    /// None, but whole segments take their time.
    SlowSegments,
}

pub struct Server {
    pub url: String,
}

#[derive(Clone, Copy)]
struct Stream {
    breach: Breach,
    parts: bool,
    began: Instant,
    /// This server's own beginning.
    started: Instant,
    /// Parts there were when the server was started.
    before: u64,
}

impl Server {
    pub async fn start(breach: Breach, parts: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/chunklist.m3u8", listener.local_addr().unwrap());
        // All servers of one process begin the stream at the same moment.
        static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let shared = *BEGAN.get_or_init(Instant::now);
        let began =
            if matches!(breach, Breach::EndsAfterSegments(_)) { Instant::now() } else { shared };
        let stream =
            Stream { breach, parts, began, started: Instant::now(), before: PARTS * WINDOW };
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let service = service_fn(move |request| stream.answer(request));
                    let serving = hyper::server::conn::http1::Builder::new();
                    let _ = serving.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { url }
    }
}

fn packed(text: &[u8]) -> Bytes {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap().into()
}

impl Stream {
    /// Parts there are by now.
    fn count(&self) -> u64 {
        let passed = self.began.elapsed().as_millis() / PART.as_millis();
        let count = self.before + u64::try_from(passed).unwrap();
        match self.breach {
            Breach::EndsAfterSegments(segments) => count.min((WINDOW + segments) * PARTS),
            _ => count,
        }
    }

    fn ended(&self) -> bool {
        matches!(self.breach, Breach::EndsAfterSegments(segments) if self.count() == (WINDOW + segments) * PARTS)
    }

    async fn reach(&self, parts: u64) {
        while self.count() < parts && !self.ended() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let path = request.uri().path().trim_start_matches('/').to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let (status, body) = match path.as_str() {
            "chunklist.m3u8" => self.list(&query).await,
            "page" => (StatusCode::OK, Bytes::from_static(b"<!doctype html>")),
            "elsewhere" => {
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
                response.headers_mut().insert("location", "/chunklist.m3u8".parse().unwrap());
                return Ok(response);
            }
            "init.mp4" => (StatusCode::OK, Bytes::from_static(b"init")),
            name => self.media(name).await,
        };
        let list = body.starts_with(b"#EXTM3U");
        let mut response = Response::new(Full::new(if list { packed(&body) } else { body }));
        *response.status_mut() = status;
        if list {
            response.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
            response.headers_mut().insert("age", "0".parse().unwrap());
        }
        Ok(response)
    }

    async fn media(&self, name: &str) -> (StatusCode, Bytes) {
        let missing = (StatusCode::NOT_FOUND, Bytes::new());
        let mut numbers = name.split('.').map(|number| number.parse::<u64>().ok());
        let Some(Some(segment)) = numbers.next() else { return missing };
        let mark = if self.breach == Breach::OtherBytes { 'y' } else { 'x' };
        let part_bytes = |part: u64| format!("{mark}{segment}.{part};");
        if let Some(Some(part)) = numbers.next() {
            let wanted = segment * PARTS + part;
            if wanted > self.count()
                || (self.breach == Breach::NoHintedPart && wanted >= self.count())
            {
                return missing;
            }
            self.reach(wanted + 1).await;
            let wrong = self.breach == Breach::PartDiffers && part + 1 == PARTS;
            let bytes = if wrong { "wrong".to_owned() } else { part_bytes(part) };
            return (StatusCode::OK, bytes.into());
        }
        let first = (self.count() / PARTS).saturating_sub(WINDOW);
        let gone = self.breach == Breach::RemovedEarly && segment < first;
        let lost = self.breach == Breach::MissingSegment && segment % 4 == 0;
        if gone || lost || (segment + 1) * PARTS > self.count() {
            return missing;
        }
        if self.breach == Breach::SlowSegments {
            tokio::time::sleep(SLOW).await;
        }
        (StatusCode::OK, (0..PARTS).map(part_bytes).collect::<String>().into())
    }

    async fn list(&self, query: &str) -> (StatusCode, Bytes) {
        let value = |name: &str| {
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            pair.and_then(|text| text.parse::<u64>().ok())
        };
        let (segment, part) = (value("_HLS_msn"), value("_HLS_part"));
        let refused = (StatusCode::BAD_REQUEST, Bytes::new());
        let open = self.count() / PARTS;
        let far =
            segment.is_some_and(|segment| segment > open + 2) || part.is_some_and(|part| part > 20);
        if self.breach != Breach::AnyWait && (far || (part.is_some() && segment.is_none())) {
            return refused;
        }
        if let Some(segment) = segment.filter(|_| !far && self.breach != Breach::AnswersAtOnce) {
            let parts = part.map_or(PARTS, |part| part + 1);
            self.reach(segment * PARTS + parts).await;
        }
        let stale = self.breach == Breach::StalePlain
            && query.is_empty()
            && self.started.elapsed().as_secs() % 3 == 2;
        let behind = if stale { PARTS } else { 0 };
        (StatusCode::OK, self.text(self.count() - behind).into())
    }

    fn text(&self, count: u64) -> String {
        let open = count / PARTS;
        let first = open.saturating_sub(WINDOW);
        let mut text = String::from("#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:1\n");
        if self.parts {
            text.push_str(
                "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=0.63\n\
                 #EXT-X-PART-INF:PART-TARGET=0.21\n",
            );
        }
        text.push_str(&format!("#EXT-X-MEDIA-SEQUENCE:{first}\n#EXT-X-MAP:URI=\"init.mp4\"\n"));
        for segment in first..=open {
            let parts = if segment == open { count % PARTS } else { PARTS };
            if self.breach != Breach::NoDates && (segment < open || (self.parts && parts > 0)) {
                let (minute, second) = (segment / 60 % 60, segment % 60);
                text.push_str(&format!(
                    "#EXT-X-PROGRAM-DATE-TIME:2026-11-21T05:{minute:02}:{second:02}Z\n"
                ));
            }
            if self.parts && segment + 2 >= open {
                for part in 0..parts {
                    text.push_str(&format!("#EXT-X-PART:DURATION=0.2,URI=\"{segment}.{part}\"\n"));
                }
            }
            if segment < open {
                text.push_str(&format!("#EXTINF:1,\n{segment}\n"));
            }
        }
        if self.ended() {
            text.push_str("#EXT-X-ENDLIST\n");
        } else if self.parts {
            text.push_str(&format!(
                "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{open}.{}\"\n",
                count % PARTS
            ));
        }
        text
    }
}
