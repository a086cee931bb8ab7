//! Comments and hearts on media time.
//!
//! This service will own the viewers' WebSocket connections and the order of
//! what they say; who may say it is decided by `spyglass-control`. It is not
//! part of the system yet, so the crate holds nothing but its place.
