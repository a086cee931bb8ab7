//! Signed grants.
