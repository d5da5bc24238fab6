//! The handle of a running region.

use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::client::{Endpoint, SendPayload};
use hearth_protocol::rest::{
    ApiAnswer, CreateGroup, HistoryQuery, PatchConversation, PatchUser, SyncCursor, SyncRequest,
};
use hearth_protocol::{ConversationId, DeviceId, Epoch, NodeId, Refusal, RegionId, UserId};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::edge::{Connection, EdgeEvent};

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
    /// `POST /sync`.
    Sync {
        /// The body.
        request: SyncRequest,
    },
}

/// A session that the core knows.
#[derive(Debug)]
pub struct Opened {
    /// Give this to [`RegionHandle::send`] and [`RegionHandle::close`].
    pub connection: Arc<Connection>,
    /// What to send to the client.
    pub events: mpsc::Receiver<EdgeEvent>,
    /// Whether this region knows all of the user's conversations. If not, a `feed.complete` frame follows as an event.
    pub feed_complete: bool,
}

/// What a resume of one conversation gives.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Frames `message.new` with their numbers, ascending.
    pub frames: Vec<(u64, Bytes)>,
    /// Epoch of the last number covered.
    pub epoch: Epoch,
    /// The last number that this region may show now.
    pub up_to: u64,
    /// The lowest number that this user may see.
    pub visible_from: u64,
}

/// Whether the region serves, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It serves.
    Ready,
    /// It does not, for this reason.
    NotReady(String),
}

/// A running region. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RegionHandle {}

impl RegionHandle {
    /// The region's name.
    #[must_use]
    pub fn region(&self) -> &RegionId {
        todo!()
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        todo!()
    }

    /// Other regions that clients may try, best first.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        todo!()
    }

    /// Whether the region serves: its store works and it is not draining.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        todo!()
    }

    /// Registers a session. The queue holds `capacity` events. Waits at most about a second for the user's record.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE` or `DRAINING`.
    pub async fn open(&self, user: UserId, device: DeviceId, capacity: usize) -> Result<Opened, Refusal> {
        let _ = (user, device, capacity);
        todo!()
    }

    /// Forgets a session.
    pub fn close(&self, connection: &Connection) {
        let _ = connection;
        todo!()
    }

    /// Takes a `message.send`. The answer (ack, queued or error, with `request` echoed) comes as an event of the
    /// connection, always, also when the core is overloaded.
    pub fn send(&self, connection: &Arc<Connection>, request: Option<String>, send: SendPayload) {
        let _ = (connection, request, send);
        todo!()
    }

    /// Rows of a conversation after `cursor.last_sequence` that the user may see, at most `rows`: the newest of them
    /// when `newest`, else the oldest.
    ///
    /// # Errors
    /// `CONVERSATION_NOT_FOUND` and what a read of the store may meet.
    pub async fn replay(
        &self,
        user: &UserId,
        cursor: &SyncCursor,
        rows: usize,
        newest: bool,
    ) -> Result<Replay, Refusal> {
        let _ = (user, cursor, rows, newest);
        todo!()
    }

    /// Answers a REST call.
    pub async fn api(&self, user: &UserId, call: ApiCall) -> ApiAnswer {
        let _ = (user, call);
        todo!()
    }
}
