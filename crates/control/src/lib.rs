//! Control.
pub mod admission;
pub mod audience;
pub mod fleet;
pub mod placement;
