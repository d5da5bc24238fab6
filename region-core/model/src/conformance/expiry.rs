//! What the ports promise of content whose time is over.

use hearth_protocol::record::LogRecord;
use hearth_protocol::{Epoch, Timestamp};

use super::samples::{append, conversation, entry, expiring, position, record};
use super::{Subject, apply};
use crate::ports::{Begin, ExpiredContent, LogAppend};

/// See the name.
pub async fn content_whose_time_is_over_is_told_in_its_order_and_goes_from_the_log_and_from_its_tail(
    subject: &mut dyn Subject,
) {
    let (log, other) = (conversation(1), conversation(2));
    let stores = subject.stores();
    let entries =
        vec![entry(log, 0), expiring(log, 1, 500), expiring(log, 2, 300), entry(log, 3), expiring(log, 4, 400)];
    apply(&stores, vec![LogAppend { entries, mark: 3, ..append(log, 0, 5) }]).await;
    let cut = LogAppend { apart: Some(4), epoch: Epoch(2), record: Some(record(2)), ..append(log, 5, 0) };
    apply(&stores, vec![cut]).await;
    // A range that is filled later than what stands above it.
    let open = LogRecord { open_ranges: vec![(1, 9)], ..record(1) };
    let begin = Some(Begin { dropped: 1..1, at: 9 });
    apply(&stores, vec![LogAppend { record: Some(open), begin, ..append(other, 0, 0) }]).await;
    let filled = vec![expiring(other, 8, 350)];
    let fills = LogRecord { open_ranges: vec![(1, 8)], ..record(1) };
    apply(&stores, vec![LogAppend { record: Some(fills), filled, ..append(other, 9, 0) }]).await;
    let over = |at, log, sequence| ExpiredContent { at: Timestamp(at), log, position: position(sequence) };
    let all = [over(300, log, 2), over(350, other, 8), over(400, log, 4), over(500, log, 1)];
    drop(stores);
    subject.reopen();
    let stores = subject.stores();
    assert_eq!(stores.log.expired(Timestamp(299), 9).await.expect("lists"), []);
    assert_eq!(stores.log.expired(Timestamp(300), 9).await.expect("lists"), all[..1]);
    assert_eq!(stores.log.expired(Timestamp(499), 2).await.expect("lists"), all[..2]);
    stores.log.take_expired(all[..3].to_vec()).await.expect("takes");
    assert_eq!(stores.log.expired(Timestamp(999), 9).await.expect("lists"), all[3..]);
    drop(stores);
    subject.reopen();
    let stores = subject.stores();
    assert_eq!(stores.log.expired(Timestamp(999), 9).await.expect("lists"), all[3..]);
    let read = stores.log.read(log, 0, 9, 9, usize::MAX).await.expect("reads");
    let bare = expiring(log, 2, 300).without_content();
    assert_eq!(read, [entry(log, 0), expiring(log, 1, 500), bare, entry(log, 3)]);
    assert_eq!(read[2].hash, expiring(log, 2, 300).hash, "the chain goes on");
    assert_eq!(stores.log.read_tail(log, None, 9).await.expect("reads"), [expiring(log, 4, 400).without_content()]);
    let filled = stores.log.read(other, 8, 9, 9, usize::MAX).await.expect("reads");
    assert_eq!(filled, [expiring(other, 8, 350).without_content()]);
    assert_eq!(stores.log.load(log).await.expect("loads").mark, 3);
    assert_eq!(stores.log.scrub().await, Ok(true));
    // What has gone meanwhile is told all the same, or not; to take it away does no harm.
    stores.log.remove(log).await.expect("removes");
    stores.log.take_expired(all[3..].to_vec()).await.expect("takes");
    assert_eq!(stores.log.expired(Timestamp(999), 9).await.expect("lists"), []);
}
