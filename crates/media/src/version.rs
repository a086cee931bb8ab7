//! What orders lists and media: [`Version`] and [`Position`].

use std::cmp::Ordering;
use std::fmt;

/// Orders everything that may change a chunklist, ENDLIST and GAPs included.
///
/// Only grows: first by epoch, then by revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Counts publisher connections and changes of codec configuration.
    pub epoch: u32,
    /// Counts changes of the list; goes on growing across epochs.
    pub revision: u64,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.revision)
    }
}

/// The newest media that a list names; what blocking reload waits for.
///
/// A closed chunk M stands after all parts of M and before all of M + 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// Media sequence number.
    pub sequence: u64,
    /// The newest part of that chunk, from 0; `None` when the chunk is closed.
    pub part: Option<u32>,
}

impl Position {
    /// A closed chunk.
    pub const fn closed(sequence: u64) -> Self {
        Self { sequence, part: None }
    }

    fn key(self) -> (u64, u64) {
        (self.sequence, self.part.map_or(u64::MAX, u64::from))
    }
}

impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Position {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part {
            Some(part) => write!(f, "{}.{part}", self.sequence),
            None => write!(f, "{}", self.sequence),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_chunk_stands_after_its_parts_and_before_the_next() {
        let part = |sequence, part| Position { sequence, part: Some(part) };
        assert!(part(7, 0) < part(7, 1));
        assert!(part(7, u32::MAX) < Position::closed(7));
        assert!(Position::closed(7) < part(8, 0));
    }

    #[test]
    fn an_epoch_outweighs_any_revision() {
        let old = Version { epoch: 1, revision: 900 };
        assert!(old < Version { epoch: 2, revision: 3 });
    }
}
