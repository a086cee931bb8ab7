//! One release back: its recorded messages are understood, whatever was added
//! since; and so are messages of a later one.

mod support;

use prost::Message as _;
use serde_json::{Value, json};
use spyglass_api::auth::{Attach, ClusterKey};
use spyglass_api::control::control_client::ControlClient;
use spyglass_api::control::{Report, Update, update};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use support::{CLUSTER, World, eventually};

macro_rules! recorded {
    ($name:literal) => {
        bytes(include_str!(concat!("../../api/tests/recorded/", $name, ".hex")))
    };
}

fn bytes(hex: &str) -> Vec<u8> {
    let hex = hex.trim().as_bytes();
    let digit = |at: usize| char::from(hex[at]).to_digit(16).unwrap() as u8;
    (0..hex.len()).step_by(2).map(|at| digit(at) << 4 | digit(at + 1)).collect()
}

/// A field that no release has: number 1000, two bytes of text.
fn with_an_unknown_field(mut message: Vec<u8>) -> Vec<u8> {
    message.extend([0xc2, 0x3e, 2, b'h', b'i']);
    message
}

const BROADCAST: &str = "0123456789abc";

#[tokio::test]
async fn a_node_of_the_release_before_is_understood() {
    let world = World::start().await;
    let (reports, waiting) = tokio::sync::mpsc::channel(8);
    let send = async |recorded: Vec<u8>| {
        let report = Report::decode(&with_an_unknown_field(recorded)[..]).unwrap();
        assert!(report.report.is_some());
        reports.send(report).await.unwrap();
    };
    send(recorded!("report-1-register")).await;
    let channel = Channel::from_shared(world.at.grpc.clone()).unwrap().connect().await.unwrap();
    let key = Attach(ClusterKey::new(CLUSTER).unwrap());
    let mut client = ControlClient::with_interceptor(channel, key);
    let mut updates = client.attach(ReceiverStream::new(waiting)).await.unwrap().into_inner();
    let keys = loop {
        let told = updates.message().await.unwrap().expect("its keys");
        if let Some(update::Update::Keys(keys)) = told.update {
            break keys;
        }
    };
    assert!(keys.keys.iter().any(|key| key.id == "old-key"), "a new control adopts its keys");
    world.wait_for_node("origin-1", "up").await;
    let path = format!("/v1/broadcasts/{BROADCAST}");
    eventually("control knows the broadcast", || async {
        let answer = world.operator("GET", &path, Value::Null).await;
        (answer.status == 200).then_some(())
    })
    .await;
    let shown = world.wait_for(BROADCAST, "/state", &json!("live")).await;
    assert_eq!((&shown["title"], &shown["origin"]), (&json!("recorded"), &json!("origin-1")));

    send(recorded!("report-2-heartbeat")).await;
    send(recorded!("report-3-digest")).await;
    world.wait_for(BROADCAST, "/viewers/push", &json!(1)).await;
    let nodes = world.operator("GET", "/v1/nodes", Value::Null).await.expect(200).json();
    assert_eq!(nodes["nodes"][0]["load"]["viewers"], 3);
    assert_eq!(nodes["nodes"][0]["location"]["lat"], 52.37);
    send(recorded!("report-4-leases")).await;
    world.wait_for(BROADCAST, "/viewers/push", &json!(0)).await;
    send(recorded!("report-5-event")).await;
    world.wait_for(BROADCAST, "/state", &json!("ended")).await;
}

#[test]
fn what_control_of_the_release_before_says_is_understood() {
    let said = |recorded: Vec<u8>| {
        let whole = Update::decode(&recorded[..]).unwrap().update.unwrap();
        let more = Update::decode(&with_an_unknown_field(recorded)[..]).unwrap().update.unwrap();
        assert_eq!(whole, more);
        whole
    };
    let update::Update::Keys(keys) = said(recorded!("update-keys")) else { panic!("keys") };
    assert_eq!((keys.store.as_str(), keys.keys[0].public_key.len()), ("store-1", 32));
    assert_eq!((keys.revision, keys.revoked.len()), (0, 0), "what it does not know is absent");
    let update::Update::Nodes(nodes) = said(recorded!("update-nodes")) else { panic!("nodes") };
    assert_eq!(nodes.nodes[0].grpc, "http://old.test:9180");
    let update::Update::Expect(expect) = said(recorded!("update-expect")) else { panic!("expect") };
    assert_eq!((expect.chunk_ms, expect.resume_ms), (3_000, 30_000));
    let update::Update::End(end) = said(recorded!("update-end")) else { panic!("end") };
    assert_eq!(end.broadcast, BROADCAST);
    let update::Update::Revocation(gone) = said(recorded!("update-revocation")) else {
        panic!("revocation")
    };
    assert_eq!(gone.expires_at_ms, 1_800_000_000_000);
    let update::Update::Drain(drain) = said(recorded!("update-drain")) else { panic!("drain") };
    assert!(drain.draining);
}

#[tokio::test]
async fn a_call_without_the_cluster_key_or_with_too_large_a_message_is_refused() {
    let world = World::start().await;
    let channel =
        || async { Channel::from_shared(world.at.grpc.clone()).unwrap().connect().await.unwrap() };
    let none = || tokio_stream::empty::<Report>();
    let bare = ControlClient::new(channel().await).attach(none()).await.unwrap_err();
    let wrong = Attach(ClusterKey::new("another-cluster-key").unwrap());
    let wrong = ControlClient::with_interceptor(channel().await, wrong).attach(none()).await;
    for refused in [bare, wrong.unwrap_err()] {
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    }
    let mut large = Report::decode(&recorded!("report-1-register")[..]).unwrap();
    let Some(spyglass_api::control::report::Report::Register(register)) = &mut large.report else {
        panic!("no register")
    };
    register.version = "v".repeat(spyglass_api::MAX_MESSAGE + 1);
    let key = Attach(ClusterKey::new(CLUSTER).unwrap());
    let mut client = ControlClient::with_interceptor(channel().await, key);
    let refused = client.attach(tokio_stream::iter([large])).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
}
