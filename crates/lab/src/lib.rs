//! The paper's measurements: crawler, traces, simulators, link shaper, load.
//!
//! What a single viewer or publisher does is `spyglass-client`; this crate
//! will run many of them and draw what they saw. It is not part of the system
//! yet, so the crate holds nothing but its place.
