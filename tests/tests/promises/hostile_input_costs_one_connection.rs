//! Every hostile input beside a clean broadcast: nobody misses a frame, no
//! panic is counted, and the process lives.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::system::{System, authority};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn hostile_input_costs_one_connection() {
    let mut system = System::up(&["--edges", "1"]).await;
    let broadcast = system.create(json!({"title": "clean"})).await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let joined = system.join(&broadcast.id).await;
    let push = Ffmpeg::decode(joined["urls"]["rtmp"].as_str().unwrap(), 15);
    let hls = Ffmpeg::decode(joined["urls"]["hls"].as_str().unwrap(), 15);

    let rtmp = authority(&system.origin_rtmp());
    for input in hostile_rtmp() {
        attack_rtmp(rtmp, &input).await;
    }
    let mut others: Vec<SocketAddr> = vec![authority(&system.edge(0))];
    others.push(authority(&system.control_url("")));
    others.push(authority(&system.origin_http()));
    others.push(authority(system.ready["control"]["grpc"].as_str().unwrap()));
    others.push(authority(system.ready["origins"][0]["grpc"].as_str().unwrap()));
    for address in others {
        for input in hostile_http() {
            attack(address, &input).await;
        }
    }

    for (tier, player) in [("push", push), ("hls", hls)] {
        let (success, errors) = player.finish().await;
        assert!(success && errors.is_empty(), "{tier}: {errors}");
    }
    assert!(system.control.is_running());
    for base in [system.edge(0), system.origin_http(), system.control_url("")] {
        assert_eq!(system.metric(&base, "spyglass_panics_total").await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_asks_and_never_reads_is_cut() {
    let system = System::up(&["--edges", "1"]).await;
    let mut socket = TcpStream::connect(authority(&system.origin_rtmp())).await.unwrap();
    let mut hello = vec![3];
    hello.resize(1 + 1536 + 1536, 0);
    socket.write_all(&hello).await.unwrap();
    let pings = message(2, 4, 0, &[0, 6, 0, 0, 0, 0]).repeat(10_000);
    let flood = async { while socket.write_all(&pings).await.is_ok() {} };
    let cut = tokio::time::timeout(Duration::from_secs(20), flood).await;
    assert!(cut.is_ok(), "still connected without a token after 20 s");
}

/// Sends bytes, and reads until the peer closes or 300 ms of silence.
async fn attack(address: SocketAddr, input: &[u8]) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let mut rest = vec![0; 65536];
    // A peer that closes at once is within its rights.
    let _ = socket.write_all(input).await;
    while let Ok(Ok(count)) =
        tokio::time::timeout(Duration::from_millis(300), socket.read(&mut rest)).await
    {
        if count == 0 {
            break;
        }
    }
}

/// After a plain handshake (C0, C1, C2 without digest).
async fn attack_rtmp(address: SocketAddr, input: &[u8]) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let mut hello = vec![3];
    hello.resize(1 + 1536, 0);
    socket.write_all(&hello).await.unwrap();
    let mut answer = vec![0; 1 + 1536 + 1536];
    if socket.read_exact(&mut answer).await.is_err() {
        return;
    }
    let mut bytes = answer[1..1537].to_vec();
    bytes.extend_from_slice(input);
    let _ = socket.write_all(&bytes).await;
    let mut rest = vec![0; 65536];
    while let Ok(Ok(count)) =
        tokio::time::timeout(Duration::from_millis(300), socket.read(&mut rest)).await
    {
        if count == 0 {
            break;
        }
    }
}

/// One message in wire chunks of 128 bytes.
fn message(csid: u8, kind: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![csid, 0, 0, 0];
    out.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
    out.push(kind);
    out.extend_from_slice(&stream.to_le_bytes());
    for (index, piece) in body.chunks(128).enumerate() {
        if index > 0 {
            out.push(0xc0 | csid);
        }
        out.extend_from_slice(piece);
    }
    out
}

fn text(value: &str) -> Vec<u8> {
    let mut out = vec![2];
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value.as_bytes());
    out
}

fn number(value: f64) -> Vec<u8> {
    let mut out = vec![0];
    out.extend_from_slice(&value.to_be_bytes());
    out
}

fn hostile_rtmp() -> Vec<Vec<u8>> {
    let connect =
        [text("connect"), number(1.0), vec![3, 0, 3], b"app".to_vec(), text("live"), vec![0, 0, 9]]
            .concat();
    let connect = message(3, 20, 0, &connect);
    let after = |tail: Vec<u8>| [connect.clone(), tail].concat();
    let nested = [text("connect"), number(1.0), [3, 0, 1, b'a'].repeat(15_000)].concat();
    let publish = [text("publish"), number(5.0), vec![5]].concat();
    let mut inputs = vec![
        // A command with too few values, and one with none.
        message(3, 20, 0, &text("connect")),
        message(3, 20, 0, &[]),
        // 60 KB of nested objects.
        message(3, 20, 0, &nested),
        // A lone @setDataFrame, before and after connect.
        message(4, 18, 1, &text("@setDataFrame")),
        after(message(4, 18, 1, &text("@setDataFrame"))),
        // Chunk size zero, and the largest.
        message(2, 1, 0, &[0, 0, 0, 0]),
        message(2, 1, 0, &[0x7f, 0xff, 0xff, 0xff]),
        // An unknown message, an unknown control event, an abort for nothing.
        message(2, 4, 0, &[0, 99, 1, 2]),
        message(2, 2, 0, &[0, 0, 0, 77]),
        message(5, 99, 0, &[1; 300]),
        // A publish without a name, and media before any publish.
        after(message(3, 20, 1, &publish)),
        after(message(4, 9, 1, &[0x17; 5000])),
        // An announced length of 16 MiB of which nothing comes.
        vec![3, 0, 0, 0, 0xff, 0xff, 0xff, 20, 0, 0, 0, 0, 1, 2, 3],
        // A type 3 header on a wire chunk stream that never began.
        vec![0xc5, 1, 2, 3],
        // An extended time stamp.
        vec![3, 0xff, 0xff, 0xff, 0, 0, 4, 20, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0],
        vec![0xff; 10_000],
        vec![0; 10_000],
    ];
    // Sixty-five thousand wire chunk streams, each with the start of a message.
    let mut streams = Vec::new();
    for id in 64u32..65_599 {
        let raw = (id - 64) as u16;
        streams.extend_from_slice(&[
            1,
            raw as u8,
            (raw >> 8) as u8,
            0,
            0,
            0,
            0,
            1,
            0,
            9,
            1,
            0,
            0,
            0,
        ]);
        streams.extend_from_slice(&[0; 128]);
    }
    inputs.push(streams);
    // Many createStream.
    let create = message(3, 20, 0, &[text("createStream"), number(2.0), vec![5]].concat());
    inputs.push(after(create.repeat(20_000)));
    // Interleaved pieces of two messages.
    let mut mixed = connect.clone();
    let (one, two) = (vec![1; 300], vec![2; 300]);
    mixed.extend(&message(6, 9, 1, &one)[..12 + 128]);
    mixed.extend(&message(7, 8, 1, &two)[..12 + 128]);
    mixed.extend(
        [&[0xc6][..], &one[..128], &[0xc7], &two[..128], &[0xc6], &one[..44], &[0xc7], &two[..44]]
            .concat(),
    );
    inputs.push(mixed);
    inputs
}

fn hostile_http() -> Vec<Vec<u8>> {
    let get = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").into_bytes()
    };
    let mut inputs = vec![
        vec![0; 10_000],
        vec![0xff; 100_000],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), vec![0xff; 5_000]].concat(),
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"GET /live/0123456789abc/index.m3u8 HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n".to_vec(),
        get("/live/../../etc/passwd"),
        get("/live/%2e%2e/%00/%zz"),
        get("/v/../0123456789abc/index.m3u8"),
        get(&format!("/live/0123456789abc/{}", "a".repeat(15_000))),
        get("/live/0123456789abc/chunklist.m3u8?_HLS_msn=18446744073709551616"),
        get("/live/0123456789abc/4294967295-18446744073709551615.m4s"),
    ];
    let many: String = (0..500).map(|index| format!("x-{index}: y\r\n")).collect();
    inputs.push(format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n").into_bytes());
    inputs.push(format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", "x".repeat(70_000)).into_bytes());
    let nested = "[".repeat(50_000);
    inputs.push(
        format!(
            "POST /v1/broadcasts/0123456789abc/viewers HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{nested}",
            nested.len()
        )
        .into_bytes(),
    );
    inputs
}
