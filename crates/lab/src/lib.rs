//! Measurements from outside, and the paper's simulations.
//!
//! [`validate`] judges any HLS server by the rules, [`load`] opens many viewers
//! on one, both over [`request`]. What a single viewer or
//! publisher does is `spyglass-client`. The paper's crawler, traces, simulators
//! and link shaper are not part of this release yet.

pub mod load;
pub mod request;
pub mod validate;
