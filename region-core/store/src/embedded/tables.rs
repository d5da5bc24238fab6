//! The keyspaces and everything that reads them. Reads see a snapshot, so that no commit is seen half applied.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use fjall::{Database, Keyspace, Readable, Snapshot};
use hearth_protocol::record::{ChangeRecord, CursorRecord, DedupRecord, LogRecord, OutboxRecord, ParkedSend, Record};
use hearth_protocol::{Epoch, LogId, LogKind, Placement, Position, SealedEntry, Sequence, Timestamp, UserId};
use region_model::ports::{Deletes, ExpiredContent, LoadedLog, LogLook, LogSummary, TargetFound, TargetKey, length_of};

use super::committer::SCRUB;
use super::heads::Head;
use super::keys::{self, ReadError};

/// The open database. Clones share it.
#[derive(Clone)]
pub(super) struct Tables {
    pub(super) entries: Keyspace,
    pub(super) dedup: Keyspace,
    pub(super) changes: Keyspace,
    pub(super) deletes: Keyspace,
    pub(super) expiries: Keyspace,
    pub(super) logs: Keyspace,
    pub(super) snapshots: Keyspace,
    pub(super) marks: Keyspace,
    pub(super) tails: Keyspace,
    pub(super) placements: Keyspace,
    pub(super) outbox: Keyspace,
    pub(super) parked: Keyspace,
    pub(super) cursors: Keyspace,
    pub(super) map: Keyspace,
    pub(super) meta: Keyspace,
    // Last: the database closes after its keyspaces.
    pub(super) database: Database,
}

/// Keys of dedup records that are too old, and where to look on.
pub(super) type OldDedup = (Vec<Bytes>, Option<Bytes>);

/// No entry is behind it.
const LAST_POSITION: Position = Position { epoch: Epoch(u64::MAX), sequence: Sequence(u64::MAX) };

/// The last row of a log, and what its mark's row adds.
#[derive(Default)]
struct End {
    /// Sequence of the last row.
    sequence: Option<u64>,
    mark: u64,
    change: u64,
    last: Option<Arc<SealedEntry>>,
}

fn record<R: Record>(view: &Snapshot, keyspace: &Keyspace, key: &[u8]) -> Result<Option<R>, ReadError> {
    Ok(view.get(keyspace, key)?.map(|value| R::decode(&value)).transpose()?)
}

fn map_row(row: fjall::Guard) -> Result<(Bytes, Bytes), ReadError> {
    let (key, value) = row.into_inner()?;
    Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
}

impl Tables {
    /// Every keyspace.
    pub(super) fn all(&self) -> [&Keyspace; 15] {
        [
            &self.entries,
            &self.dedup,
            &self.changes,
            &self.deletes,
            &self.expiries,
            &self.logs,
            &self.snapshots,
            &self.marks,
            &self.tails,
            &self.placements,
            &self.outbox,
            &self.parked,
            &self.cursors,
            &self.map,
            &self.meta,
        ]
    }

    /// The keyspace of that name.
    pub(super) fn by_name(&self, name: &str) -> Option<&Keyspace> {
        self.all().into_iter().find(|keyspace| &**keyspace.name() == name)
    }

    /// The last row of a log.
    fn end(&self, view: &Snapshot, log: LogId, with_last: bool) -> Result<End, ReadError> {
        let key = log.to_bytes();
        let mut tail = End::default();
        if let Some(row) = view.prefix(&self.entries, keys::spread(log)).next_back() {
            let (key, row) = row.into_inner()?;
            (tail.mark, tail.change) = keys::row_head(&row)?;
            tail.sequence = Some(keys::sequence(&key)?);
            tail.last = if with_last { Some(keys::row_entry(&row)?) } else { None };
        }
        if let Some(pair) = view.get(&self.marks, key)? {
            let (mark, change) = keys::read_pair(&pair)?;
            (tail.mark, tail.change) = (tail.mark.max(mark), tail.change.max(change));
        }
        Ok(tail)
    }

    /// What an append of the log is checked against.
    pub(super) fn head(&self, log: LogId) -> Result<Head, ReadError> {
        let view = self.database.snapshot();
        let tail = self.end(&view, log, false)?;
        let record: Option<LogRecord> = record(&view, &self.logs, &log.to_bytes())?;
        Ok(Head {
            length: length_of(tail.sequence, record.as_ref()),
            sealed: record.as_ref().map(|record| record.sealed).unwrap_or_default(),
            // Above what was put apart a row may carry a mark of before.
            mark: tail.mark.min(length_of(tail.sequence, record.as_ref())),
            change: tail.change,
            held: record.is_some() || tail.sequence.is_some(),
        })
    }

    pub(super) fn load(&self, log: LogId) -> Result<LoadedLog, ReadError> {
        let view = self.database.snapshot();
        let key = log.to_bytes();
        let tail = self.end(&view, log, true)?;
        let snapshot = match view.get(&self.snapshots, key)? {
            Some(value) => Some(keys::read_snapshot(&value)?),
            None => None,
        };
        let stored: Option<LogRecord> = record(&view, &self.logs, &key)?;
        let length = length_of(tail.sequence, stored.as_ref());
        let from = snapshot.as_ref().map_or(0, |(length, _)| *length).min(tail.mark);
        let entries =
            if from < length { self.entries(&view, log, from, length, usize::MAX, usize::MAX)? } else { Vec::new() };
        let below = stored.as_ref().and_then(|record| record.open_ranges.first()).map_or(0, |(from, _)| *from);
        let below_open = match below.checked_sub(1) {
            Some(last) => self.entries(&view, log, last, below, 1, usize::MAX)?.pop(),
            None => None,
        };
        Ok(LoadedLog {
            placement: record(&view, &self.placements, &key)?,
            record: stored,
            length,
            mark: tail.mark,
            below_open,
            snapshot,
            last: tail.last,
            entries,
            change: tail.change,
        })
    }

    fn entries(
        &self,
        view: &Snapshot,
        log: LogId,
        from: u64,
        to: u64,
        rows: usize,
        bytes: usize,
    ) -> Result<Vec<Arc<SealedEntry>>, ReadError> {
        let mut entries = Vec::new();
        let mut taken = 0;
        for row in view.range(&self.entries, keys::entry(log, from)..keys::entry(log, to)) {
            if entries.len() >= rows || (taken >= bytes && !entries.is_empty()) {
                break;
            }
            let entry = keys::row_entry(&row.value()?)?;
            taken += entry.encoded.len();
            entries.push(entry);
        }
        Ok(entries)
    }

    pub(super) fn read(
        &self,
        log: LogId,
        from: u64,
        to: u64,
        rows: usize,
        bytes: usize,
    ) -> Result<Vec<Arc<SealedEntry>>, ReadError> {
        if from >= to || rows == 0 {
            return Ok(Vec::new());
        }
        self.entries(&self.database.snapshot(), log, from, to, rows, bytes)
    }

    /// A dedup record, by its key.
    pub(super) fn dedup(&self, key: &[u8]) -> Result<Option<DedupRecord>, ReadError> {
        Ok(self.dedup.get(key)?.map(|value| DedupRecord::decode(&value)).transpose()?)
    }

    /// A message by its id, with what was done to it, all as of one moment.
    pub(super) fn target(&self, wanted: &TargetKey) -> Result<TargetFound, ReadError> {
        let view = self.database.snapshot();
        let log = wanted.log;
        let stored: Option<LogRecord> = record(&view, &self.logs, &log.to_bytes())?;
        let length = length_of(self.end(&view, log, false)?.sequence, stored.as_ref());
        let prefix = keys::dedup_of_id(log, wanted.id);
        let mut found = None;
        for row in view.prefix(&self.dedup, prefix) {
            let (key, value) = row.into_inner()?;
            let others = key[prefix.len()..] != *wanted.actor.as_str().as_bytes();
            let place = (others, DedupRecord::decode(&value)?.position.sequence.0);
            found = Some(found.map_or(place, |best: (bool, u64)| best.min(place)));
        }
        let Some((_, number)) = found else { return Ok(TargetFound { length, ..TargetFound::default() }) };
        let entry = self.entries(&view, log, number, number + 1, 1, usize::MAX)?.pop();
        let entry = entry.filter(|entry| entry.entry.fixed.id == wanted.id);
        let changes = if entry.is_some() { self.changes_in(&view, log, number, number + 1)? } else { Vec::new() };
        Ok(TargetFound { length, entry, changes })
    }

    fn changes_in(&self, view: &Snapshot, log: LogId, from: u64, to: u64) -> Result<Vec<ChangeRecord>, ReadError> {
        let rows = view.range(&self.changes, keys::change(log, from, 0)..keys::change(log, to, 0));
        rows.map(|row| Ok(ChangeRecord::decode(&row.value()?)?)).collect()
    }

    /// What was done to messages by entries below `below`.
    pub(super) fn changes(&self, log: LogId, from: u64, to: u64, below: u64) -> Result<Vec<ChangeRecord>, ReadError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let mut changes = self.changes_in(&self.database.snapshot(), log, from, to)?;
        changes.retain(|change| change.position.sequence.0 < below);
        Ok(changes)
    }

    /// Deletes whose message's content was not taken away yet.
    pub(super) fn deletes(&self, after: Option<&[u8]>, limit: usize) -> Result<Deletes, ReadError> {
        let view = self.database.snapshot();
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut deletes, mut last) = (Vec::new(), None);
        for row in view.range::<&[u8], _>(&self.deletes, (lower, Bound::Unbounded)).take(limit) {
            let (key, value) = row.into_inner()?;
            deletes.push((keys::log_of(&key)?, ChangeRecord::decode(&value)?));
            last = Some(Bytes::copy_from_slice(&key));
        }
        let next = last.filter(|_| deletes.len() == limit);
        Ok((deletes, next))
    }

    /// Content whose time was over at `now`, by the time at which it was.
    pub(super) fn expired(&self, now: Timestamp, limit: usize) -> Result<Vec<ExpiredContent>, ReadError> {
        let view = self.database.snapshot();
        let end = now.0.saturating_add(1).to_be_bytes();
        let rows = view.range::<&[u8], _>(&self.expiries, (Bound::Unbounded, Bound::Excluded(&end[..]))).take(limit);
        rows.map(|row| keys::read_expiry(&row.key()?)).collect()
    }

    /// What [`super::committer::SCRUB`] says.
    pub(super) fn to_scrub(&self) -> Result<Option<u64>, ReadError> {
        let value = self.meta.get(SCRUB)?;
        value
            .map(|value| Ok(u64::from_be_bytes(value[..].try_into().map_err(|_| ReadError::Form("meta"))?)))
            .transpose()
    }

    /// The keys of a log's dedup records. `None` when there are more than `limit`.
    pub(super) fn dedup_keys(&self, log: LogId, limit: usize) -> Result<Option<Vec<Box<[u8]>>>, ReadError> {
        let mut keys = Vec::new();
        for row in self.dedup.prefix(keys::spread(log)) {
            if keys.len() == limit {
                return Ok(None);
            }
            keys.push(row.key()?[..].into());
        }
        Ok(Some(keys))
    }

    /// Looks at dedup records behind the key `after`: the keys of those that are older than `before`, and the last key
    /// of a full page.
    pub(super) fn old_dedup(
        &self,
        before: Timestamp,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<OldDedup, ReadError> {
        let view = self.database.snapshot();
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut old, mut last, mut seen) = (Vec::new(), None, 0);
        for row in view.range::<&[u8], _>(&self.dedup, (lower, Bound::Unbounded)).take(limit) {
            let (key, value) = row.into_inner()?;
            let key = Bytes::copy_from_slice(&key);
            if DedupRecord::decode(&value)?.time < before {
                old.push(key.clone());
            }
            (last, seen) = (Some(key), seen + 1);
        }
        Ok((old, last.filter(|_| seen == limit)))
    }

    pub(super) fn logs(&self, kind: LogKind, after: Option<LogId>, limit: usize) -> Result<Vec<LogSummary>, ReadError> {
        let view = self.database.snapshot();
        let mut summaries = Vec::new();
        for row in self.rows_of_kind(&view, kind, after).take(limit) {
            let (key, value) = row.into_inner()?;
            let log = LogId::from_bytes(&key).ok_or(ReadError::Form("logs"))?;
            let tail = self.end(&view, log, true)?;
            let record = LogRecord::decode(&value)?;
            summaries.push(LogSummary {
                log,
                length: length_of(tail.sequence, Some(&record)),
                record,
                mark: tail.mark,
                last: tail.last,
                change: tail.change,
            });
        }
        Ok(summaries)
    }

    /// Rows of the logs of a kind, by id, after `after`.
    fn rows_of_kind(&self, view: &Snapshot, kind: LogKind, after: Option<LogId>) -> fjall::Iter {
        let (first, last) = ([kind as u8; 1], [kind as u8 + 1; 1]);
        let after = after.map(|log| log.to_bytes());
        let lower = match &after {
            Some(after) if after[..] >= last[..] => Bound::Included(&last[..]),
            Some(after) if after[..] > first[..] => Bound::Excluded(&after[..]),
            _ => Bound::Included(&first[..]),
        };
        view.range::<&[u8], _>(&self.logs, (lower, Bound::Excluded(&last[..])))
    }

    /// Ids of the logs of a kind, from their keys alone.
    pub(super) fn log_ids(&self, kind: LogKind, after: Option<LogId>, limit: usize) -> Result<Vec<LogId>, ReadError> {
        let view = self.database.snapshot();
        let rows = self.rows_of_kind(&view, kind, after).take(limit);
        rows.map(|row| LogId::from_bytes(&row.key()?).ok_or(ReadError::Form("logs"))).collect()
    }

    /// What is known of a log without reading an entry.
    pub(super) fn look(&self, log: LogId) -> Result<Option<LogLook>, ReadError> {
        let view = self.database.snapshot();
        let Some(record) = record::<LogRecord>(&view, &self.logs, &log.to_bytes())? else { return Ok(None) };
        let tail = self.end(&view, log, false)?;
        Ok(Some(LogLook { length: length_of(tail.sequence, Some(&record)), record, mark: tail.mark }))
    }

    /// Logs with a tail: each is found by one seek.
    pub(super) fn tails(&self, after: Option<LogId>, limit: usize) -> Result<Vec<LogId>, ReadError> {
        let view = self.database.snapshot();
        let mut logs: Vec<LogId> = Vec::new();
        let mut after = after;
        while logs.len() < limit {
            let lower = after.map(|log| keys::tail(log, LAST_POSITION));
            let lower = lower.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(&key[..]));
            let Some(row) = view.range::<&[u8], _>(&self.tails, (lower, Bound::Unbounded)).next() else { break };
            let key = row.key()?;
            let log = key.get(..LogId::LENGTH).and_then(LogId::from_bytes).ok_or(ReadError::Form("tails"))?;
            logs.push(log);
            after = Some(log);
        }
        Ok(logs)
    }

    pub(super) fn read_tail(
        &self,
        log: LogId,
        after: Option<Position>,
        rows: usize,
    ) -> Result<Vec<Arc<SealedEntry>>, ReadError> {
        let view = self.database.snapshot();
        let first = keys::tail(log, after.unwrap_or_default());
        let lower = if after.is_some() { Bound::Excluded(&first[..]) } else { Bound::Included(&first[..]) };
        let last = keys::tail(log, LAST_POSITION);
        let rows = view.range::<&[u8], _>(&self.tails, (lower, Bound::Included(&last[..]))).take(rows);
        rows.map(|row| keys::row_entry(&row.value()?)).collect()
    }

    pub(super) fn placement(&self, log: LogId) -> Result<Option<Placement>, ReadError> {
        record(&self.database.snapshot(), &self.placements, &log.to_bytes())
    }

    pub(super) fn outbox(&self, after: Option<&OutboxRecord>, limit: usize) -> Result<Vec<OutboxRecord>, ReadError> {
        self.page(&self.outbox, after.map(keys::outbox), limit)
    }

    pub(super) fn parked(&self, after: Option<u64>, limit: usize) -> Result<Vec<ParkedSend>, ReadError> {
        self.page(&self.parked, after.map(|number| number.to_be_bytes().to_vec()), limit)
    }

    /// Cursors of a log's members, each with the number of the change that put it.
    pub(super) fn cursors(
        &self,
        log: LogId,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<(CursorRecord, u64)>, ReadError> {
        let view = self.database.snapshot();
        let first = log.to_bytes();
        let after = after.map(|user| keys::cursor(log, user));
        let lower = after.as_ref().map_or(Bound::Included(&first[..]), |key| Bound::Excluded(&key[..]));
        let mut rows = Vec::new();
        for row in view.range::<&[u8], _>(&self.cursors, (lower, Bound::Unbounded)).take(limit) {
            let (key, value) = row.into_inner()?;
            if !key.starts_with(&first) {
                break;
            }
            rows.push(keys::read_cursor(&value)?);
        }
        Ok(rows)
    }

    /// Of each log the number of its last change, or of a user's cursors in it when that is later.
    pub(super) fn last_changes(&self, user: &UserId, logs: &[LogId]) -> Result<Vec<Option<u64>>, ReadError> {
        let view = self.database.snapshot();
        let last_change = |log: &LogId| {
            let end = self.end(&view, *log, false)?;
            if end.sequence.is_none() && view.get(&self.logs, log.to_bytes())?.is_none() {
                return Ok(None);
            }
            let cursors = match view.get(&self.cursors, keys::cursor(*log, user))? {
                Some(value) => keys::read_cursor(&value)?.1,
                None => 0,
            };
            Ok(Some(end.change.max(cursors)))
        };
        logs.iter().map(last_change).collect()
    }

    pub(super) fn map_value(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        Ok(self.database.snapshot().get(&self.map, key)?.map(|value| Bytes::copy_from_slice(&value)))
    }

    pub(super) fn map_rows(&self, from: &[u8], to: &[u8], rows: usize) -> Result<Vec<(Bytes, Bytes)>, ReadError> {
        if from >= to {
            return Ok(Vec::new());
        }
        self.database.snapshot().range::<&[u8], _>(&self.map, from..to).take(rows).map(map_row).collect()
    }

    pub(super) fn last_map_row(&self, from: &[u8], to: &[u8]) -> Result<Option<(Bytes, Bytes)>, ReadError> {
        if from >= to {
            return Ok(None);
        }
        self.database.snapshot().range::<&[u8], _>(&self.map, from..to).next_back().map(map_row).transpose()
    }

    fn page<R: Record>(&self, keyspace: &Keyspace, after: Option<Vec<u8>>, limit: usize) -> Result<Vec<R>, ReadError> {
        let view = self.database.snapshot();
        let lower = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = view.range(keyspace, (lower, Bound::Unbounded)).take(limit);
        rows.map(|row| Ok(R::decode(&row.value()?)?)).collect()
    }
}
