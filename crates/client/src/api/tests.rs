use super::*;
use crate::testing::{Answer, Server, answer};

const ID: &str = "0123456789abc";

fn id() -> BroadcastId {
    ID.parse().unwrap()
}

async fn control(script: impl Fn(&str) -> Answer + Send + Sync + 'static) -> (Server, Api) {
    let server = Server::new(move |asked| script(&asked.line)).await;
    let api = Api::new(&server.url, Some("key".to_owned())).unwrap();
    (server, api)
}

#[tokio::test]
async fn a_broadcast_is_created_joined_and_ended() {
    let (server, api) = control(|line| match line {
        "POST /v1/broadcasts" => answer(
            201,
            format!(
                r#"{{"id":"{ID}","state":"created","origin":{{"id":"o"}},"watch_url":"http://w",
                "publish":{{"rtmp_url":"rtmp://h/live","stream_key":"k?token=t","new":1}}}}"#
            ),
        ),
        "POST /v1/broadcasts/0123456789abc/viewers" => answer(
            200,
            format!(
                r#"{{"viewer":"{ID}","tier":"push","seat":1,"can_comment":true,"token":"t",
                "urls":{{"rtmp":"rtmp://h/live/x","hls":"http://e/x"}},
                "edge":{{"id":"edge-1","distance_km":3.5}},"alternates":[{{"id":"b","hls":"http://b"}}]}}"#
            ),
        ),
        "GET /v1/broadcasts/0123456789abc" => {
            answer(200, format!(r#"{{"id":"{ID}","title":"t","state":"hibernating"}}"#))
        }
        "POST /v1/broadcasts/0123456789abc/end" => answer(200, ""),
        other => panic!("{other}"),
    })
    .await;
    let new = NewBroadcast { title: "hello".to_owned(), ..NewBroadcast::default() };
    let created = api.create_broadcast(&new).await.unwrap();
    assert_eq!(created.publish.stream_url(), "rtmp://h/live/k?token=t");
    let at = Location::new(1.5, 2.5).unwrap();
    let joined = api.join(created.id, Some(at)).await.unwrap();
    assert_eq!((joined.tier, joined.seat), (Tier::Push, Some(1)));
    assert_eq!(api.show(id()).await.unwrap().state, State::Unknown);
    api.end(id()).await.unwrap();
    let asked = server.asked();
    assert!(asked.iter().all(|asked| asked.bearer.as_deref() == Some("key")));
    assert_eq!(asked[0].body, r#"{"title":"hello"}"#);
    assert_eq!(asked[1].body, r#"{"location":{"lat":1.5,"lon":2.5}}"#);
}

#[tokio::test]
async fn a_problem_becomes_an_error_that_says_what_to_do() {
    let (_server, api) = control(|line| match line {
        "GET /v1/nodes" => answer(401, r#"{"title":"Unauthorized","status":401}"#),
        "POST /v1/broadcasts/0123456789abc/end" => {
            answer(404, r#"{"title":"Not Found","detail":"there is no such broadcast"}"#)
        }
        _ => answer(500, "<html>"),
    })
    .await;
    let text = |error: Error| error.to_string();
    assert_eq!(
        text(api.nodes().await.unwrap_err()),
        "Unauthorized: control does not know this key or token, check it"
    );
    let without = api.with_bearer(None).nodes().await.unwrap_err();
    assert!(text(without).contains("--operator-key"));
    let error = api.end(id()).await.unwrap_err();
    assert_eq!((error.status(), text(error)), (Some(404), "there is no such broadcast".to_owned()));
    assert_eq!(text(api.show(id()).await.unwrap_err()), "500 Internal Server Error");
}

#[tokio::test]
async fn what_is_not_control_is_told_apart() {
    let (_server, api) = control(|_| answer(200, "<html>")).await;
    let error = api.show(id()).await.unwrap_err();
    assert!(matches!(error, Error::BadAnswer { .. }), "{error}");
    let (_server, api) = control(|_| answer(200, r#"{"id":"too short"}"#)).await;
    assert!(matches!(api.show(id()).await, Err(Error::BadAnswer { .. })));
    // A port that was free a moment ago.
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let api = Api::new(&format!("http://127.0.0.1:{port}"), None).unwrap();
    let error = api.nodes().await.unwrap_err().to_string();
    assert!(error.contains("cannot be reached") && error.contains("refused"), "{error}");
    assert!(Api::new("127.0.0.1:8080", None).is_err());
}

#[tokio::test]
async fn a_redirect_never_carries_the_key_to_another_host() {
    let other = Server::new(|_| answer(200, "{}")).await;
    let target = format!("{}/v1/nodes", other.url);
    let (_server, api) =
        control(move |_| crate::testing::with_header(answer(307, ""), "location", &target)).await;
    api.nodes().await.unwrap();
    assert_eq!(other.asked()[0].bearer, None);
}

#[tokio::test]
async fn what_one_control_does_not_answer_is_asked_of_the_next() {
    let (well, _) = control(|_| answer(200, "{}")).await;
    let (away, _) = control(|_| answer(503, r#"{"detail":"the store is away"}"#)).await;
    let gone = "http://127.0.0.1:1";
    let api = Api::of_several(&[gone, &away.url, &well.url], None).unwrap();
    // One retry for each request, and whoever answers is asked from then on.
    assert!(matches!(api.nodes().await, Err(Error::Refused { status: 503, .. })));
    api.nodes().await.unwrap();
    api.nodes().await.unwrap();
    assert_eq!((away.asked().len(), well.asked().len()), (2, 2));
    let error = Api::of_several(&[gone, gone], None).unwrap().nodes().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(Api::of_several(&[], None).is_err());
    // A refusal is an answer.
    let (refusing, _) = control(|_| answer(404, "{}")).await;
    let api = Api::of_several(&[&refusing.url, &well.url], None).unwrap();
    assert!(matches!(api.nodes().await, Err(Error::Refused { status: 404, .. })));
}

#[tokio::test]
async fn what_may_have_been_done_is_not_asked_of_the_next() {
    let (well, _) = control(|_| answer(200, "{}")).await;
    let (late, _) = control(|_| answer(504, "{}")).await;
    let api = Api::of_several(&[&late.url, &well.url], None).unwrap();
    // The user may have been made: a second one is not.
    let made = api.call(Method::POST, "/v1/users", None).await;
    assert!(matches!(made, Err(Error::Refused { status: 504, .. })), "{made:?}");
    assert_eq!((late.asked().len(), well.asked().len()), (1, 0));
    // Whoever asks again asks the next.
    api.call(Method::POST, "/v1/users", None).await.unwrap();
    assert_eq!((late.asked().len(), well.asked().len()), (1, 1));
    // What was never sent was not done.
    let api = Api::of_several(&["http://127.0.0.1:1", &well.url], None).unwrap();
    api.call(Method::POST, "/v1/users", None).await.unwrap();
    // And what may be done twice is.
    let api = Api::of_several(&[&late.url, &well.url], None).unwrap();
    api.call(Method::DELETE, "/v1/users/0123456789abc", None).await.unwrap();
    assert_eq!((late.asked().len(), well.asked().len()), (2, 3));
}

#[test]
fn advice_that_control_gave_is_not_given_again() {
    let api = Api::new("http://127.0.0.1:1", Some("x".to_owned())).unwrap();
    let told = |status: u16, detail: &str| {
        let body = format!(r#"{{"detail":"{detail}"}}"#);
        api.refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes()).to_string()
    };
    let nobody = "the bearer token is nobody's: check it, or leave it out";
    assert_eq!(told(401, nobody), nobody);
    let away = "no edge takes viewers now: start one, or try again";
    assert_eq!(told(503, away), away);
    assert!(told(503, "away").ends_with("try again"));
    assert!(told(401, "no").ends_with("check it"));
}
