//! TLS for viewers and broadcasters: which certificate a service shows.
//!
//! The operator's own, read again when its files change; without one a
//! development certificate, made at the first start and kept in the state. TLS
//! is rustls with ring, 1.2 and 1.3. Who listens, and for which protocol, is
//! the service's affair.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tracing::{info, warn};

use crate::Shutdown;
use crate::state::StateDir;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Largest certificate chain or key, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// Names of the development certificate and its key in the state.
const DEVELOPMENT: (&str, &str) = ("development-cert.pem", "development-key.pem");

/// Why there is no certificate to show.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Only one of the two files was named.
    #[error(
        "--tls-cert and --tls-key belong together: give both, or neither for a development certificate"
    )]
    OnlyOne,
    /// A file cannot be read.
    #[error("{path}: {source}; give PEM files that this user may read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said. Part of the text already.
        source: io::Error,
    },
    /// The files hold no usable pair.
    #[error("{path}: {reason}; give the chain (the server's certificate first) and its key in PEM")]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a service shows; clones share it.
#[derive(Clone, Debug)]
pub struct Identity {
    shown: Arc<Shown>,
    files: (PathBuf, PathBuf),
    development: bool,
}

#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

impl Identity {
    /// The certificate in `cert` with its `key`, both PEM; without either, the
    /// development certificate of `state`, made when it is not there, for
    /// loopback and `host`. Blocks.
    ///
    /// # Errors
    /// When one file is missing or they hold no usable pair.
    pub fn load(
        cert: Option<&Path>,
        key: Option<&Path>,
        state: &StateDir,
        host: &str,
    ) -> Result<Self, Error> {
        let (files, development) = match (cert, key) {
            (Some(cert), Some(key)) => ((cert.to_owned(), key.to_owned()), false),
            (None, None) => (development(state, host)?, true),
            _ => return Err(Error::OnlyOne),
        };
        let (pair, _) = read(&files)?;
        let shown = Arc::new(Shown(RwLock::new(Arc::new(pair))));
        Ok(Self { shown, files, development })
    }

    /// Nobody but this machine's owner trusts it.
    pub const fn is_development(&self) -> bool {
        self.development
    }

    /// For a listener that offers `protocols` (ALPN), the best first.
    pub fn server_config(&self, protocols: &[&[u8]]) -> ServerConfig {
        let versions = &[&rustls::version::TLS13, &rustls::version::TLS12];
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            // ring has cipher suites for both.
            .unwrap_or_else(|error| unreachable!("{error}"));
        let resolver = Arc::clone(&self.shown) as Arc<dyn ResolvesServerCert>;
        let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        config
    }

    /// Shows a new certificate when the files have changed, until `shutdown`.
    /// Connections that stand are left alone; files that make no pair are told
    /// in the log and the old certificate stays.
    pub async fn follow(self, shutdown: Shutdown) {
        let mut held = contents(&self.files).ok();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = shutdown.requested() => return,
            }
            let files = self.files.clone();
            let found = tokio::task::spawn_blocking(move || contents(&files)).await;
            let Ok(Ok(found)) = found else { continue };
            if held.as_ref() == Some(&found) {
                continue;
            }
            match pair(&self.files, &found) {
                Ok(pair) => {
                    *self.shown.0.write() = Arc::new(pair);
                    info!(file = %self.files.0.display(), "new certificate");
                }
                Err(error) => warn!(%error, "the certificate stays as it was"),
            }
            held = Some(found);
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

type Contents = (Vec<u8>, Vec<u8>);

fn contents((cert, key): &(PathBuf, PathBuf)) -> Result<Contents, Error> {
    let file = |path: &PathBuf| {
        let failed = |source| Error::Read { path: path.clone(), source };
        let size = std::fs::metadata(path).map_err(failed)?.len();
        if size > MAX_FILE {
            let reason = format!("{size} bytes are too many");
            return Err(Error::Unfit { path: path.clone(), reason });
        }
        std::fs::read(path).map_err(failed)
    };
    Ok((file(cert)?, file(key)?))
}

fn read(files: &(PathBuf, PathBuf)) -> Result<(CertifiedKey, Contents), Error> {
    let found = contents(files)?;
    Ok((pair(files, &found)?, found))
}

fn pair(files: &(PathBuf, PathBuf), (cert, key): &Contents) -> Result<CertifiedKey, Error> {
    let unfit = |path: &PathBuf, reason: String| Error::Unfit { path: path.clone(), reason };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert).collect();
    let chain = chain.map_err(|error| unfit(&files.0, error.to_string()))?;
    if chain.is_empty() {
        return Err(unfit(&files.0, "no certificate in it".to_owned()));
    }
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|error| unfit(&files.1, error.to_string()))?;
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| unfit(&files.1, error.to_string()))
}

/// The development certificate's files.
fn development(state: &StateDir, host: &str) -> Result<(PathBuf, PathBuf), Error> {
    let files = (state.path().join(DEVELOPMENT.0), state.path().join(DEVELOPMENT.1));
    if files.0.exists() && files.1.exists() {
        return Ok(files);
    }
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    let host = host.trim_matches(['[', ']']);
    let fits = |host: &str| match host.parse::<IpAddr>() {
        Ok(address) => !address.is_unspecified(),
        Err(_) => !host.is_empty(),
    };
    if fits(host) && !names.iter().any(|name| name == host) {
        names.push(host.to_owned());
    }
    let unfit = |error: rcgen::Error| Error::Unfit {
        path: files.0.clone(),
        reason: format!("a development certificate cannot be made: {error}"),
    };
    let key = rcgen::KeyPair::generate().map_err(unfit)?;
    let mut params = rcgen::CertificateParams::new(names).map_err(unfit)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Spyglass development");
    let cert = params.self_signed(&key).map_err(unfit)?;
    let write = |name, text: String| {
        let failed = |source| Error::Read { path: state.path().join(name), source };
        state.write(name, text.as_bytes()).map_err(failed)
    };
    // The key first: a certificate without one would not be made again.
    write(DEVELOPMENT.1, key.serialize_pem())?;
    write(DEVELOPMENT.0, cert.pem())?;
    info!(file = %files.0.display(), "development certificate made");
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(dir: &tempfile::TempDir) -> StateDir {
        StateDir::open(dir.path()).unwrap()
    }

    fn shown(identity: &Identity) -> Vec<u8> {
        identity.shown.0.read().cert[0].to_vec()
    }

    #[test]
    fn a_development_certificate_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::load(None, None, &state(&dir), "edge.example").unwrap();
        assert!(first.is_development());
        let again = Identity::load(None, None, &state(&dir), "edge.example").unwrap();
        assert_eq!(shown(&first), shown(&again));
        let config = first.server_config(&[b"h2", b"http/1.1"]);
        assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    }

    #[test]
    fn files_that_make_no_pair_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (cert, _) = development(&state(&one), "").unwrap();
        let (_, key) = development(&state(&other), "").unwrap();
        let load = |cert: Option<&Path>, key: Option<&Path>| {
            Identity::load(cert, key, &state(&dir), "").unwrap_err().to_string()
        };
        assert!(load(Some(&cert), None).contains("belong together"));
        assert!(load(Some(&cert), Some(&key)).contains(&key.display().to_string()));
        assert!(load(Some(&key), Some(&key)).contains("no certificate"));
        assert!(load(Some(Path::new("/none")), Some(&key)).contains("/none"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_certificate_is_shown_and_a_broken_one_is_not() {
        let (dir, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (cert, key) = development(&state(&dir), "").unwrap();
        let identity = Identity::load(Some(&cert), Some(&key), &state(&dir), "").unwrap();
        let shutdown = Shutdown::new();
        let following = tokio::spawn(identity.clone().follow(shutdown.clone()));
        let before = shown(&identity);
        tokio::time::sleep(LOOK * 2).await;
        std::fs::write(&key, "rubbish").unwrap();
        tokio::time::sleep(LOOK * 2).await;
        assert_eq!(shown(&identity), before);
        let (new_cert, new_key) = development(&state(&new), "").unwrap();
        std::fs::copy(new_key, &key).unwrap();
        std::fs::copy(&new_cert, &cert).unwrap();
        for _ in 0..1_000 {
            tokio::time::sleep(LOOK).await;
            if shown(&identity) != before {
                break;
            }
        }
        let expected = Identity::load(Some(&cert), Some(&key), &state(&dir), "").unwrap();
        assert_eq!(shown(&identity), shown(&expected));
        shutdown.trigger();
        following.await.unwrap();
    }
}
