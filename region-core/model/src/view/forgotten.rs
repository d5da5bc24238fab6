//! What a conversation keeps no longer. An operator has a user erased by an entry of each of its conversations, so that
//! every copy knows it, whatever fails over: texts below the entry are shown to nobody, and the sweep of each region takes
//! them away.

use std::collections::BTreeMap;

use hearth_protocol::entry::Forget;
use hearth_protocol::{Change, EntryKind, ErrorCode, Refusal, SealedEntry, Timestamp, UserId};
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

/// What a conversation keeps no longer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// Users that were erased.
    pub users: BTreeMap<UserId, ErasedUser>,
}

impl Forgotten {
    /// Adds one entry.
    pub fn fold(&mut self, sealed: &SealedEntry) {
        let fixed = &sealed.entry.fixed;
        if has_text(fixed.kind) {
            if let Some(erased) = self.users.get_mut(&fixed.sender) {
                erased.wrote_since = true;
            }
        } else if let Some(Forget::User(user)) = sealed.forgets() {
            let erased = ErasedUser { below: fixed.position.sequence.0, at: fixed.time, wrote_since: false };
            self.users.insert(user, erased);
        }
    }

    /// Whether nothing was forgotten.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether the content of a message or an edit was its author's who was erased since.
    #[must_use]
    pub fn hides(&self, sealed: &SealedEntry) -> bool {
        let fixed = &sealed.entry.fixed;
        let erased = self.users.get(&fixed.sender).filter(|_| has_text(fixed.kind));
        erased.is_some_and(|erased| fixed.position.sequence.0 < erased.below)
    }

    /// Whether a user was erased, and wrote nothing since.
    pub(super) fn has_forgotten(&self, user: &UserId) -> bool {
        self.users.get(user).is_some_and(|erased| !erased.wrote_since)
    }

    /// Nothing that an erased user wrote before comes back with a tail. Its deletes do: what they took away stays away.
    pub(super) fn refuse(&self, command: &Command) -> Option<Refusal> {
        let sent = command.original_time.filter(|_| has_text(command.kind) || command.kind == EntryKind::Reaction)?;
        let erased = self.users.get(&command.sender).is_some_and(|erased| sent <= erased.at);
        erased.then(|| Refusal::new(ErrorCode::Expired, "its sender was erased since"))
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
