//! What is asked of the whole region: lists that are ordered over 16 shards, and queues.

use std::num::NonZeroI32;
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::record::{ChangeRecord, DedupRecord, OutboxRecord, Record};
use hearth_protocol::{Epoch, LogId, LogKind, Placement, Position, Sequence, Timestamp, UserId};
use region_model::ports::{Deletes, ExpiredContent, LogSummary, StoreError};
use scylla::response::PagingState;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlValue;
use uuid::Uuid;

use crate::Store;
use crate::database::{Cas, Seen, Write, all, unreadable};
use crate::reads::limit;
use crate::stamps::away;
use crate::state::State;
use crate::values::{DAY, ONE_PART, SHARDS, Values, big, blob, int, of_log, shard, text, unsigned, uuid};

/// A row of the scan over dedup records.
type DedupRow = (Vec<u8>, i32, Uuid, String, Option<Vec<u8>>);

fn log_of(bytes: &[u8]) -> Result<LogId, StoreError> {
    LogId::from_bytes(bytes).ok_or_else(|| unreadable("a log's id"))
}

impl Store {
    /// Logs by id from every shard, after `after`. Each shard gives as many as are wanted: the order is over all.
    async fn over_shards(
        &self,
        statement: &PreparedStatement,
        of: &Values,
        after: Option<LogId>,
        wanted: usize,
    ) -> Result<Vec<LogId>, StoreError> {
        let after = after.map_or_else(Vec::new, |log| log.to_bytes().to_vec());
        let asked = (0..SHARDS).map(|shard| {
            let values = [&of[..], &[int(shard), blob(&after), int(limit(wanted))]].concat();
            self.database.rows::<(Vec<u8>,)>(statement, values)
        });
        let rows: Vec<Vec<(Vec<u8>,)>> = all(asked).await?;
        let mut logs = rows.into_iter().flatten().map(|(bytes,)| log_of(&bytes)).collect::<Result<Vec<_>, _>>()?;
        logs.sort_unstable();
        logs.truncate(wanted);
        Ok(logs)
    }

    /// Logs of a kind that are held, with their states.
    pub(crate) async fn held_logs(
        self: &Arc<Self>,
        kind: LogKind,
        mut after: Option<LogId>,
        wanted: usize,
    ) -> Result<Vec<(LogId, State)>, StoreError> {
        let mut held = Vec::new();
        while held.len() < wanted {
            let missing = wanted - held.len();
            let statement = &self.database.statements.logs;
            let ids = self.over_shards(statement, &vec![int(kind as i32)], after, missing).await?;
            after = ids.last().copied();
            let complete = ids.len() < missing;
            let looks = ids.into_iter().map(|log| async move { Ok::<_, StoreError>((log, self.known(log).await?)) });
            let states: Vec<(LogId, State)> = all(looks).await?;
            // A row whose log is not there was written for a log that was not made, or that is being removed.
            held.extend(states.into_iter().filter(|(_, state)| state.held()));
            if complete {
                break;
            }
        }
        Ok(held)
    }

    pub(crate) async fn summary(&self, log: LogId, state: State) -> Result<Option<LogSummary>, StoreError> {
        let last = match state.last() {
            Some(sequence) => self.read_one(log, sequence).await?,
            None => None,
        };
        let (length, mark, change) = (state.length(), state.mark, state.change.unwrap_or(0));
        Ok(state.record.map(|record| LogSummary { log, record, length, mark, last, change }))
    }

    pub(crate) async fn tail_logs(&self, after: Option<LogId>, wanted: usize) -> Result<Vec<LogId>, StoreError> {
        self.over_shards(&self.database.statements.tail_logs, &Vec::new(), after, wanted).await
    }

    /// Deletes by shard, log, message and what deletes it; the place is that of the last.
    pub(crate) async fn open_deletes(&self, after: Option<Bytes>, wanted: usize) -> Result<Deletes, StoreError> {
        let place = after.as_deref().map(read_place).transpose()?;
        let first = place.as_ref().map_or(0, |(shard, ..)| *shard);
        let (mut deletes, mut last) = (Vec::new(), None);
        for shard in first..SHARDS {
            let (log, target, by) = match &place {
                Some((of, log, target, by)) if *of == shard => (blob(log), big(*target), big(*by)),
                _ => (blob(&[]), big(0), big(0)),
            };
            let missing = wanted - deletes.len();
            let asked = vec![int(shard), log, target, by, int(limit(missing))];
            let rows: Vec<(Vec<u8>, i64, i64, Vec<u8>)> =
                self.database.rows(&self.database.statements.deletes, asked).await?;
            for (log, target, by, change) in rows {
                last = Some(write_place(shard, &log, unsigned(target), unsigned(by)));
                deletes.push((log_of(&log)?, ChangeRecord::decode(&change).map_err(unreadable)?));
            }
            if deletes.len() >= wanted {
                return Ok((deletes, last));
            }
        }
        Ok((deletes, None))
    }

    pub(crate) async fn delete_done(&self, log: LogId, done: &ChangeRecord) -> Result<(), StoreError> {
        let at = Some(CqlValue::BigInt(away(self.stamps.draw(1)?)));
        let values = vec![at, int(shard(log)), of_log(log), big(done.target), big(done.position.sequence.0)];
        self.database.run(&self.database.statements.remove_delete, values).await
    }

    /// What is over at `now`: day by day, since a day that is past gets few rows.
    pub(crate) async fn over(&self, now: Timestamp, wanted: usize) -> Result<Vec<ExpiredContent>, StoreError> {
        let statements = &self.database.statements;
        let days: Vec<(i64,)> =
            self.database.rows(&statements.expiry_days, vec![int(ONE_PART), big(now.0 / DAY)]).await?;
        let mut over = Vec::new();
        for (day,) in days {
            if over.len() >= wanted {
                break;
            }
            let asked = vec![big(unsigned(day)), big(now.0), int(limit(wanted - over.len()))];
            let rows: Vec<(i64, Vec<u8>, i64, i64)> = self.database.rows(&statements.expiries, asked).await?;
            for (at, log, epoch, sequence) in rows {
                let position = Position { epoch: Epoch(unsigned(epoch)), sequence: Sequence(unsigned(sequence)) };
                over.push(ExpiredContent { at: Timestamp(unsigned(at)), log: log_of(&log)?, position });
            }
        }
        Ok(over)
    }

    pub(crate) async fn expiries_done(&self, taken: &[ExpiredContent]) -> Result<(), StoreError> {
        let statement = &self.database.statements.remove_expiry;
        let stamp = Some(CqlValue::BigInt(away(self.stamps.draw(1)?)));
        let writes = taken.iter().map(|taken| {
            let (epoch, sequence) = (big(taken.position.epoch.0), big(taken.position.sequence.0));
            let (day, at) = (big(taken.at.0 / DAY), big(taken.at.0));
            (statement, vec![stamp.clone(), day, at, of_log(taken.log), epoch, sequence])
        });
        self.database.run_all(writes.collect()).await
    }

    /// One page of all dedup records; the place is the server's own.
    pub(crate) async fn old_dedup(
        &self,
        before: Timestamp,
        after: Option<Bytes>,
        rows: usize,
    ) -> Result<Option<Bytes>, StoreError> {
        let page = NonZeroI32::new(limit(rows)).unwrap_or(NonZeroI32::MIN.saturating_abs());
        let statement = self.database.statements.dedup_page(page);
        let from = after.map_or_else(PagingState::start, |place| PagingState::new_from_raw_bytes(&place[..]));
        let stamp = Some(CqlValue::BigInt(away(self.stamps.draw(1)?)));
        let (found, next): (Vec<DedupRow>, _) = self.database.page(&statement, from).await?;
        let mut writes: Vec<Write<'_>> = Vec::new();
        for (log, part, id, sender, record) in found {
            let Some(record) = record else { continue };
            if DedupRecord::decode(&record).map_err(unreadable)?.time < before {
                let values = vec![stamp.clone(), blob(&log), int(part), uuid(id), text(&sender)];
                writes.push((&self.database.statements.remove_dedup, values));
            }
        }
        self.database.run_all(writes).await?;
        Ok(next.and_then(|next| next.as_bytes_slice().map(|bytes| Bytes::copy_from_slice(bytes))))
    }

    pub(crate) async fn outbox_after(
        &self,
        after: Option<&OutboxRecord>,
        wanted: usize,
    ) -> Result<Vec<OutboxRecord>, StoreError> {
        let from = match after {
            Some(after) => vec![of_log(after.log), big(after.position.sequence.0), text(after.user.as_str())],
            None => vec![blob(&[]), big(0), text("")],
        };
        let asked = (0..SHARDS).map(|shard| {
            let values = [&[int(shard)], &from[..], &[int(limit(wanted))]].concat();
            self.database.rows::<(Vec<u8>,)>(&self.database.statements.outbox, values)
        });
        let rows: Vec<Vec<(Vec<u8>,)>> = all(asked).await?;
        let items = rows.into_iter().flatten().map(|(item,)| OutboxRecord::decode(&item).map_err(unreadable));
        let mut items = items.collect::<Result<Vec<_>, _>>()?;
        items.sort_by(|one, other| outbox_order(one).cmp(&outbox_order(other)));
        items.truncate(wanted);
        Ok(items)
    }

    /// The newest placement wins, whoever puts it; of two of one epoch the later.
    pub(crate) async fn place(&self, placement: &Placement) -> Result<(), StoreError> {
        let statements = &self.database.statements;
        let (epoch, bytes) = (big(placement.epoch.0), blob(&placement.encode()));
        let known = |statement, values| {
            let look = || async {
                let known = self.placement_of(placement.log).await?;
                Ok(match known {
                    Some(known) if known == *placement => Seen::Done,
                    Some(known) if known.epoch > placement.epoch => Seen::Never,
                    _ => Seen::NotYet,
                })
            };
            self.database.compare_and_set(vec![(statement, values)], look)
        };
        let values = vec![epoch.clone(), bytes.clone(), of_log(placement.log), epoch.clone()];
        if known(&statements.put_placement, values).await? == Cas::Refused {
            // Newer is known, or none at all. One that came meanwhile is told again by its log.
            known(&statements.put_first_placement, vec![epoch, bytes, of_log(placement.log)]).await?;
        }
        Ok(())
    }

    pub(crate) async fn placement_of(&self, log: LogId) -> Result<Option<Placement>, StoreError> {
        let row: Option<(Option<Vec<u8>>,)> =
            self.database.row(&self.database.statements.placement, vec![of_log(log)]).await?;
        row.and_then(|(bytes,)| bytes).map(|bytes| Placement::decode(&bytes)).transpose().map_err(unreadable)
    }
}

fn outbox_order(item: &OutboxRecord) -> (LogId, u64, &UserId) {
    (item.log, item.position.sequence.0, &item.user)
}

/// Where a page of deletes ended: shard, log, message, what deletes it.
fn write_place(shard: i32, log: &[u8], target: u64, by: u64) -> Bytes {
    let place = [&shard.to_be_bytes()[..], &target.to_be_bytes(), &by.to_be_bytes(), log].concat();
    Bytes::from(place)
}

fn read_place(place: &[u8]) -> Result<(i32, Vec<u8>, u64, u64), StoreError> {
    let form = || unreadable("the place of a page");
    let number = |from: usize| -> Option<u64> { Some(u64::from_be_bytes(place.get(from..from + 8)?.try_into().ok()?)) };
    let shard = place.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes).ok_or_else(form)?;
    let (target, by) = (number(4).ok_or_else(form)?, number(12).ok_or_else(form)?);
    Ok((shard, place.get(20..).ok_or_else(form)?.to_vec(), target, by))
}
