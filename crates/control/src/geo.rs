//! Where an address is, by a database that the operator brings.
//!
//! The file is in MMDB format (a city database of MaxMind, DB-IP and others) and
//! stands in memory. It is read anew when it has changed, or when asked to; one
//! that cannot be read leaves the one before in place.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use maxminddb::{MaxMindDbError, Reader};
use parking_lot::Mutex;
use serde::Deserialize;
use spyglass_media::Location;

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024 * 1024;

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GeoError {
    /// The file cannot be read.
    #[error("geo_mmdb {path}: {source}; give a file that this user may read, or leave it out")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said. Part of the text already.
        source: io::Error,
    },
    /// It is larger than any such database.
    #[error("geo_mmdb {0}: larger than 1 GiB; give the city database without networks' names")]
    TooLarge(PathBuf),
    /// It holds something else.
    #[error("geo_mmdb {path}: {source}; give a city database in MMDB format")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it. Part of the text already.
        source: MaxMindDbError,
    },
}

/// See the module.
pub struct Geo {
    path: Option<PathBuf>,
    held: Mutex<Option<Held>>,
}

struct Held {
    reader: Arc<Reader<Vec<u8>>>,
    stamp: Stamp,
}

/// By what a file that has changed is recognised.
type Stamp = (Option<SystemTime>, u64);

/// What is read of an entry.
#[derive(Deserialize)]
struct Entry {
    location: Option<Coordinates>,
}

#[derive(Deserialize)]
struct Coordinates {
    latitude: Option<f64>,
    longitude: Option<f64>,
}

impl Geo {
    /// Reads the file; without one, no address is anywhere.
    ///
    /// # Errors
    /// When there is a file and it cannot be used.
    pub fn load(path: Option<PathBuf>) -> Result<Self, GeoError> {
        let held = path.as_deref().map(read).transpose()?;
        Ok(Self { path, held: Mutex::new(held) })
    }

    /// Reads the file anew. It blocks: not for a task that others wait for.
    ///
    /// # Errors
    /// When it cannot be used; then the one before stays in place.
    pub fn reload(&self) -> Result<(), GeoError> {
        if let Some(path) = &self.path {
            let fresh = read(path)?;
            *self.held.lock() = Some(fresh);
        }
        Ok(())
    }

    /// [`Self::reload`] when the file is not the one that was read; whether it
    /// was.
    ///
    /// # Errors
    /// When it has changed and cannot be used.
    pub fn reload_changed(&self) -> Result<bool, GeoError> {
        let Some(path) = &self.path else { return Ok(false) };
        let now = stamp(path).map_err(|source| GeoError::Read { path: path.clone(), source })?;
        if self.held.lock().as_ref().is_some_and(|held| held.stamp == now) {
            return Ok(false);
        }
        self.reload()?;
        Ok(true)
    }

    /// Where an address is, if the database says.
    pub fn locate(&self, address: IpAddr) -> Option<Location> {
        let reader = Arc::clone(&self.held.lock().as_ref()?.reader);
        let entry = reader.lookup(address).ok()?.decode::<Entry>().ok()??;
        let Coordinates { latitude, longitude } = entry.location?;
        Location::new(latitude?, longitude?).ok()
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = std::fs::metadata(path)?;
    Ok((metadata.modified().ok(), metadata.len()))
}

fn read(path: &Path) -> Result<Held, GeoError> {
    let failed = |source| GeoError::Read { path: path.to_owned(), source };
    // Before the content: what changes meanwhile is read again.
    let stamp = stamp(path).map_err(failed)?;
    if stamp.1 > MAX_FILE {
        return Err(GeoError::TooLarge(path.to_owned()));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    let reader = Reader::from_source(bytes)
        .map_err(|source| GeoError::Format { path: path.to_owned(), source })?;
    Ok(Held { reader: Arc::new(reader), stamp })
}

#[cfg(test)]
mod tests {
    use spyglass_testkit::mmdb::{Place, database};

    use super::*;

    fn place(address: &str, bits: u8, location: Option<(f64, f64)>) -> Place {
        Place { address: address.parse().unwrap(), bits, location }
    }

    #[test]
    fn addresses_are_where_the_database_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("city.mmdb");
        let places = [
            place("192.0.2.0", 24, Some((52.37, 4.9))),
            place("192.0.2.128", 25, Some((35.68, 139.69))),
            place("198.51.100.0", 24, None),
            place("203.0.113.0", 24, Some((1000.0, 0.0))),
            place("2001:db8::", 32, Some((40.71, -74.01))),
        ];
        std::fs::write(&path, database(&places)).unwrap();
        let geo = Geo::load(Some(path)).unwrap();
        let at = |address: &str| geo.locate(address.parse().unwrap()).map(|l| l.to_string());
        assert_eq!(at("192.0.2.1").as_deref(), Some("52.37,4.9"));
        assert_eq!(at("192.0.2.200").as_deref(), Some("35.68,139.69"));
        assert_eq!(at("2001:db8:1::").as_deref(), Some("40.71,-74.01"));
        for nowhere in ["198.51.100.1", "203.0.113.1", "192.0.3.1", "2001:db9::", "127.0.0.1"] {
            assert_eq!(at(nowhere), None, "{nowhere}");
        }
        assert_eq!(Geo::load(None).unwrap().locate("192.0.2.1".parse().unwrap()), None);
    }

    #[test]
    fn a_file_that_changed_is_read_and_a_broken_one_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("city.mmdb");
        let error = |path: &Path| Geo::load(Some(path.to_owned())).err().unwrap().to_string();
        assert!(error(&path).contains("city.mmdb"), "{}", error(&path));
        std::fs::write(&path, b"no database").unwrap();
        assert!(error(&path).contains("MMDB format"), "{}", error(&path));
        std::fs::write(&path, database(&[place("192.0.2.0", 24, Some((1.0, 2.0)))])).unwrap();
        let geo = Geo::load(Some(path.clone())).unwrap();
        let address = "192.0.2.1".parse().unwrap();
        assert!(!geo.reload_changed().unwrap());
        std::fs::write(&path, b"half of one").unwrap();
        assert!(geo.reload_changed().is_err());
        assert!(geo.reload().is_err());
        assert_eq!(geo.locate(address), Location::new(1.0, 2.0).ok());
        let larger = [place("192.0.2.0", 24, Some((3.0, 4.0))), place("10.0.0.0", 8, None)];
        std::fs::write(&path, database(&larger)).unwrap();
        assert!(geo.reload_changed().unwrap());
        assert_eq!(geo.locate(address), Location::new(3.0, 4.0).ok());
    }
}
