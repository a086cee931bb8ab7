//! One request of a webhook: a connection of its own, no redirects, no more
//! of the answer than its head, all within [`TIME`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, Uri};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::sign::signature;

/// Everything, from the name's address to the answer's head.
pub const TIME: Duration = Duration::from_secs(10);

/// Bytes of an answer's head.
const HEAD: usize = 16 * 1024;

/// A message to a receiver.
pub struct Message {
    /// The same at each attempt.
    pub id: String,
    /// When this attempt is made, in seconds since the Unix epoch.
    pub timestamp: i64,
    /// JSON.
    pub body: Bytes,
}

/// Trusts whom this machine trusts.
pub fn tls() -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::warn!("no certificate authorities on this machine: https webhooks will fail");
    }
    trusting(roots)
}

fn trusting(roots: RootCertStore) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::DEFAULT_VERSIONS);
    match config {
        Ok(config) => Arc::new(config.with_root_certificates(roots).with_no_client_auth()),
        // The provider has what the defaults name; a test makes one.
        Err(error) => unreachable!("the defaults of TLS: {error}"),
    }
}

/// The status of the answer, or why there is none.
pub async fn post(
    url: &str,
    secret: &str,
    message: &Message,
    tls: Arc<ClientConfig>,
) -> Result<u16, String> {
    match tokio::time::timeout(TIME, request(url, secret, message, tls)).await {
        Ok(result) => result,
        Err(_) => Err("no answer within 10 s".to_owned()),
    }
}

async fn request(
    url: &str,
    secret: &str,
    message: &Message,
    tls: Arc<ClientConfig>,
) -> Result<u16, String> {
    let uri: Uri = url.parse().map_err(|_| "the URL is none".to_owned())?;
    let secure = uri.scheme_str() == Some("https");
    let authority = uri.authority().ok_or("the URL names no host")?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path)
        .header(HOST, authority.as_str())
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("spyglass/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", &message.id)
        .header("webhook-timestamp", message.timestamp)
        .header(
            "webhook-signature",
            signature(secret, &message.id, message.timestamp, &message.body),
        )
        .body(Full::new(message.body.clone()))
        .map_err(|error| format!("the request: {error}"))?;
    let socket = TcpStream::connect((host.as_str(), port));
    let socket = socket.await.map_err(|error| format!("connecting: {error}"))?;
    if secure {
        let name = ServerName::try_from(host).map_err(|_| "the host is no name".to_owned())?;
        let socket = TlsConnector::from(tls).connect(name, socket).await;
        send(socket.map_err(|error| format!("TLS: {error}"))?, request).await
    } else {
        send(socket, request).await
    }
}

async fn send(
    socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> Result<u16, String> {
    let failed = |error: hyper::Error| format!("HTTP: {error}");
    let status = |answer: Result<http::Response<hyper::body::Incoming>, hyper::Error>| match answer
    {
        Ok(answer) => Ok(answer.status().as_u16()),
        Err(error) => Err(failed(error)),
    };
    let mut client = hyper::client::conn::http1::Builder::new();
    let shaken = client.max_buf_size(HEAD).handshake(TokioIo::new(socket)).await;
    let (mut sender, connection) = shaken.map_err(failed)?;
    let answer = sender.send_request(request);
    tokio::pin!(answer, connection);
    let closed = tokio::select! {
        answer = &mut answer => return status(answer),
        closed = &mut connection => closed,
    };
    // The answer may have come with the end, and whoever has answered owes no
    // farewell: TLS calls it an error when there is none.
    tokio::select! {
        biased;
        answer = &mut answer => status(answer),
        () = std::future::ready(()) => match closed {
            Ok(()) => Err("HTTP: closed without an answer".to_owned()),
            Err(error) => Err(failed(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A server's side, with a certificate of a local authority, and a client's
    /// side that trusts that authority and no other.
    fn both(host: &str) -> (TlsAcceptor, Arc<ClientConfig>) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let own = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&own, &issuer).unwrap();
        let key = PrivateKeyDer::try_from(own.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        (TlsAcceptor::from(Arc::new(server)), trusting(roots))
    }

    /// Answers 204 to everybody; what came, head and body.
    async fn receive(
        listener: TcpListener,
        tls: TlsAcceptor,
        came: tokio::sync::mpsc::Sender<String>,
    ) {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let Ok(mut socket) = tls.accept(socket).await else { continue };
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"}") {
                if socket.read_buf(&mut bytes).await.unwrap() == 0 {
                    break;
                }
            }
            came.send(String::from_utf8(bytes).unwrap()).await.unwrap();
            let answer = b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n";
            socket.write_all(answer).await.unwrap();
        }
    }

    #[tokio::test]
    async fn https_reaches_whom_this_machine_trusts_and_nobody_else() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (acceptor, trusts) = both("localhost");
        let (came, mut messages) = tokio::sync::mpsc::channel(1);
        tokio::spawn(receive(listener, acceptor, came));
        let message =
            Message { id: "msg_1".to_owned(), timestamp: 1, body: Bytes::from_static(b"{}") };
        let secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";
        let url = format!("https://localhost:{port}/hook");
        assert_eq!(post(&url, secret, &message, Arc::clone(&trusts)).await, Ok(204));
        let told = messages.recv().await.unwrap();
        assert!(told.starts_with("POST /hook HTTP/1.1") && told.ends_with("{}"), "{told}");
        let signature = signature(secret, "msg_1", 1, &message.body);
        assert!(told.contains(&signature), "{told}");

        // Another authority's word, and another host's name, count for nothing.
        let (_, stranger) = both("localhost");
        let elsewhere = format!("https://127.0.0.1:{port}/hook");
        for (url, trusts) in [(&url, stranger), (&elsewhere, trusts)] {
            let refused = post(url, secret, &message, trusts).await.unwrap_err();
            assert!(refused.starts_with("TLS: "), "{refused}");
        }
        assert!(messages.try_recv().is_err(), "nothing was said to them");
    }
}
