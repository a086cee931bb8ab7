use std::sync::Arc;

use spyglass_media::find_capture;
use spyglass_rtmp::flv::{Body, parse};
use spyglass_rtmp::{Event, Message, Refusal};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::testing::{Origin, Pipes, clip};

/// A publisher at work.
struct Running {
    pipes: mpsc::Receiver<DuplexStream>,
    progress: watch::Receiver<Progress>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<Finish, Error>>,
}

fn start(config: Config) -> Running {
    let (dial, pipes) = Pipes::new();
    let (sender, progress) = watch::channel(Progress::default());
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        let clip = Arc::new(clip());
        let to = RtmpUrl::parse("rtmp://h/live/0123456789abc?token=t").unwrap();
        let stop = async {
            let _ = stopped.await;
        };
        publish_over(&dial, &clip, &to, config, &sender, stop).await
    });
    Running { pipes, progress, stop, task }
}

/// The next media message.
async fn media(origin: &mut Origin) -> Option<Message> {
    loop {
        match origin.next().await? {
            Event::Media(message) => return Some(message),
            Event::Metadata(_) => {}
            Event::Stopped => return None,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_clip_is_sent_in_real_time_with_its_key_frames_stamped() {
    let mut running = start(Config::default());
    let mut origin = Origin::accept(&mut running.pipes).await;
    let request = origin.accept_request().await;
    assert_eq!((&*request.app, &*request.name), ("live", "0123456789abc"));
    assert_eq!(request.token.as_deref(), Some("t"));
    let began = Instant::now();
    let (mut pictures, mut sounds, mut configs) = (Vec::new(), 0, 0);
    while let Some(message) = media(&mut origin).await {
        match parse(message.track, &message.body).unwrap() {
            Body::VideoConfig(_) | Body::AudioConfig(_) => configs += 1,
            Body::Video { key, composition_ms, sample } => {
                assert_eq!(key, message.timestamp.is_multiple_of(1000));
                let stamp = find_capture(&sample);
                assert_eq!(stamp.is_some(), key);
                let near = |at| utc_now().distance(at) < Duration::from_secs(60);
                assert!(stamp.is_none_or(near));
                assert_eq!(composition_ms, if message.timestamp % 80 == 0 { 80 } else { 0 });
                let late = began.elapsed().as_millis() as i64 - i64::from(message.timestamp);
                assert!((0..=20).contains(&late), "{late}");
                pictures.push(message.timestamp);
            }
            Body::Audio { .. } => sounds += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((pictures.len(), sounds, configs), (50, 40, 2));
    assert!(pictures.is_sorted());
    assert_eq!(running.task.await.unwrap().unwrap(), Finish::Complete);
    let progress = running.progress.borrow().clone();
    assert_eq!((progress.phase, progress.frames, progress.dropped), (Phase::Over, 90, 0));
    assert_eq!(progress.media, Duration::from_millis(1960));
}

#[tokio::test(start_paused = true)]
async fn a_looped_clip_goes_on_without_a_seam_until_it_is_stopped() {
    let mut running = start(Config { repeat: true, ..Config::default() });
    let mut origin = Origin::accept(&mut running.pipes).await;
    origin.accept_request().await;
    let mut times = Vec::new();
    while times.len() < 200 {
        let message = media(&mut origin).await.unwrap();
        if matches!(parse(message.track, &message.body).unwrap(), Body::Video { .. }) {
            times.push(message.timestamp);
        }
    }
    // The sound ends 50 ms after its last frame: the picture waits for it.
    assert_eq!(times[..50], times[50..100].iter().map(|time| time - 2000).collect::<Vec<_>>()[..]);
    assert_eq!(times[150], 6000);
    running.stop.send(()).unwrap();
    while media(&mut origin).await.is_some() {}
    assert_eq!(running.task.await.unwrap().unwrap(), Finish::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_taken_up_again_at_a_key_frame() {
    let mut running = start(Config { repeat: true, ..Config::default() });
    let mut origin = Origin::accept(&mut running.pipes).await;
    origin.accept_request().await;
    while media(&mut origin).await.unwrap().timestamp < 500 {}
    drop(origin);
    // The origin still believes in the first.
    let mut origin = Origin::accept(&mut running.pipes).await;
    let Some(Event::Publish(request)) = origin.next().await else { panic!("no publish") };
    origin.server.reject(request.id, Refusal::PublishBadName, "somebody is publishing");
    origin.flush().await;
    drop(origin);
    let mut origin = Origin::accept(&mut running.pipes).await;
    origin.accept_request().await;
    let first = media(&mut origin).await.unwrap();
    assert!(matches!(parse(first.track, &first.body), Ok(Body::VideoConfig(_))));
    media(&mut origin).await.unwrap();
    let picture = media(&mut origin).await.unwrap();
    assert_eq!(picture.timestamp, 1000);
    assert!(matches!(parse(picture.track, &picture.body), Ok(Body::Video { key: true, .. })));
    let progress = running.progress.borrow().clone();
    assert_eq!((progress.phase, progress.reconnects), (Phase::Sending, 1));
    assert!(progress.last_error.unwrap().contains("BadName"));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_final_and_an_origin_that_stays_away_is_given_up() {
    let mut running = start(Config::default());
    let mut origin = Origin::accept(&mut running.pipes).await;
    let Some(Event::Publish(request)) = origin.next().await else { panic!("no publish") };
    origin.server.reject(request.id, Refusal::PublishDenied, "the token has expired");
    origin.flush().await;
    let error = running.task.await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the origin refused: NetStream.Publish.Denied the token has expired"
    );

    let mut running = start(Config { repeat: true, ..Config::default() });
    let mut origin = Origin::accept(&mut running.pipes).await;
    origin.accept_request().await;
    media(&mut origin).await.unwrap();
    drop((origin, running.pipes));
    let began = Instant::now();
    assert!(matches!(running.task.await.unwrap(), Err(Error::Unreachable { .. })));
    assert!((60..70).contains(&began.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn an_uplink_that_stands_still_is_left() {
    let mut running = start(Config { repeat: true, ..Config::default() });
    let mut origin = Origin::accept(&mut running.pipes).await;
    origin.accept_request().await;
    media(&mut origin).await.unwrap();
    // Nobody reads any more, the pipe fills: the next connection comes by itself.
    let again = Origin::accept(&mut running.pipes).await;
    drop((origin, again));
    let error = running.progress.borrow().last_error.clone().unwrap();
    assert!(error.contains("takes no more data"), "{error}");
}

#[tokio::test]
async fn nobody_at_the_address_is_said_at_once() {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let to = RtmpUrl::parse(&format!("rtmp://127.0.0.1:{port}/live/x?token=secret")).unwrap();
    let (progress, _) = watch::channel(Progress::default());
    let sent = publish(&clip(), &to, Config::default(), &progress, std::future::pending()).await;
    let error = sent.unwrap_err().to_string();
    assert!(error.contains("cannot be reached") && !error.contains("secret"), "{error}");
}
