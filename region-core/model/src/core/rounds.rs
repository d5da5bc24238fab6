//! Rounds of forwards: what a device sent in an order is not sequenced in another one because a home could not take the
//! first of it and could take the next.
//!
//! The edge counts the forwards of messages under way to a log's home as one round. Once one of them is refused for now
//! or taken back, nothing is forwarded until all are answered; what comes next is a new round. The home refuses all of a
//! round that come after one that it refused, or that a link lost.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::{LogId, RegionId};

use crate::log::Waiter;

/// Rounds that a home remembers; above it all are forgotten, which refuses what is under way once.
const HEARD: usize = 65_536;

/// The newest round that a home heard of one region about one log.
#[derive(Debug)]
struct Heard {
    round: u64,
    /// The place of the next one.
    next: u64,
    refused: bool,
}

#[derive(Debug)]
struct Round {
    number: u64,
    /// Forwards that went out in it.
    sent: u64,
    under_way: BTreeSet<u64>,
    broken: bool,
}

/// The rounds of this region as an edge, and what it refused as a home.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    under_way: BTreeMap<LogId, Round>,
    heard: BTreeMap<(LogId, RegionId), Heard>,
}

impl Rounds {
    /// A forward of a message goes out; gives the number of its round, and its place in it.
    pub(super) fn begin(&mut self, log: LogId, forward: u64) -> (u64, u64) {
        let fresh = || Round { number: forward, sent: 0, under_way: BTreeSet::new(), broken: false };
        let round = self.under_way.entry(log).or_insert_with(fresh);
        round.under_way.insert(forward);
        round.sent += 1;
        (round.number, round.sent - 1)
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
        let Waiter::Peer { peer, round: number @ 1.., .. } = waiter else { return };
        if let Some(heard) = self.heard.get_mut(&(log, peer.clone())).filter(|heard| heard.round == *number) {
            heard.refused = true;
        }
    }

    /// A forward came with its round and its place in it: whether one before it was refused or is missing.
    pub(super) fn is_out_of_turn(&mut self, log: LogId, peer: &RegionId, number: u64, place: u64) -> bool {
        if number == 0 {
            return false;
        }
        if self.heard.len() >= HEARD {
            self.heard.clear();
        }
        let fresh = || Heard { round: 0, next: 0, refused: false };
        let heard = self.heard.entry((log, peer.clone())).or_insert_with(fresh);
        if number > heard.round {
            *heard = Heard { round: number, next: 0, refused: false };
        }
        heard.refused |= number == heard.round && place > heard.next;
        if number < heard.round || heard.refused {
            return true;
        }
        heard.next = heard.next.max(place + 1);
        false
    }

    /// The link to a peer broke: its numbers may begin again.
    pub(super) fn forget(&mut self, peer: &RegionId) {
        self.heard.retain(|(_, asker), _| asker != peer);
    }
}
