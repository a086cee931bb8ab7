//! RTMP as a state machine: bytes in, events and bytes out.
//!
//! Follows "Adobe's Real Time Messaging Protocol" 1.0 (2012, with section
//! numbers named beside the code), "Action Message Format AMF 0" (2007) and
//! "Adobe Flash Video File Format" 10.1 annex E (message bodies). What OBS,
//! ffmpeg, GStreamer and librtmp do where these are silent is noted where it
//! is handled.
//!
//! [`Server`] and [`Client`] are the two ends of a connection. Neither reads a
//! clock nor a socket: the caller feeds bytes and the time, writes out what
//! [`Server::take_output`] gives and acts on events. Nothing that a peer sends
//! allocates beyond [`Limits`] or panics; what is outside them is an [`Error`]
//! and the end of that connection. Beside them:
//!
//! - [`wire`] writes a message once for all viewers,
//! - [`flv`] reads and writes the bodies of audio and video messages,
//! - [`timeline`] turns the 32-bit clock of messages into media time,
//! - [`amf0`] is the bounded reader and the writer of command values.
//!
//! Who may publish, who may watch and how much is the caller's: no `publish`
//! and no `play` is answered before [`Server::accept`] or [`Server::reject`].
//! Not implemented: RTMPE, RTMPT, AMF3 values, shared objects, seeking.

pub mod amf0;
mod chunk;
mod client;
mod command;
mod error;
pub mod flv;
mod handshake;
mod limits;
mod link;
mod request;
mod server;
pub mod timeline;
pub mod wire;

pub use client::{Client, ClientConfig, ClientEvent, Intent};
pub use error::Error;
pub use limits::Limits;
pub use link::Message;
pub use request::{Refusal, Request, RequestId, Token};
pub use server::{Event, Server};
