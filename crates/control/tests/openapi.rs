//! `/openapi.json` is true: every operation in it is called on a running
//! control, with success and with a refusal, and what comes back is held
//! against it. An operation that is not called here fails the test.

#[path = "support/schema.rs"]
mod schema;
mod support;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::{Value, json};
use spyglass_api::control::{Phase, Role};
use spyglass_control::limits::Rate;
use spyglass_control::openapi;
use support::{Answer, Node, OPERATOR, World, text};

/// Each operation of the document: its id, method, path and description.
fn operations(document: &Value) -> BTreeMap<String, (String, String, Value)> {
    let mut operations = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let id = text(&operation["operationId"]);
            let known = operations
                .insert(id.clone(), (method.to_uppercase(), path.clone(), operation.clone()));
            assert!(known.is_none(), "{id} twice");
        }
    }
    operations
}

/// Follows a reference, if it is one.
fn whole<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => schema::resolve(document, reference).expect(reference),
        None => value,
    }
}

#[test]
fn the_document_is_openapi() {
    let document = openapi();
    assert_eq!(document, openapi(), "the same every time");
    assert_eq!(document["openapi"], "3.1.0");
    assert!(document["info"]["title"].is_string() && document["info"]["version"].is_string());
    references_resolve(&document, &document);
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    let tags: BTreeSet<String> =
        document["tags"].as_array().unwrap().iter().map(|tag| text(&tag["name"])).collect();
    for (id, (_, path, operation)) in operations(&document) {
        assert!(path.starts_with('/'), "{path}");
        assert!(!text(&operation["summary"]).is_empty(), "{id}");
        assert!(tags.contains(&text(&operation["tags"][0])), "{id}");
        for requirement in operation["security"].as_array().unwrap() {
            let names = requirement.as_object().unwrap();
            assert!(names.keys().all(|name| schemes.contains_key(name)), "{id}: {requirement}");
        }
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let in_path: BTreeSet<String> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| text(&parameter["name"]))
            .collect();
        let named: BTreeSet<String> = path
            .split('{')
            .skip(1)
            .map(|rest| rest.split('}').next().unwrap().to_owned())
            .collect();
        assert_eq!(in_path, named, "{id}");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with(['2', '3'])), "{id}");
        for (status, response) in responses {
            let response = whole(&document, response);
            assert!(response["description"].is_string(), "{id} {status}");
            let Some(problem) = response["content"].get("application/problem+json") else {
                continue;
            };
            let faults = schema::faults(&document, &problem["schema"], &problem["example"]);
            assert_eq!(faults, [""; 0], "{id} {status}");
            assert_eq!(problem["example"]["status"].to_string(), *status, "{id}");
        }
    }
}

fn references_resolve(document: &Value, value: &Value) {
    match value {
        Value::Object(members) => {
            if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                assert!(schema::resolve(document, reference).is_some(), "{reference}");
            }
            members.values().for_each(|member| references_resolve(document, member));
        }
        Value::Array(items) => items.iter().for_each(|item| references_resolve(document, item)),
        _ => {}
    }
}

/// One call and the status it shall get.
struct Call {
    path: String,
    bearer: String,
    body: Value,
    status: u16,
}

fn call(path: impl Into<String>, bearer: &str, body: Value, status: u16) -> Call {
    Call { path: path.into(), bearer: bearer.to_owned(), body, status }
}

/// The world that is asked, and what was asked so far.
struct Asked {
    world: World,
    document: Value,
    operations: BTreeMap<String, (String, String, Value)>,
    seen: BTreeMap<String, BTreeSet<u16>>,
}

impl Asked {
    /// Calls an operation and holds the answer against its description.
    async fn ask(&mut self, id: &str, call: Call) -> Answer {
        let known = self.operations.get(id).unwrap_or_else(|| panic!("{id} is not described"));
        let (method, path, operation) = known.clone();
        assert!(fits(&path, &call.path), "{id} is {path} and not {}", call.path);
        let answer = self.world.call(&method, &call.path, &call.bearer, &call.body).await;
        let what = format!("{id}: {method} {}", call.path);
        let answer = answer.expect(call.status);
        self.check(&what, &operation, &answer);
        self.seen.entry(id.to_owned()).or_default().insert(call.status);
        answer
    }

    /// Opens a stream of events and leaves it.
    async fn open(&mut self, id: &str, path: &str, bearer: &str) {
        let operation = self.operations[id].2.clone();
        let request = hyper::Request::builder()
            .uri(format!("{}{path}", self.world.at.http))
            .header("authorization", format!("Bearer {bearer}"));
        let request = request.body(Bytes::new().into()).unwrap();
        let answer = self.world.client.request(request).await.unwrap();
        let (headers, body) = (answer.headers().clone(), Bytes::new());
        let answer = Answer { status: answer.status(), headers, body }.expect(200);
        self.check(id, &operation, &answer);
        self.seen.entry(id.to_owned()).or_default().insert(200);
    }

    fn check(&self, what: &str, operation: &Value, answer: &Answer) {
        let status = answer.status.as_str();
        let described = operation["responses"].get(status);
        let described = described.unwrap_or_else(|| panic!("{what}: {status} is not described"));
        let described = whole(&self.document, described);
        for (name, _) in described["headers"].as_object().into_iter().flatten() {
            assert!(!answer.header(name).is_empty(), "{what}: {status} without {name}");
        }
        let Some(content) = described["content"].as_object() else {
            assert!(answer.body.is_empty(), "{what}: a body that is not described");
            return;
        };
        let kind = answer.header("content-type").split(';').next().unwrap().to_owned();
        let family = format!("{}/*", kind.split('/').next().unwrap());
        let media = content.get(&kind).or_else(|| content.get(&family));
        let media = media.unwrap_or_else(|| panic!("{what}: {kind} is not described"));
        if kind.ends_with("json") {
            let faults = schema::faults(&self.document, &media["schema"], &answer.json());
            assert!(faults.is_empty(), "{what}: {status}: {faults:#?}");
        }
    }

    /// The fields that a body may have are those that the description names,
    /// no more and no fewer: a body that is fine but for one field more is
    /// refused with their names.
    async fn fields(&mut self, id: &str, mut fine: Call) {
        fine.body["nonsense"] = json!(1);
        fine.status = 400;
        let answer = self.ask(id, fine).await;
        let detail = text(&answer.json()["detail"]);
        let (_, names) = detail.split_once("the fields are").expect(&detail);
        let named: BTreeSet<&str> = names.split('`').skip(1).step_by(2).collect();
        let body = &self.operations[id].2["requestBody"]["content"]["application/json"]["schema"];
        let body = whole(&self.document, body);
        assert_eq!(body["additionalProperties"], false, "{id}");
        let described: BTreeSet<&str> =
            body["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(named, described, "{id}");
    }
}

/// Whether a path is one of a path with `{names}`.
fn fits(described: &str, path: &str) -> bool {
    let path = path.split('?').next().unwrap();
    let (described, path): (Vec<_>, Vec<_>) =
        (described.split('/').collect(), path.split('/').collect());
    let same = |(described, part): (&&str, &&str)| described.starts_with('{') || described == part;
    described.len() == path.len() && described.iter().zip(&path).all(same)
}

/// An id that nothing has.
const NONE: &str = "0000000000000";

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_answers_as_described() {
    let world = World::start().await;
    let document = world.anyone("GET", "/openapi.json", Value::Null).await.expect(200).json();
    assert_eq!(document, openapi(), "what is served is what the program says");
    let operations = operations(&document);
    let mut asked = Asked { world, document, operations, seen: BTreeMap::new() };
    pages(&mut asked).await;
    let (user, other) = people(&mut asked).await;
    let [origin, _edge, _far] = nodes(&mut asked).await;
    broadcasts(&mut asked, &origin, &user, &other).await;

    // What is refused to nobody is refused to whoever asks too often.
    let rate = Rate { per_second: 0.001, burst: 1 };
    asked.world = World::with(|config| {
        config.rate_exempt.clear();
        config.rate_page = rate;
        config.rate_other = rate;
    })
    .await;
    let page = |path: &str| call(path, "", Value::Null, 429);
    asked.world.anyone("GET", "/", Value::Null).await.expect(200);
    asked.world.anyone("GET", "/v1/keys", Value::Null).await.expect(200);
    asked.ask("homePage", page("/")).await;
    asked.ask("consolePage", page("/console")).await;
    asked.ask("listKeys", page("/v1/keys")).await;
    asked.ask("getDescription", page("/openapi.json")).await;

    // Being alive has no refusal, and being ready and metrics have theirs
    // elsewhere: where there is a metrics address of its own.
    for id in ["getHealth", "getReadiness", "getMetrics"] {
        asked.seen.entry(id.to_owned()).or_default().insert(503);
    }
    for id in asked.operations.keys() {
        let seen = asked.seen.get(id).unwrap_or_else(|| panic!("{id} is not called by this test"));
        assert!(seen.iter().any(|status| *status < 400), "{id} never succeeded: {seen:?}");
        assert!(seen.iter().any(|status| *status >= 400), "{id} was never refused: {seen:?}");
    }
}

async fn pages(asked: &mut Asked) {
    let nobody = |path: &str, status| call(path, "", Value::Null, status);
    asked.ask("getDescription", nobody("/openapi.json", 200)).await;
    asked.ask("homePage", nobody("/", 200)).await;
    asked.ask("consolePage", nobody("/console", 200)).await;
    asked.ask("watchPage", nobody("/watch/0123456789abc", 200)).await;
    asked.ask("watchPage", nobody("/watch/nothing", 404)).await;
    for name in ["style.css", "home.js"] {
        asked.ask("asset", nobody(&format!("/assets/{name}"), 200)).await;
    }
    asked.ask("asset", nobody("/assets/none", 404)).await;
    asked.ask("getHealth", nobody("/healthz", 200)).await;
    asked.ask("getReadiness", nobody("/readyz", 200)).await;
    asked.ask("getMetrics", nobody("/metrics", 200)).await;
}

/// Two users: ids and tokens.
async fn people(asked: &mut Asked) -> ((String, String), (String, String)) {
    let new = |bearer: &str, status| call("/v1/users", bearer, json!({"name": "Ann"}), status);
    let mut users = Vec::new();
    for _ in 0..2 {
        let made = asked.ask("createUser", new(OPERATOR, 201)).await.json();
        users.push((text(&made["id"]), text(&made["token"])));
    }
    let (user, other) = (users.remove(0), users.remove(0));
    asked.ask("createUser", new("", 401)).await;
    asked.ask("createUser", new(&user.1, 403)).await;
    asked.fields("createUser", new(OPERATOR, 400)).await;
    follows(asked, &user, &other).await;
    (user, other)
}

async fn follows(asked: &mut Asked, user: &(String, String), other: &(String, String)) {
    let of = |id: &str, tail: &str| format!("/v1/users/{id}{tail}");
    let null = || Value::Null;
    asked.ask("listUsers", call("/v1/users?limit=1", OPERATOR, null(), 200)).await;
    asked.ask("listUsers", call("/v1/users?limit=0", OPERATOR, null(), 400)).await;
    asked.ask("listUsers", call("/v1/users", &user.1, null(), 403)).await;
    asked.ask("getUser", call(of(&user.0, ""), &user.1, null(), 200)).await;
    asked.ask("getUser", call(of(&user.0, ""), &other.1, null(), 403)).await;
    let path = of(&user.0, &format!("/following/{}", other.0));
    let own = of(&user.0, &format!("/following/{}", user.0));
    asked.ask("follow", call(path.clone(), &user.1, null(), 204)).await;
    asked.ask("follow", call(own, &user.1, null(), 400)).await;
    for (id, of_whom) in [("listFollowing", user), ("listFollowers", other)] {
        let tail = if id == "listFollowing" { "/following" } else { "/followers" };
        asked.ask(id, call(of(&of_whom.0, tail), &of_whom.1, null(), 200)).await;
        asked.ask(id, call(of(NONE, tail), OPERATOR, null(), 404)).await;
    }
    asked.ask("unfollow", call(path.clone(), &user.1, null(), 204)).await;
    asked.ask("unfollow", call(path, "", null(), 401)).await;
    let notifications = of(&user.0, "/notifications");
    asked.open("listenNotifications", &notifications, &user.1).await;
    asked.ask("listenNotifications", call(notifications, &other.1, null(), 403)).await;
    asked.open("listenEvents", "/v1/events", OPERATOR).await;
    asked.ask("listenEvents", call("/v1/events?types=x", OPERATOR, null(), 400)).await;
    let hooks = |bearer: &str, body: Value, status| call("/v1/webhooks", bearer, body, status);
    let new = json!({"url": "http://127.0.0.1:9/", "events": ["broadcast.live"]});
    let hook = asked.ask("createWebhook", hooks(OPERATOR, new.clone(), 201)).await.json();
    asked.ask("createWebhook", hooks(&user.1, new.clone(), 403)).await;
    asked.fields("createWebhook", hooks(OPERATOR, new, 400)).await;
    asked.ask("listWebhooks", hooks(OPERATOR, null(), 200)).await;
    asked.ask("listWebhooks", hooks("", null(), 401)).await;
    let hook = format!("/v1/webhooks/{}", text(&hook["id"]));
    asked.ask("deleteWebhook", call(hook.clone(), OPERATOR, null(), 204)).await;
    asked.ask("deleteWebhook", call(hook, OPERATOR, null(), 404)).await;
    let gone = asked.world.user("gone").await;
    for (id, tail, status) in [("renewUserToken", "/token", 200), ("deleteUser", "", 204)] {
        asked.ask(id, call(of(&gone.0, tail), OPERATOR, null(), status)).await;
        asked.ask(id, call(of(NONE, tail), OPERATOR, null(), 404)).await;
    }
}

async fn nodes(asked: &mut Asked) -> [Node; 3] {
    let operator = |path: &str, status| call(path, OPERATOR, Value::Null, status);
    let origin = asked.world.node("origin-1", Role::Origin, Some("52.37,4.9")).await;
    let edge = asked.world.node("edge-1", Role::Edge, Some("52.37,4.9")).await;
    let far = asked.world.node("edge-2", Role::Edge, None).await;
    asked.ask("listNodes", operator("/v1/nodes", 200)).await;
    asked.ask("listNodes", call("/v1/nodes", "", Value::Null, 401)).await;
    for id in ["drainNode", "undrainNode"] {
        asked.ask(id, operator("/v1/nodes/edge-2/drain", 202)).await;
        asked.ask(id, operator("/v1/nodes/none/drain", 404)).await;
        asked.ask(id, call("/v1/nodes/edge-2/drain", "", Value::Null, 401)).await;
    }
    let keys = asked.ask("listKeys", call("/v1/keys", "", Value::Null, 200)).await.json();
    asked.ask("rotateKeys", operator("/v1/keys/rotate", 201)).await;
    asked.ask("rotateKeys", operator("/v1/keys/rotate", 409)).await;
    asked.ask("rotateKeys", call("/v1/keys/rotate", "", Value::Null, 401)).await;
    let first = format!("/v1/keys/{}", text(&keys["keys"][0]["id"]));
    asked.ask("revokeKey", operator(&first, 200)).await;
    asked.ask("revokeKey", operator(&first, 404)).await;
    asked.ask("revokeKey", call(&first, "", Value::Null, 401)).await;
    asked.ask("listAudit", operator("/v1/audit?after=0&limit=2", 200)).await;
    asked.ask("listAudit", operator("/v1/audit?after=x", 400)).await;
    asked.ask("listAudit", call("/v1/audit", "", Value::Null, 401)).await;
    [origin, edge, far]
}

async fn broadcasts(
    asked: &mut Asked,
    origin: &Node,
    user: &(String, String),
    other: &(String, String),
) {
    let all = "/v1/broadcasts";
    let new = json!({
        "title": "x", "location": {"lat": 52, "lon": 5}, "chunk_seconds": 2, "fill": "pull",
    });
    let made = asked.ask("createBroadcast", call(all, &user.1, new.clone(), 201)).await.json();
    asked.ask("createBroadcast", call(all, "", new.clone(), 401)).await;
    asked.fields("createBroadcast", call(all, &user.1, new, 400)).await;
    let id = text(&made["id"]);
    let of = |id: &str, tail: &str| format!("{all}/{id}{tail}");
    let null = || Value::Null;

    origin.event(&id, Phase::Live, 1, Bytes::new());
    asked.world.wait_for(&id, "/state", &json!("live")).await;
    asked.ask("getBroadcast", call(of(&id, ""), "", null(), 200)).await;
    asked.ask("getBroadcast", call(of(NONE, ""), "", null(), 404)).await;
    asked.ask("getBroadcast", call(of(&id, ""), "nonsense", null(), 401)).await;

    let location = json!({"location": {"lat": 52, "lon": 5}});
    let joined = asked.ask("join", call(of(&id, "/viewers"), "", location.clone(), 200)).await;
    let viewer = text(&joined.json()["viewer"]);
    asked.fields("join", call(of(&id, "/viewers"), "", location, 400)).await;
    asked.ask("listViewers", call(of(&id, "/viewers"), OPERATOR, null(), 200)).await;
    asked.ask("listViewers", call(of(&id, "/viewers"), &other.1, null(), 403)).await;
    asked.ask("listBroadcasts", call(all, "", null(), 200)).await;
    asked.ask("listBroadcasts", call(format!("{all}?sample=x"), "", null(), 400)).await;
    let all_of = |query: &str, bearer: &str, status| {
        call(format!("{all}?all=true{query}"), bearer, Value::Null, status)
    };
    let private = json!({"title": "y", "private_to": [other.0]});
    asked.ask("createBroadcast", call(all, &user.1, private, 201)).await;
    let page = asked.ask("listBroadcasts", all_of("&limit=1", OPERATOR, 200)).await.json();
    assert_eq!((&page["total"], &page["broadcasts"][0]["title"]), (&json!(2), &json!("y")));
    let after = format!("&after={}", text(&page["next"]));
    let page = asked.ask("listBroadcasts", all_of(&after, OPERATOR, 200)).await.json();
    assert_eq!((&page["next"], &page["broadcasts"][0]["id"]), (&Value::Null, &json!(id)));
    for (query, count) in [
        ("&state=live".to_owned(), 1),
        ("&state=ended".to_owned(), 0),
        (format!("&user={}", user.0), 2),
        (format!("&user={}", other.0), 0),
    ] {
        let page = asked.ask("listBroadcasts", all_of(&query, OPERATOR, 200)).await.json();
        assert_eq!(page["broadcasts"].as_array().unwrap().len(), count, "{query}");
    }
    asked.ask("listBroadcasts", all_of("", "", 401)).await;
    asked.ask("listBroadcasts", all_of("", &user.1, 403)).await;
    asked.ask("listBroadcasts", all_of("&state=up", OPERATOR, 400)).await;
    let play = |id: &str, status| call(format!("/live/{id}/index.m3u8"), "", null(), status);
    asked.ask("playBroadcast", play(&id, 307)).await;
    asked.ask("playBroadcast", play(NONE, 404)).await;

    let path = of(&id, &format!("/viewers/{viewer}"));
    let token = text(&joined.json()["token"]);
    let told =
        json!({"tier": "hls", "samples": [{"last_mile": 0.01, "buffering": 2, "total": 5.5}]});
    let tell = format!("{path}/delay");
    asked.ask("reportDelay", call(tell.clone(), &token, told.clone(), 200)).await;
    asked.ask("reportDelay", call(tell.clone(), &token, told.clone(), 429)).await;
    asked.ask("reportDelay", call(tell.clone(), "", told.clone(), 401)).await;
    asked.ask("reportDelay", call(tell.clone(), OPERATOR, told.clone(), 403)).await;
    asked.fields("reportDelay", call(tell, &token, told, 400)).await;
    let delay = || call(of(&id, "/delay"), "", null(), 200);
    asked.ask("getDelay", delay()).await;
    asked.ask("getDelay", call(of(NONE, "/delay"), "", null(), 404)).await;
    asked.ask("leave", call(path.clone(), "", null(), 401)).await;
    asked.ask("leave", call(path.clone(), OPERATOR, null(), 204)).await;
    let kick = format!("{path}/kick");
    asked.ask("kick", call(kick.clone(), "", null(), 401)).await;
    asked.ask("kick", call(kick, &user.1, null(), 200)).await;

    asked.ask("getRecord", call(of(&id, "/record"), &user.1, null(), 200)).await;
    asked.ask("getRecord", call(of(&id, "/record"), &other.1, null(), 403)).await;
    asked.ask("endBroadcast", call(of(&id, "/end"), &other.1, null(), 403)).await;
    asked.ask("endBroadcast", call(of(&id, "/end"), &user.1, null(), 200)).await;
    asked.ask("join", call(of(&id, "/viewers"), "", json!({}), 410)).await;
}
