//! The API's description (OpenAPI 3.1), made from the operations that the
//! router is made of. The same on every control of a release: nothing in it is
//! configured.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::body::Bytes;
use axum::response::IntoResponse;
use http::StatusCode;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE};
use serde_json::{Map, Value, json};

use super::operation::{Content, Operation, Place, Who, get};
use super::{operations, schemas};

/// What `/openapi.json` says.
pub fn document() -> Value {
    let operations = operations(true);
    let mut paths: Map<String, Value> = Map::new();
    for operation in &operations {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described(operation);
    }
    let statuses: BTreeSet<u16> = operations.iter().flat_map(refusals).collect();
    let problems: Map<String, Value> =
        statuses.into_iter().map(|status| (problem_name(status), problem(status))).collect();
    let bearer = |about: &str| json!({"type": "http", "scheme": "bearer", "description": about});
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Spyglass control",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Users, broadcasts, viewers and nodes of a live-streaming CDN.",
            "description": "Every refusal is application/problem+json (RFC 9457), and its \
                `detail` says what to do. A 429 or 503 says in `Retry-After` after how many \
                seconds it makes sense to ask again. Ids are 13 characters. A body's field \
                that is not known is refused; answers may grow fields.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "this control; any other answers the same"}],
        "tags": [
            {"name": "users", "description": "People and whom they follow"},
            {"name": "broadcasts", "description": "From creation to the end"},
            {"name": "viewers", "description": "Joining, leaving, being cut off"},
            {"name": "operation", "description": "Nodes, keys, events: for operators"},
            {"name": "pages", "description": "For browsers, players and monitoring"},
        ],
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "responses": problems,
            "securitySchemes": {
                "operatorKey": bearer("the operator's key: `--operator-key`, else made by \
                    control and kept in its state"),
                "userToken": bearer("a user's token, from `POST /v1/users`"),
                "viewerToken": bearer("a viewer's token, from joining a broadcast"),
            },
        },
    })
}

fn described(operation: &Operation) -> Value {
    let mut value = json!({
        "operationId": operation.id,
        "tags": [tag(operation.path)],
        "summary": operation.summary,
        "description": words(operation),
        "security": security(operation.who),
        "responses": responses(operation),
    });
    let parameters: Vec<Value> = operation
        .names()
        .map(|name| {
            let schema = schemas::of_path(operation.path, name);
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .chain(operation.parameters.iter().map(|parameter| {
            let place = match parameter.place {
                Place::Query => "query",
                Place::Header => "header",
            };
            json!({
                "name": parameter.name,
                "in": place,
                "required": false,
                "description": parameter.about,
                "schema": parameter.schema,
            })
        }))
        .collect();
    if !parameters.is_empty() {
        value["parameters"] = parameters.into();
    }
    if let Some(shape) = operation.body {
        let content = json!({"application/json": {"schema": schemas::reference(shape)}});
        value["requestBody"] =
            json!({"required": schemas::has_required(shape), "content": content});
    }
    value
}

fn words(operation: &Operation) -> String {
    let mut words = format!("Who may: {}.", operation.who.as_str());
    if !operation.details.is_empty() {
        words.push(' ');
        words.push_str(operation.details);
    }
    words
}

fn tag(path: &str) -> &'static str {
    match path.strip_prefix("/v1/") {
        None => "pages",
        Some(rest) if rest.starts_with("users") => "users",
        Some(rest) if rest.starts_with("broadcasts") && rest.contains("viewers") => "viewers",
        Some(rest) if rest.starts_with("broadcasts") => "broadcasts",
        Some(_) => "operation",
    }
}

fn security(who: Who) -> Value {
    let (schemes, nobody) = who.schemes();
    let mut all: Vec<Value> = schemes.iter().map(|scheme| json!({ *scheme: [] })).collect();
    if nobody && !all.is_empty() {
        all.push(json!({}));
    }
    all.into()
}

fn responses(operation: &Operation) -> Value {
    let mut responses = Map::new();
    for (status, content) in &operation.answers {
        let mut answer = json!({ "description": reason(*status) });
        match content {
            Content::Json(shape) => {
                answer["content"] =
                    json!({"application/json": {"schema": schemas::reference(shape)}});
            }
            // OpenAPI 3.1 has no word for a stream's items: the shape of their data.
            Content::Events(shape) => {
                answer["description"] = "a stream of server-sent events that goes on until one \
                    side ends it; `Last-Event-ID` resumes it. The schema is that of an event's data"
                    .into();
                answer["content"] =
                    json!({"text/event-stream": {"schema": schemas::reference(shape)}});
            }
            Content::Other(kind) => {
                answer["content"] = json!({ *kind: {"schema": {"type": "string"}} });
            }
            Content::Nothing => {}
        }
        if let Some(about) = operation.location {
            let schema = json!({"type": "string", "format": "uri-reference"});
            answer["headers"] = json!({"Location": {"description": about, "schema": schema}});
        }
        responses.insert(status.to_string(), answer);
    }
    for status in refusals(operation) {
        // What monitoring asks for has refusals that are no problems.
        responses.entry(status.to_string()).or_insert_with(
            || json!({"$ref": format!("#/components/responses/{}", problem_name(status))}),
        );
    }
    responses.into()
}

/// What may be refused: what follows from the description, and what was said.
fn refusals(operation: &Operation) -> BTreeSet<u16> {
    let mut statuses: BTreeSet<u16> = operation.refusals.iter().copied().collect();
    if matches!(operation.path, "/healthz" | "/readyz" | "/metrics") {
        return statuses;
    }
    statuses.extend([429, 503]);
    if operation.body.is_some() {
        statuses.extend([400, 408, 413]);
    }
    if operation.parameters.iter().any(|parameter| parameter.place == Place::Query) {
        statuses.insert(400);
    }
    if operation.names().next().is_some() {
        statuses.insert(404);
    }
    match operation.who {
        Who::Anyone => {}
        Who::AnyoneOrListed => {
            statuses.insert(401);
        }
        _ => statuses.extend([401, 403]),
    }
    statuses
}

fn reason(status: u16) -> String {
    let status = StatusCode::from_u16(status).ok();
    status.and_then(|status| status.canonical_reason()).unwrap_or("answer").to_lowercase()
}

fn problem_name(status: u16) -> String {
    reason(status)
        .split([' ', '-'])
        .map(|word| {
            let (first, rest) = word.split_at(word.len().min(1));
            first.to_uppercase() + rest
        })
        .collect()
}

fn problem(status: u16) -> Value {
    let (about, detail) = match status {
        400 => {
            ("the request is wrong", "field `title`: give one line of text, 1 to 200 characters")
        }
        401 => (
            "nobody in particular asked, or nobody's credentials came along",
            "send Authorization: Bearer with the operator key or a user's token",
        ),
        403 => ("not the asker's to do", "only the operator may do this"),
        404 => (
            "there is none, or it is not the asker's business: one answer for both",
            "there is no such broadcast",
        ),
        408 => ("the body was too slow", "the body took longer than 5 s"),
        409 => {
            ("it stands against what is there", "somebody else changed this; look and try again")
        }
        410 => ("it is over", "this broadcast has ended"),
        413 => ("the body is too long", "a body has 65536 bytes at most"),
        429 => ("too much was asked for", "too many joins from here; try again in 3 s"),
        503 => ("not at the moment", "no edge takes viewers now: start one, or try again"),
        _ => ("it was refused", "the detail says why and what to do"),
    };
    let title = reason(status);
    let mut response = json!({
        "description": about,
        "content": {"application/problem+json": {
            "schema": schemas::reference("Problem"),
            "example":
                {"type": "about:blank", "title": title, "status": status, "detail": detail},
        }},
    });
    let header = match status {
        401 => ("WWW-Authenticate", json!({"type": "string"})),
        429 | 503 => ("Retry-After", json!({"type": "integer", "minimum": 1})),
        _ => return response,
    };
    response["headers"] = json!({ header.0: {"schema": header.1} });
    response
}

/// `GET /openapi.json`
pub fn own_operation() -> Operation {
    get("/openapi.json", serve).is(
        "getDescription",
        Who::Anyone,
        "This description",
        200,
        Content::Json("Description"),
    )
}

async fn serve() -> impl IntoResponse {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(document().to_string()));
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "max-age=300"),
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    ];
    (headers, TEXT.clone())
}
