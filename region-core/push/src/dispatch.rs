//! The loop between queue and senders.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hearth_protocol::{Timestamp, UserId};
use parking_lot::Mutex;
use rand::Rng as _;
use region_model::push::Push;
use region_model::push::ports::{
    Detail, JobId, Notice, Preview, PushJob, PushQueue, PushSender, Put, Scope, Sent, Service, Subscription,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::CollapseKey;
use crate::rests::Rests;

/// What users subscribed to, as their records have it.
#[async_trait]
pub trait Directory: Send + Sync + std::fmt::Debug {
    /// A subscription that still holds.
    async fn subscription(&self, user: &UserId, id: Uuid) -> Option<Subscription>;

    /// A service says that a subscription is dead: it is dropped, unless its device registered it again meanwhile.
    async fn gone(&self, user: &UserId, subscription: &Subscription);

    /// What a message says, where previews are wanted and the user may still see it.
    async fn preview(&self, job: &PushJob) -> Option<Preview>;
}

/// How much notifications say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Said {
    /// That there is something.
    #[default]
    Nothing,
    /// Which conversation and position.
    Ids,
    /// Also what the message says.
    Preview,
}

/// How the loop goes about it.
#[derive(Clone, Copy, Debug)]
pub struct DispatchOptions {
    /// How much notifications say.
    pub said: Said,
    /// Attempts at a time.
    pub at_once: usize,
    /// The first wait after a failed attempt; doubled by each, with full jitter.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
    /// Attempts that may fail before a job is given up. Waiting for a service is no failed attempt.
    pub tries: u32,
}

impl Default for DispatchOptions {
    fn default() -> Self {
        Self {
            said: Said::Nothing,
            at_once: 64,
            first_wait: Duration::from_secs(2),
            longest_wait: Duration::from_secs(600),
            tries: 8,
        }
    }
}

/// How long a job is lent to an attempt: longer than any attempt takes.
const LOAN: Duration = Duration::from_secs(120);

/// The sender of each service. A service without one is not configured: jobs for it end at once.
pub type Senders = BTreeMap<Service, Arc<dyn PushSender>>;

/// What came of jobs, for metrics.
#[derive(Debug, Default)]
pub struct DispatchCounters {
    /// A service has it.
    pub accepted: AtomicU64,
    /// The subscription was dead, or not there any more.
    pub gone: AtomicU64,
    /// A service asked to wait, or something rested.
    pub waited: AtomicU64,
    /// An attempt failed and comes again.
    pub failed: AtomicU64,
    /// Refused by a service, failed too often, or no sender is configured.
    pub given_up: AtomicU64,
    /// Too old before it could be sent.
    pub expired: AtomicU64,
}

/// Takes jobs and has them sent.
pub struct Dispatcher {
    queue: Arc<dyn PushQueue>,
    directory: Arc<dyn Directory>,
    senders: Senders,
    collapse: CollapseKey,
    options: DispatchOptions,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    rests: Mutex<Rests>,
    counters: DispatchCounters,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher")
            .field("senders", &self.senders)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What follows from an attempt.
enum Next {
    Done,
    Later { due: Timestamp, tries: u32 },
}

impl Dispatcher {
    /// Nothing runs yet.
    #[must_use]
    pub fn new(
        queue: Arc<dyn PushQueue>,
        directory: Arc<dyn Directory>,
        senders: Senders,
        collapse: CollapseKey,
        options: DispatchOptions,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> Self {
        let (rests, counters) = (Mutex::default(), DispatchCounters::default());
        Self { queue, directory, senders, collapse, options, clock, rests, counters }
    }

    /// What came of jobs.
    #[must_use]
    pub fn counters(&self) -> &DispatchCounters {
        &self.counters
    }

    /// Runs until it is told to stop; attempts that are under way are dropped then, and their jobs come again.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut attempts: JoinSet<()> = JoinSet::new();
        loop {
            let free = self.options.at_once.saturating_sub(attempts.len());
            let now = (self.clock)();
            let jobs = if free == 0 { Vec::new() } else { self.queue.take(now, LOAN, free).await };
            let more = jobs.len() == free;
            for (id, job) in jobs {
                attempts.spawn(Arc::clone(&self).work(id, job));
            }
            // With all attempts under way only the end of one can make a difference.
            let due = if more { None } else { self.queue.next_due().await };
            let wait = due.map(|due| Duration::from_millis(due.0.saturating_sub((self.clock)().0)));
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_ended) = attempts.join_next(), if !attempts.is_empty() => {}
                () = self.queue.changed(), if !more => {}
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
        }
    }

    async fn work(self: Arc<Self>, id: JobId, job: PushJob) {
        match self.attempt(&job).await {
            Next::Done => self.queue.done(id).await,
            Next::Later { due, .. } if due >= job.not_after => {
                count(&self.counters.expired);
                self.queue.done(id).await;
            }
            Next::Later { due, tries } => self.queue.later(id, due, tries).await,
        }
    }

    async fn attempt(&self, job: &PushJob) -> Next {
        let now = (self.clock)();
        if now >= job.not_after {
            count(&self.counters.expired);
            return Next::Done;
        }
        let Some(to) = self.directory.subscription(&job.user, job.subscription).await else {
            count(&self.counters.gone);
            return Next::Done;
        };
        let Some(sender) = self.senders.get(&to.target.service()) else {
            count(&self.counters.given_up);
            return Next::Done;
        };
        let (way, own) = (sender.way(&to), to.id.to_string());
        let rest = self.rests.lock().until([&way, &own], now);
        if let Some(due) = rest {
            count(&self.counters.waited);
            return Next::Later { due, tries: job.tries };
        }
        let sent = sender.send(&to, &self.notice(job).await, now).await;
        self.follow(job, &to, sent, [way, own]).await
    }

    async fn notice(&self, job: &PushJob) -> Notice {
        let detail = match self.options.said {
            Said::Nothing => Detail::Nothing,
            Said::Ids => Detail::Ids,
            Said::Preview => self.directory.preview(job).await.map_or(Detail::Ids, Detail::Preview),
        };
        Notice {
            conversation: job.conversation,
            collapse: self.collapse.name(&job.user, job.conversation),
            position: job.position,
            showing: job.showing.clone(),
            detail,
            not_after: job.not_after,
        }
    }

    async fn follow(&self, job: &PushJob, to: &Subscription, sent: Sent, [way, own]: [String; 2]) -> Next {
        let service = to.target.service().label();
        let now = (self.clock)();
        match sent {
            Sent::Accepted => count(&self.counters.accepted),
            Sent::Gone => {
                count(&self.counters.gone);
                self.directory.gone(&job.user, to).await;
            }
            Sent::Wait { scope, after } => {
                count(&self.counters.waited);
                let after = after.unwrap_or_else(|| self.patience(job.tries));
                let name = if scope == Scope::Way { way } else { own };
                self.rests.lock().rest(name, after, now);
                return Next::Later { due: later(now, after), tries: job.tries.saturating_add(1) };
            }
            Sent::Failed(reason) if job.tries.saturating_add(1) < self.options.tries => {
                count(&self.counters.failed);
                tracing::debug!(service, reason, "a push failed and is tried again");
                return Next::Later { due: later(now, self.patience(job.tries)), tries: job.tries.saturating_add(1) };
            }
            Sent::Failed(reason) | Sent::Refused(reason) => {
                count(&self.counters.given_up);
                tracing::warn!(service, reason, "a push was given up");
            }
        }
        Next::Done
    }

    /// Full jitter, so that what failed together does not come again together; never less than half of the first wait.
    fn patience(&self, tries: u32) -> Duration {
        let longest = self.options.longest_wait;
        let most = self.options.first_wait.saturating_mul(2_u32.saturating_pow(tries)).min(longest);
        rand::rng().random_range(self.options.first_wait.min(most) / 2..=most)
    }
}

fn later(now: Timestamp, after: Duration) -> Timestamp {
    Timestamp(now.0.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)))
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Puts one job a subscription for what was decided; `lives` is how long it may wait for a device. Answers how many were
/// not taken because the queue is full.
pub async fn enqueue(
    queue: &dyn PushQueue,
    user: &UserId,
    subscriptions: &[Subscription],
    push: &Push,
    now: Timestamp,
    lives: Duration,
) -> usize {
    let lives = u64::try_from(lives.as_millis()).unwrap_or(u64::MAX);
    let mut full = 0;
    for job in PushJob::of(user, subscriptions, push, now, lives) {
        full += usize::from(queue.put(job, now).await == Put::Full);
    }
    full
}
