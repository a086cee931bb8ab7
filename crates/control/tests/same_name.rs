//! Two processes with one name: the operator is told which and what to do.

mod support;

use spyglass_api::auth::{Attach, ClusterKey};
use spyglass_api::control::control_client::ControlClient;
use spyglass_api::control::report::Report as Kind;
use spyglass_api::control::{Register, Report, Role, Update, update};
use support::{CLUSTER, Node, World, eventually};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

/// A node's stream, as a process of this incarnation opens it.
async fn stream(world: &World, incarnation: u64) -> (mpsc::Sender<Report>, Streaming<Update>) {
    let channel = Channel::from_shared(world.at.grpc.clone()).unwrap().connect().await.unwrap();
    let key = Attach(ClusterKey::new(CLUSTER).unwrap());
    let (reports, outgoing) = mpsc::channel(4);
    let register = Register {
        node: "edge-1".into(),
        role: Role::Edge.into(),
        incarnation,
        ..Register::default()
    };
    reports.send(Report { report: Some(Kind::Register(register)) }).await.unwrap();
    let answer =
        ControlClient::with_interceptor(channel, key).attach(ReceiverStream::new(outgoing)).await;
    (reports, answer.unwrap().into_inner())
}

/// How a stream ends: the status, if it ends with one.
async fn end(updates: &mut Streaming<Update>) -> Option<tonic::Status> {
    let last = async { updates.filter_map(Result::err).next().await };
    tokio::time::timeout(std::time::Duration::from_secs(15), last).await.expect("it does not end")
}

#[tokio::test]
async fn the_process_that_loses_its_name_is_told_by_whom() {
    let world = World::start().await;
    let (_reports, mut updates) = stream(&world, 1).await;
    world.wait_for_node("edge-1", "up").await;
    // The same process comes back: nothing is wrong.
    let (_again, mut anew) = stream(&world, 1).await;
    assert!(end(&mut updates).await.is_none());
    let (_other, mut theirs) = stream(&world, 2).await;
    let told = end(&mut anew).await.expect("a reason");
    assert_eq!(told.code(), Code::Aborted);
    let text = told.message();
    assert!(text.starts_with("another process registered as edge-1 from 127.0.0.1:"), "{text}");
    assert!(text.ends_with("give each node its own --id"), "{text}");
    // And so is the one that has it now.
    let warned = async {
        loop {
            match theirs.next().await.expect("open").expect("an update").update {
                Some(update::Update::Warning(warning)) => break warning.text,
                _ => continue,
            }
        }
    };
    let warned = tokio::time::timeout(std::time::Duration::from_secs(15), warned).await.unwrap();
    assert!(warned.contains("lost the name to this one"), "{warned}");
}

#[tokio::test]
async fn two_nodes_of_one_name_do_not_take_turns() {
    let world = World::start().await;
    let first = world.node("edge-1", Role::Edge, None).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let second = Node::start(&world.at.grpc, elsewhere.path(), "edge-1", Role::Edge, None);
    eventually("the first gives way", || async {
        (!*first.link.attached().borrow() && *second.link.attached().borrow()).then_some(())
    })
    .await;
    // It asks again and again, and yields.
    let mut attached = second.link.attached();
    let taken = tokio::time::timeout(std::time::Duration::from_secs(5), attached.changed()).await;
    assert!(taken.is_err() && !*first.link.attached().borrow());
    // Until the other is gone; nobody loses the node for long.
    second.stop();
    eventually("the first is back", || async { (*first.link.attached().borrow()).then_some(()) })
        .await;
    world.wait_for_node("edge-1", "up").await;
}
