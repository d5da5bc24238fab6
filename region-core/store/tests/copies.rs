//! Copies of a store that is in use, and stores made of them.

use std::path::Path;

use bytes::Bytes;
use hearth_protocol::record::StoreIdentity;
use region_model::conformance::samples::{append, conversation, dedup_key, entries, parked, region};
use region_model::ports::{AppendOutcome, LogAppend, MapChange, MapSync, Stores, TakenContent};
use region_store::embedded::{CopyError, Embedded, EmbeddedOptions, OpenError, ROWS_FORMAT, Restoring, read_block};

fn open(folder: &Path) -> Embedded {
    Embedded::open(folder, &region("eu"), &EmbeddedOptions::default()).expect("opens")
}

async fn apply(stores: &Stores, appends: Vec<LogAppend>) {
    let outcomes = stores.log.append(appends).await.expect("appends");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, AppendOutcome::Applied { .. })), "{outcomes:?}");
}

async fn length(stores: &Stores, log: u128) -> u64 {
    let loaded = stores.log.load(conversation(log)).await.expect("loads");
    assert_eq!(loaded.entries, entries(conversation(log), 0..loaded.length));
    loaded.length
}

/// The bytes of a copy of the store as it is now.
async fn copied(store: &Embedded) -> Vec<u8> {
    let copy = store.copy(&[b"secret"]).await.expect("the store answers").expect("nobody else copies");
    copy.blocks().collect::<Result<Vec<_>, _>>().expect("it reads").concat()
}

/// Makes a store of the bytes of a copy.
fn restored(mut bytes: &[u8], folder: &Path) -> Result<StoreIdentity, CopyError> {
    let mut restoring = Restoring::begin(folder, &region("eu"), ROWS_FORMAT)?;
    let mut number = 0;
    while let Some(block) = read_block(&mut bytes, number)? {
        restoring.take(&block)?;
        number += 1;
    }
    restoring.finish()
}

#[tokio::test]
async fn a_store_made_of_a_copy_has_all_that_was_answered_before_it_nothing_later_and_is_another_store() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let store = open(&folder.path().join("old"));
    let stores = store.stores();
    for step in 0..50 {
        apply(&stores, vec![append(conversation(1), step, 1)]).await;
    }
    stores.parking.park(vec![parked(7)]).await.expect("parks");
    let put = |key: &'static [u8]| MapChange::Put(Bytes::from_static(key), Bytes::from_static(b"value"));
    stores.map.write(vec![put(b"secret"), put(b"vote")], MapSync::Disk).await.expect("writes");
    let copy = copied(&store).await;
    apply(&stores, vec![append(conversation(1), 50, 1)]).await;

    let new = folder.path().join("new");
    let identity = restored(&copy, &new).expect("restores");
    assert_ne!(identity.store, stores.identity.store);
    let again = open(&new).stores();
    assert_eq!((again.identity.store, &again.identity.region), (identity.store, &region("eu")));
    assert_eq!(length(&again, 1).await, 50);
    assert_eq!(again.parking.parked(None, 9).await.expect("lists").len(), 1);
    let keys = vec![dedup_key(conversation(1), 49), dedup_key(conversation(1), 50)];
    let found = again.log.dedup(keys).await.expect("reads");
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false]);
    assert_eq!(again.map.get(Bytes::from_static(b"secret")).await, Ok(None), "it was to be left out");
    assert!(again.map.get(Bytes::from_static(b"vote")).await.expect("reads").is_some());
    // It takes more, and a reopen finds it.
    apply(&again, vec![append(conversation(1), 50, 3)]).await;
    drop(again);
    assert_eq!(length(&open(&new).stores(), 1).await, 53);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_made_while_others_write_shows_whole_commits_and_a_beginning_of_each_log() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let store = open(&folder.path().join("old"));
    let stores = store.stores();
    apply(&stores, vec![append(conversation(1), 0, 1), append(conversation(2), 0, 1)]).await;
    let writer = tokio::spawn({
        let stores = stores.clone();
        async move {
            for step in 1..3_000 {
                apply(&stores, vec![append(conversation(1), step, 1), append(conversation(2), step, 1)]).await;
            }
        }
    });
    for round in 0..3 {
        let before = stores.log.load(conversation(1)).await.expect("loads").length;
        let copy = copied(&store).await;
        let new = folder.path().join(format!("new-{round}"));
        restored(&copy, &new).expect("restores");
        let again = open(&new).stores();
        let (one, other) = (length(&again, 1).await, length(&again, 2).await);
        assert_eq!(one, other, "both were in one commit");
        assert!(one >= before, "{one} entries, and {before} were answered before the copy");
    }
    writer.await.expect("writes");
    assert_eq!(length(&stores, 1).await, 3_000);
}

#[tokio::test]
async fn a_copy_that_was_cut_or_changed_makes_no_store() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let store = open(&folder.path().join("old"));
    for log in 0..30 {
        apply(&store.stores(), vec![append(conversation(log), 0, 1_000)]).await;
    }
    let copy = store.copy(&[]).await.expect("the store answers").expect("nobody else copies");
    let blocks: Vec<Vec<u8>> = copy.blocks().collect::<Result<_, _>>().expect("it reads");
    assert!(blocks.len() > 2, "{} blocks", blocks.len());
    let whole = blocks.concat();
    let mut round = 0;
    let mut fails = |bytes: &[u8]| {
        round += 1;
        restored(bytes, &folder.path().join(format!("new-{round}"))).expect_err("it is no copy")
    };
    for cut in [1, 11, 12, 13, whole.len() - 1] {
        assert!(matches!(fails(&whole[..cut]), CopyError::Damaged(_)), "cut at {cut}");
    }
    for at in [0, 5, 20, whole.len() / 2, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        assert!(matches!(fails(&changed), CopyError::Damaged(_)), "changed at {at}");
    }
    let swapped = [&blocks[1], &blocks[0]].map(|block| &block[..]).concat();
    assert!(matches!(fails(&swapped), CopyError::Damaged(0)));
    let without_meta = blocks[..1].concat();
    assert!(matches!(fails(&without_meta), CopyError::Region(_)), "who it is stands at its end");
    let other = Restoring::begin(&folder.path().join("newer"), &region("eu"), ROWS_FORMAT + 1);
    assert!(matches!(other, Err(CopyError::Open(OpenError::Version { .. }))));
}

#[tokio::test]
async fn while_a_copy_is_made_no_files_are_rewritten_and_no_other_copy_is_made() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let store = open(folder.path());
    let stores = store.stores();
    apply(&stores, vec![append(conversation(1), 0, 2)]).await;
    let position = entries(conversation(1), 1..2)[0].entry.fixed.position;
    let taken = TakenContent { log: conversation(1), entries: vec![position], tail: Vec::new(), done: None };
    stores.log.take_content(taken).await.expect("takes");
    let copy = store.copy(&[]).await.expect("the store answers");
    assert!(copy.is_some());
    assert!(store.copy(&[]).await.expect("the store answers").is_none(), "another one is being made");
    assert_eq!(stores.log.scrub().await, Ok(false), "it is left to later");
    drop(copy);
    assert_eq!(stores.log.scrub().await, Ok(true));
    assert!(store.copy(&[]).await.expect("the store answers").is_some());
}
