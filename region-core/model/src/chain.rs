//! Whether the entries of a log are one chain: what `hearth verify` and a recovery look at, entry by entry.

use hearth_protocol::entry::Forget;
use hearth_protocol::record::{LogRecord, Opening};
use hearth_protocol::{Epoch, Hash, SealedEntry};

/// What is wrong at one sequence of a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// There is no such entry, and no range is open there.
    #[error("the entry is missing")]
    Missing,
    /// It names another predecessor than the entry before it.
    #[error("it names another predecessor than the entry before it: one of the two was changed")]
    Predecessor,
    /// It stands in another epoch than the one that was open there.
    #[error("it is of epoch {}, and epoch {} was open there: the epoch is forked", found.0, open.0)]
    ForkedEpoch {
        /// The entry's epoch.
        found: Epoch,
        /// The epoch that was open at its sequence.
        open: Epoch,
    },
    /// An epoch opened on another entry than the one before it.
    #[error("epoch {} opened on another entry than the one before it: the epoch is forked", epoch.0)]
    ForkedOpening {
        /// The epoch.
        epoch: Epoch,
    },
    /// An entry raises the floor, and anchors the chain at another entry than the one below the floor.
    #[error("it anchors the chain below {floor} at another entry than stands there: one of the two was changed")]
    Anchor {
        /// The floor.
        floor: u64,
    },
    /// The log is shorter than what was marked as shown.
    #[error("the log ends here, and entries up to {mark} were shown to members")]
    Shorter {
        /// Entries that may be shown.
        mark: u64,
    },
}

/// Where an entry that raises the floor says that the chain is anchored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The entry that says so.
    pub by: u64,
    /// The floor.
    pub floor: u64,
    /// The hash of the entry below it.
    pub previous: Hash,
}

impl Anchor {
    /// Compares it with the entry at `floor - 1`.
    ///
    /// # Errors
    /// [`ChainFault::Anchor`].
    pub fn check(&self, below: Option<&SealedEntry>) -> Result<(), ChainFault> {
        let same = below.is_none_or(|below| below.hash == self.previous);
        if same { Ok(()) } else { Err(ChainFault::Anchor { floor: self.floor }) }
    }
}

/// Walks a log from its lowest entry to its end.
#[derive(Clone, Debug)]
pub struct ChainCheck {
    openings: Vec<Opening>,
    open_ranges: Vec<(u64, u64)>,
    /// The lowest sequence that has to come next.
    next: u64,
    /// The hash of the entry at `next - 1`, when that was seen and read.
    previous: Option<Hash>,
    /// The anchors that were met.
    anchors: Vec<Anchor>,
}

impl ChainCheck {
    /// A walk over the log with this record.
    #[must_use]
    pub fn new(record: &LogRecord) -> Self {
        Self {
            openings: record.openings.clone(),
            open_ranges: record.open_ranges.clone(),
            next: record.floor,
            previous: None,
            anchors: Vec::new(),
        }
    }

    /// The anchors that were met: each is to be compared with the entry below its floor.
    #[must_use]
    pub fn anchors(&self) -> &[Anchor] {
        &self.anchors
    }

    /// The sequence of the next entry; ranges that are still to be pulled are left out.
    #[must_use]
    pub fn next(&self) -> u64 {
        let inside = self.open_ranges.iter().find(|(from, to)| (*from..*to).contains(&self.next));
        inside.map_or(self.next, |(_, to)| *to)
    }

    /// Takes the entry at [`ChainCheck::next`]; `None` when there is none.
    ///
    /// # Errors
    /// What is wrong with it. The walk goes on behind it all the same.
    pub fn take(&mut self, entry: Option<&SealedEntry>) -> Result<(), ChainFault> {
        let sequence = self.next();
        let before = if sequence == self.next { self.previous } else { None };
        self.next = sequence + 1;
        self.previous = entry.map(|entry| entry.hash);
        let Some(entry) = entry.filter(|entry| entry.sequence().0 == sequence) else { return Err(ChainFault::Missing) };
        if let Some(Forget::Below { floor, previous, .. }) = entry.forgets() {
            self.anchors.push(Anchor { by: sequence, floor, previous });
        }
        let named = entry.entry.fixed.previous;
        if before.is_some_and(|hash| hash != named) {
            return Err(ChainFault::Predecessor);
        }
        let Some(opening) = self.openings.iter().rev().find(|opening| opening.first <= sequence) else { return Ok(()) };
        let found = entry.epoch();
        if found != opening.epoch {
            return Err(ChainFault::ForkedEpoch { found, open: opening.epoch });
        }
        if opening.first == sequence && opening.previous != named {
            return Err(ChainFault::ForkedOpening { epoch: opening.epoch });
        }
        Ok(())
    }

    /// The entry at [`ChainCheck::next`] does not read: the next one is compared with nothing.
    pub fn skip(&mut self) {
        self.next = self.next() + 1;
        self.previous = None;
    }

    /// The end of the log.
    ///
    /// # Errors
    /// [`ChainFault::Shorter`].
    pub fn end(&self, mark: u64) -> Result<(), ChainFault> {
        if self.next() < mark { Err(ChainFault::Shorter { mark }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hearth_protocol::entry::{Fixed, content_digest};
    use hearth_protocol::{Change, Entry, EntryKind, Level, Position, RegionId, Sequence, Timestamp, UserId};
    use uuid::Uuid;

    use super::*;

    fn entry(epoch: u64, sequence: u64, previous: Hash) -> Arc<SealedEntry> {
        let region = RegionId::new("eu").expect("a name");
        let fixed = Fixed {
            position: Position { epoch: Epoch(epoch), sequence: Sequence(sequence) },
            kind: EntryKind::Message,
            sender: UserId::new("ann").expect("a name"),
            id: Uuid::from_u128(u128::from(sequence)),
            time: Timestamp(sequence),
            level: Level::Region,
            digest: content_digest(&[], b""),
            previous,
            origin: region,
            reply_to: None,
            target: None,
            expires_at: None,
            original_time: None,
        };
        SealedEntry::seal(Entry { fixed, content: None })
    }

    /// Entries 0 to 5; the second epoch opens at 3.
    fn chain() -> (Vec<Arc<SealedEntry>>, Vec<Opening>) {
        let mut entries: Vec<Arc<SealedEntry>> = Vec::new();
        for sequence in 0..6 {
            let previous = entries.last().map_or([0; 32], |last| last.hash);
            entries.push(entry(if sequence < 3 { 1 } else { 2 }, sequence, previous));
        }
        let opening = |epoch, first, previous| Opening { epoch: Epoch(epoch), first, previous, loss: false };
        let openings = vec![opening(1, 0, [0; 32]), opening(2, 3, entries[2].hash)];
        (entries, openings)
    }

    fn check(openings: &[Opening], open_ranges: &[(u64, u64)]) -> ChainCheck {
        let (openings, open_ranges) = (openings.to_vec(), open_ranges.to_vec());
        ChainCheck { openings, open_ranges, next: 0, previous: None, anchors: Vec::new() }
    }

    fn walk(mut check: ChainCheck, entries: &[Arc<SealedEntry>], length: u64) -> Vec<(u64, ChainFault)> {
        let mut faults = Vec::new();
        while check.next() < length {
            let sequence = check.next();
            let entry = entries.iter().find(|entry| entry.sequence().0 == sequence);
            faults.extend(check.take(entry.map(|entry| &**entry)).err().map(|fault| (sequence, fault)));
        }
        faults.extend(check.end(length).err().map(|fault| (length, fault)));
        faults
    }

    #[test]
    fn a_whole_chain_over_two_epochs_has_no_fault_and_open_ranges_are_left_out() {
        let (entries, openings) = chain();
        assert_eq!(walk(check(&openings, &[]), &entries, 6), []);
        assert_eq!(walk(check(&openings, &[(1, 4)]), &[entries[0].clone(), entries[4].clone()], 5), []);
        assert_eq!(walk(check(&openings, &[(1, 9)]), &entries[..1], 9), []);
    }

    #[test]
    fn a_changed_entry_is_found_at_the_one_that_names_it() {
        let (mut entries, openings) = chain();
        entries[1] = entry(1, 1, [7; 32]);
        let faults = walk(check(&openings, &[]), &entries, 6);
        assert_eq!(faults, [(1, ChainFault::Predecessor), (2, ChainFault::Predecessor)]);
    }

    #[test]
    fn a_hole_and_an_end_before_the_mark_are_told() {
        let (mut entries, openings) = chain();
        entries.remove(2);
        assert_eq!(walk(check(&openings, &[]), &entries, 6), [(2, ChainFault::Missing)]);
        let whole = check(&openings, &[]);
        assert_eq!(whole.end(3), Err(ChainFault::Shorter { mark: 3 }));
    }

    #[test]
    fn a_floor_that_is_anchored_at_another_entry_is_found() {
        let (entries, openings) = chain();
        let below = |previous| {
            let forget = Forget::Below { from: 1, floor: 4, before: Timestamp(3), previous };
            let content = Change::Forget(forget).encode();
            let mut entry = entry(2, 6, entries[5].hash).entry.clone();
            entry.fixed.kind = EntryKind::System;
            entry.content = Some((vec![0; 16].into(), content));
            SealedEntry::seal(entry)
        };
        for (previous, fault) in [(entries[3].hash, Ok(())), ([7; 32], Err(ChainFault::Anchor { floor: 4 }))] {
            let mut check = check(&openings, &[]);
            for entry in entries.iter().chain([&below(previous)]) {
                assert_eq!(check.take(Some(entry)), Ok(()));
            }
            assert_eq!((check.anchors()[0].by, check.anchors()[0].check(Some(&entries[3]))), (6, fault));
            assert_eq!(check.anchors()[0].check(None), Ok(()), "what is not here is compared with nothing");
        }
    }

    #[test]
    fn a_forked_epoch_is_named() {
        let (entries, mut openings) = chain();
        openings[1].first = 4;
        let found = ChainFault::ForkedEpoch { found: Epoch(2), open: Epoch(1) };
        let faults = walk(check(&openings, &[]), &entries, 6);
        assert_eq!(faults, [(3, found), (4, ChainFault::ForkedOpening { epoch: Epoch(2) })]);
    }

    #[test]
    fn behind_an_entry_that_does_not_read_the_walk_goes_on_without_a_second_fault() {
        let (entries, openings) = chain();
        let mut check = check(&openings, &[]);
        check.take(Some(&entries[0])).expect("whole");
        check.skip();
        assert_eq!((check.next(), check.take(Some(&entries[2]))), (2, Ok(())));
    }
}
