//! The votes of a region for logs go to others, or a region comes to vote for logs that lack a voter: at each home by a
//! change of voters (design.md 4.7).

use hearth_protocol::{Placement, RegionId, RegionMap};
use region_model::region_map::RegionState;

use super::change::{Made, Refused, Teller};
use super::moves::{Left, Step, many};
use super::node::AdminNode;

/// The regions that may come to vote, with the logs that each was given so far.
struct Newcomers(Vec<(RegionId, u64)>);

impl Newcomers {
    /// The allowed one that does not vote yet and was given the fewest.
    fn next(&mut self, placement: &Placement) -> Option<RegionId> {
        let allowed = |region: &RegionId| {
            !placement.voters.contains(region)
                && placement.allowed_regions.as_ref().is_none_or(|allowed| allowed.contains(region))
        };
        let (region, given) =
            self.0.iter_mut().filter(|(region, _)| allowed(region)).min_by_key(|(_, given)| *given)?;
        *given += 1;
        Some(region.clone())
    }
}

/// Takes the votes of a region away, of every log whose home is here.
pub(super) async fn leave(
    node: &AdminNode,
    region: &RegionId,
    rate: u32,
    dry: bool,
    tell: &Teller,
) -> Result<Made, Refused> {
    let map = node.map_state();
    let Some(entry) = map.region(region) else { return Err(Refused::unknown(&map, region)) };
    if *region == node.region {
        return Err(Refused::because("a region does not take its own votes away", "ask the node of another region"));
    }
    if entry.state == RegionState::Active {
        let hint = format!(
            "empty it first: hearth region drain {region}; or, when it is gone: hearth region failover {region}"
        );
        return Err(Refused::because(format!("{region} takes part"), hint));
    }
    let mut newcomers = Newcomers(node.takes_over(&map, region).into_iter().map(|other| (other, 0)).collect());
    let (mut steps, mut left) = (Vec::new(), Left::default());
    for owned in node.homes_of(&node.region).await? {
        if !owned.voters.contains(region) {
            continue;
        }
        let Some(placement) = owned.placement else {
            left.add("its placement is not known here yet".to_owned());
            continue;
        };
        let mut voters: Vec<RegionId> = placement.voters.iter().filter(|voter| *voter != region).cloned().collect();
        if voters.len() < RegionMap::VOTERS {
            voters.extend(newcomers.next(&placement));
        }
        steps.push(Step { log: owned.log, to: node.region.clone(), voters: Some(voters) });
    }
    if dry {
        for (other, given) in newcomers.0.iter().filter(|(_, given)| *given > 0) {
            tell.plan(format!("{other} votes for {given} logs of {} in the place of {region}", node.region));
        }
    }
    let told = format!("{region} votes for no log of {}", node.region);
    change(node, steps, rate, dry, (left, told), tell).await
}

/// Lets a region vote for every log whose home is here and that has fewer voters than usual.
pub(super) async fn give(
    node: &AdminNode,
    region: &RegionId,
    rate: u32,
    dry: bool,
    tell: &Teller,
) -> Result<Made, Refused> {
    let map = node.map_state();
    let Some(entry) = map.region(region) else { return Err(Refused::unknown(&map, region)) };
    if entry.state != RegionState::Active {
        let message = format!("{region} is {}: it does not come to vote", entry.state.as_str());
        return Err(Refused::because(message, format!("let it take part first: hearth region add {region}")));
    }
    if !node.is_up(region) {
        let message = format!("{region} is out of reach of {}", node.region);
        return Err(Refused::because(message, "mend the link, then type the same again"));
    }
    let mut newcomers = Newcomers(vec![(region.clone(), 0)]);
    let (mut steps, mut left) = (Vec::new(), Left::default());
    for owned in node.homes_of(&node.region).await? {
        if owned.voters.len() >= RegionMap::VOTERS || owned.voters.contains(region) {
            continue;
        }
        let Some(placement) = owned.placement else {
            left.add("its placement is not known here yet".to_owned());
            continue;
        };
        let Some(newcomer) = newcomers.next(&placement) else { continue };
        let voters = placement.voters.iter().cloned().chain([newcomer]).collect();
        steps.push(Step { log: owned.log, to: node.region.clone(), voters: Some(voters) });
    }
    let told = format!("{region} votes for what lacked a voter, of the logs of {}", node.region);
    change(node, steps, rate, dry, (left, told), tell).await
}

async fn change(
    node: &AdminNode,
    steps: Vec<Step>,
    rate: u32,
    dry: bool,
    (mut left, told): (Left, String),
    tell: &Teller,
) -> Result<Made, Refused> {
    let total = steps.len() as u64;
    if dry {
        tell.plan(format!("change the voters of {total} logs of {}, {rate} a second", node.region));
        left.plan(tell);
        return Ok(Made::already("nothing was changed: this was a dry run").count("votersChanged", total));
    }
    let done = many(node, "voters", steps, rate, &mut left, tell).await;
    if left.count > 0 {
        let message =
            format!("{} of the logs of {} have their voters as before{}", left.count, node.region, left.told());
        return Err(Refused::failed(message, "look at it: hearth region status; then type the same again"));
    }
    let made = if done > 0 { Made::changed(told) } else { Made::already(told) };
    Ok(made.count("votersChanged", done))
}
