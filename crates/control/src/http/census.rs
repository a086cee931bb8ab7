//! `GET /v1/broadcasts?all=true`: the operator's pages of every broadcast, the
//! newest first. What everybody gets without `all` is drawn in [`super::broadcasts`].

use std::cmp::Reverse;

use axum::Json;
use axum::extract::{FromRequestParts as _, RawQuery, Request, State};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use spyglass_media::{BroadcastId, UserId};

use super::Shared;
use super::broadcasts::{sample, shown};
use super::caller::operator;
use super::operation::{Content, Operation, Who, get};
use super::paging::LIMITS;
use super::problem::Problem;
use super::query::Query;
use crate::panel::{Caller, Panel};
use crate::record::{Phase, Record};

/// `GET /v1/broadcasts`
pub fn operations() -> Vec<Operation> {
    vec![
        get("/v1/broadcasts", list)
            .is(
                "listBroadcasts",
                Who::AnyoneOrListed,
                "A random draw of the public broadcasts that are live",
                200,
                Content::Json("BroadcastList"),
            )
            .details(
                "With `all=true` the operator gets a page of every broadcast, private and ended \
                 ones too, the newest first.",
            )
            .query("sample", json!({"type": "integer", "minimum": 0}), "how many, 50 at most")
            .query("all", json!({"type": "boolean"}), "every broadcast (operator)")
            .query("state", super::schemas::reference("BroadcastState"), "of `all`: only these")
            .query("user", super::schemas::reference("Id"), "of `all`: only this user's")
            .query("after", json!({"type": "string"}), "of `all`: `next` of the page before")
            .query(
                "limit",
                json!({"type": "integer", "minimum": 1, "maximum": LIMITS.1}),
                "of `all`: entries in the answer, 100 when nothing is said",
            )
            .refuses(403),
    ]
}

async fn list(
    State(panel): Shared,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Problem> {
    let text = query.as_deref().unwrap_or_default();
    if !text.split('&').any(|pair| pair.split('=').next() == Some("all")) {
        return Ok(sample(State(panel), RawQuery(query)).await.into_response());
    }
    let (mut head, _) = request.into_parts();
    operator(&Caller::from_request_parts(&mut head, &panel).await?)?;
    let query = Query::parse(Some(text), &["all", "state", "user", "after", "limit"])?;
    query.read("all", "true", |text| matches!(text, "true" | "1" | "").then_some(()))?;
    let wanted = Wanted {
        phase: query.read("state", "created, live, interrupted or ended", phase)?,
        user: query.read("user", "a user's id", |text| text.parse().ok())?,
        after: query.read("after", "`next` of the page before", cursor)?,
    };
    Ok(Json(wanted.page(&panel, query.limit()?)).into_response())
}

fn phase(text: &str) -> Option<Phase> {
    Phase::ALL.into_iter().find(|phase| phase.as_str() == text)
}

/// Where a page ended: the last entry's time and name.
type Place = (Reverse<i64>, BroadcastId);

fn place(record: &Record) -> Place {
    (Reverse(record.memo.created_at_ms), record.id)
}

fn cursor(text: &str) -> Option<Place> {
    let (ms, id) = text.split_once('.')?;
    Some((Reverse(ms.parse().ok()?), id.parse().ok()?))
}

struct Wanted {
    phase: Option<Phase>,
    user: Option<UserId>,
    after: Option<Place>,
}

impl Wanted {
    fn page(&self, panel: &Panel, limit: usize) -> Value {
        let mut found = panel.broadcasts.all_shown(|record, shown| {
            self.phase.is_none_or(|phase| shown == phase)
                && self.user.is_none_or(|user| record.memo.user == Some(user))
        });
        let total = found.len();
        found.retain(|record| self.after.is_none_or(|after| place(record) > after));
        found.sort_by_key(|record| place(record));
        let next = (found.len() > limit).then(|| found.get(limit - 1)).flatten();
        let next = next.map(|last| format!("{}.{}", last.memo.created_at_ms, last.id));
        let page: Vec<Value> =
            found.iter().take(limit).map(|record| shown(panel, record)).collect();
        let (_, live) = panel.broadcasts.sample(0, 0);
        json!({ "broadcasts": page, "live": live, "total": total, "next": next })
    }
}
