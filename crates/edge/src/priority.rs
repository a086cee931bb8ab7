//! How urgent an answer is (RFC 9218, HLS-RULES L9): lists go before media.
//!
//! Answers say it in `Priority`, for whoever stands between here and the player.
//! On an HTTP/3 connection the streams are sent in this order as well; hyper has
//! no such order for HTTP/2. Pure.

use http::{HeaderMap, HeaderName, HeaderValue};
use spyglass_media::Resource;

/// The header.
pub const PRIORITY: HeaderName = HeaderName::from_static("priority");

/// Of what says nothing.
const DEFAULT: u8 = 3;

/// The least urgent there is.
const LAST: u8 = 7;

/// What the answer of this says; `None` for what is neither list nor media.
pub const fn of(resource: Option<Resource>) -> HeaderValue {
    HeaderValue::from_static(match resource {
        Some(Resource::Index | Resource::Chunklist) => "u=1",
        // Without it nothing that follows can be played.
        Some(Resource::Init { .. }) => "u=2",
        Some(_) => "u=3",
        None => "u=4",
    })
}

/// What a player asks for, 0 (first) to 7 (last), when it says so.
pub fn asked(headers: &HeaderMap) -> Option<u8> {
    let value = headers.get(PRIORITY)?.to_str().ok()?;
    let urgency = value.split(',').find_map(|item| item.trim().strip_prefix("u="))?;
    // What follows a semicolon would be about the number.
    let urgency = urgency.split(';').next()?.trim().parse().ok()?;
    (urgency <= LAST).then_some(urgency)
}

/// What an answer says of itself.
pub fn said(headers: &HeaderMap) -> u8 {
    asked(headers).unwrap_or(DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(PRIORITY, HeaderValue::from_static(value))])
    }

    #[test]
    fn lists_go_before_media_and_media_before_what_says_nothing_better() {
        let chunk = Resource::Chunk { epoch: 1, sequence: 2 };
        let said = |resource| said(&HeaderMap::from_iter([(PRIORITY, of(resource))]));
        assert!(said(Some(Resource::Chunklist)) == 1 && said(Some(Resource::Index)) == 1);
        assert!(said(Some(Resource::Init { epoch: 1 })) < said(Some(chunk)));
        assert!(said(Some(chunk)) < said(None));
    }

    #[test]
    fn a_player_may_say_otherwise_and_nonsense_says_nothing() {
        for (value, expected) in [
            ("u=0", Some(0)),
            ("i, u=5", Some(5)),
            ("u=7;x=1,i", Some(7)),
            ("u=8", None),
            ("u=-1", None),
            ("i", None),
            ("", None),
        ] {
            assert_eq!(asked(&headers(value)), expected, "{value}");
        }
        assert_eq!(asked(&HeaderMap::new()), None);
        assert_eq!(said(&HeaderMap::new()), DEFAULT);
    }
}
