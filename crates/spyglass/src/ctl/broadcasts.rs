//! `ctl broadcasts`, `show`, `viewers`, `record`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use spyglass_client::api::Api;
use spyglass_media::UserId;

use super::table::{Cell, View, entries, of_entries, pairs, rows};
use super::words::{ago, bar, cell, lasted, short};

/// Pages of the list that are asked for at most, of 1,000 each.
const PAGES: usize = 100;

/// Longest title in the list.
const TITLE: usize = 40;

/// Which broadcasts are asked for.
#[derive(clap::Args, Debug, Clone)]
pub struct Which {
    /// Only those in this state
    #[arg(long, value_parser = ["created", "live", "interrupted", "ended"])]
    state: Option<String>,
    /// Only those of this user
    #[arg(long, value_name = "USER")]
    user: Option<UserId>,
    /// A random draw of so many public ones that are live, as viewers see it; needs no key
    #[arg(long, value_name = "N", conflicts_with_all = ["state", "user"])]
    sample: Option<u32>,
}

/// All of them, page by page.
pub async fn list(api: &Api, which: &Which) -> anyhow::Result<Value> {
    if let Some(sample) = which.sample {
        return Ok(api.get(&format!("/v1/broadcasts?sample={sample}")).await?);
    }
    let mut query = "/v1/broadcasts?all=true&limit=1000".to_owned();
    if let Some(state) = &which.state {
        query.push_str(&format!("&state={state}"));
    }
    if let Some(user) = which.user {
        query.push_str(&format!("&user={user}"));
    }
    let mut all = Vec::new();
    let mut page = match api.get(&query).await {
        // Whoever is no operator sees what viewers see, unless asked for more.
        Err(error)
            if (error.status() == Some(403) || !api.is_somebody())
                && matches!(error.status(), Some(401 | 403))
                && which.state.is_none()
                && which.user.is_none() =>
        {
            return Ok(api.get("/v1/broadcasts?sample=50").await?);
        }
        page => page?,
    };
    for _ in 1..PAGES {
        all.extend_from_slice(entries(&page, "broadcasts"));
        let Some(next) = page["next"].as_str().map(str::to_owned) else { break };
        page = api.get(&format!("{query}&after={next}")).await?;
    }
    let (live, total) = (&page["live"], &page["total"]);
    Ok(json!({ "broadcasts": all, "live": live, "total": total }))
}

/// The table of broadcasts.
pub fn shown(view: View, answer: &Value) -> String {
    let broadcasts = entries(answer, "broadcasts");
    if broadcasts.is_empty() {
        return "there are none".to_owned();
    }
    let row = |one: &Value| {
        let flag = if one["private"] == true { "private" } else { "" };
        vec![
            Cell::of(&one["id"]),
            Cell::state(&one["state"]),
            Cell::new(short(one["title"].as_str().unwrap_or_default(), TITLE)),
            Cell::new(flag),
            Cell::of(&one["user"]),
            Cell::of(&one["origin"]),
            Cell::of(&one["viewers"]["push"]),
            Cell::of(&one["viewers"]["hls"]),
            Cell::right(lasted(&one["started_at"], &one["ended_at"], view.now_ms)),
            Cell::new(ago(&one["created_at"], view.now_ms)),
        ]
    };
    let headings =
        ["ID", "STATE", "TITLE", "", "USER", "ORIGIN", "PUSH", "HLS", "LASTED", "CREATED"];
    let table: Vec<Vec<Cell>> = broadcasts.iter().map(row).collect();
    let mut text = rows(view, &headings, &table);
    match (answer["live"].as_u64(), answer["total"].as_u64()) {
        (Some(live), Some(total)) => {
            text.push_str(&format!("\n{total} in all, {live} public and live"));
        }
        (Some(live), None) if live > broadcasts.len() as u64 => {
            text.push_str(&format!("\n{} of {live} live", broadcasts.len()));
        }
        _ => {}
    }
    text
}

/// One broadcast, whole.
pub fn one(view: View, answer: &Value) -> String {
    let viewers = &answer["viewers"];
    let watching = viewers["total"].as_u64().map_or_else(String::new, |total| {
        let anonymous = match viewers["anonymous_estimate"].as_u64() {
            Some(count @ 1..) => format!(", about {count} more who did not join"),
            _ => String::new(),
        };
        let (push, hls) = (cell(&viewers["push"]), cell(&viewers["hls"]));
        format!("{total} ({push} push, {hls} HLS){anonymous}")
    });
    let mut lines = vec![
        ("id", Cell::of(&answer["id"])),
        ("title", Cell::of(&answer["title"])),
        ("state", Cell::state(&answer["state"])),
        ("for", Cell::new(audience(answer).to_owned())),
        ("user", Cell::of(&answer["user"])),
        ("origin", Cell::of(&answer["origin"])),
        ("gateway", Cell::of(&answer["gateway"])),
        ("viewers", Cell::new(watching)),
        ("created", Cell::new(ago(&answer["created_at"], view.now_ms))),
        ("started", Cell::new(ago(&answer["started_at"], view.now_ms))),
        ("ended", Cell::new(ago(&answer["ended_at"], view.now_ms))),
        ("lasted", Cell::new(lasted(&answer["started_at"], &answer["ended_at"], view.now_ms))),
    ];
    let told = [
        "id",
        "title",
        "state",
        "private",
        "open",
        "user",
        "gateway",
        "origin",
        "viewers",
        "created_at",
        "started_at",
        "ended_at",
    ];
    let names: Vec<(String, &Value)> = answer
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| !told.contains(&name.as_str()))
        .map(|(name, value)| (super::words::plain(&name.replace('_', " ")), value))
        .collect();
    lines.extend(names.iter().map(|(name, value)| (name.as_str(), Cell::of(value))));
    pairs(view, &lines)
}

/// Who may watch. The API does not say whom a private broadcast names, nor how
/// many they are. A record knows no more than whether it was private.
fn audience(answer: &Value) -> &'static str {
    match (answer["private"].as_bool(), answer["open"].as_bool()) {
        (Some(true), _) => "private: only the users it was made for, who must join",
        (Some(false), Some(true)) => "anyone, also without joining",
        (Some(false), Some(false)) => "anyone who joins",
        (Some(false), None) => "anyone",
        (None, _) => "",
    }
}

/// Who watches, and how many on each node.
pub fn viewers(view: View, answer: &Value) -> String {
    let viewers = entries(answer, "viewers");
    if viewers.is_empty() {
        return "nobody watches".to_owned();
    }
    let mut nodes: BTreeMap<String, u64> = BTreeMap::new();
    for one in viewers {
        *nodes.entry(cell(&one["node"])).or_default() += 1;
    }
    let most = nodes.values().copied().max().unwrap_or_default();
    let counts: Vec<Vec<Cell>> = nodes
        .iter()
        .map(|(node, &count)| {
            vec![
                Cell::new(node.clone()),
                Cell::right(count.to_string()),
                Cell::new(bar(count, most, 30)),
            ]
        })
        .collect();
    let row = |one: &Value| {
        vec![
            Cell::of(&one["viewer"]),
            Cell::of(&one["user"]),
            Cell::of(&one["tier"]),
            Cell::of(&one["seat"]),
            Cell::of(&one["node"]),
            Cell::new(ago(&one["since"], view.now_ms)),
        ]
    };
    let table: Vec<Vec<Cell>> = viewers.iter().map(row).collect();
    let headings = ["VIEWER", "USER", "TIER", "SEAT", "NODE", "JOINED"];
    let mut text = rows(view, &["NODE", "VIEWERS", ""], &counts);
    text.push_str("\n\n");
    text.push_str(&rows(view, &headings, &table));
    if let Some(total) = answer["total"].as_u64().filter(|&total| total > viewers.len() as u64) {
        text.push_str(&format!("\n{} of {total} viewers", viewers.len()));
    }
    text
}

/// What stays of a broadcast: its lists as tables, everything else as lines.
pub fn record(view: View, answer: &Value) -> String {
    let mut rest = answer.clone();
    let mut tables = Vec::new();
    if let Some(members) = rest.as_object_mut() {
        members.retain(|name, value| match value.as_array() {
            Some(list) if list.iter().any(Value::is_object) => {
                let name = super::words::plain(&name.replace('_', " "));
                tables.push(format!("{name}:\n{}", of_entries(view, list, &["viewer"])));
                false
            }
            _ => true,
        });
    }
    let mut parts = vec![one(view, &rest)];
    parts.extend(tables);
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: View = View { colours: true, now_ms: 61_000 };

    #[test]
    fn a_hostile_title_reaches_no_terminal() {
        let hostile = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}x\r\n";
        let broadcast = json!({
            "id": "a", "title": hostile, "state": "live", "started_at": "1970-01-01T00:00:00.000Z",
            "viewers": {"push": 1, "hls": 2, "total": 3}, "fresh\u{1b}": hostile,
        });
        let list = shown(VIEW, &json!({"broadcasts": [broadcast.clone()], "live": 2}));
        assert!(list.contains("]0;owned[2J31mx"), "{list:?}");
        assert!(list.contains("1m 1s") && list.ends_with("1 of 2 live"), "{list:?}");
        for text in [list, one(VIEW, &broadcast), record(VIEW, &json!({"l": [broadcast]}))] {
            let mut text = text;
            for own in ["\u{1b}[32m", "\u{1b}[2m", "\u{1b}[0m"] {
                text = text.replace(own, "");
            }
            let left = text.chars().filter(|&c| c != '\n' && c.is_control()).count();
            assert_eq!(left, 0, "{text:?}");
        }
    }

    #[test]
    fn viewers_are_counted_by_node() {
        let one = |node: &str| json!({"viewer": "v", "tier": "hls", "node": node, "since": null});
        let view = View { colours: false, ..VIEW };
        let text =
            viewers(view, &json!({"viewers": [one("e1"), one("e2"), one("e1")], "total": 9}));
        assert!(text.starts_with("NODE  VIEWERS\ne1          2  ████"), "{text}");
        assert!(text.ends_with("3 of 9 viewers"), "{text}");
        assert!(!text.contains("USER"), "nobody said who they are: {text}");
        assert_eq!(viewers(view, &json!({"viewers": []})), "nobody watches");
        let named = json!({"viewer": "v", "user": "0123456789abc", "node": "e1"});
        let text = viewers(view, &json!({"viewers": [named]}));
        assert!(text.contains("USER") && text.contains("0123456789abc"), "{text}");
        let counts = json!({"push": 1, "hls": 0, "total": 1, "anonymous_estimate": 3});
        let text = super::one(view, &json!({"id": "a", "viewers": counts}));
        assert!(text.contains("1 (1 push, 0 HLS), about 3 more who did not join"), "{text}");
    }

    #[test]
    fn it_is_said_who_may_watch() {
        for (private, open, said) in [
            (true, true, "only the users"),
            (false, true, "without joining"),
            (false, false, "anyone who joins"),
        ] {
            let text = super::one(VIEW, &json!({"id": "a", "private": private, "open": open}));
            assert!(text.contains(said) && !text.contains("open"), "{text}");
        }
    }
}
