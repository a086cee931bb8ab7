//! What ffmpeg, VLC and librtmp send to play, and what they get.

use bytes::BytesMut;
use rml_amf0::Amf0Value;
use rml_rtmp::messages::RtmpMessage;
use spyglass_rtmp::wire::{self, Kind, PUSH_CHUNK_SIZE};
use spyglass_rtmp::{Event, Refusal};

use crate::peer::{Peer, key_frame, metadata, number, text};

fn playing() -> Peer {
    let mut peer = Peer::with_stream();
    let request = peer.play("id?token=viewer");
    assert_eq!(request.token.as_deref(), Some("viewer"));
    peer.server.accept(peer.now, request.id).unwrap();
    let told = peer.told();
    assert_eq!(
        told,
        ["StreamBegin", "onStatus NetStream.Play.Reset", "onStatus NetStream.Play.Start"]
    );
    peer
}

#[test]
fn a_player_is_answered_when_the_caller_says_so() {
    let mut peer = playing();
    peer.command(0, "getStreamLength", 9.0, vec![Amf0Value::Null, text("id")]).unwrap();
    peer.command(0, "FCSubscribe", 0.0, vec![Amf0Value::Null, text("id")]).unwrap();
    peer.message(4, 0, 0, &[0, 3, 0, 0, 0, 1, 0, 0, 0x0b, 0xb8]).unwrap();
    assert_eq!(peer.told(), ["_result 9", "onFCSubscribe NetStream.Play.Start"]);
    peer.command(0, "deleteStream", 0.0, vec![Amf0Value::Null, number(1.0)]).unwrap();
    assert_eq!(peer.events(), [Event::Stopped]);
}

#[test]
fn shared_messages_stand_between_the_connections_own() {
    let mut peer = playing();
    let frame = key_frame(PUSH_CHUNK_SIZE + 1000);
    let mut shared = BytesMut::new();
    wire::write_message(&mut shared, Kind::Data, 0, &metadata());
    wire::write_message(&mut shared, Kind::Video, 0x0100_0000, &frame);
    wire::write_message(&mut shared, Kind::Audio, 0x0100_0017, &[0xaf, 1, 3]);
    peer.server.ping(peer.now);
    let mut output = shared.to_vec();
    output.extend(peer.server.take_output());
    output.extend(&shared[..]);
    let got = peer.read(&output);
    assert_eq!(got.len(), 7);
    assert!(matches!(&got[1], RtmpMessage::VideoData { data } if *data == frame));
    assert!(matches!(&got[3], RtmpMessage::UserControl { .. }));
    assert_eq!(got[..3], got[4..]);
}

#[test]
fn the_end_is_told_to_players_only() {
    let mut peer = playing();
    peer.server.end_play();
    peer.server.end_play();
    assert_eq!(peer.told(), ["StreamEof", "onStatus NetStream.Play.UnpublishNotify"]);
    let mut publisher = Peer::publishing();
    publisher.server.end_play();
    assert_eq!(publisher.told(), [""; 0]);
}

#[test]
fn a_refused_player_is_told_why() {
    for (refusal, code) in [
        (Refusal::PlayDenied, "onStatus NetStream.Play.Denied"),
        (Refusal::PlayStreamNotFound, "onStatus NetStream.Play.StreamNotFound"),
    ] {
        let mut peer = Peer::with_stream();
        let request = peer.play("id");
        peer.server.reject(request.id, refusal, "because");
        assert_eq!(peer.told(), [code]);
    }
}

#[test]
fn only_the_first_stream_plays() {
    let mut peer = Peer::with_stream();
    peer.command(0, "createStream", 3.0, vec![Amf0Value::Null]).unwrap();
    peer.answers();
    peer.command(2, "play", 3.0, vec![Amf0Value::Null, text("id")]).unwrap();
    assert_eq!(
        (peer.told(), peer.events()),
        (vec!["onStatus NetStream.Play.Failed".into()], vec![])
    );
}

#[test]
fn a_player_that_sends_media_is_not_heard() {
    let mut peer = playing();
    peer.message(9, 1, 0, &key_frame(100)).unwrap();
    assert_eq!(peer.events(), []);
}
