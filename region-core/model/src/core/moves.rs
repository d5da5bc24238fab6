//! A home moves to another of its voters because an operator wants it (design.md 4.7).

use hearth_protocol::{Epoch, ErrorCode, Level, LogId, LogKind, Refusal, RegionId, mesh};

use super::{Migration, Now, RegionCore, Slotted};
use crate::command::Outcome;
use crate::effect::Effect;
use crate::ownership::{MoveError, Shipped, Stage};
use crate::succession::{placement_of, placing_of};

/// A move that did not end within this is given up: the home comes back to itself.
const MOVED_WITHIN_MILLISECONDS: u64 = 8_000;
/// Moves under way at one home; more are refused `OVERLOADED`.
const MOVES: usize = 4_096;

/// One move at the old home.
#[derive(Debug)]
pub(super) struct Move<R> {
    migration: Migration<RegionId, hearth_protocol::Hash>,
    pub(super) reply: R,
    began: u64,
    placed: bool,
}

fn refuse<R>(reply: R, refusal: Refusal, effects: &mut Vec<Effect<R>>) {
    effects.push(Effect::Reply(reply, Outcome::Refused(refusal)));
}

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    /// Begins to move a home that is open here: it seals itself, and the target gets the rest.
    pub(super) fn begin_move(&mut self, id: LogId, to: &RegionId, reply: R, now: Now, effects: &mut Vec<Effect<R>>) {
        if let Some(refusal) = self.refuse_move(id, to, now) {
            return refuse(reply, refusal, effects);
        }
        let Some(Slotted::Ready(log)) = self.logs.get(&id) else { return };
        let Some(placement) = log.placement.clone() else { return };
        if placement.home == *to {
            return effects.push(Effect::View(reply, Box::new(log.view())));
        }
        let placing = placing_of(&placement);
        let mut migration = match Migration::begin(placing, to.clone(), placement.voters, |_| false) {
            Ok(migration) => migration,
            Err(error) => return refuse(reply, Refusal::invalid(error.to_string()), effects),
        };
        let mut sealed = Err(MoveError::NotHome);
        self.with_log(id, now, effects, |log, context| sealed = log.seal_for_move(&mut migration, now.right, context));
        match sealed {
            Ok(()) => {
                self.moves.insert(id, Move { migration, reply, began: now.monotonic, placed: false });
            }
            Err(error) => refuse(reply, Refusal::new(ErrorCode::HomeUnreachable, error.to_string()), effects),
        }
    }

    fn refuse_move(&self, id: LogId, to: &RegionId, now: Now) -> Option<Refusal> {
        let Some(placement) = self.placement_of(id) else {
            return Some(Refusal::no_conversation());
        };
        if id.kind == LogKind::Placement {
            return Some(Refusal::invalid("the region map names the stewards of placement logs"));
        }
        if placement.home != self.options.me {
            let message = format!("the home is {}: ask there", placement.home);
            return Some(Refusal::new(ErrorCode::HomeUnreachable, message));
        }
        if placement.allowed_regions.as_ref().is_some_and(|allowed| !allowed.contains(to)) {
            return Some(Refusal::invalid(format!("residency does not allow {to} to hold it")));
        }
        if !placement.voters.contains(to) {
            let voters: Vec<&str> = placement.voters.iter().map(RegionId::as_str).collect();
            return Some(Refusal::invalid(format!("{to} is not one of its voters, which are {}", voters.join(", "))));
        }
        if *to != self.options.me && !self.links_up.contains(to) {
            return Some(super::home_unreachable(to));
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
        let Some(moving) = self.moves.get_mut(&id).filter(|moving| !moving.placed) else { return };
        moving.migration.handle_holds(peer, Epoch(said.accepted), said.length, true);
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
        moving.placed = true;
        let placement = placement_of(&before, placing, before.loss.clone());
        self.place(before.epoch, placement, now, effects);
    }

    /// A newer placement stands: a move ended, one way or another.
    pub(super) fn moved(&mut self, id: LogId, home: &RegionId, epoch: Epoch, effects: &mut Vec<Effect<R>>) {
        let Some(moving) = self.moves.remove(&id) else { return };
        if *moving.migration.target() == *home {
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

    /// Moves that did not end in time are given up.
    pub(super) fn end_moves(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        let late = |moving: &Move<R>| now.monotonic >= moving.began + MOVED_WITHIN_MILLISECONDS;
        let late: Vec<LogId> = self.moves.iter().filter(|(_, moving)| late(moving)).map(|(id, _)| *id).collect();
        for id in late {
            if let Some(moving) = self.moves.remove(&id) {
                let message = "the copies that a move needs did not come in time; the home goes on where it was";
                refuse(moving.reply, Refusal::new(ErrorCode::HomeUnreachable, message).with_retry_after(5), effects);
            }
        }
    }
}
