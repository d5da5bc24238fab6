//! The entry of a log: as stored and as replicated, chained by hash.
//!
//! Stored form, version 1: `version | header length, u32 big-endian | header, postcard | 0 or 1 | salt and content`.
//! The hash of an entry is the SHA-256 of everything before the content flag, and each header carries the hash of the
//! entry before it and a salted digest of its content. So content can be removed later (delete, expiry, erasure) and
//! the chain still verifies.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{ConversationId, Epoch, Position, RegionId, Sequence, Timestamp, UserId};
use crate::placement::{Level, PartitionMode, Placement, PlacementV1};
use crate::push::{PushPolicy, Subscription};
use crate::record::MessageChange;
pub use crate::withheld::{Forget, Privacy};

/// A SHA-256.
pub type Hash = [u8; 32];

/// Version byte of the stored form that this build writes.
pub const ENTRY_VERSION: u8 = 1;
/// Bytes of the salt before the content.
pub const SALT_BYTES: usize = 16;

/// What an entry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EntryKind {
    /// Opens the log at sequence 0; takes no number.
    Header,
    /// A message.
    Message,
    /// New content for an earlier message.
    Edit,
    /// Takes an earlier message's content away.
    Delete,
    /// A reaction to an earlier message.
    Reaction,
    /// Members come, go or change their role.
    Member,
    /// Name, settings, durability, partition mode or allowed regions change.
    System,
    /// A change of a user record.
    User,
    /// A placement of a log.
    Placement,
}

impl EntryKind {
    /// Whether a session sends entries of this kind by a frame: they keep the order of their device, are parked while
    /// the home is out of reach, and are acked.
    #[must_use]
    pub fn is_sent(self) -> bool {
        matches!(self, Self::Message) || self.changes_message()
    }

    /// Whether it changes an earlier message.
    #[must_use]
    pub fn changes_message(self) -> bool {
        matches!(self, Self::Edit | Self::Delete | Self::Reaction)
    }

    /// The kind as clients see it; `None` for kinds that no client sees.
    #[must_use]
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Message => Some("message"),
            Self::Edit => Some("edit"),
            Self::Delete => Some("delete"),
            Self::Reaction => Some("reaction"),
            Self::Member => Some("member"),
            Self::System => Some("system"),
            Self::Header | Self::User | Self::Placement => None,
        }
    }

    /// The number on the mesh wire.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Header => 0,
            Self::Message => 1,
            Self::Edit => 2,
            Self::Delete => 3,
            Self::Reaction => 4,
            Self::Member => 5,
            Self::System => 6,
            Self::User => 7,
            Self::Placement => 8,
        }
    }

    /// Reads [`EntryKind::number`].
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Header,
            1 => Self::Message,
            2 => Self::Edit,
            3 => Self::Delete,
            4 => Self::Reaction,
            5 => Self::Member,
            6 => Self::System,
            7 => Self::User,
            8 => Self::Placement,
            _ => return None,
        })
    }
}

/// One entry of a log. Content of a message is compact JSON; of every other kind a [`Change`] or [`Header`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the chain and the digest cover, and what stays when content goes.
    pub fixed: Fixed,
    /// Salt and content; `None` once removed.
    pub content: Option<(Bytes, Bytes)>,
}

/// The part of an entry that stays until the floor passes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixed {
    /// Where it stands.
    pub position: Position,
    /// What it does.
    pub kind: EntryKind,
    /// Who sent it; for entries that a region makes itself, `region:<name>`.
    pub sender: UserId,
    /// The idempotency key.
    pub id: Uuid,
    /// When it was sequenced; never decreases along the log.
    pub time: Timestamp,
    /// The level that it asks for.
    pub level: Level,
    /// SHA-256 of salt and content.
    pub digest: Hash,
    /// Hash of the entry before it; zeros for the header.
    pub previous: Hash,
    /// The region whose edge took it.
    pub origin: RegionId,
    /// The message that it answers.
    pub reply_to: Option<Uuid>,
    /// The message that it changes.
    pub target: Option<Uuid>,
    /// When its content is to be removed.
    pub expires_at: Option<Timestamp>,
    /// Its first time, when it was re-admitted after a failover.
    pub original_time: Option<Timestamp>,
}

/// Why bytes are not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Fewer bytes than the form needs.
    #[error("the entry is cut short")]
    Short,
    /// Written by another version.
    #[error("the entry has version {0}, this build reads {ENTRY_VERSION}")]
    Version(u8),
    /// The header does not decode.
    #[error("the entry's header does not decode")]
    Header,
    /// The content is not what the digest says.
    #[error("the content of the entry does not match its digest")]
    Digest,
}

/// An entry with its encoded bytes and its hash, made once and shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedEntry {
    /// The entry.
    pub entry: Entry,
    /// Its stored form.
    pub encoded: Bytes,
    /// Its hash: the `previous` of the next entry.
    pub hash: Hash,
}

/// SHA-256 of salt and content.
#[must_use]
pub fn content_digest(salt: &[u8], content: &[u8]) -> Hash {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(salt);
    context.update(content);
    as_hash(&context.finish())
}

fn as_hash(digest: &aws_lc_rs::digest::Digest) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

impl SealedEntry {
    /// Encodes and hashes an entry.
    #[must_use]
    pub fn seal(entry: Entry) -> Arc<Self> {
        let header = postcard::to_stdvec(&entry.fixed).expect("a fixed part always encodes");
        let content_length = entry.content.as_ref().map_or(0, |(salt, content)| salt.len() + content.len());
        let mut encoded = BytesMut::with_capacity(6 + header.len() + content_length);
        encoded.put_u8(ENTRY_VERSION);
        encoded.put_u32(u32::try_from(header.len()).expect("a header is a few hundred bytes"));
        encoded.put_slice(&header);
        let hash = as_hash(&aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &encoded));
        match &entry.content {
            Some((salt, content)) => {
                encoded.put_u8(1);
                encoded.put_slice(salt);
                encoded.put_slice(content);
            }
            None => encoded.put_u8(0),
        }
        Arc::new(Self { entry, encoded: encoded.freeze(), hash })
    }

    /// Decodes the stored form; the content shares the bytes given.
    ///
    /// # Errors
    /// [`EntryError`] when the bytes are short, of another version, do not decode, or the content is not the one that
    /// the digest names.
    pub fn decode(encoded: Bytes) -> Result<Arc<Self>, EntryError> {
        let version = *encoded.first().ok_or(EntryError::Short)?;
        if version != ENTRY_VERSION {
            return Err(EntryError::Version(version));
        }
        let length = encoded.get(1..5).ok_or(EntryError::Short)?;
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let end = 5usize.checked_add(length).ok_or(EntryError::Short)?;
        let header = encoded.get(5..end).ok_or(EntryError::Short)?;
        let fixed: Fixed = postcard::from_bytes(header).map_err(|_| EntryError::Header)?;
        let hash = as_hash(&aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &encoded[..end]));
        let content = match encoded.get(end).ok_or(EntryError::Short)? {
            0 => None,
            _ => {
                let salt_end = end + 1 + SALT_BYTES;
                if encoded.len() < salt_end {
                    return Err(EntryError::Short);
                }
                let (salt, content) = (encoded.slice(end + 1..salt_end), encoded.slice(salt_end..));
                if content_digest(&salt, &content) != fixed.digest {
                    return Err(EntryError::Digest);
                }
                Some((salt, content))
            }
        };
        Ok(Arc::new(Self { entry: Entry { fixed, content }, encoded, hash }))
    }

    /// Its number.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.entry.fixed.position.sequence
    }

    /// Its epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.entry.fixed.position.epoch
    }

    /// The content's bytes, when they are still there.
    #[must_use]
    pub fn content(&self) -> Option<&Bytes> {
        self.entry.content.as_ref().map(|(_, content)| content)
    }

    /// The change that an entry of a kind other than `Message` and `Header` carries.
    #[must_use]
    pub fn change(&self) -> Option<Change> {
        Change::decode(self.content()?)
    }

    /// The number of the message that it changes, and how. `None` for entries that change none, and where the content is
    /// gone.
    #[must_use]
    pub fn change_of_message(&self) -> Option<(u64, MessageChange)> {
        if !self.entry.fixed.kind.changes_message() {
            return None;
        }
        match self.change()? {
            Change::Edit { target, .. } => Some((target, MessageChange::Edited)),
            Change::Delete { target } => Some((target, MessageChange::Deleted)),
            Change::Reaction { target, emoji, added } => Some((target, MessageChange::Reacted { emoji, added })),
            _ => None,
        }
    }

    /// What it says is kept no longer.
    #[must_use]
    pub fn forgets(&self) -> Option<Forget> {
        if !matches!(self.entry.fixed.kind, EntryKind::System | EntryKind::User) {
            return None;
        }
        match self.change()? {
            Change::Forget(forget) => Some(forget),
            _ => None,
        }
    }

    /// The same entry without its content: position, hash and digest stay.
    #[must_use]
    pub fn without_content(&self) -> Arc<Self> {
        Self::seal(Entry { fixed: self.entry.fixed.clone(), content: None })
    }

    /// The header that an entry of kind `Header` carries.
    #[must_use]
    pub fn header(&self) -> Option<Header> {
        Header::decode(self.content()?)
    }
}

/// A role in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May change members and settings.
    Admin,
    /// May write, unless the settings say otherwise.
    Member,
}

/// What kind of conversation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ConversationKind {
    /// Two users.
    Direct,
    /// Up to 1,000 members.
    Group,
    /// Large, few writers.
    Channel,
}

/// Whether new members see what was written before they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum HistoryForNewMembers {
    /// They see all.
    #[default]
    All,
    /// They see what comes after their join.
    None,
}

/// Settings of a group or channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Only admins may send.
    pub only_admins_can_post: bool,
    /// Members may add members.
    pub allow_member_invites: bool,
    /// What new members see.
    pub history_for_new_members: HistoryForNewMembers,
    /// Days that messages are kept.
    pub retention_days: u32,
}

/// Settings that may be changed, each where it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsChange {
    /// Only admins may send.
    pub only_admins_can_post: Option<bool>,
    /// Members may add members.
    pub allow_member_invites: Option<bool>,
    /// Days that messages are kept.
    pub retention_days: Option<u32>,
}

impl SettingsChange {
    /// Settings with this change.
    pub fn apply(&self, settings: &mut Settings) {
        if let Some(only_admins) = self.only_admins_can_post {
            settings.only_admins_can_post = only_admins;
        }
        if let Some(invites) = self.allow_member_invites {
            settings.allow_member_invites = invites;
        }
        if let Some(days) = self.retention_days {
            settings.retention_days = days;
        }
    }
}

/// How members change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberAction {
    /// They are added, with a role.
    Add(Role),
    /// They are removed by somebody else.
    Remove,
    /// They leave by themselves.
    Leave,
    /// They get another role.
    Role(Role),
}

/// What an entry of a kind other than `Message` and `Header` changes. Variants are appended, never re-ordered: the
/// stored form is their index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Members of a conversation; one membership request is one entry.
    Members {
        /// What happens to them.
        action: MemberAction,
        /// Who.
        users: Vec<UserId>,
    },
    /// A new name of a conversation.
    Name(String),
    /// A new default level of a conversation.
    Durability(Level),
    /// User record: the user is in a conversation since this position.
    Joined {
        /// The conversation.
        conversation: ConversationId,
        /// The position of the membership.
        position: Position,
    },
    /// User record: the user is out of a conversation since this position.
    Removed {
        /// The conversation.
        conversation: ConversationId,
        /// The position of the membership change.
        position: Position,
    },
    /// User record: a device of the user was connected at a region.
    Resident {
        /// The region.
        region: RegionId,
        /// When.
        at: Timestamp,
    },
    /// User record: no device was connected at the region for the resident time.
    Left {
        /// The region.
        region: RegionId,
        /// The last connect that the region knew of: a later one makes this void.
        last_connect: Timestamp,
    },
    /// User record: the profile.
    Profile {
        /// A new display name; an inner `None` takes it away.
        display_name: Option<Option<String>>,
        /// A new avatar; an inner `None` takes it away.
        avatar_url: Option<Option<String>>,
    },
    /// Placement log: a log's placement, which replaces the one of `replaces`.
    Place {
        /// The epoch that it replaces; `None` for a first placement.
        replaces: Option<Epoch>,
        /// The placement.
        placement: Placement,
    },
    /// What a conversation does from now on while its home is out of reach.
    PartitionMode(PartitionMode),
    /// New content of an earlier message.
    Edit {
        /// The message's number; 0 until the home knows it.
        target: u64,
        /// Compact JSON.
        content: String,
    },
    /// An earlier message's content is taken away.
    Delete {
        /// The message's number; 0 until the home knows it.
        target: u64,
    },
    /// A reaction to an earlier message comes or goes.
    Reaction {
        /// The message's number; 0 until the home knows it.
        target: u64,
        /// What it shows.
        emoji: String,
        /// Whether it comes.
        added: bool,
    },
    /// Settings of a group or channel that are others from now on.
    Settings(SettingsChange),
    /// Something is kept no longer.
    Forget(Forget),
    /// User record: what the user withholds from others.
    Privacy(Privacy),
    /// User record: a device is to be woken. It replaces what the same device had at the same service.
    Subscribed(Subscription),
    /// User record: a push subscription is over.
    Unsubscribed {
        /// Which.
        id: Uuid,
        /// The last time of registering that whoever ends it knew of: a later one makes this void.
        registered_until: Timestamp,
    },
    /// User record: what the user wants to be woken for in a conversation; absent fields stay.
    Preferred {
        /// The conversation.
        conversation: ConversationId,
        /// Until when nothing of it; an inner `None` ends a mute.
        muted_until: Option<Option<Timestamp>>,
        /// What for.
        policy: Option<PushPolicy>,
    },
}

/// What opens a log, at sequence 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Header {
    /// A conversation.
    Conversation {
        /// Direct, group or channel.
        kind: ConversationKind,
        /// The name, of groups and channels.
        name: Option<String>,
        /// The settings.
        settings: Settings,
        /// The first members.
        members: Vec<(UserId, Role)>,
    },
    /// A user record.
    User {
        /// Whose.
        user: UserId,
    },
    /// A placement log.
    Placement,
}

/// Version byte before every change and header.
pub(crate) const CHANGE_VERSION: u8 = 1;
/// Version byte before a placement: version 1 knew no generation and no opening.
const PLACE_VERSION: u8 = 2;
/// The number of [`Change::Place`] in the stored form.
const PLACE_VARIANT: u8 = 8;

fn encode_versioned<T: Serialize>(value: &T) -> Bytes {
    Bytes::from(postcard::to_extend(value, vec![CHANGE_VERSION]).expect("changes and headers always encode"))
}

fn decode_versioned<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    let (version, rest) = bytes.split_first()?;
    if *version == CHANGE_VERSION { postcard::from_bytes(rest).ok() } else { None }
}

impl Change {
    /// The same, of the message at a number. What changes no message stays as it is.
    #[must_use]
    pub fn of_message(mut self, number: u64) -> Self {
        if let Self::Edit { target, .. } | Self::Delete { target } | Self::Reaction { target, .. } = &mut self {
            *target = number;
        }
        self
    }

    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Place { .. } => {
                Bytes::from(postcard::to_extend(self, vec![PLACE_VERSION]).expect("changes and headers always encode"))
            }
            _ => encode_versioned(self),
        }
    }

    /// Reads [`Change::encode`]; `None` for another version or bytes that do not decode.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [PLACE_VERSION, rest @ ..] => postcard::from_bytes(rest).ok(),
            [CHANGE_VERSION, PLACE_VARIANT, rest @ ..] => {
                let (replaces, placement): (Option<Epoch>, PlacementV1) = postcard::from_bytes(rest).ok()?;
                Some(Self::Place { replaces, placement: placement.into() })
            }
            _ => decode_versioned(bytes),
        }
    }
}

impl Header {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode_versioned(self)
    }

    /// Reads [`Header::encode`]; `None` for another version or bytes that do not decode.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        decode_versioned(bytes)
    }
}
