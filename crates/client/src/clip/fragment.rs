//! Movie fragments (ISO/IEC 14496-12 section 8.8): which samples a `moof` names.
//!
//! Used for fragmented files and, by the viewer, for the chunks it receives.

use super::boxes::{Broken, Fields, boxes, child, need};

/// Samples one fragment may name; a second of anything has far fewer.
const MAX_SAMPLES: usize = 1 << 18;

/// What holds where a fragment does not say (from `trex`).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Defaults {
    pub(crate) duration: u32,
    pub(crate) size: u32,
    pub(crate) flags: u32,
}

/// One sample of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FragmentSample {
    pub(crate) track: u32,
    /// From the start of the file or chunk that the `moof` stands in.
    pub(crate) offset: u64,
    pub(crate) size: u32,
    /// In the track's timescale; `None` when the fragment has no `tfdt` and so
    /// continues where the one before ended.
    pub(crate) dts: Option<u64>,
    pub(crate) duration: u32,
    pub(crate) composition: i32,
    pub(crate) key: bool,
}

/// The samples that the body of a `moof` names. `at` is where the box begins.
pub(crate) fn samples_of(
    moof: &[u8],
    at: u64,
    defaults: impl Fn(u32) -> Defaults,
) -> Result<Vec<FragmentSample>, Broken> {
    let mut samples = Vec::new();
    let mut implicit_base = at;
    for found in boxes(moof) {
        let found = found?;
        if &found.kind == b"traf" {
            implicit_base = track_run(found.body, at, implicit_base, &defaults, &mut samples)?;
        }
    }
    Ok(samples)
}

/// Reads one `traf`; returns where its data ends.
fn track_run(
    traf: &[u8],
    at: u64,
    implicit_base: u64,
    defaults: &impl Fn(u32) -> Defaults,
    samples: &mut Vec<FragmentSample>,
) -> Result<u64, Broken> {
    let mut header = Fields(need(traf, b"tfhd", "a track fragment has no tfhd")?);
    let (_, flags) = header.version_flags()?;
    let track = header.u32()?;
    let mut values = defaults(track);
    let mut base = implicit_base;
    if flags & 0x1 != 0 {
        base = header.u64()?;
    } else if flags & 0x2_0000 != 0 {
        base = at;
    }
    if flags & 0x2 != 0 {
        header.skip(4)?;
    }
    if flags & 0x8 != 0 {
        values.duration = header.u32()?;
    }
    if flags & 0x10 != 0 {
        values.size = header.u32()?;
    }
    if flags & 0x20 != 0 {
        values.flags = header.u32()?;
    }
    let mut dts = match child(traf, b"tfdt")? {
        Some(body) => {
            let mut fields = Fields(body);
            let (version, _) = fields.version_flags()?;
            Some(fields.wide(version)?)
        }
        None => None,
    };
    let mut position = base;
    for found in boxes(traf) {
        let found = found?;
        if &found.kind == b"trun" {
            let run = Run { track, base, values };
            run.read(found.body, &mut position, &mut dts, samples)?;
        }
    }
    Ok(position)
}

struct Run {
    track: u32,
    base: u64,
    values: Defaults,
}

impl Run {
    fn read(
        &self,
        body: &[u8],
        position: &mut u64,
        dts: &mut Option<u64>,
        samples: &mut Vec<FragmentSample>,
    ) -> Result<(), Broken> {
        let overflow = Broken("a fragment's sample lies beyond any file");
        let mut fields = Fields(body);
        let (_, flags) = fields.version_flags()?;
        let count = fields.u32()?;
        if flags & 0x1 != 0 {
            let offset = i64::from(fields.i32()?);
            *position = self.base.checked_add_signed(offset).ok_or(overflow)?;
        }
        let first_flags = if flags & 0x4 != 0 { Some(fields.u32()?) } else { None };
        let present = [0x100, 0x200, 0x400, 0x800].iter().filter(|bit| flags & **bit != 0).count();
        let mut rows = Fields(fields.table(count, present * 4)?);
        if samples.len().saturating_add(count as usize) > MAX_SAMPLES {
            return Err(Broken("a fragment names more samples than any fragment has"));
        }
        for index in 0..count {
            let mut value = |bit: u32, default: u32| {
                if flags & bit != 0 { rows.u32() } else { Ok(default) }
            };
            let duration = value(0x100, self.values.duration)?;
            let size = value(0x200, self.values.size)?;
            let own = value(0x400, self.values.flags)?;
            // Signed in version 1; version 0 in the wild holds negatives too.
            let composition = value(0x800, 0)? as i32;
            let flags = first_flags.filter(|_| index == 0).unwrap_or(own);
            samples.push(FragmentSample {
                track: self.track,
                offset: *position,
                size,
                dts: *dts,
                duration,
                composition,
                // sample_is_non_sync_sample
                key: flags & 0x1_0000 == 0,
            });
            *position = position.checked_add(u64::from(size)).ok_or(overflow)?;
            *dts = dts.map(|dts| dts.saturating_add(u64::from(duration)));
        }
        Ok(())
    }
}
