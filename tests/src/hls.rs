//! A chunklist as `m3u8-rs`, an independent reader, sees it.

use m3u8_rs::{MediaPlaylist, Playlist};

/// One chunklist.
#[derive(Clone, Debug)]
pub struct List {
    /// As parsed.
    pub playlist: MediaPlaylist,
    /// As sent.
    pub text: String,
}

/// One chunk or GAP of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Media sequence number.
    pub sequence: u64,
    /// Relative URI.
    pub uri: String,
    /// Seconds.
    pub duration: f32,
    /// A DISCONTINUITY stands before it.
    pub discontinuity: bool,
    /// There is no media.
    pub gap: bool,
}

impl List {
    /// Parses a chunklist.
    ///
    /// # Panics
    /// When it is none.
    pub fn parse(text: &str) -> Self {
        match m3u8_rs::parse_playlist_res(text.as_bytes()) {
            Ok(Playlist::MediaPlaylist(playlist)) => Self { playlist, text: text.to_owned() },
            other => panic!("no chunklist ({other:?}):\n{text}"),
        }
    }

    /// What it lists.
    pub fn chunks(&self) -> Vec<Chunk> {
        let first = self.playlist.media_sequence;
        let numbered = (first..).zip(&self.playlist.segments);
        numbered
            .map(|(sequence, segment)| Chunk {
                sequence,
                uri: segment.uri.clone(),
                duration: segment.duration,
                discontinuity: segment.discontinuity,
                gap: segment.unknown_tags.iter().any(|tag| tag.tag.ends_with("GAP")),
            })
            .collect()
    }

    /// The newest media sequence number.
    pub fn last(&self) -> u64 {
        self.playlist.media_sequence + self.playlist.segments.len() as u64 - 1
    }

    /// The broadcast is over.
    pub fn ended(&self) -> bool {
        self.playlist.end_list
    }
}
