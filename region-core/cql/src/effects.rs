//! What an append does beside the entries and the state of its log, in other tables. It is written down in the append's
//! own partition (`redo`), so that whoever finds the log after a process that ended does it. Doing it twice, or late,
//! changes nothing: every write has the append's number as its timestamp.

use hearth_protocol::record::{ChangeRecord, OutboxRecord, Record};
use hearth_protocol::{LogId, Position, SealedEntry, Timestamp, UserId};
use region_model::ports::{LogAppend, StoreError};
use scylla::value::CqlValue;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Store;
use crate::database::{Write, unreadable};
use crate::stamps::{away, put};
use crate::values::{DAY, DEDUP_SHARDS, ONE_PART, big, blob, dedup_shard, int, of_log, shard, text, unsigned, uuid};

const VERSION: u8 = 1;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Effects {
    /// The number of the change.
    pub(crate) change: u64,
    /// The bucket that the log's row in `logs` is to name.
    pub(crate) bucket: Option<u64>,
    /// Set where the log is removed: its last bucket.
    pub(crate) gone: Option<u64>,
    /// Valid for a length, and its bytes.
    pub(crate) snapshot: Option<(u64, Vec<u8>)>,
    pub(crate) snapshot_gone: bool,
    pub(crate) mark_gone: bool,
    /// Log, id, sender, record.
    pub(crate) dedup: Vec<(LogId, Uuid, UserId, Vec<u8>)>,
    pub(crate) changes: Vec<ChangeRecord>,
    /// Ranges `[from, to)` of entries that are gone, whose changes of messages go with them.
    pub(crate) changes_gone: Vec<(u64, u64)>,
    pub(crate) outbox: Vec<OutboxRecord>,
    /// The sequence from which on items go.
    pub(crate) outbox_gone: Option<u64>,
    pub(crate) expiries: Vec<(Timestamp, Position)>,
}

impl Effects {
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("it holds nothing that postcard refuses")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(unreadable),
            _ => Err(unreadable("the form of what an append does")),
        }
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self { change: self.change, ..Self::default() }
    }

    /// Adds what an append puts.
    pub(crate) fn add(&mut self, append: &LogAppend) {
        if let Some((length, bytes)) = &append.snapshot {
            self.snapshot = Some((*length, bytes.to_vec()));
        }
        let dedup = append.dedup.iter();
        self.dedup.extend(dedup.map(|(key, record)| (key.log, key.id, key.sender.clone(), record.encode())));
        self.changes.extend(append.changes.iter().cloned());
        self.outbox.extend(append.outbox.iter().cloned());
        for entry in append.filled.iter().chain(&append.entries) {
            self.expiries.extend(expiry(entry));
        }
    }
}

/// When the content of an entry is over.
fn expiry(entry: &SealedEntry) -> Option<(Timestamp, Position)> {
    let fixed = &entry.entry.fixed;
    Some((fixed.expires_at.filter(|_| entry.content().is_some())?, fixed.position))
}

fn at(timestamp: i64) -> Option<CqlValue> {
    Some(CqlValue::BigInt(timestamp))
}

impl Store {
    /// Does what an append does in other tables.
    pub(crate) async fn perform(&self, log: LogId, effects: &Effects) -> Result<(), StoreError> {
        let mut writes = self.puts(log, effects);
        self.take_away(log, effects, &mut writes);
        for (from, to) in &effects.changes_gone {
            self.take_changes(log, *from, *to, effects.change, &mut writes).await?;
        }
        self.database.run_all(writes).await
    }

    fn puts<'a>(&'a self, log: LogId, effects: &Effects) -> Vec<Write<'a>> {
        let statements = &self.database.statements;
        let (key, place, stamp) = (of_log(log), int(shard(log)), at(put(effects.change)));
        let mut writes: Vec<Write<'a>> = Vec::new();
        if let Some(bucket) = effects.bucket {
            let kind = int(log.kind as i32);
            writes.push((&statements.put_log, vec![kind, place.clone(), key.clone(), big(bucket), stamp.clone()]));
        }
        if let Some((length, bytes)) = &effects.snapshot {
            writes.push((&statements.put_snapshot, vec![key.clone(), big(*length), blob(bytes), stamp.clone()]));
        }
        for (of, id, sender, record) in &effects.dedup {
            let sender = text(sender.as_str());
            let values = vec![of_log(*of), int(dedup_shard(*id)), uuid(*id), sender, blob(record), stamp.clone()];
            writes.push((&statements.put_dedup, values));
        }
        for change in &effects.changes {
            let (target, by, bytes) = (change.target, change.position.sequence.0, blob(&change.encode()));
            let bucket = big(target / self.bucket);
            let values = vec![key.clone(), bucket, big(target), big(by), bytes.clone(), stamp.clone()];
            writes.push((&statements.put_change, values));
            let values = vec![key.clone(), big(by / self.bucket), big(by), big(target), stamp.clone()];
            writes.push((&statements.put_change_by, values));
            if change.what.takes_content() {
                let values = vec![place.clone(), key.clone(), big(target), big(by), bytes, stamp.clone()];
                writes.push((&statements.put_delete, values));
            }
        }
        for item in &effects.outbox {
            let (of, sequence, user) = (of_log(item.log), big(item.position.sequence.0), text(item.user.as_str()));
            let values = vec![int(shard(item.log)), of, sequence, user, blob(&item.encode()), stamp.clone()];
            writes.push((&statements.put_outbox, values));
        }
        for (over, position) in &effects.expiries {
            let day = big(over.0 / DAY);
            let (epoch, sequence) = (big(position.epoch.0), big(position.sequence.0));
            writes.push((&statements.put_expiry_day, vec![int(ONE_PART), day.clone(), stamp.clone()]));
            writes.push((&statements.put_expiry, vec![day, big(over.0), key.clone(), epoch, sequence, stamp.clone()]));
        }
        writes
    }

    fn take_away<'a>(&'a self, log: LogId, effects: &Effects, writes: &mut Vec<Write<'a>>) {
        let statements = &self.database.statements;
        let (key, place, stamp) = (of_log(log), int(shard(log)), at(away(effects.change)));
        if effects.snapshot_gone || effects.gone.is_some() {
            writes.push((&statements.remove_snapshot, vec![stamp.clone(), key.clone()]));
        }
        if effects.mark_gone || effects.gone.is_some() {
            writes.push((&statements.remove_mark, vec![stamp.clone(), key.clone()]));
        }
        if let Some(from) = effects.outbox_gone {
            let values = vec![stamp.clone(), place.clone(), key.clone(), big(from)];
            writes.push((&statements.remove_outbox_from, values));
        }
        let Some(last) = effects.gone else { return };
        let kind = int(log.kind as i32);
        writes.push((&statements.remove_log, vec![stamp.clone(), kind, place.clone(), key.clone()]));
        writes.push((&statements.remove_cursors, vec![stamp.clone(), key.clone()]));
        writes.push((&statements.remove_deletes, vec![stamp.clone(), place, key.clone()]));
        for part in 0..DEDUP_SHARDS {
            writes.push((&statements.remove_dedup_shard, vec![stamp.clone(), key.clone(), int(part)]));
        }
        for bucket in 0..=last {
            writes.push((&statements.remove_changes, vec![stamp.clone(), key.clone(), big(bucket)]));
            writes.push((&statements.remove_changes_by, vec![stamp.clone(), key.clone(), big(bucket)]));
        }
    }

    /// What entries `from <= number < to` did to messages.
    async fn take_changes<'a>(
        &'a self,
        log: LogId,
        from: u64,
        to: u64,
        change: u64,
        writes: &mut Vec<Write<'a>>,
    ) -> Result<(), StoreError> {
        let statements = &self.database.statements;
        let (key, place, stamp) = (of_log(log), int(shard(log)), at(away(change)));
        for bucket in from / self.bucket..=to.saturating_sub(1) / self.bucket {
            let asked = vec![key.clone(), big(bucket), big(from), big(to)];
            for (by, target) in self.database.rows::<(i64, i64)>(&statements.changes_by, asked).await? {
                let (by, target) = (unsigned(by), unsigned(target));
                let of = big(target / self.bucket);
                let values = vec![stamp.clone(), key.clone(), of, big(target), big(by)];
                writes.push((&statements.remove_change, values));
                let values = vec![stamp.clone(), key.clone(), big(bucket), big(by), big(target)];
                writes.push((&statements.remove_change_by, values));
                let values = vec![stamp.clone(), place.clone(), key.clone(), big(target), big(by)];
                writes.push((&statements.remove_delete, values));
            }
        }
        Ok(())
    }
}
