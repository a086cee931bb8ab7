//! Names on which the multivariant playlist, which the origin writes, and the
//! steering document, which each edge writes, must agree
//! (draft-pantos-hls-rfc8216bis section 4.4.6.6 and 7).

/// The steering document, beside `index.m3u8`.
pub const STEERING: &str = "steering.json";

/// The pathway of every variant in `index.m3u8`: the edge that it was got from.
/// It is the draft's default pathway, and no node can have this name.
pub const PATHWAY: &str = ".";

/// STABLE-VARIANT-ID of the one variant.
pub const VARIANT: &str = "main";
