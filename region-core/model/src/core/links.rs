//! Links that come and go, and time: what waits too long, what leaves memory.

use hearth_protocol::{LogId, LogKind, RegionId, Slot};

use super::{Following, Now, OVERDUE_EVERY_MILLISECONDS, RegionCore, Slotted, Waiting};
use crate::effect::Effect;

/// A log stays in memory for so long after its last use: marks and placements, which the store does not answer, are
/// written by then, and a load finds them.
const EVICTED_AFTER_MILLISECONDS: u64 = 2_000;

/// Logs that left memory and of which the time of the last entry is remembered, at most.
const REMEMBERED: usize = 262_144;

/// Logs with parked sends whose placement is asked for again in one period of anti-entropy.
const HOMES_LOOKED_AFTER: usize = 64;

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    pub(super) fn link_up(&mut self, peer: RegionId, now: Now, effects: &mut Vec<Effect<R>>) {
        self.links_up.insert(peer.clone());
        let ids: Vec<LogId> = self.logs.keys().copied().collect();
        for id in ids {
            self.on_log(id, Waiting::LinkUp(peer.clone()), now, effects);
        }
        self.lot.offer_again();
        for log in self.lot.logs() {
            self.release(log, now, effects);
        }
        let asked = Following::Asked(peer);
        for following in self.follows.values_mut().filter(|following| **following == asked) {
            *following = Following::Wanted;
        }
        self.follow_wanted(now, effects);
    }

    /// Asks for what this region wants to hold and has not been able to ask for.
    fn follow_wanted(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        let wanted = self.follows.iter().filter(|(_, following)| **following == Following::Wanted);
        let wanted: Vec<LogId> = wanted.map(|(id, _)| *id).collect();
        for id in wanted {
            self.on_log(id, Waiting::Follow { hold: true }, now, effects);
        }
    }

    pub(super) fn link_down(&mut self, peer: &RegionId, now: Now, effects: &mut Vec<Effect<R>>) {
        self.links_up.remove(peer);
        self.forget_askers(peer);
        self.rounds.forget(peer);
        let broken: Vec<u64> =
            self.forwards.iter().filter(|(_, forwarded)| forwarded.home == *peer).map(|(id, _)| *id).collect();
        self.withdraw(broken, now, effects);
        let asked = self
            .lookups
            .iter()
            .filter(|(id, lookup)| lookup.request_id.is_some() && self.steward_of(Slot::of(id)) == *peer);
        let asked: Vec<LogId> = asked.map(|(id, _)| *id).collect();
        self.give_up_lookups(asked, effects);
    }

    /// Whoever asked over a link that broke is not answered: the process behind the next link may be a new one, and
    /// its numbers name other questions.
    fn forget_askers(&mut self, peer: &RegionId) {
        for slotted in self.logs.values_mut() {
            match slotted {
                Slotted::Ready(log) => {
                    log.replica_link_down(peer);
                    log.subscription_ended(peer);
                    log.forget_waiters_of(peer);
                }
                Slotted::Loading(queue) => queue.retain(|waiting| !waiting.is_from(peer)),
            }
        }
        for lookup in self.lookups.values_mut() {
            lookup.waiting.retain(|waiting| !waiting.is_from(peer));
        }
        self.retries.retain(|_, check| !check.waiter.is_from(peer));
    }

    pub(super) fn tick(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        let late: Vec<u64> = self
            .forwards
            .iter()
            .filter(|(_, forwarded)| now.monotonic >= forwarded.patience_ends)
            .map(|(id, _)| *id)
            .collect();
        if !late.is_empty() {
            self.withdraw_late(late, now, effects);
        }
        let patience = self.options.lookup_patience();
        let silent: Vec<LogId> = self
            .lookups
            .iter()
            .filter(|(_, lookup)| now.monotonic >= lookup.asked_at + patience)
            .map(|(id, _)| *id)
            .collect();
        self.give_up_lookups(silent, effects);
        let waiting: Vec<LogId> = self.waiting_for_copies.iter().copied().collect();
        for id in waiting {
            self.with_log(id, now, effects, |log, context| {
                log.make_due_joins(context);
                log.tell_queued(context);
            });
        }
        if !self.open.is_empty() {
            self.pull_next(now, effects);
        }
        if now.monotonic >= self.overdue_checked + OVERDUE_EVERY_MILLISECONDS {
            self.overdue_checked = now.monotonic;
            self.go_back(now, effects);
            self.go_on_failing_over(now, effects);
            self.place_again(now, effects);
            self.end_moves(now, effects);
            self.offer_tails(now, effects);
            self.expire_parked(now, effects);
            for log in self.lot.offer_again() {
                self.release(log, now, effects);
            }
        }
    }

    pub(super) fn anti_entropy(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        // First: what follows touches every home in memory.
        self.evict(now);
        let homes =
            self.logs.iter().filter(|(id, slotted)| self.is_home_in(slotted) && !self.opens(**id)).map(|(id, _)| *id);
        let homes: Vec<LogId> = homes.collect();
        for id in homes {
            self.with_log(id, now, effects, |log, context| log.ask_stalled(context));
        }
        for log in self.lot.logs() {
            self.release(log, now, effects);
        }
        self.look_after_homes(now, effects);
        self.follow_newer();
        self.follow_wanted(now, effects);
        self.join_placement_logs(now, effects);
    }

    /// What is parked for long may wait for a home that is none any more, where the word of the new one was lost with
    /// the power: the steward is asked.
    fn look_after_homes(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        let parked: Vec<LogId> = self.lot.logs().into_iter().take(HOMES_LOOKED_AFTER).collect();
        for id in parked {
            if !self.lookups.contains_key(&id) && self.placement_of(id).is_some() {
                self.look_up(id, Waiting::Release, now, effects);
            }
        }
    }

    /// A new home may not have been one when it was asked.
    fn follow_newer(&mut self) {
        for (id, following) in &mut self.follows {
            let Some(Slotted::Ready(log)) = self.logs.get(id) else { continue };
            let epoch = log.placement.as_ref().map_or(Default::default(), |placement| placement.epoch);
            if matches!(following, Following::Asked(_)) && log.epoch() < epoch {
                *following = Following::Wanted;
            }
        }
    }

    /// Whether something waits for a log beside what is in it.
    fn is_busy(&self, id: &LogId) -> bool {
        self.lookups.contains_key(id)
            || self.owned.contains_key(id)
            || self.held.contains_key(id)
            || self.sealed_homes.contains_key(id)
            || self.moves.contains_key(id)
            || self.failovers.involves(id)
    }

    /// Lets idle logs leave memory, oldest use first, when there are more than allowed.
    fn evict(&mut self, now: Now) {
        let over = self.logs.len().saturating_sub(self.options.loaded_logs);
        if over == 0 {
            return;
        }
        let mut idle: Vec<(u64, LogId)> = self
            .logs
            .iter()
            .filter_map(|(id, slotted)| match slotted {
                Slotted::Ready(log) => {
                    let unused = log.used_at + EVICTED_AFTER_MILLISECONDS < now.monotonic;
                    (unused && log.is_idle() && !self.is_busy(id)).then_some((log.used_at, *id))
                }
                Slotted::Loading(_) => None,
            })
            .collect();
        idle.sort_unstable();
        for (_, id) in idle.into_iter().take(over) {
            if let Some(Slotted::Ready(log)) = self.logs.remove(&id)
                && let Some(tip) = log.tip
                && id.kind != LogKind::Placement
            {
                self.left_memory.insert(id, tip.time);
            }
            self.open.remove(&id);
        }
        self.forget_oldest();
    }

    /// Keeps a half of what left memory, the newer one, once there is more than is remembered.
    fn forget_oldest(&mut self) {
        if self.left_memory.len() <= REMEMBERED {
            return;
        }
        let mut times: Vec<_> = self.left_memory.values().copied().collect();
        let (_, middle, _) = times.select_nth_unstable(REMEMBERED / 2);
        let middle = *middle;
        self.left_memory.retain(|_, time| *time > middle);
    }
}
