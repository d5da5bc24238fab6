//! What edges ask of a region, and regions of each other.

use hearth_protocol::entry::Role;
use hearth_protocol::media::{CreateMedia, MediaId};
use hearth_protocol::push::{PatchPreferences, Subscription};
use hearth_protocol::rest::{CreateGroup, HistoryQuery, PatchConversation, PatchUser, SyncRequest};
use hearth_protocol::{ConversationId, UserId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::delivery::DeliveryCall;
use crate::media::{MediaKnown, TraceQuestion};

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
    /// `POST /media`.
    CreateMedia {
        /// The body.
        media: CreateMedia,
        /// The idempotency key.
        key: Uuid,
    },
    /// `GET /conversations/{id}/media/{mediaId}`.
    MediaLink {
        /// Which conversation.
        id: ConversationId,
        /// Which media.
        media: MediaId,
        /// Under which name they are saved.
        name: Option<String>,
    },
    /// Between regions: a link to media that the other one has, and what it knows of their uses.
    MediaGiven {
        /// Which conversation.
        id: ConversationId,
        /// Which media.
        media: MediaId,
        /// Under which name they are saved.
        name: Option<String>,
    },
    /// Between regions: whether a message is shown to the user that carries media.
    MediaShown {
        /// Which conversation.
        id: ConversationId,
        /// Which media.
        media: MediaId,
        /// What their region knows.
        known: MediaKnown,
    },
    /// Between regions: which entries carry media of the other one, and what became of those that did.
    MediaTrace {
        /// Which conversation.
        id: ConversationId,
        /// What is asked.
        question: TraceQuestion,
    },
    /// Between regions: whether the user is a member.
    Member {
        /// Of which conversation.
        id: ConversationId,
    },
    /// `POST /sync`.
    Sync {
        /// The body.
        request: SyncRequest,
    },
}
