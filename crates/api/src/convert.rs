//! Between wire messages and domain types.
//!
//! Going out never fails. Coming in is checked here, so that what reaches a
//! service is a valid id, version or resource; the error names the field.

use spyglass_media::{BroadcastId, Fill, Location, NodeId, Position, Resource, Version, ViewerId};
use tonic::Status;

use crate::{control, upstream};

/// A message that a peer of this release would not have sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {reason}")]
pub struct Invalid {
    /// The field's name in `proto/`.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl From<Invalid> for Status {
    fn from(invalid: Invalid) -> Self {
        Status::invalid_argument(invalid.to_string())
    }
}

/// The id in field `broadcast`.
pub fn broadcast(text: &str) -> Result<BroadcastId, Invalid> {
    let reason = "not 13 characters of 0-9 and a-z";
    text.parse().map_err(|_| Invalid { field: "broadcast", reason })
}

/// The id in field `viewer`.
pub fn viewer(text: &str) -> Result<ViewerId, Invalid> {
    let reason = "not 13 characters of 0-9 and a-z";
    text.parse().map_err(|_| Invalid { field: "viewer", reason })
}

/// The id in field `node`.
pub fn node(text: &str) -> Result<NodeId, Invalid> {
    let reason = "not 1 to 63 characters of a-z, 0-9 and -";
    text.parse().map_err(|_| Invalid { field: "node", reason })
}

impl From<Version> for upstream::Version {
    fn from(version: Version) -> Self {
        Self { epoch: version.epoch, revision: version.revision }
    }
}

impl From<upstream::Version> for Version {
    fn from(version: upstream::Version) -> Self {
        Self { epoch: version.epoch, revision: version.revision }
    }
}

impl From<Position> for upstream::Position {
    fn from(position: Position) -> Self {
        Self { sequence: position.sequence, part: position.part }
    }
}

impl From<upstream::Position> for Position {
    fn from(position: upstream::Position) -> Self {
        Self { sequence: position.sequence, part: position.part }
    }
}

impl From<Location> for control::Location {
    fn from(location: Location) -> Self {
        Self { latitude: location.latitude(), longitude: location.longitude() }
    }
}

impl TryFrom<control::Location> for Location {
    type Error = Invalid;

    fn try_from(location: control::Location) -> Result<Self, Invalid> {
        Location::new(location.latitude, location.longitude)
            .map_err(|_| Invalid { field: "location", reason: "not a point on the globe" })
    }
}

impl From<Option<Fill>> for upstream::Fill {
    fn from(fill: Option<Fill>) -> Self {
        match fill {
            None => Self::Unspecified,
            Some(Fill::Pull) => Self::Pull,
            Some(Fill::Prefetch) => Self::Prefetch,
        }
    }
}

impl From<upstream::Fill> for Option<Fill> {
    fn from(fill: upstream::Fill) -> Self {
        match fill {
            upstream::Fill::Unspecified => None,
            upstream::Fill::Pull => Some(Fill::Pull),
            upstream::Fill::Prefetch => Some(Fill::Prefetch),
        }
    }
}

impl From<Resource> for upstream::fetch_request::Object {
    fn from(resource: Resource) -> Self {
        match resource {
            Resource::Index | Resource::Chunklist => Self::Chunklist(upstream::Chunklist {}),
            Resource::Init { epoch } => Self::Init(upstream::Init { epoch }),
            Resource::Chunk { epoch, sequence } => Self::Chunk(upstream::Chunk { epoch, sequence }),
            Resource::Part { epoch, sequence, part } => {
                Self::Part(upstream::Part { epoch, sequence, part })
            }
        }
    }
}

impl From<upstream::fetch_request::Object> for Resource {
    fn from(object: upstream::fetch_request::Object) -> Self {
        use upstream::fetch_request::Object;
        match object {
            Object::Chunklist(_) => Self::Chunklist,
            Object::Init(init) => Self::Init { epoch: init.epoch },
            Object::Chunk(chunk) => Self::Chunk { epoch: chunk.epoch, sequence: chunk.sequence },
            Object::Part(part) => {
                Self::Part { epoch: part.epoch, sequence: part.sequence, part: part.part }
            }
        }
    }
}
