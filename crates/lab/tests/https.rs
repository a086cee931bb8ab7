//! Servers at `https://`: HTTP/2 where they offer it, certificates believed when
//! they are the system's, in the given file, or all.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use spyglass_lab::request::tls::Trust;
use spyglass_lab::request::{Error, Http, parse};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A server that says which version of HTTP it was asked by, and its
/// certificate as PEM.
async fn server(protocols: &[&[u8]]) -> (SocketAddr, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                let answer = |request: Request<Incoming>| async move {
                    let version = format!("{:?}", request.version());
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(version))))
                };
                let serving = auto::Builder::new(TokioExecutor::new());
                let _ = serving.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            });
        }
    });
    (address, cert.pem())
}

async fn ask(address: SocketAddr, trust: &Trust) -> Result<String, Error> {
    let http = Http::new(trust.load()?);
    let uri = parse(&format!("https://localhost:{}/", address.port())).unwrap();
    let answer = http.get(&uri, 100, Duration::from_secs(10)).await?;
    Ok(String::from_utf8(answer.body.to_vec()).unwrap())
}

#[tokio::test]
async fn the_server_chooses_the_version_and_a_given_certificate_is_believed() {
    let dir = std::env::temp_dir().join(format!("spyglass-lab-https-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("ca.pem");
    for (protocols, version) in
        [(&[&b"h2"[..], b"http/1.1"][..], "HTTP/2.0"), (&[&b"http/1.1"[..]][..], "HTTP/1.1")]
    {
        let (address, pem) = server(protocols).await;
        std::fs::write(&file, pem).unwrap();
        let given = Trust { ca: Some(file.clone()), insecure: false };
        assert_eq!(ask(address, &given).await, Ok(version.to_owned()));
        let any = Trust { ca: None, insecure: true };
        assert_eq!(ask(address, &any).await, Ok(version.to_owned()));
        let refused = ask(address, &Trust::default()).await.unwrap_err();
        assert!(matches!(&refused, Error::Failed(why) if why.contains("certificate")), "{refused}");
    }
    std::fs::write(&file, "nothing").unwrap();
    let empty = Trust { ca: Some(file), insecure: false };
    let unread = ask(([127, 0, 0, 1], 1).into(), &empty).await.unwrap_err();
    assert!(unread.to_string().contains("no certificate in it"), "{unread}");
    std::fs::remove_dir_all(dir).unwrap();
}
