//! The command line, as operators and scripts rely on it: names, layers,
//! exit status, one clear line for what went wrong.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

const KEY: &str = "cluster-key-of-the-tests";

fn spyglass(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spyglass"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SPYGLASS_")) {
        command.env_remove(name);
    }
    command.args(args).env("RUST_LOG", "warn").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    spyglass(args).output().unwrap()
}

/// Its standard error, after checking that it failed with exactly one line.
fn failure(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    assert!(text.starts_with("spyglass: "), "{text}");
    text
}

fn file(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A service that runs until it is dropped.
struct Running {
    child: Child,
    ready: Value,
}

impl Running {
    fn start(mut command: Command, dir: &TempDir) -> Self {
        let file = dir.path().join("ready.json");
        let mut child =
            command.arg("--ready-file").arg(&file).stdout(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let ready = loop {
            if let Ok(bytes) = std::fs::read(&file) {
                break serde_json::from_slice(&bytes).expect("written in one step");
            }
            assert_eq!(child.try_wait().unwrap(), None, "ended before it was ready");
            assert!(Instant::now() < deadline, "not ready after 30 s");
            std::thread::sleep(Duration::from_millis(10));
        };
        Self { child, ready }
    }

    fn stop(mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An origin on free ports that knows no control.
fn origin(dir: &TempDir, args: &[&str]) -> Command {
    let mut command = spyglass(&["origin", "--rtmp", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    command.args(["--grpc", "127.0.0.1:0", "--control", "http://127.0.0.1:1"]);
    command.arg("--state").arg(dir.path().join("state")).args(args);
    command
}

#[test]
fn every_command_explains_its_flags() {
    let service =
        ["--config", "--ready-file", "--id", "--http", "--cluster-key", "--admin", "--state"];
    let node = ["--control", "--public-http", "--location", "--log-format"];
    let policy = [
        "--operator-key",
        "--push-viewers",
        "--chunk-seconds",
        "--resume-seconds",
        "--publish-token-seconds",
        "--watch-token-seconds",
    ];
    let up = ["--edges", "--demo", "--listen", "--edge-location", "--ignore-notices", "--state"];
    let expected: [(&str, Vec<&str>); 9] = [
        ("up", [&up[..], &policy, &["--config", "--ready-file", "--log-format"]].concat()),
        ("control", [&service[..], &policy, &["--grpc", "--store", "--cluster-key-file"]].concat()),
        ("origin", [&service[..], &node, &["--rtmp", "--public-rtmp", "--public-grpc"]].concat()),
        ("edge", [&service[..], &node, &["--grpc", "--public-grpc", "--ignore-notices"]].concat()),
        ("messages", service.to_vec()),
        ("publish", vec!["--file", "--loop", "--title", "--control", "--for", "--config"]),
        ("watch", vec!["--tier", "--for", "--json", "--config"]),
        ("ctl", vec!["nodes", "broadcasts", "show", "viewers", "end", "--json", "--config"]),
        ("lab", vec![]),
    ];
    for (command, flags) in expected {
        let output = run(&[command, "--help"]);
        let help = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{command}: {help}");
        for flag in flags {
            assert!(help.contains(flag), "spyglass {command} --help lacks {flag}:\n{help}");
        }
    }
}

#[test]
fn help_shows_no_secret_of_the_environment() {
    let secrets = ["SPYGLASS_STORE", "SPYGLASS_CLUSTER_KEY", "SPYGLASS_OPERATOR_KEY"];
    for flag in ["--help", "-h"] {
        let mut command = spyglass(&["control", flag]);
        for name in secrets {
            command.env(name, "nats://control:the-password@nats.test");
        }
        let help = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(secrets.iter().all(|name| help.contains(name)), "{help}");
        assert!(!help.contains("the-password"), "{help}");
    }
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &[][..],
        &["frobnicate"],
        &["origin", "--frobnicate"],
        &["edge", "--http", "not an address"],
        &["edge", "--location", "91,0"],
        &["control", "--id", "Not_An_Id"],
        &["up", "--listen", "nowhere"],
        &["up", "--edge-location", "edge-1"],
        &["origin", "--log-format", "xml"],
        &["watch", "not-an-id"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn up_on_every_address_wants_to_know_what_others_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().to_str().unwrap();
    for listen in ["0.0.0.0", "0.0.0.0:0", "::"] {
        let text = failure(&run(&["up", "--listen", listen, "--state", state]));
        assert!(text.contains("--listen") && text.contains("--public-host HOST"), "{text}");
    }
    let output = run(&["up", "--public-host", "http://x:80"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_certificate_without_a_listener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().to_str().unwrap();
    let edge = ["edge", "--state", state, "--cluster-key", KEY, "--http", "127.0.0.1:0"];
    let tls = ["--grpc", "127.0.0.1:0", "--tls-cert", "c.pem", "--tls-key", "k.pem"];
    let text = failure(&run(&[&edge[..], &tls].concat()));
    assert!(text.contains("--tls-cert c.pem") && text.contains("give --https ADDR"), "{text}");
}

#[test]
fn a_state_that_cannot_be_is_told_with_its_flag() {
    for command in ["up", "control", "origin", "edge"] {
        let mut command = spyglass(&[command, "--state", "/proc/nope"]);
        let output = command.env("SPYGLASS_CLUSTER_KEY", KEY).output().unwrap();
        let text = failure(&output);
        assert!(text.contains("--state /proc/nope: "), "{text}");
        assert!(text.contains("give a directory that this user can make"), "{text}");
    }
}

#[test]
fn usage_names_what_must_be_given_and_nothing_else() {
    for (args, usage) in [
        (&["watch"][..], "Usage: spyglass watch [OPTIONS] <ID>\n"),
        (&["ctl", "drain"], "Usage: spyglass ctl drain [OPTIONS] <NODE>\n"),
        (&["ctl", "nodes", "--bogus"], "Usage: spyglass ctl nodes [OPTIONS]\n"),
    ] {
        let mut command = spyglass(args);
        let output = command.env("SPYGLASS_OPERATOR_KEY", "some-secret").output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(usage), "{args:?}: {text}");
    }
}

#[test]
fn load_of_a_process_that_is_not_there_is_refused() {
    let never = u32::MAX.to_string();
    let args = ["lab", "load", "hls", "http://127.0.0.1:9/index.m3u8", "--pid", &never];
    let text = failure(&run(&args));
    assert!(text.contains("--pid 4294967295: there is no such process"), "{text}");
    for command in [&["lab", "load", "hls", "--help"][..], &["lab", "validate", "--help"]] {
        let help = String::from_utf8(run(command).stdout).unwrap();
        for version in ["HTTP/1.1", "HTTP/2", "HTTP/3 is not spoken"] {
            assert!(help.contains(version), "{version}: {help}");
        }
    }
}

#[test]
fn what_is_not_there_yet_says_so() {
    assert!(failure(&run(&["messages"])).contains("not part of this release yet"));
}

#[test]
fn an_unknown_key_is_refused_with_its_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    for (command, text, line, key) in [
        ("control", "push_viewrs = 5", 1, "push_viewrs"),
        ("origin", "# mine\nrtpm = '127.0.0.1:0'", 2, "rtpm"),
        ("edge", "\n\ncahce_bytes = 5", 3, "cahce_bytes"),
        ("up", "edges = 1\nlissten = '127.0.0.1:0'", 2, "lissten"),
        ("up", "[origin]\nrtpm = '127.0.0.1:0'", 2, "rtpm"),
        ("up", "[control]\npush_viewers = 5\n[[edge]]\nlokation = '1,2'", 4, "lokation"),
    ] {
        let path = file(&dir, "wrong.toml", text);
        let output = run(&[command, "--config", path.to_str().unwrap()]);
        let error = failure(&output);
        let expected = format!("{}, line {line}: unknown field `{key}`", path.display());
        assert!(error.contains(&expected), "{command}: {error}");
    }
    let error = failure(&run(&["edge", "--config", "/nonexistent.toml"]));
    assert!(error.contains("configuration /nonexistent.toml: "), "{error}");
}

#[test]
fn a_taken_port_says_which_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap();
    let (state, address) = (dir.path().to_str().unwrap(), taken.to_string());
    for (command, flag) in [
        ("control", "--http"),
        ("control", "--grpc"),
        ("origin", "--rtmp"),
        ("edge", "--http"),
        ("edge", "--admin"),
    ] {
        let mut args = vec![command, "--state", state, "--cluster-key", KEY];
        let listeners: &[&str] = match command {
            "origin" => &["--rtmp", "--http", "--grpc"],
            _ => &["--http", "--grpc"],
        };
        for other in listeners.iter().filter(|&&other| other != flag) {
            args.extend([*other, "127.0.0.1:0"]);
        }
        args.extend([flag, &address]);
        let error = failure(&run(&args));
        let expected = format!("{flag} {taken}: port {} is taken: stop", taken.port());
        assert!(error.contains(&expected), "{command}: {error}");
    }
    drop(held);
}

#[test]
fn a_missing_or_unfit_cluster_key_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let error = failure(&origin(&dir, &[]).output().unwrap());
    assert!(error.contains("--cluster-key or --cluster-key-file"), "{error}");
    let error = failure(&origin(&dir, &["--cluster-key", "two words"]).output().unwrap());
    assert!(error.contains("without spaces") && !error.contains("two words"), "{error}");
    let error = failure(&origin(&dir, &["--cluster-key", "a"]).output().unwrap());
    assert!(error.contains("fewer than 8 characters"), "{error}");
}

#[test]
fn a_setting_that_does_not_fit_is_told_with_its_line_and_form() {
    let dir = tempfile::tempdir().unwrap();
    for (command, text, expected) in [
        ("control", "# ours\nchunk_seconds = 99.0", "line 2: chunk_seconds: give a number"),
        ("control", "http = '8080'", "line 1: http: no address with a port"),
        (
            "control",
            "rate_list = 5",
            "rate_list: invalid type: integer `5`, expected a rate, like {",
        ),
        (
            "control",
            "push_viewers = 'ten'",
            "push_viewers: invalid type: string \"ten\", expected a wh",
        ),
    ] {
        let path = file(&dir, "wrong.toml", text);
        let output = run(&[command, "--cluster-key", KEY, "--config", path.to_str().unwrap()]);
        let error = failure(&output);
        assert!(error.contains(expected), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn an_address_that_others_cannot_be_told_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (command, flag, wants) in [
        ("edge", "--http", "--public-http"),
        ("edge", "--grpc", "--public-grpc"),
        ("origin", "--rtmp", "--public-rtmp"),
        ("origin", "--grpc", "--public-grpc"),
        ("control", "--http", "--public-http"),
    ] {
        let state = dir.path().to_str().unwrap();
        let args = [command, "--state", state, "--cluster-key", KEY, flag, "0.0.0.0:0"];
        let error = failure(&run(&args));
        assert!(error.contains(&format!("{flag} 0.0.0.0:0")), "{command}: {error}");
        assert!(error.contains(&format!("give {wants} URL")), "{command}: {error}");
    }
    // Only the other controls of its store tell a control's gRPC address.
    let state = dir.path().to_str().unwrap();
    let args = ["control", "--state", state, "--cluster-key", KEY, "--store", "nats://127.0.0.1:1"];
    let error = failure(&run(&[&args[..], &["--grpc", "0.0.0.0:0"]].concat()));
    assert!(error.contains("give --public-grpc URL"), "{error}");
}

#[test]
fn a_service_outlives_whoever_reads_its_log() {
    let dir = TempDir::new().unwrap();
    let mut command = origin(&dir, &["--cluster-key", KEY]);
    command.env("RUST_LOG", "debug").stderr(Stdio::piped());
    let mut running = Running::start(command, &dir);
    drop(running.child.stderr.take());
    assert_eq!(running.stop(Signal::SIGTERM), Some(0), "it says that it stops, to nobody");
}

fn id(running: &Running) -> &str {
    running.ready["origins"][0]["id"].as_str().unwrap()
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "origin.toml", &format!("id = 'from-file'\ncluster_key = '{KEY}'"));
    let config = ["--config", path.to_str().unwrap()];

    let from_file = Running::start(origin(&dir, &config), &dir);
    assert_eq!(id(&from_file), "from-file");
    let only: Vec<_> = from_file.ready.as_object().unwrap().keys().collect();
    assert_eq!(only, ["origins"], "a service alone writes only its own entry");
    for key in ["rtmp", "http", "grpc"] {
        let url = from_file.ready["origins"][0][key].as_str().unwrap();
        assert!(!url.contains(":0"), "the real port: {url}");
    }
    // Its state is its own while it runs, and no longer.
    let told = failure(&origin(&dir, &config).output().unwrap());
    assert!(told.contains("another process uses it") && told.contains("--state"), "{told}");
    assert_eq!(from_file.stop(Signal::SIGTERM), Some(0));

    std::fs::remove_file(dir.path().join("ready.json")).unwrap();
    let mut command = origin(&dir, &config);
    command.env("SPYGLASS_ID", "from-environment");
    let from_environment = Running::start(command, &dir);
    assert_eq!(id(&from_environment), "from-environment");
    assert_eq!(from_environment.stop(Signal::SIGINT), Some(0));

    std::fs::remove_file(dir.path().join("ready.json")).unwrap();
    let mut command = origin(&dir, &config);
    command.env("SPYGLASS_ID", "from-environment").args(["--id", "from-flag"]);
    assert_eq!(id(&Running::start(command, &dir)), "from-flag");
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn up_tells_everything_once_all_answer_and_stops_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = spyglass(&["up", "--listen", "127.0.0.1:0", "--edges", "2"]);
    command.arg("--state").arg(dir.path().join("state"));
    let up = Running::start(command, &dir);
    let ready = &up.ready;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    assert!(text(&ready["control"]["http"]).starts_with("http://127.0.0.1:"));
    assert!(text(&ready["control"]["grpc"]).starts_with("http://127.0.0.1:"));
    assert_eq!(ready["origins"][0]["id"], "origin-1");
    assert!(text(&ready["origins"][0]["rtmp"]).starts_with("rtmp://127.0.0.1:"));
    assert!(text(&ready["origins"][0]["rtmp"]).ends_with("/live"));
    assert_eq!(ready["edges"][0]["id"], "edge-1");
    assert_eq!(ready["edges"][1]["id"], "edge-2");
    assert_eq!(ready["edges"].as_array().unwrap().len(), 2);
    let key = text(&ready["operator_key"]);
    assert!(key.len() >= 16, "made when absent");
    let kept = files(&dir.path().join("state"));
    let key_file = kept.iter().find(|path| path.ends_with("control/operator-key"));
    let kept_key = std::fs::read_to_string(key_file.expect("kept in the state")).unwrap();
    assert_eq!(kept_key.trim(), key);
    for node in ["control", "origins", "edges"] {
        let entry = if ready[node].is_array() { &ready[node][0] } else { &ready[node] };
        let url = format!("{}/readyz", text(&entry["http"]));
        assert_eq!(run(&["ctl", "healthy", &url]).status.code(), Some(0), "{url}");
    }
    let error = failure(&run(&["ctl", "healthy", "http://127.0.0.1:1/readyz"]));
    assert!(error.contains("does not answer"), "{error}");
    assert_eq!(up.stop(Signal::SIGTERM), Some(0));
}
