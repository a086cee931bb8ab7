//! What a request's headers ask of an answer: encoding, validity, range.
//!
//! RFC 9110 sections 12.5.3, 13.1.2, 13.1.5 and 14. Not implemented: several
//! ranges in one answer (the whole is sent), dates (there is no Last-Modified).

use std::ops::Range;

use http::header::{ACCEPT_ENCODING, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue};

/// What a request's headers ask of whatever answers it, read once. A request
/// that waits for its answer keeps this and not its headers: they would hold
/// the buffer that they came in.
#[derive(Debug, Default)]
pub struct Terms {
    gzip: bool,
    conditions: Option<Box<Conditions>>,
}

/// What few requests have.
#[derive(Debug, Default)]
struct Conditions {
    none_match: Vec<HeaderValue>,
    range: Option<HeaderValue>,
    if_range: Option<HeaderValue>,
}

impl Terms {
    /// Reads a request's headers.
    pub fn read(headers: &HeaderMap) -> Self {
        let mut codings = Codings::default();
        let mut terms = Self::default();
        for (name, value) in headers {
            if name == ACCEPT_ENCODING {
                codings.add(value);
            } else if name == RANGE {
                terms.conditions().range.get_or_insert_with(|| value.clone());
            } else if name == IF_NONE_MATCH {
                terms.conditions().none_match.push(value.clone());
            } else if name == IF_RANGE {
                terms.conditions().if_range.get_or_insert_with(|| value.clone());
            }
        }
        terms.gzip = codings.prefer_gzip() && !terms.has_range();
        terms
    }

    fn conditions(&mut self) -> &mut Conditions {
        self.conditions.get_or_insert_default()
    }

    fn has_range(&self) -> bool {
        self.conditions.as_ref().is_some_and(|it| it.range.is_some())
    }

    /// Whether a gzip answer is welcome.
    ///
    /// Not to a request for a range: the pieces of a compressed answer mean nothing
    /// by themselves, and Chromium, which asks for ranges of playlists, gives up.
    pub fn gzip(&self) -> bool {
        self.gzip
    }

    /// Neither a range nor an answer only if it has changed is asked for.
    pub fn whole(&self) -> bool {
        let conditions = self.conditions.as_ref();
        conditions.is_none_or(|it| it.range.is_none() && it.none_match.is_empty())
    }

    /// Whether the client has this representation already.
    pub fn unchanged(&self, etag: &str) -> bool {
        let Some(conditions) = &self.conditions else { return false };
        let values = conditions.none_match.iter().filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .any(|given| given == "*" || given.strip_prefix("W/").unwrap_or(given) == etag)
    }

    /// Holds Range and If-Range against a representation of `length` bytes.
    pub fn range(&self, etag: &str, length: usize) -> Wanted {
        let Some(conditions) = &self.conditions else { return Wanted::Whole };
        let Some(range) = &conditions.range else { return Wanted::Whole };
        if conditions.if_range.as_ref().is_some_and(|given| given.as_bytes() != etag.as_bytes()) {
            return Wanted::Whole;
        }
        range.to_str().ok().and_then(|range| parse_range(range, length)).unwrap_or(Wanted::Whole)
    }
}

/// What Accept-Encoding says of gzip: how welcome it is, from 0 to 1, by the first
/// word on each.
#[derive(Default)]
struct Codings {
    /// By its name; the first word on it counts.
    gzip: Option<f32>,
    /// By `*`.
    any: Option<f32>,
    /// Of an answer as it is, where that is said by name.
    identity: Option<f32>,
}

impl Codings {
    fn add(&mut self, value: &HeaderValue) {
        let Ok(value) = value.to_str() else { return };
        for coding in value.split(',') {
            let mut parts = coding.split(';');
            let name = parts.next().unwrap_or_default().trim();
            let quality = parts.find_map(|part| {
                let rest = part.trim().strip_prefix(['q', 'Q'])?.trim_start();
                rest.strip_prefix('=')?.trim().parse::<f32>().ok()
            });
            let quality = quality.filter(|it| (0.0..=1.0).contains(it)).unwrap_or(1.0);
            if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
                self.gzip.get_or_insert(quality);
            } else if name.eq_ignore_ascii_case("identity") {
                self.identity.get_or_insert(quality);
            } else if name == "*" {
                self.any.get_or_insert(quality);
            }
        }
    }

    fn prefer_gzip(&self) -> bool {
        let gzip = self.gzip.or(self.any).unwrap_or(0.0);
        gzip > 0.0 && gzip >= self.identity.unwrap_or(0.0)
    }
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
    use http::HeaderName;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs.map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn accepts_gzip(headers: HeaderMap) -> bool {
        Terms::read(&headers).gzip()
    }

    fn range(headers: HeaderMap, length: usize) -> Wanted {
        Terms::read(&headers).range("\"a\"", length)
    }

    #[test]
    fn gzip_is_sent_to_who_accepts_it() {
        assert!(!accepts_gzip(headers(&[(ACCEPT_ENCODING, "gzip"), (RANGE, "bytes=0-")])));
        for yes in [
            "gzip",
            "deflate, GZIP",
            "br;q=1, gzip;q=0.1",
            "*",
            "x-gzip",
            "gzip ; q=1",
            "identity;q=0.5, gzip",
        ] {
            assert!(accepts_gzip(headers(&[(ACCEPT_ENCODING, yes)])), "{yes}");
        }
        for no in [
            "",
            "identity",
            "br",
            "gzip;q=0",
            "gzip; Q = 0.000, *",
            "*;q=0",
            "gzipped",
            "gzip;q=0.5, identity",
        ] {
            assert!(!accepts_gzip(headers(&[(ACCEPT_ENCODING, no)])), "{no}");
        }
        assert!(!accepts_gzip(HeaderMap::new()));
    }

    #[test]
    fn a_known_etag_is_recognised() {
        for yes in ["\"a\"", "W/\"a\"", "\"x\", \"a\"", "*"] {
            assert!(Terms::read(&headers(&[(IF_NONE_MATCH, yes)])).unchanged("\"a\""), "{yes}");
        }
        for no in ["", "a", "\"A\"", "\"ab\"", "\"x\",\"y\""] {
            assert!(!Terms::read(&headers(&[(IF_NONE_MATCH, no)])).unchanged("\"a\""), "{no}");
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
            assert_eq!(range(headers(&[(RANGE, given)]), 10), wanted, "{given}");
        }
        assert_eq!(range(headers(&[(RANGE, "bytes=0-0")]), 0), Unsatisfiable);
    }

    #[test]
    fn a_range_of_another_version_gets_the_whole() {
        let ask = |etag| headers(&[(RANGE, "bytes=0-0"), (IF_RANGE, etag)]);
        assert_eq!(range(ask("\"a\""), 10), Wanted::Part(0..1));
        assert_eq!(range(ask("\"b\""), 10), Wanted::Whole);
        assert_eq!(range(ask("W/\"a\""), 10), Wanted::Whole);
    }
}
