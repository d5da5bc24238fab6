//! A home moves, or its voters change: copy, seal oneself, copy the rest, place, open (design.md 4.7).

use std::collections::BTreeSet;
use std::fmt::Debug;

use hearth_protocol::{Epoch, Level};

use crate::ownership::home::Home;
use crate::ownership::line::{Held, LineEntry, OpeningAt, Unread};
use crate::ownership::placing::{Placing, Right};
use crate::ownership::replica::{Replica, Standing};
use crate::ownership::rules::{Flaw, Rules};
use crate::ownership::step::{Step, Write};
use crate::ownership::trust::Trust;

/// Why a move does not begin or go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// The target is not among the new voters, or one of them has ranges still to be pulled.
    #[error("the new voters do not fit the move")]
    Voters,
    /// This region is not the open home.
    #[error("this region is not the open home")]
    NotHome,
    /// A hash has to be read first.
    #[error("the hash of the entry at {0} has to be read first")]
    Unread(u64),
}

impl From<Unread> for MoveError {
    fn from(unread: Unread) -> Self {
        Self::Unread(unread.0)
    }
}

/// How far a move is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stage<R: Ord, C> {
    /// The new voters follow; the old home goes on.
    Copying,
    /// The old home sealed itself: it numbers nothing more.
    Sealed {
        /// What the new epoch opens with.
        opening: OpeningAt<C>,
        /// The new voters that hold all of it under the old epoch.
        copied: BTreeSet<R>,
    },
}

/// One move, at the old home. It lives in memory: after a crash the home finds itself sealed above its own placement,
/// and comes back by [`way_back`], or begins the move again after that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Migration<R: Ord, C> {
    target: R,
    voters: Vec<R>,
    replaces: Placing<R, C>,
    stage: Stage<R, C>,
}

impl<R: Clone + Debug + Ord, C: Copy + Default + Ord + Debug> Migration<R, C> {
    /// Begins a move of an open home to `target` with `voters`; the target may be the home itself when only voters
    /// change. `has_open_ranges` says which region still pulls.
    ///
    /// # Errors
    /// [`MoveError::Voters`].
    pub fn begin(
        replaces: Placing<R, C>,
        target: R,
        voters: Vec<R>,
        has_open_ranges: impl Fn(&R) -> bool,
    ) -> Result<Self, MoveError> {
        if !voters.contains(&target) || voters.iter().any(has_open_ranges) {
            return Err(MoveError::Voters);
        }
        Ok(Self { target, voters, replaces, stage: Stage::Copying })
    }

    /// How far it is.
    pub fn stage(&self) -> &Stage<R, C> {
        &self.stage
    }

    /// The placement that the move replaces.
    pub fn replaces(&self) -> &Placing<R, C> {
        &self.replaces
    }

    /// Where it goes.
    pub fn target(&self) -> &R {
        &self.target
    }

    fn epoch(&self) -> Epoch {
        Epoch(self.replaces.epoch().0 + 1)
    }

    /// The old home seals itself at the new epoch, durably. From here on it numbers nothing and counts no answer for
    /// acks; its entries up to here still go to the new voters under the old epoch.
    ///
    /// # Errors
    /// [`MoveError::NotHome`] when the home is closed, [`MoveError::Unread`].
    pub fn seal_self<E: LineEntry<Chain = C>>(
        &mut self,
        home: &Home<R, C>,
        replica: &mut Replica<E>,
        held: &(impl Held<E> + ?Sized),
        rules: &impl Rules,
    ) -> Result<Step<E>, MoveError> {
        if !home.is_open(&replica.standing) || home.epoch() != self.replaces.epoch() {
            return Err(MoveError::NotHome);
        }
        let first = held.length();
        let previous = held.hash_before(first)?.unwrap_or_default();
        let opening = OpeningAt { epoch: self.epoch(), first, previous };
        self.stage = Stage::Sealed { opening, copied: BTreeSet::new() };
        if rules.has(Flaw::MoveWithoutSeal) {
            return Ok(Step { write: None, then: Vec::new() });
        }
        replica.standing.sealed = self.epoch();
        Ok(Step { write: Some(Write::of(replica.standing.clone())), then: Vec::new() })
    }

    /// A region said what it holds. It has the rest once it holds all of the log under the old epoch, accepted: the
    /// copy accepts nothing of the new one.
    pub fn handle_holds(&mut self, from: &R, accepted: Epoch, length: u64, counts: bool) {
        let old = self.replaces.epoch();
        if let Stage::Sealed { opening, copied } = &mut self.stage
            && self.voters.contains(from)
            && accepted == old
            && length >= opening.first
            && counts
        {
            copied.insert(from.clone());
        }
    }

    /// The placement to append, once the new home and as many new voters as the highest level in use asks for hold
    /// everything. `me` counts if it stays a voter.
    pub fn place(&self, me: &R, highest: Level, generation: u64, rules: &impl Rules) -> Option<Placing<R, C>> {
        let Stage::Sealed { opening, copied } = &self.stage else { return None };
        let mine = self.voters.contains(me).then_some(me);
        let holds = |region: &R| copied.contains(region) || Some(region) == mine;
        let having = self.voters.iter().filter(|voter| holds(voter)).count();
        let needed = if rules.has(Flaw::MoveCopiesHomeOnly) { 1 } else { highest.copies(self.voters.len()) };
        (holds(&self.target) && having >= needed).then(|| Placing {
            home: self.target.clone(),
            generation,
            opening: *opening,
            voters: self.voters.clone(),
        })
    }
}

/// The way back of a home that sealed itself and was not replaced: it places itself above what it promised, with the
/// old voters. It goes through the placement log on the condition that the placement is still the old one, so that a
/// move or a failover that was placed meanwhile wins. Nobody else numbered anything under the old epoch, so its own log
/// has every ack. `None` when this region is not a home that sealed itself, or lost its right.
///
/// # Errors
/// [`Unread`] when the last hash is not in memory.
pub fn way_back<R: Clone + PartialEq, E: LineEntry>(
    me: &R,
    placing: &Placing<R, E::Chain>,
    right: Right,
    replica: &Replica<E>,
    held: &(impl Held<E> + ?Sized),
    rules: &impl Rules,
) -> Result<Option<Placing<R, E::Chain>>, Unread> {
    let standing = &replica.standing;
    let opened = standing.accepted == placing.epoch() && standing.sealed > placing.epoch();
    if !opened || standing.trust != Trust::Full || !right.covers(me, placing, rules) || rules.has(Flaw::NoWayBack) {
        return Ok(None);
    }
    let first = held.length();
    let previous = held.hash_before(first)?.unwrap_or_default();
    Ok(Some(Placing {
        home: me.clone(),
        generation: placing.generation,
        opening: OpeningAt { epoch: standing.sealed, first, previous },
        voters: placing.voters.clone(),
    }))
}

/// The promise of a region that a placement names home of an epoch below it, and that therefore never opens that epoch:
/// whoever asked for the promise was not the one that placed. Nobody numbers anything under this placement any more, as
/// after a fence: the region itself opens the log anew, above what it promised, with an [`Opener`] like any steward's.
/// `None` when it is no such region, or lost its right: then its fence has a steward do it.
///
/// [`Opener`]: crate::ownership::Opener
pub fn promised_above<R: PartialEq, C>(
    me: &R,
    placing: &Placing<R, C>,
    right: Right,
    standing: &Standing<C>,
    rules: &impl Rules,
) -> Option<Epoch> {
    let unopened = standing.accepted < placing.epoch() && placing.epoch() < standing.sealed;
    (unopened && right.covers(me, placing, rules) && !rules.has(Flaw::NoOpeningAbove)).then_some(standing.sealed)
}
