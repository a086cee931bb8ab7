//! What a request's path and query ask for, parsed once into a type that
//! cannot be wrong. Nothing after this looks at strings.

use std::borrow::Cow;

use spyglass_media::{BroadcastId, Resource};

use crate::refusal::Refusal;
use crate::slot::Awaited;

/// One named object of one broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Whose.
    pub broadcast: BroadcastId,
    /// Which.
    pub resource: Resource,
    /// `_HLS_` parameters; default on anything but a list.
    pub directives: Directives,
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
    Public(Object),
    /// `/v/{token}/…`: the token is judged before the rest is looked at.
    Joined {
        /// As it stands in the path, percent-decoded.
        token: Cow<'a, str>,
        /// `Err` when the rest of the path names nothing.
        object: Result<Object, Refusal>,
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
        Some("live") => match object(segments, query) {
            Ok(object) => Ok(Route::Public(object)),
            Err(Refusal::NotFound) => Ok(Route::Other),
            Err(refusal) => Err(refusal),
        },
        Some("v") => {
            let Some(token) = segments.next() else { return Ok(Route::Other) };
            let mut rest = segments.peekable();
            if rest.peek().is_none() {
                return Ok(Route::Other);
            }
            Ok(Route::Joined { token: decode(token)?, object: object(rest, query) })
        }
        _ => Ok(Route::Other),
    }
}

fn object<'a>(
    mut segments: impl Iterator<Item = &'a str>,
    query: Option<&str>,
) -> Result<Object, Refusal> {
    let (Some(id), Some(name), None) = (segments.next(), segments.next(), segments.next()) else {
        return Err(Refusal::NotFound);
    };
    let broadcast = decode(id)?.parse().map_err(|_| Refusal::NotFound)?;
    let resource = Resource::parse(&decode(name)?).ok_or(Refusal::NotFound)?;
    let directives = match (resource, query) {
        (Resource::Index | Resource::Chunklist, Some(query)) => directives(query)?,
        _ => Directives::default(),
    };
    Ok(Object { broadcast, resource, directives })
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

    fn object(resource: Resource) -> Object {
        Object { broadcast: ID.parse().unwrap(), resource, directives: Directives::default() }
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
            let joined = Route::Joined { token, object: Ok(object(resource)) };
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
            let Ok(Route::Joined { token, object }) = parse(path, None) else { panic!("{path}") };
            assert_eq!((&*token, object), ("bad", Err(Refusal::NotFound)), "{path}");
        }
    }

    #[test]
    fn a_query_is_ignored_except_hls_directives() {
        let path = format!("/live/{ID}/chunklist.m3u8");
        let ask = |query| match parse(&path, Some(query)) {
            Ok(Route::Public(object)) => Ok(object.directives),
            Ok(_) => panic!("{query}"),
            Err(refusal) => Err(refusal),
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
        let chunk = format!("/live/{ID}/1-2.m4s");
        assert!(parse(&chunk, Some("_HLS_msn=x")).is_ok());
    }

    proptest! {
        #[test]
        fn no_input_panics(path in "[/%a-z0-9.é\\-]{0,60}", query in "(_HLS_(msn|part|skip))?[=&%0-9A-Z]{0,30}") {
            let _ = parse(&path, Some(&query));
        }

        #[test]
        fn what_is_public_names_one_object(path in "/live/0123456789abc/[0-9.\\-inmt4ps%2e]{1,14}") {
            if let Ok(Route::Public(found)) = parse(&path, None) {
                prop_assert_eq!(Resource::parse(&found.resource.to_string()), Some(found.resource));
            }
        }
    }
}
