//! The frames, and the AsyncAPI document of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::schemas::Schemas;
use crate::client::{
    AckPayload, AuthPayload, ChangePayload, ClientStateRequest, ClosePayload, Connected, Content, DeliveredPayload,
    Draining, ExplainRequest, ExplanationPayload, HistoryRequest, PresenceBulkPayload, PresencePayload,
    PresenceSetRequest, PresenceUsersRequest, QueuedPayload, ReadReceiptPayload, ReceiptPayload,
    ReceiptsSummaryPayload, RefusedPayload, ResumePayload, RewoundPayload, SendPayload, SyncCompletePayload,
    SyncGapPayload, SyncRequiredPayload, TypingPayload, TypingRequest, ViewRequest,
};
use crate::error::Refusal;
use crate::ids::{RegionId, Timestamp};
use crate::rest::{ConversationRow, HistoryResponse, Row, SyncRequest, SyncResponse};

/// Where the fields of a frame stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// In `payload`, with an `id` beside it where a request carries one.
    Enveloped,
    /// Beside `type`.
    Flat,
}

/// A frame of the contract.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Its `type`.
    pub kind: &'static str,
    /// What it is, for people.
    pub summary: &'static str,
    form: Form,
    fields: fn(&mut Schemas) -> Value,
}

const fn sent<T: JsonSchema>(kind: &'static str, summary: &'static str) -> Frame {
    Frame { kind, summary, form: Form::Enveloped, fields: |schemas| schemas.sent::<T>() }
}

const fn answered<T: JsonSchema>(kind: &'static str, summary: &'static str) -> Frame {
    Frame { kind, summary, form: Form::Enveloped, fields: |schemas| schemas.answered::<T>() }
}

const fn beside<T: JsonSchema>(kind: &'static str, summary: &'static str) -> Frame {
    Frame { form: Form::Flat, ..answered::<T>(kind, summary) }
}

/// No fields.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Nothing {}

/// A new token.
#[derive(Serialize, Deserialize, JsonSchema)]
struct AuthRefresh {
    /// The JWT.
    token: String,
}

/// Other content for a message.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Edit {
    #[serde(flatten)]
    change: ChangePayload,
    /// What the message shows from now on.
    content: Content,
}

/// A reaction.
#[derive(Serialize, Deserialize, JsonSchema)]
struct React {
    #[serde(flatten)]
    change: ChangePayload,
    /// A short text without spaces and control characters.
    #[schemars(length(min = 1, max = crate::limits::EMOJI_BYTES), regex(pattern = r"^[^\s\p{Cc}]+$"))]
    emoji: String,
}

/// The edge's clock.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct HeartbeatAck {
    server_time: Timestamp,
}

/// When the new token runs out.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct AuthRefreshed {
    expires_at: Timestamp,
}

/// Whether a region is in reach.
#[derive(Serialize, Deserialize, JsonSchema)]
struct RegionStatus {
    /// Which.
    region: RegionId,
    /// Whether this region reaches it.
    reachable: bool,
    /// Whether its right to every home that it had has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fenced: Option<bool>,
}

/// What clients send.
pub const CLIENT_FRAMES: &[Frame] = &[
    sent::<AuthPayload>("auth", "The first frame of a client that did not authenticate by header"),
    sent::<ResumePayload>("resume", "What the client has, once, by clients that authenticated by header"),
    sent::<AuthRefresh>("auth.refresh", "A new token, before the old one runs out"),
    sent::<SendPayload>("message.send", "A message: answered by message.ack, message.queued or message.refused"),
    sent::<Edit>("message.edit", "Other content for a message of one's own"),
    sent::<ChangePayload>("message.delete", "Takes the content of a message away"),
    sent::<React>("reaction.add", "A reaction comes"),
    sent::<React>("reaction.remove", "A reaction goes"),
    sent::<ReceiptPayload>("message.received", "This device has everything up to a number"),
    sent::<ReceiptPayload>("message.read", "The user has read everything up to a number"),
    sent::<TypingRequest>("typing.start", "The user types"),
    sent::<TypingRequest>("typing.stop", "The user types no longer"),
    sent::<ViewRequest>("conversation.view", "What is on the screen"),
    sent::<PresenceSetRequest>("presence.set", "Whether somebody is at this device"),
    sent::<PresenceUsersRequest>("presence.subscribe", "Whose presence to be told"),
    sent::<PresenceUsersRequest>("presence.unsubscribe", "Whose presence to be told no longer"),
    sent::<ClientStateRequest>("client.state", "Whether somebody looks at the client"),
    sent::<SyncRequest>("sync.request", "As POST /api/v1/sync"),
    sent::<HistoryRequest>("history.request", "As GET /api/v1/conversations/{conversation}/messages"),
    sent::<ExplainRequest>("delivery.explain", "Where a message is on its way to a user"),
    Frame { form: Form::Flat, ..sent::<Nothing>("heartbeat", "The client lives") },
];

/// What edges send.
pub const SERVER_FRAMES: &[Frame] = &[
    beside::<Connected>("connected", "The session is there"),
    beside::<Draining>("server.draining", "The node leaves: reconnect in the given slot"),
    beside::<ClosePayload>("close", "The connection ends, with its close code"),
    beside::<HeartbeatAck>("heartbeat.ack", "The edge lives"),
    answered::<AuthRefreshed>("auth.refreshed", "The new token counts"),
    answered::<AckPayload>("message.ack", "The message is in the log, and how durable it is"),
    answered::<QueuedPayload>("message.queued", "The message is held durably until its home is in reach"),
    answered::<RefusedPayload>("message.refused", "What was queued will not be sequenced"),
    answered::<Row>("message.new", "A row of a conversation"),
    answered::<ConversationRow>("conversation.new", "A conversation is new to this user"),
    answered::<ConversationRow>("conversation.updated", "A conversation changed"),
    answered::<RewoundPayload>("conversation.rewound", "What is above a number has left the line"),
    answered::<DeliveredPayload>("message.delivered", "A member's devices have everything up to a number"),
    answered::<ReadReceiptPayload>("message.read_receipt", "A member has read everything up to a number"),
    answered::<ReceiptsSummaryPayload>("receipts.summary", "How many members have a message, in a large conversation"),
    answered::<TypingPayload>("typing.update", "A member types, or no longer"),
    answered::<PresencePayload>("presence.update", "Whether a user is there changed"),
    answered::<PresenceBulkPayload>("presence.bulk", "Whether users are there, as asked"),
    answered::<Nothing>("feed.complete", "The change feed is served from this region whole"),
    answered::<RegionStatus>("region.status", "Whether a region is in reach changed"),
    answered::<SyncCompletePayload>("sync.complete", "Everything that was asked for was sent"),
    answered::<SyncRequiredPayload>("sync.required", "Too much was missed to be sent: pull"),
    answered::<SyncGapPayload>("sync.gap", "What is left out before the newest"),
    answered::<SyncResponse>("sync.response", "The answer to sync.request"),
    answered::<HistoryResponse>("history.response", "The answer to history.request"),
    answered::<ExplanationPayload>("delivery.explanation", "The answer to delivery.explain"),
    answered::<Refusal>("error", "A frame was refused, with the id of its request"),
];

impl Frame {
    /// The schema of the whole frame.
    fn schema(&self, schemas: &mut Schemas) -> Value {
        let fields = (self.fields)(schemas);
        let kind = json!({ "type": "string", "const": self.kind });
        match self.form {
            Form::Flat => json!({
                "allOf": [fields, { "type": "object", "required": ["type"], "properties": { "type": kind } }]
            }),
            Form::Enveloped => json!({
                "type": "object",
                "required": ["type", "payload"],
                "properties": {
                    "type": kind,
                    "id": { "type": "string", "maxLength": 128, "description": "Echoed by what answers the request." },
                    "payload": fields
                }
            }),
        }
    }

    fn message(&self, schemas: &mut Schemas) -> Value {
        json!({
            "name": self.kind, "title": self.kind, "summary": self.summary,
            "contentType": "application/json", "payload": self.schema(schemas)
        })
    }
}

/// AsyncAPI 3.1 of the frames, the same over both transports.
#[must_use]
pub fn asyncapi() -> Value {
    let mut schemas = Schemas::new();
    let mut messages = Map::new();
    for frame in CLIENT_FRAMES.iter().chain(SERVER_FRAMES) {
        messages.insert(frame.kind.to_owned(), frame.message(&mut schemas));
    }
    let of_channel = |kind: &str| json!({ "$ref": format!("#/channels/session/messages/{kind}") });
    let refs = |frames: &[Frame]| frames.iter().map(|frame| of_channel(frame.kind)).collect::<Vec<_>>();
    let in_channel: Map<String, Value> = messages
        .keys()
        .map(|kind| (kind.clone(), json!({ "$ref": format!("#/components/messages/{kind}") })))
        .collect();
    json!({
        "asyncapi": "3.1.0",
        "info": {
            "title": "Hearth sessions",
            "version": "1",
            "description": "One JSON object a frame, over WebSocket (/ws, the subprotocol hearth.v1 or a token) or on the first \
                bidirectional stream of a WebTransport session (/wt), there with a length of 4 bytes before each. Frames \
                and fields that a client does not know are to be ignored.",
            "license": { "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" }
        },
        "defaultContentType": "application/json",
        "channels": {
            "session": { "address": "/ws", "title": "A session", "messages": in_channel }
        },
        "operations": {
            "fromClient": {
                "action": "receive", "title": "What clients send", "summary": "Frames that an edge takes",
                "channel": { "$ref": "#/channels/session" }, "messages": refs(CLIENT_FRAMES)
            },
            "fromServer": {
                "action": "send", "title": "What edges send", "summary": "Frames that a client is sent",
                "channel": { "$ref": "#/channels/session" }, "messages": refs(SERVER_FRAMES)
            }
        },
        "components": { "messages": messages, "schemas": schemas.all() }
    })
}
