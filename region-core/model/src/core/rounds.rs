//! Rounds of forwards: what a device sent in an order is not sequenced in another one because a home could not take the
//! first of it and could take the next.
//!
//! The edge counts the forwards of messages under way to a log's home as one round. Once one of them is refused for now
//! or taken back, nothing is forwarded until all are answered; what comes next is a new round. The home refuses all of a
//! round that come after one that it refused.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::{LogId, RegionId};

use crate::log::Waiter;

/// Refused rounds that a home remembers; above it all are forgotten, and an order may break once.
const REFUSED: usize = 65_536;

#[derive(Debug)]
struct Round {
    number: u64,
    under_way: BTreeSet<u64>,
    broken: bool,
}

/// The rounds of this region as an edge, and what it refused as a home.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    under_way: BTreeMap<LogId, Round>,
    refused: BTreeMap<(LogId, RegionId), u64>,
}

impl Rounds {
    /// A forward of a message goes out; gives the number of its round.
    pub(super) fn begin(&mut self, log: LogId, forward: u64) -> u64 {
        let fresh = || Round { number: forward, under_way: BTreeSet::new(), broken: false };
        let round = self.under_way.entry(log).or_insert_with(fresh);
        round.under_way.insert(forward);
        round.number
    }

    /// A forward was answered, or taken back; `broken` when it was not taken for now.
    pub(super) fn end(&mut self, log: LogId, forward: u64, broken: bool) {
        let Some(round) = self.under_way.get_mut(&log) else { return };
        round.under_way.remove(&forward);
        round.broken |= broken;
        if round.under_way.is_empty() {
            self.under_way.remove(&log);
        }
    }

    /// Whether nothing may be forwarded to a log's home until what is under way is answered.
    pub(super) fn is_broken(&self, log: LogId) -> bool {
        self.under_way.get(&log).is_some_and(|round| round.broken)
    }

    /// This home refuses a forward for now, and with it the rest of its round.
    pub(super) fn refuse<R>(&mut self, log: LogId, waiter: &Waiter<R>) {
        let Waiter::Peer { peer, round: round @ 1.., .. } = waiter else { return };
        if self.refused.len() >= REFUSED {
            self.refused.clear();
        }
        let refused = self.refused.entry((log, peer.clone())).or_default();
        *refused = (*refused).max(*round);
    }

    /// Whether a forward is of a round of which one was refused.
    pub(super) fn is_refused<R>(&self, log: LogId, waiter: &Waiter<R>) -> bool {
        match waiter {
            Waiter::Peer { peer, round: round @ 1.., .. } if !self.refused.is_empty() => {
                self.refused.get(&(log, peer.clone())).is_some_and(|refused| round <= refused)
            }
            _ => false,
        }
    }

    /// The link to a peer broke: its numbers may begin again.
    pub(super) fn forget(&mut self, peer: &RegionId) {
        self.refused.retain(|(_, asker), _| asker != peer);
    }
}
