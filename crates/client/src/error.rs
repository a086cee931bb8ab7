//! What can go wrong, said so that the person at the terminal knows what to do.

/// Why a clip could not be read, a broadcast not sent or not watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system would not give the bytes.
    #[error("cannot read {path}: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why. Part of the text already.
        reason: std::io::Error,
    },
    /// The bytes are not an MP4 or FLV file with something to send in it.
    #[error(
        "this is no media file that can be broadcast: {0}. Give an MP4 or FLV file with H.264 \
         video and/or AAC sound"
    )]
    NotMedia(String),
    /// It began as a media file and then did not go on as one.
    #[error("the {format} file is damaged or cut short: {reason} (byte {offset})")]
    Damaged {
        /// `MP4` or `FLV`.
        format: &'static str,
        /// What was found.
        reason: &'static str,
        /// Where, from the start of the file.
        offset: u64,
    },
    /// A codec that RTMP and this release do not carry.
    #[error(
        "the file's codec is {0}, only H.264 and AAC can be broadcast: convert it first with \
         ffmpeg -i IN -c:v libx264 -c:a aac OUT.mp4"
    )]
    UnsupportedCodec(String),
    /// An address that cannot be used.
    #[error("{url} is no address that can be used here: {reason}")]
    BadUrl {
        /// As given.
        url: String,
        /// What to give instead.
        reason: &'static str,
    },
    /// Nobody answered.
    #[error("{url} cannot be reached ({reason}): is it running, and is the address right?")]
    Unreachable {
        /// Scheme, host and port; never a token.
        url: String,
        /// The operating system's word.
        reason: String,
    },
    /// Something answered too slowly.
    #[error("{what} took longer than {seconds} s and was given up")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
    },
    /// The control API said no (RFC 9457).
    #[error("{detail}{advice}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The problem's detail, else its title.
        detail: String,
        /// What to do about it; empty when nothing is known.
        advice: &'static str,
    },
    /// An answer that this program does not understand.
    #[error("{url} gave an answer that is not Spyglass': {reason}")]
    BadAnswer {
        /// Scheme, host, port and path; never a token.
        url: String,
        /// What was wrong with it.
        reason: String,
    },
    /// The RTMP server refused to let this stream be published or played.
    #[error("the origin refused: {code} {description}")]
    Denied {
        /// The `onStatus` code, e.g. `NetStream.Publish.Denied`.
        code: String,
        /// The origin's words.
        description: String,
    },
    /// The RTMP peer broke the protocol.
    #[error("the RTMP connection to {url} broke: {reason}")]
    Rtmp {
        /// Scheme, host and port; never a token.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The edge answered a viewer's request with a refusal.
    #[error("the edge answered {status} for {resource}: {detail}")]
    EdgeRefused {
        /// HTTP status.
        status: u16,
        /// File name below the broadcast.
        resource: String,
        /// The problem's detail, else its title.
        detail: String,
    },
}

impl Error {
    /// The HTTP status of a refusal, where there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } | Self::EdgeRefused { status, .. } => Some(*status),
            _ => None,
        }
    }
}
