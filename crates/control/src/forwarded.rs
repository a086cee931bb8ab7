//! Which address a request comes from when it passed through proxies.
//!
//! Each proxy appends the address that it was spoken to from, in
//! `X-Forwarded-For` or in `Forwarded` (RFC 7239). What a proxy of ours appended
//! is true, and what stands before it was told by whoever sent it. So the list
//! is read from its end, past the proxies that are trusted, to the first address
//! that is not one of them. Whoever is no trusted proxy can write into these
//! headers what it wants: nobody reads them.
//!
//! Pure: headers and settings in, an address out.

use std::net::{IpAddr, Ipv6Addr};

use http::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};

use crate::network::Network;

/// Hops that are looked at; longer chains end there.
const MAX_HOPS: usize = 16;

/// Bytes of one header line that are looked at, counted from its end.
const MAX_LINE: usize = 2_048;

/// The header that the proxies write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Header {
    /// `X-Forwarded-For: client, proxy`
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client, for=proxy` (RFC 7239)
    Forwarded,
}

impl Header {
    fn name(self) -> HeaderName {
        match self {
            Self::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            Self::Forwarded => http::header::FORWARDED,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::XForwardedFor => Self::Forwarded,
            Self::Forwarded => Self::XForwardedFor,
        }
    }
}

/// The client behind `peer`, who opened the connection.
///
/// `header` is what the trusted proxies write. The other one counts only where
/// `header` is absent: a proxy passes on what it does not know, so it may be
/// the client's invention.
pub fn client(peer: IpAddr, headers: &HeaderMap, header: Header, trusted: &[Network]) -> IpAddr {
    let peer = peer.to_canonical();
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(peer) {
        return peer;
    }
    let header = if headers.contains_key(header.name()) { header } else { header.other() };
    let mut client = peer;
    let mut hops = 0;
    for line in headers.get_all(header.name()).iter().rev() {
        let line = line.as_bytes();
        // What is cut off are the hops farthest away.
        let cut = line.len() > MAX_LINE;
        let line = &line[line.len().saturating_sub(MAX_LINE)..];
        let mut elements = FromTheEnd { rest: Some(line), separator: b',' }.peekable();
        while let Some(element) = elements.next() {
            hops += 1;
            let whole = !cut || elements.peek().is_some();
            // Who is not named, or not readably, is somebody behind the last proxy.
            let Some(address) = hop(element, header).filter(|_| whole && hops <= MAX_HOPS) else {
                return client;
            };
            client = address;
            if !is_trusted(client) {
                return client;
            }
        }
    }
    client
}

/// The address that one proxy appended.
fn hop(element: &[u8], header: Header) -> Option<IpAddr> {
    let node = match header {
        Header::XForwardedFor => element,
        Header::Forwarded => {
            let pairs = FromTheEnd { rest: Some(element), separator: b';' };
            pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
                let (name, value) = pair.split_at_checked(4)?;
                name.eq_ignore_ascii_case(b"for=").then_some(value)
            })?
        }
    };
    address(std::str::from_utf8(node).ok()?.trim())
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]:4711`, quoted or
/// not. Obfuscated names (`_hidden`) and `unknown` are no address.
fn address(node: &str) -> Option<IpAddr> {
    let quoted = node.strip_prefix('"').and_then(|node| node.strip_suffix('"'));
    let node = quoted.unwrap_or(node);
    let address = if let Some(bracketed) = node.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        let port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        IpAddr::V6(address.parse::<Ipv6Addr>().ok().filter(|_| port)?)
    } else if let Ok(address) = node.parse::<IpAddr>() {
        address
    } else {
        let (address, port) = node.rsplit_once(':')?;
        IpAddr::V4(address.parse().ok().filter(|_| is_port(port))?)
    };
    Some(address.to_canonical())
}

/// Digits, or a name that hides them.
fn is_port(text: &str) -> bool {
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !text.is_empty() && text.bytes().all(named)
}

/// The elements of a list, last first. A separator within quotes is none.
/// Quotes are counted from the end too, so that one which a client left open
/// cannot swallow what a proxy appended behind it.
struct FromTheEnd<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
}

impl<'a> Iterator for FromTheEnd<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.take()?;
        let mut quoted = false;
        for (at, &byte) in rest.iter().enumerate().rev() {
            let escaped = at > 0 && rest[at - 1] == b'\\';
            if byte == b'"' && !escaped {
                quoted = !quoted;
            } else if byte == self.separator && !quoted {
                self.rest = Some(&rest[..at]);
                return Some(&rest[at + 1..]);
            }
        }
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn seen(peer: &str, lines: &[(&'static str, &str)]) -> String {
        seen_with(Header::XForwardedFor, peer, lines)
    }

    fn seen_with(header: Header, peer: &str, lines: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let trusted: Vec<Network> =
            ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().unwrap()).into();
        client(peer.parse().unwrap(), &headers, header, &trusted).to_string()
    }

    #[test]
    fn only_what_a_trusted_proxy_says_is_believed() {
        let xff = "x-forwarded-for";
        assert_eq!(seen("192.0.2.1", &[(xff, "198.51.100.7")]), "192.0.2.1");
        assert_eq!(seen(PROXY, &[]), PROXY);
        assert_eq!(seen(PROXY, &[(xff, "198.51.100.7")]), "198.51.100.7");
        assert_eq!(seen("::ffff:10.0.0.1", &[(xff, "198.51.100.7")]), "198.51.100.7");
        // The right-most that is no proxy of ours wins, on any line.
        let chain = "1.1.1.1, 198.51.100.7, 10.2.2.2,10.3.3.3";
        assert_eq!(seen(PROXY, &[(xff, chain)]), "198.51.100.7");
        let lines = [(xff, "1.1.1.1"), (xff, "198.51.100.7"), (xff, "10.2.2.2")];
        assert_eq!(seen(PROXY, &lines), "198.51.100.7");
        assert_eq!(seen(PROXY, &[(xff, "10.9.9.9, 10.2.2.2")]), "10.9.9.9", "all are ours");
    }

    #[test]
    fn both_headers_are_read_in_all_their_forms() {
        let xff = |value| seen(PROXY, &[("x-forwarded-for", value)]);
        assert_eq!(xff("198.51.100.7:4711"), "198.51.100.7");
        assert_eq!(xff("2001:db8::7"), "2001:db8::7");
        assert_eq!(xff("[2001:db8::7]:4711"), "2001:db8::7");
        assert_eq!(xff("::ffff:198.51.100.7"), "198.51.100.7");
        let rfc = |value| seen(PROXY, &[("forwarded", value)]);
        assert_eq!(rfc("for=198.51.100.7"), "198.51.100.7");
        assert_eq!(rfc("For=\"[2001:db8:cafe::17]:4711\""), "2001:db8:cafe::17");
        assert_eq!(rfc("for=192.0.2.60;proto=http;by=203.0.113.43"), "192.0.2.60");
        assert_eq!(rfc("proto=http; for=192.0.2.43, for=198.51.100.17"), "198.51.100.17");
        assert_eq!(
            rfc("for=198.51.100.17;by=\"_a,_b;for=1.1.1.1\", for=10.2.2.2"),
            "198.51.100.17"
        );
        assert_eq!(rfc("for=\"198.51.100.17:_port\""), "198.51.100.17");
    }

    #[test]
    fn who_is_hidden_is_somebody_behind_the_last_proxy() {
        for value in ["unknown", "_hidden", "", ",", "300.1.1.1", "for=1.1.1.1", "[::1", "[::1]x"] {
            assert_eq!(seen(PROXY, &[("x-forwarded-for", value)]), PROXY, "{value}");
            let behind = format!("1.1.1.1, {value}, 10.2.2.2");
            assert_eq!(seen(PROXY, &[("x-forwarded-for", &behind)]), "10.2.2.2", "{value}");
        }
        for value in ["for=unknown", "for=\"_gazonk\"", "by=1.1.1.1", "1.1.1.1", "for"] {
            assert_eq!(seen(PROXY, &[("forwarded", value)]), PROXY, "{value}");
        }
    }

    #[test]
    fn a_header_that_the_proxies_do_not_write_cannot_overrule_theirs() {
        let lines = [("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "198.51.100.7")];
        assert_eq!(seen(PROXY, &lines), "198.51.100.7");
        assert_eq!(seen_with(Header::Forwarded, PROXY, &lines), "1.1.1.1");
        // Nor does a quote left open hide what the proxy appended.
        let open = [("forwarded", "for=\"1.1.1.1, for=198.51.100.7")];
        assert_eq!(seen(PROXY, &open), "198.51.100.7");
    }

    #[test]
    fn long_chains_end() {
        let far = "10.2.2.2, ".repeat(MAX_HOPS) + "10.3.3.3";
        assert_eq!(seen(PROXY, &[("x-forwarded-for", &format!("1.1.1.1, {far}"))]), "10.2.2.2");
        let long = format!("{}, 198.51.100.7", "x".repeat(15_000));
        assert_eq!(seen(PROXY, &[("x-forwarded-for", &long)]), "198.51.100.7");
        let long = format!("{}, 10.2.2.2", "1".repeat(15_000));
        assert_eq!(seen(PROXY, &[("x-forwarded-for", &long)]), "10.2.2.2");
    }

    proptest! {
        /// Whatever a client sends, what the proxy appends is what counts.
        #[test]
        fn no_client_can_hide(sent in "[ -~]{0,200}") {
            let appended = format!("{sent}, 198.51.100.7");
            prop_assert_eq!(seen(PROXY, &[("x-forwarded-for", &appended)]), "198.51.100.7");
            let appended = format!("{sent}, for=198.51.100.7");
            prop_assert_eq!(seen(PROXY, &[("forwarded", &appended)]), "198.51.100.7");
        }
    }
}
