//! Frames that clients send.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::changes::{Asked, ChangePayload, check_emoji};
use super::content::Content;
use super::delivery::ExplainRequest;
use super::json::json_depth_exceeds;
use super::presence::{ClientStateRequest, PresenceSetRequest, PresenceUsersRequest};
use crate::error::Refusal;
use crate::ids::{ConversationId, DeviceId, Epoch, MessageId, Timestamp};
use crate::limits;
use crate::placement::Level;
use crate::rest::{SyncCursor, SyncRequest};

/// `auth`: the first frame.
#[derive(Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct AuthPayload {
    /// The JWT.
    pub token: String,
    /// Made by the server if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_id: Option<DeviceId>,
    /// From an earlier `connected`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_token: Option<String>,
    /// What the client has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursors: Option<Vec<SyncCursor>>,
    /// Whether typing and presence may come as datagrams. They may; this version sends no datagrams.
    #[serde(default)]
    pub datagrams: bool,
    /// Whether bulk sync answers may come on streams of their own. They may; this version sends every answer on the
    /// client's stream.
    #[serde(default)]
    pub streams: bool,
}

impl std::fmt::Debug for AuthPayload {
    /// Leaves the tokens out: this may be logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthPayload").field("device_id", &self.device_id).finish_non_exhaustive()
    }
}

/// `resume`, once, by clients that did not authenticate by frame.
#[derive(Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ResumePayload {
    /// From an earlier `connected`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_token: Option<String>,
    /// What the client has.
    #[serde(default)]
    pub cursors: Vec<SyncCursor>,
}

impl std::fmt::Debug for ResumePayload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResumePayload").field("cursors", &self.cursors.len()).finish_non_exhaustive()
    }
}

/// `message.send`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SendPayload {
    /// The idempotency key.
    pub message_id: MessageId,
    /// Where to.
    pub conversation_id: ConversationId,
    /// What.
    pub content: Content,
    /// What it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
    /// When its content goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// A level above the conversation's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Level>,
}

/// `message.received` and `message.read`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ReceiptPayload {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The last number.
    pub up_to_sequence: u64,
    /// Its epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// Whether the frame was `message.read`: what was read was received, too.
    #[serde(skip)]
    pub read: bool,
}

/// `typing.start` and `typing.stop`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct TypingRequest {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Whether the frame was `typing.start`.
    #[serde(skip)]
    pub typing: bool,
}

/// `conversation.view`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ViewRequest {
    /// What is on the screen; `null` for no conversation.
    #[serde(deserialize_with = "given")]
    pub conversation_id: Option<ConversationId>,
}

/// A field that may be `null` and may not be left out.
fn given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<ConversationId>, D::Error> {
    Option::deserialize(from)
}

/// `history.request`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct HistoryRequest {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Rows below this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// Rows above this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// 1 to 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = limits::HISTORY_ROWS)))]
    pub limit: Option<u64>,
}

/// A frame that was understood, with the `id` to echo.
#[derive(Clone, Debug)]
pub enum ClientFrame {
    /// `auth`.
    Auth(AuthPayload),
    /// `resume`.
    Resume(ResumePayload),
    /// `auth.refresh`, with the token.
    AuthRefresh(String),
    /// `message.send`.
    Send(Box<SendPayload>),
    /// `message.edit`, `message.delete`, `reaction.add` or `reaction.remove`.
    Change(Box<ChangePayload>),
    /// `message.received` or `message.read`: taken without an answer.
    Receipt(ReceiptPayload),
    /// `typing.start` or `typing.stop`: taken without an answer.
    Typing(TypingRequest),
    /// `conversation.view`: taken without an answer.
    View(ViewRequest),
    /// `presence.set`: taken without an answer.
    PresenceSet(PresenceSetRequest),
    /// `presence.subscribe` or `presence.unsubscribe`.
    PresenceUsers(PresenceUsersRequest),
    /// `client.state`: taken without an answer.
    State(ClientStateRequest),
    /// `sync.request`.
    Sync(SyncRequest),
    /// `history.request`.
    History(HistoryRequest),
    /// `delivery.explain`.
    Explain(ExplainRequest),
    /// `heartbeat`.
    Heartbeat,
}

/// Sizes that a frame is checked against.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    /// Bytes of a frame.
    pub frame_bytes: usize,
    /// Bytes of a text.
    pub text_bytes: usize,
    /// Depth of JSON.
    pub json_depth: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self { frame_bytes: limits::FRAME_BYTES, text_bytes: limits::TEXT_BYTES, json_depth: limits::JSON_DEPTH }
    }
}

/// Why a frame was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// It cannot be read as a frame at all: `error`, then 4400.
    Malformed(Refusal),
    /// It was refused; the session goes on.
    Refused(Refusal),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default, rename = "type", borrow)]
    kind: Option<&'a RawValue>,
    #[serde(default, borrow)]
    id: Option<&'a RawValue>,
    #[serde(default, borrow)]
    payload: Option<&'a RawValue>,
}

/// Reads one frame. The first value is the request's `id`, when it has one that is a string of at most 128 bytes.
pub fn parse_client_frame(bytes: &[u8], frame: &FrameLimits) -> (Option<String>, Result<ClientFrame, FrameError>) {
    if bytes.len() > frame.frame_bytes {
        let refusal = Refusal::too_large("the frame is too long", format!("{} bytes a frame", frame.frame_bytes));
        return (None, Err(FrameError::Malformed(refusal)));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return (None, Err(FrameError::Malformed(Refusal::invalid("the frame is not UTF-8"))));
    };
    if json_depth_exceeds(bytes, frame.json_depth) {
        let refusal = Refusal::too_large("the frame nests too deep", format!("{} levels of JSON", frame.json_depth));
        // Depth is a form error by the contract: the session goes on.
        return (None, Err(FrameError::Refused(Refusal { error: crate::ErrorCode::InvalidMessage, ..refusal })));
    }
    if !text.trim_start().starts_with('{') {
        return (None, Err(FrameError::Malformed(Refusal::invalid("a frame is one JSON object"))));
    }
    let envelope: Envelope<'_> = match serde_json::from_str(text) {
        Ok(envelope) => envelope,
        Err(error) => {
            let reason = format!("the frame is not JSON: column {}", error.column());
            return (None, Err(FrameError::Malformed(Refusal::invalid(reason))));
        }
    };
    let id = envelope.id.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok()).filter(|id| id.len() <= 128);
    let result = parse_payload(&envelope, frame).map_err(FrameError::Refused);
    (id, result)
}

fn parse_payload(envelope: &Envelope<'_>, limits: &FrameLimits) -> Result<ClientFrame, Refusal> {
    let kind = envelope
        .kind
        .and_then(|raw| serde_json::from_str::<std::borrow::Cow<'_, str>>(raw.get()).ok())
        .ok_or_else(|| Refusal::invalid("a frame needs a `type` that is a string"))?;
    let payload = envelope.payload.map_or("{}", RawValue::get);
    Ok(match kind.as_ref() {
        "message.send" => {
            let send: SendPayload = typed(payload)?;
            send.content.check(limits.text_bytes)?;
            ClientFrame::Send(Box::new(send))
        }
        "heartbeat" => ClientFrame::Heartbeat,
        "message.received" => ClientFrame::Receipt(typed(payload)?),
        "message.read" => ClientFrame::Receipt(ReceiptPayload { read: true, ..typed(payload)? }),
        "typing.start" => ClientFrame::Typing(TypingRequest { typing: true, ..typed(payload)? }),
        "typing.stop" => ClientFrame::Typing(typed(payload)?),
        "conversation.view" => ClientFrame::View(typed(payload)?),
        "presence.set" => ClientFrame::PresenceSet(typed(payload)?),
        "presence.subscribe" => ClientFrame::PresenceUsers(PresenceUsersRequest { subscribe: true, ..typed(payload)? }),
        "presence.unsubscribe" => ClientFrame::PresenceUsers(typed(payload)?),
        "client.state" => ClientFrame::State(typed(payload)?),
        "auth" => ClientFrame::Auth(typed(payload)?),
        "resume" => ClientFrame::Resume(typed(payload)?),
        "auth.refresh" => {
            #[derive(Deserialize)]
            struct Refresh {
                token: String,
            }
            ClientFrame::AuthRefresh(typed::<Refresh>(payload)?.token)
        }
        "sync.request" => ClientFrame::Sync(typed(payload)?),
        "history.request" => ClientFrame::History(typed(payload)?),
        "message.edit" | "message.delete" | "reaction.add" | "reaction.remove" => {
            ClientFrame::Change(Box::new(change(&kind, payload, limits)?))
        }
        "delivery.explain" => {
            let asked: ExplainRequest = typed(payload)?;
            asked.name()?;
            ClientFrame::Explain(asked)
        }
        _ => return Err(Refusal::invalid("unknown frame type")),
    })
}

/// A change of an earlier message: what all of them have, and what its type adds.
fn change(kind: &str, payload: &str, limits: &FrameLimits) -> Result<ChangePayload, Refusal> {
    #[derive(Deserialize)]
    struct Edit {
        content: Content,
    }
    #[derive(Deserialize)]
    struct React {
        emoji: String,
    }
    let what = match kind {
        "message.edit" => {
            let Edit { content } = typed(payload)?;
            content.check(limits.text_bytes)?;
            Asked::Edit(content)
        }
        "message.delete" => Asked::Delete,
        _ => {
            let React { emoji } = typed(payload)?;
            check_emoji(&emoji)?;
            Asked::React { emoji, added: kind == "reaction.add" }
        }
    };
    Ok(ChangePayload { what, ..typed(payload)? })
}

/// A payload of a known type. The error names the place, never the value.
fn typed<'a, T: Deserialize<'a>>(payload: &'a str) -> Result<T, Refusal> {
    serde_json::from_str(payload).map_err(|error| {
        let text = error.to_string();
        let what = ["missing field", "invalid type", "unknown variant", "UUID"]
            .iter()
            .find(|what| text.contains(**what))
            .copied()
            .unwrap_or("invalid value");
        let field = text.split('`').nth(1).filter(|_| what == "missing field").unwrap_or("");
        Refusal::invalid(format!("payload: {what} {field} at column {}", error.column()))
    })
}
