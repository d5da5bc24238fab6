//! What clients say that they have, until it is looked at: the newest word of each member counts.

use std::collections::BTreeMap;

use hearth_protocol::{Epoch, LogId, UserId};

use super::cursor::Said;

/// What one member said lately of one conversation, under one epoch. `W` names who hears when it is refused.
#[derive(Clone, Debug)]
pub struct Claim<W> {
    /// The member.
    pub user: UserId,
    /// What its devices have.
    pub delivered: Said,
    /// What it has read.
    pub read: Option<Said>,
    /// The last session that said so.
    pub by: W,
}

type Key = (LogId, UserId, Option<Epoch>);

/// Claims that wait, at most so many members and conversations.
#[derive(Debug)]
pub struct Claims<W> {
    waiting: BTreeMap<Key, Claim<W>>,
    most: usize,
}

impl<W> Claims<W> {
    /// None yet, and never more than `most`.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { waiting: BTreeMap::new(), most }
    }

    /// Takes a word. Returns `false`, and takes nothing, when too many wait: the client's next one says as much.
    pub fn take(&mut self, log: LogId, user: UserId, said: Said, read: bool, by: W) -> bool {
        let key = (log, user, said.epoch);
        if let Some(claim) = self.waiting.get_mut(&key) {
            raise(&mut claim.delivered, said);
            if read {
                raise(claim.read.get_or_insert(said), said);
            }
            claim.by = by;
            return true;
        }
        if self.waiting.len() >= self.most {
            return false;
        }
        let claim = Claim { user: key.1.clone(), delivered: said, read: read.then_some(said), by };
        self.waiting.insert(key, claim);
        true
    }

    /// Whether none wait.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// All that wait, by conversation.
    pub fn drain(&mut self) -> BTreeMap<LogId, Vec<Claim<W>>> {
        let mut by_log: BTreeMap<LogId, Vec<Claim<W>>> = BTreeMap::new();
        for ((log, ..), claim) in std::mem::take(&mut self.waiting) {
            by_log.entry(log).or_default().push(claim);
        }
        by_log
    }
}

fn raise(known: &mut Said, said: Said) {
    known.up_to = known.up_to.max(said.up_to);
    known.sent = known.sent.max(said.sent);
}

#[cfg(test)]
mod tests {
    use hearth_protocol::ConversationId;

    use super::*;

    #[test]
    fn of_many_words_of_a_member_one_claim_waits_and_no_more_claims_than_the_bound() {
        let log = |number| LogId::conversation(ConversationId(uuid::Uuid::from_u128(number)));
        let user = |name: &str| UserId::new(name).expect("a name");
        let said = |up_to| Said { up_to, epoch: Some(Epoch(1)), sent: None };
        let mut claims = Claims::new(2);
        for up_to in [3, 9, 7] {
            assert!(claims.take(log(1), user("ann"), said(up_to), up_to == 7, up_to));
        }
        assert!(claims.take(log(1), user("bob"), said(1), false, 1));
        assert!(!claims.take(log(2), user("bob"), said(1), false, 1), "a third does not fit");
        assert!(claims.take(log(1), user("bob"), said(2), false, 2), "one that waits grows");
        let mut drained = claims.drain();
        let of_log = drained.remove(&log(1)).expect("claims");
        assert_eq!((of_log[0].delivered.up_to, of_log[0].read.map(|read| read.up_to)), (9, Some(7)));
        assert_eq!((of_log[1].delivered.up_to, of_log[1].read), (2, None));
        assert!(claims.is_empty() && drained.is_empty());
    }
}
