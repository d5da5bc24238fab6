//! What a user withholds from others: when it was there last, and everything from whom it blocks.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::entry::Privacy;
use hearth_protocol::{Refusal, Timestamp, UserId, limits};
use serde::{Deserialize, Serialize};

/// What a user's record says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivacyState {
    /// Whether nobody is told when the user was there last.
    pub hides_last_seen: bool,
    /// Whom the user blocks, and since when.
    pub blocks: BTreeMap<UserId, Timestamp>,
    /// Who blocks the user.
    pub blocked_by: BTreeSet<UserId>,
}

impl PrivacyState {
    /// Whether nothing is withheld.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn fold(&mut self, privacy: Privacy, time: Timestamp) {
        match privacy {
            Privacy::ShowLastSeen(shows) => self.hides_last_seen = !shows,
            Privacy::Block { user, blocked: true } => {
                self.blocks.entry(user).or_insert(time);
            }
            Privacy::Block { user, blocked: false } => drop(self.blocks.remove(&user)),
            Privacy::BlockedBy { user, blocked: true } => drop(self.blocked_by.insert(user)),
            Privacy::BlockedBy { user, blocked: false } => drop(self.blocked_by.remove(&user)),
        }
    }

    pub(super) fn is_so(&self, privacy: &Privacy) -> bool {
        match privacy {
            Privacy::ShowLastSeen(shows) => self.hides_last_seen != *shows,
            Privacy::Block { user, blocked } => self.blocks.contains_key(user) == *blocked,
            Privacy::BlockedBy { user, blocked } => self.blocked_by.contains(user) == *blocked,
        }
    }

    pub(super) fn refuse(&self, privacy: &Privacy) -> Option<Refusal> {
        let most = limits::BLOCKED_USERS;
        let is_full = matches!(privacy, Privacy::Block { blocked: true, .. }) && self.blocks.len() >= most;
        is_full.then(|| Refusal::too_large("too many blocked users", format!("{most} blocked users")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("a valid name")
    }

    #[test]
    fn a_block_stands_from_its_first_word_until_it_is_taken_back_and_each_side_is_its_own() {
        let mut state = PrivacyState::default();
        let block = |blocked| Privacy::Block { user: user("ben"), blocked };
        assert!(state.is_so(&block(false)) && state.is_so(&Privacy::ShowLastSeen(true)) && state.is_empty());
        state.fold(block(true), Timestamp(5));
        state.fold(block(true), Timestamp(9));
        state.fold(Privacy::BlockedBy { user: user("cem"), blocked: true }, Timestamp(9));
        assert_eq!((state.blocks.get(&user("ben")), state.is_so(&block(true))), (Some(&Timestamp(5)), true));
        state.fold(block(false), Timestamp(10));
        state.fold(block(true), Timestamp(11));
        assert_eq!(state.blocks.get(&user("ben")), Some(&Timestamp(11)));
        assert!(state.blocked_by.contains(&user("cem")) && !state.blocked_by.contains(&user("ben")));
        state.fold(Privacy::ShowLastSeen(false), Timestamp(12));
        assert!(state.hides_last_seen);
    }
}
