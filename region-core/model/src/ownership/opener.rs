//! Opening an epoch after a failover: how many voters to seal, which of them wins, what may be missing.

use std::collections::BTreeMap;
use std::fmt::Debug;

use hearth_protocol::{Epoch, Level};

use crate::ownership::line::OpeningAt;
use crate::ownership::placing::Placing;
use crate::ownership::rules::{Flaw, Rules};

/// How many voters of `voters` must be sealed so that no ack of `lowest` is missed: R - w + 1. `lowest` is the lowest
/// level above `region` that the log may hold entries of; it comes from the placement, never from what the sealed
/// voters hold.
pub fn seals_needed(voters: usize, lowest: Level) -> usize {
    let copies = lowest.max(Level::TwoRegions).copies(voters).min(voters);
    voters - copies + 1
}

/// What a sealed voter answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Promise<C> {
    accepted: Epoch,
    length: u64,
    last: C,
    /// For tests of a wrong reading only: the epoch of the last entry.
    last_epoch: Epoch,
}

/// What an opened epoch may lack: every position from (`epoch`, `from`) on, in the order of positions, that was acked with
/// fewer than `covered_copies` copies; the end is unknown until the old store is read. Entries of later epochs are in
/// it whatever their sequence: their line may have forked below `from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LossStatement {
    /// The epoch that the winner had accepted.
    pub epoch: Epoch,
    /// The first sequence of that epoch that may be missing.
    pub from: u64,
    /// Acks with at least so many copies are all in the line.
    pub covered_copies: usize,
}

impl LossStatement {
    /// Whether an entry that was acked with so many copies may be missing.
    pub fn names(&self, epoch: Epoch, sequence: u64, copies: usize) -> bool {
        copies < self.covered_copies && (epoch, sequence) >= (self.epoch, self.from)
    }
}

/// What an answer to a seal led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Progress {
    /// More voters are needed.
    Waiting,
    /// [`Opener::winners`] has somebody.
    Decided,
    /// An epoch at or above this opener's was promised or opened: read the placement, back off, and begin again above
    /// this one if there is still reason to.
    BackOff(Epoch),
}

/// A steward that opens an epoch for one log. It lives in memory: a new steward begins again with a higher epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Opener<R: Ord, C> {
    epoch: Epoch,
    /// The placement that it replaces.
    replaces: Placing<R, C>,
    lowest: Level,
    accept_loss: bool,
    /// No fewer voters than these are sealed, whatever the level asks for.
    fewest: usize,
    promises: BTreeMap<R, Promise<C>>,
}

impl<R: Clone + Debug + Ord, C: Copy + Ord + Debug> Opener<R, C> {
    /// Begins: [`Opener::epoch`] is to be sealed at every voter. `above` is the newest epoch seen anywhere; `lowest`
    /// as for [`seals_needed`]; only the operator sets `accept_loss`, which opens with whatever is sealed.
    pub fn begin(replaces: Placing<R, C>, above: Epoch, lowest: Level, accept_loss: bool) -> Self {
        let epoch = Epoch(above.max(replaces.epoch()).0 + 1);
        Self { epoch, replaces, lowest, accept_loss, fewest: 1, promises: BTreeMap::new() }
    }

    /// Seals every voter: they are others than those that the acks of before counted, so that fewer may hold none of
    /// their copies.
    #[must_use]
    pub fn sealing_all(self) -> Self {
        Self { fewest: self.replaces.voters.len(), ..self }
    }

    /// The operator takes it on himself what an opening with whatever is sealed may lack.
    pub fn accept_loss(&mut self) {
        self.accept_loss = true;
    }

    /// The epoch to seal at.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The placement that it replaces.
    pub fn replaces(&self) -> &Placing<R, C> {
        &self.replaces
    }

    /// The voters that have not promised yet.
    pub fn unsealed(&self) -> impl Iterator<Item = &R> {
        self.replaces.voters.iter().filter(|voter| !self.promises.contains_key(voter))
    }

    /// A voter's answer: the promised epoch, then (accepted, length, last hash), the epoch of its last entry, and
    /// whether its store counts.
    pub fn handle_sealed(
        &mut self,
        from: &R,
        epoch: Epoch,
        (accepted, length, last): (Epoch, u64, C),
        last_epoch: Epoch,
        counts: bool,
        rules: &impl Rules,
    ) -> Progress {
        if accepted >= self.epoch {
            return Progress::BackOff(accepted);
        }
        if epoch == self.epoch && counts && self.replaces.voters.contains(from) {
            self.promises.insert(from.clone(), Promise { accepted, length, last, last_epoch });
        }
        self.progress(rules)
    }

    /// A voter had promised a newer epoch.
    pub fn handle_newer(&self, sealed: Epoch) -> Progress {
        if sealed > self.epoch { Progress::BackOff(sealed) } else { Progress::Waiting }
    }

    fn progress(&self, rules: &impl Rules) -> Progress {
        if self.promises.len() >= self.needed(rules) { Progress::Decided } else { Progress::Waiting }
    }

    fn needed(&self, rules: &impl Rules) -> usize {
        let needed = seals_needed(self.replaces.voters.len(), self.lowest);
        let fewer = usize::from(rules.has(Flaw::OneSealTooFew));
        if self.accept_loss { 1 } else { (needed - fewer).max(self.fewest) }
    }

    /// Who may win: the voters with the greatest (accepted epoch, length). Equals may hold different unacked entries,
    /// and any of them may be taken. Empty while more seals are needed.
    pub fn winners(&self, rules: &impl Rules) -> Vec<R> {
        if self.progress(rules) != Progress::Decided {
            return Vec::new();
        }
        let rank = |promise: &Promise<C>| match () {
            () if rules.has(Flaw::LongestWins) => (Epoch(0), promise.length),
            () if rules.has(Flaw::EntryEpochWins) => (promise.last_epoch, promise.length),
            () => (promise.accepted, promise.length),
        };
        let best = self.promises.values().map(rank).max();
        let best = self.promises.iter().filter(|(_, promise)| Some(rank(promise)) == best);
        best.map(|(voter, _)| voter.clone()).collect()
    }

    /// The placement that makes a winner the home; it counts once the placement log's mark covers it.
    pub fn place(&self, winner: &R, generation: u64) -> Option<Placing<R, C>> {
        let promise = self.promises.get(winner)?;
        Some(Placing {
            home: winner.clone(),
            generation,
            opening: OpeningAt { epoch: self.epoch, first: promise.length, previous: promise.last },
            voters: self.replaces.voters.clone(),
        })
    }

    /// What the line of a winner may lack. `None` when the home that is replaced is among the sealed and had opened:
    /// nobody else acked under its epoch.
    pub fn loss(&self, winner: &R) -> Option<LossStatement> {
        let old_home = self.promises.get(&self.replaces.home);
        if old_home.is_some_and(|promise| promise.accepted == self.replaces.epoch()) {
            return None;
        }
        let promise = self.promises.get(winner)?;
        Some(LossStatement {
            epoch: promise.accepted,
            from: promise.length,
            covered_copies: self.replaces.voters.len() - self.promises.len() + 1,
        })
    }
}
