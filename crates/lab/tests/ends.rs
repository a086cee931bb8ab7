//! A measurement ends when it was told to, whatever its server does: one that
//! never answers, and one whose list asks to be polled without a pause.

use std::sync::Arc;
use std::time::Duration;

use spyglass_lab::load::{self, Pace};
use spyglass_lab::request::tls::Trust;
use spyglass_lab::validate::finding::Rule;
use spyglass_lab::validate::{self, Error};
use spyglass_testkit::stopwatch::Stopwatch;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// For how long the tests' measurements are to go on.
const LENGTH: Duration = Duration::from_secs(3);

/// What they may take besides, while the machine runs.
const BEYOND: Duration = Duration::from_secs(2);

/// Far beyond any test.
const LONG: Duration = Duration::from_secs(900);

/// What a path gets.
#[derive(Clone, Copy)]
enum Reply {
    List(&'static str),
    Missing,
    /// The connection stays open.
    Nothing,
}

struct Server {
    url: String,
    /// Told of each request that gets no answer.
    hangs: Arc<Notify>,
}

async fn serve(reply: fn(&str) -> Reply) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/list", listener.local_addr().unwrap());
    let hangs = Arc::new(Notify::new());
    let told = Arc::clone(&hangs);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let told = Arc::clone(&told);
            tokio::spawn(async move {
                let mut request = Vec::new();
                while socket.read_buf(&mut request).await.is_ok_and(|count| count > 0) {
                    if !request.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let text = String::from_utf8(std::mem::take(&mut request)).unwrap();
                    let path = text.split(' ').nth(1).unwrap().to_owned();
                    let (status, body) = match reply(&path) {
                        Reply::List(body) => ("200 OK", body),
                        Reply::Missing => ("404 Not Found", ""),
                        Reply::Nothing => {
                            told.notify_one();
                            continue;
                        }
                    };
                    let length = body.len();
                    let answer =
                        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
                    socket.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    Server { url, hangs }
}

const TWELVE: &str = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n\
    #EXTINF:3,\n0\n#EXTINF:3,\n1\n#EXTINF:3,\n2\n#EXTINF:3,\n3\n#EXTINF:3,\n4\n#EXTINF:3,\n5\n\
    #EXTINF:3,\n6\n#EXTINF:3,\n7\n#EXTINF:3,\n8\n#EXTINF:3,\n9\n#EXTINF:3,\n10\n#EXTINF:3,\n11\n";

fn chunks_that_hang(path: &str) -> Reply {
    if path == "/list" { Reply::List(TWELVE) } else { Reply::Nothing }
}

fn all_hangs(_: &str) -> Reply {
    Reply::Nothing
}

fn viewers(server: &Server, pace: Pace, length: Duration) -> load::Options {
    let (url, trust) = (server.url.clone(), Trust::default());
    load::Options { url, viewers: 5, pace, length, ramp: Duration::ZERO, pid: None, trust }
}

fn validation(server: &Server, length: Duration) -> validate::Options {
    validate::Options { urls: vec![server.url.clone()], length, trust: Trust::default() }
}

/// What a measurement that is to take `length` comes to.
async fn ends<T>(length: Duration, running: impl Future<Output = T>) -> T {
    let watch = Stopwatch::start();
    let ended = tokio::time::timeout(Duration::from_secs(60), running).await;
    let (took, still) = (watch.elapsed(), watch.stood_still());
    assert!(took < length + BEYOND, "{took:?}, and the machine stood still for {still:?}");
    ended.unwrap_or_else(|_| panic!("not ended after a minute"))
}

/// The same for one that goes on until `hangs` is told, and is stopped then.
async fn ends_at_once<T>(
    hangs: &Notify,
    running: impl AsyncFnOnce(tokio::sync::oneshot::Receiver<()>) -> T,
) -> T {
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let mut running = std::pin::pin!(running(stopped));
    tokio::select! {
        _ = &mut running => panic!("ended by itself"),
        () = hangs.notified() => stop.send(()).unwrap(),
    }
    ends(Duration::ZERO, running).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_no_length_is_polled_with_a_pause_and_viewing_it_ends() {
    let server = serve(|path| match path {
        "/list" => Reply::List("#EXTM3U\n#EXT-X-TARGETDURATION:0\n#EXTINF:0,\na\n"),
        _ => Reply::Missing,
    })
    .await;
    let options = viewers(&server, Pace::Spec, LENGTH);
    let report = ends(LENGTH, load::run(&options, std::future::pending())).await.unwrap();
    // Ten times in a second each, and once more at the beginning.
    let most = 5.0 * (report.seconds * 10.0 + 2.0);
    assert!(report.lists >= 1 && (report.lists as f64) < most, "{report:?}");
    assert!(report.errors["chunk: 404 Not Found"] >= 1, "{report:?}");

    let options = validation(&server, LENGTH);
    let report =
        ends(LENGTH, validate::run(&options, std::future::pending(), |_| {})).await.unwrap();
    assert!(report.lists >= 1 && (report.lists as f64) < 50.0 * report.seconds + 2.0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_prolongs_nothing() {
    let server = serve(chunks_that_hang).await;
    let options = viewers(&server, Pace::Paper, LENGTH);
    let report = ends(LENGTH, load::run(&options, std::future::pending())).await.unwrap();
    assert_eq!((report.chunks, report.errors.len()), (0, 0), "{report:?}");

    let options = validation(&server, LENGTH);
    let report =
        ends(LENGTH, validate::run(&options, std::future::pending(), |_| {})).await.unwrap();
    assert!(report.is_clean() && report.lists >= 1 && !report.ended, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_never_comes_is_not_waited_for() {
    let server = serve(all_hangs).await;
    let options = viewers(&server, Pace::Paper, LENGTH);
    let refused = ends(LENGTH, load::run(&options, std::future::pending())).await.unwrap_err();
    assert!(matches!(&refused, Error::Server { reason, .. } if reason.contains("--for")));
    let options = validation(&server, LENGTH);
    let refused = ends(LENGTH, validate::run(&options, std::future::pending(), |_| {})).await;
    assert!(refused.unwrap_err().to_string().contains("no playlist within"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_is_heard_whatever_hangs_and_keeps_what_was_seen() {
    let server = serve(chunks_that_hang).await;
    let options = viewers(&server, Pace::Paper, LONG);
    let report = ends_at_once(&server.hangs, async |stopped| {
        load::run(&options, async { stopped.await.unwrap() }).await.unwrap()
    })
    .await;
    assert!(report.lists >= 1 && report.chunks == 0, "{report:?}");

    // The first of its chunks was asked for, and is missing; the second hangs.
    let server = serve(|path| match path {
        "/0" => Reply::Missing,
        path => chunks_that_hang(path),
    })
    .await;
    let options = validation(&server, LONG);
    let report = ends_at_once(&server.hangs, async |stopped| {
        validate::run(&options, async { stopped.await.unwrap() }, |_| {}).await.unwrap()
    })
    .await;
    assert_eq!(report.faults.into_iter().collect::<Vec<_>>(), [(Rule::P7, 1)]);

    let server = serve(all_hangs).await;
    let options = validation(&server, LONG);
    let report = ends_at_once(&server.hangs, async |stopped| {
        validate::run(&options, async { stopped.await.unwrap() }, |_| {}).await.unwrap()
    })
    .await;
    assert_eq!(report.lists, 0);
}
