//! What is read and changed of one log beside appends.

use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::record::{ChangeRecord, DedupRecord, Record};
use hearth_protocol::{LogId, Position, SealedEntry};
use region_model::ports::{DedupKey, LoadedLog, StoreError, TargetFound, TargetKey};
use scylla::value::CqlValue;

use crate::Store;
use crate::database::{Cas, Seen, unreadable};
use crate::effects::Effects;
use crate::moving::Move;
use crate::stamps::put;
use crate::state::State;
use crate::values::{big, blob, dedup_shard, int, of_log, text, unsigned, uuid};

/// Rows of one answer of the server.
const PAGE: usize = 256;

pub(crate) fn entry_of(bytes: Vec<u8>) -> Result<Arc<SealedEntry>, StoreError> {
    SealedEntry::decode(Bytes::from(bytes)).map_err(unreadable)
}

/// The limit of a page, for a statement.
pub(crate) fn limit(rows: usize) -> i32 {
    i32::try_from(rows).unwrap_or(i32::MAX)
}

impl Store {
    /// The state of a log as this process knows it, or as found.
    pub(crate) async fn known(self: &Arc<Self>, log: LogId) -> Result<State, StoreError> {
        if let Some(state) = self.states.lock().get(log) {
            return Ok(state.clone());
        }
        self.ask(log, crate::queue::Step::State).await
    }

    /// Entries of one bucket with `from <= sequence < to`, all of them.
    pub(crate) async fn read_bucket(
        &self,
        log: LogId,
        bucket: u64,
        from: u64,
        to: u64,
    ) -> Result<Vec<Arc<SealedEntry>>, StoreError> {
        let mut entries = Vec::new();
        let mut at = from;
        loop {
            let (page, next) = self.read_page(log, bucket, at, to, PAGE).await?;
            entries.extend(page);
            match next {
                Some(next) => at = next,
                None => return Ok(entries),
            }
        }
    }

    /// A page of a bucket, and the sequence at which the next begins.
    async fn read_page(
        &self,
        log: LogId,
        bucket: u64,
        from: u64,
        to: u64,
        rows: usize,
    ) -> Result<(Vec<Arc<SealedEntry>>, Option<u64>), StoreError> {
        let values = vec![of_log(log), big(bucket), big(from), big(to), int(limit(rows))];
        let found: Vec<(Option<i64>, Option<Vec<u8>>)> =
            self.database.rows(&self.database.statements.entries, values).await?;
        let next = if found.len() == rows { found.last().and_then(|(last, _)| *last) } else { None };
        let entries = found.into_iter().filter_map(|(_, entry)| entry).map(entry_of).collect::<Result<_, _>>()?;
        Ok((entries, next.map(|last| unsigned(last) + 1)))
    }

    /// Entries over buckets. Nothing stands in an open range.
    pub(crate) async fn read_range(
        &self,
        log: LogId,
        state: &State,
        (from, to): (u64, u64),
        rows: usize,
        bytes: usize,
    ) -> Result<Vec<Arc<SealedEntry>>, StoreError> {
        let to = to.min(state.length());
        let (mut entries, mut taken, mut at) = (Vec::new(), 0, from);
        while at < to && entries.len() < rows {
            if let Some((_, end)) = state.open_ranges().iter().find(|(start, end)| (*start..*end).contains(&at)) {
                at = *end;
                continue;
            }
            let bucket = at / self.bucket;
            let end = to.min((bucket + 1).saturating_mul(self.bucket));
            let (page, next) = self.read_page(log, bucket, at, end, PAGE.min(rows - entries.len())).await?;
            for entry in page {
                if taken >= bytes && !entries.is_empty() {
                    return Ok(entries);
                }
                taken += entry.encoded.len();
                entries.push(entry);
            }
            at = next.unwrap_or(end);
        }
        Ok(entries)
    }

    /// One entry, if it is there.
    pub(crate) async fn read_one(&self, log: LogId, sequence: u64) -> Result<Option<Arc<SealedEntry>>, StoreError> {
        let bucket = sequence / self.bucket;
        Ok(self.read_page(log, bucket, sequence, sequence + 1, 1).await?.0.pop())
    }

    /// Everything that is needed to go on with a log, but its placement.
    pub(crate) async fn load(&self, log: LogId) -> Result<LoadedLog, StoreError> {
        let state = self.fresh_state(log).await?;
        if !state.held() {
            return Ok(LoadedLog::default());
        }
        let asked = vec![of_log(log)];
        let snapshot: Option<(Option<i64>, Option<Vec<u8>>)> =
            self.database.row(&self.database.statements.snapshot, asked).await?;
        let snapshot = snapshot.and_then(|(length, bytes)| Some((unsigned(length?), Bytes::from(bytes?))));
        let from = snapshot.as_ref().map_or(0, |(length, _)| *length).min(state.mark);
        let entries = self.read_range(log, &state, (from, state.length()), usize::MAX, usize::MAX).await?;
        let below = state.open_ranges().first().and_then(|(from, _)| from.checked_sub(1));
        let one = |sequence: Option<u64>| async move {
            match sequence {
                Some(sequence) => self.read_one(log, sequence).await,
                None => Ok(None),
            }
        };
        Ok(LoadedLog {
            placement: None,
            length: state.length(),
            mark: state.mark,
            below_open: one(below).await?,
            snapshot,
            last: one(state.last()).await?,
            entries,
            change: state.change.unwrap_or(0),
            record: state.record,
        })
    }

    pub(crate) async fn mark(&self, log: LogId, mark: u64) -> Result<(), StoreError> {
        let state = self.state(log).await?;
        if !state.held() || mark <= state.mark {
            return Ok(());
        }
        self.stamps.pass(state.change.unwrap_or(0)).await?;
        let at = Some(CqlValue::BigInt(put(self.stamps.draw(1)?)));
        self.database.run(&self.database.statements.put_mark, vec![of_log(log), big(mark), at]).await?;
        self.remember(log, State { mark, ..state });
        Ok(())
    }

    pub(crate) async fn remove(&self, log: LogId) -> Result<(), StoreError> {
        self.note_scrub().await?;
        for _ in 0..8 {
            let state = self.fresh_state(log).await?;
            if !state.held() {
                return Ok(());
            }
            self.stamps.pass(state.change.unwrap_or(0)).await?;
            let stamp = self.stamps.draw(2)?;
            let effects = Effects { change: stamp + 1, gone: Some(state.length() / self.bucket), ..Effects::default() };
            let effects = Effects { outbox_gone: Some(0), ..effects };
            let change = Move {
                decided: stamp,
                change: stamp + 1,
                to: 0,
                length: state.length(),
                cut: Some(0),
                keeps_tail: false,
                dropped: (0, 0),
                puts: Vec::new(),
                head: None,
                epoch: None,
                mark: 0,
                record: None,
                redo: Some(effects.encode()),
            };
            if self.decide(log, &state, &change).await? == Cas::Applied {
                return Ok(());
            }
        }
        Err(StoreError::Unknown)
    }

    /// Takes the content of entries away, where they stand.
    pub(crate) async fn take(&self, log: LogId, entries: &[Position], tail: &[Position]) -> Result<(), StoreError> {
        let statements = &self.database.statements;
        for position in entries {
            let Some(entry) = self.read_one(log, position.sequence.0).await? else { continue };
            if entry.entry.fixed.position != *position || entry.content().is_none() {
                continue;
            }
            let (bucket, sequence) = (big(position.sequence.0 / self.bucket), big(position.sequence.0));
            let bare = entry.without_content();
            let key = vec![of_log(log), bucket, sequence];
            let values = [vec![blob(&bare.encoded)], key, vec![blob(&entry.encoded)]].concat();
            let look = || async {
                let now = self.read_one(log, position.sequence.0).await?;
                Ok(if now.is_some_and(|now| now.encoded == entry.encoded) { Seen::NotYet } else { Seen::Done })
            };
            // Where it is refused somebody took it away, or the entry left the log.
            self.database.compare_and_set(vec![(&statements.replace_entry, values)], look).await?;
        }
        if !tail.is_empty() {
            // What is put below is newer than the tail.
            self.stamps.pass(self.state(log).await?.change.unwrap_or(0)).await?;
        }
        for position in tail {
            let (epoch, sequence) = (big(position.epoch.0), big(position.sequence.0));
            let asked = vec![of_log(log), epoch.clone(), sequence.clone()];
            let row: Option<(Option<Vec<u8>>,)> = self.database.row(&statements.tail_entry, asked).await?;
            let Some(entry) = row.and_then(|(entry,)| entry).map(entry_of).transpose()? else { continue };
            if entry.content().is_some() {
                let bare = blob(&entry.without_content().encoded);
                let at = Some(CqlValue::BigInt(put(self.stamps.draw(1)?)));
                self.database.run(&statements.put_tail, vec![of_log(log), epoch, sequence, bare, at]).await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn dedup_of(&self, key: &DedupKey) -> Result<Option<DedupRecord>, StoreError> {
        let (id, sender) = (uuid(key.id), text(key.sender.as_str()));
        let asked = vec![of_log(key.log), int(dedup_shard(key.id)), id, sender];
        let row: Option<(Option<Vec<u8>>,)> = self.database.row(&self.database.statements.dedup, asked).await?;
        row.and_then(|(record,)| record).map(|record| DedupRecord::decode(&record)).transpose().map_err(unreadable)
    }

    pub(crate) async fn target_of(self: &Arc<Self>, key: &TargetKey) -> Result<TargetFound, StoreError> {
        let log = key.log;
        let state = self.known(log).await?;
        let nothing = TargetFound { length: state.length(), ..TargetFound::default() };
        let asked = vec![of_log(log), int(dedup_shard(key.id)), uuid(key.id)];
        let named: Vec<(String, Option<Vec<u8>>)> =
            self.database.rows(&self.database.statements.dedup_of_id, asked).await?;
        let mut best: Option<(bool, u64)> = None;
        for (sender, record) in named {
            let Some(record) = record else { continue };
            let number = DedupRecord::decode(&record).map_err(unreadable)?.position.sequence.0;
            let place = (sender != key.actor.as_str(), number);
            best = Some(best.map_or(place, |best| best.min(place)));
        }
        let Some((_, number)) = best else { return Ok(nothing) };
        let entry = self.read_one(log, number).await?.filter(|entry| entry.entry.fixed.id == key.id);
        let changes = if entry.is_some() { self.changes_of(log, &state, number, number + 1).await? } else { vec![] };
        Ok(TargetFound { entry, changes, ..nothing })
    }

    /// What was done to the messages `from <= number < to`.
    pub(crate) async fn changes_of(
        &self,
        log: LogId,
        state: &State,
        from: u64,
        to: u64,
    ) -> Result<Vec<ChangeRecord>, StoreError> {
        let to = to.min(state.length());
        let mut changes = Vec::new();
        if from >= to {
            return Ok(changes);
        }
        for bucket in from / self.bucket..=(to - 1) / self.bucket {
            let asked = vec![of_log(log), big(bucket), big(from), big(to)];
            let rows: Vec<(Option<Vec<u8>>,)> = self.database.rows(&self.database.statements.changes, asked).await?;
            for change in rows.into_iter().filter_map(|(change,)| change) {
                changes.push(ChangeRecord::decode(&change).map_err(unreadable)?);
            }
        }
        Ok(changes)
    }
}
