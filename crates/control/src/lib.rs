//! Control.
pub mod admission;
pub mod audience;
pub mod broadcasts;
pub mod fleet;
pub mod placement;
pub mod record;
pub mod seats;
pub mod store;
