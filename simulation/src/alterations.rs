//! What clients do to messages: edits and deletes of their own, reactions to what they were shown.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hearth_protocol::record::ChangeRecord;
use hearth_protocol::{Change, EntryKind, MessageId, SealedEntry, Timestamp, UserId};
use region_model::view::{Forgotten, Present, is_expired};

use crate::history::{Did, ReadRow};
use crate::random::Random;

/// Messages that a client may change or react to.
const NAMED: usize = 8;

/// A change of a message.
#[derive(Clone, Debug)]
pub(crate) struct Alteration {
    pub(crate) target: MessageId,
    pub(crate) kind: EntryKind,
    pub(crate) change: Change,
}

/// Messages of a conversation that a client may name: the newest of its own, and of what it was shown.
#[derive(Debug, Default)]
pub(crate) struct Named {
    own: VecDeque<MessageId>,
    seen: VecDeque<MessageId>,
}

impl Named {
    pub(crate) fn note_own(&mut self, message: MessageId) {
        note(&mut self.own, message);
    }

    pub(crate) fn note_seen(&mut self, message: MessageId) {
        note(&mut self.seen, message);
    }

    /// One of the newest of its own, or of what it was shown.
    pub(crate) fn some_message(&self, random: &mut Random, own: bool) -> Option<MessageId> {
        let messages = if own { &self.own } else { &self.seen };
        messages.get(random.below(messages.len())).copied()
    }

    /// Now and then a client changes a message of its own, or reacts to one that it was shown, under a new id.
    pub(crate) fn pick(&self, random: &mut Random, id: MessageId) -> Option<Alteration> {
        if !random.percent(20) {
            return None;
        }
        let act = random.below(10);
        let messages = if act < 5 { &self.own } else { &self.seen };
        let target = *messages.get(random.below(messages.len().max(1)))?;
        let emoji = || ["+", "-"][act % 2].to_owned();
        let (kind, change) = match act {
            0 => (EntryKind::Delete, Change::Delete { target: 0 }),
            1..=4 => {
                let content = format!("{{\"type\":\"text\",\"text\":\"{id}\"}}");
                (EntryKind::Edit, Change::Edit { target: 0, content })
            }
            _ => (EntryKind::Reaction, Change::Reaction { target: 0, emoji: emoji(), added: act < 9 }),
        };
        Some(Alteration { target, kind, change })
    }
}

fn note(messages: &mut VecDeque<MessageId>, message: MessageId) {
    if messages.len() >= NAMED {
        messages.pop_front();
    }
    messages.push_back(message);
}

/// What the row of an entry says for itself: the text of a message or an edit is its id.
pub(crate) fn said(entry: &SealedEntry) -> (Did, Option<String>) {
    let fixed = &entry.entry.fixed;
    let record = entry.change_of_message();
    let reaction = record.as_ref().and_then(|(_, what)| what.reaction());
    let forgets = entry.forgets();
    let erased = forgets.as_ref().and_then(|forget| forget.user()).map(|user| Did::Erase(user.to_string()));
    let floor = forgets.as_ref().and_then(|forget| forget.floor()).map(Did::Floor);
    let other = || Did::of(fixed.kind.as_str().unwrap_or_default(), fixed.target.map(MessageId), reaction);
    let did = erased.or(floor).unwrap_or_else(other);
    let writes = fixed.kind == EntryKind::Message || fixed.kind == EntryKind::Edit;
    (did, entry.content().filter(|_| writes).map(|_| fixed.id.to_string()))
}

/// When the content of a message is over, of every eighth one: up to two minutes after it is sent first. The id says it,
/// so that it is the same when it is sent again.
pub(crate) fn expiry_of(message: MessageId, now: Timestamp) -> Option<Timestamp> {
    let number = u64::from_be_bytes(message.0.as_bytes()[8..].try_into().unwrap_or_default());
    (number % 8 == 0).then(|| Timestamp(now.0 + 1_000 + number / 8 % 120_000))
}

/// Rows as a region shows them at `now`, by what it stored beside the entries.
pub(crate) fn shown_rows(entries: &[Arc<SealedEntry>], changes: &[ChangeRecord], now: Timestamp) -> Vec<ReadRow> {
    let nobody = UserId::new("nobody").expect("a valid user id");
    let mut present: BTreeMap<u64, Present> = BTreeMap::new();
    for change in changes {
        present.entry(change.target).or_default().fold(change);
    }
    let shows = |edit: &SealedEntry| {
        let position = edit.entry.fixed.position;
        present.values().any(|of| !of.is_deleted() && of.edit().is_some_and(|(_, at)| at == position))
    };
    let mut forgotten = Forgotten::default();
    entries.iter().for_each(|entry| forgotten.fold(entry));
    let row = |entry: &Arc<SealedEntry>| {
        let fixed = &entry.entry.fixed;
        let (did, own) = said(entry);
        let of_it = present.get(&entry.sequence().0).filter(|_| did == Did::Message).cloned().unwrap_or_default();
        let edit = of_it.edit().and_then(|(_, at)| entries.get(usize::try_from(at.sequence.0).ok()?.checked_sub(1)?));
        let is_over = is_expired(entry, now);
        let is_message = did == Did::Message;
        let is_deleted = of_it.is_deleted() || (is_message && forgotten.hides(entry));
        let is_gone = is_over || is_deleted;
        let of_before = entry.change_of_message().is_some_and(|(target, _)| target < forgotten.floor());
        let text = if is_gone { None } else { edit.map_or(own, |edit| said(edit).1) };
        let reactions = of_it.reactions(&nobody).into_iter().map(|of| (of.emoji, of.count));
        ReadRow {
            sequence: entry.sequence().0,
            message: MessageId(fixed.id),
            sender: fixed.sender.to_string(),
            time: fixed.original_time.unwrap_or(fixed.time).0,
            text: text.filter(|_| is_message || (shows(entry) && !of_before && !forgotten.hides(entry))),
            did,
            deleted: is_deleted,
            expires: fixed.expires_at.map(|at| at.0),
            expired: is_over && is_message && !is_deleted,
            bare: entry.content().is_none(),
            reactions: if is_gone { Vec::new() } else { reactions.collect() },
        }
    };
    entries.iter().filter(|entry| entry.sequence().0 >= forgotten.floor()).map(row).collect()
}
