//! Deadlines, acknowledgements and pings.

use std::time::{Duration, Instant};

use rml_amf0::Amf0Value;
use spyglass_rtmp::{Client, ClientConfig, Error, Event, Intent, Limits, Server};

use crate::peer::{AUDIO, Peer, VIDEO, object, text};

#[test]
fn a_handshake_has_five_seconds() {
    let now = Instant::now();
    let mut server = Server::new(Limits::default(), now);
    server.on_bytes(now, &[3, 0, 0]).unwrap();
    let deadline = now + Duration::from_secs(5);
    assert_eq!(server.next_deadline(), Some(deadline));
    assert_eq!(server.on_deadline(deadline - Duration::from_millis(1)), Ok(()));
    assert_eq!(server.on_deadline(deadline), Err(Error::HandshakeTimeout));
}

#[test]
fn a_request_has_ten_seconds_and_its_answer_the_callers_time() {
    let mut peer = Peer::new();
    let deadline = peer.now + Duration::from_secs(10);
    assert_eq!(peer.server.next_deadline(), Some(deadline));
    peer.now = deadline - Duration::from_millis(1);
    peer.command(0, "connect", 1.0, vec![object(&[("app", text("live"))])]).unwrap();
    peer.command(0, "createStream", 2.0, vec![]).unwrap();
    assert_eq!(peer.server.next_deadline(), Some(deadline), "only a request stops the clock");
    assert_eq!(peer.server.on_deadline(deadline), Err(Error::RequestTimeout));

    let request = peer.publish("id");
    assert_eq!(peer.server.next_deadline(), None);
    peer.server.accept(peer.now, request.id).unwrap();
    assert_eq!(peer.server.next_deadline(), None);
    peer.command(1, "closeStream", 0.0, vec![]).unwrap();
    assert_eq!(peer.server.next_deadline(), Some(peer.now + Duration::from_secs(10)));
}

#[test]
fn a_client_gives_up_too() {
    let now = Instant::now();
    let config = ClientConfig {
        app: "live".to_owned(),
        tc_url: "rtmp://h/live".to_owned(),
        name: "id".to_owned(),
        intent: Intent::Play,
        buffer_ms: 0,
        limits: Limits::default(),
    };
    let mut client = Client::new(config, now).unwrap();
    assert_eq!(client.take_output().len(), 1537);
    let deadline = client.next_deadline().unwrap();
    assert_eq!(deadline, now + Duration::from_secs(5));
    assert_eq!(client.on_deadline(deadline), Err(Error::HandshakeTimeout));
    client.on_bytes(now, &[&[3][..], &[0; 3072]].concat()).unwrap();
    let deadline = client.next_deadline().unwrap();
    assert_eq!(deadline, now + Duration::from_secs(10));
    assert_eq!(client.on_deadline(deadline), Err(Error::RequestTimeout));
}

#[test]
fn acknowledgements_carry_the_running_total() {
    let mut peer = Peer::publishing();
    // Window Acknowledgement Size.
    peer.message(5, 0, 0, &2000u32.to_be_bytes()).unwrap();
    let before = peer.server.received();
    for _ in 0..9 {
        peer.message(AUDIO, 1, 0, &[0xaf; 288]).unwrap();
    }
    // 302 bytes a message: each time that half of the window has come.
    let totals: Vec<u64> =
        peer.told().iter().filter_map(|told| told.strip_prefix("ack ")?.parse().ok()).collect();
    assert_eq!(totals.len(), 3, "{totals:?}");
    assert_eq!(totals[2] - totals[1], 4 * 302);
    assert!(totals[0] > before && totals[2] <= peer.server.received());
}

#[test]
fn a_window_of_zero_is_an_acknowledgement_a_packet() {
    let mut peer = Peer::publishing();
    peer.message(5, 0, 0, &[0; 4]).unwrap();
    peer.message(AUDIO, 1, 0, &[]).unwrap();
    peer.message(AUDIO, 1, 0, &[]).unwrap();
    assert_eq!(peer.told().len(), 2);
}

#[test]
fn a_bandwidth_is_answered_when_it_is_news() {
    let mut peer = Peer::publishing();
    for _ in 0..2 {
        peer.message(6, 0, 0, &[0, 1, 0, 0, 2]).unwrap();
    }
    assert_eq!(peer.told(), ["window 65536"]);
}

#[test]
fn pings_are_answered_and_answers_reported() {
    let mut peer = Peer::publishing();
    peer.message(4, 0, 0, &[0, 6, 1, 2, 3, 4]).unwrap();
    let answer = peer.server.take_output();
    assert_eq!(answer[12..], [0, 7, 1, 2, 3, 4]);
    peer.server.ping(peer.now + Duration::from_millis(258));
    assert_eq!(peer.server.take_output()[12..], [0, 6, 0, 0, 1, 2]);
    peer.message(4, 0, 0, &[0, 7, 0, 0, 1, 2]).unwrap();
    assert_eq!(peer.events(), [Event::Pong]);
}

#[test]
fn an_abort_frees_its_chunk_stream() {
    let mut peer = Peer::publishing();
    // A video message of 300 bytes on chunk stream 6, one chunk of it.
    let mut begun = vec![6, 0, 0, 0, 0, 1, 0x2c, VIDEO, 1, 0, 0, 0];
    begun.extend([7; 128]);
    peer.bytes(&begun).unwrap();
    assert_eq!(peer.bytes(&begun), Err(Error::HeaderInsideMessage(6)));

    let mut peer = Peer::publishing();
    peer.bytes(&begun).unwrap();
    peer.message(2, 0, 0, &6u32.to_be_bytes()).unwrap();
    peer.bytes(&begun).unwrap();
    peer.command(0, "releaseStream", 4.0, vec![Amf0Value::Null]).unwrap();
    assert_eq!((peer.events(), peer.told()), (vec![], vec!["_result 4".to_owned()]));
}
