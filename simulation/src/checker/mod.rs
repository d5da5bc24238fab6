//! Judges a history: which guarantees of design.md section 2 it shows broken.
//!
//! Every check is one pass with maps: the mesh hands out positions, so nothing has to be searched for.
//!
//! A loss statement frees the positions that it names from G1, G2 and G3: what was acked there must come back (G8).

mod acks;
mod changes;
mod drains;
mod explain;
mod limits;
mod lines;
mod media;
mod memberships;
#[cfg(test)]
mod planted;
#[cfg(test)]
mod planted_drains;
#[cfg(test)]
mod planted_explain;
#[cfg(test)]
mod planted_limits;
#[cfg(test)]
mod planted_media;
#[cfg(test)]
mod planted_pushes;
#[cfg(test)]
mod planted_typing;
mod presence;
mod push;
mod receipts;
mod sessions;
mod typing;
mod wants;

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::{ConversationId, MessageId, Position};
use serde::Serialize;

use crate::history::{Acked, Did, Event, History, ReadRow};

/// While a home has too many messages of a conversation somebody hears of that within this, in microseconds.
const TOO_FAST: u64 = 15_000_000;

/// What a history can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Guarantee {
    /// Acked is kept.
    G1,
    /// One order, no hole.
    G2,
    /// A message is there once, with its first ack.
    G3,
    /// Nothing is left out silently.
    G4,
    /// One writer an epoch.
    G5,
    /// An ack has the copies that it names.
    G6,
    /// Parked is kept.
    G7,
    /// What a loss statement names comes back.
    G8,
    /// Bounds hold.
    G9,
    /// Receipts do not run ahead.
    G10,
    /// Presence converges.
    G11,
    /// A row shows the fold of what was done to its message.
    Present,
    /// The text of a deleted message is not given any more.
    Deleted,
    /// What has a time is in the line if it came before, and says nothing afterwards.
    Expired,
    /// Messages of a device stand in the order in which it sent them.
    DeviceOrder,
    /// A user's record says in which conversations the user is.
    Recorded,
    /// Users are woken once for what they missed, and for nothing else.
    Push,
    /// Who types is told to those who look, for as long as it is so.
    Typing,
    /// Media are there as long as a message shows them, for whoever is shown it, and go then.
    Media,
    /// What is said of where a message is is so.
    Explained,
    /// Sessions of a node that is drained are told when to leave, one after the other, and are gone in time.
    Drained,
    /// Rates hold, and refuse nothing else.
    Limits,
    /// Every send is answered once everything is healed.
    Answered,
}

/// One thing that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// What is broken.
    pub guarantee: Guarantee,
    /// How, for people.
    pub what: String,
}

/// What the checker found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Everything that does not hold, of each guarantee at most [`Report::MOST`].
    pub violations: Vec<Violation>,
    /// Messages handed over.
    pub sends: usize,
    /// Messages acked.
    pub acked: usize,
    /// Faults that began while a send was in flight, or during which one was.
    pub faults_overlapping: usize,
    /// Faults in all.
    pub faults: usize,
    /// Epochs above the first under which something was acked, over all conversations.
    pub later_epochs_acked: usize,
}

impl Report {
    /// Violations kept of each guarantee.
    pub const MOST: usize = 50;

    pub(crate) fn add(&mut self, guarantee: Guarantee, what: String) {
        if self.count(&[guarantee]) < Self::MOST {
            self.violations.push(Violation { guarantee, what });
        }
    }

    /// How many violations there are of some guarantees.
    #[must_use]
    pub fn count(&self, guarantees: &[Guarantee]) -> usize {
        self.violations.iter().filter(|violation| guarantees.contains(&violation.guarantee)).count()
    }
}

/// Names a message in the mesh: an id is unique in its conversation.
pub(crate) type Key = (ConversationId, MessageId);

/// What is known of one message.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// When it was handed over first.
    pub(crate) invoked: Option<u64>,
    /// The highest position that was acked in its conversation then.
    pub(crate) after: Option<Position>,
    /// Its acks, without repetitions.
    pub(crate) acks: Vec<Acked>,
    /// Acks that its device did not hear.
    pub(crate) unheard: Vec<Acked>,
    /// When it was acked first.
    pub(crate) acked_at: Option<u64>,
    pub(crate) queued: bool,
    /// It was handed over more than once.
    pub(crate) again: bool,
    pub(crate) refused: bool,
    /// Whether a refusal said that it will never be taken, and it was not handed over again since.
    pub(crate) refused_for_good: bool,
    /// Whether a region that held it refused it, and kept that for its device.
    pub(crate) refusal_kept: bool,
    /// Whether it changes another message, which may be out of the line while it is judged, or has a time, which one
    /// home may find over and the next one not.
    pub(crate) depends: bool,
    /// Nobody waits for it any more.
    pub(crate) forgotten: bool,
    /// It was parked at a region whose store is gone.
    pub(crate) parked_gone: bool,
    /// Its last copy is gone with a store.
    pub(crate) copy_gone: bool,
}

impl Sent {
    /// Takes an event of this message that says one thing.
    fn take(&mut self, event: &Event) {
        match event {
            Event::Queued(..) => self.queued = true,
            Event::RefusalKept(..) => (self.refused_for_good, self.refusal_kept) = (true, true),
            Event::Forgotten(..) => self.forgotten = true,
            Event::ParkedGone(..) => (self.queued, self.parked_gone) = (false, true),
            // What waited for copies goes with the only disk that had it, and may be promised anew.
            Event::CopyGone(..) => (self.queued, self.copy_gone) = (false, true),
            Event::AckUnheard(.., acked) => self.unheard.push(acked.clone()),
            _ => {}
        }
    }
}

/// A loss statement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loss {
    from: Position,
    below: u64,
    covered_copies: usize,
}

/// What the passes share.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) sent: BTreeMap<Key, Sent>,
    pub(crate) losses: BTreeMap<ConversationId, Vec<Loss>>,
    pub(crate) voters: BTreeMap<ConversationId, usize>,
    /// Messages of users that were erased in their conversation: what was lost of them does not come back.
    pub(crate) erased: BTreeSet<Key>,
    /// What changes of other messages change, of those that somebody was shown.
    pub(crate) targets: BTreeMap<Key, MessageId>,
    /// When clients heard that homes had too many messages of a conversation.
    pub(crate) limited: BTreeMap<ConversationId, Vec<u64>>,
    /// The floor of each conversation that has one above 1, and when what stands there was sent: what stands below is shown
    /// no more, and what was sequenced before does not come back.
    pub(crate) floors: BTreeMap<ConversationId, (u64, u64)>,
}

impl Facts {
    /// Which of the messages that somebody read may be refused by one home and taken by the next.
    fn note_dependent(&mut self, conversation: ConversationId, rows: &[ReadRow]) {
        let changes = |did: &Did| matches!(did, Did::Edit(_) | Did::Delete(_) | Did::React { .. });
        for row in rows.iter().filter(|row| changes(&row.did) || row.expires.is_some()) {
            self.sent.entry((conversation, row.message)).or_default().depends = true;
        }
    }

    /// Whether a message that was held, or handed over again, may have been refused before for coming too fast, with the
    /// answer lost: others heard that of its conversation then.
    pub(crate) fn may_have_been_too_fast(&self, conversation: ConversationId, sent: &Sent) -> bool {
        let limited = self.limited.get(&conversation).filter(|_| sent.queued || sent.again);
        let near = |at: &u64| sent.invoked.is_some_and(|invoked| at.abs_diff(invoked) <= TOO_FAST);
        limited.is_some_and(|limited| limited.iter().any(near))
    }

    /// Whether something changes a message that is not among these.
    pub(crate) fn changes_nothing<T>(&self, change: Key, there: &BTreeMap<MessageId, T>) -> bool {
        self.targets.get(&change).is_some_and(|target| !there.contains_key(target))
    }

    /// The lowest number that is shown of a conversation.
    pub(crate) fn floor(&self, conversation: ConversationId) -> u64 {
        self.floors.get(&conversation).map_or(1, |(floor, _)| *floor)
    }

    /// What was sequenced before this time is not kept.
    pub(crate) fn kept_since(&self, conversation: ConversationId) -> u64 {
        self.floors.get(&conversation).map_or(0, |(_, since)| *since)
    }

    /// Whether a loss statement may name what stood at a position.
    pub(crate) fn may_be_lost(&self, conversation: ConversationId, position: Position) -> bool {
        let named = |loss: &Loss| position >= loss.from && position.epoch.0 < loss.below;
        self.losses.get(&conversation).is_some_and(|losses| losses.iter().any(named))
    }

    /// Whether a loss statement names an ack.
    pub(crate) fn is_named(&self, conversation: ConversationId, acked: &Acked) -> bool {
        let voters = self.voters.get(&conversation).copied().unwrap_or(3);
        let copies = acked.level.copies(voters);
        let named = |loss: &Loss| {
            acked.position >= loss.from && acked.position.epoch.0 < loss.below && copies < loss.covered_copies
        };
        self.losses.get(&conversation).is_some_and(|losses| losses.iter().any(named))
    }
}

/// Judges a history.
#[must_use]
pub fn check(history: &History) -> Report {
    let mut report = Report::default();
    let mut facts = gather(history, &mut report);
    let reads = reads(history);
    facts.erased = erased(history, &reads);
    facts.floors = floors(&reads);
    facts.targets = targets(history);
    acks::check(history, &facts, &mut report);
    let lines = lines::check(history, &facts, &mut report);
    sessions::check(history, &facts, &lines, &mut report);
    receipts::check(history, &mut report);
    changes::check(history, &mut report);
    presence::check(history, &mut report);
    push::check(history, &facts, &mut report);
    media::check(history, &facts, &mut report);
    memberships::check(history, &mut report);
    typing::check(history, &mut report);
    explain::check(history, &facts, &mut report);
    drains::check(history, &mut report);
    limits::check(history, &mut report);
    report.sends = facts.sent.values().filter(|sent| sent.invoked.is_some()).count();
    report.acked = facts.sent.values().filter(|sent| !sent.acks.is_empty()).count();
    overlaps(history, &facts, &mut report);
    let later = |(key, sent): (&Key, &Sent)| {
        let epochs = sent.acks.iter().map(|ack| ack.position.epoch.0).filter(|epoch| *epoch > 1);
        epochs.map(|epoch| (key.0, epoch)).collect::<Vec<_>>()
    };
    report.later_epochs_acked = facts.sent.iter().flat_map(later).collect::<BTreeSet<_>>().len();
    report
}

fn gather(history: &History, report: &mut Report) -> Facts {
    let mut facts = Facts::default();
    let mut highest: BTreeMap<ConversationId, Position> = BTreeMap::new();
    for (at, event) in &history.events {
        match event {
            Event::Invoke(_, conversation, message) => {
                let sent = facts.sent.entry((*conversation, *message)).or_default();
                if sent.invoked.is_none() {
                    sent.invoked = Some(*at);
                    sent.after = highest.get(conversation).copied();
                } else {
                    sent.again = true;
                }
                // The refusal ended what was promised before it.
                sent.queued &= !sent.refused_for_good;
                sent.refused_for_good = false;
            }
            Event::Ack { conversation, message, acked, on_disk, .. } => {
                let sent = facts.sent.entry((*conversation, *message)).or_default();
                if !sent.acks.iter().any(|ack| ack.position == acked.position && ack.time == acked.time) {
                    sent.acks.push(acked.clone());
                }
                sent.acked_at.get_or_insert(*at);
                let known = highest.entry(*conversation).or_insert(acked.position);
                *known = (*known).max(acked.position);
                if let Some(on_disk) = on_disk {
                    facts.voters.insert(*conversation, on_disk.voters);
                }
            }
            Event::Refused { conversation, message, again, .. } => {
                let sent = facts.sent.entry((*conversation, *message)).or_default();
                sent.refused = true;
                // Of one that was handed over twice the second may be refused for now, when the first was for good.
                sent.refused_for_good |= !again;
            }
            Event::Queued(_, conversation, message)
            | Event::RefusalKept(conversation, message)
            | Event::AckUnheard(conversation, message, _)
            | Event::Forgotten(conversation, message)
            | Event::ParkedGone(conversation, message)
            | Event::CopyGone(conversation, message) => {
                facts.sent.entry((*conversation, *message)).or_default().take(event);
            }
            Event::Loss { conversation, from, below, covered_copies } => {
                let loss = Loss { from: *from, below: *below, covered_copies: *covered_copies };
                facts.losses.entry(*conversation).or_default().push(loss);
            }
            Event::Limited(conversation, message) => {
                facts.limited.entry(*conversation).or_default().push(*at);
                // Its session may be over, and hear nothing of it.
                facts.sent.entry((*conversation, *message)).or_default().refused = true;
            }
            Event::Read { conversation, rows, .. } => facts.note_dependent(*conversation, rows),
            Event::Bound { what, value, bound } if value > bound => {
                report.add(Guarantee::G9, format!("{what} held {value}, and its bound is {bound}"));
            }
            // Of all others the checks read the history themselves.
            _ => {}
        }
    }
    facts
}

/// What was read of conversations from their first rows on.
fn reads(history: &History) -> Vec<(ConversationId, &[ReadRow])> {
    let reads = history.events.iter().filter_map(|(_, event)| match event {
        Event::Read { conversation, rows, .. } => Some((*conversation, &rows[..])),
        _ => None,
    });
    reads.collect()
}

/// The floor that rows tell of each conversation.
fn floors(reads: &[(ConversationId, &[ReadRow])]) -> BTreeMap<ConversationId, (u64, u64)> {
    let mut floors: BTreeMap<ConversationId, (u64, u64)> = BTreeMap::new();
    for (conversation, rows) in reads {
        for row in *rows {
            let Did::Floor(floor) = row.did else { continue };
            let since = rows.iter().find(|row| row.sequence == floor).map_or(0, |row| row.time);
            let known = floors.entry(*conversation).or_default();
            *known = (*known).max((floor, since));
        }
    }
    floors
}

/// What changes that were shown to somebody change.
fn targets(history: &History) -> BTreeMap<Key, MessageId> {
    let targets = history.events.iter().filter_map(|(_, event)| {
        let Event::Says { conversation, message, did, .. } = event else { return None };
        let (Did::Edit(target) | Did::Delete(target) | Did::React { target, .. }) = did else { return None };
        Some(((*conversation, *message), *target))
    });
    targets.collect()
}

/// Messages whose sender was erased in their conversation, whenever.
fn erased(history: &History, reads: &[(ConversationId, &[ReadRow])]) -> BTreeSet<Key> {
    let mut users: BTreeSet<(ConversationId, &str)> = BTreeSet::new();
    for (conversation, rows) in reads {
        for row in *rows {
            if let Did::Erase(user) = &row.did {
                users.insert((*conversation, user));
            }
        }
    }
    if users.is_empty() {
        return BTreeSet::new();
    }
    let sent = history.events.iter().filter_map(|(_, event)| {
        let Event::Invoke(session, conversation, message) = event else { return None };
        let sender = history.sessions.get(*session as usize)?;
        // A session is named by its user, and where it is.
        let user = sender.name.split(" at ").next().unwrap_or_default();
        users.contains(&(*conversation, user)).then_some((*conversation, *message))
    });
    sent.collect()
}

/// Counts the faults during which a send was in flight.
fn overlaps(history: &History, facts: &Facts, report: &mut Report) {
    let mut open = BTreeMap::new();
    let mut spans = Vec::new();
    let end = history.events.last().map_or(0, |(at, _)| *at);
    for (at, event) in &history.events {
        match event {
            Event::FaultBegins(id, _) => drop(open.insert(*id, *at)),
            Event::FaultEnds(id) => spans.extend(open.remove(id).map(|from| (from, *at))),
            _ => {}
        }
    }
    spans.extend(open.into_values().map(|from| (from, end)));
    let mut flights: Vec<(u64, u64)> =
        facts.sent.values().filter_map(|sent| Some((sent.invoked?, sent.acked_at.unwrap_or(end)))).collect();
    flights.sort_unstable();
    // The latest end among the flights that began up to each.
    let mut latest = 0;
    let ends: Vec<u64> = flights
        .iter()
        .map(|(_, end)| {
            latest = latest.max(*end);
            latest
        })
        .collect();
    report.faults = spans.len();
    report.faults_overlapping = spans
        .into_iter()
        .filter(|(from, to)| {
            let began = flights.partition_point(|(start, _)| start <= to);
            began > 0 && ends[began - 1] >= *from
        })
        .count();
}
