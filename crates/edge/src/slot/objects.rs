//! What a slot knows of the objects that its list names, without reading it:
//! whether one can exist, and which part comes next.

use std::time::Duration;

use spyglass_media::{Position, Resource};

use super::{Listing, Slot, awaited};

/// A chunk further behind the newest one is kept by no origin …
pub(super) const KEPT: u64 = 256;

/// … and no part of one that is as far behind.
const PARTS_KEPT: u64 = 16;

impl<L: Listing> Slot<L> {
    /// Whether this object can exist by what is known; `None` while no list is
    /// held: notices alone do not tell what was named.
    pub fn may_exist(&self, resource: Resource) -> Option<bool> {
        let span = self.held.as_ref()?.span.as_ref();
        let held = self.held()?;
        let listed = self.listed()?;
        let newest = self.epoch();
        let named = |epoch, sequence, kept| {
            let epochs = span.map_or(Some(1..=newest), |span| span.epochs(sequence, newest));
            let kept = listed.sequence.saturating_sub(sequence) <= kept;
            kept && epochs.is_some_and(|epochs| epochs.contains(&epoch))
        };
        Some(match resource {
            Resource::Index | Resource::Chunklist => true,
            Resource::Init { epoch } => match span {
                Some(span) => span.needs(epoch, newest),
                None => (1..=newest).contains(&epoch),
            },
            Resource::Chunk { epoch, sequence } => {
                named(epoch, sequence, KEPT) && Position::closed(sequence) <= listed
            }
            Resource::Part { epoch, sequence, part } => {
                let at = Position { sequence, part: Some(part) };
                let seen = span.and_then(|span| span.parts(sequence));
                let most = seen.unwrap_or_else(|| awaited::most_parts(&held));
                named(epoch, sequence, PARTS_KEPT) && part < most && at <= listed
            }
        })
    }

    /// Whether this is the part that comes next: it may be asked for early.
    pub fn is_hinted(&self, resource: Resource) -> bool {
        let Resource::Part { epoch, sequence, part } = resource else { return false };
        let Some(held) = self.held().filter(|held| !held.ended && held.part_target.is_some())
        else {
            return false;
        };
        let next = self.listed().map(|listed| match listed.part {
            Some(part) => (listed.sequence, part.saturating_add(1)),
            None => (listed.sequence.saturating_add(1), 0),
        });
        epoch == self.epoch() && next == Some((sequence, part)) && part < awaited::most_parts(&held)
    }

    /// How long a request for a hinted part may wait.
    pub fn longest_wait(&self) -> Duration {
        self.target().map_or(awaited::LONGEST, awaited::longest)
    }

    /// The newest media that is known to exist.
    fn listed(&self) -> Option<Position> {
        self.held().and_then(|held| held.position).max(self.noticed)
    }

    fn epoch(&self) -> u32 {
        self.held().map_or(self.wanted, |held| held.version.max(self.wanted)).epoch
    }
}
