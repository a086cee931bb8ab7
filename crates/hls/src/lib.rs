//! From frames to what HLS viewers fetch.
//!
//! Four jobs, four modules: [`segmenter`] decides when a chunk ends, [`cmaf`]
//! writes its bytes, [`chunklist`] knows what is listed and what is kept, and
//! [`playlist`] writes the text. [`codec`] reads what an encoder says about its
//! tracks. All of it is pure: time is passed in, bytes and decisions come out.
//!
//! Specifications: RFC 8216 and its successor draft-pantos-hls-rfc8216bis-22
//! (a chunk is its Media Segment, a chunklist its Media Playlist), ISO/IEC
//! 14496-12 (boxes), 14496-14 and -15 (AAC and AVC in them).
//!
//! Not implemented: EXT-X-BYTERANGE, encryption, I-frame playlists,
//! EXT-X-RENDITION-REPORT (there is one rendition), EXT-X-DATERANGE.

pub mod chunklist;
pub mod cmaf;
pub mod codec;
mod error;
pub mod playlist;
pub mod segmenter;

pub use error::Error;
