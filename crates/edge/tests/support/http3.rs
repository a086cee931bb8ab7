//! A viewer's side of HTTP/3.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use h3::client::{RequestStream, SendRequest};
use h3::error::{Code, StreamError};
use h3_quinn::{BidiStream, OpenStreams};
use http::{Method, Request};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::Answer;

pub type Stream = RequestStream<BidiStream<Bytes>, Bytes>;

/// An open connection.
pub struct Http3 {
    sender: SendRequest<OpenStreams, Bytes>,
    pub connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

impl Http3 {
    /// Trusts `certificate` (PEM).
    pub async fn open(address: SocketAddr, certificate: &[u8]) -> Self {
        Self::try_open(address, certificate).await.unwrap()
    }

    pub async fn try_open(
        address: SocketAddr,
        certificate: &[u8],
    ) -> Result<Self, quinn::ConnectionError> {
        Self::try_with(address, certificate, quinn::TransportConfig::default()).await
    }

    pub async fn with(
        address: SocketAddr,
        certificate: &[u8],
        transport: quinn::TransportConfig,
    ) -> Self {
        Self::try_with(address, certificate, transport).await.unwrap()
    }

    async fn try_with(
        address: SocketAddr,
        certificate: &[u8],
        transport: quinn::TransportConfig,
    ) -> Result<Self, quinn::ConnectionError> {
        let (endpoint, connecting) = connect(address, Some(certificate), transport);
        let connection = connecting.await?;
        let quic = h3_quinn::Connection::new(connection.clone());
        let (mut driver, sender) = h3::client::new(quic).await.unwrap();
        tokio::spawn(async move {
            std::future::poll_fn(|context| driver.poll_close(context)).await;
        });
        Ok(Self { sender, connection, _endpoint: endpoint })
    }

    /// Sends a request; the answer is read by the caller.
    pub async fn begin(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Stream, h3::error::StreamError> {
        let mut request = Request::builder().method(method).uri(format!("https://edge{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut stream = self.sender.send_request(request.body(()).unwrap()).await?;
        match stream.finish().await {
            // The edge was quicker: it wants no body, and says so at once.
            Err(StreamError::RemoteTerminate { code: Code::H3_NO_ERROR, .. }) => Ok(stream),
            finished => finished.map(|()| stream),
        }
    }

    pub async fn ask(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer, h3::error::StreamError> {
        let asking = async {
            let mut stream = self.begin(method, path, headers).await?;
            read(&mut stream).await
        };
        tokio::time::timeout(Duration::from_secs(20), asking).await.expect(path)
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[]).await.unwrap()
    }
}

/// The whole of an answer.
pub async fn read(stream: &mut Stream) -> Result<Answer, h3::error::StreamError> {
    let (head, ()) = stream.recv_response().await?.into_parts();
    let mut body = Vec::new();
    while let Some(mut bytes) = stream.recv_data().await? {
        let length = bytes.remaining();
        body.extend_from_slice(&bytes.copy_to_bytes(length));
    }
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.into() })
}

/// Begins to shake hands with somebody who is not there.
pub fn knock(address: SocketAddr) -> (quinn::Endpoint, quinn::Connecting) {
    connect(address, None, quinn::TransportConfig::default())
}

fn connect(
    address: SocketAddr,
    certificate: Option<&[u8]>,
    transport: quinn::TransportConfig,
) -> (quinn::Endpoint, quinn::Connecting) {
    let mut roots = RootCertStore::empty();
    if let Some(certificate) = certificate {
        roots.add(CertificateDer::from_pem_slice(certificate).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(config);
    let connecting = endpoint.connect(address, &address.ip().to_string()).unwrap();
    (endpoint, connecting)
}
