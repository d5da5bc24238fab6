//! The interface of the region map, and what it asks of its surroundings.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hearth_protocol::RegionId;
use region_model::region_map::{FailoverRules, LEASE, MapAnswer, MapCommand, MapState, RENEW_EVERY};
use tokio::sync::watch;
use uuid::Uuid;

/// A proposal was not answered in time, or the map stopped. Whether it took effect is unknown; it may be proposed
/// again, since a command that comes twice changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDecided {
    /// No leader took it, or its answer did not come in time.
    #[error("the region map did not answer: the outcome is unknown")]
    Unknown,
    /// This region's part of the map has stopped.
    #[error("the region map has stopped")]
    Stopped,
}

/// Who leads the map's consensus, as far as this region knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader; `None` while there is none that is known.
    pub leader: Option<RegionId>,
    /// Whether it is this region.
    pub is_here: bool,
    /// The term of the consensus; has nothing to do with terms of leases.
    pub term: u64,
    /// Regions that vote now, in the order of their names.
    pub voters: Vec<RegionId>,
    /// Regions that only learn.
    pub learners: Vec<RegionId>,
    /// Whether a change of voters is under way.
    pub changing: bool,
}

/// The replicated map. Every region has one, voter or not.
#[async_trait]
pub trait RegionMapLog: Send + Sync + std::fmt::Debug {
    /// Proposes a command and waits for its answer. The leader is asked; when it is unknown or out of reach, other
    /// regions are asked to hand it on, so that one cut link loses nothing. Asked again until `patience` has passed.
    ///
    /// # Errors
    /// [`NotDecided`]. A refusal by the map is an answer.
    async fn propose(&self, command: MapCommand, patience: Duration) -> Result<MapAnswer, NotDecided>;

    /// The map as applied here; it may be behind the leader's, and never goes back.
    fn watch(&self) -> watch::Receiver<Arc<MapState>>;

    /// Who leads.
    fn leadership(&self) -> Leadership;

    /// One more region votes on the map. Answered once the map says so; the consensus follows by itself.
    ///
    /// # Errors
    /// See [`RegionMapLog::propose`].
    async fn add_voter(&self, region: RegionId, patience: Duration) -> Result<MapAnswer, NotDecided> {
        let seen = self.watch().borrow().changed;
        self.propose(MapCommand::AddMapVoter { region, seen }, patience).await
    }

    /// One region fewer votes on the map; it goes on learning it.
    ///
    /// # Errors
    /// See [`RegionMapLog::propose`].
    async fn remove_voter(&self, region: RegionId, patience: Duration) -> Result<MapAnswer, NotDecided> {
        let seen = self.watch().borrow().changed;
        self.propose(MapCommand::RemoveMapVoter { region, seen }, patience).await
    }
}

/// A request got no answer: the link is down or full, the other side is silent, or `patience` has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the region did not answer")]
pub struct NotAnswered;

/// Requests between regions. Both directions are bounded by the caller: it has few requests under way at a time.
#[async_trait]
pub trait MapNetwork: Send + Sync + std::fmt::Debug {
    /// Asks a region, which answers by [`crate::MapNode::handle`].
    ///
    /// # Errors
    /// [`NotAnswered`]; whether it was handled is unknown.
    async fn ask(&self, to: &RegionId, request: Bytes, patience: Duration) -> Result<Bytes, NotAnswered>;
}

/// Times of the consensus and of leases. The defaults suit round trips of up to 700 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapTimes {
    /// A leader is heard this often (default 300 ms).
    pub pulse: Duration,
    /// A voter that has heard no leader for this long asks for votes, if it is of the lowest rank (default 1.5 s).
    pub election: Duration,
    /// Each further rank waits that much longer (default 200 ms): the windows of two ranks never meet.
    pub rank_step: Duration,
    /// Width of each window (default 50 ms), drawn anew for each election and doubled with each one that failed.
    pub window: Duration,
    /// One attempt of a proposal (default 700 ms); twice that through another region.
    pub attempt: Duration,
    /// How often map, leader and members are looked at (default 200 ms).
    pub look: Duration,
    /// How often a lease is renewed (default 2 s).
    pub renew: Duration,
    /// Length of a lease (default 6 s).
    pub lease: Duration,
}

impl Default for MapTimes {
    fn default() -> Self {
        Self {
            pulse: Duration::from_millis(300),
            election: Duration::from_millis(1_500),
            rank_step: Duration::from_millis(200),
            window: Duration::from_millis(50),
            attempt: Duration::from_millis(700),
            look: Duration::from_millis(200),
            renew: RENEW_EVERY,
            lease: LEASE,
        }
    }
}

/// How a region takes part in the map.
#[derive(Clone, Debug)]
pub struct MapOptions {
    /// This region.
    pub region: RegionId,
    /// Its store: a new or restored store has an id of its own.
    pub store: Uuid,
    /// The regions of the mesh in their configured order, this one among them: the first map, and whom to ask before
    /// there is one.
    pub regions: Vec<RegionId>,
    /// Times.
    pub times: MapTimes,
    /// What the region does about others that are gone while it leads; the same in every region.
    pub failover: FailoverRules,
}
