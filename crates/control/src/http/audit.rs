//! `/v1/audit`, and what puts every operation that changes something in it.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, RawQuery, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::StatusCode;
use http::header::LOCATION;
use serde_json::{Value, json};

use super::Shared;
use super::caller::operator;
use super::client::Client;
use super::operation::{Content, Operation, Who, get};
use super::paging::LIMITS;
use super::problem::Problem;
use super::query::Query;
use crate::audit::{self, Deed};
use crate::panel::{Caller, Panel};

/// What can be asked of the audit log.
pub fn operations() -> Vec<Operation> {
    let whole = |least: usize| json!({"type": "integer", "minimum": least});
    let mut limit = whole(1);
    limit["maximum"] = LIMITS.1.into();
    vec![
        get("/v1/audit", list)
            .is(
                "listAudit",
                Who::Operator,
                "What the operator and users did, in order",
                200,
                Content::Json("AuditList"),
            )
            .details(
                "Kept for 7 days, 100,000 entries at most. Viewers who come and go are not in it.",
            )
            .query("after", whole(0), "the `next` of the page before, or any `sequence`")
            .query("limit", limit, "entries of the page, 100 when left out"),
    ]
}

/// `GET /v1/audit`
pub async fn list(
    State(panel): Shared,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    operator(&caller)?;
    let query = Query::parse(query.as_deref(), &["after", "limit"])?;
    let limit = query.limit()?;
    let after = query.read("after", "the `next` of a page", |text| text.parse::<u64>().ok())?;
    let (entries, next) = audit::read(&panel, after.unwrap_or(0), limit).await?;
    let entries: Vec<Value> = entries
        .into_iter()
        .map(|(sequence, entry)| {
            json!({
                "sequence": sequence,
                "at": entry.at,
                "actor": entry.actor,
                "action": entry.action,
                "object": entry.object,
                "address": entry.address,
                "outcome": entry.outcome,
                "control": entry.control,
            })
        })
        .collect();
    Ok(Json(json!({ "entries": entries, "next": next })))
}

/// Whether an operation is written down: it changes something, and is none
/// of those that viewers do by the thousand.
pub fn is_audited(operation: &Operation) -> bool {
    operation.method != "get" && !["join", "leave", "reportDelay"].contains(&operation.id)
}

/// Writes down who did it and what came of it.
pub async fn write_down(
    State((panel, action)): State<(Arc<Panel>, &'static str)>,
    client: Client,
    ids: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    // What cannot even be read is the handler's to refuse, in its own words.
    let ids = ids.iter().flat_map(|ids| ids.iter().map(|(_, id)| id));
    let deed = Deed::new(panel, action, client.address, ids);
    request.extensions_mut().insert(deed.actor());
    let response = next.run(request).await;
    let status = response.status();
    let made = response.headers().get(LOCATION).filter(|_| status == StatusCode::CREATED);
    let made = made.and_then(|path| path.to_str().ok()).and_then(|path| path.rsplit('/').next());
    // Whoever asks too often is refused before anything is tried.
    if status == StatusCode::TOO_MANY_REQUESTS {
        deed.forget();
    } else {
        deed.done(status.as_u16(), made).await;
    }
    response
}
