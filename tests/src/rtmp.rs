//! RTMP peers whose every frame is timed: a publisher of an FLV file and a
//! viewer, driving `spyglass_rtmp::Client` over a socket.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use spyglass_media::Track;
use spyglass_rtmp::{Client, ClientConfig, ClientEvent, Intent, Limits, Message};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection that publishes or plays.
pub struct Peer {
    socket: TcpStream,
    client: Client,
    buffer: Vec<u8>,
}

impl Peer {
    /// Connects to `rtmp://host:port/app/name` and waits until media may flow.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn connect(url: &str, intent: Intent) -> Self {
        Self::try_connect(url, intent).await.unwrap()
    }

    /// As [`Peer::connect`], with the server's code when it refuses.
    ///
    /// # Errors
    /// The code, or what else happened.
    pub async fn try_connect(url: &str, intent: Intent) -> Result<Self, String> {
        let (base, name) = url.rsplit_once('/').unwrap();
        let app = base.rsplit('/').next().unwrap();
        let config = ClientConfig {
            app: app.to_owned(),
            tc_url: base.to_owned(),
            name: name.to_owned(),
            intent,
            buffer_ms: 0,
            limits: Limits::default(),
        };
        let socket = TcpStream::connect(crate::system::authority(url)).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let client = Client::new(config, Instant::now()).unwrap();
        let mut peer = Self { socket, client, buffer: vec![0; 64 * 1024] };
        loop {
            match peer.next().await {
                Some(ClientEvent::Ready) => return Ok(peer),
                Some(ClientEvent::Refused { code, .. }) => return Err(code),
                Some(_) => {}
                None => return Err("the server closed the connection".to_owned()),
            }
        }
    }

    /// The next event; `None` when the server has closed.
    pub async fn next(&mut self) -> Option<ClientEvent> {
        loop {
            self.flush().await.ok()?;
            if let Some(event) = self.client.next_event() {
                return Some(event);
            }
            let count = self.socket.read(&mut self.buffer).await.ok()?;
            if count == 0 {
                return None;
            }
            self.client.on_bytes(Instant::now(), &self.buffer[..count]).unwrap();
        }
    }

    /// The next media message.
    pub async fn media(&mut self) -> Option<Message> {
        loop {
            if let ClientEvent::Media(message) = self.next().await? {
                return Some(message);
            }
        }
    }

    /// Sends one message.
    pub async fn send(&mut self, track: Track, timestamp: u32, body: &Bytes) {
        self.client.send_media(track, timestamp, body);
        self.flush().await.unwrap();
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        let output = self.client.take_output();
        if output.is_empty() { Ok(()) } else { self.socket.write_all(&output).await }
    }
}

/// Audio and video tags of an FLV file: track, time stamp in ms, body.
pub fn tags(file: &Path) -> Vec<(Track, u32, Bytes)> {
    let bytes = Bytes::from(std::fs::read(file).unwrap());
    let mut at = 13;
    let mut tags = Vec::new();
    while let Some(header) = bytes.get(at..at + 11) {
        let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        let time = u32::from_be_bytes([header[7], header[4], header[5], header[6]]);
        let body = bytes.slice(at + 11..at + 11 + length);
        match header[0] {
            8 => tags.push((Track::Audio, time, body)),
            9 => tags.push((Track::Video, time, body)),
            _ => {}
        }
        at += 11 + length + 4;
    }
    tags
}
