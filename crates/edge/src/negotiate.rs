//! What a request's headers ask of an answer: encoding, validity, range.
//!
//! RFC 9110 sections 12.5.3, 13.1.2, 13.1.5 and 14. Not implemented: several
//! ranges in one answer (the whole is sent), dates (there is no Last-Modified).

use std::ops::Range;

use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, IF_NONE_MATCH, IF_RANGE, RANGE};

/// Whether a gzip answer is welcome.
///
/// Not to a request for a range: the pieces of a compressed answer mean nothing
/// by themselves, and Chromium, which asks for ranges of playlists, gives up.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    if headers.contains_key(RANGE) {
        return false;
    }
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut any = false;
    for coding in values.flat_map(|value| value.split(',')) {
        let mut parts = coding.split(';');
        let name = parts.next().unwrap_or_default().trim();
        let refused = parts.any(|part| {
            let quality = part.trim().strip_prefix(['q', 'Q']).map(str::trim_start);
            let quality = quality.and_then(|rest| rest.strip_prefix('='));
            quality.is_some_and(|value| value.trim().parse::<f32>().is_ok_and(|q| q <= 0.0))
        });
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            return !refused;
        }
        any |= name == "*" && !refused;
    }
    any
}

/// Whether the client has this representation already.
pub fn unchanged(headers: &HeaderMap, etag: &str) -> bool {
    let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|given| given == "*" || given.strip_prefix("W/").unwrap_or(given) == etag)
}

/// What part of a representation is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it.
    Whole,
    /// These bytes, not none.
    Part(Range<usize>),
    /// Nothing that there is.
    Unsatisfiable,
}

/// Reads Range and If-Range against a representation of `length` bytes.
pub fn range(headers: &HeaderMap, etag: &str, length: usize) -> Wanted {
    let Some(range) = headers.get(RANGE) else { return Wanted::Whole };
    if headers.get(IF_RANGE).is_some_and(|given| given.as_bytes() != etag.as_bytes()) {
        return Wanted::Whole;
    }
    range.to_str().ok().and_then(|range| parse_range(range, length)).unwrap_or(Wanted::Whole)
}

/// `None` for what is malformed or more than one range: it is ignored.
fn parse_range(range: &str, length: usize) -> Option<Wanted> {
    let (unit, set) = range.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?.min(length);
        return Some(match suffix {
            0 => Wanted::Unsatisfiable,
            suffix => Wanted::Part(length - suffix..length),
        });
    }
    let first = number(first)?;
    let last = if last.is_empty() { usize::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    Some(if first >= length {
        Wanted::Unsatisfiable
    } else {
        Wanted::Part(first..last.saturating_add(1).min(length))
    })
}

/// Digits only; what does not fit is as large as can be.
fn number(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs.map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn gzip_is_sent_to_who_accepts_it() {
        assert!(!accepts_gzip(&headers(&[(ACCEPT_ENCODING, "gzip"), (RANGE, "bytes=0-")])));
        for yes in ["gzip", "deflate, GZIP", "br;q=1, gzip;q=0.1", "*", "x-gzip", "gzip ; q=1"] {
            assert!(accepts_gzip(&headers(&[(ACCEPT_ENCODING, yes)])), "{yes}");
        }
        for no in ["", "identity", "br", "gzip;q=0", "gzip; Q = 0.000, *", "*;q=0", "gzipped"] {
            assert!(!accepts_gzip(&headers(&[(ACCEPT_ENCODING, no)])), "{no}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn a_known_etag_is_recognised() {
        for yes in ["\"a\"", "W/\"a\"", "\"x\", \"a\"", "*"] {
            assert!(unchanged(&headers(&[(IF_NONE_MATCH, yes)]), "\"a\""), "{yes}");
        }
        for no in ["", "a", "\"A\"", "\"ab\"", "\"x\",\"y\""] {
            assert!(!unchanged(&headers(&[(IF_NONE_MATCH, no)]), "\"a\""), "{no}");
        }
    }

    #[test]
    fn one_range_is_cut_to_what_there_is() {
        use Wanted::*;
        let huge = "bytes=5-99999999999999999999999";
        for (given, wanted) in [
            ("bytes=0-0", Part(0..1)),
            ("bytes=2-4", Part(2..5)),
            ("bytes=2-", Part(2..10)),
            ("bytes=-3", Part(7..10)),
            ("bytes=-99", Part(0..10)),
            ("Bytes=9-9", Part(9..10)),
            (huge, Part(5..10)),
            ("bytes=10-", Unsatisfiable),
            ("bytes=99-100", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=4-2", Whole),
            ("bytes=0-1,3-4", Whole),
            ("bytes=", Whole),
            ("bytes=-", Whole),
            ("bytes=a-b", Whole),
            ("bytes=+1-2", Whole),
            ("items=0-1", Whole),
            ("0-1", Whole),
        ] {
            assert_eq!(range(&headers(&[(RANGE, given)]), "\"a\"", 10), wanted, "{given}");
        }
        assert_eq!(range(&headers(&[(RANGE, "bytes=0-0")]), "\"a\"", 0), Unsatisfiable);
    }

    #[test]
    fn a_range_of_another_version_gets_the_whole() {
        let ask = |etag| headers(&[(RANGE, "bytes=0-0"), (IF_RANGE, etag)]);
        assert_eq!(range(&ask("\"a\""), "\"a\"", 10), Wanted::Part(0..1));
        assert_eq!(range(&ask("\"b\""), "\"a\"", 10), Wanted::Whole);
        assert_eq!(range(&ask("W/\"a\""), "\"a\"", 10), Wanted::Whole);
    }
}
