//! A queue in memory. It does not outlive the process: what waits is lost with it, and devices find the messages at their
//! next sync.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use hearth_protocol::{ConversationId, Timestamp};
use parking_lot::Mutex;
use region_model::push::ports::{JobId, PushJob, PushQueue, Put};
use tokio::sync::Notify;
use uuid::Uuid;

/// Jobs wait for one subscription and conversation at a time.
type Key = (Uuid, ConversationId);

#[derive(Debug)]
struct Entry {
    job: PushJob,
    /// When it is due, or its loan over.
    due: u64,
    /// Its place among those due at the same time.
    place: u64,
    lent: bool,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<u64, Entry>,
    /// (due, place, id) of every entry.
    order: BTreeSet<(u64, u64, u64)>,
    /// The entry of each key that is not lent.
    waiting: HashMap<Key, u64>,
    last: u64,
}

fn key(job: &PushJob) -> Key {
    (job.subscription, job.conversation)
}

impl State {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn insert(&mut self, id: u64, entry: Entry) {
        self.order.insert((entry.due, entry.place, id));
        if !entry.lent {
            self.waiting.insert(key(&entry.job), id);
        }
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.order.remove(&(entry.due, entry.place, id));
        if self.waiting.get(&key(&entry.job)) == Some(&id) {
            self.waiting.remove(&key(&entry.job));
        }
        Some(entry)
    }

    /// Lent jobs whose loan is over wait again; where a newer one waits already, they go.
    fn end_loans(&mut self, now: u64) {
        let over: Vec<u64> = self
            .order
            .range(..=(now, u64::MAX, u64::MAX))
            .map(|(_, _, id)| *id)
            .filter(|id| self.entries.get(id).is_some_and(|entry| entry.lent))
            .collect();
        for id in over {
            if let Some(mut entry) = self.remove(id)
                && !self.waiting.contains_key(&key(&entry.job))
            {
                entry.lent = false;
                self.insert(id, entry);
            }
        }
    }
}

/// A bounded queue in memory.
#[derive(Debug)]
pub struct MemoryQueue {
    state: Mutex<State>,
    most: usize,
    changed: Notify,
}

impl MemoryQueue {
    /// Empty, and never more than `most` jobs, lent ones included.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { state: Mutex::default(), most, changed: Notify::new() }
    }

    /// How many jobs it has, lent ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.lock().entries.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[async_trait]
impl PushQueue for MemoryQueue {
    async fn put(&self, job: PushJob, due: Timestamp) -> Put {
        let mut state = self.state.lock();
        let waiting = state.waiting.get(&key(&job)).copied();
        let put = if let Some(old) = waiting.and_then(|id| state.remove(id)) {
            // Another id, so that whoever had the old one lent ends nothing of the new one.
            let id = state.next();
            state.insert(id, Entry { job, ..old });
            Put::Replaced
        } else if state.entries.len() >= self.most {
            Put::Full
        } else {
            let id = state.next();
            state.insert(id, Entry { job, due: due.0, place: id, lent: false });
            Put::Queued
        };
        drop(state);
        if put != Put::Full {
            self.changed.notify_one();
        }
        put
    }

    async fn take(&self, now: Timestamp, loan: Duration, most: usize) -> Vec<(JobId, PushJob)> {
        let mut state = self.state.lock();
        state.end_loans(now.0);
        let due = state.order.range(..=(now.0, u64::MAX, u64::MAX)).take(most).map(|(_, _, id)| *id);
        let due: Vec<u64> = due.collect();
        let until = now.0.saturating_add(u64::try_from(loan.as_millis()).unwrap_or(u64::MAX));
        let lend = |id: u64| {
            let entry = state.remove(id)?;
            let job = entry.job.clone();
            state.insert(id, Entry { due: until, lent: true, ..entry });
            Some((JobId(id), job))
        };
        due.into_iter().filter_map(lend).collect()
    }

    async fn done(&self, id: JobId) {
        self.state.lock().remove(id.0);
    }

    async fn later(&self, id: JobId, due: Timestamp, tries: u32) {
        let mut state = self.state.lock();
        let Some(mut entry) = state.remove(id.0) else { return };
        let newer = state.waiting.get(&key(&entry.job)).copied().and_then(|newer| state.remove(newer));
        if let Some(newer) = newer {
            entry.job = newer.job;
        }
        entry.job.tries = tries;
        let id = state.next();
        state.insert(id, Entry { job: entry.job, due: due.0, place: entry.place, lent: false });
        drop(state);
        self.changed.notify_one();
    }

    async fn next_due(&self) -> Option<Timestamp> {
        self.state.lock().order.first().map(|(due, _, _)| Timestamp(*due))
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }
}
