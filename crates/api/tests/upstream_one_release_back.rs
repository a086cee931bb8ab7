//! One release back: recorded messages of `spyglass.upstream.v1` are understood,
//! whatever was added since; and so are messages of a later one. What an origin
//! does with such a Watch and Fetch is tested where that is made.

use prost::Message;
use spyglass_api::convert;
use spyglass_api::upstream::{
    BroadcastState, Chunk, Encoding, Expire, FetchRequest, FetchResponse, Init, Part, Playlist,
    Position, Version, WatchRequest, WatchResponse, fetch_request, fetch_response, watch_request,
    watch_response,
};

macro_rules! recorded {
    ($name:literal) => {
        understood(include_str!(concat!("recorded/upstream/", $name, ".hex")))
    };
}

/// As it was recorded, and the same with a field that no release has: number
/// 1000, two bytes of text.
fn understood<M: Message + Default + PartialEq + std::fmt::Debug>(hex: &str) -> M {
    let hex = hex.trim().as_bytes();
    let digit = |at: usize| char::from(hex[at]).to_digit(16).unwrap() as u8;
    let bytes = (0..hex.len()).step_by(2).map(|at| digit(at) << 4 | digit(at + 1));
    let mut bytes: Vec<u8> = bytes.collect();
    let whole = M::decode(&bytes[..]).unwrap();
    bytes.extend([0xc2, 0x3e, 2, b'h', b'i']);
    assert_eq!(M::decode(&bytes[..]).unwrap(), whole);
    whole
}

const BROADCAST: &str = "0123456789abc";
const NEWEST: Version = Version { epoch: 3, revision: 41 };

fn expire() -> Expire {
    Expire {
        broadcast: BROADCAST.to_owned(),
        version: Some(NEWEST),
        position: Some(Position { sequence: 12, part: Some(0) }),
        incarnation: 77,
    }
}

#[test]
fn what_an_edge_of_the_release_before_asks_is_understood() {
    let asked = |message: WatchRequest| message.request.unwrap();
    let watch_request::Request::Hello(hello) = asked(recorded!("watch-1-hello")) else {
        panic!("hello")
    };
    assert_eq!(convert::node(&hello.node).unwrap().as_str(), "edge-1");
    let watch_request::Request::Interest(interest) = asked(recorded!("watch-2-interest")) else {
        panic!("interest")
    };
    let holding = &interest.add[0];
    assert_eq!(convert::broadcast(&holding.broadcast).unwrap().as_str(), BROADCAST);
    assert_eq!(holding.version, Some(Version { epoch: 3, revision: 40 }));
    assert_eq!(holding.position, Some(Position { sequence: 11, part: None }), "a closed chunk");
    assert_eq!(interest.drop, ["cba9876543210"]);

    let fetched = |message: FetchRequest| {
        assert_eq!(message.broadcast, BROADCAST);
        assert!(message.path.is_empty(), "it came through no gateway");
        (message.object.unwrap(), message.least)
    };
    let (object, least) = fetched(recorded!("fetch-chunklist"));
    assert!(matches!(object, fetch_request::Object::Chunklist(_)));
    assert_eq!(least, Some(NEWEST));
    let (object, least) = fetched(recorded!("fetch-init"));
    assert_eq!((object, least), (fetch_request::Object::Init(Init { epoch: 3 }), None));
    let (object, _) = fetched(recorded!("fetch-chunk"));
    assert_eq!(object, fetch_request::Object::Chunk(Chunk { epoch: 3, sequence: 12 }));
    let (object, _) = fetched(recorded!("fetch-part"));
    assert_eq!(object, fetch_request::Object::Part(Part { epoch: 3, sequence: 12, part: 4 }));
}

#[test]
fn what_an_origin_of_the_release_before_says_is_understood() {
    let said = |message: WatchResponse| message.response.unwrap();
    let watch_response::Response::Snapshot(page) = said(recorded!("watched-snapshot")) else {
        panic!("snapshot")
    };
    let entry = &page.entries[0];
    assert_eq!((entry.broadcast.as_str(), entry.state()), (BROADCAST, BroadcastState::Live));
    assert_eq!((entry.private, entry.incarnation, entry.target_duration_ms), (true, 77, 4_000));
    assert_eq!(page.revocations[0].expires_at_ms, 1_800_000_000_000);
    assert!(page.last);
    let watch_response::Response::Change(entry) = said(recorded!("watched-change")) else {
        panic!("change")
    };
    assert_eq!((entry.state(), entry.private), (BroadcastState::Ended, false));
    let watch_response::Response::Revocation(gone) = said(recorded!("watched-revocation")) else {
        panic!("revocation")
    };
    assert_eq!(convert::viewer(&gone.viewer).unwrap().as_str(), "zyxwvutsrqpon");
    let watch_response::Response::Expire(told) = said(recorded!("watched-expire")) else {
        panic!("expire")
    };
    assert_eq!(told, expire());
    let watch_response::Response::Heartbeat(beat) = said(recorded!("watched-heartbeat")) else {
        panic!("heartbeat")
    };
    assert_eq!(beat.current, [expire()]);
    assert!(beat.adrift.is_empty(), "an origin vouches for its own");

    let came = |message: FetchResponse| message.response.unwrap();
    let fetch_response::Response::Header(header) = came(recorded!("fetched-header")) else {
        panic!("header")
    };
    assert_eq!((header.length, header.version, header.ended), (300, Some(NEWEST), true));
    assert_eq!((header.target_duration_ms, header.incarnation, header.age_ms), (4_000, 77, 250));
    let forms: Vec<_> =
        header.variants.iter().map(|it| (it.playlist(), it.encoding(), it.length)).collect();
    let expected =
        [(Playlist::Media, Encoding::Identity, 200), (Playlist::Multivariant, Encoding::Gzip, 100)];
    assert_eq!(forms, expected);
    // A list without parts, told by nobody but its origin, and no digest of it.
    assert_eq!((header.part_target_ms, header.last_parts, header.unconfirmed_ms), (0, 0, 0));
    assert!(header.digest.is_empty());
    let fetch_response::Response::Slice(slice) = came(recorded!("fetched-slice")) else {
        panic!("slice")
    };
    assert_eq!(&slice[..], b"#EXTM3U");
}
