//! What the memory store holds and how each call changes it: the ports' contract in its plainest form.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::record::{ChangeRecord, CursorRecord, DedupRecord, LogRecord, OutboxRecord, ParkedSend};
use hearth_protocol::{Epoch, LogId, LogKind, Placement, Position, SealedEntry, Timestamp, UserId};
use region_model::ports::{
    AppendOutcome, DedupKey, Deletes, ExpiredContent, LoadedLog, LogAppend, LogSummary, MapChange, MapSync,
    TakenContent, TargetFound, TargetKey, length_of,
};
use uuid::Uuid;

type Undo = Box<dyn FnOnce(&mut Tables) + Send>;
type OutboxKey = (LogId, u64, UserId);

/// The state behind the ports.
#[derive(Default)]
pub(super) struct Tables {
    logs: BTreeMap<LogId, Log>,
    placements: BTreeMap<LogId, Placement>,
    outbox: BTreeMap<OutboxKey, OutboxRecord>,
    parked: BTreeMap<u64, ParkedSend>,
    cursors: BTreeMap<(LogId, UserId), (CursorRecord, u64)>,
    map: BTreeMap<Bytes, Bytes>,
    change: u64,
    /// Whether something was taken away since the last scrub.
    to_scrub: bool,
    /// Takes back what no sync has covered yet, newest last.
    unsynced: Vec<Undo>,
}

#[derive(Default)]
struct Log {
    record: Option<LogRecord>,
    rows: BTreeMap<u64, Arc<SealedEntry>>,
    mark: u64,
    change: u64,
    snapshot: Option<(u64, Bytes)>,
    tail: BTreeMap<Position, Arc<SealedEntry>>,
    dedup: HashMap<(UserId, Uuid), DedupRecord>,
    /// By message, and by what changes it.
    changes: BTreeMap<(u64, u64), ChangeRecord>,
    /// Deletes among them whose message's content was taken away.
    taken: BTreeSet<(u64, u64)>,
}

impl Log {
    fn length(&self) -> u64 {
        length_of(self.rows.last_key_value().map(|(sequence, _)| *sequence), self.record.as_ref())
    }

    fn last(&self) -> Option<Arc<SealedEntry>> {
        self.rows.last_key_value().map(|(_, entry)| Arc::clone(entry))
    }

    /// The end of the log from `from` on leaves it, and stays as its tail.
    fn put_apart(&mut self, from: u64) {
        for entry in self.rows.split_off(&from).into_values() {
            let fixed = &entry.entry.fixed;
            for id in entry.ids() {
                let key = (fixed.sender.clone(), id);
                if self.dedup.get(&key).is_some_and(|record| record.position == fixed.position) {
                    self.dedup.remove(&key);
                }
            }
            self.tail.insert(fixed.position, entry);
        }
        self.changes.retain(|(_, by), _| *by < from);
        self.mark = self.mark.min(from);
        self.snapshot.take_if(|(length, _)| *length > from);
    }

    fn sealed(&self) -> Epoch {
        self.record.as_ref().map(|record| record.sealed).unwrap_or_default()
    }
}

fn outbox_key(item: &OutboxRecord) -> OutboxKey {
    (item.log, item.position.sequence.0, item.user.clone())
}

impl Tables {
    /// All calls so far are on disk.
    fn sync(&mut self) {
        self.unsynced.clear();
    }

    /// The machine loses what was not synced.
    pub(super) fn lose_unsynced(&mut self) {
        while let Some(undo) = self.unsynced.pop() {
            undo(self);
        }
    }

    pub(super) fn append(&mut self, appends: Vec<LogAppend>) -> Vec<AppendOutcome> {
        let outcomes = appends.into_iter().map(|append| self.append_one(append)).collect();
        self.sync();
        outcomes
    }

    fn append_one(&mut self, append: LogAppend) -> AppendOutcome {
        let (length, sealed) = self.logs.get(&append.log).map_or((0, Epoch(0)), |log| (log.length(), log.sealed()));
        if length != append.expect || append.epoch < sealed || !append.is_numbered() {
            return AppendOutcome::Conflict { length, sealed };
        }
        self.change += 1;
        let log = self.logs.entry(append.log).or_default();
        log.change = self.change;
        let end = append.end();
        if let Some(apart) = append.apart {
            log.put_apart(apart);
            self.outbox.retain(|(of, sequence, _), _| *of != append.log || *sequence < apart);
        }
        log.mark = log.mark.max(append.mark.min(end));
        if let Some(begin) = append.begin {
            log.rows.retain(|sequence, _| !begin.dropped.contains(sequence));
            log.changes.retain(|(_, by), _| !begin.dropped.contains(by));
        }
        log.rows.extend(append.filled.into_iter().map(|entry| (entry.sequence().0, entry)));
        log.rows.extend(append.entries.into_iter().map(|entry| (entry.sequence().0, entry)));
        let changes = append.changes.into_iter().map(|change| ((change.target, change.position.sequence.0), change));
        log.changes.extend(changes);
        if append.record.is_some() {
            log.record = append.record;
        }
        if append.snapshot.is_some() {
            log.snapshot = append.snapshot;
        }
        for (key, record) in append.dedup {
            // A record stands under the log that its key names.
            self.logs.entry(key.log).or_default().dedup.insert((key.sender, key.id), record);
        }
        self.outbox.extend(append.outbox.into_iter().map(|item| (outbox_key(&item), item)));
        AppendOutcome::Applied { change: self.change }
    }

    pub(super) fn load(&self, id: LogId) -> LoadedLog {
        let placement = self.placements.get(&id).cloned();
        let Some(log) = self.logs.get(&id) else {
            return LoadedLog { placement, ..LoadedLog::default() };
        };
        let below = log.record.as_ref().and_then(|record| record.open_ranges.first()).map_or(0, |(from, _)| *from);
        let below_open = below.checked_sub(1).and_then(|last| log.rows.get(&last).cloned());
        let from = log.snapshot.as_ref().map_or(0, |(length, _)| *length).min(log.mark);
        LoadedLog {
            placement,
            record: log.record.clone(),
            length: log.length(),
            mark: log.mark,
            below_open,
            snapshot: log.snapshot.clone(),
            last: log.last(),
            entries: log.rows.range(from..).map(|(_, entry)| Arc::clone(entry)).collect(),
            change: log.change,
        }
    }

    pub(super) fn read(&self, id: LogId, from: u64, to: u64, rows: usize, bytes: usize) -> Vec<Arc<SealedEntry>> {
        let Some(log) = self.logs.get(&id).filter(|_| from < to) else { return Vec::new() };
        let mut taken = 0;
        let mut entries = Vec::new();
        for entry in log.rows.range(from..to).map(|(_, entry)| entry).take(rows) {
            if taken >= bytes && !entries.is_empty() {
                break;
            }
            taken += entry.encoded.len();
            entries.push(Arc::clone(entry));
        }
        entries
    }

    pub(super) fn dedup(&self, keys: Vec<DedupKey>) -> Vec<Option<DedupRecord>> {
        let find = |key: DedupKey| self.logs.get(&key.log)?.dedup.get(&(key.sender, key.id)).cloned();
        keys.into_iter().map(find).collect()
    }

    pub(super) fn target(&self, wanted: &TargetKey) -> TargetFound {
        let Some(log) = self.logs.get(&wanted.log) else { return TargetFound::default() };
        let named = log.dedup.iter().filter(|((_, id), _)| *id == wanted.id);
        let best = named.map(|((sender, _), record)| (*sender != wanted.actor, record.position.sequence.0)).min();
        let entry = best.and_then(|(_, number)| log.rows.get(&number));
        let entry = entry.filter(|entry| entry.entry.fixed.id == wanted.id).cloned();
        let changes = entry
            .as_ref()
            .map(|entry| entry.sequence().0)
            .map(|number| log.changes.range((number, 0)..(number + 1, 0)).map(|(_, change)| change.clone()).collect());
        TargetFound { length: log.length(), entry, changes: changes.unwrap_or_default() }
    }

    pub(super) fn changes(&self, id: LogId, from: u64, to: u64, below: u64) -> Vec<ChangeRecord> {
        let Some(log) = self.logs.get(&id).filter(|_| from < to) else { return Vec::new() };
        let changes = log.changes.range((from, 0)..(to, 0)).filter(|((_, by), _)| *by < below);
        changes.map(|(_, change)| change.clone()).collect()
    }

    pub(super) fn deletes(&self, after: Option<&[u8]>, rows: usize) -> Deletes {
        let mut found = Vec::new();
        for (id, log) in &self.logs {
            for ((target, by), change) in &log.changes {
                let key = [&id.to_bytes()[..], &target.to_be_bytes(), &by.to_be_bytes()].concat();
                let open = change.what.takes_content() && !log.taken.contains(&(*target, *by));
                if open && after.is_none_or(|after| key[..] > *after) && found.len() < rows {
                    found.push((key, (*id, change.clone())));
                }
            }
        }
        let next = found.last().filter(|_| found.len() == rows).map(|(key, _)| Bytes::from(key.clone()));
        (found.into_iter().map(|(_, delete)| delete).collect(), next)
    }

    pub(super) fn take_content(&mut self, taken: &TakenContent) {
        self.to_scrub = true;
        let Some(log) = self.logs.get_mut(&taken.log) else { return };
        let rows = log.rows.values_mut().filter(|entry| taken.entries.contains(&entry.entry.fixed.position));
        let tail = log.tail.values_mut().filter(|entry| taken.tail.contains(&entry.entry.fixed.position));
        rows.chain(tail).for_each(|entry| *entry = entry.without_content());
        log.taken.extend(taken.done.iter().map(|done| (done.target, done.position.sequence.0)));
        self.sync();
    }

    pub(super) fn expired(&self, now: Timestamp, rows: usize) -> Vec<ExpiredContent> {
        let mut found = Vec::new();
        for (id, log) in &self.logs {
            let entries = log.rows.values().chain(log.tail.values()).filter(|entry| entry.content().is_some());
            found.extend(entries.filter_map(|entry| {
                let fixed = &entry.entry.fixed;
                let at = fixed.expires_at.filter(|at| *at <= now)?;
                Some(ExpiredContent { at, log: *id, position: fixed.position })
            }));
        }
        found.sort_unstable();
        found.truncate(rows);
        found
    }

    pub(super) fn take_expired(&mut self, taken: &[ExpiredContent]) {
        self.to_scrub = true;
        for ExpiredContent { log, position, .. } in taken {
            let Some(log) = self.logs.get_mut(log) else { continue };
            let row = log.rows.get_mut(&position.sequence.0).filter(|entry| entry.entry.fixed.position == *position);
            let tail = log.tail.get_mut(position);
            row.into_iter().chain(tail).for_each(|entry| *entry = entry.without_content());
        }
        self.sync();
    }

    pub(super) fn scrub(&mut self) -> bool {
        std::mem::take(&mut self.to_scrub)
    }

    pub(super) fn expire_dedup(&mut self, before: Timestamp, after: Option<&[u8]>, rows: usize) -> Option<Bytes> {
        let mut keys: Vec<(Vec<u8>, LogId, UserId, Uuid)> = Vec::new();
        for (log, stored) in &self.logs {
            for (sender, id) in stored.dedup.keys() {
                let key = [&log.to_bytes()[..], id.as_bytes(), sender.as_str().as_bytes()].concat();
                if after.is_none_or(|after| key[..] > *after) {
                    keys.push((key, *log, sender.clone(), *id));
                }
            }
        }
        keys.sort_unstable();
        keys.truncate(rows);
        let next = keys.last().filter(|_| keys.len() == rows).map(|(key, ..)| Bytes::from(key.clone()));
        for (_, log, sender, id) in keys {
            let Some(stored) = self.logs.get_mut(&log) else { continue };
            let key = (sender, id);
            if stored.dedup.get(&key).is_none_or(|record| record.time >= before) {
                continue;
            }
            if let Some((key, record)) = stored.dedup.remove_entry(&key) {
                self.unsynced.push(Box::new(move |tables| {
                    if let Some(stored) = tables.logs.get_mut(&log) {
                        stored.dedup.insert(key, record);
                    }
                }));
            }
        }
        next
    }

    pub(super) fn logs(&self, kind: LogKind, after: Option<LogId>, limit: usize) -> Vec<LogSummary> {
        let rows = self.logs.iter().filter(|(id, _)| id.kind == kind && after.is_none_or(|after| **id > after));
        let summaries = rows.filter_map(|(id, log)| {
            Some(LogSummary {
                log: *id,
                record: log.record.clone()?,
                length: log.length(),
                mark: log.mark,
                last: log.last(),
                change: log.change,
            })
        });
        summaries.take(limit).collect()
    }

    pub(super) fn put_marks(&mut self, marks: Vec<(LogId, u64)>) {
        for (id, mark) in marks {
            let Some(log) = self.logs.get_mut(&id).filter(|log| mark > log.mark) else { continue };
            let before = std::mem::replace(&mut log.mark, mark);
            self.unsynced.push(Box::new(move |tables| {
                if let Some(log) = tables.logs.get_mut(&id) {
                    log.mark = before;
                }
            }));
        }
    }

    pub(super) fn tails(&self, after: Option<LogId>, limit: usize) -> Vec<LogId> {
        let logs = self.logs.iter().filter(|(id, log)| after.is_none_or(|after| **id > after) && !log.tail.is_empty());
        logs.map(|(id, _)| *id).take(limit).collect()
    }

    pub(super) fn read_tail(&self, id: LogId, after: Option<Position>, rows: usize) -> Vec<Arc<SealedEntry>> {
        let Some(log) = self.logs.get(&id) else { return Vec::new() };
        let entries = log.tail.iter().filter(|(position, _)| after.is_none_or(|after| **position > after));
        entries.map(|(_, entry)| Arc::clone(entry)).take(rows).collect()
    }

    pub(super) fn remove(&mut self, id: LogId) {
        if let Some(log) = self.logs.remove(&id)
            && !log.tail.is_empty()
        {
            self.logs.insert(id, Log { tail: log.tail, ..Log::default() });
        }
        self.to_scrub = true;
        self.outbox.retain(|(log, ..), _| *log != id);
        self.cursors.retain(|(log, _), _| *log != id);
        self.sync();
    }

    pub(super) fn placement(&self, log: LogId) -> Option<Placement> {
        self.placements.get(&log).cloned()
    }

    pub(super) fn put_placements(&mut self, placements: Vec<Placement>) {
        for placement in placements {
            let log = placement.log;
            if self.placements.get(&log).is_some_and(|known| known.epoch > placement.epoch) {
                continue;
            }
            let before = self.placements.insert(log, placement);
            self.unsynced.push(Box::new(move |tables| match before {
                Some(before) => drop(tables.placements.insert(log, before)),
                None => drop(tables.placements.remove(&log)),
            }));
        }
    }

    pub(super) fn outbox(&self, after: Option<OutboxRecord>, limit: usize) -> Vec<OutboxRecord> {
        let after = after.as_ref().map(outbox_key);
        let items = self.outbox.iter().filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after));
        items.map(|(_, item)| item.clone()).take(limit).collect()
    }

    pub(super) fn outbox_done(&mut self, items: Vec<OutboxRecord>) {
        for item in items {
            if let Some((key, before)) = self.outbox.remove_entry(&outbox_key(&item)) {
                self.unsynced.push(Box::new(move |tables| drop(tables.outbox.insert(key, before))));
            }
        }
    }

    pub(super) fn park(&mut self, sends: Vec<ParkedSend>) {
        self.parked.extend(sends.into_iter().map(|send| (send.number, send)));
        self.sync();
    }

    pub(super) fn parked(&self, after: Option<u64>, limit: usize) -> Vec<ParkedSend> {
        let sends = self.parked.iter().filter(|(number, _)| after.is_none_or(|after| **number > after));
        sends.map(|(_, send)| send.clone()).take(limit).collect()
    }

    pub(super) fn unpark(&mut self, numbers: Vec<u64>) {
        for number in numbers {
            if let Some(before) = self.parked.remove(&number) {
                self.unsynced.push(Box::new(move |tables| drop(tables.parked.insert(number, before))));
            }
        }
    }

    pub(super) fn put_cursors(&mut self, records: Vec<CursorRecord>) -> u64 {
        self.change += 1;
        for record in records {
            if self.logs.get(&record.log).is_none_or(|log| log.record.is_none()) {
                continue;
            }
            let key = (record.log, record.user.clone());
            let before = self.cursors.insert(key.clone(), (record, self.change));
            self.unsynced.push(Box::new(move |tables| match before {
                Some(before) => drop(tables.cursors.insert(key, before)),
                None => drop(tables.cursors.remove(&key)),
            }));
        }
        self.change
    }

    pub(super) fn cursors(&self, log: LogId, after: Option<UserId>, limit: usize) -> Vec<(CursorRecord, u64)> {
        let rows = self.cursors.iter().filter(|((of, user), _)| *of == log && after.as_ref().is_none_or(|a| user > a));
        rows.map(|(_, row)| row.clone()).take(limit).collect()
    }

    pub(super) fn last_changes(&self, user: &UserId, logs: &[LogId]) -> Vec<Option<u64>> {
        let last_change = |id: &LogId| {
            let log = self.logs.get(id).filter(|log| log.record.is_some() || !log.rows.is_empty())?;
            let cursors = self.cursors.get(&(*id, user.clone())).map_or(0, |(_, change)| *change);
            Some(log.change.max(cursors))
        };
        logs.iter().map(last_change).collect()
    }

    pub(super) fn map_value(&self, key: &Bytes) -> Option<Bytes> {
        self.map.get(key).cloned()
    }

    pub(super) fn map_rows(&self, from: Bytes, to: Bytes, rows: usize) -> Vec<(Bytes, Bytes)> {
        if from >= to {
            return Vec::new();
        }
        self.map.range(from..to).take(rows).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub(super) fn last_map_row(&self, from: Bytes, to: Bytes) -> Option<(Bytes, Bytes)> {
        if from >= to {
            return None;
        }
        self.map.range(from..to).next_back().map(|(key, value)| (key.clone(), value.clone()))
    }

    pub(super) fn write_map(&mut self, changes: Vec<MapChange>, sync: MapSync) {
        for change in changes {
            let (key, before) = match change {
                MapChange::Put(key, value) => (key.clone(), self.map.insert(key, value)),
                MapChange::Remove(key) => (key.clone(), self.map.remove(&key)),
            };
            self.unsynced.push(Box::new(move |tables| match before {
                Some(before) => drop(tables.map.insert(key, before)),
                None => drop(tables.map.remove(&key)),
            }));
        }
        if sync == MapSync::Disk {
            self.sync();
        }
    }
}
