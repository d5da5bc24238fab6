//! Who is where, between regions.

use prost::Message;

/// Presence between two regions: each asks for the users that its sessions subscribe to, and is told of them. Never
/// stored; digests show what was lost.
#[derive(Clone, PartialEq, Message)]
pub struct Presence {
    /// Of the sender's process: what another one said is void.
    #[prost(fixed64, tag = "1")]
    pub incarnation: u64,
    /// Users that the sender asks for from now on.
    #[prost(string, repeated, tag = "2")]
    pub add: Vec<String>,
    /// Users that it asks for no longer.
    #[prost(string, repeated, tag = "3")]
    pub drop: Vec<String>,
    /// All users of some buckets that it asks for, in place of what the receiver has there.
    #[prost(message, repeated, tag = "4")]
    pub whole: Vec<PresenceBucket>,
    /// What the sender says of users that the receiver asks for.
    #[prost(message, repeated, tag = "5")]
    pub entries: Vec<PresenceEntry>,
    /// What the sender asks for and was told, in numbers.
    #[prost(message, optional, tag = "6")]
    pub digest: Option<PresenceDigest>,
    /// Buckets of which the receiver is to say whole what it asks for.
    #[prost(uint32, repeated, tag = "7")]
    pub wanted: Vec<u32>,
    /// Set once the sender compared a digest of the receiver and has told what differed.
    #[prost(bool, tag = "8")]
    pub compared: bool,
}

/// The users of one bucket that a region asks for.
#[derive(Clone, PartialEq, Message)]
pub struct PresenceBucket {
    /// Which.
    #[prost(uint32, tag = "1")]
    pub bucket: u32,
    /// Who.
    #[prost(string, repeated, tag = "2")]
    pub users: Vec<String>,
}

/// What a region says of one user's devices that are connected to it.
#[derive(Clone, PartialEq, Message)]
pub struct PresenceEntry {
    /// Who.
    #[prost(string, tag = "1")]
    pub user: String,
    /// Grows with each change of any user; 0 for a user that the region knows nothing of.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// [`crate::client::PresenceStatus::number`].
    #[prost(uint32, tag = "3")]
    pub status: u32,
    /// [`crate::client::DeviceType::number`].
    #[prost(uint32, tag = "4")]
    pub device_type: u32,
    /// Milliseconds since the epoch; 0 for none.
    #[prost(uint64, tag = "5")]
    pub last_seen: u64,
    /// Whether the user hides when it was there last: nobody is told, whatever is known of it.
    #[prost(bool, tag = "6")]
    pub hides_last_seen: bool,
}

/// What a region asks of another and what it was told, by bucket; one that is left out has neither.
#[derive(Clone, PartialEq, Message)]
pub struct PresenceDigest {
    /// By bucket.
    #[prost(message, repeated, tag = "1")]
    pub rows: Vec<PresenceDigestRow>,
}

/// One bucket in two numbers.
#[derive(Clone, PartialEq, Message)]
pub struct PresenceDigestRow {
    /// Which.
    #[prost(uint32, tag = "1")]
    pub bucket: u32,
    /// Over the users asked for.
    #[prost(fixed64, tag = "2")]
    pub asked: u64,
    /// Over those users and the versions told of them.
    #[prost(fixed64, tag = "3")]
    pub told: u64,
}
