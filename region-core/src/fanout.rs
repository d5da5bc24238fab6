//! Deliveries to the sessions of this region. Those of a conversation with few members are made where they come up. Those
//! of a large one are made by a worker, in batches, so that the core's loop goes on meanwhile: the region's fan-out log, in
//! memory. What it loses with the process every session finds by its cursors.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hearth_protocol::{ConversationId, SealedEntry};
use parking_lot::Mutex;
use region_model::session::{LineChanged, Skipped};
use region_model::view::Members;
use tokio::sync::mpsc;

use crate::region::Region;

/// Workers of a region. A conversation always has the same one.
const WORKERS: usize = 4;
/// Deliveries that wait for one worker; the core's loop waits for room.
const QUEUED: usize = 256;

/// What the sessions of one conversation are given.
#[derive(Debug)]
pub(crate) enum Job {
    /// An entry, to the sessions of its audience but one.
    Entry { entry: Arc<SealedEntry>, audience: Arc<Members>, skip: Option<u64> },
    /// Messages are not shown here, to members from before and from now on; `held` as [`crate::hub::Hub::skipped`] takes it.
    Skipped { skipped: Skipped, held: bool, before: Arc<Members>, audience: Arc<Members> },
    /// The region is on a newer epoch's line.
    LineChanged { changed: LineChanged, audience: Arc<Members> },
}

impl Job {
    fn members(&self) -> usize {
        match self {
            Self::Entry { audience, .. } | Self::LineChanged { audience, .. } => audience.len(),
            Self::Skipped { before, audience, .. } => before.len().max(audience.len()),
        }
    }
}

/// How many jobs of each conversation wait for a worker, of those of which some do.
#[derive(Debug, Default)]
struct Waiting(HashMap<ConversationId, usize>);

impl Waiting {
    /// Whether a job goes to the worker, and counts from now on: that of a large conversation, and whatever comes behind
    /// one that waits.
    fn queue(&mut self, conversation: ConversationId, large: bool) -> bool {
        let queued = large || self.0.contains_key(&conversation);
        if queued {
            *self.0.entry(conversation).or_default() += 1;
        }
        queued
    }

    /// A worker has done one.
    fn done(&mut self, conversation: ConversationId) {
        if let Some(count) = self.0.get_mut(&conversation) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&conversation);
            }
        }
    }
}

/// The way to the sessions, for the one loop that delivers.
#[derive(Debug)]
pub(crate) struct FanOut {
    region: Arc<Region>,
    workers: Vec<mpsc::Sender<(ConversationId, Job)>>,
    waiting: Arc<Mutex<Waiting>>,
}

impl FanOut {
    /// Starts the workers. They end with what is returned.
    pub(crate) fn start(region: &Arc<Region>) -> Self {
        let waiting = Arc::<Mutex<Waiting>>::default();
        let worker = |_| {
            let (sender, queue) = mpsc::channel(QUEUED);
            tokio::spawn(work(region.clone(), queue, waiting.clone()));
            sender
        };
        Self { region: region.clone(), workers: (0..WORKERS).map(worker).collect(), waiting }
    }

    /// Delivers, or has it delivered behind whatever else waits of the conversation. Waits while that is too much.
    pub(crate) async fn deliver(&self, conversation: ConversationId, job: Job) {
        let large = job.members() > self.region.options.fanout_threshold;
        if !self.waiting.lock().queue(conversation, large) {
            return self.region.deliver_at_once(conversation, &job);
        }
        let place = conversation.0.as_u128() % WORKERS as u128;
        let worker = &self.workers[usize::try_from(place).unwrap_or(0)];
        self.region.hub.waiting.fetch_add(1, Ordering::Relaxed);
        // A worker ends before this only with the runtime.
        let _ = worker.send((conversation, job)).await;
    }
}

/// One worker, until the loop is gone.
async fn work(region: Arc<Region>, mut queue: mpsc::Receiver<(ConversationId, Job)>, waiting: Arc<Mutex<Waiting>>) {
    while let Some((conversation, job)) = queue.recv().await {
        match &job {
            Job::Entry { entry, audience, skip } => {
                region.hub.deliver_in_batches(conversation, entry, audience, *skip).await;
                region.delivered(entry);
            }
            Job::Skipped { .. } | Job::LineChanged { .. } => region.deliver_at_once(conversation, &job),
        }
        region.hub.waiting.fetch_sub(1, Ordering::Relaxed);
        waiting.lock().done(conversation);
    }
}

impl Region {
    fn deliver_at_once(&self, conversation: ConversationId, job: &Job) {
        match job {
            Job::Entry { entry, audience, skip } => {
                self.hub.deliver(conversation, entry, audience, *skip);
                self.delivered(entry);
            }
            Job::Skipped { skipped, held, before, audience } => {
                self.hub.skipped(skipped, *held, before, audience);
            }
            Job::LineChanged { changed, audience } => self.hub.line_changed(changed, audience),
        }
    }

    fn delivered(&self, entry: &SealedEntry) {
        let age = crate::runtime::wall().0.saturating_sub(entry.entry.fixed.time.0);
        self.measures.delivery_seconds.observe(std::time::Duration::from_millis(age).as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_behind_a_job_that_waits_waits_too_however_small_the_conversation_has_become() {
        let [one, other] = [1, 2].map(|number| ConversationId(uuid::Uuid::from_u128(number)));
        let mut waiting = Waiting::default();
        assert!(!waiting.queue(one, false) && waiting.queue(one, true) && waiting.queue(one, false));
        assert!(!waiting.queue(other, false), "of another conversation nothing waits");
        waiting.done(one);
        assert!(waiting.queue(one, false), "one waits still");
        waiting.done(one);
        waiting.done(one);
        assert!(!waiting.queue(one, false) && waiting.0.is_empty());
    }
}
