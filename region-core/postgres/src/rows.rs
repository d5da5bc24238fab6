//! What the database holds of one log, as values: no server is needed to make them or to compare them.

use hearth_protocol::{ConversationId, Hash, LogId, RegionId, Timestamp, UserId};
use region_model::ports::LogSummary;
use uuid::Uuid;

/// How far a log was projected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stand {
    /// Entries, from the header on.
    pub length: u64,
    /// The epoch of the last of them.
    pub epoch: u64,
    /// The hash of the last of them: another line has another one.
    pub hash: Hash,
    /// The epoch of the log's last opening: what a cursor counts for is of a line.
    pub line: u64,
    /// The region-wide number of the log's last change.
    pub change: u64,
    /// Every cursor that was put by this change or an earlier one is projected.
    pub cursors: u64,
}

impl Stand {
    /// Whether a log is projected as far as a region may show it, as far as its summary tells.
    #[must_use]
    pub fn is_current(&self, summary: &LogSummary) -> bool {
        self.change == summary.change && self.length >= shown(summary)
    }
}

/// Entries of a log that the region may show: above an open range everything was shown at its home.
#[must_use]
pub(crate) fn shown(summary: &LogSummary) -> u64 {
    let open_end = summary.record.open_ranges.last().map_or(0, |(_, to)| *to);
    summary.mark.max(open_end).min(summary.length)
}

/// A conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationRow {
    /// Its id.
    pub id: ConversationId,
    /// `direct`, `group` or `channel`.
    pub kind: &'static str,
    /// The name, of groups and channels.
    pub name: Option<String>,
    /// Who created it; `None` where the header was not read.
    pub created_by: Option<UserId>,
    /// When it was created.
    pub created_at: Timestamp,
    /// The time of its last entry.
    pub updated_at: Timestamp,
    /// The time of its last message; `None` where no message was read.
    pub last_message_at: Option<Timestamp>,
    /// The number of its last entry.
    pub last_sequence: u64,
    /// Entries of kind `message`.
    pub messages: u64,
    /// Members.
    pub member_count: u64,
    /// Settings as JSON, in the form of the REST surface.
    pub settings: String,
    /// The level that messages ask for when they name none.
    pub durability: &'static str,
    /// What edges do while the home is out of reach, once it was changed.
    pub partition_mode: Option<&'static str>,
    /// The lowest number that is shown.
    pub floor: u64,
    /// The region that numbers it.
    pub home: RegionId,
    /// The number of its last change.
    pub change: u64,
}

/// A member of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRow {
    /// Who.
    pub user: UserId,
    /// `admin` or `member`.
    pub role: &'static str,
    /// The sequence of the entry that made it a member; 0 for the first members.
    pub since: u64,
    /// When that was; `None` where that entry was not read.
    pub joined_at: Option<Timestamp>,
}

/// How far a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorRow {
    /// Who.
    pub user: UserId,
    /// The last number that its devices have, and when that was; 0 for nowhere.
    pub delivered: (u64, Option<Timestamp>),
    /// The last number that it has read, and when that was; 0 for nowhere.
    pub read: (u64, Option<Timestamp>),
    /// The number of the change that put it.
    pub change: u64,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRow {
    /// Its id.
    pub id: UserId,
    /// For people.
    pub display_name: Option<String>,
    /// A URL.
    pub avatar_url: Option<String>,
    /// When the first region needed the record.
    pub created_at: Timestamp,
    /// The time of the record's last entry.
    pub updated_at: Timestamp,
    /// The last recorded connect of any device.
    pub last_active_at: Option<Timestamp>,
    /// Whether nobody is told when it was there last.
    pub hides_last_seen: bool,
    /// Whether the profile was erased, and nothing was written there since.
    pub erased: bool,
    /// Where devices were connected, and when last.
    pub regions: Vec<(RegionId, Timestamp)>,
    /// What it wants to be woken for, where that is not the default: `all`, `mentions` or `none`, and until when nothing.
    pub preferences: Vec<(ConversationId, &'static str, Option<Timestamp>)>,
    /// Devices that are to be woken.
    pub subscriptions: Vec<SubscriptionRow>,
}

/// A device that is to be woken. What lets somebody send there stays in the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionRow {
    /// Its id.
    pub id: Uuid,
    /// The device.
    pub device: Uuid,
    /// `web_push`, `apns` or `fcm`.
    pub service: &'static str,
    /// When the device last said that it holds.
    pub registered_at: Timestamp,
}

/// A conversation as a user's record says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipRow {
    /// The conversation.
    pub conversation: ConversationId,
    /// In or out.
    pub joined: bool,
    /// Where in the conversation: epoch and sequence.
    pub position: (u64, u64),
}

/// What a log adds up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Nothing but cursors changed.
    Nothing,
    /// A conversation: those of its members that are to be written, and those that are to go.
    Conversation(Box<ConversationRow>, Vec<MemberRow>, Vec<UserId>),
    /// A user, and those of its memberships that are to be written.
    User(Box<UserRow>, Vec<MembershipRow>),
}

/// What is to be written of one log, all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRows {
    /// The log.
    pub log: LogId,
    /// What the database says of it before. If it says anything else by then, somebody else was here, and nothing is
    /// written.
    pub before: Option<Stand>,
    /// What it says after.
    pub after: Stand,
    /// Whether everything of it goes first: it is projected from its first entry on.
    pub anew: bool,
    /// Its rows.
    pub what: What,
    /// Cursors that are to be written.
    pub cursors: Vec<CursorRow>,
}

impl LogRows {
    /// Whether there is nothing to write: the log stands where it stood, and no cursor moved.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        let stands = self.what == What::Nothing || (!self.anew && self.before.as_ref() == Some(&self.after));
        stands && self.cursors.is_empty()
    }

    /// How many rows that is, about.
    #[must_use]
    pub fn count(&self) -> usize {
        let of_it = match &self.what {
            What::Nothing => 0,
            What::Conversation(_, members, gone) => 1 + members.len() + gone.len(),
            What::User(user, memberships) => {
                1 + user.regions.len() + user.preferences.len() + user.subscriptions.len() + memberships.len()
            }
        };
        1 + of_it + self.cursors.len()
    }
}
