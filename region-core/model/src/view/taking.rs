//! Which content goes with what is kept no longer: what the sweep of a region takes away.

use std::ops::Range;

use hearth_protocol::entry::Forget;
use hearth_protocol::record::{ChangeRecord, MessageChange};
use hearth_protocol::{Change, EntryKind, LogId, LogKind, Position, SealedEntry, Timestamp, UserId};
use uuid::Uuid;

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

    /// The number of the message whose content a delete takes away; `None` for other changes.
    #[must_use]
    pub fn deleted(change: &ChangeRecord) -> Option<u64> {
        (change.what == MessageChange::Deleted).then_some(change.target)
    }

    /// Entries of the line whose content goes with a delete: the message, and its edits below the delete. Those above it
    /// came back with a tail, without their content.
    pub fn with_delete<'a>(
        delete: &'a ChangeRecord,
        message: Position,
        changes: impl IntoIterator<Item = &'a ChangeRecord>,
    ) -> impl Iterator<Item = Position> {
        let by = delete.position.sequence;
        let edits = changes.into_iter().filter(move |change| {
            change.what == MessageChange::Edited && change.target == delete.target && change.position.sequence < by
        });
        std::iter::once(message).chain(edits.map(|edit| edit.position))
    }

    /// Edits below `by` that stand above the messages that a floor takes and are of those: they have nothing to show either.
    pub fn edits_above<'a>(
        &'a self,
        by: u64,
        changes: impl IntoIterator<Item = &'a ChangeRecord>,
    ) -> impl Iterator<Item = Position> {
        let of_it = move |change: &&ChangeRecord| {
            let number = change.position.sequence.0;
            let above = (self.line.end..by).contains(&number) && self.line.contains(&change.target);
            self.user.is_none() && above && change.what == MessageChange::Edited
        };
        changes.into_iter().filter(of_it).map(|edit| edit.position)
    }

    /// Whether an entry of a tail gives content to a message that was deleted: it is the message, or an edit of it.
    #[must_use]
    pub fn gives_content(entry: &SealedEntry, message: Uuid, sender: &UserId) -> bool {
        let fixed = &entry.entry.fixed;
        let is_it = match fixed.kind {
            EntryKind::Message => fixed.id == message,
            EntryKind::Edit => fixed.target == Some(message),
            _ => false,
        };
        is_it && fixed.sender == *sender && entry.content().is_some()
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
