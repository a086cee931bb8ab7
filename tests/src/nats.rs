//! A real `nats-server` with JetStream.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::eventually;

/// One server on a free port, with its files. Killed when dropped.
#[derive(Debug)]
pub struct Nats {
    child: Child,
    port: u16,
    dir: TempDir,
}

impl Nats {
    /// Starts one with nothing in it.
    ///
    /// # Panics
    /// When there is no `nats-server` on this machine, or it does not start.
    pub async fn start() -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let dir = tempfile::tempdir().unwrap();
        let child = spawn(port, dir.path().join("files"));
        let nats = Self { child, port, dir };
        nats.wait().await;
        nats
    }

    /// What `--store` is given.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again at its old address; with `empty`, without its files.
    pub async fn restart(&mut self, empty: bool) {
        self.kill();
        let files = self.dir.path().join("files");
        if empty {
            std::fs::remove_dir_all(&files).unwrap();
        }
        self.child = spawn(self.port, files);
        self.wait().await;
    }

    async fn wait(&self) {
        let address = (Ipv4Addr::LOCALHOST, self.port);
        eventually("nats-server answers", Duration::from_secs(10), || async {
            TcpStream::connect(address).await.ok().map(drop)
        })
        .await;
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(port: u16, files: PathBuf) -> Child {
    Command::new("nats-server")
        .args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir"])
        .arg(files)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("no nats-server: install Debian's package of that name")
}
