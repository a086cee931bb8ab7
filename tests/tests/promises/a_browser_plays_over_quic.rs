//! The answers are the same over HTTP/1.1, HTTP/2 and HTTP/3, and a browser comes
//! to the last by itself: told of it by `Alt-Svc`, or sent there at once. hls.js
//! plays, as it comes.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use spyglass_tests::browser::Page;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::system::System;

const PLAYING: &str = "seen.loads.length > 20 && document.querySelector('video').currentTime > 2";

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_plays_over_quic() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    let (chain, secret) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    std::fs::write(&chain, certificate.pem()).unwrap();
    std::fs::write(&secret, key.serialize_pem()).unwrap();
    let config = format!(
        "https = \"127.0.0.1:0\"\ntls_cert = \"{}\"\ntls_key = \"{}\"\n",
        chain.display(),
        secret.display()
    );
    let system = System::apart_with(1, &[], Some(&config)).await;
    let broadcast = system.create(json!({"title": "over QUIC"})).await;
    let _encoder = Ffmpeg::publish(ffmpeg::clip(Clip::Both), &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let https = system.ready["edges"][0]["https"].as_str().unwrap();
    let host = https.strip_prefix("https://").unwrap();
    let url = format!("{https}/live/{}/index.m3u8", broadcast.id);

    // The browser knows our key. Over QUIC it wants a certificate of a public
    // authority besides, save of hosts that it was sent to.
    let digest = STANDARD.encode(Sha256::digest(key.subject_public_key_info()));
    let believe = format!("--ignore-certificate-errors-spki-list={digest}");
    let sent = format!("--origin-to-force-quic-on={host}");
    let allowed = "--origin-to-force-quic-on=127.0.0.1:9";
    for (flags, first, last) in [
        (vec!["--disable-quic"], "h2", "h2"),
        (vec![sent.as_str()], "h3", "h3"),
        (vec![allowed], "h2", "h3"),
    ] {
        let flags: Vec<&str> = flags.into_iter().chain([believe.as_str()]).collect();
        let mut page = Page::play(&url, &flags).await;
        page.wait_for(PLAYING, Duration::from_secs(40)).await;
        let seen = page.eval("seen").await;
        assert_eq!(seen["fatal"], Value::Null, "{seen}");
        let used = page.protocols().await;
        assert_eq!(used[0], first, "{used:?}");
        assert_eq!(used[used.len() - 1], last, "{used:?}");
    }
}
