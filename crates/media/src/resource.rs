//! Names of what an edge serves below a broadcast, and their one parser.

use std::fmt;

/// A file below a broadcast's path.
///
/// Chunks, parts and inits are immutable; the two lists change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// `index.m3u8`: the multivariant playlist.
    Index,
    /// `chunklist.m3u8`: the media playlist.
    Chunklist,
    /// `{epoch}-init.mp4`: codec configuration.
    Init {
        /// The epoch it belongs to.
        epoch: u32,
    },
    /// `{epoch}-{sequence}.m4s`: a chunk.
    Chunk {
        /// The epoch it was made in.
        epoch: u32,
        /// Media sequence number.
        sequence: u64,
    },
    /// `{epoch}-{sequence}.{part}.m4s`: a part of a chunk.
    Part {
        /// The epoch it was made in.
        epoch: u32,
        /// Media sequence number of the chunk it belongs to.
        sequence: u64,
        /// From 0.
        part: u32,
    },
}

impl Resource {
    /// Parses a file name; only the canonical spelling is accepted (no signs,
    /// no leading zeros), so that one object has one name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "index.m3u8" => return Some(Self::Index),
            "chunklist.m3u8" => return Some(Self::Chunklist),
            _ => {}
        }
        let (epoch, rest) = name.split_once('-')?;
        let epoch = number(epoch)?;
        if rest == "init.mp4" {
            return Some(Self::Init { epoch });
        }
        let stem = rest.strip_suffix(".m4s")?;
        match stem.split_once('.') {
            None => Some(Self::Chunk { epoch, sequence: number(stem)? }),
            Some((sequence, part)) => {
                Some(Self::Part { epoch, sequence: number(sequence)?, part: number(part)? })
            }
        }
    }

    /// The word in logs and metrics: `chunklist`, `chunk`, `part`, `init`. The
    /// two lists travel in one fetch and count as one.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Index | Self::Chunklist => "chunklist",
            Self::Init { .. } => "init",
            Self::Chunk { .. } => "chunk",
            Self::Part { .. } => "part",
        }
    }

    /// The Content-Type it is served with.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Index | Self::Chunklist => "application/vnd.apple.mpegurl",
            Self::Init { .. } | Self::Chunk { .. } | Self::Part { .. } => "video/mp4",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index => f.write_str("index.m3u8"),
            Self::Chunklist => f.write_str("chunklist.m3u8"),
            Self::Init { epoch } => write!(f, "{epoch}-init.mp4"),
            Self::Chunk { epoch, sequence } => write!(f, "{epoch}-{sequence}.m4s"),
            Self::Part { epoch, sequence, part } => write!(f, "{epoch}-{sequence}.{part}.m4s"),
        }
    }
}

/// A decimal number in its canonical spelling.
fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    let canonical = text == "0" || !text.starts_with('0');
    if canonical && text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_spellings_are_refused() {
        for name in [
            "",
            "index",
            "INDEX.m3u8",
            "chunklist.m3u8/",
            "-init.mp4",
            "01-init.mp4",
            "+1-init.mp4",
            "1-init.mp4.",
            "1-.m4s",
            "1-2.m4s.m4s",
            "1-02.m4s",
            "1-2.03.m4s",
            "1-2..m4s",
            "1-2.3.4.m4s",
            "4294967296-1.m4s",
            "1-18446744073709551616.m4s",
            "1-2.mp4",
            "1--2.m4s",
            " 1-2.m4s",
            "1-2.4294967296.m4s",
        ] {
            assert_eq!(Resource::parse(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn names_survive_the_round_trip(epoch: u32, sequence: u64, part: u32) {
            for resource in [
                Resource::Index, Resource::Chunklist, Resource::Init { epoch },
                Resource::Chunk { epoch, sequence }, Resource::Part { epoch, sequence, part },
            ] {
                prop_assert_eq!(Resource::parse(&resource.to_string()), Some(resource));
            }
        }

        #[test]
        fn no_name_panics(name in "\\PC{0,40}") {
            let _ = Resource::parse(&name);
        }
    }
}
