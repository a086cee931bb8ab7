//! Ids: 13 random characters for what users make, short names for nodes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a string is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdError {
    /// Not 13 characters of `0-9a-z`.
    Random,
    /// Not 1 to 63 characters of `a-z0-9-`.
    Node,
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "an id has 13 characters of 0-9 and a-z",
            Self::Node => "a node id has 1 to 63 characters of a-z, 0-9 and -",
        })
    }
}

impl std::error::Error for IdError {}

const LENGTH: usize = 13;
const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; LENGTH]);

        impl $name {
            /// From random bytes; every id is as likely as any other (to within 2⁻⁵⁸).
            pub fn from_random(random: [u8; 16]) -> Self {
                let mut number = u128::from_le_bytes(random);
                Self(std::array::from_fn(|_| {
                    let digit = ALPHABET[(number % 36) as usize];
                    number /= 36;
                    digit
                }))
            }

            /// The 13 characters.
            pub fn as_str(&self) -> &str {
                // Only bytes of the alphabet are ever stored.
                std::str::from_utf8(&self.0).unwrap_or_default()
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let bytes: [u8; LENGTH] = text.as_bytes().try_into().map_err(|_| IdError::Random)?;
                if bytes.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z')) {
                    Ok(Self(bytes))
                } else {
                    Err(IdError::Random)
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

random_id!(
    /// One live programme, its reconnects included.
    BroadcastId
);
random_id!(
    /// One admitted viewer of one broadcast.
    ViewerId
);
random_id!(
    /// A registered user.
    UserId
);

/// The name of an origin, edge or other node: `[a-z0-9-]{1,63}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(Box<str>);

impl NodeId {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let fits = (1..=63).contains(&text.len());
        if fits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'-')) {
            Ok(Self(text.into()))
        } else {
            Err(IdError::Node)
        }
    }
}

impl TryFrom<String> for NodeId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0.into()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_make_an_id_that_parses() {
        for seed in 0..=255u8 {
            let id = BroadcastId::from_random([seed; 16]);
            assert_eq!(id.as_str().parse(), Ok(id));
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in
            ["", "0123456789ab", "0123456789abcd", "0123456789abC", "0123456789ab/", "0123456789aé"]
        {
            assert_eq!(text.parse::<BroadcastId>(), Err(IdError::Random), "{text}");
        }
        let long = "a".repeat(64);
        for text in ["", "Edge", "edge 1", "edge_1", "édge", &long] {
            assert_eq!(text.parse::<NodeId>(), Err(IdError::Node), "{text}");
        }
        assert!("edge-1".parse::<NodeId>().is_ok());
    }
}
