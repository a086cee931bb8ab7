//! Where on Earth a node, a broadcaster or a viewer stands.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A point on the globe, in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Location {
    latitude: f64,
    longitude: f64,
}

/// Not a point on the globe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocationError;

impl fmt::Display for LocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a location is LAT,LON in degrees, latitude -90 to 90 and longitude -180 to 180, e.g. 52.37,4.90")
    }
}

impl std::error::Error for LocationError {}

impl Location {
    /// Mean radius of the Earth, in kilometres.
    pub const EARTH_KM: f64 = 6371.0088;

    /// A point, when both coordinates are in range.
    pub fn new(latitude: f64, longitude: f64) -> Result<Self, LocationError> {
        let inside = (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude);
        if inside { Ok(Self { latitude, longitude }) } else { Err(LocationError) }
    }

    /// Degrees north.
    pub const fn latitude(self) -> f64 {
        self.latitude
    }

    /// Degrees east.
    pub const fn longitude(self) -> f64 {
        self.longitude
    }

    /// Great-circle distance in kilometres (haversine).
    pub fn distance_km(self, other: Self) -> f64 {
        let (from, to) = (self.latitude.to_radians(), other.latitude.to_radians());
        let north = (to - from) / 2.0;
        let east = (other.longitude - self.longitude).to_radians() / 2.0;
        let h = north.sin().powi(2) + from.cos() * to.cos() * east.sin().powi(2);
        2.0 * Self::EARTH_KM * h.clamp(0.0, 1.0).sqrt().asin()
    }
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let (latitude, longitude) = text.split_once(',').ok_or(LocationError)?;
        let number = |text: &str| text.trim().parse::<f64>().map_err(|_| LocationError);
        Self::new(number(latitude)?, number(longitude)?)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.latitude, self.longitude)
    }
}

/// In configuration files a location is text, as on the command line.
impl Serialize for Location {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Location {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_match_known_ones() {
        let point = |text: &str| text.parse::<Location>().unwrap();
        let known = [
            ("52.3676,4.9041", "50.1109,8.6821", 364.0),
            ("40.7128,-74.0060", "51.5074,-0.1278", 5570.0),
            ("0,179.5", "0,-179.5", 111.2),
            ("90,0", "-90,0", 20015.0),
        ];
        for (from, to, km) in known {
            let measured = point(from).distance_km(point(to));
            assert!((measured - km).abs() < km * 0.005, "{from} to {to}: {measured}");
        }
    }

    #[test]
    fn points_off_the_globe_are_refused() {
        for text in ["", "1", "91,0", "0,181", "nan,0", "0,inf", "1,2,3", "a,b"] {
            assert!(text.parse::<Location>().is_err(), "{text}");
        }
    }
}
