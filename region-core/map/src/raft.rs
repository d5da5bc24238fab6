//! What openraft is told about our types. Its version is pinned: this file and `store.rs` hold what its formats are.

use std::io::Cursor;

use hearth_protocol::RegionId;
use region_model::region_map::{MapAnswer, MapCommand};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

openraft::declare_raft_types!(
    /// Our types.
    pub(crate) TypeConfig:
        D = MapCommand,
        R = Option<MapAnswer>,
        NodeId = u64,
        Node = Member,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
);

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Membership = openraft::StoredMembership<u64, Member>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, Member>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type Metrics = openraft::RaftMetrics<u64, Member>;

/// Who takes part in the consensus: a region on one incarnation of its store, in one generation of the map. A store
/// that is new or restored has forgotten what it voted, so it is another member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// The region's name; empty only in the default value, which openraft asks for and never sends.
    pub(crate) region: String,
    /// Its store.
    pub(crate) store: Uuid,
    /// The incarnation that the map gave the store.
    pub(crate) incarnation: u64,
    /// The generation of the map.
    pub(crate) generation: u64,
}

impl Member {
    pub(crate) fn new(region: &RegionId, store: Uuid, incarnation: u64, generation: u64) -> Self {
        Self { region: region.as_str().to_owned(), store, incarnation, generation }
    }

    /// Its number in the consensus: FNV-1a (64 bits, the published offset and prime) over all that names it. The
    /// members are few dozens, so two never meet.
    pub(crate) fn id(&self) -> u64 {
        let parts: [&[u8]; 5] = [
            self.region.as_bytes(),
            &[0],
            self.store.as_bytes(),
            &self.incarnation.to_be_bytes(),
            &self.generation.to_be_bytes(),
        ];
        parts
            .into_iter()
            .flatten()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
    }

    pub(crate) fn region_id(&self) -> Option<RegionId> {
        RegionId::new(&self.region).ok()
    }
}
