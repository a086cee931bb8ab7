//! What a token says, and how it is written.

use serde::{Deserialize, Serialize};
use spyglass_media::{BroadcastId, Fill, NodeId, UserId, UtcTime, ViewerId};

/// What a valid token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// To publish.
    Publish(PublishGrant),
    /// To watch.
    Watch(WatchGrant),
}

/// Allows its holder to publish one broadcast at one origin, and tells that
/// origin all it needs when control is away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishGrant {
    /// What may be published.
    pub broadcast: BroadcastId,
    /// Where it was placed.
    pub origin: NodeId,
    /// Only holders of a watch token may see it.
    pub private: bool,
    /// Length of a chunk, in milliseconds.
    pub chunk_ms: u32,
    /// Length of a part, in milliseconds; 0 for a broadcast without parts.
    pub part_ms: u32,
    /// What makes edges fetch; `None`: as each is configured.
    pub fill: Option<Fill>,
    /// How long an interrupted broadcast may come back, in milliseconds.
    pub resume_ms: u32,
    /// When it was signed; to the millisecond.
    pub issued: UtcTime,
    /// From when on it is refused; to the millisecond.
    pub expires: UtcTime,
}

/// Allows its holder to watch one broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchGrant {
    /// What may be watched.
    pub broadcast: BroadcastId,
    /// Who watches.
    pub viewer: ViewerId,
    /// Which user that is; `None` for somebody nobody knows.
    pub user: Option<UserId>,
    /// The viewer's place, from 1; `None` beyond the last seat.
    pub seat: Option<u32>,
    /// The seat is one of the push tier.
    pub push: bool,
    /// The viewer may comment.
    pub comment: bool,
    /// Grows each time the seat is given away; the newest wins.
    pub generation: u32,
    /// When it was signed; to the millisecond.
    pub issued: UtcTime,
    /// From when on it is refused; to the millisecond.
    pub expires: UtcTime,
}

impl Grant {
    /// From when on the token is refused.
    pub const fn expires(&self) -> UtcTime {
        match self {
            Self::Publish(grant) => grant.expires,
            Self::Watch(grant) => grant.expires,
        }
    }

    /// The broadcast that it is for.
    pub const fn broadcast(&self) -> BroadcastId {
        match self {
            Self::Publish(grant) => grant.broadcast,
            Self::Watch(grant) => grant.broadcast,
        }
    }
}

/// The payload: short keys, times in milliseconds since the Unix epoch. Unknown
/// keys are ignored, so that a later control may say more.
#[derive(Serialize, Deserialize)]
#[serde(tag = "r")]
enum Claims {
    #[serde(rename = "p")]
    Publish {
        b: BroadcastId,
        o: NodeId,
        #[serde(default)]
        x: bool,
        c: u32,
        #[serde(default, skip_serializing_if = "none")]
        l: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        f: Option<Fill>,
        w: u32,
        i: i64,
        e: i64,
    },
    #[serde(rename = "w")]
    Watch {
        b: BroadcastId,
        v: ViewerId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        u: Option<UserId>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        s: Option<u32>,
        #[serde(default)]
        p: bool,
        #[serde(default)]
        m: bool,
        #[serde(default)]
        g: u32,
        i: i64,
        e: i64,
    },
}

/// What is left out of a token.
fn none(value: &u32) -> bool {
    *value == 0
}

impl Grant {
    /// The payload's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let claims = match self.clone() {
            Self::Publish(grant) => Claims::Publish {
                b: grant.broadcast,
                o: grant.origin,
                x: grant.private,
                c: grant.chunk_ms,
                l: grant.part_ms,
                f: grant.fill,
                w: grant.resume_ms,
                i: grant.issued.millis(),
                e: grant.expires.millis(),
            },
            Self::Watch(grant) => Claims::Watch {
                b: grant.broadcast,
                v: grant.viewer,
                u: grant.user,
                s: grant.seat,
                p: grant.push,
                m: grant.comment,
                g: grant.generation,
                i: grant.issued.millis(),
                e: grant.expires.millis(),
            },
        };
        // Plain numbers, flags and ids: there is nothing in it that JSON lacks.
        serde_json::to_vec(&claims).unwrap_or_default()
    }

    /// A payload that a trusted key has signed.
    pub(crate) fn decode(payload: &[u8]) -> Option<Self> {
        Some(match serde_json::from_slice(payload).ok()? {
            Claims::Publish { b, o, x, c, l, f, w, i, e } => Self::Publish(PublishGrant {
                broadcast: b,
                origin: o,
                private: x,
                chunk_ms: c,
                part_ms: l,
                fill: f,
                resume_ms: w,
                issued: UtcTime::from_millis(i),
                expires: UtcTime::from_millis(e),
            }),
            Claims::Watch { b, v, u, s, p, m, g, i, e } => Self::Watch(WatchGrant {
                broadcast: b,
                viewer: v,
                user: u,
                seat: s,
                push: p,
                comment: m,
                generation: g,
                issued: UtcTime::from_millis(i),
                expires: UtcTime::from_millis(e),
            }),
        })
    }
}
