//! Media: at the region where they were put, their records, links and end; at whoever holds the conversation, who may see
//! them. What they follow is the text that carries them: an entry that lost its content carries nothing.
//!
//! ```text
//!   client ──asks──► its region ──membership──► who holds the conversation
//!                        │      ──a link──────► the region of the media: MediaRecord, MediaStore
//!                        └ is a message shown to the client that carries them? then it is given the link
//! ```

mod calls;
mod rows;
mod sweep;
mod trace;

use std::collections::HashMap;
use std::sync::Arc;

use hearth_protocol::UserId;
use hearth_protocol::record::MediaRecord;
use parking_lot::Mutex;
use region_model::media::ports::{MediaObject, MediaStore};
use region_model::media::{MediaRules, Room, is_unused};
use region_model::ports::{MapStore, MapSync, StoreError};
use tokio::sync::{Notify, Semaphore};

use crate::region::Region;
pub use region_model::media::{MediaKnown, TraceQuestion};
pub(crate) use sweep::run;

/// How a region keeps media.
#[derive(Clone, Debug)]
pub struct MediaOptions {
    /// Where their bytes are.
    pub store: Arc<dyn MediaStore>,
    /// What is taken, and for how long.
    pub rules: MediaRules,
}

/// What is kept, counted.
#[derive(Debug, Default)]
struct Kept {
    bytes: u64,
    items: usize,
    /// Of each user those that no message carries yet; as many users as items at most.
    unused: HashMap<UserId, usize>,
}

impl Kept {
    fn add(&mut self, record: &MediaRecord) {
        self.bytes = self.bytes.saturating_add(record.size);
        self.items += 1;
        if is_unused(record) {
            *self.unused.entry(record.uploader.clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, record: &MediaRecord) {
        self.bytes = self.bytes.saturating_sub(record.size);
        self.items = self.items.saturating_sub(1);
        if is_unused(record)
            && let Some(count) = self.unused.get_mut(&record.uploader)
        {
            *count -= 1;
            if *count == 0 {
                self.unused.remove(&record.uploader);
            }
        }
    }
}

/// What the parts of media share.
#[derive(Debug)]
pub(crate) struct Media {
    kept: Mutex<Kept>,
    /// Held from the read of a record to its write.
    order: tokio::sync::Mutex<()>,
    /// Told when contents were taken away: what they carried follows at once.
    pub(crate) swept: Notify,
    /// Of looks into conversations that others hold.
    elsewhere: Arc<Semaphore>,
}

impl Media {
    /// With what an earlier process kept.
    pub(crate) async fn load(store: &dyn MapStore) -> Result<Self, StoreError> {
        let (kept, order, swept) = (Mutex::default(), tokio::sync::Mutex::default(), Notify::new());
        let media = Self { kept, order, swept, elsewhere: Arc::new(Semaphore::new(1)) };
        let mut after = None;
        loop {
            let page = rows::all(store, after).await?;
            let Some((last, _)) = page.last() else { return Ok(media) };
            after = Some(*last);
            page.iter().filter_map(|(_, record)| record.as_ref()).for_each(|record| media.kept.lock().add(record));
        }
    }

    /// Bytes and number of what is kept, for metrics.
    pub(crate) fn sizes(&self) -> (u64, u64) {
        let kept = self.kept.lock();
        (kept.bytes, kept.items as u64)
    }

    fn room(&self, user: &UserId) -> Room {
        let kept = self.kept.lock();
        let unused_of_user = kept.unused.get(user).copied().unwrap_or(0);
        Room { bytes: kept.bytes, items: kept.items, unused_of_user }
    }
}

impl Region {
    /// Writes a record in the place of the one before, or takes it away. The caller holds `order`.
    async fn put_media(
        &self,
        object: MediaObject,
        before: Option<&MediaRecord>,
        after: Option<&MediaRecord>,
        sync: MapSync,
    ) -> Result<(), StoreError> {
        self.stores.map.write(vec![rows::change(object, after)], sync).await?;
        let mut kept = self.media.kept.lock();
        before.into_iter().for_each(|record| kept.remove(record));
        after.into_iter().for_each(|record| kept.add(record));
        Ok(())
    }
}
