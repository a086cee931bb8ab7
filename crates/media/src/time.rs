//! Time with its unit: media time in 90 kHz ticks, wall clock in microseconds.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Where something stands in its broadcast: ticks of a 90 kHz clock.
///
/// 90 kHz divides by every common frame rate and by RTMP's millisecond, so
/// neither loses anything. Zero is the broadcast's first frame; reconnects go
/// on from where the broadcast was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaTime(i64);

impl MediaTime {
    /// The start of a broadcast.
    pub const ZERO: Self = Self(0);
    /// Ticks in a second.
    pub const PER_SECOND: i64 = 90_000;

    /// From 90 kHz ticks.
    pub const fn from_ticks(ticks: i64) -> Self {
        Self(ticks)
    }

    /// From milliseconds, exactly.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(90))
    }

    /// 90 kHz ticks.
    pub const fn ticks(self) -> i64 {
        self.0
    }

    /// Whole milliseconds, rounded down.
    pub const fn millis(self) -> i64 {
        self.0.div_euclid(90)
    }

    /// Seconds, for people and playlists.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / Self::PER_SECOND as f64
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        let ticks = self.0.saturating_sub(earlier.0).max(0).unsigned_abs();
        Duration::from_nanos(ticks.saturating_mul(100_000) / 9)
    }
}

impl Add<Duration> for MediaTime {
    type Output = Self;

    /// Saturates; sub-tick remainders are dropped.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(ticks(duration)))
    }
}

fn ticks(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos().saturating_mul(9) / 100_000).unwrap_or(i64::MAX)
}

impl Sub for MediaTime {
    type Output = MediaTime;

    /// The signed distance, in ticks; saturates.
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for MediaTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", self.seconds())
    }
}

/// A moment by the wall clock: microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UtcTime(i64);

impl UtcTime {
    /// From microseconds since the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1000))
    }

    /// From the operating system's clock value.
    pub fn from_system(time: std::time::SystemTime) -> Self {
        match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => Self(i64::try_from(after.as_micros()).unwrap_or(i64::MAX)),
            Err(before) => {
                Self(i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us))
            }
        }
    }

    /// Microseconds since the Unix epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, rounded down.
    pub const fn millis(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }

    /// How far apart two moments are, whichever is first.
    pub fn distance(self, other: Self) -> Duration {
        self.since(other).max(other.since(self))
    }

    /// RFC 3339 with milliseconds, as EXT-X-PROGRAM-DATE-TIME wants it:
    /// `2026-01-31T12:34:56.789Z`.
    pub fn rfc3339(self) -> String {
        let (days, in_day) =
            (self.millis().div_euclid(86_400_000), self.millis().rem_euclid(86_400_000));
        let (year, month, day) = civil_from_days(days);
        let (seconds, millis) = (in_day / 1000, in_day % 1000);
        format!(
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{millis:03}Z",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        )
    }
}

impl Add<Duration> for UtcTime {
    type Output = Self;

    /// Saturates.
    fn add(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }
}

impl Sub<Duration> for UtcTime {
    type Output = Self;

    /// Saturates.
    fn sub(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros))
    }
}

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

/// Days since 1970-01-01 to (year, month, day) in the proleptic Gregorian
/// calendar, by counting from 0000-03-01 so that the leap day ends a year.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    let shifted = days + 719_468;
    let era = shifted.div_euclid(DAYS_PER_ERA);
    let day_of_era = shifted.rem_euclid(DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_match_known_ones() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(UtcTime::from_millis(millis).rfc3339(), text);
        }
    }

    proptest! {
        #[test]
        fn millis_survive_the_round_trip(millis in -1_000_000_000_000i64..1_000_000_000_000) {
            prop_assert_eq!(MediaTime::from_millis(millis).millis(), millis);
        }

        #[test]
        fn adding_a_span_and_measuring_it_agree(ticks in 0i64..1 << 40, millis in 0u64..1 << 30) {
            let start = MediaTime::from_ticks(ticks);
            let span = Duration::from_millis(millis);
            prop_assert_eq!((start + span).since(start), span);
        }
    }
}
