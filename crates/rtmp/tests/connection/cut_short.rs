//! Every command cut at every byte: the message whole with a short body, and
//! the bytes of the wire.

use rml_amf0::Amf0Value;

use crate::peer::{COMMAND, DATA, Peer, command, number, object, set_data_frame, text, wire};

/// Every command that peers send, with all that they put into it.
fn messages() -> Vec<(u8, u32, Vec<u8>)> {
    let connect = object(&[
        ("app", text("live")),
        ("tcUrl", text("rtmp://origin/live")),
        ("fpad", Amf0Value::Boolean(false)),
        ("capabilities", number(15.0)),
        ("swfUrl", Amf0Value::Undefined),
        ("fourCcList", Amf0Value::StrictArray(vec![text("av01"), text("hvc1")])),
    ]);
    let named = |name: &str, transaction: f64, more: Vec<Amf0Value>| {
        command(name, transaction, [vec![Amf0Value::Null], more].concat())
    };
    let mut messages = vec![
        (COMMAND, 0, command("connect", 1.0, vec![connect])),
        (COMMAND, 0, named("releaseStream", 2.0, vec![text("id")])),
        (COMMAND, 0, named("FCPublish", 3.0, vec![text("id")])),
        (COMMAND, 0, named("createStream", 4.0, vec![])),
        (COMMAND, 0, named("_checkbw", 5.0, vec![])),
        (COMMAND, 0, named("getStreamLength", 6.0, vec![text("id")])),
        (COMMAND, 0, named("FCSubscribe", 7.0, vec![text("id")])),
        (COMMAND, 1, named("publish", 8.0, vec![text("id?token=t"), text("live")])),
        (COMMAND, 1, named("play", 8.0, vec![text("id?token=t"), number(-2.0), number(-1.0)])),
        (COMMAND, 1, named("closeStream", 0.0, vec![])),
        (COMMAND, 0, named("FCUnpublish", 9.0, vec![text("id")])),
        (COMMAND, 0, named("deleteStream", 10.0, vec![number(1.0)])),
        (DATA, 1, set_data_frame()),
        (22, 1, wire(18, 0, 0, b"")[1..].to_vec()),
    ];
    for kind in [1, 2, 3, 4, 5, 6] {
        messages.push((kind, 0, vec![0, 0, 1, 0, 2, 0]));
    }
    messages
}

#[test]
fn a_message_cut_at_every_byte() {
    for (kind, stream, body) in messages() {
        for length in 0..=body.len() {
            for mut peer in [Peer::new(), Peer::with_stream(), Peer::publishing()] {
                let _ = peer.message(kind, stream, 0, &body[..length]);
                peer.events();
                peer.server.take_output();
            }
        }
    }
}

#[test]
fn a_wire_cut_at_every_byte_goes_on_where_it_was() {
    let commands: Vec<u8> = messages()
        .iter()
        .filter(|(kind, ..)| *kind == COMMAND)
        .take(8)
        .flat_map(|(kind, stream, body)| wire(*kind, *stream, 0, body))
        .collect();
    let mut whole = Peer::new();
    whole.bytes(&commands).unwrap();
    let expected = (whole.events(), whole.server.take_output());
    assert_eq!(expected.0.len(), 1);
    for cut in 0..commands.len() {
        let mut peer = Peer::new();
        peer.bytes(&commands[..cut]).unwrap();
        peer.bytes(&commands[cut..]).unwrap();
        assert_eq!((peer.events(), peer.server.take_output()), expected);
    }
}
