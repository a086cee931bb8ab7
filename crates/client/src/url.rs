//! Addresses: what is accepted, and how they are shown without their secrets.

use http::Uri;

use crate::Error;

fn bad(url: &str, reason: &'static str) -> Error {
    // A stream key or a viewer's token may be in what was given: show no more
    // than the part before it.
    let shown = url.split(['?', '#']).next().unwrap_or_default();
    let end = shown.char_indices().nth(60).map_or(shown.len(), |(at, _)| at);
    Error::BadUrl { url: shown[..end].to_owned(), reason }
}

/// Parses an `http://` address.
pub(crate) fn http(url: &str) -> Result<Uri, Error> {
    if url.starts_with("https://") {
        return Err(bad(url, "https is not spoken here yet, use the http:// address"));
    }
    if !url.starts_with("http://") {
        return Err(bad(url, "it must begin with http://, as in http://127.0.0.1:8080"));
    }
    let uri: Uri = url.parse().map_err(|_| bad(url, "it does not parse as a URL"))?;
    match uri.host() {
        Some(host) if !host.is_empty() => Ok(uri),
        _ => Err(bad(url, "it names no host")),
    }
}

/// Scheme, host and port: paths may hold a viewer's token.
pub(crate) fn shown(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("http");
    format!("{scheme}://{}", uri.authority().map_or("", |authority| authority.as_str()))
}

/// The last part of the path: a resource's name.
pub(crate) fn file_name(uri: &Uri) -> &str {
    uri.path().rsplit('/').next().unwrap_or_default()
}

/// Resolves a reference found in a playlist or a `Location` (RFC 3986 section
/// 5.2, without dot segments, which our lists do not have).
pub(crate) fn resolve(base: &Uri, reference: &str) -> Result<Uri, Error> {
    if reference.contains("://") {
        return http(reference);
    }
    let root = shown(base);
    if reference.starts_with('/') {
        return http(&format!("{root}{reference}"));
    }
    let path = base.path();
    let folder = &path[..path.rfind('/').map_or(0, |at| at + 1)];
    http(&format!("{root}{folder}{reference}"))
}

/// Where RTMP is published or played: `rtmp://host[:port]/app/name`, the name
/// with its query, i.e. the stream key.
#[derive(Clone, PartialEq, Eq)]
pub struct RtmpUrl {
    /// Host name or address, IPv6 in brackets taken off.
    pub host: String,
    /// Default 1935.
    pub port: u16,
    /// The application, `live`.
    pub app: String,
    /// The stream key or play name, its token included.
    pub name: String,
}

impl RtmpUrl {
    /// Parses an RTMP address.
    ///
    /// # Errors
    /// When it is none, or is RTMPS, which this release does not speak.
    pub fn parse(url: &str) -> Result<Self, Error> {
        if url.starts_with("rtmps://") {
            return Err(bad(url, "rtmps is not spoken here yet, use the rtmp:// address"));
        }
        let Some(rest) = url.strip_prefix("rtmp://") else {
            return Err(bad(url, "it must begin with rtmp://, as in rtmp://127.0.0.1:1935/live"));
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let authority: http::uri::Authority =
            authority.parse().map_err(|_| bad(url, "its host does not parse"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(bad(url, "it names no host"));
        }
        let port = match (authority.port_u16(), authority.as_str().rsplit_once(':')) {
            (Some(port), _) => port,
            (None, Some((_, digits))) if !digits.ends_with(']') => {
                return Err(bad(url, "its port is no number up to 65535"));
            }
            (None, _) => 1935,
        };
        match path.split_once('/') {
            Some((app, name)) if !app.is_empty() && !name.is_empty() => {
                Ok(Self { host, port, app: app.to_owned(), name: name.to_owned() })
            }
            _ => Err(bad(url, "it must end in /live/ and the stream key")),
        }
    }

    /// The URL of the application: what `connect` names as `tcUrl`.
    pub fn tc_url(&self) -> String {
        format!("rtmp://{}/{}", self.authority(), self.app)
    }

    /// Host and port, without the stream key.
    pub fn authority(&self) -> String {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// Hides the stream key.
impl std::fmt::Debug for RtmpUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/…", self.tc_url())
    }
}

/// `uri` with `query` added to its query.
pub(crate) fn with_query(uri: &Uri, query: &str) -> Result<Uri, Error> {
    let joint = if uri.query().is_some() { '&' } else { '?' };
    http(&format!("{uri}{joint}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rtmp_addresses() {
        let url = RtmpUrl::parse("rtmp://h/live/abc?token=x/y").unwrap();
        assert_eq!((url.port, &*url.app, &*url.name), (1935, "live", "abc?token=x/y"));
        assert_eq!(url.tc_url(), "rtmp://h:1935/live");
        let url = RtmpUrl::parse("rtmp://[::1]:19/live/abc").unwrap();
        assert_eq!((&*url.host, url.authority()), ("::1", "[::1]:19".to_owned()));
        for bad in [
            "",
            "http://h/live/a",
            "rtmp://",
            "rtmp://h",
            "rtmp://h/live",
            "rtmp://h/live/",
            "rtmp:///live/a",
            "rtmp://h:99999999/live/a",
            "rtmps://h/live/a",
        ] {
            assert!(RtmpUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_and_debug_hide_the_key() {
        let url = RtmpUrl::parse("rtmp://h/live/abc?token=secret").unwrap();
        assert!(!format!("{url:?}").contains("secret"));
        let error = RtmpUrl::parse("rtmps://h/live/abc?token=secret").unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }

    #[test]
    fn references_resolve() {
        let base = http("http://h:81/v/t/id/index.m3u8").unwrap();
        for (reference, url) in [
            ("chunklist.m3u8", "http://h:81/v/t/id/chunklist.m3u8"),
            ("/a/b", "http://h:81/a/b"),
            ("http://o/x", "http://o/x"),
        ] {
            assert_eq!(resolve(&base, reference).unwrap().to_string(), url);
        }
        assert!(resolve(&base, "ftp://o/x").is_err());
        for bad in ["h:81", "https://h", "http://", "http:// h"] {
            assert!(http(bad).is_err(), "{bad}");
        }
    }
}
