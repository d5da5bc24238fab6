//! How homes move, as administration needs it.

use async_trait::async_trait;
use hearth_protocol::{LogId, Refusal, RegionId};
use region_core::RegionHandle;

/// Why a home did not move: it goes on where it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotMoved(pub Refusal);

/// Moves the homes that are in this region.
#[async_trait]
pub trait Mover: Send + Sync + std::fmt::Debug {
    /// Moves the home of a log to another of its voters. Returns once the placement names it; of a log whose home is
    /// there already, at once. May be called again after any outcome.
    ///
    /// # Errors
    /// [`NotMoved`]: the home goes on where it was.
    async fn move_home(&self, log: LogId, to: RegionId) -> Result<(), NotMoved>;

    /// Changes the voters of a log, and moves its home to one of them, which may be where it is. Returns once the
    /// placement says so; where it says so already, at once. May be called again after any outcome.
    ///
    /// # Errors
    /// [`NotMoved`]: voters and home are as they were.
    async fn change_voters(&self, log: LogId, to: RegionId, voters: Vec<RegionId>) -> Result<(), NotMoved>;
}

#[async_trait]
impl Mover for RegionHandle {
    async fn move_home(&self, log: LogId, to: RegionId) -> Result<(), NotMoved> {
        Self::move_home(self, log, to).await.map_err(NotMoved)
    }

    async fn change_voters(&self, log: LogId, to: RegionId, voters: Vec<RegionId>) -> Result<(), NotMoved> {
        Self::change_voters(self, log, to, voters).await.map_err(NotMoved)
    }
}
