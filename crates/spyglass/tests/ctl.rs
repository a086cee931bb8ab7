//! `spyglass ctl` against a running `spyglass up`: every command's table and
//! its JSON, and a title that would like to steer the terminal.

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const OPERATOR: &str = "operator-key-of-the-ctl-test";

fn spyglass(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spyglass"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SPYGLASS_")) {
        command.env_remove(name);
    }
    command.args(args).env("RUST_LOG", "warn").stdin(Stdio::null());
    command
}

struct System {
    child: Child,
    control: String,
    _dir: TempDir,
}

impl System {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ready.json");
        let mut command = spyglass(&["up", "--listen", "127.0.0.1:0", "--edges", "2"]);
        command.args(["--operator-key", OPERATOR, "--state"]).arg(dir.path().join("state"));
        command.arg("--ready-file").arg(&file).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let ready: Value = loop {
            if let Ok(bytes) = std::fs::read(&file) {
                break serde_json::from_slice(&bytes).expect("written in one step");
            }
            assert_eq!(child.try_wait().unwrap(), None, "ended before it was ready");
            assert!(Instant::now() < deadline, "not ready after 30 s");
            std::thread::sleep(Duration::from_millis(10));
        };
        let control = ready["control"]["http"].as_str().unwrap().to_owned();
        Self { child, control, _dir: dir }
    }

    /// As the operator, unless other credentials are among the arguments.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = spyglass(&["ctl"]);
        command.args(args).args(["--control", &self.control]);
        if !args.contains(&"--token") {
            command.args(["--operator-key", OPERATOR]);
        }
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What people see.
    #[track_caller]
    fn table(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{args:?}: {text:?}");
        text
    }

    /// What scripts see: one document.
    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let text = self.table(&[args, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    #[track_caller]
    fn failure(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{args:?}: {text}");
        text
    }

    /// Nothing but what ctl itself would ask: a broadcast is made over HTTP.
    fn create(&self, token: &str, title: &str) -> String {
        let body = serde_json::json!({ "title": title }).to_string();
        let answer = http(&self.control, "POST", "/v1/broadcasts", token, &body);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of one answer.
fn http(control: &str, method: &str, path: &str, token: &str, body: &str) -> String {
    use std::io::{Read as _, Write as _};
    let host = control.trim_start_matches("http://");
    let mut socket = std::net::TcpStream::connect(host).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} of {value}"))
}

#[test]
fn every_command_has_a_table_and_json() {
    let system = System::start();

    // Nodes.
    let nodes = system.json(&["nodes"]);
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 3);
    let table = system.table(&["nodes"]);
    assert!(table.starts_with("ID "), "{table}");
    for word in ["ROLE", "STATE", "edge-1", "edge-2", "origin-1", "origin", "up"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    assert!(system.table(&["drain", "edge-2"]).contains("gets nothing new"));
    assert!(system.table(&["nodes"]).contains("draining"));
    let waited = system.table(&["drain", "edge-2", "--wait"]);
    assert!(waited.trim_end().ends_with("node edge-2 is empty"), "{waited}");
    assert_eq!(system.json(&["drain", "edge-2", "--wait"])["id"], "edge-2");
    assert!(system.table(&["undrain", "edge-2"]).contains("again"));
    assert_eq!(system.run(&["drain", "edge-2", "--timeout", "1"]).status.code(), Some(2));
    assert!(!system.table(&["nodes"]).contains("draining"));
    assert!(system.failure(&["drain", "edge-9"]).contains("no such node"));

    // Users, and who follows whom.
    let added = system.json(&["users", "add", "Ann", "Bob"]);
    let (ann, bob) = (&added["users"][0], &added["users"][1]);
    let (ann_id, bob_id) = (word(ann, "id"), word(bob, "id"));
    assert!(system.table(&["users", "add", "Cy"]).contains("TOKEN"));
    let listed = system.table(&["users", "list"]);
    assert!(listed.contains("Ann") && listed.contains("CREATED AT"), "{listed}");
    assert_eq!(system.json(&["users", "list"])["users"].as_array().unwrap().len(), 3);
    assert_eq!(system.json(&["users", "show", ann_id])["name"], "Ann");
    assert!(system.table(&["users", "follow", ann_id, bob_id]).contains("follows"));
    assert!(system.table(&["users", "following", ann_id]).contains(bob_id));
    assert!(system.table(&["users", "followers", bob_id]).contains(ann_id));
    system.table(&["users", "unfollow", ann_id, bob_id]);
    assert!(system.table(&["users", "following", ann_id]).contains("follows nobody"));
    let renewed = system.json(&["users", "token", bob_id]);
    assert_ne!(renewed["token"], bob["token"]);
    assert!(system.table(&["users", "remove", bob_id]).contains("removed"));
    assert!(system.failure(&["users", "show", bob_id]).contains("no such user"));

    // Broadcasts.
    assert!(system.table(&["broadcasts"]).contains("there are none"));
    let token = word(ann, "token");
    let id = system.create(token, "Naïve evening");
    let hostile = system.create(token, "\u{202e}\u{200b}gnp.exe");
    let listed = system.table(&["broadcasts"]);
    assert!(listed.contains("Naïve evening") && listed.contains("2 in all"), "{listed}");
    assert!(listed.contains("gnp.exe"), "{listed}");
    assert!(!listed.contains(['\u{202e}', '\u{200b}']), "{listed:?}");
    assert_eq!(system.json(&["broadcasts"])["total"], 2);
    assert_eq!(system.json(&["broadcasts", "--state", "live"])["broadcasts"], Value::Array(vec![]));
    let of_ann = system.json(&["broadcasts", "--user", ann_id]);
    assert_eq!(of_ann["broadcasts"].as_array().unwrap().len(), 2);
    let as_viewers = system.json(&["broadcasts", "--token", token]);
    assert_eq!((&as_viewers["live"], &as_viewers["total"]), (&Value::from(0), &Value::Null));
    let shown = system.table(&["show", &id]);
    assert!(shown.contains("title") && shown.contains("Naïve evening"), "{shown}");
    assert_eq!(system.json(&["show", &id])["state"], "created");
    let title = system.json(&["show", &hostile]);
    assert_eq!(title["title"], "\u{202e}\u{200b}gnp.exe", "scripts get what was said");
    assert!(system.table(&["viewers", &id]).contains("nobody watches"));
    let joined = http(&system.control, "POST", &format!("/v1/broadcasts/{id}/viewers"), token, "");
    let joined: Value = serde_json::from_str(&joined).unwrap();
    let kicked = system.table(&["kick", &id, word(&joined, "viewer")]);
    assert!(kicked.contains("cut off"), "{kicked}");
    assert!(system.table(&["end", &id]).contains("has ended"));
    assert_eq!(system.json(&["show", &id])["state"], "ended");
    assert!(system.table(&["broadcasts", "--state", "ended"]).contains(&id));
    assert!(system.failure(&["show", "0000000000000"]).contains("no such broadcast"));

    // Keys.
    assert!(!system.json(&["keys", "list"])["keys"].as_array().unwrap().is_empty());
    assert!(system.table(&["keys", "list"]).starts_with("ID "));

    let signing = |keys: &Value, state: &str| {
        let keys = keys["keys"].as_array().unwrap();
        let found = keys.iter().find(|key| key["state"] == state);
        found.map(|key| word(key, "id").to_owned())
    };
    let first = signing(&system.json(&["keys", "list"]), "signing").unwrap();
    let made = system.table(&["keys", "rotate"]);
    let next = signing(&system.json(&["keys", "list"]), "next").unwrap();
    assert!(made.contains(&next), "{made}");
    assert!(system.failure(&["keys", "rotate"]).contains(&next), "one at a time");
    let refused = system.table(&["keys", "revoke", &first]);
    assert!(refused.contains(&first) && refused.contains("refused"), "{refused}");
    assert!(refused.contains(&format!("{next} signs now")), "{refused}");
    let audit = system.table(&["audit", "--action", "revokeKey"]);
    assert!(audit.contains("revokeKey") && !audit.contains("rotateKey"), "{audit}");
    let left = system.json(&["keys", "list"]);
    assert_eq!(signing(&left, "signing").as_deref(), Some(next.as_str()), "{left}");
    assert!(!left.to_string().contains(&first), "{left}");
    assert!(system.failure(&["keys", "revoke", &first]).contains("no such key"));

    // Webhooks.
    assert!(system.table(&["webhooks", "list"]).contains("nobody is told"));
    let url = "http://127.0.0.1:9/hook";
    let add = ["webhooks", "add", url, "--event", "broadcast.live"];
    let hook = system.json(&add);
    assert!(word(&hook, "secret").starts_with("whsec_"), "{hook}");
    let told = &system.json(&["webhooks", "list"])["webhooks"][0];
    assert_eq!(told["events"], serde_json::json!(["broadcast.live"]), "{told}");
    assert!(system.table(&add).contains("whsec_"), "people see the secret, this once");
    let listed = system.table(&["webhooks", "list"]);
    assert!(listed.contains(url) && !listed.contains("whsec_"), "{listed}");
    let id = word(&hook, "id");
    assert!(system.table(&["webhooks", "remove", id]).contains("removed"));
    assert_eq!(system.json(&["webhooks", "list"])["webhooks"].as_array().unwrap().len(), 1);
    assert!(system.failure(&["webhooks", "remove", id]).contains("no such webhook"));
    let wrong = system.failure(&["webhooks", "add", "ftp://127.0.0.1/"]);
    assert!(wrong.contains("url"), "{wrong}");

    // Wrong credentials and wrong addresses say what to do.
    let stranger = system.failure(&["nodes", "--token", "nonsense"]);
    assert!(stranger.contains("check it"), "{stranger}");
    let mut away = spyglass(&["ctl", "nodes", "--control", "http://127.0.0.1:1"]);
    let away = away.output().unwrap();
    assert_eq!(away.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&away.stderr).contains("is it running"));
}

#[test]
fn watching_goes_on_and_stops_when_asked() {
    use std::io::{BufRead as _, BufReader};
    let system = System::start();
    let mut command = system.command(&["nodes", "--watch", "--json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = lines.next().expect("it goes on").unwrap();
        let nodes: Value = serde_json::from_str(&line).expect("a document on each line");
        assert_eq!(nodes["nodes"].as_array().unwrap().len(), 3);
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn events_come_as_they_happen() {
    use std::io::{BufRead as _, BufReader};
    let system = System::start();
    let id = system.create(OPERATOR, "tonight");
    system.table(&["end", &id]);
    let mut command = system.command(&["events", "--after", "0", "--json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut told: Vec<String> = Vec::new();
    for line in lines {
        let event: Value = serde_json::from_str(&line.unwrap()).expect("a document on each line");
        assert!(event["data"].is_object() && event["id"].is_string(), "{event}");
        told.push(word(&event, "event").to_owned());
        if told.last().is_some_and(|last| last == "broadcast.ended") {
            break;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(told, ["broadcast.created", "broadcast.ended"]);
}

#[test]
fn a_wait_for_a_node_that_does_not_get_empty_ends() {
    let system = System::start();
    let mut publisher = spyglass(&["publish", "--demo", "--control", &system.control]);
    let publisher = publisher.args(["--operator-key", OPERATOR]).stdout(Stdio::null()).spawn();
    let mut publisher = publisher.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while system.json(&["broadcasts", "--state", "live"])["broadcasts"] == serde_json::json!([]) {
        assert!(Instant::now() < deadline, "nothing goes live");
        std::thread::sleep(Duration::from_millis(50));
    }
    let began = Instant::now();
    let output = system.run(&["drain", "origin-1", "--wait", "--timeout", "1.2"]);
    let told = String::from_utf8(output.stderr).unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    publisher.kill().unwrap();
    publisher.wait().unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(began.elapsed() < Duration::from_secs(15));
    for part in ["after 1.2 s", "0 viewers and 1 broadcast", "--timeout", "ctl undrain origin-1"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(shown, "origin-1: it still holds 0 viewers and 1 broadcast\n");
}
