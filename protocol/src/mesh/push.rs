//! Between the home of a conversation, the homes of its members' records, and the regions where their devices are.

use bytes::Bytes;
use prost::Message;

use super::MemberReceipts;

/// Wishes for messages, messages, and what is on screens. All of it may be lost: wishes are said again, and messages are
/// offered again from what they say is decided.
#[derive(Clone, PartialEq, Message)]
pub struct Push {
    /// From the home of users' records to the home of conversations.
    #[prost(message, repeated, tag = "1")]
    pub watches: Vec<PushWatch>,
    /// From the home of conversations to the home of users' records.
    #[prost(message, repeated, tag = "2")]
    pub offers: Vec<PushOffers>,
    /// From a region with sessions to the home of the user's record.
    #[prost(message, repeated, tag = "3")]
    pub views: Vec<PushView>,
}

/// The sender wants the messages of a conversation for users with push subscriptions, from what it has decided on.
#[derive(Clone, PartialEq, Message)]
pub struct PushWatch {
    /// [`crate::LogId::to_bytes`].
    #[prost(bytes = "bytes", tag = "1")]
    pub log: Bytes,
    /// Users to be added, or all of them.
    #[prost(message, repeated, tag = "2")]
    pub users: Vec<PushWatcher>,
    /// Set when the receiver forgets first whom the sender named before; without users that is all.
    #[prost(bool, tag = "3")]
    pub fresh: bool,
}

/// One user of a [`PushWatch`].
#[derive(Clone, PartialEq, Message)]
pub struct PushWatcher {
    /// The user.
    #[prost(string, tag = "1")]
    pub user: String,
    /// Up to where it is decided, or where the user joined.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Up to where it is decided, or where the user joined.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
    /// Nothing is decided yet, and what was sequenced before this is not wanted; milliseconds since the epoch, 0 for never.
    #[prost(uint64, tag = "4")]
    pub since: u64,
    /// With `since`: another region may have decided before. Where the receiver does not know how far, only what was
    /// sequenced in the last minute is wanted.
    #[prost(bool, tag = "5")]
    pub taken_over: bool,
}

/// Messages of a conversation, ascending, up to the mark.
#[derive(Clone, PartialEq, Message)]
pub struct PushOffers {
    /// [`crate::LogId::to_bytes`].
    #[prost(bytes = "bytes", tag = "1")]
    pub log: Bytes,
    /// The first number that this covers. A receiver that has less before it asks again.
    #[prost(uint64, tag = "2")]
    pub from: u64,
    /// The exclusive end of what this covers: numbers without an item are no messages.
    #[prost(uint64, tag = "3")]
    pub to: u64,
    /// The epoch of the entry before `from`.
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
    /// Set in the first frame after a [`PushWatch`]: whatever was offered before, this goes on from what that said.
    #[prost(bool, tag = "5")]
    pub begins: bool,
    /// The messages.
    #[prost(message, repeated, tag = "6")]
    pub items: Vec<PushOffer>,
    /// How far users of the watch have read.
    #[prost(message, repeated, tag = "7")]
    pub reads: Vec<MemberReceipts>,
    /// Users of the watch who are no members any more.
    #[prost(string, repeated, tag = "8")]
    pub gone: Vec<String>,
    /// Where it begins for users of whom nothing was decided: `epoch` and `sequence` of the last that is not wanted.
    #[prost(message, repeated, tag = "9")]
    pub starts: Vec<PushWatcher>,
}

/// One message.
#[derive(Clone, PartialEq, Message)]
pub struct PushOffer {
    /// Position.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Position.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// Its id, 16 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub message: Bytes,
    /// Who wrote it.
    #[prost(string, tag = "4")]
    pub sender: String,
    /// Users of the watch whom it names.
    #[prost(string, repeated, tag = "5")]
    pub mentions: Vec<String>,
    /// Milliseconds since the epoch.
    #[prost(uint64, tag = "6")]
    pub sequenced_at: u64,
    /// When its content goes; milliseconds since the epoch, 0 for never.
    #[prost(uint64, tag = "7")]
    pub expires_at: u64,
}

/// What a device has on its screen.
#[derive(Clone, PartialEq, Message)]
pub struct PushView {
    /// The user.
    #[prost(string, tag = "1")]
    pub user: String,
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub device: Bytes,
    /// [`crate::LogId::to_bytes`] of the conversation; empty for none.
    #[prost(bytes = "bytes", tag = "3")]
    pub log: Bytes,
}
