//! What one region knows of a message and of the user whom it is for. Regions tell each other these, as JSON; the text of
//! a message is in none.

use hearth_protocol::{EntryKind, RegionId, SealedEntry, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::book::{HopTimes, Kept};
use crate::core::Standing;

/// The message, as it stands in a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryFacts {
    /// Its id.
    pub id: Uuid,
    /// Whose.
    pub sender: UserId,
    /// Its number.
    pub sequence: u64,
    /// Under which epoch.
    pub epoch: u64,
    /// When it was sequenced.
    pub time: Timestamp,
    /// Whether it had content that is gone.
    pub gone: bool,
}

impl EntryFacts {
    /// Of a stored entry.
    #[must_use]
    pub fn of(sealed: &SealedEntry) -> Self {
        let fixed = &sealed.entry.fixed;
        Self {
            id: fixed.id,
            sender: fixed.sender.clone(),
            sequence: fixed.position.sequence.0,
            epoch: fixed.position.epoch.0,
            time: fixed.time,
            gone: fixed.kind == EntryKind::Message && sealed.content().is_none(),
        }
    }
}

/// The user as a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberFacts {
    /// The lowest number that it may see.
    pub visible_from: u64,
}

/// The conversation, as one region knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFacts {
    /// Its home.
    pub home: RegionId,
    /// Whether this region reaches its home: over a link that is up, or it is the home.
    pub reaches_home: bool,
    /// Whether it holds a copy.
    pub held: bool,
    /// Entries on disk here.
    pub length: u64,
    /// Entries that may be shown here.
    pub marked: u64,
    /// A range `[from, to)` below `length` that is not here.
    pub open: Option<(u64, u64)>,
    /// The lowest number that retention left.
    pub floor: u64,
    /// Whether who asks is a member.
    pub asker_is_member: bool,
    /// Whether the user is one, and since when.
    pub member: Option<MemberFacts>,
}

impl LogFacts {
    /// Whether an entry is on disk here.
    #[must_use]
    pub fn has(&self, sequence: u64) -> bool {
        let open = self.open.is_some_and(|(from, to)| (from..to).contains(&sequence));
        self.held && sequence < self.length && !open
    }
}

/// What a session was sent of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionSent {
    /// It was written to the client.
    Sent,
    /// The client was told to pull it.
    Pulls,
    /// It waits behind a replay, or has not come to the session.
    Waits,
    /// The session was sent nothing of before: the client has to ask.
    Before,
}

/// One session of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionFacts {
    /// Since when it is there.
    pub since: Timestamp,
    /// What it was sent; `None` when it does not say so in time, because it is busy writing.
    pub sent: Option<SessionSent>,
    /// Bytes that wait for it.
    pub waiting_bytes: u64,
}

/// How far a cursor of the user is in the present line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorFacts {
    /// The number.
    pub up_to: u64,
    /// When it passed the message, where that is known.
    pub passed: Option<Timestamp>,
}

/// The user, as one region knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserFacts {
    /// Its sessions here.
    pub sessions: Vec<SessionFacts>,
    /// Where it has been connected lately, where its record is held here.
    pub resident: Option<Vec<RegionId>>,
    /// Whether it blocks the sender in a direct conversation of both, where that is known here.
    pub blocks_sender: Option<bool>,
    /// When it was online last, where that is known here and it does not hide it.
    pub last_seen: Option<Timestamp>,
    /// What its clients have.
    pub delivered: CursorFacts,
    /// What it has read.
    pub read: CursorFacts,
}

/// All that one region knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionPart {
    /// Which.
    pub region: RegionId,
    /// From when on it knows hops.
    pub kept: Kept,
    /// When the message passed through it.
    pub hops: Option<HopTimes>,
    /// The message, where it is on disk here.
    pub entry: Option<EntryFacts>,
    /// The conversation; `None` where the region knows of none.
    pub log: Option<LogFacts>,
    /// What stands in its core.
    pub standing: Standing,
    /// The user.
    pub user: UserFacts,
}
