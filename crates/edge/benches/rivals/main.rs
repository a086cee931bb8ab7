//! The edge beside nginx's `proxy_cache` and Varnish: the same objects from the
//! same upstream, in the same run, in turns. `just bench-edge` runs it.
//!
//! The servers have the first core, this process (clients, upstream) the other.
//! What counts is CPU time where it can: it says the same when the machine has
//! other work, which clocks do not. Nothing is asserted but that answers are
//! right; `docs/benchmarks.md` says what came out and what was aimed at.
//!
//! Arguments: names of sections (`hits`, `herds`, `waiters`, `paced`; default
//! all), `--quick`, and `--save FILE` to put the tables between that file's
//! marks.

mod client;
mod herds;
mod hits;
mod machine;
mod paced;
mod report;
mod servers;
#[path = "../../tests/support/mod.rs"]
mod support;
mod upstream;
mod waiters;

use std::time::{Duration, Instant};

use servers::Servers;
use upstream::Upstream;

/// What stands between these is replaced.
const MARKS: [&str; 2] = ["<!-- measured -->\n", "<!-- end of measured -->\n"];

fn main() {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}

/// Ten thousand connections are as many files.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

async fn run() {
    let mut quick = false;
    let mut save = None;
    let mut sections = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // cargo's own.
            "--bench" => {}
            "--quick" => quick = true,
            "--save" => save = Some(arguments.next().expect("--save FILE")),
            name if ["hits", "herds", "waiters", "paced"].contains(&name) => {
                sections.push(name.to_owned());
            }
            other => panic!("{other}: give hits, herds, waiters, paced, --quick, --save FILE"),
        }
    }
    let wanted = |name: &str| sections.is_empty() || sections.iter().any(|it| it == name);
    let began = Instant::now();
    let upstream = Upstream::start().await;
    let servers = Servers::start(&upstream).await;
    let first = match machine::prefer(support::WORKER) {
        true => "upstream, which goes first",
        false => "upstream, which waits for the clients (no right to go first)",
    };
    let mut text = format!(
        "{}; load {} when it began. {}. Servers on core 0, clients on core 1 with {first}.\n\n",
        machine::describe(),
        machine::load(),
        servers::versions(),
    );
    print!("{text}");
    let mut tell = |section: String| {
        print!("{section}");
        text += &section;
    };
    // First, in a process that holds nothing yet: what others gave back would hide
    // what a connection takes.
    if wanted("waiters") {
        tell(waiters::run(&servers, &upstream, 5_000, 300).await);
    }
    if wanted("hits") {
        let (rounds, turn) = if quick { (2, 1) } else { (6, 2) };
        tell(hits::run(&servers, &upstream, rounds, Duration::from_secs(turn)).await);
    }
    if wanted("herds") {
        tell(herds::run(&servers, &upstream, if quick { 2 } else { 5 }, 1_000, 5_000).await);
    }
    if wanted("paced") {
        let sizes: &[u32] = if quick { &[300] } else { &[100, 1_000, 3_000] };
        tell(paced::run(&servers, &upstream, sizes, if quick { 6 } else { 12 }).await);
    }
    println!("({:.0} s; load at the end {})", began.elapsed().as_secs_f64(), machine::load());
    if let Some(file) = save {
        let former = std::fs::read_to_string(&file).expect("the file to save to");
        let (head, rest) = former.split_once(MARKS[0]).expect("a mark in the file");
        let (_, tail) = rest.split_once(MARKS[1]).expect("a mark in the file");
        let new = format!("{head}{}\n{}\n{}{tail}", MARKS[0], text.trim_end(), MARKS[1]);
        std::fs::write(&file, new).expect("the file is written");
    }
}
