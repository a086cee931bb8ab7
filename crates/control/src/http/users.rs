//! `/v1/users`

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde_json::{Value, json};
use spyglass_daemon::now_utc;

use super::Shared;
use super::caller::operator;
use super::fields::Fields;
use super::operation::{Content, Operation, Who, post};
use super::problem::Problem;
use crate::panel::Caller;

/// Longest name, in characters.
const MAX_NAME: usize = 100;

/// What can be asked of users.
pub fn operations() -> Vec<Operation> {
    vec![
        post("/v1/users", create)
            .is(
                "createUser",
                Who::Operator,
                "Registers a user",
                201,
                Content::Json("UserWithToken"),
            )
            .body("NewUser"),
    ]
}

/// `POST /v1/users`
pub async fn create(
    State(panel): Shared,
    caller: Caller,
    mut fields: Fields,
) -> Result<(StatusCode, Json<Value>), Problem> {
    operator(&caller)?;
    let name = fields.text("name", MAX_NAME)?;
    fields.finish("`name`")?;
    let user = panel.users.create(&name, now_utc()).await?;
    let body = json!({ "id": user.id, "name": name, "token": user.token });
    Ok((StatusCode::CREATED, Json(body)))
}
