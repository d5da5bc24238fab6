//! The ports over the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use hearth_protocol::record::{ChangeRecord, CursorRecord, DedupRecord, OutboxRecord, ParkedSend, Record};
use hearth_protocol::{LogId, LogKind, Placement, Position, SealedEntry, Timestamp, UserId};
use region_model::ports::{
    AppendOutcome, Cursors, DedupKey, Deletes, ExpiredContent, Inspect, LastChanges, LoadedLog, LogAppend, LogLook,
    LogSummary, MapChange, MapStore, MapSync, MessageLog, NotRead, OutboxLog, ParkingLot, Placements, StoreError,
    TakenContent, TargetFound, TargetKey,
};
use scylla::value::CqlValue;
use tokio::sync::oneshot;

use crate::Store;
use crate::database::{Write, all, unreadable};
use crate::queue::{Asked, Step};
use crate::reads::{entry_of, limit};
use crate::stamps::{away, put};
use crate::values::{ONE_PART, big, blob, int, of_log, shard, text, unsigned};

#[derive(Debug)]
pub(crate) struct Ports(pub(crate) Arc<Store>);

fn at(timestamp: i64) -> Option<CqlValue> {
    Some(CqlValue::BigInt(timestamp))
}

/// What is not read is said of the row; the store answers otherwise.
fn not_read(error: StoreError) -> NotRead {
    match error {
        StoreError::Unavailable(reason) => NotRead::Row(reason.to_string()),
        StoreError::Unknown => NotRead::Store(StoreError::Unknown),
    }
}

#[async_trait]
impl MessageLog for Ports {
    async fn append(&self, appends: Vec<LogAppend>) -> Result<Vec<AppendOutcome>, StoreError> {
        let store = &self.0;
        let mut answers = Vec::with_capacity(appends.len());
        let steps = || {
            let mut steps = Vec::with_capacity(appends.len());
            for append in appends {
                let (reply, answered) = oneshot::channel();
                let stamp = store.stamps.draw(2)?;
                answers.push(answered);
                steps.push((append.log, Step::Append(Box::new(Asked { append, stamp, reply }))));
            }
            Ok(steps)
        };
        store.enqueue(steps).await?;
        let mut outcomes = Vec::with_capacity(answers.len());
        let mut failed = None;
        for answered in answers {
            match answered.await.unwrap_or(Err(StoreError::Unknown)) {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(outcomes), Err)
    }

    async fn load(&self, log: LogId) -> Result<LoadedLog, StoreError> {
        let loaded = self.0.ask(log, Step::Load).await?;
        Ok(LoadedLog { placement: self.0.placement_of(log).await?, ..loaded })
    }

    async fn read(
        &self,
        log: LogId,
        from: u64,
        to: u64,
        rows: usize,
        bytes: usize,
    ) -> Result<Vec<Arc<SealedEntry>>, StoreError> {
        if from >= to || rows == 0 {
            return Ok(Vec::new());
        }
        let state = self.0.known(log).await?;
        self.0.read_range(log, &state, (from, to), rows, bytes).await
    }

    async fn dedup(&self, keys: Vec<DedupKey>) -> Result<Vec<Option<DedupRecord>>, StoreError> {
        let looks = keys.into_iter().map(|key| async move {
            // What a process that ended left undone is done first.
            self.0.known(key.log).await?;
            self.0.dedup_of(&key).await
        });
        all(looks).await
    }

    async fn target(&self, key: TargetKey) -> Result<TargetFound, StoreError> {
        self.0.target_of(&key).await
    }

    async fn changes(&self, log: LogId, from: u64, to: u64, below: u64) -> Result<Vec<ChangeRecord>, StoreError> {
        let state = self.0.known(log).await?;
        let mut changes = self.0.changes_of(log, &state, from, to).await?;
        changes.retain(|change| change.position.sequence.0 < below);
        Ok(changes)
    }

    async fn deletes(&self, after: Option<Bytes>, rows: usize) -> Result<Deletes, StoreError> {
        self.0.open_deletes(after, rows).await
    }

    async fn take_content(&self, taken: TakenContent) -> Result<(), StoreError> {
        let TakenContent { log, entries, tail, done } = taken;
        self.0.note_scrub().await?;
        self.0.ask(log, |reply| Step::Take(entries, tail, reply)).await?;
        match done {
            Some(done) => self.0.delete_done(log, &done).await,
            None => Ok(()),
        }
    }

    async fn expired(&self, now: Timestamp, rows: usize) -> Result<Vec<ExpiredContent>, StoreError> {
        self.0.over(now, rows).await
    }

    async fn take_expired(&self, taken: Vec<ExpiredContent>) -> Result<(), StoreError> {
        self.0.note_scrub().await?;
        let mut by_log: BTreeMap<LogId, Vec<Position>> = BTreeMap::new();
        for one in &taken {
            by_log.entry(one.log).or_default().push(one.position);
        }
        let takes = by_log
            .into_iter()
            .map(|(log, positions)| self.0.ask(log, move |reply| Step::Take(positions.clone(), positions, reply)));
        all(takes).await?;
        self.0.expiries_done(&taken).await
    }

    async fn scrub(&self) -> Result<bool, StoreError> {
        self.0.scrubbed().await
    }

    async fn expire_dedup(
        &self,
        before: Timestamp,
        after: Option<Bytes>,
        rows: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        self.0.old_dedup(before, after, rows).await
    }

    async fn logs(&self, kind: LogKind, after: Option<LogId>, wanted: usize) -> Result<Vec<LogSummary>, StoreError> {
        let held = self.0.held_logs(kind, after, wanted).await?;
        let looks = held.into_iter().map(|(log, state)| self.0.summary(log, state));
        let rows: Vec<Option<LogSummary>> = all(looks).await?;
        Ok(rows.into_iter().flatten().collect())
    }

    async fn put_marks(&self, marks: Vec<(LogId, u64)>) -> Result<(), StoreError> {
        let mut answers = Vec::with_capacity(marks.len());
        let steps = || {
            let steps = marks.into_iter().map(|(log, mark)| {
                let (reply, answered) = oneshot::channel();
                answers.push(answered);
                (log, Step::Mark(mark, reply))
            });
            Ok(steps.collect())
        };
        self.0.enqueue(steps).await?;
        for answered in answers {
            answered.await.unwrap_or(Err(StoreError::Unknown))?;
        }
        Ok(())
    }

    async fn tails(&self, after: Option<LogId>, wanted: usize) -> Result<Vec<LogId>, StoreError> {
        self.0.tail_logs(after, wanted).await
    }

    async fn read_tail(
        &self,
        log: LogId,
        after: Option<Position>,
        rows: usize,
    ) -> Result<Vec<Arc<SealedEntry>>, StoreError> {
        let (epoch, sequence) = match after {
            Some(after) => (big(after.epoch.0), big(after.sequence.0)),
            None => (at(-1), at(-1)),
        };
        let database = &self.0.database;
        let asked = vec![of_log(log), epoch, sequence, int(limit(rows))];
        let found: Vec<(Vec<u8>,)> = database.rows(&database.statements.tail, asked).await?;
        found.into_iter().map(|(entry,)| entry_of(entry)).collect()
    }

    async fn remove(&self, log: LogId) -> Result<(), StoreError> {
        self.0.ask(log, Step::Remove).await
    }
}

#[async_trait]
impl Inspect for Ports {
    async fn log_ids(&self, kind: LogKind, after: Option<LogId>, wanted: usize) -> Result<Vec<LogId>, NotRead> {
        let held = self.0.held_logs(kind, after, wanted).await.map_err(not_read)?;
        Ok(held.into_iter().map(|(log, _)| log).collect())
    }

    async fn look(&self, log: LogId) -> Result<Option<LogLook>, NotRead> {
        let state = self.0.known(log).await.map_err(not_read)?;
        let (length, mark) = (state.length(), state.mark);
        Ok(state.record.map(|record| LogLook { record, length, mark }))
    }

    async fn entry(&self, log: LogId, sequence: u64) -> Result<Option<Arc<SealedEntry>>, NotRead> {
        self.0.read_one(log, sequence).await.map_err(not_read)
    }
}

#[async_trait]
impl Placements for Ports {
    async fn placement(&self, log: LogId) -> Result<Option<Placement>, StoreError> {
        self.0.placement_of(log).await
    }

    async fn put_placements(&self, placements: Vec<Placement>) -> Result<(), StoreError> {
        // The last of the newest of each log: the others would be ignored.
        let mut newest: BTreeMap<LogId, Placement> = BTreeMap::new();
        for placement in placements {
            let known = newest.get(&placement.log);
            if known.is_none_or(|known| placement.epoch >= known.epoch) {
                newest.insert(placement.log, placement);
            }
        }
        let puts = newest.values().map(|placement| self.0.place(placement));
        all(puts).await.map(drop)
    }
}

#[async_trait]
impl OutboxLog for Ports {
    async fn outbox(&self, after: Option<OutboxRecord>, wanted: usize) -> Result<Vec<OutboxRecord>, StoreError> {
        self.0.outbox_after(after.as_ref(), wanted).await
    }

    async fn outbox_done(&self, items: Vec<OutboxRecord>) -> Result<(), StoreError> {
        let statement = &self.0.database.statements.remove_outbox;
        let stamp = at(away(self.0.stamps.draw(1)?));
        let writes = items.iter().map(|item| {
            let (sequence, user) = (big(item.position.sequence.0), text(item.user.as_str()));
            (statement, vec![stamp.clone(), int(shard(item.log)), of_log(item.log), sequence, user])
        });
        self.0.database.run_all(writes.collect()).await
    }
}

/// The order of calls is that of the numbers that they draw at their first poll.
#[async_trait]
impl ParkingLot for Ports {
    async fn park(&self, sends: Vec<ParkedSend>) -> Result<(), StoreError> {
        let statement = &self.0.database.statements.put_parked;
        let stamp = at(put(self.0.stamps.draw(1)?));
        if sends.iter().any(|send| send.content.is_empty()) {
            // What it said is in the files.
            self.0.note_scrub().await?;
        }
        let writes = sends.iter().map(|send| {
            let values = vec![int(ONE_PART), big(send.number), blob(&send.encode()), stamp.clone()];
            (statement, values)
        });
        self.0.database.run_all(writes.collect()).await
    }

    async fn parked(&self, after: Option<u64>, wanted: usize) -> Result<Vec<ParkedSend>, StoreError> {
        let database = &self.0.database;
        let after = after.map_or_else(|| at(-1), big);
        let asked = vec![int(ONE_PART), after, int(limit(wanted))];
        let rows: Vec<(Vec<u8>,)> = database.rows(&database.statements.parked, asked).await?;
        rows.into_iter().map(|(send,)| ParkedSend::decode(&send).map_err(unreadable)).collect()
    }

    async fn unpark(&self, numbers: Vec<u64>) -> Result<(), StoreError> {
        let statement = &self.0.database.statements.remove_parked;
        let stamp = at(away(self.0.stamps.draw(1)?));
        let writes = numbers.into_iter().map(|number| (statement, vec![stamp.clone(), int(ONE_PART), big(number)]));
        self.0.database.run_all(writes.collect()).await
    }
}

#[async_trait]
impl Cursors for Ports {
    async fn put_cursors(&self, records: Vec<CursorRecord>) -> Result<u64, StoreError> {
        let store = &self.0;
        let change = store.stamps.draw(1)?;
        let looks = records.into_iter().map(|record| async move {
            let held = store.known(record.log).await?.record.is_some();
            Ok::<_, StoreError>(held.then_some(record))
        });
        let held: Vec<Option<CursorRecord>> = all(looks).await?;
        let writes = held.into_iter().flatten().map(|record| {
            let (user, bytes) = (text(record.user.as_str()), blob(&record.encode()));
            let values = vec![of_log(record.log), user, big(change), bytes, at(put(change))];
            (&store.database.statements.put_cursor, values)
        });
        store.database.run_all(writes.collect()).await?;
        Ok(change)
    }

    async fn cursors(
        &self,
        log: LogId,
        after: Option<UserId>,
        wanted: usize,
    ) -> Result<Vec<(CursorRecord, u64)>, StoreError> {
        let database = &self.0.database;
        let after = text(after.as_ref().map_or("", UserId::as_str));
        let asked = vec![of_log(log), after, int(limit(wanted))];
        let rows: Vec<(String, i64, Vec<u8>)> = database.rows(&database.statements.cursors, asked).await?;
        let read = |bytes: Vec<u8>, change| Ok((CursorRecord::decode(&bytes).map_err(unreadable)?, unsigned(change)));
        rows.into_iter().map(|(_, change, bytes)| read(bytes, change)).collect()
    }
}

#[async_trait]
impl LastChanges for Ports {
    async fn last_changes(&self, user: &UserId, logs: Vec<LogId>) -> Result<Vec<Option<u64>>, StoreError> {
        let looks = logs.into_iter().map(|log| async move {
            let state = self.0.known(log).await?;
            if !state.held() {
                return Ok::<_, StoreError>(None);
            }
            let database = &self.0.database;
            let asked = vec![of_log(log), text(user.as_str())];
            let own: Option<(i64,)> = database.row(&database.statements.cursor_change, asked).await?;
            let own = own.map_or(0, |(change,)| unsigned(change));
            Ok(Some(state.change.unwrap_or(0).max(own)))
        });
        all(looks).await
    }
}

#[async_trait]
impl MapStore for Ports {
    async fn get(&self, key: Bytes) -> Result<Option<Bytes>, StoreError> {
        let database = &self.0.database;
        let asked = vec![int(ONE_PART), blob(&key)];
        let row: Option<(Vec<u8>,)> = database.row(&database.statements.map_value, asked).await?;
        Ok(row.map(|(value,)| Bytes::from(value)))
    }

    async fn range(&self, from: Bytes, to: Bytes, rows: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if from >= to || rows == 0 {
            return Ok(Vec::new());
        }
        let database = &self.0.database;
        let asked = vec![int(ONE_PART), blob(&from), blob(&to), int(limit(rows))];
        let found: Vec<(Vec<u8>, Vec<u8>)> = database.rows(&database.statements.map_range, asked).await?;
        Ok(found.into_iter().map(|(key, value)| (Bytes::from(key), Bytes::from(value))).collect())
    }

    async fn last(&self, from: Bytes, to: Bytes) -> Result<Option<(Bytes, Bytes)>, StoreError> {
        if from >= to {
            return Ok(None);
        }
        let database = &self.0.database;
        let asked = vec![int(ONE_PART), blob(&from), blob(&to)];
        let found: Option<(Vec<u8>, Vec<u8>)> = database.row(&database.statements.map_last, asked).await?;
        Ok(found.map(|(key, value)| (Bytes::from(key), Bytes::from(value))))
    }

    /// Every write is on disk when it is answered. The newest change of a key hides those before it in the call.
    async fn write(&self, changes: Vec<MapChange>, _sync: MapSync) -> Result<(), StoreError> {
        let database = &self.0.database;
        let _turn = self.0.map_turn.lock().await;
        let stamp = self.0.stamps.draw(1)?;
        let mut newest: BTreeMap<Bytes, Option<Bytes>> = BTreeMap::new();
        for change in changes {
            match change {
                MapChange::Put(key, value) => newest.insert(key, Some(value)),
                MapChange::Remove(key) => newest.insert(key, None),
            };
        }
        if newest.is_empty() {
            return Ok(());
        }
        let writes = newest.iter().map(|(key, value)| -> Write<'_> {
            match value {
                Some(value) => {
                    let values = vec![int(ONE_PART), blob(key), blob(value), at(put(stamp))];
                    (&database.statements.put_map, values)
                }
                None => (&database.statements.remove_map, vec![at(away(stamp)), int(ONE_PART), blob(key)]),
            }
        });
        database.together(writes.collect()).await
    }
}
