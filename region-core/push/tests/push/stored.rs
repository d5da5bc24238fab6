//! Jobs outlive the process that decided them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hearth_protocol::{ConversationId, Epoch, Position, Sequence, Timestamp, UserId};
use parking_lot::Mutex;
use region_model::ports::{MapChange, MapStore, MapSync, StoreError};
use region_model::push::Showing;
use region_model::push::ports::{PushJob, PushQueue as _, Put};
use region_push::StoredQueue;
use uuid::Uuid;

const LOAN: Duration = Duration::from_secs(100);

#[derive(Debug, Default)]
struct Rows(Mutex<BTreeMap<Bytes, Bytes>>);

#[async_trait]
impl MapStore for Rows {
    async fn get(&self, key: Bytes) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.lock().get(&key).cloned())
    }

    async fn range(&self, from: Bytes, to: Bytes, rows: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let held = self.0.lock();
        Ok(held.range(from..to).take(rows).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn last(&self, from: Bytes, to: Bytes) -> Result<Option<(Bytes, Bytes)>, StoreError> {
        Ok(self.0.lock().range(from..to).next_back().map(|(key, value)| (key.clone(), value.clone())))
    }

    async fn write(&self, changes: Vec<MapChange>, _: MapSync) -> Result<(), StoreError> {
        for change in changes {
            match change {
                MapChange::Put(key, value) => self.0.lock().insert(key, value),
                MapChange::Remove(key) => self.0.lock().remove(&key),
            };
        }
        Ok(())
    }
}

fn job(subscription: u128, sequence: u64, unread: u32) -> PushJob {
    PushJob {
        user: UserId::new("bob").unwrap(),
        subscription: Uuid::from_u128(subscription),
        conversation: ConversationId(Uuid::from_u128(7)),
        position: Position { epoch: Epoch(1), sequence: Sequence(sequence) },
        showing: Showing::Notify { unread, mentions: false, expires_at: Some(Timestamp(99)) },
        not_after: Timestamp(1_000_000),
        tries: 0,
    }
}

async fn open(rows: &Arc<Rows>, most: usize) -> StoredQueue {
    StoredQueue::open(rows.clone(), most, Timestamp(0)).await.unwrap()
}

async fn all(queue: &StoredQueue) -> Vec<PushJob> {
    queue.take(Timestamp(1_000), LOAN, 100).await.into_iter().map(|(_, job)| job).collect()
}

#[tokio::test]
async fn what_waits_and_what_was_lent_is_there_after_a_crash_and_what_is_over_is_not() {
    let rows = Arc::new(Rows::default());
    let queue = open(&rows, 10).await;
    for subscription in 1..=3 {
        queue.put(job(subscription, 1, 1), Timestamp(0)).await;
    }
    assert_eq!(queue.put(job(3, 2, 2), Timestamp(0)).await, Put::Replaced);
    let lent = queue.take(Timestamp(0), LOAN, 2).await;
    queue.done(lent[0].0).await;
    let clear = PushJob { showing: Showing::Clear, ..job(4, 1, 0) };
    queue.put(clear.clone(), Timestamp(0)).await;
    drop(queue);
    let next = open(&rows, 10).await;
    assert_eq!(all(&next).await, [job(2, 1, 1), job(3, 2, 2), clear]);
}

#[tokio::test]
async fn a_job_that_ends_behind_a_newer_one_of_its_conversation_does_not_take_that_with_it() {
    let rows = Arc::new(Rows::default());
    let queue = open(&rows, 10).await;
    queue.put(job(1, 1, 1), Timestamp(0)).await;
    let lent = queue.take(Timestamp(0), LOAN, 1).await;
    queue.put(job(1, 2, 2), Timestamp(0)).await;
    queue.done(lent[0].0).await;
    let next = open(&rows, 10).await;
    assert_eq!(all(&next).await, [job(1, 2, 2)]);
    for (id, _) in queue.take(Timestamp(0), LOAN, 1).await {
        queue.done(id).await;
    }
    assert!(rows.0.lock().is_empty() && queue.is_empty());
}

#[tokio::test]
async fn what_is_not_taken_for_want_of_room_is_not_kept_and_a_row_that_does_not_read_goes() {
    let rows = Arc::new(Rows::default());
    let bad = Bytes::from_static(b"push/jobs/of a later version");
    rows.0.lock().insert(bad, Bytes::from_static(&[9, 9]));
    rows.0.lock().insert(Bytes::from_static(b"vote"), Bytes::new());
    let queue = open(&rows, 1).await;
    assert_eq!(queue.put(job(1, 1, 1), Timestamp(0)).await, Put::Queued);
    assert_eq!(queue.put(job(2, 1, 1), Timestamp(0)).await, Put::Full);
    assert_eq!((rows.0.lock().len(), queue.len()), (2, 1), "the job, and what is none of ours");
    let lent = queue.take(Timestamp(0), LOAN, 1).await;
    queue.later(lent[0].0, Timestamp(500), 1).await;
    assert_eq!(all(&open(&rows, 1).await).await, [job(1, 1, 1)]);
}
