//! When members' cursors passed a number, for the last hour: a ring of moves, each chained to the one before it of the
//! same member. A cursor itself says only when it came where it is now.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hearth_protocol::{ConversationId, Timestamp, UserId};

use super::book::KEPT_MICROSECONDS;
use crate::receipts::Change;

/// One move of a cursor.
#[derive(Clone, Copy, Debug)]
struct Move {
    /// Hash of conversation, member and which cursor.
    whose: u64,
    from: u64,
    up_to: u64,
    /// When the member's region took it, in milliseconds since the epoch.
    at: u64,
    /// The number of the move before it of the same cursor; 0 for none.
    before: u64,
}

/// Which cursor of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorKind {
    /// What its devices have.
    Delivered,
    /// What it has read.
    Read,
}

/// The last moves, at most so many; the oldest go first.
#[derive(Debug)]
pub struct MoveBook {
    moves: VecDeque<Move>,
    most: usize,
    /// The number of the first of `moves`; numbers begin at 1.
    first: u64,
    newest: HashTable<u64>,
    hasher: FixedState,
}

impl MoveBook {
    /// An empty one for at most `most` moves, at least 1. `seed` as for [`super::HopBook`].
    #[must_use]
    pub fn new(most: usize, seed: u64) -> Self {
        let most = most.max(1);
        Self {
            moves: VecDeque::with_capacity(most),
            most,
            first: 1,
            newest: HashTable::with_capacity(most),
            hasher: FixedState::with_seed(seed),
        }
    }

    /// Bytes of one that is full.
    #[must_use]
    pub fn bytes(most: usize) -> usize {
        most * size_of::<Move>() + (most * 8 / 7).next_power_of_two() * (size_of::<u64>() + 1)
    }

    /// Cursors of a member moved.
    pub fn changed(&mut self, conversation: ConversationId, change: &Change) {
        for (kind, moved) in [(CursorKind::Delivered, &change.delivered), (CursorKind::Read, &change.read)] {
            if let Some(moved) = moved {
                let whose = (conversation, &change.user, kind);
                self.moved(whose, (moved.from, moved.reached.up_to), moved.reached.at);
            }
        }
    }

    /// A cursor went from `from` to `up_to`; `at` as its region said.
    pub fn moved(
        &mut self,
        (conversation, user, kind): (ConversationId, &UserId, CursorKind),
        (from, up_to): (u64, u64),
        at: Timestamp,
    ) {
        if self.moves.len() == self.most {
            self.forget_first();
        }
        let whose = self.whose(conversation, user, kind);
        let number = self.first + self.moves.len() as u64;
        let (moves, first) = (&self.moves, self.first);
        let of = |known: &u64| moves[(*known - first) as usize].whose;
        let before = match self.newest.find_mut(whose, |known| of(known) == whose) {
            Some(known) => std::mem::replace(known, number),
            None => {
                // The new one is not in the ring yet when others are moved for it.
                self.newest.insert_unique(whose, number, of);
                0
            }
        };
        self.moves.push_back(Move { whose, from, up_to, at: at.0, before });
    }

    /// When a cursor passed a number, if that was within the hour before `now` (milliseconds since the epoch) and is
    /// still known: the first move that did, of those after it fell last.
    #[must_use]
    pub fn passed(
        &self,
        conversation: ConversationId,
        user: &UserId,
        kind: CursorKind,
        sequence: u64,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let whose = self.whose(conversation, user, kind);
        let newest = self.newest.find(whose, |known| self.get(*known).is_some_and(|known| known.whose == whose));
        let mut next = newest.copied();
        while let Some(known) = next.and_then(|number| self.get(number)) {
            if known.up_to < sequence {
                return None;
            }
            if known.from < sequence {
                let kept = known.at.saturating_add(KEPT_MICROSECONDS / 1_000) >= now.0;
                return kept.then_some(Timestamp(known.at));
            }
            next = Some(known.before);
        }
        None
    }

    fn get(&self, number: u64) -> Option<&Move> {
        self.moves.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn whose(&self, conversation: ConversationId, user: &UserId, kind: CursorKind) -> u64 {
        self.hasher.hash_one((conversation.0.as_u128(), user.as_str(), kind == CursorKind::Read))
    }

    fn forget_first(&mut self) {
        let number = self.first;
        if let Some(oldest) = self.moves.front()
            && let Ok(known) = self.newest.find_entry(oldest.whose, |known| *known == number)
        {
            known.remove();
        }
        self.moves.pop_front();
        self.first += 1;
    }
}
