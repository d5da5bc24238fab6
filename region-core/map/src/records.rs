//! What the region map keeps in its [`MapStore`], and under which keys. Each value is a version byte and postcard.

use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::record::{Record, RecordError};
use region_model::ports::{MapChange, MapStore, MapSync, StoreError};
use region_model::region_map::MapState;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::raft::{Entry, LogId, Member, SnapshotMeta, Vote};

/// Entries: `l` and the index, big-endian.
const LOG: u8 = b'l';
/// The vote.
pub(crate) const VOTE: &[u8] = b"vote";
/// The last entry known to be committed; a hint, not synced by itself.
pub(crate) const COMMITTED: &[u8] = b"committed";
/// The last entry that was taken away from the front.
pub(crate) const PURGED: &[u8] = b"purged";
/// The newest snapshot.
pub(crate) const SNAPSHOT: &[u8] = b"snapshot";
/// Who takes part.
pub(crate) const SELF: &[u8] = b"self";
/// The counter of lease renewals.
pub(crate) const COUNTER: &[u8] = b"counter";
/// The newest fence that this region knows of.
pub(crate) const FENCE: &[u8] = b"fence";

/// Rows that one read of a range takes.
pub(crate) const PAGE: usize = 256;

/// Key of an entry.
pub(crate) fn log_key(index: u64) -> Bytes {
    let mut key = [LOG; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    Bytes::copy_from_slice(&key)
}

/// The end of all entries' keys.
pub(crate) fn log_end() -> Bytes {
    Bytes::from_static(&[LOG + 1])
}

pub(crate) fn key(name: &'static [u8]) -> Bytes {
    Bytes::from_static(name)
}

/// This region in the consensus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SelfRecord {
    /// The store as which it takes part.
    pub(crate) store: Uuid,
    /// The incarnation that the map gave it; 1 until it said otherwise.
    pub(crate) incarnation: u64,
    /// The generation of the map.
    pub(crate) generation: u64,
}

/// How many renewals this store has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CounterRecord(pub(crate) u64);

/// The version of the newest fence of this region that it knows of; it is on disk before the region returns from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FenceRecord(pub(crate) u64);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteRecord(pub(crate) Vote);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogIdRecord(pub(crate) Option<LogId>);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EntryRecord(pub(crate) Entry);

/// A snapshot: openraft's part, and the map as [`MapState`] encodes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) meta: openraft::SnapshotMeta<u64, Member>,
    pub(crate) map: Vec<u8>,
}

impl Record for SelfRecord {}
impl Record for CounterRecord {}
impl Record for FenceRecord {}
impl Record for VoteRecord {}
impl Record for LogIdRecord {}
impl Record for EntryRecord {}
impl Record for SnapshotRecord {}

/// Why the map's records cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a record of the region map: {0}")]
    Record(#[from] RecordError),
}

pub(crate) fn put<R: Record>(key: Bytes, record: &R) -> MapChange {
    MapChange::Put(key, Bytes::from(record.encode()))
}

pub(crate) async fn get<R: Record>(store: &Arc<dyn MapStore>, name: &'static [u8]) -> Result<Option<R>, ReadError> {
    let value = store.get(key(name)).await?;
    Ok(value.map(|value| R::decode(&value)).transpose()?)
}

pub(crate) fn snapshot(meta: &SnapshotMeta, map: &MapState) -> SnapshotRecord {
    SnapshotRecord { meta: meta.clone(), map: map.encode() }
}

/// Takes everything of the consensus away, and stores who takes part from now on: in one commit, so that a crash leaves
/// either. Counter and fence stay: they belong to
/// the store. Memory grows with the log, which snapshots keep short.
pub(crate) async fn start_over(
    store: &Arc<dyn MapStore>,
    me: &SelfRecord,
    more: Vec<MapChange>,
) -> Result<(), ReadError> {
    let mut changes: Vec<MapChange> =
        [VOTE, COMMITTED, PURGED, SNAPSHOT].into_iter().map(|name| MapChange::Remove(key(name))).collect();
    let mut from = log_key(0);
    loop {
        let rows = store.range(from.clone(), log_end(), PAGE).await?;
        let Some((last, _)) = rows.last() else { break };
        // The next key after the last one.
        from = [&last[..], &[0]].concat().into();
        changes.extend(rows.into_iter().map(|(key, _)| MapChange::Remove(key)));
    }
    changes.push(put(key(SELF), me));
    changes.extend(more);
    Ok(store.write(changes, MapSync::Disk).await?)
}
