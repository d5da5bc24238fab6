//! Where a message is on its way to a user: `delivery.explain` and its answer. No text of a message is in either.

use serde::{Deserialize, Serialize};

use crate::error::Refusal;
use crate::ids::{ConversationId, Epoch, MessageId, RegionId, Timestamp, UserId};

/// `delivery.explain`: names the message by its id or by its number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ExplainRequest {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The message, by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    /// The message, by its number; at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = crate::limits::SEQUENCE)))]
    pub sequence_number: Option<u64>,
    /// To whom.
    pub user_id: UserId,
}

/// What names a message in its conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MessageName {
    /// The id that its client gave it.
    Id(MessageId),
    /// Its number.
    Number(u64),
}

impl ExplainRequest {
    /// What it names.
    ///
    /// # Errors
    /// `INVALID_MESSAGE` for none or both of `messageId` and `sequenceNumber`, and for a number that is none.
    pub fn name(&self) -> Result<MessageName, Refusal> {
        match (self.message_id, self.sequence_number) {
            (Some(id), None) => Ok(MessageName::Id(id)),
            (None, Some(number)) if (1..=crate::limits::SEQUENCE).contains(&number) => Ok(MessageName::Number(number)),
            (None, Some(_)) => Err(Refusal::invalid("sequenceNumber is at least 1")),
            _ => Err(Refusal::invalid("name the message by `messageId` or by `sequenceNumber`, and not by both")),
        }
    }
}

/// A step on the way of a message, in the order of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum HopKind {
    /// The edge region took it from the sender's session.
    EdgeIn,
    /// The edge region told the sender that it holds the message for its home.
    Queued,
    /// The edge region put it on the link to its home, the last time that it did.
    Forwarded,
    /// It is in the log, on the disk of its home.
    HomeAppend,
    /// The edge region told the sender that it is sequenced, at its level.
    Acked,
    /// Its home put it on the link to another region, the last time that it did.
    LinkOut,
    /// It came in at a region that holds a copy.
    LinkIn,
    /// It is in the copy of a region, on disk.
    ReplicaApply,
    /// A region handed it to sessions of the user.
    EdgeOut,
    /// A client of the user said that it has it; by the clock of that client's region.
    ClientReceived,
    /// A client of the user said that it was read; by the clock of that client's region.
    ClientRead,
}

/// A step that was taken, by the clock of its region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// Which.
    pub hop: HopKind,
    /// Where, and so whose clock the time is of. Absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionId>,
    /// The region at the other end of the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<RegionId>,
    /// When, in milliseconds since the epoch.
    pub at: Timestamp,
    /// Microseconds beyond that, 0 to 999, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micros: Option<u16>,
}

/// Why a message is not further now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum BlockReason {
    /// Its edge region holds it for its home.
    Parked,
    /// It was refused, and the refusal waits for its device.
    Refused,
    /// Its edge region sent it to its home, which has not answered.
    OnItsWay,
    /// Its home may not number messages now: it has no lease, or another one is being made.
    HomeNotServing,
    /// It is in the log and not shown: voters lack it that its level counts.
    CopiesMissing,
    /// It is shown no earlier than what stands before it in the log, which waits for copies.
    BehindAnother,
    /// The copy of a region that the user is connected to lacks it.
    ReplicaBehind,
    /// The copy is there, and the region has not heard that it may be shown.
    NotMarked,
    /// A region that the user is connected to holds no copy of the conversation yet.
    NotFollowed,
    /// Nothing is known of a region that may matter: it is out of reach.
    OutOfReach,
    /// The user has no session.
    NoSession,
    /// A session of the user does not take what is sent to it.
    SessionSlow,
    /// A session of the user was told to pull it.
    SessionPulls,
    /// The user connected after it was shown, and has not asked for it.
    NotAskedFor,
    /// A session of the user was sent it, and the client has not said that it has it.
    NotReceived,
    /// The user is no member of the conversation.
    NotAMember,
    /// The user came later, and the conversation shows new members nothing from before.
    JoinedLater,
    /// The user blocks its sender.
    Blocked,
    /// Retention took it.
    BelowFloor,
    /// Its content was deleted, expired, or its sender erased: the row stays.
    ContentGone,
    /// No region that was reached knows it.
    Unknown,
}

/// What holds a message up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// Why.
    pub reason: BlockReason,
    /// The region where it is held up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionId>,
    /// The regions that it waits for: the end of a link, or voters that lack it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<RegionId>,
    /// Whether the link between `region` and the one that it waits for is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_up: Option<bool>,
    /// Since when, in milliseconds since the epoch, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The same for people.
    pub text: String,
}

/// Why a region knows no hops of before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum KeptWhy {
    /// They are kept for an hour.
    Hour,
    /// Its process started then.
    Start,
    /// It had room for no more: the oldest went.
    Full,
}

/// From when on a region knows hops, by its own clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct KeptHops {
    /// The region.
    pub region: RegionId,
    /// Since when, in milliseconds since the epoch.
    pub since: Timestamp,
    /// Why not of before.
    pub why: KeptWhy,
}

/// How far a message is for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It is on its way; `blocks` say what it waits for.
    Waiting,
    /// It will not come to the user; `blocks` say why.
    Withheld,
    /// A client of the user has it.
    Delivered,
    /// The user has read it.
    Read,
    /// The user sent it.
    Own,
}

/// `delivery.explanation`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ExplanationPayload {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The message, where its id is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    /// Its number, once it has one that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence_number: Option<u64>,
    /// The epoch of that number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// The home of the conversation, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<RegionId>,
    /// To whom.
    pub user_id: UserId,
    /// How far it is.
    pub state: DeliveryState,
    /// What it waits for now, nearest to its sender first; none once it is delivered.
    pub blocks: Vec<Block>,
    /// The steps that it took, in the order of the way. Each time is of the clock of its own region: between regions
    /// they may differ by as much as their clocks do.
    pub hops: Vec<Hop>,
    /// From when on each region that was asked knows hops.
    pub kept: Vec<KeptHops>,
    /// Regions that could not be asked.
    pub out_of_reach: Vec<RegionId>,
}
