//! `/v1/users`

use axum::Json;
use axum::extract::State;
use http::header::LOCATION;
use http::{HeaderName, StatusCode};
use serde_json::{Value, json};
use spyglass_daemon::now_utc;

use super::Shared;
use super::caller::{Person, operator};
use super::fields::Fields;
use super::operation::{Content, Operation, Who, delete, get, post};
use super::paging::{Page, paged};
use super::problem::Problem;
use crate::panel::Caller;
use crate::users::User;

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
        paged(get("/v1/users", list).is(
            "listUsers",
            Who::Operator,
            "Who is registered",
            200,
            Content::Json("UserList"),
        )),
        get("/v1/users/{id}", show).is(
            "getUser",
            Who::ThatUser,
            "One user",
            200,
            Content::Json("User"),
        ),
        delete("/v1/users/{id}", remove)
            .is("deleteUser", Who::Operator, "Deletes a user", 204, Content::Nothing)
            .details(
                "The token is nobody's at once, and nobody follows the user any more. \
                 Broadcasts go on until they end.",
            ),
        post("/v1/users/{id}/token", renew)
            .is(
                "renewUserToken",
                Who::Operator,
                "Gives a user another token",
                200,
                Content::Json("UserWithToken"),
            )
            .details("The old one is nobody's at once."),
    ]
}

fn shown(user: &User) -> Value {
    json!({ "id": user.id, "name": user.name, "created_at": user.created_at.rfc3339() })
}

/// `POST /v1/users`
pub async fn create(
    State(panel): Shared,
    caller: Caller,
    mut fields: Fields,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<Value>), Problem> {
    operator(&caller)?;
    let name = fields.text("name", MAX_NAME)?;
    fields.finish("`name`")?;
    let user = panel.users.create(&name, now_utc()).await?;
    let body = json!({ "id": user.id, "name": name, "token": user.token });
    Ok((StatusCode::CREATED, [(LOCATION, format!("/v1/users/{}", user.id))], Json(body)))
}

/// `GET /v1/users`
pub async fn list(
    State(panel): Shared,
    caller: Caller,
    page: Page,
) -> Result<Json<Value>, Problem> {
    operator(&caller)?;
    let (users, next) = panel.users.list(page.after, page.limit).await?;
    let users: Vec<Value> = users.iter().map(shown).collect();
    Ok(Json(json!({ "users": users, "next": next })))
}

/// `GET /v1/users/{id}`
pub async fn show(
    State(panel): Shared,
    caller: Caller,
    person: Person,
) -> Result<Json<Value>, Problem> {
    person.decided_by(&caller)?;
    let user = panel.users.get(person.0).await?.ok_or_else(Person::unknown)?;
    Ok(Json(shown(&user)))
}

/// `DELETE /v1/users/{id}`
pub async fn remove(
    State(panel): Shared,
    caller: Caller,
    person: Person,
) -> Result<StatusCode, Problem> {
    operator(&caller)?;
    // Hidden first: when this is cut short, asking again ends it.
    if !panel.users.hide(person.0).await? {
        return Err(Person::unknown());
    }
    panel.follows.remove(person.0).await?;
    panel.users.forget(person.0).await?;
    tracing::info!(user = %person.0, "user deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/users/{id}/token`
pub async fn renew(
    State(panel): Shared,
    caller: Caller,
    person: Person,
) -> Result<Json<Value>, Problem> {
    operator(&caller)?;
    let renewed = panel.users.renew(person.0).await?.ok_or_else(Person::unknown)?;
    let user = panel.users.get(person.0).await?.ok_or_else(Person::unknown)?;
    tracing::info!(user = %person.0, "user has another token");
    Ok(Json(json!({ "id": user.id, "name": user.name, "token": renewed.token })))
}
