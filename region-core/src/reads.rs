//! Reads of what this region holds, for one user: history, sync, rows of conversations.

use std::sync::Arc;

use futures_util::future::join_all;
use hearth_protocol::placement::PartitionMode;
use hearth_protocol::rest::{
    ConversationRow, HistoryQuery, HistoryResponse, MembersResponse, Participant, Range, Row, SyncCursor, SyncRefusal,
    SyncRequest, SyncResponse, SyncedConversation, UserRow,
};
use hearth_protocol::{ConversationId, ErrorCode, LogId, Refusal, UserId, limits};
use region_model::LogView;
use region_model::ports::StoreError;
pub(crate) use region_model::seen::{Seen, seen};
use region_model::view::View;

use crate::api::unreadable;
use crate::call::ApiCall;
use crate::present::Reader;
use crate::push::muted;
use crate::receipts::can_count;
use crate::region::Region;
use crate::rows;

/// Bytes of one read of the store for clients.
const READ_BYTES: usize = 1024 * 1024;
/// Rows looked through for the last message, newest first.
const LAST_MESSAGE_WITHIN: u64 = 256;
/// Conversations of one sync that are read or asked about at once.
const SYNCED_AT_ONCE: usize = 64;
/// Participants in the single row of a conversation.
const PARTICIPANTS: usize = 100;

/// In partition mode `fail` a region that does not reach the home shows a conversation to nobody. Who is no member is
/// told what non-members are told.
pub(crate) fn check_mode(view: &LogView, user: &UserId) -> Result<(), Refusal> {
    if view.mode != PartitionMode::Fail || !view.home_out_of_reach || (view.held && seen(view, user).is_err()) {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::HomeUnreachable, "its home is out of reach, and it is not shown meanwhile")
        .with_retry_after(5))
}

/// The rows of a page of history, `from <= sequence < to`.
pub(crate) fn history_rows(seen: &Seen<'_>, query: &HistoryQuery) -> (u64, u64) {
    let limit = query.limit.unwrap_or(limits::HISTORY_ROWS_DEFAULT as u64);
    match (query.before, query.after) {
        (None, Some(after)) => {
            let from = after.saturating_add(1).max(seen.from);
            (from, seen.to.min(from.saturating_add(limit)))
        }
        (before, _) => {
            let to = before.unwrap_or(u64::MAX).min(seen.to);
            (to.saturating_sub(limit).max(seen.from), to)
        }
    }
}

/// The rows that the row of a conversation may show the last of.
fn last_rows(seen: &Seen<'_>) -> (u64, u64) {
    (seen.from.max(seen.to.saturating_sub(LAST_MESSAGE_WITHIN)), seen.to)
}

/// Whether what a call reads of a conversation is here. What it refuses, it refuses here.
pub(crate) fn has_rows_of(view: &LogView, user: &UserId, call: &ApiCall, read: u64) -> bool {
    let Ok(seen) = seen(view, user) else { return true };
    let (from, to) = match call {
        // What was done to a message stands anywhere above it.
        ApiCall::History { query, .. } => (history_rows(&seen, query).0, seen.to),
        ApiCall::Edits { sequence, .. } => (*sequence, seen.to),
        ApiCall::Conversation { .. } if can_count(view, read) => last_rows(&seen),
        ApiCall::Conversation { .. } => return false,
        _ => return true,
    };
    view.has_rows(from, to)
}

impl Region {
    pub(crate) fn store_refusal(&self, error: &StoreError) -> Refusal {
        if let StoreError::Unavailable(reason) = error {
            self.fail(reason);
        }
        self.unavailable()
    }

    /// Rows `from <= sequence < to`, at most `limit`, the oldest of them.
    pub(crate) async fn read_rows(
        &self,
        conversation: ConversationId,
        reader: Reader<'_>,
        (from, to): (u64, u64),
        limit: usize,
    ) -> Result<Vec<Row>, Refusal> {
        let log = LogId::conversation(conversation);
        let mut rows: Vec<Row> = Vec::new();
        let mut next = from;
        // A page may end early by its bytes: rows of a history page never leave a hole inside it.
        while rows.len() < limit && next < to {
            let entries = self
                .stores
                .log
                .read(log, next, to, limit - rows.len(), READ_BYTES)
                .await
                .map_err(|error| self.store_refusal(&error))?;
            let Some(last) = entries.last() else { break };
            // What was here when the read began may be dropped meanwhile: a follower began anew.
            if entries.iter().zip(next..).any(|(entry, sequence)| entry.sequence().0 != sequence) {
                return Err(Refusal::new(ErrorCode::HomeUnreachable, "these rows are being pulled").with_retry_after(1));
            }
            next = last.sequence().0 + 1;
            rows.extend(self.present_rows(conversation, &entries, reader).await?);
        }
        Ok(rows)
    }

    /// A page of history.
    pub(crate) async fn history(
        &self,
        conversation: ConversationId,
        view: &LogView,
        user: &UserId,
        query: &HistoryQuery,
    ) -> Result<HistoryResponse, Refusal> {
        let seen = seen(view, user)?;
        let (from, to) = history_rows(&seen, query);
        let reader = Reader::of(user, &seen, self.blocked_since(user, seen.state).await);
        let messages = if from < to {
            self.read_rows(conversation, reader, (from, to), limits::HISTORY_ROWS).await?
        } else {
            Vec::new()
        };
        let forward = query.after.is_some();
        let has_more = if forward { to < seen.to } else { from > seen.from && !messages.is_empty() };
        let next_cursor = if forward { messages.last() } else { messages.first() }.map(|row| row.sequence_number);
        let withheld =
            if seen.from > view.floor { vec![Range { from: view.floor, to: seen.from - 1 }] } else { Vec::new() };
        Ok(HistoryResponse {
            conversation_id: conversation,
            messages,
            has_more,
            next_cursor: if has_more { next_cursor } else { None },
            floor_sequence: view.floor,
            withheld,
        })
    }

    /// Rows after a cursor, the oldest first.
    pub(crate) async fn sync_conversation(
        &self,
        cursor: &SyncCursor,
        view: &LogView,
        user: &UserId,
        limit: usize,
    ) -> Result<SyncedConversation, Refusal> {
        let seen = seen(view, user)?;
        let from = cursor.last_sequence.saturating_add(1).max(seen.from);
        let messages = if from < seen.to {
            let reader = Reader::of(user, &seen, self.blocked_since(user, seen.state).await);
            self.read_rows(cursor.conversation_id, reader, (from, seen.to), limit).await?
        } else {
            Vec::new()
        };
        let covered = messages.last().map_or(from, |row| row.sequence_number + 1);
        Ok(SyncedConversation {
            conversation_id: cursor.conversation_id,
            has_more: covered < seen.to && !messages.is_empty(),
            messages,
        })
    }

    /// The row of a conversation for one user; `whole` adds what only the single row has.
    pub(crate) async fn conversation_row(
        self: &Arc<Self>,
        conversation: ConversationId,
        view: &LogView,
        user: &UserId,
        whole: bool,
    ) -> Result<ConversationRow, Refusal> {
        let seen = seen(view, user)?;
        let Some(placement) = &view.placement else { return Err(Refusal::no_conversation()) };
        let state = seen.state;
        let log = LogId::conversation(conversation);
        let read = self.read_state(log, view, user).await?;
        let reader = Reader::of(user, &seen, self.blocked_since(user, state).await);
        let participants = || {
            let members = state.members.iter().take(PARTICIPANTS);
            members.map(|(user, member)| Participant { user_id: user.clone(), role: member.role }).collect()
        };
        Ok(ConversationRow {
            conversation_id: conversation,
            kind: state.kind,
            name: state.name.clone(),
            role: Some(seen.member.role),
            last_sequence: seen.to - 1,
            read_up_to: read.up_to,
            unread_count: self.unread(log, view, reader, &seen, read.up_to).await?,
            last_message: self.last_message(conversation, reader, &seen).await?,
            muted_until: if whole { muted(&self.view(LogId::user(user), false).await?, conversation) } else { None },
            home: placement.home.clone(),
            epoch: placement.epoch,
            created_at: rows::rfc3339(state.created_at),
            participants: whole.then(participants),
            member_count: whole.then_some(state.members.len() as u64),
            settings: whole.then(|| state.settings.clone()),
            durability: whole.then_some(state.level),
            partition_mode: whole.then_some(view.mode),
            voters: whole.then(|| placement.voters.clone()),
            floor_sequence: whole.then_some(view.floor),
        })
    }

    /// The newest row of kind `message` near the end.
    async fn last_message(
        &self,
        conversation: ConversationId,
        reader: Reader<'_>,
        seen: &Seen<'_>,
    ) -> Result<Option<Row>, Refusal> {
        let (lowest, mut to) = last_rows(seen);
        let mut step = 1;
        while to > lowest {
            let from = to.saturating_sub(step).max(lowest);
            let limit = usize::try_from(to - from).unwrap_or(1);
            let rows = self.read_rows(conversation, reader, (from, to), limit).await?;
            let message = rows.into_iter().rev().find(|row| row.kind == "message");
            if message.is_some() {
                return Ok(message);
            }
            to = from;
            step *= 4;
        }
        Ok(None)
    }

    /// A page of members, by user id.
    pub(crate) fn members_page(
        view: &LogView,
        user: &UserId,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<MembersResponse, Refusal> {
        let seen = seen(view, user)?;
        let after = cursor.map(|text| UserId::new(text).map_err(|_| Refusal::invalid("unknown cursor"))).transpose()?;
        let mut members: Vec<Participant> = seen
            .state
            .members
            .iter()
            .filter(|(user, _)| after.as_ref().is_none_or(|after| *user > after))
            .take(limit + 1)
            .map(|(user, member)| Participant { user_id: user.clone(), role: member.role })
            .collect();
        let has_more = members.len() > limit;
        members.truncate(limit);
        let cursor = members.last().filter(|_| has_more).map(|member| member.user_id.as_str().to_owned());
        Ok(MembersResponse { members, cursor, has_more })
    }

    /// A user's profile, from a record held here; what it withholds is told to itself alone.
    pub(crate) fn user_row(view: &LogView, reader: &UserId) -> Result<UserRow, Refusal> {
        let View::User(state) = &view.view else {
            return Err(Refusal::new(ErrorCode::NotFound, "no such user"));
        };
        Ok(UserRow {
            user_id: state.user.clone(),
            display_name: state.display_name.clone(),
            avatar_url: state.avatar_url.clone(),
            created_at: rows::rfc3339(state.created_at),
            show_last_seen: (state.user == *reader).then_some(!state.privacy.hides_last_seen),
        })
    }

    /// Answers a sync over many conversations, here or from where they are held.
    pub(crate) async fn sync(
        self: &Arc<Self>,
        user: &UserId,
        request: SyncRequest,
        pass_on: bool,
    ) -> Result<SyncResponse, Refusal> {
        if request.conversations.len() > limits::SYNC_CONVERSATIONS {
            return Err(Refusal::too_large("too many conversations", "1000 conversations a sync"));
        }
        let limit = request.limit.unwrap_or(limits::SYNC_ROWS_DEFAULT as u64);
        if limit == 0 || limit > limits::SYNC_ROWS as u64 {
            return Err(Refusal::invalid("limit is 1 to 200").with_limit("200 rows a conversation"));
        }
        let limit = usize::try_from(limit).unwrap_or(limits::SYNC_ROWS);
        let mut conversations = Vec::new();
        let mut refused = Vec::new();
        // What another region holds, or has to be asked about, costs a round trip: not one after the other.
        for cursors in request.conversations.chunks(SYNCED_AT_ONCE) {
            let answers = join_all(cursors.iter().map(|cursor| self.sync_one(user, cursor, limit, pass_on))).await;
            for (cursor, answer) in cursors.iter().zip(answers) {
                match answer {
                    Ok(synced) => conversations.push(synced),
                    Err(refusal) => {
                        refused.push(SyncRefusal { conversation_id: cursor.conversation_id, error: refusal.error });
                    }
                }
            }
        }
        Ok(SyncResponse { conversations, refused, server_time: crate::runtime::wall() })
    }

    async fn sync_one(
        self: &Arc<Self>,
        user: &UserId,
        cursor: &SyncCursor,
        limit: usize,
        pass_on: bool,
    ) -> Result<SyncedConversation, Refusal> {
        let view = self.view(LogId::conversation(cursor.conversation_id), pass_on).await?;
        check_mode(&view, user)?;
        let missing = |seen: Seen<'_>| !view.has_rows(cursor.last_sequence.saturating_add(1).max(seen.from), seen.to);
        if self.holds(&view) && !seen(&view, user).is_ok_and(missing) {
            return self.sync_conversation(cursor, &view, user, limit).await;
        }
        let request = SyncRequest { conversations: vec![cursor.clone()], limit: Some(limit as u64) };
        let call = ApiCall::Sync { request };
        let answer = self.pass_on(&view, user, &call, pass_on).await?;
        let mut response: SyncResponse = serde_json::from_slice(&answer.body).map_err(|_| unreadable())?;
        match (response.conversations.pop(), response.refused.pop()) {
            (Some(synced), _) => Ok(synced),
            (None, Some(refused)) => Err(Refusal::new(refused.error, "refused where it is held")),
            (None, None) => Err(Refusal::new(ErrorCode::Internal, "a region's answer is empty")),
        }
    }
}
