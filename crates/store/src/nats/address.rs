//! Where NATS is, and how keys are called there. Pure.

/// `nats://[user:pass@]host:port[,host:port…][/prefix]`, or `tls://`.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// With the scheme, without credentials: these may be shown.
    pub(super) servers: Vec<String>,
    pub(super) login: Option<(String, String)>,
    /// What stands before all names, so that clusters can share a server.
    pub(super) prefix: String,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}

/// What is said of an address that is none.
pub const ADVICE: &str =
    "give nats://[user:password@]host:port[,host:port...][/prefix], or tls:// for TLS";

impl Address {
    /// Reads it; `None` when it has another form ([`ADVICE`]).
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        if !matches!(scheme, "nats" | "tls") {
            return None;
        }
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => {
                let (user, password) = login.split_once(':')?;
                (Some((user.to_owned(), password.to_owned())), rest)
            }
            None => (None, rest),
        };
        let (hosts, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = if prefix.is_empty() { "spyglass" } else { prefix };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if prefix.len() > 32 || !prefix.bytes().all(fits) {
            return None;
        }
        let server = |host: &str| {
            let (name, port) = host.rsplit_once(':')?;
            let graphic = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
            (graphic && port.parse::<u16>().is_ok()).then(|| format!("{scheme}://{host}"))
        };
        let servers = hosts.split(',').map(server).collect::<Option<Vec<_>>>()?;
        Some(Self { servers, login, prefix: prefix.to_owned() })
    }

    /// For people: without credentials.
    pub fn shown(&self) -> String {
        format!("{} (prefix {})", self.servers.join(","), self.prefix)
    }
}

/// A key as the end of a subject: `/` separates tokens there as `.` does, a
/// `.` becomes `=`, which keys do not have, and an empty token becomes `%`.
pub(super) fn encode(key: &str) -> String {
    let token = |token: &str| match token {
        "" => "%".to_owned(),
        token => token.replace('.', "="),
    };
    key.split('/').map(token).collect::<Vec<_>>().join(".")
}

/// What [`encode`] made of a key.
pub(super) fn decode(subject: &str) -> String {
    let token = |token: &str| match token {
        "%" => String::new(),
        token => token.replace('=', "."),
    };
    subject.split('.').map(token).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_read_and_shown_without_their_secrets() {
        let address = Address::parse("nats://me:s@cret@10.0.0.5:4222,[::1]:4223/two").unwrap();
        assert_eq!(address.servers, ["nats://10.0.0.5:4222", "nats://[::1]:4223"]);
        assert_eq!(address.login, Some(("me".to_owned(), "s@cret".to_owned())));
        assert_eq!(address.prefix, "two");
        assert!(!format!("{address:?}").contains("cret"));
        assert_eq!(Address::parse("tls://nats:4222").unwrap().prefix, "spyglass");
        for wrong in ["nats://h", "http://h:1", "nats://h:1/a.b", "nats://:1", "h:1", "nats://"] {
            assert_eq!(Address::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn keys_come_back_from_their_subjects(key in "[A-Za-z0-9/._-]{1,40}") {
            let subject = encode(&key);
            prop_assert!(subject.split('.').all(|token| !token.is_empty()));
            prop_assert_eq!(decode(&subject), key);
        }
    }
}
