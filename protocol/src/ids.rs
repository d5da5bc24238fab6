//! Identifiers. Each is a type of its own, so that swapped arguments do not compile.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// A conversation, a message or a device: UUIDs, printed in lower case.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            /// The order of the bytes, which is that of their big-endian number: compared without a call, since maps
            /// by id are looked into all the time.
            fn cmp(&self, other: &Self) -> Ordering {
                self.0.as_u128().cmp(&other.0.as_u128())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::try_parse(text).map(Self)
            }
        }
    };
}

uuid_id!(
    /// Names a conversation in the whole mesh.
    ConversationId
);
uuid_id!(
    /// Made by the client; the idempotency key, unique per sender and conversation.
    MessageId
);
uuid_id!(
    /// Stable per device of a user.
    DeviceId
);

/// Why a text is not an identifier of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A user id has 1 to 64 characters of `A-Z a-z 0-9 _ . : @ -`.
    #[error("a user id has 1 to 64 characters of A-Z a-z 0-9 _ . : @ -")]
    User,
    /// A region id is a lower-case name of 1 to 32 characters of `a-z 0-9 -`, starting with a letter.
    #[error("a region id has 1 to 32 characters of a-z 0-9 -, and starts with a letter")]
    Region,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $error:expr, $pattern:literal, $valid:expr) => {
        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }

        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the form of `text`.
            ///
            /// # Errors
            /// [`IdError`] when the form is not that of this kind of id.
            pub fn new(text: impl AsRef<str>) -> Result<Self, IdError> {
                let text = text.as_ref();
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(Arc::from(text))) } else { Err($error) }
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(
    /// Who somebody is: the JWT's `sub`.
    UserId,
    IdError::User,
    "^[A-Za-z0-9_.:@-]{1,64}$",
    |text| (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b':' | b'@' | b'-'))
);
text_id!(
    /// One failure domain with its own stores, named by the operator.
    RegionId,
    IdError::Region,
    "^[a-z][a-z0-9-]{0,31}$",
    |text| (1..=32).contains(&text.len())
        && text.as_bytes()[0].is_ascii_lowercase()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
);

/// One process in a region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub Arc<str>);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Grows each time the home of a log changes hands; the first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl From<u64> for Epoch {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

/// A number in a log: 0 is the header, entries are numbered from 1 without a hole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since the Unix epoch. Decorates; never orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl From<u64> for Timestamp {
    fn from(milliseconds: u64) -> Self {
        Self(milliseconds)
    }
}

/// Where an entry stands: (epoch, sequence).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The epoch under which the entry was sequenced.
    pub epoch: Epoch,
    /// Its number.
    pub sequence: Sequence,
}

/// One of [`Slot::COUNT`] hash slots of log ids; its steward appends to the slot's placement log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u16);

impl Slot {
    /// How many slots there are, for good: placements are stored by slot.
    pub const COUNT: u16 = 4096;

    /// The slot of a log id: the first 12 bits of the SHA-256 of kind and id, so that time-ordered ids spread.
    #[must_use]
    pub fn of(log: &LogId) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &log.to_bytes());
        let bytes = digest.as_ref();
        Self(u16::from_be_bytes([bytes[0], bytes[1]]) >> 4)
    }
}

/// What a log records. The kind is part of its name on wire and disk, so no client frame can name another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum LogKind {
    /// The messages and changes of one conversation.
    Conversation = 1,
    /// The profile, memberships and resident regions of one user.
    User = 2,
    /// The placements of one slot.
    Placement = 3,
}

/// Names a log: kind and id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogId {
    /// What it records.
    pub kind: LogKind,
    /// Its id within the kind.
    pub id: Uuid,
}

impl PartialOrd for LogId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LogId {
    /// The order of [`LogId::to_bytes`]. Ids are compared as big-endian numbers, without a call: maps by log are looked
    /// into many times for each input of a region.
    fn cmp(&self, other: &Self) -> Ordering {
        (self.kind as u8, self.id.as_u128()).cmp(&(other.kind as u8, other.id.as_u128()))
    }
}

impl LogId {
    /// Length of [`LogId::to_bytes`].
    pub const LENGTH: usize = 17;

    /// The log of a conversation.
    #[must_use]
    pub fn conversation(id: ConversationId) -> Self {
        Self { kind: LogKind::Conversation, id: id.0 }
    }

    /// The record of a user: a hash of the user id behind a kind prefix (design.md 4.2).
    #[must_use]
    pub fn user(user: &UserId) -> Self {
        Self { kind: LogKind::User, id: hashed_uuid(&[b"hearth-user-1", user.as_str().as_bytes()]) }
    }

    /// The placement log of a slot.
    #[must_use]
    pub fn placement(slot: Slot) -> Self {
        Self { kind: LogKind::Placement, id: Uuid::from_u128(u128::from(slot.0)) }
    }

    /// The slot of a placement log; `None` for other kinds.
    #[must_use]
    pub fn placement_slot(&self) -> Option<Slot> {
        match self.kind {
            LogKind::Placement => u16::try_from(self.id.as_u128()).ok().filter(|n| *n < Slot::COUNT).map(Slot),
            LogKind::Conversation | LogKind::User => None,
        }
    }

    /// The conversation, if it is one.
    #[must_use]
    pub fn as_conversation(&self) -> Option<ConversationId> {
        match self.kind {
            LogKind::Conversation => Some(ConversationId(self.id)),
            LogKind::User | LogKind::Placement => None,
        }
    }

    /// Kind byte and big-endian id: the key prefix of everything stored about the log.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = self.kind as u8;
        bytes[1..].copy_from_slice(self.id.as_bytes());
        bytes
    }

    /// Reads [`LogId::to_bytes`]; `None` when the length or the kind is unknown.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, id) = bytes.split_first()?;
        let kind = match kind {
            1 => LogKind::Conversation,
            2 => LogKind::User,
            3 => LogKind::Placement,
            _ => return None,
        };
        Some(Self { kind, id: Uuid::from_slice(id).ok()? })
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            LogKind::Conversation => "conversation",
            LogKind::User => "user",
            LogKind::Placement => "placement",
        };
        write!(f, "{kind}:{}", self.id)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The id of the direct conversation of two users: the same from every region and from either side.
///
/// SHA-256 over a kind prefix and the sorted pair, each with its length before it (design.md 4.2).
#[must_use]
pub fn direct_conversation(one: &UserId, other: &UserId) -> ConversationId {
    let (first, second) = if one <= other { (one, other) } else { (other, one) };
    ConversationId(hashed_uuid(&[b"hearth-direct-1", first.as_str().as_bytes(), second.as_str().as_bytes()]))
}

/// The id of a group that a user creates under an idempotency key; `attempt` counts up until the slot suits.
#[must_use]
pub fn group_conversation(creator: &UserId, key: Uuid, attempt: u64) -> ConversationId {
    ConversationId(hashed_uuid(&[
        b"hearth-group-1",
        creator.as_str().as_bytes(),
        key.as_bytes(),
        &attempt.to_be_bytes(),
    ]))
}

/// A UUID of version 8 (RFC 9562 section 5.8, vendor-specific) from the SHA-256 of length-prefixed parts.
pub(crate) fn hashed_uuid(parts: &[&[u8]]) -> Uuid {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let digest = context.finish();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_ref()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_conversation_has_one_id_from_either_side() {
        let (ann, bob) = (UserId::new("ann").expect("valid"), UserId::new("bob").expect("valid"));
        assert_eq!(direct_conversation(&ann, &bob), direct_conversation(&bob, &ann));
        let (a, bbob) = (UserId::new("annb").expect("valid"), UserId::new("ob").expect("valid"));
        assert_ne!(direct_conversation(&ann, &bob), direct_conversation(&a, &bbob));
    }

    #[test]
    fn ids_of_a_wrong_form_are_refused() {
        for bad in ["", "a b", "ä", &"x".repeat(65), "a/b"] {
            assert_eq!(UserId::new(bad), Err(IdError::User), "{bad}");
        }
        for bad in ["", "EU", "1a", "-a", "a_b"] {
            assert_eq!(RegionId::new(bad), Err(IdError::Region), "{bad}");
        }
    }

    #[test]
    fn a_log_id_reads_back_from_its_bytes() {
        let log = LogId::user(&UserId::new("ann").expect("valid"));
        assert_eq!(LogId::from_bytes(&log.to_bytes()), Some(log));
        assert_eq!(LogId::from_bytes(&[9; 17]), None);
        assert_eq!(LogId::from_bytes(&[1; 3]), None);
    }
}
