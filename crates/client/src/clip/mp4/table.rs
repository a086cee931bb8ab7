//! The sample table of a plain movie (ISO/IEC 14496-12 sections 8.6 and 8.7):
//! five run-length coded tables, walked together.

use super::Budget;
use super::track::TrackInfo;
use crate::clip::Sample;
use crate::clip::boxes::{Broken, Fields, child};

/// Appends the samples of one track. `stbl` is the body of that box.
pub(super) fn read(
    stbl: &[u8],
    info: &TrackInfo,
    file_length: u64,
    budget: &mut Budget,
    samples: &mut Vec<Sample>,
) -> Result<(), Broken> {
    let Some(sizes) = Sizes::new(stbl)? else { return Ok(()) };
    let mut times = Runs::new(child(stbl, b"stts")?)?;
    let mut compositions = Runs::new(child(stbl, b"ctts")?)?;
    let mut keys = Keys::new(child(stbl, b"stss")?)?;
    let mut chunks = Chunks::new(stbl)?;
    let mut dts = 0u64;
    for index in 0..sizes.count {
        let length = sizes.get(index)?;
        let offset = chunks.next(length)?;
        let duration = times.next()?.ok_or(Broken("some samples have no time"))?;
        let composition = compositions.next()?.unwrap_or(0) as i32;
        let key = keys.contains(index.saturating_add(1))?;
        if offset.checked_add(u64::from(length)).is_none_or(|end| end > file_length) {
            return Err(Broken("a frame lies beyond the end of the file, which is cut short"));
        }
        if length > 0 {
            budget.spend(length)?;
            samples.push(info.sample(dts, composition, key, offset, length)?);
        }
        dts = dts.saturating_add(u64::from(duration));
    }
    Ok(())
}

/// `stsz`: one size for all, or one each.
struct Sizes<'a> {
    all: u32,
    each: &'a [u8],
    count: u32,
}

impl<'a> Sizes<'a> {
    fn new(stbl: &'a [u8]) -> Result<Option<Self>, Broken> {
        let Some(body) = child(stbl, b"stsz")? else {
            return match child(stbl, b"stz2")? {
                Some(_) => Err(Broken("it has compact sample sizes (stz2), which nobody writes")),
                None => Ok(None),
            };
        };
        let mut fields = Fields(body);
        fields.version_flags()?;
        let all = fields.u32()?;
        let count = fields.u32()?;
        let each = if all == 0 { fields.table(count, 4)? } else { &[] };
        Ok(Some(Self { all, each, count }))
    }

    fn get(&self, index: u32) -> Result<u32, Broken> {
        if self.all != 0 {
            return Ok(self.all);
        }
        let mut fields = Fields(self.each);
        fields.skip(index as usize * 4)?;
        fields.u32()
    }
}

/// `stts` and `ctts`: runs of (count, value).
struct Runs<'a> {
    rows: Fields<'a>,
    left: u32,
    value: u32,
}

impl<'a> Runs<'a> {
    fn new(body: Option<&'a [u8]>) -> Result<Self, Broken> {
        let mut rows = Fields(&[]);
        if let Some(body) = body {
            let mut fields = Fields(body);
            fields.version_flags()?;
            let count = fields.u32()?;
            rows = Fields(fields.table(count, 8)?);
        }
        Ok(Self { rows, left: 0, value: 0 })
    }

    fn next(&mut self) -> Result<Option<u32>, Broken> {
        while self.left == 0 {
            if self.rows.0.is_empty() {
                return Ok(None);
            }
            self.left = self.rows.u32()?;
            self.value = self.rows.u32()?;
        }
        self.left -= 1;
        Ok(Some(self.value))
    }
}

/// `stss`: the numbers of the key frames, ascending; absent, all are.
struct Keys<'a> {
    rows: Option<Fields<'a>>,
    next: u32,
}

impl<'a> Keys<'a> {
    fn new(body: Option<&'a [u8]>) -> Result<Self, Broken> {
        let Some(body) = body else { return Ok(Self { rows: None, next: 0 }) };
        let mut fields = Fields(body);
        fields.version_flags()?;
        let count = fields.u32()?;
        Ok(Self { rows: Some(Fields(fields.table(count, 4)?)), next: 0 })
    }

    fn contains(&mut self, number: u32) -> Result<bool, Broken> {
        let Some(rows) = &mut self.rows else { return Ok(true) };
        while self.next < number && !rows.0.is_empty() {
            self.next = rows.u32()?;
        }
        Ok(self.next == number)
    }
}

/// `stsc` with `stco` or `co64`: where each sample stands.
struct Chunks<'a> {
    offsets: Fields<'a>,
    wide: bool,
    runs: Fields<'a>,
    /// 1-based number of the chunk that comes next.
    number: u64,
    per_chunk: u32,
    left: u32,
    position: u64,
}

impl<'a> Chunks<'a> {
    fn new(stbl: &'a [u8]) -> Result<Self, Broken> {
        let (body, wide) = match (child(stbl, b"stco")?, child(stbl, b"co64")?) {
            (Some(body), _) => (body, false),
            (None, Some(body)) => (body, true),
            (None, None) => return Err(Broken("a track does not say where its samples are")),
        };
        let mut fields = Fields(body);
        fields.version_flags()?;
        let count = fields.u32()?;
        let offsets = Fields(fields.table(count, if wide { 8 } else { 4 })?);
        let body = child(stbl, b"stsc")?.ok_or(Broken("a track has no chunks"))?;
        let mut fields = Fields(body);
        fields.version_flags()?;
        let count = fields.u32()?;
        let runs = Fields(fields.table(count, 12)?);
        Ok(Self { offsets, wide, runs, number: 1, per_chunk: 0, left: 0, position: 0 })
    }

    /// Where the next sample begins.
    fn next(&mut self, length: u32) -> Result<u64, Broken> {
        while self.left == 0 {
            // A run holds until the chunk that the next one begins with.
            if let Some(first) = self.runs.0.first_chunk::<4>()
                && u64::from(u32::from_be_bytes(*first)) <= self.number
            {
                self.runs.skip(4)?;
                self.per_chunk = self.runs.u32()?;
                self.runs.skip(4)?;
                continue;
            }
            let missing = Broken("some samples are in no chunk");
            let offset =
                if self.wide { self.offsets.u64() } else { self.offsets.u32().map(u64::from) };
            self.position = offset.map_err(|_| missing)?;
            self.left = self.per_chunk;
            self.number += 1;
        }
        self.left -= 1;
        let at = self.position;
        self.position = at.saturating_add(u64::from(length));
        Ok(at)
    }
}
