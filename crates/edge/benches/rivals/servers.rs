//! The edge, nginx and Varnish, each in processes of its own on the first core,
//! each set up as well as it can be for live HLS.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::machine;
use crate::support::KEY;
use crate::upstream::Upstream;

/// The core of the server that is measured; this process has the other.
const CORE: &str = "0";

/// A server that is measured.
pub struct Server {
    /// As in the tables.
    pub name: &'static str,
    pub address: SocketAddr,
    /// The process that answers.
    pub pid: u32,
}

/// All of them. They stop when this is dropped.
pub struct Servers {
    pub spyglass: Server,
    /// `proxy_cache_lock`.
    pub nginx: Server,
    /// … and `proxy_cache_use_stale updating` with background updates.
    pub nginx_stale: Server,
    /// Without grace.
    pub varnish: Server,
    /// Grace of 10 s.
    pub varnish_grace: Server,
    processes: Vec<Child>,
    _folder: TempDir,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.all_turn();
        for process in &mut self.processes {
            // SIGTERM, so that their children go too; then whatever is left.
            let pid = process.id().to_string();
            let _ = Command::new("kill").arg(pid).status();
            let _ = process.wait();
        }
    }
}

impl Servers {
    /// Starts them all; an error says what is missing.
    pub async fn start(upstream: &Upstream) -> Self {
        // In memory where there is such a place: caches must not wait for a disk.
        let shm = Path::new("/dev/shm");
        let folder = if shm.is_dir() { TempDir::new_in(shm) } else { TempDir::new() }.unwrap();
        let at = folder.path();
        let [lock, stale, strict, grace, edge] = std::array::from_fn(|_| free());
        let mut processes = vec![
            spyglass(at, edge, upstream),
            nginx(at, [lock, stale], upstream.http()),
            varnish(at, [strict, grace], upstream.http()),
        ];
        for address in [lock, stale, strict, grace, edge] {
            answers(address, &mut processes).await;
        }
        let [spyglass, nginx, varnish] = [&processes[0], &processes[1], &processes[2]];
        let worker = machine::child(nginx.id(), "worker process").expect("nginx's worker");
        let cache = machine::child(varnish.id(), "").expect("Varnish's child");
        let server = |name, address, pid| Server { name, address, pid };
        Self {
            spyglass: server("Spyglass", edge, spyglass.id()),
            nginx: server("nginx, lock", lock, worker),
            nginx_stale: server("nginx, use_stale updating", stale, worker),
            varnish: server("Varnish, grace 0", strict, cache),
            varnish_grace: server("Varnish, grace 10 s", grace, cache),
            processes,
            _folder: folder,
        }
    }

    /// One of each kind, for what they do alike.
    pub fn each(&self) -> [&Server; 3] {
        [&self.spyglass, &self.nginx, &self.varnish]
    }

    /// This one has its turn: the rivals rest meanwhile, so that what they do
    /// by themselves, on the same core, is nobody else's delay.
    pub async fn turn(&self, server: &Server) {
        for other in [&self.nginx, &self.varnish] {
            let signal = if other.pid == server.pid { Signal::SIGCONT } else { Signal::SIGSTOP };
            kill(Pid::from_raw(other.pid as i32), signal).expect("a signal");
        }
        // Some have hundreds of threads, each of which runs once more to stop.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    /// All run again.
    pub fn all_turn(&self) {
        for other in [&self.nginx, &self.varnish] {
            kill(Pid::from_raw(other.pid as i32), Signal::SIGCONT).expect("a signal");
        }
    }

    /// Every way of expiring.
    pub fn all(&self) -> [&Server; 5] {
        let Self { spyglass, nginx, nginx_stale, varnish, varnish_grace, .. } = self;
        [spyglass, nginx, nginx_stale, varnish, varnish_grace]
    }
}

/// What the servers call themselves.
pub fn versions() -> String {
    let first = |mut command: Command| {
        let output = command.output().expect("nginx and Varnish: run scripts/bench-edge");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().next().unwrap_or_default().to_owned()
    };
    let mut nginx = Command::new("nginx");
    nginx.arg("-v");
    let mut varnish = Command::new("varnishd");
    varnish.arg("-V");
    let varnish = first(varnish);
    let varnish = varnish.split(['(', ')']).nth(1).unwrap_or_default().to_owned();
    format!("{}; {varnish}", first(nginx))
}

/// A command on the servers' core.
fn pinned(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", CORE]).arg(program).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn answers(address: SocketAddr, processes: &mut [Child]) {
    for _ in 0..200 {
        if TcpStream::connect(address).await.is_ok() {
            return;
        }
        for process in processes.iter_mut() {
            if let Some(status) = process.try_wait().unwrap() {
                panic!("a server has ended ({status}); what it said stands above");
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody answers at {address} after 10 s");
}

/// The binary that is built for release; `SPYGLASS` names another.
pub fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("SPYGLASS") {
        return named.into();
    }
    let here = std::env::current_exe().unwrap();
    let found = here.ancestors().map(|folder| folder.join("spyglass")).find(|it| it.is_file());
    found.expect("no spyglass binary: run `cargo build --release --bin spyglass` first")
}

fn spyglass(folder: &Path, address: SocketAddr, upstream: &Upstream) -> Child {
    let mut command = pinned(binary());
    command.args(["edge", "--id", "edge-b", "--http", &address.to_string()]);
    command.args(["--control", &upstream.control.url(), "--cluster-key", KEY, "--grpc"]);
    command.arg(free().to_string()).arg("--state").arg(folder.join("edge"));
    command.env("RUST_LOG", "warn").spawn().expect("spyglass starts")
}

fn nginx(folder: &Path, [lock, stale]: [SocketAddr; 2], upstream: SocketAddr) -> Child {
    let at = folder.join("nginx");
    fs::create_dir(&at).unwrap();
    let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
    let server = |address, zone, more| {
        format!(
            "server {{ listen {address} backlog=8192; location / {{ proxy_pass http://up; \
             proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_cache {zone}; \
             proxy_cache_key $uri; proxy_cache_lock on; proxy_cache_lock_timeout 30s; \
             proxy_cache_lock_age 30s; {more} }} }}"
        )
    };
    let text = format!(
        "{user} daemon off; worker_processes 1; error_log stderr error; \
         pid {folder}/pid; events {{ worker_connections 16384; }} \
         http {{ access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_timeout 600; \
         keepalive_requests 100000000; open_file_cache max=10000 inactive=60s; \
         proxy_temp_path {folder}/temp; client_body_temp_path {folder}/body; \
         proxy_cache_path {folder}/a keys_zone=a:16m use_temp_path=off max_size=1g; \
         proxy_cache_path {folder}/b keys_zone=b:16m use_temp_path=off max_size=1g; \
         upstream up {{ server {upstream}; keepalive 64; }} {} {} }}",
        server(lock, "a", ""),
        server(
            stale,
            "b",
            "proxy_cache_use_stale updating error timeout; proxy_cache_background_update on;"
        ),
        folder = at.display(),
    );
    let file = at.join("nginx.conf");
    fs::write(&file, text).unwrap();
    let mut command = pinned("nginx");
    command.arg("-c").arg(file).arg("-p").arg(at).spawn().expect("nginx starts")
}

fn varnish(folder: &Path, [strict, grace]: [SocketAddr; 2], upstream: SocketAddr) -> Child {
    let at = folder.join("varnish");
    fs::create_dir(&at).unwrap();
    let text = format!(
        "vcl 4.1; backend up {{ .host = \"{}\"; .port = \"{}\"; }} \
         sub vcl_hash {{ hash_data(local.socket); }} \
         sub vcl_backend_response {{ set beresp.keep = 0s; \
         if (local.socket == \"grace\") {{ set beresp.grace = 10s; }} \
         else {{ set beresp.grace = 0s; }} }}",
        upstream.ip(),
        upstream.port(),
    );
    let file = at.join("varnish.vcl");
    fs::write(&file, text).unwrap();
    let mut command = pinned("varnishd");
    command.arg("-F").arg("-n").arg(at.join("work")).arg("-f").arg(file);
    command.args(["-a", &format!("strict={strict},HTTP"), "-a", &format!("grace={grace},HTTP")]);
    command.args(["-T", "none", "-s", "malloc,1g", "-p", "listen_depth=8192"]);
    command.args(["-p", "thread_pool_min=500", "-p", "timeout_idle=600"]);
    command.stderr(Stdio::null()).spawn().expect("varnishd starts")
}
