//! `hearth region losses`: what all regions know of each loss statement, put together.

use std::collections::BTreeMap;

use hearth_protocol::RegionId;
use hearth_protocol::admin::{LossRow, LossStatementRow, Losses};
use serde::Serialize;

use crate::admin_text::{head, table, time};

/// How far a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum State {
    /// The region that was replaced has not shown what it has.
    Open,
    /// Some of what it had has come back; the rest is on its way.
    Partly,
    /// All that it had and that the present home takes has come back.
    Back,
    /// No region that answers holds what the statement says.
    Unknown,
}

/// One loss statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Together {
    log: String,
    home: Option<RegionId>,
    epoch: u64,
    first: u64,
    statement: Option<LossStatementRow>,
    state: State,
    /// What the region that was replaced had beyond the fork.
    missing: u64,
    /// Of that, what is in the line again.
    back: u64,
}

impl Together {
    /// Whether a region has, or may have, what the statement names and is not in the line again.
    pub(crate) fn waits_for(&self, region: &RegionId) -> bool {
        let lost = self.statement.as_ref().is_some_and(|statement| statement.lost_home == *region);
        lost && self.state != State::Back
    }
}

/// Every region that holds a log knows its statements; the one that was replaced knows what was missing.
pub(crate) fn together(answers: &[Losses]) -> Vec<Together> {
    let mut by_epoch: BTreeMap<(&str, u64), Vec<(&RegionId, &LossRow)>> = BTreeMap::new();
    for Losses { region, losses, .. } in answers {
        for row in losses {
            by_epoch.entry((&row.log, row.epoch)).or_default().push((region, row));
        }
    }
    by_epoch.into_values().filter_map(|rows| one(&rows)).collect()
}

fn one(rows: &[(&RegionId, &LossRow)]) -> Option<Together> {
    let statement = rows.iter().find_map(|(_, row)| row.statement.clone());
    // Who accepted most knows the present home.
    let newest = rows.iter().max_by_key(|(_, row)| row.accepted)?.1;
    let of_lost = |statement: &LossStatementRow| {
        rows.iter().find(|(region, _)| **region == statement.lost_home).map(|(_, row)| *row)
    };
    let lost = statement.as_ref().and_then(of_lost);
    let state = match (&statement, lost) {
        (None, _) => State::Unknown,
        (Some(_), Some(row)) if row.accepted && (row.back == row.tail || row.settled) => State::Back,
        (Some(_), Some(row)) if row.accepted => State::Partly,
        (Some(_), _) => State::Open,
    };
    Some(Together {
        log: newest.log.clone(),
        home: newest.home.clone(),
        epoch: newest.epoch,
        first: newest.first,
        statement,
        state,
        missing: lost.map_or(0, |row| row.tail),
        back: lost.map_or(0, |row| row.back),
    })
}

/// The same for people.
pub(crate) fn text(losses: &[Together], more: bool) -> String {
    if losses.is_empty() {
        return "no loss statements".to_owned();
    }
    let mut rows = vec![head(&["log", "home", "epoch", "may lack", "of", "since", "state"])];
    for loss in losses {
        let unknown = || "?".to_owned();
        let statement = loss.statement.as_ref();
        rows.push(vec![
            loss.log.clone(),
            loss.home.as_ref().map_or_else(unknown, ToString::to_string),
            loss.epoch.to_string(),
            statement.map_or_else(unknown, |said| {
                format!("epoch {} from {}, fewer than {} copies", said.epoch, said.from, said.covered_copies)
            }),
            statement.map_or_else(unknown, |said| said.lost_home.to_string()),
            statement.map_or_else(unknown, |said| time(said.made_at.0)),
            state(loss),
        ]);
    }
    if more {
        rows.push(vec!["… and more".to_owned()]);
    }
    table(&rows)
}

fn state(loss: &Together) -> String {
    let Together { missing, back, .. } = loss;
    let lost = loss.statement.as_ref().map_or("?", |statement| statement.lost_home.as_str());
    match loss.state {
        State::Open => format!("open: {lost} has not shown what it has"),
        State::Unknown => "unknown: no region that answers holds its placement log".to_owned(),
        State::Partly => format!("open: {back} of {missing} back"),
        State::Back if *missing == 0 => "come back: nothing was missing".to_owned(),
        State::Back if back < missing => format!("come back: {back} of {missing}, the rest was refused"),
        State::Back => format!("come back: {missing}"),
    }
}

#[cfg(test)]
mod tests {
    use hearth_protocol::Timestamp;

    use super::*;

    fn region(name: &str) -> RegionId {
        RegionId::new(name).expect("a name")
    }

    fn row(accepted: bool, tail: u64, back: u64, settled: bool) -> LossRow {
        let statement =
            LossStatementRow { lost_home: region("ra"), epoch: 1, from: 5, covered_copies: 2, made_at: Timestamp(1) };
        let (log, home) = ("a".to_owned(), Some(region("rb")));
        LossRow { log, home, epoch: 2, first: 5, statement: Some(statement), accepted, tail, back, settled }
    }

    /// What is told of a statement about `ra` that `rb` and, when it answers, `ra` know.
    fn told(lost: Option<LossRow>) -> (State, String) {
        let answer = |name, losses| Losses { region: region(name), losses, more: false };
        let mut answers = vec![answer("rb", vec![row(true, 0, 0, true)])];
        answers.extend(lost.map(|row| answer("ra", vec![row])));
        let rows = together(&answers);
        assert_eq!(rows.len(), 1);
        (rows[0].state, state(&rows[0]))
    }

    #[test]
    fn a_statement_is_open_until_the_region_that_was_replaced_has_shown_all_and_all_is_taken() {
        assert_eq!(told(None), (State::Open, "open: ra has not shown what it has".to_owned()));
        assert_eq!(told(Some(row(false, 0, 0, true))).0, State::Open);
        assert_eq!(told(Some(row(true, 7, 3, false))), (State::Partly, "open: 3 of 7 back".to_owned()));
        assert_eq!(told(Some(row(true, 7, 7, false))), (State::Back, "come back: 7".to_owned()));
        let refused = "come back: 6 of 7, the rest was refused".to_owned();
        assert_eq!(told(Some(row(true, 7, 6, true))), (State::Back, refused));
        assert_eq!(told(Some(row(true, 0, 0, true))), (State::Back, "come back: nothing was missing".to_owned()));
        let unexplained = LossRow { statement: None, ..row(true, 0, 0, true) };
        let answers = [Losses { region: region("rb"), losses: vec![unexplained], more: false }];
        assert_eq!(together(&answers)[0].state, State::Unknown);
    }
}
