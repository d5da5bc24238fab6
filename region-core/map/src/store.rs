//! openraft's log and vote over a [`MapStore`]. Everything is on disk before it is answered.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::record::Record as _;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{
    AnyError, ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogId as _, RaftLogReader, StorageIOError,
};
use region_model::ports::{MapChange, MapStore, MapSync};

use crate::raft::{Entry, LogId, StorageError, TypeConfig, Vote};
use crate::records::{self, EntryRecord, LogIdRecord, PAGE, ReadError, VoteRecord};

/// The log of one member. Clones share the store.
#[derive(Clone, Debug)]
pub(crate) struct LogStore(Arc<dyn MapStore>);

/// A store that failed is broken for good: openraft stops, and so does the region.
pub(crate) fn failed(verb: ErrorVerb, error: impl std::error::Error + 'static) -> StorageError {
    StorageIOError::new(ErrorSubject::Store, verb, AnyError::new(&error)).into()
}

impl LogStore {
    pub(crate) fn new(store: Arc<dyn MapStore>) -> Self {
        Self(store)
    }

    async fn write(&self, changes: Vec<MapChange>, sync: MapSync) -> Result<(), StorageError> {
        self.0.write(changes, sync).await.map_err(|error| failed(ErrorVerb::Write, error))
    }

    async fn log_id(&self, name: &'static [u8]) -> Result<Option<LogId>, StorageError> {
        let record: Result<Option<LogIdRecord>, ReadError> = records::get(&self.0, name).await;
        Ok(record.map_err(|error| failed(ErrorVerb::Read, error))?.and_then(|record| record.0))
    }

    /// Removes entries with `from <= index < to`, a page at a time; the first page takes `first` with it.
    async fn remove(&self, from: Bytes, to: Bytes, first: Vec<MapChange>, backwards: bool) -> Result<(), StorageError> {
        let mut keys = Vec::new();
        let mut next = from;
        loop {
            let rows = self.0.range(next, to.clone(), PAGE).await.map_err(|error| failed(ErrorVerb::Read, error))?;
            let Some((last, _)) = rows.last() else { break };
            next = [&last[..], &[0]].concat().into();
            keys.extend(rows.into_iter().map(|(key, _)| key));
        }
        if backwards {
            // A crash in between must leave no hole before an entry that stays.
            keys.reverse();
        }
        let mut changes = first;
        for key in keys {
            changes.push(MapChange::Remove(key));
            if changes.len() >= PAGE {
                self.write(std::mem::take(&mut changes), MapSync::Disk).await?;
            }
        }
        if changes.is_empty() { Ok(()) } else { self.write(changes, MapSync::Disk).await }
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(from) => from.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(to) => records::log_key(to.saturating_add(1)),
            Bound::Excluded(to) => records::log_key(*to),
            Bound::Unbounded => records::log_end(),
        };
        let mut entries = Vec::new();
        let mut next = records::log_key(from);
        loop {
            let rows = self.0.range(next, to.clone(), PAGE).await.map_err(|error| failed(ErrorVerb::Read, error))?;
            let Some((last, _)) = rows.last() else { break };
            next = [&last[..], &[0]].concat().into();
            for (_, value) in &rows {
                let record = EntryRecord::decode(value).map_err(|error| failed(ErrorVerb::Read, error))?;
                entries.push(record.0);
            }
            if rows.len() < PAGE {
                break;
            }
        }
        Ok(entries)
    }

    /// A page at a time: what one message to a member carries.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.try_get_log_entries(start..end.min(start.saturating_add(PAGE as u64))).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let purged = self.log_id(records::PURGED).await?;
        let last = self.0.last(records::log_key(0), records::log_end()).await;
        let last = match last.map_err(|error| failed(ErrorVerb::Read, error))? {
            Some((_, value)) => {
                let record = EntryRecord::decode(&value).map_err(|error| failed(ErrorVerb::Read, error))?;
                Some(*record.0.get_log_id())
            }
            None => purged,
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let record = records::put(records::key(records::VOTE), &VoteRecord(*vote));
        self.write(vec![record], MapSync::Disk).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let record: Result<Option<VoteRecord>, ReadError> = records::get(&self.0, records::VOTE).await;
        Ok(record.map_err(|error| failed(ErrorVerb::Read, error))?.map(|record| record.0))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let record = records::put(records::key(records::COMMITTED), &LogIdRecord(committed));
        self.write(vec![record], MapSync::Kernel).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        self.log_id(records::COMMITTED).await
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let changes = entries
            .into_iter()
            .map(|entry| records::put(records::log_key(entry.log_id.index), &EntryRecord(entry)))
            .collect();
        let written = self.write(changes, MapSync::Disk).await;
        callback.log_io_completed(match &written {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::other(error.to_string())),
        });
        written
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.remove(records::log_key(log_id.index), records::log_end(), Vec::new(), true).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let record = records::put(records::key(records::PURGED), &LogIdRecord(Some(log_id)));
        self.remove(records::log_key(0), records::log_key(log_id.index.saturating_add(1)), vec![record], false).await
    }
}
