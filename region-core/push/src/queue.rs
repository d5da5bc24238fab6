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
    /// What was put while it is lent, and when that is due: two of one key under way at a time could arrive in the other
    /// order, and bring back what was read.
    behind: Option<(PushJob, u64)>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<u64, Entry>,
    /// (due, place, id) of every entry.
    order: BTreeSet<(u64, u64, u64)>,
    /// The one entry of each key.
    keys: HashMap<Key, u64>,
    /// Jobs behind lent ones.
    behind: usize,
    last: u64,
}

fn key(job: &PushJob) -> Key {
    (job.subscription, job.conversation)
}

impl State {
    fn len(&self) -> usize {
        self.entries.len() + self.behind
    }

    fn insert(&mut self, id: u64, entry: Entry) {
        self.order.insert((entry.due, entry.place, id));
        self.keys.insert(key(&entry.job), id);
        self.behind += usize::from(entry.behind.is_some());
        self.entries.insert(id, entry);
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        self.order.remove(&(entry.due, entry.place, id));
        self.keys.remove(&key(&entry.job));
        self.behind -= usize::from(entry.behind.is_some());
        Some(entry)
    }

    /// Lets a job wait under a new id, so that whoever had it lent ends nothing of it any more.
    fn wait(&mut self, job: PushJob, due: u64, place: Option<u64>) {
        self.last += 1;
        let (id, place) = (self.last, place.unwrap_or(self.last));
        self.insert(id, Entry { job, due, place, lent: false, behind: None });
    }

    /// Lent jobs whose loan is over wait again, or what stands behind them in their place.
    fn end_loans(&mut self, now: u64) {
        let over: Vec<u64> = self
            .order
            .range(..=(now, u64::MAX, u64::MAX))
            .map(|(_, _, id)| *id)
            .filter(|id| self.entries.get(id).is_some_and(|entry| entry.lent))
            .collect();
        for entry in over.into_iter().filter_map(|id| self.remove(id)).collect::<Vec<_>>() {
            let job = entry.behind.map_or(entry.job, |(job, _)| job);
            self.wait(job, entry.due, Some(entry.place));
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
    /// Empty, and never more than `most` jobs, lent ones and those behind them included.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { state: Mutex::default(), most, changed: Notify::new() }
    }

    /// How many jobs it has, lent ones and those behind them included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.lock().len()
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
        let full = state.len() >= self.most;
        let known = state.keys.get(&key(&job)).copied().and_then(|id| state.entries.get_mut(&id));
        let put = match known {
            Some(entry) if !entry.lent => {
                entry.job = job;
                Put::Replaced
            }
            Some(Entry { behind: Some((waiting, _)), .. }) => {
                *waiting = job;
                Put::Replaced
            }
            Some(_) | None if full => Put::Full,
            Some(entry) => {
                entry.behind = Some((job, due.0));
                state.behind += 1;
                Put::Queued
            }
            None => {
                state.wait(job, due.0, None);
                Put::Queued
            }
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
        let mut state = self.state.lock();
        let behind = state.remove(id.0).and_then(|entry| entry.behind);
        let more = behind.is_some();
        if let Some((job, due)) = behind {
            state.wait(job, due, None);
        }
        drop(state);
        if more {
            self.changed.notify_one();
        }
    }

    async fn later(&self, id: JobId, due: Timestamp, tries: u32) {
        let mut state = self.state.lock();
        let Some(entry) = state.remove(id.0) else { return };
        let mut job = entry.behind.map_or(entry.job, |(job, _)| job);
        job.tries = tries;
        state.wait(job, due.0, Some(entry.place));
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
