//! What is said of a broadcast while its origin is away: what it said last may
//! be long past.

mod support;

use serde_json::{Value, json};
use spyglass_api::control::{Phase, Role};
use support::{OPERATOR, World, lease, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_whose_origin_died_is_not_live() {
    let world = World::start().await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let _edge = world.node("edge-1", Role::Edge, None).await;
    let made = world.create(OPERATOR, json!({"title": "cut short"})).await;
    let id = text(&made["id"]);
    origin.event(&id, Phase::Live, 1, Default::default());
    world.wait_for(&id, "/state", &json!("live")).await;
    let first = world.join(&id, json!({})).await;
    origin.link.lease_begun(lease(&origin, &first, true));
    world.wait_for(&id, "/viewers/push", &json!(1)).await;
    let lists = async |state: &str| {
        let drawn = world.anyone("GET", "/v1/broadcasts", Value::Null).await.expect(200).json();
        let path = format!("/v1/broadcasts?all=true&state={state}");
        let all = world.operator("GET", &path, Value::Null).await.expect(200).json();
        (drawn["live"].clone(), all["live"].clone(), all["broadcasts"][0]["state"].clone())
    };
    assert_eq!(lists("live").await, (json!(1), json!(1), json!("live")));

    origin.stop();
    let shown = world.wait_for(&id, "/state", &json!("interrupted")).await;
    assert_eq!(shown["ended_at"], Value::Null);
    assert_eq!(lists("interrupted").await, (json!(0), json!(0), json!("interrupted")));
    assert_eq!(lists("live").await.2, Value::Null);
    // Nobody loses a seat by it.
    assert_eq!(world.join(&id, json!({})).await["seat"], 2);

    let origin = world.node("origin-1", Role::Origin, None).await;
    origin.event(&id, Phase::Live, 2, Default::default());
    world.wait_for(&id, "/state", &json!("live")).await;
    assert_eq!(lists("live").await, (json!(1), json!(1), json!("live")));
}
