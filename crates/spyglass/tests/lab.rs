//! `spyglass lab` as scripts rely on it: it ends when it is told to, its exit
//! status says whether anything was played, and it takes no more viewers than a
//! machine has room for.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// By then everything has ended, on any machine.
const LATEST: Duration = Duration::from_secs(60);

/// A list that asks to be polled without a pause.
const NO_LENGTH: &str = "#EXTM3U\n#EXT-X-TARGETDURATION:0\n#EXTINF:0,\nchunk\n";

/// A list whose chunk never comes.
const HANGS: &str = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhangs\n";

/// Answers `/list` with `list`, `/chunk` with `chunk` (404 when there is none)
/// and nothing else at all; its URL, and one message for each request.
fn serve(list: &'static str, chunk: Option<&'static str>) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/list", listener.local_addr().unwrap());
    let (asked, requests) = mpsc::sync_channel(1_024);
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (socket, asked) = (socket.unwrap(), asked.clone());
            std::thread::spawn(move || answer(socket, list, chunk, &asked));
        }
    });
    (url, requests)
}

fn answer(
    mut socket: TcpStream,
    list: &str,
    chunk: Option<&str>,
    asked: &mpsc::SyncSender<String>,
) -> Option<()> {
    let lines = BufReader::new(socket.try_clone().ok()?).lines();
    for line in lines {
        let line = line.ok()?;
        let Some(path) = line.strip_prefix("GET ").and_then(|line| line.split(' ').next()) else {
            continue;
        };
        let (status, body) = match path {
            "/list" => ("200 OK", list),
            "/chunk" => chunk.map_or(("404 Not Found", ""), |chunk| ("200 OK", chunk)),
            _ => ("", ""),
        };
        if !status.is_empty() {
            let length = body.len();
            write!(socket, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}").ok()?;
        }
        // A test that stops nothing does not listen.
        let _ = asked.try_send(path.to_owned());
    }
    None
}

/// Runs it to its end; with `stop_at`, SIGTERM comes when that path was asked for.
fn lab(args: &[&str], stop_at: Option<(&str, &mpsc::Receiver<String>)>) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_spyglass"))
        .arg("lab")
        .args(args)
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let latest = Instant::now() + LATEST;
    if let Some((path, requests)) = stop_at {
        while requests.recv_timeout(LATEST).expect("it asks") != path {}
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    }
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > latest {
            child.kill().unwrap();
            panic!("not ended: {args:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn told(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn sigterm_ends_a_load_with_its_report_whatever_the_server_does() {
    let (url, requests) = serve(NO_LENGTH, Some("bytes"));
    let args = ["load", "hls", &url, "--viewers", "5", "--for", "900", "--pace", "spec", "--json"];
    let output = lab(&args, Some(("/chunk", &requests)));
    assert!(report(&output)["lists"].as_u64() >= Some(1), "{output:?}");

    let (url, requests) = serve(HANGS, None);
    let args = ["load", "hls", &url, "--for", "900", "--json"];
    let output = lab(&args, Some(("/hangs", &requests)));
    assert!(report(&output)["lists"].as_u64() >= Some(1), "{output:?}");
    let (url, requests) = serve(HANGS, None);
    let args = ["validate", &url, "--for", "900", "--json"];
    let output = lab(&args, Some(("/hangs", &requests)));
    assert_eq!(report(&output)["faults"].get("P7"), None, "{output:?}");
}

#[test]
fn a_load_that_could_play_nothing_fails_and_reports() {
    let options = ["--viewers", "20", "--for", "4", "--ramp", "0", "--pace", "spec", "--json"];
    let (url, _requests) = serve(NO_LENGTH, None);
    let output = lab(&[&["load", "hls", &url], &options[..]].concat(), None);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let errors = &report(&output)["errors"];
    assert!(errors["chunk: 404 Not Found"].as_u64() >= Some(1), "{errors}");
    let told = told(&output);
    assert!(told.contains("nothing was played") && told.contains("lab validate"), "{told}");
    assert_eq!(told.trim_end().lines().count(), 1, "{told}");

    let (url, _requests) = serve("#EXTM3U\n#EXT-X-TARGETDURATION:soon\n", None);
    let output = lab(&[&["load", "hls", &url], &options[..]].concat(), None);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(report(&output)["chunks"], 0, "{output:?}");

    let (url, _requests) = serve(NO_LENGTH, Some("bytes"));
    let output = lab(&[&["load", "hls", &url], &options[..]].concat(), None);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(report(&output)["chunks"].as_u64() >= Some(1), "{output:?}");
}

#[test]
fn what_is_asked_of_a_measurement_has_limits_that_are_told() {
    let (url, _requests) = serve(NO_LENGTH, None);
    let refused = lab(&["load", "hls", &url, "--viewers", "4000000000", "--for", "1"], None);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let told_why = told(&refused);
    assert!(told_why.contains("--viewers") && told_why.contains("100000"), "{told_why}");
    let help = lab(&["load", "hls", "--help"], None);
    assert!(String::from_utf8_lossy(&help.stdout).contains("at most 100000"), "{help:?}");
    for args in [&["load", "hls", &url, "--for", "1e19"][..], &["validate", &url, "--for", "1e19"]]
    {
        let refused = lab(args, None);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(told(&refused).starts_with("spyglass: --for 1"), "{refused:?}");
    }
}
