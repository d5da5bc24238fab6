//! Homes move, one or many, and voters change with them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use hearth_protocol::{ConversationId, LogId, Placement, RegionId, RegionMap};
use region_model::region_map::RegionState;
use tokio::time::{Instant, sleep_until};

use super::change::{Made, Refused, Teller};
use super::mover::NotMoved;
use super::node::AdminNode;

/// Homes that move at a time: a move takes some round trips, and `rate` is of those that begin.
const MOVES: usize = 256;
/// Homes between two lines of progress.
const TELL_EVERY: u64 = 50;
/// Kinds of refusals told at the end of many moves.
const REASONS: usize = 5;

/// Moves the home of one conversation.
pub(super) async fn one(
    node: &AdminNode,
    conversation: ConversationId,
    to: &RegionId,
    dry: bool,
    tell: &Teller,
) -> Result<Made, Refused> {
    let log = LogId::conversation(conversation);
    let Some(placement) = node.stores.placements.placement(log).await? else {
        let message = format!("{} knows no conversation {conversation}", node.region);
        return Err(Refused::because(message, "look at the id, or ask the node of another region"));
    };
    may_move(node, &placement, to)?;
    if placement.home == *to {
        return Ok(Made::already(format!("the home of {conversation} is {to}, at epoch {}", placement.epoch.0)));
    }
    if placement.home != node.region {
        return Err(Refused::ask_at(&placement.home, format!("the home of {conversation} is {}", placement.home)));
    }
    if dry {
        let voters = voters_with(&placement, to);
        if let Some(voters) = &voters {
            tell.plan(format!("copy {conversation} to {to}; its voters are then {}", names(voters)));
        }
        tell.plan(format!(
            "seal {conversation} at {}, bring what {to} lacks, open the next epoch at {to}",
            node.region
        ));
        tell.plan(format!("sends meanwhile wait, for about two round trips between {} and {to}", node.region));
        return Ok(Made::already("nothing was changed: this was a dry run").count("moved", 1));
    }
    tell.progress("homes", 0, Some(1), format!("{conversation} moves to {to}"));
    let step = Step { log, to: to.clone(), voters: voters_with(&placement, to) };
    match step.take(node).await {
        Ok(()) => Ok(Made::changed(format!("the home of {conversation} is {to}")).count("moved", 1)),
        Err(error) => Err(not_moved(&error, to)),
    }
}

/// Moves every home of this region that may go there.
pub(super) async fn all(node: &AdminNode, to: &RegionId, rate: u32, dry: bool, tell: &Teller) -> Result<Made, Refused> {
    target(node, to)?;
    if *to == node.region {
        return Ok(Made::already(format!("the homes of {} are at {to}", node.region)));
    }
    let mut moves = Vec::new();
    let mut left = Left::default();
    for owned in node.homes_of(&node.region).await? {
        match owned.placement {
            Some(placement) => match may_move(node, &placement, to) {
                Ok(()) => {
                    let voters = voters_with(&placement, to);
                    moves.push(Step { log: owned.log, to: to.clone(), voters });
                }
                Err(refused) => left.add(refused.message),
            },
            None => left.add("its placement is not known here yet".to_owned()),
        }
    }
    if dry {
        tell.plan(format!("move {} homes from {} to {to}, {rate} a second", moves.len(), node.region));
        left.plan(tell);
        return Ok(Made::already("nothing was changed: this was a dry run").count("moved", moves.len() as u64));
    }
    let moved = many(node, "homes", moves, rate, &mut left, tell).await;
    let text = format!("{moved} homes moved to {to}{}", left.told());
    let made = if moved > 0 { Made::changed(text) } else { Made::already(text) };
    Ok(made.count("moved", moved).count("left", left.count))
}

/// Homes that did not move, by reason.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) count: u64,
    reasons: BTreeMap<String, u64>,
}

impl Left {
    pub(super) fn add(&mut self, reason: String) {
        self.count += 1;
        if self.reasons.len() < REASONS || self.reasons.contains_key(&reason) {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }

    pub(super) fn plan(&self, tell: &Teller) {
        for (reason, count) in &self.reasons {
            tell.plan(format!("{count} homes stay: {reason}"));
        }
    }

    pub(super) fn told(&self) -> String {
        self.reasons.iter().map(|(reason, count)| format!("; {count} stayed: {reason}")).collect()
    }
}

/// A home that is to move, or voters that are to change.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) log: LogId,
    /// The home from then on.
    pub(super) to: RegionId,
    /// The voters from then on; as they are where none are named.
    pub(super) voters: Option<Vec<RegionId>>,
}

impl Step {
    async fn take(&self, node: &AdminNode) -> Result<(), NotMoved> {
        match &self.voters {
            Some(voters) => node.mover.change_voters(self.log, self.to.clone(), voters.clone()).await,
            None => node.mover.move_home(self.log, self.to.clone()).await,
        }
    }
}

/// Begins steps in turn, `rate` a second, some at a time; what was not done is tried once more, since a home may have
/// been opening, or waiting for a copy. Progress is told as of `homes` or `voters`. Answers how many were done.
pub(super) async fn many(
    node: &AdminNode,
    what: &str,
    steps: Vec<Step>,
    rate: u32,
    left: &mut Left,
    tell: &Teller,
) -> u64 {
    let total = steps.len() as u64;
    let mut done = 0;
    let mut again = round(node, what, steps, (rate, total), &mut done, tell).await;
    if !again.is_empty() {
        let steps = again.drain(..).map(|(step, _)| step).collect();
        again = round(node, what, steps, (rate, total), &mut done, tell).await;
    }
    for (_, NotMoved(refusal)) in again {
        left.add(refusal.message.into_owned());
    }
    done
}

/// Each step once. Answers those that were not done, and why.
async fn round(
    node: &AdminNode,
    what: &str,
    steps: Vec<Step>,
    (rate, total): (u32, u64),
    done: &mut u64,
    tell: &Teller,
) -> Vec<(Step, NotMoved)> {
    let every = Duration::from_secs(1) / rate.max(1);
    let began = Instant::now();
    let all = steps.len() as u64;
    let turns = stream::iter((0..).zip(steps)).map(|(number, step)| async move {
        sleep_until(began + every * number).await;
        let outcome = step.take(node).await;
        (step, outcome)
    });
    let mut turns = Box::pin(turns.buffer_unordered(MOVES));
    let (mut ended, mut not_done) = (0, Vec::new());
    while let Some((step, outcome)) = turns.next().await {
        match outcome {
            Ok(()) => *done += 1,
            Err(error) => not_done.push((step, error)),
        }
        ended += 1;
        if u64::is_multiple_of(ended, TELL_EVERY) || ended == all {
            let verb = if what == "homes" { "homes moved" } else { "logs have other voters" };
            tell.progress(what, *done, Some(total), format!("{done} of {total} {verb}, {} not yet", not_done.len()));
        }
    }
    not_done
}

/// The voters of a log whose home goes to a region that does not vote for it: that region comes in, for one that is not
/// the home where there are as many as usual. `None` for one that votes.
pub(super) fn voters_with(placement: &Placement, to: &RegionId) -> Option<Vec<RegionId>> {
    if placement.voters.contains(to) {
        return None;
    }
    let mut voters = placement.voters.clone();
    if voters.len() >= RegionMap::VOTERS
        && let Some(last) = voters.iter().rposition(|voter| *voter != placement.home)
    {
        voters.remove(last);
    }
    voters.push(to.clone());
    Some(voters)
}

fn not_moved(NotMoved(refusal): &NotMoved, to: &RegionId) -> Refused {
    let hint = match refusal.retry_after {
        Some(seconds) => format!("type the same again in {seconds} s: the home goes on where it was"),
        None => format!("look at it: hearth region status, hearth home show CONVERSATION; {to} has to be in reach"),
    };
    Refused::because(refusal.message.to_string(), hint)
}

/// Whether a region can be moved to at all.
fn target(node: &AdminNode, to: &RegionId) -> Result<(), Refused> {
    let map = node.map_state();
    let Some(entry) = map.region(to) else { return Err(Refused::unknown(&map, to)) };
    if entry.state != RegionState::Active {
        let others: Vec<String> = node.takes_over(&map, to).iter().map(ToString::to_string).collect();
        let message = format!("{to} is {}: it takes no homes", entry.state.as_str());
        return Err(Refused::because(message, format!("name one of: {}", others.join(", "))));
    }
    if !node.is_up(to) {
        let message = format!("{to} is out of reach of {}", node.region);
        return Err(Refused::because(message, "mend the link, or name another region"));
    }
    Ok(())
}

pub(super) fn names(regions: &[RegionId]) -> String {
    regions.iter().map(RegionId::as_str).collect::<Vec<_>>().join(", ")
}

/// Whether a log may have its home there.
fn may_move(node: &AdminNode, placement: &Placement, to: &RegionId) -> Result<(), Refused> {
    if let Some(allowed) = placement.allowed_regions.as_ref().filter(|allowed| !allowed.contains(to)) {
        let message = format!("residency: {to} may not hold it");
        return Err(Refused::because(message, format!("name one of its allowed regions: {}", names(allowed))));
    }
    target(node, to)
}
