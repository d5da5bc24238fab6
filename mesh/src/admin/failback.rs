//! A region that is back gets what is its own by the configuration: its vote on the map and on placement logs, and its
//! slots.

use std::time::Duration;

use hearth_protocol::{Epoch, LogId, RegionId, RegionMap};
use region_model::region_map::{FirstMap, MapCommand, MapState, RegionState};
use tokio::time::{Instant, sleep};

use super::change::{Made, PATIENCE, Refused, Teller};
use super::failover::{Dealt, count, deal};
use super::node::AdminNode;

/// Longest wait for this region to have the placement logs that it is to steward.
const HAS_THEM_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks whether it has, and between two proposals while map voters change.
const LOOK: Duration = Duration::from_millis(500);

/// Gives a region that is back what is its own. Asked at that region: what it has of the placement logs is on its disk.
pub(super) async fn failback(node: &AdminNode, region: &RegionId, dry: bool, tell: &Teller) -> Result<Made, Refused> {
    let map = node.map_state();
    may_take_back(node, &map, region)?;
    let votes = missing_votes(node, &map, region);
    let own = own_slots(node, &map, region);
    let votes_on_map = misses_its_map_vote(&map, region);
    let total = count(&own);
    if dry {
        if votes_on_map {
            tell.plan(format!("{region} votes on the region map again"));
        }
        tell.plan(format!("{region} votes for the placement logs of {} slots again", count(&votes)));
        tell.plan(format!("{region} becomes steward of {total} slots again, once it has their placement logs"));
        tell.plan(format!("homes stay where they are: hearth home move --selector home=OTHER --to {region}"));
        return Ok(Made::already("nothing was changed: this was a dry run").count("slotsMoved", total));
    }
    if votes_on_map {
        vote_on_map(node, region, tell).await?;
    }
    let voted = deal(node, votes, tell).await?;
    let (moved, left) = take_slots(node, region, tell).await?;
    let mut text = format!(
        "{region} stewards what is its own; to bring homes back: hearth home move --selector home=OTHER --to {region}"
    );
    if left > 0 {
        text = format!("{region} has not got the placement logs of {left} slots yet: type the same again");
    }
    let made = if moved > 0 || voted > 0 || votes_on_map { Made::changed(text) } else { Made::already(text) };
    Ok(made.count("slotsMoved", moved).count("slotsLeft", left).count("slotsVotedFor", voted))
}

fn may_take_back(node: &AdminNode, map: &MapState, region: &RegionId) -> Result<(), Refused> {
    let Some(entry) = map.region(region) else { return Err(Refused::unknown(map, region)) };
    match entry.state {
        RegionState::Active => {}
        RegionState::Draining => {
            let message = format!("{region} is draining");
            return Err(Refused::because(message, format!("end the drain: hearth region drain {region} --undo")));
        }
        RegionState::Fenced | RegionState::Following | RegionState::Removed => {
            let message = format!("{region} is {}: it can take nothing back", entry.state.as_str());
            let hint =
                format!("start it and wait until `hearth region status` says active (dev: hearth dev start {region})");
            return Err(Refused::because(message, hint));
        }
    }
    if *region != node.region {
        return Err(Refused::ask_at(region, format!("what {region} has of its placement logs is looked at there")));
    }
    Ok(())
}

/// Whether the map has fewer voters than a mesh of its size has, without this region.
pub(super) fn misses_its_map_vote(map: &MapState, region: &RegionId) -> bool {
    let members: Vec<RegionId> = map.members().map(|entry| entry.region.clone()).collect();
    let usual = FirstMap::of(members).map_voters.len();
    usual > 1 && map.map_voters.len() < usual && !map.map_voters.contains(region)
}

/// Map voters change one at a time: another change may be under way.
pub(super) async fn vote_on_map(node: &AdminNode, region: &RegionId, tell: &Teller) -> Result<(), Refused> {
    tell.progress("voters", 0, Some(1), format!("{region} comes to the voters of the region map"));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let command = |map: &MapState| MapCommand::AddMapVoter { region: region.clone(), seen: map.changed };
        match node.propose(command).await {
            Ok(answer) => {
                node.newer(answer.version()).await;
                return Ok(());
            }
            Err(refused) if Instant::now() >= deadline => return Err(refused),
            Err(_) => sleep(LOOK).await,
        }
    }
}

/// Slots for whose placement log the region votes by the configuration and not by the map, where that has fewer voters
/// than usual. The steward stays: it has the log.
fn missing_votes(node: &AdminNode, map: &MapState, region: &RegionId) -> Dealt {
    let mut dealt = Dealt::new();
    for (slot, group) in map.slots.iter() {
        let usual = node.configured.voters(node.configured.steward(slot));
        let takes_part = |voter: &RegionId| {
            map.region(voter).is_some_and(|entry| matches!(entry.state, RegionState::Active | RegionState::Draining))
        };
        let fewer = group.voters.len() < usual.len().min(RegionMap::VOTERS) && !group.voters.contains(region);
        let steward_active = map.region(&group.steward).is_some_and(|entry| entry.state == RegionState::Active);
        if fewer && usual.contains(region) && steward_active && group.voters.iter().all(takes_part) {
            let voters = group.voters.iter().cloned().chain([region.clone()]).collect();
            dealt.entry((group.steward.clone(), voters)).or_default().push(slot);
        }
    }
    dealt
}

/// Slots that are a region's by the configuration and that others steward; it votes for them still.
fn own_slots(node: &AdminNode, map: &MapState, region: &RegionId) -> Dealt {
    let mut own = Dealt::new();
    for (slot, group) in map.slots.iter() {
        let is_own = node.configured.steward(slot) == region;
        if is_own && group.steward != *region && group.voters.contains(region) {
            own.entry((region.clone(), group.voters.clone())).or_default().push(slot);
        }
    }
    own
}

/// Of its own slots this node takes those whose placement log it has as the present steward opened it: a majority of
/// the voters does then, whoever voted before. Answers how many it took, and how many are left after some time.
pub(super) async fn take_slots(node: &AdminNode, region: &RegionId, tell: &Teller) -> Result<(u64, u64), Refused> {
    let deadline = Instant::now() + HAS_THEM_WITHIN;
    let mut moved = 0;
    loop {
        let map = node.map_state();
        let own = own_slots(node, &map, region);
        let all = count(&own);
        let ready = with_their_logs(node, &map, own).await?;
        let left = all - count(&ready);
        moved += deal(node, ready, tell).await?;
        if left == 0 || Instant::now() >= deadline {
            return Ok((moved, left));
        }
        tell.progress("slots", moved, Some(moved + left), format!("waits for the placement logs of {left} slots"));
        sleep(LOOK).await;
    }
}

/// How many slots of its own this node would take.
pub(super) fn own_slot_count(node: &AdminNode, map: &MapState) -> u64 {
    count(&own_slots(node, map, &node.region))
}

async fn with_their_logs(node: &AdminNode, map: &MapState, own: Dealt) -> Result<Dealt, Refused> {
    let mut ready = Dealt::new();
    for (named, slots) in own {
        for slot in slots {
            let since = map.slots.group(slot).map_or(u64::MAX, |group| group.since);
            let loaded = node.stores.log.load(LogId::placement(slot)).await?;
            if loaded.record.is_some_and(|record| record.accepted >= Epoch(since)) {
                ready.entry(named.clone()).or_default().push(slot);
            }
        }
    }
    Ok(ready)
}
