//! What sessions were shown: in order, nothing left out silently, nothing that the line does not have.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::{ConversationId, MessageId, Position};

use super::lines::{Lines, is_at};
use super::{Facts, Guarantee, Report, Sent};
use crate::history::{Event, History, SessionId};

/// What one session saw of one conversation.
#[derive(Debug, Default)]
struct Seen {
    /// What it was shown; `true` where it was told of a gap before.
    shown: Vec<(Position, MessageId, bool)>,
    /// Positions that it holds by an ack.
    acked: BTreeSet<u64>,
    told: bool,
    /// What its client had when it began, unless it was told of what is behind that.
    resumed: Option<Position>,
    /// What it handed over itself: it gets the ack, and is not shown the message.
    sent: BTreeSet<MessageId>,
}

pub(super) fn check(history: &History, facts: &Facts, lines: &Lines, report: &mut Report) {
    let mut seen: BTreeMap<(SessionId, ConversationId), Seen> = BTreeMap::new();
    let mut orders: BTreeMap<(u64, ConversationId), Vec<MessageId>> = BTreeMap::new();
    for (_, event) in &history.events {
        match event {
            Event::Shown(session, conversation, position, message) => {
                let seen = seen.entry((*session, *conversation)).or_default();
                let told = std::mem::take(&mut seen.told);
                if told && seen.shown.is_empty() {
                    seen.resumed = None;
                }
                seen.shown.push((*position, *message, told));
            }
            Event::Resumes(session, conversation, position) => {
                seen.entry((*session, *conversation)).or_default().resumed = Some(*position);
            }
            Event::Ack { session, conversation, acked, .. } => {
                seen.entry((*session, *conversation)).or_default().acked.insert(acked.position.sequence.0);
            }
            Event::Told(session, Some(conversation)) | Event::Rewound(session, conversation, _) => {
                seen.entry((*session, *conversation)).or_default().told = true;
            }
            Event::Told(session, None) => {
                let of_it = seen.range_mut((*session, ConversationId(uuid::Uuid::nil()))..);
                of_it.take_while(|((of, _), _)| of == session).for_each(|(_, seen)| seen.told = true);
            }
            Event::Invoke(session, conversation, message) => {
                let device = history.sessions.get(*session as usize).map_or(0, |session| session.device);
                orders.entry((device, *conversation)).or_default().push(*message);
                seen.entry((*session, *conversation)).or_default().sent.insert(*message);
            }
            _ => {}
        }
    }
    for ((session, conversation), seen) in &seen {
        let name = history.sessions.get(*session as usize).map_or("?", |session| session.name.as_str());
        gaps(name, *conversation, seen, facts, lines, report);
        phantoms(name, *conversation, seen, facts, lines, report);
    }
    for ((_, conversation), order) in &orders {
        device_order(*conversation, order, facts, lines, report);
    }
    answered(facts, lines, report);
}

fn gaps(name: &str, conversation: ConversationId, seen: &Seen, facts: &Facts, lines: &Lines, report: &mut Report) {
    let own = |sequence: u64| {
        let row = lines.get(&conversation).and_then(|line| line.row(sequence));
        row.is_some_and(|row| seen.sent.contains(&row.message))
    };
    let shown = seen.shown.iter().map(|(position, _, told)| (*position, *told));
    let all: Vec<(Position, bool)> = seen.resumed.map(|had| (had, false)).into_iter().chain(shown).collect();
    for pair in all.windows(2) {
        let ((before, _), (after, told)) = (pair[0], pair[1]);
        // A line that was rewound shows its numbers again.
        let rewound = after.epoch > before.epoch && facts.may_be_lost(conversation, before);
        let (from, to) = (before.sequence.0, after.sequence.0);
        if to <= from && !rewound {
            report.add(Guarantee::G2, format!("{name}: was shown {to} of {conversation} after {from}"));
        }
        let mut between = from + 1..to;
        if !told && !rewound && between.any(|sequence| !seen.acked.contains(&sequence) && !own(sequence)) {
            let what =
                format!("{name}: was shown {to} of {conversation} after {from}, and not told of what is between");
            report.add(Guarantee::G4, what);
        }
    }
}

fn phantoms(name: &str, conversation: ConversationId, seen: &Seen, facts: &Facts, lines: &Lines, report: &mut Report) {
    let Some(line) = lines.get(&conversation) else { return };
    for (position, message, _) in &seen.shown {
        let stands = line.row(position.sequence.0);
        if position.sequence.0 < line.first() {
            continue;
        }
        let same = stands.is_some_and(|row| row.message == *message && is_at(*row, *position));
        if !same && !facts.may_be_lost(conversation, *position) {
            let sequence = position.sequence;
            let what = format!(
                "{name}: was shown {message} as {sequence} of epoch {} in {conversation}; the line has {stands:?} there",
                position.epoch
            );
            report.add(Guarantee::G2, what);
        }
    }
}

/// Messages of one device stand in the order in which it first handed them over. One that was refused on the way may
/// have come later.
fn device_order(conversation: ConversationId, order: &[MessageId], facts: &Facts, lines: &Lines, report: &mut Report) {
    let Some(line) = lines.get(&conversation) else { return };
    let mut known = BTreeSet::new();
    let mut last: Option<(u64, MessageId)> = None;
    for message in order.iter().filter(|message| known.insert(**message)) {
        let sent = facts.sent.get(&(conversation, *message));
        // Of one that nobody waits for, it is not known whether it stood where lines were lost.
        let unknown = |sent: &Sent| sent.forgotten && facts.losses.contains_key(&conversation);
        let moved = sent.is_some_and(|sent| {
            sent.refused
                || sent.parked_gone
                // One home refused it: its message was out of the line, or its time over by that home's clock. Another
                // copy of it was taken later, or the same one by a home that knew nothing of the refusal.
                || (sent.depends && (sent.refusal_kept || facts.losses.contains_key(&conversation)))
                || unknown(sent)
                || facts.may_have_been_too_fast(conversation, sent)
                || sent.acks.iter().chain(&sent.unheard).any(|ack| facts.is_named(conversation, ack))
        });
        let Some(row) = line.at.get(message).filter(|_| !moved) else { continue };
        if let Some((before, other)) = last.filter(|(before, _)| *before > row.sequence) {
            report.add(
                Guarantee::DeviceOrder,
                format!(
                    "{message} of {conversation} is {} and was sent by its device after {other}, which is {before}",
                    row.sequence
                ),
            );
        }
        last = Some((row.sequence, *message));
    }
}

fn answered(facts: &Facts, lines: &Lines, report: &mut Report) {
    for ((conversation, message), sent) in &facts.sent {
        let open = sent.invoked.is_some() && sent.acks.is_empty() && !sent.refused_for_good && !sent.forgotten;
        if open && lines.contains_key(conversation) {
            report.add(Guarantee::Answered, format!("{message} of {conversation} was never answered"));
        }
    }
}
