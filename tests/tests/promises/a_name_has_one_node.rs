//! Who starts a second node under a name that a node has is told which one, in
//! the log of the node that it started; the first works on as if nothing had
//! happened. When the first is killed, the name is free.

use std::time::Duration;

use spyglass_tests::eventually;
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn a_name_has_one_node() {
    let mut system = System::apart(1, &[]).await;
    let first = system.edge(0);
    let mut other = system.namesake_of_edge("edge-1").await;
    let reason = format!(
        "--id edge-1 is used by the node at {first}: give this one another --id, or stop that one"
    );
    eventually("it is told why", Duration::from_secs(10), || async {
        other.log_text().contains(&reason).then_some(())
    })
    .await;
    let address = |nodes: Vec<serde_json::Value>| {
        let edge = nodes.into_iter().find(|node| node["id"] == "edge-1").unwrap();
        (edge["state"].as_str().unwrap().to_owned(), edge["http"].as_str().unwrap().to_owned())
    };
    assert_eq!(address(system.nodes().await), ("up".to_owned(), first.clone()));

    // Killed and started again at once: its own old stream is not in its way.
    let refusals = |system: &System| system.edges[0].log_text().matches("is used by").count();
    other.kill();
    system.edges[0].kill();
    system.restart_edge(0).await;
    eventually("it is back", Duration::from_secs(4), || async {
        system.edges[0].log_text().matches("attached to control").nth(1).map(|_| ())
    })
    .await;
    assert_eq!(refusals(&system), 0, "{}", system.edges[0].log_text());

    // It asks again and again, and says so once.
    let other = system.namesake_of_edge("edge-1").await;
    let told = || other.log_text().matches(&reason).count();
    eventually("it is told again", Duration::from_secs(10), || async {
        (told() == 2).then_some(())
    })
    .await;
    let asked = |text: &str| text.matches("a node is refused").count();
    assert_eq!(asked(&system.control.log_text()), 2, "once for each process");
    system.edges[0].kill();
    eventually("the name is free", Duration::from_secs(10), || async {
        let (state, at) = address(system.nodes().await);
        (state == "up" && at != first).then_some(())
    })
    .await;
    assert_eq!(told(), 2, "{}", other.log_text());
}
