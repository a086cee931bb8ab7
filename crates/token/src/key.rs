//! Keys: the one that signs, the many that verify.

use std::collections::HashMap;
use std::fmt;

use ed25519_compact::{KeyPair, Seed};
use pasetors::keys::{AsymmetricPublicKey, AsymmetricSecretKey};
use pasetors::token::{Public, UntrustedToken};
use pasetors::version4::{PublicToken, V4};
use spyglass_media::UtcTime;

use crate::{Denied, Error, Grant, MAX_LENGTH, PublishGrant, WatchGrant};

/// Most keys in a [`KeySet`]; what a rotation a day for two months leaves behind.
pub const MAX_KEYS: usize = 64;

/// Whether `id` can name a key: 1 to 32 characters of `[A-Za-z0-9_-]`.
pub fn is_key_id(id: &str) -> bool {
    (1..=32).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// The id of the key that `token` claims to be signed with; `None` when it is
/// no token. Nothing is verified here: [`KeySet::verify`] is what to trust.
pub fn key_id(token: &str) -> Option<String> {
    if token.len() > MAX_LENGTH {
        return None;
    }
    let token = UntrustedToken::<Public, V4>::try_from(token).ok()?;
    let id = std::str::from_utf8(token.untrusted_footer()).ok()?;
    is_key_id(id).then(|| id.to_owned())
}

/// Verifies what one [`SigningKey`] signs. No secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PublicKey {
    /// 1 to 32 characters of `[A-Za-z0-9_-]`; stands in the token's footer.
    pub id: String,
    /// Ed25519.
    pub bytes: [u8; 32],
}

/// Signs grants. Control holds it; [`fmt::Debug`] shows only its id.
#[derive(Clone)]
pub struct SigningKey {
    public: PublicKey,
    secret: AsymmetricSecretKey<V4>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.id)
    }
}

impl SigningKey {
    /// The key that these 32 secret random bytes stand for.
    ///
    /// # Errors
    /// [`Error::Key`] when `id` cannot name a key ([`is_key_id`]) or the
    /// seed is all zeros.
    pub fn from_seed(id: String, seed: [u8; 32]) -> Result<Self, Error> {
        // ed25519-compact panics on a seed of zeros.
        if !is_key_id(&id) || seed == [0; 32] {
            return Err(Error::Key);
        }
        let pair = KeyPair::from_seed(Seed::new(seed));
        let secret = AsymmetricSecretKey::from(pair.sk.as_slice()).map_err(|_| Error::Key)?;
        Ok(Self { public: PublicKey { id, bytes: *pair.pk }, secret })
    }

    /// What verifies.
    pub fn public(&self) -> PublicKey {
        self.public.clone()
    }

    /// A token for `grant`.
    ///
    /// # Errors
    /// [`Error::TooLong`] when it would not fit in [`MAX_LENGTH`].
    pub fn sign(&self, grant: &Grant) -> Result<String, Error> {
        let footer = self.public.id.as_bytes();
        let token = PublicToken::sign(&self.secret, &grant.encode(), Some(footer), None)
            .map_err(|_| Error::Key)?;
        if token.len() > MAX_LENGTH { Err(Error::TooLong) } else { Ok(token) }
    }
}

/// The keys that verify now.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: HashMap<String, AsymmetricPublicKey<V4>>,
}

impl KeySet {
    /// At most [`MAX_KEYS`] of `keys`, the first ones. Of two with one id the
    /// later counts; what is no key id never matches and is left out.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        let keys = keys
            .into_iter()
            .filter(|key| is_key_id(&key.id))
            .filter_map(|key| Some((key.id, AsymmetricPublicKey::from(&key.bytes).ok()?)))
            .take(MAX_KEYS)
            .collect();
        Self { keys }
    }

    /// No token is good yet.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys, in no order.
    pub fn public_keys(&self) -> impl Iterator<Item = PublicKey> {
        self.keys.iter().filter_map(|(id, key)| {
            Some(PublicKey { id: id.clone(), bytes: key.as_bytes().try_into().ok()? })
        })
    }

    /// What `token` allows at `now`.
    ///
    /// # Errors
    /// Every [`Denied`] but the two that depend on what it is used for.
    pub fn verify(&self, token: &str, now: UtcTime) -> Result<Grant, Denied> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if token.len() > MAX_LENGTH || !token.bytes().all(fits) {
            return Err(Denied::Malformed);
        }
        let token = UntrustedToken::<Public, V4>::try_from(token).map_err(|_| Denied::Malformed)?;
        let id = std::str::from_utf8(token.untrusted_footer()).map_err(|_| Denied::Malformed)?;
        if !is_key_id(id) {
            return Err(Denied::Malformed);
        }
        let key = self.keys.get(id).ok_or(Denied::UnknownKey)?;
        PublicToken::verify(key, &token, None, None).map_err(|_| Denied::BadSignature)?;
        let grant = Grant::decode(token.untrusted_payload()).ok_or(Denied::Malformed)?;
        if now >= grant.expires() { Err(Denied::Expired) } else { Ok(grant) }
    }

    /// Like [`KeySet::verify`], for a publisher.
    ///
    /// # Errors
    /// As there, and [`Denied::WrongRole`].
    pub fn verify_publish(&self, token: &str, now: UtcTime) -> Result<PublishGrant, Denied> {
        match self.verify(token, now)? {
            Grant::Publish(grant) => Ok(grant),
            Grant::Watch(_) => Err(Denied::WrongRole),
        }
    }

    /// Like [`KeySet::verify`], for a viewer.
    ///
    /// # Errors
    /// As there, and [`Denied::WrongRole`].
    pub fn verify_watch(&self, token: &str, now: UtcTime) -> Result<WatchGrant, Denied> {
        match self.verify(token, now)? {
            Grant::Watch(grant) => Ok(grant),
            Grant::Publish(_) => Err(Denied::WrongRole),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use spyglass_media::{BroadcastId, UserId, ViewerId};

    const NOW: UtcTime = UtcTime::from_millis(1_800_000_000_000);
    const LATER: UtcTime = UtcTime::from_millis(1_800_000_060_000);

    fn key(id: &str, seed: u8) -> SigningKey {
        SigningKey::from_seed(id.to_owned(), [seed; 32]).unwrap()
    }

    fn watch() -> WatchGrant {
        WatchGrant {
            broadcast: BroadcastId::from_random([1; 16]),
            viewer: ViewerId::from_random([2; 16]),
            user: Some(UserId::from_random([3; 16])),
            seat: Some(100),
            push: true,
            comment: true,
            generation: u32::MAX,
            issued: NOW,
            expires: LATER,
        }
    }

    fn publish(origin: &str) -> PublishGrant {
        PublishGrant {
            broadcast: BroadcastId::from_random([1; 16]),
            origin: origin.parse().unwrap(),
            private: true,
            chunk_ms: u32::MAX,
            part_ms: u32::MAX,
            fill: Some(spyglass_media::Fill::Prefetch),
            resume_ms: u32::MAX,
            issued: NOW,
            expires: LATER,
        }
    }

    #[test]
    fn a_token_says_what_was_granted_until_it_expires() {
        let key = key("k1", 1);
        let keys = KeySet::new([key.public()]);
        let token = key.sign(&Grant::Watch(watch())).unwrap();
        assert_eq!(keys.verify_watch(&token, NOW), Ok(watch()));
        assert_eq!(keys.verify_publish(&token, NOW), Err(Denied::WrongRole));
        let just_before = UtcTime::from_millis(LATER.millis() - 1);
        assert_eq!(keys.verify_watch(&token, just_before), Ok(watch()));
        assert_eq!(keys.verify_watch(&token, LATER), Err(Denied::Expired));
        let token = key.sign(&Grant::Publish(publish("origin-1"))).unwrap();
        assert_eq!(keys.verify_publish(&token, NOW), Ok(publish("origin-1")));
        assert_eq!(keys.verify_watch(&token, NOW), Err(Denied::WrongRole));
    }

    #[test]
    fn a_foreign_key_opens_nothing() {
        let (ours, theirs) = (key("k1", 1), key("k1", 2));
        let token = theirs.sign(&Grant::Watch(watch())).unwrap();
        let keys = KeySet::new([ours.public()]);
        assert_eq!(keys.verify(&token, NOW), Err(Denied::BadSignature));
        assert_eq!(KeySet::default().verify(&token, NOW), Err(Denied::UnknownKey));
        let renamed = key("k2", 1).sign(&Grant::Watch(watch())).unwrap();
        assert_eq!(keys.verify(&renamed, NOW), Err(Denied::UnknownKey));
    }

    #[test]
    fn the_longest_names_still_fit() {
        let key = key(&"k".repeat(32), 1);
        let token = key.sign(&Grant::Publish(publish(&"o".repeat(63)))).unwrap();
        assert!(token.len() <= MAX_LENGTH, "{}", token.len());
        assert!(KeySet::new([key.public()]).verify(&token, NOW).is_ok());
        assert!(SigningKey::from_seed("k".repeat(33), [1; 32]).is_err());
        assert!(SigningKey::from_seed("a.b".to_owned(), [1; 32]).is_err());
        assert!(SigningKey::from_seed("k1".to_owned(), [0; 32]).is_err());
    }

    #[test]
    fn what_is_no_token_is_told_apart_from_a_wrong_one() {
        let key = key("k1", 1);
        let keys = KeySet::new([key.public()]);
        let token = key.sign(&Grant::Watch(watch())).unwrap();
        let no_footer = token.rsplit_once('.').unwrap().0;
        let long = format!("{token}{}", "A".repeat(MAX_LENGTH));
        let local = token.replace("public", "local");
        for text in ["", "v4.public.", "v4.public.AAAA", no_footer, &long, &local, "v4.public.ä"] {
            assert_eq!(keys.verify(text, NOW), Err(Denied::Malformed), "{text}");
        }
        // Signed by the right key, but no grant of ours.
        let odd = PublicToken::sign(&key.secret, b"{\"r\":\"z\"}", Some(b"k1"), None).unwrap();
        assert_eq!(keys.verify(&odd, NOW), Err(Denied::Malformed));
    }

    #[test]
    fn a_token_names_its_key() {
        let token = key("k1", 1).sign(&Grant::Watch(watch())).unwrap();
        assert_eq!(key_id(&token).as_deref(), Some("k1"));
        for text in ["", "v4.public.", "v4.public.AAAA", &"A".repeat(MAX_LENGTH + 1)] {
            assert_eq!(key_id(text), None, "{text}");
        }
    }

    #[test]
    fn a_later_controls_words_are_ignored() {
        let key = key("k1", 1);
        let mut payload = String::from_utf8(Grant::Watch(watch()).encode()).unwrap();
        payload.insert_str(payload.len() - 1, ",\"zz\":{\"new\":[1]}");
        let token = PublicToken::sign(&key.secret, payload.as_bytes(), Some(b"k1"), None).unwrap();
        assert_eq!(KeySet::new([key.public()]).verify_watch(&token, NOW), Ok(watch()));
    }

    #[test]
    fn the_set_is_bounded_and_hides_nothing_secret() {
        let many = (1..=100).map(|n| key(&format!("k{n}"), n).public());
        assert_eq!(KeySet::new(many).public_keys().count(), MAX_KEYS);
        assert_eq!(format!("{:?}", key("k1", 1)), "SigningKey(k1)");
    }

    proptest! {
        #[test]
        fn any_changed_character_is_noticed(at in 0usize..300, byte in prop::sample::select(
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.".to_vec()
        )) {
            let key = key("k1", 1);
            let mut token = key.sign(&Grant::Watch(watch())).unwrap().into_bytes();
            let at = at % token.len();
            prop_assume!(token[at] != byte);
            token[at] = byte;
            let token = String::from_utf8(token).unwrap();
            prop_assert!(KeySet::new([key.public()]).verify(&token, NOW).is_err());
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,600}", tail in "[A-Za-z0-9._-]{0,520}") {
            let keys = KeySet::new([key("k1", 1).public()]);
            prop_assert!(keys.verify(&text, NOW).is_err());
            let tail = format!("v4.public.{tail}");
            prop_assert!(keys.verify(&tail, NOW).is_err());
        }

        #[test]
        fn every_watch_grant_survives(
            ids: ([u8; 16], [u8; 16]), user: Option<[u8; 16]>, seat: Option<u32>, push: bool, comment: bool,
            generation: u32, life in 1i64..1 << 40,
        ) {
            let grant = WatchGrant {
                broadcast: BroadcastId::from_random(ids.0),
                viewer: ViewerId::from_random(ids.1),
                user: user.map(UserId::from_random),
                seat, push, comment, generation,
                issued: NOW,
                expires: UtcTime::from_millis(NOW.millis() + life),
            };
            let key = key("k1", 7);
            let token = key.sign(&Grant::Watch(grant.clone())).unwrap();
            prop_assert_eq!(KeySet::new([key.public()]).verify_watch(&token, NOW), Ok(grant));
        }
    }
}
