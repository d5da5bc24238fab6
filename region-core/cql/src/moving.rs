//! Changes of a log over several buckets: the end of a full one, entries that leave the log, a beginning above an open
//! range, entries that fill one, the end of the log. One conditional write in the open bucket decides it (`moving`); what
//! follows is done by whoever finds it there, and may be done by several at once: each bucket takes it once, since it
//! then has the number of the change.
//!
//! ```text
//!   open bucket: moving = …, change = n     decided
//!   each other bucket: rows, change = n     done there
//!   the next open bucket: rows, state, change = m
//!   the open bucket of before: rows, next, change = m
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::record::{DedupRecord, Record};
use hearth_protocol::{LogId, SealedEntry};
use region_model::ports::StoreError;
use scylla::value::CqlValue;
use serde::{Deserialize, Serialize};

use crate::Store;
use crate::database::{Cas, Seen, Write, unreadable};
use crate::stamps::{away, put};
use crate::state::Stored;
use crate::values::{Values, big, blob, dedup_shard, int, maybe_big, of_log, shard, text, uuid};

const VERSION: u8 = 1;
/// How often a bucket is looked at while others work on it, too.
const ATTEMPTS: usize = 16;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Move {
    /// The number under which it is decided, and that of the log when it is done.
    pub(crate) decided: u64,
    pub(crate) change: u64,
    /// The bucket that is open then.
    pub(crate) to: u64,
    /// The length before.
    pub(crate) length: u64,
    /// Entries from this one on go; they stay as a tail unless the log is removed.
    pub(crate) cut: Option<u64>,
    pub(crate) keeps_tail: bool,
    /// Entries `[from, to)` that go for good.
    pub(crate) dropped: (u64, u64),
    /// Stored forms of entries that come.
    pub(crate) puts: Vec<Vec<u8>>,
    /// The state then.
    pub(crate) head: Option<u64>,
    pub(crate) epoch: Option<u64>,
    pub(crate) mark: u64,
    pub(crate) record: Option<Vec<u8>>,
    /// What is done in other tables then.
    pub(crate) redo: Option<Vec<u8>>,
}

/// What becomes of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Opens,
    Closes,
    Changes,
}

impl Move {
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("it holds nothing that postcard refuses")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(unreadable),
            _ => Err(unreadable("the form of a change over buckets")),
        }
    }

    /// Buckets whose rows change, of that size.
    fn touches(&self, size: u64, puts: &[Arc<SealedEntry>]) -> BTreeSet<u64> {
        let mut buckets: BTreeSet<u64> = puts.iter().map(|entry| entry.sequence().0 / size).collect();
        let cut = self.cut.map(|cut| (cut, self.length));
        for (from, to) in cut.into_iter().chain([self.dropped]).filter(|(from, to)| from < to) {
            buckets.extend(from / size..=(to - 1) / size);
        }
        buckets
    }

    fn takes(&self, sequence: u64) -> bool {
        self.cuts(sequence) || (self.dropped.0..self.dropped.1).contains(&sequence)
    }

    fn cuts(&self, sequence: u64) -> bool {
        self.cut.is_some_and(|cut| sequence >= cut)
    }
}

impl Store {
    /// Does what was decided in the bucket `from`.
    pub(crate) async fn perform_move(&self, log: LogId, from: u64, change: &Move) -> Result<(), StoreError> {
        let puts = change.puts.iter().map(|bytes| SealedEntry::decode(Bytes::copy_from_slice(bytes)));
        let puts = puts.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
        for bucket in change.touches(self.bucket, &puts) {
            if bucket != from && bucket != change.to {
                self.rework(log, (bucket, from), change, &puts, Part::Changes).await?;
            }
        }
        self.rework(log, (change.to, from), change, &puts, Part::Opens).await?;
        if change.to != from {
            self.rework(log, (from, from), change, &puts, Part::Closes).await?;
        }
        Ok(())
    }

    /// Does it in one bucket, unless it is done there.
    async fn rework(
        &self,
        log: LogId,
        (bucket, from): (u64, u64),
        change: &Move,
        puts: &[Arc<SealedEntry>],
        part: Part,
    ) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS {
            let stored = self.stored(log, bucket).await?;
            let done = match stored.change {
                found if bucket == from => found != Some(change.decided),
                found => found.is_some_and(|found| found >= change.decided),
            };
            if done {
                return Ok(());
            }
            let writes = self.rows_of(log, bucket, change, puts).await?;
            if writes.is_empty() && part == Part::Changes {
                return Ok(());
            }
            let mut all = vec![(&self.database.statements.set_state, values_of(log, bucket, &stored, change, part))];
            all.extend(writes);
            let known = stored.change;
            let look = || async move {
                let now = self.stored(log, bucket).await?;
                // What else is there says at the next look whether it is done.
                Ok(if now.change == known { Seen::NotYet } else { Seen::Never })
            };
            if self.database.compare_and_set(all, look).await? == Cas::Applied {
                return Ok(());
            }
        }
        Err(StoreError::Unknown)
    }

    /// The rows of a bucket that go and that come. What is cut is in the tail first.
    async fn rows_of<'a>(
        &'a self,
        log: LogId,
        bucket: u64,
        change: &Move,
        puts: &[Arc<SealedEntry>],
    ) -> Result<Vec<Write<'a>>, StoreError> {
        let statements = &self.database.statements;
        let (start, end) = (bucket * self.bucket, (bucket + 1) * self.bucket);
        let come: Vec<_> = puts.iter().filter(|entry| (start..end).contains(&entry.sequence().0)).collect();
        let mut writes = Vec::new();
        if change.cut.is_some_and(|cut| cut < end) || (change.dropped.0 < end && change.dropped.1 > start) {
            let rows = self.read_bucket(log, bucket, start, end).await?;
            let gone: Vec<_> = rows.into_iter().filter(|entry| change.takes(entry.sequence().0)).collect();
            if change.keeps_tail {
                self.put_apart(log, gone.iter().filter(|entry| change.cuts(entry.sequence().0)), change.decided)
                    .await?;
            }
            for entry in gone {
                let sequence = entry.sequence();
                if come.iter().all(|other| other.sequence() != sequence) {
                    writes.push((&statements.remove_entry, vec![of_log(log), big(bucket), big(sequence.0)]));
                }
            }
        }
        for entry in come {
            let values = vec![of_log(log), big(bucket), big(entry.sequence().0), blob(&entry.encoded)];
            writes.push((&statements.put_entry, values));
        }
        Ok(writes)
    }

    /// Entries that leave the log stay as its tail, and their dedup records go.
    async fn put_apart(
        &self,
        log: LogId,
        entries: impl Iterator<Item = &Arc<SealedEntry>>,
        change: u64,
    ) -> Result<(), StoreError> {
        let statements = &self.database.statements;
        let at = |timestamp| Some(CqlValue::BigInt(timestamp));
        let mut writes: Vec<Write<'_>> = Vec::new();
        for entry in entries {
            let fixed = &entry.entry.fixed;
            let (epoch, sequence) = (big(fixed.position.epoch.0), big(fixed.position.sequence.0));
            let values = vec![of_log(log), epoch, sequence, blob(&entry.encoded), at(put(change))];
            writes.push((&statements.put_tail, values));
            for id in entry.ids() {
                let key = vec![of_log(log), int(dedup_shard(id)), uuid(id), text(fixed.sender.as_str())];
                let record: Option<(Option<Vec<u8>>,)> = self.database.row(&statements.dedup, key.clone()).await?;
                let record = record.and_then(|(record,)| record).map(|record| DedupRecord::decode(&record));
                if record.transpose().map_err(unreadable)?.is_some_and(|record| record.position == fixed.position) {
                    writes.push((&statements.remove_dedup, [vec![at(away(change))], key].concat()));
                }
            }
        }
        if !writes.is_empty() {
            writes.push((&statements.put_tail_log, vec![int(shard(log)), of_log(log), at(put(change))]));
        }
        self.database.run_all(writes).await
    }
}

/// The values of `set_state`.
fn values_of(log: LogId, bucket: u64, stored: &Stored, change: &Move, part: Part) -> Values {
    let bytes = |value: &Option<Vec<u8>>| value.as_deref().and_then(blob);
    let mut values = match part {
        Part::Opens => {
            let (head, epoch) = (maybe_big(change.head), maybe_big(change.epoch));
            let (mark, record) = (change.head.and_then(|_| big(change.mark)), bytes(&change.record));
            vec![head, epoch, mark, big(change.change), record, bytes(&change.redo), None]
        }
        Part::Closes => vec![None, None, None, big(change.change), None, None, big(change.to)],
        // It is not open: it has nothing but where the log went on, if it was open once.
        Part::Changes => vec![None, None, None, big(change.decided), None, None, maybe_big(stored.next)],
    };
    values.extend([
        of_log(log),
        big(bucket),
        maybe_big(stored.change),
        maybe_big(stored.head),
        maybe_big(stored.epoch),
    ]);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_touches_the_buckets_of_what_goes_and_of_what_comes() {
        let change = Move {
            decided: 4,
            change: 5,
            to: 1,
            length: 20,
            cut: Some(9),
            keeps_tail: true,
            dropped: (3, 3),
            puts: vec![],
            head: Some(9),
            epoch: Some(1),
            mark: 0,
            record: None,
            redo: None,
        };
        assert_eq!(change.touches(4, &[]).into_iter().collect::<Vec<_>>(), [2, 3, 4]);
        assert!(change.takes(9) && !change.takes(8) && change.cuts(9));
        let dropped = Move { cut: None, dropped: (3, 5), ..change.clone() };
        assert_eq!(dropped.touches(4, &[]).into_iter().collect::<Vec<_>>(), [0, 1]);
        assert!(dropped.takes(4) && !dropped.takes(5) && !dropped.cuts(4));
        assert_eq!(Move::decode(&change.encode()), Ok(change));
        assert!(Move::decode(&[9, 9]).is_err());
    }
}
