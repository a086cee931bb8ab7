//! The cluster key: a secret that all services of one deployment share.
//!
//! The client side attaches it to every call, the server side refuses calls
//! without it. The comparison takes the same time wherever the keys differ.

use std::fmt;

use subtle::ConstantTimeEq;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Metadata that carries the key.
pub const METADATA: &str = "x-spyglass-cluster-key";

/// A key shorter than this, in characters, can be guessed: whoever starts a
/// service with one is warned.
pub const SHORT: usize = 16;

/// A key shorter than this, in characters, is no key: a slip, or a placeholder.
pub const SHORTEST: usize = 8;

/// A cluster key that is fit to be sent as metadata.
#[derive(Clone)]
pub struct ClusterKey(MetadataValue<Ascii>);

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(…)")
    }
}

/// Why a string is no cluster key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// No characters.
    #[error("the cluster key is empty")]
    Empty,
    /// Fewer than [`SHORTEST`] characters.
    #[error("the cluster key has fewer than {SHORTEST} characters")]
    Short,
    /// Not visible ASCII.
    #[error("the cluster key has a character that is not visible ASCII")]
    NotAscii,
}

impl ClusterKey {
    /// Checks `key`.
    pub fn new(key: &str) -> Result<Self, KeyError> {
        if key.is_empty() {
            return Err(KeyError::Empty);
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(KeyError::NotAscii);
        }
        if key.len() < SHORTEST {
            return Err(KeyError::Short);
        }
        let mut value = MetadataValue::try_from(key).map_err(|_| KeyError::NotAscii)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

/// Attaches the key to every call of a client.
#[derive(Clone, Debug)]
pub struct Attach(pub ClusterKey);

impl Interceptor for Attach {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(METADATA, self.0.0.clone());
        Ok(request)
    }
}

/// Refuses calls that do not carry the key.
#[derive(Clone, Debug)]
pub struct Require(pub ClusterKey);

impl Interceptor for Require {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let given = request.metadata().get(METADATA);
        let right = given.is_some_and(|given| {
            bool::from(given.as_encoded_bytes().ct_eq(self.0.0.as_encoded_bytes()))
        });
        if right {
            Ok(request)
        } else {
            Err(Status::unauthenticated(
                "wrong or missing cluster key: start every service with the same --cluster-key",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_without_the_key_is_refused() {
        let key = ClusterKey::new("correct-horse").unwrap();
        let mut require = Require(key.clone());
        assert!(require.call(Request::new(())).is_err());
        let other = Attach(ClusterKey::new("correct-house").unwrap()).call(Request::new(()));
        assert!(require.call(other.unwrap()).is_err());
        let right = Attach(key).call(Request::new(()));
        assert!(require.call(right.unwrap()).is_ok());
    }

    #[test]
    fn a_key_is_something_and_printable() {
        assert_eq!(ClusterKey::new("").unwrap_err(), KeyError::Empty);
        assert_eq!(ClusterKey::new("has a space").unwrap_err(), KeyError::NotAscii);
        assert_eq!(ClusterKey::new("7-chars").unwrap_err(), KeyError::Short);
        assert!(ClusterKey::new("8-charac").is_ok());
        assert!(!format!("{:?}", ClusterKey::new("not-for-logs").unwrap()).contains("not-for"));
    }
}
