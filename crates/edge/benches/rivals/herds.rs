//! Many who ask at the same moment for what must be fetched, from an upstream
//! that is 50 ms away.

use std::time::Duration;

use spyglass_media::{BroadcastId, Resource};

use crate::client::{Burst, Expected, Herd};
use crate::report::{Series, Table, quantile};
use crate::servers::{Server, Servers};
use crate::upstream::{CHUNK, Upstream, path};

/// How far the upstream is.
const AWAY: Duration = Duration::from_millis(50);

/// After so long a list of `max-age=1` has expired also where time goes in
/// whole seconds.
const EXPIRES: Duration = Duration::from_millis(2_100);

/// Who asks for a cold chunk: more cannot get 430 KiB each in the time.
const FOR_A_CHUNK: usize = 200;

#[derive(Default)]
struct Found {
    fetches: Series,
    old: usize,
    failed: usize,
    p50: Series,
    p99: Series,
}

impl Found {
    fn add(&mut self, burst: &Burst, fetches: usize) {
        self.fetches.push(fetches as f64);
        self.old += burst.old;
        self.failed += burst.failed;
        self.p50.push(quantile(&burst.delays, 0.5));
        self.p99.push(quantile(&burst.delays, 0.99));
    }

    fn row(&self, server: &Server) -> [String; 6] {
        [
            server.name.to_owned(),
            self.fetches.show(0),
            self.old.to_string(),
            self.failed.to_string(),
            self.p50.show(1),
            self.p99.show(1),
        ]
    }
}

/// Cold, expired and a cold chunk with `viewers`; expired with `many`.
pub async fn run(
    servers: &Servers,
    upstream: &Upstream,
    rounds: usize,
    viewers: usize,
    many: usize,
) -> String {
    let (mut cold, mut expired, mut chunk, mut crowd) = (founds(), founds(), founds(), founds());
    let warm = broadcast(0);
    upstream.begin(warm);
    upstream.close(warm, 10);
    let known = path(warm, Resource::Chunklist);
    // The edge knows of them by the time that anybody asks.
    (0..rounds).for_each(|round| upstream.begin(broadcast(1 + round as u8)));
    let mut herds = Vec::new();
    for server in servers.all() {
        herds.push(Herd::open(server.address, viewers, &known));
    }
    for round in 0..rounds {
        let id = broadcast(1 + round as u8);
        let list = path(id, Resource::Chunklist);
        let text = Expected::Body(upstream.close(id, 10));
        for (which, server) in turns(servers, round) {
            ask(servers, upstream, server, &mut herds[which], &list, &text, &mut cold[which]).await;
        }
        upstream.of_interest(id).await;
        let text = Expected::Body(upstream.close(id, 11));
        tokio::time::sleep(EXPIRES).await;
        for (which, server) in turns(servers, round) {
            ask(servers, upstream, server, &mut herds[which], &list, &text, &mut expired[which])
                .await;
        }
    }
    drop(herds);
    for round in 0..rounds {
        let id = broadcast(1 + round as u8);
        for (which, server) in turns(servers, round) {
            servers.turn(server).await;
            let mut herd = Herd::open(server.address, FOR_A_CHUNK, &known);
            let path = path(id, Resource::Chunk { epoch: 1, sequence: 11 });
            let length = Expected::Length(CHUNK);
            ask(servers, upstream, server, &mut herd, &path, &length, &mut chunk[which]).await;
        }
    }
    for round in 0..rounds.div_ceil(2) {
        for (which, server) in turns(servers, round) {
            let id = broadcast(1 + round as u8);
            let list = path(id, Resource::Chunklist);
            servers.turn(server).await;
            let mut herd = Herd::open(server.address, many, &list);
            let text = Expected::Body(upstream.close(id, 20 + (5 * round + which) as u64));
            tokio::time::sleep(EXPIRES).await;
            ask(servers, upstream, server, &mut herd, &list, &text, &mut crowd[which]).await;
        }
    }
    servers.all_turn();
    let how = format!(
        "The upstream answers after {} ms; all requests are due at one moment, on connections that \
         are open, and each one's delay counts from there to its last byte. Cold: never asked for. \
         Expired: a new version came out at least {:.1} s before, and `max-age=1` is over. Old: an answer \
         with the former version. {rounds} rounds, servers in turns; ms, median of the rounds' \
         quantiles (least to greatest). nginx's two ways are one process, and so are Varnish's.",
        AWAY.as_millis(),
        EXPIRES.as_secs_f64()
    );
    let columns = ["server", "fetches", "old", "failed", "p50", "p99"];
    let mut text = format!("## Herds\n\n{how}\n\n");
    for (what, found) in [
        (format!("{viewers} at once, list cold"), cold),
        (format!("{viewers} at once, list just expired"), expired),
        (format!("{FOR_A_CHUNK} at once, chunk cold"), chunk),
        (format!("{many} at once, list just expired"), crowd),
    ] {
        let mut table = Table::new(&what, "", &columns);
        for (server, found) in servers.all().iter().zip(&found) {
            table.row(&found.row(server));
        }
        text += &table.text().replacen("## ", "### ", 1).replacen("\n\n\n\n", "\n\n", 1);
    }
    text
}

fn founds() -> [Found; 5] {
    std::array::from_fn(|_| Found::default())
}

fn broadcast(number: u8) -> BroadcastId {
    BroadcastId::from_random([100 + number; 16])
}

/// Another one first in each round.
fn turns(servers: &Servers, round: usize) -> impl Iterator<Item = (usize, &Server)> {
    let all = servers.all();
    (0..all.len()).map(move |place| {
        let which = (round + place) % all.len();
        (which, all[which])
    })
}

async fn ask(
    servers: &Servers,
    upstream: &Upstream,
    server: &Server,
    herd: &mut Herd,
    path: &str,
    expected: &Expected,
    found: &mut Found,
) {
    servers.turn(server).await;
    upstream.delay(AWAY);
    let before = upstream.fetches();
    let burst = herd.ask(path, expected);
    // What a server fetches behind the answers counts too.
    tokio::time::sleep(2 * AWAY).await;
    let after = upstream.fetches();
    upstream.delay(Duration::ZERO);
    let (grpc, http) = (after.0 - before.0, after.1 - before.1);
    found.add(&burst, if server.name == "Spyglass" { grpc } else { http });
}
