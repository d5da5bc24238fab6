//! `hearth region add` and `hearth region remove`: the voters of logs change at every home, so every node is asked.

use std::process::ExitCode;

use hearth_protocol::RegionId;
use hearth_protocol::admin::{self, Change, ChangeRequest, Line, Losses, Status};

use crate::admin::{FAILED, Failure, REFUSED, Target, ask_all, ask_change, ask_change_with, targets, tell};
use crate::admin_arguments::{How, Where};
use crate::{losses, output};

/// Adds a region; once it takes part, it votes for what lacks a voter.
pub(crate) async fn add(region: RegionId, rate: u32, how: &How) -> Result<ExitCode, Failure> {
    let mut sum = Sum::default();
    let request = ChangeRequest { change: Change::AddRegion { region: region.clone() }, dry_run: how.dry_run };
    let code = ask_change_with(&how.at, &request, &mut |line| sum.take(line, how.at.json)).await?;
    let (nodes, states) = nodes(&how.at).await?;
    if states.iter().any(|(member, state)| *member == region && state == "active") {
        every_home_answers(&nodes, &states, &region)?;
        for (at, target) in &nodes {
            let change = Change::GiveVotes { region: region.clone(), rate };
            if takes_part(&states, at) {
                ask(target, change, how, &mut sum).await?;
            }
        }
    }
    tell(&sum.line(), how.at.json);
    Ok(code)
}

/// Has every home take a region's votes away, then removes it.
pub(crate) async fn remove(region: RegionId, rate: u32, how: &How) -> Result<ExitCode, Failure> {
    let (nodes, states) = nodes(&how.at).await?;
    every_home_answers(&nodes, &states, &region)?;
    say_what_is_lost(&how.at, &region).await?;
    let mut sum = Sum::default();
    for (at, target) in nodes.iter().filter(|(at, _)| *at != region) {
        let change = Change::LeaveVotes { region: region.clone(), rate };
        if takes_part(&states, at) {
            ask(target, change, how, &mut sum).await?;
        }
    }
    let request = ChangeRequest { change: Change::RemoveRegion { region }, dry_run: how.dry_run };
    ask_change(&how.at, &request).await
}

/// What the parts of a change came to.
#[derive(Default)]
struct Sum {
    changed: bool,
    text: String,
    counts: Vec<(String, u64)>,
}

impl Sum {
    /// Shows a line of a part; the last one of it as progress, since others follow.
    fn take(&mut self, line: &Line, json: bool) {
        let Line::Done { changed, text, counts } = line else { return tell(line, json) };
        self.changed |= changed;
        if self.text.is_empty() {
            self.text.clone_from(text);
        }
        for (name, count) in counts {
            match self.counts.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += count,
                None => self.counts.push((name.clone(), *count)),
            }
        }
        let step = "voters".to_owned();
        tell(&Line::Progress { step, done: 1, total: Some(1), text: text.clone() }, json);
    }

    fn line(self) -> Line {
        Line::Done { changed: self.changed, text: self.text, counts: self.counts }
    }
}

async fn ask(target: &Target, change: Change, how: &How, sum: &mut Sum) -> Result<(), Failure> {
    let request = ChangeRequest { change, dry_run: how.dry_run };
    match target.client.change(&request, |line| sum.take(line, how.at.json)).await? {
        Line::Refused { message, hint, failed, .. } => {
            Err(Failure::new(if failed { FAILED } else { REFUSED }, message, hint))
        }
        _ => Ok(()),
    }
}

/// A region of the mesh and the state that the map has it in.
type States = Vec<(RegionId, String)>;

fn takes_part(states: &States, region: &RegionId) -> bool {
    states.iter().any(|(member, state)| member == region && matches!(state.as_str(), "active" | "draining"))
}

/// The nodes that answer, by their regions, and the newest states that they know.
async fn nodes(at: &Where) -> Result<(Vec<(RegionId, Target)>, States), Failure> {
    let (mut nodes, mut newest, mut silent): (_, Option<Status>, _) = (Vec::new(), None, None);
    for target in targets(at)? {
        match target.client.get::<Status>(admin::STATUS).await {
            Ok(status) => {
                nodes.push((status.node.region.clone(), target));
                if newest.as_ref().is_none_or(|newest| newest.map_version < status.map_version) {
                    newest = Some(status);
                }
            }
            Err(error) => silent = Some(error),
        }
    }
    match (newest, silent) {
        (Some(status), _) => Ok((nodes, status.regions.into_iter().map(|row| (row.region, row.state)).collect())),
        (None, Some(error)) => Err(error.into()),
        (None, None) => {
            Err(Failure::new(crate::admin::NOBODY, "no node answers", "start one, or name it with --admin"))
        }
    }
}

/// Where a region does not answer, the voters of what has its home there would stay as they are.
fn every_home_answers(nodes: &[(RegionId, Target)], states: &States, but: &RegionId) -> Result<(), Failure> {
    let silent = states.iter().map(|(member, _)| member).find(|member| {
        *member != but && takes_part(states, member) && !nodes.iter().any(|(region, _)| region == *member)
    });
    let Some(silent) = silent else { return Ok(()) };
    let message = format!("the node of {silent} does not answer: the voters of its homes are changed there");
    let hint = format!("start it, or name it, too: --admin; when it is gone: hearth region failover {silent}");
    Err(Failure::new(REFUSED, message, hint))
}

/// Loss statements that wait for a region wait for ever once it is removed.
async fn say_what_is_lost(at: &Where, region: &RegionId) -> Result<(), Failure> {
    let (answers, _): (Vec<Losses>, _) = ask_all(at, admin::LOSSES).await?;
    let open = losses::together(&answers).iter().filter(|loss| loss.waits_for(region)).count();
    if open > 0 {
        output::note(&format!(
            "note: {open} loss statements wait for {region}; what they name is lost once it is removed: hearth region losses"
        ));
    }
    Ok(())
}
