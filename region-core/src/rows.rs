//! From entries to the rows that clients see.

use bytes::Bytes;
use hearth_protocol::entry::{Forget, MemberAction};
use hearth_protocol::rest::Row;
use hearth_protocol::{Change, ConversationId, EntryKind, MessageId, SealedEntry, Timestamp};
use region_model::view::is_expired;
use serde_json::json;
use serde_json::value::RawValue;

/// The row of an entry as it stands for itself at `now`; `None` for the header, which takes no number. What was done since to the
/// message that it is or changes is added by [`crate::present`].
pub(crate) fn row(conversation: ConversationId, sealed: &SealedEntry, now: Timestamp) -> Option<Row> {
    let fixed = &sealed.entry.fixed;
    let kind = fixed.kind.as_str()?;
    let expired = is_expired(sealed, now);
    Some(Row {
        message_id: MessageId(fixed.id),
        conversation_id: conversation,
        sender_id: fixed.sender.clone(),
        content: content(sealed).filter(|_| !expired),
        sequence_number: fixed.position.sequence.0,
        timestamp: fixed.time,
        epoch: fixed.position.epoch,
        kind: kind.to_owned(),
        target_message_id: fixed.target.map(MessageId),
        change: change_json(sealed),
        reply_to: fixed.reply_to.map(MessageId),
        expires_at: fixed.expires_at,
        origin_region: fixed.origin.clone(),
        original_timestamp: fixed.original_time,
        edited_at: None,
        deleted: None,
        expired: (expired && fixed.kind == EntryKind::Message).then_some(true),
        reactions: None,
        blocked: None,
    })
}

/// The content that an entry gives a message: its own, or its new one.
pub(crate) fn content(sealed: &SealedEntry) -> Option<Box<RawValue>> {
    match sealed.entry.fixed.kind {
        EntryKind::Message => sealed.content().and_then(raw_json),
        EntryKind::Edit => match sealed.change()? {
            Change::Edit { content, .. } => RawValue::from_string(content).ok(),
            _ => None,
        },
        _ => None,
    }
}

/// Content was made by our own encoder; bytes that are not JSON would be a fault of the store, and are left out.
fn raw_json(content: &Bytes) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(content).ok()?;
    RawValue::from_string(text.to_owned()).ok()
}

fn change_json(sealed: &SealedEntry) -> Option<serde_json::Value> {
    let by = &sealed.entry.fixed.sender;
    match (sealed.entry.fixed.kind, sealed.change()?) {
        (EntryKind::Member, Change::Members { action, users }) => Some(match action {
            MemberAction::Add(role) => json!({"action": "add", "userIds": users, "by": by, "role": role}),
            MemberAction::Remove => json!({"action": "remove", "userIds": users, "by": by}),
            MemberAction::Leave => json!({"action": "leave", "userIds": users, "by": by}),
            MemberAction::Role(role) => json!({"action": "role", "userIds": users, "by": by, "role": role}),
        }),
        (EntryKind::Reaction, Change::Reaction { emoji, added, .. }) => {
            let action = if added { "add" } else { "remove" };
            Some(json!({"action": action, "by": by, "emoji": emoji}))
        }
        (EntryKind::System, Change::Name(name)) => Some(json!({"action": "name", "by": by, "name": name})),
        (EntryKind::System, Change::Durability(level)) => {
            Some(json!({"action": "durability", "by": by, "durability": level}))
        }
        (EntryKind::System, Change::PartitionMode(mode)) => {
            Some(json!({"action": "partitionMode", "by": by, "partitionMode": mode}))
        }
        (EntryKind::System, Change::Forget(Forget::User(user))) => {
            Some(json!({"action": "erase", "by": by, "userIds": [user]}))
        }
        (EntryKind::System, Change::Forget(Forget::Below { floor, .. })) => {
            Some(json!({"action": "retention", "by": by, "floorSequence": floor}))
        }
        (EntryKind::System, Change::Settings(change)) => {
            let mut given = serde_json::Map::new();
            let fields = [
                ("onlyAdminsCanPost", change.only_admins_can_post.map(|only| json!(only))),
                ("allowMemberInvites", change.allow_member_invites.map(|invites| json!(invites))),
                ("retentionDays", change.retention_days.map(|days| json!(days))),
            ];
            given.extend(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
            Some(json!({"action": "settings", "by": by, "settings": given}))
        }
        _ => None,
    }
}

/// RFC 3339, as `createdAt` is written.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    let milliseconds = i64::try_from(time.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}
