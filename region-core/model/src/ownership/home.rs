//! What a home decides under its epoch: open, number, count copies, ack, move the mark.

use std::collections::BTreeMap;
use std::fmt::Debug;

use hearth_protocol::{Epoch, Level};

use crate::ownership::line::{Held, LineEntry, OpeningAt, Unread};
use crate::ownership::placing::{Placing, Right};
use crate::ownership::replica::{Replica, Standing};
use crate::ownership::rules::{Flaw, Rules};
use crate::ownership::step::{Append, Said, StageWrite, Step, Write};
use crate::ownership::trust::Trust;

/// Why a region does not open an epoch that a placement names it for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The lease is out, the home is another, or the region was fenced since it was placed.
    #[error("no right to sequence under this placement")]
    NoRight,
    /// A newer epoch was promised here.
    #[error("epoch {0:?} was promised here")]
    Newer(Epoch),
    /// The log is not what the epoch opens with.
    #[error("the log is not the one that the epoch opens with")]
    OtherLog,
    /// The store is of a new incarnation.
    #[error("the store is of a new incarnation")]
    NewStore,
    /// A hash has to be read first.
    #[error("the hash of the entry at {0} has to be read first")]
    Unread(u64),
}

impl From<Unread> for OpenError {
    fn from(unread: Unread) -> Self {
        Self::Unread(unread.0)
    }
}

/// A home at one epoch. It lives in memory and ends with its process, with a newer epoch, or with its right.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Home<R: Ord, C> {
    me: R,
    opening: OpeningAt<C>,
    /// Every voter but this one, with the entries that it said to hold under this epoch.
    copies: BTreeMap<R, u64>,
    mark: u64,
}

impl<R: Clone + Debug + Ord, C: Copy + Default + Ord + Debug> Home<R, C> {
    /// Opens the epoch of a placement, or goes on under it after a restart: accepted is stored at opening, with
    /// whatever stands beyond it put apart.
    ///
    /// # Errors
    /// [`OpenError`] when this region may not, or must read a hash first.
    pub fn open<E: LineEntry<Chain = C>>(
        me: &R,
        placing: &Placing<R, C>,
        right: Right,
        replica: &mut Replica<E>,
        held: &(impl Held<E> + ?Sized),
        rules: &impl Rules,
    ) -> Result<(Self, Step<E>), OpenError> {
        let standing = &replica.standing;
        if !right.covers(me, placing, rules) {
            return Err(OpenError::NoRight);
        }
        if standing.trust != Trust::Full && !rules.has(Flaw::NewStoreTrusted) {
            return Err(OpenError::NewStore);
        }
        if standing.sealed > placing.epoch() {
            return Err(OpenError::Newer(standing.sealed));
        }
        if held.hash_before(placing.opening.first)? != Some(placing.opening.previous) {
            return Err(OpenError::OtherLog);
        }
        let mut write = None;
        if standing.accepted < placing.epoch() {
            let mut after = standing.clone();
            after.sealed = placing.epoch();
            after.accepted = placing.epoch();
            after.openings.retain(|opening| opening.first < placing.opening.first);
            after.openings.push(placing.opening);
            after.mark = after.mark.min(placing.opening.first);
            let stage = if after.staged.take().is_some() { StageWrite::Drop } else { StageWrite::Keep };
            let apart = (held.length() > placing.opening.first).then_some(placing.opening.first);
            write = Some(Write { stage, apart, ..Write::of(after.clone()) });
            replica.standing = after;
        }
        let voters = placing.voters.iter().filter(|voter| *voter != me);
        let home = Self {
            me: me.clone(),
            opening: placing.opening,
            copies: voters.map(|voter| (voter.clone(), 0)).collect(),
            mark: replica.standing.mark,
        };
        let told = Said::Append(home.append_of(Vec::new()));
        Ok((home, Step { write, then: vec![told] }))
    }

    /// The epoch.
    pub fn epoch(&self) -> Epoch {
        self.opening.epoch
    }

    /// Entries below it have the copies of their levels, and may be shown.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// Whether this epoch is still the newest that was promised here. Once it is not, the home numbers nothing and
    /// counts no answer, late ones neither.
    pub fn is_open(&self, standing: &Standing<C>) -> bool {
        standing.sealed == self.epoch() && standing.accepted == self.epoch()
    }

    /// A frame of this epoch for any replica.
    pub fn append_of<E: LineEntry<Chain = C>>(&self, entries: Vec<E>) -> Append<E> {
        Append { epoch: self.epoch(), opening: self.opening, entries, mark: self.mark }
    }

    /// Makes entries durable that were numbered behind the log, then streams them. `None` when the home is closed.
    pub fn append<E: LineEntry<Chain = C>>(&self, replica: &Replica<E>, entries: Vec<E>) -> Option<Step<E>> {
        if !self.is_open(&replica.standing) {
            return None;
        }
        let write = Write { append: entries.clone(), ..Write::of(replica.standing.clone()) };
        Some(Step { write: Some(write), then: vec![Said::Append(self.append_of(entries))] })
    }

    /// A replica said what it holds. It is a copy only when it comes from a voter whose store counts, that has
    /// accepted this very epoch, while no newer one is known here.
    pub fn handle_holds(
        &mut self,
        standing: &Standing<C>,
        from: &R,
        (accepted, length, counts): (Epoch, u64, bool),
        rules: &impl Rules,
    ) {
        if !self.is_open(standing) && !rules.has(Flaw::CountAfterSeal) {
            return;
        }
        let same = accepted == self.epoch() || (accepted < self.epoch() && rules.has(Flaw::CountUnaccepted));
        if let Some(copies) = self.copies.get_mut(from).filter(|_| same && counts) {
            *copies = (*copies).max(length);
        }
    }

    /// Entries below it have the copies that a level asks for, this home's `durable` entries counted.
    pub fn covered(&self, level: Level, durable: u64, rules: &impl Rules) -> u64 {
        let mut lengths: Vec<u64> = self.copies.values().copied().chain([durable]).collect();
        lengths.sort_unstable_by(|one, other| other.cmp(one));
        let needed = if rules.has(Flaw::AckBeforeCopies) { 1 } else { level.copies(lengths.len()) };
        lengths.get(needed - 1).copied().unwrap_or(0).min(durable)
    }

    /// The voters that hold an entry, for its ack.
    pub fn holders(&self, sequence: u64) -> Vec<R> {
        let others = self.copies.iter().filter(|(_, length)| **length > sequence).map(|(voter, _)| voter.clone());
        others.chain([self.me.clone()]).collect()
    }

    /// Whether an entry may be acked now: it has its copies under this epoch, nothing newer was promised here, and
    /// the right to sequence is held. `right` is checked after the append, just before the ack.
    pub fn may_ack<E: LineEntry<Chain = C>>(
        &self,
        standing: &Standing<C>,
        entry: &E,
        durable: u64,
        right: bool,
        rules: &impl Rules,
    ) -> bool {
        let open = self.is_open(standing) || rules.has(Flaw::CountAfterSeal);
        right && open && entry.sequence() < self.covered(entry.level(), durable, rules)
    }

    /// Whether a retry of an entry may get its first ack again: like a first ack, since it is one.
    pub fn may_ack_retry<E: LineEntry<Chain = C>>(
        &self,
        standing: &Standing<C>,
        entry: &E,
        durable: u64,
        right: bool,
        rules: &impl Rules,
    ) -> bool {
        (right && rules.has(Flaw::RetryAtOnce)) || self.may_ack(standing, entry, durable, right, rules)
    }

    /// Moves the mark over what has its copies, without a gap. `level_of` gives the greater of the entry's own level
    /// and the conversation's at that place; `conversation` the latter alone. Returns whether it moved.
    pub fn advance<E: LineEntry<Chain = C>>(
        &mut self,
        replica: &mut Replica<E>,
        durable: u64,
        level_of: impl Fn(u64) -> Level,
        conversation: Level,
        rules: &impl Rules,
    ) -> bool {
        let before = self.mark;
        while self.is_open(&replica.standing) && self.mark < durable {
            let level = if rules.has(Flaw::MarkByConversation) { conversation } else { level_of(self.mark) };
            if self.mark >= self.covered(level, durable, rules) {
                break;
            }
            self.mark += 1;
        }
        replica.standing.mark = replica.standing.mark.max(self.mark);
        self.mark > before
    }
}
