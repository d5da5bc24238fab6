//! What a client tells its application.

use std::time::Duration;

use hearth_protocol::client::{AckPayload, PresencePayload, QueuedPayload, RefusedPayload};
use hearth_protocol::rest::{ConversationRow, Row};
use hearth_protocol::{ConversationId, DeviceId, ErrorCode, MessageId, Refusal, RegionId, UserId};

/// One step of the stream. Rows of one conversation come in ascending order, without a hole and without a repeat; a
/// position that was acked to this client comes as [`Event::Acked`] and not as a row, unless a resume showed it first.
#[derive(Clone, Debug)]
pub enum Event {
    /// Messages of a conversation above a number have left the line: what was shown of older epochs is void.
    Rewound(hearth_protocol::client::RewoundPayload),
    /// A session lives; everything unacked has been sent again before anything new.
    Connected {
        /// The edge region.
        region: RegionId,
        /// Whether every cursor was or will be served.
        exact: bool,
        /// Whether this region knows all of the user's conversations.
        feed_complete: bool,
        /// Who the token named.
        user: UserId,
        /// As told or made by the server.
        device: DeviceId,
    },
    /// The connection ended, or could not be made; another attempt follows by itself.
    Disconnected {
        /// Why.
        reason: Disconnect,
        /// When the next attempt starts.
        retry_in: Duration,
    },
    /// A position of a conversation.
    Message(Box<Row>),
    /// A message of this client is sequenced and durable.
    Acked(AckPayload),
    /// A message of this client is held by the region and waits: pending, not sent.
    Queued(QueuedPayload),
    /// A queued message will not be sequenced.
    Refused(RefusedPayload),
    /// A request was refused. For a message: it is no longer tried; the same id may be sent again.
    Error {
        /// The message, when the refusal answers one.
        message: Option<MessageId>,
        /// Why.
        refusal: Refusal,
    },
    /// The user joined a conversation.
    ConversationNew(Box<ConversationRow>),
    /// Something but its messages changed.
    ConversationUpdated(Box<ConversationRow>),
    /// A member's devices have everything of a conversation up to a number.
    Delivered(hearth_protocol::client::DeliveredPayload),
    /// A member has read everything up to a number; the user itself, when that was on another device.
    Read(hearth_protocol::client::ReadReceiptPayload),
    /// How many members of a large conversation have a message of this user.
    ReceiptsSummary(hearth_protocol::client::ReceiptsSummaryPayload),
    /// A member types in the conversation on the screen, or does so no longer.
    Typing(hearth_protocol::client::TypingPayload),
    /// Positions that cannot be had; later ones follow.
    Gap {
        /// The conversation.
        conversation: ConversationId,
        /// First position left out.
        from: u64,
        /// Last position left out.
        to: u64,
        /// Why.
        reason: GapReason,
    },
    /// A conversation that this user may no longer read is followed no longer.
    Unfollowed {
        /// The conversation.
        conversation: ConversationId,
        /// What the region said.
        error: ErrorCode,
    },
    /// Who is there: an answer, or a change.
    Presence(Vec<PresencePayload>),
    /// The edge region lost or found another region.
    RegionStatus {
        /// The other region.
        region: RegionId,
        /// Whether it is reached.
        reachable: bool,
    },
    /// This region knows all of the user's conversations now.
    FeedComplete,
    /// The node is leaving; this client moves after the given time by itself.
    Draining {
        /// The slot that this client got.
        reconnect_after: Duration,
    },
    /// The session was refused for good (4001 or 4003). The last event.
    Closed {
        /// The close code.
        code: u16,
        /// A few words of the server.
        reason: String,
    },
}

/// Why positions cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// Retention took them.
    Retention,
    /// This user may not see them.
    Withheld,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// It could not be opened.
    Unreachable(String),
    /// No token could be had.
    NoToken(String),
    /// The server closed it.
    Closed {
        /// The close code.
        code: u16,
        /// A few words of the server.
        reason: String,
    },
    /// The transport ended without a word.
    Lost(String),
    /// The server did not answer in time: heartbeat, `auth` or a message.
    Silent,
    /// The time that a draining server gave has come.
    Drained,
}
