//! What survives a crash of a region: a store as the ports describe it, in maps.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::record::{ChangeRecord, DedupRecord, LogRecord, ParkedSend};
use hearth_protocol::{LogId, Placement, Position, RegionId, SealedEntry, mesh};
use region_model::ports::{DedupKey, LoadedLog, LogAppend, TargetFound, TargetKey, length_of};

/// One log on disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoredLog {
    pub(crate) record: Option<LogRecord>,
    /// By sequence; none in an open range.
    pub(crate) entries: BTreeMap<u64, Arc<SealedEntry>>,
    pub(crate) mark: u64,
    pub(crate) snapshot: Option<(u64, Bytes)>,
    pub(crate) change: u64,
    pub(crate) tail: BTreeMap<Position, Arc<SealedEntry>>,
    /// What was done to messages, by the number of what did it.
    pub(crate) changes: BTreeMap<u64, ChangeRecord>,
}

impl StoredLog {
    fn open(&self) -> Option<(u64, u64)> {
        self.record.as_ref()?.open_ranges.first().copied()
    }

    fn length(&self) -> u64 {
        length_of(self.entries.keys().next_back().copied(), self.record.as_ref())
    }

    fn last(&self) -> Option<&Arc<SealedEntry>> {
        self.entries.values().next_back()
    }

    /// Entries are missing in the open range and nowhere else, and each names the one before it.
    fn check(&self, log: LogId) {
        let (from, to) = self.open().unwrap_or((0, 0));
        let held = (0..from).chain(to..self.length());
        assert!(self.entries.keys().copied().eq(held), "{log} holds all but {from}..{to}");
        for (sequence, entry) in &self.entries {
            let before = sequence.checked_sub(1).and_then(|before| self.entries.get(&before));
            if before.is_some() || *sequence == 0 {
                let previous = before.map_or([0; 32], |before| before.hash);
                assert_eq!(entry.entry.fixed.previous, previous, "{log} {sequence} names the entry before it");
            }
        }
    }
}

/// The stores of one region.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) logs: BTreeMap<LogId, StoredLog>,
    pub(crate) dedup: BTreeMap<DedupKey, DedupRecord>,
    pub(crate) placements: BTreeMap<LogId, Placement>,
    pub(crate) parked: BTreeMap<u64, ParkedSend>,
    change: u64,
}

impl Disk {
    /// Applies an append; returns the number of the change. A conflict is a bug of the model: there is one writer.
    pub(crate) fn append(&mut self, append: LogAppend) -> u64 {
        self.change += 1;
        let ranges = append.changes_ranges();
        let stored = self.logs.entry(append.log).or_default();
        assert_eq!(stored.length(), append.expect, "{} is not as long as its writer thinks", append.log);
        if let Some(apart) = append.apart {
            let left: Vec<_> = stored.entries.split_off(&apart).into_values().collect();
            for entry in left {
                let fixed = &entry.entry.fixed;
                for key in DedupKey::all_of(append.log, &entry) {
                    if self.dedup.get(&key).is_some_and(|record| record.position == fixed.position) {
                        self.dedup.remove(&key);
                    }
                }
                stored.tail.insert(fixed.position, entry);
            }
            stored.changes.retain(|by, _| *by < apart);
            stored.mark = stored.mark.min(apart);
            stored.snapshot.take_if(|(length, _)| *length > apart);
        }
        if let Some(begin) = &append.begin {
            assert!(append.record.is_some(), "a beginning brings the record");
            stored.entries.retain(|sequence, _| !begin.dropped.contains(sequence));
            stored.changes.retain(|by, _| !begin.dropped.contains(by));
        }
        for entry in &append.filled {
            let sequence = entry.sequence().0;
            let is_open =
                |record: &LogRecord| record.open_ranges.iter().any(|(from, to)| (*from..*to).contains(&sequence));
            assert!(stored.record.as_ref().is_some_and(is_open), "what is filled was open");
            stored.entries.insert(sequence, entry.clone());
        }
        for (length, entry) in (append.first()..).zip(&append.entries) {
            assert_eq!(entry.sequence().0, length, "entries are numbered without a hole");
            if let Some(before) = length.checked_sub(1).and_then(|before| stored.entries.get(&before)) {
                assert_eq!(entry.entry.fixed.previous, before.hash, "entries name the one before them");
            }
            stored.entries.insert(length, entry.clone());
        }
        if append.record.is_some() {
            stored.record = append.record;
        }
        assert!(stored.record.is_some(), "the append that creates a log brings its record");
        if append.snapshot.is_some() {
            stored.snapshot = append.snapshot;
        }
        stored.mark = stored.mark.max(append.mark);
        assert!(stored.mark <= stored.length(), "a mark is of entries that are there");
        if ranges {
            stored.check(append.log);
        }
        stored.change = self.change;
        stored.changes.extend(append.changes.into_iter().map(|change| (change.position.sequence.0, change)));
        self.dedup.extend(append.dedup);
        self.change
    }

    pub(crate) fn tails(&self) -> Vec<LogId> {
        self.logs.iter().filter(|(_, stored)| !stored.tail.is_empty()).map(|(log, _)| *log).collect()
    }

    pub(crate) fn tail(&self, log: LogId, after: Option<Position>, rows: usize) -> Vec<Arc<SealedEntry>> {
        let Some(stored) = self.logs.get(&log) else { return Vec::new() };
        let entries = stored.tail.iter().filter(|(position, _)| after.is_none_or(|after| **position > after));
        entries.map(|(_, entry)| entry.clone()).take(rows).collect()
    }

    pub(crate) fn put_mark(&mut self, log: LogId, mark: u64) {
        if let Some(stored) = self.logs.get_mut(&log) {
            // A mark of before a cut may come after it.
            stored.mark = stored.mark.max(mark.min(stored.length()));
        }
    }

    pub(crate) fn put_placement(&mut self, placement: Placement) {
        let known = self.placements.get(&placement.log);
        if known.is_none_or(|known| known.epoch <= placement.epoch) {
            self.placements.insert(placement.log, placement);
        }
    }

    pub(crate) fn load(&self, log: LogId) -> LoadedLog {
        let mut loaded = LoadedLog { placement: self.placements.get(&log).cloned(), ..LoadedLog::default() };
        if let Some(stored) = self.logs.get(&log) {
            let from = stored.snapshot.as_ref().map_or(0, |(length, _)| *length).min(stored.mark);
            loaded.record.clone_from(&stored.record);
            loaded.length = stored.length();
            loaded.mark = stored.mark;
            loaded.snapshot.clone_from(&stored.snapshot);
            let below = stored.open().map_or(0, |(from, _)| from);
            loaded.below_open = below.checked_sub(1).and_then(|last| stored.entries.get(&last).cloned());
            loaded.last = stored.entries.values().next_back().cloned();
            loaded.entries = stored.entries.range(from..).map(|(_, entry)| entry.clone()).collect();
            loaded.change = stored.change;
        }
        loaded
    }

    /// A message by its id, with what was done to it.
    pub(crate) fn target(&self, key: &TargetKey) -> TargetFound {
        let Some(stored) = self.logs.get(&key.log) else { return TargetFound::default() };
        let named = stored.entries.values().filter(|entry| entry.entry.fixed.id == key.id);
        let entry = named.min_by_key(|entry| (entry.entry.fixed.sender != key.actor, entry.sequence())).cloned();
        let number = entry.as_ref().map(|entry| entry.sequence().0);
        let changes = stored.changes.values().filter(|change| Some(change.target) == number).cloned().collect();
        TargetFound { length: stored.length(), entry, changes }
    }

    pub(crate) fn entry(&self, log: LogId, sequence: u64) -> Option<&Arc<SealedEntry>> {
        self.logs.get(&log)?.entries.get(&sequence)
    }

    pub(crate) fn read(&self, log: LogId, from: u64, to: u64) -> Vec<Arc<SealedEntry>> {
        (from..to).map_while(|sequence| self.entry(log, sequence).cloned()).collect()
    }

    /// The lengths that a home compares with a replica, and the logs that a follower follows again.
    pub(crate) fn compare(&self, me: &RegionId, peer: &RegionId) -> (Vec<mesh::Length>, Vec<LogId>) {
        let (mut lengths, mut follows) = (Vec::new(), Vec::new());
        for (log, stored) in &self.logs {
            let Some(record) = &stored.record else { continue };
            let placement_log = log.placement_slot().is_some();
            if record.home == *me && (placement_log || record.voters.contains(peer)) {
                lengths.push(mesh::Length {
                    log: Bytes::copy_from_slice(&log.to_bytes()),
                    epoch: record.accepted.0,
                    length: stored.length(),
                    hash: stored.last().map_or_else(Bytes::new, |last| Bytes::copy_from_slice(&last.hash)),
                    mark: stored.mark,
                });
            } else if record.home == *peer && !placement_log && !record.voters.contains(me) {
                follows.push(*log);
            }
        }
        (lengths, follows)
    }
}
