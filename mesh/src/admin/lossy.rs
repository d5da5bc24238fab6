//! A failover with fewer voters than acks ask for, on the operator's word: what is left goes on, what may be missing is
//! stated, and comes back with the regions that have it (design.md 4.4).

use std::time::Duration;

use hearth_protocol::{Level, Placement, RegionId};
use region_model::ownership::seals_needed;
use region_model::region_map::{MapState, RegionState};
use tokio::time::{Instant, sleep};

use super::change::{Made, PATIENCE, Refused, Teller};
use super::failover::{Dealt, Word, count, deal, fence};
use super::node::AdminNode;

/// Longest wait for the homes to be open; those that are not by then go on opening.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at them.
const LOOK: Duration = Duration::from_millis(500);
/// Logs that a dry run names.
const NAMED: usize = 10;

/// Whether a region takes part, and this node reaches it.
fn lives(node: &AdminNode, map: &MapState, region: &RegionId) -> bool {
    let state = map.region(region).map(|entry| entry.state);
    matches!(state, Some(RegionState::Active | RegionState::Draining)) && node.is_up(region)
}

/// The word of a loss, and that of force, in a mesh of more than two regions: by force the map goes on with one voter,
/// which is allowed only where no majority of its voters is in reach, and needed only there.
pub(super) fn may_give_word(node: &AdminNode, map: &MapState, region: &RegionId, word: Word) -> Result<(), Refused> {
    if map.map_voters == [node.region.clone()] {
        return Ok(());
    }
    let (up, all) = (map.map_voters.iter().filter(|voter| node.is_up(voter)).count(), map.map_voters.len());
    let decides = up * 2 > all;
    let accept = if word.accept_loss { " --accept-loss" } else { "" };
    match word {
        Word { force: true, .. } if decides => {
            let message = format!("{up} of the {all} voters of the region map are in reach: they decide");
            Err(Refused::because(message, format!("type: hearth region failover {region}{accept}")))
        }
        Word { force: true, accept_loss: true } => Ok(()),
        Word { force: false, .. } if decides => Ok(()),
        Word { .. } => {
            let message = format!(
                "{up} of the {all} voters of the region map are in reach: what they decided last may not be known here"
            );
            let hint = format!(
                "start one of them; or, when they are gone for certain: hearth region failover {region} --accept-loss --force"
            );
            Err(Refused::because(message, hint))
        }
    }
}

/// Says what would be done beyond a failover, and what may be lost.
pub(super) async fn plan(
    node: &AdminNode,
    map: &MapState,
    region: &RegionId,
    force: bool,
    tell: &Teller,
) -> Result<(), Refused> {
    if force {
        let others: Vec<&str> =
            map.members().map(|entry| entry.region.as_str()).filter(|name| *name != node.region.as_str()).collect();
        tell.plan(format!(
            "fence {}: each comes back by itself when it runs and reaches {}",
            others.join(" and "),
            node.region
        ));
    }
    let groups = smaller_groups(map, |voter| (!force && lives(node, map, voter)) || *voter == node.region);
    tell.plan(format!("go on with fewer voters in the placement logs of {} slots", count(&groups)));
    let (mut whole, mut lossy) = (0_u64, Vec::new());
    for owned in node.homes_of(region).await? {
        let Some(placement) = owned.placement else { continue };
        let alive = placement.voters.iter().filter(|voter| *voter != region && lives(node, map, voter)).count();
        let needed = seals_needed(placement.voters.len(), placement.durability);
        if alive >= needed { whole += 1 } else { lossy.push((placement, alive)) }
    }
    tell.plan(format!("{whole} homes of {region} open with all that two regions acked"));
    tell.plan(format!("{} homes of {region} open with too few voters", lossy.len()));
    for (placement, alive) in lossy.iter().take(NAMED) {
        tell.plan(may_lack(node, placement, *alive).await?);
    }
    if lossy.len() > NAMED {
        tell.plan(format!("… and {} more", lossy.len() - NAMED));
    }
    Ok(())
}

async fn may_lack(node: &AdminNode, placement: &Placement, alive: usize) -> Result<String, Refused> {
    let log = placement.log;
    let name = log.as_conversation().map_or_else(|| log.to_string(), |conversation| conversation.to_string());
    let loaded = node.stores.log.load(log).await?;
    let from = match &loaded.record {
        Some(record) => format!("epoch {} from {} on", record.accepted.0, loaded.length),
        None => "everything: there is no copy here".to_owned(),
    };
    let copies = placement.voters.len() + 1 - alive.max(1);
    Ok(format!("{name} may lack {from}, as {} holds it: what was acked with fewer than {copies} copies", node.region))
}

/// Fences the region, gives its slots to who lives, and has its homes opened with the voters that live. Typed again, it
/// goes on with what is left.
pub(super) async fn failover(
    node: &AdminNode,
    region: &RegionId,
    fenced: bool,
    force: bool,
    tell: &Teller,
) -> Result<Made, Refused> {
    if force {
        tell.progress("fence", 0, Some(1), format!("{} becomes the one voter of the region map", node.region));
        let answer = node.map.name_map_voter_by_force(PATIENCE).await?;
        let fact = answer.fact().map_err(Clone::clone);
        fact?;
        node.newer(answer.version()).await;
    } else if !fenced {
        fence(node, region, tell).await?;
    }
    let gone: Vec<RegionId> = node
        .map_state()
        .members()
        .filter(|entry| entry.state == RegionState::Fenced)
        .map(|entry| entry.region.clone())
        .collect();
    let mut moved = 0;
    for gone in &gone {
        moved += u64::from(node.reassign(gone).await?.moved);
    }
    tell.progress("slots", moved, None, format!("{moved} slots have new stewards"));
    let map = node.map_state();
    let groups = smaller_groups(&map, |voter| lives(node, &map, voter));
    let smaller = deal(node, groups, tell).await?;
    let fence = node.map_state().generation_of(region);
    node.handle.accept_loss(region.clone(), fence).await?;
    let (homes, left) = wait_until_open(node, region, tell).await?;
    let others: Vec<String> = gone.iter().filter(|other| *other != region).map(ToString::to_string).collect();
    let mut text = format!("{region} is fenced, {} of its homes that {} knows are open", homes - left, node.region);
    if left > 0 {
        text.push_str(&format!("; {left} are not yet: type the same again"));
    }
    for other in &others {
        text.push_str(&format!("; {other} is fenced, too: hearth region failover {other} --accept-loss"));
    }
    text.push_str("; what may be missing: hearth region losses");
    let changed = !fenced || moved > 0 || smaller > 0 || homes > left;
    let made = if changed { Made::changed(text) } else { Made::already(text) };
    Ok(made
        .count("fence", fence)
        .count("slotsMoved", moved)
        .count("slotsWithFewerVoters", smaller)
        .count("homesOpened", homes - left)
        .count("homesLeft", left))
}

/// Waits for the homes of a region to have another one. Answers how many there were, and how many are left.
async fn wait_until_open(node: &AdminNode, region: &RegionId, tell: &Teller) -> Result<(u64, u64), Refused> {
    let homes = node.homes_of(region).await?.len() as u64;
    let deadline = Instant::now() + OPEN_WITHIN;
    let mut left = homes;
    while left > 0 && Instant::now() < deadline {
        sleep(LOOK).await;
        left = node.homes_of(region).await?.len() as u64;
        tell.progress("homes", homes.saturating_sub(left), Some(homes), format!("{left} homes wait to be opened"));
    }
    Ok((homes, left))
}

/// Slots whose placement log has no majority of voters that live, with those of them that do. One without any stays.
fn smaller_groups(map: &MapState, lives: impl Fn(&RegionId) -> bool) -> Dealt {
    let is_active = |region: &RegionId| map.region(region).is_some_and(|entry| entry.state == RegionState::Active);
    let mut dealt = Dealt::new();
    for (slot, group) in map.slots.iter() {
        let alive: Vec<RegionId> = group.voters.iter().filter(|voter| lives(voter)).cloned().collect();
        if alive.len() >= Level::Majority.copies(group.voters.len()) {
            continue;
        }
        let steward = if alive.contains(&group.steward) { Some(&group.steward) } else { alive.first() };
        if let Some(steward) = steward.filter(|steward| is_active(steward)) {
            dealt.entry((steward.clone(), alive.clone())).or_default().push(slot);
        }
    }
    dealt
}
