//! Digests of the chunks that edges fetch.
//!
//! All edges fetch a new chunk within the same few milliseconds. The first who
//! asks makes its digest; the others wait as long as they would make it
//! themselves, and leave the processor to somebody else.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use spyglass_media::Resource;

/// Kept per broadcast: the chunks that edges fetch are the newest ones.
const KEPT: usize = 8;

/// SHA-256.
pub type Digest = [u8; 32];

/// Those of one broadcast's newest chunks that were fetched.
#[derive(Debug, Default)]
pub(super) struct Digests(Mutex<VecDeque<(Resource, Arc<OnceLock<Digest>>)>>);

impl Digests {
    /// The digest of these bytes, which are this object's.
    pub fn of(&self, resource: Resource, bytes: &Bytes) -> Digest {
        *self.cell(resource).get_or_init(|| Sha256::digest(bytes).into())
    }

    fn cell(&self, resource: Resource) -> Arc<OnceLock<Digest>> {
        let mut kept = self.0.lock();
        if let Some((_, cell)) = kept.iter().find(|(of, _)| *of == resource) {
            return Arc::clone(cell);
        }
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        let cell = Arc::default();
        kept.push_back((resource, Arc::clone(&cell)));
        cell
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn chunk(sequence: u64) -> Resource {
        Resource::Chunk { epoch: 1, sequence }
    }

    #[test]
    fn those_who_ask_together_share_one_digest() {
        let digests = Digests::default();
        let bytes = Bytes::from(vec![7; 1 << 20]);
        let expected: Digest = Sha256::digest(&bytes).into();
        digests.of(chunk(0), &bytes);
        let together = Barrier::new(KEPT);
        std::thread::scope(|scope| {
            for _ in 0..KEPT {
                scope.spawn(|| {
                    together.wait();
                    assert_eq!(digests.of(chunk(1), &bytes), expected);
                });
            }
        });
        let kept: Vec<_> = digests.0.lock().iter().map(|(of, _)| *of).collect();
        assert_eq!(kept, [chunk(0), chunk(1)], "no double pushes others out");
    }

    #[test]
    fn only_the_newest_are_kept() {
        let digests = Digests::default();
        for sequence in 0..100 {
            digests.of(chunk(sequence), &Bytes::from_static(b"media"));
        }
        assert_eq!(digests.0.lock().len(), KEPT);
        assert_eq!(digests.0.lock().back().map(|(of, _)| *of), Some(chunk(99)));
    }
}
