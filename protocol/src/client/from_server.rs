//! Frames that edges send.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::delivery::ExplanationPayload;
use super::presence::{PresenceBulkPayload, PresencePayload};
use crate::error::Refusal;
use crate::ids::{ConversationId, DeviceId, Epoch, MessageId, RegionId, Timestamp, UserId};
use crate::placement::Level;
use crate::rest::{ConversationRow, HistoryResponse, Row, SyncResponse};

/// Another region to try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Endpoint {
    /// The region.
    pub region: RegionId,
    /// Its WebSocket URL.
    pub ws: String,
    /// Its WebTransport URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webtransport: Option<String>,
}

/// `connected`; its fields stand beside `type`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Connected {
    /// Names the connection in logs.
    pub connection_id: String,
    /// Milliseconds since the epoch.
    pub server_time: Timestamp,
    /// Milliseconds.
    pub heartbeat_interval: u64,
    /// For the next connect, at any region.
    pub resume_token: String,
    /// Who the token named.
    pub user_id: UserId,
    /// As told or made.
    pub device_id: DeviceId,
    /// The edge region.
    pub region: RegionId,
    /// The node.
    pub node: String,
    /// `exact` or `fresh`.
    pub resumed: String,
    /// `complete` or `partial`.
    pub feed: String,
    /// Other regions to try, best first.
    pub endpoints: Vec<Endpoint>,
    /// 1.
    pub protocol_version: u32,
}

/// `server.draining`; its fields stand beside `type`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Draining {
    /// The slot that this client got.
    pub reconnect_after_ms: u64,
    /// When the connection is closed.
    pub deadline_ms: u64,
    /// Where to go.
    pub endpoints: Vec<Endpoint>,
    /// For the next connect.
    pub resume_token: String,
}

/// `close`; its fields stand beside `type`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ClosePayload {
    /// The close code.
    pub code: u16,
    /// A few words.
    pub reason: String,
}

/// How durable an acked message is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AckDurability {
    /// The level that was asked for.
    pub level: Level,
    /// The regions that have it on disk.
    pub regions: Vec<RegionId>,
}

/// `message.ack`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct AckPayload {
    /// The client's id.
    pub message_id: MessageId,
    /// The number that it got.
    pub sequence_number: u64,
    /// Milliseconds since the epoch.
    pub timestamp: Timestamp,
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The epoch.
    pub epoch: Epoch,
    /// The region that sequenced it.
    pub home: RegionId,
    /// How durable it is.
    pub durability: AckDurability,
    /// Set when it had been sequenced before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<bool>,
}

/// Why a message waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum QueuedReason {
    /// The home is out of reach.
    HomeUnreachable,
    /// The home is moving.
    HomeMoving,
    /// The home has it; the copies of its level are out of reach.
    CopiesMissing,
}

/// `message.queued`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct QueuedPayload {
    /// The client's id.
    pub message_id: MessageId,
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Why.
    pub reason: QueuedReason,
    /// The home.
    pub home: RegionId,
}

/// `message.refused`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RefusedPayload {
    /// The client's id.
    pub message_id: MessageId,
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The code.
    pub error: crate::error::ErrorCode,
    /// For people.
    pub message: String,
}

/// `sync.complete`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SyncCompletePayload {
    /// What was covered.
    pub conversations: Vec<SyncedUpTo>,
    /// `exact` or `fresh`.
    pub resumed: String,
}

/// How far one conversation was covered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SyncedUpTo {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The epoch of that number.
    pub epoch: Epoch,
    /// The number.
    pub up_to_sequence: u64,
}

/// `sync.required`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SyncRequiredPayload {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Pull from here.
    pub from_sequence: u64,
}

/// `sync.gap`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SyncGapPayload {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// First number left out.
    pub from_sequence: u64,
    /// Last number left out.
    pub to_sequence: u64,
}

/// `conversation.rewound`: what the client has of older epochs above this number has left the line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RewoundPayload {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The epoch of the line from now on.
    pub epoch: Epoch,
    /// The last number that stays.
    pub after_sequence: u64,
}

/// `message.delivered`: a member's devices have everything up to a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DeliveredPayload {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The receiver's own messages that this newly covers, the newest [`crate::limits::RECEIPT_MESSAGES`] of them.
    pub message_ids: Vec<MessageId>,
    /// The member.
    pub delivered_to: UserId,
    /// When the member's region took it; milliseconds since the epoch.
    pub timestamp: Timestamp,
    /// Everything up to this number is covered.
    pub up_to_sequence: u64,
    /// The epoch of that number's line.
    pub epoch: Epoch,
}

/// `message.read_receipt`: a member has read everything up to a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReadReceiptPayload {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The number.
    pub read_up_to_sequence: u64,
    /// The member.
    pub read_by: UserId,
    /// When the member's region took it; milliseconds since the epoch.
    pub timestamp: Timestamp,
    /// The epoch of that number's line.
    pub epoch: Epoch,
}

/// `typing.update`: a member types, or does so no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TypingPayload {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The member.
    pub user_id: UserId,
    /// Whether it types.
    pub is_typing: bool,
}

/// `receipts.summary`: how many other members have a message of the receiver, in a large conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReceiptsSummaryPayload {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The message.
    pub sequence_number: u64,
    /// Members whose devices have it.
    pub delivered: u64,
    /// Members who have read it.
    pub read: u64,
}

/// A frame of the server. Clients that meet an unknown type ignore it: [`ServerFrame::parse`] gives `None`.
#[derive(Clone, Debug)]
pub enum ServerFrame {
    /// `connected`.
    Connected(Box<Connected>),
    /// `server.draining`.
    Draining(Draining),
    /// `close`.
    Close(ClosePayload),
    /// `heartbeat.ack`.
    HeartbeatAck(Timestamp),
    /// `auth.refreshed`, with the time when the new token runs out.
    AuthRefreshed(Timestamp),
    /// `message.ack`.
    Ack(AckPayload),
    /// `message.queued`.
    Queued(QueuedPayload),
    /// `message.refused`.
    Refused(RefusedPayload),
    /// `message.new`.
    New(Box<Row>),
    /// `conversation.new`.
    ConversationNew(Box<ConversationRow>),
    /// `conversation.updated`.
    ConversationUpdated(Box<ConversationRow>),
    /// `conversation.rewound`.
    ConversationRewound(RewoundPayload),
    /// `message.delivered`.
    Delivered(DeliveredPayload),
    /// `message.read_receipt`.
    ReadReceipt(ReadReceiptPayload),
    /// `receipts.summary`.
    ReceiptsSummary(ReceiptsSummaryPayload),
    /// `typing.update`.
    TypingUpdate(TypingPayload),
    /// `presence.update`.
    PresenceUpdate(PresencePayload),
    /// `presence.bulk`.
    PresenceBulk(PresenceBulkPayload),
    /// `feed.complete`.
    FeedComplete,
    /// `region.status`.
    RegionStatus {
        /// The region.
        region: RegionId,
        /// Whether this region reaches it.
        reachable: bool,
        /// Whether its right to every home that it had has ended; told where that changes, and while it is so.
        fenced: Option<bool>,
    },
    /// `sync.complete`.
    SyncComplete(SyncCompletePayload),
    /// `sync.required`.
    SyncRequired(SyncRequiredPayload),
    /// `sync.gap`.
    SyncGap(SyncGapPayload),
    /// `sync.response`.
    SyncResponse(SyncResponse),
    /// `history.response`.
    HistoryResponse(HistoryResponse),
    /// `delivery.explanation`.
    Explanation(Box<ExplanationPayload>),
    /// `error`.
    Error(Refusal),
}

#[derive(Serialize)]
struct Outgoing<'a, T> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    payload: T,
}

#[derive(Serialize)]
struct Flat<T> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    fields: T,
}

fn enveloped<T: Serialize>(kind: &'static str, id: Option<&str>, payload: T) -> Bytes {
    serde_json::to_vec(&Outgoing { kind, id, payload }).expect("frames hold only string keys").into()
}

fn flat<T: Serialize>(kind: &'static str, fields: T) -> Bytes {
    serde_json::to_vec(&Flat { kind, fields }).expect("frames hold only string keys").into()
}

/// One `message.new`, made once for all that receive it.
#[must_use]
pub fn encode_message_new(row: &Row) -> Bytes {
    enveloped("message.new", None, row)
}

/// A frame as JSON, with the `id` of the request that it answers.
#[must_use]
pub fn encode_server_frame(frame: &ServerFrame, id: Option<&str>) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct ServerTime {
        server_time: Timestamp,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct ExpiresAt {
        expires_at: Timestamp,
    }
    #[derive(Serialize)]
    struct Status<'a> {
        region: &'a RegionId,
        reachable: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        fenced: Option<bool>,
    }
    #[derive(Serialize)]
    struct Empty {}
    match frame {
        ServerFrame::Connected(fields) => flat("connected", fields),
        ServerFrame::Draining(fields) => flat("server.draining", fields),
        ServerFrame::Close(fields) => flat("close", fields),
        ServerFrame::HeartbeatAck(server_time) => flat("heartbeat.ack", ServerTime { server_time: *server_time }),
        ServerFrame::AuthRefreshed(at) => enveloped("auth.refreshed", id, ExpiresAt { expires_at: *at }),
        ServerFrame::Ack(payload) => enveloped("message.ack", id, payload),
        ServerFrame::Queued(payload) => enveloped("message.queued", id, payload),
        ServerFrame::Refused(payload) => enveloped("message.refused", id, payload),
        ServerFrame::New(row) => enveloped("message.new", id, row),
        ServerFrame::ConversationNew(row) => enveloped("conversation.new", id, row),
        ServerFrame::ConversationUpdated(row) => enveloped("conversation.updated", id, row),
        ServerFrame::ConversationRewound(payload) => enveloped("conversation.rewound", id, payload),
        ServerFrame::Delivered(payload) => enveloped("message.delivered", id, payload),
        ServerFrame::ReadReceipt(payload) => enveloped("message.read_receipt", id, payload),
        ServerFrame::ReceiptsSummary(payload) => enveloped("receipts.summary", id, payload),
        ServerFrame::TypingUpdate(payload) => enveloped("typing.update", id, payload),
        ServerFrame::PresenceUpdate(payload) => enveloped("presence.update", id, payload),
        ServerFrame::PresenceBulk(payload) => enveloped("presence.bulk", id, payload),
        ServerFrame::FeedComplete => enveloped("feed.complete", id, Empty {}),
        ServerFrame::RegionStatus { region, reachable, fenced } => {
            enveloped("region.status", id, Status { region, reachable: *reachable, fenced: *fenced })
        }
        ServerFrame::SyncComplete(payload) => enveloped("sync.complete", id, payload),
        ServerFrame::SyncRequired(payload) => enveloped("sync.required", id, payload),
        ServerFrame::SyncGap(payload) => enveloped("sync.gap", id, payload),
        ServerFrame::SyncResponse(payload) => enveloped("sync.response", id, payload),
        ServerFrame::HistoryResponse(payload) => enveloped("history.response", id, payload),
        ServerFrame::Explanation(payload) => enveloped("delivery.explanation", id, payload),
        ServerFrame::Error(refusal) => enveloped("error", id, refusal),
    }
}

#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default, borrow)]
    payload: Option<&'a RawValue>,
}

impl ServerFrame {
    /// Reads a frame as a client does: the echoed `id`, and the frame; `None` for an unknown type.
    ///
    /// # Errors
    /// When the text is not JSON, or a known type has another form than the contract fixes.
    pub fn parse(text: &str) -> Result<(Option<String>, Option<Self>), serde_json::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct ServerTime {
            server_time: Timestamp,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct ExpiresAt {
            expires_at: Timestamp,
        }
        #[derive(Deserialize)]
        struct Status {
            region: RegionId,
            reachable: bool,
            #[serde(default)]
            fenced: Option<bool>,
        }
        let incoming: Incoming<'_> = serde_json::from_str(text)?;
        let payload = incoming.payload.map_or("{}", RawValue::get);
        let frame = match incoming.kind.as_ref() {
            "connected" => Self::Connected(serde_json::from_str(text)?),
            "server.draining" => Self::Draining(serde_json::from_str(text)?),
            "close" => Self::Close(serde_json::from_str(text)?),
            "heartbeat.ack" => Self::HeartbeatAck(serde_json::from_str::<ServerTime>(text)?.server_time),
            "auth.refreshed" => Self::AuthRefreshed(serde_json::from_str::<ExpiresAt>(payload)?.expires_at),
            "message.ack" => Self::Ack(serde_json::from_str(payload)?),
            "message.queued" => Self::Queued(serde_json::from_str(payload)?),
            "message.refused" => Self::Refused(serde_json::from_str(payload)?),
            "message.new" => Self::New(serde_json::from_str(payload)?),
            "conversation.new" => Self::ConversationNew(serde_json::from_str(payload)?),
            "conversation.updated" => Self::ConversationUpdated(serde_json::from_str(payload)?),
            "conversation.rewound" => Self::ConversationRewound(serde_json::from_str(payload)?),
            "message.delivered" => Self::Delivered(serde_json::from_str(payload)?),
            "message.read_receipt" => Self::ReadReceipt(serde_json::from_str(payload)?),
            "receipts.summary" => Self::ReceiptsSummary(serde_json::from_str(payload)?),
            "typing.update" => Self::TypingUpdate(serde_json::from_str(payload)?),
            "presence.update" => Self::PresenceUpdate(serde_json::from_str(payload)?),
            "presence.bulk" => Self::PresenceBulk(serde_json::from_str(payload)?),
            "feed.complete" => Self::FeedComplete,
            "region.status" => {
                let Status { region, reachable, fenced } = serde_json::from_str(payload)?;
                Self::RegionStatus { region, reachable, fenced }
            }
            "sync.complete" => Self::SyncComplete(serde_json::from_str(payload)?),
            "sync.required" => Self::SyncRequired(serde_json::from_str(payload)?),
            "sync.gap" => Self::SyncGap(serde_json::from_str(payload)?),
            "sync.response" => Self::SyncResponse(serde_json::from_str(payload)?),
            "history.response" => Self::HistoryResponse(serde_json::from_str(payload)?),
            "delivery.explanation" => Self::Explanation(serde_json::from_str(payload)?),
            "error" => Self::Error(serde_json::from_str(payload)?),
            _ => return Ok((incoming.id, None)),
        };
        Ok((incoming.id, Some(frame)))
    }
}
