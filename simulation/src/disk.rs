//! The store of a region as the ports describe it, in maps: what is synced survives a power cut, what is written
//! survives the end of the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::record::{
    ChangeRecord, DedupRecord, LogRecord, MediaRecord, MediaScanRecord, OutboxRecord, ParkedSend,
};
use hearth_protocol::{
    ConversationId, Epoch, LogId, Placement, Position, RegionId, SealedEntry, Timestamp, UserId, mesh,
};
use region_model::media::ports::MediaObject;
use region_model::ports::{DedupKey, LoadedLog, LogAppend, TargetFound, TargetKey, length_of};
use region_model::push::Kept;
use region_model::push::ports::PushJob;
use region_model::view::Taking;

/// One log.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoredLog {
    pub(crate) record: Option<LogRecord>,
    /// By sequence; none in an open range.
    pub(crate) entries: BTreeMap<u64, Arc<SealedEntry>>,
    pub(crate) mark: u64,
    snapshot: Option<(u64, Bytes)>,
    change: u64,
    /// What left the line, by position.
    pub(crate) tail: BTreeMap<Position, Arc<SealedEntry>>,
    /// What was done to messages, by the number of what did it.
    pub(crate) changes: BTreeMap<u64, ChangeRecord>,
    /// Deletes whose content was taken away.
    taken: BTreeSet<u64>,
    /// When content is to go, with the number of what it is of; some of it may have left the line or gone otherwise.
    expiring: BTreeSet<(Timestamp, u64)>,
}

impl StoredLog {
    fn open(&self) -> Option<(u64, u64)> {
        self.record.as_ref()?.open_ranges.first().copied()
    }

    pub(crate) fn length(&self) -> u64 {
        length_of(self.entries.keys().next_back().copied(), self.record.as_ref())
    }
}

/// What a soft write replaced: it comes back when power fails before the next sync.
#[derive(Clone, Debug)]
enum Undo {
    Mark(LogId, u64),
    Placement(LogId, Option<Placement>),
    Unparked(ParkedSend),
    Told(OutboxRecord),
    PushKept(KeptKey, Option<(Epoch, Kept)>),
    PushJob(JobKey, Option<PushJob>),
    Media(MediaObject, Option<MediaRecord>),
    Scan(ConversationId, Option<MediaScanRecord>),
}

/// The user's record and the conversation that something is kept of.
pub(crate) type KeptKey = (LogId, LogId);
/// The subscription and the conversation of a job.
pub(crate) type JobKey = (uuid::Uuid, ConversationId);

/// The store of one region.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) logs: BTreeMap<LogId, StoredLog>,
    dedup: BTreeMap<DedupKey, DedupRecord>,
    placements: BTreeMap<LogId, Placement>,
    pub(crate) parked: BTreeMap<u64, ParkedSend>,
    pub(crate) outbox: BTreeMap<(LogId, u64, String), OutboxRecord>,
    /// The counter of lease renewals, on disk before it is used.
    pub(crate) counter: u64,
    /// The incarnation that the map gave the store.
    pub(crate) incarnation: u64,
    change: u64,
    /// What is decided of pushes, and under which epoch of the record.
    pub(crate) push_kept: BTreeMap<KeptKey, (Epoch, Kept)>,
    /// Pushes that no service has yet.
    pub(crate) push_jobs: BTreeMap<JobKey, PushJob>,
    /// Media that were asked for here.
    pub(crate) media: BTreeMap<MediaObject, MediaRecord>,
    /// How far conversations were looked through for them.
    pub(crate) scans: BTreeMap<ConversationId, MediaScanRecord>,
    /// Media that came, with their sizes: in a folder of their own, each with a sync.
    pub(crate) bytes: BTreeMap<MediaObject, u64>,
    soft: Vec<Undo>,
}

/// Why an append was not taken.
#[derive(Debug, thiserror::Error)]
#[error("{log} has {length} entries and is sealed at {sealed}, where its writer expects {expected} at {epoch}")]
pub(crate) struct Conflict {
    log: LogId,
    length: u64,
    sealed: u64,
    expected: u64,
    epoch: u64,
}

impl Disk {
    /// Applies an append; returns the number of the change.
    pub(crate) fn append(&mut self, append: LogAppend) -> Result<u64, Conflict> {
        self.soft.clear();
        self.change += 1;
        let stored = self.logs.entry(append.log).or_default();
        let sealed = stored.record.as_ref().map_or(0, |record| record.sealed.0);
        if stored.length() != append.expect || append.epoch.0 < sealed {
            let (length, expected, epoch) = (stored.length(), append.expect, append.epoch.0);
            return Err(Conflict { log: append.log, length, sealed, expected, epoch });
        }
        if let Some(from) = append.apart {
            for (_, entry) in stored.entries.split_off(&from) {
                let fixed = &entry.entry.fixed;
                for key in DedupKey::all_of(append.log, &entry) {
                    if self.dedup.get(&key).is_some_and(|record| record.position == fixed.position) {
                        self.dedup.remove(&key);
                    }
                }
                stored.tail.insert(fixed.position, entry);
            }
            self.outbox.retain(|(log, sequence, _), _| *log != append.log || *sequence < from);
            stored.changes.retain(|by, _| *by < from);
            stored.taken.retain(|by| *by < from);
            stored.mark = stored.mark.min(from);
            stored.snapshot = stored.snapshot.take().filter(|(length, _)| *length <= from);
        }
        if let Some(begin) = &append.begin {
            stored.entries.retain(|sequence, _| !begin.dropped.contains(sequence));
            stored.changes.retain(|by, _| !begin.dropped.contains(by));
            stored.taken.retain(|by| !begin.dropped.contains(by));
        }
        let entries = append.filled.into_iter().chain(append.entries);
        for entry in entries {
            let sequence = entry.sequence().0;
            stored.expiring.extend(entry.entry.fixed.expires_at.map(|at| (at, sequence)));
            stored.entries.insert(sequence, entry);
        }
        if append.record.is_some() {
            stored.record = append.record;
        }
        if append.snapshot.is_some() {
            stored.snapshot = append.snapshot;
        }
        stored.mark = stored.mark.max(append.mark);
        stored.change = self.change;
        stored.changes.extend(append.changes.into_iter().map(|change| (change.position.sequence.0, change)));
        self.dedup.extend(append.dedup);
        for item in append.outbox {
            self.outbox.insert(outbox_key(&item), item);
        }
        Ok(self.change)
    }

    /// A write with a sync made everything before it durable.
    pub(crate) fn park(&mut self, send: ParkedSend) {
        self.soft.clear();
        self.parked.insert(send.number, send);
    }

    pub(crate) fn put_mark(&mut self, log: LogId, mark: u64) {
        if let Some(stored) = self.logs.get_mut(&log).filter(|stored| stored.mark < mark) {
            self.soft.push(Undo::Mark(log, stored.mark));
            stored.mark = mark.min(stored.length());
        }
    }

    pub(crate) fn put_placement(&mut self, placement: Placement) {
        let known = self.placements.get(&placement.log);
        if known.is_none_or(|known| known.epoch <= placement.epoch) {
            let log = placement.log;
            let before = self.placements.insert(log, placement);
            self.soft.push(Undo::Placement(log, before));
        }
    }

    pub(crate) fn unpark(&mut self, number: u64) {
        self.soft.extend(self.parked.remove(&number).map(Undo::Unparked));
    }

    pub(crate) fn told(&mut self, item: &OutboxRecord) {
        self.soft.extend(self.outbox.remove(&outbox_key(item)).map(Undo::Told));
    }

    /// Power fails: what was not synced is as before.
    pub(crate) fn lose_unsynced(&mut self) {
        while let Some(undo) = self.soft.pop() {
            match undo {
                Undo::Mark(log, mark) => drop(self.logs.get_mut(&log).map(|stored| stored.mark = mark)),
                Undo::Placement(log, Some(placement)) => drop(self.placements.insert(log, placement)),
                Undo::Placement(log, None) => drop(self.placements.remove(&log)),
                Undo::Unparked(send) => drop(self.parked.insert(send.number, send)),
                Undo::Told(item) => drop(self.outbox.insert(outbox_key(&item), item)),
                Undo::PushKept(key, before) => drop(put(&mut self.push_kept, key, before)),
                Undo::PushJob(key, before) => drop(put(&mut self.push_jobs, key, before)),
                Undo::Media(object, before) => drop(put(&mut self.media, object, before)),
                Undo::Scan(conversation, before) => drop(put(&mut self.scans, conversation, before)),
            }
        }
    }

    /// Keeps what is decided of a user's conversation, or nothing.
    pub(crate) fn keep_push(&mut self, key: KeptKey, kept: Option<(Epoch, Kept)>) {
        let before = put(&mut self.push_kept, key, kept);
        self.soft.push(Undo::PushKept(key, before));
    }

    /// A push waits, in the place of one that waits, or is over.
    pub(crate) fn put_push(&mut self, key: JobKey, job: Option<PushJob>) {
        let before = put(&mut self.push_jobs, key, job);
        self.soft.push(Undo::PushJob(key, before));
    }

    /// Puts a record of media, or takes it away.
    pub(crate) fn put_media(&mut self, object: MediaObject, record: Option<MediaRecord>) {
        let before = put(&mut self.media, object, record);
        self.soft.push(Undo::Media(object, before));
    }

    /// Says how far a conversation was looked through, or forgets it.
    pub(crate) fn put_scan(&mut self, conversation: ConversationId, scan: Option<MediaScanRecord>) {
        let before = put(&mut self.scans, conversation, scan);
        self.soft.push(Undo::Scan(conversation, before));
    }

    /// What was written is durable.
    pub(crate) fn sync(&mut self) {
        self.soft.clear();
    }

    /// Of pushes that wait, those that would go with the power.
    pub(crate) fn unsynced_jobs(&self) -> Vec<&PushJob> {
        let keys = self.soft.iter().filter_map(|undo| if let Undo::PushJob(key, _) = undo { Some(key) } else { None });
        keys.filter_map(|key| self.push_jobs.get(key)).collect()
    }

    /// Of what is decided of pushes, what would go with the power.
    pub(crate) fn unsynced_pushes(&self) -> BTreeSet<KeptKey> {
        let kept = |undo: &Undo| if let Undo::PushKept(key, _) = undo { Some(*key) } else { None };
        self.soft.iter().filter_map(kept).collect()
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

    /// What was done to messages of a log.
    pub(crate) fn changes(&self, log: LogId) -> Vec<ChangeRecord> {
        self.logs.get(&log).map(|stored| stored.changes.values().cloned().collect()).unwrap_or_default()
    }

    /// Takes content away whose time is over.
    pub(crate) fn take_expired(&mut self, now: Timestamp) {
        let is_over = |entry: &&mut Arc<SealedEntry>| {
            entry.entry.fixed.expires_at.is_some_and(|at| at <= now) && entry.content().is_some()
        };
        for stored in self.logs.values_mut() {
            while let Some((_, sequence)) = stored.expiring.first().copied().filter(|(at, _)| *at <= now) {
                stored.expiring.pop_first();
                if let Some(entry) = stored.entries.get_mut(&sequence).filter(is_over) {
                    *entry = entry.without_content();
                }
            }
            // What left the line is apart from its number.
            stored.tail.values_mut().filter(is_over).for_each(|entry| *entry = entry.without_content());
        }
    }

    /// Takes the content of deleted messages away, as far as the log is whole.
    pub(crate) fn take_deleted(&mut self) {
        for stored in self.logs.values_mut().filter(|stored| stored.open().is_none()) {
            let mark = stored.mark;
            let due = stored.changes.values().filter(|change| change.position.sequence.0 < mark);
            let deletes = due.filter_map(|change| Some((Taking::deleted(change)?, change)));
            let new = deletes.filter(|(_, delete)| !stored.taken.contains(&delete.position.sequence.0));
            for (target, delete) in new.map(|(target, delete)| (target, delete.clone())).collect::<Vec<_>>() {
                stored.taken.insert(delete.position.sequence.0);
                let Some(message) = stored.entries.get(&target).cloned() else { continue };
                let fixed = &message.entry.fixed;
                for at in Taking::with_delete(&delete, fixed.position, stored.changes.values()) {
                    let entry = stored.entries.get_mut(&at.sequence.0);
                    let entry = entry.filter(|entry| entry.entry.fixed.position == at && entry.content().is_some());
                    entry.into_iter().for_each(|entry| *entry = entry.without_content());
                }
                let tail = stored.tail.values_mut();
                let tail = tail.filter(|entry| Taking::gives_content(entry, fixed.id, &fixed.sender));
                tail.for_each(|entry| *entry = entry.without_content());
            }
        }
    }

    /// Takes away what is kept no longer, as far as the log is whole below what says so. Returns who was erased where, and
    /// when: what they parked goes, too.
    pub(crate) fn take_forgotten(&mut self) -> Vec<(LogId, UserId, Timestamp)> {
        let mut erased = Vec::new();
        for (log, stored) in &mut self.logs {
            let open = stored.open().is_some();
            let marked = stored.changes.values().filter(|change| change.position.sequence.0 < stored.mark && !open);
            let marked = marked.map(|change| (change.position.sequence.0, Taking::of(*log, change)));
            for (by, taking) in marked.filter_map(|(by, taking)| Some((by, taking?))) {
                for edit in taking.edits_above(by, stored.changes.values()) {
                    let edit = stored.entries.get_mut(&edit.sequence.0).filter(|entry| entry.content().is_some());
                    edit.into_iter().for_each(|entry| *entry = entry.without_content());
                }
                let line = stored.entries.range_mut(taking.line.clone()).map(|(_, entry)| entry);
                line.filter(|entry| taking.takes(entry)).for_each(|entry| *entry = entry.without_content());
                let tail = stored.tail.values_mut().filter(|entry| taking.takes_of_tail(entry));
                tail.for_each(|entry| *entry = entry.without_content());
                erased.extend(taking.user.map(|user| (*log, user, taking.until)));
            }
        }
        erased
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

    /// Whether an entry is in a log or apart from it.
    pub(crate) fn holds_somewhere(&self, log: LogId, entry: &SealedEntry) -> bool {
        let position = entry.entry.fixed.position;
        self.logs.get(&log).is_some_and(|stored| {
            let there = stored.entries.get(&position.sequence.0).is_some_and(|there| there.hash == entry.hash);
            there || stored.tail.contains_key(&position)
        })
    }

    /// Logs of which a tail is kept.
    pub(crate) fn tails(&self) -> Vec<LogId> {
        self.logs.iter().filter(|(_, stored)| !stored.tail.is_empty()).map(|(log, _)| *log).collect()
    }

    pub(crate) fn tail(&self, log: LogId, after: Option<Position>, rows: usize) -> Vec<Arc<SealedEntry>> {
        let Some(stored) = self.logs.get(&log) else { return Vec::new() };
        let behind = stored.tail.iter().filter(|(position, _)| after.is_none_or(|after| **position > after));
        behind.map(|(_, entry)| entry.clone()).take(rows).collect()
    }

    pub(crate) fn placement(&self, log: LogId) -> Option<&Placement> {
        self.placements.get(&log)
    }

    pub(crate) fn dedup(&self, key: &DedupKey) -> Option<DedupRecord> {
        self.dedup.get(key).cloned()
    }

    /// The lengths that a home compares with a replica, and the logs that a follower follows again.
    pub(crate) fn compare(&self, me: &RegionId, peer: &RegionId) -> (Vec<mesh::Length>, BTreeSet<LogId>) {
        let (mut lengths, mut follows) = (Vec::with_capacity(self.logs.len()), BTreeSet::new());
        for (log, stored) in &self.logs {
            let Some(record) = &stored.record else { continue };
            let placement_log = log.placement_slot().is_some();
            if record.home == *me && (placement_log || record.voters.contains(peer)) {
                let last = stored.entries.values().next_back();
                lengths.push(mesh::Length {
                    log: Bytes::copy_from_slice(&log.to_bytes()),
                    epoch: record.accepted.0,
                    length: stored.length(),
                    hash: last.map_or_else(Bytes::new, |last| Bytes::copy_from_slice(&last.hash)),
                    mark: stored.mark,
                });
            } else if record.home == *peer && !placement_log && !record.voters.contains(me) {
                follows.insert(*log);
            }
        }
        (lengths, follows)
    }
}

/// Puts a row, or takes it away. Returns the one of before.
fn put<K: Ord, V>(rows: &mut BTreeMap<K, V>, key: K, row: Option<V>) -> Option<V> {
    match row {
        Some(row) => rows.insert(key, row),
        None => rows.remove(&key),
    }
}

fn outbox_key(item: &OutboxRecord) -> (LogId, u64, String) {
    (item.log, item.position.sequence.0, item.user.as_str().to_owned())
}
