//! A broadcast's list as this edge holds it: empty, fetching, fresh, expired
//! or ended.
//!
//! Pure: it is told of polls, notices and fetches, and says what must happen.
//! Those who wait are not kept here: a poll that must wait is told until when,
//! is woken when something changes, and asks again with the moment it began.
//! So nothing can be forgotten in a queue, and a waiter who leaves leaves
//! nothing behind. Bytes and tasks are `broadcasts.rs`.
//!
//! Two ways of being old are kept apart (DESIGN, invariants 1 and 3). A list is
//! *known old* when a notice named a newer version: it is never served. It has
//! merely *aged* when nobody confirmed it for too long: it is served after a
//! short wait when the upstream does not answer.
//!
//! What a notice says counts for polls that begin after it. Otherwise a list
//! that changes faster than it can be fetched would never be served.
//!
//! A poll may wait for a position (blocking reload): here, not upstream. What
//! that means is `slot/awaited.rs`; what is said to a slot and by it, `slot/terms.rs`.

mod awaited;
mod names;
mod objects;
mod terms;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use spyglass_media::{Position, Version};

use awaited::Reach;
pub use awaited::{Asked, Awaited};
pub use names::{Listing, Span};
pub use terms::{Fetch, FetchId, Filled, Limits, Meta, Poll, Polled, Standing, State};

/// The default chunk length's target duration, while nothing is known.
const UNKNOWN_TARGET: Duration = Duration::from_secs(4);

#[derive(Debug)]
struct Held<L> {
    meta: Meta,
    list: L,
    /// What it and those before it name.
    span: Option<Span>,
    arrived: Instant,
}

impl<L> Held<L> {
    fn age(&self, now: Instant) -> Duration {
        self.meta.age.saturating_add(now.saturating_duration_since(self.arrived))
    }
}

/// Origin processes remembered as gone, so that their late words are known.
const RETIRED: usize = 8;

/// One broadcast's list.
#[derive(Debug)]
pub struct Slot<L> {
    limits: Limits,
    held: Option<Held<L>>,
    /// The newest version that this incarnation's notices named.
    wanted: Version,
    /// The newest position that they named.
    noticed: Option<Position>,
    incarnation: Option<u64>,
    retired: VecDeque<u64>,
    fetch: Option<Fetch>,
    fetches: u64,
    failures: u32,
    retry: Option<Instant>,
    watched: bool,
    standing: Option<Standing>,
    last_viewer: Instant,
    /// Requests have come without a long pause since.
    attended: Instant,
    interested: bool,
    /// The least that anybody has waited for since the last fill.
    awaited: Option<Position>,
}

impl<L: Listing> Slot<L> {
    /// Nothing held, nothing known.
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            held: None,
            wanted: Version::default(),
            noticed: None,
            incarnation: None,
            retired: VecDeque::new(),
            fetch: None,
            fetches: 0,
            failures: 0,
            retry: None,
            watched: false,
            standing: None,
            last_viewer: now,
            attended: now,
            interested: false,
            awaited: None,
        }
    }

    /// Where it stands.
    pub fn state(&self, now: Instant) -> State {
        match &self.held {
            Some(held) if self.good(now, held) => {
                if held.meta.ended {
                    State::Ended
                } else {
                    State::Fresh
                }
            }
            _ if self.fetch.is_some() => State::Fetching,
            Some(_) => State::Expired,
            None => State::Empty,
        }
    }

    /// Whether a copy may be served as it is.
    fn good(&self, now: Instant, held: &Held<L>) -> bool {
        let unconfirmed = now.saturating_duration_since(held.arrived);
        !self.known_old() && (held.meta.ended || unconfirmed < self.lifetime(held))
    }

    fn known_old(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.meta.version < self.wanted)
    }

    /// How long an unconfirmed copy is good (invariant 1).
    fn lifetime(&self, held: &Held<L>) -> Duration {
        if self.watched && self.interested {
            held.meta.target + Duration::from_secs(1)
        } else {
            held.meta.target / 2
        }
    }

    /// A request for the list begins.
    pub fn ask(&self, now: Instant, awaits: Option<Awaited>) -> Asked {
        Asked { at: now, least: Some(self.wanted), awaits }
    }

    /// Somebody asks for the list, having begun to as `asked` says.
    pub fn on_poll(&mut self, now: Instant, asked: impl Into<Asked>) -> Polled<L> {
        let asked = asked.into();
        let declare = self.on_viewer(now);
        let (poll, fetch) = self.answer(now, asked);
        Polled { poll, fetch, declare }
    }

    fn answer(&mut self, now: Instant, asked: Asked) -> (Poll<L>, Option<Fetch>) {
        let mut deadline = asked.at + self.limits.first;
        // Until when what is held stays good, when that is what is waited with.
        let mut good_until = None;
        if let Some(held) = &self.held {
            let least = asked.least.map_or(self.wanted, |least| least.min(self.wanted));
            let confirmed = held.arrived + self.lifetime(held);
            let current = held.meta.version >= least && (held.meta.ended || now < confirmed);
            let awaits = asked.awaits.filter(|_| !held.meta.ended);
            let reach = awaits.map_or(Reach::Reached, |awaits| awaits.reach(&held.meta));
            let serve = |aged| Poll::Serve { list: held.list.clone(), age: held.age(now), aged };
            match reach {
                Reach::Reached if current => return (serve(false), None),
                Reach::TooFar if current && !self.known_old() => return (Poll::TooFar, None),
                Reach::Reached | Reach::TooFar => {}
                // Nothing newer is known, or not what is waited for.
                Reach::Ahead => {
                    let brings = |awaits: Awaited| self.may_bring(awaits.position());
                    let news = self.known_old() && awaits.is_none_or(brings);
                    good_until = (current && !news).then_some(confirmed);
                    let least = awaits.map(Awaited::position);
                    self.awaited = [self.awaited, least].into_iter().flatten().min();
                }
            }
            deadline = asked.at
                + match reach {
                    Reach::Ahead => awaited::longest(held.meta.target),
                    _ if self.known_old() => held.meta.target,
                    _ => self.limits.aged,
                };
            if now >= deadline {
                let poll = match reach {
                    // Too far for what is held, which is not what there is now.
                    Reach::Ahead | Reach::TooFar => Poll::Late,
                    Reach::Reached if self.known_old() => Poll::GiveUp { known: true },
                    Reach::Reached => serve(true),
                };
                return (poll, None);
            }
        } else if now >= deadline {
            return (Poll::GiveUp { known: self.wanted > Version::default() }, None);
        }
        let fetch = if good_until.is_some() { None } else { self.start(now) };
        let next = good_until.or(self.fetch.map(|fetch| fetch.until)).or(self.retry);
        let until = next.map_or(deadline, |next| next.min(deadline));
        (Poll::Wait { until, stale: self.held.is_some() }, fetch)
    }

    /// A notice has come, and what somebody waits for may be in what it speaks
    /// of: fetch for all of them, without waking any.
    pub fn on_demand(&mut self, now: Instant) -> Option<Fetch> {
        let wanted = self.awaited.is_some_and(|awaited| self.may_bring(awaited));
        if wanted { self.on_prefetch(now) } else { None }
    }

    /// Whether what notices named may answer who waits for this. Where a chunk
    /// ends the broadcast may have ended too, which answers everybody.
    fn may_bring(&self, awaited: Position) -> bool {
        self.noticed.is_none_or(|noticed| awaited <= noticed || noticed.part.is_none())
    }

    /// A notice has come and there are viewers: fetch without being asked.
    pub fn on_prefetch(&mut self, now: Instant) -> Option<Fetch> {
        let held = self.held.as_ref().map_or(Version::default(), |held| held.meta.version);
        if self.wanted > held { self.start(now) } else { None }
    }

    /// At most one fetch is under way; one whose time is over counts as failed.
    fn start(&mut self, now: Instant) -> Option<Fetch> {
        if let Some(fetch) = self.fetch {
            if now < fetch.until {
                return None;
            }
            self.failed(fetch.until);
        }
        if self.retry.is_some_and(|retry| now < retry) {
            return None;
        }
        self.retry = None;
        // Without a source there is nobody to ask. A broadcast that has not
        // begun has no list: as long as the watch would tell, wait for it.
        let standing = self.standing?;
        if !standing.begun && self.watched && self.wanted == Version::default() {
            return None;
        }
        let held = self.held.as_ref().map(|held| held.meta);
        let time = held.map_or(self.limits.first, |held| held.target);
        self.fetches += 1;
        let fetch = Fetch {
            id: FetchId(self.fetches),
            least: held.map_or(self.wanted, |held| held.version.max(self.wanted)),
            until: now + time,
        };
        self.fetch = Some(fetch);
        Some(fetch)
    }

    fn failed(&mut self, now: Instant) {
        self.fetch = None;
        let doubled = 1u32 << self.failures.min(10);
        self.failures = self.failures.saturating_add(1);
        let pause = self.limits.retry.saturating_mul(doubled).min(self.limits.retry_max);
        self.retry = Some(now + pause);
    }

    /// A fetch brought a list. Whoever waits must be woken.
    pub fn on_filled(&mut self, now: Instant, id: FetchId, meta: Meta, list: L) -> Filled {
        let Some(fetch) = self.fetch.filter(|fetch| fetch.id == id) else {
            return Filled::Abandoned;
        };
        if !self.adopt(meta.incarnation) {
            self.failed(now);
            return Filled::Retired;
        }
        let held = self.held.as_ref().map_or(Version::default(), |held| held.meta.version);
        if meta.version < fetch.least.max(held) {
            self.failed(now);
            return Filled::TooOld;
        }
        self.fetch = None;
        self.failures = 0;
        self.awaited = None;
        let arrived = now.checked_sub(meta.unconfirmed).unwrap_or(now);
        let before = self.held.take().and_then(|held| held.span);
        let span = list.span().cloned().map(|span| match &before {
            Some(before) => span.behind(before),
            None => span,
        });
        self.held = Some(Held { meta, list, span, arrived });
        Filled::Stored
    }

    /// What is under way, if anything is, will not be waited for: whoever waits
    /// must be woken, and the next poll fetches.
    pub fn abandon(&mut self) -> bool {
        self.fetch.take().is_some()
    }

    /// A fetch brought nothing. Whoever waits must be woken.
    pub fn on_failed(&mut self, now: Instant, id: FetchId) {
        if self.fetch.is_some_and(|fetch| fetch.id == id) {
            self.failed(now);
        }
    }

    /// A notice: this version exists. Late, doubled and reordered ones do no
    /// harm. True when whoever waits must be woken.
    pub fn on_expire(
        &mut self,
        version: Version,
        position: Option<Position>,
        incarnation: u64,
    ) -> bool {
        // While the watch lives the directory comes before every notice, so a
        // process that it does not name is an earlier one.
        let foreign = |standing: Standing| self.watched && standing.incarnation != incarnation;
        if self.standing.is_some_and(foreign) || !self.adopt(incarnation) {
            return false;
        }
        self.noticed = self.noticed.max(position);
        if version <= self.wanted {
            return false;
        }
        self.wanted = version;
        self.fetch.is_none()
    }

    /// A notice that a gateway passed on. It may not have heard yet that the
    /// origin was started anew, and this slot may never have known the process
    /// before: what it says counts only in the words of the current one.
    pub fn on_relayed(
        &mut self,
        version: Version,
        position: Option<Position>,
        incarnation: u64,
    ) -> bool {
        self.believes(incarnation) && self.on_expire(version, position, incarnation)
    }

    /// Whether what a gateway brings comes from the origin's current process.
    pub fn believes(&self, incarnation: u64) -> bool {
        self.incarnation == Some(incarnation)
    }

    /// An edge that fetches from this one has heard of this version.
    pub fn on_heard(&mut self, version: Version) {
        self.wanted = self.wanted.max(version);
    }

    /// The newest that is known to exist, and of which process; `None` while
    /// nothing is.
    pub fn newest(&self) -> Option<(Version, Option<Position>, u64)> {
        let held = self.held();
        let version = held.map_or(self.wanted, |held| held.version.max(self.wanted));
        let position = held.and_then(|held| held.position).max(self.noticed);
        let known = version > Version::default();
        self.incarnation.filter(|_| known).map(|incarnation| (version, position, incarnation))
    }

    /// A list is held and fetches work: nobody waits but for a number, and for
    /// those [`Self::on_demand`] fetches.
    pub fn is_steady(&self) -> bool {
        self.held.is_some() && self.retry.is_none()
    }

    /// The watch of this broadcast's origin lives, or is broken. True when
    /// whoever waits must be woken.
    pub fn on_watch(&mut self, watched: bool) -> bool {
        std::mem::replace(&mut self.watched, watched) != watched && self.fetch.is_none()
    }

    /// The directory's word; `None`: no origin speaks of this broadcast. True
    /// when whoever waits must be woken.
    pub fn on_standing(&mut self, standing: Option<Standing>) -> bool {
        let before = std::mem::replace(&mut self.standing, standing);
        let told = standing.map(|standing| standing.incarnation);
        if let Some(incarnation) = told
            && before.map(|before| before.incarnation) != told
        {
            // The directory is in order, so its word is the latest, even for a
            // process that was thought gone.
            self.retired.retain(|retired| *retired != incarnation);
            self.adopt(incarnation);
        }
        before != standing && self.fetch.is_none()
    }

    /// False when `incarnation` is one that was replaced. A new one resets what
    /// is wanted: its versions are its own. What is held stays.
    fn adopt(&mut self, incarnation: u64) -> bool {
        if self.incarnation == Some(incarnation) {
            return true;
        }
        if self.retired.contains(&incarnation) {
            return false;
        }
        if let Some(old) = self.incarnation.replace(incarnation) {
            if self.retired.len() == RETIRED {
                self.retired.pop_front();
            }
            self.retired.push_back(old);
            self.wanted = Version::default();
            self.noticed = None;
        }
        true
    }

    /// When [`Self::on_deadline`] must be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.interested.then(|| self.last_viewer + self.limits.interest)
    }

    /// True when interest ends, because no viewer has come for so long.
    pub fn on_deadline(&mut self, now: Instant) -> bool {
        let over = self.next_deadline().is_some_and(|deadline| now >= deadline);
        if over {
            self.interested = false;
        }
        over
    }

    /// A viewer asked for something other than the list. True when interest
    /// must be declared.
    pub fn on_viewer(&mut self, now: Instant) -> bool {
        let pause = now.saturating_duration_since(self.last_viewer);
        // A player polls once a target duration at least.
        if !self.interested || pause > 2 * self.target().unwrap_or(UNKNOWN_TARGET) {
            self.attended = now;
        }
        self.last_viewer = now;
        !std::mem::replace(&mut self.interested, true)
    }

    /// Since when somebody has been watching; nothing when nobody is.
    pub fn attended(&self) -> Option<Instant> {
        self.interested.then_some(self.attended)
    }

    /// Whether notices are wanted.
    pub fn interested(&self) -> bool {
        self.interested
    }

    /// Since when no viewer has come.
    pub fn last_viewer(&self) -> Instant {
        self.last_viewer
    }

    /// What is held.
    pub fn held(&self) -> Option<Meta> {
        self.held.as_ref().map(|held| held.meta)
    }

    /// The target duration, from the list or the directory.
    pub fn target(&self) -> Option<Duration> {
        let held = self.held.as_ref().map(|held| held.meta.target);
        held.or(self.standing.and_then(|standing| standing.target))
    }
}

#[cfg(test)]
mod tests;
