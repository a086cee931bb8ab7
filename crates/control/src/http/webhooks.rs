//! `/v1/webhooks`

use axum::Json;
use axum::extract::State;
use http::header::LOCATION;
use http::{HeaderName, StatusCode};
use serde_json::{Value, json};
use spyglass_daemon::now_utc;
use spyglass_media::UtcTime;

use super::Shared;
use super::caller::{Person, operator};
use super::fields::Fields;
use super::operation::{Content, Operation, Who, delete, get, post};
use super::problem::Problem;
use crate::events::{Types, types};
use crate::panel::Caller;
use crate::webhooks::{CreateError, MAX_URL, is_url};

/// Types that one webhook may name.
const MAX_EVENTS: usize = 16;

/// What can be asked of webhooks.
pub fn operations() -> Vec<Operation> {
    vec![
        post("/v1/webhooks", create)
            .is(
                "createWebhook",
                Who::Operator,
                "Names an address that is told of events",
                201,
                Content::Json("WebhookWithSecret"),
            )
            .details("Signed and repeated as Standard Webhooks has it. 410 from it disables it.")
            .body("NewWebhook"),
        get("/v1/webhooks", list).is(
            "listWebhooks",
            Who::Operator,
            "All webhooks and how they fare",
            200,
            Content::Json("WebhookList"),
        ),
        delete("/v1/webhooks/{id}", remove).is(
            "deleteWebhook",
            Who::Operator,
            "Removes a webhook",
            204,
            Content::Nothing,
        ),
    ]
}

/// `POST /v1/webhooks`
pub async fn create(
    State(panel): Shared,
    caller: Caller,
    mut fields: Fields,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<Value>), Problem> {
    operator(&caller)?;
    let url = fields.text("url", MAX_URL)?;
    let events = fields.words("events", MAX_EVENTS)?;
    fields.finish("`url` and `events`")?;
    if !is_url(&url) {
        let detail = "field `url`: give http:// or https:// with a host, without a password";
        return Err(Problem::bad(detail));
    }
    if !events.is_empty() && Types::of(events.iter().map(String::as_str)).is_none() {
        let known = types().collect::<Vec<_>>().join(", ");
        return Err(Problem::bad(format!("field `events`: give some of {known}")));
    }
    let begin = panel.feed.id(panel.feed.end().sequence);
    let made = panel.webhooks.create(url, events, begin, now_utc()).await;
    let (id, secret) = made.map_err(|error| match error {
        CreateError::Full => {
            Problem::new(StatusCode::FORBIDDEN, "there are as many webhooks as max_webhooks allows")
        }
        CreateError::Store(error) => error.into(),
    })?;
    tracing::info!(hook = id, "webhook made");
    let location = [(LOCATION, format!("/v1/webhooks/{id}"))];
    Ok((StatusCode::CREATED, location, Json(json!({ "id": id, "secret": secret }))))
}

/// `GET /v1/webhooks`
pub async fn list(State(panel): Shared, caller: Caller) -> Result<Json<Value>, Problem> {
    operator(&caller)?;
    let mut hooks = Vec::new();
    for (id, hook) in panel.webhooks.list().await? {
        let progress = panel.webhooks.progress(&id).await?;
        hooks.push(json!({
            "id": id,
            "url": hook.url,
            "events": hook.events,
            "created_at": UtcTime::from_millis(hook.created_at_ms).rfc3339(),
            "state": if hook.disabled { "disabled" } else { "active" },
            "delivered": progress.delivered,
            "dropped": progress.dropped,
            "last_error": progress.last_error,
            "last_attempt_at":
                progress.last_attempt_ms.map(|ms| UtcTime::from_millis(ms).rfc3339()),
        }));
    }
    Ok(Json(json!({ "webhooks": hooks })))
}

/// `DELETE /v1/webhooks/{id}`
pub async fn remove(
    State(panel): Shared,
    caller: Caller,
    hook: Result<Person, Problem>,
) -> Result<StatusCode, Problem> {
    operator(&caller)?;
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "there is no such webhook");
    // The id has the form of a user's.
    let id = hook.map_err(|_| unknown())?.0;
    if !panel.webhooks.remove(id.as_str()).await? {
        return Err(unknown());
    }
    tracing::info!(hook = %id, "webhook removed");
    Ok(StatusCode::NO_CONTENT)
}
