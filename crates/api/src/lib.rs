//! The gRPC that origins, edges and control speak, and its translation.
//!
//! [`control`] and [`upstream`] are generated from `proto/`, where every field
//! is documented. [`convert`] turns wire messages into the domain types of
//! `spyglass-media` and refuses what makes no sense, so that no service checks
//! an id or a version twice. [`auth`] is the cluster key on every call.
//! Channels, deadlines and reconnecting are the business of `spyglass-daemon`.

pub mod auth;
pub mod convert;

/// `spyglass.control.v1`, generated.
#[allow(missing_docs, clippy::all)]
pub mod control {
    tonic::include_proto!("spyglass.control.v1");
}

/// `spyglass.upstream.v1`, generated.
#[allow(missing_docs, clippy::all)]
pub mod upstream {
    tonic::include_proto!("spyglass.upstream.v1");
}

/// Largest gRPC message either side accepts, in bytes. Objects are streamed in
/// slices, so nothing legitimate comes near it.
pub const MAX_MESSAGE: usize = 256 * 1024;

/// Largest slice of an object in one [`upstream::FetchResponse`], in bytes.
pub const MAX_SLICE: usize = 128 * 1024;
