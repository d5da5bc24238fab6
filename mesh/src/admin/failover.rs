//! A region's right to its homes ends, or comes back.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_protocol::{RegionId, Slot};
use region_map::NotFailedOver;
use region_model::region_map::{LEASE, MapCommand, MapFact, MapState, RegionState};

use super::change::{Made, PATIENCE, Refused, Teller};
use super::lossy;
use super::node::AdminNode;

/// Longest wait for a lease to lapse: two of the usual length, since one may have been renewed just before.
const LAPSE_PATIENCE: Duration = Duration::from_secs(2 * LEASE.as_secs());
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(250);

/// What the operator gives his word for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// That the region, and with `accept_loss` a majority of the map's voters, is down.
    pub(super) force: bool,
    /// That homes are opened with the voters that live.
    pub(super) accept_loss: bool,
}

/// Fences a region and gives its slots to others.
pub(super) async fn failover(
    node: &AdminNode,
    region: &RegionId,
    word: Word,
    dry: bool,
    tell: &Teller,
) -> Result<Made, Refused> {
    let map = node.map_state();
    let fenced = may_fail_over(node, &map, region, word)?;
    let homes = node.homes_of(region).await?.len() as u64;
    // Typed again, the map goes on with one voter already.
    let force = word.force && map.map_voters != [node.region.clone()];
    if dry {
        if word.accept_loss {
            lossy::plan(node, &map, region, force, tell).await?;
        }
        return plan_failover(&map, region, force, homes, tell);
    }
    if word.accept_loss {
        return lossy::failover(node, region, fenced, force, tell).await;
    }
    if force {
        return force_failover(node, region, homes, tell).await;
    }
    let fence = fence(node, region, tell).await?;
    tell.progress("fence", 1, Some(1), format!("{region} is fenced by version {fence} of the region map"));
    let slots = node.reassign(region).await?;
    tell.progress("slots", u64::from(slots.moved), None, format!("{} slots have new stewards", slots.moved));
    let text = if slots.left > 0 {
        format!("{region} is fenced; {} slots stay with it, because none of their voters takes part", slots.left)
    } else {
        format!("{region} is fenced, and stewards open its homes anew; when it starts again it comes back by itself")
    };
    let changed = !fenced || slots.moved > 0;
    let made = if changed { Made::changed(text) } else { Made::already(text) };
    Ok(made
        .count("fence", fence)
        .count("slotsMoved", slots.moved.into())
        .count("slotsLeft", slots.left.into())
        .count("homesKnownHere", homes))
}

/// Whether the region is fenced already, where nothing speaks against its failover.
fn may_fail_over(node: &AdminNode, map: &MapState, region: &RegionId, word: Word) -> Result<bool, Refused> {
    let Word { force, accept_loss } = word;
    let Some(entry) = map.region(region) else { return Err(Refused::unknown(map, region)) };
    if *region == node.region {
        let hint =
            format!("ask the node of another region; to empty {region} while it runs: hearth region drain {region}");
        return Err(Refused::because("a region does not fail itself over", hint));
    }
    let fenced = match entry.state {
        RegionState::Active | RegionState::Draining => false,
        RegionState::Fenced => true,
        state @ (RegionState::Following | RegionState::Removed) => {
            let message = format!("{region} is {}: it has nothing to fail over", state.as_str());
            return Err(Refused::because(message, "look at it: hearth region status"));
        }
    };
    if (force || accept_loss) && map.members().count() > 2 {
        lossy::may_give_word(node, map, region, word)?;
    }
    let alone = map.members().count() == 2 && map.named_map_voter().is_some_and(|voter| *voter == *region);
    if alone && !force && !node.is_up(region) {
        let message = format!("{region} is the one voter of the region map and is out of reach");
        let hint = format!("if it is down for certain: hearth region failover {region} --force; it then starts fenced");
        return Err(Refused::because(message, hint));
    }
    if !fenced && (accept_loss || !force) && node.is_up(region) {
        let message = format!("{region} is in reach and renews its lease");
        let hint = format!(
            "stop it first (hearth dev stop {region}), or empty it while it runs: hearth region drain {region}"
        );
        return Err(Refused::because(message, hint));
    }
    Ok(fenced)
}

/// What the map would do is asked of a copy of it.
fn plan_failover(map: &MapState, region: &RegionId, force: bool, homes: u64, tell: &Teller) -> Result<Made, Refused> {
    let mut next = map.clone();
    let term = map.region(region).map_or(0, |entry| entry.term);
    if force {
        tell.plan(format!(
            "this region becomes the one voter of the region map, and {region} is fenced without a wait"
        ));
    } else {
        next.apply(&MapCommand::Fence { region: region.clone(), term }).fact().map_err(Clone::clone)?;
        tell.plan(format!("fence {region}, once its lease must have lapsed: within {} s", LAPSE_PATIENCE.as_secs()));
    }
    let seen = next.changed;
    let answer = next.apply(&MapCommand::Reassign { region: region.clone(), seen });
    let (moved, left) = match answer.fact() {
        Ok(MapFact::Slots { moved, left }) => (u64::from(*moved), u64::from(*left)),
        Ok(_) | Err(_) => (0, map.slots.stewarded(region) as u64),
    };
    for entry in next.members().filter(|entry| entry.region != *region) {
        let more = next.slots.stewarded(&entry.region).saturating_sub(map.slots.stewarded(&entry.region));
        if more > 0 {
            tell.plan(format!("{} becomes steward of {more} slots of {region}", entry.region));
        }
    }
    tell.plan(format!("open {homes} homes of {region} that this region holds copies of, each at a new epoch"));
    tell.plan(format!("what {region} acked at level `region` alone is missing until it is back: hearth region losses"));
    let text = "nothing was changed: this was a dry run";
    Ok(Made::already(text).count("slotsMoved", moved).count("slotsLeft", left).count("homesKnownHere", homes))
}

/// A fence stands once the lease must have lapsed; one that is renewed meanwhile is held by a region that lives.
pub(super) async fn fence(node: &AdminNode, region: &RegionId, tell: &Teller) -> Result<u64, Refused> {
    let deadline = tokio::time::Instant::now() + LAPSE_PATIENCE;
    loop {
        match node.map.fence(region, PATIENCE).await {
            Ok(fence) => return Ok(fence),
            Err(NotFailedOver::HoldsLease(left)) if tokio::time::Instant::now() + LOOK < deadline => {
                let text = format!("{region} may hold its lease for another {:.1} s", left.as_secs_f64());
                tell.progress("lease", 0, None, text);
                tokio::time::sleep(left.clamp(LOOK, LOOK * 4)).await;
            }
            Err(NotFailedOver::HoldsLease(_)) => {
                let message = format!("{region} is out of reach here and renews its lease through another region");
                let hint = format!("stop it first, or empty it while it runs: hearth region drain {region}");
                return Err(Refused::because(message, hint));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn force_failover(node: &AdminNode, region: &RegionId, homes: u64, tell: &Teller) -> Result<Made, Refused> {
    tell.progress("fence", 0, Some(1), format!("{} becomes the one voter of the region map", node.region));
    let answer = node.map.name_map_voter_by_force(PATIENCE).await?;
    let fact = answer.fact().map_err(Clone::clone);
    fact?;
    let slots = node.reassign(region).await?;
    let text = format!("{region} is fenced on your word that it is down; {} slots have new stewards", slots.moved);
    let made = if answer.changed() || slots.moved > 0 { Made::changed(text) } else { Made::already(text) };
    Ok(made
        .count("slotsMoved", slots.moved.into())
        .count("slotsLeft", slots.left.into())
        .count("homesKnownHere", homes))
}

/// Slots by the steward and the voters that they are to have.
pub(super) type Dealt = BTreeMap<(RegionId, Vec<RegionId>), Vec<Slot>>;

pub(super) fn count(slots: &Dealt) -> u64 {
    slots.values().map(|slots| slots.len() as u64).sum()
}

/// Names stewards and voters of slots. Answers how many it named.
pub(super) async fn deal(node: &AdminNode, slots: Dealt, tell: &Teller) -> Result<u64, Refused> {
    let (total, mut moved) = (count(&slots), 0);
    for ((steward, voters), slots) in slots {
        let place = |map: &MapState| MapCommand::Place {
            slots: slots.clone(),
            steward: steward.clone(),
            voters: voters.clone(),
            seen: map.changed,
        };
        let answer = node.propose(place).await?;
        // What is looked at next, here or by whoever asked, has it.
        node.newer(answer.version()).await;
        moved += slots.len() as u64;
        tell.progress("slots", moved, Some(total), format!("{moved} of {total} slots are dealt anew"));
    }
    Ok(moved)
}
