//! What the ports promise of entries that leave a log.

use bytes::Bytes;
use hearth_protocol::joins::encode_joins;
use hearth_protocol::record::LogRecord;
use hearth_protocol::{EntryKind, Epoch, JoinRequest, SealedEntry};
use uuid::Uuid;

use super::samples::{append, conversation, dedup_key, dedup_of, entries, entry, outbox, record, user};
use super::{Subject, apply};
use crate::ports::{Begin, DedupKey, LogAppend};

/// See the name.
pub async fn what_is_put_apart_leaves_the_log_with_its_dedup_and_stays_as_its_tail(subject: &mut dyn Subject) {
    let (log, other) = (conversation(1), conversation(2));
    let stores = subject.stores();
    let told = |sequence| outbox(1, sequence, "bob");
    let marked = LogAppend {
        mark: 6,
        snapshot: Some((6, Bytes::from_static(b"view"))),
        outbox: vec![told(1), told(5)],
        ..append(log, 0, 6)
    };
    apply(&stores, vec![marked, append(other, 0, 1)]).await;
    let cut = LogAppend { apart: Some(3), epoch: Epoch(2), record: Some(record(2)), ..append(log, 6, 0) };
    let again = LogAppend { epoch: Epoch(2), dedup: vec![], ..append(log, 3, 1) };
    apply(&stores, vec![cut, again]).await;
    drop(stores);
    for reopened in [false, true] {
        if reopened {
            subject.reopen();
        }
        let stores = subject.stores();
        let loaded = stores.log.load(log).await.expect("loads");
        assert_eq!((loaded.length, loaded.mark, loaded.snapshot), (4, 3, None));
        assert_eq!(loaded.entries, entries(log, 0..4));
        let found = stores.log.dedup((0..6).map(|sequence| dedup_key(log, sequence)).collect()).await.expect("answers");
        assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, true, false, false, false]);
        assert_eq!(stores.outbox.outbox(None, 9).await.expect("lists"), [told(1)]);
        assert_eq!(stores.log.tails(None, 9).await.expect("lists"), [log]);
        assert_eq!(stores.log.tails(Some(log), 9).await.expect("lists"), []);
        let tail = stores.log.read_tail(log, None, 2).await.expect("reads");
        assert_eq!(tail, entries(log, 3..5));
        let after = Some(tail[1].entry.fixed.position);
        assert_eq!(stores.log.read_tail(log, after, 9).await.expect("reads"), entries(log, 5..6));
        assert_eq!(stores.log.read_tail(other, None, 9).await.expect("reads"), []);
    }
    let stores = subject.stores();
    stores.log.remove(log).await.expect("removes");
    assert_eq!(stores.log.load(log).await.expect("loads").length, 0);
    assert_eq!(stores.log.tails(None, 9).await.expect("lists"), [log], "a tail outlives its log");
}

/// See the name.
pub async fn what_a_new_beginning_puts_apart_stays_as_a_tail_and_the_rest_is_dropped(subject: &mut dyn Subject) {
    let log = conversation(1);
    let stores = subject.stores();
    apply(&stores, vec![LogAppend { mark: 6, ..append(log, 0, 6) }]).await;
    let open = LogRecord { open_ranges: vec![(0, 9)], ..record(2) };
    let begun = LogAppend {
        apart: Some(4),
        begin: Some(Begin { dropped: 0..6, at: 9 }),
        epoch: Epoch(2),
        mark: 9,
        record: Some(open),
        snapshot: Some((9, Bytes::from_static(b"view"))),
        ..append(log, 6, 0)
    };
    apply(&stores, vec![begun]).await;
    drop(stores);
    for reopened in [false, true] {
        if reopened {
            subject.reopen();
        }
        let stores = subject.stores();
        let loaded = stores.log.load(log).await.expect("loads");
        assert_eq!((loaded.length, loaded.mark, loaded.entries), (9, 9, vec![]));
        assert_eq!(stores.log.read(log, 0, 9, 9, 9_999).await.expect("reads"), []);
        assert_eq!(stores.log.tails(None, 9).await.expect("lists"), [log]);
        assert_eq!(stores.log.read_tail(log, None, 9).await.expect("reads"), entries(log, 4..6));
    }
}

/// See the name.
pub async fn requests_that_share_an_entry_are_all_found_and_all_leave_with_it(subject: &mut dyn Subject) {
    let log = conversation(1);
    let stores = subject.stores();
    let mut shared = entry(log, 1).entry.clone();
    let others = [(1, "cem"), (2, "dan")].map(|(id, name)| (Uuid::from_u128(900 + id), name));
    let requests = [(shared.fixed.id, "bob")].into_iter().chain(others);
    let requests: Vec<_> = requests.map(|(id, name)| JoinRequest { id, users: vec![user(name)] }).collect();
    shared.fixed.kind = EntryKind::Member;
    let content = encode_joins(&requests);
    let salt = Bytes::from_static(&[7; 16]);
    shared.fixed.digest = hearth_protocol::entry::content_digest(&salt, &content);
    shared.content = Some((salt, content));
    let shared = SealedEntry::seal(shared);
    let keys: Vec<DedupKey> = DedupKey::all_of(log, &shared).collect();
    assert_eq!(keys.len(), 3);
    let dedup = keys.iter().map(|key| (key.clone(), dedup_of(1).1)).collect();
    let told = LogAppend { entries: vec![shared], dedup, ..append(log, 1, 1) };
    apply(&stores, vec![append(log, 0, 1), told]).await;
    assert_eq!(stores.log.dedup(keys.clone()).await, Ok(vec![Some(dedup_of(1).1); 3]));
    let cut = LogAppend { apart: Some(1), epoch: Epoch(2), record: Some(record(2)), ..append(log, 2, 0) };
    apply(&stores, vec![cut]).await;
    drop(stores);
    for reopened in [false, true] {
        if reopened {
            subject.reopen();
        }
        let stores = subject.stores();
        assert_eq!(stores.log.load(log).await.expect("loads").length, 1);
        assert_eq!(stores.log.dedup(keys.clone()).await, Ok(vec![None; 3]));
        let tail = stores.log.read_tail(log, None, 9).await.expect("reads");
        assert_eq!(tail[0].join_requests(), requests);
    }
}
