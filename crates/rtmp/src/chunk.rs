//! Wire chunks to messages (RTMP 5.3), per chunk stream and within limits.
//!
//! Chunks of different messages may interleave in any order and a message may
//! be split anywhere. A message's memory is taken once, when its size is known
//! and allowed; each byte is copied once, from the input into it. Writing is
//! `wire.rs`.

use bytes::Bytes;

use crate::wire::{EXTENDED, kind};
use crate::{Error, Limits};

/// Basic header 3, message header 11, extended time stamp 4.
const LONGEST_HEADER: usize = 18;

/// One whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    pub kind: u8,
    pub timestamp: u32,
    pub stream: u32,
    pub body: Bytes,
}

/// What a chunk stream remembers from header to header.
#[derive(Debug)]
struct ChunkStream {
    id: u32,
    kind: u8,
    length: usize,
    stream: u32,
    /// Of the newest message.
    timestamp: u32,
    /// The newest header's time field: a time stamp after type 0, else a step.
    field: u32,
    /// That field stood in an extended time stamp.
    extended: bool,
    /// The unfinished message.
    body: Option<Vec<u8>>,
}

/// Reassembles the messages of one direction of a connection.
#[derive(Debug)]
pub(crate) struct Reader {
    chunk_size: usize,
    /// Audio and video may be as large as media is; before, no larger than a command.
    media: bool,
    streams: Vec<ChunkStream>,
    /// The bytes of a header that are here.
    header: [u8; LONGEST_HEADER],
    have: usize,
    /// The chunk being read: index into `streams` and bytes to come.
    chunk: Option<(usize, usize)>,
    partial: usize,
    partial_bytes: usize,
}

impl Reader {
    pub fn new() -> Self {
        Self {
            chunk_size: Limits::MIN_CHUNK_SIZE,
            media: false,
            streams: Vec::new(),
            header: [0; LONGEST_HEADER],
            have: 0,
            chunk: None,
            partial: 0,
            partial_bytes: 0,
        }
    }

    /// The peer's chunks are this long from the next on.
    pub fn set_chunk_size(&mut self, size: u32, limits: &Limits) -> Result<(), Error> {
        match usize::try_from(size) {
            Ok(size) if (Limits::MIN_CHUNK_SIZE..=limits.chunk_size).contains(&size) => {
                self.chunk_size = size;
                Ok(())
            }
            _ => Err(Error::ChunkSize(size)),
        }
    }

    pub fn allow_media(&mut self, allow: bool) {
        self.media = allow;
    }

    /// Forgets the unfinished message of a chunk stream (RTMP 5.4.2).
    pub fn abort(&mut self, id: u32) {
        if let Some(index) = self.streams.iter().position(|stream| stream.id == id) {
            self.take_body(index);
        }
    }

    /// Reads on; takes what it reads off the input. `None` when that is empty.
    pub fn read(&mut self, input: &mut &[u8], limits: &Limits) -> Result<Option<Whole>, Error> {
        loop {
            if let Some((index, left)) = self.chunk {
                let (taken, rest) = input.split_at(left.min(input.len()));
                *input = rest;
                self.append(index, taken);
                let left = left - taken.len();
                if left > 0 {
                    self.chunk = Some((index, left));
                    return Ok(None);
                }
                self.chunk = None;
                if let Some(message) = self.finished(index) {
                    return Ok(Some(message));
                }
            }
            let length = loop {
                let length = self.header_length();
                if self.have >= length {
                    break length;
                }
                let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
                *input = rest;
                self.header[self.have] = byte;
                self.have += 1;
            };
            self.begin_chunk(length, limits)?;
        }
    }

    fn append(&mut self, index: usize, bytes: &[u8]) {
        if let Some(body) = &mut self.streams[index].body {
            body.extend_from_slice(bytes);
        }
    }

    fn take_body(&mut self, index: usize) -> Option<Vec<u8>> {
        let stream = &mut self.streams[index];
        let body = stream.body.take()?;
        self.partial -= 1;
        self.partial_bytes -= stream.length;
        Some(body)
    }

    fn finished(&mut self, index: usize) -> Option<Whole> {
        let stream = &self.streams[index];
        if stream.body.as_ref()?.len() < stream.length {
            return None;
        }
        let (kind, timestamp, stream) = (stream.kind, stream.timestamp, stream.stream);
        let body = Bytes::from(self.take_body(index)?);
        Some(Whole { kind, timestamp, stream, body })
    }

    /// Length of the basic header, and the chunk stream when all of it is here.
    fn basic_header(&self) -> (usize, Option<u32>) {
        let (first, second, third) =
            (self.header[0], u32::from(self.header[1]), u32::from(self.header[2]));
        let (length, id) = match first & 0x3f {
            0 => (2, 64 + second),
            1 => (3, 64 + second + 256 * third),
            id => (1, u32::from(id)),
        };
        (length, (self.have >= length).then_some(id))
    }

    /// How long the header is as far as the bytes that are here can tell:
    /// right as soon as that many are.
    fn header_length(&self) -> usize {
        if self.have == 0 {
            return 1;
        }
        let (basic, Some(id)) = self.basic_header() else { return self.basic_header().0 };
        let format = self.header[0] >> 6;
        let fixed = basic + [11, 7, 3, 0][usize::from(format)];
        if self.have < fixed {
            return fixed;
        }
        if format < 3 {
            return if self.header[basic..basic + 3] == [0xff; 3] { fixed + 4 } else { fixed };
        }
        // After an extended time stamp some peers repeat it in type 3 headers and some do not
        // (RTMP 5.3.1.3 is of the first opinion). It is there if it is the same one; the
        // first byte that differs is the payload's.
        match self.streams.iter().find(|stream| stream.id == id) {
            Some(stream) if stream.extended => {
                let repeated = stream.field.to_be_bytes();
                let seen = &self.header[basic..self.have.min(basic + 4)];
                if repeated.starts_with(seen) { basic + 4 } else { basic }
            }
            _ => basic,
        }
    }

    fn begin_chunk(&mut self, length: usize, limits: &Limits) -> Result<(), Error> {
        let (basic, id) = self.basic_header();
        let id = id.unwrap_or_default();
        let format = self.header[0] >> 6;
        let index = self.stream_index(id, format, limits)?;
        let stream = &mut self.streams[index];

        if format < 3 {
            if stream.body.is_some() {
                return Err(Error::HeaderInsideMessage(id));
            }
            let fixed = &self.header[basic..];
            let field = u32::from_be_bytes([0, fixed[0], fixed[1], fixed[2]]);
            stream.extended = field == EXTENDED;
            stream.field = match self.header[..length].last_chunk() {
                Some(bytes) if stream.extended => u32::from_be_bytes(*bytes),
                _ => field,
            };
            if format < 2 {
                stream.length = u32::from_be_bytes([0, fixed[3], fixed[4], fixed[5]]) as usize;
                stream.kind = fixed[6];
            }
            if format == 0 {
                stream.stream = u32::from_le_bytes([fixed[7], fixed[8], fixed[9], fixed[10]]);
            }
        }
        if stream.body.is_none() {
            // RTMP 5.3.1.2.4: a message that begins with type 3 steps on by
            // the last header's field, be that a time stamp.
            stream.timestamp = if format == 0 {
                stream.field
            } else {
                stream.timestamp.wrapping_add(stream.field)
            };
            self.begin_message(index, limits)?;
        }

        let stream = &mut self.streams[index];
        if let Some(body) = &mut stream.body {
            let payload = self.chunk_size.min(stream.length - body.len());
            // What was looked at for a repeated time stamp and is none: this chunk's
            // payload, and what may follow it the next header.
            let ahead = self.have - length;
            let here = ahead.min(payload);
            body.extend_from_slice(&self.header[length..length + here]);
            self.header.copy_within(length + here..self.have, 0);
            self.have = ahead - here;
            self.chunk = Some((index, payload - here));
        }
        Ok(())
    }

    fn stream_index(&mut self, id: u32, format: u8, limits: &Limits) -> Result<usize, Error> {
        if let Some(index) = self.streams.iter().position(|stream| stream.id == id) {
            return Ok(index);
        }
        // librtmp opens its control stream with a type 1 header.
        if format > 1 {
            return Err(Error::HeaderMissing(id));
        }
        if self.streams.len() >= limits.chunk_streams {
            return Err(Error::TooManyChunkStreams);
        }
        self.streams.push(ChunkStream {
            id,
            kind: 0,
            length: 0,
            stream: 0,
            timestamp: 0,
            field: 0,
            extended: false,
            body: None,
        });
        Ok(self.streams.len() - 1)
    }

    fn begin_message(&mut self, index: usize, limits: &Limits) -> Result<(), Error> {
        let stream = &mut self.streams[index];
        let (kind, length) = (stream.kind, stream.length);
        let limit = match kind {
            kind::SET_CHUNK_SIZE..=kind::PEER_BANDWIDTH => limits.control_message,
            kind::AUDIO if self.media => limits.audio_message,
            kind::VIDEO | kind::AGGREGATE if self.media => limits.video_message,
            _ => limits.amf_message,
        };
        if length > limit {
            return Err(Error::MessageTooLarge { kind, length, limit });
        }
        if self.partial >= limits.partial_messages {
            return Err(Error::TooManyPartialMessages);
        }
        if self.partial_bytes + length > limits.partial_bytes {
            return Err(Error::PartialBytes);
        }
        self.partial += 1;
        self.partial_bytes += length;
        stream.body = Some(Vec::with_capacity(length));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
