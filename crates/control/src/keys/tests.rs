use spyglass_media::ViewerId;
use spyglass_token::{WatchGrant, key_id};

use super::*;
use crate::keyring::KeyState;
use crate::store::Watched;
use crate::store::embedded::Embedded;

const NOW: UtcTime = UtcTime::from_millis(1_800_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

fn store(dir: &tempfile::TempDir) -> Arc<dyn Store> {
    Arc::new(Embedded::open(&dir.path().join("control.redb")).unwrap())
}

async fn open(dir: &tempfile::TempDir) -> Keys {
    Keys::load(store(dir), HOUR, NOW).await.unwrap()
}

fn token_at(keys: &Keys, issued: UtcTime) -> String {
    let grant = WatchGrant {
        broadcast: BroadcastId::from_random([1; 16]),
        viewer: ViewerId::from_random([1; 16]),
        user: None,
        seat: None,
        push: false,
        comment: false,
        generation: 0,
        issued,
        expires: NOW + ADOPTION * 3,
    };
    keys.sign(&Grant::Watch(grant)).unwrap()
}

fn token(keys: &Keys) -> String {
    token_at(keys, NOW)
}

fn count(keys: &Keys) -> usize {
    keys.shown(NOW).len()
}

#[tokio::test]
async fn keys_are_made_once_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (name, token) = {
        let keys = open(&dir).await;
        assert_eq!(count(&keys), 1);
        (keys.store_name().to_owned(), token(&keys))
    };
    let keys = open(&dir).await;
    assert_eq!(keys.store_name(), name);
    assert!(keys.set().verify(&token, NOW).is_ok());
}

#[tokio::test]
async fn a_record_of_an_earlier_release_still_signs() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let key = SigningKey::from_seed("old".to_owned(), [7; 32]).unwrap();
    let (public, seed) = (BASE64.encode(key.public().bytes), BASE64.encode([7; 32]));
    let record = serde_json::json!({ "public": public, "seed": seed, "created_at_ms": 5 });
    store.create("keys/old", record.to_string().into()).await.unwrap();
    let keys = Keys::load(store, HOUR, NOW).await.unwrap();
    assert_eq!(key_id(&token(&keys)).as_deref(), Some("old"));
    assert_eq!(count(&keys), 1);
}

#[tokio::test]
async fn a_rotation_overlaps_and_ends_with_the_last_token() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir).await;
    let before = token(&keys);
    let mut changes = keys.changes();
    let next = keys.rotate(NOW).await.unwrap();
    assert!(changes.has_changed().unwrap(), "it is published at once");
    changes.mark_unchanged();
    assert_eq!(keys.update().keys.len(), 2);
    assert_eq!(keys.rotate(NOW).await, Err(Error::Waiting(next.clone())));
    let early = token_at(&keys, NOW + OVERLAP / 2);
    assert_eq!(key_id(&early), key_id(&before));
    let late = token_at(&keys, NOW + OVERLAP);
    assert_eq!(key_id(&late), Some(next.clone()));
    for token in [&before, &early, &late] {
        assert!(keys.set().verify(token, NOW).is_ok());
    }
    let end = NOW + OVERLAP + HOUR;
    keys.on_tick(NOW + HOUR, None).await.unwrap();
    assert_eq!(count(&keys), 2);
    keys.on_tick(end, None).await.unwrap();
    assert!(changes.has_changed().unwrap());
    assert!(keys.set().verify(&before, NOW).is_err());
    drop(keys);
    let keys = open(&dir).await;
    assert_eq!(keys.shown(end)[0].0.state, KeyState::Signing);
    assert_eq!(keys.shown(end)[0].0.id, next);
}

#[tokio::test]
async fn tokens_that_live_longer_keep_their_key_longer() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir).await;
    keys.on_life(HOUR * 5);
    keys.on_tick(NOW, None).await.unwrap();
    keys.on_life(HOUR);
    keys.rotate(NOW).await.unwrap();
    let until: Vec<_> = keys.shown(NOW).iter().filter_map(|(key, _)| key.until).collect();
    assert_eq!(until, [NOW + OVERLAP + HOUR * 5], "of the old one; the new one has no end yet");
}

#[tokio::test]
async fn the_key_that_signs_is_revoked_only_with_a_successor() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir).await;
    let stolen = token(&keys);
    let id = key_id(&stolen).unwrap();
    assert_eq!(keys.revoke("nobody", NOW).await, Err(Error::Unknown));
    let successor = keys.revoke(&id, NOW).await.unwrap();
    assert_ne!(successor, id);
    assert_eq!(key_id(&token(&keys)), Some(successor.clone()));
    assert!(keys.set().verify(&stolen, NOW).is_err());
    assert_eq!(keys.update().revoked, std::slice::from_ref(&id));
    assert_eq!(keys.revoke(&id, NOW).await, Err(Error::Unknown), "it is gone");
    // With one that waits, that one signs at once.
    let next = keys.rotate(NOW).await.unwrap();
    assert_eq!(keys.revoke(&successor, NOW).await.unwrap(), next);
    assert_eq!(key_id(&token(&keys)), Some(next));
    // Nobody brings it back, while this store adopts.
    let public_key = Bytes::from_static(&[1; 32]);
    let offered = [control::Key { id: id.clone(), public_key }];
    assert!(!keys.adopt(&offered, &[], NOW).await.unwrap());
    drop(keys);
    let keys = open(&dir).await;
    assert!(!keys.adopt(&offered, &[], NOW).await.unwrap(), "nor after a restart");
    keys.on_tick(NOW + ADOPTION * 2, None).await.unwrap();
    assert!(keys.update().revoked.is_empty());
}

#[tokio::test]
async fn another_control_of_the_store_follows() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let ours = Keys::load(Arc::clone(&store), HOUR, NOW).await.unwrap();
    let theirs = Keys::load(Arc::clone(&store), HOUR, NOW).await.unwrap();
    let mut watch = store.watch(PREFIX);
    let old = token(&ours);
    let next = ours.rotate(NOW).await.unwrap();
    ours.revoke(&key_id(&old).unwrap(), NOW).await.unwrap();
    for _ in 0..3 {
        let Some(Watched::Change(change)) = watch.next().await else { panic!("no change") };
        theirs.on_change(&change);
        ours.on_change(&change);
    }
    assert_eq!(theirs.update(), ours.update());
    assert_eq!(key_id(&token(&theirs)), Some(next));
    assert!(theirs.set().verify(&old, NOW).is_err());
    theirs.reload().await.unwrap();
    assert_eq!(theirs.update(), ours.update());
}

#[tokio::test]
async fn a_key_that_has_signed_long_enough_rotates_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let keys = open(&dir).await;
    let after = Some(HOUR * 24);
    keys.on_tick(NOW + HOUR * 23, after).await.unwrap();
    assert_eq!(count(&keys), 1);
    keys.on_tick(NOW + HOUR * 24, after).await.unwrap();
    keys.on_tick(NOW + HOUR * 24, after).await.unwrap();
    assert_eq!(count(&keys), 2);
}

#[tokio::test]
async fn a_new_store_adopts_the_old_ones_keys_for_a_day() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let before = open(&old).await;
    let token = token(&before);
    let keys = open(&new).await;
    assert!(keys.set().verify(&token, NOW).is_err());
    let mut offered = before.update().keys;
    let wrong = |id: &str, bytes: &'static [u8]| control::Key {
        id: id.to_owned(),
        public_key: Bytes::from_static(bytes),
    };
    offered.extend([wrong("not a key id", &[1; 32]), wrong("short", &[1; 31])]);
    assert!(keys.adopt(&offered, &[], NOW).await.unwrap());
    assert!(!keys.adopt(&offered, &[], NOW).await.unwrap());
    assert_eq!(count(&keys), 2);
    assert!(keys.set().verify(&token, NOW).is_ok());
    let many: Vec<_> = (0..100).map(|n| wrong(&format!("k{n}"), &[1; 32])).collect();
    keys.adopt(&many, &[], NOW).await.unwrap();
    assert_eq!(count(&keys), 1 + MAX_ADOPTED);
    drop(keys);
    let keys = open(&new).await;
    assert!(keys.set().verify(&token, NOW).is_ok(), "adopted keys survive a restart");
    keys.on_tick(NOW + ADOPTION, None).await.unwrap();
    assert!(keys.set().verify(&token, NOW).is_err());
    assert_eq!(count(&keys), 1);
    assert!(!keys.adopt(&offered, &[], NOW + ADOPTION).await.unwrap(), "it is new no longer");
}

#[tokio::test]
async fn a_new_store_hears_from_nodes_what_was_revoked() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let before = open(&old).await;
    let token = token(&before);
    let keys = open(&new).await;
    let offered = before.update().keys;
    let revoked = [offered[0].id.clone()];
    keys.adopt(&offered, &[], NOW).await.unwrap();
    assert!(keys.set().verify(&token, NOW).is_ok());
    assert!(keys.adopt(&[], &revoked, NOW).await.unwrap());
    assert!(keys.set().verify(&token, NOW).is_err());
    assert_eq!(keys.update().revoked, revoked);
    assert!(!keys.adopt(&offered, &revoked, NOW).await.unwrap());
}
