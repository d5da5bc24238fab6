//! The two views of a lease (design.md 4.1). Both clocks may run wrong by [`DRIFT_PERCENT`]: the holder counts that much
//! less from before it asked, the leader that much more from after it applied, and between the two nothing is lost:
//! `holder's length / 0.99 = length = leader's length / 1.01` in true time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hearth_protocol::RegionId;

use super::command::{MapCommand, MapFact, MapRefusal};
use super::state::MapState;
use super::{DRIFT_PERCENT, RENEW_EVERY};
use crate::mutants::Mutant;
use crate::ownership::{Flaw, Right};

/// Renewals under way that a holder remembers; an older one's answer is not taken.
const ASKED: usize = 8;

/// A renewal to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The counter that it carries.
    pub counter: u64,
    /// When it was asked first, by the holder's clock.
    pub at: Duration,
}

/// The holder's view: may I sequence now? Its clock must run while the machine is suspended (`CLOCK_BOOTTIME`). Never
/// stored: a region that starts holds nothing until it has asked.
#[derive(Clone, Debug, Default)]
pub struct HolderLease {
    asked: VecDeque<Asked>,
    /// The highest counter asked so far.
    highest: u64,
    held: Option<Granted>,
    /// Whether the map knows this process' store as its newest.
    proved: bool,
}

/// A lease that the map granted, lapsed or not.
#[derive(Clone, Copy, Debug)]
struct Granted {
    term: u64,
    until: Duration,
    generation: u64,
}

impl HolderLease {
    /// The counter that a process asks with first, instead of the next one: the one that was on disk when it started.
    /// Counters that it counts itself prove nothing: an older copy of a store that is out of reach of the map for a
    /// while would count up to what the map knows. The question gives no lease: what the map granted under that counter
    /// may have begun long ago. `None` once the map has answered it.
    #[must_use]
    pub fn first_question(&self, on_disk: u64) -> Option<u64> {
        let unnoticed = Mutant::Rule(Flaw::OldStoreUnnoticed).is_on();
        (!self.proved && !unnoticed).then_some(on_disk)
    }

    /// Takes the map's answer to the first question, asked with this counter. Whether the store is the newest that the
    /// map knows; an incarnation that the map gave to this process' store says so, too.
    pub fn answered_first(&mut self, counter: u64, answer: Result<&MapFact, &MapRefusal>) -> bool {
        self.proved |= match answer {
            Ok(MapFact::Lease { .. } | MapFact::Incarnation { .. }) => true,
            // A fence ended the lease that this very counter was granted.
            Err(MapRefusal::OlderStore(known)) => counter >= *known,
            Ok(_) | Err(_) => false,
        };
        self.proved
    }

    /// A renewal with this counter is about to be asked. A counter that is asked again, by another way, counts from
    /// the first time; one whose first time is forgotten, because it was answered or for its age, gives nothing: the
    /// map answers it with the lease that it gave then.
    pub fn ask(&mut self, counter: u64, now: Duration) -> Asked {
        if let Some(asked) = self.asked.iter().find(|asked| asked.counter == counter) {
            return *asked;
        }
        let asked = Asked { counter, at: now };
        if counter <= self.highest {
            return asked;
        }
        self.highest = counter;
        if self.asked.len() == ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back(asked);
        asked
    }

    /// The map took the renewal with this counter. An answer to one that is not remembered is ignored, and so is a
    /// term below the one held.
    pub fn granted(&mut self, counter: u64, term: u64, milliseconds: u32, generation: u64) {
        let Some(asked) = self.asked.iter().find(|asked| asked.counter == counter) else { return };
        let until = asked.at + holder_length(milliseconds);
        if self.held.is_none_or(|held| term >= held.term) {
            self.held = Some(Granted { term, until, generation });
        }
        self.asked.retain(|asked| asked.counter > counter);
    }

    /// The region is fenced, or its store is another incarnation: it holds nothing, and no answer that is still under
    /// way gives it back.
    pub fn ended(&mut self) {
        self.asked.clear();
        self.held = None;
    }

    /// Whether the region may sequence at `now`. To be asked after the append, just before the ack.
    #[must_use]
    pub fn may_sequence(&self, now: Duration) -> bool {
        let lasts = Mutant::LeaseNeverLapses.is_on() && self.held.is_some();
        lasts || !self.remaining(now).is_zero()
    }

    /// What is left of the lease at `now`; zero without one.
    #[must_use]
    pub fn remaining(&self, now: Duration) -> Duration {
        self.held.map_or(Duration::ZERO, |held| held.until.saturating_sub(now))
    }

    /// The term held, lapsed or not.
    #[must_use]
    pub fn term(&self) -> Option<u64> {
        self.held.map(|held| held.term)
    }

    /// The right to sequence at `now`, as placements ask for it: whether the lease is held, and the generation that it
    /// was granted to.
    #[must_use]
    pub fn right(&self, now: Duration) -> Right {
        Right { leased: self.may_sequence(now), generation: self.held.map_or(0, |held| held.generation) }
    }

    /// When to ask next, after a renewal that was asked at `asked`.
    #[must_use]
    pub fn next(asked: Duration) -> Duration {
        asked + RENEW_EVERY
    }
}

/// Rounded down.
fn holder_length(milliseconds: u32) -> Duration {
    Duration::from_micros(u64::from(milliseconds) * 10 * u64::from(100 - DRIFT_PERCENT))
}

fn leader_length(milliseconds: u32) -> Duration {
    Duration::from_micros(u64::from(milliseconds) * 10 * u64::from(100 + DRIFT_PERCENT))
}

/// How a lease stands by the leader's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseStanding {
    /// Nobody can believe in it any more.
    Lapsed {
        /// The term of the last lease; 0 when there never was one.
        term: u64,
    },
    /// The holder may believe in it.
    Held {
        /// Its term.
        term: u64,
        /// For how long at most.
        remaining: Duration,
    },
}

/// The leader's view: must a region's lease have lapsed? Every region keeps it while it applies, so that a new leader
/// has it. Its clock must not run backwards; one that stands still during suspend only makes it wait longer.
#[derive(Clone, Debug)]
pub struct LeaderLeases {
    /// Start or election, whichever is later.
    since: Duration,
    /// When each term was applied here.
    applied: BTreeMap<RegionId, (u64, Duration)>,
}

impl LeaderLeases {
    /// At the start of the process.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self { since: now, applied: BTreeMap::new() }
    }

    /// This region was elected.
    pub fn elected(&mut self, now: Duration) {
        self.since = self.since.max(now);
    }

    /// The map as it stands after an entry or a snapshot was applied.
    pub fn applied(&mut self, map: &MapState, now: Duration) {
        for entry in &map.regions {
            match self.applied.get_mut(&entry.region) {
                Some((term, _)) if *term == entry.term => {}
                Some(known) => *known = (entry.term, now),
                None => drop(self.applied.insert(entry.region.clone(), (entry.term, now))),
            }
        }
        // A map by force may know fewer regions.
        self.applied.retain(|region, _| map.region(region).is_some());
    }

    /// How the lease of a region stands.
    #[must_use]
    pub fn standing(&self, map: &MapState, region: &RegionId, now: Duration) -> LeaseStanding {
        let Some(entry) = map.region(region) else { return LeaseStanding::Lapsed { term: 0 } };
        let term = entry.term;
        let Some(lease) = &entry.lease else { return LeaseStanding::Lapsed { term } };
        let applied = self.applied.get(region).filter(|(known, _)| *known == term).map_or(now, |(_, at)| *at);
        if Mutant::FenceWithoutWaiting.is_on() {
            return LeaseStanding::Lapsed { term };
        }
        let until = applied.max(self.since) + leader_length(lease.milliseconds);
        match until.saturating_sub(now) {
            Duration::ZERO => LeaseStanding::Lapsed { term },
            remaining => LeaseStanding::Held { term, remaining },
        }
    }

    /// For how long the region's term has been the one of the map, as far as the leader can know.
    #[must_use]
    pub fn unchanged_for(&self, map: &MapState, region: &RegionId, now: Duration) -> Duration {
        let term = map.region(region).map_or(0, |entry| entry.term);
        let applied = self.applied.get(region).filter(|(known, _)| *known == term).map_or(now, |(_, at)| *at);
        now.saturating_sub(applied.max(self.since))
    }

    /// Whether a command needs a lease to have lapsed that may still be held.
    ///
    /// # Errors
    /// The refusal, when the command needs a lease to have lapsed that may still be held.
    pub fn admit(&self, map: &MapState, command: &MapCommand, now: Duration) -> Result<(), MapRefusal> {
        let Some((region, seen)) = command.must_have_lapsed() else { return Ok(()) };
        match self.standing(map, region, now) {
            LeaseStanding::Lapsed { term } | LeaseStanding::Held { term, .. } if term != seen => {
                Err(MapRefusal::Renewed(term))
            }
            LeaseStanding::Lapsed { .. } => Ok(()),
            LeaseStanding::Held { remaining, .. } => {
                Err(MapRefusal::LeaseHeld(u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX).saturating_add(1)))
            }
        }
    }
}
