//! What the leader of the map does about regions that are gone (design.md 4.4): one pure decision, made again and again
//! from the map, so that a leader that comes midway goes on where the one before stopped.
//!
//! ```text
//!   out of reach for `after`, lease lapsed ──► Fence ──► Reassign: its slots go to live voters of their groups
//!                                                │
//!                                                └─► the region is heard again ──► Return ──► leases again
//! ```
//! A region is out of reach when neither the leader nor a majority of the map's voters gets an answer of it. Such a
//! region gets no lease either: it may be heard and not hear, and would hold for ever what it cannot use.

use std::time::Duration;

use hearth_protocol::RegionId;

use super::command::{MapCommand, MapRefusal};
use super::lease::{LeaderLeases, LeaseStanding};
use super::reachability::Reachability;
use super::state::{MapState, RegionEntry, RegionState};
use super::{FAILOVER_AFTER, FEWEST_VOTERS, REPORTS_STAY_FRESH, RETURN_GRACE, UNREACHED_AFTER};

/// Whether and when a region is failed over without a word of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailoverRules {
    /// Whether it is at all.
    pub automatic: bool,
    /// For how long the region must have been out of reach.
    pub after: Duration,
}

impl Default for FailoverRules {
    fn default() -> Self {
        Self { automatic: true, after: FAILOVER_AFTER }
    }
}

/// What the leader goes by.
#[derive(Clone, Copy, Debug)]
pub struct LeaderView<'a> {
    /// The leader.
    pub me: &'a RegionId,
    /// The map as it has applied it.
    pub map: &'a MapState,
    /// The leases by its clock.
    pub leases: &'a LeaderLeases,
    /// What the voters said to it, its own word among them.
    pub reach: &'a Reachability,
    /// The time by its clock.
    pub now: Duration,
}

impl LeaderView<'_> {
    /// The next command of a failover, to be proposed now; `None` while there is nothing to do. Where several regions
    /// are gone, all are fenced before the slots of the first one move.
    #[must_use]
    pub fn next_step(&self, rules: &FailoverRules) -> Option<MapCommand> {
        let regions = || self.map.regions.iter();
        regions()
            .find_map(|entry| self.fence(entry, rules))
            .or_else(|| regions().find_map(|entry| self.reassign(entry)))
    }

    /// What the leader checks before it takes a command into the log.
    ///
    /// # Errors
    /// The refusal, when a lease may still be held that must have lapsed, and when a region asks for its right that
    /// nobody reaches.
    pub fn admit(&self, command: &MapCommand) -> Result<(), MapRefusal> {
        if let MapCommand::Renew { region, .. } | MapCommand::Return { region, .. } = command
            && self.is_out_of_reach(region, UNREACHED_AFTER)
        {
            return Err(MapRefusal::OutOfReach);
        }
        self.leases.admit(self.map, command, self.now)
    }

    /// Whether neither the leader nor a majority has had an answer of the region for `after`. Where too few vote, one
    /// word would be a majority: never.
    #[must_use]
    pub fn is_out_of_reach(&self, region: &RegionId, after: Duration) -> bool {
        let Self { map, reach, now, .. } = *self;
        map.map_voters.len() >= FEWEST_VOTERS
            && reach.says_so(self.me, region, after, REPORTS_STAY_FRESH, now)
            && reach.is_out_of_reach(map, region, after, REPORTS_STAY_FRESH, now)
    }

    /// A region that never held a lease owns nothing that others could take over: it may have its first start ahead.
    fn fence(&self, entry: &RegionEntry, rules: &FailoverRules) -> Option<MapCommand> {
        let region = &entry.region;
        let takes_part = matches!(entry.state, RegionState::Active | RegionState::Draining) && entry.store.is_some();
        if !rules.automatic || !takes_part || !self.is_out_of_reach(region, rules.after) {
            return None;
        }
        match self.leases.standing(self.map, region, self.now) {
            LeaseStanding::Lapsed { term } => Some(MapCommand::Fence { region: region.clone(), term }),
            LeaseStanding::Held { .. } => None,
        }
    }

    /// A fenced region that may be about to return is given a moment: one with a new store comes by way of a fence.
    fn reassign(&self, entry: &RegionEntry) -> Option<MapCommand> {
        let region = &entry.region;
        if entry.state != RegionState::Fenced || !self.map.has_slots_to_move(region) {
            return None;
        }
        let waits = self.leases.unchanged_for(self.map, region, self.now) < RETURN_GRACE;
        if waits && !self.is_out_of_reach(region, UNREACHED_AFTER) {
            return None;
        }
        Some(MapCommand::Reassign { region: region.clone(), seen: self.map.changed })
    }
}
