//! Which nodes there are, how they fare and what they report.
//!
//! A node registers, then sends a heartbeat each second; after [`SILENCE`]
//! without one it is lost and its leases end. It stays in the list that other
//! nodes get for [`LINGER`] more, because control not hearing of a node does
//! not mean that its neighbours cannot reach it.
//!
//! Pure: time is passed in, and what must happen is returned. Streams are
//! `attach.rs`, choosing among the nodes is [`crate::placement`], what a node
//! is and says of itself is `fleet/node.rs`.

mod node;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use spyglass_media::{BroadcastId, NodeId, ViewerId};

use crate::admission::SeatLease;
use crate::audience::{Audience, Lease};
use crate::placement::{Candidate, Standing};

pub use node::{Load, Node, Registration, Role, State};

/// A node that says nothing for this long is lost.
pub const SILENCE: Duration = Duration::from_secs(5);

/// How long the others still hear of a lost node.
pub const LINGER: Duration = Duration::from_secs(30);

/// How long a lost node is remembered at all.
pub const FORGET: Duration = Duration::from_secs(24 * 3600);

/// What a registration changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its process is not the one that was known: it started anew.
    pub restarted: bool,
    /// What must be kept of it differs from before.
    pub changed: bool,
}

/// Somebody who holds a seat began or stopped to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeatChange {
    /// Connected, or polls.
    Begun(BroadcastId, SeatLease),
    /// Does no more.
    Ended(BroadcastId, SeatLease),
    /// Its node is lost; the viewer may be well.
    Unknown(BroadcastId, SeatLease),
}

/// A node that fell silent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Its name.
    pub id: Arc<NodeId>,
    /// What becomes of the seats its viewers had.
    pub seats: Vec<SeatChange>,
}

/// There are as many nodes as control takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

#[derive(Debug)]
struct Member {
    id: Arc<NodeId>,
    registration: Registration,
    /// The stream it speaks through.
    session: u64,
    heard: Instant,
    lost: bool,
    /// Another control hears of it.
    elsewhere: bool,
    draining: bool,
    /// Its process stops.
    leaving: bool,
    load: Load,
    /// The load as placement sees it.
    standing: Arc<Standing>,
    /// Leases named so far by a digest that is under way.
    digest: Option<HashSet<(BroadcastId, ViewerId)>>,
}

impl Member {
    fn state(&self) -> State {
        match (self.lost, self.draining || self.leaving) {
            (true, _) => State::Lost,
            (false, true) => State::Draining,
            (false, false) => State::Up,
        }
    }
}

/// All nodes, and through them all viewers.
#[derive(Debug)]
pub struct Fleet {
    max_nodes: usize,
    members: BTreeMap<NodeId, Member>,
    /// Origins of running broadcasts that are not among them, and since when.
    missed: HashMap<NodeId, Instant>,
    audience: Audience,
    /// Nodes that take arrivals, by role; `None` when they must be listed anew.
    open: [Option<Arc<[Candidate]>>; 2],
}

impl Fleet {
    /// Empty; bounded by these.
    pub fn new(max_nodes: usize, max_leases: usize) -> Self {
        Self {
            max_nodes,
            members: BTreeMap::new(),
            missed: HashMap::new(),
            audience: Audience::new(max_leases),
            open: [None, None],
        }
    }

    /// Who watches what.
    pub const fn audience(&self) -> &Audience {
        &self.audience
    }

    /// A node that the state remembers: lost until it is heard of.
    pub fn restore(
        &mut self,
        id: NodeId,
        registration: Registration,
        draining: bool,
        now: Instant,
    ) {
        if self.members.len() < self.max_nodes {
            let mut member = self.member(&id, registration, now);
            (member.lost, member.draining) = (true, draining);
            self.members.insert(id, member);
        }
    }

    /// Another control, or this one, wrote what it knows of a node. True when
    /// its drain is news here; whatever else a node that speaks to this control
    /// says of itself is newer.
    pub fn on_stored(
        &mut self,
        id: NodeId,
        registration: Registration,
        draining: bool,
        now: Instant,
    ) -> bool {
        self.open = [None, None];
        let Some(member) = self.members.get_mut(&id) else {
            self.restore(id, registration, draining, now);
            return false;
        };
        if member.lost {
            member.registration = registration;
        }
        std::mem::replace(&mut member.draining, draining) != draining
    }

    /// Another control forgot a node. False when this one hears of it.
    pub fn on_dropped(&mut self, id: &NodeId) -> bool {
        let here = self.members.get(id).is_some_and(|member| !member.lost);
        if !here {
            self.open = [None, None];
            self.members.remove(id);
        }
        !here
    }

    fn member(&self, id: &NodeId, registration: Registration, now: Instant) -> Member {
        Member {
            id: Arc::new(id.clone()),
            registration,
            session: 0,
            heard: now,
            lost: false,
            elsewhere: false,
            draining: false,
            leaving: false,
            load: Load::default(),
            standing: Arc::default(),
            digest: None,
        }
    }

    /// A node opened a stream. From now on only this `session` speaks for it.
    /// Its leases stay until its digest says otherwise.
    pub fn on_register(
        &mut self,
        id: &NodeId,
        session: u64,
        registration: Registration,
        now: Instant,
    ) -> Result<Registered, Full> {
        self.open = [None, None];
        if let Some(member) = self.members.get_mut(id) {
            let outcome = Registered {
                restarted: member.registration.incarnation != registration.incarnation,
                changed: member.registration != registration,
            };
            member.registration = registration;
            (member.session, member.heard, member.lost) = (session, now, false);
            (member.leaving, member.digest) = (false, None);
            return Ok(outcome);
        }
        if self.members.len() >= self.max_nodes {
            return Err(Full);
        }
        let mut member = self.member(id, registration, now);
        member.session = session;
        self.members.insert(id.clone(), member);
        Ok(Registered { restarted: true, changed: true })
    }

    /// What a process other than the one of this incarnation said of itself, when
    /// it has this name and is heard.
    pub fn heard_from_another(&self, id: &NodeId, incarnation: u64) -> Option<&Registration> {
        let heard = self.members.get(id).filter(|member| !member.lost && !member.leaving)?;
        Some(&heard.registration).filter(|other| other.incarnation != incarnation)
    }

    fn speaking(&mut self, id: &NodeId, session: u64) -> Option<&mut Member> {
        self.members.get_mut(id).filter(|member| member.session == session)
    }

    /// A node is well. True when it had been taken for lost.
    pub fn on_heartbeat(&mut self, id: &NodeId, session: u64, load: Load, now: Instant) -> bool {
        let Some(member) = self.speaking(id, session) else { return false };
        member.load = load;
        let busy = match member.registration.role {
            // A broadcaster is a connection like its viewers; without it an
            // origin whose broadcasts nobody watches yet would look idle.
            Role::Origin => load.viewers.saturating_add(load.broadcasts),
            Role::Edge => load.viewers,
        };
        member.standing.on_heartbeat(busy, load.capacity);
        member.heard = now;
        let was_lost = std::mem::replace(&mut member.lost, false);
        if was_lost {
            self.open = [None, None];
        }
        was_lost
    }

    /// A node's process stops: it takes no arrivals, and may be started anew
    /// under its name at once. False when another stream speaks for it.
    pub fn on_leaving(&mut self, id: &NodeId, session: u64) -> bool {
        self.open = [None, None];
        self.speaking(id, session).map(|member| member.leaving = true).is_some()
    }

    /// Who watches at an edge without having joined.
    pub fn on_crowds(&mut self, id: &NodeId, session: u64, crowds: HashMap<BroadcastId, u32>) {
        let Some(member) = self.speaking(id, session) else { return };
        let node = Arc::clone(&member.id);
        self.audience.on_crowds(&node, crowds);
    }

    /// Viewers came and went on a node.
    pub fn on_leases(
        &mut self,
        id: &NodeId,
        session: u64,
        begun: Vec<Lease>,
        ended: &[(BroadcastId, ViewerId)],
    ) -> Vec<SeatChange> {
        let Some(member) = self.speaking(id, session) else { return Vec::new() };
        let node = Arc::clone(&member.id);
        if let Some(digest) = &mut member.digest {
            for key in ended {
                digest.remove(key);
            }
            digest.extend(begun.iter().map(|lease| (lease.broadcast, lease.viewer)));
        }
        let mut changes = Vec::new();
        for (broadcast, viewer) in ended {
            self.end(&node, *broadcast, *viewer, &mut changes);
        }
        for lease in begun {
            // On HLS a seat says so again and again: its viewer does not come
            // back by itself when control let it lapse.
            let again = !lease.push;
            self.begin(&node, lease, again, &mut changes);
        }
        changes
    }

    /// One page of all leases of a node. What no page names has ended. What it
    /// names is told again, known or not: another control, which does not hear
    /// of this node, may have taken those seats for empty.
    pub fn on_digest(
        &mut self,
        id: &NodeId,
        session: u64,
        leases: Vec<Lease>,
        first: bool,
        last: bool,
    ) -> Vec<SeatChange> {
        let Some(member) = self.speaking(id, session) else { return Vec::new() };
        let node = Arc::clone(&member.id);
        if first {
            member.digest = Some(HashSet::new());
        }
        if let Some(digest) = &mut member.digest {
            digest.extend(leases.iter().map(|lease| (lease.broadcast, lease.viewer)));
        }
        let whole = if last { member.digest.take() } else { None };
        let mut changes = Vec::new();
        if let Some(named) = whole {
            for (broadcast, viewer) in self.audience.of_node(&node) {
                if !named.contains(&(broadcast, viewer)) {
                    self.end(&node, broadcast, viewer, &mut changes);
                }
            }
        }
        for lease in leases {
            self.begin(&node, lease, true, &mut changes);
        }
        changes
    }

    fn begin(
        &mut self,
        node: &Arc<NodeId>,
        lease: Lease,
        again: bool,
        changes: &mut Vec<SeatChange>,
    ) {
        let seat = lease.seat_lease();
        if (self.audience.on_begun(node, lease) || again)
            && let Some((broadcast, seat)) = seat
        {
            changes.push(SeatChange::Begun(broadcast, seat));
        }
    }

    fn end(
        &mut self,
        node: &Arc<NodeId>,
        broadcast: BroadcastId,
        viewer: ViewerId,
        changes: &mut Vec<SeatChange>,
    ) {
        let ended = self.audience.on_ended(node, broadcast, viewer);
        if let Some((broadcast, seat)) = ended.and_then(|lease| lease.seat_lease()) {
            changes.push(SeatChange::Ended(broadcast, seat));
        }
    }

    /// Marks a node; false when there is no such node.
    pub fn on_drain(&mut self, id: &NodeId, draining: bool) -> bool {
        self.open = [None, None];
        self.members.get_mut(id).map(|member| member.draining = draining).is_some()
    }

    /// Nodes that have been silent for too long.
    pub fn on_deadline(&mut self, now: Instant) -> Vec<Lost> {
        let silent: Vec<Arc<NodeId>> = self
            .members
            .values_mut()
            .filter(|member| !member.lost && now >= member.heard + SILENCE)
            .map(|member| {
                (member.lost, member.digest) = (true, None);
                member.standing.on_lost();
                Arc::clone(&member.id)
            })
            .collect();
        if !silent.is_empty() {
            self.open = [None, None];
        }
        let lose = |id: Arc<NodeId>| {
            self.audience.on_crowds(&id, HashMap::new());
            let keys = self.audience.of_node(&id);
            let ended = keys.into_iter().filter_map(|(broadcast, viewer)| {
                self.audience.on_ended(&id, broadcast, viewer)?.seat_lease()
            });
            let mut seats: Vec<SeatChange> =
                ended.map(|(broadcast, seat)| SeatChange::Unknown(broadcast, seat)).collect();
            if self.members.get(&*id).is_some_and(|member| member.elsewhere) {
                // Whoever hears of it sees to the seats.
                seats.clear();
            }
            Lost { id, seats }
        };
        silent.into_iter().map(lose).collect()
    }

    /// Nodes lost for so long that nothing of them need be kept; they are gone.
    pub fn forget(&mut self, now: Instant) -> Vec<NodeId> {
        let old =
            |member: &Member| member.lost && !member.elsewhere && now >= member.heard + FORGET;
        let gone: Vec<NodeId> = self
            .members
            .iter()
            .filter(|(_, member)| old(member))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &gone {
            self.members.remove(id);
        }
        gone
    }

    /// Which nodes other controls hear of: those are well, whatever this control
    /// hears itself. Returns those that nobody hears of any more.
    pub fn on_peers(&mut self, hear: impl Fn(&NodeId) -> bool, now: Instant) -> Vec<NodeId> {
        let mut silent = Vec::new();
        for (id, member) in &mut self.members {
            let before = std::mem::replace(&mut member.elsewhere, hear(id));
            if before && !member.elsewhere && member.lost {
                member.heard = now;
                silent.push(id.clone());
            }
        }
        silent
    }

    /// Nodes that broadcasts run on. Those that stand in no list, because it was
    /// full or is lost, and that no control hears are missed from now on.
    pub fn on_origins<'a>(
        &mut self,
        origins: impl Iterator<Item = &'a NodeId>,
        hear: impl Fn(&NodeId) -> bool,
        now: Instant,
    ) {
        let before = std::mem::take(&mut self.missed);
        let missed = origins.filter(|id| !self.members.contains_key(*id) && !hear(id));
        self.missed =
            missed.map(|id| (id.clone(), before.get(id).copied().unwrap_or(now))).collect();
    }

    /// How long a node has not been heard of by any control; `None` while it is
    /// up.
    pub fn lost_for(&self, id: &NodeId, now: Instant) -> Option<Duration> {
        let since = match self.members.get(id) {
            Some(member) => (member.lost && !member.elsewhere).then_some(member.heard),
            None => self.missed.get(id).copied(),
        };
        since.map(|since| now.saturating_duration_since(since))
    }

    /// Whether what a node said last is past: it said that it stops, or nobody has
    /// heard of it for [`SILENCE`]. One that this control has not heard of since it started may
    /// be about to register.
    pub fn is_away(&self, id: &NodeId, now: Instant) -> bool {
        self.members.get(id).is_some_and(|member| member.leaving)
            || self.lost_for(id, now).is_some_and(|lost| lost >= SILENCE)
    }

    /// Whether any edge fetches through gateways: else who is named as one is
    /// none. An edge of an earlier release says so by what it does.
    pub fn uses_gateways(&self) -> bool {
        let uses = |load: &Load| load.uses_gateways || load.through_gateway > 0;
        self.members.values().any(|member| !member.lost && uses(&member.load))
    }

    /// Whether every node that `is_expected` has been heard of lately.
    pub fn is_whole(&self, is_expected: impl Fn(&NodeId) -> bool) -> bool {
        self.members.iter().all(|(id, member)| !member.lost || !is_expected(id))
    }

    /// Whether a node is marked to take no arrivals, lost or not.
    pub fn is_draining(&self, id: &NodeId) -> bool {
        self.members.get(id).is_some_and(|member| member.draining)
    }

    /// One node.
    pub fn node(&self, id: &NodeId) -> Option<Node> {
        self.members.get(id).map(shown)
    }

    /// Every node, by name.
    pub fn nodes(&self) -> impl Iterator<Item = Node> {
        self.members.values().map(shown)
    }

    /// What other nodes are told of: all but those lost for long.
    pub fn listed(&self, now: Instant) -> impl Iterator<Item = Node> {
        let listed = move |member: &&Member| {
            !member.lost || member.elsewhere || now < member.heard + SILENCE + LINGER
        };
        self.members.values().filter(listed).map(shown)
    }

    /// Nodes that take arrivals: a list that all decisions share until a node
    /// comes, goes or drains. Loads change within it.
    pub fn candidates(&mut self, role: Role) -> Arc<[Candidate]> {
        if let Some(open) = &self.open[role as usize] {
            return Arc::clone(open);
        }
        let is_open =
            |member: &&Member| member.registration.role == role && member.state() == State::Up;
        let candidate = |member: &Member| {
            let Registration { location, http, rtmp, .. } = &member.registration;
            let standing = Arc::clone(&member.standing);
            Candidate::new(Arc::clone(&member.id), *location, standing).reached_at(http, rtmp)
        };
        let open: Arc<[Candidate]> = self.members.values().filter(is_open).map(candidate).collect();
        self.open[role as usize] = Some(Arc::clone(&open));
        open
    }
}

fn shown(member: &Member) -> Node {
    Node {
        id: Arc::clone(&member.id),
        registration: member.registration.clone(),
        state: member.state(),
        load: member.load,
    }
}

#[cfg(test)]
mod tests;
