//! What regions gave at the end: one line, without a hole, with everything that was acked.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::{ConversationId, Level, MessageId};

use super::{Facts, Guarantee, Report};
use crate::history::{Event, History, Row};

/// The line of each conversation: where each message stands, and each row's epoch by number.
pub(super) type Lines = BTreeMap<ConversationId, Line>;

#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) at: BTreeMap<MessageId, Row>,
    pub(super) rows: Vec<Row>,
}

impl Line {
    /// What stands at a number.
    pub(super) fn row(&self, sequence: u64) -> Option<&Row> {
        let first = self.rows.first()?.sequence;
        self.rows.get(usize::try_from(sequence.checked_sub(first)?).ok()?)
    }
}

pub(super) fn check(history: &History, facts: &Facts, report: &mut Report) -> Lines {
    let mut lines = Lines::new();
    for (_, event) in &history.events {
        let Event::Reading { region, pass, conversation, rows } = event else { continue };
        let reader = format!("{} (reading {pass})", history.regions.get(*region).map_or("?", String::as_str));
        shape(&reader, *conversation, rows, facts.floor(*conversation), report);
        match lines.get(conversation) {
            Some(first) => same(&reader, *conversation, &first.rows, rows, report),
            None => {
                let at = rows.iter().map(|row| (row.message, *row)).collect();
                lines.insert(*conversation, Line { at, rows: rows.clone() });
            }
        }
        kept(&reader, *conversation, rows, facts, report);
    }
    ended(facts, &lines, report);
    lines
}

/// Numbers from the floor on without a hole, epochs that never fall, no id twice.
fn shape(reader: &str, conversation: ConversationId, rows: &[Row], floor: u64, report: &mut Report) {
    let mut ids = BTreeSet::new();
    let mut epoch = 0;
    for (place, row) in (floor..).zip(rows) {
        if row.sequence != place {
            let what = format!("{reader}: number {} of {conversation} stands at place {place}", row.sequence);
            report.add(Guarantee::G2, what);
        }
        if row.epoch != 0 && row.epoch < epoch {
            report.add(Guarantee::G2, format!("{reader}: the epoch falls at {} of {conversation}", row.sequence));
        }
        epoch = epoch.max(row.epoch);
        if !ids.insert(row.message) {
            report.add(Guarantee::G3, format!("{reader}: {} is twice in {conversation}", row.message));
        }
    }
}

fn same(reader: &str, conversation: ConversationId, first: &[Row], rows: &[Row], report: &mut Report) {
    let differs = first.iter().zip(rows).find(|(one, other)| {
        one.message != other.message || (one.epoch != 0 && other.epoch != 0 && one.epoch != other.epoch)
    });
    if let Some((one, other)) = differs {
        report.add(
            Guarantee::G2,
            format!(
                "{reader}: {conversation} has {} of epoch {} at {}, where the first reading has {} of epoch {}",
                other.message, other.epoch, other.sequence, one.message, one.epoch
            ),
        );
    } else if first.len() != rows.len() {
        let what = format!("{reader}: {conversation} has {} rows, the first reading {}", rows.len(), first.len());
        report.add(Guarantee::G2, what);
    }
}

/// What was acked stands where the ack said; what a loss statement names stands somewhere.
fn kept(reader: &str, conversation: ConversationId, rows: &[Row], facts: &Facts, report: &mut Report) {
    let at: BTreeMap<MessageId, Row> = rows.iter().map(|row| (row.message, *row)).collect();
    let from = (conversation, MessageId(uuid::Uuid::nil()));
    let of_it = facts.sent.range(from..).take_while(|((of, _), _)| *of == conversation);
    for ((_, message), sent) in of_it {
        for acked in &sent.acks {
            let position = acked.position;
            let stands = at.get(message).copied();
            let named = facts.is_named(conversation, acked);
            let one_copy_was_promised = acked.level == Level::Region;
            match stands {
                // Retention took it, or would have: what comes back with a tail may come back below the floor.
                None if position.sequence.0 < facts.floor(conversation) => {}
                None if named && acked.time < facts.kept_since(conversation) => {}
                // The disk that had it is gone.
                None if sent.copy_gone && one_copy_was_promised => {}
                // Nothing of an erased user comes back.
                None if named && facts.erased.contains(&(conversation, *message)) => {}
                None if named => report.add(
                    Guarantee::G8,
                    format!("{reader}: {message} was acked as {position:?}, which was lost, and did not come back"),
                ),
                None => {
                    let what = format!("{reader}: {message} was acked as {position:?} of {conversation} and is lost");
                    report.add(Guarantee::G1, what);
                }
                Some(row) if named || is_at(row, position) => {}
                Some(row) => report.add(
                    Guarantee::G1,
                    format!(
                        "{reader}: {message} was acked as {position:?} of {conversation} and is {} of epoch {}",
                        row.sequence, row.epoch
                    ),
                ),
            }
        }
    }
}

pub(super) fn is_at(row: Row, position: hearth_protocol::Position) -> bool {
    row.sequence == position.sequence.0 && (row.epoch == 0 || position.epoch.0 == 0 || row.epoch == position.epoch.0)
}

/// Once conversations were read to their ends, every send of them has ended.
fn ended(facts: &Facts, lines: &Lines, report: &mut Report) {
    for ((conversation, message), sent) in &facts.sent {
        let Some(line) = lines.get(conversation) else { continue };
        if !sent.acks.is_empty() || sent.refused_for_good {
            continue;
        }
        if sent.queued && !line.at.contains_key(message) {
            let what = format!("{message} of {conversation} was queued, and was neither sequenced nor refused");
            report.add(Guarantee::G7, what);
        }
    }
}
