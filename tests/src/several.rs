//! Two controls over one `nats-server`, an origin and an edge, each a process
//! of its own.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use spyglass_testkit::nats::Nats;
use tempfile::TempDir;

use crate::eventually;
use crate::http::{Answer, Client};
use crate::system::{Broadcast, OPERATOR, Process, authority, own_address, service, strings};

/// Time for debug builds on a busy machine.
const START: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub struct Several {
    /// What both keep their state in.
    pub nats: Nats,
    /// Two equal ones.
    pub controls: [Process; 2],
    /// Was told of both.
    pub origin: Process,
    /// Was told of the first only.
    pub edge: Process,
    /// For requests.
    pub client: Client,
    dir: TempDir,
}

impl Several {
    /// Starts all of them and waits until each control knows each node.
    pub async fn start(args: &[&str]) -> Self {
        let nats = Nats::start();
        let dir = tempfile::tempdir().unwrap();
        let none = Value::Null;
        let controls = [
            control(&dir, &nats, 0, &none, args).await,
            control(&dir, &nats, 1, &none, args).await,
        ];
        let grpc = |n: usize| controls[n].ready["control"]["grpc"].as_str().unwrap().to_owned();
        let (first, second) = (grpc(0), grpc(1));
        let flags = [
            ("--id", "origin-1"),
            ("--rtmp", "127.0.0.1:0"),
            ("--http", "127.0.0.1:0"),
            ("--grpc", "127.0.0.1:0"),
            ("--control", first.as_str()),
            ("--control", second.as_str()),
        ];
        let flags = service(dir.path(), "origin", &flags);
        let origin = Process::start(dir.path(), "origin", &flags).await;
        let flags = [
            ("--id", "edge-1"),
            ("--http", "127.0.0.1:0"),
            ("--grpc", "127.0.0.1:0"),
            ("--control", first.as_str()),
        ];
        let edge = Process::start(dir.path(), "edge", &service(dir.path(), "edge", &flags)).await;
        let several = Self { nats, controls, origin, edge, client: Client::default(), dir };
        several.wait_for_nodes(0).await;
        several.wait_for_nodes(1).await;
        let ready = format!("{}/readyz", several.edge.ready["edges"][0]["http"].as_str().unwrap());
        eventually("the edge is ready", START, || async {
            (several.client.try_get(&ready).await.ok()?.status == 200).then_some(())
        })
        .await;
        several
    }

    /// Starts a control again at its old addresses.
    pub async fn restart_control(&mut self, n: usize) {
        self.controls[n].kill();
        let at = self.controls[n].ready["control"].clone();
        self.controls[n] = control(&self.dir, &self.nats, n, &at, &[]).await;
    }

    /// A URL of one control.
    pub fn url(&self, n: usize, path: &str) -> String {
        format!("{}{path}", self.controls[n].ready["control"]["http"].as_str().unwrap())
    }

    /// A request to one control as the operator.
    pub async fn operator(&self, n: usize, method: Method, path: &str, body: Value) -> Answer {
        self.client.call(method, &self.url(n, path), OPERATOR, &body).await
    }

    /// A new broadcast, made at one control.
    pub async fn create(&self, n: usize, title: &str) -> Broadcast {
        let body = json!({ "title": title });
        let made = self.operator(n, Method::POST, "/v1/broadcasts", body).await.expect(201).json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let publish = &made["publish"];
        let publish_url =
            format!("{}/{}", text(&publish["rtmp_url"]), text(&publish["stream_key"]));
        Broadcast { id: text(&made["id"]), publish_url }
    }

    /// Joins at one control as anybody; not yet known how it ended.
    pub async fn join(&self, n: usize, id: &str) -> Result<Answer, String> {
        let url = self.url(n, &format!("/v1/broadcasts/{id}/viewers"));
        self.client.try_call(Method::POST, &url, "", &json!({})).await
    }

    /// What one control says of a broadcast.
    pub async fn show(&self, n: usize, id: &str) -> Value {
        self.operator(n, Method::GET, &format!("/v1/broadcasts/{id}"), Value::Null)
            .await
            .expect(200)
            .json()
    }

    /// Waits until both controls say `value` at `field`.
    pub async fn wait_for(&self, id: &str, field: &str, value: &Value, limit: Duration) {
        for n in 0..2 {
            eventually(&format!("control {n} says {value} of {field}"), limit, || async {
                let url = self.url(n, &format!("/v1/broadcasts/{id}"));
                let shown = self.client.try_call(Method::GET, &url, OPERATOR, &Value::Null).await;
                (shown.ok()?.json().pointer(field) == Some(value)).then_some(())
            })
            .await;
        }
    }

    /// Waits until both controls answer `/readyz` with `status`; what they said.
    pub async fn wait_for_readiness(&self, status: u16, limit: Duration) -> [String; 2] {
        let mut said = [String::new(), String::new()];
        for (n, said) in said.iter_mut().enumerate() {
            let url = self.url(n, "/readyz");
            *said = eventually(&format!("/readyz of control {n} is {status}"), limit, || async {
                let answer = self.client.try_get(&url).await.ok()?;
                (answer.status == status).then(|| answer.text())
            })
            .await;
        }
        said
    }

    /// Waits until a control hears both nodes.
    pub async fn wait_for_nodes(&self, n: usize) {
        eventually(&format!("both nodes are up at control {n}"), START, || async {
            let url = self.url(n, "/v1/nodes");
            let nodes = self.client.try_call(Method::GET, &url, OPERATOR, &Value::Null).await;
            let nodes = nodes.ok()?.json()["nodes"].as_array()?.clone();
            (nodes.iter().filter(|node| node["state"] == "up").count() == 2).then_some(())
        })
        .await;
    }
}

async fn control(dir: &TempDir, nats: &Nats, n: usize, at: &Value, args: &[&str]) -> Process {
    let address =
        |key: &str| at[key].as_str().map_or_else(own_address, |url| authority(url).to_string());
    let (http, grpc, store) = (address("http"), address("grpc"), nats.url());
    let name = format!("control-{}", n + 1);
    let flags = [
        ("--id", name.as_str()),
        ("--http", http.as_str()),
        ("--grpc", grpc.as_str()),
        ("--store", store.as_str()),
    ];
    let mut all = service(dir.path(), "control", &flags);
    let state = all.iter().position(|arg| arg == "--state").unwrap() + 1;
    all[state] = dir.path().join(&name).display().to_string();
    all.extend(strings(&["--operator-key", OPERATOR]));
    all.extend(strings(args));
    Process::start(dir.path(), &name, &all).await
}
