//! What regions say to each other: prost messages, derived by hand. Unknown fields are skipped, tags are never reused.

mod presence;
mod push;
mod receipts;

use bytes::Bytes;
use prost::Message;

pub use presence::{Presence, PresenceBucket, PresenceDigest, PresenceDigestRow, PresenceEntry};
pub use push::{Push, PushOffer, PushOffers, PushView, PushWatch, PushWatcher};
pub use receipts::{MemberReceipts, Reached, ReceiptDigest, ReceiptDigests, Receipts};

/// One frame of a link.
#[derive(Clone, PartialEq, Message)]
pub struct MeshFrame {
    /// What it says. A frame of a later version's kind reads as `None` and is ignored.
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19")]
    pub body: Option<Body>,
}

/// The kinds of frames.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Body {
    /// A command for a log whose home is the receiver.
    #[prost(message, tag = "1")]
    Forward(Forward),
    /// The answer to a `Forward`. More than one may come: queued first, then the end.
    #[prost(message, tag = "2")]
    Answer(Answer),
    /// Entries of a log for a replica, and the mark.
    #[prost(message, tag = "3")]
    Append(Append),
    /// What a replica holds of a log on disk; cumulative.
    #[prost(message, tag = "4")]
    Appended(Appended),
    /// The lengths of logs that the receiver should hold (anti-entropy).
    #[prost(message, tag = "5")]
    Lengths(Lengths),
    /// The sender wants to hold a log from now on, or no longer.
    #[prost(message, tag = "6")]
    Follow(Follow),
    /// A question.
    #[prost(message, tag = "7")]
    Request(Request),
    /// Its answer.
    #[prost(message, tag = "8")]
    Response(Response),
    /// A question about the region map.
    #[prost(message, tag = "9")]
    MapAsk(MapAsk),
    /// Its answer.
    #[prost(message, tag = "10")]
    MapTell(MapTell),
    /// A follower asks for entries of an open range.
    #[prost(message, tag = "11")]
    Pull(Pull),
    /// The last entries of an open range.
    #[prost(message, tag = "12")]
    Pulled(Pulled),
    /// A steward asks a voter to take nothing below an epoch any more.
    #[prost(message, tag = "13")]
    Seal(Seal),
    /// The voter's durable promise.
    #[prost(message, tag = "14")]
    Sealed(Sealed),
    /// Cursors of members of a conversation.
    #[prost(message, tag = "15")]
    Receipts(Receipts),
    /// What a replica has of the cursors of conversations whose home is the receiver.
    #[prost(message, tag = "16")]
    ReceiptDigests(ReceiptDigests),
    /// A member types.
    #[prost(message, tag = "17")]
    Typing(Typing),
    /// Who is where, and who wants to know.
    #[prost(message, tag = "18")]
    Presence(Presence),
    /// Whose devices are to be woken for what.
    #[prost(message, tag = "19")]
    Push(Push),
}

impl MeshFrame {
    /// Whether a frame may be one of the region map, by its first byte: the key of a field is its tag, and 2 for a
    /// length before it. Such frames go another way than the core's, and the others are not read twice.
    #[must_use]
    pub fn may_be_of_the_map(frame: &[u8]) -> bool {
        const ASK: u8 = 9 << 3 | 2;
        const TELL: u8 = 10 << 3 | 2;
        matches!(frame.first(), Some(&ASK | &TELL))
    }
}

/// A command as it travels to the home.
#[derive(Clone, PartialEq, Message)]
pub struct Forward {
    /// Names this forward between the two regions, while the sender's process lives.
    #[prost(uint64, tag = "1")]
    pub forward_id: u64,
    /// [`crate::LogId::to_bytes`].
    #[prost(bytes = "bytes", tag = "2")]
    pub log: Bytes,
    /// [`crate::EntryKind::number`].
    #[prost(uint32, tag = "3")]
    pub kind: u32,
    /// Who asks.
    #[prost(string, tag = "4")]
    pub sender: String,
    /// The idempotency key, 16 bytes.
    #[prost(bytes = "bytes", tag = "5")]
    pub id: Bytes,
    /// Content: JSON of a message, or a stored change or header.
    #[prost(bytes = "bytes", tag = "6")]
    pub content: Bytes,
    /// 16 bytes, or empty.
    #[prost(bytes = "bytes", tag = "7")]
    pub reply_to: Bytes,
    /// Milliseconds since the epoch; 0 for never.
    #[prost(uint64, tag = "8")]
    pub expires_at: u64,
    /// [`crate::Level`] as a number; 0 for the log's own.
    #[prost(uint32, tag = "9")]
    pub level: u32,
    /// The edge region.
    #[prost(string, tag = "10")]
    pub origin: String,
    /// Set for a message that was parked: the home makes it wait where it refuses others for want of room.
    #[prost(bool, tag = "11")]
    pub parked: bool,
    /// Set for an entry of a tail that comes back: when it was sequenced first, in milliseconds since the epoch.
    #[prost(uint64, tag = "12")]
    pub original_time: u64,
    /// Forwards of one round stand in the order of their devices: a home that refused one for now refuses all of its
    /// round that come after it. 0 for none.
    #[prost(uint64, tag = "13")]
    pub round: u64,
    /// Its place in the round, from 0.
    #[prost(uint64, tag = "14")]
    pub place: u64,
    /// One more than the sequence at which its sender had become a member when the edge took it; 0 for unknown.
    #[prost(uint64, tag = "15")]
    pub joined: u64,
    /// The message that it changes: 16 bytes, or empty.
    #[prost(bytes = "bytes", tag = "16")]
    pub target: Bytes,
}

/// How a command ended, or that it waits.
#[derive(Clone, PartialEq, Message)]
pub struct Answer {
    /// As in the `Forward`.
    #[prost(uint64, tag = "1")]
    pub forward_id: u64,
    /// Set when it was sequenced.
    #[prost(message, optional, tag = "2")]
    pub ack: Option<Ack>,
    /// Set when it was refused.
    #[prost(message, optional, tag = "3")]
    pub refused: Option<Refused>,
    /// Set when it is on the home's disk and waits for copies.
    #[prost(bool, tag = "4")]
    pub copies_missing: bool,
}

/// An ack.
#[derive(Clone, PartialEq, Message)]
pub struct Ack {
    /// Position.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Position.
    #[prost(uint64, tag = "2")]
    pub sequence: u64,
    /// Milliseconds since the epoch.
    #[prost(uint64, tag = "3")]
    pub time: u64,
    /// The home.
    #[prost(string, tag = "4")]
    pub home: String,
    /// The level that it was acked at.
    #[prost(uint32, tag = "5")]
    pub level: u32,
    /// Regions that have it on disk.
    #[prost(string, repeated, tag = "6")]
    pub regions: Vec<String>,
    /// Whether it had been sequenced before this command came.
    #[prost(bool, tag = "7")]
    pub duplicate: bool,
}

/// A refusal.
#[derive(Clone, PartialEq, Message)]
pub struct Refused {
    /// [`crate::ErrorCode::as_str`].
    #[prost(string, tag = "1")]
    pub error: String,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Seconds; 0 for none.
    #[prost(uint64, tag = "3")]
    pub retry_after: u64,
    /// Which limit; empty for none.
    #[prost(string, tag = "4")]
    pub limit: String,
}

/// Entries of one log, in order, behind the predecessor that the first of them names.
#[derive(Clone, PartialEq, Message)]
pub struct Append {
    /// [`crate::LogId::to_bytes`].
    #[prost(bytes = "bytes", tag = "1")]
    pub log: Bytes,
    /// The epoch under which the home sends.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// First sequence of that epoch.
    #[prost(uint64, tag = "3")]
    pub opening: u64,
    /// Hash of the entry before it; empty for the first epoch.
    #[prost(bytes = "bytes", tag = "4")]
    pub opening_hash: Bytes,
    /// Sequence of the first entry; with no entry, the home's length.
    #[prost(uint64, tag = "5")]
    pub first: u64,
    /// Stored forms.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub entries: Vec<Bytes>,
    /// Entries below this one have the copies of their level.
    #[prost(uint64, tag = "7")]
    pub mark: u64,
    /// The voters, sent with the header.
    #[prost(string, repeated, tag = "8")]
    pub voters: Vec<String>,
    /// Hash of the entry before `first`, in a frame without entries: a replica whose last entry is another one is
    /// found at once. Empty where the first entry names it, and from regions that do not know the field.
    #[prost(bytes = "bytes", tag = "9")]
    pub previous: Bytes,
    /// Set in the frame that begins a follower's stream at `first`, with `previous`: what is missing below is pulled.
    #[prost(message, optional, tag = "10")]
    pub begin: Option<Begin>,
    /// The receiver is to vote for the log: it takes a copy though it neither votes yet nor follows.
    #[prost(bool, tag = "11")]
    pub invited: bool,
    /// The answer to [`Appended::joining`], which it repeats: who holds what is named here may count under that
    /// incarnation. 0 for none.
    #[prost(uint64, tag = "12")]
    pub joins: u64,
}

/// What a follower needs to go on at a sequence without the entries before it.
#[derive(Clone, PartialEq, Message)]
pub struct Begin {
    /// The folded state before that sequence, as `region-model` stores it. Empty when it is too large for a frame: the
    /// follower then takes the log from its start.
    #[prost(bytes = "bytes", tag = "1")]
    pub view: Bytes,
    /// Epoch of the entry before that sequence.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Time of that entry, in milliseconds since the epoch.
    #[prost(uint64, tag = "3")]
    pub time: u64,
    /// Where epochs of the line opened, oldest first, as far as the home tells: what sessions of the follower had of older
    /// epochs is judged by these.
    #[prost(message, repeated, tag = "4")]
    pub openings: Vec<Opening>,
}

/// Where an epoch opened.
#[derive(Clone, PartialEq, Message)]
pub struct Opening {
    /// The epoch.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// The first sequence of it.
    #[prost(uint64, tag = "2")]
    pub first: u64,
    /// Hash of the entry before that; zeros for the first epoch.
    #[prost(bytes = "bytes", tag = "3")]
    pub previous: Bytes,
    /// Whether a loss statement goes with it.
    #[prost(bool, tag = "4")]
    pub loss: bool,
}

/// [`Appended::joining`] of a region that has not heard yet which incarnation of its store the region map knows.
pub const NOT_KNOWN_YET: u64 = u64::MAX;

/// What a replica holds.
#[derive(Clone, PartialEq, Message)]
pub struct Appended {
    /// [`crate::LogId::to_bytes`].
    #[prost(bytes = "bytes", tag = "1")]
    pub log: Bytes,
    /// The epoch that it accepted.
    #[prost(uint64, tag = "2")]
    pub accepted: u64,
    /// Entries on disk with nothing missing below.
    #[prost(uint64, tag = "3")]
    pub length: u64,
    /// Set when something arrived that it could not apply: the home sends again from `length`.
    #[prost(bool, tag = "4")]
    pub resend: bool,
    /// Set when its last entry is not the one that the home named: the lines fork.
    #[prost(bool, tag = "5")]
    pub fork: bool,
    /// Set while a range is open at `length`: entries are on disk above it, up to this exclusive end.
    #[prost(uint64, tag = "6")]
    pub above: u64,
    /// Set when an epoch above the home's was promised here: nothing of the home's is taken any more.
    #[prost(uint64, tag = "7")]
    pub newer: u64,
    /// 0 where its store counts. Else what it holds is no copy: the incarnation under which it asks to count, or
    /// [`NOT_KNOWN_YET`].
    #[prost(uint64, tag = "8")]
    pub joining: u64,
}

/// Lengths of logs that the receiver should hold.
#[derive(Clone, PartialEq, Message)]
pub struct Lengths {
    /// One per log.
    #[prost(message, repeated, tag = "1")]
    pub logs: Vec<Length>,
}

/// One log's length at its home.
#[derive(Clone, PartialEq, Message)]
pub struct Length {
    /// [`crate::LogId::to_bytes`].
    #[prost(bytes = "bytes", tag = "1")]
    pub log: Bytes,
    /// The epoch.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Entries on disk at the home.
    #[prost(uint64, tag = "3")]
    pub length: u64,
    /// Hash of the last of them.
    #[prost(bytes = "bytes", tag = "4")]
    pub hash: Bytes,
    /// The mark.
    #[prost(uint64, tag = "5")]
    pub mark: u64,
}

/// A wish to hold a log.
#[derive(Clone, PartialEq, Message)]
pub struct Follow {
    /// [`crate::LogId::to_bytes`].
    #[prost(bytes = "bytes", tag = "1")]
    pub log: Bytes,
    /// What the follower has already.
    #[prost(uint64, tag = "2")]
    pub length: u64,
    /// Set to end it.
    #[prost(bool, tag = "3")]
    pub unfollow: bool,
    /// Set when the follower cannot go on from `length` by entries alone: what it holds above an open range is of an
    /// earlier subscription, and it drops that once it is told where to begin.
    #[prost(bool, tag = "4")]
    pub fresh: bool,
    /// The epoch that the follower has accepted; 0 when it holds nothing.
    #[prost(uint64, tag = "5")]
    pub accepted: u64,
}

/// A follower asks for the last entries of a range that it lacks.
#[derive(Clone, PartialEq, Message)]
pub struct Pull {
    /// [`crate::LogId::to_bytes`].
    #[prost(bytes = "bytes", tag = "1")]
    pub log: Bytes,
    /// The lowest sequence wanted.
    #[prost(uint64, tag = "2")]
    pub from: u64,
    /// Exclusive end. The answer reaches it, and begins where it fits into a frame.
    #[prost(uint64, tag = "3")]
    pub to: u64,
}

/// The answer to a [`Pull`].
#[derive(Clone, PartialEq, Message)]
pub struct Pulled {
    /// [`crate::LogId::to_bytes`].
    #[prost(bytes = "bytes", tag = "1")]
    pub log: Bytes,
    /// Exclusive end of the entries.
    #[prost(uint64, tag = "2")]
    pub to: u64,
    /// Stored forms, ascending.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub entries: Vec<Bytes>,
}

/// A question to another region.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// Names it between the two regions.
    #[prost(uint64, tag = "1")]
    pub request_id: u64,
    /// What is asked.
    #[prost(oneof = "Question", tags = "2, 3, 4")]
    pub question: Option<Question>,
}

/// The kinds of questions.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Question {
    /// The placement of a log, asked of its slot's steward: [`crate::LogId::to_bytes`].
    #[prost(bytes = "bytes", tag = "2")]
    Placement(Bytes),
    /// A client's call, answered where the log is held.
    #[prost(message, tag = "3")]
    Api(ApiCall),
    /// Refusals kept for a device.
    #[prost(message, tag = "4")]
    Refusals(Refusals),
}

/// A client's call that this region cannot answer itself, already authenticated.
#[derive(Clone, PartialEq, Message)]
pub struct ApiCall {
    /// On whose behalf.
    #[prost(string, tag = "1")]
    pub user: String,
    /// The call, as JSON of `region-core`'s type.
    #[prost(bytes = "bytes", tag = "2")]
    pub call: Bytes,
}

/// Refusals kept for a device; asked when it connects elsewhere.
#[derive(Clone, PartialEq, Message)]
pub struct Refusals {
    /// Whose.
    #[prost(string, tag = "1")]
    pub user: String,
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub device: Bytes,
    /// Ids, 16 bytes each, that the device has now: they can be forgotten.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub told: Vec<Bytes>,
}

/// The answer to a question.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    /// As in the request.
    #[prost(uint64, tag = "1")]
    pub request_id: u64,
    /// HTTP status of an API call; 200 for others that have an answer, 404 where there is none.
    #[prost(uint32, tag = "2")]
    pub status: u32,
    /// JSON of an API call, or a stored placement.
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
}

/// A question about the region map: consensus between the regions, and proposals on their way to its leader.
#[derive(Clone, PartialEq, Message)]
pub struct MapAsk {
    /// Names it between the two regions, while the sender's process lives.
    #[prost(uint64, tag = "1")]
    pub request_id: u64,
    /// A version byte and what `region-map` wrote.
    #[prost(bytes = "bytes", tag = "2")]
    pub body: Bytes,
}

/// The answer to a question about the region map.
#[derive(Clone, PartialEq, Message)]
pub struct MapTell {
    /// As in the question.
    #[prost(uint64, tag = "1")]
    pub request_id: u64,
    /// A version byte and what `region-map` wrote.
    #[prost(bytes = "bytes", tag = "2")]
    pub body: Bytes,
}

/// A steward opens an epoch and asks for a promise (design.md 4.3).
#[derive(Clone, PartialEq, Message)]
pub struct Seal {
    /// [`crate::LogId::to_bytes`].
    #[prost(bytes = "bytes", tag = "1")]
    pub log: Bytes,
    /// The epoch below which nothing is to be taken any more.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
}

/// A voter's answer to a [`Seal`]; the promise is on its disk.
#[derive(Clone, PartialEq, Message)]
pub struct Sealed {
    /// [`crate::LogId::to_bytes`].
    #[prost(bytes = "bytes", tag = "1")]
    pub log: Bytes,
    /// The promised epoch; with `newer` set, the one that was asked for.
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// The newest epoch whose opening this voter holds.
    #[prost(uint64, tag = "3")]
    pub accepted: u64,
    /// Entries with nothing missing below.
    #[prost(uint64, tag = "4")]
    pub length: u64,
    /// The hash of the last of them; empty for none.
    #[prost(bytes = "bytes", tag = "5")]
    pub last: Bytes,
    /// Whether the voter's store counts.
    #[prost(bool, tag = "6")]
    pub counts: bool,
    /// An epoch above the asked one that was promised before: there is no promise then.
    #[prost(uint64, tag = "7")]
    pub newer: u64,
}

/// A member of a conversation types, or does so no longer. Never stored; it may be lost.
#[derive(Clone, PartialEq, Message)]
pub struct Typing {
    /// [`crate::LogId::to_bytes`].
    #[prost(bytes = "bytes", tag = "1")]
    pub log: Bytes,
    /// The member.
    #[prost(string, tag = "2")]
    pub user: String,
    /// Whether it types.
    #[prost(bool, tag = "3")]
    pub typing: bool,
}

impl Body {
    /// The stored entries that a frame brings, as encoded.
    #[must_use]
    pub fn stored_entries(&self) -> &[Bytes] {
        match self {
            Self::Append(append) => &append.entries,
            Self::Pulled(pulled) => &pulled.entries,
            _ => &[],
        }
    }

    /// What it is, for counts.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Forward(_) => "forward",
            Self::Answer(_) => "answer",
            Self::Append(_) => "append",
            Self::Appended(_) => "appended",
            Self::Lengths(_) => "lengths",
            Self::Follow(_) => "follow",
            Self::Request(_) => "request",
            Self::Response(_) => "response",
            Self::MapAsk(_) => "map-ask",
            Self::MapTell(_) => "map-tell",
            Self::Pull(_) => "pull",
            Self::Pulled(_) => "pulled",
            Self::Seal(_) => "seal",
            Self::Sealed(_) => "sealed",
            Self::Receipts(_) => "receipts",
            Self::ReceiptDigests(_) => "receipt-digests",
            Self::Typing(_) => "typing",
            Self::Presence(_) => "presence",
            Self::Push(_) => "push",
        }
    }
}
