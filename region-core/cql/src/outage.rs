//! How calls outlast servers that do not answer. A request whose failure may pass is asked for again, and its caller
//! waits; where a call waits for long the store is **away**, and whoever asks the region is told so.
//!
//! ```text
//!   request ──► answered ──────────────────────────────► the caller
//!      ▲  └──► final: the store is unavailable
//!      └─ pause ◄─ passing; after 3 s: away, until every call that waited so long is answered
//! ```
//! How many calls wait is bounded by whoever makes them: 4,096 places of the queues of the logs, and the operations that
//! the core of the region has under way. While the store is away at most [`KNOCKS`] of them are at the servers.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use region_model::ports::{StoreCounters, StoreError};
use scylla::errors::ExecutionError;
use tokio::sync::{Semaphore, watch};

use crate::values::{Values, bytes_of};
use crate::verdict::{Verdict, judge};

/// A call that waits for longer is overdue, and the store is away. Half the time of a lease: what the region says of it
/// comes before the lease ends.
const PATIENCE: Duration = Duration::from_secs(3);
/// Requests at servers that are away: they come back to a few, and not to all that waited.
const KNOCKS: usize = 16;
/// The pause before a request is made again; it doubles up to the longest, and is drawn from its upper half.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Why the store is away, while it is.
pub(crate) type Away = Option<Arc<str>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Whoever opens the store wants to hear that the servers do not answer.
    Opening,
    Open,
    /// The region ends: nobody waits for servers that are away.
    Ending,
}

/// What a request came to that was not answered.
#[derive(Debug)]
pub(crate) enum Failed {
    /// It may have been done.
    Passing,
    /// The servers would answer the same again.
    Final(StoreError),
}

#[derive(Debug, Default)]
struct State {
    /// Calls that wait for longer than [`PATIENCE`].
    overdue: usize,
    /// What a request failed with last.
    last: Option<(Instant, Arc<str>)>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Outages {
    mode: watch::Sender<Mode>,
    away: watch::Sender<Away>,
    state: Mutex<State>,
    knocks: Semaphore,
    counters: Arc<StoreCounters>,
}

/// A call that is overdue.
struct Overdue<'a> {
    outages: &'a Outages,
    answered: bool,
}

impl Drop for Overdue<'_> {
    fn drop(&mut self) {
        self.outages.state.lock().overdue -= 1;
        // Whoever went away without an answer says nothing of the servers.
        if self.answered {
            self.outages.answered();
        }
    }
}

/// Pauses between requests that are made again: as many as there may be while the store is opened.
#[derive(Debug)]
pub(crate) struct Pauses {
    left: u32,
    wait: Duration,
}

impl Pauses {
    /// With at most so many requests in all while the store is opened.
    pub(crate) fn within(requests: u32) -> Self {
        Self { left: requests.saturating_sub(1), wait: FIRST_PAUSE }
    }
}

impl Outages {
    /// For a store that is being opened.
    pub(crate) fn new(counters: Arc<StoreCounters>) -> Self {
        Self {
            mode: watch::Sender::new(Mode::Opening),
            away: watch::Sender::new(None),
            state: Mutex::default(),
            knocks: Semaphore::new(KNOCKS),
            counters,
        }
    }

    /// From now on calls wait for servers that do not answer.
    pub(crate) fn opened(&self) {
        self.mode.send_replace(Mode::Open);
    }

    /// From now on a call that is overdue has an unknown outcome.
    pub(crate) fn ending(&self) {
        self.mode.send_replace(Mode::Ending);
    }

    /// Why the store is away, while it is.
    pub(crate) fn away(&self) -> watch::Receiver<Away> {
        self.away.subscribe()
    }

    fn is_away(&self) -> bool {
        self.away.borrow().is_some()
    }

    /// Counts a conditional write that is about to be asked for.
    pub(crate) fn round(&self) {
        self.counters.rounds.fetch_add(1, Relaxed);
    }

    /// Counts values that are about to be sent.
    pub(crate) fn sending(&self, values: &[Values]) {
        let bytes: usize = values.iter().flatten().flatten().map(bytes_of).sum();
        self.counters.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Makes one request.
    pub(crate) async fn request<T>(
        &self,
        request: impl Future<Output = Result<T, ExecutionError>>,
    ) -> Result<T, Failed> {
        let _knock = if self.is_away() { self.knocks.acquire().await.ok() } else { None };
        self.counters.requests.fetch_add(1, Relaxed);
        match request.await {
            Ok(answer) => {
                if self.is_away() {
                    self.answered();
                }
                Ok(answer)
            }
            Err(error) => match judge(&error) {
                Verdict::Passing => {
                    tracing::debug!(%error, "a request to the CQL store has an unknown outcome");
                    self.counters.repeated.fetch_add(1, Relaxed);
                    self.state.lock().last = Some((Instant::now(), Arc::from(error.to_string())));
                    Err(Failed::Passing)
                }
                Verdict::Final => {
                    let reason = format!("the CQL store refused: {error}");
                    Err(Failed::Final(StoreError::Unavailable(Arc::from(reason))))
                }
            },
        }
    }

    /// Makes a request until it is answered. Doing it twice has to change nothing.
    pub(crate) async fn repeated<T, F>(&self, request: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, ExecutionError>>,
    {
        let asking = async {
            let mut pauses = Pauses::within(1);
            loop {
                match self.request(Box::pin(request())).await {
                    Ok(answer) => return Ok(answer),
                    Err(Failed::Final(error)) => return Err(error),
                    Err(Failed::Passing) => self.pause(&mut pauses).await?,
                }
            }
        };
        self.outlast(asking).await
    }

    /// Waits before a request is made again.
    ///
    /// # Errors
    /// `Unknown` where it is not: while the store is opened.
    pub(crate) async fn pause(&self, pauses: &mut Pauses) -> Result<(), StoreError> {
        if *self.mode.borrow() == Mode::Opening {
            pauses.left = pauses.left.checked_sub(1).ok_or(StoreError::Unknown)?;
        }
        tokio::time::sleep(pauses.wait.mul_f64(rand::random_range(0.5..1.0))).await;
        pauses.wait = (pauses.wait * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    /// Waits for a call. When that takes long the store is away; when the region ends meanwhile, the outcome is unknown.
    pub(crate) async fn outlast<T>(
        &self,
        asking: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut asking = pin!(asking);
        if let Ok(answer) = tokio::time::timeout(PATIENCE, asking.as_mut()).await {
            return answer;
        }
        let mut overdue = self.overdue();
        let mut mode = self.mode.subscribe();
        let answer = tokio::select! {
            answer = asking => answer,
            _ = mode.wait_for(|mode| *mode == Mode::Ending) => Err(StoreError::Unknown),
        };
        overdue.answered = answer.is_ok();
        answer
    }

    fn overdue(&self) -> Overdue<'_> {
        let mut state = self.state.lock();
        state.overdue += 1;
        let recent = state.last.as_ref().filter(|(at, _)| at.elapsed() <= PATIENCE);
        let reason = recent.map_or_else(|| format!("no answer for {PATIENCE:?}").into(), |(_, reason)| reason.clone());
        // Under the lock: the end of one outage and the begin of the next are told in this order.
        self.away.send_if_modified(|away| {
            let begins = away.is_none();
            if begins {
                *away = Some(reason);
            }
            begins
        });
        Overdue { outages: self, answered: false }
    }

    /// The servers answered: unless other calls wait for long, the store is there again.
    fn answered(&self) {
        let state = self.state.lock();
        if state.overdue == 0 {
            self.away.send_if_modified(|away| away.take().is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use scylla::errors::{DbError, RequestAttemptError};
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn passing() -> ExecutionError {
        ExecutionError::RequestTimeout(Duration::from_secs(12))
    }

    fn outages() -> Outages {
        let outages = Outages::new(Arc::default());
        outages.opened();
        outages
    }

    /// A server that refuses everything as an overloaded one does until it is told to answer.
    async fn served(answers: &AtomicU32) -> Result<u32, ExecutionError> {
        match answers.load(Relaxed) {
            0 => Err(passing()),
            answer => Ok(answer),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_until_the_servers_answer_and_the_store_is_away_meanwhile() {
        let (outages, answers) = (outages(), AtomicU32::new(0));
        let mut away = outages.away();
        let call = outages.repeated(|| served(&answers));
        let watch = async { away.wait_for(Option::is_some).await.expect("it is told").clone().expect("a reason") };
        let (answer, reason) = tokio::join!(call, async {
            let reason = watch.await;
            tokio::time::sleep(Duration::from_secs(600)).await;
            assert!(outages.is_away());
            answers.store(7, Relaxed);
            reason
        });
        assert_eq!(answer, Ok(7));
        assert!(reason.contains("12000ms"), "{reason}");
        assert!(!outages.is_away());
        let repeated = outages.counters.repeated.load(Relaxed);
        assert!((600..1_400).contains(&repeated), "once a second at most, twice at least in two: {repeated}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_passes_soon_is_nobodys_outage() {
        let (outages, answers) = (outages(), AtomicU32::new(0));
        let away = outages.away();
        let (answer, ()) = tokio::join!(outages.repeated(|| served(&answers)), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            answers.store(1, Relaxed);
        });
        assert_eq!(answer, Ok(1));
        assert!(!away.has_changed().expect("it lives"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_final_answer_is_not_asked_for_again() {
        let outages = outages();
        let asked = AtomicU32::new(0);
        let answer: Result<(), _> = outages
            .repeated(|| async {
                asked.fetch_add(1, Relaxed);
                Err(RequestAttemptError::DbError(DbError::Invalid, "unconfigured table log".into()).into())
            })
            .await;
        assert!(matches!(answer, Err(StoreError::Unavailable(reason)) if reason.contains("unconfigured table")));
        assert_eq!(asked.load(Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_opens_a_store_hears_that_the_servers_do_not_answer() {
        let outages = Outages::new(Arc::default());
        let answer: Result<(), _> = outages.repeated(|| async { Err(passing()) }).await;
        assert_eq!(answer, Err(StoreError::Unknown));
        let mut pauses = Pauses::within(3);
        assert!(outages.pause(&mut pauses).await.is_ok() && outages.pause(&mut pauses).await.is_ok());
        assert_eq!(outages.pause(&mut pauses).await, Err(StoreError::Unknown));
    }

    #[tokio::test(start_paused = true)]
    async fn a_region_that_ends_waits_for_nobody_and_a_caller_who_left_ends_no_outage() {
        let outages = Arc::new(outages());
        let waits = |outages: Arc<Outages>| async move { outages.repeated::<(), _>(std::future::pending).await };
        let (stays, leaves) = (tokio::spawn(waits(outages.clone())), tokio::spawn(waits(outages.clone())));
        outages.away().wait_for(Option::is_some).await.expect("it is told");
        leaves.abort();
        assert!(leaves.await.is_err() && outages.is_away());
        outages.ending();
        assert_eq!(stays.await.expect("it ends"), Err(StoreError::Unknown));
        assert!(outages.is_away(), "nobody was answered");
        assert!(outages.request(async { Ok(()) }).await.is_ok() && !outages.is_away());
    }

    #[tokio::test(start_paused = true)]
    async fn servers_that_are_away_are_asked_by_a_few_at_a_time() {
        let outages = Arc::new(outages());
        let under_way = Arc::new(AtomicU32::new(0));
        let most = Arc::new(AtomicU32::new(0));
        let first = tokio::spawn({
            let outages = outages.clone();
            async move { outages.repeated::<(), _>(std::future::pending).await }
        });
        outages.away().wait_for(Option::is_some).await.expect("it is told");
        let calls: Vec<_> = (0..200)
            .map(|_| {
                let (outages, under_way, most) = (outages.clone(), under_way.clone(), most.clone());
                tokio::spawn(async move {
                    let _ = outages
                        .request(async {
                            most.fetch_max(under_way.fetch_add(1, Relaxed) + 1, Relaxed);
                            tokio::time::sleep(Duration::from_secs(12)).await;
                            under_way.fetch_sub(1, Relaxed);
                            Err::<(), _>(passing())
                        })
                        .await;
                })
            })
            .collect();
        for call in calls {
            call.await.expect("it ends");
        }
        first.abort();
        assert_eq!(most.load(Relaxed) as usize, KNOCKS);
    }
}
