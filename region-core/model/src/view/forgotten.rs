//! What a conversation keeps no longer. An operator has a user erased by an entry of each of its conversations, and a home
//! raises the floor by one, so that every copy knows it, whatever fails over: texts of the user below the entry, and
//! everything below the floor, are shown to nobody, and the sweep of each region takes them away.

use std::collections::BTreeMap;

use hearth_protocol::entry::Forget;
use hearth_protocol::{Change, EntryKind, ErrorCode, Hash, Refusal, SealedEntry, Timestamp, UserId};
use serde::{Deserialize, Serialize};

use crate::command::Command;

/// Sender of everything that a region asks for by itself begins with this.
const REGION: &str = "region:";

/// Until when the texts of a user are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasedUser {
    /// The number of the entry that says so: texts below it are gone.
    pub below: u64,
    /// When that was sequenced: what was sent before it does not come back with a tail.
    pub at: Timestamp,
    /// Whether the user wrote something since.
    pub wrote_since: bool,
}

/// Where retention left a conversation to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// The lowest number that is shown.
    pub sequence: u64,
    /// Everything below it was sequenced until then, everything else later.
    pub before: Timestamp,
    /// Hash of the entry below it.
    pub previous: Hash,
}

/// What a conversation keeps no longer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// Users that were erased.
    pub users: BTreeMap<UserId, ErasedUser>,
    /// The floor, once it was raised.
    pub floor: Option<Floor>,
}

impl Forgotten {
    /// Adds one entry.
    pub fn fold(&mut self, sealed: &SealedEntry) {
        let fixed = &sealed.entry.fixed;
        if has_text(fixed.kind) {
            if let Some(erased) = self.users.get_mut(&fixed.sender) {
                erased.wrote_since = true;
            }
            return;
        }
        match sealed.forgets() {
            Some(Forget::User(user)) => {
                let erased = ErasedUser { below: fixed.position.sequence.0, at: fixed.time, wrote_since: false };
                self.users.insert(user, erased);
            }
            Some(Forget::Below { floor, before, previous, .. }) if floor > self.floor() => {
                self.floor = Some(Floor { sequence: floor, before, previous });
            }
            Some(Forget::Below { .. }) | None => {}
        }
    }

    /// The lowest number that is shown, from 1.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor.map_or(1, |floor| floor.sequence.max(1))
    }

    /// Whether nothing was forgotten.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.floor.is_none()
    }

    /// Whether the content of a message or an edit is gone: it stands below the floor, or its author was erased since.
    #[must_use]
    pub fn hides(&self, sealed: &SealedEntry) -> bool {
        let fixed = &sealed.entry.fixed;
        let (number, erased) = (fixed.position.sequence.0, self.users.get(&fixed.sender));
        has_text(fixed.kind) && (number < self.floor() || erased.is_some_and(|erased| number < erased.below))
    }

    /// Whether a user was erased, and wrote nothing since.
    pub(super) fn has_forgotten(&self, user: &UserId) -> bool {
        self.users.get(user).is_some_and(|erased| !erased.wrote_since)
    }

    /// Nothing that an erased user wrote before comes back with a tail, nor what retention is over for. Deletes do: what they
    /// took away stays away.
    pub(super) fn refuse(&self, command: &Command) -> Option<Refusal> {
        let sent = command.original_time.filter(|_| has_text(command.kind) || command.kind == EntryKind::Reaction)?;
        let refusal = |message: &'static str| Some(Refusal::new(ErrorCode::Expired, message));
        if self.users.get(&command.sender).is_some_and(|erased| sent <= erased.at) {
            return refusal("its sender was erased since");
        }
        if self.floor.is_some_and(|floor| sent <= floor.before) {
            return refusal("retention is over for it");
        }
        None
    }
}

fn has_text(kind: EntryKind) -> bool {
    matches!(kind, EntryKind::Message | EntryKind::Edit)
}

/// What a region asks to be kept no longer. Whoever else asks is told that there is no such change.
pub(super) fn forget_of(command: &Command) -> Option<Forget> {
    if command.kind != EntryKind::System || !command.sender.as_str().starts_with(REGION) {
        return None;
    }
    match Change::decode(&command.content)? {
        Change::Forget(forget) => Some(forget),
        _ => None,
    }
}
