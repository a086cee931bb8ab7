//! The values that every part of Spyglass speaks of.
//!
//! A [`Frame`] is what a publisher sends and a push viewer gets; [`MediaTime`]
//! is where it stands in its broadcast. [`Version`] and [`Position`] order what
//! viewers poll for, [`Resource`] names it; [`delay`] counts how long each
//! stage of the way took. Ids parse once, at the border, into
//! types that cannot be wrong.
//!
//! Nothing here does I/O, reads a clock or knows a codec library. How frames
//! travel over RTMP is `spyglass-rtmp`; how they become chunks is
//! `spyglass-hls`.

mod capture;
pub mod delay;
mod fill;
mod frame;
mod id;
mod location;
mod resource;
pub mod steering;
mod time;
mod version;

pub use capture::{CAPTURE_UUID, capture_sei, find_capture};
pub use fill::Fill;
pub use frame::{Frame, Track};
pub use id::{BroadcastId, IdError, NodeId, UserId, ViewerId};
pub use location::{Location, LocationError};
pub use resource::Resource;
pub use time::{MediaTime, UtcTime};
pub use version::{Position, Version};
