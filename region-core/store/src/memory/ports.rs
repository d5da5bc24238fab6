//! The ports over the tables.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use async_trait::async_trait;
use bytes::Bytes;
use hearth_protocol::record::{ChangeRecord, CursorRecord, DedupRecord, OutboxRecord, ParkedSend};
use hearth_protocol::{LogId, LogKind, Placement, Position, SealedEntry, Timestamp, UserId};
use region_model::ports::{
    AppendOutcome, Cursors, DedupKey, Deletes, ExpiredContent, Inspect, LastChanges, LoadedLog, LogAppend, LogLook,
    LogSummary, MapChange, MapStore, MapSync, MessageLog, NotRead, OutboxLog, ParkingLot, Placements, StoreError,
    TakenContent, TargetFound, TargetKey,
};

use super::{Call, Handle, Tables};

#[async_trait]
impl MessageLog for Handle {
    async fn append(&self, appends: Vec<LogAppend>) -> Result<Vec<AppendOutcome>, StoreError> {
        let sizes: Vec<u64> = appends.iter().map(|append| append.entries.len() as u64).collect();
        let outcomes = self.call(Call::Append, move |tables| tables.append(appends)).await?;
        for (outcome, entries) in outcomes.iter().zip(sizes) {
            if matches!(outcome, AppendOutcome::Applied { .. }) {
                self.shared.counters.appends.fetch_add(1, Relaxed);
                self.shared.counters.entries.fetch_add(entries, Relaxed);
            }
        }
        Ok(outcomes)
    }

    async fn load(&self, log: LogId) -> Result<LoadedLog, StoreError> {
        self.call(Call::Load, move |tables| tables.load(log)).await
    }

    async fn read(
        &self,
        log: LogId,
        from: u64,
        to: u64,
        rows: usize,
        bytes: usize,
    ) -> Result<Vec<Arc<SealedEntry>>, StoreError> {
        self.call(Call::Read, move |tables| tables.read(log, from, to, rows, bytes)).await
    }

    async fn dedup(&self, keys: Vec<DedupKey>) -> Result<Vec<Option<DedupRecord>>, StoreError> {
        self.call(Call::Dedup, move |tables| tables.dedup(keys)).await
    }

    async fn target(&self, key: TargetKey) -> Result<TargetFound, StoreError> {
        self.call(Call::Target, move |tables| tables.target(&key)).await
    }

    async fn changes(&self, log: LogId, from: u64, to: u64, below: u64) -> Result<Vec<ChangeRecord>, StoreError> {
        self.call(Call::Changes, move |tables| tables.changes(log, from, to, below)).await
    }

    async fn deletes(&self, after: Option<Bytes>, rows: usize) -> Result<Deletes, StoreError> {
        self.call(Call::Deletes, move |tables| tables.deletes(after.as_deref(), rows)).await
    }

    async fn take_content(&self, taken: TakenContent) -> Result<(), StoreError> {
        self.call(Call::TakeContent, move |tables| tables.take_content(&taken)).await
    }

    async fn expired(&self, now: Timestamp, rows: usize) -> Result<Vec<ExpiredContent>, StoreError> {
        self.call(Call::Expired, move |tables| tables.expired(now, rows)).await
    }

    async fn take_expired(&self, taken: Vec<ExpiredContent>) -> Result<(), StoreError> {
        self.call(Call::TakeExpired, move |tables| tables.take_expired(&taken)).await
    }

    async fn scrub(&self) -> Result<bool, StoreError> {
        self.call(Call::Scrub, Tables::scrub).await
    }

    async fn expire_dedup(
        &self,
        before: Timestamp,
        after: Option<Bytes>,
        rows: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        self.call(Call::ExpireDedup, move |tables| tables.expire_dedup(before, after.as_deref(), rows)).await
    }

    async fn logs(&self, kind: LogKind, after: Option<LogId>, limit: usize) -> Result<Vec<LogSummary>, StoreError> {
        self.call(Call::Logs, move |tables| tables.logs(kind, after, limit)).await
    }

    async fn put_marks(&self, marks: Vec<(LogId, u64)>) -> Result<(), StoreError> {
        self.call(Call::PutMarks, move |tables| tables.put_marks(marks)).await
    }

    async fn tails(&self, after: Option<LogId>, limit: usize) -> Result<Vec<LogId>, StoreError> {
        self.call(Call::Tails, move |tables| tables.tails(after, limit)).await
    }

    async fn read_tail(
        &self,
        log: LogId,
        after: Option<Position>,
        rows: usize,
    ) -> Result<Vec<Arc<SealedEntry>>, StoreError> {
        self.call(Call::Tails, move |tables| tables.read_tail(log, after, rows)).await
    }

    async fn remove(&self, log: LogId) -> Result<(), StoreError> {
        self.call(Call::Remove, move |tables| tables.remove(log)).await
    }
}

#[async_trait]
impl Inspect for Handle {
    async fn log_ids(&self, kind: LogKind, after: Option<LogId>, limit: usize) -> Result<Vec<LogId>, NotRead> {
        let logs = self.call(Call::Inspect, move |tables| tables.logs(kind, after, limit)).await?;
        Ok(logs.into_iter().map(|summary| summary.log).collect())
    }

    async fn look(&self, log: LogId) -> Result<Option<LogLook>, NotRead> {
        let loaded = self.call(Call::Inspect, move |tables| tables.load(log)).await?;
        Ok(loaded.record.map(|record| LogLook { record, length: loaded.length, mark: loaded.mark }))
    }

    async fn entry(&self, log: LogId, sequence: u64) -> Result<Option<Arc<SealedEntry>>, NotRead> {
        let read = move |tables: &mut Tables| tables.read(log, sequence, sequence + 1, 1, usize::MAX);
        Ok(self.call(Call::Inspect, read).await?.pop())
    }
}

#[async_trait]
impl Placements for Handle {
    async fn placement(&self, log: LogId) -> Result<Option<Placement>, StoreError> {
        self.call(Call::Placement, move |tables| tables.placement(log)).await
    }

    async fn put_placements(&self, placements: Vec<Placement>) -> Result<(), StoreError> {
        self.call(Call::PutPlacements, move |tables| tables.put_placements(placements)).await
    }
}

#[async_trait]
impl OutboxLog for Handle {
    async fn outbox(&self, after: Option<OutboxRecord>, limit: usize) -> Result<Vec<OutboxRecord>, StoreError> {
        self.call(Call::Outbox, move |tables| tables.outbox(after, limit)).await
    }

    async fn outbox_done(&self, items: Vec<OutboxRecord>) -> Result<(), StoreError> {
        self.call(Call::OutboxDone, move |tables| tables.outbox_done(items)).await
    }
}

#[async_trait]
impl ParkingLot for Handle {
    async fn park(&self, sends: Vec<ParkedSend>) -> Result<(), StoreError> {
        self.call(Call::Park, move |tables| tables.park(sends)).await
    }

    async fn parked(&self, after: Option<u64>, limit: usize) -> Result<Vec<ParkedSend>, StoreError> {
        self.call(Call::Parked, move |tables| tables.parked(after, limit)).await
    }

    async fn unpark(&self, numbers: Vec<u64>) -> Result<(), StoreError> {
        self.call(Call::Unpark, move |tables| tables.unpark(numbers)).await
    }
}

#[async_trait]
impl Cursors for Handle {
    async fn put_cursors(&self, records: Vec<CursorRecord>) -> Result<u64, StoreError> {
        self.call(Call::PutCursors, move |tables| tables.put_cursors(records)).await
    }

    async fn cursors(
        &self,
        log: LogId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<(CursorRecord, u64)>, StoreError> {
        self.call(Call::Cursors, move |tables| tables.cursors(log, after, limit)).await
    }
}

#[async_trait]
impl LastChanges for Handle {
    async fn last_changes(&self, user: &UserId, logs: Vec<LogId>) -> Result<Vec<Option<u64>>, StoreError> {
        let user = user.clone();
        self.call(Call::LastChanges, move |tables| tables.last_changes(&user, &logs)).await
    }
}

#[async_trait]
impl MapStore for Handle {
    async fn get(&self, key: Bytes) -> Result<Option<Bytes>, StoreError> {
        self.call(Call::MapGet, move |tables| tables.map_value(&key)).await
    }

    async fn range(&self, from: Bytes, to: Bytes, rows: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.call(Call::MapRange, move |tables| tables.map_rows(from, to, rows)).await
    }

    async fn last(&self, from: Bytes, to: Bytes) -> Result<Option<(Bytes, Bytes)>, StoreError> {
        self.call(Call::MapLast, move |tables| tables.last_map_row(from, to)).await
    }

    async fn write(&self, changes: Vec<MapChange>, sync: MapSync) -> Result<(), StoreError> {
        self.call(Call::MapWrite, move |tables| tables.write_map(changes, sync)).await
    }
}
