//! A viewer's side of HTTP/1.1: one connection, one request, unless told
//! otherwise.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// What follows the edge's name in Cache-Status.
    pub fn cache(&self) -> &str {
        let value = self.header("cache-status");
        value.strip_prefix("edge-t; ").unwrap_or(value)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// An open connection.
pub struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        Self::try_open(address).await.unwrap()
    }

    /// Where there may be nobody.
    pub async fn try_open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let opened = handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other);
        let (sender, connection) = opened?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Answer> {
        self.0.ready().await?;
        let (parts, body) = self.0.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    /// The head of an answer; its body is read by the caller.
    pub async fn begin(&mut self, path: &str) -> hyper::Result<Response<Incoming>> {
        self.0.ready().await?;
        self.0.send_request(request(Method::GET, path, &[])).await
    }

    pub async fn get(&mut self, path: &str) -> hyper::Result<Answer> {
        self.send(request(Method::GET, path, &[])).await
    }
}

pub fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", "edge");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}

pub async fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, Method::GET, path, &[]).await
}

pub async fn ask(
    address: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Answer {
    let asking = async {
        let mut connection = Connection::open(address).await;
        connection.send(request(method, path, headers)).await.unwrap()
    };
    tokio::time::timeout(Duration::from_secs(20), asking).await.expect(path)
}

/// Bytes as they are, and what comes back until the edge closes.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    // An error is a reset: what came before it counts.
    let _ = tokio::time::timeout(Duration::from_secs(20), reading).await.expect("closed");
    String::from_utf8_lossy(&answer).into_owned()
}

/// One GET over TLS, by the protocol that was agreed on; `protocols` is what is
/// offered, `certificate` (PEM) what is trusted.
pub async fn get_tls(
    address: SocketAddr,
    certificate: &[u8],
    protocols: &[&str],
    path: &str,
) -> (Answer, String) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::IpAddress(address.ip().into());
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let agreed = stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec();
    let io = TokioIo::new(stream);
    let answer = if agreed == b"h2" {
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(format!("https://edge{path}"));
        sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await
    } else {
        let (mut sender, connection) = handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path).header("host", "edge");
        sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await
    };
    let (parts, body) = answer.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let answer = Answer { status: parts.status.as_u16(), headers: parts.headers, body };
    (answer, String::from_utf8(agreed).unwrap())
}

/// One GET over HTTP/2 with prior knowledge.
pub async fn get_h2(address: SocketAddr, path: &str) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("http://edge{path}")).body(Empty::<Bytes>::new()).unwrap();
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}
