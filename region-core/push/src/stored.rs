//! A queue whose jobs outlive the process: the one in memory, and a row of the region's own keys for each job.
//!
//! A row is written before the job waits, and taken away once the job is over, in one order for each subscription and
//! conversation. A power cut may take the newest rows; a job that is over may come again after a crash.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hearth_protocol::record::{PushJobRecord, Record};
use hearth_protocol::{ConversationId, Timestamp};
use parking_lot::Mutex;
use region_model::ports::{MapChange, MapStore, MapSync, StoreError};
use region_model::push::Showing;
use region_model::push::ports::{JobId, PushJob, PushQueue, Put};
use uuid::Uuid;

use crate::MemoryQueue;

/// Before the 16 bytes of the subscription and the 16 of the conversation. Beside the region map's own keys, none of which
/// begins like this.
const PREFIX: &[u8] = b"push/jobs/";
/// Behind every key that begins with [`PREFIX`].
const END: &[u8] = b"push/jobs0";
/// Rows read at a time.
const PAGE: usize = 1_024;

type Key = (Uuid, ConversationId);

#[derive(Debug, Default)]
struct Rows {
    /// Of each key the row of the newest job that was put.
    newest: HashMap<Key, PushJobRecord>,
    /// Jobs that were lent: what they are of.
    lent: HashMap<JobId, PushJobRecord>,
}

/// A bounded queue that is kept.
#[derive(Debug)]
pub struct StoredQueue {
    memory: MemoryQueue,
    store: Arc<dyn MapStore>,
    rows: Mutex<Rows>,
    /// Held from a change of `rows` until its row is written: both are in one order.
    order: tokio::sync::Mutex<()>,
}

fn key(job: &PushJobRecord) -> Key {
    (job.subscription, job.conversation)
}

fn row_key((subscription, conversation): Key) -> Bytes {
    [PREFIX, subscription.as_bytes(), conversation.0.as_bytes()].concat().into()
}

fn record(job: &PushJob) -> PushJobRecord {
    let notify = match job.showing {
        Showing::Notify { unread, mentions, expires_at } => Some((unread, mentions, expires_at)),
        Showing::Clear => None,
    };
    PushJobRecord {
        user: job.user.clone(),
        subscription: job.subscription,
        conversation: job.conversation,
        position: job.position,
        notify,
        not_after: job.not_after,
    }
}

fn job(row: PushJobRecord) -> PushJob {
    let showing = match row.notify {
        Some((unread, mentions, expires_at)) => Showing::Notify { unread, mentions, expires_at },
        None => Showing::Clear,
    };
    PushJob {
        user: row.user,
        subscription: row.subscription,
        conversation: row.conversation,
        position: row.position,
        showing,
        not_after: row.not_after,
        tries: 0,
    }
}

impl StoredQueue {
    /// With what an earlier process left waiting, due at once; never more than `most` jobs. A row that does not read is
    /// taken away.
    ///
    /// # Errors
    /// Of the store.
    pub async fn open(store: Arc<dyn MapStore>, most: usize, now: Timestamp) -> Result<Self, StoreError> {
        let queue = Self {
            memory: MemoryQueue::new(most),
            store,
            rows: Mutex::default(),
            order: tokio::sync::Mutex::default(),
        };
        let mut from = Bytes::from_static(PREFIX);
        loop {
            let rows = queue.store.range(from, Bytes::from_static(END), PAGE).await?;
            let mut bad = Vec::new();
            for (key, value) in &rows {
                match PushJobRecord::decode(value) {
                    Ok(row) => {
                        queue.note(&row);
                        queue.memory.put(job(row), now).await;
                    }
                    Err(_) => bad.push(MapChange::Remove(key.clone())),
                }
            }
            if !bad.is_empty() {
                queue.store.write(bad, MapSync::Kernel).await?;
            }
            match rows.last() {
                Some((last, _)) if rows.len() == PAGE => from = [&last[..], &[0]].concat().into(),
                Some(_) | None => return Ok(queue),
            }
        }
    }

    /// How many jobs it has, lent ones and those behind them included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    fn note(&self, row: &PushJobRecord) {
        self.rows.lock().newest.insert(key(row), row.clone());
    }

    /// A failed store ends its region; until then what is in memory goes out.
    async fn write(&self, change: MapChange) {
        if let Err(error) = self.store.write(vec![change], MapSync::Kernel).await {
            tracing::warn!(%error, "a push that waits is not kept");
        }
    }
}

#[async_trait]
impl PushQueue for StoredQueue {
    async fn put(&self, job: PushJob, due: Timestamp) -> Put {
        let row = record(&job);
        let _order = self.order.lock().await;
        self.note(&row);
        self.write(MapChange::Put(row_key(key(&row)), row.encode().into())).await;
        let put = self.memory.put(job, due).await;
        if put == Put::Full {
            self.rows.lock().newest.remove(&key(&row));
            self.write(MapChange::Remove(row_key(key(&row)))).await;
        }
        put
    }

    async fn take(&self, now: Timestamp, loan: Duration, most: usize) -> Vec<(JobId, PushJob)> {
        let jobs = self.memory.take(now, loan, most).await;
        let mut rows = self.rows.lock();
        for (id, job) in &jobs {
            rows.lent.insert(*id, record(job));
        }
        jobs
    }

    async fn done(&self, id: JobId) {
        let order = self.order.lock().await;
        let over = {
            let mut rows = self.rows.lock();
            let lent = rows.lent.remove(&id);
            // A newer one of the same key has written over the row.
            let over = lent.filter(|row| rows.newest.get(&key(row)) == Some(row));
            over.inspect(|row| {
                rows.newest.remove(&key(row));
            })
        };
        if let Some(row) = over {
            self.write(MapChange::Remove(row_key(key(&row)))).await;
        }
        drop(order);
        self.memory.done(id).await;
    }

    async fn later(&self, id: JobId, due: Timestamp, tries: u32) {
        self.rows.lock().lent.remove(&id);
        self.memory.later(id, due, tries).await;
    }

    async fn next_due(&self) -> Option<Timestamp> {
        self.memory.next_due().await
    }

    async fn changed(&self) {
        self.memory.changed().await;
    }
}
