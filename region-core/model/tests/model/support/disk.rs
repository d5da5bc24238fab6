//! What survives a crash of a region: a store as the ports describe it, in maps.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::record::{DedupRecord, LogRecord, ParkedSend};
use hearth_protocol::{LogId, Placement, RegionId, SealedEntry, mesh};
use region_model::ports::{DedupKey, LoadedLog, LogAppend};

/// One log on disk.
#[derive(Debug, Default)]
pub(crate) struct StoredLog {
    pub(crate) record: Option<LogRecord>,
    pub(crate) entries: Vec<Arc<SealedEntry>>,
    pub(crate) mark: u64,
    pub(crate) snapshot: Option<(u64, Bytes)>,
    pub(crate) change: u64,
}

/// The stores of one region.
#[derive(Debug, Default)]
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
        let stored = self.logs.entry(append.log).or_default();
        assert_eq!(stored.entries.len() as u64, append.expect, "{} is not as long as its writer thinks", append.log);
        for entry in &append.entries {
            assert_eq!(entry.sequence().0, stored.entries.len() as u64, "entries are numbered without a hole");
            let previous = stored.entries.last().map_or([0; 32], |last| last.hash);
            assert_eq!(entry.entry.fixed.previous, previous, "entries name the one before them");
            stored.entries.push(entry.clone());
        }
        if append.record.is_some() {
            stored.record = append.record;
        }
        assert!(stored.record.is_some(), "the append that creates a log brings its record");
        if append.snapshot.is_some() {
            stored.snapshot = append.snapshot;
        }
        stored.mark = stored.mark.max(append.mark);
        assert!(stored.mark <= stored.entries.len() as u64, "a mark is of entries that are there");
        stored.change = self.change;
        self.dedup.extend(append.dedup);
        self.change
    }

    pub(crate) fn put_mark(&mut self, log: LogId, mark: u64) {
        if let Some(stored) = self.logs.get_mut(&log) {
            assert!(mark <= stored.entries.len() as u64, "a mark is of entries that are there");
            stored.mark = stored.mark.max(mark);
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
            loaded.length = stored.entries.len() as u64;
            loaded.mark = stored.mark;
            loaded.snapshot.clone_from(&stored.snapshot);
            loaded.last = stored.entries.last().cloned();
            loaded.entries = stored.entries[usize::try_from(from).expect("small")..].to_vec();
            loaded.change = stored.change;
        }
        loaded
    }

    pub(crate) fn entry(&self, log: LogId, sequence: u64) -> Option<&Arc<SealedEntry>> {
        self.logs.get(&log)?.entries.get(usize::try_from(sequence).ok()?)
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
                    length: stored.entries.len() as u64,
                    hash: stored.entries.last().map_or_else(Bytes::new, |last| Bytes::copy_from_slice(&last.hash)),
                    mark: stored.mark,
                });
            } else if record.home == *peer && !placement_log && !record.voters.contains(me) {
                follows.push(*log);
            }
        }
        (lengths, follows)
    }
}
