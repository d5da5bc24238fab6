//! Walks through the logs of a store, planted faults included.

use std::path::Path;
use std::sync::Arc;

use hearth_mesh::admin::{Teller, verify_folder};
use hearth_protocol::admin::{FaultRow, Line};
use hearth_protocol::entry::{Fixed, content_digest};
use hearth_protocol::record::{LogRecord, Opening};
use hearth_protocol::{
    ConversationId, Entry, EntryKind, Epoch, Hash, Level, LogId, Position, SealedEntry, Sequence, Timestamp, UserId,
};
use region_model::ports::LogAppend;
use region_store::embedded::{Embedded, EmbeddedOptions};
use uuid::Uuid;

use crate::support::{Mesh, id};

fn entry(epoch: u64, sequence: u64, previous: Hash) -> Arc<SealedEntry> {
    let salt = bytes::Bytes::from_static(&[7; 16]);
    let content = bytes::Bytes::from_static(b"{}");
    let fixed = Fixed {
        position: Position { epoch: Epoch(epoch), sequence: Sequence(sequence) },
        kind: EntryKind::Message,
        sender: UserId::new("ann").expect("a name"),
        id: Uuid::from_u128(u128::from(sequence) + 1),
        time: Timestamp(sequence),
        level: Level::Region,
        digest: content_digest(&salt, &content),
        previous,
        origin: id("ra"),
        reply_to: None,
        target: None,
        expires_at: None,
        original_time: None,
    };
    SealedEntry::seal(Entry { fixed, content: Some((salt, content)) })
}

fn empty_append(log: LogId) -> LogAppend {
    LogAppend {
        log,
        expect: 0,
        epoch: Epoch(1),
        entries: vec![],
        mark: 0,
        record: None,
        snapshot: None,
        apart: None,
        promises: false,
        begin: None,
        filled: vec![],
        dedup: vec![],
        changes: vec![],
        outbox: vec![],
    }
}

/// The log with this number, of entries with these epochs, the one at `broken` with another predecessor.
async fn plant(folder: &Path, number: u128, epochs: &[u64], broken: Option<u64>) -> LogId {
    let log = LogId::conversation(ConversationId(Uuid::from_u128(number)));
    let mut entries: Vec<Arc<SealedEntry>> = Vec::new();
    for (sequence, epoch) in (0..).zip(epochs) {
        let previous = entries.last().map_or([0; 32], |last| last.hash);
        entries.push(entry(*epoch, sequence, if broken == Some(sequence) { [9; 32] } else { previous }));
    }
    let store = Embedded::open(&folder.join("store"), &id("ra"), &EmbeddedOptions::default()).expect("opens");
    let record = LogRecord {
        home: id("ra"),
        voters: vec![id("ra"), id("rb")],
        accepted: Epoch(1),
        sealed: Epoch(1),
        openings: vec![Opening { epoch: Epoch(1), first: 0, previous: [0; 32], loss: false }],
        floor: 0,
        published: 0,
        open_ranges: vec![],
        incarnation: 1,
    };
    let append = LogAppend { entries, record: Some(record), ..empty_append(log) };
    store.stores().log.append(vec![append]).await.expect("appended");
    store.close();
    log
}

/// The log with this number, whose entry at `spoiled` has other content on disk than it was sealed with.
async fn plant_unreadable(folder: &Path, number: u128, spoiled: u64) -> LogId {
    let log = plant(folder, number, &[1, 1, 1, 1], None).await;
    let store = Embedded::open(&folder.join("store"), &id("ra"), &EmbeddedOptions::default()).expect("opens");
    let stores = store.stores();
    let mut entries = stores.log.read(log, 0, 4, 4, usize::MAX).await.expect("it reads");
    let whole = Arc::clone(&entries[usize::try_from(spoiled).expect("small")]);
    let mut encoded = whole.encoded.to_vec();
    *encoded.last_mut().expect("it has content") ^= 1;
    let spoiled_entry = SealedEntry { entry: whole.entry.clone(), encoded: encoded.into(), hash: whole.hash };
    entries.truncate(usize::try_from(spoiled).expect("small"));
    // What follows it is written again behind it.
    let rest = stores.log.read(log, spoiled + 1, 4, 4, usize::MAX).await.expect("it reads");
    let record = stores.log.load(log).await.expect("it reads").record;
    stores.log.remove(log).await.expect("removed");
    entries.push(Arc::new(spoiled_entry));
    entries.extend(rest);
    let append = LogAppend { log, expect: 0, entries, record, ..empty_append(log) };
    stores.log.append(vec![append]).await.expect("appended");
    drop(stores);
    store.close();
    log
}

/// The faults of a store, and the last line.
async fn walk(folder: &Path) -> (Vec<FaultRow>, Line) {
    let (tell, mut told) = Teller::new();
    let last = verify_folder(folder, id("ra"), &tell).await.expect("walked");
    drop(tell);
    let mut faults = Vec::new();
    while let Some(line) = told.recv().await {
        if let Line::Fault(fault) = line {
            faults.push(fault);
        }
    }
    (faults, last)
}

#[tokio::test]
async fn a_changed_entry_and_a_forked_epoch_are_named_with_log_sequence_and_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    plant(folder.path(), 1, &[1, 1, 1, 1], None).await;
    let (faults, last) = walk(folder.path()).await;
    assert_eq!(faults, []);
    assert_eq!(last, Line::Verified { region: id("ra"), logs: 1, entries: 4, faults: 0 });

    let changed = plant(folder.path(), 2, &[1, 1, 1, 1], Some(2)).await;
    let forked = plant(folder.path(), 3, &[1, 1, 1, 2], None).await;
    let (faults, last) = walk(folder.path()).await;
    println!("{faults:#?}");
    let places: Vec<_> = faults.iter().map(|fault| (fault.log.clone(), fault.sequence)).collect();
    assert_eq!(places, [(changed.to_string(), 2), (forked.to_string(), 3)]);
    assert!(faults[0].fault.contains("predecessor") && faults[1].fault.contains("forked"));
    assert!(faults.iter().all(|fault| fault.hint.contains("rb") && fault.hint.contains("hearth region failover ra")));
    assert_eq!(last, Line::Verified { region: id("ra"), logs: 3, entries: 12, faults: 2 });
}

#[tokio::test]
async fn a_row_that_does_not_read_is_named_and_the_walk_goes_on_behind_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let middle = plant_unreadable(folder.path(), 1, 2).await;
    let last = plant_unreadable(folder.path(), 2, 3).await;
    let forked = plant(folder.path(), 3, &[1, 1, 2, 1], None).await;
    let (faults, ended) = walk(folder.path()).await;
    println!("{faults:#?}");
    let places: Vec<_> = faults.iter().map(|fault| (fault.log.clone(), fault.sequence)).collect();
    assert_eq!(places, [(middle.to_string(), 2), (last.to_string(), 3), (forked.to_string(), 2)]);
    assert!(faults[..2].iter().all(|fault| fault.fault.contains("does not read") && fault.fault.contains("digest")));
    assert_eq!(ended, Line::Verified { region: id("ra"), logs: 3, entries: 10, faults: 3 });
}

#[tokio::test]
async fn a_folder_without_a_store_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let (tell, _told) = Teller::new();
    let error = verify_folder(folder.path(), id("ra"), &tell).await.expect_err("nothing is there");
    assert!(error.to_string().contains("holds no store"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_logs_of_a_running_region_are_walked_while_it_serves() {
    let mesh = Mesh::start().await;
    let last = mesh.ann(0).verify(|_| ()).await.expect("walked");
    assert!(matches!(last, Line::Verified { faults: 0, .. }), "{last:?}");
    mesh.end().await;
}
