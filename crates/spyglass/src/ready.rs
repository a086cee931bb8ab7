//! The ready file, and asking a service whether it answers.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use spyglass_daemon::state;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, ToSocketAddrs};

/// How often to ask again.
const AGAIN: Duration = Duration::from_millis(25);

/// Writes the ready file in one step, if one was asked for.
pub fn write(file: Option<&Path>, content: &Value) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_vec_pretty(content)?;
    state::replace(file, &text)
        .with_context(|| format!("cannot write the ready file {}", file.display()))
}

/// Removes what an earlier run wrote: whoever waits for the file must not read
/// old addresses.
pub fn clear(file: Option<&Path>) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot replace the ready file {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// Waits until `GET path` at `address` is answered with 200.
pub async fn answers(address: SocketAddr, path: &str, limit: Duration) -> anyhow::Result<()> {
    let asked = async {
        while status(address, path).await.unwrap_or(0) != 200 {
            tokio::time::sleep(AGAIN).await;
        }
    };
    if tokio::time::timeout(limit, asked).await.is_err() {
        bail!("http://{address}{path} does not answer 200 after {} s", limit.as_secs());
    }
    Ok(())
}

/// The status of `GET path` at `address`.
pub async fn status(address: impl ToSocketAddrs + Display, path: &str) -> std::io::Result<u16> {
    let mut socket = TcpStream::connect(&address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut line = [0; 12];
    socket.read_exact(&mut line).await?;
    let digits =
        line.strip_prefix(b"HTTP/1.1 ").and_then(|digits| std::str::from_utf8(digits).ok());
    Ok(digits.and_then(|digits| digits.parse().ok()).unwrap_or(0))
}
