//! What must hold in every state, and what must be seen in some.

use hearth_protocol::Level;
use region_model::ownership::{Held, LineEntry};

use crate::actions::Action;
use crate::entry::{Entry, Packet};
use crate::world::{Bounds, World, placed_epoch};

/// What the placement's open home has, if there is one.
fn line(world: &World) -> Option<&[Entry]> {
    world.open_home().map(|home| home.log.as_slice())
}

fn stands(line: &[Entry], epoch: u8, sequence: u8, message: u8) -> bool {
    let entry = line.get(usize::from(sequence));
    entry.is_some_and(|entry| entry.epoch == epoch && entry.message == message)
}

/// G1: what was acked above `region` is in the line of the newest home, where its ack said.
pub(crate) fn acked_is_in_the_line(_: &Bounds, world: &World) -> bool {
    let Some(line) = line(world) else { return true };
    let mut acked = world.acks.iter().filter(|acked| acked.level > Level::Region);
    acked.all(|acked| stands(line, acked.epoch, acked.sequence, acked.message))
}

/// G8: what was acked at any level is held somewhere, in a log or apart.
pub(crate) fn acked_is_held(_: &Bounds, world: &World) -> bool {
    let held = |message: u8| {
        let all = |region: &crate::world::Region| {
            region.log.iter().chain(region.tails.iter().flatten()).any(|entry| entry.message == message)
        };
        world.regions.iter().any(all)
    };
    world.acks.iter().all(|acked| held(acked.message))
}

/// G2: a position names one entry, and every log is a chain without a hole.
pub(crate) fn one_order(_: &Bounds, world: &World) -> bool {
    let mut all: Vec<Entry> = Vec::new();
    for region in &world.regions {
        for (index, entry) in region.log.iter().enumerate() {
            let previous = region.log.as_slice().hash_before(index as u64).ok().flatten();
            if entry.sequence() != index as u64 || previous != Some(entry.previous) {
                return false;
            }
        }
        all.extend(region.log.iter().chain(region.tails.iter().flatten()).copied());
    }
    all.sort_unstable();
    all.dedup();
    all.windows(2).all(|two| (two[0].epoch, two[0].sequence) != (two[1].epoch, two[1].sequence))
}

/// G3: a message is once in a log, and above `region` every ack of it names the same place.
pub(crate) fn sent_once(_: &Bounds, world: &World) -> bool {
    let once = |log: &[Entry]| {
        log.iter().enumerate().all(|(index, entry)| log[index + 1..].iter().all(|later| later.message != entry.message))
    };
    let same = |one: &crate::world::Acked, other: &crate::world::Acked| {
        one.message != other.message || one.level == Level::Region || one == other
    };
    world.regions.iter().all(|region| once(&region.log))
        && world.acks.iter().all(|one| world.acks.iter().all(|other| same(one, other)))
}

/// G5: no ack of an epoch after a newer one had opened.
pub(crate) fn one_writer(_: &Bounds, world: &World) -> bool {
    !world.alarms.stale_ack
}

/// G6: an ack is never below its level.
pub(crate) fn honest_acks(_: &Bounds, world: &World) -> bool {
    !world.alarms.dishonest_ack
}

/// A loss statement names every acked entry that an epoch opens without.
pub(crate) fn losses_are_named(_: &Bounds, world: &World) -> bool {
    !world.alarms.unnamed_loss
}

/// An accepted line is its home's line, to the hash.
pub(crate) fn no_conflict(_: &Bounds, world: &World) -> bool {
    !world.alarms.conflict
}

/// What was shown anywhere at a level above `region` stays in the line.
pub(crate) fn shown_stays(bounds: &Bounds, world: &World) -> bool {
    let Some(line) = line(world) else { return true };
    let mut firm = world.shown.iter().filter(|entry| entry.level.max(bounds.conversation) > Level::Region);
    firm.all(|entry| stands(line, entry.epoch, entry.sequence, entry.message))
}

/// Of a placement log: a conversation's epoch is placed once, as anybody sees it.
pub(crate) fn placed_once(bounds: &Bounds, world: &World) -> bool {
    let same = |one: &Entry, other: &Entry| {
        one.message == other.message || placed_epoch(one.message) != placed_epoch(other.message)
    };
    !bounds.placements || world.shown.iter().all(|one| world.shown.iter().all(|other| same(one, other)))
}

/// A majority side can go on: with any one voter dead for good, the others open an epoch and ack a new message.
pub(crate) fn majority_goes_on(bounds: &Bounds, world: &World) -> bool {
    let voters = world.placing.voters.clone();
    !bounds.progress || voters.into_iter().all(|dead| goes_on(bounds, world, dead))
}

/// The message by which progress is judged.
const PROBE: u8 = 200;

fn goes_on(bounds: &Bounds, from: &World, dead: u8) -> bool {
    let mut world = from.clone();
    let alive: Vec<u8> = (0..bounds.regions).filter(|region| *region != dead).collect();
    world.region(dead).lease = None;
    for _ in 0..12 {
        for region in &alive {
            world.perform(bounds, Action::Renew(*region));
        }
        let home = world.placing.home;
        let in_vain = world.is_named_in_vain(bounds);
        if home == dead || in_vain || world.fenced(home, world.placing.generation) {
            if world.opener.is_none() {
                world.perform(bounds, if in_vain { Action::OpenAbove(home) } else { Action::Fence });
            }
            for voter in world.placing.voters.clone().into_iter().filter(|voter| *voter != dead) {
                world.perform(bounds, Action::Seal(voter));
            }
            let winners = world.opener.as_ref().map(|opener| opener.winners(bounds)).unwrap_or_default();
            // One that won and died is placed all the same, and failed over from.
            let living = winners.iter().find(|winner| **winner != dead).or(winners.first());
            if let Some(winner) = living.copied() {
                world.perform(bounds, Action::Place(winner));
            } else if world.opener.as_ref().is_some_and(|o| o.replaces().epoch() != world.placing.epoch()) {
                world.perform(bounds, Action::Place(home));
            }
            continue;
        }
        if bounds.strays > 0 {
            world.perform(bounds, Action::GiveWay(home));
        }
        let open = world.open_home().is_some_and(|at| at.may_sequence(bounds));
        if !open {
            // A move that can no longer end is undone, which a home does by itself when the new one is lost.
            world.perform(bounds, Action::WayBack(home));
            let home = world.placing.home;
            world.perform(bounds, Action::Open(home));
        }
        let home = world.placing.home;
        if !world.knows(bounds, home, PROBE) {
            world.number(bounds, home, PROBE);
        }
        exchange(bounds, &mut world, &alive);
        if world.acks.iter().any(|acked| acked.message == PROBE) {
            return true;
        }
    }
    false
}

/// Delivers everything that the living say under the newest epoch, and under the old one of a move, until nothing
/// changes.
fn exchange(bounds: &Bounds, world: &mut World, alive: &[u8]) {
    for _ in 0..8 {
        let before = world.clone();
        for packet in world.net.clone() {
            let recent = match packet {
                Packet::Append { opening, .. } | Packet::Mark { opening, .. } => {
                    opening.epoch.0 + 1 >= world.placing.epoch().0
                }
                Packet::Holds { from, .. } => alive.contains(&from),
            };
            for to in alive {
                if recent {
                    world.deliver(bounds, *to, packet);
                }
            }
        }
        if *world == before {
            return;
        }
    }
}

/// Seen: an ack under a second epoch.
pub(crate) fn acked_under_second_epoch(_: &Bounds, world: &World) -> bool {
    world.acks.iter().any(|acked| acked.epoch >= 2)
}

/// Seen: a tail came back.
pub(crate) fn tail_came_back(_: &Bounds, world: &World) -> bool {
    world.readmitted
}

/// Seen: entries went apart.
pub(crate) fn something_went_apart(_: &Bounds, world: &World) -> bool {
    world.regions.iter().any(|region| !region.tails.is_empty())
}

/// Seen: a line that forks below the opening was staged.
pub(crate) fn something_was_staged(_: &Bounds, world: &World) -> bool {
    world.regions.iter().any(|region| !region.staged.is_empty())
}
