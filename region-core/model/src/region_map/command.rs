//! What may be asked of the map, and its answers. Stored in Raft's log and sent between regions: a version byte, then
//! postcard; variants and fields are only ever added at the end, under a new version.

use hearth_protocol::record::Record;
use hearth_protocol::{RegionId, Slot};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::state::RegionState;

/// The map that a mesh starts with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstMap {
    /// The regions in their configured order, 1 to [`super::MAXIMUM_REGIONS`]; slots are dealt round robin over them.
    pub regions: Vec<RegionId>,
    /// Those that vote on the map, by rank; with one or two regions it is one, the named map voter.
    pub map_voters: Vec<RegionId>,
}

impl FirstMap {
    /// The first map of these regions: one voter of one or two, three of three or four, else five; the first ones.
    #[must_use]
    pub fn of(regions: Vec<RegionId>) -> Self {
        let count = match regions.len() {
            0..=2 => 1,
            3 | 4 => 3,
            _ => 5,
        };
        Self { map_voters: regions.iter().take(count).cloned().collect(), regions }
    }
}

/// One entry of the map's log.
///
/// `term` is the term of the region's lease as the proposer saw it: the leader admits the command only when that lease
/// must have lapsed by its own clock, and the map refuses it when the lease was renewed meanwhile. `seen` is
/// [`super::MapState::changed`] as the proposer saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MapCommand {
    /// Makes the first version. Every voter may propose it; the first one counts.
    Found(FirstMap),
    /// Renews the lease of a region. The counter is on the region's disk before it asks, and grows by each renewal.
    Renew {
        /// Whose.
        region: RegionId,
        /// Its store.
        store: Uuid,
        /// The incarnation that the map gave the store.
        incarnation: u64,
        /// The store's counter.
        counter: u64,
        /// Length of the lease in milliseconds, within [`super::LEASE_MILLISECONDS`].
        milliseconds: u32,
    },
    /// A store that is new, empty, restored or older than the map knows takes a new incarnation. Ends every right of
    /// the one before, as a fence does.
    TakeIncarnation {
        /// Whose store.
        region: RegionId,
        /// The store.
        store: Uuid,
        /// The store's counter.
        counter: u64,
        /// The incarnation that it replaces; 0 when the region never had a store.
        replaces: u64,
        /// The lease that must have lapsed.
        term: u64,
    },
    /// Ends a region's right to every epoch that it holds, for good (design.md 4.4).
    Fence {
        /// Whose.
        region: RegionId,
        /// The lease that must have lapsed.
        term: u64,
    },
    /// A fenced region knows of its fence, durably, and may hold a lease again.
    Return {
        /// Which.
        region: RegionId,
        /// Its incarnation.
        incarnation: u64,
        /// The version of the fence that it knows.
        fence: u64,
    },
    /// Gives the slots of a fenced region to live voters of their placement logs.
    Reassign {
        /// The fenced region.
        region: RegionId,
        /// See [`MapCommand`].
        seen: u64,
    },
    /// Names steward and voters of the placement logs of some slots.
    Place {
        /// Which, 1 to 4,096.
        slots: Vec<Slot>,
        /// The steward: an active region among the voters.
        steward: RegionId,
        /// The voters, 1 to [`super::MAXIMUM_PLACEMENT_VOTERS`].
        voters: Vec<RegionId>,
        /// See [`MapCommand`].
        seen: u64,
    },
    /// Adds a region. It follows, and holds neither lease nor slot nor vote, until it is activated.
    AddRegion {
        /// Which.
        region: RegionId,
        /// See [`MapCommand`].
        seen: u64,
    },
    /// An added region takes part from now on.
    Activate {
        /// Which.
        region: RegionId,
        /// See [`MapCommand`].
        seen: u64,
    },
    /// Removes a region that stewards nothing and votes for nothing.
    RemoveRegion {
        /// Which.
        region: RegionId,
        /// The lease that must have lapsed.
        term: u64,
        /// See [`MapCommand`].
        seen: u64,
    },
    /// Begins or ends a drain.
    SetDraining {
        /// Which.
        region: RegionId,
        /// Begins or ends.
        draining: bool,
        /// See [`MapCommand`].
        seen: u64,
    },
    /// One more region votes on the map.
    AddMapVoter {
        /// Which.
        region: RegionId,
        /// See [`MapCommand`].
        seen: u64,
    },
    /// One region fewer votes on the map; the last one stays.
    RemoveMapVoter {
        /// Which.
        region: RegionId,
        /// See [`MapCommand`].
        seen: u64,
    },
    /// With one or two regions: the region becomes the one map voter. By force, and then of any number of regions, all
    /// others are fenced without a wait for their leases, on the word of the operator that the voters are down.
    NameMapVoter {
        /// Which.
        region: RegionId,
        /// On the operator's word.
        force: bool,
        /// See [`MapCommand`].
        seen: u64,
    },
}

impl MapCommand {
    /// The lease that must have lapsed before the command may be committed: region and term.
    #[must_use]
    pub fn must_have_lapsed(&self) -> Option<(&RegionId, u64)> {
        match self {
            Self::TakeIncarnation { region, term, .. }
            | Self::Fence { region, term }
            | Self::RemoveRegion { region, term, .. } => Some((region, *term)),
            Self::Found(_)
            | Self::Renew { .. }
            | Self::Return { .. }
            | Self::Reassign { .. }
            | Self::Place { .. }
            | Self::AddRegion { .. }
            | Self::Activate { .. }
            | Self::SetDraining { .. }
            | Self::AddMapVoter { .. }
            | Self::RemoveMapVoter { .. }
            | Self::NameMapVoter { .. } => None,
        }
    }

    /// Whether it changes who votes on the map: such changes go one at a time.
    #[must_use]
    pub fn changes_map_voters(&self) -> bool {
        matches!(self, Self::AddMapVoter { .. } | Self::RemoveMapVoter { .. } | Self::NameMapVoter { .. })
    }
}

/// What an accepted command came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MapFact {
    /// Nothing beyond that it holds.
    Holds,
    /// As [`MapFact::Lease`], from a leader of a version before: it names no generation, so that nothing may be
    /// sequenced under it.
    LeaseOfNoGeneration {
        /// The term.
        term: u64,
        /// Its length in milliseconds.
        milliseconds: u32,
    },
    /// The store has this incarnation.
    Incarnation {
        /// The incarnation.
        incarnation: u64,
        /// The version of the region's last fence; 0 when it never had one.
        fence: u64,
    },
    /// The region is fenced, by this version of the map.
    Fence {
        /// The version.
        fence: u64,
    },
    /// Slots got new stewards.
    Slots {
        /// How many.
        moved: u32,
        /// How many stay because no voter of theirs is live.
        left: u32,
    },
    /// The region has the lease of this term.
    Lease {
        /// The term.
        term: u64,
        /// Its length in milliseconds.
        milliseconds: u32,
        /// The generation that it is granted to: [`super::RegionEntry::fence`] as it was granted.
        generation: u64,
    },
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MapRefusal {
    /// There is no map yet.
    #[error("the map is not founded yet")]
    NotFounded,
    /// The map does not know the region.
    #[error("the map knows no region {0}")]
    UnknownRegion(RegionId),
    /// The region's state does not allow it.
    #[error("the region is {}", .0.as_str())]
    State(RegionState),
    /// The lease was renewed meanwhile: its term is this one.
    #[error("the region's lease was renewed: it has term {0}")]
    Renewed(u64),
    /// The lease may still be held, by the leader's clock, for that many milliseconds.
    #[error("the region may hold its lease for another {0} ms")]
    LeaseHeld(u64),
    /// The map knows another store of the region, or another incarnation of it.
    #[error("the map knows incarnation {incarnation} of the region's store, on store {store}")]
    OtherStore {
        /// The store that it knows.
        store: Uuid,
        /// Its incarnation; 0 for none.
        incarnation: u64,
        /// The term of the region's last lease.
        term: u64,
    },
    /// The store is older than the map knows, or the renewal came late.
    #[error("the store's counter is below {0}")]
    OlderStore(u64),
    /// The map changed since it was looked at.
    #[error("the map has changed since: look again at change {0}")]
    Changed(u64),
    /// A value is out of its range.
    #[error("{0} is out of range")]
    Range(RangeOf),
    /// The region still stewards or votes for placement logs, or votes on the map.
    #[error("the region still has slots or votes")]
    InUse,
    /// Without force the one map voter is named in meshes of at most two regions.
    #[error("a map voter is named only where at most two regions are, or by force")]
    NotTwoRegions,
    /// The last change of map voters is still under way.
    #[error("the last change of map voters is still under way")]
    VotersChanging,
    /// Neither the leader nor a majority of the map's voters gets an answer of the region, so it gets no lease.
    #[error("neither the map's leader nor a majority of its voters gets an answer of the region")]
    OutOfReach,
}

/// What is out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RangeOf {
    /// Length of a lease.
    Lease,
    /// Number of regions, or one stands twice.
    Regions,
    /// Number of map voters, or one that is no region.
    MapVoters,
    /// Slots.
    Slots,
    /// Voters of a placement log.
    PlacementVoters,
}

impl std::fmt::Display for RangeOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lease => "the length of the lease",
            Self::Regions => "the list of regions",
            Self::MapVoters => "the list of map voters",
            Self::Slots => "the list of slots",
            Self::PlacementVoters => "the list of voters",
        })
    }
}

/// What became of a command. `version` is the map's after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MapAnswer {
    /// It took effect: the version grew by one.
    Changed {
        /// The map's version.
        version: u64,
        /// What it came to.
        fact: MapFact,
    },
    /// It was so already: nothing changed.
    Already {
        /// The map's version.
        version: u64,
        /// What holds.
        fact: MapFact,
    },
    /// Nothing changed.
    Refused {
        /// The map's version.
        version: u64,
        /// Why.
        reason: MapRefusal,
    },
}

impl MapAnswer {
    /// What holds now.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn fact(&self) -> Result<&MapFact, &MapRefusal> {
        match self {
            Self::Changed { fact, .. } | Self::Already { fact, .. } => Ok(fact),
            Self::Refused { reason, .. } => Err(reason),
        }
    }

    /// Whether the map changed.
    #[must_use]
    pub fn changed(&self) -> bool {
        matches!(self, Self::Changed { .. })
    }

    /// The map's version after it.
    #[must_use]
    pub fn version(&self) -> u64 {
        match self {
            Self::Changed { version, .. } | Self::Already { version, .. } | Self::Refused { version, .. } => *version,
        }
    }
}

impl Record for MapCommand {}
impl Record for MapAnswer {}
