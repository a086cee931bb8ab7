//! The handshake (RTMP 5.2), by `rml_rtmp`: it knows the plain one and the one
//! with digests that old players want.
//!
//! The library draws the random bytes of its packets itself. They keep no
//! secret; nothing that the rest of this crate does depends on them.

use rml_rtmp::handshake::{Handshake as Steps, HandshakeError, HandshakeProcessResult, PeerType};

use crate::Error;

/// Boxed: it is large and soon over.
pub(crate) struct Handshake(Box<Steps>);

/// What to send, and what arrived behind the handshake once it is done.
pub(crate) struct Step {
    pub output: Vec<u8>,
    pub done: Option<Vec<u8>>,
}

impl Handshake {
    pub fn server() -> Self {
        Self(Box::new(Steps::new(PeerType::Server)))
    }

    /// With the bytes that open the connection.
    pub fn client() -> Result<(Self, Vec<u8>), Error> {
        let mut steps = Box::new(Steps::new(PeerType::Client));
        let opening = steps.generate_outbound_p0_and_p1().map_err(error)?;
        Ok((Self(steps), opening))
    }

    pub fn on_bytes(&mut self, bytes: &[u8]) -> Result<Step, Error> {
        match self.0.process_bytes(bytes).map_err(error)? {
            HandshakeProcessResult::InProgress { response_bytes } => {
                Ok(Step { output: response_bytes, done: None })
            }
            HandshakeProcessResult::Completed { response_bytes, remaining_bytes } => {
                Ok(Step { output: response_bytes, done: Some(remaining_bytes) })
            }
        }
    }
}

fn error(error: HandshakeError) -> Error {
    match error {
        HandshakeError::BadVersionId => Error::NotRtmp,
        other => Error::Handshake(other.to_string()),
    }
}
