//! Regions come into a running mesh, and leave it.

use hearth_protocol::RegionId;
use region_model::region_map::{MapCommand, RegionState};

use super::change::{Made, PATIENCE, Refused, Teller};
use super::failover::{Dealt, count, deal};
use super::node::AdminNode;

/// Adds a region: it follows first; once it runs and is in reach it takes part.
pub(super) async fn add(node: &AdminNode, region: &RegionId, dry: bool, tell: &Teller) -> Result<Made, Refused> {
    let map = node.map_state();
    let state = map.region(region).map(|entry| entry.state);
    let configured = node.configured.regions.contains(region);
    let runs = map.region(region).is_some_and(|entry| entry.store.is_some()) && node.is_up(region);
    if matches!(state, Some(RegionState::Active | RegionState::Draining)) {
        return Ok(Made::already(format!("{region} takes part")));
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
    node.propose(|map| MapCommand::Activate { region: region.clone(), seen: map.changed }).await?;
    let text =
        format!("{region} takes part; it has no slots and no homes of its own: hearth home move … --to {region}");
    Ok(Made::changed(text))
}

/// Takes a region out that is the home of nothing, votes for nothing, and is down or drained.
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
    needed_by(node, region).await?;
    let slots = shrunk(&map, region)?;
    let votes = map.map_voters.contains(region);
    if dry {
        if votes {
            tell.plan(format!("{region} votes on the region map no more"));
        }
        tell.plan(format!("the placement logs of {} slots go on without {region}", count(&slots)));
        tell.plan(format!("{region} is removed; its store can never come back as it is"));
        return Ok(Made::already("nothing was changed: this was a dry run").count("slotsMoved", count(&slots)));
    }
    let slots = deal(node, slots, tell).await?;
    if votes {
        tell.progress("voters", 0, Some(1), format!("{region} leaves the voters of the region map"));
        let answer =
            node.propose(|map| MapCommand::RemoveMapVoter { region: region.clone(), seen: map.changed }).await?;
        node.newer(answer.version()).await;
    }
    let answer = remove_from_map(node, region).await?;
    let text = format!("{region} is removed; take it out of [[mesh.regions]] when the regions are restarted next");
    let made = if answer { Made::changed(text) } else { Made::already(text) };
    Ok(made.count("slotsMoved", slots))
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

/// Refused while a log that is held here has its home or a vote there.
async fn needed_by(node: &AdminNode, region: &RegionId) -> Result<(), Refused> {
    let (mut homes, mut votes) = (0_u64, 0_u64);
    node.owned_logs(|owned| {
        homes += u64::from(owned.home == *region);
        votes += u64::from(owned.voters.contains(region));
    })
    .await?;
    if homes > 0 {
        let message = format!("{region} is the home of {homes} logs that {} knows", node.region);
        return Err(Refused::because(message, format!("move them first: hearth region drain {region}")));
    }
    if votes > 0 {
        let message =
            format!("{region} votes for {votes} logs that {} knows: their copies there still count", node.region);
        let hint = format!("their voters have to change first, which this build does not do; leave {region} drained");
        return Err(Refused::because(message, hint));
    }
    Ok(())
}

/// The placement logs that a region votes for, without it. Any majority of the rest meets any majority of before.
fn shrunk(map: &region_model::region_map::MapState, region: &RegionId) -> Result<Dealt, Refused> {
    let mut dealt = Dealt::new();
    for (slot, group) in map.slots.iter().filter(|(_, group)| group.voters.contains(region)) {
        if group.steward == *region || group.voters.len() < 2 {
            let hint = format!(
                "empty it first: hearth region drain {region}; or, when it is gone: hearth region failover {region}"
            );
            return Err(Refused::because(format!("{region} still stewards slots"), hint));
        }
        let voters: Vec<RegionId> = group.voters.iter().filter(|voter| *voter != region).cloned().collect();
        dealt.entry((group.steward.clone(), voters)).or_default().push(slot);
    }
    Ok(dealt)
}
