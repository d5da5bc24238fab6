//! The order in which a region takes media away that nothing shows any more: all that is new is looked through before
//! anything is decided, bytes go before their record, and a record goes or changes only while it is the one that was
//! decided on, so that what a crash cuts off is done again. Whoever has the records does what each step says.
//!
//! ```text
//!   objects ─known?─delete─┐        (a region's first sweep: bytes of which nobody knows)
//!   conversation ──page──look for all uses──page──trace──each: stat?──same?─delete bytes─put ──page…──forget the scan
//!       └ next one: nobody in reach, the store does not answer, or no record left
//! ```

use std::collections::VecDeque;

use hearth_protocol::record::MediaRecord;
use hearth_protocol::{ConversationId, Position, Timestamp, UserId};
use uuid::Uuid;

use super::ports::{MediaObject, StoredMedia};
use super::trace::Trace;
use super::{Fate, MediaRules, Standing, arrived, follow};

/// Calls that look through one conversation in one sweep; what is left is looked through by the next.
const CALLS: usize = 256;

/// A page of records; of one that does not read its object alone.
pub type Items = Vec<(MediaObject, Option<MediaRecord>)>;

/// What a sweep needs done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SweepStep {
    /// Objects of the store behind this one: [`SweepTold::Objects`].
    Objects(Option<MediaObject>),
    /// Whether there is a record of it, also one that does not read: [`SweepTold::Is`].
    IsKnown(MediaObject),
    /// The first conversation with records behind this one: [`SweepTold::Conversation`].
    Conversation(Option<ConversationId>),
    /// Records of a conversation behind one: [`SweepTold::Items`].
    Page(ConversationId, Option<Uuid>),
    /// What is new in a conversation is looked through for uses, on behalf of a user, and noted: [`SweepTold::Looked`].
    Look(ConversationId, UserId),
    /// Whoever holds the conversation is asked what became of these uses, on behalf of a user, and what is new behind
    /// what was looked through: [`SweepTold::Traced`].
    Trace(ConversationId, UserId, Vec<Position>),
    /// What the store has of it: [`SweepTold::Stored`].
    Stat(MediaObject),
    /// Whether its record is still this one: [`SweepTold::Is`].
    IsSame(MediaObject, MediaRecord),
    /// Its bytes go: [`SweepTold::Is`], whether they did.
    Delete(MediaObject),
    /// If its record is still the first one, the second one takes its place, or none: [`SweepTold::Done`].
    Put(MediaObject, MediaRecord, Option<MediaRecord>),
    /// Unless it has records again, a conversation is looked through no more: [`SweepTold::Done`].
    ForgetScan(ConversationId),
}

/// What whoever holds a conversation said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traced {
    /// Nothing is looked for in the conversation.
    NothingLookedFor,
    /// Nobody who can say it is in reach.
    OutOfReach,
    /// This.
    Said(Trace),
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SweepTold {
    /// Of [`SweepStep::Objects`]; `None`: the store does not answer.
    Objects(Option<Vec<MediaObject>>),
    /// Of a question.
    Is(bool),
    /// Of [`SweepStep::Conversation`].
    Conversation(Option<ConversationId>),
    /// Of [`SweepStep::Page`].
    Items(Items),
    /// Of [`SweepStep::Look`]: whether there is more; `None`: nobody who holds it is in reach.
    Looked(Option<bool>),
    /// Of [`SweepStep::Trace`].
    Traced(Traced),
    /// Of [`SweepStep::Stat`]; the outer `None`: the store does not answer.
    Stored(Option<Option<StoredMedia>>),
    /// It is done.
    Done,
}

/// One of a page, with what became of its uses.
#[derive(Clone, Debug)]
struct Item {
    object: MediaObject,
    known: MediaRecord,
    /// As it is to be from now on.
    record: MediaRecord,
    standings: Vec<Standing>,
}

/// A page that is being decided.
#[derive(Clone, Debug)]
struct Page {
    items: VecDeque<Item>,
    kept_for: u64,
    /// Whether some of it may go.
    may_go: bool,
}

/// How far a sweep is.
#[derive(Clone, Debug)]
enum Stage {
    Objects(Option<MediaObject>),
    Object {
        deletes: bool,
        of: VecDeque<MediaObject>,
        last: MediaObject,
    },
    Conversation(Option<ConversationId>),
    Page {
        after: Option<Uuid>,
        looked: bool,
    },
    Look {
        calls: usize,
        user: UserId,
    },
    Trace {
        user: UserId,
        of: Vec<(MediaObject, MediaRecord)>,
    },
    /// The step that the first item of the page waits for.
    Item(Box<SweepStep>, Page),
    ForgetScan,
    Over,
}

/// One sweep of a region's media.
#[derive(Clone, Debug)]
pub struct Sweep {
    stage: Stage,
    /// The conversation that it is at.
    conversation: ConversationId,
    /// The last record of the page that it is at.
    last: Option<Uuid>,
}

impl Sweep {
    /// A sweep begins. The first one of a process compares the store with the records before.
    #[must_use]
    pub fn new(is_first: bool) -> Self {
        let stage = if is_first { Stage::Objects(None) } else { Stage::Conversation(None) };
        Self { stage, conversation: ConversationId(Uuid::nil()), last: None }
    }

    /// Whether bytes were compared with records as far as they will be.
    #[must_use]
    pub fn has_compared(&self) -> bool {
        !matches!(self.stage, Stage::Objects(_) | Stage::Object { .. })
    }

    /// What is to be done next; `None`: it is over.
    #[must_use]
    pub fn step(&self) -> Option<SweepStep> {
        let of = self.conversation;
        match &self.stage {
            Stage::Objects(after) => Some(SweepStep::Objects(*after)),
            Stage::Object { deletes: false, of, .. } => of.front().copied().map(SweepStep::IsKnown),
            Stage::Object { deletes: true, of, .. } => of.front().copied().map(SweepStep::Delete),
            Stage::Conversation(after) => Some(SweepStep::Conversation(*after)),
            Stage::Page { after, .. } => Some(SweepStep::Page(of, *after)),
            Stage::Look { user, .. } => Some(SweepStep::Look(of, user.clone())),
            Stage::Trace { user, of: items } => {
                let uses = items.iter().flat_map(|(_, record)| record.uses.iter().copied()).collect();
                Some(SweepStep::Trace(of, user.clone(), uses))
            }
            Stage::Item(step, _) => Some(SweepStep::clone(step)),
            Stage::ForgetScan => Some(SweepStep::ForgetScan(of)),
            Stage::Over => None,
        }
    }

    /// What came of the step. What does not answer it ends the sweep.
    pub fn take(&mut self, told: SweepTold, now: Timestamp, rules: &MediaRules) {
        self.stage = match (std::mem::replace(&mut self.stage, Stage::Over), told) {
            (Stage::Objects(_), SweepTold::Objects(Some(objects))) => objects_of(objects),
            (Stage::Object { deletes, of, last }, SweepTold::Is(is)) => object(deletes, of, last, is),
            (Stage::Objects(_), _) => Stage::Conversation(None),
            (Stage::Conversation(_), SweepTold::Conversation(Some(next))) => {
                self.conversation = next;
                Stage::Page { after: None, looked: false }
            }
            (Stage::Page { looked, .. }, SweepTold::Items(items)) => self.page(items, looked),
            (Stage::Look { calls, user }, SweepTold::Looked(Some(true))) if calls + 1 < CALLS => {
                Stage::Look { calls: calls + 1, user }
            }
            // Records changed by that are read again.
            (Stage::Look { .. }, SweepTold::Looked(Some(false))) => Stage::Page { after: None, looked: true },
            (Stage::Trace { .. }, SweepTold::Traced(Traced::NothingLookedFor)) => self.next_page(),
            (Stage::Trace { of, .. }, SweepTold::Traced(Traced::Said(trace))) => self.traced(of, trace, now, rules),
            (Stage::Item(step, page), told) => self.item(&step, page, told, now, rules),
            // Nobody who holds it is in reach: nothing is decided, and nothing goes.
            (Stage::Look { .. } | Stage::Trace { .. } | Stage::ForgetScan, _) => self.next_conversation(),
            (Stage::Conversation(_) | Stage::Page { .. } | Stage::Object { .. } | Stage::Over, _) => Stage::Over,
        };
    }

    fn next_conversation(&self) -> Stage {
        Stage::Conversation(Some(self.conversation))
    }

    fn next_page(&self) -> Stage {
        Stage::Page { after: self.last, looked: true }
    }

    fn page(&mut self, items: Items, looked: bool) -> Stage {
        let Some((last, _)) = items.last() else { return Stage::ForgetScan };
        self.last = Some(last.id);
        let of: Vec<_> = items.into_iter().filter_map(|(object, record)| Some((object, record?))).collect();
        match of.first().map(|(_, first)| first.uploader.clone()) {
            None => Stage::Page { after: self.last, looked },
            Some(user) if !looked => Stage::Look { calls: 0, user },
            Some(user) => Stage::Trace { user, of },
        }
    }

    fn traced(&self, of: Vec<(MediaObject, MediaRecord)>, trace: Trace, now: Timestamp, rules: &MediaRules) -> Stage {
        let (may_go, kept_for) = (trace.is_whole(), trace.kept_for);
        if trace.standings.len() != of.iter().map(|(_, known)| known.uses.len()).sum::<usize>() {
            return self.next_conversation();
        }
        let mut standings = trace.standings.into_iter();
        let item = |(object, known): (MediaObject, MediaRecord)| {
            let standings = standings.by_ref().take(known.uses.len()).collect();
            Item { object, record: known.clone(), known, standings }
        };
        let items = of.into_iter().map(item).collect();
        self.decide(Page { items, kept_for, may_go }, now, rules)
    }

    /// What the first item of the page needs done, or the next one of which something is to be done.
    fn decide(&self, mut page: Page, now: Timestamp, rules: &MediaRules) -> Stage {
        while let Some(item) = page.items.front_mut() {
            let fate = follow(&mut item.record, &item.standings, page.kept_for, now, rules);
            if fate == Fate::Stays && !item.record.stored {
                let step = SweepStep::Stat(item.object);
                return Stage::Item(Box::new(step), page);
            }
            if let Some(step) = after_fate(item, fate, page.may_go) {
                return Stage::Item(Box::new(step), page);
            }
            page.items.pop_front();
        }
        self.next_page()
    }

    fn item(&self, step: &SweepStep, mut page: Page, told: SweepTold, now: Timestamp, rules: &MediaRules) -> Stage {
        let Some(item) = page.items.front_mut() else { return Stage::Over };
        let next = match (step, told) {
            (SweepStep::Stat(_), SweepTold::Stored(Some(stored))) => {
                let fate = arrived(&mut item.record, stored.as_ref(), now, rules);
                after_fate(item, fate, page.may_go)
            }
            // Others wait for no store.
            (SweepStep::IsSame(..), SweepTold::Is(true)) => Some(SweepStep::Delete(item.object)),
            (SweepStep::Delete(_), SweepTold::Is(true)) => Some(SweepStep::Put(item.object, item.known.clone(), None)),
            // The store is asked again by the next sweep.
            (SweepStep::Delete(_), SweepTold::Is(false)) => return self.next_conversation(),
            _ => None,
        };
        match next {
            Some(step) => Stage::Item(Box::new(step), page),
            None => {
                page.items.pop_front();
                self.decide(page, now, rules)
            }
        }
    }
}

/// What follows from the fate of one; nothing where it stays as it is, and where something was said meanwhile that may
/// carry it.
fn after_fate(item: &Item, fate: Fate, may_go: bool) -> Option<SweepStep> {
    match fate {
        Fate::Goes => may_go.then(|| SweepStep::IsSame(item.object, item.known.clone())),
        Fate::Stays if item.record == item.known => None,
        Fate::Stays => Some(SweepStep::Put(item.object, item.known.clone(), Some(item.record.clone()))),
    }
}

fn objects_of(objects: Vec<MediaObject>) -> Stage {
    match objects.last().copied() {
        Some(last) => Stage::Object { deletes: false, of: objects.into(), last },
        None => Stage::Conversation(None),
    }
}

/// One object was asked about, or deleted.
fn object(deletes: bool, mut of: VecDeque<MediaObject>, last: MediaObject, is: bool) -> Stage {
    if !deletes && !is {
        return Stage::Object { deletes: true, of, last };
    }
    if !is {
        // The store does not delete: what is left is compared after the next start.
        return Stage::Conversation(None);
    }
    of.pop_front();
    if of.is_empty() { Stage::Objects(Some(last)) } else { Stage::Object { deletes: false, of, last } }
}
