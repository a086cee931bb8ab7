//! How many connections there may be, in all and from one address.
//!
//! A connection counts against its address only until it has shown a valid
//! token: a household or an office with many viewers is no attack.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use spyglass_daemon::listen::network;

/// Hands out places.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    most_unproven: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    unproven: HashMap<IpAddr, usize>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The origin has as many connections as it takes.
    Full,
    /// This address has as many connections without a token as it may.
    TooManyUnproven,
}

impl Closed {
    /// The word in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::TooManyUnproven => "too_many_unproven",
        }
    }
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub struct Place {
    gate: Gate,
    address: Option<IpAddr>,
}

impl Gate {
    /// Room for `most` connections, of which `most_unproven` an address may
    /// have shown no token yet.
    pub fn new(most: usize, most_unproven: usize) -> Self {
        let counts = Mutex::default();
        Self(Arc::new(Shared { most, most_unproven, counts }))
    }

    /// A place for a connection from `address`.
    pub fn enter(&self, address: IpAddr) -> Result<Place, Closed> {
        let address = network(address);
        let mut counts = self.0.counts.lock();
        if counts.all >= self.0.most {
            return Err(Closed::Full);
        }
        let unproven = counts.unproven.entry(address).or_insert(0);
        if *unproven >= self.0.most_unproven {
            return Err(Closed::TooManyUnproven);
        }
        *unproven += 1;
        counts.all += 1;
        Ok(Place { gate: self.clone(), address: Some(address) })
    }
}

impl Place {
    /// The connection has shown a valid token.
    pub fn prove(&mut self) {
        let mut counts = self.gate.0.counts.lock();
        Self::forget_address(&mut self.address, &mut counts);
    }

    fn forget_address(address: &mut Option<IpAddr>, counts: &mut Counts) {
        if let Some(address) = address.take()
            && let Some(count) = counts.unproven.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                counts.unproven.remove(&address);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.gate.0.counts.lock();
        counts.all -= 1;
        Self::forget_address(&mut self.address, &mut counts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_held_to_its_limit_until_it_has_shown_a_token() {
        let gate = Gate::new(5, 2);
        let home = IpAddr::from([127, 0, 0, 1]);
        let mut first = gate.enter(home).unwrap();
        let second = gate.enter(home).unwrap();
        assert_eq!(gate.enter(home).unwrap_err(), Closed::TooManyUnproven);
        assert!(gate.enter(IpAddr::from([127, 0, 0, 2])).is_ok());
        first.prove();
        let third = gate.enter(home).unwrap();
        drop((first, second, third));
        assert!(gate.0.counts.lock().unproven.is_empty());
        assert_eq!(gate.0.counts.lock().all, 0);
    }

    #[test]
    fn a_full_origin_takes_nobody() {
        let gate = Gate::new(1, 10);
        let place = gate.enter(IpAddr::from([127, 0, 0, 1])).unwrap();
        assert_eq!(gate.enter(IpAddr::from([127, 0, 0, 2])).unwrap_err(), Closed::Full);
        drop(place);
        assert!(gate.enter(IpAddr::from([127, 0, 0, 2])).is_ok());
    }
}
