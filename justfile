# `just` wraps the scripts; everything works without it.

# What there is.
default:
    @just --list

# The whole system with a demo broadcast.
up *args:
    ./scripts/up {{args}}

# Every test.
test *names:
    ./scripts/test {{names}}

# Dependencies point one way, and pure code stays pure.
layering:
    ./scripts/layering

# Licences, duplicates, banned crates (needs cargo-deny).
deny:
    cargo deny --locked check bans licenses sources

# How long a frame and a chunk take, printed; no assertion.
bench:
    ./scripts/bench

# Joins per second and memory of one control, printed; `--nats URL`: over NATS.
bench-control *args:
    cargo bench --locked -p spyglass-control --bench joins -- {{args}}

# The edge beside nginx and Varnish, printed; `--quick`, `--save FILE`, or sections: hits, herds, waiters, paced.
bench-edge *args:
    ./scripts/bench-edge {{args}}

# Ten minutes of a broadcast on which nothing goes well, held against every rule of HLS.
soak seconds="600":
    cargo build --bin spyglass
    SPYGLASS_SOAK_SECONDS={{seconds}} cargo test -p spyglass-tests --test promises a_long_broadcast -- --nocapture

# From capture to the screen: a player at PART-HOLD-BACK, hls.js in Chromium, and one that plays chunks; printed.
bench-delay:
    cargo build --release --bin spyglass
    cargo test --release -p spyglass-tests --test promises what_is_shown -- --nocapture
