//! Whoever is not named gets the answer of an id that never existed, whatever it
//! asks for and whatever tokens it has.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use spyglass_rtmp::Intent;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::http::Answer;
use spyglass_tests::rtmp::Peer;
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

    let public = system.create(json!({"title": "public"})).await;
    let foreign = system.join(&public.id).await;
    let named =
        call(Method::POST, format!("/v1/broadcasts/{id}/viewers"), Some(&friend), json!({}));
    let named = named.await.expect(200).json();

    // Everything that somebody who is not named may hold.
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let publish = public.publish_url.rsplit("token=").next().unwrap().to_owned();
    let askers = [
        String::new(),
        text(&stranger["token"]),
        text(&foreign["token"]),
        publish,
        "v4.public.bm90IGEgdG9rZW4".to_owned(),
        "rubbish".to_owned(),
    ];
    let never = "0123456789abc";
    let viewer = text(&named["viewer"]);
    for asker in &askers {
        for (method, path) in operations(&system).await {
            let at = |id: &str| path.replace("{id}", id).replace("{viewer}", &viewer);
            let ask = async |id: &str| {
                let url = system.control_url(&at(id));
                visible(system.client.call(method.clone(), &url, asker, &json!({})).await)
            };
            assert_eq!(ask(&id).await, ask(never).await, "{method} {path} with {asker:?}");
        }
        let app = system.origin_rtmp();
        let play = async |id: &str| {
            Peer::try_connect(&format!("{app}/{id}?token={asker}"), Intent::Play).await.err()
        };
        let denied = Some("NetStream.Play.Denied".to_owned());
        assert_eq!((play(&id).await, play(never).await), (denied.clone(), denied));
        for name in ["index.m3u8", "chunklist.m3u8", "1-init.mp4", "1-0.m4s", "none"] {
            let edge = system.edge(0);
            let live = async |id: &str| {
                visible(system.client.get(&format!("{edge}/live/{id}/{name}")).await)
            };
            assert_eq!(live(&id).await, live(never).await, "/live/ {name}");
            if asker.is_empty() {
                continue;
            }
            let joined = async |id: &str| {
                visible(system.client.get(&format!("{edge}/v/{asker}/{id}/{name}")).await)
            };
            let secret = joined(&id).await;
            assert_eq!(secret, joined(never).await, "/v/ {name} with {asker}");
            let expected = if name == "none" { "40" } else { "403" };
            assert!(secret.starts_with(expected), "{secret}");
        }
    }
    let listed = system
        .anyone(Method::GET, "/v1/broadcasts?sample=50", Value::Null)
        .await
        .expect(200)
        .json();
    let listed = listed["broadcasts"].as_array().unwrap();
    assert!(listed.iter().all(|shown| shown["id"] != id), "{listed:?}");

    assert_eq!(ffmpeg::codecs(named["urls"]["hls"].as_str().unwrap()).await, ["aac", "h264"]);
}

/// Every operation of control that names a broadcast.
async fn operations(system: &System) -> Vec<(Method, String)> {
    let api = system.anyone(Method::GET, "/openapi.json", Value::Null).await.expect(200).json();
    let paths = api["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().keys();
        methods.filter_map(move |method| {
            Some((method.to_uppercase().parse::<Method>().ok()?, path.clone()))
        })
    });
    let mut found: Vec<_> =
        paths.filter(|(_, path)| path.starts_with("/v1/broadcasts/{id}")).collect();
    assert!(found.len() >= 6, "{found:?}");
    found.push((Method::GET, "/live/{id}/index.m3u8".to_owned()));
    found.push((Method::GET, "/watch/{id}".to_owned()));
    found
}

/// All that the asker can see, but the time of day.
fn visible(answer: Answer) -> String {
    let mut headers: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort();
    format!("{} {headers:?} {}", answer.status.as_u16(), answer.text())
}
