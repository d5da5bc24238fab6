//! The ports over the committer and the tables.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use hearth_protocol::record::{ChangeRecord, CursorRecord, DedupRecord, OutboxRecord, ParkedSend};
use hearth_protocol::{LogId, LogKind, Placement, Position, SealedEntry, Timestamp, UserId};
use region_model::ports::{
    AppendOutcome, Cursors, DedupKey, Deletes, ExpiredContent, Inspect, LastChanges, LoadedLog, LogAppend, LogLook,
    LogSummary, MapChange, MapStore, MapSync, MessageLog, NotRead, OutboxLog, ParkingLot, Placements, StoreError,
    TakenContent, TargetFound, TargetKey,
};

use super::Shared;
use super::committer::{Job, Write};

#[async_trait]
impl MessageLog for Shared {
    async fn append(&self, appends: Vec<LogAppend>) -> Result<Vec<AppendOutcome>, StoreError> {
        Self::append(self, appends).await
    }

    async fn load(&self, log: LogId) -> Result<LoadedLog, StoreError> {
        self.read(|tables| tables.load(log)).await
    }

    async fn read(
        &self,
        log: LogId,
        from: u64,
        to: u64,
        rows: usize,
        bytes: usize,
    ) -> Result<Vec<Arc<SealedEntry>>, StoreError> {
        self.read(|tables| tables.read(log, from, to, rows, bytes)).await
    }

    async fn dedup(&self, keys: Vec<DedupKey>) -> Result<Vec<Option<DedupRecord>>, StoreError> {
        self.check()?;
        self.dedup.find(&keys).await
    }

    async fn target(&self, key: TargetKey) -> Result<TargetFound, StoreError> {
        self.read(|tables| tables.target(&key)).await
    }

    async fn changes(&self, log: LogId, from: u64, to: u64, below: u64) -> Result<Vec<ChangeRecord>, StoreError> {
        self.read(|tables| tables.changes(log, from, to, below)).await
    }

    async fn deletes(&self, after: Option<Bytes>, rows: usize) -> Result<Deletes, StoreError> {
        self.read(|tables| tables.deletes(after.as_deref(), rows)).await
    }

    async fn take_content(&self, taken: TakenContent) -> Result<(), StoreError> {
        self.write(Write::TakeContent(Box::new(taken))).await
    }

    async fn expired(&self, now: Timestamp, rows: usize) -> Result<Vec<ExpiredContent>, StoreError> {
        self.read(|tables| tables.expired(now, rows)).await
    }

    async fn take_expired(&self, taken: Vec<ExpiredContent>) -> Result<(), StoreError> {
        self.write(Write::TakeExpired(taken)).await
    }

    async fn scrub(&self) -> Result<bool, StoreError> {
        Self::scrub(self).await
    }

    async fn expire_dedup(
        &self,
        before: Timestamp,
        after: Option<Bytes>,
        rows: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        let (old, next) = self.read(|tables| tables.old_dedup(before, after.as_deref(), rows)).await?;
        if !old.is_empty() {
            self.write(Write::ForgetDedup(old)).await?;
        }
        Ok(next)
    }

    async fn logs(&self, kind: LogKind, after: Option<LogId>, limit: usize) -> Result<Vec<LogSummary>, StoreError> {
        self.read(|tables| tables.logs(kind, after, limit)).await
    }

    async fn put_marks(&self, marks: Vec<(LogId, u64)>) -> Result<(), StoreError> {
        self.write(Write::Marks(marks)).await
    }

    async fn tails(&self, after: Option<LogId>, limit: usize) -> Result<Vec<LogId>, StoreError> {
        self.read(|tables| tables.tails(after, limit)).await
    }

    async fn read_tail(
        &self,
        log: LogId,
        after: Option<Position>,
        rows: usize,
    ) -> Result<Vec<Arc<SealedEntry>>, StoreError> {
        self.read(|tables| tables.read_tail(log, after, rows)).await
    }

    async fn remove(&self, log: LogId) -> Result<(), StoreError> {
        self.write(Write::Remove(log)).await
    }
}

#[async_trait]
impl Inspect for Shared {
    async fn log_ids(&self, kind: LogKind, after: Option<LogId>, limit: usize) -> Result<Vec<LogId>, NotRead> {
        self.look_at(|tables| tables.log_ids(kind, after, limit)).await
    }

    async fn look(&self, log: LogId) -> Result<Option<LogLook>, NotRead> {
        self.look_at(|tables| tables.look(log)).await
    }

    async fn entry(&self, log: LogId, sequence: u64) -> Result<Option<Arc<SealedEntry>>, NotRead> {
        let entries = self.look_at(|tables| tables.read(log, sequence, sequence + 1, 1, usize::MAX)).await?;
        Ok(entries.into_iter().next())
    }
}

#[async_trait]
impl Placements for Shared {
    async fn placement(&self, log: LogId) -> Result<Option<Placement>, StoreError> {
        self.read(|tables| tables.placement(log)).await
    }

    async fn put_placements(&self, placements: Vec<Placement>) -> Result<(), StoreError> {
        self.write(Write::Placements(placements)).await
    }
}

#[async_trait]
impl OutboxLog for Shared {
    async fn outbox(&self, after: Option<OutboxRecord>, limit: usize) -> Result<Vec<OutboxRecord>, StoreError> {
        self.read(|tables| tables.outbox(after.as_ref(), limit)).await
    }

    async fn outbox_done(&self, items: Vec<OutboxRecord>) -> Result<(), StoreError> {
        self.write(Write::OutboxDone(items)).await
    }
}

#[async_trait]
impl ParkingLot for Shared {
    async fn park(&self, sends: Vec<ParkedSend>) -> Result<(), StoreError> {
        self.write(Write::Park(sends)).await
    }

    async fn parked(&self, after: Option<u64>, limit: usize) -> Result<Vec<ParkedSend>, StoreError> {
        self.read(|tables| tables.parked(after, limit)).await
    }

    async fn unpark(&self, numbers: Vec<u64>) -> Result<(), StoreError> {
        self.write(Write::Unpark(numbers)).await
    }
}

#[async_trait]
impl Cursors for Shared {
    async fn put_cursors(&self, records: Vec<CursorRecord>) -> Result<u64, StoreError> {
        self.ask(|answer| Job::Cursors(records, answer)).await
    }

    async fn cursors(
        &self,
        log: LogId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<Vec<(CursorRecord, u64)>, StoreError> {
        self.read(|tables| tables.cursors(log, after.as_ref(), limit)).await
    }
}

#[async_trait]
impl LastChanges for Shared {
    async fn last_changes(&self, user: &UserId, logs: Vec<LogId>) -> Result<Vec<Option<u64>>, StoreError> {
        self.read(|tables| tables.last_changes(user, &logs)).await
    }
}

#[async_trait]
impl MapStore for Shared {
    async fn get(&self, key: Bytes) -> Result<Option<Bytes>, StoreError> {
        self.read(|tables| tables.map_value(&key)).await
    }

    async fn range(&self, from: Bytes, to: Bytes, rows: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.read(|tables| tables.map_rows(&from, &to, rows)).await
    }

    async fn last(&self, from: Bytes, to: Bytes) -> Result<Option<(Bytes, Bytes)>, StoreError> {
        self.read(|tables| tables.last_map_row(&from, &to)).await
    }

    async fn write(&self, changes: Vec<MapChange>, sync: MapSync) -> Result<(), StoreError> {
        Self::write(self, Write::Map(changes, sync)).await
    }
}
