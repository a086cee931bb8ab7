//! What a broadcaster does to NAL units: lengths of 4 bytes, a capture stamp.

use bytes::{BufMut, Bytes, BytesMut};
use spyglass_media::{UtcTime, capture_sei, find_capture};

/// Rewrites length prefixes of 1, 2 or 3 bytes to 4. `None` when the units do
/// not add up to the sample.
pub(crate) fn widen(sample: &[u8], prefix: usize) -> Option<Bytes> {
    let mut wide = BytesMut::with_capacity(sample.len() + sample.len() / 16 + 16);
    let mut rest = sample;
    while !rest.is_empty() {
        let (length, after) = rest.split_at_checked(prefix)?;
        let length = length.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
        let (unit, after) = after.split_at_checked(length)?;
        wide.put_u32(u32::try_from(length).ok()?);
        wide.put_slice(unit);
        rest = after;
    }
    Some(wide.freeze())
}

/// The sample with `captured` in an SEI before its first slice: behind the
/// parameter sets and other SEI, where H.264 7.4.1.2.3 wants it. An older stamp
/// is taken out. A sample whose units do not add up is stamped in front.
pub(crate) fn stamp(sample: &[u8], captured: UtcTime) -> Bytes {
    let sei = capture_sei(captured);
    let mut stamped = BytesMut::with_capacity(sample.len() + sei.len());
    let mut rest = sample;
    while let Some(unit) = first_unit(rest) {
        // Slices of all kinds are types 1 to 5.
        if matches!(unit.get(4).map(|byte| byte & 0x1f), Some(1..=5)) {
            break;
        }
        if find_capture(unit).is_none() {
            stamped.put_slice(unit);
        }
        rest = &rest[unit.len()..];
    }
    stamped.put_slice(&sei);
    stamped.put_slice(rest);
    stamped.freeze()
}

fn first_unit(rest: &[u8]) -> Option<&[u8]> {
    let length = u32::from_be_bytes(*rest.first_chunk()?) as usize;
    rest.get(..length.checked_add(4)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AUD: [u8; 6] = [0, 0, 0, 2, 9, 0xf0];
    const IDR: [u8; 7] = [0, 0, 0, 3, 0x65, 0x88, 0x80];

    #[test]
    fn a_stamp_stands_before_the_slice_and_replaces_an_older_one() {
        let plain = [&AUD[..], &IDR].concat();
        let first = stamp(&plain, UtcTime::from_millis(1));
        assert_eq!(first[..AUD.len()], AUD);
        let second = stamp(&first, UtcTime::from_millis(2_000_000_000_000));
        assert_eq!(find_capture(&second), Some(UtcTime::from_millis(2_000_000_000_000)));
        assert!(second.ends_with(&IDR));
        let stamps = second.windows(16).filter(|w| *w == spyglass_media::CAPTURE_UUID).count();
        assert_eq!(stamps, 1);
    }

    #[test]
    fn short_prefixes_become_four_bytes() {
        assert_eq!(widen(&[1, 9, 2, 5, 6], 1).unwrap()[..], [0, 0, 0, 1, 9, 0, 0, 0, 2, 5, 6]);
        assert_eq!(widen(&[0, 1, 9], 2).unwrap()[..], [0, 0, 0, 1, 9]);
        assert_eq!(widen(&[3, 9], 1), None);
    }

    proptest! {
        #[test]
        fn no_sample_panics(sample: Vec<u8>, prefix in 1usize..4) {
            let _ = widen(&sample, prefix);
            let _ = stamp(&sample, UtcTime::from_millis(5));
        }
    }
}
