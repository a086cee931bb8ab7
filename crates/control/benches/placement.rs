//! How long one decision takes: `cargo bench -p spyglass-control --bench placement`.
//! Prints nanoseconds for fleets of 32 and 1,024 edges; asserts nothing.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use spyglass_control::placement::{Candidate, Standing, rank};
use spyglass_media::Location;

/// Decisions timed for each fleet.
const ROUNDS: u32 = 200_000;

fn scattered(index: u32) -> Option<Location> {
    let index = index % 10_000;
    let (latitude, longitude) = (index * 7_919 % 160, index * 104_729 % 360);
    Location::new(f64::from(latitude) - 80.0, f64::from(longitude) - 180.0).ok()
}

fn main() {
    for edges in [32, 1_024] {
        let fleet: Vec<Candidate> = (0..edges)
            .filter_map(|index| {
                let id = format!("edge-{index}").parse().ok()?;
                let standing = Arc::new(Standing::new(index * 37 % 5_000, 10_000));
                Some(Candidate::new(Arc::new(id), scattered(index), standing))
            })
            .collect();
        for (what, located) in [("with a place", true), ("without", false)] {
            let rounds = ROUNDS / (edges / 32);
            let began = Instant::now();
            for round in 0..rounds {
                let from = scattered(round * 31 + 5).filter(|_| located);
                black_box(rank(black_box(from), &fleet, 5));
            }
            let each = began.elapsed().as_nanos() / u128::from(rounds);
            println!("placement: {edges} edges, {what}: {each} ns per decision");
        }
    }
}
