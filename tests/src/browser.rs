//! A real browser: Debian's Chromium without a window, driven over the DevTools
//! protocol. It plays HLS by itself.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::eventually;
use crate::http::Client;

/// Plays `$URL` with hls.js, as it comes, and writes down what is loaded from
/// where.
const PLAYER: &str = r#"
  const video = document.createElement('video');
  video.muted = true;
  document.body.append(video);
  const seen = window.seen = {loads: [], steering: [], longest: 0, errors: [], fatal: null};
  let still = 0;
  video.addEventListener('waiting', () => still = performance.now());
  video.addEventListener('timeupdate', () => {
    if (still) seen.longest = Math.max(seen.longest, performance.now() - still);
    still = 0;
  });
  const hls = window.hls = new Hls();
  hls.on(Hls.Events.FRAG_LOADED, (_, {frag, part}) => {
    if (frag.sn !== 'initSegment') {
      seen.loads.push({
        at: Math.round(performance.now()),
        sn: frag.sn,
        part: part ? part.index : null,
        host: new URL((part || frag).url).host,
      });
    }
  });
  hls.on(Hls.Events.STEERING_MANIFEST_LOADED, (_, data) => seen.steering.push({
    host: new URL(data.url).host,
    order: data.steeringManifest['PATHWAY-PRIORITY'],
  }));
  hls.on(Hls.Events.ERROR, (_, data) => {
    seen.errors.push(data.details + ': ' + data.error?.message);
    if (data.fatal) seen.fatal = data.details;
  });
  hls.loadSource('$URL');
  hls.attachMedia(video);
  video.play();
"#;

/// A page in a browser of its own. Closed when dropped.
pub struct Page {
    child: Child,
    _profile: tempfile::TempDir,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    calls: u64,
    protocols: Vec<String>,
}

impl Page {
    /// Starts a browser and opens `url`.
    pub async fn open(url: &str) -> Self {
        Self::open_with(url, &["--disable-quic"]).await
    }

    /// Starts a browser that plays the broadcast whose `index.m3u8` is at `url`.
    /// What it saw is `window.seen`.
    pub async fn play(url: &str, flags: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../web/vendor/hls.min.js");
        let script = std::fs::read_to_string(script).unwrap();
        let mut page = Self::open_with("about:blank", flags).await;
        page.call("Network.enable", json!({})).await;
        page.eval(&format!("{script}; 0")).await;
        page.eval(&format!("{{{}}}; 0", PLAYER.replace("$URL", url))).await;
        page
    }

    /// As [`Page::open`], with flags of the browser.
    async fn open_with(url: &str, flags: &[&str]) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let child = Command::new("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--autoplay-policy=no-user-gesture-required",
                "--remote-debugging-port=0",
                "--remote-allow-origins=*",
            ])
            .args(flags)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromium is installed by scripts/test");
        let client = Client::default();
        let target = eventually("the browser answers", Duration::from_secs(30), || async {
            let port = std::fs::read_to_string(profile.path().join("DevToolsActivePort")).ok()?;
            let port = port.lines().next()?.to_owned();
            let pages =
                client.try_get(&format!("http://127.0.0.1:{port}/json/list")).await.ok()?.json();
            let page = pages.as_array()?.iter().find(|page| page["type"] == "page")?.clone();
            page["webSocketDebuggerUrl"].as_str().map(str::to_owned)
        })
        .await;
        let (socket, _) = tokio_tungstenite::connect_async(target).await.unwrap();
        Self { child, _profile: profile, socket, calls: 0, protocols: Vec::new() }
    }

    /// The value of a JavaScript expression.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let what = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        self.call("Runtime.evaluate", what).await["result"]["value"].clone()
    }

    /// The protocols of all answers since the last call, by their ALPN names, in
    /// the order in which the answers came. Of a page made by [`Page::play`].
    pub async fn protocols(&mut self) -> Vec<String> {
        self.eval("0").await;
        std::mem::take(&mut self.protocols)
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let call = json!({"id": id, "method": method, "params": params});
        self.socket.send(Message::text(call.to_string())).await.unwrap();
        loop {
            let message = self.socket.next().await.unwrap().unwrap();
            let Message::Text(text) = message else { continue };
            let answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == id {
                return answer["result"].clone();
            }
            if answer["method"] == "Network.responseReceived" {
                let protocol = answer["params"]["response"]["protocol"].as_str();
                self.protocols.push(protocol.unwrap_or_default().to_owned());
            }
        }
    }

    /// Waits until an expression is true.
    pub async fn wait_for(&mut self, expression: &str, limit: Duration) {
        let deadline = tokio::time::Instant::now() + limit;
        while self.eval(expression).await != Value::Bool(true) {
            let text = self.eval("document.body.innerText").await;
            assert!(
                tokio::time::Instant::now() < deadline,
                "not within {limit:?}: {expression}; the page says: {text}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
