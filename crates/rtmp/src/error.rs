//! Why a connection ends, or a message body is no use.

use spyglass_media::Track;

/// What went wrong; all but [`Error::Body`] end the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The first byte is not RTMP's version.
    #[error("the peer does not speak plain RTMP: is it TLS, HTTP or RTMPE on an RTMP port?")]
    NotRtmp,
    /// The handshake broke in a later step.
    #[error("the handshake failed: {0}")]
    Handshake(String),
    /// [`Limits::handshake`](crate::Limits::handshake) has passed.
    #[error("the peer did not finish the handshake in time: check the network, or what connects")]
    HandshakeTimeout,
    /// [`Limits::request`](crate::Limits::request) has passed.
    #[error("the peer was connected but neither published nor played in time")]
    RequestTimeout,
    /// A size outside of 128 bytes to [`Limits::chunk_size`](crate::Limits::chunk_size).
    #[error("the peer set a chunk size of {0} bytes, outside of what we take")]
    ChunkSize(u32),
    /// A chunk stream began without the header that says what it carries.
    #[error("chunk stream {0} begins without a full header")]
    HeaderMissing(u32),
    /// A new message began within an unfinished one of its chunk stream.
    #[error("chunk stream {0} begins a message inside of another")]
    HeaderInsideMessage(u32),
    /// A message is declared larger than its type may be.
    #[error("a message of type {kind} declares {length} bytes, over the limit of {limit}")]
    MessageTooLarge {
        /// Message type id (RTMP 6.1.1).
        kind: u8,
        /// Declared length in bytes.
        length: usize,
        /// What it may be now; media counts as a command before a publish is accepted.
        limit: usize,
    },
    /// More than [`Limits::chunk_streams`](crate::Limits::chunk_streams).
    #[error("the peer uses more chunk streams than the limit")]
    TooManyChunkStreams,
    /// More than [`Limits::partial_messages`](crate::Limits::partial_messages).
    #[error("the peer leaves more messages unfinished than the limit")]
    TooManyPartialMessages,
    /// More than [`Limits::partial_bytes`](crate::Limits::partial_bytes).
    #[error("the peer's unfinished messages are larger together than the limit")]
    PartialBytes,
    /// A message too short for what it must hold.
    #[error("a message of type {0} is cut short")]
    Truncated(u8),
    /// AMF0 that ends within a value.
    #[error("AMF0 ends within a value")]
    AmfTruncated,
    /// AMF0 with a marker that no value begins with.
    #[error("AMF0 has an unknown marker {0:#04x}")]
    AmfMarker(u8),
    /// More than [`Limits::amf_nesting`](crate::Limits::amf_nesting).
    #[error("AMF0 is nested deeper than the limit")]
    AmfNesting,
    /// More than [`Limits::amf_values`](crate::Limits::amf_values).
    #[error("AMF0 has more values than the limit")]
    AmfValues,
    /// A command message that does not begin with a name.
    #[error("a command has no name")]
    CommandWithoutName,
    /// A command that needs `connect` before it.
    #[error("the peer sent {0:?} before connect")]
    NotConnected(&'static str),
    /// `connect` for the second time.
    #[error("the peer sent connect twice")]
    ConnectedTwice,
    /// More than [`Limits::message_streams`](crate::Limits::message_streams).
    #[error("the peer opens more message streams than the limit")]
    TooManyMessageStreams,
    /// Longer than [`Limits::text`](crate::Limits::text).
    #[error("the peer's {0} is longer than the limit")]
    TextTooLong(&'static str),
    /// More than [`Limits::held`](crate::Limits::held).
    #[error("the peer sends on before its request is answered, more than the limit")]
    Impatient,
    /// More than [`Limits::replies`](crate::Limits::replies).
    #[error("the peer asks for more answers at once than the limit")]
    TooManyReplies,
    /// More than [`Limits::events`](crate::Limits::events).
    #[error("the peer sends more messages at once than the limit")]
    TooManyEvents,
    /// An audio or video body that its format does not allow. Only this message is lost.
    #[error("{} message: {what}", track.as_str())]
    Body {
        /// Which track.
        track: Track,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Error {
    /// The word in logs and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NotRtmp => "not_rtmp",
            Self::Handshake(_) => "handshake",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::RequestTimeout => "request_timeout",
            Self::ChunkSize(_) => "chunk_size",
            Self::HeaderMissing(_) => "header_missing",
            Self::HeaderInsideMessage(_) => "header_inside_message",
            Self::MessageTooLarge { .. } => "message_too_large",
            Self::TooManyChunkStreams => "chunk_streams",
            Self::TooManyPartialMessages => "partial_messages",
            Self::PartialBytes => "partial_bytes",
            Self::Truncated(_) => "truncated",
            Self::AmfTruncated => "amf_truncated",
            Self::AmfMarker(_) => "amf_marker",
            Self::AmfNesting => "amf_nesting",
            Self::AmfValues => "amf_values",
            Self::CommandWithoutName => "command_without_name",
            Self::NotConnected(_) => "not_connected",
            Self::ConnectedTwice => "connected_twice",
            Self::TooManyMessageStreams => "message_streams",
            Self::TextTooLong(_) => "text_too_long",
            Self::Impatient => "impatient",
            Self::TooManyReplies => "replies",
            Self::TooManyEvents => "events",
            Self::Body { .. } => "body",
        }
    }
}
