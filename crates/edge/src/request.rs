//! What a request's path and query ask for, parsed once into a type that
//! cannot be wrong. Nothing after this looks at strings.

use std::borrow::Cow;

use spyglass_media::steering::STEERING;
use spyglass_media::{BroadcastId, Resource};

use crate::refusal::Refusal;
use crate::slot::Awaited;
use crate::steering::LONGEST_PATHWAY;

/// One named object of one broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Whose.
    pub broadcast: BroadcastId,
    /// Which.
    pub resource: Resource,
    /// `_HLS_` parameters; default on anything but a media playlist. Whether they
    /// make sense matters only as long as the broadcast goes on (rule P11).
    pub directives: Result<Directives, Refusal>,
}

/// What a path below a broadcast names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Bytes that the origin made.
    Object(Object),
    /// `steering.json`, which this edge writes itself.
    Steering(BroadcastId),
}

impl Named {
    /// Whose it is.
    pub const fn broadcast(&self) -> BroadcastId {
        match self {
            Self::Object(object) => object.broadcast,
            Self::Steering(broadcast) => *broadcast,
        }
    }
}

/// Delivery directives of a playlist request (RFC 8216bis section 6.2.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `_HLS_msn`: answer once this media sequence number is listed.
    pub sequence: Option<u64>,
    /// `_HLS_part`: … with this part.
    pub part: Option<u32>,
    /// `_HLS_skip`: a delta update will do.
    pub skip: bool,
}

impl Directives {
    /// What the answer is to wait for.
    pub fn awaits(&self) -> Option<Awaited> {
        self.sequence.map(|sequence| Awaited { sequence, part: self.part })
    }
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// `/live/{id}/{resource}`: anyone may have it.
    Public(Named),
    /// `/v/{token}/…`: the token is judged before the rest is looked at.
    Joined {
        /// As it stands in the path, percent-decoded.
        token: Cow<'a, str>,
        /// `Err` when the rest of the path names nothing.
        named: Result<Named, Refusal>,
    },
    /// Any other path; health and metrics are among them.
    Other,
}

/// Parses a path and its query.
///
/// Segments are split first and decoded then: an encoded slash is part of a
/// name, and no name has one.
pub fn parse<'a>(path: &'a str, query: Option<&str>) -> Result<Route<'a>, Refusal> {
    if path.contains('%') {
        path.split('/').try_for_each(|segment| decode(segment).map(drop))?;
    }
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/');
    match segments.next() {
        Some("live") => match named(segments, query) {
            Ok(named) => Ok(Route::Public(named)),
            Err(Refusal::NotFound) => Ok(Route::Other),
            Err(refusal) => Err(refusal),
        },
        Some("v") => {
            let Some(token) = segments.next() else { return Ok(Route::Other) };
            let mut rest = segments.peekable();
            if rest.peek().is_none() {
                return Ok(Route::Other);
            }
            Ok(Route::Joined { token: decode(token)?, named: named(rest, query) })
        }
        _ => Ok(Route::Other),
    }
}

fn named<'a>(
    mut segments: impl Iterator<Item = &'a str>,
    query: Option<&str>,
) -> Result<Named, Refusal> {
    let (Some(id), Some(name), None) = (segments.next(), segments.next(), segments.next()) else {
        return Err(Refusal::NotFound);
    };
    let broadcast = decode(id)?.parse().map_err(|_| Refusal::NotFound)?;
    let name = decode(name)?;
    if name == STEERING {
        pathway(query)?;
        return Ok(Named::Steering(broadcast));
    }
    let resource = Resource::parse(&name).ok_or(Refusal::NotFound)?;
    let directives = match (resource, query) {
        (Resource::Chunklist, Some(query)) => directives(query),
        _ => Ok(Directives::default()),
    };
    Ok(Named::Object(Object { broadcast, resource, directives }))
}

/// `_HLS_pathway` of a steering request: where the player plays now.
///
/// Letters, digits, `.`, `-` and `_` (section 7.1), [`LONGEST_PATHWAY`] of them;
/// some players put quotes around them. `_HLS_throughput` is not looked at: it
/// decides nothing here, and a common player sends negative ones.
pub fn pathway(query: Option<&str>) -> Result<Option<Cow<'_, str>>, Refusal> {
    let pairs = query.into_iter().flat_map(|query| query.split('&'));
    let Some(given) = pairs.filter_map(|pair| pair.strip_prefix("_HLS_pathway=")).next_back()
    else {
        return Ok(None);
    };
    let mut given = decode(given).map_err(|_| Refusal::Directive)?;
    if given.starts_with('"') && given.ends_with('"') && given.len() >= 2 {
        given = Cow::Owned(given[1..given.len() - 1].to_owned());
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let fits = (1..=LONGEST_PATHWAY).contains(&given.len()) && given.bytes().all(legal);
    if fits { Ok(Some(given)) } else { Err(Refusal::Directive) }
}

/// Only names that begin with `_HLS_` matter; of one given twice, the last.
fn directives(query: &str) -> Result<Directives, Refusal> {
    let mut found = Directives::default();
    for pair in query.split('&').filter(|pair| pair.starts_with("_HLS_")) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value).map_err(|_| Refusal::Directive)?;
        match name {
            "_HLS_msn" => found.sequence = Some(number(&value)?),
            "_HLS_part" => found.part = Some(number(&value)?),
            "_HLS_skip" if matches!(&*value, "YES" | "v2") => found.skip = true,
            "_HLS_skip" => return Err(Refusal::Directive),
            // A directive of a later draft.
            _ => {}
        }
    }
    match found {
        Directives { sequence: None, part: Some(_), .. } => Err(Refusal::Directive),
        found => Ok(found),
    }
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, Refusal> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().ok_or(Refusal::Directive)
}

/// Percent-decodes one segment (RFC 3986 section 2.1).
fn decode(segment: &str) -> Result<Cow<'_, str>, Refusal> {
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => match (bytes.next().and_then(hex), bytes.next().and_then(hex)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(Refusal::Encoding),
            },
            other => other,
        });
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| Refusal::Encoding)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "0123456789abc";

    fn object(resource: Resource) -> Named {
        let broadcast = ID.parse().unwrap();
        Named::Object(Object { broadcast, resource, directives: Ok(Directives::default()) })
    }

    #[test]
    fn the_paths_of_the_contract() {
        let table = [
            ("index.m3u8", Resource::Index),
            ("chunklist.m3u8", Resource::Chunklist),
            ("3-init.mp4", Resource::Init { epoch: 3 }),
            ("3-14.m4s", Resource::Chunk { epoch: 3, sequence: 14 }),
            ("3-14.1.m4s", Resource::Part { epoch: 3, sequence: 14, part: 1 }),
            ("chunklist%2em3u8", Resource::Chunklist),
        ];
        for (name, resource) in table {
            let path = format!("/live/{ID}/{name}");
            assert_eq!(parse(&path, None), Ok(Route::Public(object(resource))), "{path}");
            let path = format!("/v/v4.public.T/{ID}/{name}");
            let token = Cow::Borrowed("v4.public.T");
            let joined = Route::Joined { token, named: Ok(object(resource)) };
            assert_eq!(parse(&path, None), Ok(joined), "{path}");
        }
    }

    #[test]
    fn any_other_path_leads_nowhere() {
        let long = format!("/live/{ID}/{}", "a".repeat(5_000));
        for path in [
            "",
            "/",
            "*",
            "//",
            "/live",
            "/live/",
            "/live/0123456789abc",
            "/live/0123456789abc/",
            "/live/0123456789abc/index.m3u8/",
            "/live//0123456789abc/index.m3u8",
            "//live/0123456789abc/index.m3u8",
            "/LIVE/0123456789abc/index.m3u8",
            "/live/0123456789ABC/index.m3u8",
            "/live/0123456789ab/index.m3u8",
            "/live/0123456789abc/../x/index.m3u8",
            "/live/0123456789abc%2findex.m3u8",
            "/live/0123456789abc/%2e%2e",
            "/live/0123456789abc/index.m3u8%00",
            "/live/0123456789abc/1-02.m4s",
            "/live/0123456789abc/1-init.mp4.",
            "/v",
            "/v/",
            "/v/token",
            "/metrics",
            "/%6Cive/x",
            "/live/0123456789abc/4294967296-1.m4s",
            &long,
        ] {
            assert_eq!(parse(path, None), Ok(Route::Other), "{path}");
        }
    }

    #[test]
    fn bad_percent_encoding_is_refused_wherever_it_stands() {
        for path in [
            "/%",
            "/%z",
            "/live/%zz/index.m3u8",
            "/live/0123456789abc/index%2",
            "/live/0123456789abc/%ff",
            "/v/%/0123456789abc/index.m3u8",
            "/x/%c3%28",
            "/live/0123456789abc/%+1",
            "/v/token/%é",
        ] {
            assert_eq!(parse(path, None), Err(Refusal::Encoding), "{path}");
        }
    }

    #[test]
    fn the_token_is_judged_before_what_follows_it() {
        for path in ["/v/bad/x", "/v/bad/0123456789abc/nothing", "/v/bad/0123456789abc/a/b"] {
            let Ok(Route::Joined { token, named }) = parse(path, None) else { panic!("{path}") };
            assert_eq!((&*token, named), ("bad", Err(Refusal::NotFound)), "{path}");
        }
    }

    #[test]
    fn a_query_is_ignored_except_hls_directives() {
        let path = format!("/live/{ID}/chunklist.m3u8");
        let ask = |query| match parse(&path, Some(query)) {
            Ok(Route::Public(Named::Object(object))) => object.directives,
            other => panic!("{query}: {other:?}"),
        };
        for query in ["", "t=1", "&&", "%zz", "a=%zz&b", "_hls_msn=x", "_HLS_later=%41"] {
            assert_eq!(ask(query), Ok(Directives::default()), "{query}");
        }
        let all = Directives { sequence: Some(7), part: Some(2), skip: true };
        assert_eq!(ask("_HLS_msn=7&_HLS_part=2&_HLS_skip=YES&x"), Ok(all));
        assert_eq!(ask("_HLS_msn=%37&_HLS_part=02&_HLS_skip=v2"), Ok(all));
        for query in [
            "_HLS_msn",
            "_HLS_msn=",
            "_HLS_msn=x",
            "_HLS_msn=-1",
            "_HLS_msn=%zz",
            "_HLS_part=1",
            "_HLS_msn=1&_HLS_part=4294967296",
            "_HLS_msn=18446744073709551616",
            "_HLS_skip=NO",
            "_HLS_msn=+1",
            "_HLS_msn=1.5",
        ] {
            assert_eq!(ask(query), Err(Refusal::Directive), "{query}");
        }
        // They are about the media playlist and nothing else.
        for name in ["1-2.m4s", "index.m3u8"] {
            let path = format!("/live/{ID}/{name}");
            assert_eq!(parse(&path, Some("_HLS_msn=x")), parse(&path, None));
        }
    }

    #[test]
    fn a_steering_request_names_a_pathway_or_none() {
        let path = format!("/live/{ID}/steering.json");
        let steering = Ok(Route::Public(Named::Steering(ID.parse().unwrap())));
        let long = "a".repeat(LONGEST_PATHWAY);
        for (query, pathway) in [
            ("", None),
            ("x=1&_HLS_msn=soon", None),
            ("_HLS_pathway=.&_HLS_throughput=-12", Some(".")),
            ("_HLS_pathway=edge-2&_HLS_throughput=nonsense", Some("edge-2")),
            ("_HLS_pathway=%22CDN_A%22", Some("CDN_A")),
            ("_HLS_pathway=a&_HLS_pathway=b", Some("b")),
            (&format!("_HLS_pathway={long}"), Some(&long)),
        ] {
            assert_eq!(parse(&path, Some(query)), steering, "{query}");
            assert_eq!(super::pathway(Some(query)).unwrap().as_deref(), pathway, "{query}");
        }
        for query in ["_HLS_pathway=", "_HLS_pathway=%zz", "_HLS_pathway=a%20b", "_HLS_pathway=%22"]
        {
            assert_eq!(parse(&path, Some(query)), Err(Refusal::Directive), "{query}");
        }
        let longer = format!("_HLS_pathway={long}a");
        assert_eq!(parse(&path, Some(&longer)), Err(Refusal::Directive));
    }

    proptest! {
        #[test]
        fn no_input_panics(path in "[/%a-z0-9.é\\-]{0,60}", query in "(_HLS_(msn|part|skip))?[=&%0-9A-Z]{0,30}") {
            let _ = parse(&path, Some(&query));
        }

        #[test]
        fn what_is_public_names_one_object(path in "/live/0123456789abc/[0-9.\\-inmt4ps%2e]{1,14}") {
            if let Ok(Route::Public(Named::Object(found))) = parse(&path, None) {
                prop_assert_eq!(Resource::parse(&found.resource.to_string()), Some(found.resource));
            }
        }
    }
}
