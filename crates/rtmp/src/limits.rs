//! What a peer may ask of us; tested at n and at n + 1.

use std::time::Duration;

/// The bounds of one connection. Sizes are in bytes.
///
/// The defaults fit every encoder and player that we know of; rates and
/// connections per address are the caller's to bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the connection's start to the end of the handshake.
    pub handshake: Duration,
    /// From the end of the handshake to `publish` or `play`, for a client to
    /// its answer; again after a stream was stopped.
    pub request: Duration,
    /// Largest chunk size that a peer may set; the smallest is [`Limits::MIN_CHUNK_SIZE`].
    pub chunk_size: usize,
    /// Chunk streams that a peer may use.
    pub chunk_streams: usize,
    /// Unfinished messages at a time.
    pub partial_messages: usize,
    /// The sizes of unfinished messages together.
    pub partial_bytes: usize,
    /// A protocol or user control message.
    pub control_message: usize,
    /// A command, a data message, or one of a type that we pass over.
    pub amf_message: usize,
    /// An audio message.
    pub audio_message: usize,
    /// A video or aggregate message.
    pub video_message: usize,
    /// Objects and arrays within one another in AMF0.
    pub amf_nesting: usize,
    /// Values in one AMF0 message, nested ones included.
    pub amf_values: usize,
    /// Message streams open at a time.
    pub message_streams: usize,
    /// The application, the stream's name or the URL of a request.
    pub text: usize,
    /// Input kept while a request is not answered.
    pub held: usize,
    /// Answers that the caller has not yet taken to write them out.
    pub replies: usize,
    /// Events that the caller has not yet taken.
    pub events: usize,
}

impl Limits {
    /// Smallest chunk size that a peer may set, which is RTMP's initial one:
    /// less only multiplies headers.
    pub const MIN_CHUNK_SIZE: usize = 128;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            request: Duration::from_secs(10),
            chunk_size: 1 << 20,
            chunk_streams: 64,
            partial_messages: 16,
            partial_bytes: 6 << 20,
            control_message: 16,
            amf_message: 64 << 10,
            audio_message: 256 << 10,
            video_message: 4 << 20,
            amf_nesting: 16,
            amf_values: 1024,
            message_streams: 4,
            text: 2048,
            held: 256 << 10,
            replies: 256 << 10,
            events: 16 << 10,
        }
    }
}
