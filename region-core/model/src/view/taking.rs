//! Which content goes with what is kept no longer: what the sweep of a region takes away.

use std::ops::Range;

use hearth_protocol::entry::Forget;
use hearth_protocol::record::{ChangeRecord, MessageChange};
use hearth_protocol::{Change, EntryKind, LogId, LogKind, SealedEntry, Timestamp, UserId};

/// What one change takes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taking {
    /// The entries of the line that it looks at: all of them, and what stands between them and it, have to be here.
    pub line: Range<u64>,
    /// What a tail has of later stays.
    pub until: Timestamp,
    /// Whose; of everybody where it is the floor.
    pub user: Option<UserId>,
    in_record: bool,
}

impl Taking {
    /// Of a change of a log; `None` for one that takes one message away, or nothing.
    #[must_use]
    pub fn of(log: LogId, change: &ChangeRecord) -> Option<Self> {
        let in_record = log.kind == LogKind::User;
        let by = change.position.sequence.0;
        match &change.what {
            MessageChange::Forgotten(Forget::User(user)) => {
                Some(Self { line: 1..by, until: change.time, user: Some(user.clone()), in_record })
            }
            MessageChange::Forgotten(Forget::Below { from, floor, before, .. }) => {
                Some(Self { line: *from..*floor, until: *before, user: None, in_record })
            }
            MessageChange::Edited | MessageChange::Deleted | MessageChange::Reacted { .. } => None,
        }
    }

    /// Whether the content of an entry of the line goes. What changes members, names and settings stays: the log adds up
    /// to it.
    #[must_use]
    pub fn takes(&self, entry: &SealedEntry) -> bool {
        let fixed = &entry.entry.fixed;
        let goes = match (&self.user, fixed.kind) {
            (Some(_), EntryKind::User) => self.in_record && matches!(entry.change(), Some(Change::Profile { .. })),
            (Some(user), EntryKind::Message | EntryKind::Edit) => fixed.sender == *user,
            (None, EntryKind::Message | EntryKind::Edit | EntryKind::Reaction) => true,
            _ => false,
        };
        goes && entry.content().is_some()
    }

    /// Whether the content of an entry of a tail goes.
    #[must_use]
    pub fn takes_of_tail(&self, entry: &SealedEntry) -> bool {
        entry.entry.fixed.time <= self.until && self.takes(entry)
    }
}
