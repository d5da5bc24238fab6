//! Stored records other than entries. Each is a version byte and postcard; an unknown version is an error, never a guess.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::entry::{EntryKind, Forget, Hash};
use crate::ids::{ConversationId, DeviceId, Epoch, LogId, MessageId, Position, RegionId, Timestamp, UserId};
use crate::placement::Level;

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by another version.
    #[error("the record has version {0:?}, which this build does not read")]
    Version(Option<u8>),
    /// The bytes do not decode.
    #[error("the record does not decode")]
    Form,
}

/// A stored record: a version byte, then postcard.
pub trait Record: Serialize + for<'a> Deserialize<'a> {
    /// The version that this build writes. Above 1, `decode` reads the older ones, too.
    const VERSION: u8 = 1;

    /// The stored form.
    #[must_use]
    fn encode(&self) -> Vec<u8> {
        self.encode_into(Vec::new())
    }

    /// Adds the stored form to `bytes`.
    #[must_use]
    fn encode_into(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.push(Self::VERSION);
        postcard::to_extend(self, bytes).expect("records hold nothing that postcard refuses")
    }

    /// Reads [`Record::encode`].
    ///
    /// # Errors
    /// [`RecordError`] for another version and for bytes that do not decode.
    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        match bytes.split_first() {
            Some((1, rest)) => postcard::from_bytes(rest).map_err(|_| RecordError::Form),
            other => Err(RecordError::Version(other.map(|(version, _)| *version))),
        }
    }
}

/// Where an epoch opened: (epoch, first sequence of it), and the hash of the entry before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The epoch.
    pub epoch: Epoch,
    /// The first sequence of it. The first epoch of a log opens at 0, with its header.
    pub first: u64,
    /// Hash of the entry at `first - 1`; zeros for the first epoch.
    pub previous: Hash,
    /// Whether a loss statement goes with it.
    pub loss: bool,
}

/// What a region keeps about a log that it holds, beside its entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// The home that the region last knew.
    pub home: RegionId,
    /// The voters that it last knew.
    pub voters: Vec<RegionId>,
    /// The newest epoch whose opening this log holds, by hash.
    pub accepted: Epoch,
    /// The newest epoch that this region promised: it takes nothing below.
    pub sealed: Epoch,
    /// All openings, oldest first.
    pub openings: Vec<Opening>,
    /// The lowest sequence that retention left.
    pub floor: u64,
    /// Entries below this one were published (fan-out log, push queue). Written 0 and read by nobody in this version:
    /// what is published so far has a durable mark of its own. Replicas: what each says is on its disk, compared at
    /// every link and on a timer. The outbox: its items are in the commit of the entry, and stay until they are done.
    /// Sessions: they end with the process, and a resume reads from the client's own number on.
    pub published: u64,
    /// Ranges `[from, to)` still to be pulled, ascending.
    pub open_ranges: Vec<(u64, u64)>,
    /// The incarnation of this region's store under which its copy counts: it has held since all that the log's home had
    /// then. 0 for none. Version 1, which does not say it, is of a first incarnation.
    pub incarnation: u64,
}

/// What dedup remembers of an entry: enough for its first ack, and longer than its text lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DedupRecord {
    /// Where the entry stands.
    pub position: Position,
    /// When it was sequenced.
    pub time: Timestamp,
    /// The salted digest of its content, as in the entry.
    pub digest: Hash,
    /// The message that it answers.
    pub reply_to: Option<Uuid>,
    /// The level that it was acked at.
    pub level: Level,
}

/// A send that an edge region holds until the home can sequence it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedSend {
    /// Order within the region; grows.
    pub number: u64,
    /// The conversation.
    pub conversation: ConversationId,
    /// Who sent it.
    pub sender: UserId,
    /// From which device: parked sends go out in the order of each device.
    pub device: DeviceId,
    /// Its id.
    pub id: MessageId,
    /// Compact JSON of a message's content; a stored change for every other kind.
    pub content: Bytes,
    /// The message that it answers.
    pub reply_to: Option<Uuid>,
    /// When its content is to be removed.
    pub expires_at: Option<Timestamp>,
    /// The level that the send asked for.
    pub level: Option<Level>,
    /// When it was parked.
    pub parked_at: Timestamp,
    /// Set once it will not be sequenced: code and message, kept until the device has it.
    pub refused: Option<(String, String)>,
    /// The sequence at which its sender had become a member when it was taken, where that was known. Since version 2.
    pub joined: Option<u64>,
    /// What it asks for. Versions 1 and 2 knew messages alone; in version 3, which is written for everything else, this and
    /// the target stand behind the rest.
    #[serde(skip, default = "message")]
    pub kind: EntryKind,
    /// The message that it changes.
    #[serde(skip)]
    pub target: Option<Uuid>,
}

fn message() -> EntryKind {
    EntryKind::Message
}

/// What was done to a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MessageChange {
    /// It has other content.
    Edited,
    /// Its content is gone.
    Deleted,
    /// A reaction came or went.
    Reacted {
        /// What it shows.
        emoji: String,
        /// Whether it came.
        added: bool,
    },
    /// Not of one message: something is kept no longer, in all of the log below the entry. It stands at number 0.
    Forgotten(Forget),
}

impl MessageChange {
    /// Whether content goes with it, which a sweep takes away.
    #[must_use]
    pub fn takes_content(&self) -> bool {
        matches!(self, Self::Deleted | Self::Forgotten(_))
    }

    /// The emoji of a reaction, and whether it came.
    #[must_use]
    pub fn reaction(&self) -> Option<(&str, bool)> {
        match self {
            Self::Reacted { emoji, added } => Some((emoji, *added)),
            Self::Edited | Self::Deleted | Self::Forgotten(_) => None,
        }
    }
}

/// A change of an earlier message, found by the message's number: what its row shows at present is the fold of these.
/// Written in the commit of the entry that makes the change, and gone with it; the entries alone give it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRecord {
    /// The message's number; 0 for what concerns the whole log.
    pub target: u64,
    /// The position of the entry that changes it.
    pub position: Position,
    /// Who did it.
    pub sender: UserId,
    /// When it was done: for one that was re-admitted after a failover, the first time.
    pub time: Timestamp,
    /// What.
    pub what: MessageChange,
}

/// A membership that the home of a user must hear of; written in the commit of the entry that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRecord {
    /// The conversation.
    pub log: LogId,
    /// Where the membership changed.
    pub position: Position,
    /// Whose.
    pub user: UserId,
    /// In or out.
    pub joined: bool,
}

/// How far a member came under one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// The epoch.
    pub epoch: Epoch,
    /// The last number.
    pub up_to: u64,
    /// When the member's region took it.
    pub at: Timestamp,
}

/// How far a member of a conversation is: state beside the log, of which losing the newest does no harm (other regions
/// have it, or the member's client says it again).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorRecord {
    /// The conversation.
    pub log: LogId,
    /// The member.
    pub user: UserId,
    /// What its devices have, ascending by epoch.
    pub delivered: Vec<Reached>,
    /// What it has read, ascending by epoch.
    pub read: Vec<Reached>,
}

/// What is kept of push decisions on one conversation of a user whose record has its home here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushRecord {
    /// The epoch of the user's record under which it was decided: under another one somebody else decided since.
    pub epoch: Epoch,
    /// Up to where it is decided.
    pub decided: Option<Position>,
    /// What the user's devices show, ascending, each with whether it names the user.
    pub shown: Vec<(Position, bool)>,
}

/// A push that waits for one of its user's subscriptions. It holds a position and never text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushJobRecord {
    /// Whose.
    pub user: UserId,
    /// Which of the user's subscriptions.
    pub subscription: Uuid,
    /// The conversation that it is about.
    pub conversation: ConversationId,
    /// The newest message that it is about.
    pub position: Position,
    /// How many are unread, whether one names the user, and when the newest's content goes; `None` when nothing is to be
    /// shown any more.
    pub notify: Option<(u32, bool, Option<Timestamp>)>,
    /// When nobody is to be woken by it any more.
    pub not_after: Timestamp,
}

/// Media that a region has, or that may still be put. It holds no name: that stands in the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaRecord {
    /// Who puts them.
    pub uploader: UserId,
    /// What they are.
    pub content_type: String,
    /// Bytes.
    pub size: u64,
    /// When they were asked for.
    pub created_at: Timestamp,
    /// Until when the upload may begin.
    pub upload_until: Timestamp,
    /// Whether the bytes were seen in the store.
    pub stored: bool,
    /// Entries of the conversation that carry them.
    pub uses: Vec<Position>,
    /// Whether an entry that carried them, and of which only the place is known, was put apart by a failover, and no other
    /// was seen since.
    pub rewound: bool,
    /// The ids of the entries of `uses`, as far as they are known; nil where one is not.
    #[serde(skip)]
    pub carriers: Vec<Uuid>,
    /// The ids of entries that carried them, were put apart by a failover, and have not come back.
    #[serde(skip)]
    pub apart: Vec<Uuid>,
}

/// How far a conversation was looked through for media of this region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaScanRecord {
    /// The last entry that was looked at.
    pub scanned: Option<Position>,
}

/// Who a store is. A store that is new, empty or restored is a new incarnation (design.md 4.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreIdentity {
    /// Made when the store was made.
    pub store: Uuid,
    /// The region that it belongs to.
    pub region: RegionId,
    /// Counted up at each open.
    pub incarnation: u64,
}

impl Record for ParkedSend {
    const VERSION: u8 = 3;

    fn encode_into(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        const ENCODES: &str = "records hold nothing that postcard refuses";
        let plain = self.kind == EntryKind::Message && self.target.is_none();
        bytes.push(if plain { 2 } else { Self::VERSION });
        let bytes = postcard::to_extend(self, bytes).expect(ENCODES);
        if plain { bytes } else { postcard::to_extend(&(self.kind, self.target), bytes).expect(ENCODES) }
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let form = |_| RecordError::Form;
        match bytes.split_first() {
            // Version 1 ends before the field that version 2 added at the end; a zero is its `None`.
            Some((1, rest)) => postcard::from_bytes(&[rest, &[0]].concat()).map_err(form),
            Some((2, rest)) => postcard::from_bytes(rest).map_err(form),
            Some((3, rest)) => {
                let (mut send, behind) = postcard::take_from_bytes::<Self>(rest).map_err(form)?;
                (send.kind, send.target) = postcard::from_bytes(behind).map_err(form)?;
                Ok(send)
            }
            other => Err(RecordError::Version(other.map(|(version, _)| *version))),
        }
    }
}

impl Record for LogRecord {
    const VERSION: u8 = 2;

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        match bytes.split_first() {
            // Version 1 ends before the field that version 2 added at the end: a first incarnation.
            Some((1, rest)) => postcard::from_bytes(&[rest, &[1]].concat()).map_err(|_| RecordError::Form),
            Some((2, rest)) => postcard::from_bytes(rest).map_err(|_| RecordError::Form),
            other => Err(RecordError::Version(other.map(|(version, _)| *version))),
        }
    }
}

impl Record for DedupRecord {}
impl Record for ChangeRecord {}
impl Record for OutboxRecord {}
impl Record for CursorRecord {}
impl Record for PushRecord {}
impl Record for PushJobRecord {}
/// Version 2 adds the ids of entries behind what version 1 has; a record without any is written as version 1.
impl Record for MediaRecord {
    const VERSION: u8 = 2;

    fn encode_into(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        const ENCODES: &str = "records hold nothing that postcard refuses";
        let plain = self.carriers.is_empty() && self.apart.is_empty();
        bytes.push(if plain { 1 } else { Self::VERSION });
        let bytes = postcard::to_extend(self, bytes).expect(ENCODES);
        if plain { bytes } else { postcard::to_extend(&(&self.carriers, &self.apart), bytes).expect(ENCODES) }
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let form = |_| RecordError::Form;
        match bytes.split_first() {
            Some((1, rest)) => postcard::from_bytes(rest).map_err(form),
            Some((2, rest)) => {
                let (mut record, behind) = postcard::take_from_bytes::<Self>(rest).map_err(form)?;
                (record.carriers, record.apart) = postcard::from_bytes(behind).map_err(form)?;
                Ok(record)
            }
            other => Err(RecordError::Version(other.map(|(version, _)| *version))),
        }
    }
}
impl Record for MediaScanRecord {}
impl Record for StoreIdentity {}
