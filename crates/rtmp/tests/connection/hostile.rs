//! What brought other servers down (and `rml_rtmp`'s session, which is why it
//! is not used), each as far as a connection without a token can send it.

use proptest::prelude::*;
use rml_amf0::Amf0Value;
use spyglass_rtmp::{Error, Event, Limits};

use crate::peer::{
    AUDIO, COMMAND, DATA, Peer, VIDEO, command, key_frame, number, object, text, wire,
};

#[test]
fn a_command_with_fewer_than_three_values() {
    for values in [
        vec![text("connect")],
        vec![text("connect"), number(1.0)],
        vec![text("createStream")],
        vec![text("publish")],
        vec![text("deleteStream")],
        vec![text("x")],
        vec![text("_result")],
        vec![text("onStatus")],
    ] {
        let body = rml_amf0::serialize(&values).unwrap();
        let mut peer = Peer::with_stream();
        assert_eq!(peer.message(COMMAND, 1, 0, &body).is_err(), values[0] == text("connect"));
        let _ = Peer::new().message(COMMAND, 0, 0, &body);
    }
    for values in [vec![], vec![number(1.0)], vec![Amf0Value::Null, text("connect")]] {
        let body = rml_amf0::serialize(&values).unwrap();
        assert_eq!(Peer::new().message(COMMAND, 0, 0, &body), Err(Error::CommandWithoutName));
    }
}

#[test]
fn a_lone_set_data_frame() {
    let body = rml_amf0::serialize(&vec![text("@setDataFrame")]).unwrap();
    for mut peer in [Peer::new(), Peer::with_stream(), Peer::publishing()] {
        peer.message(DATA, 1, 0, &body).unwrap();
        assert_eq!(peer.events(), []);
    }
}

#[test]
fn amf0_nested_fourteen_thousand_deep() {
    let deep = b"\x03\x00\x01a".repeat(14_000);
    let body = [command("connect", 1.0, vec![]), deep.clone()].concat();
    assert_eq!(Peer::new().message(COMMAND, 0, 0, &body), Err(Error::AmfNesting));
    let metadata = [rml_amf0::serialize(&vec![text("onMetaData")]).unwrap(), deep].concat();
    let mut peer = Peer::publishing();
    peer.message(DATA, 1, 0, &metadata).unwrap();
    assert_eq!(peer.events(), [], "metadata that players could not read goes nowhere");
}

#[test]
fn a_chunk_size_of_zero() {
    for size in [0u32, 127, (1 << 20) + 1, 0x8000_0000] {
        let got = Peer::new().message(1, 0, 0, &size.to_be_bytes());
        assert_eq!(got, Err(Error::ChunkSize(size)));
    }
}

#[test]
fn a_million_streams() {
    let mut peer = Peer::with_stream();
    for _ in 0..3 {
        peer.command(0, "createStream", 1.0, vec![]).unwrap();
    }
    let expected = Err(Error::TooManyMessageStreams);
    assert_eq!(peer.command(0, "createStream", 1.0, vec![]), expected);

    // Freed ones count no more, and their ids come back.
    let mut peer = Peer::with_stream();
    for _ in 0..10_000 {
        peer.command(0, "deleteStream", 0.0, vec![Amf0Value::Null, number(1.0)]).unwrap();
        peer.command(0, "createStream", 1.0, vec![]).unwrap();
        peer.server.take_output();
    }
    assert_eq!(peer.publish("id").name, "id");
}

#[test]
fn stream_ids_that_are_no_ids() {
    let mut peer = Peer::publishing();
    for id in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300, 4_294_967_297.0] {
        peer.command(0, "deleteStream", 0.0, vec![Amf0Value::Null, number(id)]).unwrap();
    }
    assert_eq!(peer.events(), []);
}

#[test]
fn sixty_five_thousand_chunk_streams() {
    let mut peer = Peer::new();
    let mut opened = 0;
    let result = (0..65_000u32).try_for_each(|id| {
        let [_, _, high, low] = id.to_be_bytes();
        opened += 1;
        peer.bytes(&[1, low, high, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 0])
    });
    assert_eq!((result, opened), (Err(Error::TooManyChunkStreams), 65));
}

#[test]
fn an_extended_time_stamp_that_is_small_and_steps_that_overflow() {
    let mut peer = Peer::publishing();
    let mut bytes = vec![4, 0xff, 0xff, 0xff, 0, 0, 1, AUDIO, 1, 0, 0, 0, 0, 0, 0, 5, 9];
    bytes.extend([0x44, 0xff, 0xff, 0xff, 0, 0, 1, AUDIO, 0, 0, 0, 7, 9]);
    bytes.extend([0x84, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 9]);
    bytes.extend([0xc4, 9]);
    peer.bytes(&bytes).unwrap();
    // One more message tells whether the last was short of a time stamp.
    peer.message(AUDIO, 1, 50, &[]).unwrap();
    let times: Vec<u32> = peer
        .events()
        .iter()
        .map(|event| match event {
            Event::Media(message) => message.timestamp,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(times, [5, 12, 11, 10, 50]);
}

#[test]
fn media_before_a_publish_is_no_larger_than_a_command() {
    let mut peer = Peer::with_stream();
    let declared = |length: u32| {
        let [_, a, b, c] = length.to_be_bytes();
        [6, 0, 0, 0, a, b, c, VIDEO, 1, 0, 0, 0]
    };
    peer.bytes(&declared(64 << 10)).unwrap();
    let mut peer = Peer::with_stream();
    assert!(matches!(
        peer.bytes(&declared((64 << 10) + 1)),
        Err(Error::MessageTooLarge { kind: VIDEO, .. })
    ));
    let mut peer = Peer::publishing();
    peer.bytes(&declared(4 << 20)).unwrap();
    let mut peer = Peer::publishing();
    assert!(peer.bytes(&declared((4 << 20) + 1)).is_err());
    let mut peer = Peer::publishing();
    peer.command(1, "closeStream", 0.0, vec![]).unwrap();
    assert!(peer.bytes(&declared((64 << 10) + 1)).is_err());
}

#[test]
fn commands_out_of_order() {
    for verb in ["createStream", "publish", "play"] {
        let got = Peer::new().command(1, verb, 1.0, vec![Amf0Value::Null, text("id")]);
        assert!(matches!(got, Err(Error::NotConnected(name)) if name == verb));
    }
    let connect = || vec![object(&[("app", text("live"))])];
    let got = Peer::with_stream().command(0, "connect", 1.0, connect());
    assert_eq!(got, Err(Error::ConnectedTwice));
}

#[test]
fn texts_beyond_the_limit() {
    let long = "a".repeat(2049);
    for member in ["app", "tcUrl"] {
        let got = Peer::new().command(0, "connect", 1.0, vec![object(&[(member, text(&long))])]);
        assert!(matches!(got, Err(Error::TextTooLong(_))), "{member}");
    }
    let got = Peer::with_stream().command(1, "publish", 1.0, vec![Amf0Value::Null, text(&long)]);
    assert!(matches!(got, Err(Error::TextTooLong(_))));
}

#[test]
fn more_behind_a_request_than_is_held() {
    let mut peer = Peer::with_stream();
    peer.publish("id");
    let held = Limits::default().held;
    peer.bytes(&vec![0; held - 1]).unwrap();
    peer.bytes(&[0]).unwrap();
    assert_eq!(peer.bytes(&[0]), Err(Error::Impatient));
}

#[test]
fn a_peer_that_pings_and_reads_nothing() {
    let mut peer = Peer::new();
    let pings = wire(4, 0, 0, &[0, 6, 0, 0, 0, 0]).repeat(1000);
    let result = (0..1000).try_for_each(|_| peer.bytes(&pings));
    assert_eq!(result, Err(Error::TooManyReplies));
    assert!(peer.server.take_output().len() < Limits::default().replies + 100);
}

#[test]
fn a_flood_of_empty_messages() {
    let mut peer = Peer::publishing();
    peer.message(AUDIO, 1, 0, &[]).unwrap();
    let limit = Limits::default().events;
    peer.bytes(&vec![0xc3; limit - 1]).unwrap();
    assert_eq!(peer.bytes(&[0xc3]), Err(Error::TooManyEvents));
    assert_eq!(peer.events().len(), limit);
}

#[test]
fn control_messages_too_short() {
    for kind in [1, 2, 5, 6] {
        for length in 0..4 {
            let got = Peer::new().message(kind, 0, 0, &[0; 4][..length]);
            assert_eq!(got, Err(Error::Truncated(kind)));
        }
    }
    assert_eq!(Peer::new().message(4, 0, 0, &[0]), Err(Error::Truncated(4)));
}

#[test]
fn what_is_no_rtmp() {
    for hello in [&b"GET / HTTP/1.1\r\n"[..], &[0x16, 3, 1], &[6; 1537]] {
        let now = std::time::Instant::now();
        let mut server = spyglass_rtmp::Server::new(Limits::default(), now);
        assert_eq!(server.on_bytes(now, hello), Err(Error::NotRtmp));
    }
}

#[test]
fn a_clean_publish_beside_all_of_it_loses_nothing() {
    let mut clean = Peer::publishing();
    for size in [0, 1, 127, 128, 129, 5000, 100_000] {
        let mut noisy = Peer::publishing();
        let _ = noisy.bytes(&vec![0x83; size]);
        let frame = key_frame(size);
        clean.message(VIDEO, 1, 0, &frame).unwrap();
        assert!(matches!(&clean.events()[..], [Event::Media(message)] if message.body == frame));
    }
}

/// What lets a random body get somewhere.
const OPENINGS: [&[u8]; 5] = [
    b"",
    b"\x02\0\x07connect\0",
    b"\x02\0\x07publish\0",
    b"\x02\0\x0cdeleteStream\0",
    b"\x02\0\x0d@setDataFrame",
];

proptest! {
    #[test]
    fn no_bytes_panic_at_any_stage(
        bytes in proptest::collection::vec(any::<u8>(), 0..4000),
        stage in 0..4,
    ) {
        let mut peer = match stage {
            0 => Peer::new(),
            1 => Peer::with_stream(),
            2 => Peer::publishing(),
            _ => {
                let now = std::time::Instant::now();
                let mut server = spyglass_rtmp::Server::new(Limits::default(), now);
                let _ = server.on_bytes(now, &[&[3], &bytes[..]].concat());
                return Ok(());
            }
        };
        let _ = peer.bytes(&bytes);
        peer.events();
    }

    #[test]
    fn no_message_panics(
        kind in prop_oneof![0u8..23, any::<u8>()],
        stream in 0u32..3,
        body in proptest::collection::vec(any::<u8>(), 0..300),
        opening in proptest::sample::select(&OPENINGS[..]),
    ) {
        let mut peer = Peer::publishing();
        let _ = peer.message(kind, stream, 0, &[opening, &body].concat());
    }
}
