//! Frames between clients and edges: one JSON object a frame, as `protocol.md` fixes them.

mod changes;
mod content;
mod delivery;
mod from_client;
mod from_server;
mod json;
mod presence;

pub use changes::{Asked, ChangePayload, Submission};
pub use content::{Content, ContentType};
pub use delivery::{
    Block, BlockReason, DeliveryState, ExplainRequest, ExplanationPayload, Hop, HopKind, KeptHops, KeptWhy, MessageName,
};
pub use from_client::{
    AuthPayload, ClientFrame, FrameError, FrameLimits, HistoryRequest, ReceiptPayload, ResumePayload, SendPayload,
    TypingRequest, ViewRequest, parse_client_frame,
};
pub use from_server::{
    AckDurability, AckPayload, ClosePayload, Connected, DeliveredPayload, Draining, Endpoint, QueuedPayload,
    QueuedReason, ReadReceiptPayload, ReceiptsSummaryPayload, RefusedPayload, RewoundPayload, ServerFrame,
    SyncCompletePayload, SyncGapPayload, SyncRequiredPayload, SyncedUpTo, TypingPayload, encode_message_new,
    encode_server_frame,
};
pub use json::json_depth_exceeds;
pub use presence::{
    Certainty, ChosenStatus, ClientState, ClientStateRequest, DeviceType, PresenceBulkPayload, PresencePayload,
    PresenceSetRequest, PresenceStatus, PresenceUsersRequest,
};

/// Close codes of a session. Every code but 4001 and 4003 means: reconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum CloseCode {
    /// No credentials, or not good ones.
    Unauthorized = 4001,
    /// Not allowed here.
    Forbidden = 4003,
    /// 90 s without a frame.
    HeartbeatLost = 4008,
    /// The node is leaving.
    Draining = 4009,
    /// The client does not read fast enough: reconnect and sync.
    SlowConsumer = 4010,
    /// The token of a live session ran out.
    TokenExpired = 4011,
    /// Too many refusals.
    RateLimited = 4029,
    /// What cannot be read as a frame.
    Malformed = 4400,
}

impl CloseCode {
    /// Every code.
    pub const ALL: &'static [Self] = &[
        Self::Unauthorized,
        Self::Forbidden,
        Self::HeartbeatLost,
        Self::Draining,
        Self::SlowConsumer,
        Self::TokenExpired,
        Self::RateLimited,
        Self::Malformed,
    ];

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u16 {
        self as u16
    }

    /// A few words for people.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::HeartbeatLost => "heartbeat lost",
            Self::Draining => "draining, reconnect",
            Self::SlowConsumer => "slow consumer, reconnect and sync",
            Self::TokenExpired => "token expired, refresh",
            Self::RateLimited => "rate limited",
            Self::Malformed => "malformed",
        }
    }
}
