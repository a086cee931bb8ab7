//! Two processes with one name: the first keeps it, and the operator is told
//! which has it and what to do.

mod support;

use std::time::Duration;

use spyglass_api::auth::{Attach, ClusterKey};
use spyglass_api::control::control_client::ControlClient;
use spyglass_api::control::report::Report as Kind;
use spyglass_api::control::{Register, Report, Role, Update, update};
use support::{CLUSTER, Node, World, eventually};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

type Open = (mpsc::Sender<Report>, Streaming<Update>);

/// A node's stream, as a process of this incarnation opens it.
async fn stream(world: &World, incarnation: u64) -> Result<Open, Status> {
    let channel = Channel::from_shared(world.at.grpc.clone()).unwrap().connect().await.unwrap();
    let key = Attach(ClusterKey::new(CLUSTER).unwrap());
    let (reports, outgoing) = mpsc::channel(4);
    let register = Register {
        node: "edge-1".into(),
        role: Role::Edge.into(),
        public_http: format!("http://process-{incarnation}.test"),
        incarnation,
        ..Register::default()
    };
    reports.send(Report { report: Some(Kind::Register(register)) }).await.unwrap();
    let answer =
        ControlClient::with_interceptor(channel, key).attach(ReceiverStream::new(outgoing)).await?;
    Ok((reports, answer.into_inner()))
}

/// How a stream ends: the status, if it ends with one.
async fn end(updates: &mut Streaming<Update>) -> Option<Status> {
    let last = async { updates.filter_map(Result::err).next().await };
    tokio::time::timeout(Duration::from_secs(15), last).await.expect("it does not end")
}

#[tokio::test]
async fn who_comes_second_is_refused_and_told_who_has_the_name() {
    let world = World::start().await;
    let (_reports, mut updates) = stream(&world, 1).await.unwrap();
    world.wait_for_node("edge-1", "up").await;
    // The same process comes back: nothing is wrong.
    let (_again, mut anew) = stream(&world, 1).await.unwrap();
    assert!(end(&mut updates).await.is_none());
    let refused = stream(&world, 2).await.expect_err("the name is taken");
    assert_eq!(refused.code(), Code::Aborted);
    assert_eq!(
        refused.message(),
        "--id edge-1 is used by the node at http://process-1.test: give this one another --id, \
         or stop that one"
    );
    // This one says nothing, so that it is lost; should it only have slept, it is
    // told who has come meanwhile.
    world.wait_for_node("edge-1", "lost").await;
    let (_other, mut theirs) = stream(&world, 2).await.expect("the name is free");
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
    let warned = tokio::time::timeout(Duration::from_secs(15), warned).await.unwrap();
    assert!(warned.contains("has said nothing for 5 s"), "{warned}");
}

#[tokio::test]
async fn a_process_that_was_killed_does_not_stand_in_its_own_way() {
    let world = World::start().await;
    let first = stream(&world, 1).await.unwrap();
    world.wait_for_node("edge-1", "up").await;
    let second = async {
        // The new one is here before the end of the old one's connection.
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(first);
    };
    let (second, ()) = tokio::join!(stream(&world, 2), second);
    let (_reports, mut updates) = second.expect("it waits for the old one's end");
    let update = updates.next().await.expect("open").expect("an update");
    assert!(update.update.is_some());
}

#[tokio::test]
async fn two_nodes_of_one_name_do_not_take_turns() {
    let world = World::start().await;
    let first = world.node("edge-1", Role::Edge, None).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let second = Node::start(&world.at.grpc, elsewhere.path(), "edge-1", Role::Edge, None);
    // It asks again and again, and yields.
    let (mut here, mut there) = (first.link.attached(), second.link.attached());
    here.mark_unchanged();
    there.mark_unchanged();
    let changed = async {
        tokio::select! {
            _ = here.changed() => "the first loses its name",
            _ = there.changed() => "the second takes it",
        }
    };
    let changed = tokio::time::timeout(Duration::from_secs(7), changed).await;
    assert!(changed.is_err(), "{changed:?}");
    assert!(*first.link.attached().borrow() && !*second.link.attached().borrow());
    // Until the other is gone; nobody loses the node for long.
    first.stop();
    eventually("the second is there", || async {
        (*second.link.attached().borrow()).then_some(())
    })
    .await;
    world.wait_for_node("edge-1", "up").await;
}

#[tokio::test]
async fn each_control_minds_its_own_streams() {
    let (one, two) = World::two(|_| {}).await;
    let _first = stream(&one, 1).await.unwrap();
    two.wait_for_node("edge-1", "lost").await;
    // What only the other hears refuses nobody here.
    stream(&one, 2).await.expect_err("it has the name there");
    let _second = stream(&two, 2).await.expect("nobody has the name here");
    two.wait_for_node("edge-1", "up").await;
}
