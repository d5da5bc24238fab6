//! What the ports promise of changes of messages.

use hearth_protocol::entry::Forget;
use hearth_protocol::record::{ChangeRecord, LogRecord, MessageChange};
use hearth_protocol::{Epoch, Timestamp};

use super::samples::{append, conversation, dedup_key, entry, position, record, user};
use super::{Subject, apply};
use crate::ports::{Begin, DedupKey, LogAppend, TakenContent, TargetFound, TargetKey};

fn change(target: u64, by: u64) -> ChangeRecord {
    let what = MessageChange::Reacted { emoji: format!("{by}"), added: true };
    ChangeRecord { target, position: position(by), sender: user("bob"), time: Timestamp(by), what }
}

/// See the name.
pub async fn a_message_is_found_by_its_id_with_what_was_done_to_it(subject: &mut dyn Subject) {
    let (log, other) = (conversation(1), conversation(2));
    let stores = subject.stores();
    let changes = vec![change(1, 2), change(1, 4), change(3, 5)];
    // Ben gave the id of the entry at 1 to the one at 3.
    let mut dedup = append(log, 0, 6).dedup;
    let id = dedup_key(log, 3).id;
    dedup.push((DedupKey { log, sender: user("ben"), id: dedup_key(log, 1).id }, dedup[3].1.clone()));
    apply(&stores, vec![LogAppend { changes, dedup, ..append(log, 0, 6) }, append(other, 0, 1)]).await;
    drop(stores);
    subject.reopen();
    let stores = subject.stores();
    let look = |log, actor, id| stores.log.target(TargetKey { log, actor: user(actor), id });
    let found = TargetFound { length: 6, entry: Some(entry(log, 1)), changes: vec![change(1, 2), change(1, 4)] };
    for actor in ["ann", "bob"] {
        assert_eq!(look(log, actor, dedup_key(log, 1).id).await.expect("looks"), found, "the first of two is meant");
    }
    let own = look(log, "ben", dedup_key(log, 1).id).await.expect("looks");
    assert_eq!(own.entry, None, "his own is meant, and the entry at its place has another id");
    assert_eq!(look(log, "bob", id).await.expect("looks").changes, [change(3, 5)]);
    let nothing = |length| TargetFound { length, ..TargetFound::default() };
    assert_eq!(look(other, "ann", id).await.expect("looks"), nothing(1));
    assert_eq!(look(conversation(3), "ann", id).await.expect("looks"), nothing(0));
}

/// See the name.
pub async fn what_was_done_to_messages_goes_with_the_entries_that_did_it_and_with_their_log(subject: &mut dyn Subject) {
    let (log, other) = (conversation(1), conversation(2));
    let stores = subject.stores();
    let all = vec![change(1, 3), change(1, 5), change(2, 4), change(2, 7)];
    let first = LogAppend { changes: all.clone(), ..append(log, 0, 8) };
    apply(&stores, vec![first, LogAppend { changes: vec![change(1, 2)], ..append(other, 0, 3) }]).await;
    let read = |log, from, to, below| stores.log.changes(log, from, to, below);
    assert_eq!(read(log, 0, 9, 9).await.expect("reads"), all);
    assert_eq!(read(log, 2, 3, 9).await.expect("reads"), all[2..]);
    assert_eq!(read(log, 1, 3, 5).await.expect("reads"), [change(1, 3), change(2, 4)]);
    assert_eq!(read(log, 2, 2, 9).await.expect("reads"), []);
    let cut = LogAppend { apart: Some(5), epoch: Epoch(2), record: Some(record(2)), ..append(log, 8, 0) };
    let again = LogAppend { epoch: Epoch(2), changes: vec![change(2, 5)], dedup: vec![], ..append(log, 5, 2) };
    apply(&stores, vec![cut, again]).await;
    assert_eq!(read(log, 0, 9, 9).await.expect("reads"), [change(1, 3), change(2, 4), change(2, 5)]);
    let begin = Some(Begin { dropped: 4..7, at: 9 });
    let open = LogRecord { open_ranges: vec![(4, 9)], ..record(2) };
    let begun = LogAppend { epoch: Epoch(2), begin, record: Some(open), ..append(log, 7, 0) };
    apply(&stores, vec![begun]).await;
    assert_eq!(read(log, 0, 9, 9).await.expect("reads"), [change(1, 3)]);
    stores.log.remove(log).await.expect("removes");
    assert_eq!(read(log, 0, 9, 9).await.expect("reads"), []);
    assert_eq!(read(other, 0, 9, 9).await.expect("reads"), [change(1, 2)]);
}

fn delete(target: u64, by: u64) -> ChangeRecord {
    ChangeRecord { what: MessageChange::Deleted, ..change(target, by) }
}

/// See the name.
pub async fn content_that_is_taken_away_leaves_the_rest_of_its_entries_in_the_log_and_in_its_tail(
    subject: &mut dyn Subject,
) {
    let (log, other) = (conversation(1), conversation(2));
    let stores = subject.stores();
    assert_eq!(stores.log.scrub().await, Ok(false), "nothing was taken away");
    let erased = ChangeRecord { what: MessageChange::Forgotten(Forget::User(user("ann"))), ..change(0, 2) };
    let changes = vec![delete(1, 3), delete(2, 4), erased.clone(), change(1, 4)];
    let first = LogAppend { changes, mark: 5, ..append(log, 0, 8) };
    apply(&stores, vec![first, LogAppend { changes: vec![delete(1, 2)], ..append(other, 0, 3) }]).await;
    let cut = LogAppend { apart: Some(5), epoch: Epoch(2), record: Some(record(2)), ..append(log, 8, 0) };
    apply(&stores, vec![cut]).await;
    let (page, next) = stores.log.deletes(None, 2).await.expect("lists");
    let (rest, end) = stores.log.deletes(next, 3).await.expect("lists");
    let mut all = [page, rest].concat();
    all.sort_by_key(|(log, delete)| (*log, delete.target));
    let known = vec![(log, erased.clone()), (log, delete(1, 3)), (log, delete(2, 4)), (other, delete(1, 2))];
    assert_eq!((all, end), (known, None));
    // What is not there, and what stands under another epoch, is left as it is.
    let elsewhere = hearth_protocol::Position { epoch: Epoch(2), ..position(2) };
    let (entries, tail) = (vec![position(1), position(99), elsewhere], vec![position(6), position(99)]);
    stores.log.take_content(TakenContent { log, entries, tail, done: Some(delete(1, 3)) }).await.expect("takes");
    drop(stores);
    for reopened in [false, true] {
        if reopened {
            subject.reopen();
        }
        let stores = subject.stores();
        let read = stores.log.read(log, 0, 9, 9, usize::MAX).await.expect("reads");
        let bare: Vec<_> =
            (0..5).map(|at| if at == 1 { entry(log, at).without_content() } else { entry(log, at) }).collect();
        assert_eq!(read, bare);
        assert_eq!(read[1].hash, entry(log, 1).hash, "the chain goes on");
        let tail = stores.log.read_tail(log, None, 9).await.expect("reads");
        assert_eq!(tail, [entry(log, 5), entry(log, 6).without_content(), entry(log, 7)]);
        assert_eq!(stores.log.load(log).await.expect("loads").mark, 5);
        let (left, _) = stores.log.deletes(None, 9).await.expect("lists");
        assert!(left.len() == 3 && !left.contains(&(log, delete(1, 3))));
        assert_eq!(stores.log.changes(log, 1, 2, 9).await.expect("reads"), [delete(1, 3), change(1, 4)]);
    }
    let stores = subject.stores();
    assert_eq!(stores.log.scrub().await, Ok(true));
    assert_eq!(stores.log.scrub().await, Ok(false));
    stores.log.remove(other).await.expect("removes");
    assert_eq!(stores.log.deletes(None, 9).await.expect("lists").0, [(log, erased), (log, delete(2, 4))]);
    assert_eq!(stores.log.scrub().await, Ok(true), "a removed log leaves its bytes, too");
}
