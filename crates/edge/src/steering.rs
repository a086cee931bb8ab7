//! Which edges a player may go to, as it is told in `steering.json`
//! (draft-pantos-hls-rfc8216bis section 7).
//!
//! `index.m3u8` is the same bytes everywhere and names one pathway, `.`: the
//! edge that it was got from. Every other edge is a clone of it under its node
//! id. A player that is well stays where it is; when its edge drains or is lost
//! the edge leaves the document, and the next one in it takes over. Since
//! chunks and sequence numbers are the same on all edges, nothing is missed.
//!
//! - HOST replaces a host name and no port: players set it as a URL's hostname
//!   (hls.js, Shaka) and drop what else it may hold. Where edges differ in more
//!   than the host, each clone therefore says the variant's whole URL too, which
//!   goes before HOST.
//! - A draining edge sends its players to another edge for the next document as
//!   well (RELOAD-URI): it may be stopped soon.
//! - Who leaves an edge goes to the nearest with room; among those about equally
//!   near each viewer has an order of its own, so that a draining edge's viewers
//!   do not arrive all at one.
//!
//! Pure. What is known of the fleet comes from control and stays when control is
//! away. A document is written for each request, a few hundred bytes once per
//! viewer and TTL.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use http::Uri;
use serde::Serialize;
use spyglass_api::control::{Node, Role};
use spyglass_media::steering::{PATHWAY, STEERING, VARIANT};
use spyglass_media::{Location, NodeId, Resource};

/// Alternatives named in one document.
pub const ALTERNATIVES: usize = 8;

/// Longest name of a pathway that is looked at.
pub const LONGEST_PATHWAY: usize = 64;

/// What a full edge's load weighs, in kilometres; it grows with the square.
const FULL_KM: f64 = 2_000.0;

/// Edges that differ by no more than this are equally near, in kilometres.
const COMPARABLE_KM: f64 = 500.0;

/// How far an edge counts that did not say where it stands, in kilometres.
const UNKNOWN_KM: f64 = 30_000.0;

/// Where an edge is reached, as far as a clone can replace it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    url: String,
    secure: bool,
    host: String,
    port: u16,
    path: String,
}

impl Address {
    fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let secure = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let path = uri.path().trim_end_matches('/').to_owned();
        let url = url.trim_end_matches('/').to_owned();
        Some(Self { url, secure, host: uri.host()?.to_owned(), port, path })
    }

    /// Another that differs in its host alone.
    fn is_like(&self, other: &Self) -> bool {
        (self.secure, self.port, &self.path) == (other.secure, other.port, &other.path)
    }
}

#[derive(Clone, Debug)]
struct Alternative {
    id: NodeId,
    address: Address,
    /// In kilometres: the way there and what its load weighs.
    score: f64,
}

/// Who asks, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub struct Player<'a> {
    /// `_HLS_pathway`: where it plays now.
    pathway: Option<&'a str>,
    /// It came over TLS: a browser would not go on without.
    secure: bool,
    /// Stays the same for one viewer.
    seed: u64,
}

impl<'a> Player<'a> {
    /// A player on this pathway; `viewer` tells viewers apart.
    pub fn new(pathway: Option<&'a str>, secure: bool, viewer: impl std::hash::Hash) -> Self {
        let mut seed = DefaultHasher::new();
        viewer.hash(&mut seed);
        Self { pathway, secure, seed: seed.finish() }
    }
}

/// What one edge knows of itself and the others.
#[derive(Clone, Debug)]
pub struct Steering {
    me: NodeId,
    /// Seconds after which players ask again.
    ttl: u32,
    own: Option<Address>,
    draining: bool,
    /// The host alone tells the edges of the fleet apart.
    uniform: bool,
    /// The best first.
    others: Vec<Alternative>,
}

#[derive(Serialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
struct Document<'a> {
    version: u8,
    #[serde(rename = "TTL")]
    ttl: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    reload_uri: Option<String>,
    pathway_priority: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pathway_clones: Vec<PathwayClone<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
struct PathwayClone<'a> {
    base_id: &'static str,
    #[serde(rename = "ID")]
    id: &'a str,
    uri_replacement: UriReplacement<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
struct UriReplacement<'a> {
    host: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_variant_uris: Option<BTreeMap<&'static str, String>>,
}

impl Steering {
    /// The edge `me` that knows of no other, with its URL for viewers. Players
    /// ask again after `ttl` seconds.
    pub fn alone(me: NodeId, url: &str, ttl: u32) -> Self {
        let (own, ttl) = (Address::parse(url), ttl.max(1));
        Self { me, ttl, own, draining: false, uniform: true, others: Vec::new() }
    }

    /// The same, in a fleet as control tells it.
    pub fn among(&self, nodes: &[Node]) -> Self {
        let is_edge = |node: &&Node| node.role() == Role::Edge;
        let here = nodes.iter().filter(is_edge).find(|node| node.id == self.me.as_str());
        let place = |node: &Node| node.location.and_then(|at| Location::try_from(at).ok());
        let from = here.and_then(place);
        let known = nodes.iter().filter(is_edge).filter(|node| node.id != self.me.as_str());
        let known: Vec<(&Node, Address)> =
            known.filter_map(|node| Some((node, Address::parse(&node.http)?))).collect();
        // Those that players may have come from count too.
        let uniform = self
            .own
            .as_ref()
            .is_some_and(|own| known.iter().all(|(_, address)| own.is_like(address)));
        let open = known.into_iter().filter(|(node, _)| !node.draining && !node.lost);
        let mut others: Vec<Alternative> = open
            .filter_map(|(node, address)| {
                let score = score(from, place(node), node.load_percent);
                Some(Alternative { id: node.id.parse().ok()?, address, score })
            })
            .collect();
        others.sort_by(|a, b| a.score.total_cmp(&b.score).then_with(|| a.id.cmp(&b.id)));
        others.truncate(ALTERNATIVES);
        let draining = here.is_some_and(|node| node.draining);
        Self { draining, uniform, others, ..self.clone() }
    }

    /// The document for a player that got it below `path`, `/live/{id}` or
    /// `/v/{token}/{id}`.
    pub fn document(&self, path: &str, player: Player<'_>) -> String {
        let secure = player.secure || self.own.as_ref().is_some_and(|own| own.secure);
        let mut others: Vec<&Alternative> =
            self.others.iter().filter(|other| other.address.secure || !secure).collect();
        spread(&mut others, player.seed);
        // On the pathway that this edge's own index.m3u8 names.
        let based_here = player.pathway.is_none_or(|pathway| pathway == PATHWAY);
        let own = if based_here { None } else { self.own.as_ref() };
        let me = if based_here || own.is_none() { PATHWAY } else { self.me.as_str() };
        // Whoever is on another edge that is well stays there.
        if let Some(at) = others.iter().position(|other| player.pathway == Some(other.id.as_str()))
        {
            others[..=at].rotate_right(1);
        } else if !self.draining || others.is_empty() {
            return self.write(path, me, own, &others, true);
        }
        self.write(path, me, own, &others, false)
    }

    /// `first`: this edge goes before the others, not behind them or, while it
    /// drains, nowhere.
    fn write(
        &self,
        path: &str,
        me: &str,
        own: Option<&Address>,
        others: &[&Alternative],
        first: bool,
    ) -> String {
        let named = |id, address| (id, Some(address));
        let mut ways: Vec<(&str, Option<&Address>)> =
            others.iter().map(|other| named(other.id.as_str(), &other.address)).collect();
        match (first, self.draining) {
            (true, _) => ways.insert(0, (me, own)),
            (false, true) => {}
            (false, false) => ways.push((me, own)),
        }
        let clones = ways.iter().filter_map(|(id, address)| {
            let address = (*address)?;
            let whole = |address: &Address| {
                let url = format!("{}{path}/{}", address.url, Resource::Chunklist);
                BTreeMap::from([(VARIANT, url)])
            };
            Some(PathwayClone {
                base_id: PATHWAY,
                id,
                uri_replacement: UriReplacement {
                    host: &address.host,
                    per_variant_uris: (!self.uniform).then(|| whole(address)),
                },
            })
        });
        let elsewhere = others.first().filter(|_| self.draining);
        let document = Document {
            version: 1,
            ttl: self.ttl,
            reload_uri: elsewhere.map(|next| format!("{}{path}/{STEERING}", next.address.url)),
            pathway_clones: clones.collect(),
            pathway_priority: ways.iter().map(|(id, _)| *id).collect(),
        };
        // Strings, numbers and lists always serialise.
        serde_json::to_string(&document).unwrap_or_default()
    }
}

fn score(from: Option<Location>, to: Option<Location>, load_percent: u32) -> f64 {
    let km = match (from, to) {
        (Some(from), Some(to)) => from.distance_km(to),
        (Some(_), None) => UNKNOWN_KM,
        (None, _) => 0.0,
    };
    // A full one stands behind all others and is better than none.
    let full = if load_percent >= 100 { 2.0 * UNKNOWN_KM } else { 0.0 };
    km + FULL_KM * (f64::from(load_percent.min(100)) / 100.0).powi(2) + full
}

/// Puts those that are about as good as the first in an order of this viewer's
/// own (rendezvous hashing), which changes least when one of them goes.
fn spread(others: &mut [&Alternative], seed: u64) {
    let Some(best) = others.first().map(|first| first.score) else { return };
    let near = others.partition_point(|other| other.score <= best + COMPARABLE_KM);
    others[..near].sort_by_cached_key(|other| {
        let mut weight = DefaultHasher::new();
        (seed, other.id.as_str()).hash(&mut weight);
        std::cmp::Reverse(weight.finish())
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const PATH: &str = "/v/v4.public.T/0123456789abc";

    fn node(id: &str, http: &str) -> Node {
        Node { id: id.into(), role: Role::Edge.into(), http: http.into(), ..Node::default() }
    }

    fn at(node: Node, latitude: f64) -> Node {
        let location = Location::new(latitude, 0.0).unwrap();
        Node { location: Some(location.into()), ..node }
    }

    /// Edge `a` among these.
    fn steering(nodes: &[Node]) -> Steering {
        let a = nodes.iter().find(|node| node.id == "a").unwrap();
        Steering::alone("a".parse().unwrap(), &a.http, 10).among(nodes)
    }

    fn ask(steering: &Steering, pathway: Option<&str>, seed: u64) -> Value {
        let player = Player { pathway, secure: false, seed };
        serde_json::from_str(&steering.document(PATH, player)).unwrap()
    }

    fn fleet(draining: &[&str], lost: &[&str]) -> Vec<Node> {
        ["a", "b", "c"]
            .iter()
            .zip([0.0, 10.0, 20.0])
            .map(|(id, latitude)| Node {
                draining: draining.contains(id),
                lost: lost.contains(id),
                ..at(node(id, &format!("https://{id}.example")), latitude)
            })
            .collect()
    }

    #[test]
    fn an_edge_that_is_well_comes_first_and_the_others_by_distance() {
        assert_eq!(
            ask(&steering(&fleet(&[], &[])), None, 1),
            json!({
                "VERSION": 1,
                "TTL": 10,
                "PATHWAY-PRIORITY": [".", "b", "c"],
                "PATHWAY-CLONES": [
                    {"BASE-ID": ".", "ID": "b", "URI-REPLACEMENT": {"HOST": "b.example"}},
                    {"BASE-ID": ".", "ID": "c", "URI-REPLACEMENT": {"HOST": "c.example"}},
                ],
            })
        );
    }

    #[test]
    fn who_knows_of_nobody_names_itself() {
        let alone = Steering::alone("a".parse().unwrap(), "http://a", 300);
        let only = json!({"VERSION": 1, "TTL": 300, "PATHWAY-PRIORITY": ["."]});
        assert_eq!(ask(&alone, None, 1), only);
        assert_eq!(ask(&alone.among(&[node("a", "http://a")]), Some("."), 1), only);
        // Origins are no alternative, nor is what has no usable address.
        let origin = Node { role: Role::Origin.into(), ..node("o", "http://o") };
        let odd = [origin, node("x", ""), node("y", "ftp://y"), node("Z z", "http://z")];
        assert_eq!(ask(&alone.among(&odd), None, 1), only);
    }

    #[test]
    fn a_draining_edge_sends_its_players_and_their_next_question_elsewhere() {
        let document = ask(&steering(&fleet(&["a"], &[])), Some("."), 1);
        assert_eq!(document["PATHWAY-PRIORITY"], json!(["b", "c"]));
        assert_eq!(document["RELOAD-URI"], format!("https://b.example{PATH}/steering.json"));
        let document = ask(&steering(&fleet(&["a"], &[])), Some("c"), 1);
        assert_eq!(document["PATHWAY-PRIORITY"], json!(["c", "b"]));
        // With nowhere to go it serves on.
        let document = ask(&steering(&fleet(&["a", "b"], &["c"])), Some("."), 1);
        assert_eq!(document["PATHWAY-PRIORITY"], json!(["."]));
        assert_eq!(document["RELOAD-URI"], Value::Null);
    }

    #[test]
    fn draining_and_lost_edges_are_not_named() {
        let document = ask(&steering(&fleet(&["b"], &[])), None, 1);
        assert_eq!(document["PATHWAY-PRIORITY"], json!([".", "c"]));
        let document = ask(&steering(&fleet(&[], &["c"])), None, 1);
        assert_eq!(document["PATHWAY-PRIORITY"], json!([".", "b"]));
        assert_eq!(document["PATHWAY-CLONES"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn whoever_came_from_elsewhere_is_told_names_that_hold_everywhere() {
        // It plays from b: it stays there.
        let document = ask(&steering(&fleet(&[], &[])), Some("b"), 1);
        assert_eq!(document["PATHWAY-PRIORITY"], json!(["b", "c", "a"]));
        assert_eq!(document["PATHWAY-CLONES"][2]["ID"], "a");
        assert_eq!(document["PATHWAY-CLONES"][2]["URI-REPLACEMENT"]["HOST"], "a.example");
        // b is gone: it comes here.
        let document = ask(&steering(&fleet(&[], &["b"])), Some("b"), 1);
        assert_eq!(document["PATHWAY-PRIORITY"], json!(["a", "c"]));
        // It plays from here already, under this edge's own name.
        let document = ask(&steering(&fleet(&[], &[])), Some("a"), 1);
        assert_eq!(document["PATHWAY-PRIORITY"], json!(["a", "b", "c"]));
    }

    #[test]
    fn where_more_than_the_host_differs_clones_give_the_whole_url() {
        let nodes = [node("a", "http://127.0.0.1:8281"), node("b", "http://127.0.0.1:8282")];
        let document = ask(&steering(&nodes), None, 1);
        let replacement = &document["PATHWAY-CLONES"][0]["URI-REPLACEMENT"];
        assert_eq!(
            *replacement,
            json!({
                "HOST": "127.0.0.1",
                "PER-VARIANT-URIS": {"main": format!("http://127.0.0.1:8282{PATH}/chunklist.m3u8")},
            })
        );
        for (a, b, same) in [
            ("https://a", "https://b:443", true),
            ("http://a/", "http://b", true),
            ("http://a:81", "http://[2001:db8::1]:81", true),
            ("http://a/x", "http://b/x/", true),
            ("http://a/x", "http://b", false),
            ("http://a", "https://b", false),
        ] {
            let document = ask(&steering(&[node("a", a), node("b", b)]), None, 1);
            let replacement = &document["PATHWAY-CLONES"][0]["URI-REPLACEMENT"];
            assert_eq!(replacement.get("PER-VARIANT-URIS").is_none(), same, "{a} {b}");
        }
    }

    #[test]
    fn nobody_is_sent_from_https_to_http() {
        let nodes = [node("a", "https://a"), node("b", "http://b"), node("c", "https://c")];
        let document = ask(&steering(&nodes), None, 1);
        assert_eq!(document["PATHWAY-PRIORITY"], json!([".", "c"]));
        let plain = steering(&[node("a", "http://a"), node("b", "http://b")]);
        let secure = plain.document(PATH, Player::new(None, true, 1));
        assert!(secure.contains(r#""PATHWAY-PRIORITY":["."]"#), "{secure}");
    }

    #[test]
    fn a_draining_edges_viewers_are_spread_over_those_equally_near() {
        let mut nodes = vec![Node { draining: true, ..node("a", "http://a") }];
        nodes.extend((0..4).map(|n| node(&format!("n{n}"), &format!("http://n{n}"))));
        nodes.push(Node { load_percent: 100, ..node("full", "http://full") });
        let steering = steering(&nodes);
        let mut first: BTreeMap<String, u32> = BTreeMap::new();
        for seed in 0..1_000 {
            let document = ask(&steering, Some("."), seed);
            assert_eq!(document, ask(&steering, Some("."), seed), "one viewer, one order");
            assert_eq!(document["PATHWAY-PRIORITY"][4], "full");
            let name = document["PATHWAY-PRIORITY"][0].as_str().unwrap().to_owned();
            *first.entry(name).or_default() += 1;
        }
        assert_eq!(first.len(), 4);
        assert!(first.values().all(|count| (190..310).contains(count)), "{first:?}");
    }

    proptest! {
        #[test]
        fn a_document_is_bounded_and_names_no_pathway_that_it_does_not_define(
            nodes in prop::collection::vec((0u8..30, any::<bool>(), any::<bool>(), 0u32..200), 0..60),
            pathway in prop::option::of("(a|e[0-9]{1,2}|\\.|[a-z.]{0,5})"),
            seed: u64,
        ) {
            let mut nodes: Vec<Node> = nodes.into_iter().map(|(n, draining, lost, load_percent)| {
                let node = node(&format!("e{n}"), &format!("http://e{n}.example"));
                Node { draining, lost, load_percent, ..node }
            }).collect();
            nodes.push(node("a", "http://a.example"));
            let document = ask(&steering(&nodes), pathway.as_deref(), seed);
            let priority = document["PATHWAY-PRIORITY"].as_array().unwrap();
            let none = Vec::new();
            let clones = document["PATHWAY-CLONES"].as_array().unwrap_or(&none);
            prop_assert!((1..=ALTERNATIVES + 1).contains(&priority.len()));
            prop_assert!(document.to_string().len() < 2_048);
            for id in priority.iter().filter(|id| *id != ".") {
                let defined = clones.iter().filter(|clone| clone["ID"] == *id).count();
                prop_assert!(defined >= 1, "{}", document);
            }
        }
    }
}
