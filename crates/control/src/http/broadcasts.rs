//! `/v1/broadcasts` and the way from a bare id to the nearest edge.

use axum::Json;
use axum::extract::{RawQuery, State};
use bytes::Bytes;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE, LOCATION};
use http::{HeaderName, StatusCode};
use serde_json::{Value, json};
use spyglass_daemon::{now_utc, random};
use spyglass_media::{BroadcastId, Fill, NodeId, UtcTime};
use spyglass_token::{Grant, PublishGrant};
use std::time::{Duration, Instant};

use super::Shared;
use super::caller::Broadcast;
use super::client::Client;
use super::fields::Fields;
use super::operation::{Content, Operation, Who, get, post};
use super::problem::Problem;
use crate::broadcasts::CreateError;
use crate::config::{CHUNK_ADVICE, MAX_SEATS, PART_ADVICE, chunk_ms, part_ms};
use crate::fleet::Role;
use crate::panel::{Caller, Panel};
use crate::record::{EndedBy, Memo, Record};

/// Longest title, in characters.
const MAX_TITLE: usize = 200;

/// Broadcasts in one answer, and when nothing is asked for.
const MAX_SAMPLE: usize = 50;

/// What can be asked of broadcasts.
pub fn operations() -> Vec<Operation> {
    let broadcast = || Content::Json("Broadcast");
    vec![
        post("/v1/broadcasts", create)
            .is(
                "createBroadcast",
                Who::User,
                "Makes a broadcast to publish to",
                201,
                Content::Json("CreatedBroadcast"),
            )
            .body("NewBroadcast")
            .location("the broadcast"),
        get("/v1/broadcasts/{id}", show).is(
            "getBroadcast",
            Who::AnyoneOrListed,
            "One broadcast",
            200,
            broadcast(),
        ),
        get("/v1/broadcasts/{id}/record", record).is(
            "getRecord",
            Who::Owner,
            "Who watched, from when to when, on which tier and node",
            200,
            Content::Json("Record"),
        ),
        post("/v1/broadcasts/{id}/end", end).is(
            "endBroadcast",
            Who::Owner,
            "Ends a broadcast for good",
            200,
            broadcast(),
        ),
        get("/live/{id}/index.m3u8", nearest)
            .is(
                "playBroadcast",
                Who::Anyone,
                "Sends a player to the nearest edge",
                307,
                Content::Nothing,
            )
            .location("the playlist at that edge"),
    ]
}

/// What the API says of a broadcast.
pub fn shown(panel: &Panel, record: &Record) -> Value {
    let (viewers, anonymous) = {
        let fleet = panel.fleet();
        (fleet.audience().counts(record.id), fleet.audience().anonymous(record.id))
    };
    let at = |ms: Option<i64>| ms.map(|ms| UtcTime::from_millis(ms).rfc3339());
    json!({
        "id": record.id,
        "title": record.memo.title,
        "user": record.memo.user,
        "state": panel.broadcasts.shown(record).as_str(),
        "origin": record.origin,
        // The edge through which the others fetch it.
        "gateway": panel.shown_gateway(record.id),
        "created_at": at(Some(record.memo.created_at_ms)),
        "started_at": at(record.started_at_ms),
        "ended_at": at(record.ended_at_ms),
        "private": record.is_private(),
        "open": !record.memo.closed,
        "push_viewers": panel.push_viewers(record),
        "chunk_seconds": f64::from(record.memo.chunk_ms) / 1000.0,
        "part_seconds": f64::from(record.memo.part_ms) / 1000.0,
        "fill": record.memo.fill,
        "viewers": {
            "push": viewers.push,
            "hls": viewers.hls,
            "total": viewers.total(),
            "anonymous_estimate": anonymous,
        },
    })
}

/// `POST /v1/broadcasts`
pub async fn create(
    State(panel): Shared,
    caller: Caller,
    client: Client,
    mut fields: Fields,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<Value>), Problem> {
    let user = match &caller {
        Caller::Operator => None,
        Caller::User(user) => Some(*user),
        Caller::Anyone => return Err(Problem::who_are_you()),
        Caller::Viewer(_) => {
            return Err(Problem::not_yours("a viewer's token watches; a user's makes broadcasts"));
        }
    };
    let title = fields.text("title", MAX_TITLE)?;
    let location = fields.location()?;
    let private_to = fields.users("private_to")?;
    let seconds = fields.number("chunk_seconds", CHUNK_ADVICE)?;
    let part_seconds = fields.number("part_seconds", PART_ADVICE)?;
    let fill = fields.word("fill", &Fill::WORDS)?.as_deref().and_then(Fill::parse);
    let push_viewers = fields.count("push_viewers", MAX_SEATS)?;
    let open = fields.flag("open")?.unwrap_or(true);
    fields.finish(
        "`title`, `location`, `private_to`, `chunk_seconds`, `part_seconds`, `fill`, `push_viewers` and `open`",
    )?;
    for named in private_to.iter().flatten() {
        if panel.users.get(*named).await?.is_none() {
            return Err(Problem::bad(format!("field `private_to`: there is no user {named}")));
        }
    }
    let seconds = seconds.unwrap_or(panel.live.get().chunk_seconds);
    let chunk_ms = chunk_ms(seconds)
        .ok_or_else(|| Problem::bad(format!("field `chunk_seconds`: {CHUNK_ADVICE}")))?;
    let part_ms = part_ms(part_seconds.unwrap_or(panel.live.get().part_seconds))
        .ok_or_else(|| Problem::bad(format!("field `part_seconds`: {PART_ADVICE}")))?;

    let now = now_utc();
    let placed = panel.place(Role::Origin, location, client.address, 1).into_iter().next();
    let origin = placed.ok_or_else(|| {
        Problem::unavailable("no origin takes broadcasts now: start one, or try again")
            .retry_after(5)
    })?;
    let origin = origin.node;
    origin.standing.on_sent();
    let memo = Memo {
        title,
        user,
        private_to,
        chunk_ms,
        part_ms,
        fill,
        resume_ms: panel.live.get().resume_seconds.saturating_mul(1000),
        push_viewers,
        closed: !open,
        location,
        created_at_ms: now.millis(),
    };
    let record = Record::new(
        BroadcastId::from_random(random()),
        NodeId::clone(&origin.id),
        origin.rtmp.to_string(),
        memo,
    );
    let token = publish_token(&panel, &record, now)?;
    let record = panel.broadcasts.create(record).await.map_err(|error| match error {
        CreateError::Full => Problem::unavailable("there are as many broadcasts as control takes"),
        CreateError::Quota => {
            let most = panel.config.max_broadcasts_per_user;
            let detail = format!("you have {most} broadcasts, which is the most: end one of them");
            Problem::new(StatusCode::FORBIDDEN, detail)
        }
        CreateError::Store(error) => error.into(),
    })?;
    panel.expect(&record);
    tracing::info!(broadcast = %record.id, origin = %record.origin, "broadcast created");
    let id = record.id;
    let body = json!({
        "id": id,
        "state": record.phase.as_str(),
        "origin": record.origin,
        "publish": { "rtmp_url": record.rtmp, "stream_key": format!("{id}?token={token}") },
        "watch_url": format!("{}/watch/{id}", panel.public_http),
    });
    Ok((StatusCode::CREATED, [(LOCATION, format!("/v1/broadcasts/{id}"))], Json(body)))
}

fn publish_token(panel: &Panel, record: &Record, now: UtcTime) -> Result<String, Problem> {
    let grant = PublishGrant {
        broadcast: record.id,
        origin: record.origin.clone(),
        private: record.is_for_joined(),
        chunk_ms: record.memo.chunk_ms,
        part_ms: record.memo.part_ms,
        fill: record.memo.fill,
        resume_ms: record.memo.resume_ms,
        issued: now,
        expires: now + Duration::from_secs(panel.live.get().publish_token_seconds.into()),
    };
    panel.keys.sign(&Grant::Publish(grant)).map_err(|error| {
        tracing::error!(%error, "cannot sign");
        Problem::unavailable("control cannot sign tokens; its log says why")
    })
}

/// `GET /v1/broadcasts?sample=50`
pub async fn sample(
    State(panel): Shared,
    RawQuery(query): RawQuery,
) -> Result<([(HeaderName, &'static str); 1], Vec<u8>), Problem> {
    let mut count = MAX_SAMPLE;
    for pair in query.as_deref().unwrap_or_default().split('&') {
        if let Some(text) = pair.strip_prefix("sample=") {
            let refused =
                |_| Problem::bad("query `sample`: give how many broadcasts you want, 50 at most");
            count = text.parse::<usize>().map_err(refused)?.min(MAX_SAMPLE);
        }
    }
    // Drawn for this answer alone: who crawls the list learns more with each.
    let (drawn, live) = panel.broadcasts.sample(count, u64::from_le_bytes(random()));
    let now = Instant::now();
    let write = |record: &Record| Bytes::from(shown(&panel, record).to_string());
    let mut body = b"{\"broadcasts\":[".to_vec();
    for (at, listed) in drawn.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&listed.line(now, write));
    }
    body.extend_from_slice(format!("],\"live\":{live}}}").as_bytes());
    Ok(([(CONTENT_TYPE, "application/json")], body))
}

/// `GET /v1/broadcasts/{id}`
pub async fn show(
    State(panel): Shared,
    caller: Caller,
    broadcast: Broadcast,
) -> Result<Json<Value>, Problem> {
    let record = broadcast.seen_by(&caller, &panel)?;
    Ok(Json(shown(&panel, &record)))
}

/// `GET /v1/broadcasts/{id}/record`
pub async fn record(
    State(panel): Shared,
    caller: Caller,
    broadcast: Broadcast,
) -> Result<Json<Value>, Problem> {
    let record = broadcast.owned_by(&caller, &panel)?;
    let history = panel.histories.read(&*panel.engine, record.id).await?;
    let at = |ms: i64| UtcTime::from_millis(ms).rfc3339();
    let viewers: Vec<Value> = history
        .viewers
        .iter()
        .map(|(viewer, watched)| {
            json!({
                "viewer": viewer,
                "user": watched.user,
                "tier": if watched.push { "push" } else { "hls" },
                "node": watched.node,
                "since": at(watched.since_ms),
                "until": at(watched.until_ms),
            })
        })
        .collect();
    let place = record.memo.location;
    Ok(Json(json!({
        "id": record.id,
        "title": record.memo.title,
        "user": record.memo.user,
        "location": place.map(|it| json!({"lat": it.latitude(), "lon": it.longitude()})),
        "started_at": record.started_at_ms.map(at),
        "ended_at": record.ended_at_ms.map(at),
        "peak_viewers": history.peak,
        // Messages are counted where they pass, which is not in this release.
        "comments": 0,
        "hearts": 0,
        "viewers": viewers,
        "complete": !history.more,
    })))
}

/// `POST /v1/broadcasts/{id}/end`
pub async fn end(
    State(panel): Shared,
    caller: Caller,
    broadcast: Broadcast,
) -> Result<Json<Value>, Problem> {
    broadcast.owned_by(&caller, &panel)?;
    let ended = panel.end(broadcast.0, EndedBy::Request).await?;
    let record = ended.ok_or_else(Problem::no_such_broadcast)?;
    Ok(Json(shown(&panel, &record)))
}

/// `GET /live/{id}/index.m3u8`
pub async fn nearest(
    State(panel): Shared,
    client: Client,
    broadcast: Broadcast,
) -> Result<(StatusCode, [(HeaderName, String); 2]), Problem> {
    let record = broadcast.seen_by(&Caller::Anyone, &panel)?;
    if record.is_for_joined() {
        return Err(Problem::no_such_broadcast());
    }
    let edge = panel.place(Role::Edge, None, client.address, 1).into_iter().next();
    let edge = edge.ok_or_else(|| Problem::unavailable("no edge takes viewers now; try again"))?;
    edge.node.standing.on_sent();
    let url = format!("{}/live/{}/index.m3u8", edge.node.http, record.id);
    let any = (ACCESS_CONTROL_ALLOW_ORIGIN, "*".to_owned());
    Ok((StatusCode::TEMPORARY_REDIRECT, [(LOCATION, url), any]))
}
