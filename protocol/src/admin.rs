//! What administrators and a node say to each other over the administration port: JSON, a list in lines where it takes
//! time. Never a text of a message.

use serde::{Deserialize, Serialize};

use crate::ids::{ConversationId, DeviceId, MessageId, RegionId, Timestamp, UserId};

/// `GET`: [`Status`].
pub const STATUS: &str = "/admin/v1/status";
/// `GET`, a conversation's id follows: [`HomeRow`].
pub const HOMES: &str = "/admin/v1/homes";
/// `GET ?after=NUMBER&limit=N`: [`ParkedPage`].
pub const PARKED: &str = "/admin/v1/parked";
/// `GET`: [`Losses`].
pub const LOSSES: &str = "/admin/v1/losses";
/// `GET ?message=ID&for=USER`, with `number=N` instead of `message`, and `conversation=ID`, which a number needs:
/// [`crate::client::ExplanationPayload`].
pub const WHY: &str = "/admin/v1/why";
/// `GET ?limit=N`: [`AuditPage`].
pub const AUDIT: &str = "/admin/v1/audit";
/// `POST`: lines of [`Line`], the last one [`Line::Verified`] or [`Line::Refused`].
pub const VERIFY: &str = "/admin/v1/verify";
/// `POST` [`ChangeRequest`]: lines of [`Line`], the last one [`Line::Done`] or [`Line::Refused`].
pub const CHANGES: &str = "/admin/v1/changes";

/// What one node knows of the mesh and of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Who answers.
    pub node: NodeStatus,
    /// Version of the region map here; 0 until it is founded.
    pub map_version: u64,
    /// The region that leads the map, if one is known.
    pub map_leader: Option<RegionId>,
    /// The regions, in the map's order; those that were removed are left out.
    pub regions: Vec<RegionRow>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its region.
    pub region: RegionId,
    /// Its name.
    pub node: String,
    /// Why it takes no sessions; none while it does.
    pub not_ready: Option<String>,
    /// Sessions of clients.
    pub sessions: usize,
    /// Logs that it holds, and how many of them have their home here.
    pub logs: u64,
    /// See `logs`.
    pub homes: u64,
    /// Parked sends, refusals that wait for their device included.
    pub parked: u64,
    /// Loss statements that it knows.
    pub losses: u64,
    /// Milliseconds left of its lease.
    pub lease_milliseconds: u64,
}

/// A region as the map has it, and as the node that answers reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegionRow {
    /// Which.
    pub region: RegionId,
    /// `following`, `active`, `draining` or `fenced`.
    pub state: String,
    /// Whether it votes on the map.
    pub map_voter: bool,
    /// Slots whose steward it is.
    pub slots: usize,
    /// Incarnation of its store; none until it came with one.
    pub incarnation: Option<u64>,
    /// The version of its last fence; 0 for none.
    pub fence: u64,
    /// Whether the node that answers has a link to it; none for its own region.
    pub link_up: Option<bool>,
    /// Milliseconds of a round trip on it.
    pub round_trip_milliseconds: Option<u64>,
}

/// Where a conversation lives, as one region knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HomeRow {
    /// Which.
    pub conversation: ConversationId,
    /// Who answers.
    pub region: RegionId,
    /// The region that sequences it.
    pub home: RegionId,
    /// The epoch of that home.
    pub epoch: u64,
    /// The regions that count for durability.
    pub voters: Vec<RegionId>,
    /// The level that it was created with.
    pub durability: String,
    /// What sends do while the home is out of reach.
    pub partition_mode: String,
    /// Regions that may hold it; none allows all.
    pub allowed_regions: Option<Vec<RegionId>>,
    /// What the region holds of it; none when it holds nothing.
    pub copy: Option<CopyRow>,
}

/// A copy of a log at one region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyRow {
    /// Entries on disk, the header included.
    pub length: u64,
    /// Entries that may be shown.
    pub mark: u64,
    /// The newest epoch that it accepted.
    pub accepted: u64,
    /// The newest epoch that it promised.
    pub sealed: u64,
    /// Where epochs opened: epoch and first sequence.
    pub openings: Vec<(u64, u64)>,
    /// Ranges `[from, to)` that it still pulls.
    pub open_ranges: Vec<(u64, u64)>,
}

/// Parked sends by number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParkedPage {
    /// Who answers.
    pub region: RegionId,
    /// The sends, without their texts.
    pub parked: Vec<ParkedRow>,
    /// The `after` of the next page, if there may be one.
    pub next: Option<u64>,
}

/// One parked send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParkedRow {
    /// Order within the region.
    pub number: u64,
    /// The conversation.
    pub conversation: ConversationId,
    /// Its home, as this region knows it.
    pub home: Option<RegionId>,
    /// Who sent it.
    pub sender: UserId,
    /// From which device.
    pub device: DeviceId,
    /// Its id.
    pub message: MessageId,
    /// When it was parked.
    pub parked_at: Timestamp,
    /// Set once it will not be sequenced: the code that waits for its device.
    pub refused: Option<String>,
}

/// Loss statements that a region knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Losses {
    /// Who answers.
    pub region: RegionId,
    /// The statements, by conversation.
    pub losses: Vec<LossRow>,
    /// Whether there are more than fit an answer.
    pub more: bool,
}

/// One loss statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LossRow {
    /// The conversation, or the id of a user's record.
    pub log: String,
    /// Its home.
    pub home: Option<RegionId>,
    /// The epoch that opened with the statement.
    pub epoch: u64,
    /// The first sequence of that epoch.
    pub first: u64,
    /// What may be missing; none where the placement log of its slot is not held by who answers.
    pub statement: Option<LossStatementRow>,
    /// Whether the region that answers accepted the epoch: what it had of an older line is apart by then.
    pub accepted: bool,
    /// Entries of the tail of the region that answers that the statement names.
    pub tail: u64,
    /// Of those, how many are in the line again.
    pub back: u64,
    /// Whether the present home took or refused all of that tail.
    pub settled: bool,
}

/// What a loss statement says: every position from (`epoch`, `from`) on that was acked with fewer than `coveredCopies`
/// copies may be missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LossStatementRow {
    /// The home that was replaced: what is missing is on its disk.
    pub lost_home: RegionId,
    /// The epoch that the winner had accepted.
    pub epoch: u64,
    /// The first sequence of that epoch that may be missing.
    pub from: u64,
    /// Acks with at least so many copies are all in the line.
    pub covered_copies: u32,
    /// When the statement was made.
    pub made_at: Timestamp,
}

/// The audit log of a node, newest last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditPage {
    /// Who answers.
    pub region: RegionId,
    /// The lines.
    pub audit: Vec<AuditLine>,
}

/// One line of an audit log. A change has a line when it begins and one when it ends; one that has no end was cut off by
/// the end of its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditLine {
    /// When.
    pub at: Timestamp,
    /// The change: the same in both of its lines.
    pub id: String,
    /// The name in the certificate of who asked.
    pub who: String,
    /// `began`, `done`, `refused` or `failed`.
    pub state: String,
    /// What was asked.
    pub change: Change,
    /// What came of it; empty when it begins.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub result: String,
}

/// What is to be changed. Each is safe to ask for twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "do")]
pub enum Change {
    /// Ends a region's right to its homes, and gives its slots to others.
    Failover {
        /// Which.
        region: RegionId,
        /// In a mesh of two regions: on the operator's word that the other one is down.
        #[serde(default)]
        force: bool,
        /// On the operator's word: homes are opened with the voters that live, and what those lack is stated as lost
        /// until the others are back. With `force` also where a majority of the map's voters is down.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        accept_loss: bool,
    },
    /// Gives a region that is back what it had.
    Failback {
        /// Which.
        region: RegionId,
    },
    /// Empties a region: slots, homes, sessions.
    Drain {
        /// Which: the region of the node that is asked.
        region: RegionId,
        /// Milliseconds over which its sessions are spread.
        over_milliseconds: u64,
        /// Homes a second.
        rate: u32,
    },
    /// Ends a drain, whether it is over or not.
    Undrain {
        /// Which: the region of the node that is asked.
        region: RegionId,
    },
    /// Adds a region to the map; asked again once it runs, lets it take part.
    AddRegion {
        /// Which.
        region: RegionId,
    },
    /// Takes a region out of the map.
    RemoveRegion {
        /// Which.
        region: RegionId,
    },
    /// Takes the votes of a region away, for every log whose home is at the node that is asked: others of its copies count
    /// from then on.
    LeaveVotes {
        /// Whose votes.
        region: RegionId,
        /// Logs a second.
        rate: u32,
    },
    /// Lets a region vote for every log whose home is at the node that is asked and that has fewer voters than usual.
    GiveVotes {
        /// Who votes.
        region: RegionId,
        /// Logs a second.
        rate: u32,
    },
    /// Moves the home of one conversation.
    MoveHome {
        /// Which.
        conversation: ConversationId,
        /// Where to.
        to: RegionId,
    },
    /// Moves the homes of a region.
    MoveHomes {
        /// Whose: the region of the node that is asked.
        home: RegionId,
        /// Where to.
        to: RegionId,
        /// Homes a second.
        rate: u32,
    },
    /// Erases what a user wrote so far, everywhere.
    EraseUser {
        /// Whom.
        user: UserId,
    },
    /// Copies a region's data while it serves.
    Backup {
        /// Which: the region of the node that is asked.
        region: RegionId,
        /// A folder on the node's machine, from `/` on: empty, or not there.
        to: String,
    },
}

impl Change {
    /// The region whose node has to be asked; none when any will do.
    #[must_use]
    pub fn asked_at(&self) -> Option<&RegionId> {
        match self {
            Self::Drain { region, .. }
            | Self::Undrain { region }
            | Self::MoveHomes { home: region, .. }
            | Self::Backup { region, .. } => Some(region),
            Self::Failover { .. }
            | Self::Failback { .. }
            | Self::AddRegion { .. }
            | Self::RemoveRegion { .. }
            | Self::LeaveVotes { .. }
            | Self::GiveVotes { .. }
            | Self::MoveHome { .. }
            | Self::EraseUser { .. } => None,
        }
    }
}

/// A change, and whether it is only to be thought through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeRequest {
    /// What.
    pub change: Change,
    /// Says what would be done, and does nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// One line of an answer that takes time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "line")]
pub enum Line {
    /// With `dryRun`: something that would be done.
    Plan {
        /// What.
        text: String,
    },
    /// How far it is.
    Progress {
        /// The step: `lease`, `fence`, `slots`, `homes`, `sessions`, `voters`, `logs`,
        /// `conversations`, `store`, `media`.
        step: String,
        /// How much of it is done.
        done: u64,
        /// Of how much; none when that is not known.
        total: Option<u64>,
        /// For people.
        text: String,
    },
    /// A fault in a log.
    Fault(FaultRow),
    /// The last line of a change that was made, or, with `dryRun`, could be.
    Done {
        /// Whether anything changed.
        changed: bool,
        /// What holds now.
        text: String,
        /// Numbers of it.
        counts: Vec<(String, u64)>,
    },
    /// The last line of a walk through the logs.
    Verified {
        /// Who answers.
        region: RegionId,
        /// Logs walked.
        logs: u64,
        /// Entries whose hash was compared.
        entries: u64,
        /// Faults told.
        faults: u64,
    },
    /// The last line of what was not done.
    Refused {
        /// Why.
        message: String,
        /// What to type instead.
        hint: String,
        /// The region whose node has to be asked instead.
        at: Option<RegionId>,
        /// Whether something went wrong, instead of not being allowed: what was done before stands.
        failed: bool,
    },
}

/// What is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultRow {
    /// The log: its kind and its id.
    pub log: String,
    /// The entry.
    pub sequence: u64,
    /// What is wrong with it.
    pub fault: String,
    /// What to do.
    pub hint: String,
}
