//! What regions gave at the end: one line, without a hole, with everything that was acked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
    /// The number that it was given from: retention may have left nothing below.
    pub(super) fn first(&self) -> u64 {
        self.rows.first().map_or(1, |row| row.sequence)
    }

    /// What stands at a number.
    pub(super) fn row(&self, sequence: u64) -> Option<&Row> {
        self.rows.get(usize::try_from(sequence.checked_sub(self.first())?).ok()?)
    }
}

pub(super) fn check(history: &History, facts: &Facts, report: &mut Report) -> Lines {
    let mut lines = Lines::new();
    let mut judged: BTreeMap<ConversationId, Vec<&Arc<Vec<Row>>>> = BTreeMap::new();
    for (_, event) in &history.events {
        let Event::Reading { region, pass, conversation, rows } = event else { continue };
        if is_judged(&mut judged, *conversation, rows) {
            continue;
        }
        let reader = format!("{} (reading {pass})", history.regions.get(*region).map_or("?", String::as_str));
        shape(&reader, *conversation, rows, facts.floor(*conversation), report);
        match lines.get(conversation) {
            Some(first) => same(&reader, *conversation, &first.rows, rows, report),
            None => {
                let at = rows.iter().map(|row| (row.message, *row)).collect();
                lines.insert(*conversation, Line { at, rows: rows.to_vec() });
            }
        }
        kept(&reader, *conversation, rows, facts, report);
    }
    ended(facts, &lines, report);
    lines
}

/// Whether the very same rows of a conversation were judged before; they are from now on.
pub(super) fn is_judged<'a, T>(
    judged: &mut BTreeMap<ConversationId, Vec<&'a Arc<Vec<T>>>>,
    conversation: ConversationId,
    rows: &'a Arc<Vec<T>>,
) -> bool {
    let before = judged.entry(conversation).or_default();
    let again = before.iter().any(|known| Arc::ptr_eq(known, rows));
    if !again {
        before.push(rows);
    }
    again
}

/// Numbers from 1, or from the floor, on without a hole, epochs that never fall, no id twice.
fn shape(reader: &str, conversation: ConversationId, rows: &[Row], floor: u64, report: &mut Report) {
    let mut ids = BTreeSet::new();
    let mut epoch = 0;
    let first = if rows.first().is_some_and(|row| row.sequence == floor) { floor } else { 1 };
    for (place, row) in (first..).zip(rows) {
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
    // Between two readings a floor may have gone up.
    let from = first.first().zip(rows.first()).map_or(1, |(one, other)| one.sequence.max(other.sequence));
    let above = |rows: &[Row]| rows.iter().filter(|row| row.sequence >= from).copied().collect::<Vec<_>>();
    let (first, rows) = (above(first), above(rows));
    let differs = first.iter().zip(&rows).find(|(one, other)| {
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
    let first = rows.first().map_or(1, |row| row.sequence);
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
                None if position.sequence.0 < first => {}
                None if named && acked.time < facts.kept_since(conversation) => {}
                // The disk that had it is gone.
                None if sent.copy_gone && one_copy_was_promised => {}
                // It was refused since, and its device is told: what it changed is below a floor by now, or gone.
                None if named && (sent.refusal_kept || sent.refused_for_good) => {}
                // What it changes did not come back, which is judged by itself: nothing is left to be changed.
                None if named && facts.changes_nothing((conversation, *message), &at) => {}
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
        // Of a line that begins at its floor it is not known what stood below.
        if sent.queued && !line.at.contains_key(message) && line.first() == 1 {
            let what = format!("{message} of {conversation} was queued, and was neither sequenced nor refused");
            report.add(Guarantee::G7, what);
        }
    }
}
