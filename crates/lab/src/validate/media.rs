//! The bytes behind the lists: available when listed, the same at every server,
//! parts that make up their segment, and still there after removal. Rules P2,
//! P6, P7, P14 and L2, as far as requests show them.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::finding::{Finding, Findings, Rule};
use super::judge::Promise;
use super::list::{List, Segment};
use super::{PLAIN, Server};
use crate::request::{Http, resolve};

/// Largest segment, in bytes.
const MAX_MEDIA: usize = 64 * 1024 * 1024;

/// Segments whose parts and digests are kept.
const REMEMBERED: usize = 256;

/// How long before its time is over a removed segment is asked for.
const BEFORE: Duration = Duration::from_millis(400);

/// Removed segments that wait to be asked for.
const PROMISES: usize = 4_096;

/// See the module.
pub(super) struct Media {
    http: Http,
    /// By URI, in the order of fetching; the digest and who has shown it.
    known: HashMap<String, ([u8; 32], Vec<usize>)>,
    order: std::collections::VecDeque<String>,
    /// Bytes of parts, by the sequence number of their segment.
    parts: BTreeMap<u64, Vec<Bytes>>,
    /// Removed segments, and whether they were asked for since.
    promises: Vec<(Promise, bool)>,
    counts: (u64, u64, u64),
}

impl Media {
    pub(super) fn new(http: Http) -> Self {
        Self {
            http,
            known: HashMap::new(),
            order: std::collections::VecDeque::new(),
            parts: BTreeMap::new(),
            promises: Vec::new(),
            counts: (0, 0, 0),
        }
    }

    /// Segments, parts and bytes fetched.
    pub(super) const fn counts(&self) -> (u64, u64, u64) {
        self.counts
    }

    /// Fetches what `list` shows and this server has not yet been asked for.
    pub(super) async fn fetch(
        &mut self,
        index: usize,
        server: &Server,
        list: &List,
        began: Instant,
        found: &mut Vec<Finding>,
    ) {
        let mut findings = Findings::new(began.elapsed(), &server.name, found);
        for (sequence, segment) in list.numbered() {
            if let Some(map) = &segment.map {
                self.one(index, server, map, &mut findings).await;
            }
            self.parts_of(index, server, sequence, segment, &mut findings).await;
            if segment.gap {
                continue;
            }
            let Some(whole) = self.one(index, server, &segment.uri, &mut findings).await else {
                continue;
            };
            self.counts.0 += 1;
            let Some(parts) = self.parts.remove(&sequence) else { continue };
            let shown = segment.parts.len();
            if parts.len() == shown && shown > 0 && parts.concat() != whole {
                let what = format!("{} is not the sum of its {shown} parts", segment.uri);
                findings.fault(
                    Rule::L2,
                    what,
                    list.excerpt(segment.line, segment.line + shown + 3),
                );
            }
        }
        self.parts_of(index, server, list.end(), &list.open, &mut findings).await;
        while self.parts.len() > REMEMBERED {
            self.parts.pop_first();
        }
    }

    async fn parts_of(
        &mut self,
        index: usize,
        server: &Server,
        sequence: u64,
        segment: &Segment,
        findings: &mut Findings<'_>,
    ) {
        for (number, part) in segment.parts.iter().enumerate().filter(|(_, part)| !part.gap) {
            let Some(bytes) = self.one(index, server, &part.uri, findings).await else { continue };
            self.counts.1 += 1;
            let held = self.parts.entry(sequence).or_default();
            // In order from the first, or not at all.
            if held.len() == number {
                held.push(bytes);
            }
        }
    }

    /// The bytes at `uri`, the first time that this server is asked for it.
    async fn one(
        &mut self,
        index: usize,
        server: &Server,
        uri: &str,
        findings: &mut Findings<'_>,
    ) -> Option<Bytes> {
        if self.known.get(uri).is_some_and(|(_, servers)| servers.contains(&index)) {
            return None;
        }
        let bytes = match self.get(server, uri).await {
            Ok(bytes) => bytes,
            Err(reason) => {
                findings.fault(Rule::P7, format!("{uri} is listed and {reason}"), vec![]);
                return None;
            }
        };
        self.counts.2 += bytes.len() as u64;
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        match self.known.get_mut(uri) {
            Some((held, servers)) => {
                servers.push(index);
                if *held != digest {
                    let what = format!("{uri} has other bytes than at another server");
                    findings.fault(Rule::P2, what, vec![]);
                }
            }
            None => {
                self.known.insert(uri.to_owned(), (digest, vec![index]));
                self.order.push_back(uri.to_owned());
            }
        }
        // A list has at most some hundred lines that name something.
        while self.order.len() > REMEMBERED * 32 {
            self.order.pop_front().and_then(|oldest| self.known.remove(&oldest));
        }
        Some(bytes)
    }

    async fn get(&self, server: &Server, uri: &str) -> Result<Bytes, String> {
        let uri = resolve(&server.list, uri).map_err(|error| error.to_string())?;
        match self.http.get(&uri, MAX_MEDIA, PLAIN).await {
            Ok(answer) if answer.status.is_success() && answer.body.is_empty() => {
                Err("is empty".to_owned())
            }
            Ok(answer) if answer.status.is_success() => Ok(answer.body),
            Ok(answer) => Err(format!("answers {}", answer.status)),
            Err(error) => Err(format!("fails: {error}")),
        }
    }

    /// Remembers what was removed.
    pub(super) fn promise(&mut self, promises: Vec<Promise>) {
        self.promises.extend(promises.into_iter().map(|promise| (promise, false)));
        self.promises.truncate(PROMISES);
    }

    /// Asks for what was removed: at once, and again shortly before it need no
    /// longer be there.
    pub(super) async fn keep_promises(
        &mut self,
        servers: &[Server],
        began: Instant,
        found: &mut Vec<Finding>,
    ) {
        let now = began.elapsed();
        let last = |promise: &Promise| promise.until < now + BEFORE;
        let mut due: Vec<Promise> = Vec::new();
        self.promises.retain_mut(|(promise, asked)| {
            let over = last(promise);
            if over || !*asked {
                due.push(promise.clone());
            }
            *asked = true;
            !over
        });
        for promise in due {
            let Some(server) = servers.get(promise.server) else { continue };
            let answer = self.get(server, &promise.uri).await;
            let at = began.elapsed();
            // An answer that came too late proves nothing.
            if let Err(reason) = answer
                && at < promise.until
            {
                self.promises.retain(|(other, _)| other.uri != promise.uri);
                let mut findings = Findings::new(at, &server.name, found);
                findings.fault(Rule::P6, format!("{} {reason} too early", promise.uri), vec![]);
            }
        }
    }

    /// Rule P14: the last list's segments.
    pub(super) async fn still_there(
        &self,
        server: &Server,
        list: &List,
        began: Instant,
        found: &mut Vec<Finding>,
    ) {
        let mut findings = Findings::new(began.elapsed(), &server.name, found);
        for segment in list.segments.iter().filter(|segment| !segment.gap) {
            if let Err(reason) = self.get(server, &segment.uri).await {
                let what = format!("{} {reason} after the end", segment.uri);
                findings.fault(Rule::P14, what, list.excerpt(segment.line, segment.line + 3));
            }
        }
    }
}
