//! A real `nats-server` with JetStream, at an address and in a directory of its
//! own, to be killed, paused and robbed of its data.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::loopback;

/// Stops, and takes its data with it, on drop.
#[derive(Debug)]
pub struct Nats {
    at: SocketAddr,
    dir: PathBuf,
    server: Option<Child>,
}

impl Nats {
    /// A running server.
    ///
    /// # Panics
    /// When `nats-server` is not installed or does not start.
    pub fn start() -> Self {
        Self::start_in(|_| {})
    }

    fn start_in(prepare: impl FnOnce(&Path)) -> Self {
        let free = TcpListener::bind((loopback::own(), 0)).and_then(|taken| taken.local_addr());
        let at = free.expect("a free port");
        let name = format!("nats-{}-{}-{}", std::process::id(), at.ip(), at.port());
        let dir = std::env::temp_dir().join(name);
        prepare(&dir);
        let mut nats = Self { at, dir, server: None };
        nats.run();
        nats
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("nats://{}", self.at)
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Starts it again at its old port, with the data it had.
    pub fn restart(&mut self) {
        self.kill();
        self.run();
    }

    /// Starts it again at its old port, without its data.
    pub fn restart_empty(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
        self.run();
    }

    /// Ends it and puts a copy of its data aside, for [`Self::restart_with_copy`].
    ///
    /// # Panics
    /// When the data cannot be copied.
    pub fn kill_and_copy(&mut self) {
        self.kill();
        copy(&self.dir, &self.aside());
    }

    /// Starts it again with the copy: what was written since is lost, as after
    /// a crash of the machine.
    ///
    /// # Panics
    /// When there is no copy or the server does not start.
    pub fn restart_with_copy(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
        copy(&self.aside(), &self.dir);
        self.run();
    }

    /// Another server, at a port of its own, with the copy.
    ///
    /// # Panics
    /// When there is no copy or the server does not start.
    pub fn start_with_copy(&self) -> Self {
        Self::start_in(|dir| copy(&self.aside(), dir))
    }

    /// Starts it again at its old port with the data of `other`, which is killed.
    ///
    /// # Panics
    /// When they cannot be copied or the server does not start.
    pub fn restart_with_data_of(&mut self, other: &mut Self) {
        self.kill();
        other.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
        copy(&other.dir, &self.dir);
        self.run();
    }

    fn aside(&self) -> PathBuf {
        let mut name = self.dir.clone().into_os_string();
        name.push("-aside");
        name.into()
    }

    /// It stops answering, its connections stay.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// It goes on.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        if let Some(server) = &self.server {
            let sent = Command::new("kill").args([signal, &server.id().to_string()]).status();
            assert!(sent.is_ok_and(|status| status.success()), "kill {signal}");
        }
    }

    fn run(&mut self) {
        let (address, port) = (self.at.ip().to_string(), self.at.port().to_string());
        let server = Command::new("nats-server")
            .args(["-a", &address, "-p", &port, "-js", "-sd"])
            .arg(&self.dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server is installed (scripts/test does that)");
        let server = self.server.insert(server);
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(self.at).is_err() {
            assert!(Instant::now() < until, "nats-server does not listen");
            std::thread::sleep(Duration::from_millis(20));
            let ended = server.try_wait().expect("a child of ours");
            assert_eq!(ended, None, "nats-server ended at once");
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
        let _ = std::fs::remove_dir_all(self.aside());
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory for the copy");
    for entry in std::fs::read_dir(from).expect("the data of the server") {
        let entry = entry.expect("an entry");
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        match source.is_dir() {
            true => copy(&source, &target),
            false => drop(std::fs::copy(&source, &target).expect("a copy of a file")),
        }
    }
}
