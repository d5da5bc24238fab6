//! A home moves, or its voters change, because an operator wants it (design.md 4.7).

use hearth_protocol::{Epoch, ErrorCode, Level, LogId, LogKind, Placement, Refusal, RegionId, mesh};

use super::{Migration, Now, RegionCore, Slotted};
use crate::command::Outcome;
use crate::effect::Effect;
use crate::ownership::{MoveError, Shipped, Stage};
use crate::succession::{placement_of, placing_of};

/// A move that makes no progress for this long is given up: the home comes back to itself.
const MOVED_WITHIN_MILLISECONDS: u64 = 8_000;
/// Moves under way at one home; more are refused `OVERLOADED`.
const MOVES: usize = 4_096;
/// A placement that did not come to stand within this is asked for again.
const PLACED_AGAIN_MILLISECONDS: u64 = 1_000;
/// A home seals itself for a move once each new voter lacks at most so many entries: those are copied while sends wait.
const SEALED_BEHIND: u64 = 256;

/// One move at the old home.
#[derive(Debug)]
pub(super) struct Move<R> {
    migration: Migration<RegionId, hearth_protocol::Hash>,
    /// Where the log is to live.
    to: RegionId,
    voters: Vec<RegionId>,
    /// Voters that are new: they take a copy before the home seals itself.
    invited: Vec<RegionId>,
    /// How many entries those lacked when they were last looked at.
    lack: u64,
    pub(super) reply: R,
    /// When it began or last made progress, in milliseconds.
    went_on: u64,
    /// The placement that the steward was asked for, and when.
    placed: Option<(Placement, u64)>,
}

/// Whether two lists name the same regions.
fn same(one: &[RegionId], other: &[RegionId]) -> bool {
    one.len() == other.len() && one.iter().all(|region| other.contains(region))
}

fn refuse<R>(reply: R, refusal: Refusal, effects: &mut Vec<Effect<R>>) {
    effects.push(Effect::Reply(reply, Outcome::Refused(refusal)));
}

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    /// Begins to move a home that is open here, or to change its voters: new ones take a copy, then it seals itself, and
    /// the target gets the rest.
    pub(super) fn begin_move(
        &mut self,
        id: LogId,
        to: RegionId,
        voters: Option<Vec<RegionId>>,
        reply: R,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        let Some(placement) = self.placement_of(id).cloned() else {
            return refuse(reply, Refusal::no_conversation(), effects);
        };
        let voters = voters.unwrap_or_else(|| placement.voters.clone());
        let invited: Vec<RegionId> = voters.iter().filter(|voter| !placement.voters.contains(voter)).cloned().collect();
        if let Some(refusal) = self.refuse_move(id, &placement, &to, &voters, now) {
            return refuse(reply, refusal, effects);
        }
        if placement.home == to && same(&placement.voters, &voters) {
            let Some(Slotted::Ready(log)) = self.logs.get(&id) else { return };
            return effects.push(Effect::View(reply, Box::new(log.view())));
        }
        let migration = match Migration::begin(placing_of(&placement), to.clone(), voters.clone(), |_| false) {
            Ok(migration) => migration,
            Err(error) => return refuse(reply, Refusal::invalid(error.to_string()), effects),
        };
        let lack = u64::MAX;
        let moving = Move { migration, to, voters, invited, lack, reply, went_on: now.monotonic, placed: None };
        let invited = moving.invited.clone();
        self.moves.insert(id, moving);
        self.with_log(id, now, effects, |log, context| invited.iter().for_each(|peer| log.invite(peer, context)));
        self.seal_once_copied(id, now, effects);
    }

    /// The home seals itself for its move as soon as the new voters have nearly all.
    fn seal_once_copied(&mut self, id: LogId, now: Now, effects: &mut Vec<Effect<R>>) {
        let Some(moving) = self.moves.get_mut(&id) else { return };
        if !matches!(moving.migration.stage(), Stage::Copying) {
            return;
        }
        let Some(Slotted::Ready(log)) = self.logs.get(&id) else { return };
        let lacking = moving.invited.iter().map(|peer| log.lacks(peer));
        let Some(lack) = lacking.map(|lack| lack.ok_or(())).collect::<Result<Vec<_>, _>>().ok() else { return };
        let (most, all) = (lack.iter().max().copied().unwrap_or(0), lack.iter().sum());
        if all < moving.lack {
            (moving.lack, moving.went_on) = (all, now.monotonic);
        }
        // One that has said nothing yet lacks all.
        if most > SEALED_BEHIND.min(log.durable.saturating_sub(1))
            || !log.is_home_of(&self.options.me)
            || self.owned.contains_key(&id)
        {
            return;
        }
        let mut migration = moving.migration.clone();
        let mut sealed = Err(MoveError::NotHome);
        self.with_log(id, now, effects, |log, context| {
            // Who waits to join goes with the log.
            log.make_joins(context);
            sealed = log.seal_for_move(&mut migration, now.right, context);
        });
        match sealed {
            Ok(()) => {
                if let Some(moving) = self.moves.get_mut(&id) {
                    (moving.migration, moving.went_on) = (migration, now.monotonic);
                }
            }
            Err(error) => {
                let Some(moving) = self.moves.remove(&id) else { return };
                refuse(moving.reply, Refusal::new(ErrorCode::HomeUnreachable, error.to_string()), effects);
            }
        }
    }

    fn refuse_move(
        &self,
        id: LogId,
        placement: &Placement,
        to: &RegionId,
        voters: &[RegionId],
        now: Now,
    ) -> Option<Refusal> {
        if id.kind == LogKind::Placement {
            return Some(Refusal::invalid("the region map names the stewards of placement logs"));
        }
        if placement.home != self.options.me {
            let message = format!("the home is {}: ask there", placement.home);
            return Some(Refusal::new(ErrorCode::HomeUnreachable, message));
        }
        if let Some(allowed) = &placement.allowed_regions
            && let Some(region) = voters.iter().chain([to]).find(|region| !allowed.contains(region))
        {
            return Some(Refusal::invalid(format!("residency does not allow {region} to hold it")));
        }
        if !voters.contains(to) {
            let voters: Vec<&str> = voters.iter().map(RegionId::as_str).collect();
            return Some(Refusal::invalid(format!("{to} is not one of its voters, which are {}", voters.join(", "))));
        }
        let new = voters.iter().filter(|voter| !placement.voters.contains(voter));
        let away = |region: &&RegionId| **region != self.options.me && !self.links_up.contains(*region);
        if let Some(region) = new.chain([to]).find(away) {
            return Some(super::home_unreachable(region));
        }
        if self.moves.contains_key(&id) {
            let refusal = Refusal::new(ErrorCode::Overloaded, "it is being moved");
            return Some(refusal.with_retry_after(5));
        }
        if self.moves.len() >= MOVES {
            let refusal = Refusal::new(ErrorCode::Overloaded, "too many homes are being moved").with_retry_after(1);
            return Some(refusal.with_limit(format!("{MOVES} moves")));
        }
        if !self.numbers(id, now) {
            let refusal = Refusal::new(ErrorCode::HomeUnreachable, "the home may not sequence now");
            return Some(refusal.with_retry_after(1));
        }
        None
    }

    /// A voter said what it holds: with enough of the rest elsewhere the log is placed at the target.
    pub(super) fn copied(
        &mut self,
        id: LogId,
        peer: &RegionId,
        said: &mesh::Appended,
        now: Now,
        effects: &mut Vec<Effect<R>>,
    ) {
        if self.owned.contains_key(&id) {
            // The promise is not on disk yet: the voters are asked once it is.
            return;
        }
        self.seal_once_copied(id, now, effects);
        let Some(moving) = self.moves.get_mut(&id).filter(|moving| moving.placed.is_none()) else { return };
        moving.migration.handle_holds(peer, Epoch(said.accepted), said.length, said.joining == 0);
        let target = moving.migration.target().clone();
        let generation = self.map.as_ref().and_then(|map| map.region(&target)).map_or(0, |entry| entry.fence);
        let Some(Slotted::Ready(log)) = self.logs.get(&id) else { return };
        // What this region counts of its own is on its disk.
        let durable = match moving.migration.stage() {
            Stage::Sealed { opening, .. } => log.durable >= opening.first,
            Stage::Copying => false,
        };
        if !durable {
            return;
        }
        let placing = moving.migration.place(&self.options.me, Level::Majority, generation, &Shipped);
        let (Some(placing), Some(before)) = (placing, log.placement.clone()) else { return };
        let placement = placement_of(&before, placing, before.loss.clone());
        moving.placed = Some((placement.clone(), now.monotonic));
        self.place(before.epoch, placement, now, effects);
    }

    /// A newer placement stands: a move ended, one way or another.
    pub(super) fn moved(
        &mut self,
        id: LogId,
        home: &RegionId,
        voters: &[RegionId],
        epoch: Epoch,
        effects: &mut Vec<Effect<R>>,
    ) {
        let Some(moving) = self.moves.remove(&id) else { return };
        if moving.to == *home && same(&moving.voters, voters) {
            let view = match self.logs.get(&id) {
                Some(Slotted::Ready(log)) => log.view(),
                Some(Slotted::Loading(_)) | None => crate::effect::LogView::default(),
            };
            effects.push(Effect::View(moving.reply, Box::new(view)));
        } else {
            let message = format!("epoch {} was opened by {home} meanwhile", epoch.0);
            refuse(moving.reply, Refusal::new(ErrorCode::HomeUnreachable, message), effects);
        }
    }

    /// A steward that was opening its placement log may not have taken a placement: it is asked again. What was placed
    /// meanwhile wins, since each placement names the epoch that it replaces.
    pub(super) fn place_again(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        let mut again = Vec::new();
        for moving in self.moves.values_mut() {
            if let Some((placement, at)) = &mut moving.placed
                && now.monotonic >= *at + PLACED_AGAIN_MILLISECONDS
            {
                *at = now.monotonic;
                again.push((moving.migration.replaces().epoch(), placement.clone()));
            }
        }
        for (replaces, placement) in again {
            self.place(replaces, placement, now, effects);
        }
    }

    /// Moves that did not end in time are given up.
    pub(super) fn end_moves(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        let late = |moving: &Move<R>| now.monotonic >= moving.went_on + MOVED_WITHIN_MILLISECONDS;
        let late: Vec<LogId> = self.moves.iter().filter(|(_, moving)| late(moving)).map(|(id, _)| *id).collect();
        for id in late {
            if let Some(moving) = self.moves.remove(&id) {
                let message = "the copies that a move needs did not come in time; the home goes on where it was";
                refuse(moving.reply, Refusal::new(ErrorCode::HomeUnreachable, message).with_retry_after(5), effects);
            }
        }
    }
}
