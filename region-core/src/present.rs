//! What history and sync show of messages that were edited, deleted or reacted to: the fold of what was done to them up
//! to the mark, whichever page is read.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use hearth_protocol::record::{ChangeRecord, MessageChange};
use hearth_protocol::rest::{EditsResponse, Row, Version};
use hearth_protocol::{
    Change, ConversationId, EntryKind, ErrorCode, LogId, MessageId, Position, Refusal, SealedEntry, Timestamp, UserId,
    limits,
};
use region_model::LogView;
use region_model::view::{Forgotten, Present, is_expired};
use serde_json::value::RawValue;

use crate::privacy::is_withheld;
use crate::reads::{Seen, seen};
use crate::region::Region;
use crate::rows;
use crate::runtime::wall;

/// Who reads, and the exclusive end of what it sees.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) user: &'a UserId,
    pub(crate) below: u64,
    pub(crate) forgotten: &'a Forgotten,
    /// Set where it blocks the other one of a direct conversation: since when.
    pub(crate) blocks_since: Option<Timestamp>,
}

impl<'a> Reader<'a> {
    pub(crate) fn of(user: &'a UserId, seen: &Seen<'a>, blocks_since: Option<Timestamp>) -> Self {
        Self { user, below: seen.to, forgotten: &seen.state.forgotten, blocks_since }
    }
}

/// The number of the message that an entry changes.
fn target_of(entry: &SealedEntry) -> Option<u64> {
    match entry.change().filter(|_| entry.entry.fixed.kind == EntryKind::Edit)? {
        Change::Edit { target, .. } => Some(target),
        _ => None,
    }
}

impl Region {
    /// The rows of a run of entries, as a reader sees them now.
    pub(crate) async fn present_rows(
        &self,
        conversation: ConversationId,
        entries: &[Arc<SealedEntry>],
        reader: Reader<'_>,
    ) -> Result<Vec<Row>, Refusal> {
        let present = self.present_of(LogId::conversation(conversation), entries, reader.below).await?;
        let (mut shown, now) = (Vec::with_capacity(entries.len()), wall());
        for entry in entries {
            let Some(mut row) = rows::row(conversation, entry, now) else { continue };
            let number = target_of(entry).unwrap_or(row.sequence_number);
            let of_before = target_of(entry).is_some_and(|target| target < reader.forgotten.floor());
            if is_withheld(entry, reader.user, reader.blocks_since) {
                (row.content, row.change, row.expired, row.blocked) = (None, None, None, Some(true));
            } else if of_before || reader.forgotten.hides(entry) {
                let is_message = entry.entry.fixed.kind == EntryKind::Message;
                (row.content, row.expired, row.deleted) = (None, None, is_message.then_some(true));
            } else if let Some(present) = present.get(&number) {
                self.show(&mut row, entry, present, reader).await?;
            }
            shown.push(row);
        }
        Ok(shown)
    }

    /// What was done to the messages of a run of entries, and to those that edits among them change.
    async fn present_of(
        &self,
        log: LogId,
        entries: &[Arc<SealedEntry>],
        below: u64,
    ) -> Result<BTreeMap<u64, Present>, Refusal> {
        let mut present: BTreeMap<u64, Present> = BTreeMap::new();
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(present) };
        let (first, end) = (first.sequence().0, last.sequence().0 + 1);
        for change in self.changes(log, first, end, below).await? {
            present.entry(change.target).or_default().fold(&change);
        }
        for target in entries.iter().filter_map(|entry| target_of(entry)).filter(|target| *target < first) {
            if let Entry::Vacant(missing) = present.entry(target) {
                missing.insert(Present::of(&self.changes(log, target, target + 1, below).await?));
            }
        }
        Ok(present)
    }

    async fn changes(&self, log: LogId, from: u64, to: u64, below: u64) -> Result<Vec<ChangeRecord>, Refusal> {
        self.stores.log.changes(log, from, to, below).await.map_err(|error| self.store_refusal(&error))
    }

    /// Brings the row of a message, or of an edit of it, to what was done to the message.
    async fn show(
        &self,
        row: &mut Row,
        entry: &SealedEntry,
        present: &Present,
        reader: Reader<'_>,
    ) -> Result<(), Refusal> {
        let edit = present.edit().filter(|_| !present.is_deleted());
        match entry.entry.fixed.kind {
            EntryKind::Edit if edit.is_none_or(|(_, at)| at != entry.entry.fixed.position) => row.content = None,
            EntryKind::Message => {
                if present.is_deleted() {
                    (row.content, row.deleted, row.expired) = (None, Some(true), None);
                }
                if row.deleted.or(row.expired).is_some() {
                    return Ok(());
                }
                if let Some((time, at)) = edit {
                    row.edited_at = Some(time);
                    row.content = self.edited(row.conversation_id, at).await?;
                }
                row.reactions = Some(present.reactions(reader.user)).filter(|reactions| !reactions.is_empty());
            }
            _ => {}
        }
        Ok(())
    }

    /// The content of the edit at a position.
    async fn edited(&self, conversation: ConversationId, at: Position) -> Result<Option<Box<RawValue>>, Refusal> {
        let number = at.sequence.0;
        let read = self.stores.log.read(LogId::conversation(conversation), number, number + 1, 1, usize::MAX).await;
        let entry = read.map_err(|error| self.store_refusal(&error))?.pop();
        Ok(entry.filter(|entry| entry.entry.fixed.position == at).and_then(|entry| rows::content(&entry)))
    }

    /// The versions of a message, for its author and admins.
    pub(crate) async fn edits(
        &self,
        conversation: ConversationId,
        view: &LogView,
        user: &UserId,
        number: u64,
    ) -> Result<EditsResponse, Refusal> {
        let seen = seen(view, user)?;
        let log = LogId::conversation(conversation);
        let missing = || Refusal::new(ErrorCode::NotFound, "no such message");
        if number < seen.from || number >= seen.to {
            return Err(missing());
        }
        let read = self.stores.log.read(log, number, number + 1, 1, usize::MAX).await;
        let entry = read.map_err(|error| self.store_refusal(&error))?.pop();
        let entry = entry.filter(|entry| entry.entry.fixed.kind == EntryKind::Message).ok_or_else(missing)?;
        let fixed = &entry.entry.fixed;
        if fixed.sender != *user && seen.member.role != hearth_protocol::entry::Role::Admin {
            return Err(Refusal::new(ErrorCode::Forbidden, "only its author and admins see what a message was"));
        }
        let withheld = is_withheld(&entry, user, self.blocked_since(user, seen.state).await);
        let changes = self.changes(log, number, number + 1, seen.to).await?;
        let deleted = Present::of(&changes).is_deleted() || seen.state.forgotten.hides(&entry);
        let expired = !deleted && is_expired(&entry, wall());
        let edits = changes.iter().filter(|change| change.what == MessageChange::Edited);
        let sent = (fixed.position, fixed.original_time.unwrap_or(fixed.time));
        let all: Vec<_> = std::iter::once(sent).chain(edits.map(|change| (change.position, change.time))).collect();
        let mut versions = Vec::new();
        for (at, timestamp) in all.iter().skip(all.len().saturating_sub(limits::EDITS_SHOWN)) {
            let content = match *at {
                _ if deleted || expired || withheld => None,
                at if at == fixed.position => rows::content(&entry),
                at => self.edited(conversation, at).await?,
            };
            versions.push(Version { sequence_number: at.sequence.0, timestamp: *timestamp, content });
        }
        Ok(EditsResponse {
            conversation_id: conversation,
            message_id: MessageId(fixed.id),
            sequence_number: number,
            deleted: deleted.then_some(true),
            expired: expired.then_some(true),
            versions,
        })
    }
}
