//! What rows say of edits, deletes and reactions: each is the fold of the line up to where it was read, and the text of
//! a deleted message is not given to a session any more that was shown the delete. What has a time is in the line if it
//! came before that time, says nothing once it expired, and an edit is over with its message.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hearth_protocol::{ConversationId, MessageId};

use super::lines::is_judged;
use super::{Guarantee, Report};
use crate::history::{Did, Event, History, ReadRow, SessionId};

/// The texts that clients wrote, by message or edit.
type Texts<'a> = BTreeMap<(ConversationId, MessageId), &'a str>;

/// When something was done, and where it stands: of two, the later counts.
type Place = (u64, u64);

/// What was done to one message.
#[derive(Debug, Default)]
struct Folded<'a> {
    deleted: bool,
    edit: Option<(Place, MessageId)>,
    /// The newest edit but for those whose text went at its time.
    held: Option<(Place, MessageId)>,
    /// By emoji and user: when that was said last, and whether it came.
    said: BTreeMap<(&'a str, &'a str), (Place, bool)>,
}

pub(super) fn check(history: &History, report: &mut Report) {
    let mut texts = Texts::new();
    let mut judged: BTreeMap<ConversationId, Vec<&Arc<Vec<ReadRow>>>> = BTreeMap::new();
    let mut deleted: BTreeMap<SessionId, BTreeSet<(ConversationId, MessageId)>> = BTreeMap::new();
    for (_, event) in &history.events {
        match event {
            Event::Wrote(conversation, message, text) => drop(texts.insert((*conversation, *message), text)),
            Event::Says { session, conversation, message, did, text } => {
                let gone = deleted.entry(*session).or_default();
                let of = match did {
                    Did::Edit(target) | Did::Delete(target) => *target,
                    Did::Message | Did::React { .. } | Did::Erase(_) | Did::Floor(_) | Did::Other => *message,
                };
                if text.is_some() && gone.contains(&(*conversation, of)) {
                    let name = history.sessions.get(*session as usize).map_or("?", |session| session.name.as_str());
                    let what = format!("{name}: was given a text of {of} in {conversation} after its delete");
                    report.add(Guarantee::Deleted, what);
                }
                if matches!(did, Did::Delete(_)) {
                    gone.insert((*conversation, of));
                }
            }
            Event::Rewound(session, conversation, _) => {
                // A delete of a line that was left may be shown again.
                deleted.entry(*session).or_default().retain(|(of, _)| of != conversation);
            }
            Event::Read { reader, conversation, rows } if !is_judged(&mut judged, *conversation, rows) => {
                read(reader, *conversation, rows, &texts, report);
            }
            _ => {}
        }
    }
}

fn read(reader: &str, conversation: ConversationId, rows: &[ReadRow], texts: &Texts<'_>, report: &mut Report) {
    let folded = fold(rows);
    let erased = erased_in(rows);
    let untouched = Folded::default();
    let over: BTreeMap<MessageId, Option<u64>> =
        rows.iter().filter(|row| row.did == Did::Message).map(|row| (row.message, row.expires)).collect();
    for row in rows {
        if let Some(wrong) = late(row, &over) {
            report.add(Guarantee::Expired, format!("{reader}: {} of {conversation}: {wrong}", row.sequence));
        }
        let is_erased = erased.get(row.sender.as_str()).is_some_and(|by| row.sequence < *by);
        let wrong = match &row.did {
            Did::Message if is_erased => {
                let says = row.text.is_some() || !row.reactions.is_empty() || !row.deleted;
                says.then(|| format!("its sender was erased, and it says {:?}, deleted is {}", row.text, row.deleted))
            }
            Did::Edit(_) if is_erased => {
                row.text.as_ref().map(|text| format!("an edit whose sender was erased says {text:?}"))
            }
            Did::Message => {
                let of_it = folded.get(&row.message).unwrap_or(&untouched);
                let of = |shown: MessageId| texts.get(&(conversation, shown)).copied();
                message(row, of_it, shown(row.message, of_it).map(of))
            }
            Did::Edit(target) => {
                let shows =
                    folded.get(target).is_some_and(|of| !of.deleted && shown(*target, of).contains(&row.message));
                let text = texts.get(&(conversation, row.message)).copied();
                let good = row.text.as_deref().is_none_or(|given| shows && text.is_none_or(|text| text == given));
                (!good).then(|| format!("an edit that does not show says {:?}", row.text))
            }
            Did::Delete(_) | Did::React { .. } | Did::Erase(_) | Did::Floor(_) | Did::Other => None,
        };
        if let Some(wrong) = wrong {
            report.add(Guarantee::Present, format!("{reader}: {} of {conversation}: {wrong}", row.sequence));
        }
    }
}

/// What is wrong with when a row came, and when it is over.
fn late(row: &ReadRow, over: &BTreeMap<MessageId, Option<u64>>) -> Option<String> {
    let (target, expires) = match &row.did {
        Did::Message => (row.message, row.expires),
        Did::Edit(target) | Did::Delete(target) | Did::React { target, .. } => (*target, *over.get(target)?),
        Did::Erase(_) | Did::Floor(_) | Did::Other => return None,
    };
    if row.expired && (row.text.is_some() || !row.reactions.is_empty() || expires.is_none()) {
        return Some(format!("is expired at {expires:?}, and says {:?} {:?}", row.text, row.reactions));
    }
    if expires.is_some_and(|at| at <= row.time) {
        return Some(format!("came at {} where {target} was over at {expires:?}", row.time));
    }
    let with_it = !matches!(row.did, Did::Edit(_)) || row.expires == expires;
    (!with_it).then(|| format!("an edit is over at {:?} where {target} is at {expires:?}", row.expires))
}

/// The message or edit whose text a message shows. A region that was given an edit after its text went at its time shows
/// what was before, until the message is over by its own clock.
fn shown(message: MessageId, of_it: &Folded<'_>) -> [MessageId; 2] {
    [of_it.edit, of_it.held].map(|edit| edit.map_or(message, |(_, edit)| edit))
}

fn fold(rows: &[ReadRow]) -> BTreeMap<MessageId, Folded<'_>> {
    let mut folded: BTreeMap<MessageId, Folded<'_>> = BTreeMap::new();
    for row in rows {
        let place = (row.time, row.sequence);
        match &row.did {
            Did::Edit(target) => {
                let of_it = folded.entry(*target).or_default();
                of_it.edit = of_it.edit.max(Some((place, row.message)));
                if !row.bare || row.expires.is_none() {
                    of_it.held = of_it.held.max(Some((place, row.message)));
                }
            }
            Did::Delete(target) => folded.entry(*target).or_default().deleted = true,
            Did::React { target, emoji, added } => {
                let said = &mut folded.entry(*target).or_default().said;
                let last = said.entry((emoji, &row.sender)).or_insert((place, *added));
                *last = (*last).max((place, *added));
            }
            Did::Message | Did::Erase(_) | Did::Floor(_) | Did::Other => {}
        }
    }
    folded
}

/// The number of the last row that erases each user.
fn erased_in(rows: &[ReadRow]) -> BTreeMap<&str, u64> {
    let mut erased = BTreeMap::new();
    for row in rows {
        if let Did::Erase(user) = &row.did {
            erased.insert(user.as_str(), row.sequence);
        }
    }
    erased
}

fn message(row: &ReadRow, of_it: &Folded<'_>, texts: [Option<&str>; 2]) -> Option<String> {
    if row.deleted != of_it.deleted {
        return Some(format!("deleted is {} where the line says {}", row.deleted, of_it.deleted));
    }
    if of_it.deleted {
        return row.text.as_ref().map(|text| format!("is deleted, and says {text:?}"));
    }
    if row.expired {
        return None;
    }
    if texts.iter().all(|text| text.is_some() && row.text.as_deref() != *text) {
        return Some(format!("says {:?} where the line says {:?}", row.text, texts[0]));
    }
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for ((emoji, _), _) in of_it.said.iter().filter(|(_, (_, added))| *added) {
        *counts.entry(emoji).or_default() += 1;
    }
    let given: BTreeMap<&str, u64> = row.reactions.iter().map(|(emoji, count)| (emoji.as_str(), *count)).collect();
    (given != counts).then(|| format!("has reactions {given:?} where the line says {counts:?}"))
}
