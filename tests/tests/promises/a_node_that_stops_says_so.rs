//! SIGTERM: when the process is gone, control sends nobody there, though it has
//! not missed a heartbeat yet.

use serde_json::json;
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_says_so() {
    let mut system = System::apart(2, &[]).await;
    let broadcast = system.create(json!({"title": "goes on"})).await;
    assert_eq!(system.edges[0].terminate().await, Some(0));
    for _ in 0..10 {
        let joined = system.join(&broadcast.id).await;
        assert_eq!(joined["edge"]["id"], "edge-2", "{joined}");
        assert_eq!(joined["alternates"], json!([]), "{joined}");
    }
    let told = "nobody is sent there any more";
    assert!(system.control.log_text().contains(told));

    assert_eq!(system.origin.as_mut().unwrap().terminate().await, Some(0));
    assert_eq!(system.control.log_text().matches(told).count(), 2);
    let made = json!({"title": "nowhere"});
    system.operator(hyper::Method::POST, "/v1/broadcasts", made).await.expect(503);
}
