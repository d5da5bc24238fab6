//! How far members of conversations are.

use bytes::Bytes;
use prost::Message;

/// Cursors of members of one conversation. Taking them is a maximum: again, late or in another order does no harm.
#[derive(Clone, PartialEq, Message)]
pub struct Receipts {
    /// [`crate::LogId::to_bytes`].
    #[prost(bytes = "bytes", tag = "1")]
    pub log: Bytes,
    /// By member.
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<MemberReceipts>,
    /// Set when the sender wants to be told what the receiver has beyond this, of these members and of those between
    /// `after` and `to`.
    #[prost(bool, tag = "3")]
    pub answer: bool,
    /// With `answer`: the page begins behind this member; empty for the start.
    #[prost(string, tag = "4")]
    pub after: String,
    /// With `answer`: the last member of the page; empty for the end.
    #[prost(string, tag = "5")]
    pub to: String,
    /// Set for words of clients that the sender did not judge, since it holds no copy: the receiver, the home, cuts them
    /// to what it may show, and takes those of members alone.
    #[prost(bool, tag = "6")]
    pub claimed: bool,
}

/// How far one member is.
#[derive(Clone, PartialEq, Message)]
pub struct MemberReceipts {
    /// The member.
    #[prost(string, tag = "1")]
    pub user: String,
    /// What its devices have, ascending by epoch.
    #[prost(message, repeated, tag = "2")]
    pub delivered: Vec<Reached>,
    /// What it has read, ascending by epoch.
    #[prost(message, repeated, tag = "3")]
    pub read: Vec<Reached>,
}

/// How far a member came under one epoch.
#[derive(Clone, PartialEq, Message)]
pub struct Reached {
    /// The epoch.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// The last number.
    #[prost(uint64, tag = "2")]
    pub up_to: u64,
    /// When the member's region took it; milliseconds since the epoch.
    #[prost(uint64, tag = "3")]
    pub at: u64,
}

/// What a replica has of cursors: where it differs, the home sends its own and asks for the replica's.
#[derive(Clone, PartialEq, Message)]
pub struct ReceiptDigests {
    /// By conversation.
    #[prost(message, repeated, tag = "1")]
    pub logs: Vec<ReceiptDigest>,
}

/// The cursors of one conversation in a number.
#[derive(Clone, PartialEq, Message)]
pub struct ReceiptDigest {
    /// [`crate::LogId::to_bytes`].
    #[prost(bytes = "bytes", tag = "1")]
    pub log: Bytes,
    /// The same for the same cursors, whatever their order.
    #[prost(fixed64, tag = "2")]
    pub digest: u64,
}
