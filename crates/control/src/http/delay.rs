//! `/v1/broadcasts/{id}/delay`: how long each stage takes, and what viewers
//! report of theirs.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde_json::{Map, Value, json};
use spyglass_daemon::now_utc;
use spyglass_media::BroadcastId;
use spyglass_media::delay::{Stage, Tier, WINDOW_SECONDS};

use super::Shared;
use super::caller::{Broadcast, Viewer};
use super::fields::Fields;
use super::operation::{Content, Operation, Who, get, post};
use super::problem::Problem;
use crate::delays::{EVERY, Refused};
use crate::panel::{Caller, Panel};

/// Moments in one report.
pub const MAX_SAMPLES: usize = 20;

/// The longest delay that a viewer may report, in seconds.
pub const LONGEST: f64 = 300.0;

/// What viewers measure.
pub const TOLD: [Stage; 3] = [Stage::LastMile, Stage::Buffering, Stage::Total];

/// What can be asked of delays.
pub fn operations() -> Vec<Operation> {
    vec![
        get("/v1/broadcasts/{id}/delay", show)
            .is(
                "getDelay",
                Who::AnyoneOrListed,
                "How long each stage from the camera to the screen takes, lately",
                200,
                Content::Json("Delay"),
            )
            .details(
                "Quantiles are those of fixed buckets and off by 9 % at most. A stage that nobody \
                 measured in the window is null: without a viewer on HLS there is no transfer.",
            ),
        post("/v1/broadcasts/{id}/viewers/{viewer}/delay", report)
            .is(
                "reportDelay",
                Who::ThatViewer,
                "A viewer says what it measured",
                200,
                Content::Json("DelayTaken"),
            )
            .details(
                "Once in 2 s at most. Delays that no clock could tell are left out. The answer's \
                 time and the time the request took tell the viewer how its clock differs.",
            )
            .body("DelayReport"),
    ]
}

/// `GET /v1/broadcasts/{id}/delay`
pub async fn show(
    State(panel): Shared,
    caller: Caller,
    broadcast: Broadcast,
) -> Result<Json<Value>, Problem> {
    let record = broadcast.seen_by(&caller, &panel)?;
    let mut shown = json!({
        "broadcast": record.id,
        "at": now_utc().rfc3339(),
        "window_seconds": WINDOW_SECONDS,
    });
    for tier in Tier::ALL {
        shown[tier.as_str()] = of_tier(&panel, record.id, tier);
    }
    Ok(Json(shown))
}

fn of_tier(panel: &Panel, id: BroadcastId, tier: Tier) -> Value {
    let now = Instant::now();
    let stage = |stage| {
        let Some(lately) = panel.delays.lately((id, tier, stage), now) else { return Value::Null };
        // No more digits than the buckets tell.
        let at = |share| lately.quantile(share).map(|seconds| (seconds * 1e4).round() / 1e4);
        json!({ "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "count": lately.count() })
    };
    let stages = Stage::ALL.into_iter().filter(|it| it.is_of(tier) && *it != Stage::Total);
    let stages: Map<String, Value> = stages.map(|it| (it.as_str().to_owned(), stage(it))).collect();
    json!({ "stages": stages, "total": stage(Stage::Total) })
}

/// `POST /v1/broadcasts/{id}/viewers/{viewer}/delay`
pub async fn report(
    State(panel): Shared,
    caller: Caller,
    broadcast: Broadcast,
    viewer: Viewer,
    mut fields: Fields,
) -> Result<Json<Value>, Problem> {
    let record = broadcast.seen_by(&caller, &panel)?;
    let Caller::Viewer(grant) = &caller else {
        return Err(match caller {
            Caller::Anyone => Problem::who_are_you(),
            _ => Problem::not_yours("only that viewer knows; give its token"),
        });
    };
    if grant.broadcast != record.id || grant.viewer != viewer.0 {
        return Err(Problem::not_yours("this is another viewer's token"));
    }
    let tier = fields.word("tier", &Tier::ALL.map(Tier::as_str))?;
    let tier = Tier::ALL.into_iter().find(|it| tier.as_deref() == Some(it.as_str()));
    let tier = tier.ok_or_else(|| Problem::bad("field `tier`: give push or hls"))?;
    let samples = fields.list("samples", MAX_SAMPLES)?;
    fields.finish("`tier` and `samples`")?;
    let samples: Vec<(Stage, Duration)> =
        samples.into_iter().map(sample).collect::<Result<Vec<_>, _>>()?.concat();
    if !record.is_ended() {
        panel.delays.admit(viewer.0, Instant::now()).map_err(|refused| match refused {
            Refused::TooOften => {
                let detail = "report once in 2 s at most";
                let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail);
                problem.retry_after(EVERY.as_secs() as u32)
            }
            Refused::TooMany => Problem::unavailable("too many viewers report at once"),
        })?;
        for (stage, delay) in samples {
            panel.delays.on_viewer((record.id, tier, stage), delay);
        }
    }
    Ok(Json(json!({ "at_ms": now_utc().millis(), "every_seconds": EVERY.as_secs() })))
}

/// One moment of a viewer's: what it knows of each stage.
fn sample(value: Value) -> Result<Vec<(Stage, Duration)>, Problem> {
    let refused = || {
        Problem::bad(
            "field `samples`: give objects of last_mile, buffering and total in seconds, 0 to 300",
        )
    };
    let Value::Object(fields) = value else { return Err(refused()) };
    let known = |(name, value): (String, Value)| {
        let stage = TOLD.into_iter().find(|stage| stage.as_str() == name)?;
        if value.is_null() {
            return Some(None);
        }
        let seconds = value.as_f64().filter(|seconds| (0.0..=LONGEST).contains(seconds))?;
        Some(Some((stage, Duration::from_secs_f64(seconds))))
    };
    let stages: Option<Vec<_>> = fields.into_iter().map(known).collect();
    Ok(stages.ok_or_else(refused)?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_bounded_and_may_leave_out() {
        let read = |value| sample(value).map_err(|_| ());
        let ms = Duration::from_millis;
        let whole = json!({"last_mile": 0.02, "buffering": 1.5, "total": null});
        let expected = vec![(Stage::Buffering, ms(1500)), (Stage::LastMile, ms(20))];
        let mut got = read(whole).unwrap();
        got.sort_by_key(|it| it.0 != Stage::Buffering);
        assert_eq!(got, expected);
        assert_eq!(read(json!({"total": 300})), Ok(vec![(Stage::Total, ms(300_000))]));
        for wrong in [
            json!({"total": 300.1}),
            json!({"total": -0.1}),
            json!({"total": "1"}),
            json!({"upload": 1}),
            json!([1]),
        ] {
            assert_eq!(read(wrong.clone()), Err(()), "{wrong}");
        }
    }
}
