//! The leader performs what `LeaderView::next_step` decides, and operators do the same by hand.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hearth_protocol::RegionId;
use openraft::ServerState;
use region_model::region_map::{MapAnswer, MapCommand, MapFact, MapRefusal, RegionState};

use tokio::time::Instant;

use crate::node::MapNode;
use crate::port::{NotDecided, RegionMapLog as _};

/// Why a failover by hand did nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFailedOver {
    /// There is no map yet.
    #[error("the region map is not founded yet: start a majority of its voters")]
    NotFounded,
    /// The map does not know the region.
    #[error("the region map knows no region {0}")]
    UnknownRegion(RegionId),
    /// The region may hold its lease for another such time, if it does not renew it before.
    #[error("the region may hold its lease for another {} ms: stop it, or wait until its lease has lapsed", .0.as_millis())]
    HoldsLease(Duration),
    /// The region's state does not allow it: it only follows or was removed, or, for its slots, it is not fenced.
    #[error("the region is {}", .0.as_str())]
    State(RegionState),
    /// The map went on changing while it was tried.
    #[error("the region map keeps changing: try again")]
    Busy,
    /// No majority of the map's voters took it in time; whether it took effect is unknown.
    #[error("no majority of the region map's voters answered: the outcome is unknown, try again")]
    NoMajority,
    /// This region's part of the map has stopped.
    #[error("this region's part of the region map has stopped")]
    Stopped,
}

impl From<NotDecided> for NotFailedOver {
    fn from(error: NotDecided) -> Self {
        match error {
            NotDecided::Unknown => Self::NoMajority,
            NotDecided::Stopped => Self::Stopped,
        }
    }
}

impl From<&MapRefusal> for NotFailedOver {
    fn from(refusal: &MapRefusal) -> Self {
        match refusal {
            MapRefusal::NotFounded => Self::NotFounded,
            MapRefusal::UnknownRegion(region) => Self::UnknownRegion(region.clone()),
            MapRefusal::LeaseHeld(milliseconds) => Self::HoldsLease(Duration::from_millis(*milliseconds)),
            MapRefusal::State(state) => Self::State(*state),
            // The others are of other commands, or of a map that has changed meanwhile.
            _ => Self::Busy,
        }
    }
}

/// What became of the slots of a fenced region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotsMoved {
    /// How many have a new steward now.
    pub moved: u32,
    /// How many stay with the fenced region, because none of their voters is active.
    pub left: u32,
}

/// Tries of one step by hand, when the map changes between the look and the proposal.
const TRIES: usize = 5;

/// Runs until the node stops.
pub(crate) async fn run(node: MapNode) {
    let times = node.inner.options.times;
    let mut goes_on = false;
    loop {
        if !std::mem::take(&mut goes_on) {
            tokio::time::sleep(times.look).await;
        }
        let live = node.live();
        let metrics = live.metrics();
        if metrics.state != ServerState::Leader || live.gives_way() {
            continue;
        }
        let rules = node.inner.options.failover;
        let Some(step) = node.as_leader(metrics.current_term, |view| view.next_step(&rules)) else { continue };
        match node.propose_here(step.clone(), times.attempt * 2).await {
            Some(answer) => {
                tell(&step, &answer);
                goes_on = answer.changed();
            }
            // It leads no more, or could not commit: whoever leads decides again.
            None => tracing::debug!(?step, "a step of a failover was not committed"),
        }
    }
}

fn tell(step: &MapCommand, answer: &MapAnswer) {
    match (step, answer.fact()) {
        (MapCommand::Fence { region, .. }, Ok(MapFact::Fence { fence })) => {
            tracing::warn!(%region, fence, "a region out of reach is fenced: others take over its slots");
        }
        (MapCommand::Reassign { region, .. }, Ok(MapFact::Slots { moved, left })) => {
            tracing::warn!(%region, moved, left, "slots of a fenced region have new stewards");
        }
        (_, Err(refusal)) => tracing::debug!(?step, %refusal, "a step of a failover was refused"),
        (_, Ok(_)) => {}
    }
}

impl MapNode {
    /// Fences a region by hand, from any region. Answers the version of the fence; of a region that is fenced already
    /// the version of the fence that stands. Takes `patience` at most.
    ///
    /// # Errors
    /// [`NotFailedOver`]: at once with [`NotFailedOver::HoldsLease`] while the region may hold its lease.
    pub async fn fence(&self, region: &RegionId, patience: Duration) -> Result<u64, NotFailedOver> {
        let deadline = Instant::now() + patience;
        let mut term = self.inner.applied.map().region(region).map_or(0, |entry| entry.term);
        for _ in 0..TRIES {
            let command = MapCommand::Fence { region: region.clone(), term };
            match self.propose(command, deadline.duration_since(Instant::now())).await?.fact() {
                Ok(MapFact::Fence { fence }) => return Ok(*fence),
                Ok(_) => return Err(NotFailedOver::Busy),
                // The map here is behind, or the region renews.
                Err(MapRefusal::Renewed(newer)) => term = *newer,
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(NotFailedOver::Busy)
    }

    /// Gives the slots of a fenced region to active voters of theirs, by hand. The leader does so by itself within
    /// seconds of a fence; it may be called all the same, and again. Takes `patience` at most.
    ///
    /// # Errors
    /// [`NotFailedOver`]: with [`NotFailedOver::State`] when the region is not fenced.
    pub async fn reassign(&self, region: &RegionId, patience: Duration) -> Result<SlotsMoved, NotFailedOver> {
        let deadline = Instant::now() + patience;
        let mut seen = self.inner.applied.map().changed;
        for _ in 0..TRIES {
            let command = MapCommand::Reassign { region: region.clone(), seen };
            match self.propose(command, deadline.duration_since(Instant::now())).await?.fact() {
                Ok(MapFact::Slots { moved, left }) => return Ok(SlotsMoved { moved: *moved, left: *left }),
                Ok(_) => return Err(NotFailedOver::Busy),
                Err(MapRefusal::Changed(newer)) => seen = *newer,
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(NotFailedOver::Busy)
    }

    /// Fences that this region has committed as the map's leader since it started: over all regions each is counted
    /// once.
    #[must_use]
    pub fn fences_committed(&self) -> u64 {
        self.inner.fences.load(Ordering::Relaxed)
    }
}
