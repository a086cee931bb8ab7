//! Signed grants: who may publish a broadcast, who may watch it.
//!
//! Control signs, origins and edges verify with control's published keys and
//! ask nobody, so a broadcast goes on while control is away. The format is
//! PASETO v4.public (Ed25519) by `pasetors`: there is no algorithm to choose,
//! so none to confuse. The payload is JSON with one-letter keys, because a
//! token rides in URLs; the footer names the key that signed.
//!
//! Nothing here reads a clock: the caller says what time it is. Where a token
//! stands in a URL is the business of `spyglass-origin` and `spyglass-edge`;
//! revocation and who keeps the keys that of `spyglass-daemon`.

mod grant;
mod key;

pub use grant::{Grant, PublishGrant, WatchGrant};
pub use key::{KeySet, MAX_KEYS, PublicKey, SigningKey, is_key_id, key_id};

use std::fmt;

/// Longest token, in characters of `[A-Za-z0-9._-]`; a longer one is refused
/// before anything is computed.
pub const MAX_LENGTH: usize = 512;

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denied {
    /// No token of ours by its shape, length or content.
    Malformed,
    /// Signed by a key that is not in the set.
    UnknownKey,
    /// The signature does not fit.
    BadSignature,
    /// Its time is over.
    Expired,
    /// A publish token where a watch token is due, or the reverse.
    WrongRole,
    /// For another broadcast.
    WrongBroadcast,
}

impl Denied {
    /// The word in logs, metrics and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::WrongRole => "wrong_role",
            Self::WrongBroadcast => "wrong_broadcast",
        }
    }

    /// What the holder of the token can do about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Malformed => "this is no token of Spyglass: copy it whole, as control gave it",
            Self::UnknownKey | Self::BadSignature => {
                "this token was not signed by this deployment's control: ask it for a new one"
            }
            Self::Expired => "this token has expired: ask control for a new one",
            Self::WrongRole => {
                "a stream key publishes and a viewer token plays: this is the other one"
            }
            Self::WrongBroadcast => "this token is for another broadcast",
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.advice())
    }
}

impl std::error::Error for Denied {}

/// Why a grant could not be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The token would be longer than [`MAX_LENGTH`].
    #[error(
        "the token would be longer than {MAX_LENGTH} characters: give the node or the key a shorter name"
    )]
    TooLong,
    /// The signing key is not fit to sign.
    #[error(
        "the signing key is unusable: restore the state directory or let control make new keys"
    )]
    Key,
}
