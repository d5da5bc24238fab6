//! What regions say to each other about the map: a version byte, then postcard. Variants are only ever added at the
//! end; entries, votes and snapshots inside are openraft's, whose version is pinned.

use hearth_protocol::RegionId;
use hearth_protocol::record::Record;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use region_model::region_map::{MapAnswer, MapCommand};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::raft::{LogId, TypeConfig};

/// A question.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Entries, or a leader's pulse.
    Append {
        /// The member that is meant.
        to: u64,
        /// openraft's part.
        request: AppendEntriesRequest<TypeConfig>,
    },
    /// Asks for a vote.
    Vote {
        /// The member that is meant.
        to: u64,
        /// openraft's part.
        request: VoteRequest<u64>,
    },
    /// A piece of a snapshot.
    Snapshot {
        /// The member that is meant.
        to: u64,
        /// openraft's part.
        request: InstallSnapshotRequest<TypeConfig>,
    },
    /// A command for the leader.
    Propose {
        /// The command.
        command: MapCommand,
        /// Whether a region that does not lead hands it on to the leader; never twice.
        relay: bool,
    },
    /// How the receiver takes part.
    Status,
    /// A voter says to the leader which regions do not answer it.
    Report {
        /// Each with the time of its silence in milliseconds, by the voter's clock; the leader keeps
        /// `MAXIMUM_REGIONS` of them.
        silent: Vec<(RegionId, u64)>,
    },
    /// The map as the receiver shows it.
    Map,
    /// Whether the receiver hears no leader and would vote for a member whose log ends like this: asked before a vote is.
    WouldVote {
        /// Its last entry.
        last: Option<LogId>,
    },
}

/// How a region takes part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Its store.
    pub(crate) store: Uuid,
    /// Whether it has neither log nor vote.
    pub(crate) pristine: bool,
    /// The generation of its map.
    pub(crate) generation: u64,
    /// The version of its map.
    pub(crate) version: u64,
    /// Whether it leads, or heard a leader just now.
    pub(crate) hears_leader: bool,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    /// To `Append`.
    Append(AppendEntriesResponse<u64>),
    /// To `Vote`.
    Vote(VoteResponse<u64>),
    /// To `Snapshot`; `None` when the pieces do not fit together and are to be sent from the start.
    Snapshot(Option<InstallSnapshotResponse<u64>>),
    /// To `Propose`.
    Answer(MapAnswer),
    /// To `Propose`: not here, and nothing was proposed.
    NotLeader,
    /// To `Status`.
    Status(Status),
    /// The member that is meant is not here, or it has stopped.
    Elsewhere,
    /// To `Report`.
    Noted,
    /// To `Map`: as `MapState` encodes itself.
    Map(Vec<u8>),
    /// To `WouldVote`.
    WouldVote(bool),
}

impl Record for Request {}
impl Record for Response {}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn our_own_requests_and_answers_keep_their_bytes_and_read_back() {
        let eu = || RegionId::new("eu").expect("a name");
        let store = Uuid::from_u128(7);
        let status = Status { store, pristine: false, generation: 1, version: 300, hears_leader: true };
        let requests = [
            (
                Request::Propose { command: MapCommand::Fence { region: eu(), term: 9 }, relay: true },
                "0103030265750901".to_owned(),
            ),
            (Request::Status, "0104".to_owned()),
            (Request::Report { silent: vec![(eu(), 12_000)] }, "010501026575e05d".to_owned()),
            (Request::Map, "0106".to_owned()),
            (Request::WouldVote { last: None }, "010700".to_owned()),
        ];
        for (request, bytes) in requests {
            let encoded = request.encode();
            assert_eq!(hex(&encoded), bytes, "{request:?}");
            assert_eq!(Request::decode(&encoded).expect("reads").encode(), encoded);
        }
        let responses = [
            (Response::NotLeader, "0104".to_owned()),
            (Response::Status(status), format!("010510{}0001ac0201", hex(store.as_bytes()))),
            (Response::Elsewhere, "0106".to_owned()),
            (Response::Noted, "0107".to_owned()),
            (Response::Map(vec![1, 2]), "0108020102".to_owned()),
            (Response::WouldVote(true), "010901".to_owned()),
        ];
        for (response, bytes) in responses {
            let encoded = response.encode();
            assert_eq!(hex(&encoded), bytes, "{response:?}");
            assert_eq!(Response::decode(&encoded).expect("reads").encode(), encoded);
        }
    }
}
