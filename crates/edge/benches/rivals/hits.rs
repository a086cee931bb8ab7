//! How much a hit costs: a list and a chunk that are in the cache, on
//! connections that are kept.

use std::time::{Duration, Instant};

use spyglass_media::{BroadcastId, Resource};
use tokio::process::Command;

use crate::client::Herd;
use crate::machine;
use crate::report::{Series, Table};
use crate::servers::{Server, Servers};
use crate::upstream::{CHUNK, Upstream, path};

/// Connections that ask for the list.
const LISTS: usize = 64;

/// Connections that ask for the chunk.
const CHUNKS: usize = 16;

#[derive(Default)]
struct Found {
    lists: Series,
    lists_per_cpu: Series,
    chunks: Series,
    chunks_per_cpu: Series,
}

/// Rounds in which each server has its turn, another one first each time.
pub async fn run(servers: &Servers, upstream: &Upstream, rounds: usize, turn: Duration) -> String {
    let id = BroadcastId::from_random([1; 16]);
    upstream.begin(id);
    upstream.close(id, 10);
    let (list, chunk) =
        (path(id, Resource::Chunklist), path(id, Resource::Chunk { epoch: 1, sequence: 10 }));
    let each = servers.each();
    let mut found: [Found; 3] = Default::default();
    for server in each {
        drop(Herd::open(server.address, 1, &list));
        drop(Herd::open(server.address, 1, &chunk));
    }
    for round in 0..rounds {
        for place in 0..each.len() {
            let which = (round + place) % each.len();
            let (server, found) = (each[which], &mut found[which]);
            let (count, seconds, cpu) = wrk(server, &list, turn).await;
            found.lists.push(count / seconds / 1e3);
            found.lists_per_cpu.push(count / cpu / 1e3);
            let (bytes, seconds, cpu) = pull(server, &chunk, CHUNKS, turn);
            found.chunks.push(bytes / seconds / 1e9);
            found.chunks_per_cpu.push(bytes / cpu / 1e9);
        }
    }
    let how = format!(
        "Keep-alive HTTP/1.1; {rounds} rounds of {:.1} s for each server, in turns. List: wrk with \
         {LISTS} connections, thousands a second. Chunk (430 KiB): {CHUNKS} connections that throw \
         the bytes away in the kernel, so that the client costs little; GB. Ratios are of two turns \
         of the same round; median (least to greatest).",
        turn.as_secs_f64()
    );
    let columns = [
        "server",
        "lists/s",
        "lists per CPU-second",
        "to nginx",
        "chunk GB/s",
        "GB per CPU-second",
        "to nginx",
    ];
    let mut table = Table::new("Hits", &how, &columns);
    for (server, its) in each.iter().zip(&found) {
        table.row(&[
            server.name.to_owned(),
            its.lists.show(1),
            its.lists_per_cpu.show(1),
            its.lists_per_cpu.ratio(&found[1].lists_per_cpu).show(2),
            its.chunks.show(2),
            its.chunks_per_cpu.show(2),
            its.chunks_per_cpu.ratio(&found[1].chunks_per_cpu).show(2),
        ]);
    }
    table.text()
}

/// Requests answered, seconds, and the server's CPU seconds.
async fn wrk(server: &Server, path: &str, turn: Duration) -> (f64, f64, f64) {
    let url = format!("http://{}{path}", server.address);
    let (began, before) = (Instant::now(), machine::cpu(server.pid));
    let seconds = turn.as_secs().max(1);
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{LISTS}"), &format!("-d{seconds}s"), &url]);
    let output = command.output().await.expect("wrk: run scripts/bench-edge");
    let cpu = (machine::cpu(server.pid) - before).as_secs_f64();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!text.contains("Non-2xx"), "{} refuses: {text}", server.name);
    let line = text.lines().find(|line| line.contains(" requests in "));
    let count = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    (count.expect("wrk counts"), began.elapsed().as_secs_f64(), cpu)
}

/// Bytes of bodies, seconds, and the server's CPU seconds.
fn pull(server: &Server, path: &str, connections: usize, turn: Duration) -> (f64, f64, f64) {
    let mut herd = Herd::connect(server.address, connections);
    let (began, before) = (Instant::now(), machine::cpu(server.pid));
    let count = herd.pull(path, CHUNK, began + turn);
    let cpu = (machine::cpu(server.pid) - before).as_secs_f64();
    (count as f64 * CHUNK as f64, began.elapsed().as_secs_f64(), cpu)
}
