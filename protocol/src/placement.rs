//! Where logs live: durability levels, placements and the region map.

use serde::{Deserialize, Serialize};

use crate::entry::Hash;
use crate::ids::{Epoch, LogId, RegionId, Slot, Timestamp};
use crate::record::{Record, RecordError};

/// How many copies an ack asks for (design.md 4.5). Ordered: a later variant asks for at least as many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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

/// What an edge does with a conversation while its home is out of reach (design.md 4.9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PartitionMode {
    /// Sends are held durably at the edge region, reads go on.
    #[default]
    Park,
    /// Sends are refused, reads go on.
    ReadOnly,
    /// Sends and reads are refused.
    Fail,
}

impl PartitionMode {
    /// The mode as clients and operators write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Park => "park",
            Self::ReadOnly => "read-only",
            Self::Fail => "fail",
        }
    }
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
    /// What an edge does while the home is out of reach, as it was created; a change of it is an entry of the log.
    pub partition_mode: PartitionMode,
    /// Regions that may hold it; `None` allows all.
    pub allowed_regions: Option<Vec<RegionId>>,
    /// The home's generation when it was placed: the version of the region map that fenced it last, 0 for never. A
    /// fence ends the right to every placement of an older generation (docs/ownership.md).
    pub generation: u64,
    /// The first sequence of the epoch: the number of entries that it opens with.
    pub first: u64,
    /// The hash of the last of them; zeros for an empty log.
    pub previous: Hash,
    /// What the epoch may lack of an older one.
    pub loss: Option<LossStatement>,
}

/// What an epoch that was opened after a failover may lack: every position from (`epoch`, `from`) on, in the order of
/// positions, that was acked with fewer than `covered_copies` copies (design.md 4.6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossStatement {
    /// The epoch that the winner had accepted.
    pub epoch: Epoch,
    /// The first sequence of that epoch that may be missing.
    pub from: u64,
    /// Acks with at least so many copies are all in the line.
    pub covered_copies: u32,
    /// The home that was replaced: what is missing is on its disk.
    pub lost_home: RegionId,
    /// When the statement was made.
    pub made_at: Timestamp,
}

/// A placement as version 1 stored it, when every log had one epoch. Only read.
#[derive(Debug, Deserialize)]
pub struct PlacementV1 {
    log: LogId,
    home: RegionId,
    epoch: Epoch,
    voters: Vec<RegionId>,
    durability: Level,
    partition_mode: PartitionMode,
    allowed_regions: Option<Vec<RegionId>>,
}

impl Placement {
    /// The placement of a log that has nothing yet, under its first epoch.
    #[must_use]
    pub fn first(log: LogId, home: RegionId, voters: Vec<RegionId>, durability: Level) -> Self {
        Self {
            log,
            home,
            epoch: Epoch(1),
            voters,
            durability,
            partition_mode: PartitionMode::Park,
            allowed_regions: None,
            generation: 0,
            first: 0,
            previous: [0; 32],
            loss: None,
        }
    }
}

impl From<PlacementV1> for Placement {
    fn from(old: PlacementV1) -> Self {
        let PlacementV1 { log, home, epoch, voters, durability, partition_mode, allowed_regions } = old;
        let (generation, first, previous, loss) = (0, 0, [0; 32], None);
        Self {
            log,
            home,
            epoch,
            voters,
            durability,
            partition_mode,
            allowed_regions,
            generation,
            first,
            previous,
            loss,
        }
    }
}

impl Record for Placement {
    const VERSION: u8 = 2;

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        match bytes.split_first() {
            Some((1, rest)) => Ok(postcard::from_bytes::<PlacementV1>(rest).map_err(|_| RecordError::Form)?.into()),
            Some((2, rest)) => postcard::from_bytes(rest).map_err(|_| RecordError::Form),
            other => Err(RecordError::Version(other.map(|(version, _)| *version))),
        }
    }
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

    /// The same of those regions that take part; the home always does.
    #[must_use]
    pub fn voters_of(&self, home: &RegionId, takes_part: impl Fn(&RegionId) -> bool) -> Vec<RegionId> {
        let start = self.regions.iter().position(|region| region == home).unwrap_or(0);
        let ring = self.regions.iter().cycle().skip(start).take(self.regions.len());
        let fitting = ring.filter(|region| *region == home || takes_part(region));
        fitting.take(Self::VOTERS).cloned().collect()
    }

    /// The placement of a slot's own placement log.
    #[must_use]
    pub fn placement_log(&self, slot: Slot) -> Placement {
        let steward = self.steward(slot);
        let first = Placement::first(LogId::placement(slot), steward.clone(), self.voters(steward), Level::Majority);
        Placement { epoch: Epoch(self.version), ..first }
    }

    /// The placement that a new log gets when `home` asks first.
    #[must_use]
    pub fn first_placement(&self, log: LogId, home: &RegionId, durability: Level) -> Placement {
        Placement::first(log, home.clone(), self.voters(home), durability)
    }
}
