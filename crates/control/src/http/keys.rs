//! `/v1/keys`: what verifies tokens, and what signs them.

use axum::Json;
use axum::extract::{RawPathParams, State};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use http::StatusCode;
use serde_json::{Value, json};
use spyglass_daemon::now_utc;
use spyglass_media::UtcTime;
use spyglass_token::PublicKey;

use super::Shared;
use super::caller::operator;
use super::operation::{Content, Operation, Who, delete, get, post};
use super::problem::Problem;
use crate::keyring::Shown;
use crate::keys::Error;
use crate::panel::Caller;

/// What can be asked of keys.
pub fn operations() -> Vec<Operation> {
    vec![
        get("/v1/keys", list).is(
            "listKeys",
            Who::Anyone,
            "Public keys that verify tokens",
            200,
            Content::Json("KeyList"),
        ),
        post("/v1/keys/rotate", rotate)
            .is(
                "rotateKeys",
                Who::Operator,
                "Makes a key that signs tokens 10 s later; the old one verifies on",
                201,
                Content::Json("Key"),
            )
            .details("409 while a key waits to sign, or when too many still verify.")
            .refuses(409),
        delete("/v1/keys/{id}", revoke)
            .is(
                "revokeKey",
                Who::Operator,
                "Refuses a key from now on, everywhere",
                200,
                Content::Json("KeyRevoked"),
            )
            .details(
                "Who is connected to an origin with a token of this key is cut; edges \
                 refuse the next request. The key that signs is replaced first.",
            ),
    ]
}

fn shown((key, public): &(Shown, PublicKey)) -> Value {
    let at = |time: Option<UtcTime>| time.map(UtcTime::rfc3339);
    json!({
        "id": key.id,
        "algorithm": "v4.public",
        "public_key": BASE64.encode(public.bytes),
        "state": key.state.as_str(),
        "created_at": key.dates.created.rfc3339(),
        // Adopted keys never sign.
        "not_before": at(key.dates.signs_from),
        "until": at(key.until),
    })
}

/// `GET /v1/keys`
pub async fn list(State(panel): Shared) -> Json<Value> {
    let keys: Vec<Value> = panel.keys.shown(now_utc()).iter().map(shown).collect();
    Json(json!({ "store": panel.keys.store_name(), "keys": keys }))
}

/// `POST /v1/keys/rotate`
pub async fn rotate(
    State(panel): Shared,
    caller: Caller,
) -> Result<(StatusCode, Json<Value>), Problem> {
    operator(&caller)?;
    let now = now_utc();
    let id = panel.keys.rotate(now).await.map_err(refused)?;
    let keys = panel.keys.shown(now);
    let made = keys.iter().find(|(key, _)| key.id == id);
    Ok((StatusCode::CREATED, Json(made.map_or(Value::Null, shown))))
}

/// `DELETE /v1/keys/{id}`
pub async fn revoke(
    State(panel): Shared,
    caller: Caller,
    params: RawPathParams,
) -> Result<Json<Value>, Problem> {
    operator(&caller)?;
    let id = params.iter().find(|(name, _)| *name == "id").map_or("", |(_, id)| id);
    let signing = panel.keys.revoke(id, now_utc()).await.map_err(refused)?;
    Ok(Json(json!({ "id": id, "state": "revoked", "signing": signing })))
}

fn refused(error: Error) -> Problem {
    let status = match &error {
        Error::Unknown => StatusCode::NOT_FOUND,
        Error::Waiting(_) | Error::Full => StatusCode::CONFLICT,
        Error::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    match error {
        Error::Store(error) => error.into(),
        error => Problem::new(status, error.to_string()),
    }
}
