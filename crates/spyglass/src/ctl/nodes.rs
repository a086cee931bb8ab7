//! `ctl nodes`, `drain`, `undrain`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use http::Method;
use serde_json::Value;
use spyglass_client::api::Api;
use spyglass_media::NodeId;

use super::table::{Cell, View, entries, rows};
use super::words::{bar, percent, plain, rate};

/// How often a draining node is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How long `drain --wait` waits where no `--timeout` is given.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// The table of nodes.
pub fn shown(view: View, answer: &Value) -> String {
    let nodes = entries(answer, "nodes");
    if nodes.is_empty() {
        return "no node has registered yet".to_owned();
    }
    let viewers = |node: &Value| node["load"]["viewers"].as_u64().unwrap_or_default();
    let most = nodes.iter().map(viewers).max().unwrap_or_default();
    let row = |node: &Value| {
        let load = &node["load"];
        let place = node["location"].as_object().map_or_else(String::new, |_| {
            let degrees = |name: &str| node["location"][name].as_f64().unwrap_or_default();
            format!("{:.2},{:.2}", degrees("lat"), degrees("lon"))
        });
        vec![
            Cell::of(&node["id"]),
            Cell::of(&node["role"]),
            Cell::state(&node["state"]),
            Cell::right(viewers(node).to_string()),
            Cell::right(anonymous(node)),
            Cell::new(if most == 0 { String::new() } else { bar(viewers(node), most, 12) }),
            Cell::of(&load["viewer_capacity"]),
            Cell::of(&load["broadcasts"]),
            Cell::new(gateway(node)),
            Cell::right(rate(load["egress_bps"].as_u64().unwrap_or_default())),
            Cell::right(percent(&load["cpu"])),
            Cell::new(place),
            Cell::of(&node["address"]),
            Cell::of(&node["version"]),
        ]
    };
    let table: Vec<Vec<Cell>> = nodes.iter().map(row).collect();
    let headings = [
        "ID",
        "ROLE",
        "STATE",
        "VIEWERS",
        "ANONYMOUS",
        "",
        "ROOM",
        "BROADCASTS",
        "GATEWAY",
        "SENDS",
        "CPU",
        "LOCATION",
        "ADDRESS",
        "VERSION",
    ];
    rows(view, &headings, &table)
}

/// About how many watch at an edge who did not join: they are not among its
/// viewers, because nobody is counted by name but who joined.
fn anonymous(node: &Value) -> String {
    let estimate = node["load"]["anonymous_estimate"].as_u64();
    let of_edge = estimate.filter(|_| node["role"] == "edge");
    of_edge.map_or_else(String::new, |estimate| estimate.to_string())
}

/// Of how many broadcasts an edge is the gateway for others, and how many it
/// fetches through another edge.
fn gateway(node: &Value) -> String {
    let count = |name: &str| node["load"][name].as_u64().unwrap_or_default();
    match (count("relayed"), count("through_gateway")) {
        (0, 0) => String::new(),
        (relayed, 0) => format!("for {relayed}"),
        (0, through) => format!("through others {through}"),
        (relayed, through) => format!("for {relayed}, through others {through}"),
    }
}

/// Begins or takes back a drain.
pub async fn drain(api: &Api, node: &NodeId, begin: bool) -> anyhow::Result<Value> {
    let method = if begin { Method::POST } else { Method::DELETE };
    Ok(api.call(method, &format!("/v1/nodes/{node}/drain"), None).await?)
}

/// Waits until a draining node holds no viewer and no broadcast, no longer than
/// `within`; `tell` hears of every change.
pub async fn empty(
    api: &Api,
    node: &NodeId,
    within: Duration,
    tell: impl Fn(&str),
) -> anyhow::Result<Value> {
    let began = Instant::now();
    let mut told = String::new();
    let mut kept = "nothing is known of what it still holds".to_owned();
    loop {
        let now = match api.nodes().await {
            Ok(answer) => {
                let found = draining(&answer, node)?;
                let (viewers, broadcasts) = left(found);
                if (viewers, broadcasts) == (0, 0) {
                    return Ok(found.clone());
                }
                let viewers = count(viewers, "viewer");
                kept = format!("it still holds {viewers} and {}", count(broadcasts, "broadcast"));
                format!("{node}: {kept}")
            }
            // A control that is started again is waited for.
            Err(error) if error.status().is_none_or(|status| status >= 500) => {
                format!("{node}: {}", plain(&error.to_string()))
            }
            Err(error) => return Err(error.into()),
        };
        let left = within.saturating_sub(began.elapsed());
        if left.is_zero() {
            bail!(
                "node {node} is not empty after {} s: {kept}. It stays drained and gets nothing \
                 new: wait on with a longer --timeout, stop it now if its players may turn to \
                 other edges (its broadcasts' encoders must connect again), or take the drain \
                 back with `spyglass ctl undrain {node}`",
                within.as_secs_f64()
            );
        }
        if now != told {
            tell(&now);
            told = now;
        }
        tokio::time::sleep(LOOK.min(left)).await;
    }
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The node in control's list, while its drain stands.
fn draining<'a>(answer: &'a Value, node: &NodeId) -> anyhow::Result<&'a Value> {
    let found = entries(answer, "nodes").iter().find(|entry| entry["id"] == *node.as_str());
    let found = found.with_context(|| {
        format!("node {node} is gone from the list of nodes: it was stopped or lost")
    })?;
    match found["state"].as_str() {
        Some("up") => bail!("somebody took the drain of {node} back"),
        Some("lost") => bail!("node {node} is lost: nothing is known of what it holds"),
        _ => Ok(found),
    }
}

/// Viewers and broadcasts that a node still holds: as control knows it, else as
/// the node says.
fn left(node: &Value) -> (u64, u64) {
    let known = &node["remaining"];
    let said = if known.is_object() { known } else { &node["load"] };
    let count = |name: &str| said[name].as_u64().unwrap_or_default();
    if known.is_object() {
        return (count("viewers"), count("broadcasts"));
    }
    // What an edge keeps of broadcasts is a cache: it holds up nobody.
    let broadcasts = if node["role"] == "edge" { 0 } else { count("broadcasts") };
    (count("viewers"), broadcasts)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_has_bars_and_human_units() {
        let view = View { colours: false, now_ms: 0 };
        let node = |id: &str, viewers: u64| {
            json!({"id": id, "role": "edge", "state": "up", "location": {"lat": 1, "lon": -2.5},
                "load": {"viewers": viewers, "broadcasts": 1, "egress_bps": 2_000_000, "cpu": 0.5}})
        };
        let table = shown(view, &json!({"nodes": [node("edge-1", 10), node("edge-2", 5)]}));
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with("ID      ROLE  STATE  VIEWERS"), "{table}");
        assert!(lines[1].contains("████████████") && lines[2].contains("██████······"), "{table}");
        assert!(lines[1].contains("2.0 Mbit/s  50 %  1.00,-2.50"), "{table}");
        assert!(!table.contains("ANONYMOUS"), "a control of an earlier release: {table}");
        let mut crowded = node("edge-1", 10);
        crowded["load"]["anonymous_estimate"] = json!(4_321);
        let table = shown(view, &json!({"nodes": [crowded]}));
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].contains("VIEWERS  ANONYMOUS  "), "{table}");
        assert!(lines[1].contains("     10       4321  ████"), "{table}");
        assert_eq!(shown(view, &json!({"nodes": []})), "no node has registered yet");
        assert_eq!(left(&node("e", 3)), (3, 0));
        let mut draining = node("e", 3);
        draining["remaining"] = json!({"viewers": 4, "broadcasts": 2, "empty": false});
        assert_eq!(left(&draining), (4, 2));
    }
}
