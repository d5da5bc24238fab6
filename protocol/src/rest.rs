//! Bodies of the REST routes and of the frames that share them, as `protocol.md` fixes them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::entry::{ConversationKind, HistoryForNewMembers, Role};
use crate::error::Refusal;
use crate::ids::{ConversationId, Epoch, MessageId, RegionId, Timestamp, UserId};

/// `POST /api/v1/sync` and `sync.request`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SyncRequest {
    /// What the client has.
    #[cfg_attr(feature = "schema", schemars(length(max = crate::limits::SYNC_CONVERSATIONS)))]
    pub conversations: Vec<SyncCursor>,
    /// Rows per conversation.
    #[serde(deserialize_with = "crate::lenient::whole_or_none", default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = crate::limits::SYNC_ROWS)))]
    pub limit: Option<u64>,
}

/// What a client has of one conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SyncCursor {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The last number that it has.
    #[cfg_attr(feature = "schema", schemars(range(max = crate::limits::SEQUENCE)))]
    #[serde(deserialize_with = "crate::lenient::whole")]
    pub last_sequence: u64,
    /// The epoch of that number.
    #[serde(deserialize_with = "crate::lenient::whole_or_none", default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

/// The answer to a sync.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SyncResponse {
    /// In the order asked.
    pub conversations: Vec<SyncedConversation>,
    /// What was not served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<SyncRefusal>,
    /// Milliseconds since the epoch.
    pub server_time: Timestamp,
}

/// One conversation of a sync.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SyncedConversation {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Ascending.
    pub messages: Vec<Row>,
    /// Whether more follow.
    pub has_more: bool,
}

/// A conversation that a sync did not serve.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SyncRefusal {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Why.
    pub error: crate::error::ErrorCode,
}

/// One position of a conversation, in history, sync and `message.new`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// The client's id.
    pub message_id: MessageId,
    /// Set in `message.new`; in history and sync the surrounding body names it too.
    pub conversation_id: ConversationId,
    /// Who.
    pub sender_id: UserId,
    /// The content as it was sent, made compact; absent for `member` and `system`, and where it was removed. In history
    /// and sync a message shows its present content, and an edit has it only while it is what its message shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::client::Content>"))]
    pub content: Option<Box<RawValue>>,
    /// The number.
    pub sequence_number: u64,
    /// Milliseconds since the epoch.
    pub timestamp: Timestamp,
    /// The epoch.
    pub epoch: Epoch,
    /// `message`, `member`, …
    pub kind: String,
    /// What an edit, delete or reaction changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_message_id: Option<MessageId>,
    /// What a `member`, `system` or `reaction` row changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<serde_json::Value>,
    /// What it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
    /// When its content goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Which edge took it.
    pub origin_region: RegionId,
    /// Its first time, when it was re-admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_timestamp: Option<Timestamp>,
    /// When the content of a message was changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited_at: Option<Timestamp>,
    /// Set for a message that was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<bool>,
    /// Set for a message whose content went at its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired: Option<bool>,
    /// Reactions to a message, the oldest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reactions: Option<Vec<Reactions>>,
    /// Set for what somebody sent in a direct conversation whom the reader blocks: it has no content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<bool>,
}

/// Those who reacted to a message with one emoji.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Reactions {
    /// What it shows.
    pub emoji: String,
    /// How many.
    pub count: u64,
    /// Whether the reader is among them.
    pub by_me: bool,
}

/// `GET /conversations/{id}/messages/{sequence}/edits`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct EditsResponse {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The message.
    pub message_id: MessageId,
    /// Its number.
    pub sequence_number: u64,
    /// Set when it was deleted: then no version has content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<bool>,
    /// Set when it expired: then no version has content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired: Option<bool>,
    /// The newest [`crate::limits::EDITS_SHOWN`] versions, the oldest first; the first of all is the message as sent.
    pub versions: Vec<Version>,
}

/// One version of a message.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// The number of the message or the edit.
    pub sequence_number: u64,
    /// Milliseconds since the epoch.
    pub timestamp: Timestamp,
    /// What it showed; absent where it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::client::Content>"))]
    pub content: Option<Box<RawValue>>,
}

/// `GET /conversations/{id}/messages` and `history.response`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct HistoryResponse {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Ascending.
    pub messages: Vec<Row>,
    /// Whether more follow in the direction asked.
    pub has_more: bool,
    /// The next `before` or `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<u64>,
    /// The lowest number that retention left.
    pub floor_sequence: u64,
    /// Ranges that this user may not see.
    pub withheld: Vec<Range>,
}

/// Both ends included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Range {
    /// First.
    pub from: u64,
    /// Last.
    pub to: u64,
}

/// `GET /conversations/{id}/messages?before|after&limit` and `history.request`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryQuery {
    /// Rows below this number; takes `seq_N` too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// Rows above this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// 1 to 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// `POST /api/v1/conversations`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CreateConversation {
    /// Only `direct`.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::contract::direct"))]
    pub kind: ConversationKind,
    /// The other user.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 1)))]
    pub participant_ids: Vec<UserId>,
}

/// `POST /api/v1/groups`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CreateGroup {
    /// 1 to 100 characters.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = crate::limits::NAME_CHARACTERS), regex(pattern = r"\S")))]
    pub name: String,
    /// The first members beside the creator.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(length(max = crate::limits::MEMBERS_PER_REQUEST)))]
    pub participant_ids: Vec<UserId>,
    /// `group` (default) or `channel`.
    #[serde(default, rename = "type")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::contract::group_or_channel"))]
    pub kind: Option<ConversationKind>,
    /// What differs from the defaults.
    #[serde(deserialize_with = "crate::lenient::object", default)]
    pub settings: SettingsPatch,
    /// What edges do while its home is out of reach. Default: `park`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_mode: Option<crate::placement::PartitionMode>,
}

/// Settings as a request names them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SettingsPatch {
    /// Only admins may send. Default: true in channels.
    #[serde(default)]
    pub only_admins_can_post: Option<bool>,
    /// Members may add members. Default: true.
    #[serde(default)]
    pub allow_member_invites: Option<bool>,
    /// What new members see. Default: all.
    #[serde(default)]
    pub history_for_new_members: Option<HistoryForNewMembers>,
    /// 1 to 3,650. Default: 30.
    #[serde(deserialize_with = "crate::lenient::whole_or_none", default)]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = crate::limits::RETENTION_DAYS)))]
    pub retention_days: Option<u32>,
}

/// A member in answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Participant {
    /// Who.
    pub user_id: UserId,
    /// As what.
    pub role: Role,
}

/// One row of the change feed; with the optional fields, `GET /conversations/{id}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ConversationRow {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Direct, group or channel.
    #[serde(rename = "type")]
    pub kind: ConversationKind,
    /// The name, of groups and channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// This user's role; absent after the user left or was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The last number that may be shown.
    pub last_sequence: u64,
    /// The last number that the user has read, on whichever device; 0 for none.
    pub read_up_to: u64,
    /// Messages of others that this user may see.
    pub unread_count: u64,
    /// The last row of kind `message`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_message: Option<Row>,
    /// Until when the user wants to hear nothing of it, where this region knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muted_until: Option<Timestamp>,
    /// The home.
    pub home: RegionId,
    /// Its epoch.
    pub epoch: Epoch,
    /// RFC 3339.
    pub created_at: String,
    /// The first 100; only in the single row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub participants: Option<Vec<Participant>>,
    /// Only in the single row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_count: Option<u64>,
    /// Only in the single row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<crate::entry::Settings>,
    /// Only in the single row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<crate::placement::Level>,
    /// Only in the single row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_mode: Option<crate::placement::PartitionMode>,
    /// Only in the single row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voters: Option<Vec<RegionId>>,
    /// Only in the single row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor_sequence: Option<u64>,
}

/// `GET /conversations?cursor&limit`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FeedResponse {
    /// Newest change last.
    pub conversations: Vec<ConversationRow>,
    /// Opaque.
    pub cursor: String,
    /// Whether more follow.
    pub has_more: bool,
    /// `partial` when rows are left out because nobody who holds them is in reach: the cursor of the last page gives
    /// them again. Absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feed: Option<String>,
}

/// `GET /conversations/{id}/members`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct MembersResponse {
    /// By user id.
    pub members: Vec<Participant>,
    /// Opaque; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Whether more follow.
    pub has_more: bool,
}

/// `POST /conversations/{id}/members`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct AddMembers {
    /// At most 1,000.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = crate::limits::MEMBERS_PER_REQUEST)))]
    pub user_ids: Vec<UserId>,
}

/// `PATCH /conversations/{id}/members/{userId}`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PatchMember {
    /// From now on.
    pub role: Role,
}

/// `PATCH /conversations/{id}`: what is served so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(transform = crate::contract::changes_something))]
#[serde(rename_all = "camelCase")]
pub struct PatchConversation {
    /// 1 to 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "String", length(min = 1, max = crate::limits::NAME_CHARACTERS), regex(pattern = r"\S")))]
    pub name: Option<String>,
    /// The default level of its messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::placement::Level"))]
    pub durability: Option<crate::placement::Level>,
    /// What edges do while its home is out of reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "crate::placement::PartitionMode"))]
    pub partition_mode: Option<crate::placement::PartitionMode>,
    /// Settings that change. What new members see stays as it was created.
    #[serde(deserialize_with = "crate::lenient::object_or_none", default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::contract::changeable_settings"))]
    pub settings: Option<SettingsPatch>,
}

impl PatchConversation {
    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let no_settings = self.settings.as_ref().is_none_or(|settings| *settings == SettingsPatch::default());
        self.name.is_none() && self.durability.is_none() && self.partition_mode.is_none() && no_settings
    }
}

/// `GET /users/{id}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct UserRow {
    /// Who.
    pub user_id: UserId,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// A URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// In one's own row: whether others are told when one was there last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub show_last_seen: Option<bool>,
}

/// Tells "absent" from `null`.
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

/// `PATCH /users/me`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PatchUser {
    /// `null` takes it away.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = crate::limits::NAME_CHARACTERS), regex(pattern = r"\S")))]
    pub display_name: Option<Option<String>>,
    /// `null` takes it away.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(max = crate::limits::URL_CHARACTERS)))]
    pub avatar_url: Option<Option<String>>,
    /// Whether others are told when the user was there last; they are unless this says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub show_last_seen: Option<bool>,
}

/// An answer of the API: status and JSON.
#[derive(Clone, Debug)]
pub struct ApiAnswer {
    /// HTTP status.
    pub status: u16,
    /// JSON; empty for 204.
    pub body: bytes::Bytes,
}

impl ApiAnswer {
    /// An answer with a JSON body.
    #[must_use]
    pub fn json<T: Serialize>(status: u16, body: &T) -> Self {
        Self { status, body: serde_json::to_vec(body).expect("bodies hold only string keys").into() }
    }

    /// 204.
    #[must_use]
    pub fn empty() -> Self {
        Self { status: 204, body: bytes::Bytes::new() }
    }
}

impl From<Refusal> for ApiAnswer {
    fn from(refusal: Refusal) -> Self {
        Self::json(refusal.error.status(), &refusal)
    }
}
