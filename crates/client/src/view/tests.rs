use std::future::pending;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use spyglass_media::capture_sei;
use spyglass_rtmp::wire::{Kind, write_message};
use spyglass_rtmp::{Event as Asked, Refusal, flv};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;
use crate::testing::{self, Answer, Origin, Server, answer};

const ID: &str = "0123456789abc";
const VIEWER: &str = "viewer0000000";

fn id() -> BroadcastId {
    ID.parse().unwrap()
}

fn quick(choice: Choice) -> Config {
    let tick = Duration::from_millis(20);
    Config {
        choice,
        poll: Poll::Between(tick, tick),
        push_buffer: Duration::ZERO,
        hls_buffer: Some(Duration::from_secs(6)),
        report_every: Duration::from_millis(5),
        ..Config::default()
    }
}

/// Control and edge in one: joins to `rtmp` when there is one, lists two chunks
/// and the end.
async fn world(rtmp: Option<String>) -> (Server, Api) {
    let base = Arc::new(Mutex::new(String::new()));
    let known = Arc::clone(&base);
    let server = Server::new(move |asked| {
        let base = known.lock().unwrap().clone();
        script(&asked.line, &base, rtmp.as_deref())
    })
    .await;
    base.lock().unwrap().clone_from(&server.url);
    let api = Api::new(&server.url, None).unwrap();
    (server, api)
}

fn script(line: &str, base: &str, rtmp: Option<&str>) -> Answer {
    let joins = format!("POST /v1/broadcasts/{ID}/viewers");
    let leaves = format!("DELETE /v1/broadcasts/{ID}/viewers/{VIEWER}");
    if line == joins {
        let (tier, rtmp) = match rtmp {
            Some(url) => ("push", format!(r#""rtmp":"{url}","#)),
            None => ("hls", String::new()),
        };
        return answer(
            200,
            format!(
                r#"{{"viewer":"{VIEWER}","tier":"{tier}","seat":null,"token":"secret",
                "urls":{{{rtmp}"hls":"{base}/v/secret/{ID}/chunklist.m3u8"}}}}"#
            ),
        );
    }
    if line == leaves {
        return answer(204, "");
    }
    if line == format!("GET /v1/broadcasts/{ID}") {
        return answer(200, format!(r#"{{"id":"{ID}","state":"live"}}"#));
    }
    match line.rsplit('/').next().unwrap_or_default() {
        "chunklist.m3u8" => answer(
            200,
            "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:7\n\
             #EXT-X-MAP:URI=\"1-init.mp4\"\n#EXTINF:3,\n1-7.m4s\n#EXTINF:3,\n1-8.m4s\n\
             #EXT-X-ENDLIST\n",
        ),
        "1-init.mp4" => answer(200, testing::init()),
        _ => answer(200, testing::chunk(&[Some(crate::utc_now() - Duration::from_secs(4)), None])),
    }
}

/// An origin on a real port that serves one player as told.
async fn origin(
    serve: impl AsyncFnOnce(Origin<tokio::net::TcpStream>) + 'static,
) -> (String, impl Future<Output = ()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("rtmp://{}/live/{ID}?token=secret", listener.local_addr().unwrap());
    (url, async move {
        let (socket, _) = listener.accept().await.unwrap();
        serve(Origin::on(socket)).await;
    })
}

#[tokio::test]
async fn a_push_viewer_measures_every_key_frame_and_leaves() {
    let (url, serving) = origin(async |mut origin| {
        origin.accept_request().await;
        let mut picture = capture_sei(crate::utc_now() - Duration::from_millis(300));
        picture.extend([0, 0, 0, 2, 0x65, 0x88]);
        let mut out = BytesMut::new();
        write_message(&mut out, Kind::Video, 0, &flv::video_config_body(&[1, 66, 0, 30, 0xff]));
        write_message(&mut out, Kind::Video, 0, &flv::video_body(true, 0, &picture));
        write_message(&mut out, Kind::Audio, 5, &flv::audio_body(&[1]));
        origin.pipe.write_all(&out).await.unwrap();
        origin.server.end_play();
        origin.flush().await;
        // Until the viewer has closed.
        while origin.next().await.is_some() {}
    })
    .await;
    let (server, api) = world(Some(url)).await;
    let viewing = view(&api, id(), quick(Choice::Auto), |_| {}, pending());
    let (report, ()) = tokio::join!(viewing, serving);
    let report = report.unwrap();
    assert_eq!((report.tier, report.end, report.frames), (Tier::Push, End::Ended, 2));
    assert!(report.anything() && report.fell_back.is_none());
    let push = report.delay[&Stage::Push];
    assert!(push.count == 1 && (300..3000).contains(&push.last_ms), "{push:?}");
    assert!(report.delay[&Stage::Total].last_ms >= 300);
    assert!(report.startup_ms.is_some());
    let json = serde_json::to_value(&report).unwrap();
    for (stage, delay) in &report.delay {
        assert_eq!(json["delay"][stage.as_str()]["count"], delay.count);
    }
    let last = server.asked().pop().unwrap();
    assert!(last.line.starts_with("DELETE"), "{}", last.line);
    assert_eq!(last.bearer.as_deref(), Some("secret"));
}

#[tokio::test]
async fn a_push_viewer_who_is_kicked_is_told_so() {
    let (url, serving) = origin(async |mut origin| {
        origin.accept_request().await;
        let mut out = BytesMut::new();
        write_message(&mut out, Kind::Audio, 5, &flv::audio_body(&[1]));
        origin.pipe.write_all(&out).await.unwrap();
        origin.server.cut_play("this token was revoked");
        origin.flush().await;
        while origin.next().await.is_some() {}
    })
    .await;
    let (_server, api) = world(Some(url)).await;
    let viewing = view(&api, id(), quick(Choice::Auto), |_| {}, pending());
    let (report, ()) = tokio::join!(viewing, serving);
    let report = report.unwrap();
    assert_eq!((report.tier, report.end, report.frames), (Tier::Push, End::Removed, 1));
}

#[tokio::test]
async fn a_push_viewer_who_is_cut_off_without_a_word_was_removed_all_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("rtmp://{}/live/{ID}?token=secret", listener.local_addr().unwrap());
    let serving = async {
        let mut origin = Origin::on(listener.accept().await.unwrap().0);
        origin.accept_request().await;
        let mut out = BytesMut::new();
        write_message(&mut out, Kind::Audio, 5, &flv::audio_body(&[1]));
        origin.pipe.write_all(&out).await.unwrap();
        origin.flush().await;
        drop(origin);
        let mut origin = Origin::on(listener.accept().await.unwrap().0);
        let Some(Asked::Play(request)) = origin.next().await else { panic!("no play") };
        origin.server.reject(request.id, Refusal::PlayDenied, "this token was revoked");
        origin.flush().await;
        while origin.next().await.is_some() {}
    };
    let base = Arc::new(Mutex::new(String::new()));
    let known = Arc::clone(&base);
    let server = Server::new(move |asked| match asked.line.as_str() {
        line if line.contains("m3u8") => answer(403, r#"{"detail":"join again"}"#),
        line => script(line, &known.lock().unwrap(), Some(&url)),
    })
    .await;
    base.lock().unwrap().clone_from(&server.url);
    let api = Api::new(&server.url, None).unwrap();
    let viewing = view(&api, id(), quick(Choice::Auto), |_| {}, pending());
    let (report, ()) = tokio::join!(viewing, serving);
    let report = report.unwrap();
    assert_eq!((report.end, report.frames), (End::Removed, 1));
}

#[tokio::test]
async fn when_push_fails_the_viewer_goes_on_over_hls() {
    let (url, serving) = origin(async |mut origin| {
        let Some(Asked::Play(request)) = origin.next().await else { panic!("no play") };
        origin.server.reject(request.id, Refusal::PlayDenied, "the seat is taken");
        origin.flush().await;
    })
    .await;
    let (_server, api) = world(Some(url)).await;
    let viewing = view(&api, id(), quick(Choice::Auto), |_| {}, pending());
    let (report, ()) = tokio::join!(viewing, serving);
    let report = report.unwrap();
    assert_eq!((report.tier, report.end, report.chunks), (Tier::Hls, End::Ended, 2));
    assert!(report.fell_back.unwrap().contains("NetStream.Play.Denied"));
    assert_eq!(report.delay[&Stage::Chunking].last_ms, 3000);
    // The first chunk played at once, captured 4 s before.
    assert!(report.delay[&Stage::Total].last_ms >= 4000);
    assert!(!report.delay.contains_key(&Stage::Polling), "both were listed before we came");
}

#[tokio::test]
async fn choices_are_kept() {
    let (server, api) = world(None).await;
    let error = view(&api, id(), quick(Choice::Push), |_| {}, pending()).await.unwrap_err();
    assert!(error.to_string().contains("every push seat is taken"), "{error}");
    assert!(server.lines().last().unwrap().starts_with("DELETE"), "the seat is given back");
    let (_server, api) = world(Some("rtmp://127.0.0.1:1/live/x".to_owned())).await;
    let report = view(&api, id(), quick(Choice::Hls), |_| {}, pending()).await.unwrap();
    assert_eq!((report.tier, report.chunks), (Tier::Hls, 2));
}

#[tokio::test]
async fn a_viewer_who_is_cut_off_is_told() {
    let server = Server::new(|asked| match asked.line.as_str() {
        line if line.contains("m3u8") => answer(403, r#"{"detail":"this viewer was removed"}"#),
        line => script(line, "http://unused", None),
    })
    .await;
    let base = server.url.clone();
    let joined = Server::new(move |asked| match asked.line.as_str() {
        line if line.starts_with("POST") => script(line, &base, None),
        line => script(line, "", None),
    })
    .await;
    let api = Api::new(&joined.url, None).unwrap();
    let error = view(&api, id(), quick(Choice::Auto), |_| {}, pending()).await.unwrap_err();
    assert_eq!(error.status(), Some(403));
}

#[tokio::test]
async fn stopping_ends_it_with_a_report() {
    let (url, serving) = origin(async |mut origin| {
        origin.accept_request().await;
        // Nothing is sent: the broadcast is not live yet.
        while origin.next().await.is_some() {}
    })
    .await;
    let (_server, api) = world(Some(url)).await;
    let (seen, told) = tokio::sync::oneshot::channel();
    let mut seen = Some(seen);
    let on_report = move |_: &Report| {
        if let Some(seen) = seen.take() {
            let _ = seen.send(());
        }
    };
    let stop = async {
        let _ = told.await;
    };
    let viewing = view(&api, id(), quick(Choice::Auto), on_report, stop);
    let (report, ()) = tokio::join!(viewing, serving);
    let report = report.unwrap();
    assert_eq!(report.end, End::Stopped);
    assert!(!report.anything());
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!((&json["tier"], &json["end"]), (&"push".into(), &"stopped".into()));
}
