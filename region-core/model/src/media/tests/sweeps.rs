//! Sweeps over a shelf in memory: in which order things go, and what stays.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::record::MediaRecord;
use hearth_protocol::{Timestamp, UserId};
use uuid::Uuid;

use super::super::ports::{MediaObject, StoredMedia};
use super::super::{Looked, Standing, Sweep, SweepStep, SweepTold, Trace, Traced};
use super::{at, conversation, record, rules};

/// Rows of a page.
const PAGE: usize = 3;
const NOW: Timestamp = Timestamp(500);

/// What a region keeps, and what it is told.
struct Shelf {
    records: BTreeMap<MediaObject, MediaRecord>,
    unreadable: BTreeSet<MediaObject>,
    bytes: BTreeSet<MediaObject>,
    traced: Option<Trace>,
    /// What happens when bytes go.
    changes: bool,
    done: Vec<&'static str>,
}

fn object(number: u128) -> MediaObject {
    MediaObject { conversation: conversation(), id: Uuid::from_u128(number) }
}

fn used() -> MediaRecord {
    MediaRecord { uses: vec![at(1, 5)], ..record() }
}

/// Nothing carries any of so many any more.
fn all_gone(count: usize) -> Trace {
    let standings = vec![Standing::Gone; count];
    Trace { looked: Looked::default(), standings, kept_for: super::KEPT_FOR, current: true }
}

impl Shelf {
    fn with(count: u128) -> Self {
        let (records, bytes) =
            ((1..=count).map(|id| (object(id), used())).collect(), (1..=count).map(object).collect());
        Self { records, unreadable: BTreeSet::new(), bytes, traced: None, changes: false, done: Vec::new() }
    }

    fn told(&mut self, step: &SweepStep) -> SweepTold {
        match step {
            SweepStep::Objects(after) => {
                let behind = self.bytes.iter().filter(|of| after.is_none_or(|after| **of > after));
                SweepTold::Objects(Some(behind.copied().take(PAGE).collect()))
            }
            SweepStep::IsKnown(of) => SweepTold::Is(self.records.contains_key(of) || self.unreadable.contains(of)),
            SweepStep::Conversation(after) => {
                let any = after.is_none() && !(self.records.is_empty() && self.unreadable.is_empty());
                SweepTold::Conversation(any.then(conversation))
            }
            SweepStep::Page(_, after) => {
                let all: BTreeMap<_, _> = self.records.iter().map(|(of, record)| (*of, Some(record.clone()))).collect();
                let all = all.into_iter().chain(self.unreadable.iter().map(|of| (*of, None)));
                let all: BTreeMap<_, _> = all.filter(|(of, _)| after.is_none_or(|after| of.id > after)).collect();
                SweepTold::Items(all.into_iter().take(PAGE).collect())
            }
            SweepStep::Look(..) => SweepTold::Looked(Some(false)),
            SweepStep::Trace(_, _, uses) => {
                let all = || all_gone(uses.len());
                SweepTold::Traced(Traced::Said(self.traced.clone().unwrap_or_else(all)))
            }
            SweepStep::Stat(of) => {
                let stored = || StoredMedia { size: 10, content_type: None };
                SweepTold::Stored(Some(self.bytes.contains(of).then(stored)))
            }
            SweepStep::IsSame(of, known) => SweepTold::Is(self.records.get(of) == Some(known)),
            SweepStep::Delete(of) => {
                if self.changes {
                    self.records.insert(*of, MediaRecord { uses: vec![at(1, 9)], ..record() });
                }
                self.bytes.remove(of);
                SweepTold::Is(true)
            }
            SweepStep::Put(of, known, record) => {
                if self.records.get(of) == Some(known) {
                    match record {
                        Some(record) => drop(self.records.insert(*of, record.clone())),
                        None => drop(self.records.remove(of)),
                    }
                }
                SweepTold::Done
            }
            SweepStep::ForgetScan(_) => SweepTold::Done,
        }
    }

    /// A sweep that ends after so many steps. Returns how many it took.
    fn sweep(&mut self, is_first: bool, most: usize) -> usize {
        let mut sweep = Sweep::new(is_first);
        for steps in 0..most {
            let Some(step) = sweep.step() else { return steps };
            self.done.push(name(&step));
            let told = self.told(&step);
            sweep.take(told, NOW, &rules());
        }
        most
    }

    /// Whether bytes are there of which nobody knows.
    fn is_forgotten(&self, of: MediaObject) -> bool {
        self.bytes.contains(&of) && !self.records.contains_key(&of) && !self.unreadable.contains(&of)
    }
}

fn name(step: &SweepStep) -> &'static str {
    match step {
        SweepStep::Objects(_) => "objects",
        SweepStep::IsKnown(_) => "known",
        SweepStep::Conversation(_) => "conversation",
        SweepStep::Page(..) => "page",
        SweepStep::Look(..) => "look",
        SweepStep::Trace(..) => "trace",
        SweepStep::Stat(_) => "stat",
        SweepStep::IsSame(..) => "same",
        SweepStep::Delete(_) => "delete",
        SweepStep::Put(..) => "put",
        SweepStep::ForgetScan(_) => "forget",
    }
}

#[test]
fn all_uses_are_looked_for_before_records_are_read_again_and_decided_on() {
    let mut shelf = Shelf::with(1);
    shelf.sweep(false, usize::MAX);
    let (looks, goes) = (["conversation", "page", "look", "page", "trace"], ["same", "delete", "put"]);
    assert_eq!(shelf.done, [&looks[..], &goes, &["page", "forget", "conversation"]].concat());
    assert!(shelf.records.is_empty() && shelf.bytes.is_empty());
}

#[test]
fn bytes_go_before_their_record_and_what_a_crash_cuts_off_is_done_again() {
    let steps = Shelf::with(7).sweep(false, usize::MAX);
    for most in 0..=steps {
        let mut shelf = Shelf::with(7);
        shelf.sweep(false, most);
        assert!((1..=7).all(|id| !shelf.is_forgotten(object(id))), "after {most} steps");
        shelf.sweep(true, usize::MAX);
        assert!(shelf.records.is_empty() && shelf.bytes.is_empty(), "after {most} steps, and again");
    }
}

#[test]
fn nothing_goes_by_a_copy_that_may_lack_something_or_while_something_new_carries_media() {
    let old = Trace { current: false, ..all_gone(1) };
    let said = Looked { references: vec![(at(1, 9), Uuid::from_u128(3))], ..Looked::default() };
    let more = Looked { more: true, ..Looked::default() };
    let news = [said, more].map(|looked| Trace { looked, ..all_gone(1) });
    let short = Trace { standings: Vec::new(), ..all_gone(1) };
    for traced in [vec![old, short], news.to_vec()].concat() {
        let mut shelf = Shelf { traced: Some(traced.clone()), ..Shelf::with(1) };
        shelf.sweep(false, usize::MAX);
        assert_eq!((shelf.records.len(), shelf.bytes.len()), (1, 1), "{traced:?}");
        assert!(!shelf.done.contains(&"delete"));
    }
}

#[test]
fn nothing_goes_while_nobody_who_holds_the_conversation_is_in_reach() {
    for nobody in [SweepTold::Looked(None), SweepTold::Traced(Traced::OutOfReach)] {
        let (mut shelf, mut sweep) = (Shelf::with(1), Sweep::new(false));
        while let Some(step) = sweep.step() {
            let unanswered = matches!(
                (&step, &nobody),
                (SweepStep::Look(..), SweepTold::Looked(_)) | (SweepStep::Trace(..), SweepTold::Traced(_))
            );
            let told = if unanswered { nobody.clone() } else { shelf.told(&step) };
            shelf.done.push(name(&step));
            sweep.take(told, NOW, &rules());
        }
        assert!(!shelf.done.contains(&"delete") && !shelf.done.contains(&"forget"), "{:?}", shelf.done);
    }
}

#[test]
fn a_record_that_changes_while_its_bytes_go_stays() {
    let mut shelf = Shelf { changes: true, ..Shelf::with(1) };
    shelf.sweep(false, usize::MAX);
    assert_eq!(shelf.records[&object(1)].uses, [at(1, 9)]);
}

#[test]
fn the_first_sweep_takes_bytes_of_which_there_is_no_record_and_leaves_those_of_records_that_do_not_read() {
    let mut shelf = Shelf::with(5);
    let standing = Trace { standings: vec![Standing::Stands; 3], ..all_gone(0) };
    shelf.traced = Some(standing);
    shelf.records.remove(&object(2));
    shelf.records.remove(&object(4));
    shelf.unreadable.insert(object(4));
    shelf.sweep(false, usize::MAX);
    assert!(shelf.is_forgotten(object(2)), "later sweeps compare nothing");
    shelf.sweep(true, usize::MAX);
    assert_eq!(shelf.bytes.iter().map(|of| of.id.as_u128()).collect::<Vec<_>>(), [1, 3, 4, 5]);
}

#[test]
fn what_has_come_is_noted_and_who_asks_on_its_behalf_is_who_put_it() {
    let mut shelf = Shelf::with(1);
    shelf.records.insert(object(1), MediaRecord { stored: false, ..record() });
    let mut sweep = Sweep::new(false);
    while let Some(step) = sweep.step() {
        if let SweepStep::Look(_, user) | SweepStep::Trace(_, user, _) = &step {
            assert_eq!(*user, UserId::new("ann").unwrap());
        }
        let told = shelf.told(&step);
        sweep.take(told, NOW, &rules());
    }
    assert!(shelf.records[&object(1)].stored);
}
