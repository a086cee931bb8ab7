//! Where a clip's bytes are: in memory or in a file, read piece by piece.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

use crate::Error;

/// Bytes with a known length.
pub(crate) struct Source {
    bytes: Place,
    length: u64,
}

enum Place {
    Memory(Bytes),
    File(File),
}

impl Source {
    pub(crate) fn memory(bytes: Bytes) -> Self {
        Self { length: bytes.len() as u64, bytes: Place::Memory(bytes) }
    }

    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let unreadable = |reason| Error::Unreadable { path: path.display().to_string(), reason };
        let file = File::open(path).map_err(unreadable)?;
        let about = file.metadata().map_err(unreadable)?;
        if !about.is_file() {
            return Err(Error::NotMedia(format!("{} is not a regular file", path.display())));
        }
        Ok(Self { length: about.len(), bytes: Place::File(file) })
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Blocks, but on what the page cache mostly holds: a frame now and then.
    /// Exactly `length` bytes at `offset`, `None` when the source ends before.
    /// Allocates only what is really there.
    pub(crate) fn read(&self, offset: u64, length: usize) -> Result<Option<Bytes>, Error> {
        let Some(end) = offset.checked_add(length as u64).filter(|end| *end <= self.length) else {
            return Ok(None);
        };
        match &self.bytes {
            // Both ends are within the length of a slice, so they fit usize.
            Place::Memory(bytes) => Ok(Some(bytes.slice(offset as usize..end as usize))),
            Place::File(file) => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, offset)
                    .map_err(|reason| Error::Unreadable { path: "the clip".to_owned(), reason })?;
                Ok(Some(bytes.into()))
            }
        }
    }
}

/// Reads forward in blocks, so that an index of many small tags costs few
/// system calls.
pub(crate) struct Forward<'a> {
    source: &'a Source,
    block: Bytes,
    start: u64,
}

impl<'a> Forward<'a> {
    const BLOCK: u64 = 256 * 1024;

    pub(crate) fn new(source: &'a Source) -> Self {
        Self { source, block: Bytes::new(), start: 0 }
    }

    /// As [`Source::read`].
    pub(crate) fn read(&mut self, offset: u64, length: usize) -> Result<Option<Bytes>, Error> {
        let within = offset.checked_sub(self.start).and_then(|from| {
            let from = usize::try_from(from).ok()?;
            let to = from.checked_add(length)?;
            (to <= self.block.len()).then_some(from..to)
        });
        if let Some(range) = within {
            return Ok(Some(self.block.slice(range)));
        }
        let left = self.source.length().saturating_sub(offset);
        let wanted = left.min(Self::BLOCK.max(length as u64));
        let Some(block) = self.source.read(offset, wanted as usize)? else { return Ok(None) };
        self.start = offset;
        self.block = block;
        Ok((length <= self.block.len()).then(|| self.block.slice(..length)))
    }
}
