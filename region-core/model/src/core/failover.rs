//! A steward gives homes to logs whose home is fenced, and opens its own placement logs (design.md 4.3, 4.4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::{Epoch, Hash, Level, LogId, LogKind, Placement, RegionId, SealedEntry, Slot, mesh};

use super::{Now, RegionCore, Slotted, Waiting};
use crate::effect::{Effect, Lane};
use crate::ownership::{Append, Opener, OpeningAt, Placing, Progress, Shipped};
use crate::region_map::RegionState;
use crate::succession::{loss_of, placement_of, placing_of, read_first};
use crate::view::View;

mod queue;

/// Logs that are given a home at a time.
const UNDER_WAY: usize = 512;
/// Seals that were not answered are asked for again.
const ASK_AGAIN_MILLISECONDS: u64 = 1_000;
/// A placement that did not come to stand within this is made again, from the seals on.
const PLACED_WITHIN_MILLISECONDS: u64 = 5_000;
/// On the operator's word a log is opened with the voters that answered within this.
const WAITED_FOR_MILLISECONDS: u64 = 3_000;
/// A log whose voters do not answer within this makes room for one that waits.
const TURN_MILLISECONDS: u64 = 6_000;
/// Entries of a placement log that are fetched at a time.
const FETCHED: u64 = 256;

/// How far one log is.
#[derive(Debug)]
enum Stage {
    /// Voters are asked for promises.
    Sealing,
    /// The steward brings its copy of a placement log to the winner's.
    Fetching { winner: RegionId, opening: OpeningAt<Hash> },
    /// The placement waits for its copies.
    Placing,
}

/// One log that is given a home.
#[derive(Debug)]
struct Failover {
    opener: Opener<RegionId, Hash>,
    replaced: Placement,
    stage: Stage,
    /// When voters were asked first, in milliseconds.
    began: u64,
    /// When it was last asked or placed, in milliseconds.
    at: u64,
}

/// Everything that this region gives a home. The logs that wait are among the placements in memory.
#[derive(Debug, Default)]
pub(super) struct Failovers {
    under_way: BTreeMap<LogId, Failover>,
    queue: queue::Queue,
    /// The newest epoch that was heard of, above which the next attempt begins.
    above: BTreeMap<LogId, Epoch>,
    /// Fences, by region, whose homes may be opened with fewer voters than their acks ask for: the operator said so.
    losses_accepted: BTreeMap<RegionId, u64>,
}

impl Failovers {
    /// A log needs a home; `newest` is the time of its last entry, 0 where that is not known here.
    pub(super) fn push(&mut self, log: LogId, newest: u64) {
        if !self.under_way.contains_key(&log) {
            self.queue.push(log, newest);
        }
    }

    /// An attempt ended in vain: another one follows.
    fn push_again(&mut self, log: LogId) {
        self.under_way.remove(&log);
        self.queue.push_again(log);
    }

    /// An attempt to open a placement log ends when the map has named its steward and voters anew.
    fn end_older(&mut self, log: LogId, epoch: Epoch) {
        if self.under_way.get(&log).is_some_and(|failover| failover.opener.epoch() < epoch) {
            self.under_way.remove(&log);
        }
    }

    /// A placement stands: nobody has to be found for its log any more.
    pub(super) fn placed(&mut self, placement: &Placement) {
        let log = placement.log;
        if self.under_way.get(&log).is_some_and(|failover| failover.replaced.epoch < placement.epoch) {
            self.under_way.remove(&log);
        }
        if !self.above.is_empty() {
            self.above.remove(&log);
        }
    }

    /// Whether a log is to stay in memory.
    pub(super) fn involves(&self, log: &LogId) -> bool {
        self.under_way.contains_key(log) || self.queue.contains(log)
    }

    /// How many logs wait for a home or are given one.
    pub(super) fn len(&self) -> usize {
        self.under_way.len() + self.queue.len()
    }
}

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    /// This region stewards a slot: it opens the slot's placement log if that is not open, else looks for logs without
    /// a home in it.
    pub(super) fn steward(&mut self, id: LogId, now: Now, effects: &mut Vec<Effect<R>>) {
        let Some(Slotted::Ready(log)) = self.logs.get(&id) else { return };
        let Some(placement) = log.placement.clone().filter(|placement| placement.home == self.options.me) else {
            return;
        };
        if !log.is_home_of(&self.options.me) {
            self.failovers.end_older(id, placement.epoch);
            if placement.generation != u64::MAX {
                self.failovers.push(id, 0);
            }
        } else if let View::Placements(state) = &log.view {
            let fenced: Vec<LogId> = state
                .placed
                .values()
                .filter(|placed| placed.placement.generation < self.generation_of(&placed.placement.home))
                .map(|placed| placed.placement.log)
                .collect();
            for log in fenced {
                let newest = self.newest_entry(&log);
                self.failovers.push(log, newest);
            }
        }
        self.begin_failovers(now, effects);
    }

    /// When the last entry of a log was made, as far as memory knows; logs that left it lately are remembered.
    pub(super) fn newest_entry(&self, log: &LogId) -> u64 {
        match self.logs.get(log) {
            Some(Slotted::Ready(held)) => held.tip.map_or(0, |tip| tip.time.0),
            Some(Slotted::Loading(_)) | None => self.left_memory.get(log).map_or(0, |time| time.0),
        }
    }

    pub(super) fn begin_failovers(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        while self.failovers.under_way.len() < UNDER_WAY
            && let Some(id) = self.failovers.queue.pop()
        {
            self.begin_failover(id, now, effects);
        }
    }

    fn begin_failover(&mut self, id: LogId, now: Now, effects: &mut Vec<Effect<R>>) {
        let opener = match id.placement_slot() {
            Some(slot) => self.slot_opener(id, slot),
            None => self.log_opener(id),
        };
        let Some((opener, replaced)) = opener else {
            let slot_log = LogId::placement(Slot::of(&id));
            let stewards = self.steward_of(Slot::of(&id)) == self.options.me;
            if stewards && id.kind != LogKind::Placement && !matches!(self.logs.get(&slot_log), Some(Slotted::Ready(_)))
            {
                // It left memory: it is looked through again.
                self.on_log(slot_log, Waiting::Steward, now, effects);
            }
            return;
        };
        let (began, at) = (now.monotonic, now.monotonic);
        let failover = Failover { opener, replaced, stage: Stage::Sealing, began, at };
        self.failovers.under_way.insert(id, failover);
        self.ask_for_seals(id, effects);
    }

    /// An opener for a placement log: the map named the epoch.
    fn slot_opener(&self, id: LogId, slot: Slot) -> Option<(Opener<RegionId, Hash>, Placement)> {
        let placement = self.placement_log(slot);
        let Some(Slotted::Ready(log)) = self.logs.get(&id) else { return None };
        if placement.home != self.options.me || log.is_home_of(&self.options.me) {
            return None;
        }
        let before = Epoch(placement.epoch.0 - 1);
        let accepted = log.record.as_ref().map(|record| record.accepted).unwrap_or_default().min(before);
        let opening = OpeningAt { epoch: accepted, first: 0, previous: Hash::default() };
        let (home, voters) = (placement.home.clone(), placement.voters.clone());
        // Where the map named other voters, a majority of them need not hold what was acked before.
        let known = log.record.as_ref().map(|record| record.voters.iter().collect::<BTreeSet<_>>());
        let others = known.is_some_and(|known| known != voters.iter().collect());
        let replaces = Placing { home, generation: placement.generation, opening, voters };
        let replaced = Placement { epoch: before, ..placement };
        let opener = Opener::begin(replaces, before, Level::Majority, false);
        Some((if others { opener.sealing_all() } else { opener }, replaced))
    }

    /// An opener for a log whose home is fenced, or whose home is this region and promised a newer epoch before it opened.
    fn log_opener(&self, id: LogId) -> Option<(Opener<RegionId, Hash>, Placement)> {
        if let Some(Slotted::Ready(log)) = self.logs.get(&id)
            && let Some(promised) = log.promised_above(&self.options.me, self.right)
            && let Some(placement) = log.placement.clone()
        {
            let above = self.failovers.above.get(&id).copied().unwrap_or_default().max(promised);
            return Some((Opener::begin(placing_of(&placement), above, placement.durability, false), placement));
        }
        let placement = self.placed(LogId::placement(Slot::of(&id)), id)?;
        if placement.generation >= self.generation_of(&placement.home) {
            return None;
        }
        let above = self.failovers.above.get(&id).copied().unwrap_or_default();
        let opener = Opener::begin(placing_of(&placement), above, placement.durability, false);
        Some((opener, placement))
    }

    /// The operator's word: homes of a fenced region may be opened with fewer voters than their acks ask for, once those
    /// that live had time to answer.
    pub(super) fn accept_loss(&mut self, region: RegionId, fence: u64, now: Now, effects: &mut Vec<Effect<R>>) {
        self.failovers.losses_accepted.insert(region, fence);
        self.go_on_failing_over(now, effects);
    }

    /// Whether a log is opened with the voters that answered so far.
    fn opens_with_fewer(&self, failover: &Failover, now: Now) -> bool {
        let home = &failover.replaced.home;
        let accepted = self.failovers.losses_accepted.get(home) == Some(&self.generation_of(home));
        let is_slot = failover.replaced.log.kind == LogKind::Placement;
        accepted && !is_slot && now.monotonic >= failover.began + WAITED_FOR_MILLISECONDS
    }

    fn ask_for_seals(&self, id: LogId, effects: &mut Vec<Effect<R>>) {
        let Some(failover) = self.failovers.under_way.get(&id) else { return };
        for voter in failover.opener.unsealed() {
            let log = Bytes::copy_from_slice(&id.to_bytes());
            let body = mesh::Body::Seal(mesh::Seal { log, epoch: failover.opener.epoch().0 });
            effects.push(Effect::Send { peer: voter.clone(), lane: Lane::Log(id), body });
        }
    }

    /// A voter answered a seal.
    pub(super) fn sealed(&mut self, peer: &RegionId, said: &mesh::Sealed, now: Now, effects: &mut Vec<Effect<R>>) {
        let Some(id) = LogId::from_bytes(&said.log) else { return };
        let Some(failover) = self.failovers.under_way.get_mut(&id) else { return };
        if said.epoch != failover.opener.epoch().0 || !matches!(failover.stage, Stage::Sealing) {
            return;
        }
        let progress = if said.newer > 0 {
            failover.opener.handle_newer(Epoch(said.newer))
        } else {
            let last: Hash = said.last[..].try_into().unwrap_or_default();
            let held = (Epoch(said.accepted), said.length, last);
            failover.opener.handle_sealed(peer, Epoch(said.epoch), held, Epoch(0), said.counts, &Shipped)
        };
        match progress {
            Progress::Waiting => {}
            Progress::Decided => self.choose(id, now, effects),
            Progress::BackOff(epoch) => {
                if id.kind != LogKind::Placement {
                    self.failovers.above.insert(id, epoch);
                }
                // Taken up again with the next second: whoever was first may be done by then.
                self.failovers.push_again(id);
            }
        }
    }

    /// Enough voters promised: the winner opens.
    fn choose(&mut self, id: LogId, now: Now, effects: &mut Vec<Effect<R>>) {
        let Some(failover) = self.failovers.under_way.get(&id) else { return };
        let winners = failover.opener.winners(&Shipped);
        let alive: Vec<&RegionId> = winners.iter().filter(|winner| self.is_alive(winner)).collect();
        let Some(winner) = alive.get(usize::from(Slot::of(&id).0) % alive.len().max(1)).copied().cloned() else {
            return;
        };
        let Some(placing) = failover.opener.place(&winner, self.generation_of(&winner)) else { return };
        let loss = failover.opener.loss(&winner);
        if id.kind == LogKind::Placement {
            let opening = placing.opening;
            if let Some(failover) = self.failovers.under_way.get_mut(&id) {
                failover.stage = Stage::Fetching { winner, opening };
            }
            self.take_fetched(id, &[], now, effects);
            return;
        }
        let replaced = failover.replaced.clone();
        let loss = loss.map(|loss| loss_of(loss, replaced.home.clone(), now.wall));
        let placement = placement_of(&replaced, placing, loss);
        if let Some(failover) = self.failovers.under_way.get_mut(&id) {
            failover.stage = Stage::Placing;
            failover.at = now.monotonic;
        }
        self.place(replaced.epoch, placement, now, effects);
    }

    /// Whether a region may become a home now, as far as this one sees.
    fn is_alive(&self, region: &RegionId) -> bool {
        let active = self
            .map
            .as_ref()
            .and_then(|map| map.region(region))
            .is_none_or(|entry| matches!(entry.state, RegionState::Active | RegionState::Draining));
        active && (*region == self.options.me || self.links_up.contains(region))
    }

    /// A page of a placement log that this region opens came. Whether it did.
    pub(super) fn fetched(
        &mut self,
        id: LogId,
        peer: &RegionId,
        entries: &[Arc<SealedEntry>],
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) -> bool {
        let fetching = self
            .failovers
            .under_way
            .get(&id)
            .is_some_and(|failover| matches!(&failover.stage, Stage::Fetching { winner, .. } if winner == peer));
        if fetching {
            self.take_fetched(id, entries, now, effects);
        }
        fetching
    }

    /// Takes entries towards the opening, and asks for those behind them while it is not reached.
    fn take_fetched(&mut self, id: LogId, entries: &[Arc<SealedEntry>], now: Now, effects: &mut Vec<Effect<R>>) {
        let Some(failover) = self.failovers.under_way.get(&id) else { return };
        let Stage::Fetching { winner, opening } = &failover.stage else { return };
        let (winner, opening) = (winner.clone(), *opening);
        let frame = Append { epoch: opening.epoch, opening, entries: entries.to_vec(), mark: 0 };
        let voters: Vec<String> = failover.replaced.voters.iter().map(|voter| voter.as_str().to_owned()).collect();
        let me = self.options.me.clone();
        let mut outcome = Ok(None);
        self.with_log(id, now, effects, |log, context| {
            outcome = log.take_line_as_steward(&me, &frame, &voters, context);
        });
        match outcome {
            Ok(None) => {
                self.failovers.under_way.remove(&id);
                if !self.opens(id) {
                    self.opened(id, now, effects);
                }
                self.begin_failovers(now, effects);
            }
            Ok(Some(next)) => {
                if let Some(failover) = self.failovers.under_way.get_mut(&id) {
                    failover.at = now.monotonic;
                }
                self.fetch(id, &winner, next, opening.first, effects);
            }
            Err(unread) => {
                // Asked again by the timer, with the hash in memory.
                read_first(id, unread, effects);
            }
        }
    }

    fn fetch(&self, id: LogId, winner: &RegionId, from: u64, end: u64, effects: &mut Vec<Effect<R>>) {
        let pull = mesh::Pull { log: Bytes::copy_from_slice(&id.to_bytes()), from, to: end.min(from + FETCHED) };
        effects.push(Effect::Send { peer: winner.clone(), lane: Lane::Bulk, body: mesh::Body::Pull(pull) });
    }

    /// What was not answered is asked for again; what was not placed begins again.
    pub(super) fn go_on_failing_over(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        let ids: Vec<LogId> = self.failovers.under_way.keys().copied().collect();
        let fewer = self.failovers.under_way.iter().filter(|(_, failover)| self.opens_with_fewer(failover, now));
        let fewer: BTreeSet<LogId> = fewer.map(|(id, _)| *id).collect();
        for id in ids {
            let Some(failover) = self.failovers.under_way.get_mut(&id) else { continue };
            let waited = now.monotonic.saturating_sub(failover.at);
            match &failover.stage {
                Stage::Sealing
                    if now.monotonic >= failover.began + TURN_MILLISECONDS && !self.failovers.queue.is_empty() =>
                {
                    self.failovers.push_again(id);
                }
                Stage::Sealing if waited >= ASK_AGAIN_MILLISECONDS => {
                    failover.at = now.monotonic;
                    if fewer.contains(&id) {
                        failover.opener.accept_loss();
                    }
                    // A winner may have come back to life meanwhile.
                    self.choose(id, now, effects);
                    if self.failovers.under_way.get(&id).is_some_and(|at| matches!(at.stage, Stage::Sealing)) {
                        self.ask_for_seals(id, effects);
                    }
                }
                Stage::Fetching { .. } if waited >= ASK_AGAIN_MILLISECONDS => {
                    failover.at = now.monotonic;
                    self.on_log(id, Waiting::Steward, now, effects);
                    self.take_fetched(id, &[], now, effects);
                }
                Stage::Placing if waited >= PLACED_WITHIN_MILLISECONDS => {
                    self.failovers.push_again(id);
                }
                Stage::Sealing | Stage::Fetching { .. } | Stage::Placing => {}
            }
        }
        self.begin_failovers(now, effects);
    }
}
