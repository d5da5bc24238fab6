//! A region is emptied: its slots and homes go to others, its sessions leave. It stays a part of the mesh, and comes
//! back by `--undo`.

use std::time::Duration;

use hearth_protocol::{Placement, RegionId};
use region_model::region_map::{MapCommand, MapState, RegionState};

use super::change::{Made, Refused, Teller};
use super::failback::{own_slot_count, take_slots};
use super::failover::{Dealt, count, deal};
use super::moves::{Left, Step, many, names};
use super::node::AdminNode;

/// Empties the region of this node. Asked again, goes on with what is left.
pub(super) async fn drain(
    node: &AdminNode,
    over: Duration,
    rate: u32,
    dry: bool,
    tell: &Teller,
) -> Result<Made, Refused> {
    let map = node.map_state();
    let me = &node.region;
    let Some(entry) = map.region(me) else { return Err(Refused::unknown(&map, me)) };
    if !matches!(entry.state, RegionState::Active | RegionState::Draining) {
        let message = format!("{me} is {}: it has nothing to be emptied of", entry.state.as_str());
        return Err(Refused::because(message, "look at it: hearth region status"));
    }
    let others = node.takes_over(&map, me);
    if others.is_empty() {
        let message = format!("no other region takes part and is in reach of {me}");
        let hint = format!("start another region first; for its sessions alone: hearth dev drain {me}");
        return Err(Refused::because(message, hint));
    }
    let slots = slots_away(&map, me, &others);
    let mut left = Left::default();
    let mut moves = Vec::new();
    let mut loads = vec![0_u64; others.len()];
    for owned in node.homes_of(me).await? {
        match owned.placement.and_then(|placement| target(&placement, &others, &mut loads)) {
            Some(to) => moves.push(Step { log: owned.log, to, voters: None }),
            None => left.add("none of its other voters takes part and is in reach".to_owned()),
        }
    }
    if dry {
        tell.plan(format!("mark {me} as draining: it becomes steward and home of nothing new"));
        tell.plan(format!("give {} slots to {}", count(&slots), names(&others)));
        tell.plan(format!("move {} homes, {rate} a second", moves.len()));
        left.plan(tell);
        let seconds = over.as_secs();
        tell.plan(format!(
            "ask {} sessions to leave within {seconds} s, each in its own slot",
            node.gateway.sessions()
        ));
        let made = Made::already("nothing was changed: this was a dry run");
        return Ok(made.count("slotsMoved", count(&slots)).count("homesMoved", moves.len() as u64));
    }
    let draining = set_draining(node, true).await?;
    let slots = deal(node, slots, tell).await?;
    let homes = many(node, "homes", moves, rate, &mut left, tell).await;
    // Sessions leave also when homes cannot: who takes the machine down wants them to.
    let sessions = node.gateway.sessions() as u64;
    let serving = node.handle.readiness() == region_core::Readiness::Ready;
    node.handle.set_draining(true);
    tell.progress("sessions", 0, Some(sessions), format!("{sessions} sessions leave within {} s", over.as_secs()));
    let stayed = node.gateway.drain(over).await as u64;
    tell.progress("sessions", sessions.saturating_sub(stayed), Some(sessions), format!("{stayed} sessions are left"));
    let text = format!("{me} is drained{}; to undo it: hearth region drain {me} --undo", left.told());
    let changed = draining || slots > 0 || homes > 0 || serving;
    let made = if changed { Made::changed(text) } else { Made::already(text) };
    Ok(made
        .count("slotsMoved", slots)
        .count("homesMoved", homes)
        .count("homesLeft", left.count)
        .count("sessionsLeft", stayed))
}

/// Ends a drain: sessions come again, and the slots that are its own.
pub(super) async fn undrain(node: &AdminNode, dry: bool, tell: &Teller) -> Result<Made, Refused> {
    let map = node.map_state();
    let me = &node.region;
    let own = own_slot_count(node, &map);
    if dry {
        tell.plan(format!("{me} takes part, and takes sessions, as before"));
        tell.plan(format!("{me} becomes steward of {own} slots again; homes stay where they are"));
        return Ok(Made::already("nothing was changed: this was a dry run").count("slotsMoved", own));
    }
    let changed = set_draining(node, false).await?;
    let drained = node.handle.readiness() != region_core::Readiness::Ready;
    node.handle.set_draining(false);
    node.gateway.resume_serving();
    let (slots, left) = take_slots(node, me, tell).await?;
    let text = format!("{me} takes part; to bring homes back: hearth home move --selector home=OTHER --to {me}");
    let made = if changed || drained || slots > 0 { Made::changed(text) } else { Made::already(text) };
    Ok(made.count("slotsMoved", slots).count("slotsLeft", left))
}

async fn set_draining(node: &AdminNode, draining: bool) -> Result<bool, Refused> {
    let answer = node
        .propose(|map| MapCommand::SetDraining { region: node.region.clone(), draining, seen: map.changed })
        .await?;
    node.newer(answer.version()).await;
    Ok(answer.changed())
}

/// The other voter with the fewest of them takes a home; of equals the first one.
fn target(placement: &Placement, others: &[RegionId], loads: &mut [u64]) -> Option<RegionId> {
    let allowed = |region: &RegionId| {
        placement.voters.contains(region)
            && placement.allowed_regions.as_ref().is_none_or(|allowed| allowed.contains(region))
    };
    let (number, region) =
        others.iter().enumerate().filter(|(_, region)| allowed(region)).min_by_key(|(number, _)| loads[*number])?;
    loads[number] += 1;
    Some(region.clone())
}

/// The slots of a region, by the voter of each that has the fewest.
fn slots_away(map: &MapState, me: &RegionId, others: &[RegionId]) -> Dealt {
    let mut loads: Vec<(usize, &RegionId)> =
        others.iter().map(|region| (map.slots.stewarded(region), region)).collect();
    let mut dealt = Dealt::new();
    for (slot, group) in map.slots.iter().filter(|(_, group)| group.steward == *me) {
        let voter = loads.iter_mut().filter(|(_, region)| group.voters.contains(region)).min_by_key(|(load, _)| *load);
        // A slot without another voter stays.
        if let Some((load, steward)) = voter {
            *load += 1;
            dealt.entry(((*steward).clone(), group.voters.clone())).or_default().push(slot);
        }
    }
    dealt
}
