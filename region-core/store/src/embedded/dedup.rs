//! How dedup records are found: from memory where that is certain, else in the tables, off the caller's thread.

use std::sync::Arc;

use hearth_protocol::LogId;
use hearth_protocol::record::{DedupRecord, Record};
use region_model::ports::{DedupKey, StoreError};

use super::applier::Behind;
use super::broken::Broken;
use super::ids::{IDS_OF_A_LOG, Ids};
use super::keys::{self, ReadError};
use super::tables::Tables;

/// What a look-up needs.
pub(super) struct Dedup {
    pub(super) tables: Tables,
    pub(super) behind: Arc<Behind>,
    pub(super) ids: Arc<Ids>,
    pub(super) broken: Arc<Broken>,
}

impl Dedup {
    /// The records of `wanted`, in its order. Answers without waiting when memory tells all.
    pub(super) async fn find(self: &Arc<Self>, wanted: &[DedupKey]) -> Result<Vec<Option<DedupRecord>>, StoreError> {
        let mut found = vec![None; wanted.len()];
        let mut unknown = Vec::new();
        for (index, dedup) in wanted.iter().enumerate() {
            let mut key = Vec::with_capacity(LogId::LENGTH + 16 + 64);
            keys::write_dedup(&mut key, dedup);
            if self.ids.lacks(dedup.log, &key) != Some(true) {
                unknown.push((index, dedup.log, key));
            }
        }
        if unknown.is_empty() {
            return Ok(found);
        }
        let dedup = Arc::clone(self);
        let looking = tokio::task::spawn_blocking(move || {
            let records = unknown.into_iter().map(|(index, log, key)| Ok((index, dedup.look_up(log, &key)?)));
            records
                .collect::<Result<Vec<_>, ReadError>>()
                .map_err(|error| StoreError::Unavailable(dedup.broken.set(&error.to_string())))
        });
        // A look-up that panicked told nothing.
        for (index, record) in looking.await.unwrap_or(Err(StoreError::Unknown))? {
            found[index] = record;
        }
        Ok(found)
    }

    /// What the tables may lack comes first: what leaves memory is in the tables by then.
    fn look_up(&self, log: LogId, key: &[u8]) -> Result<Option<DedupRecord>, ReadError> {
        if let Some(record) = self.behind.recent(key) {
            return Ok(Some(DedupRecord::decode(&record)?));
        }
        if let Some(reading) = self.ids.begin_reading(log) {
            self.behind.wait_for_committed();
            self.ids.read(log, reading, self.tables.dedup_keys(log, IDS_OF_A_LOG)?.as_deref());
            if self.ids.lacks(log, key) == Some(true) {
                return Ok(None);
            }
        }
        match self.behind.recent(key) {
            Some(record) => Ok(Some(DedupRecord::decode(&record)?)),
            None => self.tables.dedup(key),
        }
    }
}
