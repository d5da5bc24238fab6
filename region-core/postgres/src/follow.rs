//! The task that keeps a projection up to date. It is on nobody's path: what fails here is tried again later, and is seen in
//! metrics and in the log of the process.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hearth_protocol::RegionId;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::PostgresOptions;
use crate::error::Error;
use crate::projection::{Pass, Projection, Sweep};
use crate::read::Source;

/// Longest pause after a failure.
const LONGEST: Duration = Duration::from_secs(60);

/// How often a follower looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowOptions {
    /// At the logs: what was shown is projected after about as long.
    pub every: Duration,
    /// At the cursors of all conversations; at those of a conversation that changes otherwise as often as at that.
    pub cursors_every: Duration,
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self { every: Duration::from_secs(5), cursors_every: Duration::from_secs(60) }
    }
}

/// What a follower did since it was started. Read by `/metrics`.
#[derive(Debug)]
pub struct FollowState {
    /// Passes that came to their end.
    pub passes: AtomicU64,
    /// Passes that did not.
    pub failures: AtomicU64,
    /// Logs that were written.
    pub logs: AtomicU64,
    /// Rows that were written, about.
    pub rows: AtomicU64,
    /// Statements that wrote them.
    pub statements: AtomicU64,
    /// Logs that the last pass could not project yet.
    pub behind: AtomicU64,
    /// When the last pass began that came to its end, or the follower was started.
    since: Mutex<Instant>,
}

impl Default for FollowState {
    fn default() -> Self {
        Self {
            passes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            logs: AtomicU64::new(0),
            rows: AtomicU64::new(0),
            statements: AtomicU64::new(0),
            behind: AtomicU64::new(0),
            since: Mutex::new(Instant::now()),
        }
    }
}

impl FollowState {
    /// How late the projection may be: how long ago the last pass began that came to its end.
    #[must_use]
    pub fn lag(&self) -> Duration {
        self.since.lock().elapsed()
    }

    fn passed(&self, began: Instant, pass: &Pass) {
        *self.since.lock() = began;
        self.passes.fetch_add(1, Relaxed);
        self.logs.fetch_add(pass.written, Relaxed);
        self.rows.fetch_add(pass.rows, Relaxed);
        self.statements.fetch_add(pass.statements, Relaxed);
        self.behind.store(pass.behind, Relaxed);
    }
}

/// Keeps a projection up to date until it is dropped.
pub async fn follow(
    options: PostgresOptions,
    times: FollowOptions,
    region: RegionId,
    source: Source,
    state: Arc<FollowState>,
) {
    let mut projection = None;
    let mut swept: Option<Instant> = None;
    let mut failed: Option<(Instant, u32)> = None;
    loop {
        let began = Instant::now();
        let sweeps = swept.is_none_or(|swept| began.duration_since(swept) >= times.cursors_every);
        let sweep = if sweeps { Sweep::All } else { Sweep::Changed };
        let pause = match pass(&mut projection, &options, &region, &source, sweep).await {
            Ok(pass) => {
                state.passed(began, &pass);
                swept = if sweeps { Some(began) } else { swept };
                if let Some((since, _)) = failed.take() {
                    let seconds = since.elapsed().as_secs();
                    tracing::info!(%region, seconds, "the projection goes on");
                }
                times.every
            }
            Err(error) => {
                state.failures.fetch_add(1, Relaxed);
                let (since, failures) = failed.unwrap_or((began, 0));
                if failures == 0 {
                    tracing::warn!(%region, %error, "the projection waits; nothing else does");
                }
                failed = Some((since, failures.saturating_add(1)));
                // At a wrong schema nothing mends itself: it is opened, and so looked at, anew.
                projection = None;
                times.every.saturating_mul(1 << failures.min(6)).min(LONGEST.max(times.every))
            }
        };
        tokio::time::sleep_until(began + pause).await;
    }
}

async fn pass(
    open: &mut Option<Projection>,
    options: &PostgresOptions,
    region: &RegionId,
    source: &Source,
    sweep: Sweep,
) -> Result<Pass, Error> {
    let projection = match open.take() {
        Some(projection) => projection,
        None => Projection::open(options, region).await?,
    };
    let pass = projection.catch_up(source, sweep, &mut |_| {}).await?;
    *open = Some(projection);
    Ok(pass)
}
