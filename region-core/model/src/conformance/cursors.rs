//! How far members are.

use hearth_protocol::record::{CursorRecord, Reached};
use hearth_protocol::{Epoch, LogId, Timestamp};

use super::samples::{append, conversation, user};
use super::{Subject, apply};

fn cursor(log: LogId, name: &str, up_to: u64) -> CursorRecord {
    let reached = Reached { epoch: Epoch(1), up_to, at: Timestamp(9) };
    CursorRecord { log, user: user(name), delivered: vec![reached], read: Vec::new() }
}

/// See the name; a power cut may take what no synced commit came after.
pub async fn cursors_are_replaced_paged_by_member_and_numbered_with_the_appends(subject: &mut dyn Subject) {
    let (log, other, unknown) = (conversation(1), conversation(2), conversation(3));
    let stores = subject.stores();
    let cursors = &stores.cursors;
    let before = apply(&stores, vec![append(log, 0, 1), append(other, 0, 1)]).await;
    let put = vec![cursor(log, "bob", 1), cursor(log, "ann", 2), cursor(other, "ann", 3), cursor(unknown, "ann", 4)];
    let first = cursors.put_cursors(put).await.expect("puts");
    let second = cursors.put_cursors(vec![cursor(log, "bob", 5), cursor(log, "cid", 6)]).await.expect("puts");
    assert!(before.iter().all(|change| *change < first) && first < second);
    let all = [(cursor(log, "ann", 2), first), (cursor(log, "bob", 5), second), (cursor(log, "cid", 6), second)];
    assert_eq!(cursors.cursors(log, None, 9).await, Ok(all.to_vec()));
    assert_eq!(cursors.cursors(log, Some(user("ann")), 1).await, Ok(all[1..2].to_vec()));
    assert_eq!(cursors.cursors(log, Some(user("cid")), 9).await, Ok(vec![]));
    assert_eq!(cursors.cursors(unknown, None, 9).await, Ok(vec![]), "the region does not hold it");
    let after = apply(&stores, vec![append(log, 1, 1)]).await;
    assert!(after[0] > second);
    drop(stores);
    subject.reopen();
    let stores = subject.stores();
    assert_eq!(stores.cursors.cursors(log, None, 9).await, Ok(all.to_vec()));
    stores.log.remove(log).await.expect("removes");
    assert_eq!(stores.cursors.cursors(log, None, 9).await, Ok(vec![]));
    assert_eq!(stores.cursors.cursors(other, None, 9).await, Ok(vec![(cursor(other, "ann", 3), first)]));
}

/// See the name.
pub async fn the_last_change_of_a_log_is_that_of_its_entries_or_of_ones_own_cursors(subject: &mut dyn Subject) {
    let (log, other, unknown) = (conversation(1), conversation(2), conversation(3));
    let stores = subject.stores();
    let asked = vec![log, unknown, other];
    let appended = apply(&stores, vec![append(log, 0, 1), append(other, 0, 1)]).await;
    let read = stores.cursors.put_cursors(vec![cursor(log, "ann", 1)]).await.expect("puts");
    let changes = |user_name: &'static str, stores: &crate::ports::Stores| {
        let (last_changes, asked) = (stores.last_changes.clone(), asked.clone());
        async move { last_changes.last_changes(&user(user_name), asked).await }
    };
    assert_eq!(changes("ann", &stores).await, Ok(vec![Some(read), None, Some(appended[1])]));
    assert_eq!(changes("bob", &stores).await, Ok(vec![Some(appended[0]), None, Some(appended[1])]));
    let later = apply(&stores, vec![append(log, 1, 2)]).await;
    drop(stores);
    subject.reopen();
    let stores = subject.stores();
    assert_eq!(changes("ann", &stores).await, Ok(vec![Some(later[0]), None, Some(appended[1])]));
    stores.log.remove(log).await.expect("removes");
    assert_eq!(changes("ann", &stores).await, Ok(vec![None, None, Some(appended[1])]));
}
