//! The core as the edge needs it. Tests put another one behind it.

use std::sync::Arc;

use async_trait::async_trait;
use hearth_protocol::client::{
    Endpoint, PresenceSetRequest, PresenceUsersRequest, ReceiptPayload, Submission, TypingRequest,
};
use hearth_protocol::rest::{ApiAnswer, SyncCursor};
use hearth_protocol::{ConversationId, DeviceId, Epoch, Refusal, UserId};
use region_core::{ApiCall, Connection, Opened, QueueBounds, Readiness, RegionHandle, Replay};

/// What an edge asks of its region. The contract of each call stands at [`RegionHandle`].
#[async_trait]
pub trait Core: Send + Sync + std::fmt::Debug + 'static {
    /// The region's name.
    fn region(&self) -> &hearth_protocol::RegionId;
    /// The node's name.
    fn node(&self) -> &hearth_protocol::NodeId;
    /// Other regions that clients may try, best first.
    fn endpoints(&self) -> Vec<Endpoint>;
    /// Whether the region serves.
    fn readiness(&self) -> Readiness;
    /// Registers a session.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE` or `DRAINING`.
    async fn open(&self, user: UserId, device: DeviceId, bounds: QueueBounds) -> Result<Opened, Refusal>;
    /// Forgets a session.
    fn close(&self, connection: &Connection);
    /// Takes a `message.send`, or a change of an earlier message; the answer comes as an event.
    fn send(&self, connection: &Arc<Connection>, request: Option<String>, send: Submission);
    /// Takes a receipt; `sent` is what the session was sent last of the conversation. An error comes as an event.
    fn receipt(
        &self,
        connection: &Arc<Connection>,
        request: Option<String>,
        receipt: &ReceiptPayload,
        sent: Option<(Epoch, u64)>,
    );
    /// Takes a start or a stop of typing. An error comes as an event.
    fn typing(&self, connection: &Arc<Connection>, request: Option<String>, typing: TypingRequest);
    /// Takes what is on the session's screen. An error comes as an event.
    fn conversation_view(
        &self,
        connection: &Arc<Connection>,
        request: Option<String>,
        conversation: Option<ConversationId>,
    );
    /// Takes what a device says of itself.
    fn presence_set(&self, connection: &Arc<Connection>, set: PresenceSetRequest);
    /// Takes a subscription to presence, or its end. The answer comes as an event.
    fn presence_users(&self, connection: &Arc<Connection>, request: Option<String>, users: PresenceUsersRequest);
    /// Takes that a session went to the background, or came back.
    fn client_state(&self, connection: &Arc<Connection>, background: bool);
    /// Rows after a cursor.
    ///
    /// # Errors
    /// `CONVERSATION_NOT_FOUND` and what a read of the store may meet.
    async fn replay(&self, user: &UserId, cursor: &SyncCursor, rows: usize, newest: bool) -> Result<Replay, Refusal>;
    /// Answers a REST call.
    async fn api(&self, user: &UserId, call: ApiCall) -> ApiAnswer;
}

#[async_trait]
impl Core for RegionHandle {
    fn region(&self) -> &hearth_protocol::RegionId {
        Self::region(self)
    }

    fn node(&self) -> &hearth_protocol::NodeId {
        Self::node(self)
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        Self::endpoints(self)
    }

    fn readiness(&self) -> Readiness {
        Self::readiness(self)
    }

    async fn open(&self, user: UserId, device: DeviceId, bounds: QueueBounds) -> Result<Opened, Refusal> {
        Self::open(self, user, device, bounds).await
    }

    fn close(&self, connection: &Connection) {
        Self::close(self, connection);
    }

    fn send(&self, connection: &Arc<Connection>, request: Option<String>, send: Submission) {
        Self::send(self, connection, request, send);
    }

    fn receipt(
        &self,
        connection: &Arc<Connection>,
        request: Option<String>,
        receipt: &ReceiptPayload,
        sent: Option<(Epoch, u64)>,
    ) {
        Self::receipt(self, connection, request, receipt, sent);
    }

    fn typing(&self, connection: &Arc<Connection>, request: Option<String>, typing: TypingRequest) {
        Self::typing(self, connection, request, typing);
    }

    fn conversation_view(
        &self,
        connection: &Arc<Connection>,
        request: Option<String>,
        conversation: Option<ConversationId>,
    ) {
        Self::conversation_view(self, connection, request, conversation);
    }

    fn presence_set(&self, connection: &Arc<Connection>, set: PresenceSetRequest) {
        Self::presence_set(self, connection, set);
    }

    fn presence_users(&self, connection: &Arc<Connection>, request: Option<String>, users: PresenceUsersRequest) {
        Self::presence_users(self, connection, request, users);
    }

    fn client_state(&self, connection: &Arc<Connection>, background: bool) {
        Self::client_state(self, connection, background);
    }

    async fn replay(&self, user: &UserId, cursor: &SyncCursor, rows: usize, newest: bool) -> Result<Replay, Refusal> {
        Self::replay(self, user, cursor, rows, newest).await
    }

    async fn api(&self, user: &UserId, call: ApiCall) -> ApiAnswer {
        Self::api(self, user, call).await
    }
}
