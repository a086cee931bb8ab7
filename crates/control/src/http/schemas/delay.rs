//! The shapes of delays.

use serde_json::{Map, Value, json};
use spyglass_media::delay::{Stage, Tier};

use super::super::delay::{LONGEST, MAX_SAMPLES, TOLD};
use super::{Shapes, body, count, maybe, object, reference, time};

fn seconds(about: &str) -> Value {
    json!({"type": "number", "minimum": 0, "description": about})
}

/// What a stage is, in a few words.
const fn about(stage: Stage) -> &'static str {
    match stage {
        Stage::Upload => "capture stamp at the broadcaster to arrival at the origin",
        Stage::Chunking => "from there to the chunk (or part) that begins with it being ready",
        Stage::Transfer => "from there to an edge holding it",
        Stage::Polling => "from there to being answered to a viewer",
        Stage::LastMile => "leaving the server to arriving at the viewer",
        Stage::Buffering => "arriving at the viewer to being shown",
        Stage::Total => "capture stamp to being shown, where viewers measured it",
    }
}

fn stage(stage: Stage) -> Value {
    let mut shape = maybe(reference("StageDelay"));
    shape["description"] = about(stage).into();
    shape
}

fn tier(tier: Tier) -> Value {
    let stages = Stage::ALL.into_iter().filter(|it| it.is_of(tier) && *it != Stage::Total);
    let stages: Map<String, Value> = stages.map(|it| (it.as_str().to_owned(), stage(it))).collect();
    object(
        "Of one tier; null where nobody measured.",
        json!({"stages": object("In the order of the way.", stages.into()), "total": stage(Stage::Total)}),
    )
}

/// What is told of delays, and by viewers.
pub fn shapes() -> Shapes {
    let told = TOLD.map(|stage| {
        let shape = json!({
            "type": ["number", "null"], "minimum": 0, "maximum": LONGEST,
            "description": format!("{}, in seconds", about(stage)),
        });
        (stage.as_str().to_owned(), shape)
    });
    let told: Map<String, Value> = told.into_iter().collect();
    let sample = body(
        "One moment; what no clock could tell is left out.",
        told.into(),
        &TOLD.map(Stage::as_str),
    );
    vec![
        (
            "Delay",
            object(
                "How long each stage takes, lately.",
                json!({
                    "broadcast": reference("Id"),
                    "at": time("now"),
                    "window_seconds": count("what was measured within"),
                    "push": tier(Tier::Push),
                    "hls": tier(Tier::Hls),
                }),
            ),
        ),
        (
            "StageDelay",
            object(
                "Quantiles in seconds.",
                json!({
                    "p50": seconds("half took no longer"),
                    "p95": seconds("95 of 100 took no longer"),
                    "p99": seconds("99 of 100 took no longer"),
                    "count": count("how often it was measured"),
                }),
            ),
        ),
        (
            "DelayReport",
            body(
                "What a viewer measured.",
                json!({
                    "tier": reference("Tier"),
                    "samples": {"type": "array", "maxItems": MAX_SAMPLES, "items": sample},
                }),
                &["samples"],
            ),
        ),
        (
            "DelayTaken",
            object(
                "It counts.",
                json!({
                    "at_ms": count("control's clock, in milliseconds since 1970 (UTC)"),
                    "every_seconds": count("report no more often than this"),
                }),
            ),
        ),
    ]
}
