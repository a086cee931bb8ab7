//! Messages to wire chunks (RTMP 5.3), written once for all viewers.
//!
//! Every message begins with a type 0 header and goes on with type 3, so its
//! bytes depend on nothing that was written before: the same bytes go to every
//! viewer, between whole messages of the viewer's own connection. Reading is
//! `chunk.rs`.

use bytes::{BufMut, BytesMut};

/// The chunk size that a [`Server`](crate::Server) announces before any play
/// starts, and what [`write_message`] cuts at.
///
/// Nearly every frame then is one chunk; players take up to 65,536.
pub const PUSH_CHUNK_SIZE: usize = 65_536;

/// The message stream that every play happens on.
pub const PUSH_STREAM_ID: u32 = 1;

/// Time stamps from here on do not fit the header (RTMP 5.3.1.3).
pub(crate) const EXTENDED: u32 = 0xff_ffff;

pub(crate) const CONTROL_CHUNK_STREAM: u8 = 2;
pub(crate) const COMMAND_CHUNK_STREAM: u8 = 3;

/// Message type ids (RTMP 5.4, 6.1, 7.1).
pub(crate) mod kind {
    pub const SET_CHUNK_SIZE: u8 = 1;
    pub const ABORT: u8 = 2;
    pub const ACKNOWLEDGEMENT: u8 = 3;
    pub const USER_CONTROL: u8 = 4;
    pub const WINDOW_SIZE: u8 = 5;
    pub const PEER_BANDWIDTH: u8 = 6;
    pub const AUDIO: u8 = 8;
    pub const VIDEO: u8 = 9;
    pub const DATA_AMF3: u8 = 15;
    pub const COMMAND_AMF3: u8 = 17;
    pub const DATA: u8 = 18;
    pub const COMMAND: u8 = 20;
    pub const AGGREGATE: u8 = 22;
}

/// What a shared message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An audio body.
    Audio,
    /// A video body.
    Video,
    /// AMF0 values, such as `onMetaData` and its object.
    Data,
}

impl Kind {
    /// Chunk stream and message type. A chunk stream for each, as encoders do.
    pub(crate) const fn ids(self) -> (u8, u8) {
        match self {
            Self::Audio => (4, kind::AUDIO),
            Self::Data => (5, kind::DATA),
            Self::Video => (6, kind::VIDEO),
        }
    }
}

/// Appends one message for stream [`PUSH_STREAM_ID`] in chunks of
/// [`PUSH_CHUNK_SIZE`]. Bodies of 16 MiB and more do not fit RTMP's length
/// field and are not written.
pub fn write_message(out: &mut BytesMut, kind: Kind, timestamp_ms: u32, body: &[u8]) {
    let (chunk_stream, kind) = kind.ids();
    let header = Header { chunk_stream, kind, timestamp: timestamp_ms, stream: PUSH_STREAM_ID };
    write_chunks(out, header, PUSH_CHUNK_SIZE, body);
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// 2 to 63, so that it fits the first byte.
    pub chunk_stream: u8,
    pub kind: u8,
    pub timestamp: u32,
    pub stream: u32,
}

pub(crate) fn write_chunks(out: &mut BytesMut, header: Header, chunk_size: usize, body: &[u8]) {
    debug_assert!((2..64).contains(&header.chunk_stream) && chunk_size > 0);
    if body.len() > 0xff_ffff {
        return;
    }
    let extended = header.timestamp >= EXTENDED;
    let continuations = body.len().saturating_sub(1) / chunk_size;
    out.reserve(16 + body.len() + 5 * continuations);

    out.put_u8(header.chunk_stream);
    out.put_uint(u64::from(header.timestamp.min(EXTENDED)), 3);
    out.put_uint(body.len() as u64, 3);
    out.put_u8(header.kind);
    out.put_u32_le(header.stream);
    if extended {
        out.put_u32(header.timestamp);
    }
    for (index, piece) in body.chunks(chunk_size).enumerate() {
        if index > 0 {
            out.put_u8(0xc0 | header.chunk_stream);
            // Adobe's, ffmpeg's and librtmp's readers expect it here again.
            if extended {
                out.put_u32(header.timestamp);
            }
        }
        out.put_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_message_is_one_chunk() {
        let mut out = BytesMut::new();
        write_message(&mut out, Kind::Audio, 0x01_0203, &[0xaf, 1, 9]);
        assert_eq!(out[..], [4, 1, 2, 3, 0, 0, 3, 8, 1, 0, 0, 0, 0xaf, 1, 9]);
    }

    #[test]
    fn an_empty_message_is_its_header() {
        let mut out = BytesMut::new();
        write_message(&mut out, Kind::Video, 0, &[]);
        assert_eq!(out[..], [6, 0, 0, 0, 0, 0, 0, 9, 1, 0, 0, 0]);
    }

    #[test]
    fn a_large_late_message_repeats_its_time_stamp() {
        let body = vec![7; PUSH_CHUNK_SIZE + 1];
        let mut out = BytesMut::new();
        write_message(&mut out, Kind::Video, EXTENDED, &body);
        assert_eq!(out[..4], [6, 0xff, 0xff, 0xff]);
        assert_eq!(out[12..16], [0, 0xff, 0xff, 0xff]);
        let rest = &out[16 + PUSH_CHUNK_SIZE..];
        assert_eq!(rest, [0xc6, 0, 0xff, 0xff, 0xff, 7]);
    }

    #[test]
    fn a_body_at_the_chunk_size_has_no_continuation() {
        let mut out = BytesMut::new();
        write_message(&mut out, Kind::Video, 0, &vec![7; PUSH_CHUNK_SIZE]);
        assert_eq!(out.len(), 12 + PUSH_CHUNK_SIZE);
    }

    #[test]
    fn a_body_beyond_the_length_field_is_not_written() {
        let mut out = BytesMut::new();
        write_message(&mut out, Kind::Video, 0, &vec![0; 1 << 24]);
        assert!(out.is_empty());
    }
}
