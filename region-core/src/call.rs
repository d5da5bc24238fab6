//! What edges ask of a region, and regions of each other.

use hearth_protocol::entry::Role;
use hearth_protocol::push::{PatchPreferences, Subscription};
use hearth_protocol::rest::{CreateGroup, HistoryQuery, PatchConversation, PatchUser, SyncRequest};
use hearth_protocol::{ConversationId, UserId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::delivery::DeliveryCall;

/// An authenticated REST call (or the frame that shares its body). `key` is the `Idempotency-Key`, or made by the edge.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ApiCall {
    /// `POST /conversations`.
    CreateDirect {
        /// The other user.
        other: UserId,
    },
    /// `POST /groups`.
    CreateGroup {
        /// The body.
        group: CreateGroup,
        /// The idempotency key.
        key: Uuid,
        /// Whether the client gave the key: then an earlier try may have been made, anywhere.
        keyed: bool,
    },
    /// `GET /conversations`.
    Feed {
        /// From an earlier answer.
        cursor: Option<String>,
        /// 1 to 200.
        limit: Option<u64>,
    },
    /// `GET /conversations/{id}`.
    Conversation {
        /// Which.
        id: ConversationId,
    },
    /// `GET /conversations/{id}/members`.
    Members {
        /// Which.
        id: ConversationId,
        /// From an earlier answer.
        cursor: Option<String>,
        /// 1 to 1,000.
        limit: Option<u64>,
    },
    /// `GET /conversations/{id}/messages`.
    History {
        /// Which.
        id: ConversationId,
        /// Which rows.
        query: HistoryQuery,
    },
    /// `GET /conversations/{id}/messages/{sequence}/edits`.
    Edits {
        /// Which conversation.
        id: ConversationId,
        /// Which message.
        sequence: u64,
    },
    /// `POST /conversations/{id}/members`.
    AddMembers {
        /// Which.
        id: ConversationId,
        /// Who.
        users: Vec<UserId>,
        /// The idempotency key.
        key: Uuid,
    },
    /// `DELETE /conversations/{id}/members/{userId}`.
    RemoveMember {
        /// Which.
        id: ConversationId,
        /// Who; oneself to leave.
        user: UserId,
        /// The idempotency key.
        key: Uuid,
    },
    /// `PATCH /conversations/{id}/members/{userId}`.
    SetRole {
        /// Which conversation.
        id: ConversationId,
        /// Whose.
        user: UserId,
        /// From now on.
        role: Role,
        /// The idempotency key.
        key: Uuid,
    },
    /// `PATCH /conversations/{id}`.
    PatchConversation {
        /// Which.
        id: ConversationId,
        /// What.
        patch: PatchConversation,
        /// The idempotency key.
        key: Uuid,
    },
    /// `GET /users/{id}`.
    User {
        /// Who.
        id: UserId,
    },
    /// `PATCH /users/me`.
    PatchMe {
        /// What.
        patch: PatchUser,
    },
    /// `PUT` and `DELETE /users/me/blocks/{userId}`.
    Block {
        /// Whom.
        user: UserId,
        /// Whether it is blocked from now on.
        blocked: bool,
    },
    /// Between regions: since when the user blocks another one.
    BlockedSince {
        /// Whom.
        other: UserId,
    },
    /// `PATCH /conversations/{id}/preferences`.
    SetPreferences {
        /// Which conversation.
        id: ConversationId,
        /// What.
        patch: PatchPreferences,
    },
    /// `POST /push-subscriptions`.
    SubscribePush {
        /// The subscription, its form checked.
        subscription: Subscription,
    },
    /// `DELETE /push-subscriptions`.
    UnsubscribePush {
        /// Which.
        id: Uuid,
    },
    /// `GET /push-subscriptions`.
    PushSubscriptions,
    /// `delivery.explain`, and what regions ask each other for it.
    Delivery(DeliveryCall),
    /// `POST /sync`.
    Sync {
        /// The body.
        request: SyncRequest,
    },
}
