//! How many connections there may be, in all and from one address: of an edge,
//! and of control's API.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Why a connection is closed before anything is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There are as many as there may be.
    All,
    /// This address has as many as it may have.
    Address,
}

impl Full {
    /// The word in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "full",
            Self::Address => "address_full",
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    most: usize,
    most_per_address: usize,
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Counts connections; clones share the counts.
#[derive(Clone, Debug)]
pub struct Gate {
    counts: Arc<Mutex<Counts>>,
}

impl Gate {
    /// With these limits.
    pub fn new(most: usize, most_per_address: usize) -> Self {
        let counts = Counts { most, most_per_address, ..Counts::default() };
        Self { counts: Arc::new(Mutex::new(counts)) }
    }

    /// Other limits from now on; whoever is connected stays.
    pub fn set_limits(&self, most: usize, most_per_address: usize) {
        let mut counts = self.counts.lock();
        (counts.most, counts.most_per_address) = (most, most_per_address);
    }

    /// A place for a connection of `address`, until it is dropped.
    ///
    /// # Errors
    /// Which limit stands in the way.
    pub fn enter(&self, address: IpAddr) -> Result<Place, Full> {
        let capped = !address.to_canonical().is_loopback();
        self.admit(capped.then(|| crate::listen::network(address)))
    }

    /// A place for somebody who may have any number, as a proxy must.
    ///
    /// # Errors
    /// There are as many connections as there may be.
    pub fn enter_uncapped(&self) -> Result<Place, Full> {
        self.admit(None)
    }

    fn admit(&self, address: Option<IpAddr>) -> Result<Place, Full> {
        let mut counts = self.counts.lock();
        if counts.all >= counts.most {
            return Err(Full::All);
        }
        if let Some(address) = address {
            let count = counts.by_address.get(&address).copied().unwrap_or(0);
            if count >= counts.most_per_address {
                return Err(Full::Address);
            }
            counts.by_address.insert(address, count + 1);
        }
        counts.all += 1;
        Ok(Place { address, counts: Arc::clone(&self.counts) })
    }
}

/// One connection's place.
#[derive(Debug)]
pub struct Place {
    address: Option<IpAddr>,
    counts: Arc<Mutex<Counts>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        counts.all = counts.all.saturating_sub(1);
        let Some(address) = self.address else { return };
        if let Some(count) = counts.by_address.get_mut(&address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_and_all_together_have_so_many_places() {
        let gate = Gate::new(3, 2);
        let first = gate.enter(ip("192.0.2.1")).unwrap();
        let _second = gate.enter(ip("::ffff:192.0.2.1")).unwrap();
        assert_eq!(gate.enter(ip("192.0.2.1")).unwrap_err(), Full::Address);
        let _third = gate.enter(ip("192.0.2.2")).unwrap();
        assert_eq!(gate.enter(ip("192.0.2.3")).unwrap_err(), Full::All);
        drop(first);
        assert!(gate.enter(ip("192.0.2.1")).is_ok());
        assert_eq!(gate.counts.lock().by_address.len(), 2);
    }

    #[test]
    fn other_limits_hold_for_whoever_comes_next() {
        let gate = Gate::new(1, 1);
        let first = gate.enter(ip("192.0.2.1")).unwrap();
        assert_eq!(gate.enter(ip("192.0.2.2")).unwrap_err(), Full::All);
        gate.set_limits(3, 2);
        let _more = (gate.enter(ip("192.0.2.1")).unwrap(), gate.enter(ip("192.0.2.2")).unwrap());
        gate.set_limits(1, 1);
        drop(first);
        assert_eq!(gate.enter(ip("192.0.2.3")).unwrap_err(), Full::All);
    }

    #[test]
    fn a_network_counts_as_one_and_loopback_not_at_all() {
        let gate = Gate::new(100, 1);
        let _first = gate.enter(ip("2001:db8::1")).unwrap();
        assert_eq!(gate.enter(ip("2001:db8::ffff:2")).unwrap_err(), Full::Address);
        assert!(gate.enter(ip("2001:db8:0:1::1")).is_ok());
        let places: Vec<_> = (0..9).map(|_| gate.enter(ip("127.0.0.1")).unwrap()).collect();
        assert_eq!(places.len(), 9);
        let proxied: Vec<_> = (0..9).map(|_| gate.enter_uncapped().unwrap()).collect();
        gate.set_limits(19, 1);
        assert_eq!(gate.enter_uncapped().unwrap_err(), Full::All, "{}", proxied.len());
    }
}
