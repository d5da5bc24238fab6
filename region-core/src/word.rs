//! The operator's word that a region's homes may be opened with fewer voters than their acks ask for. It is on disk before
//! anything follows from it, so that a steward that restarts goes on by it.

use bytes::Bytes;
use hearth_protocol::RegionId;
use region_model::ports::{MapChange, MapStore, MapSync, StoreError};

/// Beside the region map's own keys: none of those begins like this. The region's name follows.
const PREFIX: &[u8] = b"operator/accept-loss/";
/// Behind every key that begins with [`PREFIX`].
const END: &[u8] = b"operator/accept-loss0";
/// Version of the stored form: this byte, then the version of the region map that fenced the region, big-endian.
const VERSION: u8 = 1;
/// Regions are far fewer ([`region_model::region_map::MAXIMUM_REGIONS`]).
const ROWS: usize = 1_024;

/// Keeps the word for one fence of a region; a later one of the same region replaces it.
///
/// # Errors
/// Of the store.
pub(crate) async fn keep(map: &dyn MapStore, region: &RegionId, fence: u64) -> Result<(), StoreError> {
    let key = [PREFIX, region.as_str().as_bytes()].concat();
    let value = [&[VERSION], &fence.to_be_bytes()[..]].concat();
    map.write(vec![MapChange::Put(key.into(), value.into())], MapSync::Disk).await
}

/// The words that are kept: each by its region, with the version of the region map that fenced it. One of a fence before
/// the last counts for nothing.
///
/// # Errors
/// Of the store.
pub(crate) async fn kept(map: &dyn MapStore) -> Result<Vec<(RegionId, u64)>, StoreError> {
    let rows = map.range(Bytes::from_static(PREFIX), Bytes::from_static(END), ROWS).await?;
    Ok(rows.iter().filter_map(|(key, value)| read(key, value)).collect())
}

/// A row of a later version is none.
fn read(key: &[u8], value: &[u8]) -> Option<(RegionId, u64)> {
    let region = RegionId::new(std::str::from_utf8(key.strip_prefix(PREFIX)?).ok()?).ok()?;
    let (version, fence) = value.split_first()?;
    (*version == VERSION).then_some(())?;
    Some((region, u64::from_be_bytes(fence.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use async_trait::async_trait;

    use super::*;

    #[derive(Debug, Default)]
    struct Rows(parking_lot::Mutex<BTreeMap<Bytes, Bytes>>);

    #[async_trait]
    impl MapStore for Rows {
        async fn get(&self, key: Bytes) -> Result<Option<Bytes>, StoreError> {
            Ok(self.0.lock().get(&key).cloned())
        }

        async fn range(&self, from: Bytes, to: Bytes, rows: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
            let held = self.0.lock();
            Ok(held.range(from..to).take(rows).map(|(key, value)| (key.clone(), value.clone())).collect())
        }

        async fn last(&self, from: Bytes, to: Bytes) -> Result<Option<(Bytes, Bytes)>, StoreError> {
            Ok(self.0.lock().range(from..to).next_back().map(|(key, value)| (key.clone(), value.clone())))
        }

        async fn write(&self, changes: Vec<MapChange>, sync: MapSync) -> Result<(), StoreError> {
            assert_eq!(sync, MapSync::Disk, "it is on disk before anything follows from it");
            for change in changes {
                let MapChange::Put(key, value) = change else { panic!("nothing is taken away") };
                self.0.lock().insert(key, value);
            }
            Ok(())
        }
    }

    #[tokio::test]
    async fn the_word_is_kept_for_the_last_fence_of_each_region() {
        let rows = Rows::default();
        let region = |name| RegionId::new(name).expect("a name");
        assert_eq!(kept(&rows).await.expect("it reads"), []);
        for (name, fence) in [("us-east", 7), ("eu-west", 9), ("us-east", 12)] {
            keep(&rows, &region(name), fence).await.expect("kept");
        }
        rows.0.lock().insert(Bytes::from_static(b"vote"), Bytes::new());
        rows.0.lock().insert(Bytes::from_static(b"operator/accept-loss/ap"), Bytes::from_static(&[2, 1]));
        assert_eq!(kept(&rows).await.expect("it reads"), [(region("eu-west"), 9), (region("us-east"), 12)]);
    }

    #[test]
    fn its_stored_form_stays_as_it_is() {
        let row = read(b"operator/accept-loss/eu-west", &[1, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(row, Some((RegionId::new("eu-west").expect("a name"), 258)));
    }
}
