//! The capture stamp: when a key frame was seen by the camera.
//!
//! It travels inside the picture as an SEI message (ITU-T H.264 annex D.1.7,
//! user data unregistered) and so survives RTMP, CMAF and every remuxer that
//! copies. Payload: [`CAPTURE_UUID`], then microseconds since the Unix epoch as
//! a big-endian signed 64-bit number. NAL units have 4-byte length prefixes,
//! as in an AVC sample (ISO/IEC 14496-15).

use crate::UtcTime;

/// Marks our user data; any other is left alone.
pub const CAPTURE_UUID: [u8; 16] = [
    0x8f, 0x1c, 0x52, 0x0e, 0x6d, 0x3b, 0x4a, 0x57, 0x9e, 0x41, 0xc7, 0x25, 0x90, 0xab, 0x6e, 0x13,
];

const NAL_SEI: u8 = 6;
const NAL_IDR: u8 = 5;
const USER_DATA_UNREGISTERED: u8 = 5;
const PAYLOAD: usize = 16 + 8;

/// An SEI NAL unit with its 4-byte length prefix, to stand before the first
/// slice of a key frame.
pub fn capture_sei(at: UtcTime) -> Vec<u8> {
    let mut rbsp = vec![USER_DATA_UNREGISTERED, PAYLOAD as u8];
    rbsp.extend_from_slice(&CAPTURE_UUID);
    rbsp.extend_from_slice(&at.micros().to_be_bytes());
    rbsp.push(0x80);
    let mut nal = vec![NAL_SEI];
    let mut zeros = 0;
    for byte in rbsp {
        // Emulation prevention (H.264 7.4.1.1): no 000000 to 000003 inside.
        if zeros == 2 && byte <= 3 {
            nal.push(3);
            zeros = 0;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        nal.push(byte);
    }
    let mut sample = (nal.len() as u32).to_be_bytes().to_vec();
    sample.extend_from_slice(&nal);
    sample
}

/// The capture stamp in a sample of length-prefixed NAL units, if there is one.
///
/// Looks only before the first IDR slice and never allocates more than a
/// stamp's size, whatever the sample claims.
pub fn find_capture(sample: &[u8]) -> Option<UtcTime> {
    let mut rest = sample;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let nal = after.get(..u32::from_be_bytes(*length) as usize)?;
        match nal.first()? & 0x1f {
            NAL_SEI => {
                if let Some(found) = stamp_in_sei(&nal[1..]) {
                    return Some(found);
                }
            }
            NAL_IDR => return None,
            _ => {}
        }
        rest = &after[nal.len()..];
    }
    None
}

/// Walks the messages of one SEI NAL unit (H.264 7.3.2.3.1).
fn stamp_in_sei(nal: &[u8]) -> Option<UtcTime> {
    let mut bytes = unescaped(nal);
    loop {
        let kind = sei_number(&mut bytes)?;
        let size = sei_number(&mut bytes)?;
        if kind == usize::from(USER_DATA_UNREGISTERED) && size == PAYLOAD {
            let mut payload = [0; PAYLOAD];
            for slot in &mut payload {
                *slot = bytes.next()?;
            }
            if payload[..16] == CAPTURE_UUID {
                let micros: [u8; 8] = payload[16..].try_into().ok()?;
                return Some(UtcTime::from_micros(i64::from_be_bytes(micros)));
            }
        } else {
            for _ in 0..size {
                bytes.next()?;
            }
        }
    }
}

/// A payload type or size: 255 means "and more".
fn sei_number(bytes: &mut impl Iterator<Item = u8>) -> Option<usize> {
    let mut sum = 0usize;
    loop {
        let byte = bytes.next()?;
        sum = sum.checked_add(usize::from(byte))?;
        if byte != 255 {
            return Some(sum);
        }
    }
}

/// The bytes of a NAL unit without its emulation prevention.
fn unescaped(nal: &[u8]) -> impl Iterator<Item = u8> {
    let mut zeros = 0;
    nal.iter().copied().filter(move |&byte| {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            return false;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn idr() -> Vec<u8> {
        vec![0, 0, 0, 3, 0x65, 0x88, 0x80]
    }

    #[test]
    fn a_stamp_behind_the_first_slice_is_not_looked_for() {
        let mut sample = idr();
        sample.extend(capture_sei(UtcTime::from_millis(5)));
        assert_eq!(find_capture(&sample), None);
    }

    #[test]
    fn other_user_data_is_passed_over() {
        let mut sample = vec![0, 0, 0, 21, NAL_SEI, USER_DATA_UNREGISTERED, 18];
        sample.extend([7; 18]);
        sample.extend(capture_sei(UtcTime::from_millis(1_700_000_000_123)));
        sample.extend(idr());
        assert_eq!(find_capture(&sample), Some(UtcTime::from_millis(1_700_000_000_123)));
    }

    proptest! {
        #[test]
        fn a_stamp_survives_the_round_trip(micros: i64) {
            let mut sample = capture_sei(UtcTime::from_micros(micros));
            prop_assert!(!sample[4..].windows(3).any(|w| w[0] == 0 && w[1] == 0 && w[2] <= 2));
            sample.extend(idr());
            prop_assert_eq!(find_capture(&sample), Some(UtcTime::from_micros(micros)));
        }

        #[test]
        fn no_sample_panics(sample: Vec<u8>) {
            let _ = find_capture(&sample);
        }
    }
}
