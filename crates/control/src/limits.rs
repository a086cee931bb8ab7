//! How often somebody may ask: token buckets by address and by user.
//!
//! Each kind of request has its own bucket, so that a crawler of the public
//! list uses up nobody's joins. An IPv6 address counts by its /64, which is what
//! one subscriber gets. What is remembered is bounded: two generations of at
//! most half the limit each; when the younger is full the elder is dropped. Who
//! is forgotten that way starts with a full bucket, which costs nothing: whoever
//! has so many addresses is not held by limits on one.
//!
//! Pure: the time is passed in, as what has passed since any fixed moment.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spyglass_media::UserId;

use crate::network::first_bits;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// The public list.
    List,
    /// Joins.
    Join,
    /// New users and broadcasts.
    Create,
    /// Credentials that are nobody's.
    Login,
    /// Ids that no broadcast of the asker's has.
    UnknownId,
    /// Pages, their scripts, and the way to the nearest edge.
    Page,
    /// Everything else.
    Other,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::List,
        Self::Join,
        Self::Create,
        Self::Login,
        Self::UnknownId,
        Self::Page,
        Self::Other,
    ];

    /// The word of the metrics; the setting is `rate_` and this.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Join => "join",
            Self::Create => "create",
            Self::Login => "login",
            Self::UnknownId => "unknown_id",
            Self::Page => "page",
            Self::Other => "other",
        }
    }
}

/// How often something may be done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a rate, like { per_second = 50.0, burst = 500 }")]
pub struct Rate {
    /// In the long run, per second; 0 lifts the limit.
    pub per_second: f64,
    /// At once.
    pub burst: u32,
}

impl Rate {
    /// Whether it makes sense.
    pub fn is_sound(self) -> bool {
        let finite = self.per_second == 0.0 || (0.001..=1e6).contains(&self.per_second);
        finite && (1..=1_000_000).contains(&self.burst)
    }
}

/// The rate of each limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules([Rate; Limit::ALL.len()]);

impl Rules {
    /// From what `rate` says of each.
    pub fn new(rate: impl FnMut(Limit) -> Rate) -> Self {
        Self(Limit::ALL.map(rate))
    }

    /// One of them.
    pub const fn rate(&self, limit: Limit) -> Rate {
        self.0[limit as usize]
    }
}

/// Whose bucket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asker {
    /// Somebody at an address or, for IPv6, in a /64.
    Address(IpAddr),
    /// A user, wherever.
    User(UserId),
}

impl Asker {
    /// Whoever is at this address.
    pub fn at(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self::Address(if address.is_ipv6() { first_bits(address, 64) } else { address })
    }
}

/// When each of somebody's buckets will be full, in nanoseconds (GCRA): in the
/// past when it is.
type Buckets = [u64; Limit::ALL.len()];

/// See the module.
#[derive(Debug)]
pub struct Limits {
    rules: Rules,
    /// Askers in one generation.
    most: usize,
    young: HashMap<Asker, Buckets>,
    old: HashMap<Asker, Buckets>,
}

impl Limits {
    /// Remembers `askers` at most.
    pub fn new(rules: Rules, askers: usize) -> Self {
        let most = (askers / 2).max(1);
        Self { rules, most, young: HashMap::new(), old: HashMap::new() }
    }

    /// Other rules from now on; what was used up stays used up.
    pub const fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// One more by this asker.
    ///
    /// # Errors
    /// How long to wait for the next when there have been too many.
    pub fn take(&mut self, asker: Asker, limit: Limit, now: Duration) -> Result<(), Duration> {
        let next = self.next(asker, limit, now)?;
        let mut buckets = self.held(asker);
        buckets[limit as usize] = next;
        if self.young.len() >= self.most && !self.young.contains_key(&asker) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(asker, buckets);
        Ok(())
    }

    /// Whether [`Self::take`] would be granted; uses nothing up.
    ///
    /// # Errors
    /// As there.
    pub fn peek(&self, asker: Asker, limit: Limit, now: Duration) -> Result<(), Duration> {
        self.next(asker, limit, now).map(drop)
    }

    fn held(&self, asker: Asker) -> Buckets {
        self.young.get(&asker).or_else(|| self.old.get(&asker)).copied().unwrap_or_default()
    }

    fn next(&self, asker: Asker, limit: Limit, now: Duration) -> Result<u64, Duration> {
        let rate = self.rules.rate(limit);
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        if rate.per_second <= 0.0 {
            return Ok(now);
        }
        let each = (1e9 / rate.per_second) as u64;
        let full = self.held(asker)[limit as usize].max(now).saturating_add(each);
        let earliest = full.saturating_sub(each.saturating_mul(rate.burst.into()));
        if earliest > now { Err(Duration::from_nanos(earliest - now)) } else { Ok(full) }
    }

    /// Askers remembered.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Nobody has asked yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(per_second: f64, burst: u32, askers: usize) -> Limits {
        Limits::new(Rules::new(|_| Rate { per_second, burst }), askers)
    }

    fn at(text: &str) -> Asker {
        Asker::at(text.parse().unwrap())
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut limits = limits(4.0, 10, 100);
        let ann = at("192.0.2.1");
        for _ in 0..10 {
            assert_eq!(limits.take(ann, Limit::Join, ms(0)), Ok(()));
        }
        assert_eq!(limits.take(ann, Limit::Join, ms(0)), Err(ms(250)));
        assert_eq!(limits.peek(ann, Limit::Join, ms(100)), Err(ms(150)));
        assert_eq!(limits.take(ann, Limit::List, ms(0)), Ok(()), "each kind has its own");
        assert_eq!(limits.take(at("192.0.2.2"), Limit::Join, ms(0)), Ok(()));
        assert_eq!(limits.take(ann, Limit::Join, ms(250)), Ok(()));
        assert_eq!(limits.take(ann, Limit::Join, ms(250)), Err(ms(250)));
        for _ in 0..10 {
            assert_eq!(limits.take(ann, Limit::Join, ms(10_000)), Ok(()));
        }
        assert!(limits.take(ann, Limit::Join, ms(10_000)).is_err());
        let other = Rules::new(|_| Rate { per_second: 0.0, burst: 1 });
        limits.set_rules(other);
        assert_eq!(limits.take(ann, Limit::Join, ms(10_000)), Ok(()), "0 lifts the limit");
    }

    /// By default: a crawler of the list, a house full of viewers who look at
    /// the list, and a crowd behind one address that joins when a show begins.
    #[test]
    fn the_defaults_stop_nobody_who_behaves() {
        let mut limits = Limits::new(crate::Config::default().rate_rules(), 1_000);
        let (crawler, house, crowd) = (at("192.0.2.1"), at("192.0.2.2"), at("192.0.2.3"));
        for second in 0..600 {
            for quarter in 0..4 {
                let now = ms(1_000 * second + 250 * quarter);
                assert!(limits.take(crawler, Limit::List, now).is_ok());
            }
            for _ in 0..40 {
                assert!(limits.take(house, Limit::List, ms(1_000 * second)).is_ok());
            }
        }
        for _ in 0..1_000 {
            assert!(limits.take(crowd, Limit::Join, ms(0)).is_ok());
            assert!(limits.take(crowd, Limit::Page, ms(0)).is_ok());
        }
        for second in 1..60 {
            for _ in 0..50 {
                assert!(limits.take(crowd, Limit::Join, ms(1_000 * second)).is_ok());
            }
        }
    }

    #[test]
    fn a_subscriber_is_one_asker() {
        assert_eq!(at("2001:db8:1:2::1"), at("2001:db8:1:2:ffff::9"));
        assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_who_asks_stays() {
        let mut limits = limits(0.001, 1, 100);
        let ann = at("192.0.2.1");
        assert!(limits.take(ann, Limit::List, ms(0)).is_ok());
        for number in 0..10_000u32 {
            let address = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
            assert!(limits.take(Asker::at(address), Limit::List, ms(0)).is_ok());
            // Somebody who goes on asking for other things is not forgotten.
            limits.rules = Rules::new(|limit| Rate {
                per_second: if limit == Limit::Other { 0.0 } else { 0.001 },
                burst: 1,
            });
            assert!(limits.take(ann, Limit::Other, ms(0)).is_ok());
            assert!(limits.take(ann, Limit::List, ms(0)).is_err());
            assert!(limits.len() <= 100);
        }
    }

    #[test]
    fn rates_that_make_no_sense_are_known() {
        let sound = |per_second, burst| Rate { per_second, burst }.is_sound();
        assert!(sound(0.0, 1) && sound(0.5, 10));
        assert!(!sound(-1.0, 1) && !sound(f64::NAN, 1) && !sound(f64::INFINITY, 1));
        assert!(!sound(1.0, 0));
    }

    proptest! {
        /// Never more than the burst and what the rate gives meanwhile, nor less
        /// for whoever keeps to the rate.
        #[test]
        fn no_pattern_gets_more(gaps in prop::collection::vec(0u64..2_000, 1..200)) {
            let mut limits = limits(5.0, 8, 10);
            let (mut now, mut granted) = (0, 0u64);
            for gap in gaps {
                now += gap;
                granted += u64::from(limits.take(at("::1"), Limit::Page, ms(now)).is_ok());
                prop_assert!(granted <= 8 + now / 200);
            }
            now += 200 * 8;
            for _ in 0..50 {
                prop_assert!(limits.take(at("::1"), Limit::Page, ms(now)).is_ok());
                now += 200;
            }
        }
    }
}
