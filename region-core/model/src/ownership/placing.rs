//! A placement as ownership sees it, and the right to sequence under it.

use hearth_protocol::Epoch;

use crate::ownership::line::OpeningAt;
use crate::ownership::rules::{Flaw, Rules};

/// Where a log lives, from one committed entry of a placement log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Placing<R, C> {
    /// The region that sequences it.
    pub home: R,
    /// The home's generation when it was placed: counted up in the region map by each fence and each new incarnation.
    pub generation: u64,
    /// What the epoch opens with.
    pub opening: OpeningAt<C>,
    /// The regions that count, the home among them.
    pub voters: Vec<R>,
}

impl<R, C> Placing<R, C> {
    /// The epoch.
    pub fn epoch(&self) -> Epoch {
        self.opening.epoch
    }

    /// Whether this placement may follow `current` in a placement log: it names the epoch that it replaces.
    pub fn may_replace(&self, replaces: Epoch, current: &Self) -> bool {
        current.epoch() == replaces && self.epoch() > replaces
    }
}

/// A region's right to sequence, as its lease gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Right {
    /// Whether the lease is held now; checked just before an ack.
    pub leased: bool,
    /// The generation that the lease was granted to.
    pub generation: u64,
}

impl Right {
    /// Whether `me` may sequence under a placement: it is the home, holds its lease, and was not fenced since it was
    /// placed. A fence ends the right to every epoch held before, for good.
    pub fn covers<R: PartialEq, C>(&self, me: &R, placing: &Placing<R, C>, rules: &impl Rules) -> bool {
        let same = self.generation == placing.generation || rules.has(Flaw::FenceForgiven);
        self.leased && placing.home == *me && same
    }
}

/// What the loser of a placement race does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Race {
    /// Nothing: the log has an owner.
    GiveUp,
    /// It begins again, above this epoch.
    Again(Epoch),
}

/// Decides for whoever lost a placement race, after reading the placement again: it goes on only if the home that won
/// is fenced or has sealed itself.
pub fn after_lost_race<R, C>(won: &Placing<R, C>, fenced: bool, sealed_itself: bool, rules: &impl Rules) -> Race {
    if fenced || sealed_itself || rules.has(Flaw::LoserGoesOn) { Race::Again(won.epoch()) } else { Race::GiveUp }
}
