//! Blocked reloads: what a waiter costs, how fast all are released, and how
//! long a part takes to those who wait for it.

use std::time::Duration;

use spyglass_media::{BroadcastId, Resource};

use crate::client::{Expected, Herd, get};
use crate::machine;
use crate::report::{Series, Table, quantile};
use crate::servers::Servers;
use crate::upstream::{CHUNK, PARTS, Upstream, path};

/// Time for requests to arrive and to be waiting.
const SETTLES: Duration = Duration::from_millis(700);

/// Notices to viewers who are always there again.
const NOTICES: u32 = 25;

/// `waiters` at once, and `viewers` who wait for one part after the other.
pub async fn run(servers: &Servers, upstream: &Upstream, waiters: usize, viewers: usize) -> String {
    let edge = &servers.spyglass;
    let id = BroadcastId::from_random([90; 16]);
    upstream.begin(id);
    upstream.advance(id, 9, PARTS - 1);
    upstream.advance(id, 10, 0);
    let list = path(id, Resource::Chunklist);

    let before = machine::resident(edge.pid);
    let mut herd = Herd::open(edge.address, waiters, &list);
    upstream.of_interest(id).await;
    let idle = machine::resident(edge.pid);
    let mut last = Series::default();
    let mut median = Series::default();
    let mut waiting = 0;
    let mut fetches = 0;
    for part in 1..=5 {
        let due = herd.send(&get(&format!("{list}?_HLS_msn=10&_HLS_part={part}")));
        tokio::time::sleep(SETTLES.saturating_sub(due.elapsed())).await;
        waiting = waiting.max(machine::resident(edge.pid));
        let fetched = upstream.fetches().0;
        let due = std::time::Instant::now();
        let text = Expected::Body(upstream.advance(id, 10, part));
        let burst = herd.collect(due, &text);
        assert_eq!((burst.old, burst.failed), (0, 0), "waiters are answered with what they await");
        median.push(quantile(&burst.delays, 0.5));
        last.push(quantile(&burst.delays, 1.0));
        fetches += upstream.fetches().0 - fetched;
    }
    drop(herd);

    let per = |kib: u64| kib as f64 / waiters as f64;
    let how = format!(
        "{waiters} connections that each wait for the list with the next part, on the edge; 5 parts \
         come one after the other. Memory is the edge's resident memory, its growth divided by \
         {waiters}. Release counts from the notice at the origin to an answer's last byte, the \
         edge's one fetch of the list included, no delay to the upstream."
    );
    let mut table = Table::new("Blocked reloads", &how, &["what", "measured"]);
    let mut row = |what: &str, value: String| table.row(&[what.to_owned(), value]);
    row("memory of an open connection, idle, KiB", format!("{:.1}", per(idle - before.min(idle))));
    row("… while its request waits, KiB", format!("{:.1}", per(waiting - before.min(waiting))));
    row("list fetches upstream for 5 releases", fetches.to_string());
    row("notice to the median answer, ms", median.show(1));
    row("notice to the last answer, ms", last.show(1));
    let mut text = table.text();

    let how = format!(
        "{viewers} viewers who always wait for the next part, {NOTICES} parts, one each 0.2 s: from \
         the notice at the origin to the last byte at the viewer, ms. For lists the fetch of the \
         list is in it, for parts that of the part."
    );
    let columns = ["what", "answers", "p50", "p95", "p99", "longest"];
    let mut table = Table::new("Polling delay of blocking viewers", &how, &columns);
    for (what, parts) in [("list, `_HLS_msn` and `_HLS_part`", false), ("part, hinted", true)] {
        let mut herd = Herd::open(edge.address, viewers, &list);
        let mut delays = Vec::new();
        // Where the list stands, the parts before included.
        let from = if parts { 6 + NOTICES } else { 6 };
        for number in from..from + NOTICES {
            let (sequence, part) = (10 + u64::from(number / PARTS), number % PARTS);
            let next = Resource::Part { epoch: 1, sequence, part };
            let request = match parts {
                true => get(&path(id, next)),
                false => get(&format!("{list}?_HLS_msn={sequence}&_HLS_part={part}")),
            };
            herd.send(&request);
            tokio::time::sleep(Duration::from_millis(190)).await;
            let due = std::time::Instant::now();
            let text = upstream.advance(id, sequence, part);
            let expected = match parts {
                true => Expected::Length(CHUNK / PARTS as usize),
                false => Expected::Body(text),
            };
            let burst = herd.collect(due, &expected);
            assert_eq!((burst.old, burst.failed), (0, 0), "viewers get what they wait for");
            delays.extend(burst.delays);
        }
        delays.sort_unstable();
        let at = |share| format!("{:.1}", quantile(&delays, share));
        let count = delays.len().to_string();
        table.row(&[what.to_owned(), count, at(0.5), at(0.95), at(0.99), at(1.0)]);
    }
    text += &table.text();
    text
}
