//! `/v1/broadcasts/{id}/viewers`

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde_json::{Map, Value, json};
use spyglass_daemon::{now_utc, random};
use spyglass_media::{BroadcastId, UserId, ViewerId};
use spyglass_token::{Grant, WatchGrant};

use super::Shared;
use super::caller::{Broadcast, Viewer};
use super::client::Client;
use super::fields::Fields;
use super::operation::{Content, Operation, Who, delete, get, post};
use super::problem::Problem;
use crate::away;
use crate::events::viewers as events;
use crate::fleet::Role;
use crate::joined::{self, Who as Person};
use crate::kick;
use crate::panel::{Caller, Panel};
use crate::placement::Placed;
use crate::record::Record;

/// Edges named beside the nearest.
const ALTERNATES: usize = 4;

/// Viewers in one answer.
const MAX_LISTED: usize = 10_000;

/// What can be asked of viewers.
pub fn operations() -> Vec<Operation> {
    vec![
        get("/v1/broadcasts/{id}/viewers", list).is(
            "listViewers",
            Who::Owner,
            "Who watches",
            200,
            Content::Json("ViewerList"),
        ),
        post("/v1/broadcasts/{id}/viewers", join)
            .is("join", Who::AnyoneOrListed, "Joins as a viewer", 200, Content::Json("Joined"))
            .body("Join")
            .refuses(410),
        delete("/v1/broadcasts/{id}/viewers/{viewer}", leave).is(
            "leave",
            Who::ViewerOrOwner,
            "Gives a viewer's place back",
            204,
            Content::Nothing,
        ),
        post("/v1/broadcasts/{id}/viewers/{viewer}/kick", kick).is(
            "kick",
            Who::Owner,
            "Cuts a viewer off within a second",
            200,
            Content::Json("Kicked"),
        ),
    ]
}

/// `POST /v1/broadcasts/{id}/viewers`
pub async fn join(
    State(panel): Shared,
    caller: Caller,
    client: Client,
    broadcast: Broadcast,
    mut fields: Fields,
) -> Result<Json<Value>, Problem> {
    let from = fields.location()?;
    let wish = fields.word("tier", &["auto", "hls"])?;
    fields.finish("`location` and `tier`")?;
    let record = broadcast.seen_by(&caller, &panel)?;
    if record.is_ended() {
        return Err(Problem::new(StatusCode::GONE, "this broadcast has ended"));
    }
    let edges = panel.place(Role::Edge, from, client.address, 1 + ALTERNATES);
    if edges.is_empty() {
        let detail = "no edge takes viewers now: start one, or try again";
        return Err(Problem::unavailable(detail));
    }
    // Who asks again with a viewer's token is the user who first joined with it.
    let user = match &caller {
        Caller::Viewer(grant) if grant.broadcast == record.id => grant.user,
        _ => caller.user(),
    };
    if let Some(user) = user
        && refuses(&panel, record.id, user).await?
    {
        let detail = "this user was removed from this broadcast";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    let viewer = match &caller {
        // It asks again: for a better place, or another token.
        Caller::Viewer(grant) if grant.broadcast == record.id => grant.viewer,
        _ => ViewerId::from_random(random()),
    };
    panel.count_seats(&record).await;
    let seat = match panel.seats.join(record.id, viewer).await {
        Ok(seat) => seat,
        // Nobody can tell which seats are free; HLS has room for everybody.
        Err(error) if away::is_away(&error) => None,
        Err(error) => return Err(error.into()),
    };
    let number = seat.map(|seat| seat.number);
    // Who cannot play what is pushed does not hold a place for long: its
    // reservation lapses. The right to comment stands in its token.
    let able = wish.as_deref() != Some("hls");
    let push = able && number.is_some_and(|number| number <= panel.push_viewers(&record));
    let comment = number.is_some_and(|number| number <= panel.live.get().commenters);
    let now = now_utc();
    let grant = WatchGrant {
        broadcast: record.id,
        viewer,
        user,
        seat: number,
        push,
        comment,
        generation: seat.map_or(0, |seat| seat.generation),
        issued: now,
        expires: now + Duration::from_secs(panel.live.get().watch_token_seconds.into()),
    };
    let expires = grant.expires;
    let token = panel.keys.sign(&Grant::Watch(grant)).map_err(|error| {
        tracing::error!(%error, "cannot sign");
        Problem::unavailable("control cannot sign tokens; its log says why")
    })?;
    let tier = if push { "push" } else { "hls" };
    panel.metrics.joins.get_or_create(&[("tier", tier)]).inc();
    panel.viewer_events.tell(events::Kind::Joined, record.id, viewer);
    let who = Person { user, expires: Some(expires) };
    joined::tell(&panel, (record.id, viewer), who).await;
    Ok(Json(
        Admission { panel: &panel, record: &record, token, edges }
            .answer(viewer, tier, number, comment),
    ))
}

/// Whether a user was kicked; while the store is away nobody can tell.
async fn refuses(panel: &Panel, id: BroadcastId, user: UserId) -> Result<bool, Problem> {
    match panel.kept_out.contains(&*panel.engine, id, user).await {
        Ok(refused) => Ok(refused),
        Err(error) if away::is_away(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What a viewer gets to know.
struct Admission<'a> {
    panel: &'a Panel,
    record: &'a Record,
    token: String,
    /// At least one.
    edges: Vec<Placed>,
}

impl Admission<'_> {
    fn answer(&self, viewer: ViewerId, tier: &str, seat: Option<u32>, comment: bool) -> Value {
        let mut urls = Map::new();
        if tier == "push"
            && let Some(url) = self.rtmp()
        {
            urls.insert("rtmp".to_owned(), url.into());
        }
        let mut edge = Value::Null;
        if let Some(nearest) = self.edges.first() {
            nearest.node.standing.on_sent();
            urls.insert("hls".to_owned(), self.hls(nearest).into());
            edge = json!({ "id": *nearest.node.id });
            if let Some(km) = nearest.distance_km {
                edge["distance_km"] = json!((km * 10.0).round() / 10.0);
            }
        }
        let others = self.edges.iter().skip(1);
        let alternates: Vec<Value> =
            others.map(|edge| json!({ "id": *edge.node.id, "hls": self.hls(edge) })).collect();
        json!({
            "viewer": viewer,
            "tier": tier,
            "seat": seat,
            "can_comment": comment,
            "token": self.token,
            "urls": urls,
            "edge": edge,
            "alternates": alternates,
        })
    }

    fn hls(&self, edge: &Placed) -> String {
        format!("{}/v/{}/{}/index.m3u8", edge.node.http, self.token, self.record.id)
    }

    fn rtmp(&self) -> Option<String> {
        let now = self.panel.registration(&self.record.origin).map(|node| node.rtmp);
        let base = now.unwrap_or_else(|| self.record.rtmp.clone());
        (!base.is_empty()).then(|| format!("{base}/{}?token={}", self.record.id, self.token))
    }
}

/// `DELETE /v1/broadcasts/{id}/viewers/{viewer}`
pub async fn leave(
    State(panel): Shared,
    caller: Caller,
    broadcast: Broadcast,
    viewer: Viewer,
) -> Result<StatusCode, Problem> {
    let record = broadcast.seen_by(&caller, &panel)?;
    let own = matches!(&caller, Caller::Viewer(grant)
        if grant.broadcast == record.id && grant.viewer == viewer.0);
    if !own && !caller.owns(&record) {
        return Err(match caller {
            Caller::Anyone => Problem::who_are_you(),
            _ => Problem::not_yours("only that viewer, the owner and the operator may do this"),
        });
    }
    if !record.is_ended() {
        panel.seats.leave(record.id, viewer.0).await;
        panel.viewer_events.tell(events::Kind::Left, record.id, viewer.0);
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/broadcasts/{id}/viewers/{viewer}/kick`
pub async fn kick(
    State(panel): Shared,
    caller: Caller,
    broadcast: Broadcast,
    viewer: Viewer,
) -> Result<Json<Value>, Problem> {
    let record = broadcast.owned_by(&caller, &panel)?;
    kick::kick(&panel, record.id, viewer.0).await.map_err(|refused| match refused {
        kick::Refused::Unknown => {
            let detail = "no viewer of this name joined this broadcast";
            Problem::new(StatusCode::NOT_FOUND, detail)
        }
        kick::Refused::Full => {
            let detail = "too many viewers are kicked at once; raise max_revocations of control";
            Problem::unavailable(detail)
        }
    })?;
    Ok(Json(json!({ "viewer": viewer.0, "kicked": true })))
}

/// `GET /v1/broadcasts/{id}/viewers`
pub async fn list(
    State(panel): Shared,
    caller: Caller,
    broadcast: Broadcast,
) -> Result<Json<Value>, Problem> {
    let record = broadcast.owned_by(&caller, &panel)?;
    let mut watching = panel.fleet().audience().viewers(record.id, MAX_LISTED);
    watching.sort_by_key(|watching| (watching.lease.since, watching.lease.viewer));
    let viewers: Vec<Value> = watching
        .iter()
        .map(|watching| {
            let seat = watching.lease.seat.map(|seat| seat.number);
            let node = &*watching.node;
            json!({
                "viewer": watching.lease.viewer,
                "user": joined::who(&panel, (record.id, watching.lease.viewer))
                    .and_then(|who| who.user),
                "tier": if watching.lease.push { "push" } else { "hls" },
                "seat": seat,
                "edge": (!watching.lease.push).then_some(node),
                "node": node,
                "since": watching.lease.since.rfc3339(),
            })
        })
        .collect();
    let total = panel.fleet().audience().counts(record.id).total();
    Ok(Json(json!({ "viewers": viewers, "total": total })))
}
