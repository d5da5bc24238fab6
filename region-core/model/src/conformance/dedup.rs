//! What the ports promise of dedup records that are too old.

use hearth_protocol::Timestamp;

use super::samples::{append, conversation, dedup_key, dedup_of};
use super::{Subject, apply};
use crate::ports::LogAppend;

/// See the name; entries, and records at the very time, stay.
pub async fn dedup_records_before_a_time_are_forgotten_page_by_page_and_no_others(subject: &mut dyn Subject) {
    let stores = subject.stores();
    let logs = [1, 2].map(conversation);
    apply(&stores, logs.map(|log| append(log, 0, 5)).to_vec()).await;
    let (mut after, mut pages) = (None, 0);
    loop {
        after = stores.log.expire_dedup(Timestamp(1_003), after, 3).await.expect("forgets");
        pages += 1;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages, 4, "three records are looked at a page");
    for log in logs {
        let keys = (0..5).map(|sequence| dedup_key(log, sequence)).collect();
        let kept = [None, None, None, Some(dedup_of(3).1), Some(dedup_of(4).1)];
        assert_eq!(stores.log.dedup(keys).await.expect("looks up"), kept);
        assert_eq!(stores.log.load(log).await.expect("loads").length, 5);
    }
    // What is forgotten may be sent and sequenced again.
    apply(&stores, vec![LogAppend { dedup: append(logs[0], 0, 1).dedup, ..append(logs[0], 5, 1) }]).await;
    assert_eq!(stores.log.dedup(vec![dedup_key(logs[0], 0)]).await, Ok(vec![Some(dedup_of(0).1)]));
    assert_eq!(stores.log.expire_dedup(Timestamp(0), None, 99).await, Ok(None));
}
