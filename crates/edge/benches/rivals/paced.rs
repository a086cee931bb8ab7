//! Viewers as the paper saw them: what one costs in a second, and how late
//! they know of a chunk.

use std::time::Duration;

use serde_json::Value;
use spyglass_media::{BroadcastId, Resource};
use tokio::process::Command;

use crate::report::Table;
use crate::servers::{Server, Servers, binary};
use crate::upstream::{TARGET, Upstream, path};

/// So many viewers at each server in turn, for so many seconds each.
pub async fn run(servers: &Servers, upstream: &Upstream, sizes: &[u32], seconds: u32) -> String {
    let id = BroadcastId::from_random([80; 16]);
    upstream.begin(id);
    upstream.close(id, 10);
    let live = async {
        let mut ticks = tokio::time::interval(TARGET);
        for sequence in 11.. {
            ticks.tick().await;
            upstream.close(id, sequence);
        }
    };
    tokio::select! {
        text = measure(servers, id, sizes, seconds) => text,
        () = live => String::new(),
    }
}

async fn measure(servers: &Servers, id: BroadcastId, sizes: &[u32], seconds: u32) -> String {
    let how = format!(
        "`spyglass lab load hls --pace paper`: each viewer asks for the list every 2.0 to 2.8 s and \
         fetches what is new in it, one chunk of 430 KiB each 3 s; {seconds} s once all have come, \
         one server after the other. CPU is the server's, user and system. Polling delay: from a \
         chunk's being listed there (asked every 20 ms) to a viewer's knowing of it; the paper's \
         mean is 1.2 s."
    );
    let columns = [
        "viewers",
        "server",
        "CPU-ms per viewer-second",
        "to nginx",
        "list p99, ms",
        "chunk p99, ms",
        "polling delay p50 / p95 / p99, ms",
        "errors, stalls",
    ];
    let mut table = Table::new("Viewers who poll", &how, &columns);
    for &viewers in sizes {
        // nginx first: the others are told as a share of it.
        let [spyglass, nginx, varnish] = servers.each();
        let mut base = None;
        for server in [nginx, spyglass, varnish] {
            let found = load(server, id, viewers, seconds).await;
            let number =
                |path: &str| found.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
            let cost = number("/cpu_ms_per_viewer_second");
            let base = *base.get_or_insert(cost);
            let errors = found["errors"]
                .as_object()
                .map_or(0, |errors| errors.values().filter_map(Value::as_u64).sum::<u64>());
            table.row(&[
                viewers.to_string(),
                server.name.to_owned(),
                format!("{cost:.4}"),
                format!("{:.2}", cost / base),
                format!("{:.1}", number("/list/p99")),
                format!("{:.1}", number("/chunk/p99")),
                format!(
                    "{:.0} / {:.0} / {:.0}",
                    number("/polling/p50"),
                    number("/polling/p95"),
                    number("/polling/p99")
                ),
                format!("{errors}, {}", number("/stalls")),
            ]);
        }
    }
    table.text()
}

async fn load(server: &Server, id: BroadcastId, viewers: u32, seconds: u32) -> Value {
    let url = format!("http://{}{}", server.address, path(id, Resource::Chunklist));
    let mut command = Command::new(binary());
    command.args(["lab", "load", "hls", &url, "--pace", "paper", "--json", "--ramp", "3"]);
    command.args(["--viewers", &viewers.to_string(), "--for", &seconds.to_string()]);
    command.args(["--pid", &server.pid.to_string()]);
    let limit = Duration::from_secs(60 + u64::from(seconds));
    let output = tokio::time::timeout(limit, command.output()).await;
    let output = output.expect("the load ends").expect("spyglass lab load hls");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("no report ({error}): {}", String::from_utf8_lossy(&output.stderr))
    })
}
