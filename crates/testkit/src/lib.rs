//! What tests of several crates need and no program does.
//!
//! [`gop`] makes frames that look like an encoder's: real configuration
//! records, plausible pictures, chosen timing. [`flv`] takes an FLV file apart,
//! for tests that compare with a real encoder. [`nats`] runs a NATS server.
//! [`mmdb`] writes a small database of where addresses are. [`loopback`] hands out
//! addresses to listen on. [`stopwatch`] times what must be quick, on machines
//! that stand still at times. Only ever a dev-dependency.

pub mod flv;
pub mod gop;
pub mod loopback;
pub mod mmdb;
pub mod nats;
pub mod stopwatch;
