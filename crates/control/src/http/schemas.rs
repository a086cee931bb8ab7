//! The shapes of bodies, as JSON Schema: what the OpenAPI document calls
//! components. A body that is sent is closed (a field not named here is
//! refused), an answer is open (later releases add fields).
//!
//! `tests/openapi.rs` holds every answer of a running control against these,
//! strictly: a field that is answered and not named here fails it.

mod delay;

use serde_json::{Map, Value, json};
use spyglass_media::Fill;

/// Broadcasts, users and viewers have such ids.
const ID: &str = "^[0-9a-z]{13}$";

/// Every shape by name.
pub fn all() -> Map<String, Value> {
    let groups = [plain(), people(), broadcasts(), viewers(), operation(), delay::shapes()];
    groups.into_iter().flatten().map(|(name, shape)| (name.to_owned(), shape)).collect()
}

/// Points at a shape.
pub fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// Whether a body of this shape cannot be left out.
pub fn has_required(name: &str) -> bool {
    let all = all();
    let required = all.get(name).and_then(|shape| shape["required"].as_array());
    required.is_some_and(|names| !names.is_empty())
}

/// The shape of a name in a path.
pub fn of_path(path: &str, name: &str) -> Value {
    let before = path.split(&format!("/{{{name}}}")).next().unwrap_or_default();
    match before.rsplit('/').next() {
        Some("broadcasts" | "users" | "viewers" | "following" | "webhooks" | "live" | "watch") => {
            reference("Id")
        }
        Some("nodes") => reference("NodeName"),
        _ => json!({"type": "string", "maxLength": 128}),
    }
}

type Shapes = Vec<(&'static str, Value)>;

fn text(about: &str) -> Value {
    json!({"type": "string", "description": about})
}

fn maybe_text(about: &str) -> Value {
    json!({"type": ["string", "null"], "description": about})
}

fn time(about: &str) -> Value {
    json!({"type": "string", "format": "date-time", "description": about})
}

fn maybe_time(about: &str) -> Value {
    json!({"type": ["string", "null"], "format": "date-time", "description": about})
}

fn count(about: &str) -> Value {
    json!({"type": "integer", "minimum": 0, "description": about})
}

fn flag(about: &str) -> Value {
    json!({"type": "boolean", "description": about})
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn next_page() -> Value {
    maybe_text("give it as `after` for the next page; null on the last")
}

/// A shape, or null.
fn maybe(shape: Value) -> Value {
    json!({"oneOf": [shape, {"type": "null"}]})
}

/// An object that always has all of these.
fn object(about: &str, properties: Value) -> Value {
    but(about, properties, &[])
}

/// An object that always has all of these but some.
fn but(about: &str, properties: Value, optional: &[&str]) -> Value {
    let names = properties.as_object().into_iter().flat_map(Map::keys);
    let required: Vec<&String> = names.filter(|name| !optional.contains(&name.as_str())).collect();
    json!({
        "type": "object",
        "description": about,
        "required": required,
        "properties": properties,
    })
}

/// A body that is sent: nothing else may stand in it.
fn body(about: &str, properties: Value, optional: &[&str]) -> Value {
    let mut shape = but(about, properties, optional);
    shape["additionalProperties"] = Value::Bool(false);
    shape
}

fn plain() -> Shapes {
    let degrees =
        |most: u32| json!({"type": "number", "minimum": -f64::from(most), "maximum": most});
    vec![
        ("Id", json!({"type": "string", "pattern": ID})),
        ("NodeName", json!({"type": "string", "pattern": "^[a-z0-9-]{1,63}$"})),
        ("Location", object("Degrees, WGS 84.", json!({"lat": degrees(90), "lon": degrees(180)}))),
        (
            "Problem",
            object(
                "A refusal (RFC 9457).",
                json!({
                    "type": text("about:blank: the status says what kind it is"),
                    "title": text("the status in words"),
                    "status": {"type": "integer", "minimum": 400, "maximum": 599},
                    "detail": text("what is wrong and what to do"),
                }),
            ),
        ),
        (
            "Description",
            json!({
                "type": "object",
                "description": "An OpenAPI 3.1 document.",
                "required": ["openapi", "info", "paths", "components"],
                "additionalProperties": true,
            }),
        ),
    ]
}

fn people() -> Shapes {
    vec![
        (
            "NewUser",
            body(
                "A user to be.",
                json!({"name": {"type": "string", "minLength": 1, "maxLength": 100}}),
                &[],
            ),
        ),
        (
            "UserWithToken",
            object(
                "A user who was just made.",
                json!({
                    "id": reference("Id"),
                    "name": text("as given"),
                    "token": text("the user's secret; nobody can show it again"),
                }),
            ),
        ),
        (
            "User",
            object(
                "A user.",
                json!({
                    "id": reference("Id"),
                    "name": text("as given"),
                    "created_at": time("when it was registered"),
                }),
            ),
        ),
        (
            "UserList",
            object(
                "A page of users.",
                json!({"users": list(reference("User")), "next": next_page()}),
            ),
        ),
        (
            "FollowList",
            object(
                "A page of those whom a user follows, or who follow it.",
                json!({
                    "users": list(object("One of them.", json!({
                        "id": reference("Id"),
                        "name": text("as given"),
                    }))),
                    "total": count("on all pages together; followers are counted up to 100,000"),
                    "next": next_page(),
                }),
            ),
        ),
    ]
}

fn broadcasts() -> Shapes {
    vec![
        (
            "NewWebhook",
            body(
                "An address that is told of events.",
                json!({
                    "url": {"type": "string", "format": "uri", "maxLength": 2048},
                    "events": {
                        "type": "array", "items": {"type": "string"}, "maxItems": 16,
                        "description": "types of events; none: all of broadcasts",
                    },
                }),
                &["events"],
            ),
        ),
        (
            "WebhookWithSecret",
            object(
                "A webhook that was just made.",
                json!({
                    "id": reference("Id"),
                    "secret": text("verifies signatures; nobody can show it again"),
                }),
            ),
        ),
        (
            "WebhookList",
            object(
                "All webhooks.",
                json!({"webhooks": list(object("One of them.", json!({
                    "id": reference("Id"),
                    "url": text("where to"),
                    "events": list(json!({"type": "string"})),
                    "created_at": time("when it was made"),
                    "state": {"type": "string", "enum": ["active", "disabled"]},
                    "delivered": count("messages that arrived, of broadcasts"),
                    "dropped": count("messages given up after a day"),
                    "last_error": maybe_text("why the last attempt failed; null after success"),
                    "last_attempt_at": maybe_time("when the last attempt was over; of broadcasts"),
                })))}),
            ),
        ),
        (
            "Notification",
            object(
                "Somebody followed is on air.",
                json!({
                    "broadcast": reference("Id"),
                    "user": reference("Id"),
                    "name": maybe_text("the user's"),
                    "title": text("the broadcast's"),
                    "at": time("when its first frame came"),
                }),
            ),
        ),
        (
            "Event",
            but(
                "What happened to a broadcast or, with `viewer`, to a viewer.",
                json!({
                    "broadcast": reference("Id"),
                    "viewer": reference("Id"),
                    "user": maybe(reference("Id")),
                    "name": maybe_text("the user's"),
                    "title": text("the broadcast's"),
                    "private": flag("only those named can see it"),
                    "at": time("when"),
                }),
                &["viewer", "user", "name", "title", "private"],
            ),
        ),
        (
            "NewBroadcast",
            body(
                "A broadcast to be.",
                json!({
                    "title": {"type": "string", "minLength": 1, "maxLength": 200},
                    "location": reference("Location"),
                    "private_to": {
                        "type": "array", "items": reference("Id"), "maxItems": 1000,
                        "description": "nobody else can tell it from one that does not exist",
                    },
                    "chunk_seconds": {"type": "number", "minimum": 1, "maximum": 10},
                    "part_seconds": {
                        "type": "number", "minimum": 0, "maximum": 1,
                        "description": "0.1 to 1, or 0 for no low latency",
                    },
                    "fill": {
                        "type": "string", "enum": Fill::WORDS,
                        "description": "what makes edges fetch new media: the first viewer who \
                                        asks, or the news of it while there are viewers; absent: \
                                        as each edge is configured",
                    },
                    "push_viewers": {
                        "type": "integer", "minimum": 0, "maximum": 5000,
                        "description": "those who come later get HLS; absent: as configured",
                    },
                    "open": flag("false: nobody can watch without joining, so that a kick counts"),
                }),
                &[
                    "location",
                    "private_to",
                    "chunk_seconds",
                    "part_seconds",
                    "fill",
                    "push_viewers",
                    "open",
                ],
            ),
        ),
        (
            "CreatedBroadcast",
            object(
                "A broadcast that can be published to.",
                json!({
                    "id": reference("Id"),
                    "state": reference("BroadcastState"),
                    "origin": reference("NodeName"),
                    "publish": object("Where, and with which secret.", json!({
                        "rtmp_url": text("encoders publish to this, a slash and the stream key"),
                        "stream_key": text("holds the secret"),
                    })),
                    "watch_url": text("the page for people"),
                }),
            ),
        ),
        (
            "BroadcastState",
            json!({
                "type": "string",
                "enum": ["created", "live", "interrupted", "ended"],
                "description": "live: media flows. interrupted: the publisher is gone, or nothing \
                    was heard of its origin for 5 s; it may come back. ended: for good",
            }),
        ),
        (
            "Broadcast",
            object(
                "A broadcast as whoever may see it sees it.",
                json!({
                    "id": reference("Id"),
                    "title": text("as given"),
                    "user": maybe(reference("Id")),
                    "state": reference("BroadcastState"),
                    "origin": reference("NodeName"),
                    "gateway": maybe(reference("NodeName")),
                    "created_at": time("when it was made"),
                    "started_at": maybe_time("when its first frame came"),
                    "ended_at": maybe_time("when it ended"),
                    "private": flag("only those named can see it"),
                    "open": flag("it can be watched without joining"),
                    "push_viewers": count("who come later get HLS"),
                    "chunk_seconds": {"type": "number"},
                    "part_seconds": {"type": "number"},
                    "fill": maybe_text("pull or prefetch; null: as each edge is configured"),
                    "viewers": object("Who joined and watches now.", json!({
                        "push": count("frame by frame, from the origin"),
                        "hls": count("in chunks, from edges"),
                        "total": count("both"),
                        "anonymous_estimate": count("edges' guess of those who did not join"),
                    })),
                }),
            ),
        ),
        (
            "Record",
            object(
                "What stays of a broadcast.",
                json!({
                    "id": reference("Id"),
                    "title": text("as given"),
                    "user": maybe(reference("Id")),
                    "location": maybe(reference("Location")),
                    "started_at": maybe_time("when its first frame came"),
                    "ended_at": maybe_time("when it ended"),
                    "peak_viewers": count("the most who joined and watched at one time"),
                    "comments": count("how many"),
                    "hearts": count("how many"),
                    "viewers": list(object("One who joined and watched.", json!({
                        "viewer": reference("Id"),
                        "user": maybe(reference("Id")),
                        "tier": reference("Tier"),
                        "node": reference("NodeName"),
                        "since": time("when it began"),
                        "until": time("when it was last seen"),
                    }))),
                    "complete": flag("false: there were more viewers than are kept by name"),
                }),
            ),
        ),
        (
            "BroadcastList",
            but(
                "Broadcasts: a random draw of those that are public and live, or for the \
                 operator a page of all.",
                json!({
                    "broadcasts": list(reference("Broadcast")),
                    "live": count("how many are public and live"),
                    "total": count("how many fit the question; of a page only"),
                    "next": next_page(),
                }),
                &["total", "next"],
            ),
        ),
    ]
}

fn viewers() -> Shapes {
    vec![
        (
            "Join",
            body(
                "Where the viewer is and how it can play. With a viewer's own token: it asks \
                 again, and stays the same viewer.",
                json!({
                    "location": reference("Location"),
                    "tier": {
                        "type": "string", "enum": ["auto", "hls"],
                        "description": "hls: a player that cannot use the push tier",
                    },
                }),
                &["location", "tier"],
            ),
        ),
        (
            "Tier",
            json!({
                "type": "string", "enum": ["push", "hls"],
                "description": "push: frame by frame from the origin; hls: in chunks from an edge",
            }),
        ),
        (
            "Joined",
            object(
                "A viewer's admission.",
                json!({
                    "viewer": reference("Id"),
                    "tier": reference("Tier"),
                    "seat": {"type": ["integer", "null"], "minimum": 1},
                    "can_comment": flag("the seat is one of those that may"),
                    "token": text("the viewer's secret"),
                    "urls": but("Where to play; they hold the secret.", json!({
                        "rtmp": text("of the push tier only"),
                        "hls": text("always"),
                    }), &["rtmp"]),
                    "edge": maybe(but("The nearest.", json!({
                        "id": reference("NodeName"),
                        "distance_km": {"type": "number", "minimum": 0},
                    }), &["distance_km"])),
                    "alternates": list(object("An edge to turn to when the first fails.", json!({
                        "id": reference("NodeName"),
                        "hls": text("where to play there"),
                    }))),
                }),
            ),
        ),
        (
            "Kicked",
            object(
                "A viewer who was cut off.",
                json!({"viewer": reference("Id"), "kicked": flag("true")}),
            ),
        ),
        (
            "ViewerList",
            object(
                "Who watches.",
                json!({
                    "viewers": list(object("One who joined.", json!({
                        "viewer": reference("Id"),
                        "user": maybe(reference("Id")),
                        "tier": reference("Tier"),
                        "seat": {"type": ["integer", "null"], "minimum": 1},
                        "edge": maybe(reference("NodeName")),
                        "node": reference("NodeName"),
                        "since": time("when it joined"),
                    }))),
                    "total": count("also those that did not fit into the list"),
                }),
            ),
        ),
    ]
}

fn operation() -> Shapes {
    vec![
        (
            "Node",
            object(
                "An origin or edge.",
                json!({
                    "id": reference("NodeName"),
                    "role": {"type": "string", "enum": ["origin", "edge"]},
                    "state": {"type": "string", "enum": ["up", "draining", "lost"]},
                    "address": text("the one that broadcasters or viewers use"),
                    "http": maybe_text("its HTTP address"),
                    "rtmp": maybe_text("its RTMP address; of origins"),
                    "grpc": maybe_text("its gRPC address"),
                    "location": maybe(reference("Location")),
                    "load": object("What it said last.", json!({
                        "viewers": count("connections of viewers, of both tiers"),
                        "anonymous_estimate": count("its guess of those who did not join; of edges"),
                        "broadcasts": count("broadcasts that it holds"),
                        "egress_bps": count("bits sent a second"),
                        "cpu": {"type": "number", "minimum": 0, "description": "1.0 is one core"},
                        "viewer_capacity": {"type": ["integer", "null"], "minimum": 1},
                        "relayed": count("broadcasts that other edges fetch through it; of edges"),
                        "through_gateway": count("broadcasts that it fetches through another edge"),
                    })),
                    "gateway_of": count("broadcasts whose gateway it is named"),
                    "version": text("of its program"),
                    "remaining": maybe(object("What is left while it drains.", json!({
                        "viewers": count("who still watch there, the next ones included"),
                        "anonymous_estimate": count("its guess of those who did not join"),
                        "broadcasts": count("placed there and not ended; of origins"),
                        "empty": flag("nothing is left: it can be stopped"),
                    }))),
                }),
            ),
        ),
        ("NodeList", object("Origins and edges.", json!({"nodes": list(reference("Node"))}))),
        (
            "KeyList",
            object(
                "Public keys that verify tokens.",
                json!({
                    "store": text("names this memory: nodes forget the keys of another"),
                    "keys": list(reference("Key")),
                }),
            ),
        ),
        (
            "Key",
            object(
                "A public key.",
                json!({
                    "id": text("tokens name it"),
                    "algorithm": {"type": "string", "const": "v4.public"},
                    "public_key": text("base64url without padding"),
                    "state": {"type": "string", "enum": ["next", "signing", "verifying"]},
                    "created_at": time("when it was made"),
                    "not_before": maybe_time("from when on it signs; null: it only verifies"),
                    "until": maybe_time("when it is dropped; null: another must come first"),
                }),
            ),
        ),
        (
            "AuditList",
            object(
                "A page of what was done.",
                json!({
                    "entries": list(object("One action, done or refused.", json!({
                        "sequence": count("orders the entries; gaps mean nothing"),
                        "at": time("when it was over"),
                        "actor": text("`operator`, or a user's id"),
                        "action": text("the operation's id in this document"),
                        "object": maybe_text("the ids in its path, or of what was made"),
                        "address": text("where the request came from"),
                        "outcome": {
                            "type": ["integer", "null"],
                            "description": "the answer's status; null: nobody waited for it",
                        },
                        "control": text("which control did it"),
                    }))),
                    "next": {
                        "type": ["integer", "null"],
                        "description": "give it as `after` for the next page; null on the last",
                    },
                }),
            ),
        ),
        (
            "KeyRevoked",
            object(
                "A key that opens nothing any more.",
                json!({
                    "id": text("the key"),
                    "state": {"type": "string", "const": "revoked"},
                    "signing": text("the key that signs now"),
                }),
            ),
        ),
    ]
}
