//! Which node serves whom: the nearest that has room.
//!
//! Each node gets a score in kilometres: the great-circle distance, plus a
//! penalty that grows with the square of its load, so that a node that is
//! nearly idle is judged by its place alone and a busy one loses to an idle
//! neighbour. Without a place to start from, the least loaded is best.
//!
//! The load is bounded, as in consistent hashing with bounded loads. Nodes at
//! most [`COMPARABLE_KM`] farther away than the nearest are comparable; among
//! them one that has more than [`BOUND`] times its share (by capacity) of their
//! viewers is passed over until others have caught up. Two things keep that
//! from doing harm: up to [`SLACK`] viewers are nobody's burden, and a node
//! across an ocean is not comparable, so nobody is ever sent there for balance.
//! Only when all nodes near by are full, or so loaded that their penalty
//! exceeds the way, do farther ones come first.
//!
//! Equal requests do not flap: the viewers that count are those of
//! [`Standing`], which ignores changes of less than a twentieth, and penalties
//! are rounded to [`STEP_KM`]. The order depends on nothing but its arguments,
//! so several controls decide alike.
//!
//! Pure and without state but the shared [`Standing`]s. Who is up is
//! [`crate::fleet`], who is put where is the caller's. A decision makes one
//! allocation and copies nothing but the nodes it returns.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use spyglass_media::{Location, NodeId};

/// What a full node's load weighs, in kilometres.
const FULL_KM: f64 = 2_000.0;

/// Penalties are multiples of this, in kilometres.
const STEP_KM: f64 = 25.0;

/// How far a node counts that did not say where it stands, in kilometres: no
/// two places on the globe are so far apart, so it stands behind all others.
const UNKNOWN_KM: f64 = 30_000.0;

/// A detour of so many kilometres is worth making for balance: 5 ms of light in
/// fibre, there and back.
pub const COMPARABLE_KM: f64 = 500.0;

/// A node may have so many times its share of the viewers near it.
pub const BOUND: f64 = 1.25;

/// Viewers that a node may have whatever its share is.
pub const SLACK: u32 = 64;

/// Viewers that make a node which names no capacity count as full.
const NOMINAL_CAPACITY: u32 = 10_000;

/// How full a node with these viewers is, in quarters, for whoever ranks nodes by
/// coarse steps; 100 is full.
pub const fn load_percent(viewers: u32, capacity: u32) -> u32 {
    let capacity = if capacity > 0 { capacity } else { NOMINAL_CAPACITY };
    let quarters = viewers as u64 * 4 / capacity as u64;
    if quarters >= 4 { 100 } else { quarters as u32 * 25 }
}

/// How busy a node is: written as its heartbeats come, read by each decision.
#[derive(Debug, Default)]
pub struct Standing {
    /// As the heartbeats say, without their noise.
    viewers: AtomicU32,
    /// Those sent there whom no heartbeat shows yet.
    sent: AtomicU32,
    /// The most it takes; 0 when it names no limit.
    capacity: AtomicU32,
}

impl Standing {
    /// With these many viewers; `capacity` 0 is no limit.
    pub fn new(viewers: u32, capacity: u32) -> Self {
        let standing = Self::default();
        standing.on_heartbeat(viewers, capacity);
        standing
    }

    /// What a heartbeat says. Changes of less than a twentieth are noise.
    pub fn on_heartbeat(&self, viewers: u32, capacity: u32) {
        let shown = self.viewers.load(Relaxed);
        let full = capacity > 0 && viewers >= capacity;
        if full || shown.abs_diff(viewers) > shown.max(viewers) / 20 {
            self.viewers.store(viewers, Relaxed);
        }
        self.capacity.store(capacity, Relaxed);
        // Those sent a moment ago show up within a beat or two.
        let halved = |sent: u32| Some(sent / 2);
        let _ = self.sent.fetch_update(Relaxed, Relaxed, halved);
    }

    /// Somebody was sent there, whom its load will show a little later.
    pub fn on_sent(&self) {
        let _ = self.sent.fetch_update(Relaxed, Relaxed, |sent| sent.checked_add(1));
    }

    /// The node is lost: nobody is on the way to it any more.
    pub fn on_lost(&self) {
        self.sent.store(0, Relaxed);
    }

    /// Viewers it has, those just sent there included.
    pub fn viewers(&self) -> u32 {
        self.viewers.load(Relaxed).saturating_add(self.sent.load(Relaxed))
    }

    /// The most it takes; 0 when it names no limit.
    pub fn capacity(&self) -> u32 {
        self.capacity.load(Relaxed)
    }
}

/// A node that takes new arrivals. Clones share what they name.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name.
    pub id: Arc<NodeId>,
    /// What stands before paths in its URLs for viewers; may be empty.
    pub http: Arc<str>,
    /// Its URL for broadcasters and push viewers; may be empty.
    pub rtmp: Arc<str>,
    /// Where it stands, if it said so.
    location: Option<Location>,
    /// The same on the unit sphere: distances then cost no sines.
    point: Option<[f64; 3]>,
    /// How busy it is.
    pub standing: Arc<Standing>,
}

/// A node and how far it is.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The node.
    pub node: Candidate,
    /// Great-circle distance, where both places are known.
    pub distance_km: Option<f64>,
}

impl Candidate {
    /// A node of this name at this place.
    pub fn new(id: Arc<NodeId>, location: Option<Location>, standing: Arc<Standing>) -> Self {
        let empty: Arc<str> = Arc::from("");
        let point = location.map(on_sphere);
        Self { id, http: Arc::clone(&empty), rtmp: empty, location, point, standing }
    }

    /// The same with its addresses.
    pub fn reached_at(mut self, http: &str, rtmp: &str) -> Self {
        (self.http, self.rtmp) = (http.into(), rtmp.into());
        self
    }

    /// Where it stands, if it said so.
    pub const fn location(&self) -> Option<Location> {
        self.location
    }
}

fn on_sphere(location: Location) -> [f64; 3] {
    let (north, east) = (location.latitude().to_radians(), location.longitude().to_radians());
    [north.cos() * east.cos(), north.cos() * east.sin(), north.sin()]
}

/// What is weighed of one candidate.
struct Weighed {
    at: usize,
    km: Option<f64>,
    score: f64,
    viewers: f64,
    capacity: f64,
}

impl Weighed {
    fn new(at: usize, from: Option<[f64; 3]>, candidate: &Candidate) -> Option<Self> {
        let (viewers, capacity) = (candidate.standing.viewers(), candidate.standing.capacity());
        if capacity > 0 && viewers >= capacity {
            return None;
        }
        let viewers = f64::from(viewers);
        let capacity = f64::from(if capacity > 0 { capacity } else { NOMINAL_CAPACITY });
        let load = viewers / capacity;
        let km = from.zip(candidate.point).map(|(from, to)| distance_km(from, to));
        let score = match from {
            Some(_) => {
                let penalty = (FULL_KM * load * load / STEP_KM).floor() * STEP_KM;
                km.unwrap_or(UNKNOWN_KM) + penalty
            }
            None => load,
        };
        Some(Self { at, km, score, viewers, capacity })
    }
}

fn distance_km(from: [f64; 3], to: [f64; 3]) -> f64 {
    let square = |at: usize| (from[at] - to[at]).powi(2);
    let chord = (square(0) + square(1) + square(2)).sqrt();
    2.0 * Location::EARTH_KM * (chord / 2.0).min(1.0).asin()
}

/// At most `count` of the candidates with room, best first. Equals stand in the
/// order of their names.
pub fn rank(from: Option<Location>, candidates: &[Candidate], count: usize) -> Vec<Placed> {
    let from = from.map(on_sphere);
    let mut weighed: Vec<Weighed> = Vec::with_capacity(candidates.len());
    weighed.extend(
        candidates
            .iter()
            .enumerate()
            .filter_map(|(at, candidate)| Weighed::new(at, from, candidate)),
    );
    if from.is_some() {
        pass_over(&mut weighed);
    }
    let order = |a: &Weighed, b: &Weighed| {
        let scores = a.score.partial_cmp(&b.score).unwrap_or(Ordering::Equal);
        scores.then_with(|| candidates[a.at].id.cmp(&candidates[b.at].id))
    };
    if count == 0 || weighed.is_empty() {
        return Vec::new();
    }
    if weighed.len() > count {
        weighed.select_nth_unstable_by(count - 1, order);
        weighed.truncate(count);
    }
    weighed.sort_unstable_by(order);
    let placed = weighed
        .iter()
        .map(|weighed| Placed { node: candidates[weighed.at].clone(), distance_km: weighed.km });
    placed.collect()
}

/// Puts each node that has more than its share behind those comparable to it.
fn pass_over(weighed: &mut [Weighed]) {
    let nearest = weighed.iter().filter_map(|node| node.km).fold(f64::INFINITY, f64::min);
    let is_comparable = |node: &Weighed| node.km.is_some_and(|km| km <= nearest + COMPARABLE_KM);
    // The one who asks is counted too.
    let (mut viewers, mut capacity) = (1.0, 0.0);
    for node in weighed.iter().filter(|node| is_comparable(node)) {
        viewers += node.viewers;
        capacity += node.capacity;
    }
    let is_over = |node: &Weighed| {
        let share = viewers * node.capacity / capacity;
        node.viewers + 1.0 > (BOUND * share).ceil().max(f64::from(SLACK))
    };
    let within = weighed.iter().filter(|node| is_comparable(node) && !is_over(node));
    let Some(last) = within.map(|node| node.score).reduce(f64::max) else { return };
    for node in weighed.iter_mut() {
        if is_comparable(node) && is_over(node) {
            // Behind all of them, yet before what is far away.
            node.score = node.score.max(last + STEP_KM);
        }
    }
}

#[cfg(test)]
mod tests;
