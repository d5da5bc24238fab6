//! What a store that was brought back from a copy may keep of the region map: nothing of its consensus. It is another
//! member from now on, which promised nothing and voted for nobody.
//!
//! What it is behind is not known to it, so it never founds a map: it learns the one that there is. Only when nobody is
//! left to learn from, on the operator's word, the map as the copy has it goes on at it.

use std::sync::Arc;

use hearth_protocol::RegionId;
use openraft::{EntryPayload, RaftLogReader as _};
use region_model::ports::MapStore;
use region_model::region_map::MapState;
use uuid::Uuid;

use crate::members;
use crate::node::StartError;
use crate::records::{self, CounterRecord, SelfRecord, SnapshotRecord};
use crate::store::LogStore;

/// The region map as a store holds it, with the entries that it has on disk.
///
/// # Errors
/// [`StartError`] when it does not read.
pub async fn stored_map(store: &Arc<dyn MapStore>) -> Result<MapState, StartError> {
    let snapshot: Option<SnapshotRecord> = records::get(store, records::SNAPSHOT).await?;
    let (mut map, next) = match snapshot {
        Some(SnapshotRecord { meta, map }) => {
            let map = MapState::read(&map).map_err(records::ReadError::from)?;
            (map, meta.last_log_id.map_or(0, |last| last.index + 1))
        }
        None => (MapState::default(), 0),
    };
    let entries = LogStore::new(Arc::clone(store)).try_get_log_entries(next..).await;
    for entry in entries.map_err(|error| StartError::Failed(error.to_string()))? {
        if let EntryPayload::Normal(command) = entry.payload {
            map.apply(&command);
        }
    }
    Ok(map)
}

/// Takes everything of the consensus out of a restored store, which is `id` from now on.
///
/// # Errors
/// [`StartError`] of the store.
pub async fn forget(store: &Arc<dyn MapStore>, id: Uuid) -> Result<(), StartError> {
    let copied: Option<SelfRecord> = records::get(store, records::SELF).await?;
    // Above the first: who is at its first incarnation may found a map.
    let incarnation = copied.map_or(1, |copied| copied.incarnation) + 1;
    let me = SelfRecord { store: id, incarnation, generation: 0 };
    Ok(records::start_over(store, &me, Vec::new()).await?)
}

/// Has the map of a restored store go on at it, as [`MapState::anew`] says. `id` is the store from now on.
///
/// # Errors
/// [`StartError::Failed`] where the copy has no map, or one that `region` is no part of, or that has come as far as
/// `floor`; else of the store.
pub async fn begin_anew(
    store: &Arc<dyn MapStore>,
    region: &RegionId,
    id: Uuid,
    floor: u64,
) -> Result<MapState, StartError> {
    let map = stored_map(store).await?;
    let counter: Option<CounterRecord> = records::get(store, records::COUNTER).await?;
    let next = map.anew(region, (id, counter.map_or(0, |counter| counter.0)), floor);
    let next = next.filter(|_| map.version > 0).ok_or_else(|| {
        let version = map.version;
        StartError::Failed(format!("the map in the copy, of version {version}, cannot go on at {region} above {floor}"))
    })?;
    let incarnation = next.region(region).and_then(|entry| entry.store).map_or(1, |store| store.incarnation);
    let me = SelfRecord { store: id, incarnation, generation: next.generation };
    records::start_over(store, &me, members::seed(region, &me, &next)).await?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hearth_protocol::record::Record as _;
    use openraft::{CommittedLeaderId, StoredMembership};
    use region_model::ports::{MapChange, MapSync};
    use region_model::region_map::{FirstMap, MapCommand, MapFact};
    use region_store::embedded::{Embedded, EmbeddedOptions};

    use super::*;
    use crate::raft::{Entry, LogId, SnapshotMeta, Vote};
    use crate::records::{EntryRecord, FenceRecord, VoteRecord};

    fn name(text: &str) -> RegionId {
        RegionId::new(text).expect("a name")
    }

    fn log_id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(4, 9), index)
    }

    /// A store that voted, led and renewed, with the map in a snapshot and in an entry behind it.
    async fn used(folder: &std::path::Path) -> (Embedded, Arc<dyn MapStore>) {
        let store = Embedded::open(folder, &name("ra"), &EmbeddedOptions::default()).expect("opens");
        let map = store.stores().map;
        let mut state = MapState::default();
        state.apply(&MapCommand::Found(FirstMap::of(["ra", "rb", "rc"].map(name).to_vec())));
        let take = |region, store| MapCommand::TakeIncarnation {
            region: name(region),
            store: Uuid::from_u128(store),
            counter: 0,
            replaces: 0,
            term: 0,
        };
        state.apply(&take("ra", 1));
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(5)),
            last_membership: StoredMembership::default(),
            snapshot_id: "5".to_owned(),
        };
        let entry = Entry { log_id: log_id(6), payload: EntryPayload::Normal(take("rb", 2)) };
        let me = SelfRecord { store: Uuid::from_u128(1), incarnation: 1, generation: 0 };
        let key = |name: &'static [u8]| records::key(name);
        let changes = vec![
            records::put(key(records::SNAPSHOT), &records::snapshot(&meta, &state)),
            records::put(records::log_key(6), &EntryRecord(entry)),
            records::put(key(records::VOTE), &VoteRecord(Vote::new(4, 9))),
            records::put(key(records::SELF), &me),
            records::put(key(records::COUNTER), &CounterRecord(77)),
            records::put(key(records::FENCE), &FenceRecord(3)),
            MapChange::Put(Bytes::from_static(b"media/item/1"), Bytes::from_static(b"other")),
        ];
        map.write(changes, MapSync::Disk).await.expect("writes");
        (store, map)
    }

    async fn value(map: &Arc<dyn MapStore>, key: &'static [u8]) -> Option<Bytes> {
        map.get(Bytes::from_static(key)).await.expect("reads")
    }

    #[tokio::test]
    async fn a_restored_store_has_no_vote_no_log_and_no_map_and_keeps_what_is_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let (_store, map) = used(folder.path()).await;
        assert_eq!(stored_map(&map).await.expect("reads").version, 3);
        forget(&map, Uuid::from_u128(50)).await.expect("forgets");
        assert_eq!(stored_map(&map).await.expect("reads"), MapState::default());
        for gone in [records::VOTE, records::SNAPSHOT, records::COMMITTED, records::PURGED] {
            assert_eq!(value(&map, gone).await, None);
        }
        assert_eq!(map.range(records::log_key(0), records::log_end(), 9).await.expect("reads"), []);
        let me: SelfRecord = records::get(&map, records::SELF).await.expect("reads").expect("it is there");
        // At its first incarnation it could found a map of its own.
        assert_eq!((me.store, me.incarnation, me.generation), (Uuid::from_u128(50), 2, 0));
        let counter = value(&map, records::COUNTER).await.expect("it is there");
        assert_eq!(CounterRecord::decode(&counter).expect("reads"), CounterRecord(77));
        assert!(value(&map, records::FENCE).await.is_some() && value(&map, b"media/item/1").await.is_some());
    }

    #[tokio::test]
    async fn the_map_goes_on_at_a_restored_store_as_its_one_voter() {
        let folder = tempfile::tempdir().expect("a folder");
        let (_store, map) = used(folder.path()).await;
        let next = begin_anew(&map, &name("ra"), Uuid::from_u128(50), 9_000).await.expect("begins");
        assert_eq!((next.version, next.generation, &next.map_voters[..]), (9_001, 1, &[name("ra")][..]));
        assert_eq!(next.region(&name("rb")).map(|entry| entry.store.is_some()), Some(true), "the entry was applied");
        let mut stored = stored_map(&map).await.expect("reads");
        assert_eq!(stored, next);
        let me: SelfRecord = records::get(&map, records::SELF).await.expect("reads").expect("it is there");
        assert_eq!((me.store, me.incarnation, me.generation), (Uuid::from_u128(50), 9_001, 1));
        let renew = MapCommand::Renew {
            region: name("ra"),
            store: me.store,
            incarnation: me.incarnation,
            counter: 78,
            milliseconds: 6_000,
        };
        let answer = stored.apply(&renew);
        assert!(matches!(answer.fact(), Ok(MapFact::Lease { generation: 9_000, .. })), "{answer:?}");
    }

    #[tokio::test]
    async fn where_the_copy_has_no_map_nothing_goes_on_and_nothing_is_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let (_store, map) = used(folder.path()).await;
        let other = begin_anew(&map, &name("rz"), Uuid::from_u128(50), 9_000).await;
        assert!(matches!(other, Err(StartError::Failed(_))), "{other:?}");
        assert_eq!(stored_map(&map).await.expect("reads").version, 3);
        forget(&map, Uuid::from_u128(50)).await.expect("forgets");
        let none = begin_anew(&map, &name("ra"), Uuid::from_u128(51), 9_000).await;
        assert!(matches!(none, Err(StartError::Failed(_))), "{none:?}");
    }
}
