//! Which pathway, i.e. edge, to play from, as a server's steering document says
//! (draft-pantos-hls-rfc8216bis section 7). Pure; `guide` asks for documents.
//!
//! A sequence names the same bytes on every pathway, so changing over is no more
//! than another address for the media playlist. A pathway that failed is left
//! alone for [`PENALTY`], however often the document names it first.
//!
//! Of several variants on one pathway the first is played, as everywhere here.
//! Not implemented: PARAMS of a clone (such a clone is passed over), renditions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::Uri;
use http::uri::Authority;
use serde::Deserialize;

use super::parts::attribute;
use crate::{Error, url};

/// How long a pathway that failed is not gone back to.
pub(super) const PENALTY: Duration = Duration::from_secs(60);

/// When to ask again where the server names no time (section 7.2's default).
const TTL: Duration = Duration::from_secs(300);

/// A server must not be able to keep a viewer busy, nor to send it to sleep.
const TTL_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// Pathways kept; ours name at most nine.
const MAX_WAYS: usize = 32;

/// What a multivariant playlist says of steering.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Offer {
    /// SERVER-URI, relative to the playlist.
    server: String,
    /// PATHWAY-ID: where to begin.
    pathway: Option<String>,
    /// The first variant of each pathway.
    variants: Vec<Variant>,
}

#[derive(Clone, Debug, PartialEq)]
struct Variant {
    pathway: String,
    /// STABLE-VARIANT-ID.
    id: Option<String>,
    uri: String,
}

/// `None` for a playlist without EXT-X-CONTENT-STEERING (section 4.4.6.6) or
/// without a variant.
pub(super) fn read(text: &str) -> Option<Offer> {
    let mut steering = None;
    let mut variants: Vec<Variant> = Vec::new();
    let mut stream = None;
    for line in text.lines().map(str::trim_end) {
        if let Some(value) = line.strip_prefix("#EXT-X-CONTENT-STEERING:") {
            let pathway = attribute(value, "PATHWAY-ID").map(str::to_owned);
            steering = Some((attribute(value, "SERVER-URI")?.to_owned(), pathway));
        } else if let Some(value) = line.strip_prefix("#EXT-X-STREAM-INF:") {
            stream = Some(value);
        } else if !line.is_empty()
            && !line.starts_with('#')
            && let Some(value) = stream.take()
        {
            let pathway = attribute(value, "PATHWAY-ID").unwrap_or(".").to_owned();
            let known = variants.iter().any(|variant| variant.pathway == pathway);
            if !known && variants.len() < MAX_WAYS {
                let id = attribute(value, "STABLE-VARIANT-ID").map(str::to_owned);
                variants.push(Variant { pathway, id, uri: line.to_owned() });
            }
        }
    }
    let (server, pathway) = steering?;
    (!variants.is_empty()).then_some(Offer { server, pathway, variants })
}

/// A steering document (section 7.1).
#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
struct Document {
    version: u64,
    #[serde(rename = "TTL")]
    ttl: Option<f64>,
    reload_uri: Option<String>,
    pathway_priority: Vec<String>,
    #[serde(default)]
    pathway_clones: Vec<PathwayClone>,
}

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
struct PathwayClone {
    base_id: String,
    #[serde(rename = "ID")]
    id: String,
    uri_replacement: UriReplacement,
}

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
struct UriReplacement {
    host: Option<String>,
    params: Option<serde_json::Value>,
    #[serde(default)]
    per_variant_uris: BTreeMap<String, String>,
}

/// One way to the media playlist.
#[derive(Clone, Debug)]
struct Way {
    id: String,
    /// STABLE-VARIANT-ID.
    variant: Option<String>,
    media: Uri,
    failed: Option<Instant>,
}

impl Way {
    fn usable(&self, now: Instant) -> bool {
        self.failed.is_none_or(|at| now.saturating_duration_since(at) >= PENALTY)
    }

    fn cloned(&self, id: String, replacement: &UriReplacement) -> Result<Self, Error> {
        let whole = self.variant.as_ref().and_then(|id| replacement.per_variant_uris.get(id));
        let media = match (whole, &replacement.host) {
            (Some(whole), _) => url::http(whole)?,
            (None, Some(host)) => with_host(&self.media, host)?,
            (None, None) => self.media.clone(),
        };
        Ok(Self { id, variant: self.variant.clone(), media, failed: None })
    }
}

/// The same on another host: port, path and query stay.
fn with_host(uri: &Uri, host: &str) -> Result<Uri, Error> {
    let bad = |reason| Error::BadUrl { url: url::shown(uri), reason };
    let plain = host.parse::<Authority>().is_ok_and(|parsed| parsed.host() == host);
    if !plain {
        return Err(bad("its clone's HOST is no host name"));
    }
    let port = uri.port().map(|port| format!(":{port}")).unwrap_or_default();
    let rest = uri.path_and_query().map_or("/", |rest| rest.as_str());
    url::http(&format!("{}://{host}{port}{rest}", uri.scheme_str().unwrap_or("http")))
}

/// The pathways of one broadcast and the one that is played from.
#[derive(Clone, Debug)]
pub(super) struct Pathways {
    server: Uri,
    /// Never empty.
    ways: Vec<Way>,
    /// Ids, the best first; of ways that may not be known.
    order: Vec<String>,
    at: usize,
    ttl: Duration,
    /// When to ask next; `None`: never again.
    due: Option<Instant>,
    /// Bits per second of the last transfer.
    throughput: Option<u64>,
}

impl Pathways {
    /// As the playlist at `index` offers them. The first document is due at once.
    pub(super) fn new(index: &Uri, offer: &Offer, now: Instant) -> Result<Self, Error> {
        let way = |variant: &Variant| {
            let media = url::resolve(index, &variant.uri)?;
            let (id, stable) = (variant.pathway.clone(), variant.id.clone());
            Ok::<_, Error>(Way { id, variant: stable, media, failed: None })
        };
        let ways = offer.variants.iter().map(way).collect::<Result<Vec<_>, _>>()?;
        let wanted = |way: &Way| Some(&way.id) == offer.pathway.as_ref();
        Ok(Self {
            server: url::resolve(index, &offer.server)?,
            at: ways.iter().position(wanted).unwrap_or(0),
            order: ways.iter().map(|way| way.id.clone()).collect(),
            ways,
            ttl: TTL,
            due: Some(now),
            throughput: None,
        })
    }

    /// The media playlist on the present pathway.
    pub(super) fn media(&self) -> Option<&Uri> {
        self.ways.get(self.at).map(|way| &way.media)
    }

    /// So many bytes came in so long a time.
    pub(super) fn on_transfer(&mut self, bytes: usize, took: Duration) {
        let bits = u128::try_from(bytes).unwrap_or(u128::MAX).saturating_mul(8_000_000);
        // What came all at once tells nothing.
        if took >= Duration::from_millis(1) {
            self.throughput = u64::try_from(bits / took.as_micros()).ok();
        }
    }

    /// What to ask, when it is time to (section 7.2).
    pub(super) fn question(&self, now: Instant) -> Option<Uri> {
        self.due.filter(|due| *due <= now)?;
        let id = self.ways.get(self.at).map_or(".", |way| &way.id);
        // Letters, digits, `.`, `-` and `_` need no escape; another name is not told.
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let pathway = id.bytes().all(legal).then(|| format!("_HLS_pathway={id}")).into_iter();
        let throughput = self.throughput.map(|bits| format!("_HLS_throughput={bits}"));
        let query: Vec<_> = pathway.chain(throughput).collect();
        url::with_query(&self.server, &query.join("&")).ok()
    }

    /// No document came: asked again after a TTL or what the server named; never
    /// again where it is `gone` (410).
    pub(super) fn on_failure(&mut self, gone: bool, retry: Option<Duration>, now: Instant) {
        let wait = retry.unwrap_or(self.ttl).clamp(TTL_BOUNDS.0, TTL_BOUNDS.1);
        self.due = (!gone).then(|| now + wait);
    }

    /// A document: where to play from now, when that is another pathway.
    pub(super) fn on_document(&mut self, body: &[u8], now: Instant) -> Result<Option<Uri>, Error> {
        let bad = |reason: String| Error::BadAnswer { url: url::shown(&self.server), reason };
        let document: Document = serde_json::from_slice(body)
            .map_err(|error| bad(format!("the steering document is none: {error}")))?;
        if document.version != 1 || document.pathway_priority.is_empty() {
            return Err(bad("the steering document is of a version not known here".to_owned()));
        }
        let ttl = document.ttl.and_then(|ttl| Duration::try_from_secs_f64(ttl).ok());
        self.ttl = ttl.unwrap_or(TTL).clamp(TTL_BOUNDS.0, TTL_BOUNDS.1);
        self.due = Some(now + self.ttl);
        if let Some(reload) = &document.reload_uri {
            self.server = url::resolve(&self.server, reload)?;
        }
        for clone in document.pathway_clones {
            self.add(clone);
        }
        self.order = document.pathway_priority;
        self.order.truncate(MAX_WAYS);
        Ok(self.turn(now))
    }

    /// A name that is known already keeps its meaning.
    fn add(&mut self, clone: PathwayClone) {
        let known = self.ways.iter().any(|way| way.id == clone.id);
        if known || self.ways.len() >= MAX_WAYS || clone.uri_replacement.params.is_some() {
            return;
        }
        let Some(base) = self.ways.iter().find(|way| way.id == clone.base_id) else { return };
        match base.cloned(clone.id, &clone.uri_replacement) {
            Ok(way) => self.ways.push(way),
            Err(error) => tracing::debug!(%error, "a pathway clone is passed over"),
        }
    }

    /// To the best that did not fail; stays where none is.
    fn turn(&mut self, now: Instant) -> Option<Uri> {
        let place = |id: &String| self.ways.iter().position(|way| way.id == *id);
        let best = self.order.iter().filter_map(place).find(|at| self.ways[*at].usable(now))?;
        self.go(best)
    }

    fn go(&mut self, at: usize) -> Option<Uri> {
        let moved = at != self.at;
        self.at = at;
        self.media().filter(|_| moved).cloned()
    }

    /// The present pathway failed: where to play from now, unless all did.
    pub(super) fn fail(&mut self, now: Instant) -> Option<Uri> {
        if let Some(way) = self.ways.get_mut(self.at) {
            way.failed = Some(now);
        }
        self.turn(now)
    }

    /// All failed: they are forgiven, and the next one in turn has its chance.
    pub(super) fn around(&mut self) -> Option<Uri> {
        self.ways.iter_mut().for_each(|way| way.failed = None);
        self.go((self.at + 1) % self.ways.len().max(1))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const INDEX: &str = "#EXTM3U
#EXT-X-CONTENT-STEERING:SERVER-URI=\"steering.json\",PATHWAY-ID=\".\"
#EXT-X-STREAM-INF:BANDWIDTH=1,STABLE-VARIANT-ID=\"main\",PATHWAY-ID=\".\"
chunklist.m3u8
";

    fn pathways(now: Instant) -> Pathways {
        let index: Uri = "http://a.example:81/v/t/x/index.m3u8".parse().unwrap();
        Pathways::new(&index, &read(INDEX).unwrap(), now).unwrap()
    }

    fn tell(ways: &mut Pathways, priority: &[&str], clones: Value, now: Instant) -> Option<String> {
        let document = json!({"VERSION": 1, "TTL": 10, "PATHWAY-PRIORITY": priority,
            "PATHWAY-CLONES": clones});
        let moved = ways.on_document(document.to_string().as_bytes(), now).unwrap();
        moved.map(|uri| uri.to_string())
    }

    fn hosts(ids: &[&str]) -> Value {
        let clone = |id: &&str| json!({"BASE-ID": ".", "ID": id, "URI-REPLACEMENT": {"HOST": format!("{id}.example")}});
        ids.iter().map(clone).collect()
    }

    #[test]
    fn only_a_playlist_that_offers_steering_is_steered() {
        assert_eq!(read("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nchunklist.m3u8\n"), None);
        assert_eq!(read("#EXTM3U\n#EXT-X-CONTENT-STEERING:SERVER-URI=\"s\"\n"), None);
        for length in 0..INDEX.len() {
            let _ = read(&INDEX[..length]);
        }
        // It begins where the tag says, not with the first.
        let text = "#EXT-X-CONTENT-STEERING:SERVER-URI=\"/s?k=1\",PATHWAY-ID=\"b\"\n\
                    #EXT-X-STREAM-INF:PATHWAY-ID=\"a\"\na/1\n#EXT-X-STREAM-INF:PATHWAY-ID=\"a\"\na/2\n\
                    #EXT-X-STREAM-INF:PATHWAY-ID=\"b\"\nb/1\n";
        let now = Instant::now();
        let index = "http://h/x/index.m3u8".parse().unwrap();
        let mut ways = Pathways::new(&index, &read(text).unwrap(), now).unwrap();
        assert_eq!(ways.media().unwrap(), "http://h/x/b/1");
        assert_eq!(ways.question(now).unwrap(), "http://h/s?k=1&_HLS_pathway=b");
        assert_eq!(ways.fail(now).unwrap(), "http://h/x/a/1");
    }

    #[test]
    fn questions_come_after_each_ttl_and_say_where_and_how_fast() {
        let now = Instant::now();
        let mut ways = pathways(now);
        let server = "http://a.example:81/v/t/x/steering.json";
        assert_eq!(ways.question(now).unwrap(), *format!("{server}?_HLS_pathway=."));
        tell(&mut ways, &["."], json!([]), now);
        assert_eq!(ways.question(now + Duration::from_secs(9)), None);
        ways.on_transfer(1_000, Duration::from_micros(3));
        ways.on_transfer(1_000, Duration::from_millis(8));
        let later = now + Duration::from_secs(10);
        let asked = format!("{server}?_HLS_pathway=.&_HLS_throughput=1000000");
        assert_eq!(ways.question(later).unwrap(), *asked);
        ways.on_failure(false, None, later);
        assert_eq!(ways.question(later + Duration::from_secs(9)), None);
        assert!(ways.question(later + Duration::from_secs(10)).is_some());
        ways.on_failure(false, Some(Duration::from_secs(30)), later);
        assert_eq!(ways.question(later + Duration::from_secs(29)), None);
        ways.on_failure(true, None, later);
        assert_eq!(ways.question(later + Duration::from_secs(9_999)), None);
    }

    #[test]
    fn the_first_in_the_list_is_played_and_a_clone_replaces_the_host_alone() {
        let now = Instant::now();
        let mut ways = pathways(now);
        assert_eq!(tell(&mut ways, &[".", "b"], hosts(&["b"]), now), None);
        let moved = tell(&mut ways, &["zz", "b", "."], hosts(&["b"]), now);
        assert_eq!(moved.unwrap(), "http://b.example:81/v/t/x/chunklist.m3u8");
        assert!(ways.question(now + TTL).unwrap().to_string().contains("_HLS_pathway=b"));
        // Clones hold although a later document does not repeat them, and keep their meaning.
        let other = json!([{"BASE-ID": ".", "ID": "b", "URI-REPLACEMENT": {"HOST": "evil"}}]);
        tell(&mut ways, &["."], json!([]), now);
        let moved = tell(&mut ways, &["b"], other, now);
        assert_eq!(moved.unwrap(), "http://b.example:81/v/t/x/chunklist.m3u8");
    }

    #[test]
    fn a_clone_may_give_the_whole_address_and_a_bad_one_is_passed_over() {
        let now = Instant::now();
        let mut ways = pathways(now);
        let clone = |id: &str, base: &str, replacement: Value| json!({"BASE-ID": base, "ID": id, "URI-REPLACEMENT": replacement});
        let whole = json!({"HOST": "h", "PER-VARIANT-URIS": {"main": "http://h:82/list"}});
        let clones = json!([
            clone("p", ".", json!({"HOST": "p", "PARAMS": {"x": "y"}})),
            clone("q", "nobody", json!({"HOST": "q"})),
            clone("r", ".", json!({"HOST": "r/../evil"})),
            clone("s", ".", json!({"HOST": "user@s"})),
            clone("t", ".", json!({"HOST": "t:99"})),
            clone("u", ".", json!({"PER-VARIANT-URIS": {"main": "file:///etc/passwd"}})),
            clone("w", ".", whole),
            clone("x", "w", json!({"HOST": "[2001:db8::1]"})),
        ]);
        let order = ["p", "q", "r", "s", "t", "u", "w", "x"];
        assert_eq!(tell(&mut ways, &order, clones, now).unwrap(), "http://h:82/list");
        assert_eq!(ways.fail(now).unwrap(), "http://[2001:db8::1]:82/list");
    }

    #[test]
    fn who_failed_is_left_alone_for_a_while() {
        let now = Instant::now();
        let mut ways = pathways(now);
        tell(&mut ways, &[".", "b"], hosts(&["b"]), now);
        assert!(ways.fail(now).unwrap().to_string().starts_with("http://b."));
        let later = now + PENALTY - Duration::from_millis(1);
        assert_eq!(tell(&mut ways, &[".", "b"], json!([]), later), None);
        assert_eq!(ways.fail(later), None, "all have failed");
        // None is left: each has another chance, one after the other.
        assert!(ways.around().unwrap().to_string().starts_with("http://a."));
        let mut ways = pathways(now);
        tell(&mut ways, &[".", "b"], hosts(&["b"]), now);
        ways.fail(now);
        let back = tell(&mut ways, &[".", "b"], json!([]), now + PENALTY);
        assert!(back.unwrap().starts_with("http://a."));
    }

    #[test]
    fn no_document_makes_it_busy_or_large() {
        let now = Instant::now();
        let mut ways = pathways(now);
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"VERSION":2,"PATHWAY-PRIORITY":["."]}"#,
            r#"{"VERSION":1,"PATHWAY-PRIORITY":[]}"#,
        ] {
            assert!(ways.on_document(bad.as_bytes(), now).is_err(), "{bad}");
        }
        let names: Vec<String> = (0..1_000).map(|n| format!("n{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        tell(&mut ways, &names, hosts(&names), now);
        assert_eq!((ways.ways.len(), ways.order.len()), (MAX_WAYS, MAX_WAYS));
        for ttl in ["0", "-1", "1e300", "1e9"] {
            let text = format!(r#"{{"VERSION":1,"TTL":{ttl},"PATHWAY-PRIORITY":["."]}}"#);
            ways.on_document(text.as_bytes(), now).unwrap();
            assert!(ways.due.unwrap() >= now + TTL_BOUNDS.0, "{ttl}");
            assert!(ways.due.unwrap() <= now + TTL_BOUNDS.1, "{ttl}");
        }
    }
}
