//! `/v1/nodes`

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde_json::{Value, json};

use super::Shared;
use super::caller::{self, operator};
use super::operation::{Content, Operation, Who, delete, get, post};
use super::problem::Problem;
use crate::fleet::{Node, Role};
use crate::panel::{Caller, Panel};

/// What can be asked of nodes.
pub fn operations() -> Vec<Operation> {
    let node = || Content::Json("Node");
    vec![
        get("/v1/nodes", list).is(
            "listNodes",
            Who::Operator,
            "Origins and edges, their state and load",
            200,
            Content::Json("NodeList"),
        ),
        post("/v1/nodes/{id}/drain", drain).is(
            "drainNode",
            Who::Operator,
            "Sends no more broadcasts or viewers to a node",
            202,
            node(),
        ),
        delete("/v1/nodes/{id}/drain", undrain).is(
            "undrainNode",
            Who::Operator,
            "Takes a drain back",
            202,
            node(),
        ),
    ]
}

/// `GET /v1/nodes`
pub async fn list(State(panel): Shared, caller: Caller) -> Result<Json<Value>, Problem> {
    operator(&caller)?;
    let nodes: Vec<Node> = panel.fleet().nodes().collect();
    let nodes: Vec<Value> = nodes.iter().map(|node| shown(&panel, node)).collect();
    Ok(Json(json!({ "nodes": nodes })))
}

fn shown(panel: &Panel, node: &Node) -> Value {
    let registration = &node.registration;
    let address = match registration.role {
        Role::Origin => &registration.rtmp,
        Role::Edge => &registration.http,
    };
    let (draining, anonymous) = {
        let fleet = panel.fleet();
        (fleet.is_draining(&node.id), fleet.audience().anonymous_at(&node.id))
    };
    let given = |url: &String| (!url.is_empty()).then(|| url.clone());
    json!({
        "id": *node.id,
        "role": registration.role.as_str(),
        "state": node.state.as_str(),
        "address": address,
        "http": given(&registration.http),
        "rtmp": given(&registration.rtmp),
        "grpc": given(&registration.grpc),
        "location": registration.location.map(|location| {
            json!({ "lat": location.latitude(), "lon": location.longitude() })
        }),
        "load": {
            "viewers": node.load.viewers,
            "anonymous_estimate": anonymous,
            "broadcasts": node.load.broadcasts,
            "egress_bps": node.load.egress_bps,
            "cpu": node.load.cpu,
            "viewer_capacity": (node.load.capacity > 0).then_some(node.load.capacity),
            "relayed": node.load.relayed,
            "through_gateway": node.load.through_gateway,
        },
        "gateway_of": panel.shown_gateway_of(&node.id),
        "version": registration.version,
        "remaining": draining.then(|| remaining(panel, node)),
    })
}

/// What keeps a draining node from being empty: whoever is at work there, as
/// control knows it and as the node itself says. Who did not join is only
/// estimated, and watches all the same.
fn remaining(panel: &Panel, node: &Node) -> Value {
    let (joined, anonymous) = {
        let fleet = panel.fleet();
        (fleet.audience().of_node(&node.id).len(), fleet.audience().anonymous_at(&node.id))
    };
    let joined = u32::try_from(joined).unwrap_or(u32::MAX).max(node.load.viewers);
    let viewers = joined.saturating_add(anonymous);
    let placed = match node.registration.role {
        Role::Origin => panel.broadcasts.running_on(&node.id).len(),
        // An edge counts those that somebody watches: they go with their viewers.
        Role::Edge => 0,
    };
    json!({
        "viewers": viewers,
        "anonymous_estimate": anonymous,
        "broadcasts": placed,
        "empty": viewers == 0 && placed == 0,
    })
}

/// `POST /v1/nodes/{id}/drain`
pub async fn drain(
    State(panel): Shared,
    caller: Caller,
    node: caller::Node,
) -> Result<(StatusCode, Json<Value>), Problem> {
    mark(&panel, &caller, &node, true).await
}

/// `DELETE /v1/nodes/{id}/drain`: arrivals go there again.
pub async fn undrain(
    State(panel): Shared,
    caller: Caller,
    node: caller::Node,
) -> Result<(StatusCode, Json<Value>), Problem> {
    mark(&panel, &caller, &node, false).await
}

async fn mark(
    panel: &Panel,
    caller: &Caller,
    node: &caller::Node,
    draining: bool,
) -> Result<(StatusCode, Json<Value>), Problem> {
    operator(caller)?;
    if !panel.drain(&node.0, draining).await? {
        return Err(caller::Node::unknown());
    }
    let node = panel.fleet().node(&node.0).ok_or_else(caller::Node::unknown)?;
    Ok((StatusCode::ACCEPTED, Json(shown(panel, &node))))
}
