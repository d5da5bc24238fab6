//! How homes move, as administration needs it.

use async_trait::async_trait;
use hearth_protocol::{LogId, Refusal, RegionId};

/// Why a home did not move.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMoved {
    /// The core of this build moves no homes.
    #[error("this build moves no homes yet")]
    NotBuilt,
    /// The core refused.
    #[error("{0}")]
    Refused(Refusal),
}

/// Moves the homes that are in this region.
#[async_trait]
pub trait Mover: Send + Sync + std::fmt::Debug {
    /// Moves the home of a log to another of its voters. Returns once the placement names it; of a log whose home is
    /// there already, at once. May be called again after any outcome.
    ///
    /// # Errors
    /// [`NotMoved`]: the home goes on where it was.
    async fn move_home(&self, log: LogId, to: RegionId) -> Result<(), NotMoved>;
}

/// Moves nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MovesNothing;

#[async_trait]
impl Mover for MovesNothing {
    async fn move_home(&self, _log: LogId, _to: RegionId) -> Result<(), NotMoved> {
        Err(NotMoved::NotBuilt)
    }
}
