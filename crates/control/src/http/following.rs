//! `/v1/users/{id}/following` and `/v1/users/{id}/followers`

use axum::Json;
use axum::extract::State;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::StatusCode;
use serde_json::{Value, json};
use spyglass_daemon::now_utc;
use spyglass_media::UserId;

use super::Shared;
use super::caller::{Other, Person};
use super::operation::{Content, Operation, Who, delete, get, put};
use super::paging::{Page, paged};
use super::problem::Problem;
use crate::follows::FollowError;
use crate::panel::{Caller, Panel};
use crate::store;

/// Names looked up at once.
const AT_ONCE: usize = 32;

/// What can be asked of who follows whom.
pub fn operations() -> Vec<Operation> {
    let page = || Content::Json("FollowList");
    vec![
        put("/v1/users/{id}/following/{other}", follow)
            .is("follow", Who::ThatUser, "Follows a user from now on", 204, Content::Nothing)
            .refuses(400),
        delete("/v1/users/{id}/following/{other}", unfollow).is(
            "unfollow",
            Who::ThatUser,
            "Follows a user no longer",
            204,
            Content::Nothing,
        ),
        paged(get("/v1/users/{id}/following", following).is(
            "listFollowing",
            Who::ThatUser,
            "Whom the user follows",
            200,
            page(),
        )),
        paged(get("/v1/users/{id}/followers", followers).is(
            "listFollowers",
            Who::ThatUser,
            "Who follows the user",
            200,
            page(),
        )),
    ]
}

/// Passes when both users exist.
async fn both(panel: &Panel, person: &Person, other: &Other) -> Result<(), Problem> {
    for id in [person.0, other.0] {
        panel.users.get(id).await?.ok_or_else(Person::unknown)?;
    }
    Ok(())
}

/// `PUT /v1/users/{id}/following/{other}`
pub async fn follow(
    State(panel): Shared,
    caller: Caller,
    person: Person,
    other: Other,
) -> Result<StatusCode, Problem> {
    person.decided_by(&caller)?;
    if person.0 == other.0 {
        return Err(Problem::bad("nobody follows themselves: name another user"));
    }
    both(&panel, &person, &other).await?;
    panel.follows.follow(person.0, other.0, now_utc()).await.map_err(|error| match error {
        FollowError::Full => {
            let most = panel.config.max_following;
            let detail = format!("you follow {most} users, which is the most: unfollow one first");
            Problem::new(StatusCode::FORBIDDEN, detail)
        }
        FollowError::Store(error) => error.into(),
    })?;
    // Either may have been deleted meanwhile, and its follows removed.
    if let Err(gone) = both(&panel, &person, &other).await {
        panel.follows.unfollow(person.0, other.0).await?;
        return Err(gone);
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /v1/users/{id}/following/{other}`
pub async fn unfollow(
    State(panel): Shared,
    caller: Caller,
    person: Person,
    other: Other,
) -> Result<StatusCode, Problem> {
    person.decided_by(&caller)?;
    both(&panel, &person, &other).await?;
    panel.follows.unfollow(person.0, other.0).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /v1/users/{id}/following`
pub async fn following(
    State(panel): Shared,
    caller: Caller,
    person: Person,
    page: Page,
) -> Result<Json<Value>, Problem> {
    person.decided_by(&caller)?;
    panel.users.get(person.0).await?.ok_or_else(Person::unknown)?;
    let (ids, next) = panel.follows.following(person.0, page.after, page.limit).await?;
    let total = panel.follows.counts(person.0).await?.0;
    Ok(Json(json!({ "users": named(&panel, ids).await?, "total": total, "next": next })))
}

/// `GET /v1/users/{id}/followers`
pub async fn followers(
    State(panel): Shared,
    caller: Caller,
    person: Person,
    page: Page,
) -> Result<Json<Value>, Problem> {
    person.decided_by(&caller)?;
    panel.users.get(person.0).await?.ok_or_else(Person::unknown)?;
    let found = panel.follows.followers(person.0, page.after, page.limit, now_utc());
    let (ids, next) = found.await?;
    let total = panel.follows.counts(person.0).await?.1;
    Ok(Json(json!({ "users": named(&panel, ids).await?, "total": total, "next": next })))
}

/// With their names; who is being deleted is left out.
async fn named(panel: &Panel, ids: Vec<UserId>) -> Result<Vec<Value>, store::Error> {
    let users = futures_util::stream::iter(ids.into_iter().map(|id| panel.users.get(id)));
    let users = users.buffered(AT_ONCE).try_filter_map(async |user| {
        Ok(user.map(|user| json!({ "id": user.id, "name": user.name })))
    });
    users.try_collect().await
}
