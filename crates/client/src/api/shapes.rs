//! What control says, as types.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use spyglass_media::{BroadcastId, Location, UserId, ViewerId};

/// A registered user, as created.
#[derive(Clone, Deserialize, Serialize)]
pub struct User {
    /// 13 characters.
    pub id: UserId,
    /// As given.
    #[serde(default)]
    pub name: String,
    /// The user's secret.
    pub token: String,
}

/// What a new broadcast shall be.
#[derive(Clone, Debug, Default)]
pub struct NewBroadcast {
    /// For the list and the watch page.
    pub title: String,
    /// Where the broadcaster stands; control gives the nearest origin.
    pub location: Option<Location>,
    /// When not empty, nobody else can see it.
    pub private_to: Vec<UserId>,
    /// Length of a chunk; control's default when absent.
    pub chunk_seconds: Option<f64>,
}

impl NewBroadcast {
    pub(super) fn to_json(&self) -> Value {
        let mut body = json!({ "title": self.title });
        if let Some(at) = self.location {
            body["location"] = location(at);
        }
        if !self.private_to.is_empty() {
            body["private_to"] = json!(self.private_to);
        }
        if let Some(seconds) = self.chunk_seconds {
            body["chunk_seconds"] = json!(seconds);
        }
        body
    }
}

pub(super) fn location(at: Location) -> Value {
    json!({ "lat": at.latitude(), "lon": at.longitude() })
}

/// A broadcast that can now be published to.
#[derive(Clone, Deserialize)]
pub struct Created {
    /// 13 characters.
    pub id: BroadcastId,
    /// Where and with which key.
    pub publish: PublishTo,
    /// For people.
    #[serde(default)]
    pub watch_url: String,
}

/// Where to publish.
#[derive(Clone, Deserialize)]
pub struct PublishTo {
    /// Without the stream key.
    pub rtmp_url: String,
    /// The secret.
    pub stream_key: String,
}

impl PublishTo {
    /// What an encoder publishes to; holds the secret.
    pub fn stream_url(&self) -> String {
        format!("{}/{}", self.rtmp_url.trim_end_matches('/'), self.stream_key)
    }
}

/// Where a broadcast is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing came yet.
    Created,
    /// On air.
    Live,
    /// The publisher is away and may come back.
    Interrupted,
    /// Over.
    Ended,
    /// A word of a later control.
    #[default]
    #[serde(other)]
    Unknown,
}

impl State {
    /// The word of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Live => "live",
            Self::Interrupted => "interrupted",
            Self::Ended => "ended",
            Self::Unknown => "unknown",
        }
    }
}

/// One broadcast.
#[derive(Clone, Debug, Deserialize)]
pub struct Broadcast {
    /// 13 characters.
    pub id: BroadcastId,
    /// As created.
    #[serde(default)]
    pub title: String,
    /// Where it is in its life.
    #[serde(default)]
    pub state: State,
    /// Everything else that control said.
    #[serde(flatten)]
    pub more: serde_json::Map<String, Value>,
}

/// A sample of what is on air.
#[derive(Clone, Debug, Deserialize)]
pub struct Live {
    /// In random order.
    pub broadcasts: Vec<Broadcast>,
    /// How many there are in all.
    #[serde(default)]
    pub live: u64,
}

/// Which way media comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Every frame, from the origin.
    Push,
    /// Chunks, from an edge.
    Hls,
}

impl Tier {
    /// The word of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Hls => "hls",
        }
    }
}

/// A viewer's admission.
#[derive(Clone, Deserialize)]
pub struct Joined {
    /// 13 characters.
    pub viewer: ViewerId,
    /// What control gave.
    pub tier: Tier,
    /// Place in the push tier.
    #[serde(default)]
    pub seat: Option<u32>,
    /// The viewer's secret.
    #[serde(default)]
    pub token: String,
    /// Where to play; they hold the secret.
    pub urls: PlayUrls,
    /// The nearest edge.
    #[serde(default)]
    pub edge: Option<JoinedEdge>,
    /// Other edges, nearest first.
    #[serde(default)]
    pub alternates: Vec<Alternate>,
}

/// Where to play.
#[derive(Clone, Deserialize)]
pub struct PlayUrls {
    /// Only for the push tier.
    #[serde(default)]
    pub rtmp: Option<String>,
    /// Always there.
    pub hls: String,
}

/// The edge a viewer was sent to.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct JoinedEdge {
    /// Its name.
    pub id: String,
    /// From the viewer, where both places are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distance_km: Option<f64>,
}

/// An edge to turn to when the first fails.
#[derive(Clone, Deserialize)]
pub struct Alternate {
    /// Its name.
    #[serde(default)]
    pub id: String,
    /// Where to play there; holds the secret.
    pub hls: String,
}
