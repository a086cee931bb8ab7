use proptest::prelude::*;

use super::*;

/// One message on one chunk stream.
#[derive(Clone, Debug)]
struct Sent {
    chunk_stream: u32,
    whole: Whole,
}

fn message(kind: u8, timestamp: u32, body: impl Into<Bytes>) -> Whole {
    Whole { kind, timestamp, stream: 1, body: body.into() }
}

fn basic(format: u8, id: u32) -> Vec<u8> {
    match id {
        2..64 => vec![format << 6 | id as u8],
        64..320 => vec![format << 6, (id - 64) as u8],
        _ => vec![format << 6 | 1, (id - 64) as u8, ((id - 64) >> 8) as u8],
    }
}

/// An independent writer that compresses headers as far as RTMP allows.
#[derive(Default)]
struct Writer {
    previous: Vec<(u32, Whole, u32)>,
    /// Repeats extended time stamps in type 3 headers.
    repeats: bool,
    /// Never compresses: type 0 each time.
    plain: bool,
}

impl Writer {
    fn chunks(&mut self, id: u32, whole: &Whole, chunk_size: usize) -> Vec<Vec<u8>> {
        let previous = self.previous.iter().position(|(stream, ..)| *stream == id);
        let previous = previous.map(|index| self.previous.remove(index));
        let (format, field) = match &previous {
            Some((_, before, last_field)) if !self.plain && before.stream == whole.stream => {
                let step = whole.timestamp.wrapping_sub(before.timestamp);
                let same = before.kind == whole.kind && before.body.len() == whole.body.len();
                (
                    if !same {
                        1
                    } else if step != *last_field {
                        2
                    } else {
                        3
                    },
                    step,
                )
            }
            _ => (0, whole.timestamp),
        };
        self.previous.push((id, whole.clone(), field));

        let mut header = basic(format, id);
        if format < 3 {
            header.extend(&field.min(EXTENDED).to_be_bytes()[1..]);
        }
        if format < 2 {
            header.extend(&(whole.body.len() as u32).to_be_bytes()[1..]);
            header.push(whole.kind);
        }
        if format == 0 {
            header.extend(whole.stream.to_le_bytes());
        }
        if field >= EXTENDED && (format < 3 || self.repeats) {
            header.extend(field.to_be_bytes());
        }
        let mut pieces = whole.body.chunks(chunk_size);
        header.extend(pieces.next().unwrap_or_default());
        let mut chunks = vec![header];
        for piece in pieces {
            let mut chunk = basic(3, id);
            if field >= EXTENDED && self.repeats {
                chunk.extend(field.to_be_bytes());
            }
            chunk.extend(piece);
            chunks.push(chunk);
        }
        chunks
    }
}

fn reader() -> Reader {
    let mut reader = Reader::new();
    reader.allow_media(true);
    reader
}

fn read_all(reader: &mut Reader, mut input: &[u8]) -> Result<Vec<Whole>, Error> {
    let limits = Limits::default();
    let mut messages = Vec::new();
    while let Some(whole) = reader.read(&mut input, &limits)? {
        messages.push(whole);
    }
    assert!(input.is_empty());
    Ok(messages)
}

/// The first chunk of a message on a stream, with less than all of its body.
fn opening(id: u32, kind: u8, length: usize) -> Vec<u8> {
    let mut chunk = basic(0, id);
    chunk.extend([0, 0, 0]);
    chunk.extend(&(length as u32).to_be_bytes()[1..]);
    chunk.push(kind);
    chunk.extend([1, 0, 0, 0]);
    chunk.extend(vec![9; length.min(128)]);
    chunk
}

#[test]
fn interleaved_messages_stay_apart() {
    let video = message(kind::VIDEO, 40, vec![1; 300]);
    let audio = message(kind::AUDIO, 40, vec![2; 200]);
    let mut writer = Writer::default();
    let video_chunks = writer.chunks(6, &video, 128);
    let audio_chunks = writer.chunks(4, &audio, 128);
    let wire =
        [&video_chunks[0], &audio_chunks[0], &video_chunks[1], &audio_chunks[1], &video_chunks[2]];
    let wire: Vec<u8> = wire.into_iter().flatten().copied().collect();
    assert_eq!(read_all(&mut reader(), &wire), Ok(vec![audio, video]));
}

#[test]
fn a_type_3_message_steps_on_by_the_last_field() {
    let mut wire = basic(0, 4);
    wire.extend([0, 0, 10, 0, 0, 1, kind::AUDIO, 1, 0, 0, 0, 7]);
    wire.extend([0xc4, 7]);
    wire.extend([0x84, 0, 0, 5, 7]);
    wire.extend([0xc4, 7]);
    let times: Vec<u32> =
        read_all(&mut reader(), &wire).unwrap().iter().map(|whole| whole.timestamp).collect();
    assert_eq!(times, [10, 20, 25, 30]);
}

#[test]
fn extended_time_stamps_are_read_in_both_styles() {
    for timestamp in [EXTENDED, EXTENDED + 1, u32::MAX] {
        // Bodies that begin their later chunks with nearly the same bytes.
        let [a, b, c, _] = timestamp.to_be_bytes();
        for tail in [&[a][..], &[a, b], &[a, b, c], &[a, b, c, 77], &[5], &[a, b, c, 77, 1, 2]] {
            for repeats in [false, true] {
                let mut writer = Writer { repeats, ..Writer::default() };
                let first = message(kind::VIDEO, timestamp, [&[3; 128], tail].concat());
                let second = message(kind::VIDEO, timestamp.wrapping_add(40), vec![4; 3]);
                let mut wire = writer.chunks(6, &first, 128).concat();
                wire.extend(writer.chunks(6, &second, 128).concat());
                let got = read_all(&mut reader(), &wire);
                assert_eq!(got, Ok(vec![first, second]), "{timestamp:#x} {tail:?} {repeats}");
            }
        }
    }
}

#[test]
fn a_header_that_looks_like_a_time_stamp_is_found_again() {
    // One payload byte is left, it equals the time stamp's first, and the next
    // chunk's header begins with the second.
    let timestamp = u32::from_be_bytes([6, 6, 1, 0]);
    let mut writer = Writer { plain: true, ..Writer::default() };
    let first = message(kind::VIDEO, timestamp, [&[3; 128], &[6][..]].concat());
    let second = message(kind::VIDEO, 0, vec![8]);
    let mut wire = writer.chunks(6, &first, 128).concat();
    wire.extend(writer.chunks(6, &second, 128).concat());
    assert_eq!(read_all(&mut reader(), &wire), Ok(vec![first, second]));
}

#[test]
fn an_empty_message_is_a_message() {
    let empty = message(kind::AUDIO, 5, vec![]);
    let wire = Writer::default().chunks(4, &empty, 128).concat();
    assert_eq!(read_all(&mut reader(), &wire), Ok(vec![empty]));
}

#[test]
fn an_aborted_message_is_forgotten_and_its_budget_freed() {
    let mut reader = reader();
    read_all(&mut reader, &opening(6, kind::VIDEO, 4 << 20)).unwrap();
    reader.abort(99);
    assert_eq!((reader.partial, reader.partial_bytes), (1, 4 << 20));
    reader.abort(6);
    assert_eq!((reader.partial, reader.partial_bytes), (0, 0));
    let next = message(kind::VIDEO, 1, vec![1]);
    let wire = Writer::default().chunks(6, &next, 128).concat();
    assert_eq!(read_all(&mut reader, &wire), Ok(vec![next]));
}

#[test]
fn a_chunk_stream_must_say_what_it_carries() {
    for format in [2, 3] {
        let wire = [basic(format, 9), vec![0; 20]].concat();
        assert_eq!(read_all(&mut reader(), &wire), Err(Error::HeaderMissing(9)));
    }
    // librtmp's first message on chunk stream 2.
    let wire = [&basic(1, 2)[..], &[0, 0, 0, 0, 0, 1, 4, 9]].concat();
    let expected = Whole { kind: 4, timestamp: 0, stream: 0, body: Bytes::from_static(&[9]) };
    assert_eq!(read_all(&mut reader(), &wire), Ok(vec![expected]));
}

#[test]
fn a_new_header_inside_a_message_is_refused() {
    for format in [0, 1, 2] {
        let wire = [opening(6, kind::VIDEO, 300), basic(format, 6), vec![0; 20]].concat();
        assert_eq!(read_all(&mut reader(), &wire), Err(Error::HeaderInsideMessage(6)));
    }
}

#[test]
fn chunk_sizes_at_the_bounds_and_beyond() {
    let limits = Limits::default();
    for size in [128, 65_536, 1 << 20] {
        assert_eq!(reader().set_chunk_size(size, &limits), Ok(()));
    }
    for size in [0, 1, 127, (1 << 20) + 1, 1 << 31, u32::MAX] {
        assert_eq!(reader().set_chunk_size(size, &limits), Err(Error::ChunkSize(size)));
    }
}

#[test]
fn a_new_chunk_size_holds_from_the_next_chunk() {
    let mut reader = reader();
    let mut wire = opening(6, kind::VIDEO, 300);
    assert_eq!(read_all(&mut reader, &wire), Ok(vec![]));
    reader.set_chunk_size(4096, &Limits::default()).unwrap();
    wire = [basic(3, 6), vec![9; 172]].concat();
    let expected = Whole { stream: 1, ..message(kind::VIDEO, 0, vec![9; 300]) };
    assert_eq!(read_all(&mut reader, &wire), Ok(vec![expected]));
}

#[test]
fn sizes_at_the_limit_and_beyond() {
    for (kind, media, limit) in [
        (kind::SET_CHUNK_SIZE, true, 16),
        (kind::USER_CONTROL, true, 16),
        (kind::PEER_BANDWIDTH, true, 16),
        (kind::AUDIO, true, 256 << 10),
        (kind::AUDIO, false, 64 << 10),
        (kind::VIDEO, true, 4 << 20),
        (kind::VIDEO, false, 64 << 10),
        (kind::AGGREGATE, true, 4 << 20),
        (kind::AGGREGATE, false, 64 << 10),
        (kind::DATA, true, 64 << 10),
        (kind::COMMAND, true, 64 << 10),
        (kind::COMMAND_AMF3, true, 64 << 10),
        (0, true, 64 << 10),
        (255, true, 64 << 10),
    ] {
        let mut reader = Reader::new();
        reader.allow_media(media);
        assert!(read_all(&mut reader, &opening(6, kind, limit)).is_ok(), "{kind}");
        let length = limit + 1;
        let expected = Error::MessageTooLarge { kind, length, limit };
        assert_eq!(read_all(&mut reader, &opening(7, kind, length)), Err(expected));
    }
}

#[test]
fn chunk_streams_at_the_limit_and_beyond() {
    let mut reader = reader();
    for id in 0..64 {
        let wire = opening(2 + 1000 * id, kind::DATA, 1);
        assert_eq!(read_all(&mut reader, &wire).map(|messages| messages.len()), Ok(1));
    }
    assert_eq!(
        read_all(&mut reader, &opening(65_599, kind::DATA, 1)),
        Err(Error::TooManyChunkStreams)
    );
}

#[test]
fn unfinished_messages_at_the_limit_and_beyond() {
    let mut reader = reader();
    for id in 0..16 {
        assert_eq!(read_all(&mut reader, &opening(10 + id, kind::DATA, 200)), Ok(vec![]));
    }
    assert_eq!(
        read_all(&mut reader, &opening(40, kind::DATA, 200)),
        Err(Error::TooManyPartialMessages)
    );
}

#[test]
fn unfinished_bytes_at_the_limit_and_beyond() {
    for (last, expected) in [(2 << 20, Ok(vec![])), ((2 << 20) + 1, Err(Error::PartialBytes))] {
        let mut reader = reader();
        read_all(&mut reader, &opening(10, kind::VIDEO, 4 << 20)).unwrap();
        assert_eq!(read_all(&mut reader, &opening(11, kind::VIDEO, last)), expected);
    }
}

/// A time stamp whose first bytes are also payload and a header in the test
/// below, and whose third begins no header in it.
const LOOKALIKE: u32 = 0x0606_4d00;

fn sent() -> impl Strategy<Value = Sent> {
    let id = prop_oneof![2u32..5, Just(6), Just(63), Just(64), Just(319), Just(320), Just(65_599)];
    let kind = prop_oneof![Just(kind::AUDIO), Just(kind::VIDEO), Just(kind::DATA), Just(77u8)];
    let timestamp = prop_oneof![
        0u32..200,
        EXTENDED - 2..EXTENDED + 2,
        u32::MAX - 50..=u32::MAX,
        Just(LOOKALIKE),
        any::<u32>()
    ];
    let body = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..5),
        proptest::collection::vec(any::<u8>(), 0..600),
        (0usize..300).prop_map(|length| vec![6; length]),
        (0usize..300).prop_map(|length| vec![0; length]),
    ];
    (id, kind, timestamp, 0u32..3, body).prop_map(
        |(chunk_stream, kind, timestamp, stream, body)| Sent {
            chunk_stream,
            whole: Whole { kind, timestamp, stream, body: body.into() },
        },
    )
}

proptest! {
    /// Any order of chunks and any split of the bytes gives every chunk
    /// stream's messages, in its order. With `repeats` off a body whose chunk
    /// begins with the very time stamp cannot be told apart, by anybody.
    #[test]
    fn any_interleaving_and_split_gives_the_same_messages(
        messages in proptest::collection::vec(sent(), 1..12),
        order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..200),
        cuts in proptest::collection::vec(1usize..400, 1..50),
        repeats in any::<bool>(),
        plain in any::<bool>(),
    ) {
        let lookalike = LOOKALIKE.to_be_bytes();
        let ambiguous =
            |sent: &Sent| sent.whole.body.chunks(128).any(|chunk| chunk.starts_with(&lookalike));
        prop_assume!(repeats || !messages.iter().any(ambiguous));
        let mut writer = Writer { repeats, plain, ..Writer::default() };
        let mut queues: Vec<(u32, std::collections::VecDeque<Vec<u8>>)> = Vec::new();
        for sent in &messages {
            let chunks = writer.chunks(sent.chunk_stream, &sent.whole, 128);
            match queues.iter_mut().find(|(id, _)| *id == sent.chunk_stream) {
                Some((_, queue)) => queue.extend(chunks),
                None => queues.push((sent.chunk_stream, chunks.into())),
            }
        }
        let mut wire = Vec::new();
        let mut order = order.into_iter();
        while !queues.is_empty() {
            let next = order.next().map_or(0, |index| index.index(queues.len()));
            match queues[next].1.pop_front() {
                Some(chunk) => wire.extend(chunk),
                None => drop(queues.remove(next)),
            }
        }

        // A body's end that may yet be a time stamp is only told by what follows.
        let last = message(kind::DATA, 0, vec![]);
        wire.extend(Writer::default().chunks(50, &last, 128).concat());

        let mut reader = reader();
        let mut got = Vec::new();
        let mut cuts = cuts.into_iter().cycle();
        let mut rest = &wire[..];
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(cuts.next().unwrap().min(rest.len()));
            got.extend(read_all(&mut reader, piece).unwrap());
            rest = behind;
        }
        prop_assert_eq!((reader.partial, reader.partial_bytes), (0, 0));
        let key = |whole: &Whole| (whole.kind, whole.timestamp, whole.stream, whole.body.clone());
        let mut got: Vec<_> = got.iter().map(key).collect();
        let mut expected: Vec<_> = messages.iter().map(|sent| &sent.whole).chain([&last]).map(key).collect();
        got.sort();
        expected.sort();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn no_bytes_panic_or_keep_more_than_the_limit(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        few in any::<bool>(),
    ) {
        // With few chunk streams, so that bytes get somewhere.
        let bytes: Vec<u8> = bytes.iter().map(|byte| if few { byte & 0xc7 } else { *byte }).collect();
        let limits = Limits::default();
        let mut reader = reader();
        let mut input = &bytes[..];
        while let Ok(Some(_)) = reader.read(&mut input, &limits) {}
        let kept: usize = reader.streams.iter().filter_map(|stream| stream.body.as_ref()).map(Vec::capacity).sum();
        prop_assert!(kept <= limits.partial_bytes && reader.partial <= limits.partial_messages);
        prop_assert!(reader.streams.len() <= limits.chunk_streams);
    }
}
