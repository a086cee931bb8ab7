//! Walks ISO base media boxes (ISO/IEC 14496-12 section 4.2) in borrowed bytes.
//!
//! Nothing is copied and no length is believed before it is known to fit, so
//! what a hostile file can cost is a walk over its own bytes.

/// The bytes are no well-formed boxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

/// One box.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BoxRef<'a> {
    pub(crate) kind: [u8; 4],
    pub(crate) body: &'a [u8],
    /// Where the box (its header) begins in the walked bytes.
    pub(crate) offset: usize,
    /// Header and body.
    pub(crate) length: usize,
}

/// The boxes of some bytes, in order; ends after the first broken one.
pub(crate) fn boxes(bytes: &[u8]) -> Boxes<'_> {
    Boxes { bytes, offset: 0 }
}

pub(crate) struct Boxes<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Iterator for Boxes<'a> {
    type Item = Result<BoxRef<'a>, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.offset..)?;
        // QuickTime ends some lists of boxes with four zero bytes.
        if rest.is_empty() || rest == [0; 4] {
            return None;
        }
        let Some(found) = first(rest, self.offset) else {
            self.offset = self.bytes.len();
            return Some(Err(Broken("a box is longer than what holds it")));
        };
        self.offset += found.length;
        Some(Ok(found))
    }
}

fn first(rest: &[u8], offset: usize) -> Option<BoxRef<'_>> {
    let (header, length) = header(rest, rest.len() as u64)?;
    let length = usize::try_from(length).ok()?;
    let kind = rest.get(4..8)?.try_into().ok()?;
    Some(BoxRef { kind, body: rest.get(header..length)?, offset, length })
}

/// The lengths of a box's header and of the whole box, from its first 16 (or,
/// where the box is short, 8) bytes and how many bytes there are to the end of
/// what holds it.
pub(crate) fn header(bytes: &[u8], available: u64) -> Option<(usize, u64)> {
    let short = u32::from_be_bytes(*bytes.first_chunk()?);
    let (header, length) = match short {
        0 => (8, available),
        1 => (16, u64::from_be_bytes(*bytes.get(8..)?.first_chunk()?)),
        length => (8, u64::from(length)),
    };
    (length >= header as u64 && length <= available).then_some((header, length))
}

/// The first child of a kind.
pub(crate) fn child<'a>(body: &'a [u8], kind: &[u8; 4]) -> Result<Option<&'a [u8]>, Broken> {
    for found in boxes(body) {
        let found = found?;
        if &found.kind == kind {
            return Ok(Some(found.body));
        }
    }
    Ok(None)
}

/// The first child of a kind, which must be there.
pub(crate) fn need<'a>(
    body: &'a [u8],
    kind: &[u8; 4],
    missing: &'static str,
) -> Result<&'a [u8], Broken> {
    child(body, kind)?.ok_or(Broken(missing))
}

/// Big-endian fields, read in order.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

const SHORT: Broken = Broken("a box ends before its fields do");

impl<'a> Fields<'a> {
    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn skip(&mut self, count: usize) -> Result<(), Broken> {
        self.0 = self.0.get(count..).ok_or(SHORT)?;
        Ok(())
    }

    pub(crate) fn slice(&mut self, count: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Broken> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Broken> {
        self.take().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Broken> {
        self.take().map(u32::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Broken> {
        self.take().map(i32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Broken> {
        self.take().map(u64::from_be_bytes)
    }

    /// Version and flags of a full box (ISO/IEC 14496-12 section 4.2).
    pub(crate) fn version_flags(&mut self) -> Result<(u8, u32), Broken> {
        let word = self.u32()?;
        Ok(((word >> 24) as u8, word & 0x00ff_ffff))
    }

    /// A 64-bit field that is 32-bit in version 0.
    pub(crate) fn wide(&mut self, version: u8) -> Result<u64, Broken> {
        if version == 0 { self.u32().map(u64::from) } else { self.u64() }
    }

    /// `count` records of `size` bytes, all of them known to be there.
    pub(crate) fn table(&mut self, count: u32, size: usize) -> Result<&'a [u8], Broken> {
        let bytes = (count as usize).checked_mul(size).ok_or(SHORT)?;
        self.slice(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_three_ways_to_write_a_length() {
        let mut bytes = vec![0, 0, 0, 9, b'a', b'a', b'a', b'a', 7];
        bytes.extend([0, 0, 0, 1, b'b', b'b', b'b', b'b', 0, 0, 0, 0, 0, 0, 0, 17, 8]);
        bytes.extend([0, 0, 0, 0, b'c', b'c', b'c', b'c', 9, 10]);
        let bodies: Vec<_> = boxes(&bytes).map(|found| found.unwrap().body.to_vec()).collect();
        assert_eq!(bodies, [vec![7], vec![8], vec![9, 10]]);
    }

    #[test]
    fn a_box_that_claims_too_much_ends_the_walk() {
        let bytes = [0, 0, 0, 10, b'a', b'a', b'a', b'a', 7];
        let found: Vec<_> = boxes(&bytes).collect();
        assert!(matches!(found[..], [Err(_)]));
        assert!(boxes(&[0, 0, 0, 7, 1, 1, 1, 1]).next().is_some_and(|found| found.is_err()));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_loop(bytes: Vec<u8>) {
            prop_assert!(boxes(&bytes).count() <= bytes.len() / 8 + 1);
        }
    }
}
