//! Whoever is not named gets the answer of an id that never existed.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::system::System;

#[tokio::test(flavor = "multi_thread")]
async fn a_private_broadcast_is_a_secret() {
    let system = System::up(&["--edges", "1"]).await;
    let user = |name: &str| {
        let body = json!({"name": name});
        let request = system.operator(Method::POST, "/v1/users", body);
        async { request.await.expect(201).json() }
    };
    let (owner, friend, stranger) =
        (user("owner").await, user("friend").await, user("stranger").await);
    let call = |method: Method, path: String, user: Option<&Value>, body: Value| {
        let bearer = user.map_or(String::new(), |user| user["token"].as_str().unwrap().to_owned());
        let url = system.control_url(&path);
        let client = system.client.clone();
        async move { client.call(method, &url, &bearer, &body).await }
    };
    let body = json!({"title": "secret", "private_to": [friend["id"]]});
    let made =
        call(Method::POST, "/v1/broadcasts".into(), Some(&owner), body).await.expect(201).json();
    let id = made["id"].as_str().unwrap().to_owned();
    let url = format!(
        "{}/{}",
        made["publish"]["rtmp_url"].as_str().unwrap(),
        made["publish"]["stream_key"].as_str().unwrap()
    );
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &url);
    system.wait_for_state(&id, "live", Duration::from_secs(10)).await;

    let never = "0123456789abc";
    for asker in [None, Some(&stranger)] {
        for (method, tail, body) in
            [(Method::GET, "", Value::Null), (Method::POST, "/viewers", json!({}))]
        {
            let at = |id: &str| format!("/v1/broadcasts/{id}{tail}");
            let secret = call(method.clone(), at(&id), asker, body.clone()).await.expect(404);
            let unknown = call(method, at(never), asker, body).await.expect(404);
            assert_eq!(secret.body, unknown.body);
        }
    }
    let edge = system.edge(0);
    let secret = system.client.get(&format!("{edge}/live/{id}/index.m3u8")).await.expect(404);
    let unknown = system.client.get(&format!("{edge}/live/{never}/index.m3u8")).await.expect(404);
    assert_eq!(secret.body, unknown.body);
    let listed = system
        .anyone(Method::GET, "/v1/broadcasts?sample=50", Value::Null)
        .await
        .expect(200)
        .json();
    assert_eq!(listed["broadcasts"].as_array().unwrap().len(), 0);

    let joined =
        call(Method::POST, format!("/v1/broadcasts/{id}/viewers"), Some(&friend), json!({}));
    let joined = joined.await.expect(200).json();
    assert_eq!(ffmpeg::codecs(joined["urls"]["hls"].as_str().unwrap()).await, ["aac", "h264"]);
}
