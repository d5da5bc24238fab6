//! What one region knows of a message and of the user whom it is for. Regions tell each other these, as JSON; the text of
//! a message is in none.

use hearth_protocol::client::MessageName;
use hearth_protocol::ids::direct_conversation;
use hearth_protocol::record::Reached;
use hearth_protocol::{ConversationId, EntryKind, MessageId, RegionId, SealedEntry, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::book::{HopBook, HopTimes, Kept};
use crate::core::Standing;
use crate::effect::LogView;
use crate::line::Line;
use crate::mutants::Mutant;
use crate::receipts::Cursor;
use crate::view::{PrivacyState, View};

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

    /// Of what regions found under one id: the message on the newest line.
    #[must_use]
    pub fn newest(found: impl IntoIterator<Item = Self>) -> Option<Self> {
        found.into_iter().max_by_key(|entry| entry.epoch)
    }

    /// Whether what a region has at this place is this message: where it has another line, it is another one.
    #[must_use]
    pub fn is_there(&self, held: &Self) -> bool {
        self.id == held.id
    }

    /// Whether a user blocks its sender in a direct conversation of both, and did when it was sent.
    #[must_use]
    pub fn is_blocked(&self, conversation: ConversationId, user: &UserId, privacy: &PrivacyState) -> bool {
        let direct = direct_conversation(user, &self.sender) == conversation;
        direct && privacy.blocks.get(&self.sender).is_some_and(|since| self.time >= *since)
    }
}

/// What a region looks a message up by in its core.
#[derive(Clone, Debug)]
pub struct Sought {
    /// As it is named: by its id, where that is known.
    pub name: MessageName,
    /// Its number, where that is known.
    pub sequence: Option<u64>,
    /// Whose it is, where that is known.
    pub sender: Option<UserId>,
}

impl Sought {
    /// A message as it is named in a question, and as some region has it.
    #[must_use]
    pub fn new(name: MessageName, entry: Option<&EntryFacts>) -> Self {
        let name = entry.map_or(name, |entry| MessageName::Id(MessageId(entry.id)));
        let number = match name {
            MessageName::Number(number) => Some(number),
            MessageName::Id(_) => None,
        };
        let sequence = entry.map(|entry| entry.sequence).or(number);
        Self { name, sequence, sender: entry.map(|entry| entry.sender.clone()) }
    }

    /// When it passed a region, by the book of that.
    #[must_use]
    pub fn hops(&self, book: &HopBook, conversation: ConversationId, now: u64) -> Option<HopTimes> {
        let id = match self.name {
            MessageName::Id(id) => Some(id.0),
            MessageName::Number(_) => None,
        };
        book.find(conversation, (id, self.sender.as_ref(), self.sequence), now)
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
    /// From what a region knows of the log; `None` where it knows no home.
    #[must_use]
    pub fn of(view: &LogView, asker: &UserId, user: &UserId) -> Option<Self> {
        let home = &view.placement.as_ref()?.home;
        let state = match &view.view {
            View::Conversation(state) => Some(state),
            View::Empty | View::User(_) | View::Placements(_) => None,
        };
        let member = state.and_then(|state| Some((state, state.members.get(user)?)));
        Some(Self {
            home: home.clone(),
            reaches_home: !view.home_out_of_reach,
            held: view.held,
            length: view.length,
            marked: view.marked,
            open: view.open,
            floor: view.floor,
            asker_is_member: state.is_some_and(|state| state.members.contains_key(asker)),
            member: member.map(|(state, member)| MemberFacts { visible_from: state.visible_from(member) }),
        })
    }

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

impl CursorFacts {
    /// Of what a user reached, in a line. `passed` says when the cursor passed a number, where that is known.
    #[must_use]
    pub fn of(
        reached: &[Reached],
        line: &Line,
        sequence: Option<u64>,
        passed: impl FnOnce(u64) -> Option<Timestamp>,
    ) -> Self {
        let in_line = Cursor::of(reached.iter().copied()).reached(line).map_or(0, |reached| reached.up_to);
        let said = reached.iter().map(|reached| reached.up_to).max().unwrap_or(0);
        let up_to = if Mutant::DeliveredOnAnyLine.is_on() { said } else { in_line };
        Self { up_to, passed: sequence.filter(|sequence| *sequence <= up_to).and_then(passed) }
    }
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
