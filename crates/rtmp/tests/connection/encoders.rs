//! What OBS, ffmpeg, GStreamer and others send to publish.

use rml_amf0::Amf0Value;
use spyglass_media::Track;
use spyglass_rtmp::{Error, Event, Message, Refusal};

use crate::peer::{
    AUDIO, COMMAND, DATA, Peer, VIDEO, command, key_frame, metadata, number, object,
    set_data_frame, text, wire,
};

const START: [&str; 2] = ["StreamBegin", "onStatus NetStream.Publish.Start"];

#[test]
fn obs_goes_live_and_stops() {
    let mut peer = Peer::new();
    let connect = object(&[
        ("app", text("live")),
        ("type", text("nonprivate")),
        ("flashVer", text("FMLE/3.0 (compatible; FMSc/1.0)")),
        ("swfUrl", text("rtmp://origin/live")),
        ("tcUrl", text("rtmp://origin/live")),
    ]);
    // librtmp sets its chunk size before it connects.
    peer.bytes(&[2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0, 0x10, 0]).unwrap();
    peer.bytes(&whole(COMMAND, 0, &command("connect", 1.0, vec![connect]))).unwrap();
    assert_eq!(
        peer.told(),
        ["window 5000000", "bandwidth 5000000", "chunk size 65536", "_result 1"]
    );
    for (verb, transaction) in [("releaseStream", 2.0), ("FCPublish", 3.0)] {
        let values = vec![Amf0Value::Null, text("id?token=secret")];
        peer.bytes(&whole(COMMAND, 0, &command(verb, transaction, values))).unwrap();
    }
    peer.bytes(&whole(COMMAND, 0, &command("createStream", 4.0, vec![Amf0Value::Null]))).unwrap();
    assert_eq!(peer.told(), ["_result 2", "_result 3", "_result 4"]);

    let publish = vec![Amf0Value::Null, text("id?token=secret"), text("live")];
    peer.bytes(&whole(COMMAND, 1, &command("publish", 5.0, publish))).unwrap();
    assert!(peer.told().is_empty(), "nothing is answered before the caller does");
    let events = peer.events();
    let [Event::Publish(request)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&*request.app, &*request.name), ("live", "id"));
    assert_eq!(request.token.as_deref(), Some("secret"));
    assert_eq!(request.tc_url.as_deref(), Some("rtmp://origin/live"));

    peer.server.accept(peer.now, request.id).unwrap();
    assert_eq!(peer.told(), START);
    let frame = key_frame(3000);
    peer.bytes(&whole(DATA, 1, &set_data_frame())).unwrap();
    peer.bytes(&whole(VIDEO, 1, &frame)).unwrap();
    peer.bytes(&whole(AUDIO, 1, &[0xaf, 1, 5])).unwrap();
    let media = |track, body| Event::Media(Message { track, timestamp: 0, body });
    assert_eq!(
        peer.events(),
        [
            Event::Metadata(metadata().into()),
            media(Track::Video, frame),
            media(Track::Audio, vec![0xaf, 1, 5].into())
        ]
    );

    let name = vec![Amf0Value::Null, text("id?token=secret")];
    peer.bytes(&whole(COMMAND, 0, &command("FCUnpublish", 6.0, name))).unwrap();
    let stream = vec![Amf0Value::Null, number(1.0)];
    peer.bytes(&whole(COMMAND, 0, &command("deleteStream", 7.0, stream))).unwrap();
    assert_eq!(peer.events(), [Event::Stopped]);
    assert_eq!(peer.told(), ["onStatus NetStream.Unpublish.Success"]);
}

/// A message in one chunk, on chunk stream 3: for a peer that set its chunk size to 4,096.
fn whole(kind: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let mut out = wire(kind, stream, 0, &[]);
    out[4..7].copy_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
    out.extend(body);
    out
}

#[test]
fn ffmpeg_asks_without_waiting() {
    // With -rtmp_flashver and no tcUrl; all of it in one packet.
    let mut peer = Peer::new();
    let name = || vec![Amf0Value::Null, text("id")];
    let mut bytes = wire(
        COMMAND,
        0,
        0,
        &command("connect", 1.0, vec![object(&[("app", text("live?token=t"))])]),
    );
    for (verb, transaction, values) in [
        ("releaseStream", 2.0, name()),
        ("FCPublish", 3.0, name()),
        ("createStream", 4.0, vec![Amf0Value::Null]),
        ("_checkbw", 5.0, vec![Amf0Value::Null]),
    ] {
        bytes.extend(wire(COMMAND, 0, 0, &command(verb, transaction, values)));
    }
    bytes.extend(wire(COMMAND, 1, 0, &command("publish", 6.0, name())));
    peer.bytes(&bytes).unwrap();
    let events = peer.events();
    let [Event::Publish(request)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(request.token.as_deref(), Some("t"));
    assert_eq!(request.tc_url, None);
    assert_eq!(peer.told()[4..], ["_result 2", "_result 3", "_result 4", "_result 5"]);
}

#[test]
fn what_is_sent_behind_a_publish_waits_for_the_answer() {
    let mut peer = Peer::with_stream();
    let frame = key_frame(500);
    let publish = command("publish", 5.0, vec![Amf0Value::Null, text("id")]);
    let mut bytes = wire(COMMAND, 1, 0, &publish);
    bytes.extend(wire(VIDEO, 1, 0, &frame));
    let (first, second) = bytes.split_at(bytes.len() - 100);
    peer.bytes(first).unwrap();
    peer.bytes(second).unwrap();
    let events = peer.events();
    let [Event::Publish(request)] = &events[..] else { panic!("{events:?}") };
    peer.server.accept(peer.now, request.id).unwrap();
    let media = Message { track: Track::Video, timestamp: 0, body: frame };
    assert_eq!(peer.events(), [Event::Media(media)]);
}

#[test]
fn gstreamer_stops_and_publishes_again() {
    let mut peer = Peer::publishing();
    peer.command(1, "closeStream", 0.0, vec![Amf0Value::Null]).unwrap();
    assert_eq!(peer.events(), [Event::Stopped]);
    peer.message(VIDEO, 1, 0, &key_frame(1)).unwrap();
    assert_eq!(peer.events(), [], "nothing is live");
    peer.command(0, "deleteStream", 0.0, vec![Amf0Value::Null, number(1.0)]).unwrap();
    peer.command(0, "createStream", 8.0, vec![Amf0Value::Null]).unwrap();
    assert_eq!(peer.publish("other").name, "other");
}

#[test]
fn an_encoder_that_speaks_amf3_outside_and_amf0_inside() {
    let mut peer = Peer::new();
    let amf3 = |body: Vec<u8>| [vec![0], body].concat();
    let connect = command(
        "connect",
        1.0,
        vec![object(&[("app", text("live")), ("objectEncoding", number(3.0))])],
    );
    peer.message(17, 0, 0, &amf3(connect)).unwrap();
    peer.message(17, 0, 0, &amf3(command("createStream", 2.0, vec![Amf0Value::Null]))).unwrap();
    let publish = command("publish", 3.0, vec![Amf0Value::Null, text("id"), text("live")]);
    peer.message(17, 1, 0, &amf3(publish)).unwrap();
    let events = peer.events();
    let [Event::Publish(request)] = &events[..] else { panic!("{events:?}") };
    peer.server.accept(peer.now, request.id).unwrap();
    peer.message(15, 1, 0, &amf3(set_data_frame())).unwrap();
    assert_eq!(peer.events(), [Event::Metadata(metadata().into())]);
}

#[test]
fn an_aggregate_is_its_messages() {
    let mut peer = Peer::publishing();
    let tag = |kind: u8, time: u32, body: &[u8]| {
        let [t3, t0, t1, t2] = time.to_be_bytes();
        let mut tag = vec![kind, 0, 0, body.len() as u8, t0, t1, t2, t3, 0, 0, 0];
        tag.extend(body);
        tag.extend((11 + body.len() as u32).to_be_bytes());
        tag
    };
    let mut body = tag(AUDIO, 0x0100_0000, &[0xaf, 1, 1]);
    body.extend(tag(VIDEO, 0x0100_0028, &[0x27, 1, 0, 0, 0, 9]));
    body.extend(tag(1, 0x0100_0028, &[0, 0, 0, 1]));
    body.extend(tag(AUDIO, 0x0100_0017, &[]));
    peer.message(22, 1, 5000, &body).unwrap();
    let media = |track, timestamp, body: &'static [u8]| {
        Event::Media(Message { track, timestamp, body: body.into() })
    };
    assert_eq!(
        peer.events(),
        [
            media(Track::Audio, 5000, &[0xaf, 1, 1]),
            media(Track::Video, 5040, &[0x27, 1, 0, 0, 0, 9]),
            media(Track::Audio, 5023, &[]),
        ]
    );
    // The last size left out, and then a tag cut short.
    peer.message(22, 1, 0, &body[..18 - 4]).unwrap();
    assert_eq!(peer.events().len(), 1);
    assert_eq!(peer.message(22, 1, 0, &body[..13]), Err(Error::Truncated(22)));
}

#[test]
fn data_of_other_kinds_is_passed_on_and_clearing_is_not() {
    let mut peer = Peer::publishing();
    let sent = |values: &[Amf0Value]| rml_amf0::serialize(&values.to_vec()).unwrap();
    let cue = sent(&[text("onCuePoint"), number(1.0)]);
    peer.message(DATA, 1, 0, &cue).unwrap();
    peer.message(DATA, 1, 0, &sent(&[text("@clearDataFrame"), text("onMetaData")])).unwrap();
    peer.message(DATA, 1, 0, &sent(&[text("@setDataFrame")])).unwrap();
    peer.message(DATA, 1, 0, &sent(&[number(5.0)])).unwrap();
    peer.message(DATA, 1, 0, &[]).unwrap();
    peer.message(DATA, 1, 0, &metadata()[..20]).unwrap();
    assert_eq!(peer.events(), [Event::Data(cue.into())]);
}

#[test]
fn what_nobody_has_specified_is_passed_over() {
    let mut peer = Peer::publishing();
    for kind in [0, 7, 10, 16, 19, 21, 99, 255] {
        peer.message(kind, 1, 0, &[1, 2, 3]).unwrap();
        peer.message(kind, 1, 0, &[]).unwrap();
    }
    for event in [0u16, 3, 26, 31, 4000] {
        peer.message(4, 0, 0, &[&event.to_be_bytes()[..], &[0; 4]].concat()).unwrap();
    }
    peer.command(0, "onSomething", 9.0, vec![Amf0Value::Null]).unwrap();
    peer.command(1, "_result", 1.0, vec![]).unwrap();
    assert_eq!((peer.events(), peer.told()), (vec![], vec![]));
}

#[test]
fn a_refused_publisher_is_told_why_and_read_no_more() {
    for (refusal, code) in [
        (Refusal::PublishDenied, "onStatus NetStream.Publish.Denied"),
        (Refusal::PublishBadName, "onStatus NetStream.Publish.BadName"),
    ] {
        let mut peer = Peer::with_stream();
        let request = peer.publish("id?token=wrong");
        peer.server.reject(request.id, refusal, "because");
        assert_eq!(peer.told(), [code]);
        peer.bytes(&[0xff; 5000]).unwrap();
        assert_eq!((peer.events(), peer.server.next_deadline()), (vec![], None));
    }
}

#[test]
fn only_the_open_request_can_be_answered() {
    let mut peer = Peer::with_stream();
    let first = peer.publish("one");
    peer.server.accept(peer.now, first.id).unwrap();
    peer.command(1, "closeStream", 0.0, vec![]).unwrap();
    let second = peer.publish("two");
    peer.answers();
    peer.server.accept(peer.now, first.id).unwrap();
    peer.server.reject(first.id, Refusal::PublishDenied, "late");
    assert_eq!(peer.told(), [""; 0]);
    peer.server.accept(peer.now, second.id).unwrap();
    assert_eq!(peer.told(), START);
    peer.server.accept(peer.now, second.id).unwrap();
    peer.server.reject(second.id, Refusal::PublishDenied, "late");
    assert_eq!(peer.told(), [""; 0]);
}

#[test]
fn requests_that_cannot_be_are_told_so() {
    let mut peer = Peer::with_stream();
    let publish = |name| vec![Amf0Value::Null, name];
    for (stream, verb, values) in [
        (1, "publish", vec![Amf0Value::Null]),
        (1, "publish", publish(text(""))),
        (1, "publish", publish(Amf0Value::Boolean(false))),
        (2, "publish", publish(text("id"))),
        (0, "publish", publish(text("id"))),
    ] {
        peer.command(stream, verb, 3.0, values).unwrap();
        assert_eq!(peer.told(), ["onStatus NetStream.Publish.Failed"]);
    }
    let request = peer.publish("id");
    peer.server.accept(peer.now, request.id).unwrap();
    peer.answers();
    peer.command(1, "publish", 3.0, publish(text("another"))).unwrap();
    peer.command(1, "play", 3.0, publish(text("another"))).unwrap();
    assert_eq!(
        peer.told(),
        ["onStatus NetStream.Publish.Failed", "onStatus NetStream.Play.Failed"]
    );
    assert_eq!(peer.events(), []);
}
