//! What the judge knows of low latency: rules L1, L2, L3, L6 and L7. It reads
//! the text line by line, since the playlist reader drops what stands behind
//! the last URI.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;

/// One list's parts.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    target: f64,
    part_target: Option<f64>,
    control: HashMap<String, String>,
    /// By sequence number; the last one's chunk may be missing.
    parts: BTreeMap<u64, Vec<Part>>,
    /// EXTINF and URI, by sequence number.
    chunks: BTreeMap<u64, (f64, String)>,
    gaps: Vec<u64>,
    discontinuities: Vec<u64>,
    hints: Vec<String>,
    skips: Vec<u64>,
    version: u64,
    ended: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Part {
    uri: String,
    duration: f64,
    independent: bool,
}

/// Attributes of a tag; a quoted value loses its quotes.
fn attributes(text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut rest = text;
    while let Some((name, behind)) = rest.split_once('=') {
        let (value, behind) = match behind.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').expect("a closing quote"),
            None => behind.split_at(behind.find(',').unwrap_or(behind.len())),
        };
        assert!(found.insert(name.to_owned(), value.to_owned()).is_none(), "twice: {name}");
        rest = behind.strip_prefix(',').unwrap_or(behind);
    }
    found
}

impl Scan {
    pub fn read(text: &str) -> Self {
        let mut scan = Self::default();
        let mut sequence = 0;
        let mut length = 0.0;
        for line in text.lines() {
            let (tag, value) = line.split_once(':').unwrap_or((line, ""));
            let number = || value.parse::<f64>().expect("a number");
            match tag {
                "#EXT-X-VERSION" => scan.version = number() as u64,
                "#EXT-X-TARGETDURATION" => scan.target = number(),
                "#EXT-X-MEDIA-SEQUENCE" => sequence = number() as u64,
                "#EXT-X-SERVER-CONTROL" => scan.control = attributes(value),
                "#EXT-X-PART-INF" => {
                    scan.part_target = Some(attributes(value)["PART-TARGET"].parse().unwrap());
                }
                "#EXT-X-SKIP" => {
                    let count = attributes(value)["SKIPPED-SEGMENTS"].parse().unwrap();
                    scan.skips.push(count);
                    sequence += count;
                }
                "#EXT-X-PART" => {
                    let attributes = attributes(value);
                    scan.parts.entry(sequence).or_default().push(Part {
                        uri: attributes["URI"].clone(),
                        duration: attributes["DURATION"].parse().unwrap(),
                        independent: attributes.get("INDEPENDENT").is_some_and(|it| it == "YES"),
                    });
                }
                "#EXT-X-PRELOAD-HINT" => {
                    let attributes = attributes(value);
                    assert_eq!(attributes["TYPE"], "PART");
                    scan.hints.push(attributes["URI"].clone());
                }
                "#EXT-X-GAP" => scan.gaps.push(sequence),
                "#EXT-X-DISCONTINUITY" => scan.discontinuities.push(sequence),
                "#EXTINF" => length = value.trim_end_matches(',').parse().unwrap(),
                "#EXT-X-ENDLIST" => scan.ended = true,
                _ if !line.starts_with('#') => {
                    scan.chunks.insert(sequence, (length, line.to_owned()));
                    sequence += 1;
                }
                _ => {}
            }
        }
        scan
    }

    fn newest(&self) -> Option<(u64, usize)> {
        self.parts.last_key_value().map(|(sequence, parts)| (*sequence, parts.len()))
    }

    /// Seconds from the end of a chunk to the end of the list.
    fn distance(&self, sequence: u64) -> f64 {
        let behind: f64 = self.chunks.range(sequence + 1..).map(|(_, (length, _))| length).sum();
        let open = self.parts.iter().filter(|(sequence, _)| !self.chunks.contains_key(sequence));
        behind + open.flat_map(|(_, parts)| parts).map(|part| part.duration).sum::<f64>()
    }
}

/// Sees every version.
#[derive(Default)]
pub struct PartJudge {
    last: Option<Scan>,
    bytes: HashMap<String, Bytes>,
    /// Parts that have left the list, and until when they are promised.
    promised: HashMap<String, Duration>,
    restarted: bool,
    /// Parts listed so far, by number of seconds since the one before.
    pub count: usize,
}

impl PartJudge {
    pub fn restarted(&mut self) {
        self.restarted = true;
    }

    /// Whether this version lists a part that the one before did not, or a
    /// chunk.
    pub fn is_news(&self, text: &str) -> bool {
        let scan = Scan::read(text);
        self.last.as_ref().is_none_or(|last| {
            last.newest() < scan.newest() || last.chunks.keys().max() < scan.chunks.keys().max()
        })
    }

    /// Returns the rule that is broken.
    pub fn see(
        &mut self,
        now: Duration,
        text: &str,
        delta: Option<&str>,
        get: &dyn Fn(&str) -> Option<Bytes>,
    ) -> Result<(), &'static str> {
        let scan = Scan::read(text);
        let Some(part_target) = scan.part_target else {
            let none = scan.parts.is_empty() && scan.hints.is_empty() && scan.control.is_empty();
            return none.then_some(()).ok_or("L1: parts without PART-INF");
        };
        self.control(&scan, part_target)?;
        self.lengths(&scan, part_target)?;
        self.bodies(&scan, get)?;
        self.compare(now, &scan)?;
        self.hint(&scan, get)?;
        for (uri, until) in &self.promised {
            if now < *until && get(uri).as_ref() != self.bytes.get(uri) {
                return Err("L3: a part was removed too early");
            }
        }
        if let Some(delta) = delta {
            skips(text, delta, &scan)?;
        } else if scan.control.contains_key("CAN-SKIP-UNTIL") {
            return Err("L6: no delta update although there may be");
        }
        self.restarted = false;
        self.last = Some(scan);
        Ok(())
    }

    fn control(&self, scan: &Scan, part_target: f64) -> Result<(), &'static str> {
        let number = |name: &str| scan.control.get(name).map(|it| it.parse::<f64>().unwrap());
        if scan.control.get("CAN-BLOCK-RELOAD").map(String::as_str) != Some("YES") {
            return Err("L1: CAN-BLOCK-RELOAD");
        }
        if number("PART-HOLD-BACK").is_none_or(|least| least < 3.0 * part_target - 1e-9) {
            return Err("L1: PART-HOLD-BACK");
        }
        if number("CAN-SKIP-UNTIL").is_some_and(|least| least < 6.0 * scan.target) {
            return Err("L1: CAN-SKIP-UNTIL");
        }
        let before = self.last.as_ref().and_then(|last| last.part_target);
        if before.is_some_and(|before| before != part_target) {
            return Err("L1: PART-TARGET changed");
        }
        Ok(())
    }

    fn lengths(&self, scan: &Scan, part_target: f64) -> Result<(), &'static str> {
        for (sequence, parts) in &scan.parts {
            let closed = scan.chunks.get(sequence);
            for (index, part) in parts.iter().enumerate() {
                let last = closed.is_some() && index + 1 == parts.len();
                let short = part.duration < 0.85 * part_target - 1e-5;
                if part.duration > part_target + 1e-9 || part.duration <= 0.0 {
                    return Err("L2: part too long");
                }
                // The part shown last may turn out to be its chunk's last.
                let newest = closed.is_none() && index + 1 == parts.len();
                if short && !part.independent && !last && !newest {
                    return Err("L2: part too short");
                }
                if newest && short && !part.independent {
                    return Err("L2: a short part before its chunk's end");
                }
            }
            let total: f64 = parts.iter().map(|part| part.duration).sum();
            if closed.is_some_and(|(length, _)| total > length + 1e-3) {
                return Err("L2: parts longer than their chunk");
            }
            if scan.distance(*sequence) > 3.0 * scan.target + 1e-3 {
                return Err("L3: parts far from the end");
            }
        }
        Ok(())
    }

    fn bodies(
        &mut self,
        scan: &Scan,
        get: &dyn Fn(&str) -> Option<Bytes>,
    ) -> Result<(), &'static str> {
        for (sequence, parts) in &scan.parts {
            let mut joined = Vec::new();
            for (index, part) in parts.iter().enumerate() {
                let bytes = get(&part.uri).ok_or("L7: a listed part cannot be fetched")?;
                joined.extend_from_slice(&bytes);
                if *self.bytes.entry(part.uri.clone()).or_insert_with(|| bytes.clone()) != bytes {
                    return Err("P2: one part, two bodies");
                }
                if !part.uri.ends_with(&format!("-{sequence}.{index}.m4s")) {
                    return Err("L2: part numbers");
                }
            }
            let closed = scan.chunks.get(sequence);
            if closed.is_some_and(|(_, uri)| get(uri).as_deref() != Some(&joined[..])) {
                return Err("L2: a chunk is its parts");
            }
        }
        Ok(())
    }

    fn compare(&mut self, now: Duration, scan: &Scan) -> Result<(), &'static str> {
        let Some(last) = &self.last else { return Ok(()) };
        for (sequence, before) in &last.parts {
            let after = scan.parts.get(sequence);
            let kept = after.map_or(0, Vec::len);
            let same = after.is_some_and(|after| after.starts_with(before));
            if same {
                self.count += kept - before.len();
                continue;
            }
            let old = scan.distance(*sequence) >= 3.0 * scan.target - 1e-3
                || !scan.chunks.contains_key(sequence);
            if kept > 0 || !(old || self.restarted) {
                return Err("P3: parts changed or left too early");
            }
            if !self.restarted {
                let until = now + Duration::from_secs_f64(3.0 * scan.target);
                for part in before {
                    self.promised.entry(part.uri.clone()).or_insert(until);
                }
            }
        }
        Ok(())
    }

    fn hint(&self, scan: &Scan, get: &dyn Fn(&str) -> Option<Bytes>) -> Result<(), &'static str> {
        if scan.hints.len() > usize::from(!scan.ended) {
            return Err("L7: hints");
        }
        if scan.hints.iter().any(|uri| get(uri).is_some()) {
            return Err("L7: the hinted part is there already");
        }
        let Some(last) = self.last.as_ref().filter(|_| !self.restarted) else { return Ok(()) };
        let Some(hinted) = last.hints.first() else { return Ok(()) };
        let end = last.chunks.keys().max();
        let turned = scan.gaps.iter().chain(&scan.discontinuities).any(|at| Some(at) > end);
        let new = scan.parts.iter().flat_map(|(sequence, parts)| {
            let known = last.parts.get(sequence).map_or(0, Vec::len);
            parts.iter().skip(known).filter(move |_| Some(sequence) > end)
        });
        if !turned && new.take(1).any(|part| part.uri != *hinted) {
            return Err("L7: another part came than was hinted");
        }
        Ok(())
    }
}

/// A delta update is the list without its front.
fn skips(text: &str, delta: &str, scan: &Scan) -> Result<(), &'static str> {
    let short = Scan::read(delta);
    let ([skipped], 9) = (&short.skips[..], short.version) else { return Err("L6: EXT-X-SKIP") };
    let boundary = scan.control.get("CAN-SKIP-UNTIL").ok_or("L6: may not skip")?;
    let boundary: f64 = boundary.parse().unwrap();
    let first = *scan.chunks.keys().next().unwrap();
    for sequence in first..first + skipped {
        if scan.distance(sequence) <= boundary {
            return Err("L6: skipped behind the boundary");
        }
    }
    let behind: Vec<_> = scan.chunks.range(first + skipped..).collect();
    if behind != short.chunks.iter().collect::<Vec<_>>()
        || scan.parts != short.parts
        || scan.hints != short.hints
    {
        return Err("L6: a delta update is the end of the list");
    }
    let of = |text: &str| {
        let tag = "#EXT-X-DISCONTINUITY-SEQUENCE:";
        text.lines().find(|line| line.starts_with(tag)).map(str::to_owned)
    };
    (of(text) == of(delta)).then_some(()).ok_or("L6: discontinuity sequence")
}
