//! What entries say is kept no longer, or withheld from others.

use serde::{Deserialize, Serialize};

use crate::entry::Hash;
use crate::ids::{Timestamp, UserId};

/// What is kept no longer, from the entry on that says so. Variants are appended, never re-ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forget {
    /// What a user said so far: in a conversation the texts of its messages and edits, in its own record its profile.
    /// Positions, senders and hashes stay.
    User(UserId),
    /// What stands below a number, which is the floor from then on: nobody is shown a row of it, and its texts go.
    Below {
        /// The floor until then.
        from: u64,
        /// The floor.
        floor: u64,
        /// Everything below it was sequenced until then, everything else later.
        before: Timestamp,
        /// Hash of the entry below it: the chain is anchored there.
        previous: Hash,
    },
}

impl Forget {
    /// The user whose texts go.
    #[must_use]
    pub fn user(&self) -> Option<&UserId> {
        match self {
            Self::User(user) => Some(user),
            Self::Below { .. } => None,
        }
    }

    /// The floor from then on.
    #[must_use]
    pub fn floor(&self) -> Option<u64> {
        match self {
            Self::Below { floor, .. } => Some(*floor),
            Self::User(_) => None,
        }
    }
}

/// What a user withholds from others. Variants are appended, never re-ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Privacy {
    /// Whether others are told when the user was there last.
    ShowLastSeen(bool),
    /// The user blocks another one, or does so no longer.
    Block {
        /// Whom.
        user: UserId,
        /// Whether it is blocked from now on.
        blocked: bool,
    },
    /// Another user blocks this one, or does so no longer. The user itself is never told.
    BlockedBy {
        /// Who.
        user: UserId,
        /// Whether that one blocks it from now on.
        blocked: bool,
    },
}
