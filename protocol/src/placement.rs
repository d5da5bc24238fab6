//! Where logs live: durability levels, placements and the region map.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, LogId, RegionId, Slot};

/// How many copies an ack asks for (design.md 4.5). Ordered: a later variant asks for at least as many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Level {
    /// The home's own copy.
    #[default]
    #[serde(rename = "region")]
    Region = 1,
    /// Two voters.
    #[serde(rename = "regions:2")]
    TwoRegions = 2,
    /// A majority of the voters.
    #[serde(rename = "majority")]
    Majority = 3,
}

impl Level {
    /// Copies that this level asks for among `voters` voters.
    #[must_use]
    pub fn copies(self, voters: usize) -> usize {
        match self {
            Self::Region => 1,
            Self::TwoRegions => 2,
            Self::Majority => voters / 2 + 1,
        }
    }

    /// The level as clients write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::TwoRegions => "regions:2",
            Self::Majority => "majority",
        }
    }

    /// Reads [`Level::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "region" => Some(Self::Region),
            "regions:2" => Some(Self::TwoRegions),
            "majority" => Some(Self::Majority),
            _ => None,
        }
    }

    /// The number on wire and disk.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Region),
            2 => Some(Self::TwoRegions),
            3 => Some(Self::Majority),
            _ => None,
        }
    }
}

/// What sends do while the home is out of reach. Only `park` is served yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionMode {
    /// Held durably at the edge region.
    #[default]
    Park,
    /// Refused, reads go on.
    ReadOnly,
    /// Refused.
    Fail,
}

/// `{conversation, home, epoch, voters, durability, partition mode, allowed regions}` of one log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The log.
    pub log: LogId,
    /// The region that sequences it.
    pub home: RegionId,
    /// The epoch of that home.
    pub epoch: Epoch,
    /// The regions that count for durability and seals, the home among them.
    pub voters: Vec<RegionId>,
    /// The level that it was created with.
    pub durability: Level,
    /// What sends do while the home is out of reach.
    pub partition_mode: PartitionMode,
    /// Regions that may hold it; `None` allows all.
    pub allowed_regions: Option<Vec<RegionId>>,
}

/// The regions of the mesh in their configured order. Slots are dealt round robin over it: fixed by configuration
/// until the map is under consensus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionMap {
    /// Version of the map; the epoch of every placement log.
    pub version: u64,
    /// The regions, in order. Never empty.
    pub regions: Vec<RegionId>,
}

impl RegionMap {
    /// How many voters a log has where there are that many regions.
    pub const VOTERS: usize = 3;

    /// The steward of a slot.
    #[must_use]
    pub fn steward(&self, slot: Slot) -> &RegionId {
        &self.regions[usize::from(slot.0) % self.regions.len()]
    }

    /// The voters of a log whose home is `home`: the home and the next two regions of the ring.
    #[must_use]
    pub fn voters(&self, home: &RegionId) -> Vec<RegionId> {
        let start = self.regions.iter().position(|region| region == home).unwrap_or(0);
        let count = Self::VOTERS.min(self.regions.len());
        (0..count).map(|step| self.regions[(start + step) % self.regions.len()].clone()).collect()
    }

    /// The placement of a slot's own placement log.
    #[must_use]
    pub fn placement_log(&self, slot: Slot) -> Placement {
        let steward = self.steward(slot).clone();
        Placement {
            log: LogId::placement(slot),
            voters: self.voters(&steward),
            home: steward,
            epoch: Epoch(self.version),
            durability: Level::Majority,
            partition_mode: PartitionMode::Park,
            allowed_regions: None,
        }
    }

    /// The placement that a new log gets when `home` asks first.
    #[must_use]
    pub fn first_placement(&self, log: LogId, home: &RegionId, durability: Level) -> Placement {
        Placement {
            log,
            home: home.clone(),
            epoch: Epoch(1),
            voters: self.voters(home),
            durability,
            partition_mode: PartitionMode::Park,
            allowed_regions: None,
        }
    }
}
