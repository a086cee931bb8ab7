//! Which key signs, which verify, and until when.
//!
//! A rotation adds a key that signs a little later; the key before it goes on
//! verifying until the last token it signed has expired. Nothing about this is
//! stored: it follows from when each key begins, so that a rotation is one
//! write and all controls of a store agree.
//!
//! Pure: time is passed in. The keys' bytes and the store are [`crate::keys`].

use std::collections::BTreeMap;
use std::time::Duration;

use spyglass_media::UtcTime;

/// How a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// Published, and signs from its beginning on.
    Next,
    /// Signs what is signed now.
    Signing,
    /// Signs no more, or never did; its tokens are still good.
    Verifying,
    /// Opens nothing any more.
    Revoked,
}

impl KeyState {
    /// The word of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Signing => "signing",
            Self::Verifying => "verifying",
            Self::Revoked => "revoked",
        }
    }
}

/// What is known of one key, beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dates {
    /// When it was made, or taken over.
    pub created: UtcTime,
    /// Made by a control of this store: may sign from this time on.
    pub signs_from: Option<UtcTime>,
    /// The longest life of a token that it signs.
    pub life: Duration,
    /// When it is dropped, whatever else; adopted and revoked keys have this.
    pub until: Option<UtcTime>,
    /// Refused.
    pub revoked: bool,
}

/// All keys of a store, by id.
#[derive(Clone, Debug, Default)]
pub struct Keyring(BTreeMap<String, Dates>);

/// A key as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its name.
    pub id: String,
    /// How it stands.
    pub state: KeyState,
    /// What is known of it.
    pub dates: Dates,
    /// When it is dropped; `None` while nothing has taken its place.
    pub until: Option<UtcTime>,
}

impl Keyring {
    /// Adds or replaces a key.
    pub fn put(&mut self, id: &str, dates: Dates) {
        self.0.insert(id.to_owned(), dates);
    }

    /// Removes a key.
    pub fn remove(&mut self, id: &str) {
        self.0.remove(id);
    }

    /// What is known of a key.
    pub fn get(&self, id: &str) -> Option<Dates> {
        self.0.get(id).copied()
    }

    /// Keys that may sign at some time, in the order in which they begin.
    fn signers(&self) -> Vec<(UtcTime, &str)> {
        let own = self.0.iter().filter(|(_, dates)| !dates.revoked);
        let mut signers: Vec<_> =
            own.filter_map(|(id, dates)| Some((dates.signs_from?, id.as_str()))).collect();
        signers.sort_unstable();
        signers
    }

    /// The key that signs at `now`: the last that has begun, or, when none has
    /// (a clock was set back), the first that will.
    pub fn signing(&self, now: UtcTime) -> Option<&str> {
        let signers = self.signers();
        let begun = signers.iter().rev().find(|(from, _)| *from <= now);
        begun.or(signers.first()).map(|(_, id)| *id)
    }

    /// The key that waits to sign.
    pub fn next(&self, now: UtcTime) -> Option<&str> {
        let signing = self.signing(now);
        let last = self.signers().last().map(|(_, id)| *id);
        last.filter(|last| Some(*last) != signing)
    }

    /// When another key than now will sign.
    pub fn next_begins(&self, now: UtcTime) -> Option<UtcTime> {
        self.signers().into_iter().map(|(from, _)| from).find(|from| *from > now)
    }

    /// When a key is dropped: its own date, or once the tokens are over that
    /// it signed until its successor began.
    fn until(&self, id: &str) -> Option<UtcTime> {
        let dates = self.0.get(id)?;
        if dates.until.is_some() {
            return dates.until;
        }
        let signers = self.signers();
        let at = signers.iter().position(|(_, signer)| *signer == id)?;
        signers.get(at + 1).map(|(begins, _)| *begins + dates.life)
    }

    /// How every key stands at `now`, the oldest first.
    pub fn shown(&self, now: UtcTime) -> Vec<Shown> {
        let signing = self.signing(now);
        let signs_from = |id: &str| self.0.get(id).and_then(|dates| dates.signs_from);
        let since = signing.and_then(signs_from);
        let shown = |(id, dates): (&String, &Dates)| Shown {
            state: if dates.revoked {
                KeyState::Revoked
            } else if signing == Some(id) {
                KeyState::Signing
            } else if dates.signs_from.is_some_and(|from| from > now && Some(from) >= since) {
                KeyState::Next
            } else {
                KeyState::Verifying
            },
            id: id.clone(),
            dates: *dates,
            until: self.until(id),
        };
        let mut all: Vec<Shown> = self.0.iter().map(shown).collect();
        all.sort_by(|a, b| (a.dates.created, &a.id).cmp(&(b.dates.created, &b.id)));
        all
    }

    /// Keys whose time is over at `now`.
    pub fn over(&self, now: UtcTime) -> Vec<String> {
        let over = |id: &&String| self.until(id).is_some_and(|until| until <= now);
        self.0.keys().filter(over).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn at(seconds: i64) -> UtcTime {
        UtcTime::from_millis(1_800_000_000_000 + seconds * 1000)
    }

    fn own(created: i64, signs_from: i64) -> Dates {
        Dates {
            created: at(created),
            signs_from: Some(at(signs_from)),
            life: DAY,
            until: None,
            revoked: false,
        }
    }

    fn states(ring: &Keyring, now: i64) -> Vec<(String, &'static str)> {
        ring.shown(at(now)).into_iter().map(|key| (key.id, key.state.as_str())).collect()
    }

    fn ring(keys: &[(&str, Dates)]) -> Keyring {
        let mut ring = Keyring::default();
        keys.iter().for_each(|(id, dates)| ring.put(id, *dates));
        ring
    }

    fn named(pairs: &[(&str, &'static str)]) -> Vec<(String, &'static str)> {
        pairs.iter().map(|(id, state)| ((*id).to_owned(), *state)).collect()
    }

    #[test]
    fn a_key_signs_until_the_next_begins_and_verifies_until_its_tokens_are_over() {
        let ring = ring(&[("a", own(0, 0)), ("b", own(100, 110))]);
        assert_eq!(states(&ring, 105), named(&[("a", "signing"), ("b", "next")]));
        assert_eq!((ring.signing(at(109)), ring.next(at(109))), (Some("a"), Some("b")));
        assert_eq!(states(&ring, 110), named(&[("a", "verifying"), ("b", "signing")]));
        assert_eq!((ring.signing(at(110)), ring.next(at(110))), (Some("b"), None));
        let end = 110 + 24 * 3600;
        assert_eq!(ring.shown(at(0))[0].until, Some(at(end)));
        assert!(ring.over(at(end - 1)).is_empty());
        assert_eq!(ring.over(at(end)), ["a"]);
        assert_eq!(ring.shown(at(end))[1].until, None, "the last one has no end");
    }

    #[test]
    fn a_revoked_key_neither_signs_nor_ends_another() {
        let gone = Dates { revoked: true, until: Some(at(1_000)), ..own(100, 110) };
        let ring = ring(&[("a", own(0, 0)), ("b", gone)]);
        assert_eq!(states(&ring, 500), named(&[("a", "signing"), ("b", "revoked")]));
        assert_eq!(ring.shown(at(500))[0].until, None);
        assert_eq!(ring.over(at(1_000)), ["b"]);
    }

    #[test]
    fn an_adopted_key_only_verifies() {
        let adopted = Dates { signs_from: None, until: Some(at(60)), ..own(5, 0) };
        let ring = ring(&[("a", own(0, 0)), ("z", adopted)]);
        assert_eq!(states(&ring, 10), named(&[("a", "signing"), ("z", "verifying")]));
        assert_eq!(ring.over(at(60)), ["z"]);
    }

    #[test]
    fn two_made_at_once_agree_on_the_one_that_signs() {
        let ring = ring(&[("a", own(0, 0)), ("b", own(100, 110)), ("c", own(100, 110))]);
        assert_eq!(states(&ring, 105), named(&[("a", "signing"), ("b", "next"), ("c", "next")]));
        assert_eq!(
            states(&ring, 111),
            named(&[("a", "verifying"), ("b", "verifying"), ("c", "signing")])
        );
        assert_eq!(ring.shown(at(111))[1].until, Some(at(110 + 24 * 3600)));
    }

    #[test]
    fn a_clock_set_back_still_has_a_key_that_signs() {
        let ring = ring(&[("a", own(100, 100)), ("b", own(200, 210))]);
        assert_eq!(ring.signing(at(0)), Some("a"));
        assert_eq!(states(&ring, 0), named(&[("a", "signing"), ("b", "next")]));
        assert_eq!(Keyring::default().signing(at(0)), None);
    }
}
