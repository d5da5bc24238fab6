//! Homes move, one or many.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use hearth_protocol::{ConversationId, LogId, Placement, RegionId};
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
        tell.plan(format!(
            "seal {conversation} at {}, bring what {to} lacks, open the next epoch at {to}",
            node.region
        ));
        tell.plan(format!("sends meanwhile wait, for about two round trips between {} and {to}", node.region));
        return Ok(Made::already("nothing was changed: this was a dry run").count("moved", 1));
    }
    tell.progress("homes", 0, Some(1), format!("{conversation} moves to {to}"));
    match node.mover.move_home(log, to.clone()).await {
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
                Ok(()) => moves.push((owned.log, to.clone())),
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
    let moved = many(node, moves, rate, &mut left, tell).await;
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

/// Begins to move homes in turn, `rate` a second, some at a time. Answers how many moved.
pub(super) async fn many(
    node: &AdminNode,
    moves: Vec<(LogId, RegionId)>,
    rate: u32,
    left: &mut Left,
    tell: &Teller,
) -> u64 {
    let total = moves.len() as u64;
    let every = Duration::from_secs(1) / rate.max(1);
    let began = Instant::now();
    let turns = stream::iter((0..).zip(moves)).map(|(number, (log, to))| async move {
        sleep_until(began + every * number).await;
        node.mover.move_home(log, to).await
    });
    let mut turns = Box::pin(turns.buffer_unordered(MOVES));
    let (mut moved, mut done) = (0, 0);
    while let Some(outcome) = turns.next().await {
        match outcome {
            Ok(()) => moved += 1,
            Err(NotMoved(refusal)) => left.add(refusal.message.into_owned()),
        }
        done += 1;
        if u64::is_multiple_of(done, TELL_EVERY) || done == total {
            tell.progress("homes", done, Some(total), format!("{moved} of {total} homes moved, {} stayed", left.count));
        }
    }
    moved
}

fn not_moved(NotMoved(refusal): &NotMoved, to: &RegionId) -> Refused {
    let hint = match refusal.retry_after {
        Some(seconds) => format!("type the same again in {seconds} s: the home goes on where it was"),
        None => {
            format!("look at it: hearth region status, hearth home show CONVERSATION; {to} has to be one of its voters")
        }
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

/// Whether a log may have its home there.
fn may_move(node: &AdminNode, placement: &Placement, to: &RegionId) -> Result<(), Refused> {
    let names = |regions: &[RegionId]| regions.iter().map(RegionId::as_str).collect::<Vec<_>>().join(", ");
    if let Some(allowed) = placement.allowed_regions.as_ref().filter(|allowed| !allowed.contains(to)) {
        let message = format!("residency: {to} may not hold it");
        return Err(Refused::because(message, format!("name one of its allowed regions: {}", names(allowed))));
    }
    if !placement.voters.contains(to) {
        let message = format!("{to} is not one of its voters");
        return Err(Refused::because(message, format!("name one of its voters: {}", names(&placement.voters))));
    }
    target(node, to)
}
