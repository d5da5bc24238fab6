//! Regions come into a running mesh, and leave it.

use std::time::Duration;

use hearth_protocol::{RegionId, RegionMap};
use region_model::region_map::{FirstMap, MapCommand, MapState, RegionState};
use tokio::time::{Instant, sleep};

use super::change::{Made, PATIENCE, Refused, Teller};
use super::failback::{misses_its_map_vote, vote_on_map};
use super::failover::{Dealt, count, deal};
use super::node::AdminNode;

/// Between two looks whether what was placed elsewhere is known here.
const LOOK: Duration = Duration::from_millis(200);

/// Adds a region: it follows first; once it runs and is in reach it takes part.
pub(super) async fn add(node: &AdminNode, region: &RegionId, dry: bool, tell: &Teller) -> Result<Made, Refused> {
    let map = node.map_state();
    let state = map.region(region).map(|entry| entry.state);
    let configured = node.configured.regions.contains(region);
    let runs = map.region(region).is_some_and(|entry| entry.store.is_some()) && node.is_up(region);
    match state {
        Some(RegionState::Draining) => return Ok(Made::already(format!("{region} takes part, and is being emptied"))),
        Some(RegionState::Active) => return take_part(node, region, false, dry, tell).await,
        _ => {}
    }
    if state == Some(RegionState::Fenced) {
        let message = format!("{region} is fenced: it is a part of the mesh, and comes back when it starts");
        return Err(Refused::because(message, format!("start it (dev: hearth dev start {region})")));
    }
    if !configured {
        let message =
            format!("the configuration of {} lists no region {region}: its links would be refused", node.region);
        let hint = format!(
            "add {region} at the end of [[mesh.regions]] in every region's file, restart one after the other, then: hearth region add {region}"
        );
        return Err(Refused::because(message, hint));
    }
    let is_known = state == Some(RegionState::Following);
    if dry {
        if !is_known {
            tell.plan(format!("add {region} to the region map: it follows, without slots, votes or homes"));
        }
        tell.plan(if runs { format!("let {region} take part") } else { format!("wait for {region} to be started") });
        return Ok(Made::already("nothing was changed: this was a dry run"));
    }
    let mut changed = false;
    if !is_known {
        let answer = node.propose(|map| MapCommand::AddRegion { region: region.clone(), seen: map.changed }).await?;
        changed = answer.changed();
        tell.progress("voters", 1, None, format!("{region} follows the region map"));
    }
    if !runs {
        let text =
            format!("{region} follows; start it, and when it is in reach type again: hearth region add {region}");
        return Ok(if changed { Made::changed(text) } else { Made::already(text) });
    }
    let answer = node.propose(|map| MapCommand::Activate { region: region.clone(), seen: map.changed }).await?;
    node.newer(answer.version()).await;
    take_part(node, region, true, dry, tell).await
}

/// A region that takes part votes on the map where that lacks a voter, and for the placement logs that lack one or whose
/// slots are its own by the configuration: from there it can become their steward.
async fn take_part(
    node: &AdminNode,
    region: &RegionId,
    activated: bool,
    dry: bool,
    tell: &Teller,
) -> Result<Made, Refused> {
    let map = node.map_state();
    let (votes, slots) = (misses_its_map_vote(&map, region), grown(node, &map, region));
    if dry {
        if votes {
            tell.plan(format!("{region} votes on the region map"));
        }
        tell.plan(format!("{region} votes for the placement logs of {} slots", count(&slots)));
        let made = Made::already("nothing was changed: this was a dry run");
        return Ok(made.count("slotsVotedFor", count(&slots)));
    }
    if votes {
        vote_on_map(node, region, tell).await?;
    }
    let voted = deal(node, slots, tell).await?;
    let text = format!(
        "{region} takes part; to let it steward its share: hearth region failback {region}; to bring homes there: hearth home move --selector home=OTHER --to {region}"
    );
    let made = if activated || votes || voted > 0 { Made::changed(text) } else { Made::already(text) };
    Ok(made.count("slotsVotedFor", voted))
}

/// The placement logs that a region comes to vote for: those with fewer voters than usual, and those of slots that are
/// its own by the configuration, where it replaces one. Two of three voters stay, so what was acked is among them.
fn grown(node: &AdminNode, map: &MapState, region: &RegionId) -> Dealt {
    let mut dealt = Dealt::new();
    for (slot, group) in map.slots.iter() {
        let steward_active = map.region(&group.steward).is_some_and(|entry| entry.state == RegionState::Active);
        if group.voters.contains(region) || !steward_active {
            continue;
        }
        let mut voters = group.voters.clone();
        if voters.len() >= RegionMap::VOTERS {
            let other = voters.iter().rposition(|voter| *voter != group.steward);
            match other.filter(|_| node.configured.steward(slot) == region) {
                Some(other) => voters.remove(other),
                None => continue,
            };
        }
        voters.push(region.clone());
        dealt.entry((group.steward.clone(), voters)).or_default().push(slot);
    }
    dealt
}

/// Takes a region out that is the home of nothing, votes for nothing ([`super::votes`]), and is down or drained.
pub(super) async fn remove(node: &AdminNode, region: &RegionId, dry: bool, tell: &Teller) -> Result<Made, Refused> {
    let map = node.map_state();
    let Some(entry) = map.region(region) else { return Err(Refused::unknown(&map, region)) };
    if *region == node.region {
        return Err(Refused::because("a region does not remove itself", "ask the node of another region"));
    }
    match entry.state {
        RegionState::Removed => return Ok(Made::already(format!("{region} is not a part of the mesh"))),
        RegionState::Active => {
            let hint = format!(
                "empty it first: hearth region drain {region}; or, when it is gone: hearth region failover {region}"
            );
            return Err(Refused::because(format!("{region} takes part"), hint));
        }
        RegionState::Following | RegionState::Draining | RegionState::Fenced => {}
    }
    let needed = needed_by(node, region, dry).await?;
    let slots = shrunk(node, &map, region)?;
    let votes = map.map_voters.contains(region);
    if dry {
        if votes {
            tell.plan(format!("{region} votes on the region map no more"));
        }
        if needed > 0 {
            tell.plan(format!("{needed} logs that {} knows have other voters first", node.region));
        }
        tell.plan(format!("the placement logs of {} slots go on without {region}", count(&slots)));
        tell.plan(format!("{region} is removed; its store can never come back as it is"));
        return Ok(Made::already("nothing was changed: this was a dry run").count("slotsMoved", count(&slots)));
    }
    let slots = deal(node, slots, tell).await?;
    if votes {
        leave_the_map_voters(node, region, tell).await?;
    }
    let answer = remove_from_map(node, region).await?;
    let text = format!("{region} is removed; take it out of [[mesh.regions]] when the regions are restarted next");
    let made = if answer { Made::changed(text) } else { Made::already(text) };
    Ok(made.count("slotsMoved", slots))
}

/// Map voters change one at a time: another region comes first, where the mesh has one that does not vote. Of the last two
/// regions one is left as the named voter.
async fn leave_the_map_voters(node: &AdminNode, region: &RegionId, tell: &Teller) -> Result<(), Refused> {
    let map = node.map_state();
    let usual = FirstMap::of(map.members().map(|entry| entry.region.clone()).collect()).map_voters.len();
    let spare = node.takes_over(&map, region).into_iter().chain([node.region.clone()]);
    let spare = spare.into_iter().find(|other| !map.map_voters.contains(other));
    if let Some(spare) = spare.filter(|_| map.map_voters.len() <= usual) {
        vote_on_map(node, &spare, tell).await?;
    }
    tell.progress("voters", 0, Some(1), format!("{region} leaves the voters of the region map"));
    let answer = node.propose(|map| MapCommand::RemoveMapVoter { region: region.clone(), seen: map.changed }).await?;
    node.newer(answer.version()).await;
    Ok(())
}

async fn remove_from_map(node: &AdminNode, region: &RegionId) -> Result<bool, Refused> {
    let answer = node.propose(|map| {
        let term = map.region(region).map_or(0, |entry| entry.term);
        MapCommand::RemoveRegion { region: region.clone(), term, seen: map.changed }
    });
    match answer.await {
        Ok(answer) => Ok(answer.changed()),
        Err(refused) if node.is_up(region) => {
            let hint = format!(
                "stop {region}, wait until its lease has lapsed ({} s), then type the same again",
                PATIENCE.as_secs() * 2
            );
            Err(Refused { hint, ..refused })
        }
        Err(refused) => Err(refused),
    }
}

/// How many logs that are held here a region votes for: refused while there are some, unless this is a plan, and while one
/// has its home there. What was placed elsewhere comes here a moment later.
async fn needed_by(node: &AdminNode, region: &RegionId, dry: bool) -> Result<u64, Refused> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (mut homes, mut votes) = (0_u64, 0_u64);
        node.owned_logs(|owned| {
            homes += u64::from(owned.home == *region);
            votes += u64::from(owned.voters.contains(region));
        })
        .await?;
        if homes == 0 && (votes == 0 || dry) {
            return Ok(votes);
        }
        if Instant::now() < deadline && homes == 0 {
            sleep(LOOK).await;
            continue;
        }
        if homes > 0 {
            let message = format!("{region} is the home of {homes} logs that {} knows", node.region);
            return Err(Refused::because(message, format!("move them first: hearth region drain {region}")));
        }
        let message =
            format!("{region} votes for {votes} logs that {} knows: their copies there still count", node.region);
        let hint = format!("type, with the node of every other region: hearth region remove {region}");
        return Err(Refused::because(message, hint));
    }
}

/// The placement logs that a region votes for, without it, and with another region in its place where there is one. Two
/// of three voters stay, so what was acked is among them, and all of the new ones are sealed.
fn shrunk(node: &AdminNode, map: &MapState, region: &RegionId) -> Result<Dealt, Refused> {
    let mut dealt = Dealt::new();
    let mut spare: Vec<(RegionId, u64)> = node.takes_over(map, region).into_iter().map(|other| (other, 0)).collect();
    for (slot, group) in map.slots.iter().filter(|(_, group)| group.voters.contains(region)) {
        if group.steward == *region || group.voters.len() < 2 {
            let hint = format!(
                "empty it first: hearth region drain {region}; or, when it is gone: hearth region failover {region}"
            );
            return Err(Refused::because(format!("{region} still stewards slots"), hint));
        }
        let mut voters: Vec<RegionId> = group.voters.iter().filter(|voter| *voter != region).cloned().collect();
        let fitting = spare.iter_mut().filter(|(other, _)| !voters.contains(other));
        if let Some((other, given)) = fitting.min_by_key(|(_, given)| *given).filter(|_| voters.len() == 2) {
            *given += 1;
            voters.push(other.clone());
        }
        dealt.entry((group.steward.clone(), voters)).or_default().push(slot);
    }
    Ok(dealt)
}
