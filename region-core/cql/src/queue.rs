//! One queue for each log that somebody waits for: what is asked of a log is done in the order in which it was asked,
//! and logs do not wait for each other.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use hearth_protocol::{LogId, Position};
use region_model::ports::{AppendOutcome, LoadedLog, LogAppend, StoreError};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::Store;
use crate::state::State;

/// Calls that wait at most; further callers wait for their turn to wait.
pub(crate) const QUEUE_BOUND: usize = 4_096;

pub(crate) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// An append, its number (the one after it is its own, too), and who waits for it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) append: LogAppend,
    pub(crate) stamp: u64,
    pub(crate) reply: Reply<AppendOutcome>,
}

/// What is asked of one log.
#[derive(Debug)]
pub(crate) enum Step {
    Append(Box<Asked>),
    Mark(u64, Reply<()>),
    Load(Reply<LoadedLog>),
    State(Reply<State>),
    Remove(Reply<()>),
    /// Takes content of entries of the log, and of its tail.
    Take(Vec<Position>, Vec<Position>, Reply<()>),
}

/// A step holds its call's place until it is done.
type Place = Arc<OwnedSemaphorePermit>;

/// Logs that are being served have a queue, which may be empty.
#[derive(Debug, Default)]
pub(crate) struct Queues(parking_lot::Mutex<HashMap<LogId, VecDeque<(Step, Place)>>>);

/// Tells whoever waits; who went away does not want it.
pub(crate) fn answer<T>(reply: Reply<T>, value: Result<T, StoreError>) {
    if reply.send(value).is_err() {
        tracing::trace!("nobody waits for an answer of the CQL store");
    }
}

impl Store {
    /// Takes places in the queues, in the order of first polls, also when many wait for room. `steps` is called when it
    /// is this call's turn: numbers that it draws are in that order, too.
    pub(crate) async fn enqueue(
        self: &Arc<Self>,
        steps: impl FnOnce() -> Result<Vec<(LogId, Step)>, StoreError>,
    ) -> Result<(), StoreError> {
        let turn = self.turn.lock().await;
        let closed = |_| StoreError::Unavailable(Arc::from("the store is closed"));
        let place: Place = Arc::new(Arc::clone(&self.room).acquire_owned().await.map_err(closed)?);
        let steps = steps()?;
        for (log, step) in steps {
            let mut queues = self.queues.0.lock();
            if let Some(queue) = queues.get_mut(&log) {
                queue.push_back((step, Arc::clone(&place)));
                continue;
            }
            queues.insert(log, VecDeque::from([(step, Arc::clone(&place))]));
            self.runtime.spawn(Arc::clone(self).serve(log));
        }
        drop(turn);
        Ok(())
    }

    /// Asks one thing of one log.
    pub(crate) async fn ask<T>(
        self: &Arc<Self>,
        log: LogId,
        step: impl FnOnce(Reply<T>) -> Step,
    ) -> Result<T, StoreError> {
        let (reply, answered) = oneshot::channel();
        self.enqueue(|| Ok(vec![(log, step(reply))])).await?;
        answered.await.unwrap_or(Err(StoreError::Unknown))
    }

    /// Serves a log until nothing waits.
    async fn serve(self: Arc<Self>, log: LogId) {
        loop {
            let taken = {
                let mut queues = self.queues.0.lock();
                match queues.get_mut(&log) {
                    Some(queue) if !queue.is_empty() => std::mem::take(queue),
                    _ => {
                        queues.remove(&log);
                        return;
                    }
                }
            };
            let waiting = taken.len() as u64;
            self.counters.waiting.fetch_add(waiting, Relaxed);
            let mut appends = VecDeque::new();
            let mut places = Vec::new();
            for (step, place) in taken {
                places.push(place);
                match step {
                    Step::Append(asked) => appends.push_back(*asked),
                    other => {
                        self.append_all(log, std::mem::take(&mut appends)).await;
                        self.step(log, other).await;
                    }
                }
            }
            self.append_all(log, appends).await;
            self.counters.waiting.fetch_sub(waiting, Relaxed);
        }
    }

    async fn step(&self, log: LogId, step: Step) {
        match step {
            Step::Append(asked) => self.append_all(log, VecDeque::from([*asked])).await,
            Step::Mark(mark, reply) => answer(reply, self.mark(log, mark).await),
            Step::Load(reply) => answer(reply, self.load(log).await),
            Step::State(reply) => answer(reply, self.state(log).await),
            Step::Remove(reply) => answer(reply, self.remove(log).await),
            Step::Take(entries, tail, reply) => answer(reply, self.take(log, &entries, &tail).await),
        }
    }
}
